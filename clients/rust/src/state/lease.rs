//! The instances that a client keeps registered, and when their leases have to be renewed.
//!
//! # Promises
//!
//! * Every lease is renewed once a third of it has passed, together with others that are nearly due.
//! * An instance that the server has forgotten is registered again.
//!
//! Imports `error` and `frame`. Imported by `state`.

use std::collections::BTreeMap;

use fanfare_protocol::id::InstanceIdentity;
use fanfare_protocol::instance::{Instance, InstanceKey};
use fanfare_protocol::limits::LEASE_TTL_MS_DEFAULT;

use crate::error::Error;
use crate::frame::{FailedInstance, FailedKey};

/// Bytes of entries in one message. Servers take 64 KiB.
const BATCH_BYTES_MAX: usize = 48 * 1_024;

/// Entries in one message.
const BATCH_ENTRIES_MAX: usize = 500;

/// How long to wait after a registration was refused for now, in nanoseconds.
const RETRY_NS: u64 = 1_000_000_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// The server has to get it, not before this moment.
    New { not_before_ns: u64 },
    /// It was sent, and has no answer yet.
    Registering,
    /// The server has it.
    Held { due_ns: u64 },
    /// A heartbeat was sent, and has no answer yet.
    Renewing,
    /// The server has refused it for good.
    Refused,
}

#[derive(Debug)]
struct Lease {
    key: u64,
    instance: Instance,
    bytes: usize,
    ttl_ns: u64,
    phase: Phase,
    /// Rises with each change of the instance, so that a late answer to the previous one is
    /// recognised.
    version: u64,
    registrations: u64,
    error: Option<Error>,
    /// Its handle was dropped: it is to be unregistered.
    is_leaving: bool,
    was_told: bool,
}

/// The next request, with the identities in it.
#[derive(Debug)]
pub(crate) enum LeaseRequest {
    Register(Vec<Instance>, Vec<(InstanceIdentity, u64)>),
    Heartbeat(Vec<InstanceKey>, Vec<InstanceIdentity>),
    Unregister(Vec<InstanceKey>, Vec<(InstanceIdentity, u64)>),
}

/// Every instance of a client.
#[derive(Debug, Default)]
pub(crate) struct LeaseTable {
    leases: BTreeMap<InstanceIdentity, Lease>,
    /// A request may be due before the next lease is.
    is_dirty: bool,
}

impl LeaseTable {
    /// Adds an instance. `key` names its handle.
    pub(crate) fn add(
        &mut self,
        key: u64,
        mut instance: Instance,
    ) -> Result<InstanceIdentity, Error> {
        let ttl_ms = *instance.lease_ttl_ms.get_or_insert(LEASE_TTL_MS_DEFAULT);
        let checked = instance.register().map_err(Error::Invalid)?;
        let bytes = checked.json.len();
        if bytes > BATCH_BYTES_MAX {
            let message = format!("the instance is over {BATCH_BYTES_MAX} bytes of JSON");
            return Err(Error::Invalid(message));
        }
        let before = self.leases.get(&checked.identity);
        if before.is_some_and(|before| !before.is_leaving && before.key != key) {
            return Err(Error::invalid("this client has registered that instance already"));
        }
        let (version, registrations) =
            before.map_or((0, 0), |before| (before.version + 1, before.registrations));
        let was_told = before.is_some_and(|before| before.was_told);
        let ttl_ns = ttl_ms.saturating_mul(1_000_000);
        let phase = Phase::New { not_before_ns: 0 };
        let lease = Lease {
            key,
            instance,
            bytes,
            ttl_ns,
            phase,
            version,
            registrations,
            error: None,
            is_leaving: false,
            was_told,
        };
        self.leases.insert(checked.identity.clone(), lease);
        self.is_dirty = true;
        Ok(checked.identity)
    }

    /// The handle of an instance is gone. The instance is unregistered where `is_unregistered`, and expires otherwise.
    pub(crate) fn release(&mut self, key: u64, identity: &InstanceIdentity, is_unregistered: bool) {
        let Some(lease) = self.leases.get_mut(identity).filter(|lease| lease.key == key) else {
            return;
        };
        if is_unregistered && lease.was_told {
            lease.is_leaving = true;
            lease.version += 1;
            self.is_dirty = true;
        } else {
            self.leases.remove(identity);
        }
    }

    /// Unregisters all instances.
    pub(crate) fn release_all(&mut self) {
        self.leases.retain(|_, lease| lease.was_told);
        self.leases.values_mut().for_each(|lease| lease.is_leaving = true);
        self.is_dirty = true;
    }

    pub(crate) fn is_leaving_any(&self) -> bool {
        self.leases.values().any(|lease| lease.is_leaving)
    }

    /// The connection is lost. The server may have forgotten the leases: renewing will show it.
    pub(crate) fn disconnect(&mut self) {
        for lease in self.leases.values_mut() {
            lease.phase = match lease.phase {
                Phase::Held { .. } | Phase::Renewing => Phase::Held { due_ns: 0 },
                Phase::New { .. } | Phase::Registering | Phase::Refused => {
                    Phase::New { not_before_ns: 0 }
                }
            };
        }
        self.is_dirty = true;
    }

    /// When the next request is due; `u64::MAX` if none is.
    pub(crate) fn due_ns(&self) -> u64 {
        if self.is_dirty {
            return 0;
        }
        let due = self.leases.values().map(|lease| match lease.phase {
            Phase::Held { due_ns } => due_ns,
            Phase::New { not_before_ns } => not_before_ns,
            _ => u64::MAX,
        });
        due.min().unwrap_or(u64::MAX)
    }

    /// The next batch to send. Its entries count as sent.
    pub(crate) fn next_request(&mut self, now_ns: u64) -> Option<LeaseRequest> {
        let mut leaving = (Vec::new(), Vec::new());
        let mut new = (Vec::new(), Vec::new());
        let mut due = (Vec::new(), Vec::new());
        let mut bytes = 0;
        let mut is_cut = false;
        for (identity, lease) in &mut self.leases {
            if bytes + lease.bytes > BATCH_BYTES_MAX
                || new.0.len() + due.0.len() >= BATCH_ENTRIES_MAX
            {
                is_cut = true;
                break;
            }
            match lease.phase {
                Phase::Registering | Phase::Renewing => continue,
                _ if lease.is_leaving => {
                    leaving.0.push(lease.instance.key());
                    leaving.1.push((identity.clone(), lease.version));
                    lease.phase = Phase::Registering;
                }
                Phase::New { not_before_ns } if not_before_ns <= now_ns => {
                    new.0.push(lease.instance.clone());
                    new.1.push((identity.clone(), lease.version));
                    lease.phase = Phase::Registering;
                    lease.was_told = true;
                }
                // A tenth of the lease early, so that leases of the same age go together.
                Phase::Held { due_ns } if due_ns <= now_ns.saturating_add(lease.ttl_ns / 10) => {
                    due.0.push(lease.instance.key());
                    due.1.push(identity.clone());
                    lease.phase = Phase::Renewing;
                }
                _ => continue,
            }
            bytes += lease.bytes;
        }
        self.is_dirty = is_cut;
        // One kind of request goes out at a time. The others take their phases back and follow at
        // once.
        let kinds = [!leaving.1.is_empty(), !new.1.is_empty(), !due.1.is_empty()];
        self.is_dirty |= kinds.iter().filter(|is_there| **is_there).count() > 1;
        if kinds[0] {
            self.take_back(&new.1, Phase::New { not_before_ns: 0 });
            self.take_back_due(&due.1);
            return Some(LeaseRequest::Unregister(leaving.0, leaving.1));
        }
        if kinds[1] {
            self.take_back_due(&due.1);
            return Some(LeaseRequest::Register(new.0, new.1));
        }
        kinds[2].then_some(LeaseRequest::Heartbeat(due.0, due.1))
    }

    fn take_back(&mut self, of: &[(InstanceIdentity, u64)], phase: Phase) {
        for (identity, _) in of {
            if let Some(lease) = self.leases.get_mut(identity) {
                lease.phase = phase;
            }
        }
    }

    fn take_back_due(&mut self, of: &[InstanceIdentity]) {
        for identity in of {
            if let Some(lease) = self.leases.get_mut(identity) {
                lease.phase = Phase::Held { due_ns: 0 };
            }
        }
    }

    /// The answer to a registration.
    pub(crate) fn registered(
        &mut self,
        asked: &[(InstanceIdentity, u64)],
        failed: &[FailedInstance],
        now_ns: u64,
    ) {
        let mut refused = BTreeMap::new();
        for one in failed {
            if let Ok(identity) = one.instance.key().identity() {
                refused.insert(identity, refusal(&one.error_code, &one.error_message));
            }
        }
        for (identity, version) in asked {
            self.settle(identity, *version, refused.remove(identity), now_ns);
        }
    }

    /// A registration as a whole was refused, or not answered.
    pub(crate) fn not_registered(
        &mut self,
        asked: &[(InstanceIdentity, u64)],
        error: &Error,
        now_ns: u64,
    ) {
        for (identity, version) in asked {
            self.settle(identity, *version, Some(error.clone()), now_ns);
        }
    }

    fn settle(
        &mut self,
        identity: &InstanceIdentity,
        version: u64,
        error: Option<Error>,
        now_ns: u64,
    ) {
        let Some(lease) = self.leases.get_mut(identity) else { return };
        if lease.version != version || lease.is_leaving {
            // It was changed or given up since: that still has to be sent.
            if lease.is_leaving {
                lease.phase = Phase::Held { due_ns: 0 };
            }
            self.is_dirty = true;
            return;
        }
        lease.phase = match &error {
            None => {
                lease.registrations += 1;
                Phase::Held { due_ns: now_ns + lease.ttl_ns / 3 }
            }
            Some(error) if error.is_temporary() => Phase::New { not_before_ns: now_ns + RETRY_NS },
            Some(_) => Phase::Refused,
        };
        lease.error = error;
    }

    /// The answer to a heartbeat.
    pub(crate) fn renewed(
        &mut self,
        asked: &[InstanceIdentity],
        failed: &[FailedKey],
        now_ns: u64,
    ) {
        let mut refused = BTreeMap::new();
        for one in failed {
            if let Ok(identity) = one.instance_key.identity() {
                refused.insert(identity, &*one.error_code);
            }
        }
        for identity in asked {
            let Some(lease) = self.leases.get_mut(identity) else { continue };
            if lease.phase != Phase::Renewing {
                continue;
            }
            lease.phase = match refused.get(identity) {
                None => Phase::Held { due_ns: now_ns + lease.ttl_ns / 3 },
                Some(&"data-not-found") => Phase::New { not_before_ns: 0 },
                // Sooner than usual: the rest of the lease has room for few more attempts.
                Some(_) => Phase::Held { due_ns: now_ns + lease.ttl_ns / 6 },
            };
        }
    }

    /// A heartbeat as a whole was refused, or not answered.
    pub(crate) fn not_renewed(&mut self, asked: &[InstanceIdentity], now_ns: u64) {
        for identity in asked {
            let Some(lease) = self.leases.get_mut(identity) else { continue };
            if lease.phase == Phase::Renewing {
                lease.phase = Phase::Held { due_ns: now_ns + RETRY_NS + lease.ttl_ns / 10 };
            }
        }
    }

    /// The answer to an unregistration, whatever it is: instances that it missed expire.
    pub(crate) fn unregistered(&mut self, asked: &[(InstanceIdentity, u64)]) {
        for (identity, version) in asked {
            let is_over = |lease: &Lease| lease.is_leaving && lease.version == *version;
            if self.leases.get(identity).is_some_and(is_over) {
                self.leases.remove(identity);
            }
        }
        self.is_dirty = true;
    }

    /// Whether the server has an instance, or the refusal, or none if that is not known yet.
    pub(crate) fn outcome(&self, identity: &InstanceIdentity) -> Option<Result<(), Error>> {
        let lease = self.leases.get(identity)?;
        match lease.phase {
            Phase::Held { .. } | Phase::Renewing => Some(Ok(())),
            Phase::Refused => Some(Err(lease.error.clone().unwrap_or(Error::Timeout))),
            Phase::New { .. } | Phase::Registering => None,
        }
    }

    pub(crate) fn has(&self, identity: &InstanceIdentity) -> bool {
        self.leases.contains_key(identity)
    }

    pub(crate) fn registrations(&self, identity: &InstanceIdentity) -> u64 {
        self.leases.get(identity).map_or(0, |lease| lease.registrations)
    }
}

fn refusal(code: &str, message: &str) -> Error {
    Error::Refused {
        code: None,
        message: format!("{code}: {message}"),
        is_temporary: !matches!(code, "bad-request" | "no-permission"),
    }
}
