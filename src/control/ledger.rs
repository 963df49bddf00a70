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
    away: Vec<(Origin, u64)>,
    batch: Option<Arc<Vec<Write>>>,
}

impl Ledger {
    /// Has a write wait. Gives it back where too many do.
    pub(super) fn enter(&mut self, waiting: Waiting) -> Option<Waiting> {
        if self.waiting.len() >= limits::WRITES_WAITING_MAX {
            return Some(waiting);
        }
        self.waiting.push_back(waiting);
        None
    }

    /// Whether anything waits, here or at the store.
    pub(super) fn is_waiting(&self) -> bool {
        !self.waiting.is_empty() || self.batch.is_some()
    }

    /// Takes back all that wait here, because the store takes nothing.
    pub(super) fn give_up(&mut self) -> Vec<Waiting> {
        self.waiting.drain(..).collect()
    }

    /// Takes the next writes for one transaction.
    pub(super) fn dispatch(&mut self) -> Option<Arc<Vec<Write>>> {
        if self.batch.is_some() || self.waiting.is_empty() {
            return None;
        }
        let count = self.waiting.len().min(limits::WRITES_PER_COMMIT_MAX);
        let mut writes = Vec::with_capacity(count);
        for waiting in self.waiting.drain(..count) {
            self.away.push((waiting.origin, waiting.accepted_ns));
            writes.push(waiting.write);
        }
        let batch = Arc::new(writes);
        self.batch = Some(Arc::clone(&batch));
        Some(batch)
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
