//! The commit queue: writes on their way to the store, and the commands that wait for them.
//!
//! Writes gather while the store is busy with those before them, and then go as one transaction:
//! group commit (`DeWitt` et al., 1984), with no timer, because the store's own pace is the batch.

use std::collections::VecDeque;
use std::sync::Arc;

use crate::limits;
use crate::state::durable::{Write, WriteResult};
use crate::state::effect::{Continuation, StoreWrite};
use crate::wire::refusal::Refusal;

/// A command that waits for its write.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) accepted_ns: u64,
    pub(super) continuation: Continuation<WriteResult>,
}

/// The writes that wait, and those that the store has.
#[derive(Debug, Default)]
pub(super) struct CommitQueue {
    queue: VecDeque<(Write, Waiting)>,
    /// Bytes of those, about.
    queue_bytes: usize,
    away: Vec<Waiting>,
    batch: Option<Arc<Vec<Write>>>,
}

impl CommitQueue {
    /// Has a write wait for the store. Gives its command back where too many do.
    pub(super) fn enter(&mut self, accepted_ns: u64, write: StoreWrite) -> Option<Waiting> {
        let StoreWrite { write, continuation } = write;
        let waiting = Waiting { accepted_ns, continuation };
        let bytes = write.bytes();
        let is_full = self.queue.len() >= limits::WRITES_WAITING_MAX
            || self.queue_bytes + bytes > limits::WRITES_WAITING_BYTES_MAX;
        // One that is larger than all the room there is waits alone.
        if is_full && !self.queue.is_empty() {
            return Some(waiting);
        }
        self.queue_bytes += bytes;
        self.queue.push_back((write, waiting));
        None
    }

    /// Whether anything waits, here or at the store.
    pub(super) fn is_waiting(&self) -> bool {
        !self.queue.is_empty() || self.batch.is_some()
    }

    /// Whether there is a batch to be dispatched.
    pub(super) fn has_next(&self) -> bool {
        self.batch.is_none() && !self.queue.is_empty()
    }

    /// Takes back all that wait here, because the store takes nothing.
    pub(super) fn give_up(&mut self) -> Vec<Waiting> {
        self.queue_bytes = 0;
        self.queue.drain(..).map(|(_, waiting)| waiting).collect()
    }

    /// How many writes wait, here or at the store.
    pub(super) fn len(&self) -> usize {
        self.queue.len() + self.batch.as_ref().map_or(0, |batch| batch.len())
    }

    /// Takes the next writes for one transaction.
    pub(super) fn dispatch(&mut self) -> Option<Arc<Vec<Write>>> {
        if self.batch.is_some() || self.queue.is_empty() {
            return None;
        }
        let count = self.next_count();
        let mut writes = Vec::with_capacity(count);
        for (write, waiting) in self.queue.drain(..count) {
            self.queue_bytes = self.queue_bytes.saturating_sub(write.bytes());
            self.away.push(waiting);
            writes.push(write);
        }
        let batch = Arc::new(writes);
        self.batch = Some(Arc::clone(&batch));
        Some(batch)
    }

    /// How many of those that wait go into the next transaction: at least one.
    fn next_count(&self) -> usize {
        let mut bytes = 0;
        let fits =
            self.queue.iter().take(limits::WRITES_PER_COMMIT_MAX).take_while(|(write, _)| {
                bytes += write.bytes();
                bytes <= limits::WRITES_PER_COMMIT_BYTES_MAX
            });
        fits.count().max(1)
    }

    /// Joins the store's results to the commands that wait for them. No results are those of something
    /// else.
    pub(super) fn settle(&mut self, results: Vec<WriteResult>) -> Vec<(Waiting, WriteResult)> {
        if results.is_empty() || self.batch.take().is_none() {
            return Vec::new();
        }
        let mut results = results.into_iter();
        let away = std::mem::take(&mut self.away);
        let joined = away.into_iter().map(|waiting| {
            let result = results.next().unwrap_or_else(|| Err(Refusal::internal()));
            (waiting, result)
        });
        joined.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{MessageId, UserId};
    use crate::state::State;
    use crate::state::journal::{Addressee, DirectMessage, JournalEntry};

    fn message(bytes: usize) -> StoreWrite {
        let (from, to) = (UserId::new("a"), Addressee::User(UserId::new("b")));
        let message = DirectMessage { from, to, content: "x".repeat(bytes) };
        let entry = JournalEntry { sequence: 0, id: MessageId::from_parts(1, 1, 0), message };
        let continuation = Continuation::new(|_: &mut State, _, _| {});
        StoreWrite { write: Write::Message(Arc::new(entry)), continuation }
    }

    #[test]
    fn what_waits_is_bounded_in_bytes() {
        let mut queue = CommitQueue::default();
        let count = (0..1_000).take_while(|_| queue.enter(0, message(1 << 20)).is_none()).count();
        assert_eq!(count, limits::WRITES_WAITING_BYTES_MAX / (1 << 20) - 1);
        assert_eq!(queue.len(), count);
        let batch = queue.dispatch().expect("there are some");
        assert_eq!(batch.len(), limits::WRITES_PER_COMMIT_BYTES_MAX / (1 << 20) - 1);
        assert!(queue.enter(0, message(1 << 20)).is_none(), "there is room again");
        assert!(queue.dispatch().is_none(), "one transaction at a time");
        queue.settle(batch.iter().map(|_| Err(Refusal::internal())).collect());
        assert_eq!(queue.give_up().len(), count + 1 - batch.len());
        assert!(queue.enter(0, message(limits::WRITES_WAITING_BYTES_MAX * 2)).is_none());
        assert!(queue.enter(0, message(1)).is_some());
        assert_eq!(queue.dispatch().map(|batch| batch.len()), Some(1), "a large one goes alone");
    }
}
