//! Commands for a running server: statistics, services, instances, events, publish, pull out and in.
//!
//! Part of the binary's `cli`; a client like any other.

use std::fmt::Write as _;
use std::io::{self, Write};
use std::time::Duration;

use crate::config::{Config, ServerCall, ServerQuery};
use fanfare_client::{
    Api, ChangeType, Client, Code, Error, Instance, InstanceChange, ServiceChange, ServiceEvent,
    ServiceState,
};
use fanfare_protocol::token::unverified_claims;
use serde_json::{Value, json};

/// Time between two readings of `stats --watch`, and of `events --follow`.
const WATCH_INTERVAL: Duration = Duration::from_secs(1);

/// Carries out a call; answers are printed as they come.
pub(crate) fn run(config: &Config, call: &ServerCall) -> Result<(), String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|fault| fault.to_string())?;
    let url = call.url.clone().unwrap_or_else(|| url_of(config));
    runtime.block_on(answer(&url, call)).map_err(|fault| match fault {
        Failed::Printing(fault) => fault.to_string(),
        Failed::Asking(fault) => explain(&url, &fault),
    })
}

enum Failed {
    Asking(Error),
    Printing(io::Error),
}

impl From<Error> for Failed {
    fn from(fault: Error) -> Failed {
        Failed::Asking(fault)
    }
}

impl From<io::Error> for Failed {
    fn from(fault: io::Error) -> Failed {
        Failed::Printing(fault)
    }
}

/// The address of the server that these settings would start.
fn url_of(config: &Config) -> String {
    let scheme = if config.tls_cert.is_some() { "https" } else { "http" };
    let mut address = config.bind;
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    format!("{scheme}://{address}{}", config.base_path)
}

/// The fault of a call, and advice on it.
fn explain(url: &str, fault: &Error) -> String {
    match fault {
        Error::Connect(_) | Error::Timeout => {
            format!("{url}: no server answers: {fault}; is it running there? see --url")
        }
        Error::Status { status: 401, .. } => {
            format!(
                "{url}: the token is missing or wrong: {fault}; see --token, and `fanfare token`"
            )
        }
        Error::Status { status: 403, .. } => {
            format!("{url}: the token does not allow this: {fault}; see `fanfare token --scope`")
        }
        fault => format!("{url}: {fault}"),
    }
}

async fn answer(url: &str, call: &ServerCall) -> Result<(), Failed> {
    let mut api = Api::new(url)?;
    if let Some(token) = &call.token {
        api = api.with_token(token)?;
    }
    match &call.what {
        ServerQuery::Stats { watch } => stats(&api, *watch, call.json).await,
        ServerQuery::Services => {
            let answer = api.call("GET", "/api/discovery/services.json", None).await?;
            services(&answer, call.json)
        }
        ServerQuery::Instances(service) => instances(&api, service, call.json).await,
        ServerQuery::Watch(service) => watch(url, call, service).await,
        ServerQuery::Events { filters, follow } => events(&api, filters, *follow, call.json).await,
        ServerQuery::Publish { channel, payload, event } => {
            let payload = serde_json::from_str(payload).unwrap_or_else(|_| json!(payload));
            let mut body = json!({"payload": payload});
            if let Some(event) = event {
                body["event"] = json!(event);
            }
            let path = format!("/api/v1/channels/{}/messages", encoded(channel));
            let answer = api.call("POST", &path, Some(body)).await?;
            if call.json {
                return print(&answer.to_string());
            }
            print(&format!(
                "{} to {} connections",
                text(&answer["message_id"]),
                answer["delivered_to"]
            ))
        }
        ServerQuery::Operate { service, instance, region, is_pull_in } => {
            let mut key = json!({"serviceId": service, "instanceId": instance});
            if let Some(region) = region {
                key["regionId"] = json!(region);
            }
            let body = json!({
                "instanceKey": key,
                "operation": "pull-out",
                "operationComplete": is_pull_in,
                "operatorId": operator(call.token.as_deref()),
            });
            let path = "/api/management/instance/operate-instance.json";
            let answer = well(api.call("POST", path, Some(body)).await?)?;
            if call.json {
                return print(&answer.to_string());
            }
            print(if *is_pull_in { "pulled in" } else { "pulled out" })
        }
    }
}

/// The name that the server notes beside an operator's action: the user of the token. The server verifies
/// the token and notes its user as well.
fn operator(token: Option<&str>) -> String {
    let claims = token.and_then(unverified_claims);
    let claim = |name: &str| Some(claims.as_ref()?.get(name)?.as_str()?.to_owned());
    claim("username").or_else(|| claim("sub")).unwrap_or_else(|| String::from("fanfare"))
}

fn encoded(text: &str) -> String {
    percent_encoding::utf8_percent_encode(text, percent_encoding::NON_ALPHANUMERIC).to_string()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}

fn print(text: &str) -> Result<(), Failed> {
    let mut out = io::stdout();
    writeln!(out, "{text}")?;
    out.flush()?;
    Ok(())
}

/// The registry's refusals are a success of HTTP: here they are errors.
fn well(answer: Value) -> Result<Value, Error> {
    let status = &answer["responseStatus"];
    if status["status"] == "success" {
        return Ok(answer);
    }
    let (status_code, code) = match status["errorCode"].as_str() {
        Some("data-not-found") => (404, Some(Code::NotFound)),
        _ => (400, Some(Code::InvalidArgument)),
    };
    let message = text(&status["message"]).to_owned();
    Err(Error::Status { status: status_code, code, message, retry_after: None })
}

/// Numbers with their rates, if there was an earlier reading.
async fn stats(api: &Api, watch: bool, as_json: bool) -> Result<(), Failed> {
    let mut before: Option<Value> = None;
    loop {
        let now = api.call("GET", "/ws/stats", None).await?;
        if as_json {
            print(&now.to_string())?;
        } else if watch {
            print(&stats_line(&now, before.as_ref()))?;
        } else {
            print(&stats_table(&now))?;
        }
        if !watch {
            return Ok(());
        }
        before = Some(now);
        tokio::time::sleep(WATCH_INTERVAL).await;
    }
}

/// Figures that are the same on each node of a cluster.
const OF_ALL_NODES: [&str; 3] = ["services", "instances", "degraded_services"];

fn stats_table(stats: &Value) -> String {
    let mut lines = String::from("of this node, but for what is marked\n");
    for key in [
        "uptime_s",
        "connections",
        "users_online",
        "subscriptions",
        "topics",
        "services",
        "instances",
        "degraded_services",
        "events_total",
        "deliveries_total",
        "delivered_bytes_total",
        "slow_readers_total",
        "memory_rss_bytes",
    ] {
        let mark = if OF_ALL_NODES.contains(&key) { " (of all nodes)" } else { "" };
        let _ = writeln!(lines, "{key:<24} {}{mark}", stats[key]);
    }
    for (key, span) in [("fanout_latency_10s_us", "10 s"), ("fanout_latency_us", "60 s")] {
        for quantile in ["p50", "p90", "p99", "p999", "max"] {
            let name = format!("fanout_latency_us {quantile}");
            let _ = writeln!(lines, "{name:<24} {} (last {span})", stats[key][quantile]);
        }
    }
    for (key, span) in [("outbox_bytes_peak_10s", "10 s"), ("outbox_bytes_peak", "60 s")] {
        let _ = writeln!(lines, "{:<24} {} (last {span})", "outbox_bytes_peak", stats[key]);
    }
    for shard in stats["shards"].as_array().into_iter().flatten() {
        let name = format!("shard {}", shard["shard"]);
        let _ = writeln!(
            lines,
            "{name:<24} {} connections, {} subscriptions, {} deliveries",
            shard["connections"], shard["subscriptions"], shard["deliveries_total"]
        );
    }
    lines.truncate(lines.trim_end().len());
    lines
}

fn stats_line(now: &Value, before: Option<&Value>) -> String {
    let rate = |key: &str| {
        let newest = now[key].as_u64().unwrap_or(0);
        before.map_or(0, |before| newest.saturating_sub(before[key].as_u64().unwrap_or(0)))
    };
    format!(
        "connections {:<7} subscriptions {:<7} events/s {:<7} deliveries/s {:<9} \
         last 10 s: p50 {} us, p99 {} us, outbox {} B",
        now["connections"].to_string(),
        now["subscriptions"].to_string(),
        rate("events_total"),
        rate("deliveries_total"),
        now["fanout_latency_10s_us"]["p50"],
        now["fanout_latency_10s_us"]["p99"],
        now["outbox_bytes_peak_10s"],
    )
}

fn services(answer: &Value, as_json: bool) -> Result<(), Failed> {
    let list = answer["services"].as_array().map(Vec::as_slice).unwrap_or_default();
    if as_json {
        return list.iter().try_for_each(|service| print(&service.to_string()));
    }
    let mut lines = vec![format!("{:<40} {:>9} {:>9}  STATE", "SERVICE", "INSTANCES", "REVISION")];
    for service in list {
        let count = service["instances"].as_array().map_or(0, Vec::len);
        let state = if service["degraded"] == true { "degraded" } else { "ok" };
        let (name, revision) = (text(&service["serviceId"]), service["revision"].to_string());
        lines.push(format!("{name:<40} {count:>9} {revision:>9}  {state}"));
    }
    print(&lines.join("\n"))
}

async fn instances(api: &Api, service: &str, as_json: bool) -> Result<(), Failed> {
    let path = format!("/api/status/leases.json?service_id={}", encoded(service));
    let answer = well(api.call("GET", &path, None).await?)?;
    let list = answer["services"][0]["instances"].as_array().cloned().unwrap_or_default();
    if as_json {
        return list.iter().try_for_each(|lease| print(&lease.to_string()));
    }
    let mut lines = vec![format!(
        "{:<36} {:<22} {:<10} {:>9} {:>9}",
        "INSTANCE", "ADDRESS", "STATUS", "RENEWED", "LEASE"
    )];
    for lease in &list {
        let instance = &lease["instance"];
        let address = match (instance["ip"].as_str(), instance["port"].as_u64()) {
            (Some(ip), Some(port)) => format!("{ip}:{port}"),
            (Some(ip), None) => ip.to_owned(),
            _ => String::from("-"),
        };
        let is_out = lease["pulled_out"] == true;
        let status = if is_out { "pulled out" } else { text(&instance["status"]) };
        let by = pulled_out_by(&lease["pulled_out_by"]);
        let seconds = |field: &str| lease[field].as_f64().unwrap_or(0.0) / 1_000.0;
        lines.push(format!(
            "{:<36} {address:<22} {status:<10} {:>7.1} s {:>7.1} s{by}",
            text(&instance["instanceId"]),
            seconds("age_ms"),
            seconds("lease_ttl_ms"),
        ));
    }
    print(&lines.join("\n"))
}

/// The operator who pulled an instance out, as an addition to its line.
fn pulled_out_by(by: &Value) -> String {
    match (by["user_id"].as_str(), by["operator_id"].as_str().filter(|name| !name.is_empty())) {
        _ if by.is_null() => String::new(),
        (Some(user), Some(name)) if user != name => format!("  by {user} ({name})"),
        (Some(name), _) | (None, Some(name)) => format!("  by {name}"),
        (None, None) if by["itself"] == true => String::from("  by itself"),
        (None, None) => String::new(),
    }
}

/// The audit log to its end, and, where it is followed, what is new each second.
async fn events(
    api: &Api,
    filters: &[(&str, String)],
    follow: bool,
    as_json: bool,
) -> Result<(), Failed> {
    let mut query = String::from("limit=1000");
    for (name, wanted) in filters {
        let _ = write!(query, "&{name}={}", encoded(wanted));
    }
    let mut after = 0;
    loop {
        let path = format!("/api/v1/events?{query}&after={after}");
        let page = api.call("GET", &path, None).await?;
        for event in page["events"].as_array().into_iter().flatten() {
            print(&if as_json { event.to_string() } else { event_line(event) })?;
        }
        after = page["last"].as_u64().unwrap_or(after);
        match (page["next"].is_null(), follow) {
            (false, _) => {}
            (true, true) => tokio::time::sleep(WATCH_INTERVAL).await,
            (true, false) => return Ok(()),
        }
    }
}

/// An event: when, what, of what, by whom, why, and more.
fn event_line(event: &Value) -> String {
    let mut line = format!("{} {:<22}", text(&event["at"]), text(&event["kind"]));
    let names = [&event["service_id"], &event["instance_id"]].into_iter().filter_map(Value::as_str);
    let _ = write!(line, " {}", names.collect::<Vec<_>>().join("/"));
    let actor = &event["actor"];
    let who = [&actor["user_id"], &actor["address"]].into_iter().filter_map(Value::as_str);
    line.push_str("  by");
    for one in who {
        let _ = write!(line, " {one}");
    }
    let _ = write!(line, " ({})", text(&actor["door"]));
    if let Some(reason) = event["reason"].as_str() {
        let _ = write!(line, ": {reason}");
    }
    if !event["detail"].is_null() {
        let _ = write!(line, " {}", event["detail"]);
    }
    line
}

/// Follows a service until interrupted. Reconnects after a disconnect, as every client does.
async fn watch(url: &str, call: &ServerCall, service: &str) -> Result<(), Failed> {
    let mut builder = Client::builder().url(url);
    if let Some(token) = &call.token {
        builder = builder.token(token);
    }
    let client = builder.connect().await?;
    let view = client.watch_service(service)?;
    let mut changes = view.changes();
    while let Some(event) = changes.next().await {
        match event {
            ServiceEvent::Snapshot(state) => print(&snapshot(&state, call.json))?,
            ServiceEvent::Changed(change) => print(&changed(&change, call.json))?,
            ServiceEvent::Refused { error, .. } if error.is_temporary() => {}
            ServiceEvent::Refused { error, .. } => return Err(error.into()),
            _ => {}
        }
    }
    Ok(())
}

fn snapshot(state: &ServiceState, as_json: bool) -> String {
    if as_json {
        let list = state.instances.iter().map(|one| json!(**one)).collect::<Vec<_>>();
        let value =
            json!({"revision": state.revision, "degraded": state.is_degraded, "instances": list});
        return value.to_string();
    }
    let mark = if state.is_degraded { ", degraded" } else { "" };
    let mut lines =
        format!("revision {}: {} instances{mark}", state.revision, state.instances.len());
    for instance in &state.instances {
        let _ = write!(lines, "\n  {}", named(instance));
    }
    lines
}

fn changed(change: &ServiceChange, as_json: bool) -> String {
    if as_json {
        let one = |one: &InstanceChange| {
            json!({
                "change_type": word(one.change_type),
                "reason": one.reason,
                "change_time": one.change_time,
                "instance": json!(*one.instance),
            })
        };
        let changes: Vec<Value> = change.changes.iter().map(one).collect();
        let (revision, degraded) = (change.revision, change.is_degraded);
        return json!({"revision": revision, "degraded": degraded, "changes": changes}).to_string();
    }
    if change.changes.is_empty() {
        let word = if change.is_degraded { "degraded" } else { "no longer degraded" };
        return format!("revision {}: {word}", change.revision);
    }
    let line = |one: &InstanceChange| {
        let (word, name) = (word(one.change_type), named(&one.instance));
        format!("{} {word:<6} {name} ({})", one.change_time, one.reason)
    };
    change.changes.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn word(kind: ChangeType) -> &'static str {
    match kind {
        ChangeType::New => "new",
        ChangeType::Change => "change",
        ChangeType::Delete => "delete",
    }
}

fn named(instance: &Instance) -> String {
    let id = instance.instance_id.as_deref().unwrap_or("-");
    match (&instance.ip, instance.port) {
        (Some(ip), Some(port)) => format!("{id} at {ip}:{port}"),
        _ => id.to_owned(),
    }
}
