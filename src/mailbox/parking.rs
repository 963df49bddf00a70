//! The flag by which a receiver and its senders agree on who wakes whom, without a lock.
//!
//! ```text
//! sender:    push the message,  then read the flag: set? the one that clears it wakes the receiver
//! receiver:  set the flag,      then look at the queue: empty? sleep
//! ```
//!
//! Each side writes before it reads, and all four accesses are sequentially consistent (the queue is
//! crossbeam's, whose push and `is_empty` are). So at least one side sees what the other wrote: no
//! message waits for a receiver that sleeps. `parking_model` plays every interleaving of them.
//!
//! Imports the atomics of the module above, in whose place the model puts its own. Part of `mailbox`.

use super::atomic::{AtomicBool, Ordering};

/// Whether the receiver sleeps, or is about to.
#[derive(Debug)]
pub(super) struct Parking {
    /// Set by the receiver before its last look at the queue, cleared by the sender that wakes it.
    is_parked: AtomicBool,
}

impl Parking {
    /// The receiver is awake.
    pub(super) fn new() -> Parking {
        Parking { is_parked: AtomicBool::new(false) }
    }

    /// A sender asks after its push whether it has to wake the receiver. Of several senders one is
    /// told so. A receiver that is awake costs them one load.
    pub(super) fn must_wake(&self) -> bool {
        self.is_parked.load(Ordering::SeqCst) && self.is_parked.swap(false, Ordering::SeqCst)
    }

    /// The receiver asks whether it may sleep; `is_empty` is its last look at the queue.
    pub(super) fn may_sleep(&self, is_empty: impl FnOnce() -> bool) -> bool {
        self.is_parked.store(true, Ordering::SeqCst);
        if is_empty() {
            return true;
        }
        self.awake();
        false
    }

    /// The receiver is awake, whatever woke it.
    pub(super) fn awake(&self) {
        self.is_parked.store(false, Ordering::SeqCst);
    }
}
