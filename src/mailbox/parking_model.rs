//! Interleavings of senders and a receiver over [`Parking`].
//!
//! Shuttle runs the threads of a model one step at a time, on atomics of its own. Of one message
//! it plays all schedules, of several senders many. It assumes sequential consistency, which is what `parking` asks for:
//! it uses no weaker ordering. A receiver that sleeps through a message is a deadlock, which Shuttle
//! reports.

use std::sync::Arc;

use shuttle::scheduler::{DfsScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::sync::{Condvar, Mutex, atomic};
use shuttle::thread;

use parking::Parking;

#[allow(clippy::duplicate_mod, reason = "the same code over the model's atomics")]
#[path = "parking.rs"]
mod parking;

/// A mailbox reduced to what matters here: how many messages wait, the flag and the bell.
struct Mailbox {
    waiting: AtomicUsize,
    parking: Parking,
    /// Whether the bell was rung since the receiver last woke, like the token of a thread's `park`.
    /// Shuttle's own `park` also wakes without reason, which has schedules without end.
    is_rung: Mutex<bool>,
    bell: Condvar,
}

impl Mailbox {
    fn new() -> Mailbox {
        Mailbox {
            waiting: AtomicUsize::new(0),
            parking: Parking::new(),
            is_rung: Mutex::new(false),
            bell: Condvar::new(),
        }
    }

    fn send(&self) {
        self.waiting.fetch_add(1, Ordering::SeqCst);
        if self.parking.must_wake() {
            *self.is_rung.lock().expect("no panic") = true;
            self.bell.notify_one();
        }
    }

    fn sleep(&self) {
        let mut is_rung = self.is_rung.lock().expect("no panic");
        while !std::mem::take(&mut *is_rung) {
            is_rung = self.bell.wait(is_rung).expect("no panic");
        }
    }

    fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }
}

/// How a receiver goes to sleep.
type Rest = fn(&Mailbox) -> bool;

/// Plays schedules of some senders that send some messages each.
fn play(schedules: impl Scheduler + 'static, senders: usize, messages: usize, rest: Rest) {
    let model = move || {
        let mailbox = Arc::new(Mailbox::new());
        for _ in 0..senders {
            let mailbox = Arc::clone(&mailbox);
            thread::spawn(move || {
                for _ in 0..messages {
                    mailbox.send();
                }
            });
        }
        let mut missing = messages * senders;
        while missing > 0 {
            missing -= mailbox.waiting.swap(0, Ordering::SeqCst);
            if missing > 0 && rest(&mailbox) {
                mailbox.sleep();
                mailbox.parking.awake();
            }
        }
    };
    shuttle::Runner::new(schedules, shuttle::Config::default()).run(model);
}

#[test]
fn no_schedule_of_one_message_is_slept_through() {
    play(DfsScheduler::new(None, false), 1, 1, |mailbox| {
        mailbox.parking.may_sleep(|| mailbox.is_empty())
    });
}

#[test]
fn no_schedule_of_three_senders_is_slept_through() {
    let schedules = RandomScheduler::new_from_seed(1, 2_000);
    play(schedules, 3, 2, |mailbox| mailbox.parking.may_sleep(|| mailbox.is_empty()));
}

/// The model has to find the fault that the order of `may_sleep` rules out.
#[test]
#[should_panic(expected = "deadlock")]
fn looking_before_the_flag_is_set_is_found() {
    play(DfsScheduler::new(None, false), 1, 1, |mailbox| {
        let looked = mailbox.is_empty();
        mailbox.parking.may_sleep(|| looked)
    });
}
