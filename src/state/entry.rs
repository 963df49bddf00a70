//! Entries of the log: one node decides them, every node applies them.
//!
//! Every node applies the same entries in the same order, and so comes to the same services, the
//! same revisions and the same epoch. What an entry does must therefore follow from the entry and
//! the state alone: never from the node's own clock or settings.
//!
//! The JSON of an entry is a format: nodes of the release before read it.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::channels::view::ChannelView;
use super::cluster_presence::update::PresenceUpdate;
use super::management::item::ItemChange;
use super::management::operation::{DecidedBy, Target};
use super::registry::pull_outs::Pull;
use super::registry::replies::{FoundInstance, PutReply, RefusedEntry};
use crate::id::{ChannelName, InstanceIdentity, ServiceName, UserId};
use crate::limits;
use crate::wire::instance::Registration;
use crate::wire::refusal::Refusal;

/// The form of entries and snapshots. A node that reads a newer one stops rather than guess.
pub const FORMAT: u32 = 1;

/// How much the registry may hold. The deciding node's settings travel in the entry, so that nodes with
/// other settings come to the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bounds {
    /// Instances.
    pub instances_max: usize,
    /// Services.
    pub services_max: usize,
    /// Bytes of all instances' JSON.
    #[serde(default = "unbounded")]
    pub instances_bytes_max: usize,
}

/// What entries of earlier releases let the registry hold, in bytes.
const fn unbounded() -> usize {
    usize::MAX
}

/// Something that one node decided and all apply.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Entry {
    /// About services, instances and leases.
    Registry(RegistryEntry),
    /// About users, as a node has them.
    Presence(PresenceEntry),
    /// About the definitions of channels.
    Channel(ChannelEntry),
}

impl From<RegistryEntry> for Entry {
    fn from(entry: RegistryEntry) -> Entry {
        Entry::Registry(entry)
    }
}

impl From<PresenceEntry> for Entry {
    fn from(entry: PresenceEntry) -> Entry {
        Entry::Presence(entry)
    }
}

impl From<ChannelEntry> for Entry {
    fn from(entry: ChannelEntry) -> Entry {
        Entry::Channel(entry)
    }
}

/// An entry about services, instances and leases.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistryEntry {
    /// Register instances, or renew their leases. Each has its lease set.
    Register {
        /// The instances.
        list: Vec<Registration>,
        /// How much the registry may hold.
        bounds: Bounds,
    },
    /// Renew leases that are not the node's own, or overdue: they are its own from here on.
    Renew(Vec<InstanceIdentity>),
    /// Register an instance, if the registered one is as the caller expected.
    Put {
        /// The new registration.
        registration: Registration,
        /// The JSON of the instance that it replaces; none where there should be none yet.
        #[serde(with = "super::text::optional")]
        expected: Option<Bytes>,
        /// Whether it is pulled out or in along with that.
        pull: Pull,
        /// How much the registry may hold.
        bounds: Bounds,
    },
    /// Renew one lease. The result has the instance.
    #[serde(rename = "beat")]
    RenewOne(InstanceIdentity),
    /// Take over the leases of a node that is gone. Nothing is renewed by that.
    #[serde(rename = "adopt")]
    TakeOverLeases(Vec<InstanceIdentity>),
    /// Remove instances.
    Unregister(Vec<InstanceIdentity>),
    /// Leases that ran out, each with the number it had; void where it has another by now.
    Overdue(Vec<(InstanceIdentity, u64)>),
    /// Decide on the overdue leases of services.
    Judge {
        /// The services, each with the number of its watch; void where it has another by now.
        services: Vec<(ServiceName, u64)>,
        /// How long expiry may be held, as the deciding node is set. Counts where `over` is empty.
        self_protection_max_ms: u64,
        /// Of each service, whether expiry was held for as long by the deciding node's clock. Empty in
        /// entries of earlier releases.
        #[serde(default, skip_serializing_if = "Vec::is_empty")]
        over: Vec<bool>,
    },
    /// Forget services without instances, each with the revision it had; void where it has another
    /// by now. New services begin above all of these revisions.
    Forget(Vec<(ServiceName, u64)>),
    /// An operator's decision.
    Operate {
        /// The instance.
        identity: InstanceIdentity,
        /// The name of the operator who takes it out of discovery; none puts it back.
        operator: Option<Box<str>>,
        /// The operator's user. Earlier releases know none, and read over it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        user: Option<UserId>,
    },
    /// An operator's decision about instances, servers or zones. Earlier releases do not read it.
    OperateTargets {
        /// The targets, each with the word for the operation.
        operations: Vec<(Target, Box<str>)>,
        /// Whether the operations are completed.
        is_complete: bool,
        /// Who decided it.
        by: DecidedBy,
    },
    /// An operator's change of groups or of what belongs to them. Earlier releases do not read it.
    ChangeItems {
        /// The change.
        change: Box<ItemChange>,
        /// The caller's word for it; empty where there is none.
        #[serde(default, skip_serializing_if = "str::is_empty")]
        operation: Box<str>,
        /// Who decided it.
        by: DecidedBy,
    },
    /// Allow self-protection, or lift it.
    Protect {
        /// The service.
        service: ServiceName,
        /// Whether it may be held.
        enabled: bool,
    },
}

/// An entry about users, as a node has them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum PresenceEntry {
    /// What changed at the node.
    #[serde(rename = "present")]
    Update(PresenceUpdate),
    /// A node is gone, and its users with it.
    #[serde(rename = "farewell")]
    NodeLeft(String),
}

/// An entry about the definitions of channels.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum ChannelEntry {
    /// Define a channel.
    #[serde(rename = "define")]
    Define {
        /// Its name.
        channel: ChannelName,
        /// What it is for.
        description: String,
    },
    /// Delete a channel.
    #[serde(rename = "drop")]
    Delete(ChannelName),
}

/// An entry at its position in the log.
#[derive(Debug, Clone, PartialEq)]
pub struct LogItem {
    /// The position, as the log's engine names it.
    pub position: String,
    /// The node that decided the entry.
    pub node: Arc<str>,
    /// The entry's number at that node, since its start.
    pub number: u64,
    /// When the node decided, in milliseconds since the Unix epoch, by that node's clock.
    pub at_ms: u64,
    /// The entry.
    pub entry: Entry,
}

/// The result of an applied entry.
#[derive(Debug)]
pub enum Applied {
    /// Nothing that anyone is told.
    Done,
    /// A batch was applied, but for these entries.
    Batch(Vec<RefusedEntry>),
    /// Whether its subject was there.
    Found(bool),
    /// The result of a conditional registration.
    Put(PutReply),
    /// The instance that was renewed.
    Instance(Option<FoundInstance>),
    /// The channel is defined, or was before.
    Defined(Result<ChannelView, Refusal>),
}

/// An entry as the log carries it. None where an instance's text is no JSON, which cannot be.
pub fn encode(entry: &Entry) -> Option<String> {
    serde_json::to_string(entry).ok()
}

/// Reads what [`encode`] wrote.
///
/// # Errors
///
/// What is wrong with it: the form, or a count out of range.
pub fn decode(text: &str) -> Result<Entry, String> {
    // An entry is an object of one field, whose name tells the type.
    let entry = match text.split('"').nth(1) {
        Some("present" | "farewell") => serde_json::from_str(text).map(Entry::Presence),
        Some("define" | "drop") => serde_json::from_str(text).map(Entry::Channel),
        _ => serde_json::from_str(text).map(Entry::Registry),
    };
    let entry = entry.map_err(|fault| fault.to_string())?;
    if let Entry::Registry(entry) = &entry {
        entry.check()?;
    }
    Ok(entry)
}

impl RegistryEntry {
    /// Checks that no count or time in it is beyond [`limits::COUNTER_MAX`].
    fn check(&self) -> Result<(), String> {
        let check = limits::check_counter;
        match self {
            RegistryEntry::Register { list, .. } => list
                .iter()
                .filter_map(|one| one.lease_ttl_ms)
                .try_for_each(|ttl_ms| check("ttl_ms", ttl_ms)),
            RegistryEntry::Put { registration, .. } => {
                check("ttl_ms", registration.lease_ttl_ms.unwrap_or(0))
            }
            RegistryEntry::Judge { self_protection_max_ms, .. } => {
                check("self_protection_max_ms", *self_protection_max_ms)
            }
            RegistryEntry::Forget(services) => {
                services.iter().try_for_each(|(_, revision)| check("revision", *revision))
            }
            _ => Ok(()),
        }
    }
}
