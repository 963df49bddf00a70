//! Settings of the registry.

use crate::limits::{self, Limits};

/// Settings of the registry.
#[derive(Debug, Clone)]
pub struct Settings {
    /// The lease of an instance that asks for none.
    pub lease_ttl_ms: u64,
    /// How long expiry may be held for a service.
    pub self_protection_max_ms: u64,
    /// Changes a service remembers for resuming clients.
    pub history_max: usize,
    /// Bytes that these take at most.
    pub history_bytes_max: usize,
    /// Instances in all.
    pub instances_max: usize,
    /// Bytes of their JSON in all.
    pub instances_bytes_max: usize,
    /// Bytes of the snapshots that are being sent and that no later subscriber can share.
    pub snapshots_bytes_max: usize,
    /// Bytes from which a snapshot is shared with followers that come while it is being sent.
    pub snapshot_shared_bytes_min: usize,
    /// Services in all, empty ones included.
    pub services_max: usize,
    /// How long a service is remembered that has no instances.
    pub service_forget_ms: u64,
}

impl Default for Settings {
    /// The settings of a server that was told nothing.
    fn default() -> Settings {
        let limits = Limits::DEFAULT;
        Settings {
            lease_ttl_ms: limits::LEASE_TTL_MS_DEFAULT,
            self_protection_max_ms: limits::SELF_PROTECTION_MS_MAX_DEFAULT,
            history_max: limits.service_history_max,
            history_bytes_max: limits.service_history_bytes_max,
            instances_max: limits.instances_max,
            instances_bytes_max: limits.instances_bytes_max,
            snapshots_bytes_max: limits.snapshots_bytes_max,
            snapshot_shared_bytes_min: limits::SNAPSHOT_SHARED_BYTES_MIN,
            services_max: limits.services_max,
            service_forget_ms: limits.service_forget_ms,
        }
    }
}
