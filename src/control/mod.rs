//! Control: the one thread that owns the state.
//!
//! ```text
//! mailbox --> order --> state --> announcements --> one frame --> the shards that follow
//!                         |   \-> answer -----------------------> the shard that asked
//!                         |-----> changes, twice a second ------> store
//!                         |-----> write, at once ---------------> store --> answer, message
//!                         \-----> entry, call ------------------> other nodes --> answer, message
//! ```
//!
//! # Promises
//!
//! * What an order changed is on its way to every shard before its answer is: who hears the answer
//!   finds the change done. A subscriber's answer stands in its shard's mailbox exactly between the
//!   events it covers and those that follow it.
//! * An event is encoded and framed once, and only where a shard follows the service.
//! * A view that the shards can read is taken back before anything that its service's change causes
//!   is sent; see `mailbox::published`.
//! * What has to be on disk first is answered and announced after the store has said that it is.
//!   All that gathers while the store is busy goes as one transaction.
//! * One turn carries out at most [`limits::COMMANDS_PER_TURN_MAX`] commands before leases and the
//!   store get their time.
//!
//! # Not here
//!
//! No decision about the registry: `state` makes them all. No socket, no clock.
//!
//! Imports `mailbox`, `state`, `stats`, `store` and `wire`. Imported by `server`.

mod followers;
mod ledger;
mod nodes;
mod proposals;
mod saver;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::auth::Revoked;
use crate::clock::Moment;
use crate::cluster::Cluster;
use crate::id::{ConnId, Topic, UserId};
use crate::limits::{self, STORE_CLOSE_ATTEMPTS_MAX};
use crate::mailbox::published::{Published, Publisher};
use crate::mailbox::to_control::{Command, Origin, Task};
use crate::mailbox::to_shard::{Event, Parcel};
use crate::mailbox::{Inlet, Outlet};
use crate::state::durable::{AccountChange, Write, WriteResult};
use crate::state::event::DomainEvent;
use crate::state::order::{Answer, Order};
use crate::state::registry::Announcement;
use crate::state::registry::unsaved::SetBound;
use crate::state::talk::{Outgoing, Talk, Told};
use crate::state::{self, State};
use crate::stats::Stats;
use crate::store::Store;
use crate::storm::Storm;
use crate::wire::answer;
use crate::wire::event::{Position, service_change};
use crate::wire::instance_list::InstanceList;
use crate::wire::refusal::Refusal;
use followers::Followers;
use ledger::{Ledger, Waiting};
use proposals::{Proposals, What};
use saver::Saver;

/// What a turn leaves to the thread that drives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether there is more to do at once.
    pub has_more: bool,
    /// When there is something to do by time alone, in milliseconds since the Unix epoch.
    pub wake_at_ms: Option<u64>,
}

/// The control plane.
#[derive(Debug)]
pub struct Control {
    state: State,
    mailbox: Inlet<Command>,
    shards: Vec<Outlet<Parcel>>,
    followers: Followers,
    publisher: Publisher,
    stats: Arc<Stats>,
    store: Option<Store>,
    saver: Saver,
    /// When messages of the journal may be written again, after the store refused some.
    next_posted_ms: u64,
    ledger: Ledger,
    /// None where there is one node.
    cluster: Option<Cluster>,
    node: String,
    /// The nodes that were alive when they were last heard of.
    alive: Vec<String>,
    proposals: Proposals,
    /// Connections that were answered, and whose next orders may wait.
    to_go_on: Vec<ConnId>,
    revoked: Arc<Revoked>,
    events: broadcast::Sender<DomainEvent>,
    /// Shards that have got something this turn.
    to_ring: Vec<bool>,
    storm: Storm,
}

impl Control {
    /// A control plane over `state`. Without a store nothing outlives the process.
    pub fn new(
        state: State,
        mailbox: Inlet<Command>,
        shards: Vec<Outlet<Parcel>>,
        published: Arc<Published>,
        stats: Arc<Stats>,
        store: Option<Store>,
    ) -> Control {
        let (events, _) = broadcast::channel(limits::LISTENER_MESSAGES_MAX);
        let to_ring = vec![false; shards.len()];
        let publisher = Publisher::new(published);
        publisher.set_edition(state.registry.edition());
        Control {
            state,
            mailbox,
            shards,
            followers: Followers::default(),
            publisher,
            stats,
            store,
            saver: Saver::new(SetBound { rows: usize::MAX, bytes: usize::MAX }),
            next_posted_ms: 0,
            ledger: Ledger::default(),
            cluster: None,
            node: String::new(),
            alive: Vec::new(),
            proposals: Proposals::default(),
            to_go_on: Vec::new(),
            revoked: Arc::default(),
            events,
            to_ring,
            storm: Storm::default(),
        }
    }

    /// Bounds what goes to the store at once.
    #[must_use]
    pub fn with_set_bound(mut self, bound: SetBound) -> Control {
        self.saver = Saver::new(bound);
        self
    }

    /// Shares the set of users whose tokens count no more.
    #[must_use]
    pub fn with_revoked(mut self, revoked: Arc<Revoked>) -> Control {
        self.revoked = revoked;
        self
    }

    /// Joins other nodes under a name of its own; the state's registry is a replica.
    #[must_use]
    pub fn with_cluster(mut self, node: &str, cluster: Cluster) -> Control {
        node.clone_into(&mut self.node);
        self.cluster = Some(cluster);
        self
    }

    /// Where whoever wants to know what happens can listen.
    pub fn events(&self) -> broadcast::Sender<DomainEvent> {
        self.events.clone()
    }

    /// The mailbox, for the thread that rests on it.
    pub fn mailbox(&self) -> &Inlet<Command> {
        &self.mailbox
    }

    /// The state, for checks at quiet moments.
    #[cfg(any(test, feature = "internals"))]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes one turn.
    pub fn turn(&mut self, now: Moment) -> Outcome {
        let connections = self.state.people.connections();
        for _ in 0..limits::COMMANDS_PER_TURN_MAX {
            let Some(command) = self.mailbox.take() else { break };
            self.carry_out(command, now);
        }
        let ended = connections.saturating_sub(self.state.people.connections());
        self.storm.note_ends(ended, now.unix_ms);
        self.storm.let_time_pass(now.unix_ms);
        if self.state.next_tick_ms().is_some_and(|at_ms| at_ms <= now.unix_ms) {
            self.state.tick(now);
            self.announce(now.ns);
        }
        self.propose_by_time(now);
        self.run_errands(now);
        self.commit(now);
        for (shard, ring) in self.shards.iter().zip(&mut self.to_ring) {
            if std::mem::take(ring) {
                shard.ring();
            }
        }
        self.publish_gauges();
        Outcome { has_more: !self.mailbox.is_empty(), wake_at_ms: self.wake_at_ms() }
    }

    fn wake_at_ms(&self) -> Option<u64> {
        // A store that is busy says when it is done.
        let is_idle = self.store.as_ref().is_some_and(Store::is_idle);
        let commit = (is_idle && self.state.registry.is_dirty()).then_some(self.saver.next_ms());
        let late = self.proposals.next_late_ms();
        let by_time = [self.state.next_tick_ms(), commit, late, self.storm.due_ms()];
        by_time.into_iter().flatten().min()
    }

    fn carry_out(&mut self, command: Command, now: Moment) {
        let Some(command) = self.proposals.hold(command) else { return };
        self.carry_out_now(command, now);
    }

    fn carry_out_now(&mut self, command: Command, now: Moment) {
        let Command { origin, accepted_ns, task } = command;
        let shard = origin.shard();
        let order = match (task, shard) {
            (Task::Order(order), _) => order,
            (Task::Unfollow(service), Some(shard)) => {
                if self.followers.remove(&service, shard) {
                    self.state.registry.set_followed(&service, false);
                }
                return;
            }
            (Task::UnfollowAll, Some(shard)) => return self.followers.remove_from_all(shard),
            (Task::Probe(conns), _) => {
                for conn in conns {
                    self.send(usize::from(conn.shard.0), Parcel::Probe(conn));
                }
                return;
            }
            (Task::Stored(results), _) => return self.on_stored(results, now),
            (Task::Cluster(news), _) => return self.on_news(news, now),
            (Task::Unfollow(_) | Task::UnfollowAll, None) => return,
        };
        match &order {
            Order::Subscribe { service, .. } => {
                if let Origin::Conn(conn) = &origin
                    && self.followers.add(service, conn.shard)
                {
                    self.state.registry.set_followed(service, true);
                }
            }
            Order::SubscribeAll => {
                if let Origin::Conn(conn) = &origin {
                    self.followers.add_to_all(conn.shard);
                }
            }
            Order::Talk(talk) => self.revoke(talk, now),
            _ => {}
        }
        self.stats.control.orders.add(1);
        // For each order anew: who listened before the call hears of what the call did.
        self.state.is_watched = self.events.receiver_count() > 0;
        self.state.ticket = self.proposals.next();
        let outcome = self.state.apply(order, now);
        self.settle(origin, accepted_ns, outcome, now);
    }

    /// Has tokens count no more, and the shards close the sockets that were opened with them.
    fn revoke(&mut self, talk: &Talk, now: Moment) {
        // The table first: a socket that opens meanwhile is judged by it, or looked at after it.
        let mut to_check = Vec::new();
        match talk {
            Talk::Accounts(changes) => {
                for change in changes {
                    let user_id = change.user_id.as_str();
                    let was_disabled = self.revoked.is_disabled(user_id);
                    let is_less = self.revoked.set(user_id, change.standing);
                    note_account(change, was_disabled, is_less);
                    if is_less {
                        to_check.push(Some(change.user_id.clone()));
                    }
                    self.revoked.credential_cache.forget_older(user_id, change.changed_ms);
                }
            }
            Talk::TokensEnded(tokens) => {
                for token in tokens {
                    if self.revoked.revoke(token.id, token.expires_s, now.unix_s()) {
                        let user = token.user_id.as_ref().map(UserId::as_str);
                        tracing::info!(target: "fanfare::accounts", user, "token revoked");
                        to_check.push(token.user_id.clone());
                    }
                }
            }
            _ => return,
        }
        if to_check.iter().any(Option::is_none) {
            to_check = vec![None];
        }
        for user_id in to_check {
            for shard in 0..self.shards.len() {
                self.send(shard, Parcel::CheckTokens(user_id.clone()));
            }
        }
    }

    /// Answers an order, or has it wait.
    fn settle(&mut self, origin: Origin, accepted_ns: u64, outcome: state::Outcome, now: Moment) {
        let what = match outcome {
            state::Outcome::Answer(answer) => {
                self.announce(accepted_ns);
                return self.answer(origin, answer, now);
            }
            state::Outcome::Propose(entry) => {
                return self.propose(origin, accepted_ns, *entry, now);
            }
            state::Outcome::Write(write) => {
                let waiting = Waiting { origin, accepted_ns, write: *write };
                if let Some(waiting) = self.enter(waiting) {
                    self.finish(waiting, Err(Refusal::unavailable()), now);
                }
                return;
            }
            state::Outcome::Call(asked) => {
                let (call, then) = *asked;
                return self.call(origin, accepted_ns, (call, then), now);
            }
            state::Outcome::Await(talk) => What::Again(*talk),
            state::Outcome::Hold(told) => What::Turn(*told),
        };
        self.proposals.enter(origin, accepted_ns, what, now.unix_ms);
        self.announce(accepted_ns);
    }

    /// Has a write wait for the store. Gives it back where there is none, or no room.
    fn enter(&mut self, waiting: Waiting) -> Option<Waiting> {
        match &self.store {
            Some(store) if store.health().is_ok() => self.ledger.enter(waiting),
            _ => Some(waiting),
        }
    }

    fn on_stored(&mut self, results: Vec<WriteResult>, now: Moment) {
        for (waiting, result) in self.ledger.settle(results) {
            self.finish(waiting, result, now);
        }
    }

    /// Tells everyone concerned what came of a write.
    fn finish(&mut self, waiting: Waiting, result: WriteResult, now: Moment) {
        let Waiting { origin, accepted_ns, write } = waiting;
        if matches!(write, Write::Posted(_)) && result.is_err() {
            self.next_posted_ms = now.unix_ms + limits::STORE_RETRY_MS_MAX;
        }
        self.state.ticket = self.proposals.next();
        let outcome = self.state.after_write(write, result);
        self.settle(origin, accepted_ns, outcome, now);
    }

    fn reply(&mut self, origin: Origin, answer: Answer) {
        if let Answer::Views(views) = &answer {
            // Whoever asks for invented names must not have us keep them.
            let seen = views.iter().filter(|view| view.revision > 0);
            seen.for_each(|view| self.publisher.show(view));
        }
        let (shard, parcel) = match origin {
            Origin::Conn(conn) => (conn.shard, Parcel::Answer(conn, answer)),
            Origin::Http(shard, reply) => (shard, Parcel::HttpAnswer(reply, answer)),
            Origin::Program(reply) => {
                // Whoever asked may have stopped waiting.
                let _ = reply.send(answer);
                return;
            }
            Origin::Shard(_) | Origin::Server => {
                if let Answer::Told(told) = answer
                    && let Told::Refused(refusal) = *told
                {
                    tracing::debug!(%refusal, "an order that nobody waits for was refused");
                }
                return;
            }
        };
        self.send(usize::from(shard.0), parcel);
    }

    fn send(&mut self, shard: usize, parcel: Parcel) {
        self.to_ring[shard] = true;
        // Fails only when the shard has stopped, and its connections with it.
        let _ = self.shards[shard].push_waiting(parcel);
    }

    /// Takes back the views that are out of date, frames each announcement once and sends it to the
    /// shards that follow its service.
    fn announce(&mut self, accepted_ns: u64) {
        self.publisher.count(self.state.registry.counts().0);
        self.publisher.set_edition(self.state.registry.edition());
        self.send_messages(accepted_ns);
        self.state.registry.announce_contact_change(self.followers.services());
        for service in self.state.registry.take_forgotten() {
            self.publisher.take_back(&service);
        }
        for announcement in self.state.take_announcements() {
            self.publisher.take_back(&announcement.service);
            if self.state.is_watched {
                // Fails only where the last listener has just gone.
                let _ = self.events.send(DomainEvent::ServiceChanged {
                    service: announcement.service.clone(),
                    revision: announcement.revision,
                    degraded: announcement.degraded,
                });
            }
            let following = self.followers.shards(&announcement.service);
            if following.is_empty() {
                continue;
            }
            if announcement.begins {
                let event = self.frame_beginning(&announcement, accepted_ns);
                for shard in following.iter() {
                    self.send(shard, Parcel::Event(event.clone()));
                }
                if announcement.changes.is_empty() {
                    continue;
                }
            }
            self.stats.control.events.add(1);
            let event = self.frame(announcement, accepted_ns);
            for shard in following.iter() {
                self.send(shard, Parcel::Event(event.clone()));
            }
        }
    }

    /// Sends what people are told to the shards where it concerns someone.
    fn send_messages(&mut self, accepted_ns: u64) {
        for outgoing in self.state.take_outgoing() {
            match outgoing {
                Outgoing::Message { topic, shards, frame, aim } => {
                    self.stats.control.events.add(1);
                    let aim = (!aim.is_everyone()).then(|| Arc::new(aim));
                    let event = Event { topic, frame, accepted_ns, aim };
                    match shards {
                        Some(shards) => shards
                            .iter()
                            .for_each(|shard| self.send(shard, Parcel::Event(event.clone()))),
                        None => (0..self.shards.len())
                            .for_each(|shard| self.send(shard, Parcel::Event(event.clone()))),
                    }
                }
                Outgoing::Dissolve { channel, shards, frame } => {
                    let topic = Topic::Channel(channel);
                    let event = Event { topic, frame, accepted_ns, aim: None };
                    for shard in shards.iter() {
                        self.send(shard, Parcel::Dissolve(event.clone()));
                    }
                }
                Outgoing::Enter(conn) => {
                    self.send(usize::from(conn.shard.0), Parcel::Enter(conn));
                }
                Outgoing::Close(conn, reason) => {
                    self.send(usize::from(conn.shard.0), Parcel::Close(conn, reason));
                }
                Outgoing::Subscription(conn, told) => {
                    self.send(usize::from(conn.shard.0), Parcel::Subscription(conn, told));
                }
                Outgoing::Answer(number, told) => self.answer_in_turn(number, *told),
                Outgoing::PingAll => {
                    (0..self.shards.len()).for_each(|shard| self.send(shard, Parcel::PingAll));
                }
            }
        }
        for event in self.state.take_events() {
            let _ = self.events.send(event);
        }
    }

    /// An empty snapshot: where the service begins.
    fn frame_beginning(&self, announcement: &Announcement, accepted_ns: u64) -> Event {
        let at = Position {
            service: &announcement.service,
            epoch: self.state.registry.epoch(),
            revision: announcement.from,
            degraded: announcement.degraded,
        };
        let frame = answer::service_snapshot(at, InstanceList::empty()).joined();
        let topic = Topic::Service(announcement.service.clone());
        Event { topic, frame, accepted_ns, aim: None }
    }

    fn frame(&self, announcement: Announcement, accepted_ns: u64) -> Event {
        let at = Position {
            service: &announcement.service,
            epoch: self.state.registry.epoch(),
            revision: announcement.revision,
            degraded: announcement.degraded,
        };
        let frame = service_change(at, announcement.from, announcement.changes.iter());
        Event { topic: Topic::Service(announcement.service), frame, accepted_ns, aim: None }
    }

    /// Gives the store something to do while it is idle: the registry's changes twice a second,
    /// else all writes that wait, as one transaction.
    fn commit(&mut self, now: Moment) {
        if self.store.is_none() || self.cluster.is_some() {
            // Nobody keeps it, or the log of all nodes does.
            self.state.registry.discard_changes();
        }
        let Some(store) = &self.store else {
            return drop(self.state.take_newly_known(now));
        };
        let health = store.health();
        let stats = &self.stats.control;
        stats.store_healthy.set(u64::from(health.is_ok()));
        stats.store_set_aside.set(health.set_aside_total());
        if !health.is_ok() {
            // Better a word at once than a wait for nobody knows how long.
            for waiting in self.ledger.give_up() {
                self.finish(waiting, Err(Refusal::unavailable()), now);
            }
        } else if !self.ledger.is_waiting()
            && let Some(write) = self.state.take_newly_known(now)
        {
            // Nobody waits for it, so there is always room for it.
            let waiting = Waiting { origin: Origin::Server, accepted_ns: now.ns, write };
            let _ = self.ledger.enter(waiting);
        }
        self.write_posted(now);
        let Some(store) = &self.store else { return };
        if !store.is_idle() {
            return;
        }
        self.saver.settle(store, &mut self.state.registry, now.unix_ms);
        // Long sets and writes take turns.
        if self.saver.is_due(&self.state.registry, now.unix_ms)
            && !(self.saver.is_continued() && self.ledger.has_next())
        {
            self.saver.commit(store, &mut self.state.registry, now.unix_ms);
            self.stats.control.commits.add(1);
        } else if let Some(batch) = self.ledger.dispatch() {
            self.saver.give_way();
            self.stats.control.commits.add(1);
            self.stats.control.writes.add(batch.len() as u64);
            store.execute(batch);
        }
    }

    /// Writes everything and marks the store as complete. The last thing control does, by
    /// `deadline_ns` of the clock: what the store does not take by then is named in the log.
    #[allow(clippy::disallowed_methods, reason = "the last thing that its thread does")]
    pub fn stop(mut self, clock: crate::clock::Clock, deadline_ns: u64) {
        if let Some(store) = &self.store {
            store.hurry();
        }
        self.saver.hurry();
        let left = || {
            let now_ns = clock.now().ns;
            (now_ns < deadline_ns).then(|| Duration::from_nanos(deadline_ns - now_ns))
        };
        // Orders that were accepted before the doors closed still count.
        loop {
            let has_more = self.turn(clock.now()).has_more;
            if !has_more && (self.store.is_none() || self.is_all_stored()) {
                break;
            }
            if left().is_none() || (!has_more && self.is_storing_in_vain()) {
                break;
            }
            if !has_more {
                // The store answers through the mailbox.
                std::thread::park_timeout(limits::STOP_LOOK);
            }
        }
        let is_written = self.is_all_stored() || self.name_the_lost() == 0;
        // Nobody waits for room in a mailbox that is not read any more.
        let Control { mailbox, cluster, store, mut state, .. } = self;
        drop(mailbox);
        // The others are told that this node goes before its store is closed.
        drop(cluster);
        // Without a close the mark stays that says that something is missing.
        if let Some(store) = store.filter(|_| is_written) {
            // Nothing has changed since: it says only where the registry stands.
            let last = state.registry.take_delta(SetBound::NONE);
            if !store.close_within(last, left().unwrap_or_default()) {
                tracing::error!(
                    "the database could not be marked as complete: every change is in it, and the \
                     next start begins under a new epoch"
                );
            }
        }
    }

    /// Whether there is nothing left for the store.
    fn is_all_stored(&self) -> bool {
        !self.ledger.is_waiting()
            && self.state.people.newly_known_is_empty()
            && !self.saver.is_busy()
            && !self.state.registry.is_dirty()
    }

    /// Whether it is of no use to go on: the store has refused often enough since the stop began.
    fn is_storing_in_vain(&self) -> bool {
        let is_ill = self.store.as_ref().is_some_and(|store| !store.health().is_ok());
        let has_sets = self.saver.is_busy() || self.state.registry.is_dirty();
        is_ill && (!has_sets || self.saver.failures_since_hurry() >= STORE_CLOSE_ATTEMPTS_MAX)
    }

    /// Says in the log what the store did not take. Returns how many rows of the registry that is.
    fn name_the_lost(&mut self) -> usize {
        self.saver.put_back(&mut self.state.registry);
        let lost = self.state.registry.take_delta(SetBound::NONE);
        let shown = |(table, key): (&'static str, &str)| {
            format!("{table} {}", key.replace('\u{1f}', "/").escape_debug())
        };
        let names: Vec<String> =
            lost.keys().take(limits::STORE_LOST_NAMES_MAX).map(shown).collect();
        tracing::error!(
            services = lost.services.len(),
            instances = lost.upserts.len() + lost.deletes.len(),
            pull_outs = lost.pull_outs.len() + lost.pull_ins.len(),
            unanswered_writes = self.ledger.len(),
            users_seen = self.state.people.newly_known_len(),
            first = names.join(", "),
            "not stored before the end: the database does not take it"
        );
        lost.rows()
    }

    fn publish_gauges(&self) {
        let (services, instances) = self.state.registry.counts();
        let totals = self.state.registry.totals();
        let stats = &self.stats.control;
        stats.services.set(services as u64);
        stats.instances.set(instances as u64);
        stats.expired.set(totals.expired);
        stats.renewals.set(totals.renewals);
        stats.changes.set(totals.changes);
        stats.degraded_services.set(totals.degraded_services as u64);
        stats.services_forgotten.set(totals.forgotten);
        stats.channels_forgotten.set(self.state.channels.forgotten());
        stats.service_history_bytes.set(self.state.registry.history_bytes() as u64);
        stats.instances_bytes.set(self.state.registry.instances_bytes() as u64);
        stats.users_online.set(self.state.people.users_online() as u64);
        self.stats.cluster.users_online.set(self.state.users_anywhere() as u64);
        self.stats.cluster.healed.set(self.state.healed_total);
        self.stats.cluster.unwritten.set(self.state.messages_unwritten() as u64);
        stats.users_known.set(self.state.people.users_known() as u64);
        stats.channels.set(self.state.channels.len() as u64);
        stats.history_bytes.set(self.state.channels.history_bytes() as u64);
        if self.cluster.is_some() {
            let (replica, stats) = (self.state.registry.log(), &self.stats.cluster);
            stats.sequence.set(replica.sequence());
            stats.leases_owned.set(replica.leases_owned() as u64);
            // In this order: nobody shall take the one for true before the other is known.
            stats.cut_off.set(u64::from(replica.is_cut_off()));
            stats.caught_up.set(u64::from(replica.is_loaded()));
        }
    }
}

/// Says what became of an account, here or beside the server.
fn note_account(change: &AccountChange, was_disabled: bool, is_less: bool) {
    let user = change.user_id.as_str();
    let what = match (change.standing.is_disabled, was_disabled) {
        _ if change.is_removed && is_less => "account removed",
        (true, false) => "account disabled",
        (false, true) => "account enabled",
        _ if is_less => "the user's tokens are ended",
        _ => return,
    };
    tracing::info!(target: "fanfare::accounts", user, "{what}");
}
