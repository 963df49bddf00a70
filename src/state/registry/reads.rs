//! Reads: views of services, leases, and lists of every instance.
//!
//! Imports `id`, `wire` and its siblings. Part of `state::registry`.

use std::sync::Arc;

use slab::Slab;

use super::listing::{InstanceListing, ListedInstance, RecentChanges, ServiceListing};
use super::replies::{FoundInstance, InstanceLease, ServiceLeases};
use super::service::{Service, is_shared};
use super::views::View;
use super::{Member, Registry};
use crate::clock::Moment;
use crate::id::{InstanceIdentity, ServiceName};
use crate::limits;
use crate::wire::instance_list::InstanceList;

impl Registry {
    /// A service as it stands, without its instances; at revision 0 where it was never seen.
    pub(super) fn view_without_instances(&self, name: ServiceName) -> View {
        match self.find_service(&name) {
            Some(service) => self.services[service].view(&self.epoch),
            None => View {
                service: name,
                epoch: self.epoch.clone(),
                revision: 0,
                degraded: self.is_cut_off(),
                instances: InstanceList::empty(),
            },
        }
    }

    /// A service as it stands; empty at revision 0 where it was never seen.
    pub fn view(&mut self, name: &ServiceName) -> View {
        let view = self.view_without_instances(name.clone());
        match self.find_service(name) {
            Some(service) => View { instances: self.snapshot_of(service), ..view },
            None => view,
        }
    }

    /// The discoverable instances of a service as it stands, built at most once a revision.
    fn snapshot_of(&mut self, service: usize) -> InstanceList {
        let service = &mut self.services[service];
        if let Some(snapshot) = service.present_snapshot() {
            return snapshot.clone();
        }
        // Borrowed apart: the snapshot is cached inside the service.
        let indexes = std::mem::take(&mut service.members);
        let discoverable = indexes
            .iter()
            .map(|&index| &self.members[index as usize])
            .filter(|member| !member.is_pulled_out)
            .map(|member| &member.json);
        let (snapshot, replaced) = service.build_snapshot(indexes.len(), discoverable);
        service.members = indexes;
        let shared_min = self.settings.snapshot_shared_bytes_min;
        self.replay_cache.retire(replaced.filter(|list| is_shared(list, shared_min)));
        snapshot
    }

    /// Every service as it stands.
    pub(in crate::state) fn all_views(&mut self) -> impl Iterator<Item = View> {
        let names: Vec<ServiceName> =
            self.services.iter().map(|(_, service)| service.name.clone()).collect();
        names.into_iter().map(|name| self.view(&name))
    }

    /// How the leases stand, service by service. Linear in the instances: for operators.
    pub(in crate::state) fn leases(
        &self,
        only: Option<&ServiceName>,
        now: Moment,
    ) -> Vec<ServiceLeases> {
        let lease = |member: &Member| InstanceLease {
            json: member.json.clone(),
            ttl_ms: member.ttl_ms,
            age_ms: (now.unix_ms + member.ttl_ms).saturating_sub(member.deadline_ms),
            expires_in_ms: member.deadline_ms.cast_signed() - now.unix_ms.cast_signed(),
            pulled_out_by: self.pulled_out.by(&member.identity).cloned(),
        };
        let of = |service: &Service| {
            let members = || service.members.iter().map(|&index| &self.members[index as usize]);
            let next = members().map(|member| member.deadline_ms).min();
            ServiceLeases {
                service: service.name.clone(),
                leases: service.members.len(),
                overdue: service.overdue,
                pulled_out: members().filter(|member| member.is_pulled_out).count(),
                degraded: service.is_degraded(),
                protection_enabled: service.protection_enabled,
                next_expiry_ms: next.map(|next| next.cast_signed() - now.unix_ms.cast_signed()),
                instances: only
                    .is_some()
                    .then(|| members().take(limits::LISTED_MAX).map(lease).collect()),
            }
        };
        let one = only.and_then(|name| self.find_service(name));
        match only {
            Some(_) => one.map(|service| of(&self.services[service])).into_iter().collect(),
            None => self.services.iter().map(|(_, service)| of(service)).collect(),
        }
    }

    /// Keeps the changes within the window from now on. Earlier changes are unknown, unless the registry
    /// is new.
    pub fn keep_recent(&mut self, window_ms: u64, now: Moment) {
        let is_new = self.version() == 0 && self.counts().1 == 0;
        let unknown_until_ms = if is_new { 0 } else { now.unix_ms };
        self.recents = Some(RecentChanges::new(window_ms, unknown_until_ms));
    }

    /// Rises with every difference that a list of every instance can show.
    pub fn listing_version(&self) -> u64 {
        self.listing_version
    }

    /// Lists every instance, and the recent changes.
    pub(in crate::state) fn list_instances(&mut self, now: Moment) -> InstanceListing {
        let members = &self.members;
        let in_use = self.services.iter_mut().filter(|(_, service)| !service.members.is_empty());
        let mut services: Vec<Arc<ServiceListing>> =
            in_use.map(|(_, service)| listing_of(service, members)).collect();
        services.sort_unstable_by(|a, b| a.service.cmp(&b.service));
        let trimmed = self.recents.as_mut().map(|recents| recents.trim(now.unix_ms));
        let complete_from_ms = trimmed.unwrap_or(u64::MAX);
        let find = |identity: &InstanceIdentity| {
            let member = self.find_member(identity)?;
            Some((self.services[member.service].name.clone(), member.listed()))
        };
        let recent = self.recents.as_ref().map_or(Vec::new(), |recents| recents.list(find));
        InstanceListing {
            listing_version: self.listing_version,
            services,
            recent,
            complete_from_ms,
        }
    }

    /// An instance of a service in any region. One without a region comes first, because protocols without
    /// regions register such.
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
        FoundInstance { identity: member.identity.clone(), instance: member.listed() }
    }
}

/// The list of a service's instances, built at most once a version of it.
fn listing_of(service: &mut Service, members: &Slab<Member>) -> Arc<ServiceListing> {
    let (name, indexes) = (&service.name, &service.members);
    let listing_version = service.listing_version;
    let build = || {
        let instances = indexes.iter().map(|&index| members[index as usize].listed()).collect();
        Arc::new(ServiceListing { service: name.clone(), listing_version, instances })
    };
    Arc::clone(service.listing.get_or_insert_with(build))
}

impl Member {
    /// From when its lease counts, in milliseconds since the Unix epoch.
    pub(super) fn renewed_ms(&self) -> u64 {
        self.deadline_ms.saturating_sub(self.ttl_ms)
    }

    pub(super) fn listed(&self) -> ListedInstance {
        ListedInstance {
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
    use crate::state::registry::Settings;
    use crate::state::registry::commands::{FindInstance, PutInstance};
    use crate::state::registry::decide::Decision;
    use crate::state::registry::listing::Step;
    use crate::state::registry::pull_outs::{Pull, PulledOutBy};
    use crate::state::registry::replies::PutReply;
    use crate::wire::instance::{Instance, Registration};

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
        let put = PutInstance { registration: sent.clone(), expected, pull };
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
        let listing = all(&mut registry, 5_000);
        assert!(listing.services.is_empty() && listing.complete_from_ms == 0);
        assert_eq!(listing.recent[0].step, Step::Deleted);
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
            all(&mut registry, 3_000).services[0].instances[0].is_pulled_out,
            "not its own to end"
        );
        assert_eq!(registry.listing_version(), before + 1);
        assert!(matches!(
            put(&mut registry, &one(None, "a", "2"), Pull::In, 4_000),
            PutReply::Done
        ));
        assert!(!all(&mut registry, 4_000).services[0].instances[0].is_pulled_out);
        assert_eq!(registry.announcements.len(), 1, "it comes, as it is now");
    }

    #[test]
    fn who_took_itself_out_comes_back_and_leaves_nothing() {
        let mut registry = registry();
        let sent = one(None, "a", "1");
        put(&mut registry, &sent, Pull::OutItself, 2_000);
        put(&mut registry, &one(None, "a", "2"), Pull::InIfItself, 3_000);
        assert!(!all(&mut registry, 3_000).services[0].instances[0].is_pulled_out);
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
            let put =
                PutInstance { registration: second.clone(), expected, pull: Pull::InIfItself };
            match registry.put_alone(put, at(3_000)) {
                PutReply::Conflict(Some(found)) => assert_eq!(found.instance.json, first.json),
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
            match registry.decide_renew_one(&find, at(3_000)) {
                Decision::Reply(Ok(found)) => found,
                _ => panic!("the lease is the node's own"),
            }
        };
        match find(&mut registry) {
            Some(found) => {
                assert_eq!(found.identity, one(Some("R1"), "a", "1").identity);
                assert_eq!(
                    (found.instance.registered_ms, found.instance.renewed_ms),
                    (2_000, 3_000)
                );
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
