//! One node: real control, real shards over simulated pipes, a simulated database; and its observer.
//!
//! The observer is one more shard to control. It follows every service and asks as HTTP does, so it hears
//! what control says before any client can: what it hears is what the node shows.

use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;

use fanfare::internals::clock::{Clock, Moment};
use fanfare::internals::cluster::Cluster;
use fanfare::internals::control::Control;
use fanfare::internals::id::{ConnId, Dialect, Epoch, ServiceName, ShardId, Slot, Topic};
use fanfare::internals::limits::Limits;
use fanfare::internals::mailbox::command_sender::CommandSender;
use fanfare::internals::mailbox::to_control::{ControlMessage, Task};
use fanfare::internals::mailbox::to_shard::ShardMessage;
use fanfare::internals::mailbox::view_cache::ViewCache;
use fanfare::internals::mailbox::{Bell, MailboxReceiver, MailboxSender, mailbox};
use fanfare::internals::rng::Rng;
use fanfare::internals::shard::{self, Shard};
use fanfare::internals::state::journal::JournalTail;
use fanfare::internals::state::registry::commands::{ReadAllViews, SubscribeAll};
use fanfare::internals::state::registry::views::View;
use fanfare::internals::state::registry::{self, Registry};
use fanfare::internals::state::reply::{IsHeavy, ReplyTo};
use fanfare::internals::state::{self, Ask, Command, State};
use fanfare::internals::stats::Stats;
use fanfare::internals::store::{Store, StoreSnapshot};
use fanfare::internals::wire::refusal::Refusal;
use serde_json::Value;
use tokio::sync::oneshot;

use super::oracle::{self, Key, Oracle, Position};
use super::pipe::{FakeSocket, Ready};
use super::sequencer::SimSequencer;
use super::store::{Database, SimStore};
use super::{HISTORY_MAX, STARTED_MS, open_gate, people_settings, shard_id, shard_settings};

/// What a call of HTTP is answered, once it is.
pub type Pending<T> = oneshot::Receiver<Result<T, Refusal>>;

pub struct SimShard {
    pub shard: Shard<FakeSocket>,
    pub ready: Ready,
    pub outlet: MailboxSender<ShardMessage>,
    pub outcome: shard::Outcome,
}

impl SimShard {
    /// Whether its thread would be awake: something reported itself, or the time has come that the
    /// shard itself has named.
    fn is_awake(&self, now: Moment) -> bool {
        let has_slept = self.shard.rest();
        self.shard.wake();
        !has_slept
            || self.outcome.has_more
            || !self.ready.borrow().is_empty()
            || self.outcome.wake_at_ms.is_some_and(|at_ms| at_ms <= now.unix_ms)
    }

    /// Takes a turn, unless its thread would sleep.
    pub fn turn(&mut self, now: Moment) {
        if self.is_awake(now) {
            let ready = &self.ready;
            self.outcome = self.shard.turn(now, || ready.borrow_mut().pop_front());
            let handed_over = self.shard.take_handed_over();
            assert!(handed_over.is_empty(), "nobody speaks plain HTTP here");
        }
    }
}

/// What a node starts with.
pub struct Setup<'a> {
    pub name: String,
    pub limits: &'a Arc<Limits>,
    /// Whether other nodes may be there.
    pub is_joined: bool,
    pub protection_max_ms: u64,
    pub commands_max: usize,
    pub seed: u64,
}

pub struct SimNode {
    pub name: Rc<str>,
    pub control: Control,
    pub commands: MailboxSender<ControlMessage>,
    pub shards: Vec<SimShard>,
    pub stats: Arc<Stats>,
    pub store: SimStore,
    is_joined: bool,
    rng: Rng,
    /// How far its steady clock is ahead, and by how much its wall clock was corrected.
    skew_ms: u64,
    pub corrected_ms: i64,
    observer: MailboxReceiver<ShardMessage>,
    view_cache: Arc<ViewCache>,
    /// What it shows.
    pub services: BTreeMap<Rc<str>, Position>,
    /// How often a service was shown as another history.
    pub snapshots: u64,
    pub largest_picture: usize,
    /// Looks at published views.
    pub looks: u64,
}

impl SimNode {
    pub fn start(
        setup: Setup<'_>,
        (now_ms, skew_ms): (u64, u64),
        database: &mut Database,
        sequencer: &mut SimSequencer,
    ) -> SimNode {
        let Setup { name, limits, is_joined, protection_max_ms, commands_max, seed } = setup;
        let mut rng = Rng::seeded(seed);
        let now = moment(now_ms, skew_ms, 0);
        let StoreSnapshot { registry: snapshot, people } = database.open();
        let settings = registry::Settings {
            lease_ttl_ms: 20_000,
            self_protection_max_ms: protection_max_ms,
            history_max: usize::try_from(HISTORY_MAX).expect("small"),
            instances_max: 1_000,
            services_max: 1_000,
            // Small as they are, followers are sent each other's snapshots.
            snapshot_shared_bytes_min: 0,
            ..registry::Settings::default()
        };
        let mut registry = Registry::new(settings, Epoch::new(&name), 0, now);
        registry =
            if is_joined { registry.replicated(&name) } else { registry.restore(snapshot, now) };
        let epoch = format!("{name}-");
        let settings = state::Settings { node: name.clone(), epoch, ..people_settings() };
        let written = people.written;
        let mut state = State::new(registry, settings, people);
        if is_joined {
            state = state.joined(Some(JournalTail::after(written)));
            if !sequencer.has_log() {
                sequencer.seed(state.snapshot());
            }
        }
        let count = 1 + usize::try_from(rng.below(3)).expect("small");
        let stats = Arc::new(Stats::new(count + 1));
        let (commands, inbox) = mailbox(commands_max, Bell::silent());
        let gate = Arc::new(open_gate());
        let mut outlets = Vec::new();
        let shards = (0..count).map(|index| {
            let (outlet, inlet) = mailbox(65_536, Bell::silent());
            outlets.push(outlet.clone());
            let settings = shard::Settings {
                node_id: name.as_str().into(),
                ..shard_settings(index, limits, &gate, &stats, rng.next())
            };
            let sender = CommandSender::driven(commands.clone(), settings.id);
            let shard = Shard::new(settings, sender, inlet, now);
            let outcome = shard::Outcome { has_more: true, wake_at_ms: None };
            SimShard { shard, ready: Ready::default(), outlet, outcome }
        });
        let shards: Vec<SimShard> = shards.collect();
        let (outlet, observer) = mailbox(65_536, Bell::silent());
        outlets.push(outlet);
        let (store, requests) = Store::simulated();
        let view_cache = Arc::<ViewCache>::default();
        let mut control = Control::new(
            state,
            inbox,
            outlets,
            Arc::clone(&view_cache),
            Arc::clone(&stats),
            Some(store),
        );
        if is_joined {
            let (cluster, requests) = Cluster::simulated(Clock::start());
            control = control.with_cluster(&name, cluster);
            sequencer.join(&name, skew_ms, commands.clone(), requests, written);
        }
        let mut node = SimNode {
            name: name.into(),
            control,
            commands,
            shards,
            stats,
            store: SimStore::new(requests, Rng::seeded(rng.next()), now_ms),
            is_joined,
            rng: Rng::seeded(rng.next()),
            skew_ms,
            corrected_ms: 0,
            observer,
            view_cache,
            services: BTreeMap::new(),
            snapshots: 0,
            largest_picture: 0,
            looks: 0,
        };
        node.begin(now_ms);
        node
    }

    /// Follows everything, and looks at what was there before.
    fn begin(&mut self, now_ms: u64) {
        let shard = shard_id(self.shards.len());
        let conn = ConnId { shard, slot: Slot(0), generation: 0 };
        let context = (IsHeavy(false), Dialect::Fanfare);
        assert!(
            self.send(
                SubscribeAll(Dialect::Fanfare).reply_to(ReplyTo::Socket(conn, context)),
                now_ms
            )
        );
        let views = self.ask(ReadAllViews, now_ms);
        self.control.turn(self.moment(now_ms));
        while let Some(message) = self.observer.take() {
            if let ShardMessage::HttpReply(callback) = message {
                callback.call();
                break;
            }
        }
        let views = views.expect("room").try_recv().expect("at once").expect("never refused");
        for view in views.views {
            let service: Rc<str> = view.service.as_str().into();
            self.services.insert(service, position_of(&view));
        }
    }

    pub fn moment(&self, now_ms: u64) -> Moment {
        moment(now_ms, self.skew_ms, self.corrected_ms)
    }

    /// Sends a command. Returns whether control had room for it.
    fn send(&self, command: Command, now_ms: u64) -> bool {
        let (accepted_ns, task) = (self.moment(now_ms).ns, Task::Command(command));
        self.commands.push(ControlMessage { accepted_ns, task }).is_ok()
    }

    /// Sends a command as an HTTP request of the observer.
    pub fn ask<A: Ask>(&self, ask: A, now_ms: u64) -> Option<Pending<A::Reply>> {
        let (sender, reply) = oneshot::channel();
        let address = ReplyTo::Http(shard_id(self.shards.len()), sender);
        self.send(ask.reply_to(address), now_ms).then_some(reply)
    }

    /// A turn of control and of what it talks to.
    pub fn turn_control(
        &mut self,
        (now_ms, is_stormy): (u64, bool),
        database: &mut Database,
        sequencer: &mut SimSequencer,
    ) {
        if self.is_joined {
            sequencer.turn(&self.name, now_ms);
        }
        // A shard's thread may carry out a slice, and leave the rest to the timekeeper or to the next.
        let now = self.moment(now_ms);
        let slices = self.rng.below(4);
        for _ in 0..slices {
            let shard = self.rng.below(self.shards.len() as u64);
            self.control.turn_on(ShardId(u16::try_from(shard).expect("small")), now);
        }
        if slices != 3 || !is_stormy {
            self.control.turn(now);
        }
        self.store.turn((now_ms, is_stormy), database, &self.commands);
    }

    /// Takes what control has just said, before any client can, up to the next reply. Returns whether
    /// there is one.
    pub fn hear(&mut self, oracle: &mut Oracle) -> bool {
        while let Some(message) = self.observer.take() {
            if let ShardMessage::Event(event) = &message {
                oracle.trace(&event.frame);
            }
            match message {
                ShardMessage::Event(event) if matches!(event.topic, Topic::Service(_)) => {
                    let start = event.frame.windows(2).position(|two| two == b"{\"");
                    let json = &event.frame[start.expect("an object")..];
                    self.on_event(&serde_json::from_slice(json).expect("JSON"), oracle);
                }
                ShardMessage::HttpReply(callback) => {
                    callback.call();
                    return true;
                }
                _ => {}
            }
        }
        // What any shard may read by itself is never older than what anyone has heard.
        for (service, at) in &self.services {
            if let Some(view) = self.view_cache.view(&ServiceName::of(service)) {
                self.looks += 1;
                let is = (view.epoch.as_str(), view.revision, view.degraded);
                assert_eq!(is, (&*at.epoch, at.revision, at.degraded), "{service}: an old view");
            }
        }
        false
    }

    fn on_event(&mut self, frame: &Value, oracle: &mut Oracle) {
        oracle.note(|| format!("{} shows {frame}", self.name));
        let service: Rc<str> = frame["service_id"].as_str().expect("a name").into();
        let mut place = Position::of(frame);
        if frame["type"] == "service_snapshot" {
            place.picture = oracle::picture_of(&frame["instances"]);
            oracle.show(&self.name, &service, &place);
            self.services.insert(service, place);
            self.snapshots += 1;
            return;
        }
        let at = self.services.entry(Rc::clone(&service)).or_insert_with(|| Position {
            revision: 0,
            degraded: false,
            ..place.clone()
        });
        if at.revision == 0 {
            // Of a service without a history only the mark was shown.
            at.epoch = Rc::clone(&place.epoch);
        }
        let from = (at.epoch.as_ref(), at.revision);
        assert_eq!(from, (&*place.epoch, frame["from"].as_u64().expect("one")), "skips: {frame}");
        let changes = frame["changes"].as_array().expect("changes");
        // Of a service without a history each follower is told the mark, whoever knows it already.
        let is_news = !changes.is_empty() || place.degraded != at.degraded || at.revision == 0;
        assert!(is_news, "nothing to say: {frame}");
        for change in changes {
            at.revision += 1;
            let instance = change["instance"]["instanceId"].as_str().expect("an id");
            let is_news = oracle.is_newest(&at.epoch, &service, at.revision);
            if is_news && change["reason"] == "expired" {
                oracle.expires(&service, instance, (Rc::clone(&at.epoch), at.revision));
            }
            let before = oracle::apply(&mut at.picture, change);
            if instance.starts_with("swap") {
                oracle.follows(change, before);
            }
            oracle.show(&self.name, &service, at);
        }
        assert_eq!(place.revision, at.revision, "{frame}");
        at.degraded = place.degraded;
    }

    /// Whether it shows an instance.
    pub fn shows(&self, (service, instance): &Key) -> bool {
        let at = self.services.get(&**service);
        at.is_some_and(|at| at.picture.contains_key(&**instance))
    }

    /// Judges views that were asked for just now.
    pub fn judge_views(&mut self, views: &[Arc<View>]) {
        for view in views {
            self.largest_picture = self.largest_picture.max(view.instances.bytes());
            let service = view.service.as_str();
            // Of a service without a history not everyone is told the mark.
            match self.services.get(service).filter(|at| at.revision > 0) {
                Some(at) => {
                    let is = (view.epoch.as_str(), view.revision, view.degraded);
                    assert_eq!(is, (&*at.epoch, at.revision, at.degraded), "{service}");
                    assert!(position_of(view).picture == at.picture, "{service}");
                }
                None => assert_eq!(view.revision, 0, "{service}"),
            }
        }
    }
}

fn position_of(view: &View) -> Position {
    let instances = serde_json::from_slice(view.instances.json()).expect("an array");
    Position {
        epoch: view.epoch.as_str().into(),
        revision: view.revision,
        picture: oracle::picture_of(&instances),
        degraded: view.degraded,
    }
}

fn moment(now_ms: u64, skew_ms: u64, corrected_ms: i64) -> Moment {
    let unix_ms = now_ms + skew_ms;
    let wall_ms = unix_ms.checked_add_signed(corrected_ms).expect("after 1970");
    Moment { unix_ms, wall_ms, ns: (now_ms - STARTED_MS) * 1_000_000 }
}
