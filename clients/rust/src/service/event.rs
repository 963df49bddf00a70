//! What a client learns of services: a whole state, or what has changed in it.
//!
//! Imports `id`, `wire::instance` and `client::error`.

use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use super::super::error::Error;
use fanfare_protocol::id::ServiceName;
use fanfare_protocol::instance::Instance;

/// What a change did to an instance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ChangeType {
    /// It was not there before.
    New,
    /// It is described otherwise.
    Change,
    /// It is gone.
    Delete,
}

/// One change of one instance.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceChange {
    /// The instance after the change; before it, where it is gone.
    #[serde(deserialize_with = "shared")]
    pub instance: Arc<Instance>,
    /// What happened to it.
    pub change_type: ChangeType,
    /// When, RFC 3339 in UTC.
    #[serde(default)]
    pub change_time: String,
    /// Why: `register`, `update`, `unregister`, `expired`, `pull_out` or `pull_in`.
    #[serde(default)]
    pub reason: String,
}

fn shared<'de, D: Deserializer<'de>>(from: D) -> Result<Arc<Instance>, D::Error> {
    Instance::deserialize(from).map(Arc::new)
}

/// A service as of one revision.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceState {
    /// The service's canonical name.
    pub service: ServiceName,
    /// What the revision belongs to. Another epoch is another count.
    pub epoch: Box<str>,
    /// How many changes the service has seen in this epoch.
    pub revision: u64,
    /// Whether the server holds the expiry of too many overdue leases at once.
    pub is_degraded: bool,
    /// The instances, ordered by region, service and instance id without case.
    pub instances: Vec<Arc<Instance>>,
}

/// Changes that lead from one revision to another.
#[derive(Debug, Clone, PartialEq)]
pub struct ServiceChange {
    /// The service's canonical name.
    pub service: ServiceName,
    /// What the revisions belong to.
    pub epoch: Box<str>,
    /// The revision before.
    pub from: u64,
    /// The revision after.
    pub revision: u64,
    /// The mark after it. A change of the mark alone has no `changes`.
    pub is_degraded: bool,
    /// What happened, in order.
    pub changes: Vec<InstanceChange>,
}

/// What a feed of services gives.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub enum ServiceEvent {
    /// The state, in place of everything known of the service before.
    Snapshot(Arc<ServiceState>),
    /// What happened since the event before it of the same service.
    Changed(Arc<ServiceChange>),
    /// The server does not let us follow. It is asked again after the next reconnect, and earlier
    /// where the error is temporary.
    Refused {
        /// The service, or none where it is about all of them.
        service: Option<ServiceName>,
        /// Why.
        error: Error,
    },
}

impl ServiceEvent {
    /// The service it is about; none where it is about all of them.
    pub fn service(&self) -> Option<&ServiceName> {
        match self {
            ServiceEvent::Snapshot(state) => Some(&state.service),
            ServiceEvent::Changed(change) => Some(&change.service),
            ServiceEvent::Refused { service, .. } => service.as_ref(),
        }
    }
}
