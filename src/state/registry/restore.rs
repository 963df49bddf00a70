//! Snapshots of the registry: how one is taken, and how a registry begins from one.
//!
//! # Promises
//!
//! * Every lease of a restored registry gets one full period.
//! * Snapshots of the store and of the log are restored by the same function.
//!
//! Imports its siblings. Part of `state::registry`.

use std::collections::HashSet;

use super::log_position::SELF;
use super::service::Service;
use super::{Member, Registry};
use crate::clock::Moment;
use crate::id::{Epoch, InstanceIdentity, ServiceName};
use crate::state::cluster_presence::PresenceSnapshot;
use crate::state::entry::FORMAT;
use crate::state::snapshot::{InstanceRecord, PullOutRecord, ServiceRecord, Snapshot};

impl Registry {
    /// The whole registry at the present position of the log, without the people. Linear in the
    /// instances.
    pub fn snapshot(&self) -> Snapshot {
        let log = &self.log;
        let in_order = self.in_order_of_emptiness();
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
            nodes: log
                .nodes
                .iter()
                .map(ToString::to_string)
                .zip(log.last_numbers.iter().copied())
                .collect(),
            people: PresenceSnapshot::default(),
        }
    }

    pub(super) fn record_of(&self, member: &Member) -> InstanceRecord {
        InstanceRecord {
            identity: member.identity.as_str().to_owned(),
            service: self.services[member.service].name.as_str().to_owned(),
            json: member.json.clone(),
            ttl_ms: member.ttl_ms,
            owner: self.log.nodes[member.owner as usize].to_string(),
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
            self.log.last_numbers[node as usize] = *number;
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
            // Followers get the mark with the snapshot that they begin from.
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
            self.members[index as usize].is_unproven = true;
            self.services[service].unproven += 1;
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

    /// Takes over, before entries are applied that may answer them, what the registry before knew of
    /// the log's engine and of its own proposals.
    pub(in crate::state) fn carry_over(&mut self, before: &Registry) {
        self.carry_over_followed(before);
        let is_same_log = self.epoch == before.epoch;
        self.log.carry_over(&before.log, is_same_log);
    }

    /// Takes the place of another. Returns the services of both.
    pub(in crate::state) fn replace(
        &mut self,
        before: &Registry,
        now: Moment,
    ) -> HashSet<ServiceName> {
        let names = |registry: &Registry| {
            registry.services.iter().map(|(_, one)| one.name.clone()).collect::<Vec<_>>()
        };
        let both = names(before).into_iter().chain(names(self)).collect();
        self.go_on_from(before, now);
        both
    }
}

impl Service {
    pub(super) fn record(&self) -> ServiceRecord {
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
