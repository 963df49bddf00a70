//! What clients are given of a service beside its registered instances: its route rules and the instances that
//! operators describe.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::{Value, json};

use super::changes::ACTIVE;
use super::item::{Group, Item, RouteRule, ServiceInstance};
use super::items::Items;
use crate::limits;

/// What the clients of a service without either are given.
pub(super) const NONE: &[u8] = b"\"logicInstances\":[],\"routeRules\":[]";

#[derive(Default)]
struct Parts {
    described: Vec<Value>,
    rules: BTreeMap<u64, Rule>,
}

struct Rule {
    head: RouteRule,
    groups: Vec<Value>,
}

/// The fields of each chosen service, as JSON without braces. One pass over the items for each of their kinds.
pub(super) fn of(items: &Items, is_chosen: impl Fn(&str) -> bool) -> BTreeMap<Box<str>, Bytes> {
    let service_of = |item: &Item| -> Option<Box<str>> {
        let service: Box<str> = item.service()?.to_ascii_lowercase().into();
        is_chosen(&service).then_some(service)
    };
    let mut services: BTreeMap<Box<str>, Parts> = BTreeMap::new();
    let (mut groups, mut listed) = (BTreeMap::new(), BTreeMap::<u64, Vec<&str>>::new());
    let mut service_of_rule = BTreeMap::new();
    for row in items.rows.values() {
        match &row.item {
            Item::ServiceInstance(one) => {
                let Some(service) = service_of(&row.item) else { continue };
                services.entry(service).or_default().described.push(described(one));
            }
            Item::RouteRule(one) if is_active(one.status.as_deref()) => {
                let Some(service) = service_of(&row.item) else { continue };
                service_of_rule.insert(row.id, service.clone());
                let rule = Rule { head: one.clone(), groups: Vec::new() };
                services.entry(service).or_default().rules.insert(row.id, rule);
            }
            Item::Group(one) if is_active(one.status.as_deref()) => {
                groups.insert(row.id, one);
            }
            Item::GroupInstance(one) => {
                if let (Some(group), Some(instance)) = (one.group_id, &one.instance_id) {
                    listed.entry(group).or_default().push(instance);
                }
            }
            _ => {}
        }
    }
    for row in items.rows.values() {
        let Item::RouteRuleGroup(one) = &row.item else { continue };
        let (rule, group) =
            (one.route_rule_id.unwrap_or_default(), one.group_id.unwrap_or_default());
        let Some(service) = service_of_rule.get(&rule) else { continue };
        let Some(found) = groups.get(&group) else { continue };
        let tags = items.tags_of(group).and_then(|row| match &row.item {
            Item::Tags(tags) => tags.tags.as_ref(),
            _ => None,
        });
        let value = json!({
            "groupKey": key_of(found),
            "weight": weight_of(one.weight),
            "instanceIds": listed.get(&group),
            "instances": null,
            "metadata": tags,
        });
        let rules = services.get_mut(service).and_then(|parts| parts.rules.get_mut(&rule));
        if let Some(rule) = rules {
            rule.groups.push(value);
        }
    }
    let texts = services.into_iter().map(|(service, parts)| {
        // A rule without groups is none.
        let rules = parts.rules.into_values().filter(|rule| !rule.groups.is_empty());
        let rules: Vec<Value> = rules.map(rule_value).collect();
        let described = Value::from(parts.described);
        let rules = Value::from(rules);
        let text = format!("\"logicInstances\":{described},\"routeRules\":{rules}");
        (service, Bytes::from(text))
    });
    texts.filter(|(_, text)| text != NONE).collect()
}

/// The weight that clients count with: the default where none was released, or one below 0.
fn weight_of(released: Option<i64>) -> i64 {
    let weight = released.filter(|weight| *weight >= 0);
    weight.map_or(limits::ROUTE_WEIGHT_DEFAULT, |weight| weight.min(limits::ROUTE_WEIGHT_MAX))
}

fn is_active(status: Option<&str>) -> bool {
    status.is_some_and(|status| status.eq_ignore_ascii_case(ACTIVE))
}

fn rule_value(rule: Rule) -> Value {
    let Rule { head, groups } = rule;
    json!({"routeId": head.name, "strategy": head.strategy, "groups": groups})
}

/// A described instance, with the fields of one that registers.
fn described(one: &ServiceInstance) -> Value {
    let mut value = json!(one);
    if let Some(fields) = value.as_object_mut() {
        fields.retain(|name, _| name != "id" && name != "description");
        fields.insert(String::from("status"), "up".into());
    }
    value
}

/// `service/region/zone/group` in lower case, without the parts that the group leaves out.
fn key_of(group: &Group) -> String {
    let parts = [&group.service_id, &group.region_id, &group.zone_id, &group.name];
    let parts = parts.into_iter().filter_map(|part| part.as_deref());
    let parts: Vec<&str> = parts.filter(|part| !part.is_empty()).collect();
    parts.join("/").to_ascii_lowercase()
}
