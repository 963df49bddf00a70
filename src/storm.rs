//! Gives memory back after a storm: after thousands of connections have ended.
//!
//! mimalloc takes in blocks that other threads have freed, and frees empty pages, only now and then
//! while the thread that owns them allocates; it returns freed pages to the kernel some time later,
//! and only while it deals with another page. A silent thread would never do either, and the last
//! page of each size that its connections used would stay.
//!
//! So a thread that has seen many connections end makes a few rounds of allocations of the kind
//! that count for this (above 1 KiB, one collection in 10,000 of them), and of one block with a
//! page of its own. A round takes half a millisecond. The figures are in PERF.md.
//!
//! Tables shrink as well: [`shrink`] and [`shrink_table`].
//!
//! Imports `limits`. Imported by `state`, `ws`, `shard` and `control`.

use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};

use hashbrown::HashTable;

use crate::limits;

/// The rounds of one thread.
#[derive(Debug, Default)]
pub(crate) struct Storm {
    ended: usize,
    at_ms: Option<u64>,
    rounds_left: u8,
}

impl Storm {
    /// Notes that connections have ended.
    pub(crate) fn note_ends(&mut self, count: usize, now_ms: u64) {
        self.ended += count;
        if self.ended >= limits::STORM_CONNECTIONS {
            self.ended = 0;
            self.rounds_left = limits::STORM_ROUNDS;
            self.at_ms = Some(now_ms + limits::STORM_DELAY_MS);
        }
    }

    /// When the next round is due.
    pub(crate) fn due_ms(&self) -> Option<u64> {
        self.at_ms
    }

    /// Makes the next round, if it is due.
    pub(crate) fn let_time_pass(&mut self, now_ms: u64) {
        if self.at_ms.is_some_and(|at_ms| at_ms <= now_ms) {
            self.rounds_left -= 1;
            self.at_ms = (self.rounds_left > 0).then_some(now_ms + limits::STORM_DELAY_MS);
            give_back();
        }
    }
}

fn give_back() {
    for _ in 0..limits::STORM_ALLOCATIONS {
        drop(std::hint::black_box(Vec::<u8>::with_capacity(limits::STORM_SMALL_BYTES)));
    }
    drop(std::hint::black_box(Vec::<u8>::with_capacity(limits::STORM_LARGE_BYTES)));
}

/// Gives back most of a table's room when three quarters of it are empty. A table shrinks once for
/// as many removals as it has entries left, so a removal costs the same however often this is
/// called.
pub(crate) fn shrink<K: Eq + Hash, V, S: BuildHasher>(table: &mut HashMap<K, V, S>) {
    if has_much_room(table.len(), table.capacity()) {
        table.shrink_to(2 * table.len());
    }
}

/// The same for a table whose entries do not contain what `hash` hashes them by.
pub(crate) fn shrink_table<T>(table: &mut HashTable<T>, hash: impl Fn(&T) -> u64) {
    if has_much_room(table.len(), table.capacity()) {
        table.shrink_to(2 * table.len(), hash);
    }
}

fn has_much_room(count: usize, room: usize) -> bool {
    room > limits::TABLE_ENTRIES_KEPT && count < room / 4
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_shrinks_behind_its_entries() {
        let mut table: HashMap<usize, usize> = (0..100_000).map(|n| (n, n)).collect();
        let (mut shrunk, mut capacity) = (0, table.capacity());
        for n in 0..100_000 {
            table.remove(&n);
            shrink(&mut table);
            // A table's capacity falls a little with removals, too.
            shrunk += usize::from(table.capacity() < capacity / 4 * 3);
            capacity = table.capacity();
            assert!(capacity <= limits::TABLE_ENTRIES_KEPT || capacity <= 4 * (table.len() + 1));
        }
        assert!((1..=20).contains(&shrunk), "shrunk {shrunk} times");
    }

    #[test]
    fn a_storm_has_its_rounds_and_then_rests() {
        let mut storm = Storm::default();
        storm.note_ends(limits::STORM_CONNECTIONS - 1, 0);
        assert_eq!(storm.due_ms(), None, "no storm yet");
        storm.note_ends(1, 1_000);
        for _ in 0..limits::STORM_ROUNDS {
            let at_ms = storm.due_ms().expect("a round");
            storm.let_time_pass(at_ms - 1);
            assert_eq!(storm.due_ms(), Some(at_ms), "too early");
            storm.let_time_pass(at_ms);
        }
        assert_eq!(storm.due_ms(), None);
        storm.let_time_pass(u64::MAX);
    }
}
