//! The login throttle: after too many failures the next attempt is refused before the password is compared.
//!
//! Failures count by name and by address: one password tried on many names is as much of an attack as many
//! passwords on one name. The API and Eureka count apart: a program with an old password for Eureka
//! does not lock its address out of the API.
//!
//! # Promises
//!
//! * Only a wrong password counts. An attempt that ends without a comparison, because the database did not
//!   answer or the client disconnected, does not.
//! * Attempts in flight cannot exceed the failures that are left: a further attempt waits for one of them to
//!   end. So a burst of correct passwords passes, and a burst of wrong ones gets no more guesses than a
//!   sequence of them.
//!
//! Imports `address`, `auth`, `clock` and `limits`. Imported by `http::users` and `doors::eureka`.

use std::collections::{HashMap, VecDeque};
use std::pin::pin;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::address::{AddressBlock, ClientAddress};
use crate::auth::names;
use crate::clock::Clock;
use crate::limits;

/// The use of a password. Each use has counters of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Purpose {
    /// `POST /api/v1/users/login`.
    Login,
    /// A change of one's own password, which shows the old one.
    Change,
    /// Basic credentials at Eureka's calls.
    Eureka,
}

/// The key that failures count for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key {
    /// The name in its compared form: other spellings of it share the counter.
    Name(Purpose, Box<str>),
    /// The address.
    Address(Purpose, AddressBlock),
}

/// The attempts of a key. An empty tally is removed by the last attempt.
#[derive(Debug, Default)]
struct Tally {
    /// When attempts failed, in milliseconds, the first one first.
    failed_ms: VecDeque<u64>,
    /// Attempts that are being compared.
    in_flight: usize,
    /// Attempts that wait for one of those to end.
    waiting: usize,
}

impl Tally {
    fn forget(&mut self, now_ms: u64) {
        let is_old = |&at_ms: &u64| at_ms + limits::LOGIN_WINDOW_MS <= now_ms;
        while self.failed_ms.front().is_some_and(is_old) {
            self.failed_ms.pop_front();
        }
    }

    fn is_idle(&self) -> bool {
        self.failed_ms.is_empty() && self.in_flight == 0 && self.waiting == 0
    }
}

/// The reason why an attempt does not begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Too many failed. Milliseconds until the next attempt.
    TooMany(u64),
    /// Too many wait, or this one has waited too long.
    Busy,
}

/// Whether an attempt may begin now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Admission {
    Begun,
    Wait,
    TooMany(u64),
}

/// The table.
#[derive(Debug, Default)]
pub struct LoginThrottle {
    table: Mutex<HashMap<Key, Tally>>,
    /// Rung when an attempt ends.
    ended: Notify,
}

/// An attempt that is being compared. Dropped without [`Attempt::fail`] it does not count.
#[derive(Debug)]
pub struct Attempt<'a> {
    login_throttle: &'a LoginThrottle,
    keys: Vec<Key>,
}

impl Attempt<'_> {
    /// The password was wrong.
    pub fn fail(self, now_ms: u64) {
        let mut table = self.login_throttle.table.lock();
        for key in &self.keys {
            // If the table had no room for the key, its failures are not counted.
            if let Some(tally) = table.get_mut(key) {
                tally.failed_ms.push_back(now_ms);
            }
        }
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        let mut table = self.login_throttle.table.lock();
        for key in &self.keys {
            if let Some(tally) = table.get_mut(key) {
                tally.in_flight = tally.in_flight.saturating_sub(1);
                if tally.is_idle() {
                    table.remove(key);
                }
            }
        }
        drop(table);
        self.login_throttle.ended.notify_waiters();
    }
}

/// A place among the waiting attempts.
struct WaitingPlace<'a> {
    login_throttle: &'a LoginThrottle,
    keys: &'a [Key],
}

impl<'a> WaitingPlace<'a> {
    /// Takes a place, unless too many wait for one of the keys.
    fn take(login_throttle: &'a LoginThrottle, keys: &'a [Key]) -> Option<WaitingPlace<'a>> {
        let mut table = login_throttle.table.lock();
        let is_full = |key| {
            table.get(key).is_some_and(|tally: &Tally| tally.waiting >= limits::LOGINS_WAITING_MAX)
        };
        if keys.iter().any(is_full) {
            return None;
        }
        for key in keys {
            if let Some(tally) = table.get_mut(key) {
                tally.waiting += 1;
            }
        }
        Some(WaitingPlace { login_throttle, keys })
    }
}

impl Drop for WaitingPlace<'_> {
    fn drop(&mut self) {
        let mut table = self.login_throttle.table.lock();
        for key in self.keys {
            if let Some(tally) = table.get_mut(key) {
                tally.waiting = tally.waiting.saturating_sub(1);
                if tally.is_idle() {
                    table.remove(key);
                }
            }
        }
    }
}

impl LoginThrottle {
    /// Begins an attempt on a name, from an address if it is known. Waits for other attempts if
    /// their results decide whether it may begin.
    ///
    /// # Errors
    ///
    /// [`Refused`].
    pub async fn begin(
        &self,
        purpose: Purpose,
        name: &str,
        client: Option<ClientAddress>,
        clock: Clock,
    ) -> Result<Attempt<'_>, Refused> {
        let name = names::key(name).chars().take(limits::NAME_BYTES_MAX).collect();
        let mut keys = vec![Key::Name(purpose, name)];
        keys.extend(client.map(|client| Key::Address(purpose, client.block())));
        let patience = Duration::from_millis(limits::LOGIN_WAIT_MS);
        let mut waiting = None;
        let begun = tokio::time::timeout(patience, async {
            loop {
                // Before the check: an attempt that ends between the two is noticed.
                let mut ended = pin!(self.ended.notified());
                ended.as_mut().enable();
                match self.admit(&keys, clock.now().unix_ms) {
                    Admission::Begun => return Ok(()),
                    Admission::TooMany(wait_ms) => return Err(Refused::TooMany(wait_ms)),
                    Admission::Wait if waiting.is_some() => {}
                    Admission::Wait => {
                        waiting = Some(WaitingPlace::take(self, &keys).ok_or(Refused::Busy)?);
                    }
                }
                ended.await;
            }
        });
        let begun = begun.await.unwrap_or(Err(Refused::Busy));
        drop(waiting);
        begun.map(|()| Attempt { login_throttle: self, keys })
    }

    fn admit(&self, keys: &[Key], now_ms: u64) -> Admission {
        let failures_max = limits::LOGIN_FAILURES_MAX as usize;
        let mut table = self.table.lock();
        let (mut wait_ms, mut is_full) = (0, false);
        for key in keys {
            let Some(tally) = table.get_mut(key) else { continue };
            tally.forget(now_ms);
            let failures = tally.failed_ms.len();
            if failures >= failures_max {
                let first_ms = tally.failed_ms.front().copied().unwrap_or(now_ms);
                wait_ms = wait_ms.max(first_ms + limits::LOGIN_WINDOW_MS - now_ms);
            }
            is_full |= failures + tally.in_flight >= failures_max;
        }
        if wait_ms > 0 {
            return Admission::TooMany(wait_ms);
        }
        if is_full {
            return Admission::Wait;
        }
        if table.len() + keys.len() > limits::LOGIN_ENTRIES_MAX {
            table.retain(|_, tally| {
                tally.forget(now_ms);
                !tally.is_idle()
            });
        }
        for key in keys {
            // With the table full of fresh failures, its keys stay counted.
            if table.len() < limits::LOGIN_ENTRIES_MAX || table.contains_key(key) {
                table.entry(key.clone()).or_default().in_flight += 1;
            }
        }
        Admission::Begun
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn keys(name: &str, last: u8) -> Vec<Key> {
        let address = AddressBlock::of([127, 0, 0, last].into());
        vec![Key::Name(Purpose::Login, name.into()), Key::Address(Purpose::Login, address)]
    }

    fn attempt<'a>(
        login_throttle: &'a LoginThrottle,
        keys: &[Key],
        now_ms: u64,
    ) -> Result<Attempt<'a>, Admission> {
        match login_throttle.admit(keys, now_ms) {
            Admission::Begun => Ok(Attempt { login_throttle, keys: keys.to_vec() }),
            refused => Err(refused),
        }
    }

    fn fail(login_throttle: &LoginThrottle, keys: &[Key], now_ms: u64) -> Option<Admission> {
        match attempt(login_throttle, keys, now_ms) {
            Ok(attempt) => {
                attempt.fail(now_ms);
                None
            }
            Err(refused) => Some(refused),
        }
    }

    #[test]
    fn the_eleventh_failure_of_a_minute_is_refused_unread() {
        let login_throttle = LoginThrottle::default();
        let ann = keys("ann", 1);
        for second in 0..10 {
            assert_eq!(fail(&login_throttle, &ann, second * 1_000), None);
        }
        assert_eq!(fail(&login_throttle, &ann, 10_000), Some(Admission::TooMany(50_000)));
        assert_eq!(
            fail(&login_throttle, &keys("bob", 2), 10_000),
            None,
            "another name and address"
        );
        let same_address = keys("cid", 1);
        assert!(
            fail(&login_throttle, &same_address, 10_000).is_some(),
            "the address counts by itself"
        );
        let eureka = [Key::Name(Purpose::Eureka, "ann".into())];
        assert_eq!(fail(&login_throttle, &eureka, 10_000), None, "another door");
        assert_eq!(
            fail(&login_throttle, &ann, 60_000),
            None,
            "the first failure has been forgotten"
        );
    }

    #[test]
    fn what_ends_without_a_verdict_counts_as_nothing() {
        let login_throttle = LoginThrottle::default();
        let ann = keys("ann", 1);
        for now_ms in 0..50 {
            drop(attempt(&login_throttle, &ann, now_ms).expect("begun"));
        }
        assert!(login_throttle.table.lock().is_empty());
    }

    #[test]
    fn verdicts_under_way_are_no_more_than_may_fail() {
        let login_throttle = LoginThrottle::default();
        let ann = keys("ann", 1);
        assert_eq!(fail(&login_throttle, &ann, 0), None);
        let under_way: Vec<_> =
            (0..9).map(|_| attempt(&login_throttle, &ann, 1).expect("begun")).collect();
        assert_eq!(attempt(&login_throttle, &ann, 1).err(), Some(Admission::Wait));
        let mut under_way = under_way.into_iter();
        drop(under_way.next());
        let good = attempt(&login_throttle, &ann, 1).expect("one has ended well");
        under_way.for_each(|attempt| attempt.fail(1));
        assert_eq!(
            fail(&login_throttle, &ann, 1),
            Some(Admission::Wait),
            "one is under way, nine failed"
        );
        good.fail(1);
        assert!(matches!(fail(&login_throttle, &ann, 1), Some(Admission::TooMany(_))));
    }

    /// However attempts begin, end and are abandoned, no key sees more than ten failures a minute,
    /// and in the end nothing is left.
    #[test]
    fn no_order_of_events_lets_an_eleventh_failure_through() {
        for seed in 0..64 {
            let mut rng = Rng::seeded(seed);
            let login_throttle = LoginThrottle::default();
            let (mut now_ms, mut open) = (0, Vec::new());
            let mut failed: Vec<(u64, u64)> = Vec::new();
            for _ in 0..600 {
                now_ms += rng.below(500);
                let who = rng.below(3);
                let name = ["ann", "bob", "cid"][usize::try_from(who).expect("small")];
                if rng.below(2) == 0 {
                    if let Ok(begun) = attempt(&login_throttle, &keys(name, 1), now_ms) {
                        open.push((who, begun));
                    }
                } else if !open.is_empty() {
                    let index = rng.below(open.len() as u64);
                    let (who, begun) = open.swap_remove(usize::try_from(index).expect("small"));
                    if rng.below(3) > 0 {
                        begun.fail(now_ms);
                        failed.push((who, now_ms));
                    }
                }
                // All come from one address, so together they are no more than ten.
                let window_ms = (now_ms + 1).saturating_sub(limits::LOGIN_WINDOW_MS);
                let recent = failed.iter().filter(|(_, at_ms)| *at_ms >= window_ms).count();
                assert!(recent <= 10, "seed {seed}: {recent} failures");
            }
            drop(open);
            login_throttle.admit(&keys("dan", 2), now_ms);
            let mut table = login_throttle.table.lock();
            table.values_mut().for_each(|tally| tally.forget(now_ms + limits::LOGIN_WINDOW_MS));
            let busy = table.values().filter(|tally| !tally.is_idle()).count();
            assert_eq!(busy, 2, "seed {seed}: all but the one under way");
        }
    }

    #[tokio::test]
    async fn a_burst_waits_for_its_verdicts() {
        let (login_throttle, clock) = (LoginThrottle::default(), Clock::start());
        let begin = || login_throttle.begin(Purpose::Login, "Ann", None, clock);
        let mut under_way = Vec::new();
        for _ in 0..10 {
            under_way.push(begin().await.expect("begun"));
        }
        let good = async {
            // One after the other, the first ten turn out to be correct.
            while let Some(attempt) = under_way.pop() {
                drop(attempt);
                tokio::task::yield_now().await;
            }
        };
        let (eleventh, ()) = tokio::join!(begin(), good);
        drop(eleventh.expect("it waited and began"));
        assert!(
            login_throttle.table.lock().is_empty(),
            "nothing is left of a name that failed never"
        );
    }
}
