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
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::commons::CommonsImage;
use super::log::{Bounds, Entry, LogItem};
use super::order::{Answer, RefusedEntry, View};
use super::pull_outs::{Operator, PulledOutBy};
use super::registry::{Announcement, Member, Registry, Settings};
use super::roster::{Called, Put};
use crate::clock::Moment;
use crate::id::{Epoch, InstanceIdentity, ServiceName, UserId};
use crate::limits;
use crate::wire::instance::Registration;
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
    nodes: Vec<Arc<str>>,
    by_name: HashMap<Arc<str>, u32>,
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
    /// When the log's engine last answered something that is applied here by now; none where the log
    /// is this process's own.
    contact_ms: Option<u64>,
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
    /// The place in the log of a node that is alone: it decides everything, and is in contact with
    /// its own log for ever.
    pub(super) fn alone() -> Replica {
        Replica {
            is_deputy: true,
            is_begun: true,
            contact_ms: None,
            is_cut_off: false,
            ..Replica::joining("")
        }
    }

    /// The place of a node that has read nothing of the log yet.
    fn joining(node: &str) -> Replica {
        let node: Arc<str> = node.into();
        Replica {
            nodes: vec![Arc::clone(&node)],
            by_name: HashMap::from([(node, SELF)]),
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
            contact_ms: Some(0),
            is_cut_off: true,
            has_turned: false,
        }
    }

    fn node(&mut self, name: &Arc<str>) -> u32 {
        if Arc::ptr_eq(name, &self.nodes[SELF as usize]) {
            return SELF;
        }
        if let Some(&node) = self.by_name.get(name) {
            return node;
        }
        let node = u32::try_from(self.nodes.len()).unwrap_or(u32::MAX);
        self.nodes.push(Arc::clone(name));
        self.by_name.insert(Arc::clone(name), node);
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
            self.contact_ms = self.contact_ms.max(Some(self.beats[last].0));
            self.beats.drain(..=last);
        }
    }

    /// Whether it falls to this node to decide what belongs to no node in particular.
    pub fn is_deputy(&self) -> bool {
        self.is_deputy
    }

    /// Whether other nodes may read the log, and write to it.
    pub(super) fn is_shared(&self) -> bool {
        self.contact_ms.is_some()
    }

    /// Whether this node may decide now what belongs to no node in particular.
    pub(super) fn decides(&self) -> bool {
        self.is_deputy && !self.is_cut_off
    }

    /// Whether the log has been silent for too long.
    fn is_silent(&self, now: Moment) -> bool {
        let silent_ms = self.contact_ms.map(|contact_ms| now.unix_ms.saturating_sub(contact_ms));
        silent_ms.is_some_and(|silent_ms| silent_ms > limits::CLUSTER_CONTACT_MS)
    }

    /// The node's own name.
    pub(super) fn own_name(&self) -> &Arc<str> {
        &self.nodes[SELF as usize]
    }

    /// How many leases this node owns.
    pub fn leases_owned(&self) -> usize {
        self.owned[SELF as usize]
    }
}

/// What the registry decides about a write.
pub(super) enum Decision {
    /// It is done, or cannot be done.
    Answer(Answer),
    /// It goes through the log.
    Append(Entry),
}

/// An entry's place in the log, as the registry applies it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Commit {
    /// The node that decided the entry.
    pub(super) owner: u32,
    /// The entry's number in the log; a lease that it gives an owner has this number.
    pub(super) lease: u64,
    /// Now, with the wall clock of the deciding node: all nodes show the same time of a change.
    pub(super) at: Moment,
}

impl Registry {
    /// Makes an empty registry one of several; `node` is its own name.
    #[must_use]
    pub fn replicated(mut self, node: &str) -> Registry {
        self.replica = Box::new(Replica::joining(node));
        self
    }

    /// This node's place in the log, and what it knows of the other nodes.
    pub fn replica(&self) -> &Replica {
        &self.replica
    }

    /// Decides on a write that the log has to order: it is refused where the log is out of reach.
    pub(super) fn decide(&self, entry: Entry, now: Moment) -> Decision {
        match self.check_reach(now) {
            Ok(()) => Decision::Append(entry),
            Err(answer) => Decision::Answer(answer),
        }
    }

    /// Decides on registrations.
    pub(super) fn decide_register(
        &self,
        mut registrations: Vec<Registration>,
        now: Moment,
    ) -> Decision {
        for sent in &mut registrations {
            sent.lease_ttl_ms.get_or_insert(self.settings.lease_ttl_ms);
        }
        self.decide(Entry::Register(registrations, self.bounds()), now)
    }

    /// Decides on a registration that was made with the one before in mind.
    pub(super) fn decide_put(&self, mut put: Put, now: Moment) -> Decision {
        put.registration.lease_ttl_ms.get_or_insert(self.settings.lease_ttl_ms);
        self.decide(Entry::Put(put, self.bounds()), now)
    }

    /// Decides on heartbeats: those of leases that are all this node's need no entry.
    pub(super) fn decide_heartbeat(
        &mut self,
        identities: Vec<InstanceIdentity>,
        now: Moment,
    ) -> Decision {
        if let Err(answer) = self.check_reach(now) {
            return Decision::Answer(answer);
        }
        if self.renew_own(&identities, now) {
            return Decision::Answer(Answer::Batch(Vec::new()));
        }
        Decision::Append(Entry::Renew(identities))
    }

    /// Decides on the heartbeat of an instance in whatever region. This node finds the region, for
    /// nodes may know of different ones.
    pub(super) fn decide_beat(
        &mut self,
        service: &ServiceName,
        instance: &str,
        now: Moment,
    ) -> Decision {
        if let Err(answer) = self.check_reach(now) {
            return Decision::Answer(answer);
        }
        let Some(index) = self.find_anywhere(service.as_str(), instance) else {
            return Decision::Answer(Answer::Called(Box::new(Called::Instance(None))));
        };
        let identity = self.members[index as usize].identity.clone();
        if !self.renew_own(std::slice::from_ref(&identity), now) {
            return Decision::Append(Entry::Beat(identity));
        }
        let found = Called::Instance(Some(self.found(index)));
        Decision::Answer(Answer::Called(Box::new(found)))
    }

    /// Whether the log can be written to. Not by the mark alone: what is accepted while nobody looks
    /// at the clock would be lost.
    fn check_reach(&self, now: Moment) -> Result<(), Answer> {
        if self.replica.is_cut_off || self.replica.is_silent(now) {
            return Err(Answer::Unavailable);
        }
        Ok(())
    }

    /// Renews leases that are all this node's and in good standing. Else nothing is done.
    ///
    /// Somebody may have taken one over, in an entry that is not applied here yet; then this renewal
    /// counts for nothing. It can be so for [`limits::CLUSTER_CONTACT_MS`] at most, because whatever
    /// was in the log at the last contact is applied, and whoever takes over waits for as long.
    fn renew_own(&mut self, identities: &[InstanceIdentity], now: Moment) -> bool {
        if !self.replica.beats.is_empty() {
            return false;
        }
        let mut renewing = std::mem::take(&mut self.renewing);
        let simple = identities.iter().map_while(|identity| {
            let index = self.find_index(identity)?;
            let member = &self.members[index as usize];
            let is_simple = member.owner == SELF && !member.is_overdue && !member.is_proposed;
            is_simple.then_some(index)
        });
        renewing.extend(simple);
        let is_done = renewing.len() == identities.len();
        for index in renewing.drain(..) {
            if is_done {
                self.renew(index, now);
            }
        }
        self.renewing = renewing;
        is_done
    }

    /// Counts an entry. None where it was written twice and is applied.
    pub(super) fn place(&mut self, item: &LogItem) -> Option<()> {
        let replica = &mut self.replica;
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

    /// Applies one entry, here as on every node, and gives the answer for the one who asked.
    pub(super) fn apply(&mut self, item: LogItem, now: Moment) -> Answer {
        // Followers are shown the deciding node's time, on every node. A lease counts from here.
        let at = Moment { wall_ms: item.at_ms, ..now };
        let (owner, lease) = (self.replica.node(&item.node), self.replica.sequence);
        let commit = Commit { owner, lease, at };
        match item.entry {
            Entry::Register(registrations, bounds) => {
                let mut refused = Vec::new();
                for (index, sent) in registrations.into_iter().enumerate() {
                    if let Err(code) = self.register(sent, &bounds, &commit) {
                        refused.push(RefusedEntry { index, code });
                    }
                }
                Answer::Batch(refused)
            }
            Entry::Renew(identities) => Answer::Batch(self.renew_all(&identities, &commit)),
            Entry::Put(put, bounds) => Answer::Called(Box::new(self.put(put, &bounds, &commit))),
            Entry::Beat(identity) => {
                self.renew_all(std::slice::from_ref(&identity), &commit);
                let found = self.find_index(&identity).map(|index| self.found(index));
                Answer::Called(Box::new(Called::Instance(found)))
            }
            Entry::Adopt(identities) => {
                self.adopt(&identities, &commit);
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

    /// Renews leases, which are the deciding node's from here on. Returns the places of those that
    /// are not there.
    fn renew_all(&mut self, identities: &[InstanceIdentity], commit: &Commit) -> Vec<RefusedEntry> {
        let mut refused = Vec::new();
        for (place, identity) in identities.iter().enumerate() {
            match self.find_index(identity) {
                Some(index) => {
                    let since_ms = self.members[index as usize].renewed_ms();
                    self.renew(index, commit.at);
                    self.take_over(index, since_ms, commit);
                }
                None => refused.push(RefusedEntry { index: place, code: Code::NotFound }),
            }
        }
        refused
    }

    /// Gives a renewed lease to a node, under a new number. It counted from `since_ms`, and does not
    /// count from any earlier; nor from when the entry was written: it may have been on its way for
    /// long, and another node's clock says nothing here. The owner before may not know of it yet,
    /// and renew the lease for as long as it is in contact.
    pub(super) fn take_over(&mut self, index: u32, since_ms: u64, commit: &Commit) {
        let member = &mut self.members[index as usize];
        let more_ms = if member.owner == commit.owner { 0 } else { limits::CLUSTER_CONTACT_MS };
        member.deadline_ms = since_ms.max(commit.at.unix_ms + more_ms) + member.ttl_ms;
        self.own(index, commit.owner, commit.lease);
    }

    /// Gives a lease to a node, under a new number.
    fn own(&mut self, index: u32, owner: u32, lease: u64) {
        let member = &mut self.members[index as usize];
        let before = std::mem::replace(&mut member.owner, owner);
        member.lease = lease;
        let was_proposed = std::mem::take(&mut member.is_proposed);
        member.is_proposed = owner == SELF && lease <= self.replica.doubted;
        if before != owner {
            self.replica.count(before, false);
            self.replica.count(owner, true);
        }
        // What is proposed as overdue has left the wheel.
        if owner == SELF && (before != SELF || was_proposed) {
            self.arm(index);
        }
    }

    fn adopt(&mut self, identities: &[InstanceIdentity], commit: &Commit) {
        for identity in identities {
            let Some(index) = self.find_index(identity) else { continue };
            let member = &mut self.members[index as usize];
            // A full period, and the time for which an owner that is back may not know of this.
            member.deadline_ms = commit.at.unix_ms + member.ttl_ms + limits::CLUSTER_CONTACT_MS;
            self.own(index, commit.owner, commit.lease);
        }
        if commit.owner == SELF {
            self.replica.adopting = self.replica.adopting.saturating_sub(1);
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
        for (name, watch) in services {
            self.replica.judging.remove(name);
            if let Some(service) = self.find_service(name)
                && self.services[service].watched_since_ms.is_some()
                && self.services[service].watch == *watch
            {
                // The entry's bound and not this node's: all come to the same judgement.
                self.judge(service, max_ms, at);
            }
        }
        self.unwatch();
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
        if self.replica.decides() {
            for &service in &self.watched {
                let name = &self.services[service].name;
                let is_due = self.judge_at_ms(service).is_some_and(|at_ms| at_ms <= now.unix_ms);
                if is_due && !self.replica.judging.contains(name) {
                    services.push((name.clone(), self.services[service].watch));
                }
            }
        }
        let self_protection_max_ms = self.settings.self_protection_max_ms;
        let replica = &mut self.replica;
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
        if !self.replica.decides() {
            return None;
        }
        let is_open = |service: usize| !self.replica.judging.contains(&self.services[service].name);
        let watched = self.watched.iter().copied().filter(|&service| is_open(service));
        watched.filter_map(|service| self.judge_at_ms(service)).min()
    }

    /// Has something go into the log.
    pub(super) fn propose(&mut self, entry: Entry) {
        self.replica.proposals.push(entry);
    }

    /// Takes what has to go into the log.
    pub(super) fn take_proposals(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.replica.proposals)
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
                for (name, _) in services {
                    self.replica.judging.remove(name);
                }
            }
            Entry::Adopt(_) => {
                self.replica.adopting = self.replica.adopting.saturating_sub(1);
            }
            _ => {}
        }
    }

    /// News of the log's engine: when it last answered, which nodes are alive.
    pub(super) fn on_nodes(&mut self, alive: &[String], (contact_ms, newest): (u64, u64)) {
        let replica = &mut self.replica;
        if replica.beats.len() == limits::CLUSTER_BEATS_KEPT {
            replica.beats.pop_front();
        }
        replica.beats.push_back((contact_ms, newest));
        replica.confirm();
        let first = alive.iter().min();
        replica.is_deputy = first.is_some_and(|first| **first == **replica.own_name());
        if !replica.is_deputy || replica.is_cut_off || replica.adopting > 0 {
            return;
        }
        let orphaning: Vec<u32> = (1..)
            .zip(&replica.nodes[1..])
            .filter(|(node, name)| {
                let is_alive = alive.iter().any(|alive| **alive == ***name);
                replica.owned[*node as usize] > 0 && !is_alive
            })
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
        let replica = &mut self.replica;
        let is_cut_off = replica.is_silent(now);
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
        self.replica.is_cut_off
    }

    /// Tells followers of services that were never seen where contact was lost or found since this
    /// was last called. The registry knows of no followers; it is given all that are followed.
    pub fn announce_turn<'a>(&mut self, followed: impl Iterator<Item = &'a ServiceName>) {
        let replica = &mut self.replica;
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
        let contact_ms = self.replica.contact_ms.filter(|_| !self.replica.is_cut_off)?;
        Some(contact_ms + limits::CLUSTER_CONTACT_MS + 1)
    }

    /// The whole registry at the present place of the log. Linear in the instances.
    pub fn image(&self) -> ReplicaImage {
        let replica = &self.replica;
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
            owner: replica.nodes[member.owner as usize].to_string(),
            lease: member.lease,
            is_overdue: member.is_overdue,
        };
        ReplicaImage {
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
            nodes: replica
                .nodes
                .iter()
                .map(ToString::to_string)
                .zip(replica.last.iter().copied())
                .collect(),
            people: CommonsImage::default(),
        }
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
            let index = registry.admit(service, identity, json, record.ttl_ms, now);
            if record.is_overdue {
                registry.members[index as usize].is_overdue = true;
                registry.services[service].overdue += 1;
            }
            let owner = registry.replica.node(&record.owner.as_str().into());
            registry.own(index, owner, record.lease);
            registry.members[index as usize].is_proposed = owner == SELF;
        }
        let replica = &mut registry.replica;
        for (name, number) in &image.nodes {
            let node = replica.node(&name.as_str().into());
            replica.last[node as usize] = *number;
        }
        replica.sequence = image.sequence;
        replica.position = image.position;
        replica.is_begun = true;
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
        let (replica, before) = (&mut self.replica, &before.replica);
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

/// What a node that is alone does with its log, for tests of the registry without a state.
#[cfg(test)]
impl Registry {
    /// Appends an entry to the node's own log, and applies it.
    pub(super) fn append_alone(&mut self, entry: Entry, now: Moment) -> Answer {
        let item = LogItem {
            position: String::new(),
            node: Arc::clone(self.replica.own_name()),
            number: self.replica.sequence + 1,
            at_ms: now.wall_ms,
            entry,
        };
        self.place(&item).expect("each number is new");
        self.apply(item, now)
    }

    /// Registers an instance.
    pub(super) fn register_alone(&mut self, sent: Registration, now: Moment) -> Result<(), Code> {
        match self.append_alone(Entry::Register(vec![sent], self.bounds()), now) {
            Answer::Batch(refused) => refused.first().map_or(Ok(()), |one| Err(one.code)),
            other => panic!("{other:?}"),
        }
    }

    /// Registers an instance with the one before in mind.
    pub(super) fn put_alone(&mut self, put: Put, now: Moment) -> Called {
        match self.append_alone(Entry::Put(put, self.bounds()), now) {
            Answer::Called(called) => *called,
            other => panic!("{other:?}"),
        }
    }

    /// Lets time pass, and does what it proposes.
    pub(super) fn tick_alone(&mut self, now: Moment) {
        self.tick(now);
        for entry in self.take_proposals() {
            self.append_alone(entry, now);
        }
    }
}

#[cfg(test)]
mod leases;
#[cfg(test)]
mod marks;
