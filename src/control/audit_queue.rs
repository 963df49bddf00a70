//! The audit queue: what happened, on its way to the store.
//!
//! Events go with the sets of the registry's changes, twice a second; among several nodes, whose log has the
//! registry, a set has events alone. Each has a number of this node, by which the store tells one that it has
//! already: a set that was reported as failed may have been written.

use std::collections::VecDeque;

use serde_json::json;

use crate::clock::Moment;
use crate::limits;
use crate::state::audit::{Actor, AuditEvent, Note, kind};
use crate::state::registry::unsaved::{AuditBounds, RegistryDelta, Row, SetBound};

/// How much of the audit log is kept.
#[derive(Debug, Clone, Copy)]
pub struct AuditSettings {
    /// For how long, in milliseconds.
    pub age_ms_max: u64,
    /// How many bytes.
    pub bytes_max: u64,
}

/// The events that the store does not have.
#[derive(Debug)]
pub(super) struct AuditQueue {
    node: String,
    settings: AuditSettings,
    waiting: VecDeque<(u64, Box<AuditEvent>)>,
    /// Bytes of those.
    bytes: usize,
    /// The number of the last event.
    last: u64,
    /// Events that found no room since the last set.
    lost: u64,
}

impl AuditQueue {
    pub(super) fn new(node: &str, settings: AuditSettings) -> AuditQueue {
        let (node, waiting) = (node.to_owned(), VecDeque::new());
        AuditQueue { node, settings, waiting, bytes: 0, last: 0, lost: 0 }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Takes in an event. Where there are too many, it is counted and lost.
    pub(super) fn push(&mut self, event: Box<AuditEvent>) {
        let bytes = event.bytes();
        if self.waiting.len() >= limits::AUDIT_WAITING_MAX
            || self.bytes + bytes > limits::AUDIT_WAITING_BYTES_MAX
        {
            if self.lost == 0 {
                tracing::error!("the audit log loses events: the store does not take them");
            }
            self.lost += 1;
            return;
        }
        self.last += 1;
        self.bytes += bytes;
        self.waiting.push_back((self.last, event));
    }

    /// Adds the next events to a set, as far as its bound allows.
    pub(super) fn take(&mut self, delta: &mut RegistryDelta, bound: SetBound, now: Moment) {
        if self.lost > 0 && self.waiting.len() < limits::AUDIT_WAITING_MAX {
            let note = Note::new(kind::LOST, now).because("the store did not take them");
            let note = note.with(&json!({"count": self.lost}));
            self.lost = 0;
            self.push(Box::new(AuditEvent { note, actor: Actor::SERVER.into() }));
        }
        let AuditSettings { age_ms_max, bytes_max } = self.settings;
        let from_ms = now.wall_ms.saturating_sub(age_ms_max);
        delta.audit = AuditBounds { node: self.node.clone(), from_ms, bytes_max };
        let mut bytes = 0;
        while delta.rows.len() < bound.rows.max(1) && bytes < bound.bytes {
            let Some((number, event)) = self.waiting.pop_front() else { break };
            bytes += event.bytes();
            self.bytes -= event.bytes();
            delta.rows.push(Row::Audit(number, event));
        }
    }

    /// Takes back the events of a set that was not written.
    pub(super) fn put_back(&mut self, delta: &RegistryDelta) {
        for row in delta.rows.iter().rev() {
            if let Row::Audit(number, event) = row {
                self.bytes += event.bytes();
                self.waiting.push_front((*number, event.clone()));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(text: &str) -> AuditEvent {
        let note = Note::new(kind::CHANGED, Moment::new(5, 5)).because(text.to_owned());
        AuditEvent { note, actor: Actor::SERVER.into() }
    }

    fn numbers(delta: &RegistryDelta) -> Vec<u64> {
        let number = |row: &Row| match row {
            Row::Audit(number, _) => *number,
            _ => 0,
        };
        delta.rows.iter().map(number).collect()
    }

    #[test]
    fn a_set_that_failed_comes_again_in_its_order() {
        let settings = AuditSettings { age_ms_max: 3, bytes_max: 9 };
        let mut queue = AuditQueue::new("n", settings);
        (0..5).for_each(|_| queue.push(event("x").into()));
        let (mut delta, now) = (RegistryDelta::default(), Moment::new(10, 10));
        queue.take(&mut delta, SetBound { rows: 3, bytes: usize::MAX }, now);
        assert_eq!((numbers(&delta), delta.audit.from_ms), (vec![1, 2, 3], 7));
        queue.push(event("y").into());
        queue.put_back(&delta);
        let mut again = RegistryDelta::default();
        queue.take(&mut again, SetBound::NONE, now);
        assert_eq!(numbers(&again), [1, 2, 3, 4, 5, 6]);
        assert_eq!((queue.bytes, queue.is_empty()), (0, true));
    }

    #[test]
    fn what_finds_no_room_is_counted_and_told() {
        let settings = AuditSettings { age_ms_max: 3, bytes_max: 9 };
        let mut queue = AuditQueue::new("n", settings);
        let large = "x".repeat(1 << 20);
        let fits = limits::AUDIT_WAITING_BYTES_MAX / (1 << 20) - 1;
        (0..fits + 3).for_each(|_| queue.push(event(&large).into()));
        assert_eq!((queue.len(), queue.lost), (fits, 3));
        let mut delta = RegistryDelta::default();
        queue.take(&mut delta, SetBound::NONE, Moment::new(10, 10));
        let Some(Row::Audit(_, last)) = delta.rows.last() else { panic!("an event") };
        assert_eq!(
            (last.note.kind, last.note.detail.as_deref()),
            (kind::LOST, Some("{\"count\":3}"))
        );
    }
}
