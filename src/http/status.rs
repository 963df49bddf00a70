//! Status documents, for operators and monitoring.
//!
//! Imports its siblings, `clock`, `cluster`, `id`, `limits`, `state`, `stats` and `wire`. Imported by
//! `http::router`.

use std::sync::atomic::Ordering;

use hyper::StatusCode;
use serde_json::{Map, Value, json};

use super::answers::quoted_bytes;
use super::reply::{self, Problem, Reply};
use super::{AppState, Query, RequestContext, body};
use crate::clock::Moment;
use crate::cluster::agreement;
use crate::id::{ServiceName, UserId};
use crate::limits;
use crate::state::registry::commands::ReadLeases;
use crate::state::registry::pull_outs::PulledOutBy;
use crate::state::registry::replies::{InstanceLease, ServiceLeases};
use crate::stats::{ClusterStats, Reading, RedisPath, Stats};
use crate::wire::instance::check_service_id;
use crate::wire::refusal::Refusal;

/// `/health`: 200 while the process lives.
pub fn health() -> Reply {
    reply::json_value(&json!({"status": "up"}))
}

/// The parts of readiness. Each needs less than the whole: a database that is away takes no node
/// out of discovery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    /// Reads of the registry: they are answered from memory.
    Discovery,
    /// Sockets, with the channels and users of all nodes.
    Sockets,
    /// All writes: registrations, accounts, messages.
    Writes,
    /// All parts.
    Everything,
}

impl Part {
    fn of(query: &Query) -> Result<Part, Problem> {
        match query.get("for").as_deref() {
            None | Some("") => Ok(Part::Everything),
            Some("discovery") => Ok(Part::Discovery),
            Some("sockets") => Ok(Part::Sockets),
            Some("writes") => Ok(Part::Writes),
            Some(_) => Err(Refusal::invalid("for is not discovery, sockets or writes").into()),
        }
    }
}

/// `/ready`: whether this node should get clients, or those of the part in `for`.
///
/// # Errors
///
/// `invalid_argument` for another part.
pub fn ready(context: &RequestContext, query: &Query) -> Result<Reply, Problem> {
    let part = Part::of(query)?;
    let storage = context.app.store.is_ok();
    let is_agreed = is_agreed(&context.app);
    let is_joined = is_joined(context) && is_agreed;
    let is_well = match part {
        Part::Discovery => knows_registry(context) && is_agreed,
        Part::Sockets => is_joined,
        Part::Writes | Part::Everything => storage && is_joined,
    };
    let word = |is_well: bool| if is_well { "up" } else { "down" };
    let status = match (context.is_draining(), is_well) {
        (true, _) => "draining",
        (false, true) => "ready",
        (false, false) => "not_ready",
    };
    let mut reply = reply::json_value(&json!({
        "status": status,
        "checks": {"storage": word(storage), "cluster": word(is_joined), "shards": word(!context.is_draining())},
    }));
    if !is_well || context.is_draining() {
        *reply.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    }
    Ok(reply)
}

/// Whether the registry here is that of all nodes, as far as this node can know, and every path to
/// the others works.
pub(crate) fn is_joined(context: &RequestContext) -> bool {
    let cluster = &context.app.stats.cluster;
    let now_ns = context.clock.now().ns;
    !context.app.is_clustered || (cluster.is_joined() && cluster.are_paths_up(now_ns))
}

/// Whether this node's shared settings are those of the others.
fn is_agreed(app: &AppState) -> bool {
    !app.differences.read().iter().any(|difference| difference.is_ours)
}

/// Which paths to Redis work. The two connections of the log count as one path.
pub(super) fn paths(cluster: &ClusterStats, now_ns: u64) -> Map<String, Value> {
    let mut paths = Map::new();
    for path in RedisPath::ALL {
        let is_up = cluster.is_path_up(path, now_ns);
        let word = paths.entry(path.as_str()).or_insert_with(|| "up".into());
        if !is_up {
            *word = "down".into();
        }
    }
    paths
}

/// Whether there is a registry to read. A node that is cut off serves the one it has.
fn knows_registry(context: &RequestContext) -> bool {
    !context.app.is_clustered || context.app.stats.cluster.caught_up.value() == 1
}

fn uptime_s(app: &AppState, now: Moment) -> u64 {
    now.unix_ms.saturating_sub(app.started_ms) / 1_000
}

/// A node's own status.
pub fn node_value(app: &AppState, now: Moment) -> Value {
    let stats = &app.stats;
    let is_draining = app.is_draining.load(Ordering::Relaxed);
    let cluster = &stats.cluster;
    let mut value = json!({
        "node_id": &*app.node_id,
        "status": if is_draining { "draining" } else { "up" },
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_s": uptime_s(app, now),
        "shards": stats.shards.len(),
        "connections": stats.sum(|shard| &shard.connections),
        "services": stats.control.services.value(),
        "instances": stats.control.instances.value(),
        "degraded_services": stats.control.degraded_services.value(),
    });
    if let Some(url) = &app.advertise_url {
        value["url"] = url.as_str().into();
    }
    if app.is_clustered {
        value["log_sequence"] = cluster.sequence.value().into();
        value["log_lag"] = cluster.newest.value().saturating_sub(cluster.sequence.value()).into();
        value["leases_owned"] = cluster.leases_owned.value().into();
        value["paths"] = paths(cluster, now.ns).into();
    }
    value
}

/// `node`
pub fn node(context: &RequestContext) -> Reply {
    let mut node = node_value(&context.app, context.clock.now());
    node["responseStatus"] = reply::success();
    reply::json_value(&node)
}

/// `cluster`: every node that sent a heartbeat lately, with its age. A single node is a cluster of
/// one.
pub fn cluster(context: &RequestContext) -> Reply {
    let app = &context.app;
    let mut own = node_value(app, context.clock.now());
    own["age_ms"] = 0.into();
    let mut nodes = vec![own];
    for node in app.nodes.read().iter().filter(|node| *node.id != *app.node_id) {
        let mut value: Value = serde_json::from_str(&node.about).unwrap_or_else(|_| json!({}));
        value["node_id"] = node.id.as_str().into();
        if let Some(fields) = value.as_object_mut() {
            // For nodes alone.
            for name in ["sockets", agreement::SETTINGS, agreement::JOINED_MS] {
                fields.remove(name);
            }
        }
        value["age_ms"] = node.age_ms.into();
        let differences = app.differences.read();
        if let Some(difference) = differences.iter().find(|one| one.node == node.id) {
            value["differing_settings"] = difference.settings.clone().into();
        }
        if !node.is_alive {
            value["status"] = "gone".into();
        }
        nodes.push(value);
    }
    reply::json_value(&json!({"nodes": nodes, "responseStatus": reply::success()}))
}

/// The addresses that the other living nodes advertise, but for those that stop.
pub(crate) fn urls_of_others(app: &AppState) -> Vec<String> {
    let nodes = app.nodes.read();
    let others = nodes.iter().filter(|node| node.is_alive && *node.id != *app.node_id);
    let urls = others.filter_map(|node| {
        let about: Value = serde_json::from_str(&node.about).ok()?;
        let url = about["url"].as_str().filter(|_| about["status"] == "up");
        url.map(str::to_owned)
    });
    urls.collect()
}

/// `leases`: the number of each service, or each lease of one service.
pub async fn leases(context: &RequestContext, query: &Query) -> Result<Reply, Problem> {
    let only = query.service_id();
    if let Some(service_id) = &only
        && let Err(fault) = check_service_id(service_id)
    {
        return Err(Refusal::invalid(fault).into());
    }
    let only = only.map(|service_id| ServiceName::of(&service_id));
    let services = context.ask(ReadLeases(only.clone())).await?;
    if only.is_some() && services.is_empty() {
        return Ok(reply::json_value(&reply::failure("data-not-found", "no such service")));
    }
    let bytes = services.iter().map(leases_bytes).sum::<usize>() + LEASES_ANSWER_BYTES;
    let permit = context.answers.reserve(bytes)?;
    let is_long = bytes > limits::COPY_INLINE_BYTES_MAX;
    let body = body::beside(is_long, move || leases_body(&services, bytes)).await?;
    Ok(reply::reserved("application/json", body.into(), permit))
}

/// Bytes of an answer beside its services, at most.
const LEASES_ANSWER_BYTES: usize = 256;

/// Bytes of a service beside its name and instances, or of an instance beside its JSON, at most.
const LEASE_BYTES: usize = 320;

/// Bytes that suffice for a service in an answer.
fn leases_bytes(service: &ServiceLeases) -> usize {
    let instances = service.instances.iter().flatten();
    let bytes = |lease: &InstanceLease| {
        let by = lease.pulled_out_by.as_ref();
        let by = by.map_or(0, |by| pulled_out_by_value(Some(by)).to_string().len());
        lease.json.len() + by + LEASE_BYTES
    };
    let instances = instances.map(bytes).sum::<usize>();
    quoted_bytes(service.service.as_str()) + LEASE_BYTES + instances
}

/// The answer. Instances are spliced as they are stored: decoded, they would take many times their
/// size.
fn leases_body(services: &[ServiceLeases], bytes: usize) -> Vec<u8> {
    let mut out = Vec::with_capacity(bytes);
    out.extend_from_slice(b"{\"services\":[");
    for (index, service) in services.iter().enumerate() {
        if index > 0 {
            out.push(b',');
        }
        put_service_leases(&mut out, service);
    }
    out.push(b']');
    out.extend_from_slice(reply::success_end().as_bytes());
    out
}

/// The operator that pulled an instance out, as JSON.
fn pulled_out_by_value(by: Option<&PulledOutBy>) -> Value {
    match by {
        None => Value::Null,
        Some(PulledOutBy::Itself) => json!({"itself": true}),
        Some(PulledOutBy::Operator(operator)) => json!({
            "user_id": operator.user.as_ref().map(UserId::as_str),
            "operator_id": &*operator.name,
        }),
    }
}

fn put_service_leases(out: &mut Vec<u8>, service: &ServiceLeases) {
    let value = json!({
        "service_id": service.service.as_str(),
        "leases": service.leases,
        "overdue": service.overdue,
        "pulled_out": service.pulled_out,
        "degraded": service.degraded,
        "self_protection_enabled": service.protection_enabled,
        "next_expiry_ms": service.next_expiry_ms,
    });
    let text = value.to_string();
    let Some(instances) = &service.instances else {
        return out.extend_from_slice(text.as_bytes());
    };
    // The closing brace comes after the instances.
    out.extend_from_slice(text.trim_end_matches('}').as_bytes());
    out.extend_from_slice(b",\"instances\":[");
    for (index, lease) in instances.iter().enumerate() {
        out.extend_from_slice(if index > 0 { b",{\"instance\":" } else { b"{\"instance\":" });
        out.extend_from_slice(&lease.json);
        let InstanceLease { ttl_ms, age_ms, expires_in_ms, pulled_out_by, .. } = lease;
        let rest = format!(
            ",\"lease_ttl_ms\":{ttl_ms},\"age_ms\":{age_ms},\"expires_in_ms\":{expires_in_ms},\
             \"pulled_out\":{},\"pulled_out_by\":{}}}",
            pulled_out_by.is_some(),
            pulled_out_by_value(pulled_out_by.as_ref()),
        );
        out.extend_from_slice(rest.as_bytes());
    }
    out.extend_from_slice(b"]}");
}

/// `config`: every key by its flag's name.
pub fn config(context: &RequestContext) -> Reply {
    reply::json_value(&Value::Object(context.app.settings.clone()))
}

/// `/ws/stats`: of this node, or with `scope=cluster` of all living nodes.
///
/// # Errors
///
/// `invalid_argument` for another scope.
pub fn sockets(context: &RequestContext, query: &Query) -> Result<Reply, Problem> {
    let own = socket_stats(&context.app, context.clock.now());
    match query.get("scope").as_deref() {
        None | Some("node") => Ok(reply::json_value(&own)),
        Some("cluster") => Ok(reply::json_value(&cluster_stats(&context.app, own))),
        Some(_) => Err(Refusal::invalid("scope is not node or cluster").into()),
    }
}

/// Numbers of all nodes: sums, the largest if a sum has no meaning, and each node's own. Those of
/// other nodes are as of their last heartbeat.
fn cluster_stats(app: &AppState, mut own: Value) -> Value {
    own["node_id"] = (*app.node_id).into();
    let mut nodes = vec![own];
    for node in app.nodes.read().iter() {
        if node.is_alive && *node.id != *app.node_id {
            let mut about: Value = serde_json::from_str(&node.about).unwrap_or_default();
            let mut sockets = about["sockets"].take();
            if sockets.is_object() {
                sockets["node_id"] = node.id.as_str().into();
                nodes.push(sockets);
            }
        }
    }
    let number = |node: &Value, key: &str| node[key].as_u64().unwrap_or(0);
    let mut all = Map::new();
    for (key, value) in nodes[0].as_object().into_iter().flatten() {
        let numbers = nodes.iter().map(|node| number(node, key));
        // Every node has the whole registry.
        let is_shared = ["services", "instances", "degraded_services"].contains(&&**key);
        let is_time = ["uptime_s", "timestamp_ms"].contains(&&**key);
        // Of these the largest has a meaning.
        let is_peak = key.starts_with("outbox_bytes_peak");
        if is_shared || is_time || is_peak {
            all.insert(key.clone(), numbers.max().unwrap_or(0).into());
        } else if value.is_u64() {
            all.insert(key.clone(), numbers.sum::<u64>().into());
        } else if key.starts_with("fanout_latency") {
            let worst = value.as_object().into_iter().flatten().map(|(name, _)| {
                let of_nodes = nodes.iter().map(|node| number(&node[key], name));
                let one =
                    if name == "count" { of_nodes.sum() } else { of_nodes.max().unwrap_or(0) };
                (name.clone(), one.into())
            });
            all.insert(key.clone(), Value::Object(worst.collect()));
        }
    }
    all.insert(String::from("scope"), "cluster".into());
    if app.is_clustered {
        all.insert(String::from("users_online"), app.stats.cluster.users_online.value().into());
    }
    for node in &mut nodes {
        node.as_object_mut().map(|fields| fields.remove("shards"));
    }
    all.insert(String::from("nodes"), nodes.into());
    Value::Object(all)
}

/// The status that a node sends to the others.
pub fn about(app: &AppState, now: Moment) -> Value {
    let mut sockets = socket_stats(app, now);
    sockets.as_object_mut().map(|fields| fields.remove("shards"));
    let mut about = node_value(app, now);
    about["sockets"] = sockets;
    about[agreement::SETTINGS] = app.shared.settings.clone().into();
    about[agreement::JOINED_MS] = app.stats.cluster.joined_ms.value().into();
    about
}

/// The content of `/ws/stats`, and of the channel [`crate::limits::STATS_CHANNEL`] each second.
pub fn socket_stats(app: &AppState, now: Moment) -> Value {
    let stats: &Stats = &app.stats;
    let recent = app.recent.read();
    let latency = |span_ms| latency_value(&recent.fanout_us(stats, now.unix_ms, span_ms));
    let peak = |shard, span_ms| recent.outbox_bytes_peak(stats, shard, now.unix_ms, span_ms);
    let shards: Vec<Value> = stats
        .shards
        .iter()
        .enumerate()
        .map(|(index, shard)| {
            json!({
                "shard": index,
                "connections": shard.connections.value(),
                "subscriptions": shard.subscriptions.value(),
                "topics": shard.topics.value(),
                "events_total": shard.events.value(),
                "deliveries_total": shard.deliveries.value(),
                "writes_total": shard.writes.value(),
                "turns_total": shard.turns.value(),
                "outbox_bytes_peak": peak(index, limits::RECENT_LONG_MS),
                "outbox_bytes_peak_10s": peak(index, limits::RECENT_SHORT_MS),
                "slow_collapsed_total": shard.slow_collapsed.value(),
                "slow_closed_total": shard.slow_closed.value(),
            })
        })
        .collect();
    let mut value = Map::new();
    let mut put = |key: &str, number: u64| value.insert(key.to_owned(), number.into());
    put("connections", stats.sum(|shard| &shard.connections));
    put("users_online", app.authorizer.user_connections.users() as u64);
    put("subscriptions", stats.sum(|shard| &shard.subscriptions));
    put("topics", stats.sum(|shard| &shard.topics));
    put("events_total", stats.control.events.value());
    put("deliveries_total", stats.sum(|shard| &shard.deliveries));
    put("delivered_bytes_total", stats.sum(|shard| &shard.delivered_bytes));
    let slow = stats.sum(|shard| &shard.slow_collapsed) + stats.sum(|shard| &shard.slow_closed);
    put("slow_readers_total", slow);
    put("uptime_s", uptime_s(app, now));
    put("timestamp_ms", now.wall_ms);
    put("services", stats.control.services.value());
    put("instances", stats.control.instances.value());
    put("degraded_services", stats.control.degraded_services.value());
    put("memory_rss_bytes", memory_rss_bytes());
    for (key, span_ms) in [
        ("outbox_bytes_peak", limits::RECENT_LONG_MS),
        ("outbox_bytes_peak_10s", limits::RECENT_SHORT_MS),
    ] {
        let peak = recent.outbox_bytes_peak_of_all(stats, now.unix_ms, span_ms);
        value.insert(String::from(key), peak.into());
    }
    value.insert(String::from("fanout_latency_us"), latency(limits::RECENT_LONG_MS));
    value.insert(String::from("fanout_latency_10s_us"), latency(limits::RECENT_SHORT_MS));
    value.insert(String::from("scope"), "node".into());
    value.insert(String::from("shards"), shards.into());
    Value::Object(value)
}

/// Durations in microseconds, as quantiles; all zero without a measurement.
fn latency_value(reading: &Reading) -> Value {
    json!({
        "p50": reading.quantile(500),
        "p90": reading.quantile(900),
        "p99": reading.quantile(990),
        "p999": reading.quantile(999),
        "max": reading.max,
        "count": reading.count(),
    })
}

/// The process's resident memory, as Linux reports it; 0 on other systems.
pub fn memory_rss_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kib.unwrap_or(0) * 1_024
}
