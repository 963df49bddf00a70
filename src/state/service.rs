//! One service: its members, its revision, and the changes that led to it.
//!
//! Imports `id` and `wire`. Imported by `state::registry` and `state::protection` only.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::{BufMut, Bytes, BytesMut};

use super::order::View;
use super::roster::Roster;
use crate::id::{Epoch, ServiceName};
use crate::wire::event::{Change, Position, service_change};

/// A service that was seen at least once since the epoch began.
///
/// # Invariants
///
/// 1. `history` holds the last changes: its newest is the step to `revision`, so it covers the
///    revisions from `revision - history.len()` on.
/// 2. `pending` holds the steps after `revision` that the present order has made; it is empty
///    between orders.
/// 3. `members` holds each registered instance once; `overdue` counts those past their lease.
/// 4. `snapshot`, where it is there, shows exactly `revision`.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Service {
    pub(super) name: ServiceName,
    pub(super) revision: u64,
    /// Indexes of the registered instances, pulled-out ones included.
    pub(super) members: Vec<u32>,
    pub(super) history: VecDeque<Change>,
    pub(super) pending: Vec<Change>,
    snapshot: Option<Bytes>,
    /// Everyone of the service as of `edition`, once someone has asked.
    pub(super) roster: Option<Arc<Roster>>,
    /// The registry's edition in which a member last changed.
    pub(super) edition: u64,

    /// Leases past their end that have not been expired.
    pub(super) overdue: usize,
    /// Instances restored from the store that were not heard of since and are not overdue yet.
    pub(super) unproven: usize,
    /// When the first overdue lease ran out, or the service was found degraded.
    pub(super) watched_since_ms: Option<u64>,
    /// Which watch that is: among several nodes the number of the entry that began it.
    pub(super) watch: u64,
    /// Since when expiry is held, in milliseconds since the Unix epoch.
    pub(super) degraded_since_ms: Option<u64>,
    pub(super) protection_enabled: bool,
    /// The mark that subscribers were last told.
    pub(super) told_degraded: bool,
    /// Whether this node has lost the others, and with them the right to be believed.
    pub(super) is_cut_off: bool,
    /// Whether the present order has something for the followers.
    pub(super) is_touched: bool,
}

impl Service {
    pub(super) fn new(name: ServiceName) -> Service {
        Service {
            name,
            revision: 0,
            members: Vec::new(),
            history: VecDeque::new(),
            pending: Vec::new(),
            snapshot: None,
            roster: None,
            edition: 0,
            overdue: 0,
            unproven: 0,
            watched_since_ms: None,
            watch: 0,
            degraded_since_ms: None,
            protection_enabled: true,
            told_degraded: false,
            is_cut_off: false,
            is_touched: false,
        }
    }

    pub(super) fn is_degraded(&self) -> bool {
        self.degraded_since_ms.is_some()
    }

    /// The mark as clients see it.
    pub(super) fn shows_degraded(&self) -> bool {
        self.is_degraded() || self.is_cut_off
    }

    /// Adds one step to what the present order has made.
    pub(super) fn push(&mut self, change: Change) {
        self.pending.push(change);
    }

    /// Ends the order: its steps become history. Returns the revision before them.
    pub(super) fn seal(&mut self, history_max: usize) -> u64 {
        let from = self.revision;
        self.revision += self.pending.len() as u64;
        if !self.pending.is_empty() {
            self.snapshot = None;
        }
        let kept = self.pending.len().min(history_max);
        while self.history.len() + kept > history_max {
            self.history.pop_front();
        }
        let forgotten = self.pending.len() - kept;
        self.history.extend(self.pending.drain(..).skip(forgotten));
        debug_assert!(self.history.len() <= history_max);
        from
    }

    pub(super) fn position<'a>(&'a self, epoch: &'a Epoch) -> Position<'a> {
        Position {
            service: &self.name,
            epoch,
            revision: self.revision,
            degraded: self.shows_degraded(),
        }
    }

    /// The frame from `since` to the present revision. None where the history does not reach back
    /// that far or `since` lies ahead; an empty one is never built.
    pub(super) fn replay(&self, epoch: &Epoch, since: u64) -> Replay {
        let Some(missed) = self.revision.checked_sub(since) else { return Replay::Gone };
        let Ok(missed) = usize::try_from(missed) else { return Replay::Gone };
        if missed == 0 {
            return Replay::Nothing;
        }
        if missed > self.history.len() {
            return Replay::Gone;
        }
        let changes = self.history.range(self.history.len() - missed..);
        Replay::Frame(service_change(self.position(epoch), since, changes))
    }

    /// The discoverable instances at the present revision, built at most once a revision.
    pub(super) fn snapshot<'a>(&mut self, instances: impl Iterator<Item = &'a Bytes>) -> Bytes {
        if let Some(snapshot) = &self.snapshot {
            return snapshot.clone();
        }
        let mut out = BytesMut::new();
        out.put_u8(b'[');
        for (index, json) in instances.enumerate() {
            if index > 0 {
                out.put_u8(b',');
            }
            out.extend_from_slice(json);
        }
        out.extend_from_slice(b"]}");
        let snapshot = out.freeze();
        self.snapshot = Some(snapshot.clone());
        snapshot
    }

    pub(super) fn view(&self, epoch: &Epoch, instances: Bytes) -> View {
        View {
            service: self.name.clone(),
            epoch: epoch.clone(),
            revision: self.revision,
            degraded: self.shows_degraded(),
            instances,
        }
    }
}

/// How a resume can be served.
#[derive(Debug)]
pub(super) enum Replay {
    /// The client has everything.
    Nothing,
    /// This frame holds what it missed.
    Frame(Bytes),
    /// What it missed is no longer there: it needs a snapshot.
    Gone,
}
