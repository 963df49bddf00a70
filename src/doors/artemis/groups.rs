//! Groups, their tags and instances, the instances that operators describe, and operations on groups: the calls of
//! Artemis' operators' tools below `/api/management/group/`.
//!
//! ```text
//! insert-*, update-*, delete-*, release-*, create-route-rule, update-canary-ips --> ChangeItems --> the log
//! operate-group-operation(s) --> OperateTargets --> the log
//! get-*                      --> reads of this node
//! ```
//!
//! # Promises
//!
//! * Items are read and written with Artemis' own field names. Each one read has its operator, reason and times beside.
//! * An insert of what stands is an update of it, and an update leaves alone what it does not name.
//!
//! Imports `auth`, `http`, `id`, `limits`, `state` and `wire`. Imported by its module.

use hyper::body::Incoming;
use hyper::{Method, Request};
use serde::de::DeserializeOwned;
use serde_json::{Map, Value, json};

use super::management::{self, decided_by, listed};
use crate::auth::Scopes;
use crate::http::reply::{self, Problem, Reply};
use crate::http::{Query, RequestContext, body, log};
use crate::id::UserId;
use crate::limits;
use crate::state::audit::Door;
use crate::state::management::item::{
    Group, GroupWeight, Item, ItemChange, ItemKind, ItemRow, RouteRule, RouteRuleGroup,
};
use crate::state::management::operation::{
    DecidedBy, OperationFilter, OperationRow, Target, TargetKind,
};
use crate::state::registry::commands::{ChangeItems, OperateTargets, ReadItems, ReadOperations};
use crate::wire::instance::{check_name, check_optional_name, check_service_id};
use crate::wire::refusal::Code;

/// A call about groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Insert or update items.
    Put(ItemKind),
    /// Delete items.
    Delete(ItemKind),
    /// Read items by some of their fields.
    Get(ItemKind),
    /// Read all items, or those of a region.
    GetAll(ItemKind),
    /// Make drafts of weights the weights.
    Release,
    /// Create a rule with its groups.
    CreateRule,
    /// Name the instances that are canaries.
    Canaries,
    /// Begin or complete operations on groups, by their ids.
    OperateGroups,
    /// Begin or complete one operation on a group, by its id or its names.
    OperateGroup,
    /// The operations on a group.
    Operations,
    /// The operations on all groups.
    AllOperations,
}

impl Call {
    /// The call at a path without `.json`.
    pub(super) fn at(path: &str) -> Option<Call> {
        use ItemKind::{Group, GroupInstance, RouteRule, RouteRuleGroup, ServiceInstance, Tags};
        if path == "/api/management/canary/update-canary-ips" {
            return Some(Call::Canaries);
        }
        Some(match path.strip_prefix("/api/management/group/")? {
            "insert-groups" | "update-groups" => Call::Put(Group),
            "delete-groups" => Call::Delete(Group),
            "get-groups" => Call::Get(Group),
            "get-all-groups" => Call::GetAll(Group),
            "insert-group-tags" | "update-group-tags" => Call::Put(Tags),
            "delete-group-tags" => Call::Delete(Tags),
            "get-group-tags" => Call::Get(Tags),
            "get-all-group-tags" => Call::GetAll(Tags),
            "insert-group-instances" => Call::Put(GroupInstance),
            "delete-group-instances" => Call::Delete(GroupInstance),
            "get-group-instances" => Call::Get(GroupInstance),
            "insert-service-instances" => Call::Put(ServiceInstance),
            "delete-service-instances" => Call::Delete(ServiceInstance),
            "get-service-instances" => Call::Get(ServiceInstance),
            "insert-route-rules" | "update-route-rules" => Call::Put(RouteRule),
            "delete-route-rules" => Call::Delete(RouteRule),
            "get-route-rules" => Call::Get(RouteRule),
            "get-all-route-rules" => Call::GetAll(RouteRule),
            "insert-route-rule-groups" | "update-route-rule-groups" => Call::Put(RouteRuleGroup),
            "delete-route-rule-groups" => Call::Delete(RouteRuleGroup),
            "get-route-rule-groups" => Call::Get(RouteRuleGroup),
            "get-all-route-rule-groups" => Call::GetAll(RouteRuleGroup),
            "release-route-rule-groups" => Call::Release,
            "create-route-rule" => Call::CreateRule,
            "operate-group-operations" => Call::OperateGroups,
            "operate-group-operation" => Call::OperateGroup,
            "get-group-operations" => Call::Operations,
            "get-all-group-operations" => Call::AllOperations,
            _ => return None,
        })
    }

    pub(super) const fn methods(self) -> &'static str {
        match self {
            Call::GetAll(_) | Call::AllOperations => "GET, POST",
            _ => "POST",
        }
    }

    pub(super) const fn needs(self) -> Scopes {
        match self {
            Call::Put(_)
            | Call::Delete(_)
            | Call::Release
            | Call::CreateRule
            | Call::Canaries
            | Call::OperateGroups
            | Call::OperateGroup => Scopes::REGISTRY_WRITE,
            _ => Scopes::REGISTRY_READ,
        }
    }
}

/// The fields of a body, or of an answer.
pub(super) type Fields = Map<String, Value>;

/// Answers a call. Its credentials are checked.
pub(super) async fn answer(
    context: &RequestContext,
    request: Request<Incoming>,
    call: Call,
) -> Result<Reply, Problem> {
    let fields = match read(context, request).await? {
        Ok(fields) => fields,
        Err(refusal) => return Ok(refusal),
    };
    let answered = match call {
        Call::Put(kind) => put(context, kind, fields).await,
        Call::Delete(kind) => delete(context, kind, fields).await,
        Call::Get(kind) => return get(context, kind, filter_of(&fields), false).await,
        Call::GetAll(kind) => {
            let region = fields.into_iter().filter(|(name, _)| name == "regionId");
            return get(context, kind, filter_of(&region.collect()), true).await;
        }
        Call::Release => release(context, fields).await,
        Call::CreateRule => create_rule(context, fields).await,
        Call::Canaries => set_canaries(context, fields).await,
        Call::OperateGroups => operate_groups(context, fields).await,
        Call::OperateGroup => operate_group(context, fields).await,
        Call::Operations | Call::AllOperations => {
            return operations(context, call, &fields).await;
        }
    };
    answered.or_else(|refused| match refused {
        Refused::Bad(fault) => Ok(reply::bad_request(&fault)),
        Refused::NotFound => Ok(reply::json_value(&reply::failure(NOT_FOUND, "no such group"))),
        Refused::Problem(problem) => Err(*problem),
    })
}

const NOT_FOUND: &str = "data-not-found";

/// Why a call is not carried out.
enum Refused {
    /// What is wrong with its body.
    Bad(String),
    /// There is no such group.
    NotFound,
    /// It fails as a whole.
    Problem(Box<Problem>),
}

impl From<String> for Refused {
    fn from(fault: String) -> Refused {
        Refused::Bad(fault)
    }
}

impl<P: Into<Problem>> From<Box<P>> for Refused {
    fn from(problem: Box<P>) -> Refused {
        Refused::Problem(Box::new((*problem).into()))
    }
}

/// The fields of a call; those of a GET are its query's.
pub(super) async fn read(
    context: &RequestContext,
    request: Request<Incoming>,
) -> Result<Result<Fields, Reply>, Problem> {
    if request.method() == Method::GET {
        let region = Query::of(request.uri()).get("regionId");
        return Ok(Ok(region
            .map(|region| (String::from("regionId"), region.into()))
            .into_iter()
            .collect()));
    }
    if !context.has_body_left.get() {
        return Ok(Ok(Fields::new()));
    }
    let text = body::read(context, request, context.app.limits.http_body_bytes_max).await?;
    body::artemis_object(&text)
}

/// The field of a body, and of an answer, that lists items of a kind; the one of their ids; the one of all.
const fn names_of(kind: ItemKind) -> (&'static str, &'static str, &'static str) {
    match kind {
        ItemKind::Group => ("groups", "groupIds", "groups"),
        ItemKind::Tags => ("groupTagsList", "groupId", "allGroupTags"),
        ItemKind::GroupInstance => ("groupInstances", "groupInstanceIds", "groupInstances"),
        ItemKind::RouteRule => ("routeRules", "routeRuleIds", "routeRules"),
        ItemKind::RouteRuleGroup => ("routeRuleGroups", "routeRuleGroupIds", "routeRuleGroups"),
        ItemKind::ServiceInstance => ("serviceInstances", "serviceInstanceIds", "serviceInstances"),
    }
}

/// Takes a field out of a body.
fn take<T: DeserializeOwned>(fields: &mut Fields, name: &str) -> Result<Option<T>, String> {
    let value = fields.remove(name).filter(|value| !value.is_null());
    let read = value.map(serde_json::from_value).transpose();
    read.map_err(|fault| format!("{name}: {fault}"))
}

fn take_all<T: DeserializeOwned>(fields: &mut Fields, name: &str) -> Result<Vec<T>, String> {
    let list: Vec<T> = take(fields, name)?.ok_or_else(|| format!("{name} is missing"))?;
    if list.len() > limits::COMMAND_ENTRIES_MAX {
        return Err(format!("{name} has more than {} entries", limits::COMMAND_ENTRIES_MAX));
    }
    Ok(list)
}

/// Who decided, from the words beside the items.
fn decided(context: &RequestContext, fields: &mut Fields) -> Result<DecidedBy, String> {
    let mut text = |name| take::<Box<str>>(fields, name).map(Option::unwrap_or_default);
    decided_by(context, text("operatorId")?, text("reason")?, text("extensions")?)
}

fn items(kind: ItemKind, fields: &mut Fields) -> Result<Vec<Item>, String> {
    let (list, ..) = names_of(kind);
    for one in fields.get(list).and_then(Value::as_array).into_iter().flatten() {
        check_texts(list, one)?;
    }
    let items: Vec<Item> = match kind {
        ItemKind::Group => take_all(fields, list)?.into_iter().map(Item::Group).collect(),
        ItemKind::Tags => take_all(fields, list)?.into_iter().map(Item::Tags).collect(),
        ItemKind::GroupInstance => {
            take_all(fields, list)?.into_iter().map(Item::GroupInstance).collect()
        }
        ItemKind::ServiceInstance => {
            take_all(fields, list)?.into_iter().map(Item::ServiceInstance).collect()
        }
        ItemKind::RouteRule => take_all(fields, list)?.into_iter().map(Item::RouteRule).collect(),
        ItemKind::RouteRuleGroup => {
            take_all(fields, list)?.into_iter().map(Item::RouteRuleGroup).collect()
        }
    };
    items.iter().try_for_each(check_item)?;
    Ok(items)
}

/// Checks every text of an item.
fn check_texts(field: &str, value: &Value) -> Result<(), String> {
    let check = |text: &str| {
        if text.len() > limits::MANAGEMENT_TEXT_BYTES_MAX {
            return Err(format!(
                "{field}: a text is over {} bytes",
                limits::MANAGEMENT_TEXT_BYTES_MAX
            ));
        }
        if text.chars().any(char::is_control) {
            return Err(format!("{field}: a text holds a control character"));
        }
        Ok(())
    };
    match value {
        Value::String(text) => check(text),
        Value::Array(list) if list.len() > limits::MANAGEMENT_FIELDS_MAX => {
            Err(format!("{field}: there are over {} entries", limits::MANAGEMENT_FIELDS_MAX))
        }
        Value::Array(list) => list.iter().try_for_each(|one| check_texts(field, one)),
        Value::Object(fields) if fields.len() > limits::MANAGEMENT_FIELDS_MAX => {
            Err(format!("{field}: there are over {} fields", limits::MANAGEMENT_FIELDS_MAX))
        }
        Value::Object(fields) => fields.iter().try_for_each(|(name, one)| {
            check(name)?;
            check_texts(field, one)
        }),
        _ => Ok(()),
    }
}

/// Checks that an item has the names that make it one.
fn check_item(item: &Item) -> Result<(), String> {
    let named = |field: &str, name: &Option<Box<str>>| {
        let name = name.as_deref().ok_or_else(|| format!("{field} is missing"))?;
        check_name(field, name)
    };
    let service = |name: &Option<Box<str>>| {
        named("serviceId", name)?;
        check_service_id(name.as_deref().unwrap_or_default())
    };
    let group = |id: Option<u64>| id.map(|_| ()).ok_or_else(|| String::from("groupId is missing"));
    match item {
        Item::Group(Group { group_id: Some(_), .. })
        | Item::RouteRule(RouteRule { route_rule_id: Some(_), .. })
        | Item::RouteRuleGroup(RouteRuleGroup { route_rule_group_id: Some(_), .. }) => Ok(()),
        Item::RouteRule(one) => service(&one.service_id).and_then(|()| named("name", &one.name)),
        Item::RouteRuleGroup(one) => {
            let rule = one.route_rule_id.map(|_| ());
            rule.ok_or_else(|| String::from("routeRuleId is missing"))?;
            group(one.group_id)
        }
        Item::Group(one) => service(&one.service_id).and_then(|()| named("name", &one.name)),
        Item::Tags(one) => group(one.group_id),
        Item::GroupInstance(one) => {
            group(one.group_id).and_then(|()| named("instanceId", &one.instance_id))
        }
        Item::ServiceInstance(one) => {
            service(&one.service_id).and_then(|()| named("instanceId", &one.instance_id))
        }
    }
}

async fn put(
    context: &RequestContext,
    kind: ItemKind,
    mut fields: Fields,
) -> Result<Reply, Refused> {
    let items = items(kind, &mut fields)?;
    let total = items.len();
    let (list, ..) = names_of(kind);
    change(context, ItemChange::Put(items), &mut fields, total, &format!("put {total} {list}"))
        .await
}

async fn delete(
    context: &RequestContext,
    kind: ItemKind,
    mut fields: Fields,
) -> Result<Reply, Refused> {
    let (list, ids, _) = names_of(kind);
    if kind == ItemKind::Tags {
        let group: u64 = take(&mut fields, ids)?.ok_or_else(|| format!("{ids} is missing"))?;
        let (tag, value) = (take(&mut fields, "tag")?, take(&mut fields, "value")?);
        let on = format!("delete tags of group {group}");
        let tags = ItemChange::DeleteTag { group, tag, value };
        return change(context, tags, &mut fields, 1, &on).await;
    }
    let ids: Vec<u64> = take_all(&mut fields, ids)?;
    let (total, on) = (ids.len(), format!("delete {} {list}", ids.len()));
    change(context, ItemChange::Delete(kind, ids), &mut fields, total, &on).await
}

/// Makes drafts of weights the weights, by rule and group.
async fn release(context: &RequestContext, mut fields: Fields) -> Result<Reply, Refused> {
    let list: Vec<RouteRuleGroup> = take_all(&mut fields, "routeRuleGroups")?;
    let pair = |one: &RouteRuleGroup| Some((one.route_rule_id?, one.group_id?));
    let pairs: Option<Vec<(u64, u64)>> = list.iter().map(pair).collect();
    let pairs = pairs.ok_or_else(|| String::from("routeRuleId or groupId is missing"))?;
    let (total, on) = (pairs.len(), format!("release {} routeRuleGroups", pairs.len()));
    change(context, ItemChange::Release(pairs), &mut fields, total, &on).await
}

/// Creates a rule with its groups and the drafts of their weights.
async fn create_rule(context: &RequestContext, mut fields: Fields) -> Result<Reply, Refused> {
    let sent = fields.get("routeRule").into_iter().chain(fields.get("groups"));
    sent.into_iter().try_for_each(|sent| check_texts("routeRule", sent))?;
    let rule: RouteRule =
        take(&mut fields, "routeRule")?.ok_or_else(|| String::from("routeRule is missing"))?;
    let rule = RouteRule { route_rule_id: None, ..rule };
    check_item(&Item::RouteRule(rule.clone()))?;
    let mut groups: Vec<GroupWeight> = take_all(&mut fields, "groups")?;
    if groups.is_empty() {
        return Err(String::from("groups is empty").into());
    }
    for GroupWeight { group, .. } in &mut groups {
        group.group_id = None;
        let service = group.service_id.get_or_insert_with(|| rule_service(&rule).into());
        if !service.eq_ignore_ascii_case(rule_service(&rule)) {
            return Err(String::from("a group of the rule is of another service").into());
        }
        check_item(&Item::Group(group.clone()))?;
    }
    let on = format!("create the routeRule of {} groups", groups.len());
    change(context, ItemChange::CreateRule { rule, groups }, &mut fields, 1, &on).await
}

fn rule_service(rule: &RouteRule) -> &str {
    rule.service_id.as_deref().unwrap_or_default()
}

/// Names the instances that are an application's canaries.
async fn set_canaries(context: &RequestContext, mut fields: Fields) -> Result<Reply, Refused> {
    let mut named = |name: &str| {
        let text: Option<Box<str>> = take(&mut fields, name)?;
        let text = text.ok_or_else(|| format!("{name} is missing"))?;
        check_name(name, &text).map(|()| text)
    };
    let (service, app) = (named("serviceId")?, named("appId")?);
    check_service_id(&service)?;
    let region: Option<Box<str>> = take(&mut fields, "regionId")?;
    check_optional_name("regionId", region.as_deref().unwrap_or_default())?;
    let mut instances: Vec<Box<str>> = take_all(&mut fields, "canaryIps")?;
    instances.iter().try_for_each(|one| check_name("canaryIps", one))?;
    instances.sort_unstable_by_key(|one| one.to_ascii_lowercase());
    instances.dedup_by(|a, b| a.eq_ignore_ascii_case(b));
    let on = format!("set {} canaries", instances.len());
    let canaries = ItemChange::SetCanaries { service, region, app, instances };
    change(context, canaries, &mut fields, 1, &on).await
}

async fn change(
    context: &RequestContext,
    change: ItemChange,
    fields: &mut Fields,
    total: usize,
    on: &str,
) -> Result<Reply, Refused> {
    let by = decided(context, fields)?;
    let operation: Box<str> = take(fields, "operation")?.unwrap_or_default();
    check_optional_name("operation", &operation)?;
    let operator_id = by.operator_id.clone();
    let sent = ChangeItems { change: Box::new(change), operation, by };
    let refused = context.ask_as(Door::Artemis, sent).await.map_err(Box::new)?;
    let Some(first) = refused.first() else {
        log::operator(context, "change groups", on, Some(&operator_id));
        return Ok(management::success());
    };
    if refused.len() < total {
        log::operator(context, "change groups", on, Some(&operator_id));
    }
    let (code, what) = match first.code {
        Code::NotFound => (NOT_FOUND, "there is no such group, or no item with that id"),
        Code::Conflict => ("bad-request", "another item has these names"),
        _ => ("rate-limited", "there are too many items"),
    };
    let status = if refused.len() == total { "fail" } else { "partial_fail" };
    let message = format!("{} of {total} entries failed, the first one: {what}", refused.len());
    let status = reply::response_status(status, code, &message);
    Ok(reply::json_value(&json!({"responseStatus": status})))
}

/// The fields of a body by which items are found.
fn filter_of(fields: &Fields) -> Fields {
    filter_by(fields, &NAMES)
}

const NAMES: [&str; 12] = [
    "routeRuleId",
    "routeRuleGroupId",
    "id",
    "groupId",
    "serviceId",
    "regionId",
    "zoneId",
    "name",
    "appId",
    "status",
    "instanceId",
    "tag",
];

/// The fields of these names that a body has.
pub(super) fn filter_by(fields: &Fields, names: &[&str]) -> Fields {
    let is_given = |value: &Value| !value.is_null() && value.as_str() != Some("");
    let given = fields.iter().filter(|(name, value)| names.contains(&&***name) && is_given(value));
    given.map(|(name, value)| (name.clone(), value.clone())).collect()
}

/// Whether an item has all fields of a filter. Texts compare without case.
pub(super) fn takes(filter: &Fields, item: &Value) -> bool {
    filter.iter().all(|(name, wanted)| match (wanted, &item[name]) {
        (Value::String(wanted), Value::String(has)) => wanted.eq_ignore_ascii_case(has),
        (wanted, has) => wanted == has,
    })
}

/// An item with Artemis' fields, and who changed it beside.
fn item_value(row: &ItemRow) -> Value {
    let mut value = Value::Object(row.item.fields());
    value["operatorId"] = json!(row.by.operator_id);
    value["userId"] = json!(row.by.user.as_ref().map(UserId::as_str));
    value["reason"] = json!(row.by.reason);
    value["extensions"] = json!(row.by.extensions);
    value["createTime"] = json!(row.created_ms);
    value["updateTime"] = json!(row.updated_ms);
    value
}

async fn get(
    context: &RequestContext,
    kind: ItemKind,
    filter: Fields,
    is_all: bool,
) -> Result<Reply, Problem> {
    let rows = context.ask(ReadItems(kind)).await?;
    let (list, _, all) = names_of(kind);
    let bytes = rows.iter().map(ItemRow::answer_bytes).sum::<usize>() + 512;
    listed(context, bytes, move || {
        let found = rows.iter().map(item_value).filter(|item| takes(&filter, item));
        let found: Vec<Value> = found.collect();
        let (field, found) = match (kind, is_all) {
            (ItemKind::Tags, false) => {
                let none = || json!({"groupId": filter.get("groupId"), "tags": {}});
                ("groupTags", found.into_iter().next().unwrap_or_else(none))
            }
            (_, true) => (all, found.into()),
            (_, false) => (list, found.into()),
        };
        json!({field: found, "responseStatus": reply::success()})
    })
    .await
}

/// The target of operations on a group.
fn target_of(row: &ItemRow) -> Option<Target> {
    let Item::Group(group) = &row.item else { return None };
    Some(Target::Group {
        region: group.region_id.clone().unwrap_or_default(),
        service: group.service_id.clone().unwrap_or_default(),
        group: row.id.to_string().into(),
    })
}

async fn groups(context: &RequestContext) -> Result<Vec<ItemRow>, Refused> {
    Ok(context.ask(ReadItems(ItemKind::Group)).await.map_err(Box::new)?)
}

async fn operate_groups(context: &RequestContext, mut fields: Fields) -> Result<Reply, Refused> {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct GroupOperations {
        group_id: u64,
        operations: Vec<Box<str>>,
    }
    let by = decided(context, &mut fields)?;
    let is_complete = take(&mut fields, "operationComplete")?.unwrap_or(false);
    let list: Vec<GroupOperations> = take_all(&mut fields, "groupOperationsList")?;
    let known = groups(context).await?;
    let mut operations = Vec::new();
    for GroupOperations { group_id, operations: words } in list {
        let target = known.iter().find(|row| row.id == group_id).and_then(target_of);
        let target = target.ok_or(Refused::NotFound)?;
        for operation in words {
            check_name("operations", &operation)?;
            operations.push((target.clone(), operation));
        }
        if operations.len() > limits::COMMAND_ENTRIES_MAX {
            return Err(String::from("groupOperationsList has too many operations").into());
        }
    }
    let operate = OperateTargets { operations, is_complete, by };
    Ok(management::operate(context, operate).await.map_err(Box::new)?)
}

/// Operates a group by its id or its names. A group that is not there yet comes with its first operation.
async fn operate_group(context: &RequestContext, mut fields: Fields) -> Result<Reply, Refused> {
    let by = decided(context, &mut fields)?;
    let is_complete = take(&mut fields, "operationComplete")?.unwrap_or(false);
    let operation: Option<Box<str>> = take(&mut fields, "operation")?;
    let operation = operation.ok_or_else(|| String::from("operation is missing"))?;
    check_name("operation", &operation)?;
    let sent = Value::Object(fields.clone());
    check_texts("group", &sent)?;
    let group: Group = serde_json::from_value(sent).map_err(|fault| fault.to_string())?;
    let item = Item::Group(group.clone());
    check_item(&item)?;
    let names = ["groupId", "serviceId", "regionId", "zoneId", "name"];
    let by_id = group.group_id.is_some();
    let is_name = |name: &str| if by_id { name == "groupId" } else { names.contains(&name) };
    let wanted: Fields = fields.into_iter().filter(|(name, _)| is_name(name)).collect();
    let wanted = filter_of(&wanted);
    let find = |rows: &[ItemRow]| {
        rows.iter().find(|row| takes(&wanted, &item_value(row))).and_then(target_of)
    };
    let mut target = find(&groups(context).await?);
    if target.is_none() && !by_id && !is_complete {
        let change = Box::new(ItemChange::Put(vec![item]));
        context
            .ask_as(Door::Artemis, ChangeItems { change, operation: "".into(), by: by.clone() })
            .await
            .map_err(Box::new)?;
        target = find(&groups(context).await?);
    }
    let target = target.ok_or(Refused::NotFound)?;
    let operate = OperateTargets { operations: vec![(target, operation)], is_complete, by };
    Ok(management::operate(context, operate).await.map_err(Box::new)?)
}

async fn operations(
    context: &RequestContext,
    call: Call,
    fields: &Fields,
) -> Result<Reply, Problem> {
    let region = fields.get("regionId").and_then(Value::as_str).filter(|one| !one.is_empty());
    let mut filter = OperationFilter::all(TargetKind::Group);
    filter.region = region.map(Into::into);
    let id = fields.get("groupId").and_then(Value::as_u64);
    if call == Call::Operations {
        let Some(id) = id else { return Ok(reply::bad_request("groupId is missing")) };
        filter.name = Some(id.to_string().into());
    }
    let rows = context.ask(ReadOperations(filter)).await?;
    let bytes = rows.iter().map(management::row_bytes).sum::<usize>() + 512;
    listed(context, bytes, move || {
        let mut groups: Vec<(u64, Vec<&OperationRow>)> = Vec::new();
        for row in &rows {
            let id: u64 = row.target.name().parse().unwrap_or_default();
            match groups.iter_mut().find(|(group, _)| *group == id) {
                Some((_, rows)) => rows.push(row),
                None => groups.push((id, vec![row])),
            }
        }
        let one = |(id, rows): &(u64, Vec<&OperationRow>)| {
            let words: Vec<&str> = rows.iter().map(|row| &*row.operation).collect();
            let rows: Vec<Value> = rows.iter().map(|row| management::row_value(row)).collect();
            json!({"groupId": id, "operations": words, "rows": rows})
        };
        let mut all: Vec<Value> = groups.iter().map(one).collect();
        if call == Call::AllOperations {
            return json!({"allGroupOperations": all, "responseStatus": reply::success()});
        }
        let none = json!({"groupId": id, "operations": [], "rows": []});
        let found = all.pop().unwrap_or(none);
        json!({"groupOperations": found, "responseStatus": reply::success()})
    })
    .await
}
