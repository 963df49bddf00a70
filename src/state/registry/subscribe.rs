//! Subscriptions: a follower gets a snapshot, or the changes after its revision. Each is built once for all
//! followers that need the same.
//!
//! A snapshot may have tens of megabytes and stays in memory until its slowest reader has read it. So while
//! a large one is being sent, the next subscriber gets the same bytes, and the few changes since. When the
//! service has changed more than its history holds, it needs a new snapshot; the older ones that are
//! still being sent have a bound together.
//!
//! # Promises
//!
//! * A [`ServiceSnapshot`] is the service as it stands: a snapshot at its revision, and the changes from there.
//! * A follower never gets a snapshot older than what it was sent before.
//! * The snapshots that are being sent take at most [`Settings::snapshots_bytes_max`] bytes and one
//!   snapshot a service.
//!
//! [`Settings::snapshots_bytes_max`]: super::settings::Settings::snapshots_bytes_max

use bytes::Bytes;

use super::Registry;
use super::commands::SnapshotNeed;
use super::replay_cache::Replayed;
use super::service::{self, Replay, is_shared};
use super::views::{Instances, ServiceSnapshot, Subscribed, View};
use crate::id::ServiceName;
use crate::limits;
use crate::wire::command::Since;

impl Registry {
    /// Answers a subscription: where the service stands, and how the client gets there. None where
    /// it needs a snapshot for which there is no room now.
    pub(in crate::state) fn subscribe(
        &mut self,
        name: &ServiceName,
        need: SnapshotNeed,
        since: Option<Since>,
    ) -> Option<Subscribed> {
        let since_revision = since.as_ref().map_or(0, |since| since.revision);
        let index = self.by_name.get(name).copied();
        let is_of_epoch = |since: &Since| *since.epoch == *self.epoch.as_str();
        // A client with a position in this history gets nothing older.
        let has_place = since.as_ref().is_some_and(is_of_epoch);
        let replay = since.map(|since| {
            match index {
                _ if !has_place => Replay::Gone,
                Some(service) => self.services[service].replay(since.revision),
                // Never seen: its revision is 0, and a client at 0 has everything.
                None if since.revision == 0 => Replay::Nothing,
                None => Replay::Gone,
            }
        });
        let recovered = replay.as_ref().map(|replay| !matches!(replay, Replay::Gone));
        let instances = match (need, recovered) {
            (SnapshotNeed::No, None | Some(true)) => Instances::Omitted,
            (SnapshotNeed::AtHand, None | Some(true)) => Instances::AtHand(self.newest(name)?),
            (SnapshotNeed::No | SnapshotNeed::Yes, _) if !has_place => {
                Instances::Needed(self.shared_snapshot(name)?)
            }
            _ => Instances::Needed(self.newest(name)?),
        };
        let replay = match (replay, index) {
            // A snapshot already holds the missed changes.
            (Some(Replay::Changes), Some(service))
                if !matches!(instances, Instances::Needed(_)) =>
            {
                Some(self.replay_frame(service, since_revision))
            }
            _ => None,
        };
        let view = self.view_without_instances(name.clone());
        Some(Subscribed { view, recovered, replay, instances })
    }

    /// A service for a new follower: a snapshot that is being sent already and the changes since, where there is
    /// one. None where a new snapshot has no room.
    fn shared_snapshot(&mut self, name: &ServiceName) -> Option<ServiceSnapshot> {
        let Some((index, outdated)) = self.outdated_snapshot(name) else {
            return self.newest(name);
        };
        let (service, revision) = (&self.services[index], outdated.revision);
        let bytes = service.changes_bytes(revision);
        if bytes.is_none_or(|bytes| bytes > limits::SNAPSHOT_CHANGES_BYTES_MAX) {
            return self.newest(name);
        }
        let instances = outdated.instances.clone();
        let view = View { revision, instances, ..service.view(&self.epoch) };
        Some(ServiceSnapshot { view, changes: Some(self.replay_frame(index, revision)) })
    }

    /// A service at its present revision, for a follower that may have been sent any up to that. None where a
    /// new snapshot has no room.
    pub(in crate::state) fn newest(&mut self, name: &ServiceName) -> Option<ServiceSnapshot> {
        if let Some((_, outdated)) = self.outdated_snapshot(name) {
            let bytes = outdated.instances.bytes();
            if self.replay_cache.retired_bytes() + bytes > self.settings.snapshots_bytes_max {
                return None;
            }
        }
        Some(ServiceSnapshot { view: self.view(name), changes: None })
    }

    /// The service, and its snapshot where that is outdated and still being sent.
    fn outdated_snapshot(&self, name: &ServiceName) -> Option<(usize, &service::CachedSnapshot)> {
        let &index = self.by_name.get(name)?;
        let (service, shared_min) =
            (&self.services[index], self.settings.snapshot_shared_bytes_min);
        let outdated = service.snapshot.as_ref()?;
        let is_it =
            outdated.revision < service.revision && is_shared(&outdated.instances, shared_min);
        is_it.then_some((index, outdated))
    }

    /// The frame of a service's changes since a revision, all of which are kept. Clients that were
    /// cut off together come back together: the frame is built once for all of them.
    fn replay_frame(&mut self, service: usize, since: u64) -> Bytes {
        let service = &self.services[service];
        let (revision, degraded) = (service.revision, service.shows_degraded());
        if let Some(frame) = self.replay_cache.find(&service.name, since, revision, degraded) {
            return frame.clone();
        }
        let frame = service.replay_frame(&self.epoch, since);
        let (service, shared) = (service.name.clone(), frame.clone());
        self.replay_cache.keep(Replayed { service, since, revision, degraded, frame: shared });
        frame
    }
}
