//! Reads: views of services, leases, and lists of every instance.

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
        let rules = self.management.rules(name.as_str()).cloned();
        match self.find_service(&name) {
            Some(service) => View { rules, ..self.services[service].view(&self.epoch) },
            None => View {
                rules,
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
            pulled_out_by: self.out_by(&member.identity, &member.json),
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
