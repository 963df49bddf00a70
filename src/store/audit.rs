//! The audit log in the database: written in batches, read by filters, bounded by age and bytes.
//!
//! Ids rise in the order of the transactions, which the row of `audit_state` puts into an order: a reader that
//! goes on after the last id that it has seen misses nothing, whichever node wrote it.
//!
//! Imports its siblings, `id`, `limits` and `state`. Part of `store`.

use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use sqlx::{AnyConnection, AnyPool, Row as _};

use super::statement::unsigned;
use crate::id::InstanceIdentity;
use crate::limits;
use crate::state::audit::{AuditEvent, Note};
use crate::state::registry::unsaved::{RegistryDelta, Row};

/// An event as the database keeps it, without its id and its node.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct StoredEvent {
    /// When, in milliseconds since the Unix epoch.
    pub at_ms: u64,
    /// What.
    pub kind: String,
    /// The service that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub service_id: Option<String>,
    /// The instance's region, where it has one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region_id: Option<String>,
    /// The instance that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub instance_id: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The user who acted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub user_id: Option<String>,
    /// Where the call came from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Which way it came in.
    pub door: String,
    /// More: a JSON object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Box<RawValue>>,
}

impl StoredEvent {
    fn of(event: &AuditEvent) -> StoredEvent {
        let AuditEvent { note, actor } = event;
        let Note { at_ms, kind, service, instance, reason, detail } = note;
        let owned = |text: &str| Some(text).filter(|text| !text.is_empty()).map(str::to_owned);
        let parts = instance.as_ref().map(InstanceIdentity::parts);
        StoredEvent {
            at_ms: *at_ms,
            kind: (*kind).to_owned(),
            service_id: service.as_ref().and_then(|service| owned(service.as_str())),
            region_id: parts.and_then(|(region, _, _)| owned(region)),
            instance_id: parts.and_then(|(_, _, instance)| owned(instance)),
            reason: reason.as_deref().and_then(owned),
            user_id: actor.user_id.as_ref().map(|user| user.as_str().to_owned()),
            address: actor.address.map(|address| address.ip.to_string()),
            door: actor.door.as_str().to_owned(),
            detail: detail.as_ref().and_then(|text| RawValue::from_string(text.to_string()).ok()),
        }
    }
}

/// Writes the events of a set, and drops those that are too old or too many.
pub(super) async fn write(
    connection: &mut AnyConnection,
    delta: &RegistryDelta,
) -> Result<(), sqlx::Error> {
    let mut events = delta.rows.iter().filter_map(|row| match row {
        Row::Audit(number, event) => Some((*number, &**event)),
        _ => None,
    });
    let Some(first) = events.next() else { return Ok(()) };
    let node = &*delta.audit.node;
    // One node at a time from here to the end of the transaction.
    sqlx::query("UPDATE audit_state SET bytes = bytes").execute(&mut *connection).await?;
    let known = "SELECT number FROM audit_writer WHERE node = $1";
    let known = sqlx::query(known).bind(node).fetch_optional(&mut *connection).await?;
    let known = known.map_or(Ok(0), |row| unsigned(&row, "number"))?;
    let fresh: Vec<(u64, &AuditEvent)> =
        std::iter::once(first).chain(events).filter(|(number, _)| *number > known).collect();
    let Some(&(last_number, last)) = fresh.last() else { return Ok(()) };
    let state = "SELECT last_id, bytes FROM audit_state";
    let state = sqlx::query(state).fetch_one(&mut *connection).await?;
    let (mut last_id, mut bytes) = (unsigned(&state, "last_id")?, unsigned(&state, "bytes")?);
    let mut batches = 0;
    for batch in fresh.chunks(limits::AUDIT_BATCH_EVENTS) {
        last_id += batch.len() as u64;
        bytes += insert(connection, node, last_id, batch).await?;
        batches += 1;
    }
    let writer = "INSERT INTO audit_writer (node, number, at_ms) VALUES ($1, $2, $3)
        ON CONFLICT (node) DO UPDATE SET number = excluded.number, at_ms = excluded.at_ms";
    sqlx::query(writer)
        .bind(node)
        .bind(last_number.cast_signed())
        .bind(last.note.at_ms.cast_signed())
        .execute(&mut *connection)
        .await?;
    bytes -= trim(connection, delta, bytes, batches).await?.min(bytes);
    sqlx::query("UPDATE audit_state SET last_id = $1, bytes = $2")
        .bind(last_id.cast_signed())
        .bind(bytes.cast_signed())
        .execute(&mut *connection)
        .await?;
    Ok(())
}

/// Writes one batch. Returns its bytes.
async fn insert(
    connection: &mut AnyConnection,
    node: &str,
    last_id: u64,
    batch: &[(u64, &AuditEvent)],
) -> Result<u64, sqlx::Error> {
    let mut text = String::with_capacity(batch.len() * 192);
    for (index, (_, event)) in batch.iter().enumerate() {
        if index > 0 {
            text.push('\n');
        }
        let line = serde_json::to_string(&StoredEvent::of(event));
        text.push_str(&line.map_err(|fault| sqlx::Error::Encode(fault.into()))?);
    }
    let times = batch.iter().map(|(_, event)| event.note.at_ms);
    let (from_ms, to_ms) = (times.clone().min().unwrap_or(0), times.max().unwrap_or(0));
    let service = batch.first().and_then(|(_, event)| event.note.service.as_ref());
    let is_same = |event: &AuditEvent| event.note.service.as_ref() == service;
    let service = service.filter(|_| batch.iter().all(|(_, event)| is_same(event)));
    let bytes = (text.len() + limits::AUDIT_BATCH_OVERHEAD_BYTES) as u64;
    let statement = "INSERT INTO audit_batch
        (last_id, node, from_ms, to_ms, service_id, bytes, events)
        VALUES ($1, $2, $3, $4, $5, $6, $7)";
    sqlx::query(statement)
        .bind(last_id.cast_signed())
        .bind(node)
        .bind(from_ms.cast_signed())
        .bind(to_ms.cast_signed())
        .bind(service.map(|service| service.as_str().to_owned()))
        .bind(bytes.cast_signed())
        .bind(text)
        .execute(connection)
        .await?;
    Ok(bytes)
}

/// Drops the oldest batches as far as they are too old, or too many with `bytes` of them all; after a lower bound
/// was set, some at a time. Returns the bytes that went.
async fn trim(
    connection: &mut AnyConnection,
    delta: &RegistryDelta,
    bytes: u64,
    written: usize,
) -> Result<u64, sqlx::Error> {
    let oldest = "SELECT last_id, to_ms, bytes FROM audit_batch ORDER BY last_id LIMIT $1";
    let count = written + limits::AUDIT_TRIM_BATCHES;
    let count = i64::try_from(count).unwrap_or(i64::MAX);
    let rows = sqlx::query(oldest).bind(count).fetch_all(&mut *connection).await?;
    let (mut gone, mut up_to) = (0, None);
    for row in rows {
        let is_old = unsigned(&row, "to_ms")? < delta.audit.from_ms;
        if !is_old && bytes - gone <= delta.audit.bytes_max {
            break;
        }
        gone += unsigned(&row, "bytes")?.min(bytes - gone);
        up_to = Some(unsigned(&row, "last_id")?);
    }
    if let Some(up_to) = up_to {
        let delete = "DELETE FROM audit_batch WHERE last_id <= $1";
        sqlx::query(delete).bind(up_to.cast_signed()).execute(&mut *connection).await?;
        let delete = "DELETE FROM audit_writer WHERE at_ms < $1";
        let from_ms = delta.audit.from_ms.cast_signed();
        sqlx::query(delete).bind(from_ms).execute(&mut *connection).await?;
    }
    Ok(gone)
}

/// Which events a reader wants.
#[derive(Debug, Clone, Default)]
pub struct AuditQuery {
    /// Of this service, in its canonical spelling.
    pub service: Option<String>,
    /// Of this instance id, in its canonical spelling.
    pub instance: Option<String>,
    /// Of one of these kinds, or of these families: the words before the dot. None = of all.
    pub kinds: Vec<String>,
    /// By this user, address or door.
    pub actor: Option<String>,
    /// From this time on, in milliseconds since the Unix epoch.
    pub from_ms: u64,
    /// Before this time.
    pub to_ms: Option<u64>,
    /// Behind this id.
    pub after: u64,
    /// Before this id, the newest first; none = the oldest first.
    pub before: Option<u64>,
    /// So many at most.
    pub limit: usize,
}

impl AuditQuery {
    /// Reads the event of a line, if it is wanted. Another program may have written a line that is none.
    fn event(&self, line: &str) -> Option<StoredEvent> {
        // Most lines are of other kinds, and need not be parsed.
        if !self.kinds.is_empty() && !self.kinds.iter().any(|kind| line.contains(&**kind)) {
            return None;
        }
        serde_json::from_str(line).ok().filter(|event| self.is_met(event))
    }

    fn is_met(&self, event: &StoredEvent) -> bool {
        let is =
            |wanted: &Option<String>, found: &Option<String>| wanted.is_none() || wanted == found;
        let is_kind = |kind: &String| {
            let rest = event.kind.strip_prefix(&**kind);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
        };
        let is_actor = |actor: &str| {
            event.user_id.as_deref() == Some(actor)
                || event.address.as_deref() == Some(actor)
                || event.door == actor
        };
        event.at_ms >= self.from_ms
            && self.to_ms.is_none_or(|to_ms| event.at_ms < to_ms)
            && is(&self.service, &event.service_id)
            && is(&self.instance, &event.instance_id)
            && (self.kinds.is_empty() || self.kinds.iter().any(is_kind))
            && self.actor.as_deref().is_none_or(is_actor)
    }
}

/// An event with its id and its node.
#[derive(Debug, Clone)]
pub struct FoundEvent {
    /// Its id.
    pub id: u64,
    /// The node that wrote it.
    pub node: String,
    /// The rest.
    pub event: StoredEvent,
}

/// A part of the audit log.
#[derive(Debug, Default)]
pub struct AuditPage {
    /// The events, in the order that the query wants.
    pub events: Vec<FoundEvent>,
    /// The id to go on behind, or before; none at the end of the log.
    pub next: Option<u64>,
    /// The id of the last event that was looked at: who wants what is new goes on behind it.
    pub last: u64,
}

/// Reads a page. It ends early, and says where to go on, after [`limits::AUDIT_SCAN_BYTES`] without enough matches.
pub(super) async fn read(pool: &AnyPool, query: &AuditQuery) -> Result<AuditPage, sqlx::Error> {
    if let Some(before) = query.before {
        return read_back(pool, query, before).await;
    }
    let statement = "SELECT last_id, node, events FROM audit_batch
        WHERE last_id > $1 AND to_ms >= $2 AND from_ms < $3
        AND ($4 = '' OR service_id IS NULL OR service_id = $4)
        ORDER BY last_id LIMIT $5";
    let to_ms = query.to_ms.map_or(i64::MAX, |to_ms| i64::try_from(to_ms).unwrap_or(i64::MAX));
    let mut page = AuditPage { last: query.after, ..AuditPage::default() };
    let mut scanned = 0;
    loop {
        let rows = sqlx::query(statement)
            .bind(i64::try_from(page.last).unwrap_or(i64::MAX))
            .bind(i64::try_from(query.from_ms).unwrap_or(i64::MAX))
            .bind(to_ms)
            .bind(query.service.clone().unwrap_or_default())
            .bind(limits::AUDIT_READ_BATCHES)
            .fetch_all(pool)
            .await?;
        if rows.is_empty() {
            return Ok(page);
        }
        for row in rows {
            let (last_id, node) = (unsigned(&row, "last_id")?, row.try_get::<String, _>("node")?);
            let text: String = row.try_get("events")?;
            scanned += text.len();
            let mut id = last_id.saturating_sub(text.lines().count() as u64);
            for line in text.lines() {
                id += 1;
                if id <= query.after {
                    continue;
                }
                let Some(event) = query.event(line) else { continue };
                if page.events.len() == query.limit {
                    page.next = page.events.last().map(|last| last.id);
                    page.last = page.next.unwrap_or(page.last);
                    return Ok(page);
                }
                page.events.push(FoundEvent { id, node: node.clone(), event });
            }
            page.last = last_id;
        }
        if scanned >= limits::AUDIT_SCAN_BYTES {
            page.next = Some(page.last);
            return Ok(page);
        }
    }
}

/// The same from the newest event before an id to the oldest.
async fn read_back(
    pool: &AnyPool,
    query: &AuditQuery,
    before: u64,
) -> Result<AuditPage, sqlx::Error> {
    let statement = "SELECT last_id, node, events FROM audit_batch
        WHERE last_id < $1 AND last_id > $2 AND to_ms >= $3
        AND ($4 = '' OR service_id IS NULL OR service_id = $4)
        ORDER BY last_id DESC LIMIT $5";
    let mut page = AuditPage { last: before, ..AuditPage::default() };
    // The batch that has the event before is named by its last one.
    let mut end = before.saturating_add(limits::AUDIT_BATCH_EVENTS as u64);
    let mut scanned = 0;
    loop {
        let rows = sqlx::query(statement)
            .bind(i64::try_from(end).unwrap_or(i64::MAX))
            .bind(i64::try_from(query.after).unwrap_or(i64::MAX))
            .bind(i64::try_from(query.from_ms).unwrap_or(i64::MAX))
            .bind(query.service.clone().unwrap_or_default())
            .bind(limits::AUDIT_READ_BATCHES)
            .fetch_all(pool)
            .await?;
        if rows.is_empty() {
            return Ok(page);
        }
        for row in rows {
            let (last_id, node) = (unsigned(&row, "last_id")?, row.try_get::<String, _>("node")?);
            let text: String = row.try_get("events")?;
            scanned += text.len();
            end = last_id;
            for (id, line) in (0..=last_id).rev().zip(text.lines().rev()) {
                if id >= before || id <= query.after {
                    continue;
                }
                page.last = id;
                let Some(event) = query.event(line) else { continue };
                page.events.push(FoundEvent { id, node: node.clone(), event });
                if page.events.len() == query.limit {
                    page.next = Some(id);
                    return Ok(page);
                }
            }
        }
        if scanned >= limits::AUDIT_SCAN_BYTES {
            page.next = Some(page.last);
            return Ok(page);
        }
    }
}
