//! Which of all kept changes or messages is the oldest.
//!
//! Histories drop their own oldest entries by themselves, so an age may outlive what it stands for;
//! the table that asks says which are still kept.
//!
//! # Promises
//!
//! * Ages come out in the order in which they went in.
//! * Those of entries that are gone are at most as many as those of entries that are kept, and
//!   [`SLACK`].

use std::collections::VecDeque;

/// Ages of entries that are gone which are not worth a look at all ages.
const SLACK: usize = 1_024;

/// When something was kept, and where.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Age {
    /// When it was kept, in milliseconds since the Unix epoch.
    pub(super) at_ms: u64,
    /// The history's place in its table.
    pub(super) place: u32,
    /// Tells apart the histories that used the same place one after the other.
    pub(super) incarnation: u32,
    /// The entry's number in its history.
    pub(super) number: u64,
}

/// The ages of one table, oldest first.
#[derive(Debug, Default)]
pub(super) struct Ages {
    queue: VecDeque<Age>,
    /// How many were left by the last look at all of them.
    left: usize,
}

impl Ages {
    /// Notes that an entry is kept. `is_kept` says of each earlier one whether it still is.
    pub(super) fn push(&mut self, age: Age, is_kept: impl Fn(&Age) -> bool) {
        if self.queue.len() > SLACK && self.queue.len() > 2 * self.left {
            self.queue.retain(is_kept);
            self.left = self.queue.len();
        }
        self.queue.push_back(age);
    }

    /// The oldest entry that is still kept.
    pub(super) fn oldest(&mut self, is_kept: impl Fn(&Age) -> bool) -> Option<Age> {
        while let Some(age) = self.queue.front() {
            if is_kept(age) {
                return Some(*age);
            }
            self.queue.pop_front();
        }
        self.queue = VecDeque::new();
        None
    }

    /// How many ages there are, those of entries that are gone included.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.queue.len()
    }
}
