//! A service that a request names twice is answered once, and no answer is larger than the bound,
//! neither alone nor together with other unread answers.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use std::time::Duration;

use fanfare_test_support::raw::Raw;
use fanfare_test_support::{Server, eventually, instance, with};
use serde_json::{Value, json};

const LOOKUP: &str = "/api/discovery/lookup.json";
const HEARTBEAT: &str = "/api/registry/heartbeat.json";
const MIB: usize = 1_024 * 1_024;

/// Registers a service of about so many bytes.
fn register_large(server: &Server, service: &str, bytes: usize) {
    let piece = 32 * 1_024;
    let instances: Vec<Value> = (0..bytes.div_ceil(piece))
        .map(|index| {
            let metadata = json!({"x": "y".repeat(piece)});
            with(&instance(service, &format!("i{index}")), "metadata", metadata)
        })
        .collect();
    for batch in instances.chunks(64) {
        server.register(batch);
    }
}

fn lookup(names: &[&str]) -> Value {
    let configs: Vec<Value> = names.iter().map(|name| json!({"serviceId": name})).collect();
    json!({"discoveryConfigs": configs})
}

fn get(path: &str) -> Vec<u8> {
    format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").into_bytes()
}

#[test]
fn lookup_answers_each_name_once_in_the_order_first_asked() {
    let server = Server::start(&[]);
    server.register(&[instance("a", "one"), instance("b", "one")]);
    let reply = server.post_json(LOOKUP, &lookup(&["b", "A", "never", "a", "B", "Never"]));
    assert_eq!(reply.outcome(), ("success", "success"));
    let services = reply.body["services"].as_array().expect("services");
    let names: Vec<&str> =
        services.iter().map(|one| one["serviceId"].as_str().expect("a name")).collect();
    assert_eq!(names, ["b", "a", "never"]);
    assert_eq!((&services[2]["instances"], &services[2]["revision"]), (&json!([]), &json!(0)));
    assert_eq!(services[2]["epoch"], services[0]["epoch"]);
    // What was asked for does not come to be: nobody can fill the registry with names.
    assert_eq!(server.get("/api/discovery/services.json").body["services"][2], Value::Null);

    let once = server.post_json(LOOKUP, &lookup(&["a"])).text.len();
    let often = server.post_json(LOOKUP, &lookup(&["a"; 1_000])).text.len();
    assert_eq!(once, often);
    let many: Vec<String> = (0..1_001).map(|index| format!("s{index}")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(server.post_json(LOOKUP, &lookup(&many)).outcome(), ("fail", "bad-request"));
}

#[test]
fn entries_of_a_batch_count_once() {
    let server = Server::start(&[]);
    let key = json!({"serviceId": "s", "instanceId": "i"});
    let loud = json!({"serviceId": "S", "instanceId": "I"});
    let keys: Vec<&Value> = [&key, &loud].into_iter().cycle().take(2_000).collect();
    let reply = server.post_json(HEARTBEAT, &json!({"instanceKeys": keys}));
    assert_eq!(reply.body["failedInstanceKeys"].as_array().map(Vec::len), Some(1));
    let said = reply.body["responseStatus"]["message"].as_str().expect("a message");
    assert!(said.starts_with("1 of 1 entries"), "{said}");

    let mut client = server.connect();
    client.subscribe("s");
    client.send_json(&json!({"type": "heartbeat", "instance_keys": keys[..200]}));
    let acknowledged = client.expect("heartbeat_ack");
    assert_eq!(acknowledged["failed_instance_keys"].as_array().map(Vec::len), Some(1));

    // The same said twice is said once; something else said of the same instance is news.
    let (up, down) = (instance("s", "i"), with(&instance("s", "i"), "status", json!("down")));
    server.register(&[up.clone(), up.clone(), down.clone(), down, up]);
    assert_eq!(server.discover("s")["revision"], 3);
}

#[test]
fn a_batch_has_a_number_of_entries() {
    let server = Server::start(&[]);
    for (path, field) in [
        ("/api/registry/register", "instances"),
        (HEARTBEAT, "instanceKeys"),
        ("/api/registry/unregister", "instances"),
    ] {
        let body = |count| format!("{{\"{field}\":[{}]}}", vec!["{}"; count].join(","));
        let reply = server.request(
            "POST",
            path,
            &[("Content-Type", "application/json")],
            body(100_001).as_bytes(),
        );
        reply.expect_problem(413, "too_large");
    }
}

#[test]
fn an_answer_that_is_too_large_is_refused_and_a_smaller_one_is_given() {
    let server = Server::start(&["--answer-bytes-max", "64KiB"]);
    register_large(&server, "large", 80 * 1_024);
    server.register(&[instance("small", "one")]);
    for path in [
        "/api/discovery/service.json?serviceId=large",
        "/api/discovery/services.json",
        "/api/status/leases.json?service_id=large",
    ] {
        server.get(path).expect_problem(413, "too_large");
    }
    server.post_json(LOOKUP, &lookup(&["large"])).expect_problem(413, "too_large");
    let since = json!({"version": 0});
    let delta = server.post_json("/api/discovery/services-delta.json", &since);
    if delta.body["responseStatus"].is_null() {
        delta.expect_problem(413, "too_large");
    }
    for path in ["/eureka/apps", "/eureka/apps/LARGE", "/eureka/apps/delta"] {
        assert_eq!(server.get(path).status, 413, "{path}");
        // Packed it is small.
        let mut raw = Raw::connect(server.address());
        let head =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAccept-Encoding: gzip\r\n\r\n");
        raw.send(head.as_bytes());
        let expected = if path.ends_with("delta") { 413 } else { 200 };
        assert_eq!(raw.response().0, expected, "{path}");
    }
    let smaller = server.post_json(LOOKUP, &lookup(&["small", "never"]));
    assert_eq!(smaller.outcome(), ("success", "success"));
    assert_eq!(server.get("/api/status/leases.json").status, 200);
    assert_eq!(server.get("/eureka/apps/SMALL").status, 200);

    for _ in 0..3 {
        let message = json!({"payload": "x".repeat(30_000)});
        let reply = server.post_json("/api/v1/channels/c/messages", &message);
        assert_eq!(reply.status, 200);
    }
    server.get("/api/v1/channels/c/history").expect_problem(413, "too_large");
    assert_eq!(server.get("/api/v1/channels/c/history?limit=1").status, 200);

    // A socket gets its snapshot all the same: it goes through the outbox.
    let mut client = server.connect();
    client.send_json(&json!({"type": "subscribe", "service_id": "large", "snapshot": true}));
    let subscribed = client.expect("subscribed");
    assert_eq!(subscribed["instances"].as_array().map(Vec::len), Some(3));
}

#[test]
fn what_nobody_reads_is_bounded_and_small_answers_go_on() {
    let server = Server::start(&[
        "--shards",
        "1",
        "--answer-bytes-max",
        "8MiB",
        "--unsent-answer-bytes-max",
        "8MiB",
    ]);
    register_large(&server, "large", 7 * MIB);
    let ask = get("/api/discovery/service.json?serviceId=large");
    let mut unread = Raw::connect(server.address());
    unread.send(&ask);
    // The kernel takes a part of it, and the rest is held.
    eventually("no room for a second one", Duration::from_secs(20), || {
        let mut second = Raw::connect(server.address());
        second.send(&ask);
        let (status, head, body) = second.response();
        if status == 503 {
            assert!(head.to_lowercase().contains("retry-after: 1"), "{head}");
            let problem: Value = serde_json::from_slice(&body).expect("a problem");
            assert_eq!(problem["code"], "unavailable");
        }
        status == 503
    });
    assert_eq!(server.get("/health").status, 200);
    assert_eq!(server.get("/metrics").status, 200);
    server.register(&[instance("small", "one")]);
    assert_eq!(server.discover("small")["revision"], 1);
    // Whoever reads gives the room back.
    let (status, _, body) = unread.response();
    assert!(status == 200 && body.len() > 7 * MIB, "{status}, {} bytes", body.len());
    eventually("room again", Duration::from_secs(20), || {
        server.get("/api/discovery/service.json?serviceId=large").status == 200
    });
    // So does whoever goes away.
    let mut gone = Raw::connect(server.address());
    gone.send(&ask);
    drop(gone);
    eventually("room again", Duration::from_secs(20), || {
        server.get("/api/discovery/service.json?serviceId=large").status == 200
    });
}

#[test]
fn a_connection_that_pipelines_holds_one_answer() {
    let server = Server::start(&[
        "--shards",
        "1",
        "--answer-bytes-max",
        "8MiB",
        "--unsent-answer-bytes-max",
        "18MiB",
    ]);
    register_large(&server, "large", 7 * MIB);
    let ask = get("/api/discovery/service.json?serviceId=large");
    let mut pipelined = Raw::connect(server.address());
    pipelined.send(&ask.repeat(5));
    // Two such answers find room, so the five do not hold more than one of them.
    for _ in 0..5 {
        let mut other = Raw::connect(server.address());
        other.send(&ask);
        assert_eq!(other.response().0, 200);
    }
    for _ in 0..5 {
        let (status, _, body) = pipelined.response();
        assert!(status == 200 && body.len() > 7 * MIB, "{status}, {} bytes", body.len());
    }
}

#[test]
fn a_listing_that_many_ask_for_counts_once() {
    let server = Server::start(&[
        "--shards",
        "1",
        "--answer-bytes-max",
        "8MiB",
        "--unsent-answer-bytes-max",
        "10MiB",
    ]);
    register_large(&server, "large", 7 * MIB);
    assert_eq!(server.get("/api/discovery/services.json").status, 200);
    let ask = get("/api/discovery/services.json");
    let mut all: Vec<Raw> = (0..10).map(|_| Raw::connect(server.address())).collect();
    for raw in &mut all {
        raw.send(&ask);
    }
    for raw in &mut all {
        assert_eq!(raw.response().0, 200);
    }
}
