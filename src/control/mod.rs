//! Control: what owns the state. One thread at a time runs it: see `mailbox::combiner`.
//!
//! ```text
//! mailbox --> command --> state --> effects --> frames ------------------> the shards that follow
//!                           ^               |-> replies -----------------> the callers
//!                           |               |-> writes ------------------> commit queue --> store
//!                           |               \-> entries, requests, waits --> pending table, backplane
//!                           \--- result, wake or time-out of what waits ----------------/
//! ```
//!
//! # Promises
//!
//! * Effects are carried out in the order in which the state decided them. So what a command changed is
//!   on its way to every shard before its reply is: who hears the reply finds the change done. A
//!   subscriber's reply stands in its shard's mailbox exactly between the events it covers and those
//!   that follow it.
//! * An event is encoded and framed once, and only where a shard follows the service.
//! * A view that the shards can read is invalidated before anything that its service's change causes
//!   is sent; see `mailbox::view_cache`.
//! * What has to be on disk first is answered and announced after the store has said that it is.
//!   All that gathers while the store is busy goes as one transaction.
//! * The timekeeper's turn carries out at most [`limits::COMMANDS_PER_TURN_MAX`] commands before leases and the
//!   store get their time, a shard's at most [`limits::ENGINE_SLICE_COMMANDS`].
//! * On the thread of a shard nothing waits, and no command that may take long is carried out.
//!
//! # Not here
//!
//! No decision about the registry: `state` makes them all. No socket, no clock.
//!
//! Imports `auth`, `clock`, `cluster`, `id`, `limits`, `mailbox`, `state`, `stats`, `store`, `storm` and `wire`.
//! Imported by `server`.

mod audit_queue;
mod cluster;
mod commit_queue;
mod effects;
mod followers;
mod pending;
mod saver;

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::broadcast;

use crate::auth::Revoked;
use crate::clock::{Clock, Moment};
use crate::cluster::Cluster;
use crate::id::{ConnId, ShardId, UserId};
use crate::limits::{self, STORE_CLOSE_ATTEMPTS_MAX};
use crate::mailbox::combiner::Engine;
pub use crate::mailbox::combiner::Outcome;
use crate::mailbox::to_control::{ControlMessage, Task};
use crate::mailbox::to_shard::ShardMessage;
use crate::mailbox::view_cache::{ViewCache, ViewCacheWriter};
use crate::mailbox::{MailboxReceiver, MailboxSender};
use crate::state::State;
use crate::state::command::{Command, MessagingCommand, RegistryCommand};
use crate::state::durable::{AccountChange, WriteResult};
use crate::state::effect::Effect;
use crate::state::event::DomainEvent;
use crate::state::messaging::commands::{ApplyAccounts, EndTokens};
use crate::state::registry::unsaved::{Row, SetBound};
use crate::stats::Stats;
use crate::store::Store;
use crate::storm::Storm;
use crate::wire::refusal::Refusal;
use audit_queue::AuditQueue;
pub use audit_queue::AuditSettings;
use commit_queue::{CommitQueue, Waiting};
use followers::Followers;
use pending::{Held, PendingTable, Ready, Step};
use saver::Saver;

/// The control plane.
#[derive(Debug)]
pub struct Control {
    state: State,
    mailbox: MailboxReceiver<ControlMessage>,
    shards: Vec<MailboxSender<ShardMessage>>,
    followers: Followers,
    view_cache: ViewCacheWriter,
    stats: Arc<Stats>,
    store: Option<Store>,
    saver: Saver,
    audit: AuditQueue,
    commit_queue: CommitQueue,
    /// None where there is one node.
    cluster: Option<Cluster>,
    node: String,
    /// The nodes that were alive when they were last heard of.
    alive: Vec<String>,
    pending: PendingTable,
    /// The effects of the last call of the state; empty between two calls.
    effects: Vec<Effect>,
    /// The connection whose command is being carried out, until its reply is sent.
    unanswered: Option<ConnId>,
    revoked: Arc<Revoked>,
    events: broadcast::Sender<DomainEvent>,
    /// Shards that have got something this turn.
    to_ring: Vec<bool>,
    storm: Storm,
    /// The shard on whose thread this turn runs; none = the timekeeper's.
    on: Option<ShardId>,
    /// Entries of the commands that this turn has carried out.
    entries_taken: usize,
    /// Set aside for the timekeeper: what came on the thread of a shard and may take long.
    set_aside: VecDeque<ControlMessage>,
    /// Connections whose next command is one of those. It waits with the commands behind it.
    set_aside_conns: VecDeque<ConnId>,
}

impl Engine for Control {
    fn turn(&mut self, now: Moment) -> Outcome {
        Control::turn(self, now)
    }

    fn turn_on(&mut self, shard: ShardId, now: Moment) -> Outcome {
        Control::turn_on(self, shard, now)
    }

    fn stop(self: Box<Self>, clock: Clock, deadline_ns: u64) {
        Control::stop(*self, clock, deadline_ns);
    }
}

impl Control {
    /// A control plane over `state`. Without a store nothing outlives the process.
    pub fn new(
        state: State,
        mailbox: MailboxReceiver<ControlMessage>,
        shards: Vec<MailboxSender<ShardMessage>>,
        view_cache: Arc<ViewCache>,
        stats: Arc<Stats>,
        store: Option<Store>,
    ) -> Control {
        let (events, _) = broadcast::channel(limits::LISTENER_MESSAGES_MAX);
        let to_ring = vec![false; shards.len()];
        let view_cache = ViewCacheWriter::new(view_cache);
        view_cache.set_listing_version(state.registry.listing_version());
        Control {
            state,
            mailbox,
            shards,
            followers: Followers::default(),
            view_cache,
            stats,
            store,
            saver: Saver::new(SetBound { rows: usize::MAX, bytes: usize::MAX }),
            audit: AuditQueue::new("", AuditSettings { age_ms_max: u64::MAX, bytes_max: u64::MAX }),
            commit_queue: CommitQueue::default(),
            cluster: None,
            node: String::new(),
            alive: Vec::new(),
            pending: PendingTable::default(),
            effects: Vec::new(),
            unanswered: None,
            revoked: Arc::default(),
            events,
            to_ring,
            storm: Storm::default(),
            on: None,
            entries_taken: 0,
            set_aside: VecDeque::new(),
            set_aside_conns: VecDeque::new(),
        }
    }

    /// Bounds what goes to the store at once.
    #[must_use]
    pub fn with_set_bound(mut self, bound: SetBound) -> Control {
        self.saver = Saver::new(bound);
        self
    }

    /// Keeps an audit log in the store, if there is one.
    #[must_use]
    pub fn with_audit(mut self, node: &str, settings: AuditSettings) -> Control {
        if self.store.is_some() {
            self.state = self.state.with_audit();
            self.audit = AuditQueue::new(node, settings);
        }
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

    /// The state, for checks at quiet moments.
    #[cfg(any(test, feature = "internals"))]
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes a whole turn: on the timekeeper's thread, which serves no sockets.
    pub fn turn(&mut self, now: Moment) -> Outcome {
        self.take_set_aside(now);
        self.take_waiting(limits::COMMANDS_PER_TURN_MAX, usize::MAX, now);
        self.storm.let_time_pass(now.unix_ms);
        if self.state.next_tick_ms().is_some_and(|at_ms| at_ms <= now.unix_ms) {
            self.state.tick(now);
            self.settle(now.ns, now);
        }
        self.end_turn(now);
        Outcome { has_more: !self.mailbox.is_empty(), wake_at_ms: self.wake_at_ms() }
    }

    /// Carries out a slice of the commands that wait on the thread of a shard. Whatever may take long is left to
    /// the timekeeper, which is then due at once.
    pub fn turn_on(&mut self, shard: ShardId, now: Moment) -> Outcome {
        // A shard's thread cannot wait for room in a mailbox: it may be that shard's own.
        let has_room = self.set_aside.len() < limits::COMMANDS_PER_TURN_MAX
            && !self.shards.iter().any(MailboxSender::is_crowded);
        if has_room {
            self.on = Some(shard);
            self.take_waiting(limits::ENGINE_SLICE_COMMANDS, limits::ENGINE_SLICE_ENTRIES, now);
            self.end_turn(now);
            self.on = None;
        }
        let is_due = !has_room || !self.set_aside.is_empty() || !self.set_aside_conns.is_empty();
        let wake_at_ms = if is_due { Some(0) } else { self.wake_at_ms() };
        Outcome { has_more: !self.mailbox.is_empty(), wake_at_ms }
    }

    /// Takes messages from the mailbox, up to a number, and until their commands had so many entries.
    fn take_waiting(&mut self, messages_max: usize, entries_max: usize, now: Moment) {
        let connections = self.state.people.connections();
        self.entries_taken = 0;
        for _ in 0..messages_max {
            if self.entries_taken >= entries_max {
                break;
            }
            let Some(message) = self.mailbox.take() else { break };
            self.take(message, now);
        }
        let ended = connections.saturating_sub(self.state.people.connections());
        self.storm.note_ends(ended, now.unix_ms);
    }

    /// Takes what was set aside on the threads of shards.
    fn take_set_aside(&mut self, now: Moment) {
        for message in std::mem::take(&mut self.set_aside) {
            self.take(message, now);
        }
        for conn in std::mem::take(&mut self.set_aside_conns) {
            self.pending.release(conn);
        }
        self.go_on(now);
    }

    /// What every turn ends with.
    fn end_turn(&mut self, now: Moment) {
        self.append_by_time(now);
        self.commit(now);
        for (shard, ring) in self.shards.iter().zip(&mut self.to_ring) {
            if std::mem::take(ring) {
                shard.ring();
            }
        }
        self.publish_gauges();
    }

    fn wake_at_ms(&self) -> Option<u64> {
        // A store that is busy says when it is done.
        let is_idle = self.store.as_ref().is_some_and(Store::is_idle);
        let has_changes = self.state.registry.is_dirty() || !self.audit.is_empty();
        let commit = (is_idle && has_changes).then_some(self.saver.next_ms());
        let late = self.pending.next_late_ms();
        let by_time = [self.state.next_tick_ms(), commit, late, self.storm.due_ms()];
        by_time.into_iter().flatten().min()
    }

    fn take(&mut self, message: ControlMessage, now: Moment) {
        if self.on.is_some() && matches!(message.task, Task::Stored(_) | Task::Cluster(_)) {
            return self.set_aside.push_back(message);
        }
        let ControlMessage { accepted_ns, task } = message;
        match task {
            Task::Command(command) => {
                self.start(Held { accepted_ns, command, actor: None }, now);
                self.go_on(now);
            }
            Task::CommandBy(actor, command) => {
                self.start(Held { accepted_ns, command, actor: Some(actor) }, now);
                self.go_on(now);
            }
            Task::Unfollow(shard, dialect, service) => {
                if self.followers.remove(&service, shard, dialect) {
                    self.state.registry.set_followed(&service, false);
                }
            }
            Task::UnfollowAll(shard, dialect) => self.followers.remove_from_all(shard, dialect),
            Task::Probe(conns) => {
                for conn in conns {
                    self.send(usize::from(conn.shard.0), ShardMessage::Probe(conn));
                }
            }
            Task::Stored(results) => self.on_stored(results, now),
            Task::Cluster(news) => self.on_news(news, now),
        }
    }

    /// Carries out a command, unless one of its connection waits.
    fn start(&mut self, held: Held, now: Moment) {
        let conn = held.command.conn();
        let Some(Held { accepted_ns, command, actor }) = (match conn {
            Some(conn) => self.pending.hold(conn, held),
            None => Some(held),
        }) else {
            return;
        };
        if self.on.is_some() && self.state.is_heavy(&command) {
            return self.set_command_aside(conn, Held { accepted_ns, command, actor });
        }
        self.entries_taken += command.entries();
        match &command {
            Command::Registry(RegistryCommand::Subscribe(subscribe, _)) => {
                if let Some(conn) = conn
                    && self.followers.add(&subscribe.service, conn.shard, subscribe.dialect)
                {
                    self.state.registry.set_followed(&subscribe.service, true);
                }
            }
            Command::Registry(RegistryCommand::SubscribeAll(all, _)) => {
                if let Some(conn) = conn {
                    self.followers.add_to_all(conn.shard, all.0);
                }
            }
            Command::Registry(_) => {}
            Command::Messaging(command) => self.revoke(command, now),
        }
        self.stats.control.orders.add(1);
        self.unanswered = conn;
        self.state.apply_by(actor, command, now);
        self.carry_out(accepted_ns, now);
        if let Some(conn) = self.unanswered.take() {
            self.pending.begin_hold(conn);
        }
    }

    /// Leaves a command to the timekeeper. Later commands of its connection wait behind it.
    fn set_command_aside(&mut self, conn: Option<ConnId>, held: Held) {
        let Some(conn) = conn else {
            let Held { accepted_ns, command, actor } = held;
            let task = match actor {
                Some(actor) => Task::CommandBy(actor, command),
                None => Task::Command(command),
            };
            return self.set_aside.push_back(ControlMessage { accepted_ns, task });
        };
        self.pending.begin_hold(conn);
        self.pending.hold(conn, held);
        self.set_aside_conns.push_back(conn);
    }

    /// Carries out the commands that waited behind one of their connection, once that is answered. The
    /// first of them that has to wait holds the others again.
    fn go_on(&mut self, now: Moment) {
        while let Some(released) = self.pending.take_released() {
            for held in released {
                self.start(held, now);
            }
        }
    }

    /// Carries out what the state has decided, and whatever can go on with that.
    fn settle(&mut self, accepted_ns: u64, now: Moment) {
        self.carry_out(accepted_ns, now);
        self.go_on(now);
    }

    fn carry_out(&mut self, accepted_ns: u64, now: Moment) {
        self.carry_out_effects(accepted_ns, now);
        while let Some(Ready { accepted_ns, step }) = self.pending.take_ready() {
            match step {
                Step::Lost(lost) => self.state.on_append_lost(lost.entry.as_ref(), lost.reply, now),
                Step::Response(rest, response) => self.state.resume(rest, response, now),
                Step::Stored(rest, result) => self.state.resume(rest, result, now),
                Step::Waited(rest, how) => self.state.resume(rest, how, now),
            }
            self.carry_out_effects(accepted_ns, now);
        }
    }

    /// Has tokens count no more, and the shards close the sockets that were opened with them.
    fn revoke(&mut self, command: &MessagingCommand, now: Moment) {
        // The table first: a socket that opens meanwhile is judged by it, or looked at after it.
        let mut to_check = Vec::new();
        match command {
            MessagingCommand::ApplyAccounts(ApplyAccounts(changes), _) => {
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
            MessagingCommand::EndTokens(EndTokens(tokens), _) => {
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
            self.send_to_all(|| ShardMessage::CheckTokens(user_id.clone()));
        }
    }

    fn on_stored(&mut self, results: Vec<WriteResult>, now: Moment) {
        for (waiting, result) in self.commit_queue.settle(results) {
            self.finish(waiting, result);
        }
        self.settle(now.ns, now);
    }

    /// Has a command go on with what came of its write.
    fn finish(&mut self, waiting: Waiting, result: WriteResult) {
        let Waiting { accepted_ns, continuation } = waiting;
        self.pending.make_ready(accepted_ns, Step::Stored(continuation, result));
    }

    /// Gives the store something to do while it is idle: the registry's changes twice a second,
    /// else all writes that wait, as one transaction.
    fn commit(&mut self, now: Moment) {
        if self.store.is_none() || self.cluster.is_some() {
            // Nobody keeps it, or the log of all nodes does.
            self.state.registry.discard_changes();
        }
        let Some(store) = &self.store else {
            return self.state.forget_newly_known();
        };
        let health = store.health();
        let stats = &self.stats.control;
        stats.store_healthy.set(u64::from(health.is_ok()));
        stats.store_set_aside.set(health.set_aside_total());
        if health.is_ok() {
            // Nobody waits for these.
            if !self.commit_queue.is_waiting() {
                self.state.store_newly_known(now);
            }
            self.state.store_journal(now);
        } else {
            // Better a word at once than a wait for nobody knows how long.
            for waiting in self.commit_queue.give_up() {
                self.finish(waiting, Err(Refusal::unavailable()));
            }
        }
        self.settle(now.ns, now);
        let Some(store) = &self.store else { return };
        if !store.is_idle() {
            return;
        }
        self.saver.settle(store, &mut self.state.registry, &mut self.audit, now.unix_ms);
        // Long sets and writes take turns. A set is made by the timekeeper, which is due.
        if self.on.is_none()
            && self.saver.is_due(&self.state.registry, &self.audit, now.unix_ms)
            && !(self.saver.is_continued() && self.commit_queue.has_next())
        {
            self.saver.commit(store, &mut self.state.registry, &mut self.audit, now);
            self.stats.control.commits.add(1);
        } else if let Some(batch) = self.commit_queue.dispatch() {
            self.saver.give_way();
            self.stats.control.commits.add(1);
            self.stats.control.writes.add(batch.len() as u64);
            store.execute(batch);
        }
    }

    /// Writes everything and marks the store as complete. The last thing control does, by
    /// `deadline_ns` of the clock: what the store does not take by then is named in the log.
    #[allow(clippy::disallowed_methods, reason = "the last thing that its thread does")]
    pub fn stop(mut self, clock: Clock, deadline_ns: u64) {
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
        !self.commit_queue.is_waiting()
            && self.state.people.newly_known_is_empty()
            && !self.saver.is_busy()
            && !self.state.registry.is_dirty()
            && self.audit.is_empty()
    }

    /// Whether it is of no use to go on: the store has refused often enough since the stop began.
    fn is_storing_in_vain(&self) -> bool {
        let is_ill = self.store.as_ref().is_some_and(|store| !store.health().is_ok());
        let has_sets =
            self.saver.is_busy() || self.state.registry.is_dirty() || !self.audit.is_empty();
        is_ill && (!has_sets || self.saver.failures_since_hurry() >= STORE_CLOSE_ATTEMPTS_MAX)
    }

    /// Says in the log what the store did not take. Returns how many rows of the registry that is.
    fn name_the_lost(&mut self) -> usize {
        self.saver.put_back(&mut self.state.registry, &mut self.audit);
        let lost = self.state.registry.take_delta(SetBound::NONE);
        let shown = |row: &Row| {
            let (table, key) = row.key();
            format!("{table} {}", key.replace('\u{1f}', "/").escape_debug())
        };
        let first = lost.rows.iter().take(limits::STORE_LOST_NAMES_MAX).map(shown);
        let count = |table: &str| lost.rows.iter().filter(|row| row.key().0 == table).count();
        tracing::error!(
            services = count("service"),
            instances = count("instance"),
            pull_outs = count("pull_out"),
            audit_events = self.audit.len(),
            unanswered_writes = self.commit_queue.len(),
            users_seen = self.state.people.newly_known_len(),
            first = first.collect::<Vec<_>>().join(", "),
            "not stored before the end: the database does not take it"
        );
        lost.rows.len()
    }

    fn publish_gauges(&self) {
        let (services, instances) = self.state.registry.counts();
        let totals = self.state.registry.totals();
        let stats = &self.stats.control;
        stats.set_aside.set((self.set_aside.len() + self.set_aside_conns.len()) as u64);
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
            stats.sequence.set(replica.sequence);
            stats.leases_owned.set(replica.leases_owned() as u64);
            // In this order: nobody shall take the one for true before the other is known.
            stats.cut_off.set(u64::from(replica.is_cut_off));
            stats.caught_up.set(u64::from(replica.is_loaded));
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
