//! The registry as records: snapshots, sets of changes for the store, and the restoring of a snapshot.
//!
//! # Promises
//!
//! * Every lease of a restored registry gets one full period.
//! * Snapshots of the store and of the log are restored by the same function.
//!
//! Imports its siblings. Part of `state::registry`.

use std::collections::BTreeSet;

use super::log_position::SELF;
use super::service::Service;
use super::unsaved::{Mark, RegistryDelta, SetBound};
use super::{Member, Registry};
use crate::clock::Moment;
use crate::id::{Epoch, InstanceIdentity, ServiceName};
use crate::state::cluster_presence::update::PresenceSnapshot;
use crate::state::entry::FORMAT;
use crate::state::snapshot::{InstanceRecord, PullOutRecord, ServiceRecord, Snapshot};

impl Registry {
    /// The whole registry at the present position of the log, without the people. Linear in the
    /// instances.
    pub fn snapshot(&self) -> Snapshot {
        let log = &self.log;
        // Those without instances stand last, in the order in which they became empty.
        let in_use = self.services.iter().filter(|(_, one)| one.empty.is_none());
        let in_order = in_use.map(|(service, _)| service).chain(self.empties.values().copied());
        Snapshot {
            format: FORMAT,
            position: log.entry_id.clone(),
            sequence: log.sequence,
            epoch: self.epoch.as_str().to_owned(),
            version: self.version(),
            services: in_order.map(|index| self.services[index].record()).collect(),
            instances: self.members.iter().map(|(_, one)| self.record_of(one)).collect(),
            revision_floor: self.revision_floor,
            pull_outs: self
                .pulled_out
                .iter()
                .map(|(identity, by)| PullOutRecord::new(identity, by))
                .collect(),
            nodes: log.nodes.iter().map(|node| (node.name.to_string(), node.last_number)).collect(),
            people: PresenceSnapshot::default(),
        }
    }

    fn record_of(&self, member: &Member) -> InstanceRecord {
        InstanceRecord {
            identity: member.identity.as_str().to_owned(),
            service: self.services[member.service].name.as_str().to_owned(),
            json: member.json.clone(),
            ttl_ms: member.ttl_ms,
            owner: self.log.nodes[member.owner as usize].name.to_string(),
            lease: member.lease,
            is_overdue: member.is_overdue,
        }
    }

    /// Fills an empty registry from a snapshot. The history goes on under the snapshot's epoch; where it has
    /// none, a new one begins under the registry's own. Leases of this node count as proposed: an entry of
    /// before may yet end them, so their next renewal goes through the log.
    #[must_use]
    pub fn restore(mut self, snapshot: Snapshot, now: Moment) -> Registry {
        if !snapshot.epoch.is_empty() {
            self.epoch = Epoch::new(&snapshot.epoch);
        }
        self.version = snapshot.version;
        self.revision_floor = snapshot.revision_floor;
        for record in snapshot.pull_outs {
            let identity = InstanceIdentity::from_canonical(&record.identity);
            self.pulled_out.insert(&identity, record.pulled_out_by(), false);
        }
        for record in &snapshot.services {
            self.restore_record(record, snapshot.sequence, now);
        }
        for record in snapshot.instances {
            self.restore_instance(record, now);
        }
        for (name, number) in &snapshot.nodes {
            let node = self.log.node(&name.as_str().into());
            self.log.nodes[node as usize].last_number = *number;
        }
        self.log.install(snapshot.sequence, snapshot.position);
        self.trim_pull_outs();
        self
    }

    fn restore_record(&mut self, record: &ServiceRecord, sequence: u64, now: Moment) {
        let since_ms = record.empty_since_ms.map_or(now.unix_ms, |at_ms| at_ms.min(now.unix_ms));
        let index = self.restore_service(&ServiceName::of(&record.service), since_ms);
        let service = &mut self.services[index];
        service.revision = record.revision;
        service.protection_enabled = record.protection_enabled;
        if record.degraded_since_ms.is_some() {
            service.degraded_since_ms = record.degraded_since_ms;
            // Followers see it in the snapshot that they get.
            service.told_degraded = true;
            self.totals.degraded_services += 1;
        }
        if let Some(watch) = record.watch.or(record.degraded_since_ms.map(|_| sequence)) {
            (service.watched_since_ms, service.watch) = (Some(now.unix_ms), watch);
            self.watched.push(index);
        }
    }

    fn restore_instance(&mut self, record: InstanceRecord, now: Moment) {
        let service = self.restore_service(&ServiceName::of(&record.service), now.unix_ms);
        let identity = InstanceIdentity::from_canonical(&record.identity);
        let index = self.admit(service, identity, record.json, record.ttl_ms, now);
        if record.is_overdue {
            self.members[index as usize].is_overdue = true;
            self.services[service].overdue += 1;
        }
        if record.owner.is_empty() {
            self.members[index as usize].is_unconfirmed = true;
            self.services[service].unconfirmed += 1;
            return;
        }
        let owner = self.log.node(&record.owner.as_str().into());
        self.assign_lease(index, owner, record.lease);
        self.members[index as usize].is_proposed = owner == SELF;
    }

    /// An empty registry with this one's settings, name and contact, for a snapshot to be installed.
    pub(in crate::state) fn successor(&self, now: Moment) -> Registry {
        let own_name = self.log.own_name();
        Registry::new(self.settings.clone(), self.epoch.clone(), 0, now).replicated(own_name)
    }

    /// Takes over, before entries are applied that may answer them, the contact that the registry before
    /// had, and which of its own proposals may yet come.
    pub(in crate::state) fn carry_over(&mut self, before: &Registry) {
        self.followed.clone_from(&before.followed);
        let is_same_log = self.epoch == before.epoch;
        self.log.carry_over(&before.log, is_same_log);
    }

    /// Takes the place of another: its listing versions go on, and what changed lately is known from here
    /// on. Returns the services of both, and those whose followers were told that contact is lost.
    pub(in crate::state) fn replace(
        &mut self,
        before: &Registry,
        now: Moment,
    ) -> BTreeSet<ServiceName> {
        let names = |registry: &Registry| {
            registry.services.iter().map(|(_, one)| one.name.clone()).collect::<Vec<_>>()
        };
        self.listing_version = self.listing_version.max(before.listing_version + 1);
        for (_, service) in &mut self.services {
            service.listing_version = self.listing_version;
        }
        if let Some(recents) = &before.recents {
            self.keep_recent(recents.window_ms(), now);
        }
        let told = before.log.unseen_told.iter().cloned();
        names(before).into_iter().chain(names(self)).chain(told).collect()
    }

    /// Whether the store has something to be told.
    pub fn is_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Drops the marks, where there is no store.
    pub fn discard_changes(&mut self) {
        self.dirty.clear();
    }

    /// Takes the next set of changes, up to a bound. A row has the state of this moment, however often it
    /// changed. An instance goes with its pull-out, so a kill between two sets leaves each instance
    /// consistent.
    pub fn take_delta(&mut self, bound: SetBound) -> RegistryDelta {
        let mut delta = RegistryDelta {
            epoch: self.epoch().as_str().to_owned(),
            version: self.version(),
            revision_floor: self.revision_floor,
            ..RegistryDelta::default()
        };
        let mut bytes = 0;
        while delta.rows() < bound.rows.max(1) && bytes < bound.bytes {
            match self.dirty.next() {
                None => break,
                Some(Mark::Forgotten(name)) => {
                    // It may have come again meanwhile.
                    if self.dirty.forgotten.remove(&name) {
                        bytes += name.as_str().len() + ROW_BYTES;
                        delta.forgotten.push(name.as_str().to_owned());
                    }
                }
                Some(Mark::Service(index)) => bytes += self.save_service(&mut delta, index),
                Some(Mark::Instance(identity)) => {
                    bytes += self.save_instance(&mut delta, &identity);
                }
            }
        }
        delta
    }

    /// Marks the rows of a set again that was not written.
    pub fn put_back(&mut self, delta: &RegistryDelta) {
        for name in delta.forgotten.iter().map(|name| ServiceName::of(name)) {
            match self.find_service(&name) {
                Some(index) => _ = self.dirty.services.insert(index),
                None => _ = self.dirty.forgotten.insert(name),
            }
        }
        for record in &delta.services {
            if let Some(index) = self.find_service(&ServiceName::of(&record.service)) {
                self.dirty.services.insert(index);
            }
        }
        let upserts = delta.upserts.iter().map(|one| &one.identity);
        for identity in upserts.chain(&delta.deletes) {
            self.dirty.instances.insert(InstanceIdentity::from_canonical(identity));
        }
        let pull_outs = delta.pull_outs.iter().map(|one| &one.identity);
        for identity in pull_outs.chain(&delta.pull_ins) {
            self.dirty.pull_outs.insert(InstanceIdentity::from_canonical(identity));
        }
    }

    /// Adds a service's row, if its mark still stands. Returns its bytes.
    fn save_service(&mut self, delta: &mut RegistryDelta, index: usize) -> usize {
        if !self.dirty.services.remove(&index) {
            return 0;
        }
        let Some(service) = self.services.get(index) else { return 0 };
        delta.services.push(service.record());
        service.name.as_str().len() + ROW_BYTES
    }

    /// Adds the rows of an instance and of its pull-out, as far as their marks still stand. Returns
    /// their bytes.
    fn save_instance(&mut self, delta: &mut RegistryDelta, identity: &InstanceIdentity) -> usize {
        let (text, mut bytes) = (identity.as_str(), 0);
        if self.dirty.instances.remove(identity) {
            bytes += text.len() + ROW_BYTES;
            match self.find_member(identity) {
                Some(member) => {
                    let record = self.record_of(member);
                    bytes += record.service.len() + record.json.len();
                    delta.upserts.push(record);
                }
                None => delta.deletes.push(text.to_owned()),
            }
        }
        if self.dirty.pull_outs.remove(identity) {
            bytes += text.len() + ROW_BYTES;
            match self.pulled_out.by(identity) {
                Some(by) => {
                    bytes += by.bytes();
                    delta.pull_outs.push(PullOutRecord::new(identity, by));
                }
                None => delta.pull_ins.push(text.to_owned()),
            }
        }
        bytes
    }
}

/// What a row costs beside its texts, in bytes: numbers, quotes and commas.
const ROW_BYTES: usize = 64;

impl Service {
    fn record(&self) -> ServiceRecord {
        ServiceRecord {
            service: self.name.as_str().to_owned(),
            revision: self.revision,
            protection_enabled: self.protection_enabled,
            degraded_since_ms: self.degraded_since_ms,
            watch: self.watched_since_ms.map(|_| self.watch),
            empty_since_ms: self.empty.map(|empty| empty.since_ms),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Moment;
    use crate::id::Epoch;
    use crate::rng::Rng;
    use crate::state::registry::Settings;
    use crate::wire::instance::Instance;
    use std::collections::BTreeMap;

    const NOW: Moment = Moment::new(1_000, 0);

    fn registry() -> Registry {
        let settings = Settings {
            lease_ttl_ms: 20_000,
            self_protection_max_ms: 1,
            history_max: 8,
            instances_max: 10_000,
            services_max: 10_000,
            ..Settings::default()
        };
        Registry::new(settings, Epoch::new("e"), 0, NOW)
    }

    fn register(registry: &mut Registry, service: u64, instance: u64, chance: u64) {
        let text = format!(
            r#"{{"serviceId":"s{service}","instanceId":"i{instance}","metadata":{{"n":{chance}}}}}"#
        );
        let instance: Instance = serde_json::from_str(&text).unwrap();
        registry.register_alone(instance.register().unwrap(), NOW).unwrap();
        registry.settle(NOW);
    }

    /// What a database holds after sets, as texts.
    #[derive(Debug, Default, PartialEq, Eq)]
    struct Tables(BTreeMap<(&'static str, String), String>);

    impl Tables {
        fn write(&mut self, delta: &RegistryDelta) {
            for one in &delta.services {
                self.0.insert(("service", one.service.clone()), one.revision.to_string());
            }
            for one in &delta.upserts {
                let json = String::from_utf8(one.json.to_vec()).unwrap();
                self.0.insert(("instance", one.identity.clone()), json);
            }
            for one in &delta.pull_outs {
                self.0.insert(("pull_out", one.identity.clone()), one.operator.clone());
            }
            for name in &delta.forgotten {
                self.0.remove(&("service", name.clone()));
            }
            for identity in &delta.deletes {
                self.0.remove(&("instance", identity.clone()));
            }
            for identity in &delta.pull_ins {
                self.0.remove(&("pull_out", identity.clone()));
            }
        }
    }

    /// Sets of any size, some of which come back, some in halves, lead to the same tables as one set
    /// of everything at the end.
    #[test]
    fn cut_sets_add_up_to_the_state() {
        for seed in 0..40 {
            let mut rng = Rng::seeded(seed);
            let (mut registry, mut tables) = (registry(), Tables::default());
            for _ in 0..300 {
                let (service, instance) = (rng.below(4), rng.below(12));
                let identity =
                    InstanceIdentity::of("", &format!("s{service}"), &format!("i{instance}"));
                match rng.below(6) {
                    0 => registry.unregister(&identity, NOW),
                    1 => {
                        registry.operate(&identity, Some("ops".into()), NOW);
                    }
                    2 => _ = registry.operate(&identity, None, NOW),
                    3 => {
                        let bound = SetBound {
                            rows: 1 + usize::try_from(rng.below(8)).unwrap(),
                            bytes: 1 + usize::try_from(rng.below(2_000)).unwrap(),
                        };
                        let delta = registry.take_delta(bound);
                        assert!(delta.rows() <= bound.rows + 1, "{delta:?}");
                        match rng.below(3) {
                            0 => registry.put_back(&delta),
                            1 if delta.rows() > 1 => {
                                let rows = delta.rows();
                                let (first, second) = delta.halves();
                                assert_eq!(first.rows() + second.rows(), rows);
                                assert!(first.rows() > 0 && second.rows() > 0);
                                tables.write(&first);
                                registry.put_back(&second);
                            }
                            _ => tables.write(&delta),
                        }
                    }
                    _ => register(&mut registry, service, instance, rng.below(3)),
                }
                registry.settle(NOW);
            }
            while registry.is_dirty() {
                tables.write(&registry.take_delta(SetBound { rows: 5, bytes: usize::MAX }));
            }
            let mut expected = Tables::default();
            let (services, instances) = registry.counts();
            for index in 0..services {
                registry.dirty.services.insert(index);
            }
            let members: Vec<_> =
                registry.members.iter().map(|(_, one)| one.identity.clone()).collect();
            assert_eq!(members.len(), instances);
            registry.dirty.instances.extend(members);
            registry
                .dirty
                .pull_outs
                .extend(registry.pulled_out.iter().map(|(one, _)| one.clone()).collect::<Vec<_>>());
            expected.write(&registry.take_delta(SetBound::NONE));
            assert_eq!(tables, expected, "seed {seed}");
        }
    }

    #[test]
    fn a_large_row_goes_alone_and_nothing_is_left_out() {
        let mut registry = registry();
        for n in 0..10 {
            register(&mut registry, 0, n, 0);
        }
        let bound = SetBound { rows: 100, bytes: 1 };
        let sets: Vec<_> =
            std::iter::from_fn(|| registry.is_dirty().then(|| registry.take_delta(bound).rows()))
                .collect();
        assert_eq!(sets, [1; 11]);
    }
}
