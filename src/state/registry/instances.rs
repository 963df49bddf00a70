//! Instances: how they come, change, are taken out of discovery and go.

use bytes::Bytes;
use serde_json::json;

use super::commands::PutInstance;
use super::listing::{ListedInstance, Step};
use super::log_position::{Commit, SELF};
use super::pull_outs::{Operator, Pull, PulledOutBy};
use super::replies::PutReply;
use super::{Member, Registry, to_u32};
use crate::clock::Moment;
use crate::id::{InstanceIdentity, ServiceName};
use crate::state::audit::{Note, kind};
use crate::state::entry::Bounds;
use crate::wire::event::{ChangeReason, ChangeType};
use crate::wire::instance::Registration;
use crate::wire::refusal::Code;

impl Registry {
    /// Registers an instance or renews its lease; a real difference is a change. The lease is the
    /// deciding node's from here on.
    pub(super) fn register(
        &mut self,
        sent: Registration,
        bounds: &Bounds,
        commit: &Commit,
    ) -> Result<(), Code> {
        if let Some(&index) = self.by_identity.get(&sent.identity) {
            return self.register_again(index, sent, bounds, commit);
        }
        let now = commit.at;
        let ttl_ms = sent.lease_ttl_ms.unwrap_or(self.settings.lease_ttl_ms);
        let bytes = self.json_bytes + sent.json.len();
        if self.members.len() >= bounds.instances_max || bytes > bounds.instances_bytes_max {
            return Err(Code::RateLimited);
        }
        let service = self.service_or_new(&sent.service, bounds, now)?;
        self.dirty.instances.insert(sent.identity.clone());
        self.mark(service, &sent.identity, Step::Added, None, now);
        self.note(kind::REGISTERED, service, &sent.identity, now);
        let index = self.admit(service, sent.identity, sent.json.clone(), ttl_ms, now);
        let Member { ref identity, is_pulled_out, .. } = self.members[index as usize];
        tracing::debug!(
            target: "fanfare::registry",
            instance = %identity,
            lease_ttl_ms = ttl_ms,
            is_pulled_out,
            "instance registered"
        );
        self.take_over(index, 0, commit);
        if self.services[service].is_degraded() {
            // One more that is there: enough of them may be.
            self.to_rejudge.push(service);
        }
        if !is_pulled_out {
            self.change(service, sent.json, ChangeType::New, ChangeReason::Register, now);
        }
        Ok(())
    }

    /// The same for an instance that is registered.
    fn register_again(
        &mut self,
        index: u32,
        sent: Registration,
        bounds: &Bounds,
        commit: &Commit,
    ) -> Result<(), Code> {
        let now = commit.at;
        let ttl_ms = sent.lease_ttl_ms.unwrap_or(self.settings.lease_ttl_ms);
        let bytes = self.json_bytes + sent.json.len();
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
        if self.members[index as usize].json != sent.json {
            // Another address or zone may be below another operation. First out, then the change.
            let is_out = self.is_out(&sent.identity, &sent.json);
            if is_out && !self.members[index as usize].is_pulled_out {
                self.set_out(index, true, now);
            }
            let member = &mut self.members[index as usize];
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
            self.note(kind::CHANGED, service, &sent.identity, now);
            self.dirty.instances.insert(sent.identity);
            if !is_pulled_out {
                self.change(service, sent.json, ChangeType::Change, ChangeReason::Update, now);
            } else if !is_out {
                self.set_out(index, false, now);
            }
        }
        self.take_over(index, since_ms, commit);
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
        let is_pulled_out = self.is_out(&identity, &json);
        self.pulled_out.on_registered(&identity);
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
            is_unconfirmed: false,
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

    pub(super) fn renew(&mut self, index: u32, now: Moment) {
        let member = &mut self.members[index as usize];
        // Never less than it has: entries of a log come late, and a lease that was taken over has
        // more than its time for a reason.
        member.deadline_ms = member.deadline_ms.max(now.unix_ms + member.ttl_ms);
        self.totals.renewals += 1;
        if member.is_overdue || member.is_unconfirmed {
            self.confirm(index, now);
        }
    }

    /// Counts an instance as heard of.
    fn confirm(&mut self, index: u32, now: Moment) {
        let member = &mut self.members[index as usize];
        let service = &mut self.services[member.service];
        let was_overdue = std::mem::take(&mut member.is_overdue);
        service.overdue -= usize::from(was_overdue);
        service.unconfirmed -= usize::from(std::mem::take(&mut member.is_unconfirmed));
        if service.is_degraded() {
            self.to_rejudge.push(member.service);
        }
        if was_overdue {
            let Member { service, ref identity, .. } = self.members[index as usize];
            self.notes.add(|| {
                Note::new(kind::RENEWED, now)
                    .of_service(self.services[service].name.clone())
                    .of_instance(identity.clone())
            });
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
        self.note_removal(&member, reason, now);
        self.log.count(member.owner, false);
        let service = &mut self.services[member.service];
        service.overdue -= usize::from(member.is_overdue);
        service.unconfirmed -= usize::from(member.is_unconfirmed);
        if service.is_degraded() {
            self.to_rejudge.push(member.service);
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
        debug_assert!(!self.members.is_empty() || self.regions.is_empty(), "invariant 5");
        self.mark(member.service, &member.identity, Step::Deleted, Some(member.listed()), now);
        self.json_bytes -= member.json.len();
        let service = &mut self.services[member.service];
        service.json_bytes -= member.json.len();
        if service.members.is_empty() {
            self.note_empty(member.service, now.unix_ms);
        }
        if member.is_pulled_out {
            if self.pulled_out.by(&member.identity) == Some(&PulledOutBy::Itself) {
                self.pulled_out.remove(&member.identity);
                self.dirty.pull_outs.insert(member.identity.clone());
            } else {
                self.pulled_out.on_gone(&member.identity);
                self.trim_pull_outs();
            }
        }
        if !member.is_pulled_out {
            self.change(member.service, member.json, ChangeType::Delete, reason, now);
        }
        self.dirty.instances.insert(member.identity);
    }

    /// Notes something of an instance for the audit log.
    pub(super) fn note(
        &mut self,
        kind: &'static str,
        service: usize,
        identity: &InstanceIdentity,
        now: Moment,
    ) {
        self.notes.add(|| {
            let service = self.services[service].name.clone();
            Note::new(kind, now).of_service(service).of_instance(identity.clone())
        });
    }

    /// Notes why an instance is removed.
    fn note_removal(&mut self, member: &Member, reason: ChangeReason, now: Moment) {
        self.notes.add(|| {
            let is_expired = reason == ChangeReason::Expired;
            let kind = if is_expired { kind::EXPIRED } else { kind::UNREGISTERED };
            let service = self.services[member.service].name.clone();
            let note = Note::new(kind, now).of_service(service);
            let note = note.of_instance(member.identity.clone());
            if !is_expired {
                return note;
            }
            let silent_ms = now.unix_ms.saturating_sub(member.renewed_ms());
            let detail = json!({"lease_ttl_ms": member.ttl_ms, "silent_ms": silent_ms});
            note.because("the lease was not renewed").with(&detail)
        });
    }

    /// Takes an instance out of discovery in the name of an operator; without one, puts it back.
    /// Returns false where nothing of that name was ever registered or pulled out.
    pub(super) fn operate(
        &mut self,
        identity: &InstanceIdentity,
        operator: Option<Operator>,
        now: Moment,
    ) -> bool {
        // Its own operations end with a pull-in; those on its server or its zone stand.
        let is_operated = operator.is_none() && self.complete_instance(identity, now);
        if !self.by_identity.contains_key(identity)
            && !self.pulled_out.contains(identity)
            && !is_operated
        {
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
        if by.is_some() || self.pulled_out.contains(identity) {
            self.note_pull(identity, by.as_ref(), now);
        }
        match by {
            Some(by) => self.pulled_out.insert(identity, by, index.is_some()),
            None => self.pulled_out.remove(identity),
        }
        self.dirty.pull_outs.insert(identity.clone());
        self.trim_pull_outs();
        if let Some(index) = index {
            let member = &self.members[index as usize];
            let is_out = self.is_out(identity, &member.json);
            if is_out != member.is_pulled_out {
                self.set_out(index, is_out, now);
            }
        }
    }

    /// Notes a decision for the audit log, whether it changes anything or not.
    fn note_pull(&mut self, identity: &InstanceIdentity, by: Option<&PulledOutBy>, now: Moment) {
        self.notes.add(|| {
            let kind = if by.is_some() { kind::PULLED_OUT } else { kind::PULLED_IN };
            let service = ServiceName::of(identity.parts().1);
            let note = Note::new(kind, now).of_service(service).of_instance(identity.clone());
            match by {
                Some(PulledOutBy::Itself) => note.because("the instance reports itself as out"),
                Some(PulledOutBy::Operator(operator)) if !operator.name.is_empty() => {
                    note.with(&json!({"operator_id": operator.name}))
                }
                _ => note,
            }
        });
    }

    /// Takes a registered instance out of discovery for its followers, or puts it back.
    pub(super) fn set_out(&mut self, index: u32, is_out: bool, now: Moment) {
        let member = &mut self.members[index as usize];
        member.is_pulled_out = is_out;
        member.changed_ms = now.wall_ms;
        let (service, json) = (member.service, member.json.clone());
        let identity = member.identity.clone();
        self.mark(service, &identity, Step::Modified, None, now);
        let (kind, reason) = if is_out {
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

    /// Registers an instance, if the registered one is as the caller expects.
    pub(super) fn put(&mut self, put: PutInstance, bounds: &Bounds, commit: &Commit) -> PutReply {
        let now = commit.at;
        let PutInstance { registration, expected, pull } = put;
        let identity = registration.identity.clone();
        let index = self.by_identity.get(&identity).copied();
        let present = index.map(|index| &self.members[index as usize].json);
        if present != expected.as_ref() {
            return PutReply::Conflict(index.map(|index| self.found(index)));
        }
        let by = self.pulled_out.by(&identity);
        let was_pulled_out = by.is_some();
        let pull_in = match pull {
            Pull::Keep | Pull::OutItself => false,
            Pull::In => was_pulled_out,
            Pull::InIfItself => by == Some(&PulledOutBy::Itself),
        };
        if pull == Pull::OutItself && !was_pulled_out {
            // First out, then the change: its followers hear that it goes, and nothing else.
            self.pull(&identity, Some(PulledOutBy::Itself), now);
        }
        if let Err(code) = self.register(registration, bounds, commit) {
            if index.is_none() && !was_pulled_out {
                // There is no instance that could take it back.
                self.pull(&identity, None, now);
            }
            return PutReply::Refused(code);
        }
        if pull_in {
            self.pull(&identity, None, now);
        }
        PutReply::Done
    }

    /// Notes a change of an instance for listings; `gone` is the instance as it was, where it is removed.
    fn mark(
        &mut self,
        service: usize,
        identity: &InstanceIdentity,
        step: Step,
        gone: Option<ListedInstance>,
        now: Moment,
    ) {
        self.listing_version += 1;
        let listing_version = self.listing_version;
        self.services[service].listing_version = listing_version;
        self.services[service].listing = None;
        if let Some(recents) = &mut self.recents {
            let gone = gone.map(|entry| (self.services[service].name.clone(), entry));
            recents.note(listing_version, identity.clone(), step, gone, now.unix_ms);
        }
    }
}

fn region(identity: &InstanceIdentity) -> &str {
    identity.as_str().split('\u{1f}').next().unwrap_or_default()
}
