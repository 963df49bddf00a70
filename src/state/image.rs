//! The registry as the store keeps it: what to write after changes, and how to begin from it.
//!
//! Part of `state::registry`, in a file of its own. Imported by `store` and `control`.

use bytes::Bytes;

use super::registry::{Registry, Settings};
use crate::clock::Moment;
use crate::id::{Epoch, InstanceIdentity, ServiceName};

/// A service, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceRecord {
    /// Its canonical name.
    pub service_id: String,
    /// Its revision.
    pub revision: u64,
    /// Whether its expiry may be held.
    pub protection_enabled: bool,
    /// Since when it is held, in milliseconds since the Unix epoch.
    pub degraded_since_ms: Option<u64>,
}

/// An instance, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstanceRecord {
    /// Its identity's canonical text.
    pub identity: String,
    /// Its service's canonical name.
    pub service_id: String,
    /// Its canonical JSON.
    pub json: Bytes,
    /// Its lease.
    pub lease_ttl_ms: u64,
}

/// An operator's decision to take an instance out of discovery, as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PullOutRecord {
    /// The instance's identity.
    pub identity: String,
    /// Who decided it.
    pub operator: String,
}

/// What the store holds at a start.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryImage {
    /// The epoch before; none where there was no registry yet.
    pub epoch: Option<String>,
    /// The version before. After an unclean stop, one that is certainly above every used one.
    pub version: u64,
    /// Whether the last server wrote everything before it ended.
    pub is_clean: bool,
    /// The services seen.
    pub services: Vec<ServiceRecord>,
    /// The instances registered.
    pub instances: Vec<InstanceRecord>,
    /// The instances pulled out, registered or not.
    pub pull_outs: Vec<PullOutRecord>,
}

/// What changed since the last time the store was told.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RegistryDelta {
    /// The epoch.
    pub epoch: String,
    /// The registry's version.
    pub version: u64,
    /// Services to write.
    pub services: Vec<ServiceRecord>,
    /// Instances to write.
    pub upserts: Vec<InstanceRecord>,
    /// Identities of instances that are gone.
    pub deletes: Vec<String>,
    /// Pull-outs to write.
    pub pull_outs: Vec<PullOutRecord>,
    /// Identities that are pulled in again.
    pub pull_ins: Vec<String>,
}

impl Registry {
    /// Begins from what the store holds. Every lease gets one full period. The history goes on
    /// where it is certain that nothing is missing; else it begins anew under `fresh_epoch`.
    pub fn restore(
        settings: Settings,
        image: RegistryImage,
        fresh_epoch: Epoch,
        now: Moment,
    ) -> Registry {
        let epoch = match &image.epoch {
            Some(epoch) if image.is_clean => Epoch::new(epoch),
            _ => fresh_epoch,
        };
        let mut registry = Registry::new(settings, epoch, image.version, now);
        for record in image.pull_outs {
            let identity = InstanceIdentity::from_canonical(&record.identity);
            registry.restore_pull_out(identity, record.operator.into());
        }
        for record in &image.services {
            let name = ServiceName::of(&record.service_id);
            let Ok(index) = registry.service_or_new(&name) else { continue };
            let service = &mut registry.services[index];
            service.revision = record.revision;
            service.protection_enabled = record.protection_enabled;
            if record.degraded_since_ms.is_some() {
                service.degraded_since_ms = record.degraded_since_ms;
                service.told_degraded = true;
                registry.totals.degraded_services += 1;
                registry.watch(index, now);
            }
        }
        for record in image.instances {
            let name = ServiceName::of(&record.service_id);
            let Ok(service) = registry.service_or_new(&name) else { continue };
            let identity = InstanceIdentity::from_canonical(&record.identity);
            let member = registry.admit(service, identity, record.json, record.lease_ttl_ms, now);
            registry.members[member as usize].is_unproven = true;
            registry.services[service].unproven += 1;
        }
        registry
    }

    /// Whether the store has something to be told.
    pub fn is_dirty(&self) -> bool {
        !self.dirty_services.is_empty()
            || !self.dirty_instances.is_empty()
            || !self.dirty_pull_outs.is_empty()
    }

    /// Takes what changed since the last call. A thing that changed more than once is named once.
    pub fn take_delta(&mut self) -> RegistryDelta {
        let mut delta = RegistryDelta {
            epoch: self.epoch().as_str().to_owned(),
            version: self.version(),
            ..RegistryDelta::default()
        };
        for index in std::mem::take(&mut self.dirty_services) {
            let service = &self.services[index];
            delta.services.push(ServiceRecord {
                service_id: service.name.as_str().to_owned(),
                revision: service.revision,
                protection_enabled: service.protection_enabled,
                degraded_since_ms: service.degraded_since_ms,
            });
        }
        for identity in std::mem::take(&mut self.dirty_instances) {
            match self.find_member(&identity) {
                Some(member) => delta.upserts.push(InstanceRecord {
                    identity: identity.as_str().to_owned(),
                    service_id: self.services[member.service].name.as_str().to_owned(),
                    json: member.json.clone(),
                    lease_ttl_ms: member.ttl_ms,
                }),
                None => delta.deletes.push(identity.as_str().to_owned()),
            }
        }
        for identity in std::mem::take(&mut self.dirty_pull_outs) {
            let text = identity.as_str().to_owned();
            match self.pulled_out_by(&identity) {
                Some(operator) => delta
                    .pull_outs
                    .push(PullOutRecord { identity: text, operator: operator.to_owned() }),
                None => delta.pull_ins.push(text),
            }
        }
        delta
    }
}
