//! What may be read or written, and the ready list of the sockets that tokio's reactor watches.
//!
//! Plain sockets are reported by the shard's own poll. The others are TLS streams of tokio: instead of a task
//! a connection, each has a waker of a few words: the reactor calls it, and the slot joins this list. The
//! shard's one task then visits the slots of the list, in turn.
//!
//! # Promises
//!
//! * A slot is on the list once at most, so the number of connections bounds the list.
//!
//! Imports `id` and `shard::socket`. Imported by `shard`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Wake, Waker};

use crossbeam_channel::{Receiver, Sender};
use tokio::sync::Notify;

use super::socket::Readiness;
use crate::id::Slot;

/// A socket that may be read or written.
#[derive(Debug, Clone, Copy)]
pub struct Ready {
    /// Its connection's slot.
    pub slot: Slot,
    /// Which of the slot's connections it is.
    pub generation: u32,
    /// What it is ready for.
    pub readiness: Readiness,
}

/// A socket that may be ready for anything.
impl From<(Slot, u32)> for Ready {
    fn from((slot, generation): (Slot, u32)) -> Ready {
        Ready { slot, generation, readiness: Readiness::ALL }
    }
}

/// The list of one shard.
#[derive(Debug)]
pub struct ReadyList {
    sender: Sender<Arc<SlotWaker>>,
    receiver: Receiver<Arc<SlotWaker>>,
    bell: Arc<Notify>,
}

/// One connection's waker.
#[derive(Debug)]
pub struct SlotWaker {
    slot: Slot,
    generation: u32,
    is_listed: AtomicBool,
    sender: Sender<Arc<SlotWaker>>,
    bell: Arc<Notify>,
}

impl Wake for SlotWaker {
    fn wake(self: Arc<SlotWaker>) {
        if !self.is_listed.swap(true, Ordering::AcqRel) {
            let sender = self.sender.clone();
            let bell = Arc::clone(&self.bell);
            // Fails only when the shard itself has gone, and the list with it.
            let _ = sender.send(self);
            bell.notify_one();
        }
    }

    fn wake_by_ref(self: &Arc<SlotWaker>) {
        if !self.is_listed.swap(true, Ordering::AcqRel) {
            let _ = self.sender.send(Arc::clone(self));
            self.bell.notify_one();
        }
    }
}

impl ReadyList {
    /// An empty list that rings `bell` for each slot that joins it.
    pub fn new(bell: Arc<Notify>) -> ReadyList {
        let (sender, receiver) = crossbeam_channel::unbounded();
        ReadyList { sender, receiver, bell }
    }

    /// A waker for a connection.
    pub fn waker(&self, slot: Slot, generation: u32) -> Waker {
        Waker::from(Arc::new(SlotWaker {
            slot,
            generation,
            is_listed: AtomicBool::new(false),
            sender: self.sender.clone(),
            bell: Arc::clone(&self.bell),
        }))
    }

    /// Takes the next slot off the list. It may join again from this moment on.
    pub fn take(&self) -> Option<(Slot, u32)> {
        let waker = self.receiver.try_recv().ok()?;
        waker.is_listed.store(false, Ordering::Release);
        Some((waker.slot, waker.generation))
    }
}
