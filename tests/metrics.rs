//! The server's counters can be read while it runs, in forms that programs understand, and the
//! numbers are true.

use std::collections::{BTreeMap, BTreeSet};

use fanfare_test_support::{READ_PATIENCE, Server, eventually, instance, instances};
use serde_json::{Value, json};

#[test]
fn the_page_is_prometheus_text() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.subscribe("orders");
    server.register(&[instance("orders", "one")]);
    client.expect("service_change");
    let page = server.get("/metrics");
    assert_eq!(page.status, 200);
    let kind = page.header("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain; version=0.0.4"), "{kind}");
    assert!(page.text.ends_with('\n'));

    let (mut kinds, mut helps, mut samples) = (BTreeMap::new(), BTreeSet::new(), BTreeSet::new());
    for line in page.text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            let (name, kind) = rest.split_once(' ').expect("a name and a type");
            assert!(["counter", "gauge", "histogram"].contains(&kind), "{line}");
            assert_eq!(kinds.insert(name, kind), None, "twice: {line}");
        } else if let Some(rest) = line.strip_prefix("# HELP ") {
            let (name, text) = rest.split_once(' ').expect("a name and a text");
            assert!(!text.is_empty(), "{line}");
            assert!(helps.insert(name), "twice: {line}");
        } else {
            let (sample, value) = line.rsplit_once(' ').expect("a sample and a value");
            assert!(value.parse::<f64>().is_ok(), "{line}");
            assert!(samples.insert(sample), "twice: {line}");
            let name = sample.split('{').next().expect("a name");
            let family = ["_bucket", "_sum", "_count"]
                .iter()
                .filter_map(|end| name.strip_suffix(end))
                .find(|family| kinds.get(family) == Some(&"histogram"))
                .unwrap_or(name);
            let kind = kinds.get(family).unwrap_or_else(|| panic!("no type before {line}"));
            assert!(helps.contains(family), "no help for {line}");
            assert!(*kind != "counter" || family.ends_with("_total"), "{line}");
        }
    }
    assert!(kinds.values().any(|&kind| kind == "histogram"));
}

#[test]
fn histograms_add_up() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.subscribe("orders");
    for instance in instances("orders", 20) {
        server.register(&[instance]);
        client.expect("service_change");
    }
    let page = server.get("/metrics").text;
    let mut families: BTreeMap<&str, Vec<u64>> = BTreeMap::new();
    for line in page.lines().filter(|line| line.contains("_bucket{")) {
        let (family, rest) = line.split_once("_bucket{").expect("a bucket");
        let value = rest.rsplit_once(' ').expect("a value").1;
        families.entry(family).or_default().push(value.parse().expect("a number"));
    }
    assert!(families.contains_key("fanfare_fanout_latency_seconds"), "{page}");
    for (family, buckets) in families {
        assert!(buckets.is_sorted(), "{family}: {buckets:?}");
        assert!(page.contains(&format!("{family}_bucket{{le=\"+Inf\"}}")), "{family}");
        let count = page
            .lines()
            .find_map(|line| line.strip_prefix(family)?.strip_prefix("_count "))
            .and_then(|value| value.parse::<u64>().ok());
        assert_eq!(count, buckets.last().copied(), "{family}");
    }
}

#[test]
fn registry_numbers_are_true() {
    let server = Server::start(&[]);
    server.register(&instances("orders", 10));
    server.register(&instances("users", 5));
    server.unregister(&instances("users", 2));
    server.heartbeat(&instances("orders", 10));
    for (sample, value) in [
        ("fanfare_registry_services", 2),
        ("fanfare_registry_instances", 13),
        ("fanfare_registry_leases", 13),
        ("fanfare_registry_changes_total", 17),
        ("fanfare_registry_renewals_total", 10),
        ("fanfare_registry_expired_total", 0),
        ("fanfare_registry_degraded_services", 0),
    ] {
        let now = || server.count(sample);
        eventually(&format!("{sample} is {value}"), READ_PATIENCE, || now() == value);
    }
    let node = server.get("/api/status/node.json");
    assert_eq!(node.body["instances"], 13, "{}", node.text);
    assert_eq!(node.body["services"], 2, "{}", node.text);
}

#[test]
fn sockets_and_deliveries_are_counted() {
    let server = Server::start(&["--shards", "2"]);
    let stats = || server.get("/ws/stats").body;
    let mut clients: Vec<_> = (0..10).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.subscribe("orders");
        client.subscribe("users");
    }
    assert_eq!(stats()["connections"], 10, "{}", stats());
    assert_eq!(stats()["subscriptions"], 20, "{}", stats());
    for n in 0..5 {
        server.register(&[instance("orders", &format!("i{n}"))]);
        for client in &mut clients {
            client.expect("service_change");
        }
    }
    eventually("every delivery is counted", READ_PATIENCE, || stats()["deliveries_total"] == 50);
    let now = stats();
    assert_eq!(now["events_total"], 5, "{now}");
    assert_eq!(now["slow_readers_total"], 0, "{now}");
    assert!(now["delivered_bytes_total"].as_u64() > Some(50 * 100), "{now}");
    assert!(now["memory_rss_bytes"].as_u64() > Some(1 << 20), "{now}");
    assert_eq!(now["shards"].as_array().map(Vec::len), Some(2), "{now}");
    for field in ["p50", "p90", "p99", "p999", "max"] {
        assert!(now["fanout_latency_us"][field].is_u64(), "{now}");
    }
    for field in ["users_online", "topics", "uptime_s"] {
        assert!(now[field].is_u64(), "{field}: {now}");
    }
    drop(clients);
    eventually("nobody is left", READ_PATIENCE, || {
        let now = stats();
        now["connections"] == 0 && now["subscriptions"] == 0 && now["topics"] == 0
    });
}

#[test]
fn refusals_are_counted_by_code() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for _ in 0..3 {
        client.send_text("nope");
        client.expect_error("malformed");
    }
    server.get("/nope");
    assert_eq!(server.count("fanfare_refusals_total{code=\"malformed\",door=\"ws\"}"), 3);
    assert_eq!(server.count("fanfare_refusals_total{code=\"not_found\",door=\"http\"}"), 1);
}

#[test]
fn the_configuration_is_shown_by_the_flags_names_without_secrets() {
    let secret = "0123456789abcdef0123456789abcdef-not-for-eyes";
    let server = Server::start(&["--outbox-bytes-max", "65536", "--jwt-secret", secret]);
    let config = server.get("/api/status/config.json");
    let text = |key: &str| -> Value { config.body[key].clone() };
    assert_eq!(text("outbox_bytes_max"), json!(65_536), "{}", config.text);
    for key in [
        "bind",
        "shards",
        "auth",
        "data_dir",
        "lease_ttl",
        "self_protection_max",
        "client_messages_per_s_max",
        "subscriptions_per_connection_max",
        "service_history_max",
        "drain_window",
        "ping_interval",
        "pong_timeout",
        "write_timeout",
        "echo",
    ] {
        assert_ne!(text(key), Value::Null, "{key}: {}", config.text);
    }
    assert!(!config.text.contains(secret), "{}", config.text);
}
