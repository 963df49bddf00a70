//! A rate limiter: how many calls an address may make within a time.
//!
//! Imports `address` and `limits`. Part of `http`.

use std::collections::{HashMap, VecDeque};

use parking_lot::Mutex;

use crate::address::AddressBlock;
use crate::limits;

/// The times of the calls, by address block.
#[derive(Debug)]
pub struct RateLimiter {
    table: Mutex<HashMap<AddressBlock, VecDeque<u64>>>,
    count_max: usize,
    window_ms: u64,
}

impl RateLimiter {
    /// A limiter without calls. `count_max` of zero is no limit.
    pub fn new(count_max: usize, window_ms: u64) -> RateLimiter {
        RateLimiter { table: Mutex::default(), count_max, window_ms }
    }

    /// The same with a window of a minute.
    pub fn a_minute(count_max: usize) -> RateLimiter {
        RateLimiter::new(count_max, 60_000)
    }

    /// The milliseconds to wait, if there were too many calls. Counts no call.
    pub fn wait_ms(&self, block: AddressBlock, now_ms: u64) -> Option<u64> {
        if self.count_max == 0 {
            return None;
        }
        let table = self.table.lock();
        let times = table.get(&block)?;
        // The newest ones count: the first of them has to leave the window.
        let first_ms = times.len().checked_sub(self.count_max).and_then(|at| times.get(at))?;
        let free_ms = first_ms + self.window_ms;
        (free_ms > now_ms).then(|| free_ms - now_ms)
    }

    /// Counts a call.
    ///
    /// # Errors
    ///
    /// The milliseconds to wait, if there were too many.
    pub fn take(&self, block: AddressBlock, now_ms: u64) -> Result<(), u64> {
        if self.count_max == 0 {
            return Ok(());
        }
        let mut table = self.table.lock();
        let is_fresh = |at_ms: u64| at_ms + self.window_ms > now_ms;
        if table.len() >= limits::RATE_ENTRIES_MAX && !table.contains_key(&block) {
            table.retain(|_, times| times.back().is_some_and(|&at_ms| is_fresh(at_ms)));
            if table.len() >= limits::RATE_ENTRIES_MAX {
                // So many addresses in one window are one attacker's. Those in the table stay
                // counted.
                return Err(self.window_ms);
            }
        }
        let times = table.entry(block).or_default();
        while times.front().is_some_and(|&at_ms| !is_fresh(at_ms)) {
            times.pop_front();
        }
        if times.len() >= self.count_max {
            let first_ms = times.front().copied().unwrap_or(now_ms);
            return Err((first_ms + self.window_ms).saturating_sub(now_ms).max(1));
        }
        times.push_back(now_ms);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn so_many_within_the_window_and_then_one_for_each_that_leaves_it() {
        let rate_limiter = RateLimiter::new(3, 1_000);
        let here = AddressBlock::of([192, 0, 2, 1].into());
        let there = AddressBlock::of([192, 0, 2, 2].into());
        for at_ms in [0, 100, 200] {
            assert_eq!(rate_limiter.take(here, at_ms), Ok(()));
        }
        assert_eq!(rate_limiter.take(here, 300), Err(700));
        assert_eq!(
            (rate_limiter.wait_ms(here, 300), rate_limiter.wait_ms(there, 300)),
            (Some(700), None)
        );
        assert_eq!(rate_limiter.wait_ms(here, 1_000), None);
        assert_eq!(rate_limiter.take(there, 300), Ok(()), "another address");
        assert_eq!(rate_limiter.take(here, 1_000), Ok(()));
        assert_eq!(rate_limiter.take(here, 1_050), Err(50));
        let free = RateLimiter::new(0, 1_000);
        assert!((0..100).all(|_| free.take(here, 0).is_ok() && free.wait_ms(here, 0).is_none()));
    }
}
