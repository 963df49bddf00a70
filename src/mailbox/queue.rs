//! A bounded queue from many senders to one receiver, which is woken only where it sleeps.
//!
//! Imports `limits`. Part of `mailbox`.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};

use super::bell::Bell;
use super::parking::Parking;
use crate::limits;

/// Makes a mailbox of at most `messages_max` messages whose receiver is woken by `bell`.
pub fn mailbox<T>(messages_max: usize, bell: Bell) -> (MailboxSender<T>, MailboxReceiver<T>) {
    // crossbeam's bounded channel allocates and touches all of its slots at once: 13 MB a shard at
    // the default bound. The unbounded one grows by blocks, and the bound is kept here.
    let (sender, receiver) = crossbeam_channel::unbounded();
    let shared = Arc::new(Shared { bell, parking: Parking::new(), messages_max });
    (MailboxSender { sender, shared: Arc::clone(&shared) }, MailboxReceiver { receiver, shared })
}

#[derive(Debug)]
struct Shared {
    bell: Bell,
    parking: Parking,
    messages_max: usize,
}

impl Shared {
    fn ring(&self) {
        if self.parking.must_wake() {
            self.bell.ring();
        }
    }
}

/// The sending end. Cloned by every sender.
#[derive(Debug)]
pub struct MailboxSender<T> {
    sender: Sender<T>,
    shared: Arc<Shared>,
}

impl<T> Clone for MailboxSender<T> {
    fn clone(&self) -> MailboxSender<T> {
        MailboxSender { sender: self.sender.clone(), shared: Arc::clone(&self.shared) }
    }
}

/// A message came back because the mailbox is full or its receiver has gone.
#[derive(Debug, PartialEq, Eq)]
pub struct Undelivered<T>(pub T);

impl<T> MailboxSender<T> {
    /// Sends without waking the receiver. [`MailboxSender::ring`] has to follow once the batch is out.
    ///
    /// # Errors
    ///
    /// The message, where the mailbox is full or the receiver has gone.
    pub fn push(&self, message: T) -> Result<(), Undelivered<T>> {
        if self.is_full() {
            return Err(Undelivered(message));
        }
        self.sender.send(message).map_err(|fault| Undelivered(fault.0))
    }

    /// Whether no message would be taken now. Senders that ask at the same moment may all hear no,
    /// so the bound can be overshot by one message a sender.
    fn is_full(&self) -> bool {
        self.sender.len() >= self.shared.messages_max
    }

    /// Wakes the receiver if it rests.
    pub fn ring(&self) {
        self.shared.ring();
    }

    /// Sends and wakes the receiver.
    ///
    /// # Errors
    ///
    /// As [`MailboxSender::push`].
    pub fn send(&self, message: T) -> Result<(), Undelivered<T>> {
        self.push(message)?;
        self.ring();
        Ok(())
    }

    /// Sends, waiting for room. Only for control, whom no shard ever waits for.
    ///
    /// # Errors
    ///
    /// The message, where the receiver has gone.
    pub fn push_waiting(&self, message: T) -> Result<(), Undelivered<T>> {
        let mut message = message;
        loop {
            message = match self.push(message) {
                Err(Undelivered(message)) if self.is_full() => message,
                result => return result,
            };
            // Rare: the receiver is thousands of messages behind. It is given the processor.
            self.ring();
            std::thread::park_timeout(limits::MAILBOX_FULL_PAUSE);
        }
    }

    /// Sends beyond the bound. For an engine on the thread of the receiver itself, which would wait for ever.
    pub fn push_beyond(&self, message: T) {
        // Fails only where the receiver has gone.
        let _ = self.sender.send(message);
    }

    /// Whether so many messages wait that a sender that need not send had better not.
    pub fn is_crowded(&self) -> bool {
        self.sender.len() >= self.shared.messages_max / 2
    }

    /// As [`MailboxReceiver::rest`], for a receiver that others hold. `is_idle` is its last look at all else that
    /// may keep it awake.
    pub(super) fn may_receiver_sleep(&self, is_idle: impl FnOnce() -> bool) -> bool {
        self.shared.parking.may_sleep(|| self.sender.is_empty() && is_idle())
    }

    /// As [`MailboxReceiver::wake`].
    pub(super) fn receiver_is_awake(&self) {
        self.shared.parking.awake();
    }

    /// How many messages wait.
    pub fn depth(&self) -> usize {
        self.sender.len()
    }
}

/// The receiving end. There is one.
#[derive(Debug)]
pub struct MailboxReceiver<T> {
    receiver: Receiver<T>,
    shared: Arc<Shared>,
}

impl<T> MailboxReceiver<T> {
    /// The next message, where one waits.
    pub fn take(&self) -> Option<T> {
        self.receiver.try_recv().ok()
    }

    /// Whether a message waits.
    pub fn is_empty(&self) -> bool {
        self.receiver.is_empty()
    }

    /// Declares that the receiver is about to sleep. Returns false where a message has arrived
    /// meanwhile: then it must not.
    pub fn rest(&self) -> bool {
        self.shared.parking.may_sleep(|| self.receiver.is_empty())
    }

    /// Declares that the receiver is awake, whatever woke it.
    pub fn wake(&self) {
        self.shared.parking.awake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_is_said_and_nothing_is_lost() {
        let (outlet, inlet) = mailbox(2, Bell::silent());
        assert_eq!((outlet.send(1), outlet.send(2)), (Ok(()), Ok(())));
        assert_eq!(outlet.send(3), Err(Undelivered(3)));
        assert_eq!((inlet.take(), inlet.take(), inlet.take()), (Some(1), Some(2), None));
        drop(inlet);
        assert_eq!(outlet.send(4), Err(Undelivered(4)));
    }

    #[test]
    fn no_message_is_slept_through() {
        let bell = Bell::thread();
        let (outlet, inlet) = mailbox(16, bell.clone());
        let receiver = std::thread::spawn(move || {
            bell.adopt_this_thread();
            let mut sum = 0_u64;
            loop {
                while let Some(message) = inlet.take() {
                    if message == 0 {
                        return sum;
                    }
                    sum += message;
                }
                if inlet.rest() {
                    std::thread::park();
                    inlet.wake();
                }
            }
        });
        let count = if cfg!(miri) { 100 } else { 20_000 };
        for number in (1..=count).rev().chain([0]) {
            let mut message = Err(Undelivered(number));
            while let Err(Undelivered(number)) = message {
                message = outlet.send(number);
            }
        }
        assert_eq!(receiver.join().expect("the receiver ends"), count * (count + 1) / 2);
    }
}
