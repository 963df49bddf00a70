//! Who waits for the disk.
//!
//! Writes gather while the store is busy with those before them, and then go as one transaction:
//! group commit (`DeWitt` et al., 1984), with no timer, because the store's own pace is the batch.
//!
//! Imports `limits`, `mailbox` and `state`. Part of `control`.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::limits;
use crate::mailbox::to_control::Origin;
use crate::state::durable::{Write, WriteResult};
use crate::wire::refusal::Refusal;

/// A write, and who waits for it.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) origin: Origin,
    pub(super) accepted_ns: u64,
    pub(super) write: Write,
}

/// The writes that wait, and those that the store has.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    waiting: VecDeque<Waiting>,
    /// Bytes of those, about.
    waiting_bytes: usize,
    away: Vec<(Origin, u64)>,
    batch: Option<Arc<Vec<Write>>>,
}

impl Ledger {
    /// Has a write wait. Gives it back where too many do.
    pub(super) fn enter(&mut self, waiting: Waiting) -> Option<Waiting> {
        let bytes = waiting.write.bytes();
        let is_full = self.waiting.len() >= limits::WRITES_WAITING_MAX
            || self.waiting_bytes + bytes > limits::WRITES_WAITING_BYTES_MAX;
        // One that is larger than all the room there is waits alone.
        if is_full && !self.waiting.is_empty() {
            return Some(waiting);
        }
        self.waiting_bytes += bytes;
        self.waiting.push_back(waiting);
        None
    }

    /// Whether anything waits, here or at the store.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || self.batch.is_some()
    }

    /// Whether there is a batch to be dispatched.
    pub(super) fn has_next(&self) -> bool {
        self.batch.is_none() && !self.waiting.is_empty()
    }

    /// Takes back all that wait here, because the store takes nothing.
    pub(super) fn give_up(&mut self) -> Vec<Waiting> {
        self.waiting_bytes = 0;
        self.waiting.drain(..).collect()
    }

    /// How many writes wait, here or at the store.
    pub(super) fn len(&self) -> usize {
        self.waiting.len() + self.batch.as_ref().map_or(0, |batch| batch.len())
    }

    /// Takes the next writes for one transaction.
    pub(super) fn dispatch(&mut self) -> Option<Arc<Vec<Write>>> {
        if self.batch.is_some() || self.waiting.is_empty() {
            return None;
        }
        let count = self.next_count();
        let mut writes = Vec::with_capacity(count);
        for waiting in self.waiting.drain(..count) {
            self.waiting_bytes = self.waiting_bytes.saturating_sub(waiting.write.bytes());
            self.away.push((waiting.origin, waiting.accepted_ns));
            writes.push(waiting.write);
        }
        let batch = Arc::new(writes);
        self.batch = Some(Arc::clone(&batch));
        Some(batch)
    }

    /// How many of those that wait go into the next transaction: at least one.
    fn next_count(&self) -> usize {
        let mut bytes = 0;
        let fits = self.waiting.iter().take(limits::WRITES_PER_COMMIT_MAX).take_while(|waiting| {
            bytes += waiting.write.bytes();
            bytes <= limits::WRITES_PER_COMMIT_BYTES_MAX
        });
        fits.count().max(1)
    }

    /// Joins the store's results to the writes they are of. No results are those of something else.
    pub(super) fn settle(&mut self, results: Vec<WriteResult>) -> Vec<(Waiting, WriteResult)> {
        if results.is_empty() {
            return Vec::new();
        }
        let Some(batch) = self.batch.take() else { return Vec::new() };
        let writes = Arc::try_unwrap(batch).unwrap_or_else(|shared| (*shared).clone());
        let mut results = results.into_iter();
        let away = std::mem::take(&mut self.away);
        let joined = away.into_iter().zip(writes).map(|((origin, accepted_ns), write)| {
            let result = results.next().unwrap_or_else(|| Err(Refusal::internal()));
            (Waiting { origin, accepted_ns, write }, result)
        });
        joined.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{MessageId, UserId};
    use crate::state::durable::Message;

    fn message(bytes: usize) -> Waiting {
        let write = Write::Private(Message {
            id: MessageId::from_parts(1, 1, 0),
            from: UserId::new("a"),
            to: UserId::new("b"),
            content: "x".repeat(bytes),
            at_s: 1,
        });
        Waiting { origin: Origin::Server, accepted_ns: 0, write }
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let mut ledger = Ledger::default();
        let count = (0..1_000).take_while(|_| ledger.enter(message(1 << 20)).is_none()).count();
        assert_eq!(count, limits::WRITES_WAITING_BYTES_MAX / (1 << 20) - 1);
        assert_eq!(ledger.len(), count);
        let batch = ledger.dispatch().expect("there are some");
        assert_eq!(batch.len(), limits::WRITES_PER_COMMIT_BYTES_MAX / (1 << 20) - 1);
        assert!(ledger.enter(message(1 << 20)).is_none(), "there is room again");
        assert!(ledger.dispatch().is_none(), "one transaction at a time");
        ledger.settle(batch.iter().map(|_| Err(Refusal::internal())).collect());
        assert_eq!(ledger.give_up().len(), count + 1 - batch.len());
        assert!(ledger.enter(message(limits::WRITES_WAITING_BYTES_MAX * 2)).is_none());
        assert!(ledger.enter(message(1)).is_some());
        assert_eq!(ledger.dispatch().map(|batch| batch.len()), Some(1), "a large one goes alone");
    }
}
