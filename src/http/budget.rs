//! Budgets in bytes, and the permits taken from them.
//!
//! A count of requests says little about memory: one response may be a thousand times as large as the next. So
//! code that holds bytes for a client holds a permit for them, and bytes beyond the budget are refused
//! before they are allocated.
//!
//! # Promises
//!
//! * A permit returns its bytes when it is dropped: after the last byte was written, or with the connection.
//! * A refused take leaves the budget as it was.
//!
//! # Not here
//!
//! The purpose of a budget, and the text of a refusal: `http::answers` and `http::body` have them.
//!
//! Imports nothing of the crate. Part of `http`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// A number of bytes that may be held together.
#[derive(Debug)]
pub struct Budget {
    held: AtomicUsize,
    bytes_max: usize,
}

impl Budget {
    /// A budget from which nothing has been taken.
    pub fn new(bytes_max: usize) -> Arc<Budget> {
        Arc::new(Budget { held: AtomicUsize::new(0), bytes_max })
    }

    /// Takes bytes, if `spared` stay for others.
    pub fn take(self: &Arc<Budget>, bytes: usize, spared: usize) -> Option<Permit> {
        let mut permit = Permit { budget: Arc::clone(self), bytes: 0 };
        permit.grow(bytes, spared).then_some(permit)
    }

    /// Takes bytes that are too few to be refused.
    pub fn take_anyway(self: &Arc<Budget>, bytes: usize) -> Permit {
        self.held.fetch_add(bytes, Ordering::Relaxed);
        Permit { budget: Arc::clone(self), bytes }
    }

    /// The bytes held now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }
}

/// Bytes of a budget, until it is dropped.
#[derive(Debug)]
pub struct Permit {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Permit {
    /// Takes more bytes. Returns false, and takes none, if there is no room.
    pub fn grow(&mut self, bytes: usize, spared: usize) -> bool {
        let bytes_max = self.budget.bytes_max.saturating_sub(spared);
        let taken = self.budget.held.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |held| {
            held.checked_add(bytes).filter(|&sum| sum <= bytes_max)
        });
        let is_taken = taken.is_ok();
        if is_taken {
            self.bytes += bytes;
        }
        is_taken
    }

    /// Sets the permit to the actual number of bytes.
    pub fn settle(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.budget.held.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            self.budget.held.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.budget.held.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    #[test]
    fn what_is_held_is_the_sum_of_the_permits() {
        for seed in 0..32 {
            let mut rng = Rng::seeded(seed);
            let budget = Budget::new(1_000);
            let mut permits: Vec<(Permit, usize)> = Vec::new();
            for step in 0..400 {
                let bytes = usize::try_from(rng.below(300)).expect("small");
                let held: usize = permits.iter().map(|(_, bytes)| bytes).sum();
                match (rng.below(4), permits.last_mut()) {
                    (0, Some(_)) => _ = permits.pop(),
                    (1, Some((permit, of))) => {
                        let grows = permit.grow(bytes, 100);
                        assert_eq!(grows, held + bytes <= 900, "seed {seed}, step {step}");
                        *of += if grows { bytes } else { 0 };
                    }
                    (2, Some((permit, of))) => {
                        permit.settle(bytes.min(*of));
                        *of = bytes.min(*of);
                    }
                    _ => {
                        let permit = budget.take(bytes, 0);
                        assert_eq!(permit.is_some(), held + bytes <= 1_000, "seed {seed}");
                        permits.extend(permit.map(|permit| (permit, bytes)));
                    }
                }
                let held: usize = permits.iter().map(|(_, bytes)| bytes).sum();
                assert_eq!(budget.held(), held, "seed {seed}, step {step}");
            }
            drop(permits);
            assert_eq!(budget.held(), 0);
        }
    }
}
