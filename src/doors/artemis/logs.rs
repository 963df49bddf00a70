//! What operators did, as Artemis' tools read it: views of the audit log.
//!
//! ```text
//! log/instance-operation-logs, ... --> events of the kinds that a view has --> rows, the oldest first
//! ```
//!
//! # Promises
//!
//! * A row has the words of its call: keys, `operation`, `operatorId`, `reason`, `extensions`, and the time.
//! * An answer has the newest rows that the filter lets through, and says where older ones begin.
//!
//! Imports `auth`, `http`, `limits`, `state` and `store`. Imported by its module.

use hyper::Request;
use hyper::body::Incoming;
use serde_json::{Value, json};

use super::groups::{self, Fields};
use crate::auth::Scopes;
use crate::http::RequestContext;
use crate::http::reply::{self, Problem, Reply};
use crate::limits;
use crate::state::audit::{Door, kind};
use crate::state::management::item::ItemKind;
use crate::state::management::operation::TargetKind;
use crate::store::audit::{AuditQuery, FoundEvent, StoredEvent};

/// A view of the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    /// Operations on targets of a kind.
    Operations(TargetKind),
    /// Changes of items of a kind.
    Items(ItemKind),
}

impl Call {
    /// The call at a path without `.json`.
    pub(super) fn at(path: &str) -> Option<Call> {
        Some(match path.strip_prefix("/api/management/log/")? {
            "instance-operation-logs" => Call::Operations(TargetKind::Instance),
            "server-operation-logs" => Call::Operations(TargetKind::Server),
            "zone-operation-logs" => Call::Operations(TargetKind::Zone),
            "group-operation-logs" => Call::Operations(TargetKind::Group),
            "group-logs" => Call::Items(ItemKind::Group),
            "group-instance-logs" => Call::Items(ItemKind::GroupInstance),
            "service-instance-logs" => Call::Items(ItemKind::ServiceInstance),
            "route-rule-logs" => Call::Items(ItemKind::RouteRule),
            "route-rule-group-logs" => Call::Items(ItemKind::RouteRuleGroup),
            _ => return None,
        })
    }

    pub(super) const fn needs() -> Scopes {
        Scopes::AUDIT_READ
    }

    /// The fields of a body by which rows are found.
    const fn names(self) -> &'static [&'static str] {
        match self {
            Call::Operations(TargetKind::Instance) => {
                &["regionId", "serviceId", "instanceId", "operation", "operatorId", "complete"]
            }
            Call::Operations(TargetKind::Server) => {
                &["regionId", "serverId", "operation", "operatorId", "complete"]
            }
            Call::Operations(TargetKind::Zone) => {
                &["regionId", "serviceId", "zoneId", "operation", "operatorId", "complete"]
            }
            Call::Operations(TargetKind::Group) => {
                &["groupId", "operation", "operatorId", "complete"]
            }
            Call::Items(ItemKind::Group | ItemKind::Tags) => &[
                "groupId",
                "serviceId",
                "regionId",
                "zoneId",
                "name",
                "appId",
                "operation",
                "operatorId",
            ],
            Call::Items(ItemKind::GroupInstance) => {
                &["groupId", "instanceId", "operation", "operatorId"]
            }
            Call::Items(ItemKind::ServiceInstance) => {
                &["serviceId", "instanceId", "operation", "operatorId"]
            }
            Call::Items(ItemKind::RouteRule) => {
                &["routeRuleId", "serviceId", "name", "operation", "operatorId"]
            }
            Call::Items(ItemKind::RouteRuleGroup) => {
                &["routeRuleId", "groupId", "operation", "operatorId"]
            }
        }
    }

    /// The kinds of events that can be its rows.
    fn kinds(self) -> Vec<String> {
        let kinds: &[&str] = match self {
            Call::Operations(TargetKind::Instance) => &[
                kind::OPERATION_BEGUN,
                kind::OPERATION_COMPLETED,
                kind::PULLED_OUT,
                kind::PULLED_IN,
            ],
            Call::Operations(_) => &[kind::OPERATION_BEGUN, kind::OPERATION_COMPLETED],
            Call::Items(_) => &[kind::GROUPS_CHANGED],
        };
        kinds.iter().map(|kind| (*kind).to_owned()).collect()
    }

    /// An event as its row; none where it is another view's.
    fn row(self, found: &FoundEvent) -> Option<Value> {
        let event = &found.event;
        let detail = event.detail.as_ref().map(|detail| serde_json::from_str(detail.get()));
        let detail: Value = detail.and_then(Result::ok).unwrap_or_default();
        let mut row = match self {
            Call::Operations(_) if event.kind.starts_with("instance.") => pull_out(event, &detail)?,
            Call::Operations(kind) if detail["of"] == kind.as_str() => {
                let mut row = detail["key"].clone();
                row["operation"] = detail["operation"].clone();
                row["complete"] = json!(event.kind == kind::OPERATION_COMPLETED);
                row
            }
            Call::Items(kind) if detail["of"] == kind.as_str() => item(kind, &detail),
            _ => return None,
        };
        row["id"] = json!(found.id);
        row["operatorId"] = json!(detail["operator_id"].as_str().unwrap_or_default());
        row["userId"] = json!(event.user_id);
        // A caller's token is kept nowhere.
        row["token"] = Value::Null;
        row["extensions"] = json!(detail["extensions"].as_str().unwrap_or_default());
        row["reason"] = json!(event.reason.as_deref().unwrap_or_default());
        (row["createTime"], row["updateTime"]) = (json!(event.at_ms), json!(event.at_ms));
        Some(row)
    }
}

/// A pull-out, or its end, that somebody sent; none where it followed from something else.
fn pull_out(event: &StoredEvent, detail: &Value) -> Option<Value> {
    let is_sent = event.reason.is_none() && event.door != Door::Server.as_str();
    if !is_sent && detail["operator_id"].is_null() {
        return None;
    }
    Some(json!({
        "regionId": event.region_id.as_deref().unwrap_or_default(),
        "serviceId": event.service_id,
        "instanceId": event.instance_id,
        "operation": "pull-out",
        "complete": event.kind == kind::PULLED_IN,
    }))
}

/// A changed item. Where the caller gave no word for the change, it is the server's.
fn item(kind: ItemKind, detail: &Value) -> Value {
    let mut row = detail["item"].clone();
    let word = detail["operation"].as_str().or(detail["action"].as_str());
    row["operation"] = json!(word);
    if kind == ItemKind::ServiceInstance && row["metadata"].is_object() {
        // Artemis' row has it as a text.
        row["metadata"] = json!(row["metadata"].to_string());
    }
    row
}

/// Answers a call. Its credentials are checked.
pub(super) async fn answer(
    context: &RequestContext,
    request: Request<Incoming>,
    call: Call,
) -> Result<Reply, Problem> {
    let fields = match groups::read(context, request).await? {
        Ok(fields) => fields,
        Err(refusal) => return Ok(refusal),
    };
    let filter = groups::filter_by(&fields, call.names());
    let lower = |name: &str| {
        let text = filter.get(name).and_then(Value::as_str);
        text.map(str::to_ascii_lowercase)
    };
    let is_of_instance = call == Call::Operations(TargetKind::Instance);
    let age_ms_max = context.app.audit_age_max_ms;
    let asked = AuditQuery {
        service: lower("serviceId"),
        instance: lower("instanceId").filter(|_| is_of_instance),
        kinds: call.kinds(),
        from_ms: context.clock.now().wall_ms.saturating_sub(age_ms_max),
        before: Some(fields.get("before").and_then(Value::as_u64).unwrap_or(u64::MAX)),
        limit: limits::PAGE_MAX,
        ..AuditQuery::default()
    };
    let (rows, next) = rows(context, call, asked, &filter).await?;
    let text = json!({"logs": rows, "next": next, "responseStatus": reply::success()}).to_string();
    let permit = context.answers.reserve(text.len())?;
    Ok(reply::reserved("application/json", text.into(), permit))
}

/// The newest rows that a filter lets through, in their order, and the id before which there may be more.
async fn rows(
    context: &RequestContext,
    call: Call,
    mut asked: AuditQuery,
    filter: &Fields,
) -> Result<(Vec<Value>, Option<u64>), Problem> {
    let mut rows = Vec::new();
    for _ in 0..limits::AUDIT_LOG_PAGES_MAX {
        let page = context.app.read_pool.audit(asked.clone()).await?;
        let found = page.events.iter().filter_map(|found| call.row(found));
        rows.extend(found.filter(|row| groups::takes(filter, row)));
        asked.before = page.next;
        if page.next.is_none() || rows.len() >= limits::PAGE_MAX {
            break;
        }
    }
    rows.reverse();
    Ok((rows, asked.before))
}
