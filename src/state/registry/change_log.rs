//! The last changes of all services in one order, for readers of the whole registry.

use std::collections::{HashMap, VecDeque};

use crate::id::ServiceName;
use crate::limits;
use crate::wire::event::Change;

/// The last changes.
///
/// # Invariants
///
/// 1. `bytes` counts the JSON of the instances in `changes`.
#[derive(Debug, Default)]
pub(super) struct ChangeLog {
    changes: VecDeque<(ServiceName, Change)>,
    bytes: usize,
}

impl ChangeLog {
    /// Adds a change, and drops the oldest where there are too many.
    pub(super) fn push(&mut self, service: ServiceName, change: Change) {
        self.bytes += change.instance.len();
        while self.changes.len() >= limits::DELTA_CHANGES_MAX
            || self.bytes > limits::DELTA_BYTES_MAX
        {
            let Some((_, oldest)) = self.changes.pop_front() else { break };
            self.bytes -= oldest.instance.len();
        }
        self.changes.push_back((service, change));
    }

    /// The last `count` changes by service, the oldest first; none where not all of them are kept.
    pub(super) fn last(&self, count: usize) -> Option<Vec<(ServiceName, Vec<Change>)>> {
        let first = self.changes.len().checked_sub(count)?;
        let mut by_service: Vec<(ServiceName, Vec<Change>)> = Vec::new();
        let mut places: HashMap<&ServiceName, usize> = HashMap::new();
        for (service, change) in self.changes.range(first..) {
            let place = *places.entry(service).or_insert_with(|| {
                by_service.push((service.clone(), Vec::new()));
                by_service.len() - 1
            });
            by_service[place].1.push(change.clone());
        }
        Some(by_service)
    }
}
