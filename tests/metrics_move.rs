//! Every documented metric moves when it should, and documents, alerts, dashboard and `/metrics` know the
//! same names.
//!
//! A server is driven through what each metric counts, one step after the other; each step names the
//! metrics that have to move with it. What no step moved has to be on a list, with the reason.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use fanfare_test_support::nodes;
use fanfare_test_support::postgres as pg;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use sqlx::{Connection as _, Executor as _};

use fanfare_test_support::proxy::{Fault, FaultyProxy};
use fanfare_test_support::raw::Raw;
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{Client, Server, eventually, instance, instances, token, with};

/// How long a figure may take to move, on a machine with other things to do.
const PATIENCE: Duration = Duration::from_secs(40);

/// What moves on a server that is alone.
const ALONE: &[&str] = &[
    "fanfare_artemis_change_sockets",
    "fanfare_artemis_heartbeat_sockets",
    "fanfare_blocked_writes_total",
    "fanfare_channel_history_bytes",
    "fanfare_channels",
    "fanfare_channels_forgotten_total",
    "fanfare_closes_total",
    "fanfare_connections",
    "fanfare_connections_opened_total",
    "fanfare_control_hold_seconds",
    "fanfare_control_hold_seconds_peak",
    "fanfare_control_turn_seconds",
    "fanfare_delivered_bytes_total",
    "fanfare_deliveries_total",
    "fanfare_events_total",
    "fanfare_fanout_latency_seconds",
    "fanfare_handshakes",
    "fanfare_http_connections",
    "fanfare_http_requests_total",
    "fanfare_http_unfinished_body_bytes",
    "fanfare_http_unsent_answer_bytes",
    "fanfare_mailbox_depth",
    "fanfare_memory_rss_bytes",
    "fanfare_messages_total",
    "fanfare_orders_total",
    "fanfare_outbox_bytes_peak",
    "fanfare_refusals_total",
    "fanfare_registry_changes_total",
    "fanfare_registry_degraded_services",
    "fanfare_registry_expired_total",
    "fanfare_registry_instances",
    "fanfare_registry_instances_bytes",
    "fanfare_registry_leases",
    "fanfare_registry_renewals_total",
    "fanfare_registry_services",
    "fanfare_service_history_bytes",
    "fanfare_services_forgotten_total",
    "fanfare_shard_events_total",
    "fanfare_slow_readers_total",
    "fanfare_snapshots_total",
    "fanfare_store_commits_total",
    "fanfare_store_healthy",
    "fanfare_store_set_aside_total",
    "fanfare_store_writes_total",
    "fanfare_subscriptions",
    "fanfare_topics",
    "fanfare_turn_seconds",
    "fanfare_turns_total",
    "fanfare_users_known",
    "fanfare_users_online",
    "fanfare_writes_total",
    "fanfare_written_bytes_total",
    "fanfare_written_frames_total",
];

/// What moves where there are several nodes.
const TOGETHER: &[&str] = &[
    "fanfare_cluster_calls_total",
    "fanfare_cluster_cut_off",
    "fanfare_cluster_healed_total",
    "fanfare_cluster_leases_owned",
    "fanfare_cluster_log_applied_total",
    "fanfare_cluster_log_lag",
    "fanfare_cluster_log_lost_total",
    "fanfare_cluster_log_resets_total",
    "fanfare_cluster_nodes",
    "fanfare_cluster_path_up",
    "fanfare_cluster_probe_failures_total",
    "fanfare_cluster_reconnects_total",
    "fanfare_cluster_redis_silence_ms",
    "fanfare_cluster_topics",
    "fanfare_cluster_users_online",
];

/// What needs a `PostgreSQL` that nodes share as well.
const WITH_POSTGRES: &[&str] =
    &["fanfare_cluster_messages_unwritten", "fanfare_cluster_notices_lag"];

/// What no step moves.
const NOT_DRIVEN: &[(&str, &str)] = &[
    (
        "fanfare_cluster_dropped_total",
        "needs a node that takes topics faster than its control thread can: no request makes that happen",
    ),
    (
        "fanfare_token_keys",
        "stands still but for an issuer's set of keys, which tests/token_keys.rs changes",
    ),
    (
        "fanfare_token_key_failures_total",
        "needs an issuer's set of keys: tests/token_keys.rs has it fail",
    ),
];

/// The page, sample by sample.
fn page(server: &Server) -> BTreeMap<String, f64> {
    let text = server.get("/metrics").text;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| line.rsplit_once(' '))
        .map(|(sample, value)| (sample.to_owned(), value.parse().expect("a number")))
        .collect()
}

/// The sum of the samples that a selector names: a metric, with the text of a label if one is meant.
/// Of a histogram it is the number of observations.
fn value(page: &BTreeMap<String, f64>, selector: &str) -> f64 {
    let (name, label) = selector.split_once('{').unwrap_or((selector, ""));
    let count = format!("{name}_count");
    let is_meant = |sample: &str| {
        let (of, labels) = sample.split_once('{').unwrap_or((sample, ""));
        (of == name || of == count) && labels.contains(label.trim_end_matches('}'))
    };
    let mut found = page.iter().filter(|(sample, _)| is_meant(sample)).peekable();
    assert!(found.peek().is_some(), "no sample of {selector}");
    found.map(|(_, value)| value).sum()
}

/// What has moved so far.
#[derive(Default)]
struct Moved(BTreeSet<String>);

impl Moved {
    /// Does something, after which these have to have moved: up, or down where there is a `-` before.
    fn step<T>(
        &mut self,
        server: &Server,
        what: &str,
        selectors: &[&str],
        action: impl FnOnce() -> T,
    ) -> T {
        let before = page(server);
        let done = action();
        let mut left: Vec<&str> = selectors.to_vec();
        let (start, mut now) = (std::time::Instant::now(), before.clone());
        while !left.is_empty() {
            assert!(start.elapsed() < PATIENCE, "{what}: {left:?} did not move: {now:?}");
            now = page(server);
            left.retain(|selector| match selector.strip_prefix('-') {
                Some(name) => value(&now, name) >= value(&before, name),
                None => value(&now, selector) <= value(&before, selector),
            });
        }
        let names = selectors.iter().map(|one| one.trim_start_matches('-'));
        self.0.extend(names.map(|one| one.split('{').next().unwrap_or_default().to_owned()));
        done
    }

    fn expect(&self, names: &[&str]) {
        let names: BTreeSet<String> = names.iter().map(|&name| name.to_owned()).collect();
        assert_eq!(self.0, names);
    }
}

/// A stream whose kernel takes little.
fn narrow(server: &Server) -> TcpStream {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
    socket.set_recv_buffer_size(4 * 1024).expect("a socket option");
    socket.connect(&server.address().into()).expect("the server accepts");
    TcpStream::from(socket)
}

fn publish(server: &Server, channel: &str, payload: &Value) {
    let path = format!("/api/v1/channels/{channel}/messages");
    let reply = server.post_json(&path, &json!({"payload": payload}));
    assert_eq!(reply.status, 200, "{}", reply.text);
}

fn expiring(service: &str, count: usize) -> Vec<Value> {
    instances(service, count).iter().map(|one| with(one, "leaseTtlMs", json!(1_000))).collect()
}

fn large(service: &str, name: &str, round: usize) -> Value {
    with(&instance(service, name), "metadata", json!({"padding": format!("{round:>4000}")}))
}

#[test]
#[allow(clippy::too_many_lines, reason = "a list of steps")]
fn every_metric_of_a_server_that_is_alone_moves() {
    let server = Server::start_for_people(&[
        "--shards",
        "1",
        "--auth",
        "open",
        "--outbox-bytes-max",
        "65536",
        "--write-timeout",
        "60s",
        "--service-forget-after",
        "1s",
        "--channels-max",
        "3",
        "--client-messages-per-s-max",
        "0",
        // Nobody reads for minutes, or renews.
        "--ping-interval",
        "10m",
        "--lease-ttl",
        "10m",
    ]);
    let mut moved = Moved::default();
    let step = &mut moved;
    let silent =
        step.step(&server, "a connection that says nothing", &["fanfare_handshakes"], || {
            TcpStream::connect(server.address()).expect("accepted")
        });
    drop(silent);
    let (mut ann, _crowd) = step.step(
        &server,
        "a user's socket",
        &[
            "fanfare_connections",
            "fanfare_connections_opened_total",
            "fanfare_users_online",
            "fanfare_users_known",
            "fanfare_turns_total",
            "fanfare_turn_seconds",
            "fanfare_control_hold_seconds",
            "fanfare_control_turn_seconds",
            "fanfare_orders_total",
            "fanfare_http_requests_total",
            "fanfare_memory_rss_bytes",
        ],
        || {
            // Enough of them for memory to show.
            let crowd: Vec<Client> = (0..200).map(|_| server.connect()).collect();
            (server.connect_as("ann"), crowd)
        },
    );
    step.step(
        &server,
        "a subscription",
        &["fanfare_subscriptions", "fanfare_topics", "fanfare_messages_total"],
        || ann.subscribe("orders"),
    );
    step.step(
        &server,
        "an instance",
        &[
            "fanfare_registry_services",
            "fanfare_registry_instances",
            "fanfare_registry_leases",
            "fanfare_registry_changes_total",
            "fanfare_registry_instances_bytes",
            "fanfare_service_history_bytes",
            "fanfare_events_total",
            "fanfare_shard_events_total",
            "fanfare_deliveries_total",
            "fanfare_delivered_bytes_total",
            "fanfare_writes_total",
            "fanfare_written_bytes_total",
            "fanfare_written_frames_total",
            "fanfare_fanout_latency_seconds",
            "fanfare_store_commits_total",
        ],
        || server.register(&[instance("orders", "one")]),
    );
    ann.expect("service_change");
    let artemis = step.step(
        &server,
        "sockets of Artemis' clients",
        &["fanfare_artemis_change_sockets", "fanfare_artemis_heartbeat_sockets"],
        || {
            ["/ws/discovery/instance-change", "/ws/registry/heartbeat"]
                .map(|path| Raw::open(server.address(), path))
        },
    );
    drop(artemis);
    step.step(&server, "a large batch", &["fanfare_control_hold_seconds_peak"], || {
        server.register(&instances("crowd", 4_000));
    });
    step.step(&server, "a heartbeat", &["fanfare_registry_renewals_total"], || {
        server.heartbeat(&[instance("orders", "one")]);
    });
    step.step(
        &server,
        "a lease that runs out, and a service without instances",
        &["fanfare_registry_expired_total", "fanfare_services_forgotten_total"],
        || server.register(&expiring("short", 1)),
    );
    step.step(&server, "many leases that run out", &["fanfare_registry_degraded_services"], || {
        server.register(&expiring("weak", 6));
    });
    step.step(
        &server,
        "a message in a channel",
        &["fanfare_channels", "fanfare_channel_history_bytes"],
        || publish(&server, "one", &json!("first")),
    );
    step.step(
        &server,
        "more channels than there may be",
        &["fanfare_channels_forgotten_total"],
        || {
            for name in ["two", "three", "four", "five"] {
                publish(&server, name, &json!("first"));
            }
        },
    );
    step.step(&server, "a direct message", &["fanfare_store_writes_total"], || {
        let message = json!({"to_user_id": "ann", "content": "hello"});
        let sent = server.call("POST", "/api/v1/messages", &token("bob", "message"), &message);
        assert_eq!(sent.status, 201, "{}", sent.text);
    });
    step.step(&server, "a refused message", &["fanfare_refusals_total{door=\"ws\"}"], || {
        ann.send_text("nope");
    });
    step.step(&server, "a refused request", &["fanfare_refusals_total{door=\"http\"}"], || {
        server.get("/nothing-here");
    });
    step.step(&server, "a closed socket", &["fanfare_closes_total{code=\"1000\"}"], || {
        server.connect().socket.close(None).expect("a close frame");
    });
    slow_readers(step, &server);
    half_done_requests(step, &server);
    let flood = step
        .step(&server, "a flood of orders", &["fanfare_mailbox_depth"], || Flood::begin(&server));
    drop(flood);
    unwell_store(step, &server);
    moved.expect(ALONE);
}

fn slow_readers(step: &mut Moved, server: &Server) {
    // A service that is new begins with a snapshot; that is not the one that is meant here.
    server.register(&[large("slow", "i0", 0)]);
    let mut slow = server.connect_over(narrow(server));
    let mut picture = slow.follow("slow");
    let behind = [
        "fanfare_blocked_writes_total",
        "fanfare_slow_readers_total{outcome=\"collapsed\"}",
        "fanfare_outbox_bytes_peak",
        "fanfare_snapshots_total",
    ];
    step.step(server, "a reader of a service that falls behind, and reads again", &behind, || {
        for round in 0..4_000 {
            server.register(&[large("slow", &format!("i{}", round % 10), round)]);
            if server.count("fanfare_slow_readers_total{outcome=\"collapsed\"}") > 0 {
                break;
            }
        }
        loop {
            let frame = slow.next_json();
            picture.apply(&frame);
            if frame["type"] == "service_snapshot" {
                return;
            }
        }
    });
    let mut slow = server.connect_over(narrow(server));
    slow.send_json(&json!({"type": "subscribe", "channel": "much"}));
    slow.find_type("subscribed");
    let closed = ["fanfare_slow_readers_total{outcome=\"closed\"}"];
    step.step(server, "a reader of a channel that falls behind", &closed, || {
        for _ in 0..1_000 {
            publish(server, "much", &json!("x".repeat(30_000)));
            if server.count("fanfare_slow_readers_total{outcome=\"closed\"}") > 0 {
                return;
            }
        }
    });
}

fn half_done_requests(step: &mut Moved, server: &Server) {
    let host = server.address();
    let all: Vec<Value> = (0..2_000).map(|n| large("many", &format!("i{n}"), n)).collect();
    all.chunks(200).for_each(|some| server.register(some));
    let mut unread = narrow(server);
    step.step(
        server,
        "an answer that nobody reads",
        &["fanfare_http_unsent_answer_bytes", "fanfare_http_connections"],
        || {
            let head = format!(
                "GET /api/discovery/service?serviceId=many HTTP/1.1\r\nHost: {host}\r\n\r\n"
            );
            unread.write_all(head.as_bytes()).expect("sent");
        },
    );
    drop(unread);
    let mut unfinished = TcpStream::connect(host).expect("accepted");
    step.step(server, "half of a body", &["fanfare_http_unfinished_body_bytes"], || {
        let head = format!(
            "POST /api/registry/register HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n\
             Content-Length: 200000\r\n\r\n{{\"instances\":[{}",
            " ".repeat(100_000)
        );
        unfinished.write_all(head.as_bytes()).expect("sent");
    });
    drop(unfinished);
}

/// Clients that send more orders than control takes at once, until it is dropped.
struct Flood {
    is_over: Arc<AtomicBool>,
    clients: Vec<JoinHandle<()>>,
}

impl Flood {
    fn begin(server: &Server) -> Flood {
        let is_over = Arc::<AtomicBool>::default();
        // Batches that a shard leaves to the timekeeper: smaller ones it carries out before it goes on.
        let entries = instances("flood", 160);
        let clients = (0..16).map(|_| {
            let (mut client, entries) = (server.connect(), entries.clone());
            let is_over = Arc::clone(&is_over);
            std::thread::spawn(move || {
                for round in 0.. {
                    let some = &entries[round % 60..][..100];
                    client.send_json(&json!({"type": "register", "instances": some}));
                    if round % 8 == 7 {
                        client.drain();
                    }
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                }
            })
        });
        Flood { clients: clients.collect(), is_over }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        for client in self.clients.drain(..) {
            let _ = client.join();
        }
    }
}

fn unwell_store(step: &mut Moved, server: &Server) {
    let url = format!("sqlite://{}", server.dir().join("data/fanfare.db").display());
    let database = || async { sqlx::SqliteConnection::connect(&url).await.expect("connects") };
    pg::block_on(async {
        for event in ["INSERT", "UPDATE"] {
            let trigger = format!(
                "CREATE TRIGGER no_{event} BEFORE {event} ON instance WHEN NEW.json LIKE '%poison%'
                 BEGIN SELECT RAISE(ABORT, 'this is poison'); END"
            );
            database().await.execute(sqlx::AssertSqlSafe(trigger)).await.expect("done");
        }
    });
    step.step(server, "a row that is refused", &["fanfare_store_set_aside_total"], || {
        server.register(&[with(&instance("orders", "bad"), "metadata", json!({"m": "poison"}))]);
    });
    // Another process holds the database: what is to be written waits in vain.
    let mut holder = pg::block_on(database());
    pg::block_on(async { holder.execute("BEGIN IMMEDIATE").await.expect("it is held") });
    step.step(server, "a database that takes nothing", &["-fanfare_store_healthy"], || {
        server.register(&[instance("orders", "late")]);
    });
    pg::block_on(async { holder.execute("ROLLBACK").await.expect("it is free") });
    eventually("it is well again", PATIENCE, || server.count("fanfare_store_healthy") == 1);
}

#[test]
fn every_metric_of_several_nodes_moves() {
    let redis = Redis::start_alone();
    let (one, proxy) = nodes::node_over_proxy(&redis, &["--auth", "open"]);
    let mut moved = Moved::default();
    let step = &mut moved;
    let two = step.step(&one, "another node", &["fanfare_cluster_nodes"], || {
        nodes::node(&redis, &["--auth", "open"])
    });
    // It has begun from a snapshot, and that is what resets count.
    assert!(two.count("fanfare_cluster_log_resets_total") >= 1);
    step.0.insert(String::from("fanfare_cluster_log_resets_total"));
    step.step(
        &one,
        "an instance",
        &["fanfare_cluster_log_applied_total", "fanfare_cluster_leases_owned"],
        || one.register(&[instance("orders", "one")]),
    );
    let mut ann = step
        .step(&one, "a user's socket", &["fanfare_cluster_users_online"], || one.connect_as("ann"));
    step.step(
        &one,
        "a channel that is followed",
        &["fanfare_cluster_topics", "fanfare_cluster_calls_total"],
        || {
            ann.send_json(&json!({"type": "subscribe", "channel": "news"}));
            ann.find_type("subscribed");
        },
    );
    step.step(&one, "entries that may not be read", &["fanfare_cluster_log_lag"], || {
        redis.order(&["ACL", "SETUSER", "default", "-xread"]);
        // The first one is what a read that is under way has waited for.
        for name in ["two", "three"] {
            let body = json!({"instances": [instance("orders", name)]});
            two.post_json("/api/registry/register.json", &body);
        }
    });
    redis.order(&["ACL", "SETUSER", "default", "+xread"]);
    eventually("it has caught up", PATIENCE, || one.count("fanfare_cluster_log_lag") == 0);
    [&one, &two].into_iter().for_each(nodes::await_ready);

    step.step(
        &one,
        "topics that are not heard, and are heard again",
        &[
            "fanfare_cluster_probe_failures_total",
            "fanfare_cluster_healed_total",
            "fanfare_cluster_reconnects_total",
        ],
        || {
            let failures = || one.count("fanfare_cluster_probe_failures_total");
            let before = failures();
            proxy.set(Fault::LosePublished);
            publish(&two, "news", &json!("missed"));
            eventually("it is noticed", PATIENCE, || failures() > before);
            proxy.set(Fault::None);
        },
    );
    nodes::await_ready(&one);
    step.step(
        &one,
        "a Redis that hangs",
        &[
            "fanfare_cluster_log_lost_total",
            "fanfare_cluster_redis_silence_ms",
            "fanfare_cluster_cut_off",
            "-fanfare_cluster_path_up",
        ],
        || {
            proxy.set(Fault::Block);
            // It is accepted while nobody knows, and finds no place in the log.
            let body = json!({"instances": [instance("orders", "lost")]});
            one.post_json("/api/registry/register.json", &body);
        },
    );
    proxy.set(Fault::None);
    nodes::await_ready(&one);
    moved.expect(TOGETHER);
}

#[test]
fn every_metric_of_the_journal_moves() {
    // Where there is none it says so.
    let Some(database) = pg::Database::create() else { return };
    let redis = Redis::start_alone();
    let proxy = FaultyProxy::to(database.address());
    let url = database.url_by(proxy.address());
    let node = nodes::node(&redis, &["--auth", "open", "--database-url", &url]);
    let mut moved = Moved::default();
    for user in ["ann", "bob"] {
        drop(node.connect_as(user));
    }
    let send = || {
        let message = json!({"to_user_id": "ann", "content": "hello"});
        let sent = node.call("POST", "/api/v1/messages", &token("bob", "message"), &message);
        assert_eq!(sent.status, 201, "{}", sent.text);
    };
    moved.step(&node, "a journal that may not be read", &["fanfare_cluster_notices_lag"], || {
        // The log may be: without it the node would take no message.
        let log_alone = "(+xread ~fanfare:{registry}:*)";
        assert_eq!(redis.order(&["ACL", "SETUSER", "default", "-xread", log_alone]), "+OK");
        // The first one is what a read that is under way has waited for.
        (0..5).for_each(|_| send());
    });
    redis.order(&["ACL", "SETUSER", "default", "clearselectors", "+xread"]);
    eventually("it is read", PATIENCE, || node.count("fanfare_cluster_notices_lag") == 0);
    nodes::await_ready(&node);
    let unwritten = || node.count("fanfare_cluster_messages_unwritten");
    eventually("all is written", PATIENCE, || unwritten() == 0);
    moved.step(&node, "a database that is away", &["fanfare_cluster_messages_unwritten"], || {
        proxy.set(Fault::Down);
        send();
    });
    moved.expect(WITH_POSTGRES);
}

/// The names in the first column of the documents' tables.
fn documented() -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for path in ["docs/operations.md", "docs/cluster.md"] {
        let text = fs::read_to_string(path).expect("the document is there");
        for line in text.lines().filter_map(|line| line.strip_prefix("| `fanfare_")) {
            let (name, rest) = line.split_once('`').expect("a name");
            if !rest.starts_with(" |") {
                continue;
            }
            assert!(names.insert(format!("fanfare_{name}")), "twice: {name}");
        }
    }
    names
}

#[test]
fn every_documented_metric_is_driven_or_has_a_reason() {
    let driven = ALONE.iter().chain(TOGETHER).chain(WITH_POSTGRES).copied();
    let all: Vec<&str> = driven.chain(NOT_DRIVEN.iter().map(|(name, _)| *name)).collect();
    let names: BTreeSet<String> = all.iter().map(|&name| name.to_owned()).collect();
    assert_eq!(names.len(), all.len(), "one stands twice");
    assert_eq!(names, documented());
    assert!(NOT_DRIVEN.iter().all(|(_, reason)| !reason.is_empty()));
}

#[test]
fn documents_alerts_dashboard_and_page_name_the_same_metrics() {
    let redis = Redis::start();
    let node = nodes::node(&redis, &["--auth", "open"]);
    let text = node.get("/metrics").text;
    let kinds: BTreeMap<&str, &str> =
        text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split_once(' ')).collect();
    let on_page: BTreeSet<String> = kinds.keys().map(|&name| name.to_owned()).collect();
    assert_eq!(on_page, documented());
    let is_there = |name: &str| {
        let of_histogram =
            ["_bucket", "_sum", "_count"].iter().filter_map(|end| name.strip_suffix(end));
        kinds.contains_key(name)
            || of_histogram.into_iter().any(|family| kinds.get(family) == Some(&"histogram"))
    };
    for path in [
        "deploy/prometheus/alerts.yaml",
        "deploy/prometheus/alerts.test.yaml",
        "deploy/grafana/fanfare.json",
    ] {
        let text = fs::read_to_string(path).expect("the file is there");
        let named = words(&text);
        assert!(named.len() > 5, "{path} names hardly any");
        for name in named {
            assert!(is_there(&name), "{path} names {name}, which is nowhere");
        }
    }
    // In running text a metric stands in backticks; what else begins like that is none of the server's.
    let documents = fs::read_dir("docs").expect("a directory");
    let documents = documents.map(|entry| entry.expect("readable").path());
    let documents = documents.filter(|path| path.extension().is_some_and(|kind| kind == "md"));
    for path in documents.chain([PathBuf::from("README.md")]) {
        let text = fs::read_to_string(&path).expect("the document is there");
        for span in text.split('`').filter(|span| span.starts_with("fanfare_")) {
            for name in words(span) {
                assert!(is_there(&name), "{} names {name}, which is nowhere", path.display());
            }
        }
    }
}

/// The words of a text that could be names of metrics.
fn words(text: &str) -> BTreeSet<String> {
    let is_part = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
    let words = text.split(|c: char| !is_part(c)).filter(|word| word.starts_with("fanfare_"));
    words.map(str::to_owned).collect()
}

/// Latency and peaks are of the last seconds: what is over is not shown for ever.
#[test]
fn latency_and_peaks_are_of_the_last_seconds() {
    let server = Server::start(&["--shards", "1"]);
    let mut client = server.connect();
    client.subscribe("orders");
    server.register(&[instance("orders", "one")]);
    client.expect("service_change");
    let stats = || server.get("/ws/stats").body;
    let count = |of: &Value, key: &str| of[key]["count"].as_u64().expect("a number");
    eventually("it is measured", PATIENCE, || {
        let now = stats();
        count(&now, "fanout_latency_us") == 1 && count(&now, "fanout_latency_10s_us") == 1
    });
    let now = stats();
    assert_eq!(now["scope"], "node", "{now}");
    assert!(now["fanout_latency_us"]["max"].as_u64() > Some(0), "{now}");
    assert!(now["outbox_bytes_peak"].as_u64() > Some(0), "{now}");
    // Nothing happens; after ten seconds nothing has happened in the last ten.
    eventually("ten seconds are over", PATIENCE, || {
        let now = stats();
        count(&now, "fanout_latency_10s_us") == 0 && now["outbox_bytes_peak_10s"] == 0
    });
    let now = stats();
    assert_eq!(now["fanout_latency_10s_us"]["p99"], 0, "{now}");
    assert_eq!(server.get("/ws/stats?scope=cluster").body["scope"], "cluster");
    // The page's histogram is of all times, as is the custom.
    assert!(server.count("fanfare_fanout_latency_seconds_count") >= 1);
}
