//! Interleavings of senders over [`hand_over`].
//!
//! Shuttle runs the threads of a model one step at a time, on atomics and locks of its own, as in `parking_model`.
//! A message that no sender carried out is still there when all senders have ended.

use std::sync::Arc;

use shuttle::scheduler::{DfsScheduler, RandomScheduler, Scheduler};
use shuttle::sync::atomic::{AtomicUsize, Ordering};
use shuttle::sync::{Mutex, MutexGuard, atomic};
use shuttle::thread;

use hand_over::hand_over;

#[allow(clippy::duplicate_mod, reason = "the same code over the model's atomics")]
#[path = "hand_over.rs"]
mod hand_over;

/// The queue, reduced to how many messages wait, and the engine, to how many it has carried out.
#[derive(Default)]
struct Engine {
    waiting: AtomicUsize,
    carried_out: Mutex<usize>,
}

impl Engine {
    fn carry_out(&self, mut carried_out: MutexGuard<'_, usize>) -> bool {
        *carried_out += self.waiting.swap(0, Ordering::SeqCst);
        true
    }

    fn is_empty(&self) -> bool {
        self.waiting.load(Ordering::SeqCst) == 0
    }
}

/// What a sender does after its push.
type Combine = fn(&Engine);

fn by_the_rule(engine: &Engine) {
    hand_over(
        || engine.carried_out.try_lock().ok(),
        |guard| engine.carry_out(guard),
        || engine.is_empty(),
    );
}

/// Plays schedules of some senders that send some messages each.
fn play(schedules: impl Scheduler + 'static, senders: usize, messages: usize, combine: Combine) {
    let model = move || {
        let engine = Arc::new(Engine::default());
        let threads: Vec<_> = (0..senders)
            .map(|_| {
                let engine = Arc::clone(&engine);
                thread::spawn(move || {
                    for _ in 0..messages {
                        engine.waiting.fetch_add(1, Ordering::SeqCst);
                        combine(&engine);
                    }
                })
            })
            .collect();
        for thread in threads {
            thread.join().expect("no panic");
        }
        let carried_out = *engine.carried_out.lock().expect("no panic");
        assert_eq!(carried_out, senders * messages, "a message was left");
    };
    shuttle::Runner::new(schedules, shuttle::Config::default()).run(model);
}

#[test]
fn no_schedule_of_two_senders_leaves_a_message() {
    play(DfsScheduler::new(Some(20_000), false), 2, 1, by_the_rule);
}

#[test]
fn no_schedule_of_three_senders_leaves_a_message() {
    play(RandomScheduler::new_from_seed(1, 5_000), 3, 2, by_the_rule);
}

/// The model has to find the fault that the order of [`hand_over`] rules out.
#[test]
#[should_panic(expected = "a message was left")]
fn looking_before_the_release_is_found() {
    play(DfsScheduler::new(Some(20_000), false), 2, 1, |engine| {
        let mut has_more = true;
        while has_more {
            let Ok(guard) = engine.carried_out.try_lock() else { return };
            let mut guard = guard;
            *guard += engine.waiting.swap(0, Ordering::SeqCst);
            has_more = !engine.is_empty();
            drop(guard);
        }
    });
}
