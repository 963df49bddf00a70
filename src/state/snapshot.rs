//! A snapshot: the registry and the presence of users, whole, at one position of the log.
//!
//! The store reads one at the start, and a node that joins others reads one from Redis. Both end in
//! `Registry::restore`. The JSON is a format: nodes of other releases read it.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::cluster_presence::update::PresenceSnapshot;
use super::management::ManagementRecord;
use super::registry::pull_outs::{Operator, PulledOutBy};
use crate::id::{InstanceIdentity, UserId};
use crate::limits;

/// The operator of an instance that pulled itself out, in snapshots of earlier releases.
const OWN: &str = "itself";

/// The whole registry at one position of the log.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// The form, [`super::entry::FORMAT`].
    pub format: u32,
    /// The last entry in it, as the log's engine names it.
    pub position: String,
    /// How many entries it holds.
    pub sequence: u64,
    /// The epoch of all revisions. Empty where the history does not go on: a store that was never
    /// written, or that lacks changes.
    pub epoch: String,
    /// How many changes there were. A store that lacks changes says more than there can have been.
    pub version: u64,
    /// The services seen. Those without instances stand last, in the order in which they became empty.
    pub services: Vec<ServiceRecord>,
    /// The registered instances.
    pub instances: Vec<InstanceRecord>,
    /// The revision at which new services begin.
    #[serde(default)]
    pub revision_floor: u64,
    /// The instances pulled out, registered or not; those of instances that are gone last, the oldest
    /// first.
    #[serde(flatten, with = "pull_out_fields")]
    pub pull_outs: Vec<PullOutRecord>,
    /// The rows of management. Earlier releases know none.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub management: Vec<ManagementRecord>,
    /// The nodes that wrote entries, and the number of each one's last.
    pub nodes: Vec<(String, u64)>,
    /// The people of all nodes.
    #[serde(default)]
    pub people: PresenceSnapshot,
}

impl Snapshot {
    /// Reads what another node wrote.
    ///
    /// # Errors
    ///
    /// What is wrong with it: the form, or a count out of range.
    pub fn read(text: &[u8]) -> Result<Snapshot, String> {
        let snapshot: Snapshot = serde_json::from_slice(text).map_err(|fault| fault.to_string())?;
        snapshot.check()?;
        Ok(snapshot)
    }

    /// Makes it the beginning of a log, under another epoch.
    ///
    /// The numbers of that log begin far above those of the log before, of which some nodes may have read more
    /// than this one. So an entry that such a node still decides by the log before is void in the new log: the
    /// lease or the watch that it names by its number is not there. And an answer that tells the newest number
    /// of the new log is no contact for that node, because it has not read as far. How far above is chance, by
    /// way of the epoch: two logs may begin with the same snapshot.
    pub fn begin_log(&mut self, epoch: &str) {
        epoch.clone_into(&mut self.epoch);
        "0-0".clone_into(&mut self.position);
        let chance =
            epoch.bytes().fold(0, |chance: u64, byte| (chance * 31 + u64::from(byte)) % 256);
        let first = (self.sequence / limits::LOG_GAP + 1 + chance) * limits::LOG_GAP;
        self.sequence = if first < limits::COUNTER_MAX / 2 { first } else { limits::LOG_GAP };
        self.instances.iter_mut().for_each(|instance| instance.lease = self.sequence);
        let watches = self.services.iter_mut().filter_map(|service| service.watch.as_mut());
        watches.for_each(|watch| *watch = self.sequence);
    }

    /// Checks that no count or time in it is beyond [`limits::COUNTER_MAX`]: a node that counts on
    /// from there never overflows.
    ///
    /// # Errors
    ///
    /// Which count is out of range.
    fn check(&self) -> Result<(), String> {
        let counts = [
            ("sequence", self.sequence),
            ("version", self.version),
            ("revision_floor", self.revision_floor),
        ];
        let services = self.services.iter().flat_map(|service| {
            [
                ("revision", service.revision),
                ("degraded_since_ms", service.degraded_since_ms.unwrap_or_default()),
                ("watch", service.watch.unwrap_or_default()),
                ("empty_since_ms", service.empty_since_ms.unwrap_or_default()),
            ]
        });
        let instances = self
            .instances
            .iter()
            .flat_map(|instance| [("ttl_ms", instance.ttl_ms), ("lease", instance.lease)]);
        let nodes = self.nodes.iter().map(|(_, number)| ("number", *number));
        let all = counts.into_iter().chain(services).chain(instances).chain(nodes);
        for (what, count) in all {
            limits::check_counter(what, count)?;
        }
        Ok(())
    }
}

/// A service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ServiceRecord {
    /// Its canonical name.
    pub service: String,
    /// Its revision.
    pub revision: u64,
    /// Whether its expiry may be held.
    pub protection_enabled: bool,
    /// Since when expiry is held, in milliseconds since the Unix epoch.
    pub degraded_since_ms: Option<u64>,
    /// The number of the entry since which it has overdue leases. The store keeps none.
    pub watch: Option<u64>,
    /// Since when it has no instances, in milliseconds since the Unix epoch; none where it has some,
    /// or where an earlier release wrote it.
    #[serde(default)]
    pub empty_since_ms: Option<u64>,
}

/// An instance and its lease.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceRecord {
    /// Its identity's canonical text.
    #[serde(rename = "id")]
    pub identity: String,
    /// Its service's canonical name.
    pub service: String,
    /// Its canonical JSON.
    #[serde(with = "super::text")]
    pub json: Bytes,
    /// How long its lease lasts without a heartbeat.
    pub ttl_ms: u64,
    /// The node that owns its lease. Empty in a snapshot of the store, which knows no nodes.
    pub owner: String,
    /// The lease's number; 0 out of a store.
    pub lease: u64,
    /// Whether the lease ran out.
    pub is_overdue: bool,
}

/// A decision to take an instance out of discovery.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PullOutRecord {
    /// The instance's identity.
    pub identity: String,
    /// The operator's name; empty where the instance decided.
    pub operator: String,
    /// The operator's user, where a token said so.
    pub user_id: Option<String>,
    /// Whether the instance took itself out.
    pub by_itself: bool,
}

impl PullOutRecord {
    pub(super) fn new(identity: &InstanceIdentity, by: &PulledOutBy) -> PullOutRecord {
        PullOutRecord {
            identity: identity.as_str().to_owned(),
            operator: by.name().to_owned(),
            user_id: by.user().map(ToString::to_string),
            by_itself: *by == PulledOutBy::Itself,
        }
    }

    pub(super) fn pulled_out_by(self) -> PulledOutBy {
        if self.by_itself {
            return PulledOutBy::Itself;
        }
        let user = self.user_id.as_deref().map(UserId::new);
        PulledOutBy::Operator(Operator { user, name: self.operator.into() })
    }
}

/// Pull-outs as three fields: releases before the last knew operators' names alone.
mod pull_out_fields {
    use serde::{Deserializer, Serializer};

    use super::{BTreeMap, Deserialize, HashSet, OWN, PullOutRecord, Serialize};

    #[derive(Serialize, Deserialize)]
    struct Fields {
        /// Identities, with the operators' names.
        pull_outs: Vec<(String, String)>,
        /// Instances that took themselves out. Earlier releases said so by the operator's name.
        #[serde(default)]
        own_pull_outs: Option<HashSet<String>>,
        /// The operators' users, by identity. Earlier releases know none.
        #[serde(default)]
        pull_out_users: BTreeMap<String, String>,
    }

    pub(super) fn serialize<S: Serializer>(
        records: &[PullOutRecord],
        to: S,
    ) -> Result<S::Ok, S::Error> {
        let named = |one: &PullOutRecord| {
            let operator = if one.by_itself { OWN } else { &*one.operator };
            (one.identity.clone(), operator.to_owned())
        };
        let own = records.iter().filter(|one| one.by_itself).map(|one| one.identity.clone());
        let users =
            records.iter().filter_map(|one| Some((one.identity.clone(), one.user_id.clone()?)));
        let fields = Fields {
            pull_outs: records.iter().map(named).collect(),
            own_pull_outs: Some(own.collect()),
            pull_out_users: users.collect(),
        };
        fields.serialize(to)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Vec<PullOutRecord>, D::Error> {
        let Fields { pull_outs, own_pull_outs, mut pull_out_users } = Fields::deserialize(from)?;
        let record = |(identity, operator): (String, String)| {
            let by_itself = match &own_pull_outs {
                Some(own) => own.contains(&identity),
                None => operator == OWN,
            };
            let user_id = pull_out_users.remove(&identity).filter(|_| !by_itself);
            let operator = if by_itself { String::new() } else { operator };
            PullOutRecord { identity, operator, user_id, by_itself }
        };
        Ok(pull_outs.into_iter().map(record).collect())
    }
}
