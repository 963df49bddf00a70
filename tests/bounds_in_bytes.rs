//! The memory that clients can make the server hold is bounded in bytes: instances, histories, and
//! replays to clients that do not read. Receivers can parse every value that is passed on.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use std::time::{Duration, Instant};

use fanfare_test_support::{Client, Server, eventually, instance, with};
use serde_json::{Value, json};

const KIB: usize = 1024;
const MIB: u64 = 1024 * 1024;

/// An instance whose metadata has about so many bytes.
fn large(service: &str, name: &str, bytes: usize, mark: u64) -> Value {
    let metadata = json!({"mark": mark, "filling": "x".repeat(bytes)});
    with(&instance(service, name), "metadata", metadata)
}

/// A JSON text that nests so deep.
fn nest(depth: usize) -> String {
    format!("{}{}", "[".repeat(depth), "]".repeat(depth))
}

fn rss(server: &Server) -> u64 {
    server.get("/ws/stats").body["memory_rss_bytes"].as_u64().expect("a size")
}

#[test]
fn an_instance_has_a_size_limit_of_its_own() {
    let server = Server::start(&["--client-message-bytes-max", "1MiB"]);
    let (fits, small) = (large("s", "fits", 63 * KIB, 0), instance("s", "small"));
    let over = large("s", "over", 65 * KIB, 0);
    let batch = json!({"instances": [fits, over, small]});
    let reply = server.post_json("/api/registry/register.json", &batch);
    let failed = reply.body["failedInstances"].as_array().expect("a list");
    assert_eq!(failed.len(), 1, "{}", reply.outcome().1);
    assert_eq!(failed[0]["errorCode"], "bad-request");
    assert_eq!(failed[0]["instance"]["instanceId"], "over");
    assert_eq!(server.discover("s")["instances"].as_array().expect("a list").len(), 2);

    let mut client = server.connect();
    let message = json!({"type": "register", "id": 7, "instances": [over, instance("t", "one")]});
    client.send_json(&message);
    let refused = client.expect_error("too_large");
    assert_eq!(refused["id"], 7);
    assert!(refused["message"].as_str().expect("a text").contains("over"), "{refused}");
    let message = json!({"type": "register", "instances": [large("t", "fits", 63 * KIB, 0)]});
    assert_eq!(client.ask(&message, "registered")["failed_instances"], json!([]));
    assert_eq!(server.discover("t")["instances"].as_array().expect("a list").len(), 1);

    let eureka = json!({"instance": {"instanceId": "e", "app": "E", "hostName": "h",
        "ipAddr": "10.0.0.1", "status": "UP", "metadata": {"filling": "x".repeat(65 * KIB)},
        "dataCenterInfo": {"@class": "x", "name": "MyOwn"}}});
    assert_eq!(server.post_json("/eureka/apps/E", &eureka).status, 413);
}

#[test]
fn a_limit_of_its_own_is_its_own() {
    let server = Server::start(&["--instance-bytes-max", "1KiB"]);
    let batch = json!({"instances": [large("s", "over", 2 * KIB, 0)]});
    let reply = server.post_json("/api/registry/register.json", &batch);
    assert_eq!(reply.body["failedInstances"][0]["errorCode"], "bad-request", "{}", reply.body);
    let mut client = server.connect();
    client.send_json(&json!({"type": "register", "instances": [large("s", "over", 2 * KIB, 0)]}));
    client.expect_error("too_large");
    assert_eq!(server.get("/api/status/config.json").body["instance_bytes_max"], 1024);
}

#[test]
fn what_is_nested_deeper_than_others_can_read_is_refused_with_its_field() {
    let server = Server::start(&[]);
    let registering = |depth: usize| {
        // The metadata itself is the first level.
        let metadata = format!("{{\"k\":{}}}", nest(depth - 1));
        format!(
            "{{\"instances\":[{{\"serviceId\":\"s\",\"instanceId\":\"i{depth}\",\"metadata\":{metadata}}}]}}"
        )
    };
    let post = |path: &str, text: &str| {
        server.request("POST", path, &[("Content-Type", "application/json")], text.as_bytes())
    };
    let mut follower = server.connect();
    follower.follow("s");
    assert_eq!(post("/api/registry/register.json", &registering(100)).outcome().0, "success");
    // Frames are read by serde_json here as by our own clients.
    assert_eq!(follower.expect("service_change")["changes"][0]["instance"]["instanceId"], "i100");
    for path in ["/api/discovery/services.json", "/api/status/leases.json?service_id=s"] {
        assert_eq!(server.get(path).status, 200, "{path}");
    }
    for depth in [101, 120] {
        let reply = post("/api/registry/register.json", &registering(depth));
        let failed = &reply.body["failedInstances"][0];
        assert_eq!(failed["errorCode"], "bad-request", "{depth}: {}", reply.body);
        assert!(failed["errorMessage"].as_str().expect("a text").contains("metadata"), "{failed}");
    }
    let mut client = server.connect();
    client.ask(&json!({"type": "subscribe", "channel": "c"}), "subscribed");
    let frames = |depth: usize| {
        let nest = nest(depth);
        [
            ("payload", format!("{{\"type\":\"publish\",\"channel\":\"c\",\"payload\":{nest}}}")),
            (
                "metadata",
                format!(
                    "{{\"type\":\"publish\",\"channel\":\"c\",\"payload\":1,\"metadata\":{{\"k\":{}}}}}",
                    &nest[1..nest.len() - 1]
                ),
            ),
        ]
    };
    for (field, text) in frames(101) {
        client.send_text(&text);
        let refused = client.expect_error("invalid_argument");
        assert!(refused["message"].as_str().expect("a text").contains(field), "{field}: {refused}");
    }
    for (_, text) in frames(100) {
        client.send_text(&text);
        client.find_type("published");
    }
    assert_eq!(server.get("/api/v1/channels/c/history").status, 200);
    let deep = format!("{{\"payload\":{}}}", nest(101));
    post("/api/v1/channels/c/messages", &deep).expect_problem(400, "invalid_argument");
    let deep = format!("{{\"action\":\"created\",\"data\":{}}}", nest(101));
    assert_eq!(post("/api/v1/live/order/1", &deep).status, 400);
    let deep = format!("{{\"k\":{}}}", nest(100));
    assert_eq!(post("/api/v1/dashboards/d/metrics", &deep).status, 400);
}

#[test]
fn a_history_has_its_bytes_and_all_have_theirs() {
    let server = Server::start(&["--history-bytes-max", "4MiB"]);
    for change in 0..100 {
        server.register(&[large("s", "one", 60 * KIB, change)]);
    }
    let held = |server: &Server| server.count("fanfare_service_history_bytes");
    assert!((MIB / 2..=MIB).contains(&held(&server)), "{}", held(&server));
    server.unregister(&[instance("s", "one")]);
    assert!(held(&server) <= MIB, "it left, and its history is no larger");
    let mut client = server.connect();
    let text = "x".repeat(60 * KIB);
    let publish = |client: &mut Client, channel: &str, count: usize| {
        for _ in 0..count {
            client
                .ask(&json!({"type": "publish", "channel": channel, "payload": text}), "published");
        }
    };
    publish(&mut client, "c", 40);
    let channels = server.count("fanfare_channel_history_bytes");
    assert!((MIB / 2..=MIB).contains(&channels), "{channels}");
    // Of all together the oldest go: first those of the service.
    for channel in 0..4 {
        publish(&mut client, &format!("c{channel}"), 18);
    }
    let channels = server.count("fanfare_channel_history_bytes");
    assert!(held(&server) + channels <= 4 * MIB, "{} and {channels}", held(&server));
    assert_eq!(held(&server), 0, "the service's changes were the oldest");
    let history = server.get("/api/v1/channels/c3/history?limit=500").body;
    let messages = history["messages"].as_array().expect("a list").len();
    assert!((10..=17).contains(&messages), "a megabyte: {messages}");
}

/// Forty clients that come back for all they can get, and read none of it.
#[test]
fn resumes_that_nobody_reads_cost_little() {
    let server = Server::start(&["--service-history-bytes-max", "64MiB"]);
    let names: Vec<String> = (0..120).map(|n| format!("i{n}")).collect();
    for piece in names.chunks(60) {
        let all: Vec<Value> = piece.iter().map(|name| large("s", name, 60 * KIB, 0)).collect();
        server.register(&all);
    }
    let follower = server.connect().follow("s");
    for name in &names[..100] {
        server.register(&[large("s", name, 60 * KIB, 1)]);
    }
    let before = rss(&server);
    let mut unread: Vec<Client> = (0..40).map(|_| server.connect()).collect();
    let started = Instant::now();
    for client in &mut unread {
        let since = json!({"epoch": follower.epoch, "revision": follower.revision});
        client.send_json(&json!({"type": "subscribe", "service_id": "s", "since": since}));
    }
    let mut client = server.connect();
    client.subscribe("other");
    server.register(&[instance("other", "one")]);
    client.expect("service_change");
    let waited = started.elapsed();
    let grown = rss(&server).saturating_sub(before);
    // Each of them is sent the same 6 MB.
    assert!(grown < 100 * MIB, "{grown} bytes more");
    assert!(waited < Duration::from_secs(10), "control was kept busy for {waited:?}");
    // Who does read gets it all.
    let mut picture = follower;
    assert!(server.connect().resume(&mut picture));
    picture.expect_equals_registry(&server);
}

/// Clients that ask for a large service again and again while it changes, and read none of it.
#[test]
fn snapshots_that_nobody_reads_cost_little_whatever_their_revisions() {
    let server = Server::start(&["--snapshots-bytes-max", "16MiB", "--write-timeout", "60s"]);
    let names: Vec<String> = (0..120).map(|n| format!("i{n}")).collect();
    for piece in names.chunks(60) {
        let all: Vec<Value> = piece.iter().map(|name| large("s", name, 60 * KIB, 0)).collect();
        server.register(&all);
    }
    let before = rss(&server);
    let ask = json!({"type": "subscribe", "service_id": "s", "snapshot": true, "id": 1});
    let mut unread: Vec<Client> = Vec::new();
    for round in 1..=40 {
        let mut client = server.connect();
        client.send_json(&ask);
        unread.push(client);
        // Half of them come after a change, the others after more than a history holds.
        let changed = if round % 2 == 0 { 1 } else { 20 };
        let changes: Vec<Value> =
            names[..changed].iter().map(|name| large("s", name, 60 * KIB, round)).collect();
        server.register(&changes);
    }
    let grown = rss(&server).saturating_sub(before);
    // All of them are 280 MB; the bound, one more, and what the changes themselves take are some 60.
    assert!(grown < 160 * MIB, "{grown} bytes more for 40 snapshots of 7 MB");
    // Who does read gets the whole, or is told to come again.
    let (mut whole, mut refused) = (0, 0);
    for client in &mut unread {
        let answer = client.find("its answer", |frame| frame["id"] == 1);
        if answer["type"] == "subscribed" {
            assert_eq!(answer["instances"].as_array().expect("a list").len(), 120);
            whole += 1;
        } else {
            assert_eq!(
                (&answer["code"], &answer["temporary"]),
                (&json!("unavailable"), &json!(true))
            );
            refused += 1;
        }
    }
    assert!(whole >= 4 && refused >= 4, "{whole} whole, {refused} refused");
    drop(unread);
    eventually("there is room again", Duration::from_secs(20), || {
        let mut client = server.connect();
        client.send_json(&ask);
        client.find("its answer", |frame| frame["id"] == 1)["type"] == "subscribed"
    });
    let mut picture = server.connect().follow("s");
    server.register(&[large("s", "i0", 10, 99)]);
    let mut late = server.connect();
    assert!(late.resume(&mut picture));
    picture.expect_equals_registry(&server);
}
