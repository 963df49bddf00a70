//! The registry's commands on a socket: each is answered with its own id, a wrong one with an error
//! that names the fault, and the connection stays open.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use fanfare_test_support as support;
use fanfare_test_support::{Client, Picture, Server, instance, instances, with};
use serde_json::{Value, json};
use tungstenite::Message;

fn key(service: &str, name: &str) -> Value {
    json!({"regionId": "r1", "serviceId": service, "instanceId": name})
}

/// Sends a text and expects an error of that code, then a sign of life.
fn refuse(client: &mut Client, text: &str, code: &str) -> Value {
    client.send_text(text);
    let frame = client.expect("error");
    assert_eq!(frame["code"], code, "{text}: {frame}");
    assert_eq!(frame["temporary"], false, "{text}: {frame}");
    assert!(frame["message"].as_str().is_some_and(|text| !text.is_empty()), "{text}: {frame}");
    client.ask(&json!({"type": "ping"}), "pong");
    frame
}

#[test]
fn instances_live_and_end_over_a_socket() {
    let server = Server::start(&[]);
    let mut watcher = server.connect();
    let mut picture = watcher.follow("orders");
    let mut client = server.connect();
    let two = instances("orders", 2);

    let command = json!({"type": "register", "instances": two, "id": "a"});
    let answer = client.ask(&command, "registered");
    assert_eq!((&answer["failed_instances"], &answer["id"]), (&json!([]), &json!("a")));
    watcher.catch_up(&mut picture);
    assert_eq!(picture.names(), ["i0", "i1"]);

    let keys = [key("orders", "i0"), key("orders", "gone")];
    let command = json!({"type": "heartbeat", "instance_keys": keys, "id": 7});
    let answer = client.ask(&command, "heartbeat_ack");
    assert_eq!(answer["id"], 7);
    let failed = answer["failed_instance_keys"].as_array().expect("a list");
    assert_eq!(failed.len(), 1, "{answer}");
    assert_eq!(failed[0]["instanceKey"]["instanceId"], "gone");
    assert_eq!(failed[0]["errorCode"], "data-not-found");

    let command = json!({"type": "unregister", "instance_keys": keys, "id": "b"});
    let answer = client.ask(&command, "unregistered");
    assert_eq!((&answer["failed_instance_keys"], &answer["id"]), (&json!([]), &json!("b")));
    watcher.catch_up(&mut picture);
    assert_eq!((picture.names(), picture.revision), (vec!["i1"], 3));
    picture.expect_equals_registry(&server);
}

#[test]
fn camel_case_is_understood_as_well() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let answer = client.ask(&json!({"type": "subscribe", "serviceId": "orders"}), "subscribed");
    assert_eq!(answer["service_id"], "orders");
    server.register(&[instance("orders", "one")]);
    client.expect("service_change");
    let keys = [key("orders", "one")];
    let answer = client.ask(&json!({"type": "heartbeat", "instanceKeys": keys}), "heartbeat_ack");
    assert_eq!(answer["failed_instance_keys"], json!([]));
}

#[test]
fn one_bad_instance_fails_alone() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let good = instance("orders", "one");
    let bad = with(&good, "serviceId", json!(""));
    let command = json!({"type": "register", "instances": [bad, good]});
    let answer = client.ask(&command, "registered");
    let failed = answer["failed_instances"].as_array().expect("a list");
    assert_eq!(failed.len(), 1, "{answer}");
    assert_eq!(failed[0]["instance"]["instanceId"], "one");
    assert_eq!(failed[0]["errorCode"], "bad-request");
    assert!(failed[0]["errorMessage"].is_string(), "{answer}");
    assert_eq!(Picture::of_discovered(&server.discover("orders")).names(), ["one"]);
}

#[test]
fn one_who_registers_and_follows_hears_its_own_changes() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let mut picture = client.follow("orders");
    client.send_json(&json!({"type": "register", "instances": [instance("orders", "one")]}));
    // Answer and push are two things; either may come first.
    let mut kinds = Vec::new();
    for _ in 0..2 {
        let frame = client.next_json();
        if frame["type"] == "service_change" {
            picture.apply(&frame);
        }
        kinds.push(frame["type"].as_str().expect("a type").to_owned());
    }
    kinds.sort_unstable();
    assert_eq!(kinds, ["registered", "service_change"]);
    picture.expect_equals_registry(&server);
}

#[test]
fn what_is_no_json_object_is_malformed() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for text in ["", "nope", "[]", "5", "null", "\"ping\"", "{", "{\"type\":\"ping\"", "{}{}"] {
        let frame = refuse(&mut client, text, "malformed");
        assert_eq!(frame.get("id"), None, "{frame}");
    }
}

#[test]
fn what_is_not_known_is_unknown_type() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for text in ["{}", r#"{"type":"dance"}"#, r#"{"type":"PING"}"#, r#"{"message_type":7}"#] {
        refuse(&mut client, text, "unknown_type");
    }
    let frame = refuse(&mut client, r#"{"type":"dance","id":"x"}"#, "unknown_type");
    assert_eq!(frame["id"], "x");
}

#[test]
fn a_missing_or_wrong_field_is_an_invalid_argument() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for command in [
        json!({"type": "subscribe"}),
        json!({"type": "subscribe", "service_id": null}),
        json!({"type": "subscribe", "service_id": 5}),
        json!({"type": "subscribe", "service_id": ""}),
        json!({"type": "subscribe", "service_id": "s", "snapshot": "yes"}),
        json!({"type": "subscribe", "service_id": "s", "since": 4}),
        json!({"type": "subscribe", "service_id": "s", "since": {"epoch": "e"}}),
        json!({"type": "subscribe", "service_id": "s", "since": {"revision": 4}}),
        json!({"type": "subscribe", "service_id": "s", "since": {"epoch": "e", "revision": -1}}),
        json!({"type": "subscribe", "service_id": "*", "snapshot": true}),
        json!({"type": "subscribe", "service_id": "*", "since": {"epoch": "e", "revision": 1}}),
        json!({"type": "unsubscribe"}),
        json!({"type": "unsubscribe", "service_id": []}),
        json!({"type": "register"}),
        json!({"type": "register", "instances": {}}),
        json!({"type": "heartbeat"}),
        json!({"type": "heartbeat", "instance_keys": "all"}),
        json!({"type": "unregister"}),
    ] {
        let mut command = command;
        command["id"] = json!("wrong");
        let frame = refuse(&mut client, &command.to_string(), "invalid_argument");
        assert_eq!(frame["id"], "wrong", "{command}");
    }
}

#[test]
fn ids_come_back_as_they_were_sent() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for id in [json!("a"), json!(""), json!("\u{e9}\"\\\n"), json!(0), json!(-1), json!(1.5)] {
        let answer = client.ask(&json!({"type": "ping", "id": id}), "pong");
        assert_eq!(answer["id"], id);
        let command = json!({"type": "subscribe", "service_id": "s", "snapshot": true, "id": id});
        assert_eq!(client.ask(&command, "subscribed")["id"], id);
    }
    let large = 9_007_199_254_740_993_u64;
    assert_eq!(client.ask(&json!({"type": "ping", "id": large}), "pong")["id"], large);
    assert_eq!(client.ask(&json!({"type": "ping"}), "pong").get("id"), None);
}

#[test]
fn many_commands_at_once_are_each_answered_in_order() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    for n in 0..150 {
        client.send_json(&json!({"type": "subscribe", "service_id": format!("s{n}"), "id": n}));
    }
    for n in 0..150 {
        assert_eq!(client.expect("subscribed")["id"], n);
    }
}

#[test]
fn commands_beyond_the_rate_are_refused_by_id() {
    let server = Server::start(&["--client-messages-per-s-max", "100"]);
    let mut client = server.connect();
    for n in 0..1_000 {
        client.send_json(&json!({"type": "ping", "id": n}));
    }
    let mut refused = 0;
    for n in 0..1_000 {
        let frame = client.next_json();
        assert_eq!(frame["id"], n, "{frame}");
        if frame["type"] == "error" {
            assert_eq!(frame["code"], "rate_limited", "{frame}");
            assert_eq!(frame["temporary"], true, "{frame}");
            refused += 1;
        } else {
            assert_eq!(frame["type"], "pong", "{frame}");
            assert!(n >= 200 || refused == 0, "{n} is within the burst");
        }
    }
    assert!((1..=800).contains(&refused), "{refused} were refused");
    // The connection has not lost its right to speak.
    support::eventually("a ping is answered again", support::READ_PATIENCE, || {
        client.send_json(&json!({"type": "ping"}));
        client.next_json()["type"] == "pong"
    });
}

#[test]
fn one_that_never_stops_talking_is_closed_with_4429() {
    let server = Server::start(&["--client-messages-per-s-max", "10"]);
    let mut client = server.connect();
    let start = std::time::Instant::now();
    let mut code = None;
    while code.is_none() && start.elapsed().as_secs() < 20 {
        // A fault of sending means that the close is there to be read.
        let _ = client.socket.send(Message::text(r#"{"type":"ping"}"#));
        match client.next_message() {
            Message::Text(_) => {}
            Message::Close(Some(frame)) => code = Some(u16::from(frame.code)),
            other => panic!("neither an answer nor a close with a code: {other:?}"),
        }
    }
    assert_eq!(code, Some(4429));
    let talked = start.elapsed().as_secs();
    assert!((10..14).contains(&talked), "closed after {talked} s");
}

#[test]
fn subscriptions_of_a_connection_are_bounded() {
    let server = Server::start(&["--subscriptions-per-connection-max", "3"]);
    let mut client = server.connect();
    for service in ["a", "b", "c"] {
        client.subscribe(service);
    }
    let frame = refuse(
        &mut client,
        r#"{"type":"subscribe","service_id":"d","id":4}"#,
        "too_many_subscriptions",
    );
    assert_eq!(frame["id"], 4);
    // What is there already is no further one, and one that leaves makes room.
    client.subscribe("B");
    client.ask(&json!({"type": "unsubscribe", "service_id": "a"}), "unsubscribed");
    client.subscribe("d");
    server.register(&[instance("a", "one"), instance("d", "one")]);
    assert_eq!(client.expect("service_change")["service_id"], "d");
}

#[test]
fn service_names_are_bounded() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.subscribe(&"x".repeat(255));
    client.send_json(&json!({"type": "subscribe", "service_id": "x".repeat(256), "id": 1}));
    let frame = client.expect("error");
    assert_eq!(frame["id"], 1);
    assert!(["too_large", "invalid_argument"].iter().any(|&code| frame["code"] == code), "{frame}");
}

#[test]
fn binary_messages_end_the_connection_with_1003() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    client.socket.send(Message::binary(b"{}".to_vec())).expect("sent");
    assert_eq!(client.expect_close(), 1003);
}

#[test]
fn a_message_over_the_limit_ends_the_connection_with_1009() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let fitting = format!("{{\"type\":\"ping\",\"x\":\"{}\"}}", "y".repeat(64 * 1024 - 22));
    assert_eq!(fitting.len(), 64 * 1024);
    client.send_text(&fitting);
    client.expect("pong");
    client.send_text(&format!("{fitting} "));
    assert_eq!(client.expect_close(), 1009);
}

#[test]
fn a_normal_close_is_answered() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let frame = tungstenite::protocol::CloseFrame { code: 1000.into(), reason: "".into() };
    client.socket.close(Some(frame)).expect("sent");
    assert_eq!(client.expect_close(), 1000);
}

#[test]
fn a_silent_peer_is_closed_and_one_that_answers_pings_stays() {
    let server = Server::start(&["--ping-interval", "1s", "--pong-timeout", "1s"]);
    let mut alive = server.connect();
    assert_eq!(alive.welcome["ping_interval_ms"], 1_000);
    let _silent = server.connect();
    let is_one = || server.get("/ws/stats").body["connections"] == 1;
    // Reading answers pings, so the one that lives reads all the time.
    let stream = alive.socket.get_ref();
    stream.set_read_timeout(Some(std::time::Duration::from_millis(50))).expect("above zero");
    support::eventually("the silent one is gone", std::time::Duration::from_secs(8), || {
        let _ = alive.socket.read();
        is_one()
    });
    let stream = alive.socket.get_ref();
    stream.set_read_timeout(Some(support::READ_PATIENCE)).expect("above zero");
    alive.ask(&json!({"type": "ping"}), "pong");
}
