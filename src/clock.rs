//! The only clock.
//!
//! Nothing below the threads that drive shards and control reads the time: a [`Moment`] is passed
//! in, so that simulations and tests decide what time it is.
//!
//! Imports nothing of the crate. Imported by `shard`, `control`, `http`, `server` and `client`.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A point in time, on two scales that advance together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// Milliseconds since the Unix epoch. Follows the monotonic clock after the start, so it never
    /// runs backwards; it can differ from the system's time once that is corrected.
    pub unix_ms: u64,
    /// Nanoseconds since this server's clock was started.
    pub ns: u64,
}

impl Moment {
    /// The whole seconds since the Unix epoch, as tokens count them.
    pub const fn unix_s(self) -> u64 {
        self.unix_ms / 1_000
    }
}

/// A source of moments. Copies agree with each other, on every thread.
#[derive(Debug, Clone, Copy)]
pub struct Clock {
    started: Instant,
    started_unix_ms: u64,
}

impl Clock {
    /// Starts a clock at the system's present time.
    #[allow(clippy::disallowed_methods, reason = "the one place that reads the time")]
    pub fn start() -> Clock {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Clock { started: Instant::now(), started_unix_ms: to_u64(unix.as_millis()) }
    }

    /// The present moment.
    pub fn now(&self) -> Moment {
        let elapsed = self.started.elapsed();
        Moment {
            unix_ms: self.started_unix_ms + to_u64(elapsed.as_millis()),
            ns: to_u64(elapsed.as_nanos()),
        }
    }
}

fn to_u64(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// RFC 3339 in UTC with milliseconds, the form every time on the wire has.
#[cfg(feature = "server")]
pub fn rfc3339(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => String::from("9999-12-31T23:59:59.999Z"),
    }
}

#[cfg(all(test, feature = "server"))]
mod tests {
    use super::*;

    #[test]
    fn rfc3339_has_milliseconds_and_z() {
        assert_eq!(rfc3339(1_795_176_000_123), "2026-11-20T12:00:00.123Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
