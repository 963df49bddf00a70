//! How a service did: what the audit log has of its instances, added up.
//!
//! Imports its siblings, `clock`, `limits`, `state` and `store`. Imported by `http::router`.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::events::time;
use super::reply::{self, Problem, Reply};
use super::{Query, RequestContext};
use crate::clock::rfc3339;
use crate::limits;
use crate::state::audit::kind;
use crate::store::audit::{AuditQuery, FoundEvent};

/// The time that is added up unless the caller says another: a day.
const SPAN_MS: u64 = 86_400_000;

/// `GET /api/v1/services/{id}/summary`
pub async fn show(
    context: &RequestContext,
    service: String,
    query: &Query,
) -> Result<Reply, Problem> {
    let now_ms = context.clock.now().wall_ms;
    let oldest_ms = now_ms.saturating_sub(context.app.audit_age_max_ms);
    let to_ms = time(query, "to")?.unwrap_or(now_ms);
    let from_ms = time(query, "from")?.unwrap_or(to_ms.saturating_sub(SPAN_MS)).max(oldest_ms);
    let mut asked = AuditQuery {
        service: Some(service.to_ascii_lowercase()),
        kinds: vec![String::from("instance")],
        from_ms,
        to_ms: Some(to_ms),
        limit: limits::PAGE_MAX,
        ..AuditQuery::default()
    };
    let (mut summary, mut is_complete) = (Summary::default(), false);
    for _ in 0..limits::SUMMARY_PAGES_MAX {
        let page = context.app.read_pool.audit(asked.clone()).await?;
        let has_room = page.events.iter().all(|event| summary.add(event));
        let Some(next) = page.next.filter(|_| has_room) else {
            is_complete = has_room;
            break;
        };
        asked.after = next;
    }
    let mut value = summary.value();
    value["service_id"] = asked.service.into();
    value["from"] = rfc3339(from_ms).into();
    value["to"] = rfc3339(to_ms).into();
    value["complete"] = is_complete.into();
    let text = value.to_string();
    let permit = context.answers.reserve(text.len())?;
    Ok(reply::reserved("application/json", text.into(), permit))
}

/// What happened to one instance.
#[derive(Debug, Default)]
struct Instance {
    registrations: u64,
    expiries: u64,
    /// How often it was back after it had gone.
    flaps: u64,
    /// The longest time between that, in milliseconds.
    absence_ms: u64,
    /// Since when it is gone.
    gone_ms: Option<u64>,
}

/// Events of a service, added up in their order.
#[derive(Debug, Default)]
struct Summary {
    /// By region and instance id.
    instances: BTreeMap<(String, String), Instance>,
}

impl Summary {
    /// Adds an event. Returns false where there are too many instances.
    fn add(&mut self, found: &FoundEvent) -> bool {
        let event = &found.event;
        let Some(instance_id) = event.instance_id.clone() else { return true };
        let key = (event.region_id.clone().unwrap_or_default(), instance_id);
        if self.instances.len() >= limits::SUMMARY_INSTANCES_MAX
            && !self.instances.contains_key(&key)
        {
            return false;
        }
        let one = self.instances.entry(key).or_default();
        match &*event.kind {
            kind::REGISTERED => {
                one.registrations += 1;
                if let Some(gone_ms) = one.gone_ms.take() {
                    one.flaps += 1;
                    one.absence_ms = one.absence_ms.max(event.at_ms.saturating_sub(gone_ms));
                }
            }
            kind::EXPIRED => {
                one.expiries += 1;
                one.gone_ms = Some(event.at_ms);
            }
            kind::UNREGISTERED => one.gone_ms = Some(event.at_ms),
            _ => {}
        }
        true
    }

    /// The sums, and the instances that flapped or expired, the worst first.
    fn value(&self) -> Value {
        let sum = |what: fn(&Instance) -> u64| self.instances.values().map(what).sum::<u64>();
        let mut worst: Vec<_> =
            self.instances.iter().filter(|(_, one)| one.flaps > 0 || one.expiries > 0).collect();
        worst.sort_by_key(|(_, one)| std::cmp::Reverse((one.flaps, one.expiries)));
        worst.truncate(limits::PAGE_DEFAULT);
        let shown = |((region, instance_id), one): (&(String, String), &Instance)| {
            let mut value = json!({
                "instance_id": instance_id,
                "registrations": one.registrations,
                "expiries": one.expiries,
                "flaps": one.flaps,
                "longest_absence_ms": one.absence_ms,
                "gone_since": one.gone_ms.map(rfc3339),
            });
            if !region.is_empty() {
                value["region_id"] = region.as_str().into();
            }
            value
        };
        json!({
            "registrations": sum(|one| one.registrations),
            "expiries": sum(|one| one.expiries),
            "flaps": sum(|one| one.flaps),
            "longest_absence_ms": self.instances.values().map(|one| one.absence_ms).max().unwrap_or(0),
            "instances": worst.into_iter().map(shown).collect::<Vec<_>>(),
        })
    }
}
