//! How often a login may fail before the next attempt is refused unread.
//!
//! Counted by name and by address, whichever comes first: one password tried on many names is as
//! much of an attack as many passwords on one name. A success takes its attempt back.
//!
//! Imports `address` and `limits`. Imported by `http::users`.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::address::AddressBlock;
use crate::limits;

/// What failures are counted by.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Key {
    /// The name, in lower case.
    Name(Box<str>),
    /// The address.
    Address(AddressBlock),
}

/// The table.
#[derive(Debug, Default)]
pub struct Logins(Mutex<HashMap<Key, VecDeque<u64>>>);

impl Logins {
    /// Counts an attempt as failed until it is known to be good. Returns the milliseconds to wait
    /// where one of the keys has failed too often.
    ///
    /// # Errors
    ///
    /// How long to wait.
    pub fn begin(&self, keys: &[Key], now_ms: u64) -> Result<(), u64> {
        let mut table = self.0.lock();
        for key in keys {
            let Some(times) = table.get_mut(key) else { continue };
            while times.front().is_some_and(|&at_ms| at_ms + limits::LOGIN_WINDOW_MS <= now_ms) {
                times.pop_front();
            }
            if times.len() >= limits::LOGIN_FAILURES_MAX as usize {
                let first_ms = times.front().copied().unwrap_or(now_ms);
                return Err(first_ms + limits::LOGIN_WINDOW_MS - now_ms);
            }
        }
        if table.len() + keys.len() > limits::LOGIN_ENTRIES_MAX {
            table.retain(|_, times| {
                times.back().is_some_and(|&at_ms| at_ms + limits::LOGIN_WINDOW_MS > now_ms)
            });
        }
        for key in keys {
            // With the table full of fresh failures, those that are in it stay counted.
            if table.len() < limits::LOGIN_ENTRIES_MAX || table.contains_key(key) {
                table.entry(key.clone()).or_default().push_back(now_ms);
            }
        }
        Ok(())
    }

    /// The attempt that began at `at_ms` was good after all.
    pub fn succeed(&self, keys: &[Key], at_ms: u64) {
        let mut table = self.0.lock();
        for key in keys {
            if let Some(times) = table.get_mut(key) {
                if let Some(place) = times.iter().position(|&time| time == at_ms) {
                    times.remove(place);
                }
                if times.is_empty() {
                    table.remove(key);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    fn local(last: u8) -> Key {
        Key::Address(AddressBlock::of(IpAddr::from([127, 0, 0, last])))
    }

    #[test]
    fn the_eleventh_failure_of_a_minute_is_refused_unread() {
        let logins = Logins::default();
        let ann = [Key::Name("ann".into()), local(1)];
        for second in 0..10 {
            assert_eq!(logins.begin(&ann, second * 1_000), Ok(()));
        }
        assert_eq!(logins.begin(&ann, 10_000), Err(50_000));
        let elsewhere = [Key::Name("bob".into()), local(2)];
        assert_eq!(logins.begin(&elsewhere, 10_000), Ok(()), "another name, another address");
        let same_place = [Key::Name("cid".into()), local(1)];
        assert!(logins.begin(&same_place, 10_000).is_err(), "the address counts by itself");
        assert_eq!(logins.begin(&ann, 60_000), Ok(()), "the first failure has been forgotten");
    }

    #[test]
    fn a_success_is_no_failure() {
        let logins = Logins::default();
        let ann = [Key::Name("ann".into())];
        for at_ms in 0..50 {
            assert_eq!(logins.begin(&ann, at_ms), Ok(()));
            logins.succeed(&ann, at_ms);
        }
        assert!(logins.0.lock().is_empty());
    }
}
