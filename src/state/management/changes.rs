//! Changes of groups, of what belongs to them, and of route rules.
//!
//! ```text
//! ItemChange --> rows that come, differ and go --> the store, the audit log, the clients of their services
//! ```

use std::collections::BTreeSet;

use bytes::Bytes;

use super::item::{
    Group, GroupInstance, GroupTags, GroupWeight, Item, ItemChange, ItemKind, ItemRow, RouteRule,
    RouteRuleGroup,
};
use super::operation::{self, DecidedBy, OperationRow};
use super::{Management, item_key, key_of};
use crate::id::ServiceName;
use crate::limits;
use crate::wire::refusal::Code;

/// The rule by which Artemis' clients find canaries.
const CANARY_RULE: &str = "canary-route-rule";

/// The zone of the groups of canaries.
const CANARY_ZONE: &str = "canary";

/// The strategy of that rule.
const CANARY_STRATEGY: &str = "weighted-round-robin";

/// The status of what is not switched off.
pub(super) const ACTIVE: &str = "active";

/// What a change of items came to.
#[derive(Debug, Default)]
pub struct Changed {
    /// The keys of the records that differ.
    pub keys: Vec<String>,
    /// The places of items that were refused, with the reason.
    pub refused: Vec<(usize, Code)>,
    /// The services whose groups, rules or described instances may differ, in lower case.
    pub services: BTreeSet<Box<str>>,
    /// Of these, the ones whose clients are given something else now.
    pub rules: Vec<(ServiceName, Bytes)>,
    /// Each item that came, differs or went.
    pub items: Vec<ChangedItem>,
    /// The operations that ended with their group.
    pub ended: Vec<OperationRow>,
}

/// An item that came, differs or went.
#[derive(Debug)]
pub struct ChangedItem {
    /// What happened to it: `create`, `update`, `delete` or `release`.
    pub action: &'static str,
    /// The item as it is now, or as it was.
    pub row: ItemRow,
    /// Its service, in lower case.
    pub service: Option<Box<str>>,
}

impl Management {
    /// Changes items.
    pub fn change(&mut self, change: ItemChange, by: &DecidedBy, at_ms: u64) -> Changed {
        let mut writer = Writer { table: self, by, at_ms, changed: Changed::default() };
        match change {
            ItemChange::Put(items) => {
                for (index, item) in items.into_iter().enumerate() {
                    if let Err(code) = writer.put(item) {
                        writer.changed.refused.push((index, code));
                    }
                }
            }
            ItemChange::Delete(kind, ids) => {
                for id in ids {
                    if writer.table.items.kind_of(id) == Some(kind) {
                        writer.delete(id);
                    }
                }
            }
            ItemChange::Release(groups) => {
                for (index, (rule, group)) in groups.into_iter().enumerate() {
                    if !writer.release(rule, group) {
                        writer.changed.refused.push((index, Code::NotFound));
                    }
                }
            }
            ItemChange::DeleteTag { group, tag, value } => {
                writer.delete_tag(group, tag.as_deref(), value.as_deref());
            }
            ItemChange::CreateRule { rule, groups } => {
                if let Err(code) = writer.create_rule(rule, groups) {
                    writer.changed.refused.push((0, code));
                }
            }
            ItemChange::SetCanaries { service, region, app, instances } => {
                if let Err(code) = writer.set_canaries(service, region, app, &instances) {
                    writer.changed.refused.push((0, code));
                }
            }
        }
        let mut changed = writer.changed;
        changed.rules = self.settle_rules(&changed.services);
        changed
    }
}

/// A change under way.
struct Writer<'a> {
    table: &'a mut Management,
    by: &'a DecidedBy,
    at_ms: u64,
    changed: Changed,
}

impl Writer<'_> {
    fn note(&mut self, action: &'static str, row: ItemRow) {
        let services = self.table.items.services_of(&row.item);
        let service = services.first().cloned();
        self.changed.services.extend(services);
        self.changed.keys.push(item_key(row.id));
        self.changed.items.push(ChangedItem { action, row, service });
    }

    /// Puts an item in its place, or in a new one. Returns its id.
    fn put(&mut self, item: Item) -> Result<u64, Code> {
        let table = &mut *self.table;
        let before = table.items.place_of(&item)?;
        let mut item = match before {
            Some(before) => item.completed_by(&before.item),
            None => item.unreleased(),
        };
        if !table.items.has_owners_of(&item) {
            return Err(Code::NotFound);
        }
        let id = before.map_or_else(|| self.at_ms.max(table.last_id + 1), |before| before.id);
        item.set_id(id);
        let created_ms = before.map_or(self.at_ms, |before| before.created_ms);
        let row = ItemRow { id, item, by: self.by.clone(), created_ms, updated_ms: self.at_ms };
        let bytes =
            table.bytes + table.items.bytes + row.bytes() - before.map_or(0, ItemRow::bytes);
        if (before.is_none() && table.is_full()) || bytes > limits::MANAGEMENT_BYTES_MAX {
            return Err(Code::RateLimited);
        }
        let action = if before.is_some() { "update" } else { "create" };
        let left = before.map(|before| table.items.services_of(&before.item));
        table.last_id = table.last_id.max(id);
        table.items.insert(row.clone());
        self.changed.services.extend(left.into_iter().flatten());
        self.note(action, row);
        Ok(id)
    }

    /// The item with the same names, or this one.
    fn find_or_put(&mut self, item: Item) -> Result<u64, Code> {
        match self.table.items.place_of(&item)? {
            Some(found) => Ok(found.id),
            None => self.put(item),
        }
    }

    /// Removes an item; with a group what belongs to it, and the operations on it.
    fn delete(&mut self, id: u64) {
        let is_group = self.table.items.kind_of(id) == Some(ItemKind::Group);
        let below = self.table.items.below(id);
        for id in below.into_iter().chain([id]) {
            // Its service is that of its owners, which go after it.
            let Some(row) = self.table.items.rows.get(&id).cloned() else { continue };
            self.note("delete", row);
            self.table.items.remove(id);
        }
        if is_group {
            let ended = self.table.remove_all(&operation::group_key(id));
            self.changed.keys.extend(ended.iter().map(|row| key_of(row.id)));
            self.changed.ended.extend(ended);
        }
    }

    fn delete_tag(&mut self, group: u64, tag: Option<&str>, value: Option<&str>) {
        let Some(mut row) = self.table.items.tags_of(group).cloned() else { return };
        let Item::Tags(GroupTags { tags: Some(tags), .. }) = &mut row.item else { return };
        let before = tags.len();
        tags.retain(|name, has| {
            let is_tag = tag.is_none_or(|tag| **name == *tag);
            !(is_tag && value.is_none_or(|value| **has == *value))
        });
        if tags.is_empty() {
            return self.delete(row.id);
        }
        if tags.len() == before {
            return;
        }
        (row.by, row.updated_ms) = (self.by.clone(), self.at_ms);
        self.table.items.insert(row.clone());
        self.note("update", row);
    }

    /// Makes the draft of a weight the weight. Returns whether there is such a group of a rule.
    fn release(&mut self, rule: u64, group: u64) -> bool {
        let Some(mut row) = self.table.items.group_of_rule(rule, group).cloned() else {
            return false;
        };
        let Item::RouteRuleGroup(one) = &mut row.item else { return false };
        one.weight = one.unreleased_weight;
        (row.by, row.updated_ms) = (self.by.clone(), self.at_ms);
        self.table.items.insert(row.clone());
        self.note("release", row);
        true
    }

    /// Creates a rule with its groups, and the drafts of their weights. A rule and groups that are there stay as
    /// they are.
    fn create_rule(&mut self, rule: RouteRule, groups: Vec<GroupWeight>) -> Result<(), Code> {
        if !self.table.has_room_for(1 + 2 * groups.len()) {
            return Err(Code::RateLimited);
        }
        let rule = self.find_or_put(Item::RouteRule(rule))?;
        for GroupWeight { group, weight } in groups {
            let group = self.find_or_put(Item::Group(group))?;
            self.put(weigh(rule, group, weight))?;
        }
        Ok(())
    }

    /// Lists exactly these instances in the group of an application's canaries, which comes with its rule where it is
    /// not there.
    fn set_canaries(
        &mut self,
        service: Box<str>,
        region: Option<Box<str>>,
        app: Box<str>,
        instances: &[Box<str>],
    ) -> Result<(), Code> {
        if !self.table.has_room_for(3 + instances.len()) {
            return Err(Code::RateLimited);
        }
        let rule = RouteRule {
            service_id: Some(service.clone()),
            name: Some(CANARY_RULE.into()),
            status: Some(ACTIVE.into()),
            strategy: Some(CANARY_STRATEGY.into()),
            ..RouteRule::default()
        };
        let group = Group {
            service_id: Some(service),
            region_id: region,
            zone_id: Some(CANARY_ZONE.into()),
            name: Some(app.clone()),
            app_id: Some(app),
            status: Some(ACTIVE.into()),
            ..Group::default()
        };
        let rule = self.find_or_put(Item::RouteRule(rule))?;
        let group = self.find_or_put(Item::Group(group))?;
        self.find_or_put(weigh(rule, group, Some(limits::ROUTE_WEIGHT_DEFAULT)))?;
        let is_wanted = |name: &str| instances.iter().any(|one| one.eq_ignore_ascii_case(name));
        for id in self.table.items.below(group) {
            let Some(Item::GroupInstance(one)) =
                self.table.items.rows.get(&id).map(|row| &row.item)
            else {
                continue;
            };
            if !is_wanted(one.instance_id.as_deref().unwrap_or_default()) {
                self.delete(id);
            }
        }
        for instance in instances {
            self.find_or_put(Item::GroupInstance(GroupInstance {
                group_id: Some(group),
                instance_id: Some(instance.clone()),
                ..GroupInstance::default()
            }))?;
        }
        Ok(())
    }
}

/// A group in a rule, with the draft of a weight.
fn weigh(rule: u64, group: u64, weight: Option<i64>) -> Item {
    Item::RouteRuleGroup(RouteRuleGroup {
        route_rule_id: Some(rule),
        group_id: Some(group),
        unreleased_weight: weight,
        ..RouteRuleGroup::default()
    })
}
