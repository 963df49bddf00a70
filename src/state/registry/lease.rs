//! Leases, and the path that every write takes: decide, append, apply.
//!
//! ```text
//! command --> decide --> renewed at once, where each lease is this node's
//!                   \--> Entry --> log --> apply, here and on every other node --> reply
//! ```
//!
//! A lease belongs to the node that appended its last registration or heartbeat. That node's wheel watches the
//! lease, so later heartbeats at the same node need no entry. When the lease runs out, the owner appends that
//! together with the lease's number; a heartbeat accepted elsewhere changed the number, and the entry is void.
//! The leader takes over the leases of a node that is gone, for one full period.
//!
//! Entries may be delayed. One that was reported lost may still be appended. Therefore a lease counts from
//! where its entry is applied; a takeover adds [`limits::CLUSTER_CONTACT_MS`], for which the previous owner may
//! still renew the lease; and a lease that was ever proposed as overdue is renewed through the log, which
//! changes its number.
//!
//! # Promises
//!
//! * Every node applies the same entries in one order, and comes to the same revisions under the same epoch.
//! * No lease expires while some node accepts its heartbeats.
//! * A node that is cut off accepts no write, lets nothing expire, and shows every service as degraded.
//!
//! Imports `limits` and its siblings. Part of `state::registry`.

use super::Registry;
use super::commands::PutInstance;
use super::log_position::{Commit, SELF};
use super::pull_outs::Operator;
use super::replies::RefusedEntry;
use crate::clock::Moment;
use crate::id::{InstanceIdentity, ServiceName};
use crate::limits;
use crate::state::entry::{Applied, Entry, LogItem};
use crate::wire::refusal::Code;

impl Registry {
    /// Counts an entry. Returns false where the entry was written twice and is applied.
    pub(in crate::state) fn record(&mut self, item: &LogItem) -> bool {
        self.log.record(item)
    }

    /// Applies one entry, here as on every node, and gives the answer for the one who asked.
    pub(in crate::state) fn apply(&mut self, item: LogItem, now: Moment) -> Applied {
        // Followers are shown the deciding node's time, on every node. A lease counts from here.
        let at = Moment { wall_ms: item.at_ms, ..now };
        let (owner, lease) = (self.log.node(&item.node), self.log.sequence);
        let commit = Commit { owner, lease, at };
        match item.entry {
            Entry::Register { list, bounds } => {
                let mut refused = Vec::new();
                for (index, sent) in list.into_iter().enumerate() {
                    if let Err(code) = self.register(sent, &bounds, &commit) {
                        refused.push(RefusedEntry { index, code });
                    }
                }
                Applied::Batch(refused)
            }
            Entry::Renew(identities) => Applied::Batch(self.renew_all(&identities, &commit)),
            Entry::Put { registration, expected, pull, bounds } => {
                let put = PutInstance { registration, expected, pull };
                Applied::Put(self.put(put, &bounds, &commit))
            }
            Entry::Beat(identity) => {
                self.renew_all(std::slice::from_ref(&identity), &commit);
                let found = self.find_index(&identity).map(|index| self.found(index));
                Applied::Instance(found)
            }
            Entry::TakeOverLeases(identities) => {
                self.take_over_leases(&identities, &commit);
                Applied::Done
            }
            Entry::Unregister(identities) => {
                for identity in &identities {
                    self.unregister(identity, at);
                }
                Applied::Batch(Vec::new())
            }
            Entry::Overdue(leases) => {
                for (identity, lease) in leases {
                    self.mark_lease_overdue(&identity, lease, now);
                }
                Applied::Done
            }
            Entry::Forget(services) => {
                self.forget_services(&services);
                Applied::Done
            }
            Entry::Judge { services, self_protection_max_ms, over } => {
                self.judge_services(&services, &over, self_protection_max_ms, at);
                Applied::Done
            }
            Entry::Operate { identity, operator, user } => {
                let operator = operator.map(|name| Operator { user, name });
                Applied::Found(self.operate(&identity, operator, at))
            }
            Entry::Protect { service, enabled } => {
                Applied::Found(self.protect(&service, enabled, at))
            }
            // These are of people.
            Entry::PresenceUpdate(_)
            | Entry::NodeLeft(_)
            | Entry::DefineChannel { .. }
            | Entry::DeleteChannel(_) => Applied::Done,
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
        self.assign_lease(index, commit.owner, commit.lease);
    }

    /// Gives a lease to a node, under a new number.
    pub(super) fn assign_lease(&mut self, index: u32, owner: u32, lease: u64) {
        let member = &mut self.members[index as usize];
        let before = std::mem::replace(&mut member.owner, owner);
        member.lease = lease;
        let was_proposed = std::mem::take(&mut member.is_proposed);
        member.is_proposed = owner == SELF && lease <= self.log.doubtful_until;
        if before != owner {
            self.log.count(before, false);
            self.log.count(owner, true);
        }
        // What is proposed as overdue has left the wheel.
        if owner == SELF && (before != SELF || was_proposed) {
            self.arm(index);
        }
    }

    fn take_over_leases(&mut self, identities: &[InstanceIdentity], commit: &Commit) {
        for identity in identities {
            let Some(index) = self.find_index(identity) else { continue };
            let member = &mut self.members[index as usize];
            // A full period, and the time for which an owner that is back may not know of this.
            member.deadline_ms = commit.at.unix_ms + member.ttl_ms + limits::CLUSTER_CONTACT_MS;
            self.assign_lease(index, commit.owner, commit.lease);
        }
        if commit.owner == SELF {
            self.log.takeovers_pending = self.log.takeovers_pending.saturating_sub(1);
        }
    }

    /// Counts a lease as run out, where it still is the one that ran out.
    fn mark_lease_overdue(&mut self, identity: &InstanceIdentity, lease: u64, now: Moment) {
        let Some(index) = self.find_index(identity) else { return };
        let member = &mut self.members[index as usize];
        if member.lease != lease || member.is_overdue {
            return;
        }
        member.is_proposed = false;
        self.mark_overdue(index, now);
    }

    /// Decides on overdue leases. Whether expiry was held for long enough is the deciding node's word: a
    /// node that reads the entry late, or two entries at once, comes to the same.
    fn judge_services(
        &mut self,
        services: &[(ServiceName, u64)],
        over: &[bool],
        max_ms: u64,
        at: Moment,
    ) {
        for (index, (name, watch)) in services.iter().enumerate() {
            self.log.judgements_pending.remove(name);
            if let Some(service) = self.find_service(name)
                && self.services[service].watched_since_ms.is_some()
                && self.services[service].watch == *watch
            {
                let by_own_clock = || {
                    let since_ms = self.services[service].degraded_since_ms;
                    since_ms.is_some_and(|since_ms| since_ms + max_ms <= at.unix_ms)
                };
                let is_over = over.get(index).copied().unwrap_or_else(by_own_clock);
                self.judge(service, is_over, at);
            }
        }
        self.unwatch();
    }

    /// Time passed: proposes what it has made of leases, services and nodes.
    pub(super) fn propose_due(&mut self, due: Vec<u32>, now: Moment) {
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
        let (mut services, mut over) = (Vec::new(), Vec::new());
        if self.log.decides() {
            for &service in &self.watched {
                let name = &self.services[service].name;
                let is_due = self.judge_at_ms(service).is_some_and(|at_ms| at_ms <= now.unix_ms);
                if is_due && !self.log.judgements_pending.contains(name) {
                    services.push((name.clone(), self.services[service].watch));
                    // Of a degraded service the bound is what is due.
                    over.push(self.services[service].is_degraded());
                }
            }
        }
        let self_protection_max_ms = self.settings.self_protection_max_ms;
        let log = &mut self.log;
        for piece in overdue.chunks(limits::COMMAND_ENTRIES_MAX) {
            log.proposals.push(Entry::Overdue(piece.to_vec()));
        }
        if !services.is_empty() {
            log.judgements_pending.extend(services.iter().map(|(name, _)| name.clone()));
            log.proposals.push(Entry::Judge { services, self_protection_max_ms, over });
        }
    }

    /// When services have to be judged by this node, in milliseconds since the Unix epoch.
    pub(super) fn next_judgement_ms(&self) -> Option<u64> {
        if !self.log.decides() {
            return None;
        }
        let is_open =
            |service: usize| !self.log.judgements_pending.contains(&self.services[service].name);
        let watched = self.watched.iter().copied().filter(|&service| is_open(service));
        watched.filter_map(|service| self.judge_at_ms(service)).min()
    }

    /// Has something go into the log.
    pub(in crate::state) fn propose(&mut self, entry: Entry) {
        self.log.proposals.push(entry);
    }

    /// Takes what has to go into the log.
    pub(in crate::state) fn take_proposals(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.log.proposals)
    }

    /// A proposal did not reach the log: what it was about is looked at again.
    pub(in crate::state) fn on_proposal_lost(&mut self, entry: &Entry, now: Moment) {
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
                    self.log.judgements_pending.remove(name);
                }
            }
            Entry::TakeOverLeases(_) => {
                self.log.takeovers_pending = self.log.takeovers_pending.saturating_sub(1);
            }
            _ => {}
        }
    }
}

/// What a node that is alone does with its log, for tests of the registry without a state.
#[cfg(test)]
impl Registry {
    /// Appends an entry to the node's own log, and applies it.
    pub(super) fn append_alone(&mut self, entry: Entry, now: Moment) -> Applied {
        let item = self.log.own_item(entry, now);
        assert!(self.record(&item), "each number is new");
        self.apply(item, now)
    }

    /// Registers an instance.
    pub(super) fn register_alone(
        &mut self,
        sent: crate::wire::instance::Registration,
        now: Moment,
    ) -> Result<(), Code> {
        match self.append_alone(Entry::Register { list: vec![sent], bounds: self.bounds() }, now) {
            Applied::Batch(refused) => refused.first().map_or(Ok(()), |one| Err(one.code)),
            other => panic!("{other:?}"),
        }
    }

    /// Registers an instance with the one before in mind.
    pub(super) fn put_alone(&mut self, put: PutInstance, now: Moment) -> super::replies::PutReply {
        let (PutInstance { registration, expected, pull }, bounds) = (put, self.bounds());
        match self.append_alone(Entry::Put { registration, expected, pull, bounds }, now) {
            Applied::Put(reply) => reply,
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
