//! When registry changes go to the store, and how much of them at once.
//!
//! A set is made of the state at the moment at which it goes. One that fails is marked as changed
//! again, so the next set holds what is true by then: a later change heals an earlier one.

use std::sync::Arc;

use super::audit_queue::AuditQueue;
use crate::clock::Moment;
use crate::limits;
use crate::state::registry::Registry;
use crate::state::registry::unsaved::{RegistryDelta, SetBound};
use crate::store::{SetOutcome, Store, retry_pause_ms};

/// The sets of registry changes on their way to the store.
#[derive(Debug)]
pub(super) struct Saver {
    bound: SetBound,
    next_ms: u64,
    /// The set that the store has.
    away: Option<Arc<RegistryDelta>>,
    /// Failures since the last set that was written.
    failures: u32,
    /// Failures since the server stops; none before.
    failures_since_hurry: Option<u32>,
    /// Whether the last set left something for the next.
    is_continued: bool,
}

impl Saver {
    pub(super) fn new(bound: SetBound) -> Saver {
        Saver {
            bound,
            next_ms: 0,
            away: None,
            failures: 0,
            failures_since_hurry: None,
            is_continued: false,
        }
    }

    /// When the next set goes, in milliseconds since the Unix epoch.
    pub(super) fn next_ms(&self) -> u64 {
        self.next_ms
    }

    /// Whether the store has a set, or what came of it has not been looked at.
    pub(super) fn is_busy(&self) -> bool {
        self.away.is_some()
    }

    /// Whether the last set was cut: what else waits for the store goes before the next part.
    pub(super) fn is_continued(&self) -> bool {
        self.is_continued
    }

    /// Something else went between two parts.
    pub(super) fn give_way(&mut self) {
        self.is_continued = false;
    }

    pub(super) fn is_due(&self, registry: &Registry, audit: &AuditQueue, now_ms: u64) -> bool {
        (registry.is_dirty() || !audit.is_empty()) && now_ms >= self.next_ms
    }

    /// Looks at what came of the last set. The store is idle.
    pub(super) fn settle(
        &mut self,
        store: &Store,
        registry: &mut Registry,
        audit: &mut AuditQueue,
        now_ms: u64,
    ) {
        let Some(outcome) = store.take_outcome() else { return };
        match outcome {
            SetOutcome::Written => {
                self.away = None;
                self.failures = 0;
            }
            SetOutcome::Refused => {
                self.put_back(registry, audit);
                self.failures = self.failures.saturating_add(1);
                let mut pause_ms = retry_pause_ms(self.failures);
                if let Some(failures) = &mut self.failures_since_hurry {
                    *failures = failures.saturating_add(1);
                    pause_ms = limits::STORE_RETRY_MS_MIN;
                }
                self.next_ms = now_ms + pause_ms;
            }
        }
    }

    /// Hands over the next set. The store is idle.
    pub(super) fn commit(
        &mut self,
        store: &Store,
        registry: &mut Registry,
        audit: &mut AuditQueue,
        now: Moment,
    ) {
        let mut delta = registry.take_delta(self.bound);
        audit.take(&mut delta, self.bound, now);
        let delta = Arc::new(delta);
        self.away = Some(Arc::clone(&delta));
        store.commit(delta);
        self.is_continued = registry.is_dirty() || !audit.is_empty();
        // What was cut off goes on at once.
        let is_stopping = self.failures_since_hurry.is_some();
        if !self.is_continued && !is_stopping {
            self.next_ms = now.unix_ms + limits::STORE_FLUSH_INTERVAL_MS;
        }
    }

    /// Marks as changed again what the store has not written.
    pub(super) fn put_back(&mut self, registry: &mut Registry, audit: &mut AuditQueue) {
        if let Some(delta) = self.away.take() {
            registry.put_back(&delta);
            audit.put_back(&delta);
        }
    }

    /// The server stops: the next set goes at once.
    pub(super) fn hurry(&mut self) {
        self.next_ms = 0;
        self.failures_since_hurry = Some(0);
    }

    /// Failures since then.
    pub(super) fn failures_since_hurry(&self) -> u32 {
        self.failures_since_hurry.unwrap_or(0)
    }
}
