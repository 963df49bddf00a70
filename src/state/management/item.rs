//! Groups and what belongs to them: the items that operators' tools keep here.
//!
//! The names of the fields are Artemis' own: callers send and read the items in this form, and the store and the log
//! keep them in it.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::operation::DecidedBy;
use crate::limits;

/// Texts by their names.
pub type Texts = BTreeMap<Box<str>, Box<str>>;

/// A group of a service's instances: those whose `groupId` is its name, in its region and zone.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are Artemis' own names")]
pub struct Group {
    #[serde(default)]
    pub group_id: Option<u64>,
    #[serde(default)]
    pub service_id: Option<Box<str>>,
    #[serde(default)]
    pub region_id: Option<Box<str>>,
    #[serde(default)]
    pub zone_id: Option<Box<str>>,
    #[serde(default)]
    pub name: Option<Box<str>>,
    #[serde(default)]
    pub app_id: Option<Box<str>>,
    #[serde(default)]
    pub description: Option<Box<str>>,
    #[serde(default)]
    pub status: Option<Box<str>>,
    #[serde(default)]
    pub metadata: Option<Texts>,
}

/// The tags of a group.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are Artemis' own names")]
pub struct GroupTags {
    #[serde(default)]
    pub group_id: Option<u64>,
    #[serde(default)]
    pub tags: Option<Texts>,
}

/// An instance that is listed in a group by its id.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are Artemis' own names")]
pub struct GroupInstance {
    #[serde(default)]
    pub id: Option<u64>,
    #[serde(default)]
    pub group_id: Option<u64>,
    #[serde(default)]
    pub instance_id: Option<Box<str>>,
}

/// An instance that operators describe: none that registers.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are Artemis' own names")]
pub struct ServiceInstance {
    #[serde(default)]
    pub id: Option<u64>,
    #[serde(default)]
    pub service_id: Option<Box<str>>,
    #[serde(default)]
    pub instance_id: Option<Box<str>>,
    #[serde(default)]
    pub group_id: Option<Box<str>>,
    #[serde(default)]
    pub ip: Option<Box<str>>,
    #[serde(default)]
    pub machine_name: Option<Box<str>>,
    #[serde(default)]
    pub metadata: Option<Texts>,
    #[serde(default)]
    pub port: Option<u16>,
    #[serde(default)]
    pub protocol: Option<Box<str>>,
    #[serde(default)]
    pub region_id: Option<Box<str>>,
    #[serde(default)]
    pub zone_id: Option<Box<str>>,
    #[serde(default)]
    pub health_check_url: Option<Box<str>>,
    #[serde(default)]
    pub url: Option<Box<str>>,
    #[serde(default)]
    pub description: Option<Box<str>>,
}

/// A rule by which clients choose among the groups of a service.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are Artemis' own names")]
pub struct RouteRule {
    #[serde(default)]
    pub route_rule_id: Option<u64>,
    #[serde(default)]
    pub service_id: Option<Box<str>>,
    #[serde(default)]
    pub name: Option<Box<str>>,
    #[serde(default)]
    pub description: Option<Box<str>>,
    #[serde(default)]
    pub status: Option<Box<str>>,
    #[serde(default)]
    pub strategy: Option<Box<str>>,
}

/// A group in a route rule. Callers set the draft of its weight; a release makes it the weight.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[allow(missing_docs, reason = "the fields are Artemis' own names")]
pub struct RouteRuleGroup {
    #[serde(default)]
    pub route_rule_group_id: Option<u64>,
    #[serde(default)]
    pub route_rule_id: Option<u64>,
    #[serde(default)]
    pub group_id: Option<u64>,
    #[serde(default)]
    pub weight: Option<i64>,
    #[serde(default)]
    pub unreleased_weight: Option<i64>,
}

/// A group of a rule that is to be created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupWeight {
    /// The group, by its names.
    #[serde(flatten)]
    pub group: Group,
    /// The draft of its weight.
    #[serde(default)]
    pub weight: Option<i64>,
}

/// An item of any kind.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Item {
    /// A group.
    Group(Group),
    /// The tags of a group.
    Tags(GroupTags),
    /// An instance listed in a group.
    GroupInstance(GroupInstance),
    /// An instance that operators describe.
    ServiceInstance(ServiceInstance),
    /// A rule of a service.
    RouteRule(RouteRule),
    /// A group in a rule.
    RouteRuleGroup(RouteRuleGroup),
}

/// The kinds of items.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemKind {
    /// See [`Item::Group`].
    Group,
    /// See [`Item::Tags`].
    Tags,
    /// See [`Item::GroupInstance`].
    GroupInstance,
    /// See [`Item::ServiceInstance`].
    ServiceInstance,
    /// See [`Item::RouteRule`].
    RouteRule,
    /// See [`Item::RouteRuleGroup`].
    RouteRuleGroup,
}

impl ItemKind {
    /// Its word in the audit log.
    pub const fn as_str(self) -> &'static str {
        match self {
            ItemKind::Group => "group",
            ItemKind::Tags => "group_tags",
            ItemKind::GroupInstance => "group_instance",
            ItemKind::ServiceInstance => "service_instance",
            ItemKind::RouteRule => "route_rule",
            ItemKind::RouteRuleGroup => "route_rule_group",
        }
    }
}

impl Item {
    /// Its fields, under Artemis' names, null where it does not have one.
    pub fn fields(&self) -> Map<String, Value> {
        let value = match self {
            Item::Group(one) => json!(one),
            Item::Tags(one) => json!(one),
            Item::GroupInstance(one) => json!(one),
            Item::ServiceInstance(one) => json!(one),
            Item::RouteRule(one) => json!(one),
            Item::RouteRuleGroup(one) => json!(one),
        };
        match value {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    /// Its kind.
    pub fn kind(&self) -> ItemKind {
        match self {
            Item::Group(_) => ItemKind::Group,
            Item::Tags(_) => ItemKind::Tags,
            Item::GroupInstance(_) => ItemKind::GroupInstance,
            Item::ServiceInstance(_) => ItemKind::ServiceInstance,
            Item::RouteRule(_) => ItemKind::RouteRule,
            Item::RouteRuleGroup(_) => ItemKind::RouteRuleGroup,
        }
    }

    /// What it belongs to and goes with: kinds and ids, 0 where it does not say.
    pub(super) fn owners(&self) -> Vec<(ItemKind, u64)> {
        let group = |id: Option<u64>| (ItemKind::Group, id.unwrap_or_default());
        match self {
            Item::Tags(one) => vec![group(one.group_id)],
            Item::GroupInstance(one) => vec![group(one.group_id)],
            Item::RouteRuleGroup(one) => {
                vec![
                    group(one.group_id),
                    (ItemKind::RouteRule, one.route_rule_id.unwrap_or_default()),
                ]
            }
            Item::Group(_) | Item::ServiceInstance(_) | Item::RouteRule(_) => Vec::new(),
        }
    }

    /// Its service, where it names one itself.
    pub(super) fn service(&self) -> Option<&str> {
        match self {
            Item::Group(one) => one.service_id.as_deref(),
            Item::ServiceInstance(one) => one.service_id.as_deref(),
            Item::RouteRule(one) => one.service_id.as_deref(),
            Item::Tags(_) | Item::GroupInstance(_) | Item::RouteRuleGroup(_) => None,
        }
    }

    /// The id in it. Tags have that of their group.
    pub(super) fn id(&self) -> Option<u64> {
        match self {
            Item::Group(one) => one.group_id,
            Item::Tags(_) => None,
            Item::GroupInstance(one) => one.id,
            Item::ServiceInstance(one) => one.id,
            Item::RouteRule(one) => one.route_rule_id,
            Item::RouteRuleGroup(one) => one.route_rule_group_id,
        }
    }

    pub(super) fn set_id(&mut self, id: u64) {
        match self {
            Item::Group(one) => one.group_id = Some(id),
            Item::Tags(_) => {}
            Item::GroupInstance(one) => one.id = Some(id),
            Item::ServiceInstance(one) => one.id = Some(id),
            Item::RouteRule(one) => one.route_rule_id = Some(id),
            Item::RouteRuleGroup(one) => one.route_rule_group_id = Some(id),
        }
    }

    /// What makes it the same as another one: its kind and its names, in lower case.
    pub(super) fn key(&self) -> String {
        let text = |part: &Option<Box<str>>| part.as_deref().unwrap_or_default().to_owned();
        let number = |part: Option<u64>| part.unwrap_or_default().to_string();
        match self {
            Item::Group(one) => group_key(
                &text(&one.service_id),
                &text(&one.region_id),
                &text(&one.zone_id),
                &text(&one.name),
            ),
            Item::Tags(one) => format!("t\u{1f}{}", number(one.group_id)),
            Item::GroupInstance(one) => {
                let instance = text(&one.instance_id);
                format!("m\u{1f}{}\u{1f}{instance}", number(one.group_id)).to_ascii_lowercase()
            }
            Item::ServiceInstance(one) => {
                let (service, instance) = (text(&one.service_id), text(&one.instance_id));
                format!("n\u{1f}{service}\u{1f}{instance}").to_ascii_lowercase()
            }
            Item::RouteRule(one) => {
                let (service, name) = (text(&one.service_id), text(&one.name));
                format!("r\u{1f}{service}\u{1f}{name}").to_ascii_lowercase()
            }
            Item::RouteRuleGroup(one) => {
                format!("w\u{1f}{}\u{1f}{}", number(one.route_rule_id), number(one.group_id))
            }
        }
    }

    /// A group of a rule comes with a draft and no weight.
    pub(super) fn unreleased(self) -> Item {
        match self {
            Item::RouteRuleGroup(one) => {
                Item::RouteRuleGroup(RouteRuleGroup { weight: None, ..one })
            }
            other => other,
        }
    }

    /// Takes from the item that stands what this one leaves out.
    pub(super) fn completed_by(self, before: &Item) -> Item {
        match (self, before) {
            (Item::Group(new), Item::Group(old)) => Item::Group(Group {
                group_id: old.group_id,
                service_id: new.service_id.or_else(|| old.service_id.clone()),
                region_id: new.region_id.or_else(|| old.region_id.clone()),
                zone_id: new.zone_id.or_else(|| old.zone_id.clone()),
                name: new.name.or_else(|| old.name.clone()),
                app_id: new.app_id.or_else(|| old.app_id.clone()),
                description: new.description.or_else(|| old.description.clone()),
                status: new.status.or_else(|| old.status.clone()),
                metadata: new.metadata.or_else(|| old.metadata.clone()),
            }),
            (Item::Tags(new), Item::Tags(old)) => {
                let mut tags = old.tags.clone().unwrap_or_default();
                tags.extend(new.tags.unwrap_or_default());
                Item::Tags(GroupTags { group_id: old.group_id, tags: Some(tags) })
            }
            (Item::RouteRule(new), Item::RouteRule(old)) => Item::RouteRule(RouteRule {
                route_rule_id: old.route_rule_id,
                service_id: new.service_id.or_else(|| old.service_id.clone()),
                name: new.name.or_else(|| old.name.clone()),
                description: new.description.or_else(|| old.description.clone()),
                status: new.status.or_else(|| old.status.clone()),
                strategy: new.strategy.or_else(|| old.strategy.clone()),
            }),
            (Item::RouteRuleGroup(new), Item::RouteRuleGroup(old)) => {
                Item::RouteRuleGroup(RouteRuleGroup {
                    route_rule_group_id: old.route_rule_group_id,
                    route_rule_id: new.route_rule_id.or(old.route_rule_id),
                    group_id: new.group_id.or(old.group_id),
                    // Only a release changes it.
                    weight: old.weight,
                    unreleased_weight: new.unreleased_weight.or(old.unreleased_weight),
                })
            }
            (new, _) => new,
        }
    }
}

/// The key of a group by its names.
pub(super) fn group_key(service: &str, region: &str, zone: &str, name: &str) -> String {
    format!("g\u{1f}{service}\u{1f}{region}\u{1f}{zone}\u{1f}{name}").to_ascii_lowercase()
}

/// An item that stands.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ItemRow {
    /// Its id, the same on all nodes. No other row of any kind has it.
    pub id: u64,
    /// The item.
    pub item: Item,
    /// Who changed it last.
    pub by: DecidedBy,
    /// When it came, in milliseconds since the Unix epoch, by the deciding node's clock.
    pub created_ms: u64,
    /// When it changed last.
    pub updated_ms: u64,
}

impl ItemRow {
    /// Bytes that suffice for it in an answer.
    pub fn answer_bytes(&self) -> usize {
        // The row names its id and its times as well, and has the longer words.
        serde_json::to_string(self).map_or(0, |text| text.len()) + 256
    }

    /// About how many bytes it takes.
    pub(super) fn bytes(&self) -> usize {
        let text = serde_json::to_string(self).map_or(0, |text| text.len());
        // The names stand in the index as well.
        text + self.item.key().len() + limits::MANAGEMENT_OVERHEAD_BYTES
    }
}

/// A change of items.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ItemChange {
    /// Items that come, or take the place of those with the same id or names.
    Put(Vec<Item>),
    /// Items of a kind that go, by their ids. What belongs to a group goes with it.
    Delete(ItemKind, Vec<u64>),
    /// Groups of rules whose drafts become their weights, each by its rule and its group.
    Release(Vec<(u64, u64)>),
    /// A tag of a group that goes, of this value where one is named; without a tag all of its tags.
    DeleteTag {
        /// The group.
        group: u64,
        /// The tag.
        tag: Option<Box<str>>,
        /// The value that it has to have.
        value: Option<Box<str>>,
    },
    /// A rule that comes with its groups and the drafts of their weights. What is there of them stays as it is, but
    /// for the drafts.
    CreateRule {
        /// The rule.
        rule: RouteRule,
        /// Its groups.
        groups: Vec<GroupWeight>,
    },
    /// The instances of a service that are an application's canaries. Their rule and their group come with them.
    SetCanaries {
        /// The service.
        service: Box<str>,
        /// The region of the group; none = all.
        region: Option<Box<str>>,
        /// The application whose calls go to them.
        app: Box<str>,
        /// The ids of the instances. What the group lists beside them goes.
        instances: Vec<Box<str>>,
    },
}
