//! Nodes, clients, sequencer and database in one thread, where a seed decides who moves next.

use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::sync::Arc;

use fanfare::internals::id::{ChannelName, InstanceIdentity, MessageId, ServiceName, UserId};
use fanfare::internals::limits::Limits;
use fanfare::internals::mailbox::to_shard::ShardMessage;
use fanfare::internals::rng::Rng;
use fanfare::internals::state::channels::view::ChannelView;
use fanfare::internals::state::durable::{Write, Written};
use fanfare::internals::state::messaging::commands::{
    DefineChannel, SendPrivate, SendToGroup, StoreChange,
};
use fanfare::internals::state::messaging::replies::Stored;
use fanfare::internals::state::registry::commands::{
    FindInstance, Heartbeat, Operate, Operation, Protect, PutInstance, ReadViews, Register,
    RenewInstance, Unregister,
};
use fanfare::internals::state::registry::pull_outs::Pull;
use fanfare::internals::state::registry::replies::{FoundInstance, PutReply, RefusedEntry};
use fanfare::internals::state::registry::views::View;
use fanfare::internals::wire::instance::{Instance, Registration};
use fanfare_test_support::SECRET;
use serde_json::{Value, json};
use tokio::sync::oneshot::error::TryRecvError;

use super::client::{Asked, Client, Tally};
use super::holder::Holder;
use super::node::{Pending, Setup, SimNode};
use super::oracle::{Key, Oracle};
use super::pipe::{ClientEnd, Link};
use super::sequencer::SimSequencer;
use super::store::Database;
use super::{HISTORY_MAX, Played, STARTED_MS, Seen, Timeouts};

pub const SERVICES: [&str; 3] = ["orders", "carts", "users"];
pub const CHANNELS: [&str; 2] = ["news", "sport"];
pub const USERS: [&str; 3] = ["ann", "bob", "cid"];
const GROUPS: [&str; 2] = ["g1", "g2"];
const ROOM: &str = "general";
/// Instances that anybody registers and takes away.
const POOL: u64 = 7;
pub const CLIENTS: usize = 8;
const STEPS: usize = 400;
/// The lease of instances that are kept by heartbeats, and of those that are left to run out.
pub const LEASE_MS: u64 = 2_500;
/// One that never runs out here.
const LONG_MS: u64 = 3_600_000;
/// How coarsely time passes: within it every thread gets to act.
pub const STEP_MS: u64 = 50;
/// Wheel ticks and steps by which a deadline may be missed or a neglect mismeasured.
pub const SLACK_MS: u64 = 4 * STEP_MS;

/// What a call of HTTP, or of a program, waits for.
pub enum Call {
    Views(Pending<Vec<Arc<View>>>),
    Operate {
        key: Key,
        number: u64,
        reply: Pending<bool>,
    },
    Found {
        service: &'static str,
        reply: Pending<Option<FoundInstance>>,
    },
    Put {
        port: u64,
        expected: Option<u64>,
        snapshots: u64,
        reply: Pending<PutReply>,
    },
    Renewed {
        key: Key,
        sent_ms: u64,
        reply: Pending<Option<FoundInstance>>,
    },
    Kept {
        holder: usize,
        sent_ms: u64,
        reply: Pending<Vec<RefusedEntry>>,
    },
    Message {
        from: &'static str,
        there: Vec<(Rc<str>, &'static str)>,
        kind: &'static str,
        reply: Pending<Stored>,
    },
    Defined {
        channel: &'static str,
        reply: Pending<ChannelView>,
    },
    Changed(Pending<Written>),
}

/// A message that was accepted.
pub struct Message {
    /// The users it is for, but for its sender.
    pub audience: BTreeSet<String>,
    /// Their connections that were open when it was sent.
    pub receivers: BTreeSet<Rc<str>>,
}

pub struct SimWorld {
    pub rng: Rng,
    pub now_ms: u64,
    pub is_stormy: bool,
    limits: Arc<Limits>,
    pub timeouts: Timeouts,
    /// Whether outboxes are so small that who does not read is in trouble.
    is_cramped: bool,
    /// How long a step of the storm takes at most.
    pace_ms: u64,
    /// Whether nodes have others beside them.
    pub is_joined: bool,
    protection_max_ms: u64,
    commands_max: usize,
    pub nodes: Vec<SimNode>,
    pub sequencer: SimSequencer,
    pub database: Database,
    pub clients: Vec<Client>,
    pub oracle: Oracle,
    pub calls: Vec<(Rc<str>, Call)>,
    pub holders: Vec<Holder>,
    pub messages: BTreeMap<MessageId, Message>,
    pub defined: BTreeSet<&'static str>,
    /// What clients that have gone knew, for those that come back.
    memories: Vec<Client>,
    tokens: BTreeMap<&'static str, String>,
    names: u64,
    port: u64,
    restarts: u64,
    pub seen: Seen,
}

impl SimWorld {
    pub fn new(seed: u64) -> SimWorld {
        let mut rng = Rng::seeded(seed);
        let is_told = std::env::var_os("FANFARE_STORY").is_some();
        let mut sequencer = SimSequencer::new(Rng::seeded(rng.next()));
        sequencer.is_told = is_told;
        let sign = |user: &str| {
            let claims = json!({"sub": user, "username": user, "exp": 4_000_000_000_u64});
            fanfare_test_support::sign(&claims, SECRET, jsonwebtoken::Algorithm::HS256)
        };
        let (count, is_cramped) = (1 + rng.below(3), rng.below(2) == 0);
        let is_joined = count > 1;
        let pick_limit = |rng: &mut Rng, small: &[usize], large: usize| {
            if is_cramped { pick(rng, small) } else { large }
        };
        let limits = Arc::new(Limits {
            outbox_bytes_max: pick_limit(&mut rng, &[2_048, 4_096, 16_384], 65_536),
            outbox_frames_max: pick_limit(&mut rng, &[4, 16, 64], 1_024),
            subscriptions_per_connection_max: pick_limit(&mut rng, &[4, 16], 64),
            client_messages_per_s_max: 0,
            handshake_timeout_ms: 4_000,
            write_timeout_ms: 5_000,
            ping_interval_ms: 6_000,
            pong_timeout_ms: 3_000,
            ..Limits::default()
        });
        let timeouts = Timeouts {
            pong_ms: limits.pong_timeout_ms,
            write_ms: limits.write_timeout_ms,
            shortest_ms: fanfare::internals::limits::CLOSE_LINGER_MS,
        };
        // The sequencer waits for no room.
        let commands_max = if is_joined { 65_536 } else { pick_limit(&mut rng, &[4, 32], 65_536) };
        let mut world = SimWorld {
            now_ms: STARTED_MS,
            is_stormy: true,
            limits,
            timeouts,
            is_cramped,
            // Where time goes faster, more leases run out within a storm.
            pace_ms: pick(&mut rng, &[25, 50, 50]),
            is_joined,
            protection_max_ms: pick(&mut rng, &[1, 2_000, 30_000]),
            commands_max,
            nodes: Vec::new(),
            sequencer,
            database: Database::new(is_joined),
            clients: Vec::new(),
            oracle: Oracle::new(is_told),
            calls: Vec::new(),
            holders: Holder::all(),
            messages: BTreeMap::new(),
            defined: BTreeSet::new(),
            memories: Vec::new(),
            tokens: USERS.into_iter().map(|user| (user, sign(user))).collect(),
            names: 0,
            port: 10_000,
            restarts: 0,
            seen: Seen::default(),
            rng,
        };
        for _ in 0..count {
            let node = world.start_node();
            world.nodes.push(node);
        }
        // A node takes connections once it has the log.
        world.settle(STEP_MS, 500);
        world
    }

    fn start_node(&mut self) -> SimNode {
        self.names += 1;
        let setup = Setup {
            name: format!("n{}", self.names),
            limits: &self.limits,
            is_joined: self.is_joined,
            protection_max_ms: self.protection_max_ms,
            commands_max: self.commands_max,
            seed: self.rng.next(),
        };
        let clock = (self.now_ms, self.rng.below(100_000));
        let node = SimNode::start(setup, clock, &mut self.database, &mut self.sequencer);
        for (service, at) in &node.services {
            self.oracle.show(&node.name, service, at);
        }
        node
    }

    /// Plays one seed's whole story, judging all the way.
    pub fn play(mut self) -> Played {
        for _ in 0..2 {
            self.is_stormy = true;
            self.sequencer.is_stormy = true;
            for _ in 0..STEPS {
                self.step();
            }
            self.come_to_rest();
            self.judge_quiet();
        }
        self.everyone_leaves();
        (0..self.nodes.len()).for_each(|at| self.count_store(at));
        let tallies: Vec<Tally> = self.memories.iter().map(|one| one.tally).collect();
        let sum = |of: fn(&Tally) -> u64| tallies.iter().map(of).sum();
        let over_nodes = |of: fn(&SimNode) -> u64| self.nodes.iter().map(of).sum();
        self.seen.extend(std::mem::take(&mut self.sequencer.faults));
        self.seen.extend([
            ("accepted changes", self.oracle.changes),
            ("conditional registrations", self.oracle.swaps),
            ("expired leases", self.oracle.expired),
            ("published messages", self.oracle.published),
            ("snapshots", sum(|one| one.snapshots)),
            ("replays", sum(|one| one.replays)),
            ("resumed channels", sum(|one| one.resumed)),
            ("channels begun anew", sum(|one| one.reset)),
            ("refused requests", sum(|one| one.errors)),
            ("looks at published views", over_nodes(|node| node.looks)),
            ("collapsed outboxes", over_nodes(|node| node.stats.sum(|one| &one.slow_collapsed))),
        ]);
        Played { seen: self.seen, trace: self.oracle.traced() }
    }

    pub fn count(&mut self, what: &'static str) {
        *self.seen.entry(what).or_default() += 1;
    }

    fn count_store(&mut self, at: usize) {
        let store = &self.nodes[at].store;
        *self.seen.entry("faults of the database").or_default() += store.faults;
        *self.seen.entry("sets written").or_default() += store.sets;
    }

    fn step(&mut self) {
        let ms = self.rng.below(self.pace_ms);
        self.pass(ms);
        self.keep_leases();
        for at in 0..self.nodes.len() {
            if self.rng.below(2) == 0 {
                self.turn_control(at);
            }
            let now = self.nodes[at].moment(self.now_ms);
            for shard in &mut self.nodes[at].shards {
                if self.rng.below(2) == 0 {
                    shard.turn(now);
                }
            }
        }
        for client in &mut self.clients {
            if self.rng.below(2) == 0 {
                client.send(pick(&mut self.rng, &[1, 7, 100, 100_000, 100_000]));
            }
            if self.rng.below(2) == 0 && !client.is_stalled {
                let bytes_max = pick(&mut self.rng, &[1, 50, 500, 100_000, 100_000]);
                client.receive(bytes_max, &mut self.oracle);
            }
        }
        self.bury();
        if self.rng.below(2) == 0 {
            self.act();
        }
        if self.rng.below(8) == 0 {
            self.call();
        }
        if self.rng.below(60) == 0 {
            self.fail();
        }
        if self.is_joined && self.rng.below(40) == 0 {
            self.lead_astray();
        }
        if self.is_cramped && self.rng.below(100) == 0 {
            let ms = pick(&mut self.rng, &[500, 2_000, 2_000, 9_000]);
            self.stop_all_but_shards(ms);
        }
    }

    /// Time passes on all clocks.
    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.oracle.now_ms = self.now_ms;
        self.clients.iter_mut().for_each(|client| client.let_time_pass(self.now_ms));
    }

    /// A long time for which control and clients do nothing, and no shard sleeps through its deadlines.
    fn stop_all_but_shards(&mut self, ms: u64) {
        for _ in 0..ms / STEP_MS {
            self.pass(STEP_MS);
            for node in &mut self.nodes {
                let now = node.moment(self.now_ms);
                node.shards.iter_mut().for_each(|shard| shard.turn(now));
            }
        }
    }

    fn turn_control(&mut self, at: usize) {
        let when = (self.now_ms, self.is_stormy);
        let node = &mut self.nodes[at];
        node.turn_control(when, &mut self.database, &mut self.sequencer);
        while self.nodes[at].hear(&mut self.oracle) {
            self.hear_replies(at);
        }
    }

    /// Time passes in small steps, in which everyone does all there is to do.
    pub fn settle(&mut self, step_ms: u64, ms: u64) {
        for _ in 0..ms / step_ms {
            self.pass(step_ms);
            self.keep_leases();
            for at in 0..self.nodes.len() {
                self.turn_control(at);
                let now = self.nodes[at].moment(self.now_ms);
                self.nodes[at].shards.iter_mut().for_each(|shard| shard.turn(now));
            }
            for client in &mut self.clients {
                client.send(usize::MAX);
                client.receive(usize::MAX, &mut self.oracle);
            }
            self.bury();
        }
    }

    /// Whether all that was asked is answered.
    pub fn is_idle(&self) -> bool {
        self.calls.is_empty() && self.clients.iter().all(Client::is_idle)
    }

    /// What is not answered, for a failure's report.
    pub fn waits_for(&self) -> String {
        let client = self.clients.iter().find(|one| !one.is_idle()).map(Client::waits_for);
        format!("{} calls, {client:?}", self.calls.len())
    }

    /// Removes clients whose connection is over, and judges how it ended.
    fn bury(&mut self) {
        for at in (0..self.clients.len()).rev() {
            let client = &mut self.clients[at];
            if let Some(node) = self.nodes.iter().find(|node| node.name == client.node) {
                client.note_everything(&node.services);
            }
            if client.is_over() {
                let mut client = self.clients.swap_remove(at);
                client.receive(usize::MAX, &mut self.oracle);
                client.judge_end(&self.timeouts, SLACK_MS);
                match client.close_code() {
                    Some(4408) => self.count("slow readers closed"),
                    Some(4410) => self.count("silent clients closed"),
                    _ => {}
                }
                self.memories.push(client);
            }
        }
    }

    pub fn connect(&mut self) {
        let at = index(&mut self.rng, self.nodes.len());
        let shard = index(&mut self.rng, self.nodes[at].shards.len());
        let user = USERS.get(index(&mut self.rng, 4)).copied();
        let login = user.map(|user| (user, &*self.tokens[user]));
        self.names += 1;
        let name: Rc<str> = format!("o{}", self.names).into();
        let send_bytes_max =
            if self.is_cramped { pick(&mut self.rng, &[256, 1_024, 4_096]) } else { 65_536 };
        let seed = self.rng.next();
        let node = &mut self.nodes[at];
        let now = node.moment(self.now_ms);
        let sim = &mut node.shards[shard];
        sim.outcome.has_more = true;
        let link = Link::new(&sim.ready, send_bytes_max, Rng::seeded(seed));
        sim.shard.accept(now, |slot, generation| link.accept(slot, generation));
        self.oracle.note(|| format!("{name} connects to {}", node.name));
        let mut client = Client::new(link, (Rc::clone(&node.name), shard), name, login);
        client.is_exact = !self.is_joined && self.restarts == 0;
        // Whoever has been here before comes back with what it knows, sometimes too much of it.
        if self.rng.below(2) == 0 && !self.memories.is_empty() {
            let memory = index(&mut self.rng, self.memories.len());
            let memory = &mut self.memories[memory];
            let positions = std::mem::take(&mut memory.positions);
            client.channels = std::mem::take(&mut memory.channels);
            for (service, at) in positions {
                let since = match self.rng.below(10) {
                    0 => ("another".into(), at.revision),
                    1 => (at.epoch, at.revision + 5),
                    _ => (at.epoch, at.revision),
                };
                client.subscribe(&service, self.rng.below(8) == 0, Some(since));
            }
            for channel in client.channels.keys().cloned().collect::<Vec<_>>() {
                client.follow_channel(&channel);
            }
        }
        self.clients.push(client);
    }

    /// One client does something.
    fn act(&mut self) {
        if self.clients.len() < CLIENTS && self.rng.below(4) == 0 {
            return self.connect();
        }
        if self.clients.is_empty() {
            return;
        }
        let at = index(&mut self.rng, self.clients.len());
        if self.is_cramped && self.rng.below(16) == 0 {
            self.clients[at].is_stalled ^= true;
        }
        if !self.clients[at].has_welcome || !self.clients[at].can_ask() {
            return;
        }
        match self.rng.below(60) {
            0 => {
                let how = pick(&mut self.rng, &[ClientEnd::Ended, ClientEnd::Gone]);
                self.clients[at].leave(how);
            }
            1 => self.clients[at].close(),
            2..10 => self.follow_a_service(at),
            10..14 => self.follow_a_channel(at),
            14..24 => self.change_own_instance(at),
            24..31 => self.keep_own_lease(at),
            31..37 => self.ask_of_pool(at),
            37..44 => self.publish(at),
            44..50 => self.use_room(at),
            50..54 => {
                let to = pick(&mut self.rng, &USERS);
                self.send_envelope(at, to);
            }
            54 => self.clients[at].ask(json!({"type": "ping"}), Asked::Other("pong"), true),
            55 => self.clients[at].babble(),
            _ => self.follow_from_anywhere(at),
        }
    }

    fn service(&mut self) -> &'static str {
        pick(&mut self.rng, &SERVICES)
    }

    /// A service to follow; now and then one that nobody ever registers.
    fn spelling_to_follow(&mut self) -> String {
        if self.rng.below(8) == 0 { String::from("nobody") } else { self.spelling() }
    }

    /// A service in letters of either case.
    fn spelling(&mut self) -> String {
        let service = self.service();
        if self.rng.below(4) == 0 { service.to_ascii_uppercase() } else { service.to_owned() }
    }

    fn follow_a_service(&mut self, at: usize) {
        let spelling = self.spelling_to_follow();
        let client = &mut self.clients[at];
        match self.rng.below(8) {
            0 => client.subscribe("*", false, None),
            1 => client.unsubscribe("*"),
            2 => client.unsubscribe(&spelling),
            other => client.subscribe(&spelling, other % 2 == 0, None),
        }
    }

    /// Claims to stand somewhere with a service.
    fn follow_from_anywhere(&mut self, at: usize) {
        let spelling = self.spelling();
        let node = self.nodes.iter().find(|node| node.name == self.clients[at].node);
        let shown = node.and_then(|node| node.services.get(&*spelling.to_ascii_lowercase()));
        let (epoch, now) = shown.map_or(("none".into(), 0), |at| (at.epoch.clone(), at.revision));
        let revision = match self.rng.below(4) {
            0 => now,
            1 => now + 1,
            _ => now.saturating_sub(self.rng.below(HISTORY_MAX + 4)),
        };
        let epoch = if self.rng.below(4) == 0 { "another".into() } else { epoch };
        let snapshot = self.rng.below(5) == 0;
        self.clients[at].subscribe(&spelling, snapshot, Some((epoch, revision)));
    }

    fn follow_a_channel(&mut self, at: usize) {
        let channel = pick(&mut self.rng, &CHANNELS);
        let client = &mut self.clients[at];
        let is_about = |asked: &Asked| match asked {
            Asked::Channel { name, .. } | Asked::Unchannel(name) => name == channel,
            _ => false,
        };
        if client.is_asking(is_about) {
            return;
        }
        if !client.channels.contains_key(channel) {
            client.follow_channel(channel);
        } else if self.rng.below(3) == 0 {
            let request = json!({"type": "unsubscribe", "channel": channel});
            client.ask(request, Asked::Unchannel(channel.to_owned()), false);
        }
    }

    pub fn instance(&mut self, service: &str, name: &str, ttl_ms: u64) -> Value {
        self.port += 1;
        json!({"regionId": "r", "serviceId": service, "instanceId": name, "ip": "10.0.0.1",
            "port": self.port, "leaseTtlMs": ttl_ms})
    }

    fn change_own_instance(&mut self, at: usize) {
        let service = self.service();
        let own = format!("{}-kept", self.clients[at].name);
        match self.rng.below(8) {
            0 => {
                self.names += 1;
                let body = self.instance(service, &format!("short{}", self.names), LEASE_MS);
                let request = json!({"type": "register", "instances": [body]});
                self.clients[at].ask(request, Asked::Other("registered"), false);
            }
            change => {
                let body = self.instance(service, &own, LONG_MS);
                let (key, port) = ((service.to_owned(), own), (change != 1).then_some(self.port));
                let number = self.oracle.ask(key.clone(), port);
                let request = match port {
                    Some(_) => json!({"type": "register", "instances": [body]}),
                    None => json!({"type": "unregister", "instance_keys": [key_of(&body)]}),
                };
                self.clients[at].ask(request, Asked::Change { key, number }, false);
            }
        }
    }

    /// A heartbeat for a lease that would run out soon, or a registration where it is not there.
    fn keep_own_lease(&mut self, at: usize) {
        let service = SERVICES[0];
        let instance = format!("{}-lease", self.clients[at].name);
        let body = self.instance(service, &instance, LEASE_MS);
        let key = (service.to_owned(), instance);
        let is_registration = self.rng.below(4) == 0;
        let asked = Asked::Renew { key, ttl_ms: LEASE_MS, sent_ms: self.now_ms, is_registration };
        let request = if is_registration {
            json!({"type": "register", "instances": [body]})
        } else {
            json!({"type": "heartbeat", "instance_keys": [key_of(&body)]})
        };
        self.clients[at].ask(request, asked, false);
    }

    /// An instance that others register and take away as well.
    fn pooled(&mut self) -> Value {
        let padding = pick(&mut self.rng, &[0, 0, 0, 30, 500]);
        json!({
            "regionId": "r",
            "serviceId": self.spelling(),
            "instanceId": format!("i{}", self.rng.below(POOL)),
            "ip": "10.0.0.1",
            "port": 8_000 + self.rng.below(3),
            "metadata": {"padding": "x".repeat(padding)},
            "leaseTtlMs": pick(&mut self.rng, &[1_000, 5_000, 60_000]),
        })
    }

    fn ask_of_pool(&mut self, at: usize) {
        let instance = self.pooled();
        let is_split = self.rng.below(4) == 0;
        let (request, answer) = match self.rng.below(5) {
            0 => (
                json!({"type": "heartbeat", "instance_keys": [key_of(&instance)]}),
                "heartbeat_ack",
            ),
            1 => (
                json!({"type": "unregister", "instance_keys": [key_of(&instance)]}),
                "unregistered",
            ),
            more => {
                let others: Vec<Value> = (1..more).map(|_| self.pooled()).collect();
                let all: Vec<Value> = others.into_iter().chain([instance]).collect();
                (json!({"type": "register", "instances": all}), "registered")
            }
        };
        self.clients[at].ask(request, Asked::Other(answer), is_split);
    }

    pub fn publish(&mut self, at: usize) {
        self.port += 1;
        let channel = pick(&mut self.rng, &CHANNELS);
        self.clients[at].publish(channel, json!({"n": self.port}));
    }

    /// Joins the room, says something there, or leaves it.
    pub fn use_room(&mut self, at: usize) {
        let client = &mut self.clients[at];
        let is_asking =
            |asked: &Asked| matches!(asked, Asked::Join | Asked::Leave | Asked::Chat(_));
        if client.user.is_none() || client.is_in_doubt || client.is_asking(is_asking) {
            return;
        }
        if client.room.is_none() {
            client.ask(json!({"type": "join", "room": ROOM}), Asked::Join, false);
            self.count("rooms joined");
        } else if self.is_stormy && self.rng.below(3) == 0 {
            client.ask(json!({"type": "leave", "room": ROOM}), Asked::Leave, false);
        } else {
            self.port += 1;
            let content = format!("word {}", self.port);
            let request = json!({"type": "chat", "room": ROOM, "content": content});
            client.ask(request, Asked::Chat(content), false);
            self.count("words said");
        }
    }

    /// To a user who has been seen, from a user.
    pub fn send_envelope(&mut self, at: usize, to: &'static str) {
        let is_there = |one: &Client| one.has_welcome && one.user == Some(to);
        if self.clients[at].user.is_none() || !self.clients.iter().any(is_there) {
            return;
        }
        self.count("envelopes");
        let request =
            json!({"message_type": "notification", "data": {"content": "hi"}, "to_user_id": to});
        self.clients[at].ask(request, Asked::Envelope { to }, false);
    }

    /// A call of HTTP at some node.
    fn call(&mut self) {
        let at = index(&mut self.rng, self.nodes.len());
        let (now_ms, service) = (self.now_ms, self.service());
        let instance = format!("i{}", self.rng.below(POOL));
        let identity = || InstanceIdentity::of("r", service, &instance);
        let call = match self.rng.below(24) {
            0..3 => {
                let all = (0..3).map(|_| registration(self.pooled())).collect();
                drop(self.nodes[at].ask(Register(all), now_ms));
                return;
            }
            3 => {
                let (first, second) = (vec![identity()], vec![identity(), identity()]);
                drop(self.nodes[at].ask(Heartbeat(first), now_ms));
                drop(self.nodes[at].ask(Unregister(second), now_ms));
                return;
            }
            4..8 => return self.decide(at),
            8 => {
                let (service, enabled) = (ServiceName::of(service), self.rng.below(3) > 0);
                drop(self.nodes[at].ask(Protect { service, enabled }, now_ms));
                return;
            }
            9..11 => self.nodes[at]
                .ask(ReadViews(vec![ServiceName::of(service)]), now_ms)
                .map(Call::Views),
            11..14 => {
                let find =
                    FindInstance { service: ServiceName::of(service), instance: "swap".into() };
                let reply = self.nodes[at].ask(find, now_ms);
                reply.map(|reply| Call::Found { service, reply })
            }
            14..16 => self.beat(at),
            16..19 => self.send_direct(at),
            19..23 => self.use_group(at),
            _ => {
                let name = pick(&mut self.rng, &["defined-1", "defined-2"]);
                let description = String::from("what it is for");
                let define = DefineChannel { channel: ChannelName::new(name), description };
                let reply = self.nodes[at].ask(define, now_ms);
                reply.map(|reply| Call::Defined { channel: name, reply })
            }
        };
        let name = Rc::clone(&self.nodes[at].name);
        self.calls.extend(call.map(|call| (name, call)));
    }

    /// An operator takes an instance out, or puts it back.
    fn decide(&mut self, at: usize) {
        let (now_ms, is_out) = (self.now_ms, self.rng.below(2) == 0);
        let chance = self.rng.next();
        let known = self.oracle.some_member(chance).filter(|_| !chance.is_multiple_of(4));
        let out = || Operation::PullOut { operator: "someone".into() };
        let operation = if is_out { out() } else { Operation::PullIn };
        let Some(key) = known else {
            let instance = format!("i{}", self.rng.below(POOL));
            let identity = InstanceIdentity::of("r", self.service(), &instance);
            drop(self.nodes[at].ask(Operate { identity, operation }, now_ms));
            return;
        };
        // Two at once have no order that anybody knows.
        let is_open =
            |call: &Call| matches!(call, Call::Operate { key: other, .. } if *other == key);
        if self.calls.iter().any(|(_, call)| is_open(call)) {
            return;
        }
        let identity = InstanceIdentity::of("r", &key.0, &key.1);
        let number = self.oracle.ask_pull_out(key.clone(), is_out);
        let name = Rc::clone(&self.nodes[at].name);
        match self.nodes[at].ask(Operate { identity, operation }, now_ms) {
            Some(reply) => self.calls.push((name, Call::Operate { key, number, reply })),
            None => self.oracle.reject_pull_out(&key, number),
        }
    }

    /// Renews a lease as Eureka's clients do.
    fn beat(&mut self, at: usize) -> Option<Call> {
        let client = index(&mut self.rng, self.clients.len().max(1));
        let client = self.clients.get(client)?;
        let key = (SERVICES[0].to_owned(), format!("{}-lease", client.name));
        let service = ServiceName::of(&key.0);
        let find = FindInstance { service, instance: key.1.as_str().into() };
        let sent_ms = self.now_ms;
        let reply = self.nodes[at].ask(RenewInstance(find), sent_ms)?;
        Some(Call::Renewed { key, sent_ms, reply })
    }

    /// The open connections of users.
    fn there(&self) -> Vec<(Rc<str>, &'static str)> {
        let open = self.clients.iter().filter(|one| one.has_welcome && one.can_ask());
        open.filter_map(|one| Some((Rc::clone(&one.name), one.user?))).collect()
    }

    fn send_direct(&mut self, at: usize) -> Option<Call> {
        let (from, to) = (pick(&mut self.rng, &USERS), pick(&mut self.rng, &USERS));
        let (from_user, to) = (UserId::new(from), UserId::new(to));
        let send = SendPrivate { from: from_user, to, content: String::from("hello") };
        let there = self.there();
        let reply = self.nodes[at].ask(send, self.now_ms)?;
        Some(Call::Message { from, there, kind: "direct messages", reply })
    }

    fn use_group(&mut self, at: usize) -> Option<Call> {
        let (now_ms, group) = (self.now_ms, pick(&mut self.rng, &GROUPS).to_owned());
        let (by, user) = (pick(&mut self.rng, &USERS), pick(&mut self.rng, &USERS));
        let (owner, user_id) = (UserId::new(by), UserId::new(user));
        let write = match self.rng.below(8) {
            0 => Write::RemoveMember { group_id: group, user_id, by: owner },
            1..3 => Write::AddMember { group_id: group, user_id, by: owner },
            _ if self.database.groups.contains_key(&group) => {
                let send = SendToGroup { from: owner, group_id: group, content: "all".into() };
                let there = self.there();
                let reply = self.nodes[at].ask(send, now_ms)?;
                return Some(Call::Message { from: by, there, kind: "messages to groups", reply });
            }
            _ => Write::CreateGroup {
                group_id: group,
                name: String::from("group"),
                members: BTreeSet::from([owner.clone(), user_id]).into_iter().collect(),
                owner,
                invited: Vec::new(),
                at_ms: now_ms,
            },
        };
        self.nodes[at].ask(StoreChange(write), now_ms).map(Call::Changed)
    }

    /// Looks at what a node has answered.
    fn hear_replies(&mut self, at: usize) {
        let name = Rc::clone(&self.nodes[at].name);
        for (node, call) in std::mem::take(&mut self.calls) {
            let open = if node == name { self.hear_reply(at, call) } else { Some(call) };
            self.calls.extend(open.map(|call| (node, call)));
        }
    }

    /// Judges a reply. Returns the call where there is none yet.
    fn hear_reply(&mut self, at: usize, call: Call) -> Option<Call> {
        macro_rules! answer {
            ($reply:ident, $open:expr) => {
                match $reply.try_recv() {
                    Ok(result) => result,
                    Err(TryRecvError::Empty) => return Some($open),
                    Err(TryRecvError::Closed) => panic!("a call is dropped without an answer"),
                }
            };
        }
        match call {
            Call::Views(mut reply) => {
                let views = answer!(reply, Call::Views(reply));
                self.nodes[at].judge_views(&views.expect("views are never refused"));
            }
            Call::Operate { key, number, mut reply } => {
                match answer!(reply, Call::Operate { key, number, reply }) {
                    Ok(true) => {
                        let is_shown = self.nodes[at].shows(&key);
                        self.oracle.accept_pull_out(&key, number, is_shown);
                        self.count("decisions of operators");
                    }
                    Ok(false) => self.oracle.reject_pull_out(&key, number),
                    Err(_) => {}
                }
            }
            Call::Found { service, mut reply } => {
                let found = answer!(reply, Call::Found { service, reply });
                self.put(at, service, found.ok().flatten());
            }
            Call::Put { port, expected, snapshots, mut reply } => {
                let result = answer!(reply, Call::Put { port, expected, snapshots, reply });
                if matches!(result, Ok(PutReply::Done)) && snapshots == self.nodes[at].snapshots {
                    self.oracle.swapped(port, expected);
                }
                if matches!(result, Ok(PutReply::Conflict(_))) {
                    self.count("conditional registrations refused");
                }
            }
            Call::Renewed { key, sent_ms, mut reply } => {
                let found = answer!(reply, Call::Renewed { key, sent_ms, reply });
                if let Ok(Some(found)) = found {
                    assert_eq!(found.instance.ttl_ms, LEASE_MS);
                    self.oracle.renewed(key, LEASE_MS, sent_ms);
                }
            }
            Call::Kept { holder, sent_ms, mut reply } => {
                let result = answer!(reply, Call::Kept { holder, sent_ms, reply });
                self.on_lease_kept(at, (holder, sent_ms), &result);
            }
            Call::Message { from, there, kind, mut reply } => {
                let stored = answer!(reply, Call::Message { from, there, kind, reply });
                if let Ok(Stored { id, .. }) = stored {
                    self.count(kind);
                    self.accept_message(id, from, there);
                }
            }
            Call::Defined { channel, mut reply } => {
                if answer!(reply, Call::Defined { channel, reply }).is_ok() {
                    self.defined.insert(channel);
                }
            }
            Call::Changed(mut reply) => drop(answer!(reply, Call::Changed(reply))),
        }
        None
    }

    /// Replaces an instance that was found, if nobody did so before.
    fn put(&mut self, at: usize, service: &'static str, found: Option<FoundInstance>) {
        let body = self.instance(service, "swap", LONG_MS);
        let expected: Option<Value> =
            found.as_ref().map(|one| serde_json::from_slice(&one.instance.json).expect("JSON"));
        let put = PutInstance {
            registration: registration(body),
            expected: found.map(|one| one.instance.json),
            pull: Pull::Keep,
        };
        let node = &self.nodes[at];
        if let Some(reply) = node.ask(put, self.now_ms) {
            let expected = expected.and_then(|value| value["port"].as_u64());
            let (port, snapshots) = (self.port, node.snapshots);
            let call = Call::Put { port, expected, snapshots, reply };
            self.calls.push((Rc::clone(&node.name), call));
        }
    }

    /// A message was accepted: it is where no end of a process can lose it.
    fn accept_message(&mut self, id: MessageId, from: &str, there: Vec<(Rc<str>, &'static str)>) {
        let in_database = || self.database.messages.get(&id).cloned();
        let kept = if self.is_joined { self.sequencer.receivers(id) } else { in_database() };
        let kept = kept.unwrap_or_else(|| panic!("message {id} is accepted and not kept"));
        let audience = kept.iter().map(|user| user.as_str().to_owned());
        let audience: BTreeSet<String> = audience.filter(|user| *user != from).collect();
        let of_audience = there.into_iter().filter(|(_, user)| audience.contains(*user));
        let receivers = of_audience.map(|(name, _)| name).collect();
        let before = self.messages.insert(id, Message { audience, receivers });
        assert!(before.is_none(), "two messages have the id {id}");
    }

    /// Something goes wrong.
    fn fail(&mut self) {
        let at = index(&mut self.rng, self.nodes.len());
        match self.rng.below(15) {
            0..2 => {
                let ms = i64::try_from(self.rng.below(7_200_000)).expect("small") - 3_600_000;
                self.nodes[at].corrected_ms = ms;
                self.count("corrected clocks");
            }
            2..4 => self.restart(at),
            _ if !self.is_joined => {}
            4..6 => {
                let ms = 500 + self.rng.below(9_000);
                self.delay(at, ms);
            }
            6..11 => {
                let ms = if self.rng.below(3) == 0 { 4_000 } else { 800 };
                let ms = 100 + self.rng.below(ms);
                let name = Rc::clone(&self.nodes[at].name);
                self.oracle.note(|| format!("{name} is cut off for {ms} ms"));
                self.sequencer.cut(&name, ms);
            }
            11..13 => self.lose_tail(),
            _ => {
                let channel = self.sequencer.lose_channel();
                self.oracle.note(|| format!("{channel:?} is lost"));
            }
        }
    }

    /// A node reads the log late.
    pub fn delay(&mut self, at: usize, ms: u64) {
        let name = Rc::clone(&self.nodes[at].name);
        self.oracle.note(|| format!("{name} reads the log {ms} ms late"));
        self.sequencer.delay(&name, ms);
    }

    /// A node's process ends, and another takes its place.
    pub fn restart(&mut self, at: usize) {
        self.count("restarts");
        self.restarts += 1;
        self.count_store(at);
        let name = Rc::clone(&self.nodes[at].name);
        self.oracle.note(|| format!("{name} ends"));
        let (gone, here) = std::mem::take(&mut self.clients)
            .into_iter()
            .partition::<Vec<_>, _>(|client| client.node == name);
        self.clients = here;
        self.memories.extend(gone);
        self.calls.retain(|(node, _)| *node != name);
        if self.is_joined {
            self.sequencer.leave(&name);
        } else {
            self.oracle.lose_since(self.nodes[at].store.durable_ms);
        }
        self.nodes[at] = self.start_node();
    }

    fn lose_tail(&mut self) {
        if self.sequencer.is_known_to_the_dead_alone() {
            let (nodes, epoch) = (&self.nodes, self.sequencer.epoch());
            self.oracle.forgive(&epoch, |service, revision| {
                let mut shown = nodes.iter().filter_map(|node| node.services.get(service));
                shown.any(|at| *at.epoch == *epoch && at.revision >= revision)
            });
            // What they know may be of a history that nobody else had.
            self.memories.iter_mut().for_each(|memory| memory.positions.clear());
            self.clients.iter_mut().for_each(|client| client.renewed = None);
            self.defined.clear();
        }
        let teacher = self.sequencer.lose_tail();
        self.oracle.note(|| format!("the log loses its tail; {teacher:?} knows more"));
        let Some(name) = teacher else { return };
        self.sequencer.hurry(&name);
        let now_ms = self.now_ms;
        let at = self.nodes.iter().position(|node| *node.name == *name).expect("it lives");
        let node = &mut self.nodes[at];
        while node.control.turn(node.moment(now_ms)).has_more {}
        while self.nodes[at].hear(&mut self.oracle) {
            self.hear_replies(at);
        }
        let node = &self.nodes[at];
        // Whoever knows more than the log does teaches it what it knows.
        let snapshot = node.control.state().snapshot();
        self.sequencer.seed(snapshot);
    }

    /// Sends everyone away, each in some way, and looks at what is left of them.
    fn everyone_leaves(&mut self) {
        let drains = self.rng.below(3) == 0;
        if drains {
            for shard in self.nodes.iter().flat_map(|node| &node.shards) {
                shard.outlet.push(ShardMessage::Drain { window_ms: 500 }).expect("room");
            }
            let ms = pick(&mut self.rng, &[0, 1_000]);
            self.settle(STEP_MS, ms);
        }
        for client in &mut self.clients {
            match self.rng.below(3) {
                _ if drains && self.rng.below(2) == 0 => {}
                0 if client.can_ask() => client.close(),
                1 => client.leave(ClientEnd::Gone),
                _ => client.leave(ClientEnd::Ended),
            }
        }
        // The longest that a connection waits: until it counts as slow, and then for its reader to
        // take the close frame.
        self.settle(STEP_MS, 2 * self.timeouts.write_ms + self.timeouts.shortest_ms);
        for node in &self.nodes {
            for (sim, stats) in node.shards.iter().zip(&node.stats.shards) {
                assert!(sim.shard.is_empty(), "{} connections are left", sim.shard.len());
                assert!(sim.shard.has_drained(), "the drain does not end");
                let gauges =
                    [&stats.connections, &stats.handshakes, &stats.subscriptions, &stats.topics];
                let is_zero = gauges.iter().all(|gauge| gauge.value() == 0);
                assert!(is_zero, "a gauge counts those who left: {stats:?}");
            }
        }
        assert!(self.clients.iter().all(|client| client.link.is_dropped()));
        self.memories.append(&mut self.clients);
    }

    /// The largest that an outbox may become: its bound, one frame that found it empty, and answers that
    /// keep their reserve.
    pub fn outbox_bytes_max(&self) -> u64 {
        let largest = self.nodes.iter().map(|node| node.largest_picture).max().unwrap_or(0);
        let largest = largest.max(8 * 1_024) + 1_024;
        (self.limits.outbox_bytes_max + 2 * largest + 8_192) as u64
    }
}

pub fn registration(instance: Value) -> Registration {
    let instance: Instance = serde_json::from_value(instance).expect("an instance");
    instance.register().expect("a good one")
}

fn key_of(instance: &Value) -> Value {
    json!({
        "regionId": instance["regionId"],
        "serviceId": instance["serviceId"],
        "instanceId": instance["instanceId"],
    })
}

pub fn index(rng: &mut Rng, count: usize) -> usize {
    usize::try_from(rng.below(count as u64)).expect("small")
}

pub fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[index(rng, from.len())]
}
