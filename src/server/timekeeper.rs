//! The timekeeper: the thread that carries out what time calls for, what may take long, and what the store and the
//! backplane report. It rests until the bell or the next deadline.
//!
//! Imports its siblings, `clock` and `mailbox`. Part of `server`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use super::Signals;
use crate::clock::Clock;
use crate::mailbox::Bell;
use crate::mailbox::combiner::Combiner;

pub(super) fn start(
    combiner: Arc<Combiner>,
    bell: Bell,
    clock: Clock,
    signals: Arc<Signals>,
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(String::from("timekeeper")).spawn(move || {
        bell.adopt_this_thread();
        while !signals.control_stop.load(Ordering::SeqCst) {
            let outcome = combiner.keep_time();
            if outcome.has_more || !combiner.rest() {
                continue;
            }
            match outcome.wake_at_ms {
                None => std::thread::park(),
                Some(at_ms) => {
                    let left_ms = at_ms.saturating_sub(clock.now().unix_ms);
                    std::thread::park_timeout(Duration::from_millis(left_ms));
                }
            }
            combiner.wake();
        }
        if let Some(engine) = combiner.take() {
            engine.stop(clock, signals.deadline_ns.load(Ordering::SeqCst));
        }
    })
}
