//! Which overdue leases expire, and which are held.
//!
//! Many leases of one service running out together look more like a broken network than like so
//! many dead instances, and telling every subscriber that a service is gone is the worst thing a
//! registry can do by mistake. So expiry of such a service is held and its views say `degraded`, until most
//! of its leases are renewed, the bound is reached, or an operator decides. The idea is Eureka's;
//! here it is judged service by service, visible to subscribers, and never for ever.
//!
//! # Promises
//!
//! * Fewer than [`limits::PROTECTION_OVERDUE_MIN`] overdue leases, or no more than
//!   [`limits::PROTECTION_PERCENT`] of the service, always expire.
//! * Leases that run out within [`limits::EXPIRY_JUDGE_DELAY_MS`] of each other are judged together.

use serde_json::json;

use super::Registry;
use crate::clock::Moment;
use crate::id::ServiceName;
use crate::limits;
use crate::state::audit::{Note, kind};
use crate::wire::event::ChangeReason;

impl Registry {
    /// Has a service looked at when its time comes.
    pub(super) fn watch(&mut self, service: usize, now: Moment) {
        let watch = self.log.sequence;
        let one = &mut self.services[service];
        if one.watched_since_ms.is_none() {
            (one.watched_since_ms, one.watch) = (Some(now.unix_ms), watch);
            self.watched.push(service);
        }
    }

    /// When a watched service has to be judged by time alone.
    pub(super) fn judge_at_ms(&self, service: usize) -> Option<u64> {
        let service = &self.services[service];
        match service.degraded_since_ms {
            Some(since) => Some(since + self.settings.self_protection_max_ms),
            None => service.watched_since_ms.map(|since| since + limits::EXPIRY_JUDGE_DELAY_MS),
        }
    }

    /// Judges the degraded services again of which a command renewed, added or removed leases.
    pub(super) fn rejudge(&mut self, now: Moment) {
        if self.to_rejudge.is_empty() {
            return;
        }
        for service in std::mem::take(&mut self.to_rejudge) {
            if self.services[service].is_degraded() && !self.is_suspicious(service) {
                self.judge(service, false, now);
            }
        }
        self.unwatch();
    }

    pub(super) fn unwatch(&mut self) {
        let services = &mut self.services;
        self.watched.retain(|&service| {
            let service = &mut services[service];
            let keep = service.is_degraded() || service.overdue > 0;
            if !keep {
                service.watched_since_ms = None;
            }
            keep
        });
    }

    /// Decides on a service's overdue leases: hold them, until that `is_over`, or let them expire.
    pub(super) fn judge(&mut self, service: usize, is_over: bool, now: Moment) {
        let is_suspicious = self.is_suspicious(service);
        match self.services[service].degraded_since_ms {
            None if is_suspicious && self.services[service].protection_enabled => {
                self.set_degraded(service, Some(now.unix_ms), "", now);
            }
            Some(_) if is_suspicious && !is_over => {}
            _ => {
                let why =
                    if is_over { "held for long enough" } else { "enough leases are renewed" };
                self.set_degraded(service, None, why, now);
                self.expire(service, now);
            }
        }
    }

    /// Whether too many of a service's leases lack a renewal to believe that they all ended.
    ///
    /// For a degraded service an instance that was restored from the store counts as not renewed
    /// until it is heard of, so a restart does not end protection by itself; and protection stays for
    /// as long as more than the percentage is missing, however few instances that are.
    pub(super) fn is_suspicious(&self, service: usize) -> bool {
        let service = &self.services[service];
        let total = service.members.len();
        if !service.is_degraded() {
            return service.overdue >= limits::PROTECTION_OVERDUE_MIN
                && service.overdue * 100 > total * limits::PROTECTION_PERCENT;
        }
        let missing = service.overdue + service.unconfirmed;
        missing * 100 > total * limits::PROTECTION_PERCENT
    }

    fn expire(&mut self, service: usize, now: Moment) {
        let overdue: Vec<u32> = self.services[service]
            .members
            .iter()
            .copied()
            .filter(|&index| self.members[index as usize].is_overdue)
            .collect();
        if !overdue.is_empty() {
            let some = overdue.iter().take(limits::LOG_NAMES_MAX);
            let some = some.map(|&index| self.members[index as usize].identity.to_string());
            let some: Vec<String> = some.collect();
            tracing::info!(
                target: "fanfare::registry",
                service = %self.services[service].name,
                count = overdue.len(),
                left = self.services[service].members.len() - overdue.len(),
                instances = some.join(", "),
                "instances expired: their leases were not renewed"
            );
        }
        for index in overdue {
            self.totals.expired += 1;
            self.remove(index, ChangeReason::Expired, now);
        }
        // The next lease to run out starts a new wait for its companions.
        self.services[service].watched_since_ms = None;
        self.watched.retain(|&watched| watched != service);
    }

    /// Begins to hold a service's expiry, or ends that; `why` is for the audit log.
    fn set_degraded(
        &mut self,
        service: usize,
        since_ms: Option<u64>,
        why: &'static str,
        now: Moment,
    ) {
        if self.services[service].is_degraded() == since_ms.is_some() {
            return;
        }
        self.touch(service);
        self.services[service].degraded_since_ms = since_ms;
        self.dirty.services.insert(service);
        self.note_protection(service, since_ms.is_some(), why, now);
        let name = &self.services[service].name;
        if since_ms.is_some() {
            self.totals.degraded_services += 1;
            let overdue = self.services[service].overdue;
            let leases = self.services[service].members.len();
            tracing::warn!(
                target: "fanfare::registry",
                service = %name,
                overdue, leases,
                "self-protection holds expiry: the service is degraded"
            );
        } else {
            self.totals.degraded_services -= 1;
            tracing::info!(
                target: "fanfare::registry",
                service = %name,
                "self-protection is over: the service is not degraded any more"
            );
        }
    }

    /// Notes that self-protection holds a service, with each instance that it keeps, or that it is over.
    fn note_protection(
        &mut self,
        service: usize,
        is_degraded: bool,
        why: &'static str,
        now: Moment,
    ) {
        let one = &self.services[service];
        let name = &one.name;
        if !is_degraded {
            let note = || Note::new(kind::RESTORED, now).of_service(name.clone()).because(why);
            return self.notes.add(note);
        }
        self.notes.add(|| {
            let detail = json!({"overdue": one.overdue, "leases": one.members.len()});
            Note::new(kind::DEGRADED, now).of_service(name.clone()).with(&detail)
        });
        for &index in &one.members {
            let member = &self.members[index as usize];
            if member.is_overdue {
                self.notes.add(|| {
                    let note = Note::new(kind::HELD, now).of_service(name.clone());
                    note.of_instance(member.identity.clone())
                });
            }
        }
    }

    /// Switches a service's protection. Switching it off expires the overdue leases at once.
    /// Returns false where the service was never seen.
    pub(super) fn protect(&mut self, name: &ServiceName, enabled: bool, now: Moment) -> bool {
        let Some(service) = self.find_service(name) else { return false };
        self.services[service].protection_enabled = enabled;
        self.notes.add(|| {
            let detail = json!({"enabled": enabled});
            Note::new(kind::SELF_PROTECTION, now).of_service(name.clone()).with(&detail)
        });
        self.dirty.services.insert(service);
        if !enabled {
            self.set_degraded(service, None, "an operator lifted it", now);
            self.expire(service, now);
        }
        true
    }
}
