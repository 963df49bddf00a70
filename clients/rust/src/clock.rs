//! The only clock of the client: a steady one for deadlines and ages, the system's for tokens.
//!
//! Imports nothing of the crate. Imported by `builder`, `shared` and `api`.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A point in time, on both scales.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Moment {
    /// Nanoseconds since the clock was started. Never runs backwards: for deadlines.
    pub(crate) ns: u64,
    /// The Unix time at which the clock was started plus `ns`, in milliseconds. Never runs
    /// backwards: for ages, also of entries in a file.
    pub(crate) unix_ms: u64,
    /// The system's time since the Unix epoch, in milliseconds. May jump either way: for tokens.
    pub(crate) wall_ms: u64,
}

impl Moment {
    /// The whole seconds of the system's time, as tokens count them.
    pub(crate) const fn unix_s(self) -> u64 {
        self.wall_ms / 1_000
    }
}

/// A source of moments.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Clock {
    started: Instant,
    started_unix_ms: u64,
}

impl Clock {
    /// Starts a clock at the system's present time.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the time")]
    pub(crate) fn start() -> Clock {
        Clock { started: Instant::now(), started_unix_ms: wall_ms() }
    }

    /// The present moment.
    pub(crate) fn now(&self) -> Moment {
        let elapsed = self.started.elapsed();
        Moment {
            ns: to_u64(elapsed.as_nanos()),
            unix_ms: self.started_unix_ms + to_u64(elapsed.as_millis()),
            wall_ms: wall_ms(),
        }
    }
}

#[allow(clippy::disallowed_methods, reason = "the one place that reads the time")]
fn wall_ms() -> u64 {
    to_u64(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis())
}

fn to_u64(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}
