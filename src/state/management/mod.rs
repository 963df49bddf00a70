//! What operators have decided beyond single pull-outs: operations on instances, servers, zones and groups; the
//! groups, and what belongs to them.
//!
//! ```text
//! operate (target, operation) --> a row --> every instance below the target is out of discovery
//! complete the same           --> no row -> back, unless another row stands above the instance
//! ```
//!
//! The registry owns the one table, applies the entries of the log to it, and asks it about each instance.
//!
//! # Promises
//!
//! * A row is the state: an instance is down while a row of its own, of its server, of its zone or of its group stands.
//! * One target has one row an operation. The text of the operation is the caller's, and compares without case.
//! * The table has a bound in rows and in bytes. Beyond it operations are refused, and none is dropped.
//!
//! Imports `id` and `limits`. Imported by the registry, entries, snapshots and commands.

pub mod changes;
pub mod item;
pub mod operation;

mod items;
mod rules;

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::id::{InstanceIdentity, ServiceName};
use crate::limits;
use item::{ItemKind, ItemRow};
use items::Items;
use operation::{DecidedBy, OperationFilter, OperationRow, Target};

/// A row as the store and snapshots keep it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ManagementRecord {
    /// Its kind and its id: `operation/7`.
    pub key: String,
    /// The row as JSON.
    pub body: String,
}

/// What decides below which targets an instance is, beside its identity: fields of its JSON.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Traits<'a> {
    /// Its address, which names its server.
    #[serde(default, borrow)]
    pub ip: Option<Cow<'a, str>>,
    /// Its zone.
    #[serde(default, borrow)]
    pub zone_id: Option<Cow<'a, str>>,
    /// The name of its group.
    #[serde(default, borrow)]
    pub group_id: Option<Cow<'a, str>>,
}

impl<'a> Traits<'a> {
    /// Those of an instance's canonical JSON.
    pub fn of(json: &'a [u8]) -> Traits<'a> {
        serde_json::from_slice(json).unwrap_or_default()
    }
}

/// The rows.
///
/// # Invariants
///
/// 1. `by_target` has exactly the rows of `rows`: by the target's key, by the operation in lower case.
/// 2. `wide` counts the rows whose target is no instance; `bytes` is what all rows take, about.
/// 3. An operation on a group stands only while the group does.
/// 4. No row or item has an id above `last_id`.
#[derive(Debug, Default)]
pub struct Management {
    rows: BTreeMap<u64, OperationRow>,
    by_target: BTreeMap<String, BTreeMap<Box<str>, u64>>,
    wide: usize,
    bytes: usize,
    items: Items,
    /// What clients are given of each service that has rules or described instances.
    rules: BTreeMap<Box<str>, Bytes>,
    last_id: u64,
}

impl Management {
    /// Begins an operation. The same one again only takes the newer operator, reason and time. Returns its
    /// id; none where there is no room.
    pub fn begin(
        &mut self,
        target: Target,
        operation: &str,
        by: &DecidedBy,
        at_ms: u64,
    ) -> Option<u64> {
        let known = self.find(&target, operation);
        let before = known.and_then(|id| self.rows.get(&id));
        // A clock that goes back gives no id twice.
        let id = known.unwrap_or_else(|| at_ms.max(self.last_id + 1));
        let row = OperationRow {
            id,
            operation: operation.into(),
            target,
            by: by.clone(),
            created_ms: before.map_or(at_ms, |row| row.created_ms),
            updated_ms: at_ms,
        };
        let bytes = self.bytes - before.map_or(0, OperationRow::bytes) + row.bytes();
        let is_full = before.is_none() && self.is_full();
        if is_full || bytes + self.items.bytes > limits::MANAGEMENT_BYTES_MAX {
            return None;
        }
        self.insert(row);
        Some(id)
    }

    /// Completes an operation. Returns the id that its row had.
    pub fn complete(&mut self, target: &Target, operation: &str) -> Option<u64> {
        let id = self.find(target, operation)?;
        self.remove(id);
        Some(id)
    }

    /// Completes all operations on one target. Returns their rows.
    pub fn complete_all(&mut self, target: &Target) -> Vec<OperationRow> {
        self.remove_all(&target.key())
    }

    fn remove_all(&mut self, key: &str) -> Vec<OperationRow> {
        let rows = self.by_target.get(key).into_iter().flat_map(BTreeMap::values);
        let ids: Vec<u64> = rows.copied().collect();
        ids.into_iter().filter_map(|id| self.remove(id)).collect()
    }

    /// Whether a target can have operations: a group has to be there, anything else need not.
    pub fn is_there(&self, target: &Target) -> bool {
        let Target::Group { group, .. } = target else { return true };
        group.parse().is_ok_and(|id| self.items.kind_of(id) == Some(ItemKind::Group))
    }

    fn is_full(&self) -> bool {
        !self.has_room_for(1)
    }

    fn has_room_for(&self, rows: usize) -> bool {
        self.rows.len() + self.items.rows.len() + rows <= limits::MANAGEMENT_ROWS_MAX
    }

    /// What clients are given of a service: `"logicInstances":[...],"routeRules":[...]`; none where it has neither.
    pub fn rules(&self, service: &str) -> Option<&Bytes> {
        self.rules.get(service)
    }

    /// Computes what the clients of some services are given. Returns those for which that differs.
    fn settle_rules(&mut self, services: &BTreeSet<Box<str>>) -> Vec<(ServiceName, Bytes)> {
        if services.is_empty() {
            return Vec::new();
        }
        let mut after = rules::of(&self.items, |service| services.contains(service));
        let mut differ = Vec::new();
        for service in services {
            let now = after.remove(service);
            if self.rules.get(service) == now.as_ref() {
                continue;
            }
            let told = now.clone().unwrap_or_else(|| Bytes::from_static(rules::NONE));
            differ.push((ServiceName::of(service), told));
            match now {
                Some(now) => self.rules.insert(service.clone(), now),
                None => self.rules.remove(service),
            };
        }
        differ
    }

    /// Computes what the clients of all services are given, once all rows are restored.
    pub fn restored(&mut self) {
        self.rules = rules::of(&self.items, |_| true);
    }

    /// The items of a kind, in the order of their ids.
    pub fn items(&self, kind: ItemKind) -> impl Iterator<Item = &ItemRow> {
        self.items.rows.values().filter(move |row| row.item.kind() == kind)
    }

    fn find(&self, target: &Target, operation: &str) -> Option<u64> {
        let rows = self.by_target.get(&target.key())?;
        rows.get(&*operation.to_ascii_lowercase()).copied()
    }

    fn insert(&mut self, row: OperationRow) {
        self.remove(row.id);
        self.last_id = self.last_id.max(row.id);
        self.bytes += row.bytes();
        self.wide += usize::from(row.target.is_wide());
        let operations = self.by_target.entry(row.target.key()).or_default();
        operations.insert(row.operation.to_ascii_lowercase().into(), row.id);
        self.rows.insert(row.id, row);
    }

    fn remove(&mut self, id: u64) -> Option<OperationRow> {
        let row = self.rows.remove(&id)?;
        self.bytes -= row.bytes();
        self.wide -= usize::from(row.target.is_wide());
        let key = row.target.key();
        if let Some(operations) = self.by_target.get_mut(&key) {
            operations.remove(&*row.operation.to_ascii_lowercase());
            if operations.is_empty() {
                self.by_target.remove(&key);
            }
        }
        Some(row)
    }

    /// The first row below which an instance with this JSON is.
    pub fn row_above(&self, identity: &InstanceIdentity, json: &[u8]) -> Option<&OperationRow> {
        if self.rows.is_empty() {
            return None;
        }
        // Only servers and zones need more than the identity.
        let traits = if self.wide > 0 { Traits::of(json) } else { Traits::default() };
        self.row_above_traits(identity, &traits)
    }

    /// The same for an instance that need not be registered.
    pub fn row_above_traits(
        &self,
        identity: &InstanceIdentity,
        traits: &Traits<'_>,
    ) -> Option<&OperationRow> {
        let mut parts = identity.as_str().split('\u{1f}');
        let (region, service) = (parts.next()?, parts.next()?);
        let zone = traits.zone_id.as_deref().map(|zone| operation::zone_key(region, service, zone));
        let server = traits.ip.as_deref().map(|ip| operation::server_key(region, ip));
        let (zone_id, name) = (traits.zone_id.as_deref(), traits.group_id.as_deref());
        let group = name
            .filter(|_| !self.items.rows.is_empty())
            .and_then(|name| self.items.group(service, region, zone_id.unwrap_or_default(), name));
        let group = group.map(operation::group_key);
        let keys = [Some(operation::instance_key(identity)), server, zone, group];
        let rows = keys.into_iter().flatten().find_map(|key| self.by_target.get(&key))?;
        rows.values().next().and_then(|id| self.rows.get(id))
    }

    /// The rows that a filter lets through, in the order of their ids.
    pub fn list(&self, filter: &OperationFilter) -> impl Iterator<Item = &OperationRow> {
        self.rows.values().filter(|row| filter.takes(&row.target))
    }

    /// A row for the store; none where it is gone.
    pub fn record(&self, key: &str) -> Option<ManagementRecord> {
        let (kind, id) = key.split_once('/')?;
        let id = id.parse().ok()?;
        match kind {
            "item" => self.items.rows.get(&id).map(|row| record(item_key(id), row)),
            _ => self.rows.get(&id).map(|row| record(key_of(id), row)),
        }
    }

    /// All rows for a snapshot.
    pub fn records(&self) -> Vec<ManagementRecord> {
        let items = self.items.rows.values().map(|row| record(item_key(row.id), row));
        self.rows.values().map(|row| record(key_of(row.id), row)).chain(items).collect()
    }

    /// Takes a row from the store or a snapshot.
    pub fn restore(&mut self, record: &ManagementRecord) {
        if record.key.starts_with("item/") {
            return match serde_json::from_str::<ItemRow>(&record.body) {
                Ok(row) if row.id <= limits::COUNTER_MAX && record.key == item_key(row.id) => {
                    self.last_id = self.last_id.max(row.id);
                    self.items.insert(row);
                }
                _ => tracing::error!(key = record.key, "an item of management cannot be read"),
            };
        }
        match serde_json::from_str::<OperationRow>(&record.body) {
            Ok(row) if row.id <= limits::COUNTER_MAX && record.key == key_of(row.id) => {
                self.insert(row);
            }
            _ => tracing::error!(key = record.key, "a row of management cannot be read"),
        }
    }
}

/// The key of an operation's record.
pub fn key_of(id: u64) -> String {
    format!("operation/{id}")
}

fn item_key(id: u64) -> String {
    format!("item/{id}")
}

fn record(key: String, row: &impl Serialize) -> ManagementRecord {
    let body = serde_json::to_string(row).expect("texts and numbers can be written as JSON");
    ManagementRecord { key, body }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rng::Rng;

    fn target(n: u64) -> Target {
        let (region, service) = (Box::from("R"), Box::from("Svc"));
        match n % 3 {
            0 => Target::Instance { region, service, instance: "I".into() },
            1 => Target::Server { region, server: "10.0.0.1".into() },
            _ => Target::Zone { region, service, zone: "Z".into() },
        }
    }

    /// Random decisions against a plain list; what is written down can be read again.
    #[test]
    fn an_instance_is_down_while_a_row_stands() {
        let identity = InstanceIdentity::of("r", "svc", "i");
        let json = br#"{"instanceId":"I","ip":"10.0.0.1","zoneId":"z"}"#;
        for seed in 0..40 {
            let mut rng = Rng::seeded(seed);
            let (mut table, mut stands) = (Management::default(), Vec::new());
            for step in 0..200 {
                let (n, operation) = (rng.below(3), ["Ops", "ops", "other"][rng.below(3) as usize]);
                let one = (n, operation.to_ascii_lowercase());
                if rng.below(2) == 0 {
                    let by = DecidedBy::default();
                    table.begin(target(n), operation, &by, step).expect("room");
                    stands.retain(|row| *row != one);
                    stands.push(one);
                } else {
                    let had = table.complete(&target(n), operation).is_some();
                    assert_eq!(had, stands.contains(&one), "seed {seed}");
                    stands.retain(|row| *row != one);
                }
                let is_down = table.row_above(&identity, json).is_some();
                assert_eq!(is_down, !stands.is_empty(), "seed {seed}");
                assert_eq!(table.rows.len(), stands.len());
                let mut again = Management::default();
                for record in &table.records() {
                    again.restore(record);
                }
                assert_eq!((&again.rows, again.bytes), (&table.rows, table.bytes));
                assert_eq!((&again.by_target, again.wide), (&table.by_target, table.wide));
            }
        }
    }

    #[test]
    fn others_are_not_down() {
        let mut table = Management::default();
        for n in 0..3 {
            table.begin(target(n), "x", &DecidedBy::default(), 7);
        }
        let json = br#"{"ip":"10.0.0.1","zoneId":"z"}"#;
        let is_down =
            |identity: InstanceIdentity, json: &[u8]| table.row_above(&identity, json).is_some();
        assert!(is_down(InstanceIdentity::of("r", "other", "j"), json), "its server is");
        assert!(!is_down(InstanceIdentity::of("r2", "svc", "i"), json), "another region");
        let near = br#"{"ip":"10.0.0.11","zoneId":"z2"}"#;
        assert!(!is_down(InstanceIdentity::of("r", "svc", "j"), near));
    }

    #[test]
    fn the_table_refuses_beyond_its_bounds() {
        let mut table = Management::default();
        let target = |n: usize| Target::Server { region: "".into(), server: n.to_string().into() };
        for n in 0..limits::MANAGEMENT_ROWS_MAX {
            assert!(table.begin(target(n), "x", &DecidedBy::default(), 1).is_some());
        }
        assert_eq!(table.begin(target(usize::MAX), "x", &DecidedBy::default(), 1), None);
        let again = table.begin(target(0), "x", &DecidedBy::default(), 2);
        assert_eq!(again, Some(1), "one that stands can be renewed");
        let ids = table.rows.keys().copied();
        assert!(ids.eq(1..=limits::MANAGEMENT_ROWS_MAX as u64), "each id once");
    }
}
