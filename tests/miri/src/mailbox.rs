//! The queue between threads, who wakes whom, and who takes the lock of control.

use std::sync::atomic;

#[path = "../../../src/mailbox/bell.rs"]
mod bell;
#[path = "../../../src/mailbox/hand_over.rs"]
mod hand_over;
#[path = "../../../src/mailbox/parking.rs"]
mod parking;
#[path = "../../../src/mailbox/queue.rs"]
mod queue;

pub use bell::Bell;
pub use queue::{MailboxReceiver, MailboxSender, Undelivered, mailbox};

#[cfg(test)]
mod tests {
    use std::sync::Mutex;

    use super::hand_over::hand_over;
    use super::{Bell, mailbox};

    /// The fences of `hand_over` under Miri's weak memory, which the model by interleavings does not have.
    #[test]
    fn no_message_is_left_where_threads_share_a_lock() {
        const THREADS: u64 = 3;
        const MESSAGES: u64 = 20;
        let (sender, receiver) = mailbox(1_000, Bell::silent());
        let engine = Mutex::new((receiver, 0));
        std::thread::scope(|scope| {
            for _ in 0..THREADS {
                let (sender, engine) = (sender.clone(), &engine);
                scope.spawn(move || {
                    for number in 1..=MESSAGES {
                        sender.push(number).expect("room");
                        let run = |mut guard: std::sync::MutexGuard<'_, _>| {
                            let (receiver, sum): &mut (super::MailboxReceiver<u64>, u64) = &mut guard;
                            *sum += std::iter::from_fn(|| receiver.take()).sum::<u64>();
                            true
                        };
                        hand_over(|| engine.try_lock().ok(), run, || sender.depth() == 0);
                    }
                });
            }
        });
        let (receiver, sum) = engine.into_inner().expect("nobody failed");
        assert_eq!((receiver.take(), sum), (None, THREADS * MESSAGES * (MESSAGES + 1) / 2));
    }
}
