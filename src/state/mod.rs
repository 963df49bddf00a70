//! The facts, and what each order makes of them. Pure: no socket, no clock, no database.
//!
//! ```text
//! Order --> State::apply(order, now) --> Answer         to the one who asked
//!                                    \-> Announcements, Outgoing  to everyone who follows
//!                                    \-> changes kept for the store
//!                                    \-> Write          to be on disk before anyone hears of it
//!                                    \-> Propose, Call  for the log, or for others to answer first
//!                                    \-> Await, Hold    something else has to come first
//! ```
//!
//! The control thread owns the one [`State`] and is the only caller. Whatever happens to it arrives
//! through [`State::apply`], [`State::tick`] and what other nodes are heard to say, so a test can play
//! a whole day in a millisecond.
//!
//! Imports `auth`, `id`, `limits`, `subscribers`, `wheel` and `wire`. Imported by `mailbox`, `store`,
//! `shard`, `control` and `http`.

pub mod abroad;
pub mod begin;
pub mod call;
pub mod channels;
pub mod commons;
pub mod durable;
pub mod entry;
pub mod event;
pub mod order;
pub mod people;
pub mod posted;
pub mod registry;
pub mod snapshot;
pub mod talk;
pub mod then;

mod ages;
mod link;
mod shared;
mod text;

use std::sync::Arc;

use crate::clock::Moment;
use crate::id::MessageIds;
use crate::limits::Limits;
use abroad::{Abroad, Tail};
use call::Call;
use channels::Channels;
use durable::{PeopleImage, Write};
use entry::{Entry, LogItem};
use event::DomainEvent;
use order::{Answer, Operation, Order, View};
use people::People;
use registry::lease::Decision;
use registry::{Announcement, Registry};
use talk::{Outgoing, Talk, Told};
use then::Then;

/// Everything the server knows that outlives a connection.
#[derive(Debug)]
pub struct State {
    /// Services, instances and leases.
    pub registry: Registry,
    /// Connections and users.
    pub people: People,
    /// Channels and rooms.
    pub channels: Channels,
    ids: MessageIds,
    /// Messages that have to go out; control takes them after each order.
    outgoing: Vec<Outgoing>,
    /// Whether anyone wants to know what happens.
    pub is_watched: bool,
    events: Vec<DomainEvent>,
    /// This node's name.
    node: Box<str>,
    /// The number of the last entry of this node's own log, where it is alone.
    appended: u64,
    /// None where there is one node.
    abroad: Option<Abroad>,
    /// Under which number the next order waits, if it has to.
    pub ticket: u64,
    /// Whether the next order has waited before.
    pub is_rerun: bool,
    /// Messages of channels that were missed and made good.
    pub healed_total: u64,
    history_bytes_max: usize,
    /// How many channels a connection may be subscribed to by others.
    subscriptions_max: usize,
}

/// What an order comes to.
#[derive(Debug)]
pub enum Outcome {
    /// It is done, and this is its answer.
    Answer(Answer),
    /// It has to be on disk first; [`State::after_write`] then gives the answer.
    Write(Box<Write>),
    /// It has to go through the log of all nodes first; [`State::apply_logged`] then gives the
    /// answer.
    Propose(Box<Entry>),
    /// Others have to be asked first; [`State::after_call`] then goes on.
    Call(Box<(Call, Then)>),
    /// It has to wait, under the state's ticket, until [`State::take_released`] names that.
    Await(Box<Talk>),
    /// It is done, and its answer waits, under the state's ticket, for its turn among what goes out.
    Hold(Box<Told>),
}

/// What a state is made with, beside its registry.
#[derive(Debug)]
pub struct Settings {
    /// What can be set about channels.
    pub channels: channels::Settings,
    /// Bytes that the histories of services and channels take at most, together.
    pub history_bytes_max: usize,
    /// How many users may be known.
    pub users_max: usize,
    /// How many channels one connection follows at most.
    pub subscriptions_max: usize,
    /// Begins the epochs of all channels; new with every start.
    pub epoch: String,
    /// Seeds the chance in message ids.
    pub seed: u64,
    /// This node's name, new with every start.
    pub node: String,
}

impl Default for Settings {
    /// The settings of a server that was told nothing, with no chance in them.
    fn default() -> Settings {
        let limits = Limits::DEFAULT;
        Settings {
            channels: channels::Settings {
                namespaces: Arc::default(),
                history_max: limits.channel_history_max,
                history_bytes_max: limits.channel_history_bytes_max,
                channels_max: limits.channels_max,
                per_connection_max: limits.channels_per_connection_max,
                per_address_max: limits.channels_per_address_max,
            },
            history_bytes_max: limits.history_bytes_max,
            users_max: limits.users_max,
            subscriptions_max: limits.subscriptions_per_connection_max,
            epoch: String::from("e"),
            seed: 0,
            node: String::from("n"),
        }
    }
}

impl State {
    /// A state that knows these users and channels, with nobody connected.
    pub fn new(registry: Registry, settings: Settings, image: PeopleImage) -> State {
        let present = image.users.iter().filter(|user| !user.is_removed);
        let known = present.map(|user| user.user_id.clone());
        let mut people = People::new(known, settings.users_max);
        for user in image.users {
            if let Some(key) = user.name_key {
                people.note_name(key, &user.user_id);
            }
        }
        State {
            registry,
            people,
            channels: Channels::new(settings.channels, &settings.epoch, image.channels.into_iter()),
            ids: MessageIds::after(image.last_message, settings.seed),
            outgoing: Vec::new(),
            is_watched: false,
            events: Vec::new(),
            node: settings.node.into(),
            appended: 0,
            abroad: None,
            ticket: 0,
            is_rerun: false,
            healed_total: 0,
            history_bytes_max: settings.history_bytes_max,
            subscriptions_max: settings.subscriptions_max,
        }
    }

    /// The same as one of several nodes. `tail` is there where all of them share a database.
    #[must_use]
    pub fn joined(mut self, tail: Option<Tail>) -> State {
        self.abroad = Some(Abroad::new(&self.node, tail));
        self.people.unannounced = Some(Vec::new());
        self
    }

    /// Carries out one order. What others have to hear of it is left to be taken.
    pub fn apply(&mut self, order: Order, now: Moment) -> Outcome {
        let outcome = self.carry_out(order, now);
        self.bound_histories();
        outcome
    }

    fn carry_out(&mut self, order: Order, now: Moment) -> Outcome {
        let registry = &mut self.registry;
        let answer = match order {
            Order::Talk(talk) => return self.talk(*talk, now),
            Order::Register(list) => return self.settle(|one| one.decide_register(list, now), now),
            Order::Heartbeat(list) => {
                return self.settle(|one| one.decide_heartbeat(list, now), now);
            }
            Order::Unregister(list) => {
                return self.settle(|one| one.decide(Entry::Unregister(list), now), now);
            }
            Order::Operate { identity, operation } => {
                let operator = match operation {
                    Operation::PullOut { operator } => Some(operator),
                    Operation::PullIn => None,
                };
                let user = operator.as_ref().and_then(|operator| operator.user.clone());
                let operator = operator.map(|operator| operator.name);
                let entry = Entry::Operate { identity, operator, user };
                return self.settle(|one| one.decide(entry, now), now);
            }
            Order::Protect { service, enabled } => {
                let entry = Entry::Protect { service, enabled };
                return self.settle(|one| one.decide(entry, now), now);
            }
            Order::Put(put) => return self.settle(|one| one.decide_put(*put, now), now),
            Order::Beat { service, instance } => {
                return self.settle(|one| one.decide_beat(&service, &instance, now), now);
            }
            // Whoever has a picture keeps it, and comes again.
            Order::Subscribe { service, since: Some(_), .. } if !registry.log().is_loaded() => {
                Answer::NotSubscribed(service)
            }
            Order::Subscribe { service, snapshot, since } => {
                match registry.subscribe(&service, snapshot, since) {
                    Some(subscribed) => Answer::Subscribed(Box::new(subscribed)),
                    None => Answer::NotSubscribed(service),
                }
            }
            Order::SubscribeAll => Answer::SubscribedToAll,
            Order::Snapshot(service) => Answer::Snapshot(registry.newest(&service)),
            Order::Views(services) => {
                Answer::Views(services.iter().map(|name| Arc::new(registry.view(name))).collect())
            }
            Order::AllViews => {
                let views: Vec<Arc<View>> = registry.all_views().map(Arc::new).collect();
                Answer::AllViews { version: registry.version(), views }
            }
            Order::Delta { version } => Answer::Delta(registry.delta(version)),
            Order::Leases(service) => Answer::Leases(registry.leases(service.as_ref(), now)),
            Order::Roll(roll) => Answer::Called(Box::new(registry.call(*roll, now))),
        };
        Outcome::Answer(answer)
    }

    /// Carries out what the registry decides about a write.
    fn settle(&mut self, decide: impl FnOnce(&mut Registry) -> Decision, now: Moment) -> Outcome {
        match decide(&mut self.registry) {
            Decision::Append(entry) => self.append(entry, now),
            Decision::Answer(answer) => {
                // A renewal may have ended a service's protection.
                self.registry.settle(now);
                Outcome::Answer(answer)
            }
        }
    }

    /// Appends an entry to the log. A node that is alone applies it at once.
    fn append(&mut self, entry: Entry, now: Moment) -> Outcome {
        if self.registry.log().is_shared() {
            return Outcome::Propose(Box::new(entry));
        }
        self.appended += 1;
        let item = LogItem {
            position: String::new(),
            node: Arc::clone(self.registry.log().own_name()),
            number: self.appended,
            at_ms: now.wall_ms,
            entry,
        };
        Outcome::Answer(self.apply_logged(item, now).unwrap_or(Answer::Unavailable))
    }

    /// Applies an entry of the log of all nodes. The answer is for who proposed it here, if anyone.
    pub fn apply_logged(&mut self, item: LogItem, now: Moment) -> Option<Answer> {
        if !self.registry.record(&item) {
            return None;
        }
        let answer = match item.entry {
            Entry::PresenceUpdate(_)
            | Entry::NodeLeft(_)
            | Entry::DefineChannel { .. }
            | Entry::DeleteChannel(_) => self.apply_shared(&item.node, item.entry, now),
            _ => self.registry.apply(item, now),
        };
        self.registry.settle(now);
        self.bound_histories();
        Some(answer)
    }

    /// Drops the oldest changes and messages of all services and channels until the rest fits. Called
    /// after whatever adds to a history.
    fn bound_histories(&mut self) {
        while self.registry.history_bytes() + self.channels.history_bytes() > self.history_bytes_max
        {
            match (self.registry.oldest_history_ms(), self.channels.oldest_history_ms()) {
                (Some(service), channel) if channel.is_none_or(|channel| service <= channel) => {
                    self.registry.drop_oldest_history();
                }
                (_, Some(_)) => self.channels.drop_oldest_history(),
                _ => return,
            }
        }
    }

    /// Takes what has to go into the log though nobody asked for it.
    pub fn take_proposals(&mut self, now: Moment) -> Vec<Entry> {
        let mut entries = self.registry.take_proposals();
        entries.extend(self.take_facts(now));
        entries
    }

    /// An entry did not reach the log.
    pub fn on_proposal_lost(&mut self, entry: &Entry, now: Moment) {
        self.on_shared_lost(entry);
        self.registry.on_proposal_lost(entry, now);
    }

    /// Which nodes are alive, and the number of the newest entry, as of a time in milliseconds since
    /// the Unix epoch.
    pub fn on_nodes(&mut self, alive: &[String], (at_ms, newest): (u64, u64), now: Moment) {
        self.registry.on_nodes(alive, (at_ms, newest));
        self.registry.check_contact(now);
        self.registry.settle(now);
        self.on_alive(alive);
        self.heal_again();
    }

    /// Lets time pass: leases run out, protections end.
    pub fn tick(&mut self, now: Moment) {
        if self.registry.next_tick_ms().is_some_and(|at_ms| at_ms <= now.unix_ms) {
            self.registry.tick(now);
            self.registry.settle(now);
            if !self.registry.log().is_shared() {
                for entry in self.registry.take_proposals() {
                    let _ = self.append(entry, now);
                }
            }
        }
        self.channels.sweep(now.unix_ms);
        self.leave_topics(now);
    }

    /// When time alone changes something next, in milliseconds since the Unix epoch.
    pub fn next_tick_ms(&self) -> Option<u64> {
        let leaving = self.abroad.as_ref().and_then(|abroad| abroad.leaving.front());
        let leaving = leaving.map(|(at_ms, _)| *at_ms);
        let all = [self.registry.next_tick_ms(), self.channels.next_sweep_ms(), leaving];
        all.into_iter().flatten().min()
    }

    /// Takes what subscribers have to hear since the last call.
    pub fn take_announcements(&mut self) -> Vec<Announcement> {
        std::mem::take(&mut self.registry.announcements)
    }

    /// Takes the messages that have to go out since the last call.
    pub fn take_outgoing(&mut self) -> Vec<Outgoing> {
        std::mem::take(&mut self.outgoing)
    }

    /// Takes what happened since the last call, where anyone wants to know.
    pub fn take_events(&mut self) -> Vec<DomainEvent> {
        std::mem::take(&mut self.events)
    }

    /// Takes the users that were seen for the first time, to be stored.
    pub fn take_newly_known(&mut self, now: Moment) -> Option<Write> {
        let people = std::mem::take(&mut self.people.newly_known);
        (!people.is_empty()).then_some(Write::Seen { people, at_ms: now.wall_ms })
    }

    fn note(&mut self, event: impl FnOnce() -> DomainEvent) {
        if self.is_watched {
            self.events.push(event());
        }
    }
}

/// A node of several with nobody at it, which has not begun: for tests of what it makes of the others.
#[cfg(any(test, fuzzing))]
pub(crate) fn new_node(name: &str, tail: Option<Tail>, now: Moment) -> State {
    let registry = registry::Settings {
        lease_ttl_ms: 20_000,
        self_protection_max_ms: 1,
        history_max: 8,
        instances_max: 8,
        services_max: 8,
        ..registry::Settings::default()
    };
    let registry = Registry::new(registry, crate::id::Epoch::new("e"), 0, now).replicated(name);
    let settings =
        Settings { node: name.to_owned(), epoch: format!("{name}-"), ..Settings::default() };
    State::new(registry, settings, PeopleImage::default()).joined(tail)
}

/// The same, begun with nothing.
#[cfg(test)]
pub(crate) fn lone_node(name: &str, tail: Option<Tail>, now: Moment) -> State {
    let mut node = new_node(name, tail, now);
    node.begin_anew(empty_image(now), Vec::new(), now);
    node
}

/// What such a node begins with.
#[cfg(any(test, fuzzing))]
pub(crate) fn empty_image(now: Moment) -> snapshot::Snapshot {
    new_node("nobody", None, now).image().expect("it is one of several")
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;

    use super::*;
    use crate::id::{ChannelName, Epoch, ServiceName};
    use crate::rng::Rng;
    use crate::state::order::Snapshot;
    use crate::wire::command::Since;
    use crate::wire::instance::Instance;

    const SERVICES: u64 = 4;
    const EACH_BYTES: usize = 3_000;
    const ALL_BYTES: usize = 9_000;

    fn state() -> State {
        let registry = registry::Settings {
            history_max: 12,
            history_bytes_max: EACH_BYTES,
            ..registry::Settings::default()
        };
        let now = Moment { ns: 0, unix_ms: 1, wall_ms: 1 };
        let registry = Registry::new(registry, Epoch::new("e"), 0, now);
        let defaults = Settings::default();
        let channels = channels::Settings {
            history_max: 12,
            history_bytes_max: EACH_BYTES,
            ..defaults.channels.clone()
        };
        let settings = Settings { channels, history_bytes_max: ALL_BYTES, ..defaults };
        State::new(registry, settings, PeopleImage::default())
    }

    /// Random changes of services and messages of channels, against one flat list: each history has
    /// its bounds, and of all together the oldest go first.
    #[test]
    fn histories_of_services_and_channels_share_one_budget() {
        for seed in 0..20 {
            let mut rng = Rng::seeded(seed);
            let mut state = state();
            let mut model: VecDeque<(u64, usize)> = VecDeque::new();
            for step in 1..1_500 {
                let now = Moment { ns: step, unix_ms: step, wall_ms: step };
                let which = rng.below(2 * SERVICES);
                let span = if rng.below(30) == 0 { 5_000 } else { 900 };
                let size = rng.below(span) as usize;
                let bytes = if which < SERVICES {
                    let instance = Instance {
                        service_id: Some(format!("s{which}").into()),
                        instance_id: Some("i".into()),
                        url: Some(format!("{step}{}", "x".repeat(size)).into()),
                        ..Instance::default()
                    };
                    let sent = instance.register().expect("valid");
                    let bytes = sent.json.len() + 96;
                    let _ = state.apply(Order::Register(vec![sent]), now);
                    bytes
                } else {
                    let name = ChannelName::new(&format!("c{which}"));
                    let key = state.channels.find_or_new(&name, None).expect("room");
                    state.channels.advance(key);
                    state.channels.keep(key, &Bytes::from(vec![0; size + 1]), step);
                    state.bound_histories();
                    size + 1
                };
                model.push_back((which, bytes));
                let of_this = |model: &VecDeque<(u64, usize)>| {
                    let mine = model.iter().filter(|one| one.0 == which);
                    (mine.clone().count(), mine.map(|one| one.1).sum::<usize>())
                };
                while of_this(&model).0 > 12 || of_this(&model).1 > EACH_BYTES {
                    let oldest = model.iter().position(|one| one.0 == which).expect("there");
                    model.remove(oldest);
                }
                while model.iter().map(|one| one.1).sum::<usize>() > ALL_BYTES {
                    model.pop_front();
                }
                let held = |of: &dyn Fn(u64) -> bool| {
                    let held = model.iter().filter(|one| of(one.0));
                    held.map(|one| one.1).sum::<usize>()
                };
                let got = (state.registry.history_bytes(), state.channels.history_bytes());
                let want = (held(&|one| one < SERVICES), held(&|one| one >= SERVICES));
                assert_eq!(got, want, "seed {seed}, step {step}");
            }
        }
    }

    #[test]
    fn a_replay_that_is_larger_than_the_snapshot_becomes_the_snapshot() {
        let settings = registry::Settings::default();
        let now = Moment { ns: 0, unix_ms: 1, wall_ms: 1 };
        let registry = Registry::new(settings, Epoch::new("e"), 0, now);
        let mut state = State::new(registry, Settings::default(), PeopleImage::default());
        let register = |state: &mut State, name: &str, url: String| {
            let instance = Instance {
                service_id: Some("s".into()),
                instance_id: Some(name.into()),
                url: Some(url.into()),
                ..Instance::default()
            };
            let order = Order::Register(vec![instance.register().expect("valid")]);
            let _ = state.apply(order, now);
        };
        let subscribe = |state: &mut State, revision| {
            let since = Some(Since { epoch: "e".into(), revision });
            let order =
                Order::Subscribe { service: ServiceName::of("s"), snapshot: Snapshot::No, since };
            match state.apply(order, now) {
                Outcome::Answer(Answer::Subscribed(subscribed)) => subscribed,
                other => panic!("{other:?}"),
            }
        };
        for change in 0..40 {
            register(&mut state, "a", format!("{change}{}", "x".repeat(20_000)));
        }
        let large = subscribe(&mut state, 1);
        assert_eq!((large.recovered, large.replay), (Some(false), None), "780 KB for 20");
        assert!(large.view.instances.bytes() < 25_000);
        let small = subscribe(&mut state, 38);
        let (one, other) = (small.replay.expect("40 KB"), subscribe(&mut state, 38).replay);
        let other = other.expect("the same again");
        assert_eq!(one.as_ptr(), other.as_ptr(), "it is built once and shared");
        register(&mut state, "b", String::new());
        assert_ne!(subscribe(&mut state, 38).replay.expect("more").len(), one.len());
        for name in 0..40 {
            register(&mut state, &format!("n{name}"), "x".repeat(20_000));
        }
        let large = subscribe(&mut state, 1);
        assert_eq!(large.recovered, Some(false), "1.6 MB for 0.8");
        let whole = subscribe(&mut state, 41);
        assert_eq!(whole.recovered, Some(true), "800 KB are no more than the snapshot has");
    }
}
