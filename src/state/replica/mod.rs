//! The registry as one of several that apply the same log.
//!
//! ```text
//! order --> is it ours to do at once? --> done (a heartbeat of a lease that is ours)
//!                      \--> Entry --> log --> Registry::apply, here and everywhere --> answer
//! ```
//!
//! A lease belongs to the node that took its last heartbeat through the log. Only that node's wheel
//! watches it, so heartbeats of a lease's own node never leave the node. When it runs out, the node
//! proposes so with the lease's number; a heartbeat accepted elsewhere has changed the number, and
//! the proposal is void. Leases of a node that is gone are taken over by the first of those that
//! are left, for one full period.
//!
//! Entries come late, and some that were given up come all the same. So a lease counts from where
//! its entry is applied; the owner before, which may renew it until it has read of the takeover, has
//! [`limits::CLUSTER_CONTACT_MS`] on top; and a lease that was ever proposed as run out is renewed
//! through the log, which changes its number.
//!
//! # Promises
//!
//! * What is accepted anywhere is applied everywhere, in one order: same revisions, same epoch.
//! * No lease expires while some node accepts its heartbeats.
//! * A node that lacks entries which were in the log [`limits::CLUSTER_CONTACT_MS`] ago, or cannot
//!   know, accepts no write, lets nothing expire, and shows every service as degraded.
//!
//! Imports `limits` and its siblings. Part of `state::registry`, in a file of its own.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::commons::CommonsImage;
use super::log::{Bounds, Entry, LogItem};
use super::order::{Answer, Order, RefusedEntry, View};
use super::pull_outs::{Operator, PulledOutBy};
use super::registry::{Announcement, Member, Registry, Settings};
use super::roster::{Called, Roll};
use crate::clock::Moment;
use crate::id::{Epoch, InstanceIdentity, ServiceName, UserId};
use crate::limits;
use crate::wire::refusal::Code;

/// Who pulled an instance out that did so itself, in the images of earlier releases.
const OWN: &str = "itself";

/// This node's place in the table of nodes.
pub(super) const SELF: u32 = 0;

/// What a registry that is one of several knows beside its own facts.
#[derive(Debug)]
#[allow(clippy::struct_excessive_bools, reason = "each is a fact of its own")]
pub struct Replica {
    /// All nodes that ever owned a lease; this one first.
    nodes: Vec<String>,
    by_name: HashMap<String, u32>,
    /// How many leases each of them owns.
    owned: Vec<usize>,
    /// The number of each node's last entry: one that was written twice is applied once.
    last: Vec<u64>,
    /// How many entries were applied, since the log began.
    sequence: u64,
    /// The place of the last of them.
    position: String,
    /// What time has made of leases and protections, for the log.
    proposals: Vec<Entry>,
    /// Services whose judgement is proposed and not applied.
    judging: HashSet<ServiceName>,
    /// Leases up to this number may have been proposed as overdue, by this node before it began anew.
    doubted: u64,
    /// How many of its proposals to take leases over are under way.
    adopting: usize,
    /// Whether it falls to this node to decide what belongs to no node in particular.
    is_deputy: bool,
    /// Whether it has begun from an image. Until then it knows nothing.
    is_begun: bool,
    /// The last answers: when, and the number of the newest entry, which is not applied here yet. Empty
    /// where what was in the log at the last answer is applied.
    beats: VecDeque<(u64, u64)>,
    /// When the log's engine last answered something that is applied here by now.
    contact_ms: u64,
    is_cut_off: bool,
    /// Whether that has changed since it was last asked for.
    has_turned: bool,
}

/// The whole registry at one place of the log, for nodes that join.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ReplicaImage {
    /// The form, [`super::log::FORMAT`].
    pub format: u32,
    /// The place of the last entry in it.
    pub position: String,
    /// How many entries it holds.
    pub sequence: u64,
    /// The epoch of all revisions.
    pub epoch: String,
    /// How many changes there were.
    pub version: u64,
    /// The services seen.
    pub services: Vec<ServiceImage>,
    /// The instances registered.
    pub instances: Vec<InstanceImage>,
    /// The revision at which new services begin.
    #[serde(default)]
    pub revision_floor: u64,
    /// Instances pulled out, and by whom; those of instances that are gone last, the oldest first.
    pub pull_outs: Vec<(String, String)>,
    /// Those of them that took themselves out. Earlier releases said so by the operator's name.
    #[serde(default)]
    pub own_pull_outs: Option<HashSet<String>>,
    /// The users who others of them were decided by, where tokens said so. Earlier releases know none.
    #[serde(default)]
    pub pull_out_users: BTreeMap<String, String>,
    /// The nodes that wrote entries, and the number of each one's last.
    pub nodes: Vec<(String, u64)>,
    /// The people of all nodes.
    #[serde(default)]
    pub people: CommonsImage,
}

impl ReplicaImage {
    /// Reads what another node wrote.
    ///
    /// # Errors
    ///
    /// What is wrong with it: the form, or a count out of range.
    pub fn read(text: &[u8]) -> Result<ReplicaImage, String> {
        let image: ReplicaImage =
            serde_json::from_slice(text).map_err(|fault| fault.to_string())?;
        image.check()?;
        Ok(image)
    }

    /// Checks that no count or time in it is beyond [`limits::COUNTER_MAX`], so that whoever counts on
    /// from it never runs over.
    ///
    /// # Errors
    ///
    /// Which one is.
    fn check(&self) -> Result<(), String> {
        let counts = [
            ("sequence", self.sequence),
            ("version", self.version),
            ("revision_floor", self.revision_floor),
        ];
        let services = self.services.iter().flat_map(|service| {
            [
                ("revision", service.revision),
                ("degraded_since_ms", service.degraded_since_ms.unwrap_or_default()),
                ("watch", service.watch.unwrap_or_default()),
                ("empty_since_ms", service.empty_since_ms.unwrap_or_default()),
            ]
        });
        let instances = self
            .instances
            .iter()
            .flat_map(|instance| [("ttl_ms", instance.ttl_ms), ("lease", instance.lease)]);
        let nodes = self.nodes.iter().map(|(_, number)| ("number", *number));
        let all = counts.into_iter().chain(services).chain(instances).chain(nodes);
        for (what, count) in all {
            limits::check_counter(what, count)?;
        }
        Ok(())
    }
}

/// A service in a [`ReplicaImage`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceImage {
    /// Its canonical name.
    pub service: String,
    /// Its revision.
    pub revision: u64,
    /// Whether its expiry may be held.
    pub protection_enabled: bool,
    /// Since when it is held, in milliseconds since the Unix epoch.
    pub degraded_since_ms: Option<u64>,
    /// The number of the entry since which it has overdue leases.
    pub watch: Option<u64>,
    /// Since when it has no instances, in milliseconds since the Unix epoch.
    #[serde(default)]
    pub empty_since_ms: Option<u64>,
}

/// An instance in a [`ReplicaImage`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct InstanceImage {
    /// Its identity's canonical text.
    pub id: String,
    /// Its service's canonical name.
    pub service: String,
    /// Its canonical JSON.
    pub json: String,
    /// Its lease.
    pub ttl_ms: u64,
    /// The node that owns its lease.
    pub owner: String,
    /// The lease's number.
    pub lease: u64,
    /// Whether it ran out.
    pub is_overdue: bool,
}

impl Replica {
    fn node(&mut self, name: &str) -> u32 {
        if let Some(&node) = self.by_name.get(name) {
            return node;
        }
        let node = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.push(name.to_owned());
        self.by_name.insert(name.to_owned(), node);
        self.owned.push(0);
        self.last.push(0);
        node
    }

    /// Counts a lease that a node has, or has no more.
    pub(super) fn count(&mut self, owner: u32, is_more: bool) {
        let owned = &mut self.owned[owner as usize];
        *owned = if is_more { *owned + 1 } else { owned.saturating_sub(1) };
    }

    /// How many entries were applied, since the log began.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// The place of the last entry applied.
    pub fn position(&self) -> &str {
        &self.position
    }

    /// Whether the log has not been heard of, or not been followed, for too long.
    pub fn is_cut_off(&self) -> bool {
        self.is_cut_off
    }

    /// Whether it has begun from an image, and all entries behind it.
    pub fn is_begun(&self) -> bool {
        self.is_begun
    }

    /// The last answer of the log's engine that told nothing new counts as contact.
    fn confirm(&mut self) {
        let is_applied = |(_, newest): &(u64, u64)| self.is_begun && *newest <= self.sequence;
        if let Some(last) = self.beats.iter().rposition(is_applied) {
            self.contact_ms = self.contact_ms.max(self.beats[last].0);
            self.beats.drain(..=last);
        }
    }

    /// Whether it falls to this node to decide what belongs to no node in particular.
    pub fn is_deputy(&self) -> bool {
        self.is_deputy
    }

    /// How many leases this node owns.
    pub fn leases_owned(&self) -> usize {
        self.owned[SELF as usize]
    }
}

/// What becomes of an order.
pub(super) enum Plan {
    /// It is none of the log's business.
    Apply(Order),
    /// It is done, or cannot be done.
    Answer(Answer),
    /// It goes through the log.
    Propose(Entry),
}

impl Registry {
    /// Makes an empty registry one of several; `node` is its own name.
    #[must_use]
    pub fn replicated(mut self, node: &str) -> Registry {
        self.replica = Some(Box::new(Replica {
            nodes: vec![node.to_owned()],
            by_name: HashMap::from([(node.to_owned(), SELF)]),
            owned: vec![0],
            last: vec![0],
            sequence: 0,
            position: String::from("0-0"),
            proposals: Vec::new(),
            judging: HashSet::new(),
            doubted: 0,
            adopting: 0,
            is_deputy: false,
            is_begun: false,
            beats: VecDeque::new(),
            contact_ms: 0,
            is_cut_off: true,
            has_turned: false,
        }));
        self
    }

    /// What the registry knows as one of several.
    pub fn replica(&self) -> Option<&Replica> {
        self.replica.as_deref()
    }

    /// Decides what becomes of an order among several nodes.
    pub(super) fn plan(&mut self, order: Order, now: Moment) -> Plan {
        let Some(replica) = &self.replica else { return Plan::Apply(order) };
        let is_write = matches!(
            order,
            Order::Register(_)
                | Order::Heartbeat(_)
                | Order::Unregister(_)
                | Order::Operate { .. }
                | Order::Protect { .. }
        ) || matches!(&order, Order::Roll(roll) if roll.is_write());
        if let Order::Subscribe { service, since: Some(_), .. } = &order
            && !replica.is_begun
        {
            // Whoever has a picture keeps it, and comes again.
            return Plan::Answer(Answer::NotSubscribed(service.clone()));
        }
        if !is_write {
            return Plan::Apply(order);
        }
        // Not by the mark: what was accepted while nobody looked at the clock would be lost.
        let silent_ms = now.unix_ms.saturating_sub(replica.contact_ms);
        if replica.is_cut_off || silent_ms > limits::CLUSTER_CONTACT_MS {
            return Plan::Answer(Answer::Unavailable);
        }
        Plan::Propose(match order {
            Order::Register(mut registrations) => {
                let room = self.settings.instances_max.saturating_sub(self.members.len());
                let is_new = |sent: &&crate::wire::instance::Registration| {
                    self.find_member(&sent.identity).is_none()
                };
                if registrations.iter().filter(is_new).count() > room {
                    let refused = (0..registrations.len())
                        .map(|index| RefusedEntry { index, code: Code::RateLimited });
                    return Plan::Answer(Answer::Batch(refused.collect()));
                }
                for sent in &mut registrations {
                    sent.lease_ttl_ms.get_or_insert(self.settings.lease_ttl_ms);
                }
                Entry::Register(registrations, self.bounds())
            }
            Order::Heartbeat(identities) if self.renew_own(&identities, now) => {
                return Plan::Answer(Answer::Batch(Vec::new()));
            }
            Order::Heartbeat(identities) => Entry::Renew(identities),
            Order::Unregister(identities) => Entry::Unregister(identities),
            Order::Operate { identity, operation } => Entry::Operate { identity, operation },
            Order::Protect { service, enabled } => Entry::Protect { service, enabled },
            Order::Roll(roll) => return self.plan_roll(*roll, now),
            other => return Plan::Apply(other),
        })
    }

    /// The same for what is asked about everyone.
    fn plan_roll(&mut self, roll: Roll, now: Moment) -> Plan {
        match roll {
            Roll::Put(mut put) => {
                put.registration.lease_ttl_ms.get_or_insert(self.settings.lease_ttl_ms);
                Plan::Propose(Entry::Put(put, self.bounds()))
            }
            Roll::Instance { service, instance, renews: true } => {
                // Which region it is in is found out here: nodes may know of different ones.
                let Called::Instance(Some(found)) =
                    self.call(Roll::Instance { service, instance, renews: false }, now)
                else {
                    return Plan::Answer(Answer::Called(Box::new(Called::Instance(None))));
                };
                if self.renew_own(std::slice::from_ref(&found.identity), now) {
                    let found = Called::Instance(Some(found));
                    return Plan::Answer(Answer::Called(Box::new(found)));
                }
                Plan::Propose(Entry::Beat(found.identity))
            }
            other => Plan::Apply(Order::Roll(Box::new(other))),
        }
    }

    /// Renews leases that are all this node's and in good standing. Else nothing is done.
    ///
    /// Somebody may have taken one over, in an entry that is not applied here yet; then this renewal
    /// counts for nothing. It can be so for [`limits::CLUSTER_CONTACT_MS`] at most, because whatever
    /// was in the log at the last contact is applied, and whoever takes over waits for as long.
    fn renew_own(&mut self, identities: &[InstanceIdentity], now: Moment) -> bool {
        if self.replica.as_ref().is_none_or(|replica| !replica.beats.is_empty()) {
            return false;
        }
        let is_simple = |identity: &InstanceIdentity| {
            self.find_member(identity).is_some_and(|member| {
                member.owner == SELF && !member.is_overdue && !member.is_proposed
            })
        };
        if !identities.iter().all(is_simple) {
            return false;
        }
        // Nobody is refused: each is there.
        self.heartbeat(identities, now).is_empty()
    }

    /// Counts an entry. None where it was written twice and is applied.
    pub(super) fn place(&mut self, item: &LogItem) -> Option<()> {
        let replica = self.replica.as_mut()?;
        replica.sequence += 1;
        replica.position.clone_from(&item.position);
        replica.confirm();
        let node = replica.node(&item.node);
        let last = &mut replica.last[node as usize];
        if item.number <= *last {
            return None;
        }
        *last = item.number;
        Some(())
    }

    /// How much this node lets the registry hold.
    fn bounds(&self) -> Bounds {
        let Settings { instances_max, instances_bytes_max, services_max, .. } = self.settings;
        Bounds { instances_max, services_max, instances_bytes_max }
    }

    /// Sets that. Returns what it was before.
    fn set_bounds(&mut self, bounds: Bounds) -> Bounds {
        let before = self.bounds();
        self.settings.instances_max = bounds.instances_max;
        self.settings.services_max = bounds.services_max;
        self.settings.instances_bytes_max = bounds.instances_bytes_max;
        before
    }

    /// Applies one entry, here as on every node, and gives the answer for the one who asked.
    pub(super) fn apply(&mut self, item: LogItem, now: Moment) -> Answer {
        // What is shown of the change is its proposer's time, on every node. A lease counts from here.
        let at = Moment { wall_ms: item.at_ms, ..now };
        let Some(replica) = &mut self.replica else { return Answer::Unavailable };
        let (sequence, owner) = (replica.sequence, replica.node(&item.node));
        match item.entry {
            Entry::Register(registrations, bounds) => {
                let own = self.set_bounds(bounds);
                let mut refused = Vec::new();
                for (index, sent) in registrations.into_iter().enumerate() {
                    let identity = sent.identity.clone();
                    let since_ms = self.renewed_ms(&identity);
                    match self.register(sent, at) {
                        Ok(()) => self.take_over(&identity, (owner, sequence), since_ms, now),
                        Err(code) => refused.push(RefusedEntry { index, code }),
                    }
                }
                self.set_bounds(own);
                Answer::Batch(refused)
            }
            Entry::Renew(identities) => {
                let refused = self.heartbeat(&identities, now);
                for identity in &identities {
                    let since_ms = self.renewed_ms(identity);
                    self.take_over(identity, (owner, sequence), since_ms, now);
                }
                Answer::Batch(refused)
            }
            Entry::Put(put, bounds) => {
                let own = self.set_bounds(bounds);
                let identity = put.registration.identity.clone();
                let since_ms = self.renewed_ms(&identity);
                let called = self.call(Roll::Put(put), at);
                self.set_bounds(own);
                if matches!(called, Called::Put) {
                    self.take_over(&identity, (owner, sequence), since_ms, now);
                }
                Answer::Called(Box::new(called))
            }
            Entry::Beat(identity) => {
                self.heartbeat(std::slice::from_ref(&identity), now);
                let since_ms = self.renewed_ms(&identity);
                self.take_over(&identity, (owner, sequence), since_ms, now);
                let found = self.find_index(&identity).map(|index| self.found(index));
                Answer::Called(Box::new(Called::Instance(found)))
            }
            Entry::Adopt(identities) => {
                self.adopt(&identities, owner, sequence, now);
                Answer::Batch(Vec::new())
            }
            Entry::Unregister(identities) => {
                for identity in &identities {
                    self.unregister(identity, at);
                }
                Answer::Batch(Vec::new())
            }
            Entry::Overdue(leases) => {
                for (identity, lease) in leases {
                    self.overdue(&identity, lease, now);
                }
                Answer::Batch(Vec::new())
            }
            Entry::Forget(services) => {
                self.forget_named(&services);
                Answer::Batch(Vec::new())
            }
            Entry::Judge { services, self_protection_max_ms } => {
                self.judge_named(&services, self_protection_max_ms, at);
                Answer::Batch(Vec::new())
            }
            Entry::Operate { identity, operation } => {
                Answer::Found(self.operate(&identity, &operation, at))
            }
            Entry::Protect { service, enabled } => {
                Answer::Found(self.protect(&service, enabled, at))
            }
            // These are of people.
            Entry::Present(_) | Entry::Farewell(_) | Entry::Define { .. } | Entry::Drop(_) => {
                Answer::Unavailable
            }
        }
    }

    /// From when a lease counts; 0 where there is none.
    fn renewed_ms(&self, identity: &InstanceIdentity) -> u64 {
        let held = self.find_member(identity);
        held.map_or(0, |member| member.deadline_ms.saturating_sub(member.ttl_ms))
    }

    /// Gives a renewed lease to a node, under a new number. It counted from `since_ms`, and does not
    /// count from any earlier; nor from when the entry was written: it may have been on its way for
    /// long, and another node's clock says nothing here. The owner before may not know of it yet,
    /// and renew the lease for as long as it is in contact.
    fn take_over(
        &mut self,
        identity: &InstanceIdentity,
        (owner, lease): (u32, u64),
        since_ms: u64,
        now: Moment,
    ) {
        if let Some(index) = self.find_index(identity) {
            let member = &mut self.members[index as usize];
            let more_ms = if member.owner == owner { 0 } else { limits::CLUSTER_CONTACT_MS };
            member.deadline_ms = since_ms.max(now.unix_ms + more_ms) + member.ttl_ms;
        }
        self.own(identity, owner, lease);
    }

    /// Gives a lease to a node, under a new number.
    fn own(&mut self, identity: &InstanceIdentity, owner: u32, lease: u64) {
        let Some(index) = self.find_index(identity) else { return };
        let member = &mut self.members[index as usize];
        let before = std::mem::replace(&mut member.owner, owner);
        member.lease = lease;
        let was_proposed = std::mem::take(&mut member.is_proposed);
        if let Some(replica) = &mut self.replica {
            member.is_proposed = owner == SELF && lease <= replica.doubted;
            replica.owned[before as usize] -= 1;
            replica.owned[owner as usize] += 1;
        }
        // What is proposed as overdue has left the wheel.
        if owner == SELF && (before != SELF || was_proposed) {
            self.arm(index);
        }
    }

    fn adopt(&mut self, identities: &[InstanceIdentity], owner: u32, lease: u64, now: Moment) {
        for identity in identities {
            let Some(index) = self.find_index(identity) else { continue };
            let member = &mut self.members[index as usize];
            // A full period, and the time for which an owner that is back may not know of this.
            member.deadline_ms = now.unix_ms + member.ttl_ms + limits::CLUSTER_CONTACT_MS;
            self.own(identity, owner, lease);
        }
        if let Some(replica) = self.replica.as_mut().filter(|_| owner == SELF) {
            replica.adopting = replica.adopting.saturating_sub(1);
        }
    }

    /// Counts a lease as run out, where it still is the one that ran out.
    fn overdue(&mut self, identity: &InstanceIdentity, lease: u64, now: Moment) {
        let Some(index) = self.find_index(identity) else { return };
        let member = &mut self.members[index as usize];
        if member.lease != lease || member.is_overdue {
            return;
        }
        member.is_proposed = false;
        self.mark_overdue(index, now);
    }

    fn judge_named(&mut self, services: &[(ServiceName, u64)], max_ms: u64, at: Moment) {
        // The entry's bound and not this node's: all come to the same judgement.
        let own_max_ms = std::mem::replace(&mut self.settings.self_protection_max_ms, max_ms);
        for (name, watch) in services {
            if let Some(replica) = &mut self.replica {
                replica.judging.remove(name);
            }
            if let Some(service) = self.find_service(name)
                && self.services[service].watched_since_ms.is_some()
                && self.services[service].watch == *watch
            {
                self.judge(service, at);
            }
        }
        self.unwatch();
        self.settings.self_protection_max_ms = own_max_ms;
    }

    /// Time passed: proposes what it has made of leases, services and nodes.
    pub(super) fn propose_by_time(&mut self, due: Vec<u32>, now: Moment) {
        let mut overdue = Vec::new();
        let is_cut_off = self.is_cut_off();
        for index in due {
            if is_cut_off {
                // Nobody can be told. It is looked at again, and by then it may be another's.
                self.arm_at(index, now.unix_ms + limits::CLUSTER_RETRY_MS);
                continue;
            }
            let member = &mut self.members[index as usize];
            member.is_proposed = true;
            overdue.push((member.identity.clone(), member.lease));
        }
        let mut services = Vec::new();
        if self.replica.as_ref().is_some_and(|replica| replica.is_deputy && !replica.is_cut_off) {
            for &service in &self.watched {
                let name = &self.services[service].name;
                let is_due = self.judge_at_ms(service).is_some_and(|at_ms| at_ms <= now.unix_ms);
                let is_new = self.replica.as_ref().is_some_and(|one| !one.judging.contains(name));
                if is_due && is_new {
                    services.push((name.clone(), self.services[service].watch));
                }
            }
        }
        let self_protection_max_ms = self.settings.self_protection_max_ms;
        let Some(replica) = &mut self.replica else { return };
        for piece in overdue.chunks(limits::COMMAND_ENTRIES_MAX) {
            replica.proposals.push(Entry::Overdue(piece.to_vec()));
        }
        if !services.is_empty() {
            replica.judging.extend(services.iter().map(|(name, _)| name.clone()));
            replica.proposals.push(Entry::Judge { services, self_protection_max_ms });
        }
    }

    /// When services have to be judged by this node, in milliseconds since the Unix epoch.
    pub(super) fn next_judgement_ms(&self) -> Option<u64> {
        let is_ours = |service: usize| match &self.replica {
            None => true,
            Some(replica) => {
                replica.is_deputy
                    && !replica.is_cut_off
                    && !replica.judging.contains(&self.services[service].name)
            }
        };
        let watched = self.watched.iter().copied().filter(|&service| is_ours(service));
        watched.filter_map(|service| self.judge_at_ms(service)).min()
    }

    /// Has something go into the log.
    pub(super) fn propose(&mut self, entry: Entry) {
        if let Some(replica) = &mut self.replica {
            replica.proposals.push(entry);
        }
    }

    /// Takes what has to go into the log.
    pub(super) fn take_proposals(&mut self) -> Vec<Entry> {
        self.replica.as_mut().map(|one| std::mem::take(&mut one.proposals)).unwrap_or_default()
    }

    /// A proposal did not reach the log: what it was about is looked at again.
    pub(super) fn on_proposal_lost(&mut self, entry: &Entry, now: Moment) {
        match entry {
            Entry::Overdue(leases) => {
                for (identity, lease) in leases {
                    let Some(index) = self.find_index(identity) else { continue };
                    let member = &mut self.members[index as usize];
                    if member.owner == SELF && member.lease == *lease && member.is_proposed {
                        // Still proposed: it may yet come into the log, and a renewal that stays
                        // here would not void it.
                        self.arm_at(index, now.unix_ms + limits::CLUSTER_RETRY_MS);
                    }
                }
            }
            Entry::Judge { services, .. } => {
                if let Some(replica) = &mut self.replica {
                    for (name, _) in services {
                        replica.judging.remove(name);
                    }
                }
            }
            Entry::Adopt(_) => {
                if let Some(replica) = &mut self.replica {
                    replica.adopting = replica.adopting.saturating_sub(1);
                }
            }
            _ => {}
        }
    }

    /// News of the log's engine: when it last answered, which nodes are alive.
    pub(super) fn on_nodes(&mut self, alive: &[String], (contact_ms, newest): (u64, u64)) {
        let Some(replica) = &mut self.replica else { return };
        if replica.beats.len() == limits::CLUSTER_BEATS_KEPT {
            replica.beats.pop_front();
        }
        replica.beats.push_back((contact_ms, newest));
        replica.confirm();
        let first = alive.iter().min();
        replica.is_deputy = first.is_some_and(|first| *first == replica.nodes[SELF as usize]);
        if !replica.is_deputy || replica.is_cut_off || replica.adopting > 0 {
            return;
        }
        let orphaning: Vec<u32> = (1..)
            .zip(&replica.nodes[1..])
            .filter(|(node, name)| replica.owned[*node as usize] > 0 && !alive.contains(name))
            .map(|(node, _)| node)
            .collect();
        if orphaning.is_empty() {
            return;
        }
        let orphans: Vec<InstanceIdentity> = self
            .members
            .iter()
            .filter(|(_, member)| orphaning.contains(&member.owner))
            .map(|(_, member)| member.identity.clone())
            .collect();
        let nodes: Vec<&str> =
            orphaning.iter().map(|&node| &*replica.nodes[node as usize]).collect();
        tracing::info!(
            target: "fanfare::cluster",
            leases = orphans.len(),
            of = nodes.join(", "),
            "leases of nodes that are gone are taken over"
        );
        for piece in orphans.chunks(limits::COMMAND_ENTRIES_MAX) {
            replica.proposals.push(Entry::Adopt(piece.to_vec()));
            replica.adopting += 1;
        }
    }

    /// Marks or unmarks all services as cut off, where that is news.
    pub(super) fn check_contact(&mut self, now: Moment) {
        let Some(replica) = &mut self.replica else { return };
        let silent_ms = now.unix_ms.saturating_sub(replica.contact_ms);
        let is_cut_off = silent_ms > limits::CLUSTER_CONTACT_MS;
        if std::mem::replace(&mut replica.is_cut_off, is_cut_off) == is_cut_off {
            return;
        }
        replica.has_turned = true;
        let services: Vec<usize> = self.services.iter().map(|(service, _)| service).collect();
        for service in services {
            self.services[service].is_cut_off = is_cut_off;
            self.touch(service);
        }
        if is_cut_off {
            tracing::info!("contact with the other nodes is lost: registry writes are refused");
        } else {
            tracing::info!("in contact with the other nodes: registry writes are taken");
        }
    }

    /// Whether this node has lost the others. Where there are none, it has not.
    pub(super) fn is_cut_off(&self) -> bool {
        self.replica.as_ref().is_some_and(|replica| replica.is_cut_off)
    }

    /// Tells followers of services that were never seen where contact was lost or found since this
    /// was last called. The registry knows of no followers; it is given all that are followed.
    pub fn announce_turn<'a>(&mut self, followed: impl Iterator<Item = &'a ServiceName>) {
        let Some(replica) = &mut self.replica else { return };
        if !std::mem::take(&mut replica.has_turned) {
            return;
        }
        let degraded = replica.is_cut_off;
        let mut announcements = Vec::new();
        for service in followed.filter(|name| self.find_service(name).is_none()) {
            announcements.push(Announcement {
                service: service.clone(),
                begins: false,
                from: 0,
                revision: 0,
                degraded,
                changes: Vec::new(),
            });
        }
        self.announcements.extend(announcements);
    }

    /// When contact has to be looked at by time alone.
    pub(super) fn next_contact_check_ms(&self) -> Option<u64> {
        let replica = self.replica.as_ref().filter(|replica| !replica.is_cut_off)?;
        Some(replica.contact_ms + limits::CLUSTER_CONTACT_MS + 1)
    }

    /// The whole registry at the present place of the log. Linear in the instances.
    pub fn image(&self) -> Option<ReplicaImage> {
        let replica = self.replica.as_ref()?;
        let service = |service: &super::service::Service| ServiceImage {
            service: service.name.as_str().to_owned(),
            revision: service.revision,
            protection_enabled: service.protection_enabled,
            degraded_since_ms: service.degraded_since_ms,
            watch: service.watched_since_ms.map(|_| service.watch),
            empty_since_ms: service.empty.map(|empty| empty.since_ms),
        };
        let instance = |member: &Member| InstanceImage {
            id: member.identity.as_str().to_owned(),
            service: self.services[member.service].name.as_str().to_owned(),
            json: String::from_utf8_lossy(&member.json).into_owned(),
            ttl_ms: member.ttl_ms,
            owner: replica.nodes[member.owner as usize].clone(),
            lease: member.lease,
            is_overdue: member.is_overdue,
        };
        Some(ReplicaImage {
            format: super::log::FORMAT,
            position: replica.position.clone(),
            sequence: replica.sequence,
            epoch: self.epoch.as_str().to_owned(),
            version: self.version(),
            services: self
                .in_order_of_emptiness()
                .map(|index| service(&self.services[index]))
                .collect(),
            instances: self.members.iter().map(|(_, one)| instance(one)).collect(),
            revision_floor: self.revision_floor,
            pull_outs: self
                .pulled_out
                .iter()
                .map(|(identity, by)| {
                    let name = if *by == PulledOutBy::Itself { OWN } else { by.name() };
                    (identity.as_str().to_owned(), name.to_owned())
                })
                .collect(),
            own_pull_outs: Some(
                self.pulled_out
                    .iter()
                    .filter(|(_, by)| **by == PulledOutBy::Itself)
                    .map(|(identity, _)| identity.as_str().to_owned())
                    .collect(),
            ),
            pull_out_users: self
                .pulled_out
                .iter()
                .filter_map(|(identity, by)| {
                    Some((identity.as_str().to_owned(), by.user()?.to_string()))
                })
                .collect(),
            nodes: replica.nodes.iter().cloned().zip(replica.last.iter().copied()).collect(),
            people: CommonsImage::default(),
        })
    }

    /// Begins anew from an image. Every lease gets a full period. Those that are this node's count as
    /// proposed: an entry of before may yet end them, so the next renewal goes through the log.
    #[must_use]
    pub fn from_image(
        settings: Settings,
        node: &str,
        image: ReplicaImage,
        now: Moment,
    ) -> Registry {
        let mut registry =
            Registry::new(settings, Epoch::new(&image.epoch), image.version, now).replicated(node);
        // What the others hold is taken whole.
        registry.revision_floor = image.revision_floor;
        for (text, operator) in image.pull_outs {
            let is_own = match &image.own_pull_outs {
                Some(own) => own.contains(&text),
                None => operator == OWN,
            };
            let by = if is_own {
                PulledOutBy::Itself
            } else {
                let user = image.pull_out_users.get(&text).map(|user| UserId::new(user));
                PulledOutBy::Operator(Operator { user, name: operator.into() })
            };
            registry.pulled_out.insert(&InstanceIdentity::from_canonical(&text), by, false);
        }
        for record in &image.services {
            let since_ms =
                record.empty_since_ms.map_or(now.unix_ms, |at_ms| at_ms.min(now.unix_ms));
            let index = registry.restore_service(&ServiceName::of(&record.service), since_ms);
            let service = &mut registry.services[index];
            service.revision = record.revision;
            service.protection_enabled = record.protection_enabled;
            if let Some(watch) = record.watch {
                (service.watched_since_ms, service.watch) = (Some(now.unix_ms), watch);
                registry.watched.push(index);
            }
            if record.degraded_since_ms.is_some() {
                service.degraded_since_ms = record.degraded_since_ms;
                registry.totals.degraded_services += 1;
            }
        }
        for record in image.instances {
            let service = registry.restore_service(&ServiceName::of(&record.service), now.unix_ms);
            let identity = InstanceIdentity::from_canonical(&record.id);
            let json = Bytes::from(record.json);
            let index = registry.admit(service, identity.clone(), json, record.ttl_ms, now);
            if record.is_overdue {
                registry.members[index as usize].is_overdue = true;
                registry.services[service].overdue += 1;
            }
            let owner = match &mut registry.replica {
                Some(replica) => replica.node(&record.owner),
                None => SELF,
            };
            registry.own(&identity, owner, record.lease);
            registry.members[index as usize].is_proposed = owner == SELF;
        }
        if let Some(replica) = &mut registry.replica {
            for (name, number) in &image.nodes {
                let node = replica.node(name);
                replica.last[node as usize] = *number;
            }
            replica.sequence = image.sequence;
            replica.position = image.position;
            replica.is_begun = true;
        }
        registry.trim_pull_outs();
        registry
    }

    /// A service as it stands.
    pub fn present_view(&mut self, name: &ServiceName) -> View {
        self.view(name)
    }

    /// What the registry was made with.
    pub(super) fn settings(&self) -> Settings {
        self.settings.clone()
    }

    /// Takes over what another knew of the log's engine and of its own proposals, before entries are
    /// applied that may answer those.
    pub(super) fn inherit(&mut self, before: &Registry) {
        let is_same = self.epoch == before.epoch;
        self.inherit_followed(before);
        let (Some(replica), Some(before)) = (&mut self.replica, &before.replica) else { return };
        replica.contact_ms = before.contact_ms;
        replica.beats.clone_from(&before.beats);
        replica.is_deputy = before.is_deputy;
        if is_same {
            replica.doubted = before.doubted.max(before.sequence);
        }
        replica.confirm();
    }

    /// Takes the place of another. Returns all services of both.
    pub(super) fn succeed(&mut self, before: &Registry, now: Moment) -> HashSet<ServiceName> {
        let mut names: HashSet<ServiceName> =
            before.services.iter().map(|(_, service)| service.name.clone()).collect();
        names.extend(self.services.iter().map(|(_, service)| service.name.clone()));
        self.go_on_from(before, now);
        names
    }
}

#[cfg(test)]
mod leases;
#[cfg(test)]
mod marks;
