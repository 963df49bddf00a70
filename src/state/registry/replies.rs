//! Replies of the registry about instances and leases. Those about services are in `views`.

use bytes::Bytes;

use super::listing::ListedInstance;
use super::pull_outs::PulledOutBy;
use crate::id::{InstanceIdentity, ServiceName};
use crate::wire::refusal::Code;

/// The result of a [`PutInstance`](super::commands::PutInstance).
#[derive(Debug)]
pub enum PutReply {
    /// It is registered.
    Done,
    /// There is another one than the caller believed, or none.
    Conflict(Option<FoundInstance>),
    /// There is no room for it.
    Refused(Code),
}

/// An entry of a batch that the state refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RefusedEntry {
    /// Its place in the command.
    pub index: usize,
    /// Why.
    pub code: Code,
}

/// An instance that was found.
#[derive(Debug, Clone)]
pub struct FoundInstance {
    /// Its identity.
    pub identity: InstanceIdentity,
    /// Its state.
    pub instance: ListedInstance,
}

/// How the leases of one service stand.
#[derive(Debug, Clone)]
pub struct ServiceLeases {
    /// The service.
    pub service: ServiceName,
    /// All its leases.
    pub leases: usize,
    /// Those past their end and held.
    pub overdue: usize,
    /// The instances an operator took out of discovery.
    pub pulled_out: usize,
    /// Whether expiry is held.
    pub degraded: bool,
    /// Whether expiry may be held.
    pub protection_enabled: bool,
    /// Milliseconds until the first lease ends; negative where it has.
    pub next_expiry_ms: Option<i64>,
    /// Each lease, at most [`crate::limits::LISTED_MAX`] of them, where one service was asked for.
    pub instances: Option<Vec<InstanceLease>>,
}

/// How one lease stands.
#[derive(Debug, Clone)]
pub struct InstanceLease {
    /// The instance, as it was registered.
    pub json: Bytes,
    /// How long the lease lasts without a heartbeat.
    pub ttl_ms: u64,
    /// Milliseconds since it was last renewed.
    pub age_ms: u64,
    /// Milliseconds until it ends; negative where it has, and its expiry is held.
    pub expires_in_ms: i64,
    /// Who took the instance out of discovery, where it is out.
    pub pulled_out_by: Option<PulledOutBy>,
}
