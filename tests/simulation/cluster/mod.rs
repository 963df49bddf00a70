//! One to three nodes with shards, observers at their sockets, and a simulated sequencer between them.
//!
//! What holds after every step: an observer's frames of a service or a channel follow each other without a
//! gap that it was not told of; a service at a revision, and a channel at an offset, are the same to all
//! observers of all nodes; answers come once and in the order of the requests; no lease ends within its
//! time after a heartbeat was accepted. At a quiet moment all nodes show the same services, which are what
//! was accepted; all followers of a channel stand where the sequencer does; rooms have whom they should
//! have; an envelope reaches every connection of its receiver; a direct message that was accepted has come
//! to each of them once.
//!
//! `FANFARE_SEED=N FANFARE_STORY=1 cargo test --test simulation -- one_cluster --nocapture` tells the story of
//! a seed: the log, the faults and every frame.

#![allow(clippy::cast_possible_truncation, reason = "numbers are small here")]

mod observer;
mod oracle;
mod sequencer;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;

use fanfare::internals::clock::{Clock, Moment};
use fanfare::internals::cluster::Cluster;
use fanfare::internals::control::Control;
use fanfare::internals::id::{Epoch, UserId};
use fanfare::internals::limits::Limits;
use fanfare::internals::mailbox::to_control::{ControlMessage, Task};
use fanfare::internals::mailbox::{Bell, MailboxSender, mailbox};
use fanfare::internals::rng::Rng;
use fanfare::internals::shard::{self, Shard};
use fanfare::internals::state::cluster_state::JournalTail;
use fanfare::internals::state::messaging::commands::SendPrivate;
use fanfare::internals::state::messaging::replies::Stored;
use fanfare::internals::state::registry::{self, Registry};
use fanfare::internals::state::reply::ReplyTo;
use fanfare::internals::state::{self, Ask as _, State};
use fanfare::internals::stats::Stats;
use fanfare::internals::wire::refusal::Refusal;
use fanfare_test_support::SECRET;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::pipe::{ClientEnd, FakeSocket, Link, Ready};
use crate::world::{open_gate, people_settings, shard_settings};
use observer::{Asked, Observer};
use oracle::Oracle;
use sequencer::SimSequencer;

const STARTED_MS: u64 = 1_800_000_000_000;
const SERVICES: [&str; 3] = ["orders", "carts", "users"];
const CHANNELS: [&str; 2] = ["news", "sport"];
const USERS: [&str; 3] = ["ann", "bob", "cid"];
const ROOM: &str = "general";
const OBSERVERS: usize = 7;
const STEPS: usize = 400;
/// The lease of instances that are kept by heartbeats, and of those that are left to run out.
const LEASE_MS: u64 = 2_500;
/// Longer than any lease, wait or retry of the nodes.
const REST_MS: u64 = 16_000;

struct SimShard {
    shard: Shard<FakeSocket>,
    ready: Ready,
}

struct SimNode {
    name: String,
    control: Control,
    commands: MailboxSender<ControlMessage>,
    shards: Vec<SimShard>,
    /// Whether other nodes may be there.
    is_joined: bool,
}

/// A direct message that was sent.
struct Sent {
    to: String,
    /// The receiver's connections that were open.
    receivers: Vec<String>,
    reply: oneshot::Receiver<Result<Stored, Refusal>>,
}

/// What worlds went through, each with how often, to know that they went through enough.
type Seen = BTreeMap<&'static str, u64>;

struct SimWorld {
    rng: Rng,
    now_ms: u64,
    limits: Arc<Limits>,
    nodes: Vec<SimNode>,
    sequencer: SimSequencer,
    observers: Vec<Observer>,
    oracle: Oracle,
    sent: Vec<Sent>,
    accepted: BTreeMap<String, (String, Vec<String>)>,
    /// What observers that have gone knew, for those that come back.
    memories: Vec<Observer>,
    tokens: BTreeMap<&'static str, String>,
    names: u64,
    port: u64,
    seen: Seen,
}

impl SimWorld {
    fn new(seed: u64) -> SimWorld {
        let mut rng = Rng::seeded(seed);
        let is_told = std::env::var_os("FANFARE_STORY").is_some();
        let mut sequencer = SimSequencer::new(Rng::seeded(rng.next()));
        sequencer.is_told = is_told;
        let sign = |user: &str| {
            let claims = json!({"sub": user, "username": user, "exp": 4_000_000_000_u64});
            fanfare_test_support::sign(&claims, SECRET, jsonwebtoken::Algorithm::HS256)
        };
        let count = 1 + rng.below(3);
        let mut world = SimWorld {
            rng,
            now_ms: STARTED_MS,
            limits: Arc::new(Limits { client_messages_per_s_max: 0, ..Limits::default() }),
            nodes: Vec::new(),
            sequencer,
            observers: Vec::new(),
            oracle: Oracle::new(is_told),
            sent: Vec::new(),
            accepted: BTreeMap::new(),
            memories: Vec::new(),
            tokens: USERS.into_iter().map(|user| (user, sign(user))).collect(),
            names: 0,
            port: 0,
            seen: Seen::default(),
        };
        // A node that is alone takes the same path with a sequencer that answers at once.
        let is_joined = count > 1 || world.rng.below(2) == 0;
        for _ in 0..count {
            let node = world.start_node(is_joined);
            world.nodes.push(node);
        }
        // A node takes connections once it has the log.
        world.let_time_pass(500);
        world
    }

    fn moment(&self) -> Moment {
        Moment::new(self.now_ms, (self.now_ms - STARTED_MS) * 1_000_000)
    }

    fn start_node(&mut self, is_joined: bool) -> SimNode {
        self.names += 1;
        let (name, now) = (format!("n{}", self.names), self.moment());
        let settings = registry::Settings {
            lease_ttl_ms: 20_000,
            self_protection_max_ms: 1,
            history_max: 8,
            instances_max: 1_000,
            services_max: 1_000,
            ..registry::Settings::default()
        };
        let mut registry = Registry::new(settings, Epoch::new(&name), 0, now);
        let epoch = format!("{name}-");
        let people = state::Settings { node: name.clone(), epoch, ..people_settings() };
        if is_joined {
            registry = registry.replicated(&name);
        }
        let mut state = State::new(registry, people, state::durable::PeopleImage::default());
        if is_joined {
            state = state.joined(Some(JournalTail::after(None)));
            if !self.sequencer.has_log() {
                self.sequencer.seed(state.image().expect("it is one of several"));
            }
        }
        let shards = 1 + self.rng.below(2) as usize;
        let stats = Arc::new(Stats::new(shards));
        let (commands, inbox) = mailbox(65_536, Bell::silent());
        let gate = Arc::new(open_gate());
        let mut outlets = Vec::new();
        let sim_shards = (0..shards).map(|index| {
            let (outlet, inlet) = mailbox(65_536, Bell::silent());
            outlets.push(outlet);
            let seed = self.rng.next();
            let settings = shard::Settings {
                node_id: name.as_str().into(),
                ..shard_settings(index, &self.limits, &gate, &stats, seed)
            };
            let shard = Shard::new(settings, commands.clone(), inlet, now);
            SimShard { shard, ready: Ready::default() }
        });
        let sim_shards = sim_shards.collect();
        let mut control = Control::new(state, inbox, outlets, Arc::default(), stats, None);
        if is_joined {
            let (cluster, requests) = Cluster::simulated(Clock::start());
            control = control.with_cluster(&name, cluster);
            self.sequencer.join(&name, commands.clone(), requests);
        }
        SimNode { name, control, commands, shards: sim_shards, is_joined }
    }

    /// Plays one seed's whole story, judging all the way.
    fn play(mut self) -> Seen {
        for _ in 0..2 {
            self.sequencer.is_stormy = true;
            for _ in 0..STEPS {
                self.step();
            }
            self.come_to_rest();
            self.judge_quiet();
        }
        let all = self.observers.iter().chain(&self.memories);
        let sum = |of: fn(&Observer) -> u64| all.clone().map(of).sum();
        self.seen.extend(self.sequencer.faults);
        self.seen.extend([
            ("accepted changes", self.oracle.changes),
            ("expired leases", self.oracle.expired),
            ("published messages", self.oracle.published),
            ("resumed subscriptions", sum(|one| one.resumed)),
            ("channels begun anew", sum(|one| one.reset)),
            ("refused requests", sum(|one| one.errors)),
        ]);
        self.seen
    }

    fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn step(&mut self) {
        let ms = self.rng.below(25);
        self.pass(ms);
        for node in 0..self.nodes.len() {
            if self.rng.below(2) == 0 {
                self.turn_node(node);
            }
        }
        for at in 0..self.observers.len() {
            if self.rng.below(2) == 0 {
                self.observers[at].send();
            }
            if self.rng.below(2) == 0 {
                self.observers[at].receive(&mut self.oracle);
            }
        }
        self.hear_replies();
        self.bury();
        if self.rng.below(3) == 0 {
            self.act();
        }
        if self.rng.below(60) == 0 && self.nodes[0].is_joined {
            self.fail();
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.oracle.now_ms = self.now_ms;
    }

    /// A turn of everything that belongs to a node.
    fn turn_node(&mut self, at: usize) {
        let (now, now_ms) = (self.moment(), self.now_ms);
        let node = &mut self.nodes[at];
        if node.is_joined {
            self.sequencer.turn(&node.name, now_ms);
        }
        node.control.turn(now);
        for SimShard { shard, ready, .. } in &mut node.shards {
            shard.turn(now, || ready.borrow_mut().pop_front());
            assert!(shard.take_handed_over().is_empty(), "nobody speaks plain HTTP here");
        }
    }

    /// Time passes in small steps, in which everyone does what is due.
    fn let_time_pass(&mut self, ms: u64) {
        self.let_time_pass_by(50, ms);
    }

    fn let_time_pass_by(&mut self, step_ms: u64, ms: u64) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            self.pass(step_ms);
            self.turn_all();
        }
    }

    fn turn_all(&mut self) {
        for node in 0..self.nodes.len() {
            self.turn_node(node);
        }
        for observer in &mut self.observers {
            observer.send();
            observer.receive(&mut self.oracle);
        }
        self.hear_replies();
        self.bury();
    }

    fn hear_replies(&mut self) {
        let mut open = Vec::new();
        for mut sent in std::mem::take(&mut self.sent) {
            match sent.reply.try_recv() {
                Ok(Ok(Stored { id, .. })) => {
                    self.count("direct messages");
                    self.accepted.insert(id.to_string(), (sent.to, sent.receivers));
                }
                Ok(Err(_)) | Err(oneshot::error::TryRecvError::Closed) => {}
                Err(oneshot::error::TryRecvError::Empty) => open.push(sent),
            }
        }
        self.sent = open;
    }

    /// Removes observers whose connection is over.
    fn bury(&mut self) {
        for at in (0..self.observers.len()).rev() {
            let link = &self.observers[at].link;
            if link.is_over() && !link.has_bytes() {
                let observer = self.observers.swap_remove(at);
                self.memories.push(observer);
            }
        }
    }

    fn connect(&mut self) {
        let at = self.rng.below(self.nodes.len() as u64) as usize;
        let shard = self.rng.below(self.nodes[at].shards.len() as u64) as usize;
        let user = match self.rng.below(4) {
            3 => None,
            user => Some(USERS[user as usize]),
        };
        let login = user.map(|user| (user, &*self.tokens[user]));
        self.names += 1;
        let (name, now, seed) = (format!("o{}", self.names), self.moment(), self.rng.next());
        let node = &mut self.nodes[at];
        let sim = &mut node.shards[shard];
        let link = Link::new(&sim.ready, 65_536, Rng::seeded(seed));
        sim.shard.accept(now, |slot, generation| link.accept(slot, generation));
        self.oracle.note(|| format!("{name} connects to {}", node.name));
        let mut observer = Observer::new(link, (node.name.clone(), shard), name, login);
        if self.rng.below(2) == 0 && !self.memories.is_empty() {
            let memory = self.rng.below(self.memories.len() as u64) as usize;
            let memory = &mut self.memories[memory];
            observer.services = std::mem::take(&mut memory.services);
            observer.channels = std::mem::take(&mut memory.channels);
            for service in observer.services.keys().cloned().collect::<Vec<_>>() {
                observer.follow(&service);
            }
            for channel in observer.channels.keys().cloned().collect::<Vec<_>>() {
                observer.follow_channel(&channel);
            }
        }
        self.observers.push(observer);
    }

    /// One observer does something.
    fn act(&mut self) {
        if self.observers.len() < OBSERVERS && self.rng.below(3) == 0 {
            return self.connect();
        }
        if self.observers.is_empty() {
            return;
        }
        let at = self.rng.below(self.observers.len() as u64) as usize;
        if !self.observers[at].has_welcome {
            return;
        }
        match self.rng.below(30) {
            0 => {
                let how = if self.rng.below(2) == 0 { ClientEnd::Ended } else { ClientEnd::Gone };
                self.observers[at].leave(how);
                let observer = self.observers.swap_remove(at);
                self.memories.push(observer);
            }
            1..5 => self.follow_something(at),
            5..12 => self.change_own_instance(at),
            12..16 => self.keep_own_lease(at),
            16..21 => self.publish(at),
            21..24 => self.change_room(at),
            24..27 => self.send_direct(at),
            _ => {
                let to = USERS[self.rng.below(3) as usize];
                self.send_envelope(at, to);
            }
        }
    }

    fn follow_something(&mut self, at: usize) {
        let service = SERVICES[self.rng.below(3) as usize];
        let channel = CHANNELS[self.rng.below(2) as usize];
        let observer = &mut self.observers[at];
        if self.rng.below(2) == 0 {
            let is_asked = observer.is_asking(|asked| *asked == Asked::Service(service.to_owned()));
            if !is_asked && !observer.services.contains_key(service) {
                observer.follow(service);
            }
        } else {
            let is_asked = observer
                .is_asking(|asked| matches!(asked, Asked::Channel { name, .. } if name == channel));
            if !is_asked && !observer.channels.contains_key(channel) {
                observer.follow_channel(channel);
            }
        }
    }

    fn instance(&mut self, service: &str, name: &str, ttl_ms: u64) -> Value {
        self.port += 1;
        json!({"regionId": "r", "serviceId": service, "instanceId": name, "ip": "10.0.0.1",
            "port": self.port, "leaseTtlMs": ttl_ms})
    }

    fn change_own_instance(&mut self, at: usize) {
        let service = SERVICES[self.rng.below(3) as usize].to_owned();
        let own = format!("{}-kept", self.observers[at].name);
        let change = self.rng.below(8);
        let (instance, ttl_ms) = match change {
            0 => {
                self.names += 1;
                (format!("short{}", self.names), LEASE_MS)
            }
            _ => (own, 3_600_000),
        };
        let body = self.instance(&service, &instance, ttl_ms);
        let is_there = change != 1;
        let port = is_there.then_some(self.port);
        let number = (change != 0).then(|| self.oracle.ask(&service, &instance, port));
        let asked = Asked::Change { service, instance, is_there, number };
        let request = if is_there {
            json!({"type": "register", "instances": [body]})
        } else {
            json!({"type": "unregister", "instance_keys": [key_of(&body)]})
        };
        self.observers[at].ask(request, asked);
    }

    /// A heartbeat for a lease that would run out soon, or a registration where it is not there.
    fn keep_own_lease(&mut self, at: usize) {
        let service = SERVICES[0].to_owned();
        let instance = format!("{}-lease", self.observers[at].name);
        let body = self.instance(&service, &instance, LEASE_MS);
        if self.rng.below(4) == 0 {
            let asked = Asked::Change { service, instance, is_there: true, number: None };
            self.observers[at].ask(json!({"type": "register", "instances": [body]}), asked);
        } else {
            let asked =
                Asked::Heartbeat { service, instance, ttl_ms: LEASE_MS, sent_ms: self.now_ms };
            let request = json!({"type": "heartbeat", "instance_keys": [key_of(&body)]});
            self.observers[at].ask(request, asked);
        }
    }

    fn publish(&mut self, at: usize) {
        self.port += 1;
        let channel = CHANNELS[self.rng.below(2) as usize];
        self.observers[at].publish(channel, json!({"n": self.port}));
    }

    fn change_room(&mut self, at: usize) {
        let observer = &mut self.observers[at];
        let is_asking =
            observer.is_asking(|asked| matches!(asked, Asked::Join(_) | Asked::Leave(_)));
        if observer.user.is_none() || is_asking || observer.is_in_doubt {
            return;
        }
        if observer.rooms.contains_key(ROOM) {
            observer.ask(json!({"type": "leave", "room": ROOM}), Asked::Leave(ROOM.to_owned()));
        } else {
            observer.ask(json!({"type": "join", "room": ROOM}), Asked::Join(ROOM.to_owned()));
            self.count("rooms joined");
        }
    }

    /// To a user who has been seen, from a user.
    fn send_envelope(&mut self, at: usize, to: &str) {
        let is_there = |one: &Observer| one.has_welcome && one.user.as_deref() == Some(to);
        if self.observers[at].user.is_none() || !self.observers.iter().any(is_there) {
            return;
        }
        self.count("envelopes");
        let request =
            json!({"message_type": "notification", "data": {"content": "hi"}, "to_user_id": to});
        self.observers[at].ask(request, Asked::Envelope { to: to.to_owned() });
    }

    fn send_direct(&mut self, at: usize) {
        let Some(from) = self.observers[at].user.clone() else { return };
        let to = USERS[self.rng.below(3) as usize];
        let (node, now) = (&self.observers[at].node, self.moment());
        let Some(node) = self.nodes.iter().find(|one| one.name == *node) else { return };
        if !node.is_joined || from == to {
            return;
        }
        let receivers = self.observers.iter().filter(|one| one.has_welcome);
        let receivers = receivers.filter(|one| one.user.as_deref() == Some(to));
        let receivers: Vec<String> = receivers.map(|one| one.name.clone()).collect();
        if receivers.is_empty() {
            return;
        }
        let (reply, answer) = oneshot::channel();
        let (from, to_user) = (UserId::new(&from), UserId::new(to));
        let send = SendPrivate { from, to: to_user, content: String::from("hello") };
        let task = Task::Command(send.reply_to(ReplyTo::Program(reply)));
        let message = ControlMessage { accepted_ns: now.ns, task };
        node.commands.push(message).expect("room");
        self.sent.push(Sent { to: to.to_owned(), receivers, reply: answer });
    }

    /// Something goes wrong.
    fn fail(&mut self) {
        let at = self.rng.below(self.nodes.len() as u64) as usize;
        match self.rng.below(12) {
            0..6 => {
                let ms = if self.rng.below(3) == 0 { 4_000 } else { 800 };
                let ms = 100 + self.rng.below(ms);
                let name = self.nodes[at].name.clone();
                self.oracle.note(|| format!("{name} is cut off for {ms} ms"));
                self.sequencer.cut(&name, ms);
            }
            6..8 => self.restart(at),
            8..10 => self.lose_tail(),
            _ => {
                let channel = self.sequencer.lose_channel();
                self.oracle.note(|| format!("{channel:?} is lost"));
            }
        }
    }

    /// A node's process ends, and another takes its place.
    fn restart(&mut self, at: usize) {
        self.count("restarts");
        let name = self.nodes[at].name.clone();
        for index in (0..self.observers.len()).rev() {
            if self.observers[index].node == name {
                let observer = self.observers.swap_remove(index);
                self.memories.push(observer);
            }
        }
        self.oracle.note(|| format!("{name} ends"));
        self.sequencer.leave(&name);
        let fresh = self.start_node(true);
        self.nodes[at] = fresh;
    }

    fn lose_tail(&mut self) {
        if self.sequencer.is_known_to_the_dead_alone() {
            self.oracle.forgive();
            // What they know may be of a history that nobody else had.
            self.memories.clear();
        }
        let teacher = self.sequencer.lose_tail();
        self.oracle.note(|| format!("the log loses its tail; {teacher:?} knows more"));
        let Some(name) = teacher else { return };
        self.sequencer.hurry(&name);
        let now = self.moment();
        let node = self.nodes.iter_mut().find(|node| node.name == name).expect("it lives");
        while node.control.turn(now).has_more {}
        // Whoever knows more than the log does teaches it what it knows.
        let image = node.control.state().image().expect("it is one of several");
        self.sequencer.seed(image);
    }

    /// Ends all faults, and lets everyone find out.
    fn come_to_rest(&mut self) {
        self.sequencer.calm_down();
        self.let_time_pass_by(100, REST_MS);
        // Whoever does not know whether it is in a room comes back.
        for at in (0..self.observers.len()).rev() {
            if self.observers[at].is_in_doubt {
                self.observers[at].leave(ClientEnd::Ended);
                let observer = self.observers.swap_remove(at);
                self.memories.push(observer);
            }
        }
        while self.observers.len() < OBSERVERS {
            self.connect();
        }
        self.let_time_pass(1_000);
        // All follow everything.
        for at in 0..self.observers.len() {
            for service in SERVICES {
                if !self.observers[at].services.contains_key(service) {
                    self.observers[at].follow(service);
                }
            }
            for channel in CHANNELS {
                if !self.observers[at].channels.contains_key(channel) {
                    self.observers[at].follow_channel(channel);
                }
            }
        }
        self.await_answers();
        for _ in 0..3 {
            for at in 0..self.observers.len() {
                self.publish(at);
            }
            self.await_answers();
        }
        assert!(self.observers.iter().all(|one| !one.is_in_doubt), "an error in peace");
    }

    fn await_answers(&mut self) {
        for _ in 0..100 {
            self.let_time_pass(200);
            if self.sent.is_empty() && self.observers.iter().all(Observer::is_idle) {
                // What is answered may still be on its way to others.
                return self.let_time_pass(500);
            }
        }
        let waiting = self.observers.iter().find(|one| !one.is_idle());
        panic!("no answer in peace: {:?}", waiting.map(Observer::waits_for));
    }

    fn judge_quiet(&mut self) {
        let first = &self.observers[0];
        for service in SERVICES {
            let at = &first.services[service];
            self.oracle.judge_quiet(service, &at.picture);
            for other in &self.observers {
                let there = &other.services[service];
                assert_eq!(
                    (&there.epoch, there.revision),
                    (&at.epoch, at.revision),
                    "{service} at {} and at {}",
                    other.node,
                    first.node
                );
            }
        }
        for channel in CHANNELS {
            let place = &first.channels[channel];
            if let Some((epoch, offset)) = self.sequencer.channel(channel) {
                assert_eq!((&*place.0, place.1), (epoch, offset), "{channel}");
            }
            for other in &self.observers {
                assert_eq!(other.channels[channel], *place, "{channel} at {}", other.node);
            }
        }
        let members: BTreeSet<String> = self
            .observers
            .iter()
            .filter(|one| one.rooms.contains_key(ROOM))
            .filter_map(|one| one.user.clone())
            .collect();
        for observer in &self.observers {
            if let Some(users) = observer.rooms.get(ROOM) {
                assert_eq!(*users, members, "the room at {}", observer.node);
            }
        }
        for (id, (to, receivers)) in &self.accepted {
            for observer in self.observers.iter().filter(|one| one.user.as_ref() == Some(to)) {
                let times = observer.received.get(id).copied().unwrap_or(0);
                let is_due = receivers.contains(&observer.name);
                assert!(times == 1 || (times == 0 && !is_due), "{id} came {times} times to {to}");
            }
        }
        self.judge_envelopes();
    }

    /// An envelope finds every connection of its receiver, on whatever node.
    fn judge_envelopes(&mut self) {
        self.observers.iter_mut().for_each(|one| one.delivered.clear());
        let Some(sender) = self.observers.iter().position(|one| one.user.is_some()) else { return };
        let is_of = |one: &&Observer, user: &str| one.user.as_deref() == Some(user);
        for user in USERS {
            let count = self.observers.iter().filter(|one| is_of(one, user)).count();
            if count > 0 {
                self.send_envelope(sender, user);
            }
        }
        self.await_answers();
        for (user, count) in &self.observers[sender].delivered {
            let there = self.observers.iter().filter(|one| is_of(one, user)).count();
            assert_eq!(*count, there as u64, "connections of {user}");
        }
    }
}

fn key_of(instance: &Value) -> Value {
    json!({
        "regionId": instance["regionId"],
        "serviceId": instance["serviceId"],
        "instanceId": instance["instanceId"],
    })
}

fn play(seed: u64) -> Seen {
    catch_unwind(AssertUnwindSafe(|| SimWorld::new(seed).play())).unwrap_or_else(|fault| {
        eprintln!("replay with: FANFARE_SEED={seed} cargo test --test simulation -- one_cluster");
        resume_unwind(fault)
    })
}

#[test]
fn a_hundred_known_clusters() {
    let mut all = Seen::new();
    for seed in 0..100 {
        for (what, count) in play(seed) {
            *all.entry(what).or_default() += count;
        }
    }
    println!("{all:#?}");
    assert!(
        all.len() >= 18 && all.values().all(|count| *count >= 20),
        "too little happened: {all:#?}"
    );
}

/// Twenty, or as many as `FANFARE_WORLDS` says.
#[test]
fn twenty_fresh_clusters() {
    let worlds = std::env::var("FANFARE_WORLDS").ok().and_then(|count| count.parse().ok());
    for _ in 0..worlds.unwrap_or(20) {
        play(uuid::Uuid::new_v4().as_u64_pair().0);
    }
}

/// Plays the seed in `FANFARE_SEED`.
#[test]
fn one_cluster() {
    if let Some(seed) = std::env::var("FANFARE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        println!("{:?}", play(seed));
    }
}
