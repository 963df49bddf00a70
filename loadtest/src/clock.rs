//! The clock: nanoseconds since the start of the program.
//!
//! The publisher writes these nanoseconds into each event and the reading side subtracts them, so
//! both must count from the same moment. They do because a `Clock` is copied, never made a second
//! time.

use std::time::{Duration, Instant};

/// Counts nanoseconds from the moment it was started. Copies count from the same moment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    base: Instant,
}

impl Clock {
    /// Starts counting.
    #[allow(clippy::disallowed_methods)]
    pub(crate) fn start() -> Self {
        Clock { base: Instant::now() }
    }

    /// The nanoseconds since the start. Never zero, so that zero may stand for "never".
    pub(crate) fn now_ns(&self) -> u64 {
        // 64 bits of nanoseconds last 584 years.
        (self.base.elapsed().as_nanos() as u64).max(1)
    }
}

/// The nanoseconds of a duration that a flag gave.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds as seconds.
pub(crate) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
