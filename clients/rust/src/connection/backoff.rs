//! When and where to reconnect after a connection has ended or failed.
//!
//! Pure: the driver passes the failure and carries out the decision.
//!
//! Imports `error`. Imported by `driver`.

use std::time::Duration;

use fanfare_protocol::close::Reason;

use crate::error::Error;

/// A connection that lasted for this long was a good one: earlier failures are forgotten.
pub(crate) const GOOD_AFTER: Duration = Duration::from_secs(5);

/// The next step.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Connect to the next server of the list after this time, or to the same if that is better.
    After { wait: Duration, is_elsewhere: bool, with_new_token: bool },
    /// Do not come back.
    Never,
}

/// The failures so far.
#[derive(Debug)]
pub(crate) struct Backoff {
    min: Duration,
    max: Duration,
    servers: u32,
    failures: u32,
    /// Failures in a row that will not go away by themselves.
    finals: u32,
    rng: fastrand::Rng,
}

impl Backoff {
    pub(crate) fn new(min: Duration, max: Duration, servers: usize, seed: u64) -> Backoff {
        let servers = u32::try_from(servers).unwrap_or(u32::MAX).max(1);
        let rng = fastrand::Rng::with_seed(seed);
        Backoff { min, max: max.max(min), servers, failures: 0, finals: 0, rng }
    }

    /// A connection has lasted.
    pub(crate) fn forget(&mut self) {
        self.failures = 0;
        self.finals = 0;
    }

    /// Decides. `told` is the rest of the time in a `reconnect` frame, and `is_renewable` whether
    /// there can be another token.
    pub(crate) fn next(
        &mut self,
        error: &Error,
        told: Option<Duration>,
        is_renewable: bool,
    ) -> Next {
        let after = |wait| Next::After { wait, is_elsewhere: true, with_new_token: false };
        let is_first = self.failures == 0;
        self.failures = self.failures.saturating_add(1);
        match (error.close_reason(), error) {
            (Some(Reason::Removed), _) => Next::Never,
            (_, error) if error.is_about_token() => match is_renewable {
                true if is_first => {
                    Next::After { wait: Duration::ZERO, is_elsewhere: false, with_new_token: true }
                }
                true => {
                    Next::After { wait: self.jitter(), is_elsewhere: true, with_new_token: true }
                }
                false => Next::Never,
            },
            // The server has spread its clients over this time already.
            _ if told.is_some() => after(told.unwrap_or_default()),
            // The server is well: the network failed, or this client was slow.
            (Some(Reason::SlowReader | Reason::NoPong), _) => Next::After {
                wait: if is_first { Duration::ZERO } else { self.jitter() },
                is_elsewhere: false,
                with_new_token: false,
            },
            (Some(Reason::TooManyConnections | Reason::RateLimit), _) => after(self.later()),
            (_, Error::Status { retry_after: Some(least), .. }) => {
                after((*least).min(self.max) + self.jitter())
            }
            (_, error) if !error.is_temporary() => {
                self.finals += 1;
                // One server of several may be set up wrongly; if all refuse, it is final.
                if self.finals >= self.servers { Next::Never } else { after(self.jitter()) }
            }
            _ => {
                self.finals = 0;
                after(self.jitter())
            }
        }
    }

    /// Full jitter: anything from nothing to a bound that doubles each time the list was tried
    /// without success, so that many clients of a server do not come back together.
    fn jitter(&mut self) -> Duration {
        let rounds = (self.failures.saturating_sub(1) / self.servers).min(16);
        self.random(self.min.saturating_mul(1 << rounds).min(self.max))
    }

    /// The upper half of the longest wait.
    fn later(&mut self) -> Duration {
        self.max / 2 + self.random(self.max / 2)
    }

    fn random(&mut self, bound: Duration) -> Duration {
        let bound = u64::try_from(bound.as_nanos()).unwrap_or(u64::MAX);
        Duration::from_nanos(self.rng.u64(..=bound))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIN: Duration = Duration::from_millis(500);
    const MAX: Duration = Duration::from_secs(20);

    fn closed(code: u16) -> Error {
        Error::Closed { code, reason: String::new() }
    }

    fn wait(next: &Next) -> Duration {
        match next {
            Next::After { wait, .. } => *wait,
            Next::Never => panic!("it does not come back"),
        }
    }

    #[test]
    fn waits_double_up_to_the_bound_and_are_spread() {
        let mut longest = [Duration::ZERO; 10];
        for seed in 0..200 {
            let mut backoff = Backoff::new(MIN, MAX, 1, seed);
            for (round, longest) in longest.iter_mut().enumerate() {
                let bound = (MIN * (1 << round)).min(MAX);
                let wait = wait(&backoff.next(&Error::Disconnected, None, false));
                assert!(wait <= bound, "{wait:?} in round {round}");
                *longest = wait.max(*longest);
            }
        }
        assert!(longest[0] > MIN / 2 && longest[9] > MAX / 2, "{longest:?}");
    }

    #[test]
    fn the_whole_list_is_tried_before_waits_grow() {
        let mut backoff = Backoff::new(MIN, MAX, 4, 1);
        for _ in 0..4 {
            assert!(wait(&backoff.next(&Error::Timeout, None, false)) <= MIN);
        }
    }

    #[test]
    fn close_codes_are_obeyed() {
        let next = |code, told, is_renewable| {
            Backoff::new(MIN, MAX, 2, 7).next(&closed(code), told, is_renewable)
        };
        assert_eq!(next(4403, None, true), Next::Never);
        assert_eq!(next(4401, None, false), Next::Never);
        let now = |with_new_token| Next::After {
            wait: Duration::ZERO,
            is_elsewhere: false,
            with_new_token,
        };
        assert_eq!(next(4401, None, true), now(true));
        for code in [4408, 4410] {
            assert_eq!(next(code, None, true), now(false));
        }
        let told = Duration::from_millis(1_234);
        assert_eq!(wait(&next(1001, Some(told), true)), told);
        for code in [4409, 4429] {
            assert!(wait(&next(code, None, false)) >= MAX / 2);
        }
    }

    #[test]
    fn a_verdict_takes_every_server() {
        let mut backoff = Backoff::new(MIN, MAX, 2, 7);
        let forbidden =
            Error::Status { status: 403, code: None, message: String::new(), retry_after: None };
        assert!(matches!(backoff.next(&forbidden, None, false), Next::After { .. }));
        assert_eq!(backoff.next(&forbidden, None, false), Next::Never);
    }
}
