//! Leases, and how entries of the log are applied: the last step of decide, append, apply.
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

use std::sync::Arc;

use serde_json::json;

use super::Registry;
use super::commands::PutInstance;
use super::log_position::{Commit, SELF};
use super::pull_outs::Operator;
use super::replies::RefusedEntry;
use crate::clock::Moment;
use crate::id::{InstanceIdentity, ServiceName};
use crate::limits;
use crate::state::audit::{Note, kind};
use crate::state::entry::{Applied, LogItem, RegistryEntry};
use crate::wire::refusal::Code;

impl Registry {
    /// Counts an entry. Returns false where the entry was written twice and is applied.
    pub(in crate::state) fn record(&mut self, item: &LogItem) -> bool {
        self.log.record(item)
    }

    /// Applies one entry that `node` decided at `at_ms` of its clock, here as on every node, and gives the
    /// result for its caller.
    pub(in crate::state) fn apply(
        &mut self,
        entry: RegistryEntry,
        (node, at_ms): (&Arc<str>, u64),
        now: Moment,
    ) -> Applied {
        // Followers are shown the deciding node's time, on every node. A lease counts from here.
        let at = Moment { wall_ms: at_ms, ..now };
        let commit = Commit { owner: self.log.node(node), lease: self.log.sequence, at };
        match entry {
            RegistryEntry::Register { list, bounds } => {
                let mut refused = Vec::new();
                for (index, sent) in list.into_iter().enumerate() {
                    if let Err(code) = self.register(sent, &bounds, &commit) {
                        refused.push(RefusedEntry { index, code });
                    }
                }
                Applied::Batch(refused)
            }
            RegistryEntry::Renew(identities) => {
                Applied::Batch(self.renew_all(&identities, &commit))
            }
            RegistryEntry::Put { registration, expected, pull, bounds } => {
                let put = PutInstance { registration, expected, pull };
                Applied::Put(self.put(put, &bounds, &commit))
            }
            RegistryEntry::RenewOne(identity) => {
                self.renew_all(std::slice::from_ref(&identity), &commit);
                let found = self.find_index(&identity).map(|index| self.found(index));
                Applied::Instance(found)
            }
            RegistryEntry::TakeOverLeases(identities) => {
                self.take_over_leases(&identities, &commit);
                Applied::Done
            }
            RegistryEntry::Unregister(identities) => {
                for identity in &identities {
                    self.unregister(identity, at);
                }
                Applied::Batch(Vec::new())
            }
            RegistryEntry::Overdue(leases) => {
                for (identity, lease) in leases {
                    self.mark_lease_overdue(&identity, lease, at);
                }
                Applied::Done
            }
            RegistryEntry::Forget(services) => {
                self.forget_services(&services);
                Applied::Done
            }
            RegistryEntry::Judge { services, self_protection_max_ms, over } => {
                self.judge_services(&services, &over, self_protection_max_ms, at);
                Applied::Done
            }
            RegistryEntry::Operate { identity, operator, user } => {
                let operator = operator.map(|name| Operator { user, name });
                Applied::Found(self.operate(&identity, operator, at))
            }
            RegistryEntry::OperateTargets { operations, is_complete, by } => {
                Applied::Batch(self.operate_targets(operations, is_complete, &by, at))
            }
            RegistryEntry::ChangeItems { change, operation, by } => {
                Applied::Batch(self.change_items(*change, &operation, &by, at))
            }
            RegistryEntry::Protect { service, enabled } => {
                Applied::Found(self.protect(&service, enabled, at))
            }
        }
    }

    /// Renews leases and gives them to the deciding node. Refuses instances that are not registered.
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
        // A lease that was proposed as overdue has left the wheel.
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
            let (service, before) = (member.service, member.owner);
            if before != commit.owner {
                self.notes.add(|| {
                    let from = &*self.log.nodes[before as usize].name;
                    let note = Note::new(kind::TAKEN_OVER, commit.at).of_instance(identity.clone());
                    let note = note.of_service(self.services[service].name.clone());
                    note.because("its node is gone").with(&json!({"from": from}))
                });
            }
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
        (member.is_proposed, member.is_overdue) = (false, true);
        let was_unconfirmed = std::mem::take(&mut member.is_unconfirmed);
        let service = member.service;
        self.services[service].overdue += 1;
        self.services[service].unconfirmed -= usize::from(was_unconfirmed);
        if self.services[service].is_degraded() {
            self.note(kind::HELD, service, identity, now);
        }
        self.watch(service, now);
    }

    /// Decides on overdue leases. The deciding node says in `over` whether expiry was held for long enough, so
    /// that a node which reads the entry late decides alike.
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
}
