//! Replays and replaced snapshots that are in memory once for several followers.

use std::collections::VecDeque;

use bytes::Bytes;

use crate::id::ServiceName;
use crate::limits;
use crate::wire::instance_list::InstanceList;

/// Frames and snapshots shared by followers.
#[derive(Debug, Default)]
pub(super) struct ReplayCache {
    /// Frames of changes, the oldest first.
    replays: VecDeque<Replayed>,
    replay_bytes: usize,
    /// Snapshots that were replaced while they were on their way to followers.
    retired: Vec<InstanceList>,
}

/// The changes of a service between two revisions.
#[derive(Debug)]
pub(super) struct Replayed {
    pub(super) service: ServiceName,
    pub(super) since: u64,
    pub(super) revision: u64,
    pub(super) degraded: bool,
    pub(super) frame: Bytes,
}

impl ReplayCache {
    /// Remembers a snapshot that was replaced for as long as it is being sent.
    pub(super) fn retire(&mut self, snapshot: Option<InstanceList>) {
        self.forget_sent();
        self.retired.extend(snapshot);
    }

    /// Bytes of the replaced snapshots that are still being sent.
    pub(super) fn retired_bytes(&mut self) -> usize {
        self.forget_sent();
        self.retired.iter().map(InstanceList::bytes).sum()
    }

    fn forget_sent(&mut self) {
        self.retired.retain(|snapshot| !snapshot.is_unique());
    }

    pub(super) fn find(
        &self,
        of: &ServiceName,
        since: u64,
        revision: u64,
        degraded: bool,
    ) -> Option<&Bytes> {
        let is_it = |one: &&Replayed| {
            (one.since, one.revision, one.degraded) == (since, revision, degraded)
                && one.service == *of
        };
        self.replays.iter().find(is_it).map(|one| &one.frame)
    }

    pub(super) fn keep(&mut self, replayed: Replayed) {
        self.replay_bytes += replayed.frame.len();
        self.replays.push_back(replayed);
        while self.replays.len() > limits::REPLAYS_KEPT_MAX
            || self.replay_bytes > limits::REPLAYS_KEPT_BYTES_MAX
        {
            let Some(oldest) = self.replays.pop_front() else { break };
            self.replay_bytes -= oldest.frame.len();
        }
    }
}
