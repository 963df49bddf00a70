//! Decisions: what a write comes to here, at once or through the log.
//!
//! Imports `clock`, `id`, `wire` and its siblings. Part of `state::registry`.

use super::Registry;
use super::commands::{FindInstance, PutInstance};
use super::log_position::SELF;
use super::replies::{FoundInstance, PutReply, RefusedEntry};
use super::settings::Settings;
use crate::clock::Moment;
use crate::id::InstanceIdentity;
use crate::state::entry::{Bounds, Entry};
use crate::wire::instance::Registration;
use crate::wire::refusal::Refusal;

/// What the registry decides about a write.
pub(in crate::state) enum Decision<T> {
    /// It is done, or cannot be done.
    Reply(Result<T, Refusal>),
    /// It goes through the log.
    Append(Entry),
}

impl Registry {
    /// Decides on a write that the log has to order: it is refused where the log is out of reach.
    pub(in crate::state) fn decide<T>(&self, entry: Entry, now: Moment) -> Decision<T> {
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
        self.decide(Entry::Register { list, bounds: self.bounds() }, now)
    }

    /// Decides on a registration that was made with the one before in mind.
    pub(in crate::state) fn decide_put(&self, put: PutInstance, now: Moment) -> Decision<PutReply> {
        let PutInstance { mut registration, expected, pull } = put;
        registration.lease_ttl_ms.get_or_insert(self.settings.lease_ttl_ms);
        let bounds = self.bounds();
        self.decide(Entry::Put { registration, expected, pull, bounds }, now)
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
        Decision::Append(Entry::Renew(identities))
    }

    /// Decides on the heartbeat of an instance in whatever region. This node finds the region, for
    /// nodes may know of different ones.
    pub(in crate::state) fn decide_beat(
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
            return Decision::Append(Entry::Beat(identity));
        }
        Decision::Reply(Ok(Some(self.found(index))))
    }

    /// Whether the log can be written to. Not by the mark alone: what is accepted while nobody looks
    /// at the clock would be lost.
    fn check_reach(&self, now: Moment) -> Result<(), Refusal> {
        if self.log.is_cut_off || self.log.is_silent(now) {
            return Err(Refusal::unavailable());
        }
        Ok(())
    }

    /// Renews leases that are all this node's and in good standing. Else nothing is done.
    ///
    /// Somebody may have taken one over, in an entry that is not applied here yet; then this renewal
    /// counts for nothing. It can be so for [`limits::CLUSTER_CONTACT_MS`] at most, because whatever
    /// was in the log at the last contact is applied, and whoever takes over waits for as long.
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
}
