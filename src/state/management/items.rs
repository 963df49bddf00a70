//! The table of items: each once by its names, and with its group.

use std::collections::BTreeMap;

use super::item::{Item, ItemKind, ItemRow, group_key};
use crate::wire::refusal::Code;

/// The items.
///
/// # Invariants
///
/// 1. `by_key` has exactly the rows of `rows`, by their items' keys.
/// 2. An item that belongs to others, groups or rules, stands only while they do.
/// 3. `bytes` is what all rows take, about.
#[derive(Debug, Default)]
pub(super) struct Items {
    pub(super) rows: BTreeMap<u64, ItemRow>,
    by_key: BTreeMap<String, u64>,
    pub(super) bytes: usize,
}

impl Items {
    /// The row that an item takes the place of: the one with its id, or the one with its names.
    ///
    /// # Errors
    ///
    /// There is none with its id, or another one has its names.
    pub(super) fn place_of(&self, item: &Item) -> Result<Option<&ItemRow>, Code> {
        let named = self.by_key.get(&item.key()).copied();
        let Some(id) = item.id() else { return Ok(named.and_then(|id| self.rows.get(&id))) };
        let row = self.rows.get(&id).filter(|row| row.item.kind() == item.kind());
        let row = row.ok_or(Code::NotFound)?;
        // A change of names must not run into another item.
        let after = item.clone().completed_by(&row.item);
        match self.by_key.get(&after.key()) {
            Some(&other) if other != id => Err(Code::Conflict),
            _ => Ok(Some(row)),
        }
    }

    /// Whether everything that an item belongs to stands.
    pub(super) fn has_owners_of(&self, item: &Item) -> bool {
        let is = |(kind, id): (ItemKind, u64)| {
            self.rows.get(&id).is_some_and(|row| row.item.kind() == kind)
        };
        item.owners().into_iter().all(is)
    }

    pub(super) fn kind_of(&self, id: u64) -> Option<ItemKind> {
        self.rows.get(&id).map(|row| row.item.kind())
    }

    pub(super) fn insert(&mut self, row: ItemRow) {
        self.remove(row.id);
        self.bytes += row.bytes();
        self.by_key.insert(row.item.key(), row.id);
        self.rows.insert(row.id, row);
    }

    pub(super) fn remove(&mut self, id: u64) -> Option<ItemRow> {
        let row = self.rows.remove(&id)?;
        self.bytes -= row.bytes();
        self.by_key.remove(&row.item.key());
        Some(row)
    }

    /// The ids of what belongs to an item.
    pub(super) fn below(&self, owner: u64) -> Vec<u64> {
        let is_below = |row: &&ItemRow| row.item.owners().iter().any(|&(_, id)| id == owner);
        self.rows.values().filter(is_below).map(|row| row.id).collect()
    }

    /// The services that an item is about.
    pub(super) fn services_of(&self, item: &Item) -> Vec<Box<str>> {
        let of = |id: &u64| self.rows.get(id).and_then(|row| row.item.service());
        let owners = item.owners();
        let owned = owners.iter().filter_map(|(_, id)| of(id));
        item.service().into_iter().chain(owned).map(|one| one.to_ascii_lowercase().into()).collect()
    }

    /// The group of a rule.
    pub(super) fn group_of_rule(&self, rule: u64, group: u64) -> Option<&ItemRow> {
        let id = self.by_key.get(&format!("w\u{1f}{rule}\u{1f}{group}"))?;
        self.rows.get(id)
    }

    /// The tags of a group.
    pub(super) fn tags_of(&self, group: u64) -> Option<&ItemRow> {
        let id = self.by_key.get(&format!("t\u{1f}{group}"))?;
        self.rows.get(id)
    }

    /// The group of that name in a service; one without region or zone is for all of them.
    pub(super) fn group(&self, service: &str, region: &str, zone: &str, name: &str) -> Option<u64> {
        [(region, zone), (region, ""), ("", zone), ("", "")].into_iter().find_map(
            |(region, zone)| self.by_key.get(&group_key(service, region, zone, name)).copied(),
        )
    }
}
