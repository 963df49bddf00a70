//! The audit log: what happened, why, and who did it.
//!
//! Imports its siblings, `clock`, `limits` and `store`. Imported by `http::router`.

use serde_json::{Value, json};

use super::reply::{self, Problem, Reply};
use super::{Query, RequestContext};
use crate::clock::{rfc3339, unix_ms_of};
use crate::limits;
use crate::store::audit::{AuditQuery, FoundEvent};

/// `GET /api/v1/events`
pub async fn list(context: &RequestContext, query: &Query) -> Result<Reply, Problem> {
    let text = |name: &str| query.get(name).filter(|text| !text.is_empty());
    let lower = |name: &str| text(name).map(|text| text.to_ascii_lowercase());
    let after = match text("after") {
        None => 0,
        Some(after) => {
            after.parse().map_err(|_| Problem::invalid("after is not the id of an event"))?
        }
    };
    // What is too old is gone, whether the database has it still or not.
    let age_ms_max = context.app.audit_age_max_ms;
    let oldest_ms = context.clock.now().wall_ms.saturating_sub(age_ms_max);
    let asked = AuditQuery {
        service: lower("service"),
        instance: lower("instance"),
        kinds: text("kind").into_iter().collect(),
        actor: text("actor"),
        from_ms: time(query, "from")?.unwrap_or(0).max(oldest_ms),
        to_ms: time(query, "to")?,
        after,
        before: None,
        limit: query.number("limit", 1, limits::PAGE_MAX)?.unwrap_or(limits::PAGE_DEFAULT),
    };
    let page = context.app.read_pool.audit(asked).await?;
    let events: Vec<Value> = page.events.iter().map(event_value).collect();
    let text = json!({"events": events, "next": page.next, "last": page.last}).to_string();
    let permit = context.answers.reserve(text.len())?;
    Ok(reply::reserved("application/json", text.into(), permit))
}

/// A time of the query, in milliseconds since the Unix epoch.
pub(super) fn time(query: &Query, name: &str) -> Result<Option<u64>, Problem> {
    let Some(text) = query.get(name).filter(|text| !text.is_empty()) else { return Ok(None) };
    match unix_ms_of(&text) {
        Some(at_ms) => Ok(Some(at_ms)),
        None => Err(Problem::invalid(format!("{name} is no time like 2026-11-20T12:00:00Z"))),
    }
}

/// An event as the API shows it. Fields that it does not have are left out.
fn event_value(found: &FoundEvent) -> Value {
    let event = &found.event;
    let mut actor = json!({"door": event.door});
    for (name, field) in [("user_id", &event.user_id), ("address", &event.address)] {
        if let Some(text) = field {
            actor[name] = text.as_str().into();
        }
    }
    let mut value = json!({
        "id": found.id,
        "at": rfc3339(event.at_ms),
        "node": found.node,
        "kind": event.kind,
        "actor": actor,
    });
    for (name, field) in [
        ("service_id", &event.service_id),
        ("region_id", &event.region_id),
        ("instance_id", &event.instance_id),
        ("reason", &event.reason),
    ] {
        if let Some(text) = field {
            value[name] = text.as_str().into();
        }
    }
    if let Some(detail) = &event.detail {
        value["detail"] = serde_json::from_str(detail.get()).unwrap_or_default();
    }
    value
}
