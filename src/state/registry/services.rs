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
//!
//! Imports `limits` and its siblings. Part of `state::registry`, in a file of its own.

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

#[cfg(test)]
mod tests {
    use std::collections::{BTreeMap, BTreeSet};

    use serde_json::Value;

    use super::*;
    use crate::id::Epoch;
    use crate::rng::Rng;
    use crate::state::registry::Settings;
    use crate::state::registry::commands::SnapshotNeed;
    use crate::state::registry::unsaved::SetBound;
    use crate::wire::command::Since;
    use crate::wire::frame;
    use crate::wire::instance::{Instance, Registration};

    const DAY_MS: u64 = 10_000;

    fn at(ms: u64) -> Moment {
        Moment { ns: ms * 1_000_000, unix_ms: ms, wall_ms: ms }
    }

    fn registry(services_max: usize) -> Registry {
        let settings = Settings {
            lease_ttl_ms: 3_600_000,
            history_max: 6,
            services_max,
            service_forget_ms: DAY_MS,
            ..Settings::default()
        };
        Registry::new(settings, Epoch::new("e"), 0, at(1_000))
    }

    fn sent(service: &str, name: &str, url: &str) -> Registration {
        let instance = Instance {
            service_id: Some(service.into()),
            instance_id: Some(name.into()),
            url: Some(url.into()),
            ..Instance::default()
        };
        instance.register().expect("valid")
    }

    fn register(registry: &mut Registry, service: &str, name: &str, now: Moment) -> bool {
        let done = registry.register_alone(sent(service, name, ""), now).is_ok();
        registry.settle(now);
        done
    }

    fn unregister(registry: &mut Registry, service: &str, name: &str, now: Moment) {
        registry.unregister(&sent(service, name, "").identity, now);
        registry.settle(now);
    }

    /// Whether a resume succeeds, and where the service stands.
    fn resume(registry: &mut Registry, service: &str, revision: u64) -> (Option<bool>, u64) {
        let since = Some(Since { epoch: "e".into(), revision });
        let subscribed = registry.subscribe(&ServiceName::of(service), SnapshotNeed::No, since);
        let subscribed = subscribed.expect("there is room");
        (subscribed.recovered, subscribed.view.revision)
    }

    #[test]
    fn a_name_is_free_after_a_day_and_comes_back_above_what_it_was() {
        let mut registry = registry(10);
        assert!(register(&mut registry, "s", "a", at(1_000)));
        unregister(&mut registry, "s", "a", at(1_001));
        registry.tick_alone(at(1_001 + DAY_MS - 1));
        assert_eq!(resume(&mut registry, "s", 1), (Some(true), 2), "it is remembered for a day");
        registry.tick_alone(at(1_001 + DAY_MS));
        assert_eq!(registry.counts().0, 0);
        assert_eq!(registry.take_forgotten(), [ServiceName::of("s")]);
        assert_eq!(resume(&mut registry, "s", 2), (Some(false), 0), "as one never seen");
        registry.announcements.clear();
        assert!(register(&mut registry, "s", "a", at(20_000)));
        let told = registry.announcements.pop().expect("its followers hear of it");
        assert_eq!((told.begins, told.from, told.revision), (true, 2, 3));
        assert_eq!(resume(&mut registry, "s", 1), (Some(false), 3));
        assert_eq!(resume(&mut registry, "s", 2), (Some(true), 3), "it was empty then, too");
        assert!(register(&mut registry, "s", "b", at(20_001)));
        let told = registry.announcements.pop().expect("a change");
        assert_eq!((told.begins, told.from), (false, 3));
    }

    #[test]
    fn what_is_followed_or_has_instances_stays() {
        let mut registry = registry(3);
        for (service, is_empty) in [("a", true), ("b", false), ("c", true)] {
            register(&mut registry, service, "i", at(1_000));
            if is_empty {
                unregister(&mut registry, service, "i", at(1_000));
            }
        }
        registry.set_followed(&ServiceName::of("a"), true);
        assert!(register(&mut registry, "d", "i", at(1_001)), "c gives way");
        let there = |registry: &Registry, name: &str| {
            registry.find_service(&ServiceName::of(name)).is_some()
        };
        assert!(there(&registry, "a") && there(&registry, "b") && !there(&registry, "c"));
        registry.tick_alone(at(1_001 + DAY_MS));
        assert!(there(&registry, "a"), "it is followed");
        registry.set_followed(&ServiceName::of("a"), false);
        registry.tick_alone(at(1_001 + 2 * DAY_MS));
        assert!(!there(&registry, "a") && there(&registry, "b"));
        assert!(register(&mut registry, "e", "i", at(30_000)));
        assert!(!register(&mut registry, "f", "i", at(30_000)), "none of the three is empty");
        assert_eq!(registry.totals().forgotten, 2);
    }

    #[test]
    fn the_store_is_told_what_is_forgotten_unless_it_is_back() {
        let mut registry = registry(1);
        register(&mut registry, "a", "i", at(1_000));
        unregister(&mut registry, "a", "i", at(1_000));
        registry.take_delta(SetBound::NONE);
        register(&mut registry, "b", "i", at(1_001));
        unregister(&mut registry, "b", "i", at(1_001));
        let delta = registry.take_delta(SetBound::NONE);
        assert_eq!((&*delta.forgotten, delta.revision_floor), (&[String::from("a")][..], 2));
        register(&mut registry, "a", "i", at(1_002));
        unregister(&mut registry, "a", "i", at(1_002));
        register(&mut registry, "b", "i", at(1_003));
        let delta = registry.take_delta(SetBound::NONE);
        let stored: Vec<_> =
            delta.services.iter().map(|one| (&*one.service, one.revision)).collect();
        assert_eq!((&*delta.forgotten, stored), (&[String::from("a")][..], vec![("b", 7)]));
    }

    /// What a client believes of a service.
    type Held = (u64, BTreeSet<String>);

    fn urls(instances: &Value) -> BTreeSet<String> {
        let all = instances.as_array().expect("a list").iter();
        all.map(|one| format!("{} {}", one["instanceId"], one["url"])).collect()
    }

    /// Clients remember any position that they were ever told of and come back with it, at whatever
    /// time, to services that are forgotten and return: what they are told makes their picture the
    /// present one.
    #[test]
    fn no_resumed_client_mistakes_a_service_for_another_of_its_name() {
        let (mut recovered, mut refused) = (0, 0);
        for seed in 0..60 {
            let mut rng = Rng::seeded(seed);
            let mut registry = registry(4);
            let mut held: BTreeMap<String, Vec<Held>> = BTreeMap::new();
            let mut now_ms = 1_000;
            for step in 0..400 {
                let service = format!("s{}", rng.below(8));
                let name = format!("i{}", rng.below(2));
                let now = at(now_ms);
                match rng.below(8) {
                    0..=2 => {
                        let one = sent(&service, &name, &step.to_string());
                        let _ = registry.register_alone(one, now);
                    }
                    3 | 4 => registry.unregister(&sent(&service, &name, "").identity, now),
                    5 => now_ms += rng.below(DAY_MS / 2),
                    6 => registry.tick_alone(now),
                    _ => registry.set_followed(&ServiceName::of(&service), rng.below(2) == 0),
                }
                registry.settle(at(now_ms));
                let view = registry.view(&ServiceName::of(&service));
                let instances = serde_json::from_slice(view.instances.json()).expect("JSON");
                let present: Held = (view.revision, urls(&instances));
                let held = held.entry(service.clone()).or_default();
                if let Some((revision, mut picture)) =
                    held.get(rng.below(held.len() as u64 + 1) as usize).cloned()
                {
                    let since = Some(Since { epoch: "e".into(), revision });
                    let name = ServiceName::of(&service);
                    let subscribed = registry.subscribe(&name, SnapshotNeed::No, since);
                    let subscribed = subscribed.expect("there is room");
                    if subscribed.recovered == Some(true) {
                        recovered += 1;
                        let changes = subscribed.replay.map(|replay| {
                            let text = frame::payload(&replay);
                            serde_json::from_slice::<Value>(&text).expect("JSON")["changes"].take()
                        });
                        for change in changes.iter().filter_map(Value::as_array).flatten() {
                            let id = change["instance"]["instanceId"].to_string();
                            picture.retain(|one| !one.starts_with(&id));
                            if change["changeType"] != "delete" {
                                picture
                                    .extend(urls(&Value::from(vec![change["instance"].clone()])));
                            }
                        }
                        let what = format!("seed {seed}, step {step}: {service} since {revision}");
                        assert_eq!((subscribed.view.revision, picture), present, "{what}");
                    } else {
                        refused += 1;
                        assert!(subscribed.needs_instances());
                    }
                }
                held.push(present);
            }
            let stats = registry.totals();
            assert!(stats.forgotten > 0, "seed {seed} forgets nothing");
        }
        assert!(recovered > 1_000 && refused > 1_000, "{recovered} and {refused}");
    }
}
