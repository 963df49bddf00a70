//! The thread that drives control: turns, and rest until the bell or the next lease.
//!
//! Imports its siblings, `clock`, `control`, `mailbox` and `stats`. Part of `server`.

use std::io;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::JoinHandle;
use std::time::Duration;

use super::Signals;
use crate::clock::Clock;
use crate::control::Control;
use crate::mailbox::Bell;
use crate::stats::Stats;

pub(super) fn start(
    mut control: Control,
    bell: Bell,
    clock: Clock,
    (signals, stats): (Arc<Signals>, Arc<Stats>),
) -> io::Result<JoinHandle<()>> {
    std::thread::Builder::new().name(String::from("control")).spawn(move || {
        bell.adopt_this_thread();
        while !signals.control_stop.load(Ordering::SeqCst) {
            let start = clock.now();
            let outcome = control.turn(start);
            stats.control.turn_us.record((clock.now().ns - start.ns) / 1_000);
            if outcome.has_more || !control.mailbox().rest() {
                continue;
            }
            match outcome.wake_at_ms {
                None => std::thread::park(),
                Some(at_ms) => {
                    let left_ms = at_ms.saturating_sub(clock.now().unix_ms);
                    std::thread::park_timeout(Duration::from_millis(left_ms));
                }
            }
            control.mailbox().wake();
        }
        control.stop(clock, signals.deadline_ns.load(Ordering::SeqCst));
    })
}
