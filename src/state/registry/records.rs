//! The registry as records: snapshots, sets of changes for the store, and the restoring of a snapshot.
//!
//! # Promises
//!
//! * Every lease of a restored registry gets one full period.
//! * Snapshots of the store and of the log are restored by the same function.

use std::collections::BTreeSet;

use super::log_position::SELF;
use super::service::Service;
use super::unsaved::{Mark, RegistryDelta, Row, SetBound};
use super::{Member, Registry};
use crate::clock::Moment;
use crate::id::{Epoch, InstanceIdentity, ServiceName};
use crate::limits;
use crate::state::cluster_presence::update::PresenceSnapshot;
use crate::state::entry::FORMAT;
use crate::state::management::ManagementRecord;
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
            management: self.management.records(),
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
        for record in &snapshot.management {
            self.management.restore(record);
        }
        self.management.restored();
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
        if owner == SELF {
            // The entry that gave it to this node may have been among the last before the snapshot, and the owner
            // before may not know of it yet.
            self.members[index as usize].deadline_ms += limits::CLUSTER_CONTACT_MS;
        }
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
        self.notes.keep(before.notes.is_kept());
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
        while delta.rows.len() < bound.rows.max(1) && bytes < bound.bytes {
            let before = delta.rows.len();
            match self.dirty.next() {
                None => break,
                Some(Mark::Forgotten(name)) => {
                    // It may have come again meanwhile.
                    if self.dirty.forgotten.remove(&name) {
                        delta.rows.push(Row::ServiceGone(name.as_str().to_owned()));
                    }
                }
                Some(Mark::Service(index)) => {
                    let is_marked = self.dirty.services.remove(&index);
                    let service = self.services.get(index).filter(|_| is_marked);
                    delta.rows.extend(service.map(|service| Row::Service(service.record())));
                }
                Some(Mark::Management(key)) => {
                    if self.dirty.management.remove(&key) {
                        let record = self.management.record(&key);
                        let gone = || Row::ManagementGone(key);
                        delta.rows.push(record.map_or_else(gone, Row::Management));
                    }
                }
                Some(Mark::Instance(identity)) => self.save_instance(&mut delta.rows, &identity),
            }
            bytes += delta.rows[before..].iter().map(Row::bytes).sum::<usize>();
        }
        delta
    }

    /// Adds the rows of an instance and of its pull-out, as far as their marks still stand.
    fn save_instance(&mut self, rows: &mut Vec<Row>, identity: &InstanceIdentity) {
        let gone = || identity.as_str().to_owned();
        if self.dirty.instances.remove(identity) {
            rows.push(match self.find_member(identity) {
                Some(member) => Row::Instance(self.record_of(member)),
                None => Row::InstanceGone(gone()),
            });
        }
        if self.dirty.pull_outs.remove(identity) {
            rows.push(match self.pulled_out.by(identity) {
                Some(by) => Row::PullOut(PullOutRecord::new(identity, by)),
                None => Row::PullOutGone(gone()),
            });
        }
    }

    /// Marks the rows of a set again that was not written.
    pub fn put_back(&mut self, delta: &RegistryDelta) {
        for row in &delta.rows {
            match row {
                Row::ServiceGone(name) | Row::Service(ServiceRecord { service: name, .. }) => {
                    let name = ServiceName::of(name);
                    if let Some(index) = self.find_service(&name) {
                        self.dirty.services.insert(index);
                    } else if matches!(row, Row::ServiceGone(_)) {
                        self.dirty.forgotten.insert(name);
                    }
                }
                Row::InstanceGone(identity) | Row::Instance(InstanceRecord { identity, .. }) => {
                    self.dirty.instances.insert(InstanceIdentity::from_canonical(identity));
                }
                Row::ManagementGone(key) | Row::Management(ManagementRecord { key, .. }) => {
                    self.dirty.management.insert(key.clone());
                }
                Row::PullOutGone(identity) | Row::PullOut(PullOutRecord { identity, .. }) => {
                    self.dirty.pull_outs.insert(InstanceIdentity::from_canonical(identity));
                }
                // Control's queue takes them back.
                Row::Audit(..) => {}
            }
        }
    }
}

/// What a row costs beside its texts, in bytes: numbers, quotes and commas.
const ROW_BYTES: usize = 64;

impl Row {
    /// About how many bytes it is for the database.
    fn bytes(&self) -> usize {
        let (_, key) = self.key();
        let texts = match self {
            Row::Instance(record) => record.service.len() + record.json.len(),
            Row::Audit(_, event) => event.bytes(),
            Row::Management(record) => record.body.len(),
            Row::PullOut(record) => {
                record.operator.len() + record.user_id.as_ref().map_or(0, String::len)
            }
            _ => 0,
        };
        key.len() + texts + ROW_BYTES
    }
}

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
