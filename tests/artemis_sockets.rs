//! Artemis' three sockets, frame by frame: bare JSON, one change a frame, `reload` for what the dialect cannot
//! express.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use std::time::{Duration, Instant};

use fanfare_test_support::artemis::artemis_instance as instance;
use fanfare_test_support::raw::{Raw, masked, text};
use fanfare_test_support::{Server, eventually, with};
use serde_json::{Value, json};

const HEARTBEAT: &str = "/ws/registry/heartbeat";
const CHANGES: &str = "/ws/discovery/instance-change";
const ALL_CHANGES: &str = "/ws/discovery/all-instance-change";
const PATIENCE: Duration = Duration::from_secs(20);

fn subscribe(raw: &mut Raw, service: &str) {
    let config =
        json!({"discoveryData": null, "regionId": "SHA", "serviceId": service, "zoneId": null});
    raw.send(&text(&config.to_string()));
}

/// The next change: its kind and the id of its instance.
fn change(raw: &mut Raw) -> (String, String) {
    let frame = raw.json();
    assert!(frame["changeTime"].is_u64(), "{frame}");
    let text = |value: &Value| value.as_str().expect("a text").to_owned();
    (text(&frame["changeType"]), text(&frame["instance"]["instanceId"]))
}

fn is(got: &(String, String), kind: &str, name: &str) -> bool {
    (got.0.as_str(), got.1.as_str()) == (kind, name)
}

fn heartbeat(raw: &mut Raw, instances: &[Value]) -> Value {
    raw.send(&text(&json!({"instances": instances}).to_string()));
    raw.json()
}

fn failed(answer: &Value) -> Vec<&str> {
    let failed = answer["failedInstances"].as_array().into_iter().flatten();
    failed.filter_map(|one| one["instance"]["instanceId"].as_str()).collect()
}

#[test]
fn changes_are_bare_frames_of_thirteen_fields() {
    let server = Server::start(&[]);
    for path in [CHANGES, "/websocket/discovery/instance-change"] {
        let service = format!("S7Svc{}", path.len());
        let mut raw = Raw::open(server.address(), path);
        // Nothing is said of a service that nobody has registered.
        subscribe(&mut raw, &service);
        let mut all = Raw::open(server.address(), ALL_CHANGES);
        eventually("both follow", PATIENCE, || server.get("/ws/stats").body["subscriptions"] == 2);
        let one = instance(&service, "a1");
        server.register(std::slice::from_ref(&one));
        for raw in [&mut raw, &mut all] {
            let frame = raw.json();
            assert_eq!(frame.as_object().map(serde_json::Map::len), Some(3), "{frame}");
            assert_eq!(frame["changeType"], "new");
            let time = frame["changeTime"].as_u64().expect("a number");
            assert!(time.abs_diff(fanfare_test_support::now_s() * 1_000) < 60_000, "{time}");
            let expected = with(&one, "serviceId", json!(service.to_lowercase()));
            assert_eq!(frame["instance"], expected);
        }
        let changed = with(&one, "status", json!("unhealthy"));
        server.register(&[changed.clone(), instance(&service, "a2")]);
        assert!(is(&change(&mut raw), "change", "a1"));
        assert!(is(&change(&mut raw), "new", "a2"));
        server.operate(&changed, false);
        assert!(is(&change(&mut raw), "delete", "a1"));
        // What is out is not announced.
        server.register(&[with(&changed, "port", json!(1))]);
        server.operate(&changed, true);
        let back = raw.json();
        assert_eq!((&back["changeType"], &back["instance"]["port"]), (&json!("new"), &json!(1)));
        server.unregister(&[instance(&service, "a2"), changed]);
        assert!(is(&change(&mut raw), "delete", "a2"));
        assert!(is(&change(&mut raw), "delete", "a1"));
        for (kind, name) in [
            ("change", "a1"),
            ("new", "a2"),
            ("delete", "a1"),
            ("new", "a1"),
            ("delete", "a2"),
            ("delete", "a1"),
        ] {
            assert!(is(&change(&mut all), kind, name), "{kind} {name}");
        }
        drop((raw, all));
        eventually("both are gone", PATIENCE, || {
            server.get("/ws/stats").body["subscriptions"] == 0
        });
    }
}

#[test]
fn a_subscription_of_a_service_that_is_there_is_answered_with_a_reload() {
    let server = Server::start(&[]);
    server.register(&[instance("S", "a"), instance("t", "b")]);
    let mut raw = Raw::open(server.address(), CHANGES);
    // Each time, also for a service that has become empty.
    for _ in 0..2 {
        subscribe(&mut raw, "S");
        let frame = raw.json();
        assert_eq!(frame["changeType"], "reload");
        assert_eq!(
            frame["instance"],
            json!({
                "instanceId": "reload", "ip": "0.0.0.0", "port": 0, "serviceId": "s",
                "url": "http://serviceId/reload", "groupId": null, "healthCheckUrl": null,
                "machineName": null, "metadata": null, "protocol": null, "regionId": null,
                "status": null, "zoneId": null,
            })
        );
        if !server.discover("s")["instances"].as_array().expect("a list").is_empty() {
            server.unregister(&[instance("S", "a")]);
            assert!(is(&change(&mut raw), "delete", "a"));
        }
    }
    subscribe(&mut raw, "T");
    assert!(is(&change(&mut raw), "reload", "reload"));
    // Faults have no answer, and do no harm.
    for fault in ["", "null", "[]", "{}", "{\"serviceId\":7}", "{\"serviceId\":\"*\"}", "no JSON"] {
        raw.send(&text(fault));
    }
    server.register(&[instance("t", "c")]);
    assert!(is(&change(&mut raw), "new", "c"));
}

/// One bad frame closes the client's socket, so none is longer than its buffer.
#[test]
fn a_change_that_does_not_fit_is_a_reload() {
    let server = Server::start(&[]);
    let mut raw = Raw::open(server.address(), CHANGES);
    subscribe(&mut raw, "s");
    eventually("it follows", PATIENCE, || server.get("/ws/stats").body["subscriptions"] == 1);
    // Two UTF-16 units and four bytes a character: 7,000 units fit though they are 14,000 bytes.
    let filled = |name: &str, text: &str, count: usize| {
        with(&instance("s", name), "metadata", json!({"filler": text.repeat(count)}))
    };
    server.register(&[filled("wide", "\u{1f600}", 3_500)]);
    assert!(is(&change(&mut raw), "new", "wide"));
    server.register(&[filled("large", "x", 8_192)]);
    assert!(is(&change(&mut raw), "reload", "reload"));
    server.register(&[filled("large2", "\u{1f600}", 4_000), instance("s", "small")]);
    assert!(is(&change(&mut raw), "new", "small"));
    assert!(is(&change(&mut raw), "reload", "reload"));
    assert!(server.log().contains("too large for Artemis' clients"), "{}", server.log());
    // Nested metadata would make the client drop the frame.
    let nested = with(&instance("s", "nested"), "metadata", json!({"a": {"b": [1]}, "n": 2}));
    server.register(&[nested]);
    assert_eq!(raw.json()["instance"]["metadata"], json!({"a": "{\"b\":[1]}", "n": 2}));
    // An instance without a region: the client cannot find it, and looks again.
    let mut nowhere = instance("s", "nowhere");
    nowhere["regionId"] = Value::Null;
    server.register(std::slice::from_ref(&nowhere));
    assert!(is(&change(&mut raw), "new", "nowhere"));
    server.unregister(&[nowhere]);
    assert!(is(&change(&mut raw), "delete", "nowhere"));
    assert!(is(&change(&mut raw), "reload", "reload"));
}

#[test]
fn heartbeats_renew_and_name_what_is_unknown() {
    let server = Server::start(&[]);
    server.register(&[instance("S", "known")]);
    for path in [HEARTBEAT, "/websocket/registry/heartbeat"] {
        let mut raw = Raw::open(server.address(), path);
        raw.send(&text(&json!({"instances": [instance("s", "known")]}).to_string()));
        let frame = raw.frame().expect("an answer");
        assert_eq!(
            String::from_utf8(frame.payload).expect("UTF-8"),
            "{\"failedInstances\":null,\"responseStatus\":{\"errorCode\":\"success\",\"message\":\"\",\
             \"status\":\"success\"}}"
        );
        let answer = heartbeat(&mut raw, &[instance("S", "known"), instance("S", "lost")]);
        assert_eq!(answer["responseStatus"]["status"], "partial_fail");
        assert_eq!(answer["responseStatus"]["errorCode"], "partial_fail");
        let one = &answer["failedInstances"][0];
        assert_eq!(one["errorCode"], "data-not-found");
        assert_eq!(one["instance"], instance("S", "lost"), "complete, and as it was sent");
        // Partial also where all fail: a whole failure is one of the node.
        let answer = heartbeat(&mut raw, &[instance("S", "lost")]);
        assert_eq!(answer["responseStatus"]["status"], "partial_fail");
        assert_eq!(failed(&answer), ["lost"]);
        // What is no instance fails alone.
        let answer =
            heartbeat(&mut raw, &[json!({"serviceId": "s"}), instance("s", "known"), json!(7)]);
        assert_eq!(answer["responseStatus"]["status"], "partial_fail");
        let codes = answer["failedInstances"].as_array().expect("a list");
        assert!(codes.iter().all(|one| one["errorCode"] == "bad-request") && codes.len() == 2);
        for (bad, code) in
            [("{}", "bad-request"), ("{\"instances\":null}", "bad-request"), ("x", "bad-request")]
        {
            raw.send(&text(bad));
            let answer = raw.json();
            assert_eq!(answer["responseStatus"]["status"], "fail", "{bad}");
            assert_eq!(answer["responseStatus"]["errorCode"], code, "{bad}");
            assert_eq!(answer["failedInstances"], Value::Null);
        }
    }
}

#[test]
fn an_answer_fits_the_clients_buffer_and_the_rest_fails_next_time() {
    let server = Server::start(&[]);
    let mut raw = Raw::open(server.address(), HEARTBEAT);
    let mut all: Vec<Value> = (0..60).map(|n| instance("s", &format!("i{n}"))).collect();
    all.push(with(&instance("s", "large"), "metadata", json!({"filler": "x".repeat(9 * 1_024)})));
    let mut rounds = 0;
    loop {
        raw.send(&text(&json!({"instances": all}).to_string()));
        let frame = raw.frame().expect("an answer");
        let payload = String::from_utf8(frame.payload).expect("UTF-8");
        assert!(payload.encode_utf16().count() <= 8_192);
        let answer: Value = serde_json::from_str(&payload).expect("JSON");
        if answer["failedInstances"].is_null() {
            break;
        }
        let lost: Vec<Value> = answer["failedInstances"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| one["instance"].clone())
            .collect();
        assert!(!lost.is_empty(), "each round goes on");
        server.register(&lost);
        rounds += 1;
        assert!(rounds < 10);
    }
    // The large one cannot be echoed: it is registered as the heartbeat has it.
    eventually("all are there", PATIENCE, || {
        server.discover("s")["instances"].as_array().map(Vec::len) == Some(61)
    });
    assert!(server.log().contains("registered from its heartbeat"), "{}", server.log());
}

/// The client fragments its texts at 8 KiB, and names all its instances each time.
#[test]
fn a_heartbeat_may_be_as_large_as_a_registry_body() {
    let server = Server::start(&[
        "--artemis-heartbeat-bytes-max",
        "1MiB",
        "--artemis-heartbeat-instances-max",
        "3000",
    ]);
    let all: Vec<Value> = (0..2_500).map(|n| instance("s", &format!("i{n}"))).collect();
    server.register(&all);
    let mut raw = Raw::open(server.address(), HEARTBEAT);
    let message = json!({"instances": all}).to_string();
    assert!(message.len() > 640 * 1_024);
    let parts: Vec<&[u8]> = message.as_bytes().chunks(8_192).collect();
    for (index, part) in parts.iter().enumerate() {
        let last = if index + 1 == parts.len() { 0x80 } else { 0 };
        raw.send(&masked(u8::from(index == 0) | last, part));
    }
    assert_eq!(raw.json()["responseStatus"]["status"], "success");
    // One more in two pieces of control is still one answer.
    server.unregister(&[instance("s", "i3"), instance("s", "i2400")]);
    let answer = heartbeat(&mut raw, &all);
    assert_eq!(failed(&answer), ["i3", "i2400"]);
    let many = vec![json!({"serviceId": "s", "instanceId": "i"}); 3_001];
    let answer = heartbeat(&mut raw, &many);
    assert_eq!(answer["responseStatus"]["errorCode"], "bad-request");
    raw.send(&text(&json!({"instances": [], "filler": "x".repeat(1_024 * 1_024)}).to_string()));
    assert_eq!(raw.close_code(), 1_009);
}

#[test]
fn pongs_wait_a_moment_on_these_sockets_only() {
    let server = Server::start(&[]);
    let took = |path: &str| {
        let mut raw = Raw::open(server.address(), path);
        let times = (0..10).map(|n| {
            let begun = Instant::now();
            raw.send(&masked(0x89, &[n]));
            let pong = raw.frame().expect("a pong");
            assert_eq!((pong.opcode, &pong.payload[..]), (10, &[n][..]));
            begun.elapsed()
        });
        times.min().expect("ten pongs")
    };
    for path in [HEARTBEAT, CHANGES, ALL_CHANGES, "/websocket/registry/heartbeat"] {
        assert!(took(path) >= Duration::from_millis(10), "{path}");
    }
    assert!(took("/ws") < Duration::from_millis(10));
    // Several at once come in their order, and a close does not wait for them.
    let mut raw = Raw::open(server.address(), CHANGES);
    raw.send(&[masked(0x89, b"1"), masked(0x89, b"2"), masked(0x89, b"3")].concat());
    for payload in [b"1", b"2", b"3"] {
        assert_eq!(raw.frame().expect("a pong").payload, payload);
    }
    raw.send(&[masked(0x89, b"4"), masked(0x88, &1_000_u16.to_be_bytes())].concat());
    assert_eq!(raw.close_code(), 1_000);
}

#[test]
fn a_reader_that_fell_behind_looks_again() {
    let server = Server::start(&["--outbox-bytes-max", "64KiB", "--shards", "1"]);
    server.register(&[instance("s", "first")]);
    let stream = server.narrow_stream();
    let mut raw = Raw::of(stream);
    raw.send(
        format!(
            "GET {CHANGES} HTTP/1.1\r\nHost: {}\r\n{}\r\n",
            server.address(),
            fanfare_test_support::raw::UPGRADE
        )
        .as_bytes(),
    );
    assert!(raw.head().starts_with("HTTP/1.1 101"));
    subscribe(&mut raw, "s");
    assert!(is(&change(&mut raw), "reload", "reload"));
    let filler = "x".repeat(4_000);
    for n in 0..600 {
        let one = with(
            &instance("s", &format!("i{}", n % 7)),
            "metadata",
            json!({"n": n, "filler": filler}),
        );
        server.register(&[one]);
    }
    eventually("it has fallen behind", PATIENCE, || {
        server.get("/ws/stats").body["slow_readers_total"].as_u64() > Some(0)
    });
    // What is in the kernel comes first, then one reload, and later changes one by one.
    let mut kinds = Vec::new();
    while kinds.last().is_none_or(|kind| kind != "reload") {
        kinds.push(change(&mut raw).0);
    }
    assert!(kinds.len() < 590, "{}", kinds.len());
    server.unregister(&[instance("s", "first")]);
    loop {
        let next = change(&mut raw);
        if is(&next, "delete", "first") {
            break;
        }
    }
}

/// A client that names more services than a connection follows has no ear for a refusal: it is told of all.
#[test]
fn a_client_of_too_many_services_hears_of_all() {
    let server = Server::start(&["--subscriptions-per-connection-max", "3"]);
    let services: Vec<String> = (0..6).map(|n| format!("s{n}")).collect();
    for service in &services {
        server.register(&[instance(service, "a")]);
    }
    let mut raw = Raw::open(server.address(), CHANGES);
    for service in &services {
        subscribe(&mut raw, service);
    }
    for service in &services {
        let frame = raw.json();
        assert_eq!(
            (&frame["changeType"], &frame["instance"]["serviceId"]),
            (&json!("reload"), &json!(service))
        );
    }
    for service in &services {
        server.register(&[instance(service, "b")]);
        let frame = raw.json();
        assert_eq!(
            (&frame["changeType"], &frame["instance"]["serviceId"]),
            (&json!("new"), &json!(service))
        );
    }
    assert!(server.log().contains("subscriptions-per-connection-max"));
}

#[test]
fn these_sockets_are_no_part_of_anything_else() {
    let mut server = Server::start(&[]);
    let mut sockets =
        [HEARTBEAT, CHANGES, ALL_CHANGES].map(|path| Raw::open(server.address(), path));
    let counts = || server.get("/api/status/message/connections.json").body;
    eventually("they are counted", PATIENCE, || {
        counts() == json!({"registry": "1", "discovery": "2"})
    });
    let second = server.post("/api/status/websocket/connection.json", &json!({}));
    assert_eq!(second, json!({"registry": "1", "discovery": "2"}));
    // No broadcast, no presence, no welcome.
    let sent =
        server.post("/ws/broadcast", &json!({"message_type": "text", "data": {"content": "c"}}));
    assert_eq!(sent["delivered_to"], 0);
    for raw in &mut sockets {
        raw.send(&masked(0x89, b"p"));
        assert_eq!(raw.frame().expect("a pong").opcode, 10);
    }
    sockets[1].send(&masked(0x82, b"binary"));
    assert_eq!(sockets[1].close_code(), 1_003);
    eventually("it is gone", PATIENCE, || {
        server.get("/api/status/message/connections.json").body["discovery"] == "1"
    });
    // A stop ends them with 1001, and without a frame that the client does not know.
    server.terminate();
    for raw in [0, 2] {
        assert_eq!(sockets[raw].close_code(), 1_001);
    }
    assert!(server.wait().success());
    let off = Server::start(&["--artemis", "off"]);
    for path in [HEARTBEAT, CHANGES, ALL_CHANGES, "/websocket/registry/heartbeat"] {
        assert_eq!(off.get(path).status, 404, "{path}");
    }
    assert_eq!(off.post_json("/api/cluster/up-registry-nodes.json", &json!({})).status, 404);
}
