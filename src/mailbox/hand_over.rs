//! How threads that share a lock see to it that no message is left: the rule of [`super::combiner`].
//!
//! ```text
//! sender:  push the message,   then try the lock:      held? the holder will look
//! holder:  release the lock,   then look at the queue: empty? go
//! ```
//!
//! Each side writes before it reads, with a fence between, so at least one sees what the other wrote.
//! `hand_over_model` plays the interleavings.
//!
//! Imports the atomics of the module above, in whose place the model puts its own. Part of `mailbox`.

use super::atomic::{Ordering, fence};

/// Runs for as long as the lock can be had and something waits. `run` is given the lock, and gives it back before
/// it returns; false = another thread was asked to go on.
pub(super) fn hand_over<Guard>(
    try_lock: impl Fn() -> Option<Guard>,
    mut run: impl FnMut(Guard) -> bool,
    is_empty: impl Fn() -> bool,
) {
    loop {
        fence(Ordering::SeqCst);
        let Some(guard) = try_lock() else { return };
        if !run(guard) {
            return;
        }
        fence(Ordering::SeqCst);
        if is_empty() {
            return;
        }
    }
}
