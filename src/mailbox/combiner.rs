//! Flat combining: a thread that has commands carries them out, with those that others put in meanwhile.
//!
//! ```text
//! shard:      push commands --> try the lock --> got it: carry out what waits, look again
//!                                            \-> held:   go on; the holder will find them
//! timekeeper: deadlines, long commands, results of the store, news of the backplane --> wait for the lock
//! ```
//!
//! A shard wakes no other thread for a command and its reply, and what 64 requests of one turn publish leaves in
//! one write a socket. No shard waits for another: one that does not get the lock has nothing to do.
//!
//! Source: Hendler, Incze, Shavit, Tzafrir, "Flat Combining and the Synchronization-Parallelism Tradeoff",
//! SPAA 2010.
//!
//! # Promises
//!
//! * No command is left: see `hand_over`.
//! * A shard holds the lock for [`limits::ENGINE_HOLD_US_MAX`] and one slice of commands at most. It leaves the
//!   rest, and all commands that may take long, to the timekeeper.
//! * An engine that panics is gone: all that comes after it is `unavailable`.
//!
//! Imports `clock`, `id`, `limits` and `stats`. Part of `mailbox`.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Mutex, MutexGuard};

use super::MailboxSender;
use super::hand_over::hand_over;
use super::to_control::ControlMessage;
use crate::clock::{Clock, Moment};
use crate::id::ShardId;
use crate::limits;
use crate::stats::Stats;

/// What a turn leaves to the thread that drives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Outcome {
    /// Whether there is more to do at once.
    pub has_more: bool,
    /// When there is something to do by time alone, in milliseconds since the Unix epoch.
    pub wake_at_ms: Option<u64>,
}

/// What carries out the commands.
pub trait Engine: Send {
    /// The timekeeper's turn: whatever waits, and whatever time calls for.
    fn turn(&mut self, now: Moment) -> Outcome;

    /// A slice of the commands that wait, on the thread of a shard. A command that may take long is set aside for
    /// the timekeeper, and [`Outcome::wake_at_ms`] is then now at the latest.
    fn turn_on(&mut self, shard: ShardId, now: Moment) -> Outcome;

    /// Writes what is left. The last thing that an engine does.
    fn stop(self: Box<Self>, clock: Clock, deadline_ns: u64);
}

/// What the lock guards.
struct Guarded {
    /// None where it has stopped.
    engine: Option<Box<dyn Engine>>,
    /// When the timekeeper wakes by itself, in milliseconds since the Unix epoch.
    wakes_at_ms: u64,
}

/// The engine, its lock, and its mailbox.
pub struct Combiner {
    guarded: Mutex<Guarded>,
    mailbox: MailboxSender<ControlMessage>,
    /// Whether a shard has left something to the timekeeper.
    is_due: AtomicBool,
    clock: Clock,
    stats: Arc<Stats>,
}

impl fmt::Debug for Combiner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Combiner").field("mailbox", &self.mailbox).finish_non_exhaustive()
    }
}

impl Combiner {
    /// An engine that takes its commands from the mailbox whose sending end this is.
    pub fn new(
        engine: Box<dyn Engine>,
        mailbox: MailboxSender<ControlMessage>,
        clock: Clock,
        stats: Arc<Stats>,
    ) -> Combiner {
        let guarded = Mutex::new(Guarded { engine: Some(engine), wakes_at_ms: 0 });
        Combiner { guarded, mailbox, is_due: AtomicBool::new(false), clock, stats }
    }

    /// The sending end of the engine's mailbox.
    pub(super) fn mailbox(&self) -> &MailboxSender<ControlMessage> {
        &self.mailbox
    }

    /// Carries out what waits on the thread of a shard, unless another thread does.
    pub(super) fn run_on(&self, shard: ShardId) {
        let mut since_ns = None;
        hand_over(
            || self.guarded.try_lock(),
            |guard| self.slice(guard, shard, &mut since_ns),
            || self.mailbox.depth() == 0,
        );
    }

    /// Carries out a slice. Returns whether the shard may go on.
    fn slice(
        &self,
        mut guard: MutexGuard<'_, Guarded>,
        shard: ShardId,
        since_ns: &mut Option<u64>,
    ) -> bool {
        // Read under the lock: the engine's time does not go back.
        let now = self.clock.now();
        // An engine that panics is not put back.
        let Some(mut engine) = guard.engine.take() else { return false };
        let outcome = engine.turn_on(shard, now);
        guard.engine = Some(engine);
        let is_due = outcome.wake_at_ms.is_some_and(|at_ms| at_ms < guard.wakes_at_ms);
        let end_ns = self.clock.now().ns;
        let held_us = (end_ns - *since_ns.get_or_insert(now.ns)) / 1_000;
        // Under the lock as well: counters have one writer at a time.
        self.stats.control.hold_us.record(held_us);
        self.stats.control.hold_us_peak.raise(held_us);
        drop(guard);
        let is_late = outcome.has_more && held_us >= limits::ENGINE_HOLD_US_MAX;
        if is_due || is_late {
            self.is_due.store(true, Ordering::SeqCst);
            self.mailbox.ring();
            // The timekeeper takes the rest. A shard that went on would hold the lock against it, and an engine
            // that has no room on a shard's thread would be asked again and again.
            return false;
        }
        true
    }

    /// The timekeeper's turn. Waits for the lock.
    pub fn keep_time(&self) -> Outcome {
        self.is_due.store(false, Ordering::SeqCst);
        let mut guard = self.guarded.lock();
        let now = self.clock.now();
        let Some(mut engine) = guard.engine.take() else {
            return Outcome { has_more: false, wake_at_ms: None };
        };
        let outcome = engine.turn(now);
        guard.engine = Some(engine);
        guard.wakes_at_ms = outcome.wake_at_ms.unwrap_or(u64::MAX);
        let held_us = (self.clock.now().ns - now.ns) / 1_000;
        self.stats.control.turn_us.record(held_us);
        self.stats.control.turn_us_peak.raise(held_us);
        outcome
    }

    /// Declares that the timekeeper is about to sleep. Returns false where it must not.
    pub fn rest(&self) -> bool {
        self.mailbox.may_receiver_sleep(|| !self.is_due.load(Ordering::SeqCst))
    }

    /// Declares that the timekeeper is awake, whatever woke it.
    pub fn wake(&self) {
        self.mailbox.receiver_is_awake();
    }

    /// Takes the engine out, for its end.
    pub fn take(&self) -> Option<Box<dyn Engine>> {
        self.guarded.lock().engine.take()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use super::*;
    use crate::id::Dialect;
    use crate::mailbox::to_control::Task;
    use crate::mailbox::{Bell, mailbox};

    /// An engine that carries out nothing on the thread of a shard.
    struct Reluctant(Arc<AtomicUsize>);

    impl Engine for Reluctant {
        fn turn(&mut self, _: Moment) -> Outcome {
            Outcome { has_more: false, wake_at_ms: None }
        }

        fn turn_on(&mut self, _: ShardId, _: Moment) -> Outcome {
            self.0.fetch_add(1, Ordering::Relaxed);
            Outcome { has_more: true, wake_at_ms: Some(0) }
        }

        fn stop(self: Box<Self>, _: Clock, _: u64) {}
    }

    #[test]
    fn a_shard_leaves_what_it_cannot_carry_out_to_the_timekeeper() {
        let (sender, _receiver) = mailbox(4, Bell::silent());
        let turns = Arc::<AtomicUsize>::default();
        let engine = Box::new(Reluctant(Arc::clone(&turns)));
        let stats = Arc::new(Stats::new(1));
        let combiner = Combiner::new(engine, sender.clone(), Clock::start(), stats);
        combiner.keep_time();
        let task = Task::UnfollowAll(ShardId(0), Dialect::Fanfare);
        sender.push(ControlMessage { accepted_ns: 0, task }).expect("room");
        combiner.run_on(ShardId(0));
        assert_eq!(turns.load(Ordering::Relaxed), 1, "it does not ask again");
        assert!(combiner.is_due.load(Ordering::SeqCst), "and the timekeeper is told");
    }
}
