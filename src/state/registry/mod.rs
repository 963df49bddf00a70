//! Services, instances and their leases.
//!
//! Every accepted difference is one step of its service's revision; a registration that changes
//! nothing only renews the lease. Leases end on a timing wheel: a heartbeat writes one number and
//! touches no list.
//!
//! # Promises
//!
//! * Revisions of a service rise by one a change, under one epoch, without gaps.
//! * One order leaves at most one announcement a service.
//! * A lease ends at its deadline and is judged at most [`limits::EXPIRY_JUDGE_DELAY_MS`] and one
//!   tick later.
//!
//! Imports `id`, `limits`, `wheel` and `wire`. Imported by `state` and `control`.

pub mod lease;
pub mod listing;
pub mod pull_outs;
pub mod unsaved;

mod forgetting;
mod log_position;
mod protection;
mod restore;
mod service;
mod subscribe;

#[cfg(test)]
mod contact_model;
#[cfg(test)]
mod lease_model;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use slab::Slab;

use super::ages::{Age, Ages};
use super::command::{Delta, InstanceLease, ServiceLeases, View};
use super::entry::Bounds;
use crate::clock::Moment;
use crate::id::{Epoch, InstanceIdentity, ServiceName};
use crate::limits::{self, Limits};
use crate::wheel::Wheel;
use crate::wire::event::{Change, ChangeReason, ChangeType, TimeText};
use crate::wire::instance::Registration;
use crate::wire::instance_list::InstanceList;
use crate::wire::refusal::Code;
use lease::Commit;
use listing::{RecentChanges, Step};
use log_position::{LogPosition, SELF};
use pull_outs::{Operator, PullOuts, PulledOutBy};
use service::{Service, is_shared};
use subscribe::Pictures;
use unsaved::Unsaved;

/// What can be set about the registry.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The lease of an instance that asks for none.
    pub lease_ttl_ms: u64,
    /// How long expiry may be held for a service.
    pub self_protection_max_ms: u64,
    /// Changes a service remembers for resuming clients.
    pub history_max: usize,
    /// Bytes that these take at most.
    pub history_bytes_max: usize,
    /// Instances in all.
    pub instances_max: usize,
    /// Bytes of their JSON in all.
    pub instances_bytes_max: usize,
    /// Bytes of the snapshots that are being sent and that no later subscriber can share.
    pub snapshots_bytes_max: usize,
    /// Bytes from which a snapshot is shared with those who come while it is being sent.
    pub snapshot_shared_bytes_min: usize,
    /// Services in all, empty ones included.
    pub services_max: usize,
    /// How long a service is remembered that has no instances.
    pub service_forget_ms: u64,
}

impl Default for Settings {
    /// The settings of a server that was told nothing.
    fn default() -> Settings {
        let limits = Limits::DEFAULT;
        Settings {
            lease_ttl_ms: limits::LEASE_TTL_MS_DEFAULT,
            self_protection_max_ms: limits::SELF_PROTECTION_MS_MAX_DEFAULT,
            history_max: limits.service_history_max,
            history_bytes_max: limits.service_history_bytes_max,
            instances_max: limits.instances_max,
            instances_bytes_max: limits.instances_bytes_max,
            snapshots_bytes_max: limits.snapshots_bytes_max,
            snapshot_shared_bytes_min: limits::SNAPSHOT_SHARED_BYTES_MIN,
            services_max: limits.services_max,
            service_forget_ms: limits.service_forget_ms,
        }
    }
}

/// What the followers of a service have to hear.
#[derive(Debug)]
pub struct Announcement {
    /// The service.
    pub service: ServiceName,
    /// Whether it begins with this, at `from`: its followers were told of revision 0, or of a service
    /// of that name that was forgotten.
    pub begins: bool,
    /// Its revision before.
    pub from: u64,
    /// Its revision now. Equal to `from` where only the mark changed.
    pub revision: u64,
    /// Whether expiry is held.
    pub degraded: bool,
    /// The steps between the two.
    pub changes: Vec<Change>,
}

/// An instance and its lease.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub(super) struct Member {
    identity: InstanceIdentity,
    service: usize,
    json: Bytes,
    ttl_ms: u64,
    deadline_ms: u64,
    /// The lease's one entry on the wheel carries the same number; older entries are void.
    generation: u32,
    /// Its place in its service's `members`.
    place: u32,
    is_overdue: bool,
    /// Restored from the store and not heard of since.
    is_unproven: bool,
    is_pulled_out: bool,
    /// Which node watches the lease; where there is one node, that one.
    owner: u32,
    /// The lease's number among several nodes: the place in the log of what last gave it an owner.
    lease: u64,
    /// Its end is proposed, and not applied yet.
    is_proposed: bool,
    registered_ms: u64,
    changed_ms: u64,
}

/// A change in the order of all services, for `services-delta`.
#[derive(Debug)]
struct Logged {
    service: ServiceName,
    change: Change,
}

/// Running totals for metrics.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Leases that ended and took their instance with them.
    pub expired: u64,
    /// Changes of all services.
    pub changes: u64,
    /// Heartbeats that renewed a lease.
    pub renewals: u64,
    /// Services whose expiry is held now.
    pub degraded_services: usize,
    /// Services that were forgotten.
    pub forgotten: u64,
}

/// The registry.
///
/// # Invariants
///
/// 1. `by_identity` names exactly the members, `by_name` exactly the services.
/// 2. Each member that is not overdue has exactly one entry of its present generation in `leases`,
///    at or before its deadline.
/// 3. `recent_changes` holds the last changes; its newest is the step to `version`.
/// 4. `touched` names each service with pending steps or an untold mark, once.
/// 5. `regions` counts the members of each region.
/// 6. `empties` names each service without members, in the order in which they became so.
/// 7. `revision_floor` is at or above the last revision of every service that was forgotten under
///    this epoch; a new service begins there.
/// 8. `history_bytes` and `json_bytes` are the sums over all services.
#[derive(Debug)]
pub struct Registry {
    settings: Settings,
    epoch: Epoch,
    version: u64,
    services: Slab<Service>,
    by_name: HashMap<ServiceName, usize>,
    members: Slab<Member>,
    by_identity: HashMap<InstanceIdentity, u32>,
    regions: BTreeMap<Box<str>, usize>,
    /// Rises with every difference in what is registered; see `state::registry::listing`.
    listing_version: u64,
    recents: Option<RecentChanges>,
    /// Instances taken out of discovery, registered or not.
    pulled_out: PullOuts,
    leases: Wheel<(u32, u32)>,
    generation: u32,
    /// Services with overdue leases or held expiry.
    watched: Vec<usize>,
    /// Degraded services of which the present order renewed or removed a lease.
    healed: Vec<usize>,
    touched: Vec<usize>,
    recent_changes: VecDeque<Logged>,
    recent_changes_bytes: usize,
    history_bytes: usize,
    ages: Ages,
    json_bytes: usize,
    incarnation: u32,
    /// Services without members, by the order in which they became so.
    empties: BTreeMap<u64, usize>,
    empty_stamp: u64,
    next_forget_ms: u64,
    revision_floor: u64,
    /// Services that connections of this node follow by name.
    followed: HashSet<ServiceName>,
    pictures: Pictures,
    /// Services that were forgotten since control last asked.
    forgotten: Vec<ServiceName>,
    totals: Totals,
    dirty_services: HashSet<usize>,
    dirty_instances: HashSet<InstanceIdentity>,
    dirty_pull_outs: HashSet<InstanceIdentity>,
    /// The order in which these go to the store; see `state::registry::unsaved`.
    unsaved: VecDeque<Unsaved>,
    /// Services that the store has to forget as well.
    dirty_forgotten: HashSet<ServiceName>,
    /// Where this node is in the log.
    log: Box<LogPosition>,
    /// The leases that a heartbeat is about, while it is looked at.
    renewing: Vec<u32>,
    /// The text of the present moment, formatted once a millisecond.
    time: (u64, TimeText),
    /// What followers have to hear; the control thread takes it after each order.
    pub announcements: Vec<Announcement>,
}

impl Registry {
    /// An empty registry under `epoch`, whose changes count on from `version`.
    pub fn new(settings: Settings, epoch: Epoch, version: u64, now: Moment) -> Registry {
        Registry {
            settings,
            epoch,
            version,
            services: Slab::new(),
            by_name: HashMap::new(),
            members: Slab::new(),
            by_identity: HashMap::new(),
            regions: BTreeMap::new(),
            // Above all of the last start's: there is less than one change a millisecond.
            listing_version: now.unix_ms,
            recents: None,
            pulled_out: PullOuts::default(),
            leases: Wheel::new(limits::LEASE_WHEEL_SLOTS, limits::LEASE_TICK_MS, now.unix_ms),
            generation: 0,
            watched: Vec::new(),
            healed: Vec::new(),
            touched: Vec::new(),
            recent_changes: VecDeque::new(),
            recent_changes_bytes: 0,
            history_bytes: 0,
            ages: Ages::default(),
            json_bytes: 0,
            incarnation: 0,
            empties: BTreeMap::new(),
            empty_stamp: 0,
            next_forget_ms: 0,
            revision_floor: 0,
            followed: HashSet::new(),
            pictures: Pictures::default(),
            forgotten: Vec::new(),
            totals: Totals::default(),
            dirty_services: HashSet::new(),
            dirty_instances: HashSet::new(),
            dirty_pull_outs: HashSet::new(),
            unsaved: VecDeque::new(),
            dirty_forgotten: HashSet::new(),
            log: Box::new(LogPosition::alone()),
            renewing: Vec::new(),
            time: (now.wall_ms, TimeText::of(now.wall_ms)),
            announcements: Vec::new(),
        }
    }

    /// How many changes there were, over all restarts.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The epoch of all revisions.
    pub fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// Running totals for metrics.
    pub fn totals(&self) -> Totals {
        self.totals
    }

    /// Services seen and instances registered.
    pub fn counts(&self) -> (usize, usize) {
        (self.services.len(), self.members.len())
    }

    /// Registers an instance or renews its lease; a real difference is a change. The lease is the
    /// deciding node's from here on.
    fn register(
        &mut self,
        sent: Registration,
        bounds: &Bounds,
        commit: &Commit,
    ) -> Result<(), Code> {
        let now = commit.at;
        let ttl_ms = sent.lease_ttl_ms.unwrap_or(self.settings.lease_ttl_ms);
        let bytes = self.json_bytes + sent.json.len();
        if let Some(&index) = self.by_identity.get(&sent.identity) {
            let stands = self.members[index as usize].json.len();
            if sent.json.len() > stands && bytes - stands > bounds.instances_bytes_max {
                return Err(Code::RateLimited);
            }
            let member = &mut self.members[index as usize];
            let since_ms = member.renewed_ms();
            let shortened = ttl_ms < member.ttl_ms;
            member.ttl_ms = ttl_ms;
            if shortened {
                member.deadline_ms = 0;
            }
            self.renew(index, now);
            if shortened {
                self.arm(index);
            }
            let member = &mut self.members[index as usize];
            if member.json != sent.json {
                member.json = sent.json.clone();
                member.changed_ms = now.wall_ms;
                let (service, is_pulled_out) = (member.service, member.is_pulled_out);
                self.json_bytes = bytes - stands;
                let of_service = &mut self.services[service].json_bytes;
                *of_service = *of_service + sent.json.len() - stands;
                self.mark(service, &sent.identity, Step::Modified, None, now);
                tracing::debug!(
                    target: "fanfare::registry",
                    instance = %sent.identity,
                    "instance changed"
                );
                self.dirty_instances.insert(sent.identity);
                if !is_pulled_out {
                    self.change(service, sent.json, ChangeType::Change, ChangeReason::Update, now);
                }
            }
            self.take_over(index, since_ms, commit);
            return Ok(());
        }
        if self.members.len() >= bounds.instances_max || bytes > bounds.instances_bytes_max {
            return Err(Code::RateLimited);
        }
        let service = self.service_or_new(&sent.service, bounds, now)?;
        let is_pulled_out = self.pulled_out.contains(&sent.identity);
        self.dirty_instances.insert(sent.identity.clone());
        self.mark(service, &sent.identity, Step::Added, None, now);
        tracing::debug!(
            target: "fanfare::registry",
            instance = %sent.identity,
            lease_ttl_ms = ttl_ms,
            is_pulled_out,
            "instance registered"
        );
        let index = self.admit(service, sent.identity, sent.json.clone(), ttl_ms, now);
        self.take_over(index, 0, commit);
        if !is_pulled_out {
            self.change(service, sent.json, ChangeType::New, ChangeReason::Register, now);
        }
        Ok(())
    }

    /// Puts an instance into its service and arms its lease.
    pub(super) fn admit(
        &mut self,
        service: usize,
        identity: InstanceIdentity,
        json: Bytes,
        ttl_ms: u64,
        now: Moment,
    ) -> u32 {
        let is_pulled_out = self.pulled_out.contains(&identity);
        if is_pulled_out {
            self.pulled_out.came(&identity);
        }
        self.json_bytes += json.len();
        let one = &mut self.services[service];
        one.json_bytes += json.len();
        if let Some(empty) = one.empty.take() {
            self.empties.remove(&empty.stamp);
        }
        let place = self.services[service].members.len();
        let index = to_u32(self.members.insert(Member {
            identity: identity.clone(),
            service,
            json,
            ttl_ms,
            deadline_ms: now.unix_ms + ttl_ms,
            generation: 0,
            place: to_u32(place),
            is_overdue: false,
            is_unproven: false,
            is_pulled_out,
            owner: SELF,
            lease: 0,
            is_proposed: false,
            registered_ms: now.wall_ms,
            changed_ms: now.wall_ms,
        }));
        self.services[service].members.push(index);
        match self.regions.get_mut(region(&identity)) {
            Some(members) => *members += 1,
            None => _ = self.regions.insert(region(&identity).into(), 1),
        }
        self.by_identity.insert(identity, index);
        self.log.count(SELF, true);
        self.arm(index);
        index
    }

    /// The service of that name, seen now where it never was. Where there are too many, the one that
    /// has been empty for longest gives way.
    fn service_or_new(
        &mut self,
        name: &ServiceName,
        bounds: &Bounds,
        now: Moment,
    ) -> Result<usize, Code> {
        if let Some(&service) = self.by_name.get(name) {
            return Ok(service);
        }
        while self.services.len() >= bounds.services_max {
            let Some(oldest) = self.next_to_forget() else { return Err(Code::RateLimited) };
            self.forget(oldest);
        }
        let service = self.insert_service(name, now.unix_ms);
        let one = &mut self.services[service];
        one.begins = one.revision > 0;
        if one.begins {
            self.touch(service);
        }
        // Whatever the store has of a service that was forgotten counts no more.
        self.dirty_forgotten.remove(name);
        self.dirty_services.insert(service);
        Ok(service)
    }

    /// The service of that name out of a store or an image, whatever the bound.
    pub(super) fn restore_service(&mut self, name: &ServiceName, empty_since_ms: u64) -> usize {
        match self.by_name.get(name) {
            Some(&service) => service,
            None => self.insert_service(name, empty_since_ms),
        }
    }

    fn insert_service(&mut self, name: &ServiceName, empty_since_ms: u64) -> usize {
        let mut service = Service::new(name.clone());
        // Its followers were told so, as of every service that is not known.
        service.is_cut_off = self.is_cut_off();
        service.told_degraded = service.is_cut_off;
        service.revision = self.revision_floor;
        self.incarnation = self.incarnation.wrapping_add(1);
        service.incarnation = self.incarnation;
        let service = self.services.insert(service);
        self.by_name.insert(name.clone(), service);
        self.note_empty(service, empty_since_ms);
        service
    }

    pub(super) fn renew(&mut self, index: u32, now: Moment) {
        let member = &mut self.members[index as usize];
        // Never less than it has: entries of a log come late, and a lease that was taken over has
        // more than its time for a reason.
        member.deadline_ms = member.deadline_ms.max(now.unix_ms + member.ttl_ms);
        self.totals.renewals += 1;
        if member.is_overdue || member.is_unproven {
            self.prove(index);
        }
    }

    /// Takes an instance off the list of those that are missing.
    fn prove(&mut self, index: u32) {
        let member = &mut self.members[index as usize];
        let service = &mut self.services[member.service];
        let was_overdue = std::mem::take(&mut member.is_overdue);
        service.overdue -= usize::from(was_overdue);
        service.unproven -= usize::from(std::mem::take(&mut member.is_unproven));
        if service.is_degraded() {
            self.healed.push(member.service);
        }
        if was_overdue && self.members[index as usize].owner == SELF {
            // Its entry left the wheel when it ran out.
            self.arm(index);
        }
    }

    /// Puts a lease on the wheel, and voids the entry it may have there.
    pub(super) fn arm(&mut self, index: u32) {
        self.arm_at(index, self.members[index as usize].deadline_ms);
    }

    /// The same for a time of its own.
    pub(super) fn arm_at(&mut self, index: u32, at_ms: u64) {
        self.generation = self.generation.wrapping_add(1);
        let member = &mut self.members[index as usize];
        member.generation = self.generation;
        self.leases.insert(at_ms, (index, member.generation));
    }

    /// Removes an instance. Unknown ones are as good as removed.
    pub(super) fn unregister(&mut self, identity: &InstanceIdentity, now: Moment) {
        if let Some(&index) = self.by_identity.get(identity) {
            self.remove(index, ChangeReason::Unregister, now);
        }
    }

    pub(super) fn remove(&mut self, index: u32, reason: ChangeReason, now: Moment) {
        let member = self.members.remove(index as usize);
        self.by_identity.remove(&member.identity);
        tracing::debug!(
            target: "fanfare::registry",
            instance = %member.identity,
            reason = reason.as_str(),
            "instance removed"
        );
        self.log.count(member.owner, false);
        let service = &mut self.services[member.service];
        service.overdue -= usize::from(member.is_overdue);
        service.unproven -= usize::from(member.is_unproven);
        if service.is_degraded() {
            self.healed.push(member.service);
        }
        service.members.swap_remove(member.place as usize);
        if let Some(&moved) = service.members.get(member.place as usize) {
            self.members[moved as usize].place = member.place;
        }
        if let Some(members) = self.regions.get_mut(region(&member.identity)) {
            *members -= 1;
            if *members == 0 {
                self.regions.remove(region(&member.identity));
            }
        }
        self.mark(member.service, &member.identity, Step::Deleted, Some(member.entry()), now);
        self.json_bytes -= member.json.len();
        let service = &mut self.services[member.service];
        service.json_bytes -= member.json.len();
        if service.members.is_empty() {
            self.note_empty(member.service, now.unix_ms);
        }
        if member.is_pulled_out {
            if self.pulled_out.by(&member.identity) == Some(&PulledOutBy::Itself) {
                self.pulled_out.remove(&member.identity);
                self.dirty_pull_outs.insert(member.identity.clone());
            } else {
                self.pulled_out.went(&member.identity);
                self.trim_pull_outs();
            }
        }
        if !member.is_pulled_out {
            self.change(member.service, member.json, ChangeType::Delete, reason, now);
        }
        self.dirty_instances.insert(member.identity);
    }

    /// Takes an instance out of discovery in the name of an operator; without one, puts it back. Returns false where nothing of that name was ever
    /// registered or pulled out.
    pub(super) fn operate(
        &mut self,
        identity: &InstanceIdentity,
        operator: Option<Operator>,
        now: Moment,
    ) -> bool {
        if !self.by_identity.contains_key(identity) && !self.pulled_out.contains(identity) {
            return false;
        }
        self.pull(identity, operator.map(PulledOutBy::Operator), now);
        true
    }

    /// Takes an instance out of discovery, or puts it back, registered or not.
    pub(super) fn pull(
        &mut self,
        identity: &InstanceIdentity,
        by: Option<PulledOutBy>,
        now: Moment,
    ) {
        let index = self.by_identity.get(identity).copied();
        let was_pulled_out = self.pulled_out.contains(identity);
        let is_pulled_out = by.is_some();
        match by {
            Some(by) => self.pulled_out.insert(identity, by, index.is_some()),
            None => self.pulled_out.remove(identity),
        }
        self.dirty_pull_outs.insert(identity.clone());
        self.trim_pull_outs();
        if let Some(index) = index
            && is_pulled_out != was_pulled_out
        {
            let member = &mut self.members[index as usize];
            member.is_pulled_out = is_pulled_out;
            member.changed_ms = now.wall_ms;
            let (service, json) = (member.service, member.json.clone());
            self.mark(service, identity, Step::Modified, None, now);
            let (kind, reason) = if is_pulled_out {
                (ChangeType::Delete, ChangeReason::PullOut)
            } else {
                (ChangeType::New, ChangeReason::PullIn)
            };
            tracing::debug!(
                target: "fanfare::registry",
                instance = %identity,
                reason = reason.as_str(),
                "instance operated"
            );
            self.change(service, json, kind, reason, now);
        }
    }

    /// Makes one step in a service's history.
    fn change(
        &mut self,
        service: usize,
        instance: Bytes,
        kind: ChangeType,
        reason: ChangeReason,
        now: Moment,
    ) {
        if self.time.0 != now.wall_ms {
            self.time = (now.wall_ms, TimeText::of(now.wall_ms));
        }
        let change = Change { instance, kind, reason, time: self.time.1 };
        self.version += 1;
        self.totals.changes += 1;
        self.recent_changes_bytes += change.instance.len();
        while self.recent_changes.len() >= limits::DELTA_CHANGES_MAX
            || self.recent_changes_bytes > limits::DELTA_BYTES_MAX
        {
            let Some(oldest) = self.recent_changes.pop_front() else { break };
            self.recent_changes_bytes -= oldest.change.instance.len();
        }
        let name = self.services[service].name.clone();
        self.recent_changes.push_back(Logged { service: name, change: change.clone() });
        self.touch(service);
        self.services[service].push(change);
        self.dirty_services.insert(service);
    }

    /// Notes that a service's followers have something to hear.
    pub(super) fn touch(&mut self, service: usize) {
        if !std::mem::replace(&mut self.services[service].is_touched, true) {
            self.touched.push(service);
        }
    }

    /// Ends an order: judges what it renewed or removed, and turns its steps into announcements.
    pub(super) fn settle(&mut self, now: Moment) {
        self.rejudge(now);
        for index in std::mem::take(&mut self.touched) {
            let service = &mut self.services[index];
            service.is_touched = false;
            let degraded = service.shows_degraded();
            let begins = std::mem::take(&mut service.begins);
            let changes = service.pending.clone();
            let bytes = service.history_bytes;
            let from = service.seal(&self.settings);
            self.history_bytes = self.history_bytes - bytes + service.history_bytes;
            if changes.is_empty() && service.told_degraded == degraded && !begins {
                continue;
            }
            service.told_degraded = degraded;
            let (incarnation, revision) = (service.incarnation, service.revision);
            self.announcements.push(Announcement {
                service: service.name.clone(),
                begins,
                from,
                revision,
                degraded,
                changes,
            });
            let is_kept = |age: &Age| keeps(&self.services, age);
            for number in (from + 1..=revision).filter(|&number| self.services[index].keeps(number))
            {
                let age = Age { at_ms: now.unix_ms, place: to_u32(index), incarnation, number };
                self.ages.push(age, is_kept);
            }
        }
    }

    /// Bytes of all instances' JSON.
    pub fn instances_bytes(&self) -> usize {
        self.json_bytes
    }

    /// Bytes of the changes that all services remember.
    pub fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    /// When the oldest of them was made, in milliseconds since the Unix epoch.
    pub(super) fn oldest_history_ms(&mut self) -> Option<u64> {
        let services = &self.services;
        self.ages.oldest(|age| keeps(services, age)).map(|age| age.at_ms)
    }

    /// Forgets the oldest of them.
    pub(super) fn drop_oldest_history(&mut self) {
        let services = &self.services;
        if let Some(age) = self.ages.oldest(|age| keeps(services, age)) {
            self.history_bytes -= self.services[age.place as usize].drop_oldest();
        }
    }

    /// Proposes what time has made of leases and services.
    pub(super) fn tick(&mut self, now: Moment) {
        let mut due = Vec::new();
        self.leases.advance(now.unix_ms, &mut due);
        self.forget_by_time(now);
        let mut ended = Vec::new();
        for (index, generation) in due {
            let Some(member) = self.members.get(index as usize) else { continue };
            if member.generation != generation || member.is_overdue || member.owner != SELF {
                continue;
            }
            if member.deadline_ms > now.unix_ms {
                self.leases.insert(member.deadline_ms, (index, generation));
                continue;
            }
            ended.push(index);
        }
        self.check_contact(now);
        self.propose_due(ended, now);
    }

    /// Counts a lease as overdue, proven or not before.
    pub(super) fn mark_overdue(&mut self, index: u32, now: Moment) {
        let member = &mut self.members[index as usize];
        let was_unproven = std::mem::take(&mut member.is_unproven);
        member.is_overdue = true;
        let service = member.service;
        self.services[service].overdue += 1;
        self.services[service].unproven -= usize::from(was_unproven);
        self.watch(service, now);
    }

    /// When `tick` next has something to do, in milliseconds since the Unix epoch.
    pub fn next_tick_ms(&self) -> Option<u64> {
        let all = [
            self.leases.next_due_ms(),
            self.next_judgement_ms(),
            self.next_contact_check_ms(),
            self.next_forget_ms(),
        ];
        all.into_iter().flatten().min()
    }

    /// A service as it stands, without its instances.
    pub(super) fn view_without_instances(&self, name: ServiceName) -> View {
        match self.by_name.get(&name) {
            Some(&service) => self.services[service].view(&self.epoch, InstanceList::default()),
            None => self.unseen(name),
        }
    }

    fn unseen(&self, service: ServiceName) -> View {
        View {
            service,
            epoch: self.epoch.clone(),
            revision: 0,
            degraded: self.is_cut_off(),
            instances: InstanceList::empty(),
        }
    }

    /// A service as it stands; empty at revision 0 where it was never seen.
    pub fn view(&mut self, name: &ServiceName) -> View {
        match self.by_name.get(name) {
            Some(&service) => self.view_of(service),
            None => self.unseen(name.clone()),
        }
    }

    fn view_of(&mut self, service: usize) -> View {
        let snapshot = self.snapshot_of(service);
        self.services[service].view(&self.epoch, snapshot)
    }

    /// The discoverable instances of a service as it stands, built at most once a revision.
    pub(super) fn snapshot_of(&mut self, service: usize) -> InstanceList {
        let service = &mut self.services[service];
        if let Some(snapshot) = service.present_snapshot() {
            return snapshot.clone();
        }
        // Borrowed apart: the snapshot is cached inside the service.
        let indexes = std::mem::take(&mut service.members);
        let discoverable = indexes
            .iter()
            .map(|&index| &self.members[index as usize])
            .filter(|member| !member.is_pulled_out)
            .map(|member| &member.json);
        let (snapshot, replaced) = service.build_snapshot(indexes.len(), discoverable);
        service.members = indexes;
        let shared_min = self.settings.snapshot_shared_bytes_min;
        self.pictures.retire(replaced.filter(|list| is_shared(list, shared_min)));
        snapshot
    }

    /// Every service as it stands.
    pub(super) fn all_views(&mut self) -> impl Iterator<Item = View> {
        let services: Vec<usize> = self.services.iter().map(|(service, _)| service).collect();
        services.into_iter().map(|service| self.view_of(service))
    }

    /// What changed after `version`; none where that is no longer, or not yet, known.
    pub(super) fn delta(&self, version: u64) -> Option<Delta> {
        let missed = usize::try_from(self.version.checked_sub(version)?).ok()?;
        let start = self.recent_changes.len().checked_sub(missed)?;
        let mut changes: Vec<(ServiceName, Vec<Change>)> = Vec::new();
        let mut places: HashMap<&ServiceName, usize> = HashMap::new();
        for logged in self.recent_changes.range(start..) {
            let place = *places.entry(&logged.service).or_insert_with(|| {
                changes.push((logged.service.clone(), Vec::new()));
                changes.len() - 1
            });
            changes[place].1.push(logged.change.clone());
        }
        Some(Delta { version: self.version, changes })
    }

    /// How the leases stand, service by service. Linear in the instances: for operators.
    pub(super) fn leases(&self, only: Option<&ServiceName>, now: Moment) -> Vec<ServiceLeases> {
        let lease = |member: &Member| InstanceLease {
            json: member.json.clone(),
            ttl_ms: member.ttl_ms,
            age_ms: (now.unix_ms + member.ttl_ms).saturating_sub(member.deadline_ms),
            expires_in_ms: member.deadline_ms.cast_signed() - now.unix_ms.cast_signed(),
            pulled_out_by: self.pulled_out.by(&member.identity).cloned(),
        };
        let of = |service: &Service| {
            let members = || service.members.iter().map(|&index| &self.members[index as usize]);
            let next = members().map(|member| member.deadline_ms).min();
            ServiceLeases {
                service: service.name.clone(),
                leases: service.members.len(),
                overdue: service.overdue,
                pulled_out: members().filter(|member| member.is_pulled_out).count(),
                degraded: service.is_degraded(),
                protection_enabled: service.protection_enabled,
                next_expiry_ms: next.map(|next| next.cast_signed() - now.unix_ms.cast_signed()),
                instances: only
                    .is_some()
                    .then(|| members().take(limits::LISTED_MAX).map(lease).collect()),
            }
        };
        match only {
            Some(name) => self.find_service(name).map(|service| of(&self.services[service])),
            None => return self.services.iter().map(|(_, service)| of(service)).collect(),
        }
        .into_iter()
        .collect()
    }

    pub(super) fn find_service(&self, name: &ServiceName) -> Option<usize> {
        self.by_name.get(name).copied()
    }

    pub(super) fn find_member(&self, identity: &InstanceIdentity) -> Option<&Member> {
        self.by_identity.get(identity).map(|&index| &self.members[index as usize])
    }

    pub(super) fn find_index(&self, identity: &InstanceIdentity) -> Option<u32> {
        self.by_identity.get(identity).copied()
    }
}

/// Whether the change that an age stands for is still remembered.
fn keeps(services: &Slab<Service>, age: &Age) -> bool {
    services
        .get(age.place as usize)
        .is_some_and(|service| service.incarnation == age.incarnation && service.keeps(age.number))
}

fn region(identity: &InstanceIdentity) -> &str {
    identity.as_str().split('\u{1f}').next().unwrap_or_default()
}

pub(super) fn to_u32(index: usize) -> u32 {
    u32::try_from(index).expect("instances_max is below 2^32")
}
