//! The facts, and what each command makes of them. Pure: no socket, no clock, no database.
//!
//! ```text
//! Command --> State::apply(command, now) --> effects, in order:
//!                                              messages, announcements   to everyone who follows
//!                                              replies                   to the callers
//!                                              Append, Request, Store    to the log, to others, to disk
//!                                              Wait, Wake                what has to come first
//! result  --> State::resume(continuation, result, now) --> more effects
//! ```
//!
//! Control owns the one [`State`] and is the only caller. Whatever happens to it arrives
//! through [`State::apply`], [`State::resume`], [`State::tick`] and what other nodes are heard to say,
//! so a test can play a whole day in a millisecond.
//!
//! Imports `address`, `auth`, `clock`, `id`, `limits`, `storm`, `subscribers`, `wheel` and `wire`. Imported by
//! everything above it.

pub mod audit;
pub mod backplane;
pub mod channels;
pub mod cluster_presence;
pub mod command;
pub mod durable;
pub mod effect;
pub mod entry;
pub mod event;
pub mod install;
pub mod journal;
pub mod management;
pub mod messaging;
pub mod people;
pub mod registry;
pub mod reply;
pub mod snapshot;

mod ages;
mod channel_stream;
mod cluster_events;
mod sequencer;
mod text;
mod weight;

use std::sync::Arc;

use crate::clock::Moment;
use crate::id::{MessageIds, ServiceName};
use crate::limits::Limits;
use crate::wire::refusal::Refusal;
use audit::Actor;
use channels::Channels;
use cluster_presence::ClusterPresence;
use command::RegistryCommand;
use durable::PeopleSnapshot;
use effect::{AppendReply, Effect};
use entry::{Applied, Entry, LogItem, RegistryEntry};
use journal::JournalTail;
use management::Traits;
use people::People;
use registry::Registry;
use registry::commands::{
    FindInstance, Heartbeat, IsInstanceDown, ListInstances, Protect, ReadAllViews, ReadDelta,
    ReadItems, ReadLeases, ReadOperations, ReadSnapshot, ReadViews, Register, RenewInstance,
    Subscribe, SubscribeAll, Unregister,
};
use registry::decide::Decision;
use registry::views::{ServiceViews, SubscribedToAll, View};
use reply::{Reply, ReplyTo};
use sequencer::Sequencer;

pub use command::{Ask, Command};

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
    /// What control has to carry out; it takes them after each call.
    effects: Vec<Effect>,
    /// This node's name.
    node: Box<str>,
    /// Whoever acts where nobody else does.
    own_actor: Arc<Actor>,
    /// What puts entries, channel messages and direct messages into an order.
    sequencer: Sequencer,
    /// Who is where, as the nodes of a cluster have told each other. Empty at a node that is alone.
    cluster_presence: ClusterPresence,
    /// Messages of channels that were missed and made good.
    pub healed_total: u64,
    history_bytes_max: usize,
    /// How many channels a connection may be subscribed to by others.
    subscriptions_max: usize,
}

/// What a state is made with, beside its registry.
#[derive(Debug)]
pub struct Settings {
    /// What can be set about channels.
    pub channels: channels::bounds::Settings,
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
            channels: channels::bounds::Settings {
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
    pub fn new(registry: Registry, settings: Settings, snapshot: PeopleSnapshot) -> State {
        let present = snapshot.users.iter().filter(|user| !user.is_removed);
        let known = present.map(|user| user.user_id.clone());
        let mut people = People::new(known, settings.users_max);
        for user in snapshot.users {
            if let Some(key) = user.name_key {
                people.note_name(key, &user.user_id);
            }
        }
        State {
            registry,
            people,
            channels: Channels::new(
                settings.channels,
                &settings.epoch,
                snapshot.channels.into_iter(),
            ),
            ids: MessageIds::after(snapshot.last_message, settings.seed),
            effects: Vec::new(),
            cluster_presence: ClusterPresence::new(&settings.node),
            node: settings.node.into(),
            own_actor: Arc::new(Actor::SERVER),
            sequencer: Sequencer::default(),
            healed_total: 0,
            history_bytes_max: settings.history_bytes_max,
            subscriptions_max: settings.subscriptions_max,
        }
    }

    /// The same as one of several nodes. `journal` is there where all of them share a database.
    #[must_use]
    pub fn joined(mut self, journal: Option<JournalTail>) -> State {
        self.sequencer = Sequencer::shared(journal);
        self.people.unannounced = Some(Vec::new());
        self
    }

    /// Carries out one command of the server itself.
    #[cfg(any(test, fuzzing, feature = "internals"))]
    pub fn apply(&mut self, command: Command, now: Moment) {
        self.apply_by(None, command, now);
    }

    /// Carries out one command. What control has to do is left among the effects. The audit log has who sent it; none
    /// is the server itself.
    pub fn apply_by(&mut self, actor: Option<Arc<Actor>>, command: Command, now: Moment) {
        match command {
            Command::Registry(command) => self.apply_registry(actor, command, now),
            Command::Messaging(command) => self.apply_messaging(actor, *command, now),
        }
        self.bound_histories();
    }

    fn apply_registry(&mut self, actor: Option<Arc<Actor>>, command: RegistryCommand, now: Moment) {
        use RegistryCommand as C;
        let registry = &mut self.registry;
        match command {
            C::Register(Register(sent), reply) => {
                let decision = registry.decide_register(sent, now);
                self.carry_out(actor, decision, reply, AppendReply::Batch, now);
            }
            C::Heartbeat(Heartbeat(identities), reply) => {
                let decision = registry.decide_heartbeat(identities, now);
                self.carry_out(actor, decision, reply, AppendReply::Batch, now);
            }
            C::Unregister(Unregister(identities), reply) => {
                let decision = registry.decide(RegistryEntry::Unregister(identities), now);
                self.carry_out(actor, decision, reply, AppendReply::Batch, now);
            }
            C::Operate(operate, reply) => {
                let decision = registry.decide_operate(operate, now);
                self.carry_out(actor, decision, reply, AppendReply::Found, now);
            }
            C::OperateTargets(operate, reply) => {
                let decision = registry.decide_operate_targets(operate, now);
                self.carry_out(actor, decision, reply, AppendReply::Batch, now);
            }
            C::ChangeItems(change, reply) => {
                let decision = registry.decide_change_items(change, now);
                self.carry_out(actor, decision, reply, AppendReply::Batch, now);
            }
            C::ReadItems(ReadItems(kind), reply) => {
                self.reply(reply, Ok(self.registry.items(kind)));
            }
            C::Protect(Protect { service, enabled }, reply) => {
                let decision = registry.decide(RegistryEntry::Protect { service, enabled }, now);
                self.carry_out(actor, decision, reply, AppendReply::Found, now);
            }
            C::PutInstance(put, reply) => {
                let decision = registry.decide_put(put, now);
                self.carry_out(actor, decision, reply, AppendReply::Put, now);
            }
            C::RenewInstance(RenewInstance(find), reply) => {
                let decision = registry.decide_renew_one(&find, now);
                self.carry_out(actor, decision, reply, AppendReply::Instance, now);
            }
            // A subscriber that holds instances keeps them, and asks again.
            C::Subscribe(Subscribe { since: Some(_), .. }, reply) if !registry.log().is_loaded => {
                self.reply(reply, Err(Refusal::unavailable()));
            }
            C::Subscribe(Subscribe { service, snapshot, since, .. }, reply) => {
                let subscribed = registry.subscribe(&service, snapshot, since).map(Box::new);
                self.reply(reply, subscribed.ok_or_else(Refusal::unavailable));
            }
            C::SubscribeAll(SubscribeAll(_), reply) => self.reply(reply, Ok(SubscribedToAll)),
            C::ReadSnapshot(ReadSnapshot(service), reply) => {
                let snapshot = registry.newest(&service);
                self.reply(reply, Ok(snapshot));
            }
            C::ReadViews(ReadViews(services), reply) => self.read_views(&services, reply),
            C::ReadAllViews(ReadAllViews, reply) => {
                let views: Vec<Arc<View>> = registry.all_views().map(Arc::new).collect();
                let version = registry.version();
                self.reply(reply, Ok(ServiceViews { version, views }));
            }
            C::ReadDelta(ReadDelta { version }, reply) => {
                self.reply(reply, Ok(self.registry.delta(version)));
            }
            C::ReadLeases(ReadLeases(service), reply) => {
                self.reply(reply, Ok(self.registry.leases(service.as_ref(), now)));
            }
            C::ReadOperations(ReadOperations(filter), reply) => {
                self.reply(reply, Ok(self.registry.operations(&filter)));
            }
            C::IsInstanceDown(asked, reply) => {
                let IsInstanceDown { identity, ip, zone, group } = &asked;
                let traits = Traits {
                    ip: ip.as_deref().map(Into::into),
                    zone_id: zone.as_deref().map(Into::into),
                    group_id: group.as_deref().map(Into::into),
                };
                self.reply(reply, Ok(self.registry.is_down(identity, &traits)));
            }
            C::ListInstances(ListInstances, reply) => {
                let listing = registry.list_instances(now);
                self.reply(reply, Ok(listing));
            }
            C::FindInstance(FindInstance { service, instance }, reply) => {
                self.reply(reply, Ok(self.registry.find_instance(&service, &instance)));
            }
        }
    }

    /// Carries out what the registry has decided about a write.
    fn carry_out<T: Reply>(
        &mut self,
        actor: Option<Arc<Actor>>,
        decision: Decision<T>,
        reply: ReplyTo<T>,
        appended: fn(ReplyTo<T>) -> AppendReply,
        now: Moment,
    ) {
        match decision {
            Decision::Append(entry) => self.append(actor, entry.into(), appended(reply), now),
            Decision::Reply(result) => {
                // A renewal may have ended a service's protection.
                self.settle_registry(now);
                self.audit_registry(actor.as_ref(), true);
                self.reply(reply, result);
            }
        }
    }

    /// Ends a change of the registry, and announces it.
    fn settle_registry(&mut self, now: Moment) {
        self.registry.settle(now);
        self.announce();
    }

    /// Announces what the registry has changed.
    fn announce(&mut self) {
        let announcements = self.registry.announcements.drain(..).map(Effect::Announce);
        self.effects.extend(announcements);
        let rules = self.registry.changed_rules.drain(..).map(Effect::AnnounceRules);
        self.effects.extend(rules);
    }

    /// Announces to the followers of services that are not registered that contact with the other nodes
    /// is lost, or is back.
    pub fn announce_turn<'a>(&mut self, followed: impl Iterator<Item = &'a ServiceName>) {
        self.registry.announce_contact_change(followed);
        self.announce();
    }

    fn read_views(&mut self, services: &[ServiceName], reply: ReplyTo<Vec<Arc<View>>>) {
        let views: Vec<Arc<View>> =
            services.iter().map(|name| Arc::new(self.registry.view(name))).collect();
        // Views of invented names are not kept.
        let seen = views.iter().filter(|view| view.revision > 0);
        self.effects.extend(seen.map(|view| Effect::PublishView(Arc::clone(view))));
        self.reply(reply, Ok(views));
    }

    /// Applies an entry of the log of all nodes. Returns what it comes to; nothing where it came
    /// behind a later one of its node, and counts for nothing.
    pub fn apply_logged(&mut self, item: LogItem, now: Moment) -> Option<Applied> {
        self.apply_logged_by(None, item, now)
    }

    /// The same for an entry that somebody's command came to at this node.
    pub fn apply_logged_by(
        &mut self,
        actor: Option<&Arc<Actor>>,
        item: LogItem,
        now: Moment,
    ) -> Option<Applied> {
        if !self.registry.record(&item) {
            return None;
        }
        let LogItem { node, at_ms, entry, .. } = item;
        let is_own = *node == **self.registry.log().own_name();
        let applied = match entry {
            Entry::Registry(entry) => self.registry.apply(entry, (&node, at_ms), now),
            Entry::Presence(entry) => {
                self.apply_presence(&node, entry, now);
                Applied::Done
            }
            Entry::Channel(entry) => self.apply_definition(entry, now),
        };
        self.settle_registry(now);
        self.audit_registry(actor, is_own);
        self.bound_histories();
        Some(applied)
    }

    /// Replies to the command whose entry was applied.
    pub fn reply_applied(&mut self, reply: AppendReply, applied: Applied) {
        self.deliver(reply.with(applied));
    }

    /// An entry of this node did not reach the log.
    pub fn on_append_lost(&mut self, entry: Option<&Entry>, reply: AppendReply, now: Moment) {
        match entry {
            Some(Entry::Registry(entry)) => self.registry.on_proposal_lost(entry, now),
            Some(Entry::Presence(entry)) => self.on_presence_lost(entry),
            Some(Entry::Channel(_)) | None => {}
        }
        self.deliver(reply.refuse(Refusal::unavailable()));
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
        entries.extend(self.take_presence_update(now));
        entries
    }

    /// Appends what time, or this node's presence, has made.
    pub fn append_own(&mut self, now: Moment) {
        for entry in self.take_proposals(now) {
            self.append(None, entry, AppendReply::Nobody, now);
        }
    }

    /// Which nodes are alive, and the number of the newest entry, as of a time in milliseconds since
    /// the Unix epoch.
    pub fn on_nodes(&mut self, alive: &[String], (at_ms, newest): (u64, u64), now: Moment) {
        self.registry.on_nodes(alive, (at_ms, newest));
        self.registry.check_contact(now);
        self.settle_registry(now);
        self.audit_registry(None, true);
        self.on_alive(alive);
        self.heal_again();
    }

    /// Lets time pass: leases run out, protections end.
    pub fn tick(&mut self, now: Moment) {
        if self.registry.next_tick_ms().is_some_and(|at_ms| at_ms <= now.unix_ms) {
            self.registry.tick(now);
            self.settle_registry(now);
            self.audit_registry(None, true);
            if !self.sequencer.is_shared() {
                self.append_own(now);
            }
        }
        self.channels.sweep(now.unix_ms);
        self.leave_topics(now);
    }

    /// When time alone changes something next, in milliseconds since the Unix epoch.
    pub fn next_tick_ms(&self) -> Option<u64> {
        let leaving = self.sequencer.leaving.front().map(|(at_ms, _)| *at_ms);
        let all = [self.registry.next_tick_ms(), self.channels.next_sweep_ms(), leaving];
        all.into_iter().flatten().min()
    }
}

#[cfg(any(test, fuzzing, feature = "internals"))]
impl State {
    /// Carries out a command and takes its reply, where it comes at once.
    pub fn ask<A: Ask>(&mut self, ask: A, now: Moment) -> Option<Result<A::Reply, Refusal>> {
        let (sender, mut reply) = tokio::sync::oneshot::channel();
        self.apply(ask.reply_to(ReplyTo::Program(sender)), now);
        for effect in std::mem::take(&mut self.effects) {
            match effect {
                Effect::Reply(reply::Delivery::Program(callback)) => callback.call(),
                effect => self.effects.push(effect),
            }
        }
        reply.try_recv().ok()
    }
}

/// A node of several with nobody at it, which has not begun: for tests of what it makes of the others.
#[cfg(any(test, fuzzing, feature = "internals"))]
pub fn new_node(name: &str, tail: Option<JournalTail>, now: Moment) -> State {
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
    State::new(registry, settings, PeopleSnapshot::default()).joined(tail)
}

/// The same, begun with nothing.
#[cfg(any(test, feature = "internals"))]
pub fn lone_node(name: &str, tail: Option<JournalTail>, now: Moment) -> State {
    let mut node = new_node(name, tail, now);
    node.install_snapshot(empty_snapshot(now), Vec::new(), now);
    node
}

/// What such a node begins with.
#[cfg(any(test, fuzzing, feature = "internals"))]
pub fn empty_snapshot(now: Moment) -> snapshot::Snapshot {
    new_node("nobody", None, now).snapshot()
}
