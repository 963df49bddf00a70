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
//! Imports `id`, `limits` and `wire`. Part of `state`.
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

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use serde_json::Value;

    use super::*;
    use crate::clock::Moment;
    use crate::id::Epoch;
    use crate::rng::Rng;
    use crate::state::registry::Settings;
    use crate::wire::frame;
    use crate::wire::instance::{Instance, Registration};

    const NOW: Moment = Moment::new(1_000, 0);
    const LARGE: usize = 4 * limits::KIB;

    fn registry(snapshots_bytes_max: usize, history_bytes_max: usize) -> Registry {
        let settings = Settings {
            snapshots_bytes_max,
            snapshot_shared_bytes_min: LARGE,
            history_bytes_max,
            ..Settings::default()
        };
        Registry::new(settings, Epoch::new("e"), 0, NOW)
    }

    /// An instance with so many bytes more than it needs.
    fn sent(name: &str, mark: u64, bytes: usize) -> Registration {
        let instance = Instance {
            service_id: Some("s".into()),
            instance_id: Some(name.into()),
            url: Some(format!("{mark}{}", "x".repeat(bytes)).into()),
            ..Instance::default()
        };
        instance.register().expect("valid")
    }

    fn register(registry: &mut Registry, name: &str, mark: u64, bytes: usize) {
        registry.register_alone(sent(name, mark, bytes), NOW).expect("there is room");
        registry.settle(NOW);
    }

    fn put(instances: &mut BTreeMap<String, String>, instance: &Value) {
        instances.insert(instance["instanceId"].to_string(), instance["url"].to_string());
    }

    /// What a client holds that was sent the picture.
    fn read(picture: &ServiceSnapshot) -> (u64, BTreeMap<String, String>) {
        let all: Value = serde_json::from_slice(picture.view.instances.json()).expect("JSON");
        let mut instances = BTreeMap::new();
        for instance in all.as_array().expect("a list") {
            put(&mut instances, instance);
        }
        let Some(changes) = &picture.changes else { return (picture.view.revision, instances) };
        let text = frame::payload(changes);
        let changes: Value = serde_json::from_slice(&text).expect("JSON");
        assert_eq!(changes["from"], picture.view.revision);
        for change in changes["changes"].as_array().expect("a list") {
            match change["changeType"].as_str() {
                Some("delete") => {
                    instances.remove(&change["instance"]["instanceId"].to_string());
                }
                _ => put(&mut instances, &change["instance"]),
            }
        }
        (changes["revision"].as_u64().expect("a number"), instances)
    }

    fn picture(registry: &mut Registry) -> Option<ServiceSnapshot> {
        registry.shared_snapshot(&ServiceName::of("s"))
    }

    #[test]
    fn who_comes_while_a_large_snapshot_is_sent_gets_the_same_bytes() {
        let mut registry = registry(limits::MIB, limits::MIB);
        register(&mut registry, "large", 0, LARGE);
        let first = picture(&mut registry).expect("there is room");
        register(&mut registry, "small", 1, 0);
        let second = picture(&mut registry).expect("there is room");
        assert!(first.view.instances.is_same(&second.view.instances));
        assert_eq!((second.view.revision, read(&second).0), (1, 2));
        // Once nobody is sent it, the next one is at the present revision.
        drop((first, second));
        let third = picture(&mut registry).expect("there is room");
        assert!(third.changes.is_none());
        assert_eq!(third.view.revision, 2);
    }

    /// Bytes of all snapshots that readers hold, each counted once.
    fn held_bytes(held: &[ServiceSnapshot]) -> usize {
        let all: BTreeMap<*const u8, usize> = held
            .iter()
            .map(|one| (one.view.instances.json().as_ptr(), one.view.instances.bytes()))
            .collect();
        all.values().sum()
    }

    /// Readers take snapshots of a service that changes, and keep them for a while: each is the
    /// service as it stands, and together they take no more than the bound and one snapshot.
    #[test]
    fn a_picture_is_the_service_as_it_stands_whoever_is_still_reading() {
        const BOUND: usize = 4 * LARGE;
        let (mut shared, mut refused) = (0, 0);
        for seed in 0..24 {
            let mut rng = Rng::seeded(seed);
            let mut registry = registry(BOUND, 2 * limits::KIB);
            register(&mut registry, "large", 0, LARGE);
            let mut model = read(&picture(&mut registry).expect("there is room")).1;
            let mut held: Vec<ServiceSnapshot> = Vec::new();
            for step in 0..400 {
                let name = format!("i{}", rng.below(6));
                match rng.below(6) {
                    0..3 => {
                        register(&mut registry, &name, step, 300);
                        let url = format!("\"{step}{}\"", "x".repeat(300));
                        model.insert(format!("\"{name}\""), url);
                    }
                    3 => {
                        registry.unregister(&sent(&name, 0, 0).identity, NOW);
                        registry.settle(NOW);
                        model.remove(&format!("\"{name}\""));
                    }
                    4 if !held.is_empty() && rng.below(3) == 0 => {
                        held.swap_remove(rng.below(held.len() as u64) as usize);
                    }
                    _ => {}
                }
                let what = format!("seed {seed}, step {step}");
                match picture(&mut registry) {
                    Some(picture) => {
                        let revision =
                            registry.view_without_instances(ServiceName::of("s")).revision;
                        assert_eq!(read(&picture), (revision, model.clone()), "{what}");
                        shared += usize::from(picture.changes.is_some());
                        if rng.below(3) == 0 {
                            held.push(picture);
                        }
                    }
                    None => refused += 1,
                }
                assert!(held_bytes(&held) <= BOUND + 2 * LARGE, "{what}");
                if rng.below(60) == 0 {
                    held.clear();
                    assert!(picture(&mut registry).is_some(), "{what}: nothing is being sent");
                }
            }
        }
        assert!(shared > 500 && refused > 100, "{shared} shared, {refused} refused");
    }
}
