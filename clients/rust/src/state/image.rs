//! A service's instances, as of one revision.
//!
//! Imports `event`. Imported by `state::service`.

use std::collections::BTreeMap;
use std::sync::Arc;

use fanfare_protocol::id::{InstanceIdentity, ServiceName};
use fanfare_protocol::instance::Instance;

use crate::event::{ChangeType, ServiceChange, ServiceState};

/// A service's instances under construction.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) epoch: Box<str>,
    pub(crate) revision: u64,
    pub(crate) is_degraded: bool,
    pub(crate) instances: BTreeMap<InstanceIdentity, Arc<Instance>>,
    /// The same for readers, made at the first request.
    state: Option<Arc<ServiceState>>,
}

fn identity(instance: &Instance) -> InstanceIdentity {
    InstanceIdentity::of(
        instance.region_id.as_deref().unwrap_or_default(),
        instance.service_id.as_deref().unwrap_or_default(),
        instance.instance_id.as_deref().unwrap_or_default(),
    )
}

impl Image {
    pub(crate) fn new(
        epoch: Box<str>,
        revision: u64,
        is_degraded: bool,
        instances: impl IntoIterator<Item = Arc<Instance>>,
    ) -> Image {
        let instances = instances.into_iter().map(|one| (identity(&one), one)).collect();
        Image { epoch, revision, is_degraded, instances, state: None }
    }

    /// Applies changes. Returns false, and changes nothing, if they do not continue the image.
    pub(crate) fn apply(&mut self, change: &ServiceChange) -> bool {
        let count = u64::try_from(change.changes.len()).unwrap_or(u64::MAX);
        if change.epoch != self.epoch
            || change.from != self.revision
            || change.from.checked_add(count) != Some(change.revision)
        {
            return false;
        }
        for one in &change.changes {
            let identity = identity(&one.instance);
            match one.change_type {
                ChangeType::Delete => self.instances.remove(&identity),
                ChangeType::New | ChangeType::Change => {
                    self.instances.insert(identity, Arc::clone(&one.instance))
                }
            };
        }
        self.revision = change.revision;
        self.is_degraded = change.is_degraded;
        self.state = None;
        true
    }

    pub(crate) fn state(&mut self, service: &ServiceName) -> Arc<ServiceState> {
        let make = || {
            Arc::new(ServiceState {
                service: service.clone(),
                epoch: self.epoch.clone(),
                revision: self.revision,
                is_degraded: self.is_degraded,
                instances: self.instances.values().cloned().collect(),
            })
        };
        Arc::clone(self.state.get_or_insert_with(make))
    }
}
