//! Services: how they come, and how they are forgotten so that their names are free again.
//!
//! A service without instances is kept for a while, for clients that resume. Then it is forgotten. It is
//! forgotten earlier where there are too many services and it has been empty for longest; services that
//! no connection here follows by name go first.
//!
//! A service of the same name may come again under the same epoch, and must not repeat a revision that a
//! client has seen. So every new service begins at the highest revision of all forgotten ones: later
//! revisions are new, and of earlier ones no change is kept, so a resume from there gets a snapshot. At
//! exactly that revision the forgotten service was empty, as the new one is. Followers learn the first
//! revision by an empty snapshot.
//!
//! In a cluster a service is forgotten by an entry of the log, or as the result of one: all nodes agree on
//! which service has been empty for longest.

use super::Registry;
use super::service::{Emptiness, Service};
use crate::clock::Moment;
use crate::id::ServiceName;
use crate::limits;
use crate::state::entry::{Bounds, RegistryEntry};
use crate::wire::refusal::Code;

impl Registry {
    /// The service of that name, seen now where it never was. Where there are too many, the one that
    /// has been empty for longest gives way.
    pub(super) fn service_or_new(
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
        self.dirty.forgotten.remove(name);
        self.dirty.services.insert(service);
        Ok(service)
    }

    /// The service of that name out of a snapshot, whatever the bound.
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

    /// Notes that a service has no members.
    pub(super) fn note_empty(&mut self, service: usize, since_ms: u64) {
        self.empty_stamp += 1;
        let stamp = self.empty_stamp;
        self.services[service].empty = Some(Emptiness { stamp, since_ms });
        if self.empties.is_empty() {
            self.next_forget_ms = since_ms + self.settings.service_forget_ms;
        }
        self.empties.insert(stamp, service);
    }

    /// Notes that a connection here follows a service by name, or that none does any more.
    pub fn set_followed(&mut self, service: &ServiceName, is_followed: bool) {
        if is_followed {
            self.followed.insert(service.clone());
        } else {
            self.followed.remove(service);
        }
    }

    /// The service to forget next: the one that has been empty for longest. Where this is the only
    /// node, one that is followed by name is passed over, but not for ever.
    pub(super) fn next_to_forget(&self) -> Option<usize> {
        let mut services = self.empties.values().copied().filter(|&one| self.may_forget(one));
        if self.log.is_shared() {
            return services.next();
        }
        let first = services.clone().next();
        let mut unfollowed = services
            .by_ref()
            .take(limits::FORGET_LOOK_MAX)
            .filter(|&one| !self.followed.contains(&self.services[one].name));
        unfollowed.next().or(first)
    }

    /// Whether neither the present command nor a judgement is about a service.
    fn may_forget(&self, service: usize) -> bool {
        let one = &self.services[service];
        one.members.is_empty()
            && !one.is_touched
            && !one.is_degraded()
            && one.watched_since_ms.is_none()
    }

    /// Forgets a service without members.
    pub(super) fn forget(&mut self, service: usize) {
        let one = self.services.remove(service);
        if let Some(empty) = one.empty {
            self.empties.remove(&empty.stamp);
        }
        self.by_name.remove(&one.name);
        self.revision_floor = self.revision_floor.max(one.revision);
        self.history_bytes -= one.history_bytes;
        self.dirty.services.remove(&service);
        self.dirty.forgotten.insert(one.name.clone());
        self.forgotten.push(one.name);
        self.totals.forgotten += 1;
    }

    /// Applies an entry that forgets services; void where one has changed since.
    pub(super) fn forget_services(&mut self, services: &[(ServiceName, u64)]) {
        for (name, revision) in services {
            if let Some(service) = self.find_service(name)
                && self.services[service].revision == *revision
                && self.may_forget(service)
            {
                self.forget(service);
            }
        }
    }

    /// Proposes to forget services that have been empty for long enough and are not followed here.
    pub(super) fn forget_by_time(&mut self, now: Moment) {
        if self.next_forget_ms().is_none_or(|at_ms| at_ms > now.unix_ms) {
            return;
        }
        let forget_ms = self.settings.service_forget_ms;
        let pause_ms =
            (forget_ms / 8).clamp(limits::FORGET_PAUSE_MS_MIN, limits::FORGET_PAUSE_MS_MAX);
        self.next_forget_ms = now.unix_ms + pause_ms;
        if !self.log.decides() {
            return;
        }
        let due = self.empties.values().copied().filter(|&service| {
            let one = &self.services[service];
            let since_ms = one.empty.map_or(u64::MAX, |empty| empty.since_ms);
            since_ms.saturating_add(forget_ms) <= now.unix_ms
                && self.may_forget(service)
                && !self.followed.contains(&one.name)
        });
        let due: Vec<usize> = due.take(limits::COMMAND_ENTRIES_MAX).collect();
        if due.len() == limits::COMMAND_ENTRIES_MAX {
            self.next_forget_ms = now.unix_ms + limits::FORGET_PAUSE_MS_MIN;
        }
        if !due.is_empty() {
            let named = |service: usize| {
                let one = &self.services[service];
                (one.name.clone(), one.revision)
            };
            let named = due.into_iter().map(named).collect();
            self.log.propose(RegistryEntry::Forget(named));
        }
    }

    /// When the next look for services to forget is due, in milliseconds since the Unix epoch.
    pub(super) fn next_forget_ms(&self) -> Option<u64> {
        (!self.empties.is_empty()).then_some(self.next_forget_ms)
    }

    /// Takes the names of the services that were forgotten since the last call.
    pub fn take_forgotten(&mut self) -> Vec<ServiceName> {
        std::mem::take(&mut self.forgotten)
    }

    /// Drops the oldest pull-outs of instances that are gone, where there are too many.
    pub(super) fn trim_pull_outs(&mut self) {
        while let Some(identity) = self.pulled_out.pop_surplus() {
            self.dirty.pull_outs.insert(identity);
        }
    }
}
