//! What wakes a sleeping receiver: a thread's parker, a task's notify, or nothing.
//!
//! Imports nothing of the crate. Part of `mailbox`.

use std::sync::{Arc, OnceLock};
use std::thread::Thread;

use tokio::sync::Notify;

/// Wakes one receiver. Ringing twice before it wakes is the same as ringing once.
#[derive(Debug, Clone)]
pub struct Bell(Kind);

#[derive(Debug, Clone)]
enum Kind {
    /// Simulations and benches, whose receiver looks without being told.
    #[cfg(any(test, feature = "internals"))]
    Silent,
    /// Control, which parks its thread.
    Thread(Arc<OnceLock<Thread>>),
    /// A shard, which waits inside its runtime.
    Task(Arc<Notify>),
}

impl Bell {
    /// A bell that nobody hears.
    #[cfg(any(test, feature = "internals"))]
    pub fn silent() -> Bell {
        Bell(Kind::Silent)
    }

    /// A bell for a thread that parks; the thread says so with [`Bell::adopt_this_thread`].
    pub fn thread() -> Bell {
        Bell(Kind::Thread(Arc::new(OnceLock::new())))
    }

    /// A bell for a task that waits on `notify`.
    pub fn task(notify: Arc<Notify>) -> Bell {
        Bell(Kind::Task(notify))
    }

    /// Makes the calling thread the one that is woken. Rings before this call are lost, so it
    /// comes before the first rest.
    pub fn adopt_this_thread(&self) {
        if let Kind::Thread(thread) = &self.0 {
            // Set once: a second adopter would be a bug of the server's start.
            let _ = thread.set(std::thread::current());
        }
    }

    pub(crate) fn ring(&self) {
        match &self.0 {
            #[cfg(any(test, feature = "internals"))]
            Kind::Silent => {}
            Kind::Thread(thread) => {
                if let Some(thread) = thread.get() {
                    thread.unpark();
                }
            }
            Kind::Task(notify) => notify.notify_one(),
        }
    }
}
