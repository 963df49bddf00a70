//! Everyone who is registered, pulled out or not, and what changed lately.
//!
//! Discovery shows what may be called. Other registries' protocols list everything, say of each
//! instance how it is, and leave the choice to the caller; they also want to hear what changed in
//! the last minutes, whoever asks. Both are told here, as of one edition: a number that rises with
//! every difference that such a list can show.
//!
//! # Promises
//!
//! * Two lists of the same edition name the same instances with the same texts. An edition is not
//!   used twice, also not after a restart, as long as the clock goes forward and there is less than
//!   one change a millisecond.
//! * A service's list is built at most once an edition of that service, and shared.
//! * From [`InstanceListing::complete_from_ms`] on each difference within the window is in [`InstanceListing::recent`].
//!
//! Part of `state::registry`, in a file of its own. Imported by `state`, `control` and `http`.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::lease::Commit;
use super::pull_outs::PulledOutBy;
use super::{Member, Registry};
use crate::clock::Moment;
use crate::id::{InstanceIdentity, ServiceName};
use crate::limits;
use crate::state::command::PutReply;
use crate::state::entry::Bounds;
use crate::wire::instance::Registration;

/// An instance, as lists of everyone show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its canonical JSON.
    pub json: Bytes,
    /// How long its lease lasts without a renewal.
    pub ttl_ms: u64,
    /// When it was registered, in milliseconds since the Unix epoch; or restored from the store.
    pub registered_ms: u64,
    /// When it last changed.
    pub changed_ms: u64,
    /// When its lease was last renewed, as of when the list was built.
    pub renewed_ms: u64,
    /// Whether it is taken out of discovery.
    pub is_pulled_out: bool,
}

/// Everyone of a service. Immutable, shared.
#[derive(Debug)]
pub struct ServiceListing {
    /// The service.
    pub service: ServiceName,
    /// The registry's edition in which the service last changed.
    pub listing_version: u64,
    /// Its instances.
    pub entries: Vec<Entry>,
}

/// What became of an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It came, and nothing happened to it since.
    Added,
    /// It changed; or it came again after it had gone.
    Modified,
    /// It went.
    Deleted,
}

/// An instance that changed lately, once, as it is now.
#[derive(Debug, Clone)]
pub struct RecentChange {
    /// Its service.
    pub service: ServiceName,
    /// When it changed last, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What became of it.
    pub step: Step,
    /// The instance; of one that went, as it was last.
    pub entry: Entry,
}

/// Everyone, and what changed lately, as of one edition.
#[derive(Debug)]
pub struct InstanceListing {
    /// The edition.
    pub listing_version: u64,
    /// The services that have instances, by their names.
    pub services: Vec<Arc<ServiceListing>>,
    /// What changed within the window, oldest first.
    pub recent: Vec<RecentChange>,
    /// From when on `recent` is all that changed within the window.
    pub complete_from_ms: u64,
}

/// An instance that was found.
#[derive(Debug, Clone)]
pub struct FoundInstance {
    /// What names it.
    pub identity: InstanceIdentity,
    /// What it is.
    pub entry: Entry,
}

/// A registration that was made with the one before in mind.
#[derive(Debug, Clone, PartialEq)]
pub struct Put {
    /// What to register.
    pub registration: Registration,
    /// The JSON of the instance that it replaces; none where there should be none yet.
    pub expected: Option<Bytes>,
    /// What to do about its being pulled out. Its followers hear of both in one step.
    pub pull: Pull,
}

/// What a registration does about an instance's being pulled out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Pull {
    /// Nothing.
    Keep,
    /// It takes itself out, unless somebody else has.
    OutItself,
    /// It comes back, whoever took it out.
    In,
    /// It comes back where it had taken itself out.
    InIfItself,
}

/// What changed lately.
///
/// # Invariants
///
/// 1. `queue` holds a number for each change, oldest first; `latest` names each instance of it once,
///    with the newest of its numbers.
/// 2. `gone_bytes` counts the JSON in `latest`.
#[derive(Debug)]
pub(super) struct RecentChanges {
    window_ms: u64,
    latest: HashMap<InstanceIdentity, Latest>,
    queue: VecDeque<(u64, u64, InstanceIdentity)>,
    gone_bytes: usize,
    /// What changed up to this moment may be missing.
    unknown_until_ms: u64,
}

#[derive(Debug)]
struct Latest {
    number: u64,
    at_ms: u64,
    step: Step,
    /// The instance as it was last, with its service, where it is gone.
    gone: Option<(ServiceName, Entry)>,
}

impl Latest {
    fn gone_bytes(&self) -> usize {
        self.gone.as_ref().map_or(0, |(_, entry)| entry.json.len())
    }
}

impl RecentChanges {
    fn note(
        &mut self,
        number: u64,
        identity: InstanceIdentity,
        step: Step,
        gone: Option<(ServiceName, Entry)>,
        now_ms: u64,
    ) {
        let mut latest = Latest { number, at_ms: now_ms, step, gone };
        self.gone_bytes += latest.gone_bytes();
        if let Some(before) = self.latest.get(&identity) {
            self.gone_bytes -= before.gone_bytes();
            if step == Step::Added {
                // Whoever has not heard that it went still has the one from before.
                latest.step = Step::Modified;
            }
        }
        self.queue.push_back((number, now_ms, identity.clone()));
        self.latest.insert(identity, latest);
        self.trim(now_ms);
    }

    /// Forgets what lies before the window, and the oldest where there is too much.
    fn trim(&mut self, now_ms: u64) {
        while let Some(&(number, at_ms, _)) = self.queue.front() {
            let is_old = at_ms + self.window_ms < now_ms;
            let is_much = self.queue.len() > limits::RECENT_CHANGES_MAX
                || self.gone_bytes > limits::RECENT_GONE_BYTES_MAX;
            if !is_old && !is_much {
                return;
            }
            if !is_old {
                self.unknown_until_ms = now_ms;
            }
            let Some((_, _, identity)) = self.queue.pop_front() else { return };
            if self.latest.get(&identity).is_some_and(|latest| latest.number == number)
                && let Some(latest) = self.latest.remove(&identity)
            {
                self.gone_bytes -= latest.gone_bytes();
            }
        }
    }
}

impl Registry {
    /// Remembers from here on what changed within the window. What changed before is not known,
    /// unless there was nothing.
    pub fn keep_recent(&mut self, window_ms: u64, now: Moment) {
        let is_new = self.version() == 0 && self.counts().1 == 0;
        self.recents = Some(RecentChanges {
            window_ms,
            latest: HashMap::new(),
            queue: VecDeque::new(),
            gone_bytes: 0,
            unknown_until_ms: if is_new { 0 } else { now.unix_ms },
        });
    }

    /// Takes the place of another registry: its editions go on, and what changed lately is known from
    /// here on.
    pub(super) fn go_on_from(&mut self, before: &Registry, now: Moment) {
        self.listing_version = self.listing_version.max(before.listing_version + 1);
        let listing_version = self.listing_version;
        for (_, service) in &mut self.services {
            service.listing_version = listing_version;
        }
        if let Some(recents) = &before.recents {
            self.keep_recent(recents.window_ms, now);
        }
    }

    /// Rises with every difference that a list of everyone can show.
    pub fn listing_version(&self) -> u64 {
        self.listing_version
    }

    /// Notes that an instance changed; of one that went, what it was.
    pub(super) fn mark(
        &mut self,
        service: usize,
        identity: &InstanceIdentity,
        step: Step,
        gone: Option<Entry>,
        now: Moment,
    ) {
        self.listing_version += 1;
        let listing_version = self.listing_version;
        self.services[service].listing_version = listing_version;
        self.services[service].roster = None;
        if let Some(recents) = &mut self.recents {
            let gone = gone.map(|entry| (self.services[service].name.clone(), entry));
            recents.note(listing_version, identity.clone(), step, gone, now.unix_ms);
        }
    }

    /// Lists everyone, and what changed lately.
    pub(in crate::state) fn list_instances(&mut self, now: Moment) -> InstanceListing {
        let services: Vec<usize> = self.services.iter().map(|(service, _)| service).collect();
        let mut services: Vec<Arc<ServiceListing>> = services
            .into_iter()
            .map(|service| self.listing_of(service))
            .filter(|roster| !roster.entries.is_empty())
            .collect();
        services.sort_unstable_by(|a, b| a.service.cmp(&b.service));
        let (recent, complete_from_ms) = self.recent(now);
        InstanceListing {
            listing_version: self.listing_version,
            services,
            recent,
            complete_from_ms,
        }
    }

    fn recent(&mut self, now: Moment) -> (Vec<RecentChange>, u64) {
        let Some(recents) = &mut self.recents else { return (Vec::new(), u64::MAX) };
        recents.trim(now.unix_ms);
        let complete_from_ms = match recents.unknown_until_ms {
            0 => 0,
            until_ms => until_ms + recents.window_ms + 1,
        };
        let Some(recents) = &self.recents else { return (Vec::new(), u64::MAX) };
        let recent = recents.queue.iter().filter_map(|(number, at_ms, identity)| {
            let latest = recents.latest.get(identity).filter(|latest| latest.number == *number)?;
            let (service, entry) = if let Some((service, entry)) = &latest.gone {
                (service.clone(), entry.clone())
            } else {
                let member = self.find_member(identity)?;
                (self.services[member.service].name.clone(), member.entry())
            };
            debug_assert_eq!(latest.at_ms, *at_ms);
            Some(RecentChange { service, at_ms: *at_ms, step: latest.step, entry })
        });
        (recent.collect(), complete_from_ms)
    }

    fn listing_of(&mut self, service: usize) -> Arc<ServiceListing> {
        let members = &self.members;
        let service = &mut self.services[service];
        let (name, listing_version) = (&service.name, service.listing_version);
        let indexes = &service.members;
        let build = || {
            let entries = indexes.iter().map(|&index| members[index as usize].entry()).collect();
            Arc::new(ServiceListing { service: name.clone(), listing_version, entries })
        };
        Arc::clone(service.roster.get_or_insert_with(build))
    }

    /// An instance of a service, whatever its region: those without one first, for protocols that
    /// know no regions register such.
    pub(super) fn find_anywhere(&self, service: &str, instance: &str) -> Option<u32> {
        let at = |region: &str| {
            self.by_identity.get(&InstanceIdentity::of(region, service, instance)).copied()
        };
        at("").or_else(|| self.regions.keys().find_map(|region| at(region)))
    }

    /// An instance of a service, whatever its region.
    pub(in crate::state) fn find_instance(
        &self,
        service: &ServiceName,
        instance: &str,
    ) -> Option<FoundInstance> {
        self.find_anywhere(service.as_str(), instance).map(|index| self.found(index))
    }

    pub(super) fn found(&self, index: u32) -> FoundInstance {
        let member = &self.members[index as usize];
        FoundInstance { identity: member.identity.clone(), entry: member.entry() }
    }

    /// Registers an instance, unless it is not what the asker believes.
    pub(super) fn put(&mut self, put: Put, bounds: &Bounds, commit: &Commit) -> PutReply {
        let now = commit.at;
        let Put { registration, expected, pull } = put;
        let identity = registration.identity.clone();
        let index = self.by_identity.get(&identity).copied();
        let present = index.map(|index| &self.members[index as usize].json);
        if present != expected.as_ref() {
            return PutReply::Conflict(index.map(|index| self.found(index)));
        }
        let was_pulled_out = self.pulled_out.contains(&identity);
        let is_own = self.pulled_out.by(&identity) == Some(&PulledOutBy::Itself);
        let pull_in = match pull {
            Pull::Keep => false,
            Pull::OutItself => {
                if !was_pulled_out {
                    // First out, then the change: its followers hear that it goes, and nothing else.
                    self.pull(&identity, Some(PulledOutBy::Itself), now);
                }
                false
            }
            Pull::In => was_pulled_out,
            Pull::InIfItself => is_own,
        };
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
}

impl Member {
    /// From when its lease counts, in milliseconds since the Unix epoch.
    pub(super) fn renewed_ms(&self) -> u64 {
        self.deadline_ms.saturating_sub(self.ttl_ms)
    }

    pub(super) fn entry(&self) -> Entry {
        Entry {
            json: self.json.clone(),
            ttl_ms: self.ttl_ms,
            registered_ms: self.registered_ms,
            changed_ms: self.changed_ms,
            renewed_ms: self.renewed_ms(),
            is_pulled_out: self.is_pulled_out,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::Epoch;
    use crate::state::command::FindInstance;
    use crate::state::registry::Settings;
    use crate::state::registry::lease::Decision;
    use crate::wire::instance::Instance;

    const WINDOW_MS: u64 = 180_000;

    fn at(ms: u64) -> Moment {
        Moment::new(ms, ms * 1_000_000)
    }

    fn registry() -> Registry {
        let settings = Settings {
            lease_ttl_ms: 10_000_000,
            self_protection_max_ms: 600_000,
            history_max: 10,
            instances_max: 100,
            services_max: 10,
            ..Settings::default()
        };
        let mut registry = Registry::new(settings, Epoch::new("e"), 0, at(1_000));
        registry.keep_recent(WINDOW_MS, at(1_000));
        registry
    }

    fn one(region: Option<&str>, name: &str, url: &str) -> Registration {
        let instance = Instance {
            region_id: region.map(Into::into),
            service_id: Some("s".into()),
            instance_id: Some(name.into()),
            url: Some(url.into()),
            ..Instance::default()
        };
        instance.register().expect("valid")
    }

    fn all(registry: &mut Registry, ms: u64) -> InstanceListing {
        registry.list_instances(at(ms))
    }

    fn steps(registry: &mut Registry, ms: u64) -> Vec<Step> {
        all(registry, ms).recent.iter().map(|one| one.step).collect()
    }

    fn put(registry: &mut Registry, sent: &Registration, pull: Pull, ms: u64) -> PutReply {
        let expected = registry.find_member(&sent.identity).map(|member| member.json.clone());
        let put = Put { registration: sent.clone(), expected, pull };
        let called = registry.put_alone(put, at(ms));
        registry.settle(at(ms));
        called
    }

    #[test]
    fn each_difference_is_an_edition_and_is_recent_once() {
        let mut registry = registry();
        let start = registry.listing_version();
        registry.register_alone(one(None, "a", "1"), at(2_000)).expect("room");
        registry.register_alone(one(None, "a", "1"), at(3_000)).expect("room");
        assert_eq!(registry.listing_version(), start + 1, "a renewal is no difference");
        assert_eq!(steps(&mut registry, 3_000), [Step::Added]);
        registry.register_alone(one(None, "a", "2"), at(4_000)).expect("room");
        assert_eq!(steps(&mut registry, 4_000), [Step::Modified]);
        let identity = one(None, "a", "2").identity;
        registry.unregister(&identity, at(5_000));
        let rolls = all(&mut registry, 5_000);
        assert!(rolls.services.is_empty() && rolls.complete_from_ms == 0);
        assert_eq!(rolls.recent[0].step, Step::Deleted);
        registry.register_alone(one(None, "a", "3"), at(6_000)).expect("room");
        assert_eq!(steps(&mut registry, 6_000), [Step::Modified], "who missed its end has the old");
        assert_eq!(steps(&mut registry, 6_000 + WINDOW_MS), [Step::Modified]);
        assert_eq!(steps(&mut registry, 6_001 + WINDOW_MS), []);
        assert_eq!(registry.listing_version(), start + 4);
    }

    #[test]
    fn what_is_pulled_out_is_listed_and_its_changes_count() {
        let mut registry = registry();
        let sent = one(None, "a", "1");
        registry.pulled_out.insert(&sent.identity, PulledOutBy::Operator("ann".into()), false);
        assert!(matches!(put(&mut registry, &sent, Pull::OutItself, 2_000), PutReply::Done));
        assert!(registry.announcements.is_empty(), "nobody has to hear of it");
        let before = registry.listing_version();
        assert!(matches!(
            put(&mut registry, &one(None, "a", "2"), Pull::InIfItself, 3_000),
            PutReply::Done
        ));
        assert!(
            all(&mut registry, 3_000).services[0].entries[0].is_pulled_out,
            "not its own to end"
        );
        assert_eq!(registry.listing_version(), before + 1);
        assert!(matches!(
            put(&mut registry, &one(None, "a", "2"), Pull::In, 4_000),
            PutReply::Done
        ));
        assert!(!all(&mut registry, 4_000).services[0].entries[0].is_pulled_out);
        assert_eq!(registry.announcements.len(), 1, "it comes, as it is now");
    }

    #[test]
    fn who_took_itself_out_comes_back_and_leaves_nothing() {
        let mut registry = registry();
        let sent = one(None, "a", "1");
        put(&mut registry, &sent, Pull::OutItself, 2_000);
        put(&mut registry, &one(None, "a", "2"), Pull::InIfItself, 3_000);
        assert!(!all(&mut registry, 3_000).services[0].entries[0].is_pulled_out);
        put(&mut registry, &sent, Pull::OutItself, 4_000);
        registry.unregister(&sent.identity, at(5_000));
        assert_eq!(registry.pulled_out.by(&sent.identity), None);
    }

    #[test]
    fn a_put_that_expects_something_else_changes_nothing() {
        let mut registry = registry();
        let (first, second) = (one(None, "a", "1"), one(None, "a", "2"));
        registry.register_alone(first.clone(), at(2_000)).expect("room");
        for expected in [None, Some(second.json.clone())] {
            let put = Put { registration: second.clone(), expected, pull: Pull::InIfItself };
            match registry.put_alone(put, at(3_000)) {
                PutReply::Conflict(Some(found)) => assert_eq!(found.entry.json, first.json),
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn an_instance_is_found_in_whatever_region() {
        let mut registry = registry();
        registry.register_alone(one(Some("R1"), "a", "1"), at(2_000)).expect("room");
        let find = |registry: &mut Registry| {
            let find = FindInstance { service: ServiceName::of("S"), instance: "A".into() };
            match registry.decide_beat(&find, at(3_000)) {
                Decision::Reply(Ok(found)) => found,
                _ => panic!("the lease is the node's own"),
            }
        };
        match find(&mut registry) {
            Some(found) => {
                assert_eq!(found.identity, one(Some("R1"), "a", "1").identity);
                assert_eq!((found.entry.registered_ms, found.entry.renewed_ms), (2_000, 3_000));
            }
            other => panic!("{other:?}"),
        }
        registry.unregister(&one(Some("R1"), "a", "1").identity, at(4_000));
        assert!(find(&mut registry).is_none());
        assert!(registry.regions.is_empty());
    }

    #[test]
    fn a_restart_makes_what_changed_before_unknown() {
        let mut registry = registry();
        registry.register_alone(one(None, "a", "1"), at(2_000)).expect("room");
        registry.keep_recent(WINDOW_MS, at(10_000));
        assert_eq!(all(&mut registry, 20_000).complete_from_ms, 10_001 + WINDOW_MS);
    }
}
