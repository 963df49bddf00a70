//! Decisions of this node: what a write comes to, at once or through the log; and what the node proposes
//! by itself, because time has passed or another node is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::Registry;
use super::commands::{ChangeItems, FindInstance, Operate, OperateTargets, Operation, PutInstance};
use super::log_position::SELF;
use super::replies::{FoundInstance, PutReply, RefusedEntry};
use super::settings::Settings;
use super::views::Announcement;
use crate::clock::Moment;
use crate::id::{InstanceIdentity, ServiceName};
use crate::limits;
use crate::state::entry::{Bounds, Entry, RegistryEntry};
use crate::wire::instance::Registration;
use crate::wire::refusal::Refusal;

/// The decision on a write.
pub(in crate::state) enum Decision<T> {
    /// It is done, or cannot be done.
    Reply(Result<T, Refusal>),
    /// It goes through the log.
    Append(RegistryEntry),
}

impl Registry {
    /// Sends a write through the log. Refuses it while the log is out of reach.
    pub(in crate::state) fn decide<T>(&self, entry: RegistryEntry, now: Moment) -> Decision<T> {
        match self.check_reach(now) {
            Ok(()) => Decision::Append(entry),
            Err(refusal) => Decision::Reply(Err(refusal)),
        }
    }

    /// Decides on registrations.
    pub(in crate::state) fn decide_register(
        &self,
        mut list: Vec<Registration>,
        now: Moment,
    ) -> Decision<Vec<RefusedEntry>> {
        for sent in &mut list {
            sent.lease_ttl_ms.get_or_insert(self.settings.lease_ttl_ms);
        }
        self.decide(RegistryEntry::Register { list, bounds: self.bounds() }, now)
    }

    /// Decides on a registration that was made with the one before in mind.
    pub(in crate::state) fn decide_put(&self, put: PutInstance, now: Moment) -> Decision<PutReply> {
        let PutInstance { mut registration, expected, pull } = put;
        registration.lease_ttl_ms.get_or_insert(self.settings.lease_ttl_ms);
        let bounds = self.bounds();
        self.decide(RegistryEntry::Put { registration, expected, pull, bounds }, now)
    }

    /// Decides on what an operator decided.
    pub(in crate::state) fn decide_operate(&self, operate: Operate, now: Moment) -> Decision<bool> {
        let Operate { identity, operation } = operate;
        let (operator, user) = match operation {
            Operation::PullOut { operator } => (Some(operator.name), operator.user),
            Operation::PullIn => (None, None),
        };
        self.decide(RegistryEntry::Operate { identity, operator, user }, now)
    }

    /// Decides on what an operator decided about targets of any kind.
    pub(in crate::state) fn decide_operate_targets(
        &self,
        operate: OperateTargets,
        now: Moment,
    ) -> Decision<Vec<RefusedEntry>> {
        let OperateTargets { operations, is_complete, by } = operate;
        self.decide(RegistryEntry::OperateTargets { operations, is_complete, by }, now)
    }

    /// Decides on a change of groups or of what belongs to them.
    pub(in crate::state) fn decide_change_items(
        &self,
        sent: ChangeItems,
        now: Moment,
    ) -> Decision<Vec<RefusedEntry>> {
        let ChangeItems { change, operation, by } = sent;
        self.decide(RegistryEntry::ChangeItems { change, operation, by }, now)
    }

    /// Decides on heartbeats: those of leases that are all this node's need no entry.
    pub(in crate::state) fn decide_heartbeat(
        &mut self,
        identities: Vec<InstanceIdentity>,
        now: Moment,
    ) -> Decision<Vec<RefusedEntry>> {
        if let Err(refusal) = self.check_reach(now) {
            return Decision::Reply(Err(refusal));
        }
        if self.renew_at_once(&identities, now) {
            return Decision::Reply(Ok(Vec::new()));
        }
        Decision::Append(RegistryEntry::Renew(identities))
    }

    /// Decides on the heartbeat of an instance in whatever region. This node finds the region, for
    /// nodes may know of different ones.
    pub(in crate::state) fn decide_renew_one(
        &mut self,
        find: &FindInstance,
        now: Moment,
    ) -> Decision<Option<FoundInstance>> {
        if let Err(refusal) = self.check_reach(now) {
            return Decision::Reply(Err(refusal));
        }
        let Some(index) = self.find_anywhere(find.service.as_str(), &find.instance) else {
            return Decision::Reply(Ok(None));
        };
        let identity = self.members[index as usize].identity.clone();
        if !self.renew_at_once(std::slice::from_ref(&identity), now) {
            return Decision::Append(RegistryEntry::RenewOne(identity));
        }
        Decision::Reply(Ok(Some(self.found(index))))
    }

    /// Whether the log can be written to. `is_cut_off` alone is not enough: it is set by a tick, and a
    /// write accepted before that tick would be lost.
    fn check_reach(&self, now: Moment) -> Result<(), Refusal> {
        if self.log.is_cut_off || self.log.is_silent(now) {
            return Err(Refusal::unavailable());
        }
        Ok(())
    }

    /// Renews leases that are all this node's and in good standing. Else nothing is done.
    ///
    /// Another node may have taken over such a lease, in an entry that is not applied here yet; then this
    /// renewal has no effect. That lasts [`limits::CLUSTER_CONTACT_MS`] at most: every entry that was in
    /// the log at the last contact is applied, and a node that takes over adds that time to the lease.
    fn renew_at_once(&mut self, identities: &[InstanceIdentity], now: Moment) -> bool {
        if !self.log.contacts.is_empty() {
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

    /// How much this node lets the registry hold.
    pub(super) fn bounds(&self) -> Bounds {
        let Settings { instances_max, instances_bytes_max, services_max, .. } = self.settings;
        Bounds { instances_max, services_max, instances_bytes_max }
    }

    /// Proposes entries for leases that ran out and for services that are due for a judgement.
    pub(super) fn propose_due(&mut self, due: Vec<u32>, now: Moment) {
        let mut overdue = Vec::new();
        let is_cut_off = self.is_cut_off();
        for index in due {
            if is_cut_off {
                // No entry can be appended. By the next look another node may own the lease.
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
                    // A degraded service is due when the bound of protection is reached.
                    over.push(self.services[service].is_degraded());
                }
            }
        }
        let self_protection_max_ms = self.settings.self_protection_max_ms;
        let log = &mut self.log;
        for piece in overdue.chunks(limits::COMMAND_ENTRIES_MAX) {
            log.propose(RegistryEntry::Overdue(piece.to_vec()));
        }
        if !services.is_empty() {
            log.judgements_pending.extend(services.iter().map(|(name, _)| name.clone()));
            log.propose(RegistryEntry::Judge { services, self_protection_max_ms, over });
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
    pub(in crate::state) fn propose(&mut self, entry: impl Into<Entry>) {
        self.log.propose(entry);
    }

    /// Takes the entries to append.
    pub(in crate::state) fn take_proposals(&mut self) -> Vec<Entry> {
        std::mem::take(&mut self.log.proposals)
    }

    /// An entry of this node did not reach the log: its subject is looked at again.
    pub(in crate::state) fn on_proposal_lost(&mut self, entry: &RegistryEntry, now: Moment) {
        match entry {
            RegistryEntry::Overdue(leases) => {
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
            RegistryEntry::Judge { services, .. } => {
                for (name, _) in services {
                    self.log.judgements_pending.remove(name);
                }
            }
            RegistryEntry::TakeOverLeases(_) => {
                self.log.takeovers_pending = self.log.takeovers_pending.saturating_sub(1);
            }
            _ => {}
        }
    }

    /// News of the log's engine: when it last answered, which nodes are alive.
    pub(in crate::state) fn on_nodes(
        &mut self,
        alive: &[String],
        (contact_ms, newest): (u64, u64),
    ) {
        let log = &mut self.log;
        log.note_contact(contact_ms, newest);
        let first = alive.iter().min();
        log.is_leader = first.is_some_and(|first| **first == **log.own_name());
        if !log.is_leader || log.is_cut_off || log.takeovers_pending > 0 {
            return;
        }
        let is_alive = |name: &Arc<str>| alive.iter().any(|alive| **alive == **name);
        let orphaning: BTreeMap<u32, &str> = (1..)
            .zip(&log.nodes[1..])
            .filter(|(_, node)| node.leases_owned > 0 && !is_alive(&node.name))
            .map(|(index, node)| (index, &*node.name))
            .collect();
        if orphaning.is_empty() {
            return;
        }
        let orphans = self.members.iter().filter(|(_, one)| orphaning.contains_key(&one.owner));
        let orphans: Vec<InstanceIdentity> = orphans.map(|(_, one)| one.identity.clone()).collect();
        let nodes: Vec<&str> = orphaning.into_values().collect();
        tracing::info!(
            target: "fanfare::cluster",
            leases = orphans.len(),
            of = nodes.join(", "),
            "leases of nodes that are gone are taken over"
        );
        for piece in orphans.chunks(limits::COMMAND_ENTRIES_MAX) {
            log.propose(RegistryEntry::TakeOverLeases(piece.to_vec()));
            log.takeovers_pending += 1;
        }
    }

    /// Marks or unmarks all services as cut off, where that is news.
    pub(in crate::state) fn check_contact(&mut self, now: Moment) {
        let log = &mut self.log;
        let is_cut_off = log.is_silent(now);
        if std::mem::replace(&mut log.is_cut_off, is_cut_off) == is_cut_off {
            return;
        }
        log.contact_changed = true;
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

    /// Whether the log has not been heard of, or not been followed, for too long.
    pub fn is_cut_off(&self) -> bool {
        self.log.is_cut_off
    }

    /// Tells followers of services that were never seen where contact was lost or found since this
    /// was last called. The registry knows of no followers; it is given all that are followed.
    pub fn announce_contact_change<'a>(&mut self, followed: impl Iterator<Item = &'a ServiceName>) {
        let log = &mut self.log;
        if !std::mem::take(&mut log.contact_changed) {
            return;
        }
        let degraded = log.is_cut_off;
        let unseen = followed.filter(|name| !self.by_name.contains_key(*name));
        let mut unseen: BTreeSet<ServiceName> = unseen.cloned().collect();
        // Who follows everything was told of services that nobody may follow by name any more.
        let told = std::mem::take(&mut log.unseen_told);
        unseen.extend(told.into_iter().filter(|name| !self.by_name.contains_key(name)));
        if degraded {
            log.unseen_told.clone_from(&unseen);
        }
        self.announcements.extend(unseen.into_iter().map(|service| Announcement {
            service,
            begins: false,
            from: 0,
            revision: 0,
            degraded,
            changes: Vec::new(),
        }));
    }

    /// Notes that followers of unknown services among these are told whether contact is lost.
    pub fn note_unseen_told(&mut self, services: &BTreeSet<ServiceName>) {
        if self.log.is_cut_off {
            let unseen = services.iter().filter(|name| !self.by_name.contains_key(*name));
            self.log.unseen_told.extend(unseen.cloned());
        }
    }

    /// When contact has to be looked at by time alone.
    pub(super) fn next_contact_check_ms(&self) -> Option<u64> {
        let contact_ms = self.log.contact_ms.filter(|_| !self.log.is_cut_off)?;
        Some(contact_ms + limits::CLUSTER_CONTACT_MS + 1)
    }
}
