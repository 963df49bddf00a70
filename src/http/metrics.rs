//! `/metrics`, in the Prometheus text format. `docs/operations.md` has the meaning of each metric.
//!
//! Imports its siblings, `limits`, `stats` and `wire`. Imported by `http::router`.

use super::RequestContext;
use super::reply::{self, Reply};
use super::status::{memory_rss_bytes, paths};
use crate::limits;
use crate::stats::prometheus::Page;
use crate::stats::{Counter, ShardStats};
use crate::wire::close::Reason;
use crate::wire::refusal::Code;

/// A metric that is summed over the shards.
type Of = fn(&ShardStats) -> &Counter;

const SHARD_GAUGES: [(&str, &str, Of); 6] = [
    ("fanfare_connections", "Open WebSocket connections.", |shard| &shard.connections),
    ("fanfare_handshakes", "Connections whose first request is awaited.", |shard| {
        &shard.handshakes
    }),
    (
        "fanfare_artemis_heartbeat_sockets",
        "Open sockets on which Artemis' clients send heartbeats.",
        |shard| &shard.artemis_heartbeats,
    ),
    (
        "fanfare_artemis_change_sockets",
        "Open sockets on which Artemis' clients get changes.",
        |shard| &shard.artemis_followers,
    ),
    ("fanfare_subscriptions", "Subscriptions of all connections.", |shard| &shard.subscriptions),
    ("fanfare_topics", "Topics with a subscriber, by shard.", |shard| &shard.topics),
];

const SHARD_COUNTERS: [(&str, &str, Of); 11] = [
    ("fanfare_connections_opened_total", "WebSocket connections opened.", |shard| {
        &shard.connections_opened
    }),
    ("fanfare_shard_events_total", "Events that reached a shard.", |shard| &shard.events),
    ("fanfare_deliveries_total", "Event frames queued for connections.", |shard| &shard.deliveries),
    (
        "fanfare_delivered_bytes_total",
        "Bytes of the event frames queued for connections.",
        |shard| &shard.delivered_bytes,
    ),
    ("fanfare_writes_total", "Successful calls of write.", |shard| &shard.writes),
    ("fanfare_written_bytes_total", "Bytes written to sockets.", |shard| &shard.written_bytes),
    (
        "fanfare_written_frames_total",
        "Frames written; divided by writes: frames per write.",
        |shard| &shard.written_frames,
    ),
    ("fanfare_blocked_writes_total", "Calls of write on a full socket.", |shard| {
        &shard.blocked_writes
    }),
    ("fanfare_messages_total", "Messages received on sockets.", |shard| &shard.messages),
    ("fanfare_snapshots_total", "Snapshots sent in place of lost changes.", |shard| {
        &shard.snapshots
    }),
    ("fanfare_turns_total", "Turns taken by shards.", |shard| &shard.turns),
];

/// The page.
pub fn page(context: &RequestContext) -> Reply {
    let mut page = Page::default();
    shards(&mut page, context);
    registry(&mut page, context);
    cluster(&mut page, context);
    codes(&mut page, context);
    let text = page.finish();
    reply::with_type("text/plain; version=0.0.4; charset=utf-8", text.into())
}

fn shards(page: &mut Page, context: &RequestContext) {
    let stats = &context.app.stats;
    for (kind, metrics) in [("gauge", &SHARD_GAUGES[..]), ("counter", &SHARD_COUNTERS[..])] {
        for (name, help, of) in metrics {
            page.metric(name, kind, help);
            for (index, shard) in stats.shards.iter().enumerate() {
                page.sample(name, &format!("shard=\"{index}\""), of(shard).value());
            }
        }
    }
    page.single(
        "fanfare_users_online",
        "gauge",
        "Signed-in users with a connection.",
        context.app.authorizer.user_connections.users() as u64,
    );
    page.single(
        "fanfare_outbox_bytes_peak",
        "gauge",
        "Peak of one connection's unsent bytes in the last 60 s.",
        context.app.recent.read().outbox_bytes_peak_of_all(
            stats,
            context.clock.now().unix_ms,
            limits::RECENT_LONG_MS,
        ),
    );
    let name = "fanfare_slow_readers_total";
    page.metric(name, "counter", "Readers that fell behind, by outcome.");
    page.sample(name, "outcome=\"collapsed\"", stats.sum(|shard| &shard.slow_collapsed));
    page.sample(name, "outcome=\"closed\"", stats.sum(|shard| &shard.slow_closed));
    page.single(
        "fanfare_mailbox_depth",
        "gauge",
        "Commands that wait to be carried out.",
        context.control.depth() as u64 + stats.control.set_aside.value(),
    );
    page.histogram(
        "fanfare_turn_seconds",
        "Duration of a shard's turn.",
        &stats.merged(|shard| &shard.turn_us),
    );
    page.histogram(
        "fanfare_fanout_latency_seconds",
        "Time from accepting a change to the last subscriber's write, per event and shard.",
        &stats.merged(|shard| &shard.fanout_us),
    );
    page.single("fanfare_memory_rss_bytes", "gauge", "Resident memory.", memory_rss_bytes());
    let name = "fanfare_http_unsent_answer_bytes";
    page.metric(name, "gauge", "Unsent bytes of HTTP responses, by shard.");
    for (index, answers) in context.app.answers.iter().enumerate() {
        page.sample(name, &format!("shard=\"{index}\""), answers.held() as u64);
    }
    let name = "fanfare_http_unfinished_body_bytes";
    page.metric(
        name,
        "gauge",
        "Bytes of request bodies that are arriving or being read, by shard.",
    );
    for (index, bodies) in context.app.bodies.iter().enumerate() {
        page.sample(name, &format!("shard=\"{index}\""), bodies.held() as u64);
    }
}

fn registry(page: &mut Page, context: &RequestContext) {
    let control = &context.app.stats.control;
    let mut control_turns = crate::stats::Reading::default();
    control_turns.add(&control.turn_us);
    page.histogram(
        "fanfare_control_turn_seconds",
        "Duration of a turn of the timekeeper.",
        &control_turns,
    );
    let mut holds = crate::stats::Reading::default();
    holds.add(&control.hold_us);
    page.histogram(
        "fanfare_control_hold_seconds",
        "Time for which a shard carried out commands at a stretch.",
        &holds,
    );
    let name = "fanfare_control_hold_seconds_peak";
    page.metric(
        name,
        "gauge",
        "Longest time for which a thread carried out commands at a stretch, in the last 60 s, by thread.",
    );
    let (recent, now_ms) = (context.app.recent.read(), context.clock.now().unix_ms);
    let (stats, span_ms) = (&context.app.stats, limits::RECENT_LONG_MS);
    page.seconds(name, "by=\"shard\"", recent.hold_us_peak(stats, now_ms, span_ms));
    page.seconds(name, "by=\"timekeeper\"", recent.turn_us_peak(stats, now_ms, span_ms));
    drop(recent);
    for (name, kind, help, counter) in [
        ("fanfare_orders_total", "counter", "Commands executed.", &control.orders),
        ("fanfare_events_total", "counter", "Events with a subscriber.", &control.events),
        ("fanfare_registry_services", "gauge", "Services known.", &control.services),
        ("fanfare_registry_instances", "gauge", "Instances registered.", &control.instances),
        ("fanfare_registry_leases", "gauge", "Leases held, one an instance.", &control.instances),
        ("fanfare_registry_changes_total", "counter", "Changes of services.", &control.changes),
        ("fanfare_registry_renewals_total", "counter", "Leases renewed.", &control.renewals),
        ("fanfare_registry_expired_total", "counter", "Leases expired.", &control.expired),
        (
            "fanfare_registry_degraded_services",
            "gauge",
            "Services whose expiry is held.",
            &control.degraded_services,
        ),
        (
            "fanfare_registry_instances_bytes",
            "gauge",
            "Bytes of all instances' JSON.",
            &control.instances_bytes,
        ),
        (
            "fanfare_service_history_bytes",
            "gauge",
            "Bytes of changes kept for clients that reconnect.",
            &control.service_history_bytes,
        ),
        (
            "fanfare_services_forgotten_total",
            "counter",
            "Services without instances that were forgotten.",
            &control.services_forgotten,
        ),
        (
            "fanfare_channels_forgotten_total",
            "counter",
            "Channels without subscribers that were evicted.",
            &control.channels_forgotten,
        ),
        ("fanfare_users_known", "gauge", "Users known.", &control.users_known),
        ("fanfare_channels", "gauge", "Channels in use.", &control.channels),
        (
            "fanfare_channel_history_bytes",
            "gauge",
            "Bytes of messages kept for clients that reconnect.",
            &control.history_bytes,
        ),
        ("fanfare_store_commits_total", "counter", "Commits to the store.", &control.commits),
        (
            "fanfare_store_writes_total",
            "counter",
            "Writes with a waiting caller; divided by commits: writes per transaction.",
            &control.writes,
        ),
        (
            "fanfare_store_healthy",
            "gauge",
            "1 while the store accepts writes.",
            &control.store_healthy,
        ),
        (
            "fanfare_store_set_aside_total",
            "counter",
            "Rows and writes that the database refused for their content; the log has each.",
            &control.store_set_aside,
        ),
    ] {
        page.single(name, kind, help, counter.value());
    }
}

fn cluster(page: &mut Page, context: &RequestContext) {
    if !context.app.is_clustered {
        return;
    }
    let cluster = &context.app.stats.cluster;
    let lag = cluster.newest.value().saturating_sub(cluster.sequence.value());
    let silent_ms = context.clock.now().unix_ms.saturating_sub(cluster.contact_ms.value());
    for (name, kind, help, value) in [
        (
            "fanfare_cluster_nodes",
            "gauge",
            "Nodes alive, this one included.",
            cluster.nodes.value(),
        ),
        ("fanfare_cluster_log_lag", "gauge", "Entries of the log not applied here yet.", lag),
        (
            "fanfare_cluster_log_applied_total",
            "counter",
            "Entries of the log applied here.",
            cluster.applied.value(),
        ),
        (
            "fanfare_cluster_log_lost_total",
            "counter",
            "Entries of this node that were not appended to the log.",
            cluster.lost.value(),
        ),
        (
            "fanfare_cluster_log_resets_total",
            "counter",
            "Times the registry was replaced by a snapshot.",
            cluster.replaced.value(),
        ),
        (
            "fanfare_cluster_leases_owned",
            "gauge",
            "Leases that this node owns.",
            cluster.leases_owned.value(),
        ),
        (
            "fanfare_cluster_redis_silence_ms",
            "gauge",
            "Milliseconds since Redis last answered.",
            silent_ms,
        ),
        (
            "fanfare_cluster_cut_off",
            "gauge",
            "1 while Redis is silent for too long.",
            cluster.cut_off.value(),
        ),
    ] {
        page.single(name, kind, help, value);
    }
    topics(page, context);
}

/// Traffic between nodes beside the log.
fn topics(page: &mut Page, context: &RequestContext) {
    let cluster = &context.app.stats.cluster;
    let unread = cluster.journal_newest.value().saturating_sub(cluster.journal_read.value());
    for (name, kind, help, value) in [
        (
            "fanfare_cluster_topics",
            "gauge",
            "Channels whose topic this node subscribes to.",
            cluster.topics.value(),
        ),
        (
            "fanfare_cluster_notices_lag",
            "gauge",
            "Direct and group messages in the journal not read here yet.",
            unread,
        ),
        (
            "fanfare_cluster_calls_total",
            "counter",
            "Requests to Redis and to other nodes.",
            cluster.called.value(),
        ),
        (
            "fanfare_cluster_reconnects_total",
            "counter",
            "Connections to Redis made in place of lost ones.",
            cluster.reconnects.value(),
        ),
        (
            "fanfare_cluster_probe_failures_total",
            "counter",
            "Probes that found a dead subscription.",
            cluster.probe_failures.value(),
        ),
        (
            "fanfare_cluster_dropped_total",
            "counter",
            "Channel messages dropped because the node did not keep up.",
            cluster.dropped.value(),
        ),
        (
            "fanfare_cluster_healed_total",
            "counter",
            "Channel messages that were missed and recovered.",
            cluster.healed.value(),
        ),
        (
            "fanfare_cluster_messages_unwritten",
            "gauge",
            "Direct and group messages read here that the database does not have yet.",
            cluster.unwritten.value(),
        ),
        (
            "fanfare_cluster_users_online",
            "gauge",
            "Users online on any node.",
            cluster.users_online.value(),
        ),
    ] {
        page.single(name, kind, help, value);
    }
    let name = "fanfare_cluster_path_up";
    page.metric(name, "gauge", "1 while a path to Redis works, by path.");
    for (path, word) in paths(cluster, context.clock.now().ns) {
        page.sample(name, &format!("path=\"{path}\""), u64::from(word == "up"));
    }
}

fn codes(page: &mut Page, context: &RequestContext) {
    let stats = &context.app.stats;
    let name = "fanfare_refusals_total";
    page.metric(name, "counter", "Requests refused, by code and interface.");
    for code in Code::ALL {
        let on_sockets = stats.sum(|shard| &shard.refusals[code.index()]);
        page.sample(name, &format!("code=\"{}\",door=\"ws\"", code.as_str()), on_sockets);
        let over_http = stats.http.refused(code);
        page.sample(name, &format!("code=\"{}\",door=\"http\"", code.as_str()), over_http);
    }
    let name = "fanfare_closes_total";
    page.metric(name, "counter", "Connections closed by the server, by close code.");
    for reason in Reason::ALL {
        let count = stats.sum(|shard| &shard.closes[reason.index()]);
        page.sample(name, &format!("code=\"{}\"", reason.code()), count);
    }
    page.single(
        "fanfare_token_keys",
        "gauge",
        "Keys that tokens are checked with.",
        stats.token_keys.keys.value(),
    );
    page.single(
        "fanfare_token_key_failures_total",
        "counter",
        "Failed readings of the issuer's public keys; the last good ones stay in use.",
        stats.token_keys.failures.value(),
    );
    page.single("fanfare_http_requests_total", "counter", "HTTP requests.", stats.http.requests());
    page.single(
        "fanfare_http_connections",
        "gauge",
        "Open HTTP connections.",
        stats.http.connections(),
    );
}
