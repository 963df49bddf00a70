//! One service: its members, its revision, and the changes that led to it.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;

use super::listing::ServiceListing;
use super::settings::Settings;
use super::views::View;
use crate::id::{Epoch, ServiceName};
use crate::limits;
use crate::wire::event::{Change, Position, service_change};
use crate::wire::instance_list::InstanceList;

/// A service that was seen at least once since the epoch began.
///
/// # Invariants
///
/// 1. `history` holds the last changes: its newest is the step to `revision`, so it covers the
///    revisions from `revision - history.len()` on.
/// 2. `pending` holds the steps after `revision` that the present command has made; it is empty
///    between commands.
/// 3. `members` holds each registered instance once; `overdue` counts those past their lease.
/// 4. `snapshot`, where it is there, shows the service at its own revision: at `revision`, or, where
///    it is large and followers are still being sent it, at an earlier one.
/// 5. `history_bytes` is what the changes in `history` take in a frame; `json_bytes` is the JSON of
///    all members.
/// 6. `empty` is there exactly while there are no members.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Service {
    pub(super) name: ServiceName,
    pub(super) revision: u64,
    /// Tells apart the services that used the same place one after the other.
    pub(super) incarnation: u32,
    /// Whether followers have yet to hear at which revision it begins: above 0 where names were
    /// forgotten before it came.
    pub(super) begins: bool,
    /// Since when it has no members.
    pub(super) empty: Option<Emptiness>,
    pub(super) json_bytes: usize,
    /// Indexes of the registered instances, pulled-out ones included.
    pub(super) members: Vec<u32>,
    pub(super) history: VecDeque<Change>,
    pub(super) history_bytes: usize,
    pub(super) pending: Vec<Change>,
    pub(super) snapshot: Option<CachedSnapshot>,
    /// Everyone of the service as of `listing_version`, once someone has asked.
    pub(super) listing: Option<Arc<ServiceListing>>,
    /// The registry's `listing_version` with the last change of a member.
    pub(super) listing_version: u64,

    /// Leases past their end that have not been expired.
    pub(super) overdue: usize,
    /// Instances restored from the store that were not heard of since and are not overdue yet.
    pub(super) unconfirmed: usize,
    /// When the first overdue lease ran out, or the service was found degraded.
    pub(super) watched_since_ms: Option<u64>,
    /// Which watch that is: among several nodes the number of the entry that began it.
    pub(super) watch: u64,
    /// Since when expiry is held, in milliseconds since the Unix epoch.
    pub(super) degraded_since_ms: Option<u64>,
    pub(super) protection_enabled: bool,
    /// The `degraded` that followers were last told.
    pub(super) told_degraded: bool,
    /// Whether this node has lost the others, and with them the right to be believed.
    pub(super) is_cut_off: bool,
    /// Whether the present command has something for the followers.
    pub(super) is_touched: bool,
}

impl Service {
    pub(super) fn new(name: ServiceName) -> Service {
        Service {
            name,
            revision: 0,
            incarnation: 0,
            begins: false,
            empty: None,
            json_bytes: 0,
            members: Vec::new(),
            history: VecDeque::new(),
            history_bytes: 0,
            pending: Vec::new(),
            snapshot: None,
            listing: None,
            listing_version: 0,
            overdue: 0,
            unconfirmed: 0,
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

    /// `degraded` as clients see it.
    pub(super) fn shows_degraded(&self) -> bool {
        self.is_degraded() || self.is_cut_off
    }

    /// Ends the command: its steps become history. Returns the revision before them.
    pub(super) fn seal(&mut self, settings: &Settings) -> u64 {
        let from = self.revision;
        self.revision += self.pending.len() as u64;
        if !self.pending.is_empty() {
            // A large one stays while it is being sent, so that others get the same bytes.
            let shared_min = settings.snapshot_shared_bytes_min;
            self.snapshot =
                self.snapshot.take().filter(|one| is_shared(&one.instances, shared_min));
        }
        self.history_bytes += self.pending.iter().map(Change::wire_bytes).sum::<usize>();
        self.history.extend(self.pending.drain(..));
        while self.history.len() > settings.history_max
            || self.history_bytes > settings.history_bytes_max
        {
            self.drop_oldest();
        }
        from
    }

    /// Forgets the oldest change. Returns the bytes that gave back.
    pub(super) fn drop_oldest(&mut self) -> usize {
        let bytes = self.history.pop_front().map_or(0, |change| change.wire_bytes());
        self.history_bytes -= bytes;
        if self.history.is_empty() {
            self.history = VecDeque::new();
        }
        bytes
    }

    /// Whether the step to a revision is in the history.
    pub(super) fn keeps(&self, revision: u64) -> bool {
        revision <= self.revision && self.revision - revision < self.history.len() as u64
    }

    pub(super) fn position<'a>(&'a self, epoch: &'a Epoch) -> Position<'a> {
        Position {
            service: &self.name,
            epoch,
            revision: self.revision,
            degraded: self.shows_degraded(),
        }
    }

    /// How a client at `since` gets to the present revision.
    pub(super) fn replay(&self, since: u64) -> Replay {
        match self.changes_bytes(since) {
            Some(_) if since == self.revision => Replay::Nothing,
            // Beyond that the instances as they are now cost less.
            Some(bytes) if bytes <= limits::REPLAY_BYTES_MIN.max(self.json_bytes) => {
                Replay::Changes
            }
            _ => Replay::Gone,
        }
    }

    /// Bytes of the changes from `since` to the present revision in a frame; none where they are not
    /// all kept.
    pub(super) fn changes_bytes(&self, since: u64) -> Option<usize> {
        let missed = usize::try_from(self.revision.checked_sub(since)?).ok()?;
        let first = self.history.len().checked_sub(missed)?;
        Some(self.history.range(first..).map(Change::wire_bytes).sum())
    }

    /// The frame of the changes from `since` to the present revision, all of which are kept.
    pub(super) fn replay_frame(&self, epoch: &Epoch, since: u64) -> Bytes {
        let missed = usize::try_from(self.revision - since).unwrap_or(usize::MAX);
        let changes = self.history.range(self.history.len().saturating_sub(missed)..);
        service_change(self.position(epoch), since, changes)
    }

    /// The snapshot at the present revision, where it is built already.
    pub(super) fn present_snapshot(&self) -> Option<&InstanceList> {
        self.snapshot
            .as_ref()
            .filter(|snapshot| snapshot.revision == self.revision)
            .map(|snapshot| &snapshot.instances)
    }

    /// Builds the snapshot at the present revision. Returns it, and the one it replaces.
    pub(super) fn build_snapshot<'a>(
        &mut self,
        members: usize,
        instances: impl Iterator<Item = &'a Bytes>,
    ) -> (InstanceList, Option<InstanceList>) {
        let list = InstanceList::encode(self.json_bytes, members, instances);
        let built = CachedSnapshot { revision: self.revision, instances: list.clone() };
        let replaced = self.snapshot.replace(built);
        (list, replaced.map(|snapshot| snapshot.instances))
    }

    /// It as it stands, without its instances.
    pub(super) fn view(&self, epoch: &Epoch) -> View {
        View {
            service: self.name.clone(),
            epoch: epoch.clone(),
            revision: self.revision,
            degraded: self.shows_degraded(),
            instances: InstanceList::default(),
            rules: None,
        }
    }
}

/// The discoverable instances of a service at one revision.
#[derive(Debug)]
pub(super) struct CachedSnapshot {
    pub(super) revision: u64,
    pub(super) instances: InstanceList,
}

/// Whether a snapshot is large enough to be shared and on its way to a follower.
pub(super) fn is_shared(instances: &InstanceList, bytes_min: usize) -> bool {
    instances.bytes() >= bytes_min && !instances.is_unique()
}

/// Since when a service has no members.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Emptiness {
    /// Its place among all services in the order of becoming empty.
    pub(super) stamp: u64,
    /// Since when, in milliseconds since the Unix epoch.
    pub(super) since_ms: u64,
}

/// How a resume can be served.
#[derive(Debug)]
pub(super) enum Replay {
    /// The client has everything.
    Nothing,
    /// The missed changes are kept, and smaller than a snapshot.
    Changes,
    /// The missed changes are not all kept: it needs a snapshot.
    Gone,
}
