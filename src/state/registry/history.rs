//! Steps of services: how they become revisions, announcements and histories.

use bytes::Bytes;
use slab::Slab;

use super::service::Service;
use super::views::{Announcement, Delta};
use super::{Registry, to_u32};
use crate::clock::Moment;
use crate::id::ServiceName;
use crate::state::ages::Age;
use crate::wire::event::{Change, ChangeReason, ChangeType, TimeText};

impl Registry {
    /// Makes one step in a service's history.
    pub(super) fn change(
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
        let name = self.services[service].name.clone();
        self.change_log.push(name, change.clone());
        self.touch(service);
        self.services[service].pending.push(change);
        self.dirty.services.insert(service);
    }

    /// Notes that a service's followers have something to hear.
    pub(super) fn touch(&mut self, service: usize) {
        if !std::mem::replace(&mut self.services[service].is_touched, true) {
            self.touched.push(service);
        }
    }

    /// Ends a command: judges the services it renewed, added or removed leases of, and announces its steps.
    pub(in crate::state) fn settle(&mut self, now: Moment) {
        self.rejudge(now);
        // The list is put back empty: its memory serves the next command.
        let mut touched = std::mem::take(&mut self.touched);
        for index in touched.drain(..) {
            debug_assert!(
                !self.services[index].is_degraded() || self.is_suspicious(index),
                "expiry is held though enough leases are renewed"
            );
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
        debug_assert!(self.touched.is_empty(), "announcing touches no service");
        self.touched = touched;
    }

    /// Bytes of the changes that all services remember.
    pub fn history_bytes(&self) -> usize {
        self.history_bytes
    }

    /// Bytes of the instances and the history of one service.
    pub(in crate::state) fn service_bytes(&self, name: &ServiceName) -> usize {
        let service = self.find_service(name).map(|index| &self.services[index]);
        service.map_or(0, |service| service.json_bytes + service.history_bytes)
    }

    /// When the oldest of them was made, in milliseconds since the Unix epoch.
    pub(in crate::state) fn oldest_history_ms(&mut self) -> Option<u64> {
        let services = &self.services;
        self.ages.oldest(|age| keeps(services, age)).map(|age| age.at_ms)
    }

    /// Forgets the oldest of them.
    pub(in crate::state) fn drop_oldest_history(&mut self) {
        let services = &self.services;
        if let Some(age) = self.ages.oldest(|age| keeps(services, age)) {
            self.history_bytes -= self.services[age.place as usize].drop_oldest();
        }
    }

    /// The changes after `version`; none where they are not all kept, or `version` is not reached yet.
    pub(in crate::state) fn delta(&self, version: u64) -> Option<Delta> {
        let missed = usize::try_from(self.version.checked_sub(version)?).ok()?;
        let changes = self.change_log.last(missed)?;
        Some(Delta { version: self.version, changes })
    }
}

/// Whether the change that an age stands for is still remembered.
fn keeps(services: &Slab<Service>, age: &Age) -> bool {
    services
        .get(age.place as usize)
        .is_some_and(|service| service.incarnation == age.incarnation && service.keeps(age.number))
}
