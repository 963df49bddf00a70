//! Leases of several nodes against a log that a test makes: entries that arrive late, twice or after
//! they counted as lost, nodes that stop for a while, lag behind, are cut off, start anew or go back
//! to a snapshot.
//!
//! Whoever's heartbeat was accepted, by any node, has a whole lease from there: that is checked in
//! the world's own time, with nodes whose clocks differ. In the end all are of one mind, and whoever
//! is silent is gone.
//!
//! Part of `state::registry::lease`.

use std::collections::{BTreeMap, VecDeque};

use tokio::sync::oneshot;

use super::*;
use crate::rng::Rng;
use crate::state::command::Ask as _;
use crate::state::effect::{AppendReply, Effect};
use crate::state::entry::Applied;
use crate::state::entry::{Bounds, Entry, LogItem, RegistryEntry};
use crate::state::registry::commands::{Heartbeat, Register};
use crate::state::registry::replies::RefusedEntry;
use crate::state::reply::{Delivery, ReplyTo};
use crate::state::snapshot::Snapshot;
use crate::state::{State, empty_snapshot, lone_node, new_node};
use crate::wire::instance::{Instance, Registration};
use crate::wire::refusal::Refusal;

const NODES: usize = 3;
const MEMBERS: usize = 6;
const STEP_MS: u64 = 20;
/// Enough for some leases; long enough for nodes to be missed and come back.
const WORLD_MS: u64 = 40_000;
/// How long it is calm then: a dead node is missed, its leases run out, what is left is judged.
const CALM_MS: u64 = 25_000;
const LEASE_MS: u64 = 4_000;
/// How long a client waits for an answer.
const CALL_MS: u64 = 400;

/// A proposal, as its node remembers it.
struct Pending {
    entry: Entry,
    since_ms: u64,
    /// The member whose client waits; none where time has proposed it.
    member: Option<usize>,
}

/// Entries on their way to the log.
struct Sent {
    arrives_ms: u64,
    items: Vec<LogItem>,
}

/// What a beat says once it is back.
struct Beat {
    node: usize,
    arrives_ms: u64,
    contact_ms: u64,
    newest: u64,
    alive: Vec<String>,
}

struct Node {
    name: String,
    state: State,
    /// How far its clock is ahead.
    skew_ms: u64,
    read: usize,
    /// The snapshot that it begins from, once it has read so many entries.
    fresh: Option<(Snapshot, usize)>,
    numbers: u64,
    pending: BTreeMap<u64, Pending>,
    queue: VecDeque<LogItem>,
    /// Until when its writer waits for the log.
    writes_until_ms: u64,
    /// What it waits for in vain.
    unwritten: Vec<u64>,
    next_beat_ms: u64,
    stopped_until_ms: u64,
    cut_until_ms: u64,
    /// By how much all that it sends and reads is late at most.
    lag_ms: u64,
    lags_until_ms: u64,
}

impl Node {
    fn new(name: String, (now_ms, skew_ms): (u64, u64)) -> Node {
        let now = Moment::new(now_ms + skew_ms, 0);
        let state = new_node(&name, None, now);
        Node {
            name,
            state,
            skew_ms,
            read: 0,
            fresh: Some((empty_snapshot(now), 0)),
            numbers: 0,
            pending: BTreeMap::new(),
            queue: VecDeque::new(),
            writes_until_ms: 0,
            unwritten: Vec::new(),
            next_beat_ms: now_ms,
            stopped_until_ms: 0,
            cut_until_ms: 0,
            lag_ms: 1,
            lags_until_ms: 0,
        }
    }

    fn moment(&self, now_ms: u64) -> Moment {
        Moment::new(now_ms + self.skew_ms, 0)
    }
}

/// An instance's client.
struct Member {
    identity: InstanceIdentity,
    registration: Registration,
    is_registered: bool,
    is_gone: bool,
    node: usize,
    next_ms: u64,
    accepted_ms: Option<u64>,
}

struct World {
    seed: u64,
    rng: Rng,
    now_ms: u64,
    nodes: Vec<Node>,
    log: Vec<LogItem>,
    sent: Vec<Sent>,
    beats: Vec<Beat>,
    seen_ms: BTreeMap<String, u64>,
    members: Vec<Member>,
    /// Applies each entry as it gets its place.
    truth: State,
    /// In how many steps something goes wrong, on the average.
    trouble_every: u64,
    /// One of so many calls goes to another node.
    loyalty: u64,
    /// By how much the pauses of clients differ.
    pause_ms: u64,
    snapshots: Vec<Snapshot>,
    starts: u64,
    story: Vec<String>,
    expired: u64,
}

fn registration(member: usize) -> Registration {
    // Too few of a service for self-protection.
    let text = format!(r#"{{"serviceId":"s{}","instanceId":"m{member}"}}"#, member / 2);
    let instance: Instance = serde_json::from_str(&text).expect("an instance");
    Registration { lease_ttl_ms: Some(LEASE_MS), ..instance.register().expect("it is valid") }
}

impl World {
    fn new(seed: u64) -> World {
        let mut rng = Rng::seeded(seed);
        let now_ms = 1_000_000;
        let nodes =
            (0..NODES).map(|index| Node::new(format!("n{index}"), (now_ms, rng.below(100_000))));
        let nodes = nodes.collect();
        let members = (0..MEMBERS).map(|index| {
            let registration = registration(index);
            Member {
                identity: registration.identity.clone(),
                registration,
                is_registered: false,
                is_gone: false,
                node: index % NODES,
                next_ms: now_ms + 1_000,
                accepted_ms: None,
            }
        });
        World {
            seed,
            now_ms,
            nodes,
            log: Vec::new(),
            sent: Vec::new(),
            beats: Vec::new(),
            seen_ms: BTreeMap::new(),
            members: members.collect(),
            truth: lone_node("truth", None, Moment::new(now_ms, 0)),
            trouble_every: 20 + rng.below(60),
            loyalty: 1 + rng.below(8),
            pause_ms: 600 + rng.below(2_800),
            snapshots: Vec::new(),
            starts: 0,
            story: Vec::new(),
            expired: 0,
            rng,
        }
    }

    fn note(&mut self, what: &str) {
        self.story.push(format!("{}: {what}", self.now_ms));
    }

    fn fail(&self, what: &str) -> ! {
        let recent = &self.story[self.story.len().saturating_sub(60)..];
        panic!("seed {}: {what}\n{}", self.seed, recent.join("\n"));
    }

    fn play(&mut self) {
        let storm_ms = self.now_ms + WORLD_MS;
        let end_ms = storm_ms + CALM_MS;
        while self.now_ms < end_ms {
            self.now_ms += STEP_MS;
            if self.now_ms < storm_ms && self.rng.below(self.trouble_every) == 0 {
                self.trouble();
            }
            if self.now_ms == storm_ms {
                self.calm();
            }
            self.log_takes_what_arrived();
            for index in 0..NODES {
                if self.nodes[index].stopped_until_ms <= self.now_ms {
                    self.run(index);
                }
            }
            for index in 0..MEMBERS {
                self.call(index);
            }
        }
    }

    /// Ends all trouble, and every second client for good.
    fn calm(&mut self) {
        self.note("calm");
        for node in &mut self.nodes {
            (node.stopped_until_ms, node.cut_until_ms, node.lags_until_ms) = (0, 0, 0);
        }
        for (index, member) in self.members.iter_mut().enumerate() {
            member.is_gone = index % 2 == 0;
            member.next_ms = self.now_ms;
        }
    }

    fn check(&self) {
        let names = |state: &State| {
            let is_there =
                |member: &&Member| state.registry.find_member(&member.identity).is_some();
            let there = self.members.iter().filter(is_there);
            there.map(|member| member.identity.clone()).collect::<Vec<_>>()
        };
        let alive = self.members.iter().skip(1).step_by(2).map(|member| member.identity.clone());
        let alive: Vec<_> = alive.collect();
        for (name, state) in
            self.nodes.iter().map(|node| (&*node.name, &node.state)).chain([("truth", &self.truth)])
        {
            if names(state) != alive {
                self.fail(&format!("{name} has {:?}", names(state)));
            }
        }
    }

    /// Has a node begin from a snapshot, as after a start or where it cannot follow the log.
    fn begin(&mut self, index: usize, is_new: bool) {
        let now_ms = self.now_ms;
        if is_new {
            self.starts += 1;
            let name = format!("n{index}.{}", self.starts);
            self.nodes[index] = Node::new(name, (now_ms, self.nodes[index].skew_ms));
        }
        let chance = self.rng.below(self.snapshots.len().max(1) as u64) as usize;
        let empty = || empty_snapshot(Moment::new(now_ms, 0));
        let snapshot = self.snapshots.get(chance).cloned().unwrap_or_else(empty);
        self.nodes[index].fresh = Some((snapshot, self.log.len()));
    }

    fn trouble(&mut self) {
        let index = self.rng.below(NODES as u64) as usize;
        let until_ms = self.now_ms + 500 + self.rng.below(9_000);
        let (what, node) = (self.rng.below(10), &mut self.nodes[index]);
        let what = match what {
            0 => {
                node.stopped_until_ms = until_ms;
                "stops"
            }
            1 => {
                node.cut_until_ms = until_ms;
                "is cut off"
            }
            2 => {
                (node.lag_ms, node.lags_until_ms) = (2_500, until_ms);
                "lags"
            }
            3 => {
                let until_ms = self.now_ms + self.rng.below(6_000);
                self.nodes.iter_mut().for_each(|node| node.cut_until_ms = until_ms);
                return self.note(&format!("nobody reaches the log until {until_ms}"));
            }
            4 => {
                self.begin(index, true);
                "starts anew"
            }
            5 => {
                self.begin(index, false);
                "begins from a snapshot"
            }
            6 => {
                self.snapshots.extend(node.state.snapshot());
                return;
            }
            _ => {
                let index = self.rng.below(MEMBERS as u64) as usize;
                let until_ms = until_ms + LEASE_MS / 2;
                self.members[index].next_ms = until_ms;
                return self.note(&format!("m{index} is silent until {until_ms}"));
            }
        };
        self.note(&format!("n{index} {what} until {until_ms}"));
    }

    /// How late something of a node is.
    fn delay_ms(&mut self, node: usize) -> u64 {
        let node = &self.nodes[node];
        let lag_ms = if node.lags_until_ms > self.now_ms { node.lag_ms } else { 30 };
        let cut_ms = node.cut_until_ms.saturating_sub(self.now_ms);
        cut_ms + self.rng.below(lag_ms)
    }

    fn log_takes_what_arrived(&mut self) {
        let now_ms = self.now_ms;
        let (arrived, rest) =
            std::mem::take(&mut self.sent).into_iter().partition(|sent| sent.arrives_ms <= now_ms);
        self.sent = rest;
        let arrived: Vec<Sent> = arrived;
        for item in arrived.into_iter().flat_map(|sent| sent.items) {
            self.note(&format!("{} {}: {:?}", item.node, item.number, item.entry));
            self.log.push(item.clone());
            let position = self.log.len().to_string();
            let here = |truth: &State, member: &Member| {
                truth.registry.find_member(&member.identity).is_some()
            };
            let before: Vec<bool> =
                self.members.iter().map(|member| here(&self.truth, member)).collect();
            let moment = Moment::new(now_ms, 0);
            self.truth.apply_logged(LogItem { position, ..item }, moment);
            for (index, was_here) in before.into_iter().enumerate() {
                if was_here && !here(&self.truth, &self.members[index]) {
                    self.expired += 1;
                    let accepted_ms = self.members[index].accepted_ms.unwrap_or(0);
                    self.note(&format!("m{index} has expired"));
                    if accepted_ms + LEASE_MS > now_ms {
                        self.fail(&format!("m{index} was accepted at {accepted_ms}"));
                    }
                }
            }
        }
    }

    /// What a node does in a step, in any order.
    fn run(&mut self, index: usize) {
        let first = self.rng.below(4);
        for turn in 0..4 {
            match (first + turn) % 4 {
                0 => self.read(index),
                1 => self.hear_beats(index),
                2 => {
                    let now = self.nodes[index].moment(self.now_ms);
                    self.nodes[index].state.tick(now);
                    let entries = self.nodes[index].state.take_proposals(now);
                    for entry in entries {
                        self.propose(index, entry, None);
                    }
                    self.give_up(index);
                }
                _ => self.write(index),
            }
        }
    }

    fn read(&mut self, index: usize) {
        let node = &self.nodes[index];
        let is_late = node.lags_until_ms > self.now_ms && self.rng.below(40) != 0;
        if node.cut_until_ms > self.now_ms || is_late {
            return;
        }
        let unread = self.log.len() - node.read;
        let upto = self.log.len() - self.rng.below(2).min(unread as u64) as usize;
        if let Some((snapshot, newest)) = self.nodes[index].fresh.take() {
            if upto < newest {
                self.nodes[index].fresh = Some((snapshot, newest));
                return;
            }
            let items = (snapshot.sequence as usize..upto).map(|place| self.item(place)).collect();
            let node = &mut self.nodes[index];
            node.read = upto;
            let now = node.moment(self.now_ms);
            for (number, applied) in node.state.install_snapshot(snapshot, items, now).applied {
                self.on_place(index, number, applied);
            }
            return;
        }
        for place in self.nodes[index].read..upto {
            let item = self.item(place);
            let node = &mut self.nodes[index];
            let own = (*item.node == *node.name).then_some(item.number);
            let now = node.moment(self.now_ms);
            let applied = node.state.apply_logged(item, now);
            node.read = place + 1;
            if let Some(number) = own {
                self.on_place(index, number, applied);
            }
        }
    }

    fn item(&self, place: usize) -> LogItem {
        LogItem { position: (place + 1).to_string(), ..self.log[place].clone() }
    }

    /// A node's own entry is read, and has its answer.
    fn on_place(&mut self, index: usize, number: u64, applied: Option<Applied>) {
        let (now_ms, node) = (self.now_ms, &mut self.nodes[index]);
        match (node.pending.remove(&number), applied) {
            (
                Some(Pending { member: Some(member), since_ms, .. }),
                Some(Applied::Batch(refused)),
            ) if now_ms - since_ms <= CALL_MS => {
                self.answer(member, index, Ok(refused));
            }
            (Some(Pending { member: None, entry, .. }), None) => {
                let now = node.moment(now_ms);
                node.state.on_append_lost(Some(&entry), AppendReply::Nobody, now);
            }
            _ => {}
        }
    }

    fn hear_beats(&mut self, index: usize) {
        let now_ms = self.now_ms;
        let (arrived, rest) = std::mem::take(&mut self.beats)
            .into_iter()
            .partition(|beat| beat.node == index && beat.arrives_ms <= now_ms);
        self.beats = rest;
        let arrived: Vec<Beat> = arrived;
        for beat in arrived {
            let node = &mut self.nodes[index];
            let now = node.moment(now_ms);
            node.state.on_nodes(&beat.alive, (beat.contact_ms, beat.newest), now);
        }
        let node = &self.nodes[index];
        if node.next_beat_ms > now_ms || node.cut_until_ms > now_ms {
            return;
        }
        let (contact_ms, name) = (node.moment(now_ms).unix_ms, node.name.clone());
        // It is answered as of some time on its way; here, the earliest.
        self.seen_ms.insert(name, now_ms);
        let is_alive = |seen_ms: u64| now_ms - seen_ms <= limits::CLUSTER_NODE_MS;
        let alive = self.seen_ms.iter().filter(|(_, seen_ms)| is_alive(**seen_ms));
        let alive = alive.map(|(name, _)| name.clone()).collect();
        let delay_ms = self.delay_ms(index);
        self.nodes[index].next_beat_ms = now_ms + delay_ms + limits::CLUSTER_BEAT_MS;
        self.beats.push(Beat {
            node: index,
            arrives_ms: now_ms + delay_ms,
            contact_ms,
            newest: self.log.len() as u64,
            alive,
        });
    }

    fn propose(&mut self, index: usize, entry: Entry, member: Option<usize>) {
        let (now_ms, node) = (self.now_ms, &mut self.nodes[index]);
        node.numbers += 1;
        node.queue.push_back(LogItem {
            position: String::new(),
            node: node.name.as_str().into(),
            number: node.numbers,
            at_ms: node.moment(now_ms).unix_ms,
            entry: entry.clone(),
        });
        let number = node.numbers;
        node.pending.insert(number, Pending { entry, since_ms: now_ms, member });
    }

    /// What has waited for too long is lost, though it may yet arrive.
    fn give_up(&mut self, index: usize) {
        let (now_ms, node) = (self.now_ms, &mut self.nodes[index]);
        let is_late = |pending: &Pending| pending.since_ms + limits::CLUSTER_PROPOSAL_MS <= now_ms;
        let late = node.pending.iter().filter(|(_, pending)| is_late(pending));
        let mut lost: Vec<u64> = late.map(|(number, _)| *number).collect();
        if node.writes_until_ms <= now_ms {
            lost.append(&mut node.unwritten);
        }
        for number in lost {
            let Some(pending) = node.pending.remove(&number) else { continue };
            let now = node.moment(now_ms);
            if pending.member.is_none() {
                node.state.on_append_lost(Some(&pending.entry), AppendReply::Nobody, now);
            }
            self.story.push(format!("{now_ms}: n{index} gives {number} up"));
        }
    }

    fn write(&mut self, index: usize) {
        let (now_ms, node) = (self.now_ms, &mut self.nodes[index]);
        if node.writes_until_ms > now_ms || !node.unwritten.is_empty() || node.queue.is_empty() {
            return;
        }
        let items: Vec<LogItem> = node.queue.drain(..).collect();
        let delay_ms = self.delay_ms(index);
        // One that gets no answer is sent again, over another connection that may be faster.
        let again_ms = limits::REDIS_RESPONSE_MS;
        if delay_ms > again_ms {
            let arrives_ms = now_ms + again_ms + self.delay_ms(index).saturating_sub(again_ms);
            self.sent.push(Sent { arrives_ms, items: items.clone() });
        }
        if delay_ms > 2 * again_ms {
            self.nodes[index].unwritten = items.iter().map(|item| item.number).collect();
        }
        self.sent.push(Sent { arrives_ms: now_ms + delay_ms, items });
        self.nodes[index].writes_until_ms = now_ms + delay_ms.min(2 * again_ms);
    }

    /// A member's client does what is due.
    fn call(&mut self, member: usize) {
        if self.members[member].is_gone || self.members[member].next_ms > self.now_ms {
            return;
        }
        let pause_ms = 600 + self.rng.below(self.pause_ms);
        self.members[member].next_ms = self.now_ms + pause_ms;
        // Most stay with a node for as long as it answers.
        let index = match self.rng.below(self.loyalty) {
            0 => self.rng.below(NODES as u64) as usize,
            _ => self.members[member].node,
        };
        self.members[member].node = index;
        let (one, node) = (&self.members[member], &mut self.nodes[index]);
        if node.stopped_until_ms > self.now_ms {
            self.members[member].next_ms = self.now_ms + 40;
            self.members[member].node = (index + 1) % NODES;
            return;
        }
        let (sender, mut reply) = oneshot::channel();
        let address = ReplyTo::Program(sender);
        let command = if one.is_registered {
            Heartbeat(vec![one.identity.clone()]).reply_to(address)
        } else {
            Register(vec![one.registration.clone()]).reply_to(address)
        };
        let now = node.moment(self.now_ms);
        node.state.apply(command, now);
        for effect in node.state.take_effects() {
            match effect {
                Effect::Reply(Delivery::Program(callback)) => {
                    callback.call();
                    let result = reply.try_recv().expect("a reply");
                    return self.answer(member, index, result);
                }
                Effect::Append(append) => return self.propose(index, append.entry, Some(member)),
                _ => {}
            }
        }
        panic!("neither answered nor appended");
    }

    fn answer(&mut self, member: usize, node: usize, result: Result<Vec<RefusedEntry>, Refusal>) {
        let now_ms = self.now_ms;
        match result {
            Ok(refused) if refused.is_empty() => {
                self.note(&format!("n{node} accepts m{member}"));
                let one = &mut self.members[member];
                (one.is_registered, one.accepted_ms) = (true, Some(now_ms));
                if self.truth.registry.find_member(&one.identity).is_none() {
                    self.fail(&format!("m{member} is accepted and not there"));
                }
            }
            Ok(_) => {
                let one = &mut self.members[member];
                (one.is_registered, one.next_ms) = (false, now_ms);
            }
            Err(_) => {
                let one = &mut self.members[member];
                (one.next_ms, one.node) = (now_ms + 40, (node + 1) % NODES);
            }
        }
    }
}

#[test]
fn no_lease_ends_within_its_time_after_a_heartbeat_was_accepted() {
    let mut expired = 0;
    // The last ones are of faults that few find.
    for seed in (0..300).chain([324, 561, 783, 1_600]) {
        let mut world = World::new(seed);
        world.play();
        world.check();
        expired += world.expired;
    }
    assert!(expired > 1_000, "those who are silent do expire: {expired}");
}

/// One node, and a log that it alone reads.
struct Alone {
    state: State,
    now: Moment,
    log: Vec<LogItem>,
}

impl Alone {
    fn start() -> Alone {
        let now = Moment::new(1_000_000, 0);
        let mut alone = Alone { state: lone_node("a", None, now), now, log: Vec::new() };
        alone.contact(0);
        alone
    }

    fn contact(&mut self, newest: u64) {
        let alive = ["a", "b"].map(str::to_owned);
        self.state.on_nodes(&alive, (self.now.unix_ms, newest), self.now);
    }

    fn entries(&self) -> u64 {
        self.log.len() as u64
    }

    /// Begins anew from a snapshot and the entries behind it.
    fn install_snapshot(&mut self, snapshot: &Snapshot) {
        let items = self.log[snapshot.sequence as usize..].to_vec();
        self.state.install_snapshot(snapshot.clone(), items, self.now);
    }

    /// Reads an entry of a node, written some time ago.
    fn read(&mut self, node: &str, age_ms: u64, entry: RegistryEntry) {
        let entry = Entry::from(entry);
        let number = self.entries() + 1;
        let (position, at_ms) = (number.to_string(), self.now.unix_ms - age_ms);
        let item = LogItem { position, node: node.into(), number, at_ms, entry };
        self.log.push(item.clone());
        assert!(self.state.apply_logged(item, self.now).is_some());
    }

    fn register(&mut self, node: &str) -> InstanceIdentity {
        let sent = registration(0);
        let bounds = Bounds { instances_max: 8, services_max: 8, instances_bytes_max: usize::MAX };
        self.read(node, 0, RegistryEntry::Register { list: vec![sent.clone()], bounds });
        sent.identity
    }

    /// Whether a heartbeat is answered without the log.
    fn renews(&mut self, identity: &InstanceIdentity) -> bool {
        matches!(self.state.ask(Heartbeat(vec![identity.clone()]), self.now), Some(Ok(_)))
    }

    /// Lets time pass in contact. Returns whether the lease is proposed as overdue meanwhile.
    fn ends_within(&mut self, span_ms: u64) -> bool {
        for _ in 0..span_ms / STEP_MS {
            self.now.unix_ms += STEP_MS;
            self.contact(self.entries());
            self.state.tick(self.now);
            let entries = self.state.take_proposals(self.now);
            if entries
                .iter()
                .any(|entry| matches!(entry, Entry::Registry(RegistryEntry::Overdue(_))))
            {
                return true;
            }
        }
        false
    }
}

#[test]
fn the_owner_before_has_its_time_whatever_comes_after_the_takeover() {
    let more_ms = LEASE_MS + limits::CLUSTER_CONTACT_MS;
    let mut node = Alone::start();
    let identity = node.register("b");
    node.read("a", 0, RegistryEntry::Renew(vec![identity.clone()]));
    assert!(node.renews(&identity), "it is its own now");
    node.read("a", 3_000, RegistryEntry::Renew(vec![identity.clone()]));
    node.read("a", 3_000, RegistryEntry::RenewOne(identity.clone()));
    node.read("a", 3_000, {
        let bounds = Bounds { instances_max: 8, services_max: 8, instances_bytes_max: usize::MAX };
        RegistryEntry::Register { list: vec![registration(0)], bounds }
    });
    assert!(!node.ends_within(more_ms - STEP_MS) && node.ends_within(1_000));

    let mut node = Alone::start();
    let identity = node.register("b");
    node.read("a", 0, RegistryEntry::TakeOverLeases(vec![identity]));
    assert!(!node.ends_within(more_ms - STEP_MS) && node.ends_within(1_000));
}

/// Before it began anew it may have proposed that a lease has run out, and that may still come.
#[test]
fn a_node_that_began_anew_renews_its_leases_through_the_log() {
    let mut node = Alone::start();
    let empty = node.state.snapshot();
    let identity = node.register("a");
    // Be its lease in the entries behind the snapshot, or in the snapshot.
    for snapshot in [empty, None] {
        node.contact(node.entries());
        assert!(node.renews(&identity));
        let snapshot = snapshot.or_else(|| node.state.snapshot()).expect("it is one of several");
        node.install_snapshot(&snapshot);
        assert!(!node.renews(&identity), "with {} entries in the snapshot", snapshot.sequence);
        node.read("a", 0, RegistryEntry::Renew(vec![identity.clone()]));
    }
    assert!(node.renews(&identity));
}

/// It is as good as cut off: what it shows is as old.
#[test]
fn a_node_that_is_behind_for_long_is_cut_off() {
    let mut node = Alone::start();
    let identity = node.register("b");
    let is_degraded = |node: &mut Alone| {
        let view = node.state.registry.view(&ServiceName::of("s0"));
        assert_eq!(view.degraded, node.state.registry.is_cut_off());
        view.degraded
    };
    node.contact(node.entries());
    assert!(!is_degraded(&mut node));
    for _ in 0..=limits::CLUSTER_CONTACT_MS / limits::CLUSTER_BEAT_MS {
        assert!(!is_degraded(&mut node), "it may be that it is only late");
        node.now.unix_ms += limits::CLUSTER_BEAT_MS;
        node.contact(node.entries() + 1);
    }
    assert!(is_degraded(&mut node));
    let refused = node.state.ask(Heartbeat(vec![identity]), node.now);
    assert!(matches!(refused, Some(Err(_))), "{refused:?}");
    // It has read what was there a second ago, which there is more behind by now.
    node.read("b", 0, RegistryEntry::Renew(Vec::new()));
    node.contact(node.entries() + 1);
    assert!(!is_degraded(&mut node));
}

#[test]
fn a_node_that_is_behind_renews_nothing_by_itself() {
    let mut node = Alone::start();
    let identity = node.register("a");
    assert!(node.renews(&identity));
    let snapshot = node.state.snapshot().expect("it is one of several");
    node.contact(node.entries() + 2);
    assert!(!node.renews(&identity), "somebody may have taken it over");
    // Nor does one that begins from a snapshot, until it has read what was there at its last contact.
    node.state.install_snapshot(snapshot, Vec::new(), node.now);
    node.read("a", 0, RegistryEntry::Renew(vec![identity.clone()]));
    assert!(!node.renews(&identity));
    node.read("b", 0, RegistryEntry::Renew(Vec::new()));
    assert!(node.renews(&identity));
}
