//! The only clock.
//!
//! Nothing below the threads that drive shards and control reads the time: a [`Moment`] is passed
//! in, so that simulations and tests set the time.
//!
//! A moment has two scales. The steady one never jumps: leases, deadlines and ages are measured on
//! it. The wall clock is the system's time, corrections included: tokens are judged by it, and
//! messages carry it. On Linux the steady one is `CLOCK_MONOTONIC`, which stands still while the
//! machine is suspended: no heartbeat can arrive then, so no lease runs out by it either.
//!
//! Imports nothing of the crate. Imported by `shard`, `control`, `http` and `server`.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// A point in time, on both scales.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Moment {
    /// The steady scale, in milliseconds: the Unix time at which the clock was started, plus the
    /// time on the monotonic clock since. It never runs backwards. For leases, deadlines and ages.
    pub unix_ms: u64,
    /// The wall clock, in milliseconds since the Unix epoch. It may jump either way. For tokens, and
    /// for times that are shown or stored.
    pub wall_ms: u64,
    /// Nanoseconds since this server's clock was started.
    pub ns: u64,
}

impl Moment {
    /// A moment at which both scales agree, as they do until the system's time is corrected.
    #[cfg(any(test, fuzzing, feature = "internals"))]
    pub const fn new(unix_ms: u64, ns: u64) -> Moment {
        Moment { unix_ms, wall_ms: unix_ms, ns }
    }

    /// The whole seconds of the wall clock since the Unix epoch, as tokens count them.
    pub const fn unix_s(self) -> u64 {
        self.wall_ms / 1_000
    }

    /// When the wall clock will read `wall_ms`, on the steady scale, as far as is known now.
    pub const fn steady_ms(self, wall_ms: u64) -> u64 {
        if wall_ms >= self.wall_ms {
            self.unix_ms.saturating_add(wall_ms - self.wall_ms)
        } else {
            self.unix_ms.saturating_sub(self.wall_ms - wall_ms)
        }
    }

    /// How far the wall clock is ahead of the steady scale, in milliseconds. Negative if it was set
    /// back. Two moments without a correction between them differ by the time of reading both
    /// clocks.
    pub const fn wall_ahead_ms(self) -> i64 {
        self.wall_ms.cast_signed().wrapping_sub(self.unix_ms.cast_signed())
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
        Clock { started: Instant::now(), started_unix_ms: wall_ms() }
    }

    /// When the clock was started, as timers count.
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// The present moment. Reads both clocks of the system, 50 ns together: once a turn or a request.
    pub fn now(&self) -> Moment {
        let elapsed = self.started.elapsed();
        Moment {
            unix_ms: self.started_unix_ms + to_u64(elapsed.as_millis()),
            wall_ms: wall_ms(),
            ns: to_u64(elapsed.as_nanos()),
        }
    }
}

/// The system's time.
#[allow(clippy::disallowed_methods, reason = "the one place that reads the time")]
fn wall_ms() -> u64 {
    let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    to_u64(unix.as_millis())
}

fn to_u64(value: u128) -> u64 {
    u64::try_from(value).unwrap_or(u64::MAX)
}

/// The milliseconds since the Unix epoch of a text in RFC 3339; none for another text, and before the epoch.
pub fn unix_ms_of(text: &str) -> Option<u64> {
    u64::try_from(text.parse::<jiff::Timestamp>().ok()?.as_millisecond()).ok()
}

/// RFC 3339 in UTC with milliseconds, the form of every time on the wire.
pub fn rfc3339(unix_ms: u64) -> String {
    let ms = i64::try_from(unix_ms).unwrap_or(i64::MAX);
    match jiff::Timestamp::from_millisecond(ms) {
        Ok(time) => format!("{time:.3}"),
        Err(_) => String::from("9999-12-31T23:59:59.999Z"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_scales_are_told_apart() {
        let moment = Moment { unix_ms: 10_000, wall_ms: 70_500, ns: 5 };
        assert_eq!((moment.unix_s(), moment.wall_ahead_ms()), (70, 60_500));
        assert_eq!((moment.steady_ms(71_000), moment.steady_ms(70_000)), (10_500, 9_500));
        assert_eq!((moment.steady_ms(0), moment.steady_ms(u64::MAX)), (0, u64::MAX - 60_500));
        let back = Moment { wall_ms: 4_000, ..moment };
        assert_eq!((back.wall_ahead_ms(), back.steady_ms(5_000)), (-6_000, 11_000));
    }

    #[test]
    fn the_steady_scale_never_runs_backwards() {
        let clock = Clock::start();
        let mut last = clock.now();
        assert!(last.wall_ahead_ms().abs() < 10_000, "they begin together");
        for _ in 0..1_000 {
            let next = clock.now();
            assert!((next.unix_ms, next.ns) >= (last.unix_ms, last.ns));
            last = next;
        }
    }

    #[test]
    fn rfc3339_has_milliseconds_and_z() {
        assert_eq!(rfc3339(1_795_176_000_123), "2026-11-20T12:00:00.123Z");
        assert_eq!(rfc3339(0), "1970-01-01T00:00:00.000Z");
        assert_eq!(rfc3339(u64::MAX), "9999-12-31T23:59:59.999Z");
    }
}
