//! Control, shards and clients in one thread, where a seed decides who moves next.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use fanfare::internals::auth::Authenticator;
use fanfare::internals::clock::Moment;
use fanfare::internals::control::Control;
use fanfare::internals::id::{ConnId, Epoch, InstanceIdentity, ServiceName, ShardId, Slot};
use fanfare::internals::limits::Limits;
use fanfare::internals::mailbox::to_control::{ControlMessage, Task};
use fanfare::internals::mailbox::to_shard::ShardMessage;
use fanfare::internals::mailbox::view_cache::ViewCache;
use fanfare::internals::mailbox::{Bell, MailboxReceiver, MailboxSender, mailbox};
use fanfare::internals::rng::Rng;
use fanfare::internals::shard::{self, Shard};
use fanfare::internals::state::registry::commands::{
    Heartbeat, Operate, Operation, Protect, ReadViews, Register, SubscribeAll, Unregister,
};
use fanfare::internals::state::registry::views::View;
use fanfare::internals::state::registry::{self, Registry};
use fanfare::internals::state::reply::{ReplyTo, SubscribeAllContext};
use fanfare::internals::state::{self, Ask, Command, State};
use fanfare::internals::stats::Stats;
use fanfare::internals::wire::instance::{Instance, Registration};
use fanfare::internals::wire::refusal::Refusal;
use fanfare::internals::ws::authorizer::Authorizer;
use fanfare::internals::ws::forwarded::TrustedProxies;
use fanfare::internals::ws::hosts::{AllowedHosts, Hosts};
use serde_json::{Value, json};
use tokio::sync::oneshot;

use super::client::{Asked, Client};
use super::oracle::{self, Oracle};
use super::pipe::{ClientEnd, FakeSocket, Link, Ready};
use super::{EPOCH, HISTORY_MAX, Seen, Timeouts};

const STARTED_MS: u64 = 1_800_000_000_000;
const SERVICES: u64 = 5;
const INSTANCES: u64 = 7;
const CLIENTS: usize = 8;
/// How coarsely time passes: within it every thread gets to act.
const STEP_MS: u64 = 50;
/// Wheel ticks and steps by which a deadline may be missed or a neglect mismeasured.
const SLACK_MS: u64 = 4 * STEP_MS;
/// Far more than a world ever needs to come to rest.
const ROUNDS_MAX: usize = 100_000;

pub fn people_settings() -> state::Settings {
    state::Settings {
        channels: state::channels::Settings {
            namespaces: Arc::default(),
            history_max: 8,
            history_bytes_max: 4_096,
            channels_max: 100,
            per_connection_max: 100,
            per_address_max: None,
        },
        history_bytes_max: 1_048_576,
        users_max: 100,
        subscriptions_max: 100,
        epoch: String::from("c"),
        node: String::from("n"),
        seed: 1,
    }
}

struct SimShard {
    shard: Shard<FakeSocket>,
    ready: Ready,
    outlet: MailboxSender<ShardMessage>,
    outcome: shard::Outcome,
}

impl SimShard {
    /// Whether its thread would be awake: something reported itself, or the time has come that the
    /// shard itself has named.
    fn is_awake(&self, now_ms: u64) -> bool {
        let has_slept = self.shard.rest();
        self.shard.wake();
        !has_slept
            || self.outcome.has_more
            || !self.ready.borrow().is_empty()
            || self.outcome.wake_at_ms.is_some_and(|at_ms| at_ms <= now_ms)
    }
}

pub struct SimWorld {
    rng: Rng,
    now_ms: u64,
    limits: Arc<Limits>,
    timeouts: Timeouts,
    stats: Arc<Stats>,
    control: Control,
    orders: MailboxSender<ControlMessage>,
    shards: Vec<SimShard>,
    /// Follows everything beside the clients, straight from control.
    observer: MailboxReceiver<ShardMessage>,
    /// Views that the observer has asked for.
    questions: Vec<oneshot::Receiver<Result<Vec<Arc<View>>, Refusal>>>,
    oracle: Oracle,
    view_cache: Arc<ViewCache>,
    clients: Vec<Client>,
    /// Positions of clients that have gone, for those that come back.
    memories: Vec<Vec<(String, u64)>>,
    largest_picture: usize,
    seen: Seen,
}

impl SimWorld {
    pub fn new(seed: u64) -> SimWorld {
        let mut rng = Rng::seeded(seed);
        let limits = Arc::new(Limits {
            outbox_bytes_max: pick(&mut rng, &[2_048, 4_096, 16_384]),
            outbox_frames_max: pick(&mut rng, &[4, 16, 64]),
            subscriptions_per_connection_max: pick(&mut rng, &[3, 16]),
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
        let shards = 1 + index(&mut rng, 3);
        let stats = Arc::new(Stats::new(shards + 1));
        let (orders, inbox) = mailbox(pick(&mut rng, &[4, 32, 65_536]), Bell::silent());
        let mut outlets = Vec::new();
        let authorizer = Arc::new(open_gate());
        let sim_shards = (0..shards)
            .map(|index| {
                let (outlet, inlet) = mailbox(65_536, Bell::silent());
                outlets.push(outlet.clone());
                let settings = shard_settings(index, &limits, &authorizer, &stats, rng.next());
                let shard = Shard::new(settings, orders.clone(), inlet, moment(STARTED_MS));
                let outcome = shard::Outcome { has_more: true, wake_at_ms: None };
                SimShard { shard, ready: Ready::default(), outlet, outcome }
            })
            .collect();
        let (observer_outlet, observer) = mailbox(65_536, Bell::silent());
        outlets.push(observer_outlet);
        let settings = registry::Settings {
            lease_ttl_ms: 20_000,
            self_protection_max_ms: 30_000,
            history_max: usize::try_from(HISTORY_MAX).expect("small"),
            instances_max: 1_000,
            services_max: 1_000,
            // Small as they are, followers are sent each other's snapshots.
            snapshot_shared_bytes_min: 0,
            ..registry::Settings::default()
        };
        let registry = Registry::new(settings, Epoch::new(EPOCH), 0, moment(STARTED_MS));
        let view_cache = Arc::<ViewCache>::default();
        let control = Control::new(
            State::new(registry, people_settings(), state::durable::PeopleImage::default()),
            inbox,
            outlets,
            Arc::clone(&view_cache),
            Arc::clone(&stats),
            None,
        );
        let conn = ConnId { shard: shard_id(shards), slot: Slot(0), generation: 0 };
        let mut world = SimWorld {
            rng,
            now_ms: STARTED_MS,
            limits,
            timeouts,
            stats,
            control,
            orders,
            shards: sim_shards,
            observer,
            questions: Vec::new(),
            oracle: Oracle::default(),
            view_cache,
            clients: Vec::new(),
            memories: Vec::new(),
            largest_picture: 0,
            seen: Seen::default(),
        };
        let context = SubscribeAllContext { is_heavy: false };
        let address = ReplyTo::Socket(conn, context);
        assert!(world.send(SubscribeAll.reply_to(address)));
        world.turn_control();
        world
    }

    /// Plays one seed's whole story, judging all the way.
    pub fn play(mut self) -> Seen {
        for _ in 0..3 {
            for _ in 0..400 {
                self.step();
            }
            self.come_to_rest();
            self.judge_quiet();
        }
        self.everyone_leaves();
        self.seen.collapses = self.stats.sum(|shard| &shard.slow_collapsed);
        self.seen
    }

    fn step(&mut self) {
        match self.rng.below(100) {
            0..25 => {
                self.turn_control();
            }
            25..45 => {
                let shard = index(&mut self.rng, self.shards.len());
                self.turn_shard(shard);
            }
            45..80 => self.move_a_client(),
            80..92 => self.order_by_http(),
            92..96 => {
                let ms = 1 + self.rng.below(60);
                self.let_time_pass(ms);
            }
            96..98 => self.report_at_random(),
            98 => {
                let ms = self.rng.below(2_500);
                self.let_time_pass(ms);
            }
            _ if self.rng.below(4) == 0 => {
                let ms = 5_000 + self.rng.below(4_000);
                self.let_time_pass(ms);
            }
            _ => {}
        }
    }

    fn moment(&self) -> Moment {
        moment(self.now_ms)
    }

    fn turn_control(&mut self) -> bool {
        let had_work = !self.control.mailbox().is_empty();
        let outcome = self.control.turn(self.moment());
        self.hear_the_observer();
        had_work || outcome.has_more
    }

    /// Takes what control has just announced, before any client can.
    fn hear_the_observer(&mut self) {
        while let Some(parcel) = self.observer.take() {
            match parcel {
                ShardMessage::Event(event) => {
                    let start = event.frame.windows(2).position(|two| two == b"{\"");
                    let json = &event.frame[start.expect("an object")..];
                    let frame = serde_json::from_slice(json).expect("JSON");
                    self.oracle.take(&frame);
                }
                ShardMessage::HttpReply(callback) => {
                    callback.call();
                    for view in self.read_views() {
                        let instances =
                            serde_json::from_slice(view.instances.json()).expect("an array");
                        self.largest_picture = self.largest_picture.max(view.instances.bytes());
                        let service = view.service.as_str();
                        assert_eq!(view.revision, self.oracle.revision(service));
                        assert_eq!(view.degraded, self.oracle.degraded(service));
                        assert_eq!(
                            oracle::picture_of(&instances),
                            *self.oracle.picture(service, view.revision)
                        );
                    }
                }
                _ => {}
            }
        }
        // What any shard may read by itself is never older than what anyone has heard.
        for (service, revision) in self.oracle.revisions() {
            if let Some(view) = self.view_cache.view(&ServiceName::of(&service)) {
                self.seen.shown += 1;
                assert_eq!(view.revision, revision, "{service}: an old view is shown");
                assert_eq!(view.degraded, self.oracle.degraded(&service), "{service}: the mark");
            }
        }
    }

    fn turn_shard(&mut self, index: usize) -> bool {
        let now = self.moment();
        let SimShard { shard, ready, outcome, .. } = &mut self.shards[index];
        let had_work = !ready.borrow().is_empty();
        *outcome = shard.turn(now, || ready.borrow_mut().pop_front());
        assert!(shard.take_handed_over().is_empty(), "nobody speaks plain HTTP here");
        had_work || outcome.has_more
    }

    /// Lets a shard take a turn, unless its thread would sleep.
    fn turn_shard_if_awake(&mut self, index: usize) -> bool {
        self.shards[index].is_awake(self.now_ms) && self.turn_shard(index)
    }

    /// Readiness without a reason, for places that may not even exist any more.
    fn report_at_random(&mut self) {
        let shard = index(&mut self.rng, self.shards.len());
        let slot = Slot(u32::try_from(self.rng.below(CLIENTS as u64)).expect("small"));
        let generation = u32::try_from(self.rng.below(30)).expect("small");
        self.shards[shard].ready.borrow_mut().push_back((slot, generation));
    }

    /// Time passes in small steps, and no shard sleeps through its deadlines.
    fn let_time_pass(&mut self, ms: u64) {
        let end_ms = self.now_ms + ms;
        while self.now_ms < end_ms {
            self.now_ms = end_ms.min(self.now_ms + STEP_MS);
            for client in &mut self.clients {
                client.let_time_pass(self.now_ms);
            }
            for shard in 0..self.shards.len() {
                self.turn_shard_if_awake(shard);
            }
        }
    }

    fn send(&mut self, command: Command) -> bool {
        let task = Task::Command(command);
        self.orders.push(ControlMessage { accepted_ns: self.moment().ns, task }).is_ok()
    }

    /// Sends a command as an HTTP request of the observer. Returns whether control had room for it.
    fn ask_by_http<A: Ask>(
        &mut self,
        ask: A,
    ) -> Option<oneshot::Receiver<Result<A::Reply, Refusal>>> {
        let (sender, reply) = oneshot::channel();
        let address = ReplyTo::Http(shard_id(self.shards.len()), sender);
        self.send(ask.reply_to(address)).then_some(reply)
    }

    fn ask_for_views(&mut self, names: Vec<ServiceName>) -> bool {
        let reply = self.ask_by_http(ReadViews(names));
        let has_room = reply.is_some();
        self.questions.extend(reply);
        has_room
    }

    /// The views that the observer has been handed and has not read.
    fn read_views(&mut self) -> Vec<Arc<View>> {
        let mut views = Vec::new();
        self.questions.retain_mut(|reply| match reply.try_recv() {
            Ok(result) => {
                views.extend(result.expect("views are never refused"));
                false
            }
            Err(fault) => fault == oneshot::error::TryRecvError::Empty,
        });
        views
    }

    fn order_by_http(&mut self) {
        // Of all but views nobody reads the reply.
        match self.rng.below(12) {
            0..6 => {
                let count = 1 + self.rng.below(4);
                let registrations = (0..count).map(|_| self.registration()).collect();
                drop(self.ask_by_http(Register(registrations)));
            }
            6 => {
                let heartbeat = Heartbeat(vec![self.identity()]);
                drop(self.ask_by_http(heartbeat));
            }
            7 => {
                let unregister = Unregister(vec![self.identity(), self.identity()]);
                drop(self.ask_by_http(unregister));
            }
            8 => {
                let operation = Operation::PullOut { operator: "someone".into() };
                let operate = Operate { identity: self.identity(), operation };
                drop(self.ask_by_http(operate));
            }
            9 => {
                let operate = Operate { identity: self.identity(), operation: Operation::PullIn };
                drop(self.ask_by_http(operate));
            }
            10 => {
                let service = ServiceName::of(&self.service());
                let protect = Protect { service, enabled: self.rng.below(2) == 0 };
                drop(self.ask_by_http(protect));
            }
            _ => {
                let names = vec![ServiceName::of(&self.service())];
                self.ask_for_views(names);
            }
        }
    }

    fn service(&mut self) -> String {
        format!("svc-{}", self.rng.below(SERVICES))
    }

    /// The same service in letters of either case.
    fn spelling(&mut self) -> String {
        let service = self.service();
        if self.rng.below(4) == 0 { service.to_ascii_uppercase() } else { service }
    }

    fn identity(&mut self) -> InstanceIdentity {
        InstanceIdentity::of("r", &self.service(), &format!("i{}", self.rng.below(INSTANCES)))
    }

    fn instance(&mut self) -> Value {
        let padding = pick(&mut self.rng, &[0, 0, 0, 30, 500]);
        json!({
            "regionId": "r",
            "serviceId": self.spelling(),
            "instanceId": format!("i{}", self.rng.below(INSTANCES)),
            "ip": "10.0.0.1",
            "port": 8_000 + self.rng.below(3),
            "metadata": {"padding": "x".repeat(padding)},
            "leaseTtlMs": pick(&mut self.rng, &[1_000, 5_000, 60_000]),
        })
    }

    fn registration(&mut self) -> Registration {
        let instance: Instance = serde_json::from_value(self.instance()).expect("an instance");
        instance.register().expect("a good one")
    }

    fn connect(&mut self) {
        let shard = index(&mut self.rng, self.shards.len());
        let send_bytes_max = pick(&mut self.rng, &[256, 1_024, 4_096]);
        let seed = self.rng.next();
        let now = self.moment();
        let SimShard { shard, ready, outcome, .. } = &mut self.shards[shard];
        outcome.has_more = true;
        let link = Link::new(ready, send_bytes_max, Rng::seeded(seed));
        shard.accept(now, |slot, generation| link.accept(slot, generation));
        let mut client = Client::new(link);
        // Whoever has been here before comes back with what it knows, sometimes too much of it.
        if self.rng.below(2) == 0 && !self.memories.is_empty() {
            let memory = index(&mut self.rng, self.memories.len());
            for (service, revision) in self.memories.swap_remove(memory) {
                let since = match self.rng.below(10) {
                    0 => (String::from("another"), revision),
                    1 => (String::from(EPOCH), revision + 5),
                    _ => (String::from(EPOCH), revision),
                };
                client.subscribe(&service, self.rng.below(8) == 0, Some(since));
            }
        }
        self.clients.push(client);
    }

    fn move_a_client(&mut self) {
        if self.clients.is_empty() || (self.clients.len() < CLIENTS && self.rng.below(20) == 0) {
            return self.connect();
        }
        let at = index(&mut self.rng, self.clients.len());
        let is_over = self.clients[at].link.is_over();
        if is_over && !self.clients[at].link.has_bytes() {
            let mut client = self.clients.swap_remove(at);
            client.receive(usize::MAX, &self.oracle);
            return self.bury(&client);
        }
        match self.rng.below(100) {
            0..30 => {
                let bytes_max = pick(&mut self.rng, &[1, 7, 100, 100_000]);
                self.clients[at].send(bytes_max);
            }
            30..62 => {
                let bytes_max = pick(&mut self.rng, &[1, 50, 500, 100_000]);
                if !self.clients[at].is_stalled {
                    self.clients[at].receive(bytes_max, &self.oracle);
                }
            }
            62..66 => self.clients[at].is_stalled ^= true,
            66 => {
                let how = pick(&mut self.rng, &[ClientEnd::Ended, ClientEnd::Gone]);
                self.clients[at].leave(how);
            }
            67 if self.clients[at].can_ask() => self.clients[at].close(),
            68.. if self.clients[at].can_ask() => self.ask(at),
            _ => {}
        }
    }

    fn ask(&mut self, at: usize) {
        let spelling = self.spelling();
        match self.rng.below(20) {
            0..6 => {
                let snapshot = self.rng.below(2) == 0;
                self.clients[at].subscribe(&spelling, snapshot, None);
            }
            6..9 => {
                let now = self.oracle.revision(&spelling.to_ascii_lowercase());
                let revision = match self.rng.below(4) {
                    0 => now,
                    1 => now + 1,
                    _ => now.saturating_sub(self.rng.below(HISTORY_MAX + 4)),
                };
                let epoch = pick(&mut self.rng, &[EPOCH, EPOCH, EPOCH, "another"]);
                let since = Some((String::from(epoch), revision));
                self.clients[at].subscribe(&spelling, self.rng.below(5) == 0, since);
            }
            9 => self.clients[at].subscribe("*", false, None),
            10 => self.clients[at].unsubscribe("*"),
            11..13 => self.clients[at].unsubscribe(&spelling),
            13 => self.clients[at].ask(json!({"type": "ping"}), Asked::Other("pong"), true),
            14 => self.clients[at].babble(),
            15..18 => {
                let instances: Vec<Value> =
                    (0..=self.rng.below(3)).map(|_| self.instance()).collect();
                let request = json!({"type": "register", "instances": instances});
                let is_split = self.rng.below(4) == 0;
                self.clients[at].ask(request, Asked::Other("registered"), is_split);
            }
            18 => self.ask_about_keys(at, "heartbeat", "heartbeat_ack"),
            _ => self.ask_about_keys(at, "unregister", "unregistered"),
        }
    }

    fn ask_about_keys(&mut self, at: usize, kind: &str, answer: &'static str) {
        let instance = self.instance();
        let key = json!({
            "regionId": instance["regionId"],
            "serviceId": instance["serviceId"],
            "instanceId": instance["instanceId"],
        });
        let request = json!({"type": kind, "instance_keys": [key]});
        self.clients[at].ask(request, Asked::Other(answer), false);
    }

    fn bury(&mut self, client: &Client) {
        client.judge_end(&self.timeouts, SLACK_MS);
        self.seen.snapshots += client.snapshots;
        self.seen.replays += client.replays;
        match client.close_code() {
            Some(4408) => self.seen.slow_ends += 1,
            Some(4410) => self.seen.silent_ends += 1,
            _ => {}
        }
        if self.memories.len() < 4 {
            self.memories.push(client.memory());
        }
    }

    /// Lets everyone finish what is under way. Time hardly passes.
    fn come_to_rest(&mut self) {
        for client in &mut self.clients {
            client.is_stalled = false;
        }
        let mut calm = 0;
        for _ in 0..ROUNDS_MAX {
            let mut is_busy = false;
            for client in &mut self.clients {
                is_busy |= client.send(usize::MAX);
            }
            is_busy |= self.turn_control();
            for shard in 0..self.shards.len() {
                is_busy |= self.turn_shard_if_awake(shard);
            }
            for at in (0..self.clients.len()).rev() {
                is_busy |= self.clients[at].receive(usize::MAX, &self.oracle);
                if self.clients[at].link.is_over() && !self.clients[at].link.has_bytes() {
                    let client = self.clients.swap_remove(at);
                    self.bury(&client);
                }
            }
            if is_busy {
                calm = 0;
                continue;
            }
            calm += 1;
            if calm > 4 {
                return;
            }
            self.let_time_pass(STEP_MS);
        }
        panic!("the world does not come to rest");
    }

    fn judge_quiet(&mut self) {
        for client in self.clients.iter().filter(|client| !client.has_left) {
            client.judge_quiet(&self.oracle);
        }
        let names =
            self.oracle.revisions().into_keys().map(|name| ServiceName::of(&name)).collect();
        assert!(self.ask_for_views(names));
        self.turn_control();
        // The bound, one frame that found the outbox empty, and answers that keep their reserve.
        let largest = self.largest_picture.max(8 * 1_024) + 1_024;
        let bytes_max = (self.limits.outbox_bytes_max + 2 * largest + 8_192) as u64;
        for shard in &self.stats.shards {
            let peak = shard.outbox_bytes_peak.value();
            assert!(peak <= bytes_max, "an outbox held {peak} bytes of {bytes_max}");
        }
    }

    /// Sends everyone away, each in some way, and looks at what is left of them.
    fn everyone_leaves(&mut self) {
        let drains = self.rng.below(3) == 0;
        if drains {
            self.come_to_rest();
            for shard in &self.shards {
                shard.outlet.push(ShardMessage::Drain { window_ms: 500 }).expect("room");
            }
            if self.rng.below(2) == 0 {
                self.let_time_pass(1_000);
            }
        }
        for client in &mut self.clients {
            match self.rng.below(3) {
                _ if drains && self.rng.below(2) == 0 => {}
                0 if client.can_ask() => client.close(),
                1 => client.leave(ClientEnd::Gone),
                _ => client.leave(ClientEnd::Ended),
            }
        }
        self.come_to_rest();
        // The longest that a connection waits: until it counts as slow, and then for its reader to
        // take the close frame.
        let linger_ms = fanfare::internals::limits::CLOSE_LINGER_MS;
        self.let_time_pass(self.timeouts.write_ms + linger_ms + SLACK_MS);
        self.come_to_rest();
        for (index, SimShard { shard, .. }) in self.shards.iter().enumerate() {
            assert!(shard.is_empty(), "{} connections are left", shard.len());
            assert!(shard.has_drained(), "the drain does not end");
            let stats = &self.stats.shards[index];
            for gauge in
                [&stats.connections, &stats.handshakes, &stats.subscriptions, &stats.topics]
            {
                assert_eq!(gauge.value(), 0, "a gauge counts those who left: {stats:?}");
            }
        }
        assert!(self.clients.iter().all(|client| client.link.is_dropped()));
    }
}

fn moment(unix_ms: u64) -> Moment {
    Moment::new(unix_ms, (unix_ms - STARTED_MS) * 1_000_000)
}

/// An authorizer that is open to everyone.
pub fn open_gate() -> Authorizer {
    Authorizer {
        base_path: fanfare::internals::ws::base_path::BasePath::default(),
        authenticator: Authenticator::hs256(fanfare_test_support::SECRET.as_bytes()),
        is_auth_required: false,
        hosts: Hosts::new(([127, 0, 0, 1], 8080).into(), AllowedHosts::default(), true),
        allowed_origins: Vec::new(),
        trusted_proxies: TrustedProxies::default(),
        echo: true,
        topic_bytes_max: 255,
        user_connections: Arc::default(),
        address_connections: Arc::default(),
        namespaces: Arc::default(),
        revoked: Arc::default(),
    }
}

pub fn shard_settings(
    index: usize,
    limits: &Arc<Limits>,
    authorizer: &Arc<Authorizer>,
    stats: &Arc<Stats>,
    seed: u64,
) -> shard::Settings {
    shard::Settings {
        id: shard_id(index),
        node_id: "simulated".into(),
        limits: Arc::clone(limits),
        authorizer: Arc::clone(authorizer),
        is_draining: Arc::new(AtomicBool::new(false)),
        access_log: false,
        stats: Arc::clone(stats),
        seed,
    }
}

fn shard_id(index: usize) -> ShardId {
    ShardId(u16::try_from(index).expect("few shards"))
}

fn index(rng: &mut Rng, count: usize) -> usize {
    usize::try_from(rng.below(count as u64)).expect("small")
}

fn pick<T: Copy>(rng: &mut Rng, from: &[T]) -> T {
    from[index(rng, from.len())]
}
