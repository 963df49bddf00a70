//! Control: the one thread that owns the state.
//!
//! ```text
//! mailbox --> order --> state --> announcements --> one frame --> the shards that follow
//!                         |   \-> answer -----------------------> the shard that asked
//!                         \-----> changes, twice a second ------> store
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
//! * One turn carries out at most [`limits::COMMANDS_PER_TURN_MAX`] commands before leases and the
//!   store get their time.
//!
//! # Not here
//!
//! No decision about the registry: `state` makes them all. No socket, no clock.
//!
//! Imports `mailbox`, `state`, `stats`, `store` and `wire`. Imported by `server`.

mod followers;

use std::sync::Arc;

use crate::clock::Moment;
use crate::limits;
use crate::mailbox::published::{Published, Publisher};
use crate::mailbox::to_control::{Command, Origin, Task};
use crate::mailbox::to_shard::{Event, Parcel};
use crate::mailbox::{Inlet, Outlet};
use crate::state::State;
use crate::state::order::{Answer, Order};
use crate::state::registry::Announcement;
use crate::stats::Stats;
use crate::store::Store;
use crate::wire::event::{Position, service_change};
use followers::Followers;

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
    next_commit_ms: u64,
    /// Shards that have got something this turn.
    to_ring: Vec<bool>,
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
        let to_ring = vec![false; shards.len()];
        Control {
            state,
            mailbox,
            shards,
            followers: Followers::default(),
            publisher: Publisher::new(published),
            stats,
            store,
            next_commit_ms: 0,
            to_ring,
        }
    }

    /// The mailbox, for the thread that rests on it.
    pub fn mailbox(&self) -> &Inlet<Command> {
        &self.mailbox
    }

    /// The state, for checks at quiet moments.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Takes one turn.
    pub fn turn(&mut self, now: Moment) -> Outcome {
        for _ in 0..limits::COMMANDS_PER_TURN_MAX {
            let Some(command) = self.mailbox.take() else { break };
            self.carry_out(command, now);
        }
        if self.state.registry.next_tick_ms().is_some_and(|at_ms| at_ms <= now.unix_ms) {
            self.state.tick(now);
            self.announce(now.ns);
        }
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
        let commit = self.state.registry.is_dirty().then_some(self.next_commit_ms);
        [self.state.registry.next_tick_ms(), commit].into_iter().flatten().min()
    }

    fn carry_out(&mut self, command: Command, now: Moment) {
        let Command { origin, accepted_ns, task } = command;
        let shard = origin.shard();
        let order = match task {
            Task::Order(order) => order,
            Task::Unfollow(service) => return self.followers.remove(&service, shard),
            Task::UnfollowAll => return self.followers.remove_from_all(shard),
        };
        if let Origin::Conn(_) = origin {
            match &order {
                Order::Subscribe { service, .. } => self.followers.add(service, shard),
                Order::SubscribeAll => self.followers.add_to_all(shard),
                _ => {}
            }
        }
        self.stats.control.orders.add(1);
        let answer = self.state.apply(order, now);
        self.announce(accepted_ns);
        self.reply(origin, answer);
    }

    fn reply(&mut self, origin: Origin, answer: Answer) {
        let shard = usize::from(origin.shard().0);
        if let Answer::Views(views) = &answer {
            views.iter().flatten().for_each(|view| self.publisher.show(view));
        }
        let parcel = match origin {
            Origin::Conn(conn) => Parcel::Answer(conn, answer),
            Origin::Http(_, reply) => Parcel::HttpAnswer(reply, answer),
            Origin::Shard(_) => return,
        };
        self.send(shard, parcel);
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
        for announcement in self.state.take_announcements() {
            self.publisher.take_back(&announcement.service);
            let following = self.followers.shards(&announcement.service);
            if following.is_empty() {
                continue;
            }
            self.stats.control.events.add(1);
            let event = self.frame(announcement, accepted_ns);
            for shard in following.iter() {
                self.send(shard, Parcel::Event(event.clone()));
            }
        }
    }

    fn frame(&self, announcement: Announcement, accepted_ns: u64) -> Event {
        let at = Position {
            service: &announcement.service,
            epoch: self.state.registry.epoch(),
            revision: announcement.revision,
            degraded: announcement.degraded,
        };
        let frame = service_change(at, announcement.from, announcement.changes.iter());
        Event { service: announcement.service, frame, accepted_ns }
    }

    /// Hands what changed to the store, twice a second and never while it is busy.
    fn commit(&mut self, now: Moment) {
        let Some(store) = &self.store else { return };
        if now.unix_ms < self.next_commit_ms || !self.state.registry.is_dirty() {
            return;
        }
        self.next_commit_ms = now.unix_ms + limits::STORE_FLUSH_INTERVAL_MS;
        if store.is_idle() {
            store.commit(self.state.registry.take_delta());
            self.stats.control.commits.add(1);
        }
        self.stats.control.store_healthy.set(u64::from(store.health().is_ok()));
    }

    /// Writes everything and marks the store as complete. The last thing control does.
    pub fn stop(mut self, now: Moment) {
        // Orders that were accepted before the doors closed still count.
        while self.turn(now).has_more {}
        if let Some(store) = self.store.take() {
            store.close(self.state.registry.take_delta());
        }
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
    }
}
