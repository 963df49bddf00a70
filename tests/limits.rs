//! Each limit at its edge: one step before it the request succeeds, one step after it the client
//! gets a refusal.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use fanfare_test_support as support;
use fanfare_test_support::Server;
use fanfare_test_support::raw;
use fanfare_test_support::raw::{Raw, masked, text};
use serde_json::json;

#[test]
fn subscriptions_of_a_connection() {
    let server = Server::start(&["--subscriptions-per-connection-max", "3"]);
    let mut raw = Raw::open(server.address(), "/ws");
    let subscribe =
        |service: &str| text(&json!({"type": "subscribe", "service_id": service}).to_string());
    for service in ["a", "b", "*"] {
        raw.send(&subscribe(service));
        assert_eq!(raw.json()["type"], "subscribed");
    }
    raw.send(&subscribe("c"));
    assert_eq!(raw.json()["code"], "too_many_subscriptions");
    // What is followed already is not one more, and what is left makes room.
    raw.send(&subscribe("A"));
    assert_eq!(raw.json()["type"], "subscribed");
    raw.send(&text(r#"{"type":"unsubscribe","service_id":"b"}"#));
    assert_eq!(raw.json()["type"], "unsubscribed");
    raw.send(&subscribe("c"));
    assert_eq!(raw.json()["type"], "subscribed");
}

#[test]
fn length_of_a_name() {
    let server = Server::start(&[]);
    let mut raw = Raw::open(server.address(), "/ws");
    for (bytes, kind) in [(255, "subscribed"), (256, "error")] {
        let name = "n".repeat(bytes);
        raw.send(&text(&json!({"type": "subscribe", "service_id": name}).to_string()));
        assert_eq!(raw.json()["type"], kind, "{bytes}");
    }
}

#[test]
fn messages_a_second() {
    let server =
        Server::start(&["--client-messages-per-s-max", "1", "--client-messages-burst-max", "5"]);
    let mut raw = Raw::open(server.address(), "/ws");
    let ping = |id: u64| text(&json!({"type": "ping", "id": id}).to_string());
    let all: Vec<u8> = (0..8).flat_map(ping).collect();
    raw.send(&all);
    for id in 0..5 {
        assert_eq!(raw.json(), json!({"type": "pong", "id": id}));
    }
    for id in 5..8 {
        let answer = raw.json();
        assert_eq!((&answer["code"], &answer["id"]), (&json!("rate_limited"), &json!(id)));
        assert_eq!(answer["temporary"], true);
    }
}

/// Sends frames until the connection is closed, and returns what the server said: its other frames,
/// and the code.
fn flood(raw: &mut Raw, bytes: &[u8]) -> (Vec<raw::Frame>, u16) {
    raw.try_send(bytes);
    let mut frames = Vec::new();
    loop {
        let frame = raw.frame().expect("a close frame before the end");
        if frame.opcode == 8 {
            return (frames, u16::from_be_bytes([frame.payload[0], frame.payload[1]]));
        }
        frames.push(frame);
    }
}

#[test]
fn pings_at_once_and_a_second() {
    let flags = ["--control-frames-per-s-max", "1", "--control-frames-burst-max", "5"];
    let server = Server::start(&flags);
    for path in ["/ws", "/ws/echo"] {
        let mut raw = Raw::open(server.address(), path);
        raw.send(&masked(0x89, b"p").repeat(5));
        for _ in 0..5 {
            assert_eq!(raw.frame().expect("a pong").opcode, 10, "{path}");
        }
        // Messages draw on something else.
        raw.send(&text(r#"{"type":"ping"}"#));
        assert_eq!(raw.frame().expect("an answer").opcode, 1, "{path}");
        let (_, code) = flood(&mut raw, &masked(0x89, b"p").repeat(50));
        assert_eq!(code, 4429, "{path}");
        raw.wait_for_end();
    }
    // Pongs that nobody asked for are no better.
    let mut raw = Raw::open(server.address(), "/ws");
    assert_eq!(flood(&mut raw, &masked(0x8a, b"").repeat(50)).1, 4429);
}

#[test]
fn the_default_of_pings() {
    let server = Server::start(&[]);
    let mut raw = Raw::open(server.address(), "/ws");
    let (frames, code) = flood(&mut raw, &masked(0x89, b"p").repeat(20_000));
    let pongs = frames.iter().filter(|frame| frame.opcode == 10).count();
    // 100 at once, and one more for each fiftieth of a second that this took.
    assert!((100..1_000).contains(&pongs), "{pongs}");
    assert_eq!(code, 4429);

    let server = Server::start(&["--control-frames-per-s-max", "0"]);
    let mut raw = Raw::open(server.address(), "/ws");
    for _ in 0..20 {
        raw.send(&masked(0x89, b"p").repeat(100));
        for _ in 0..100 {
            assert_eq!(raw.frame().expect("a pong").opcode, 10);
        }
    }
}

#[test]
fn frames_of_one_message() {
    let server = Server::start(&["--client-messages-per-s-max", "0"]);
    // In frames of 64 bytes the largest message passes.
    let body = format!(r#"{{"type":"ping","id":1{}}}"#, " ".repeat(65_000));
    let in_frames = |body: &[u8], bytes: usize| {
        let count = body.chunks(bytes).count();
        let frames = body.chunks(bytes).enumerate().map(|(index, part)| {
            let opcode = u8::from(index == 0);
            let end = if index + 1 == count { 0x80 } else { 0 };
            masked(end | opcode, part)
        });
        frames.collect::<Vec<_>>().concat()
    };
    let mut raw = Raw::open(server.address(), "/ws");
    raw.send(&in_frames(body.as_bytes(), 64));
    assert_eq!(raw.json(), json!({"type": "pong", "id": 1}));
    // One byte a frame, over and over, is not a way to send frames without a limit.
    let many = in_frames(br#"{"type":"ping"}"#, 1).repeat(1_000);
    assert_eq!(flood(&mut raw, &many).1, 4429);
    // Nor are empty ones.
    let mut raw = Raw::open(server.address(), "/ws");
    let one = [masked(0x01, b"{}"), masked(0x00, b"").repeat(1_000), masked(0x80, b"")].concat();
    assert_eq!(flood(&mut raw, &one.repeat(10)).1, 4429);
}

#[test]
fn messages_on_the_echo_socket() {
    let server = Server::start(&[]);
    let mut raw = Raw::open(server.address(), "/ws/echo");
    for _ in 0..10 {
        raw.send(&text("x").repeat(500));
        for _ in 0..500 {
            assert_eq!(raw.frame().expect("an echo").payload, b"x");
        }
    }
    let mut closed = None;
    // A second of a flood earns a thousand more at most.
    for _ in 0..200 {
        raw.try_send(&text("x").repeat(500));
        for _ in 0..500 {
            match raw.frame() {
                Some(frame) if frame.opcode == 8 => closed = Some(frame.payload),
                Some(_) => {}
                None => break,
            }
        }
        if closed.is_some() {
            break;
        }
    }
    let payload = closed.expect("a close frame");
    assert_eq!(u16::from_be_bytes([payload[0], payload[1]]), 4429);
}

#[test]
fn ten_seconds_of_too_many_messages() {
    let server =
        Server::start(&["--client-messages-per-s-max", "1", "--client-messages-burst-max", "1"]);
    let mut raw = Raw::open(server.address(), "/ws");
    let started = std::time::Instant::now();
    // One after the other, so each is sent only once the one before was judged.
    let code = loop {
        raw.send(&text(r#"{"type":"ping"}"#));
        let frame = raw.frame().expect("an answer or a close frame");
        if frame.opcode == 8 {
            break u16::from_be_bytes([frame.payload[0], frame.payload[1]]);
        }
        // A pace: the ten seconds are made of a thousand messages, not of as many as fit.
        std::thread::sleep(std::time::Duration::from_millis(10));
    };
    assert_eq!(code, 4429);
    let lasted = started.elapsed().as_secs();
    assert!((9..20).contains(&lasted), "{lasted} s");
    raw.wait_for_end();
}

#[test]
fn the_default_of_messages_and_subscriptions() {
    let server = Server::start(&[]);
    let mut raw = Raw::open(server.address(), "/ws");
    let ping = text(r#"{"type":"ping"}"#);
    raw.send(&ping.repeat(300));
    let passed = (0..300).filter(|_| raw.json()["type"] == "pong").count();
    // 200 at once, and one more for each hundredth of a second that this took.
    assert!((200..300).contains(&passed), "{passed}");

    let server = Server::start(&["--client-messages-per-s-max", "0"]);
    let mut raw = Raw::open(server.address(), "/ws");
    for n in 0..=1_024 {
        let service = format!("s{n}");
        raw.send(&text(&json!({"type": "subscribe", "service_id": service}).to_string()));
        let expected = if n < 1_024 { "subscribed" } else { "error" };
        assert_eq!(raw.json()["type"], expected, "{n}");
    }
}

#[test]
fn size_of_a_body() {
    let server = Server::start(&["--http-registry-body-bytes-max", "4KiB"]);
    let post = |bytes: usize| {
        let body = format!("{}{}", r#"{"instances":[]}"#, " ".repeat(bytes - 16));
        let mut raw = Raw::connect(server.address());
        let head = format!(
            "POST /api/registry/register HTTP/1.1\r\nHost: localhost\r\n\
             Content-Type: application/json\r\nContent-Length: {bytes}\r\n\r\n"
        );
        raw.send(&[head.as_bytes(), body.as_bytes()].concat());
        raw.response().0
    };
    assert_eq!((post(4_096), post(4_097)), (200, 413));
}

#[test]
fn connections_in_all() {
    let server = Server::start(&["--connections-max", "3"]);
    let open: Vec<Raw> = (0..3).map(|_| Raw::open(server.address(), "/ws")).collect();
    let mut surplus = Raw::connect(server.address());
    let (status, head, _) = surplus.response();
    assert_eq!(status, 503);
    assert!(head.to_lowercase().contains("retry-after:"), "{head}");
    surplus.wait_for_end();
    drop((open, surplus));
    support::eventually("room again", std::time::Duration::from_secs(10), || {
        let mut raw = Raw::connect(server.address());
        raw.send(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        raw.response().0 == 200
    });
}

#[test]
fn silence_after_a_ping() {
    let server = Server::start(&["--ping-interval", "300ms", "--pong-timeout", "300ms"]);
    let mut silent = Raw::open(server.address(), "/ws");
    let ping = silent.frame().expect("a ping");
    assert_eq!((ping.opcode, ping.payload.len()), (9, 0));
    // One that answers lives through several of them.
    let mut lively = Raw::open(server.address(), "/ws");
    for _ in 0..4 {
        assert_eq!(lively.frame().expect("a ping").opcode, 9);
        lively.send(&masked(0x8a, b""));
    }
    assert_eq!(silent.close_code(), 4410);
}

#[test]
fn history_of_a_service() {
    let server = Server::start(&["--service-history-max", "4"]);
    let mut raw = Raw::open(server.address(), "/ws");
    for n in 0..6 {
        raw.send(&text(
            &json!({"type": "register", "instances": [{"serviceId": "s", "instanceId": n.to_string()}]})
                .to_string(),
        ));
        assert_eq!(raw.json()["type"], "registered");
    }
    raw.send(&text(r#"{"type":"subscribe","service_id":"s"}"#));
    let epoch = raw.json()["epoch"].clone();
    for (revision, recovered) in [(2, true), (1, false), (6, true), (7, false)] {
        let since = json!({"epoch": epoch, "revision": revision});
        let subscribe = json!({"type": "subscribe", "service_id": "s", "since": since});
        raw.send(&text(&subscribe.to_string()));
        let answer = raw.json();
        assert_eq!(answer["recovered"], recovered, "since {revision}");
        assert_eq!(answer["instances"].is_array(), !recovered);
        if recovered && revision < 6 {
            let change = raw.json();
            assert_eq!((&change["from"], &change["revision"]), (&json!(revision), &json!(6)));
        }
    }
}

#[test]
fn connections_of_a_user() {
    let secret = "a secret of more than thirty-two bytes";
    let server = Server::start(&[
        "--connections-per-user-max",
        "2",
        "--shards",
        "3",
        "--jwt-secret",
        secret,
    ]);
    let open = |user: &str| {
        let claims = json!({"sub": user, "exp": support::now_s() + 600});
        let token = support::sign(&claims, secret, jsonwebtoken::Algorithm::HS256);
        Raw::open(server.address(), &format!("/ws?token={token}"))
    };
    let mut first = open("ann");
    let mut second = open("ann");
    // The newest goes, and those before it stay.
    let mut third = open("ann");
    answer_ping(&mut first);
    answer_ping(&mut second);
    assert_eq!(third.close_code(), 4409);
    // In between they hear who else comes and goes.
    let pong = |raw: &mut Raw| {
        raw.send(&text(r#"{"type":"ping"}"#));
        while raw.json()["type"] != "pong" {}
    };
    for raw in [&mut first, &mut second, &mut open("bob")] {
        pong(raw);
    }
    // One that has ended makes room at once, while its socket may linger.
    first.send(&masked(0x88, &1000_u16.to_be_bytes()));
    assert_eq!(first.close_code(), 1000);
    let mut fourth = open("ann");
    pong(&mut fourth);
    assert_eq!(server.count(r#"fanfare_closes_total{code="4409"}"#), 1);
    let online = || server.get("/ws/stats").body["users_online"].clone();
    support::eventually("bob is gone and ann is there", support::READ_PATIENCE, || online() == 1);
    drop((second, fourth));
    support::eventually("nobody is there", support::READ_PATIENCE, || online() == 0);
}

/// Reads up to a protocol ping, and answers it.
fn answer_ping(raw: &mut Raw) {
    while raw.frame().expect("a ping").opcode != 9 {}
    raw.send(&masked(0x8a, b""));
}

fn open_as(server: &Server, user: &str) -> Raw {
    let token = support::token(user, "");
    Raw::open(server.address(), &format!("/ws?token={token}"))
}

/// Sends a message, and reads up to its answer.
fn expect_pong(raw: &mut Raw) {
    raw.send(&text(r#"{"type":"ping"}"#));
    loop {
        let frame = raw.frame().expect("an open connection");
        assert_ne!(frame.opcode, 8, "it is closed: {frame:?}");
        if frame.payload == br#"{"type":"pong"}"# {
            return;
        }
        if frame.opcode == 9 {
            raw.send(&masked(0x8a, b""));
        }
    }
}

#[test]
fn the_newest_of_a_user_wins_over_those_that_answer_no_ping() {
    let flags = ["--connections-per-user-max", "3", "--shards", "3", "--pong-timeout", "2s"];
    let server = Server::start_for_people(&flags);
    // Nobody reads at the other end of these: the lid is shut.
    let mut silent: Vec<Raw> = (0..2).map(|_| open_as(&server, "ann")).collect();
    let mut lively = open_as(&server, "ann");
    // All of them come back at once, and each works from its first moment.
    let mut newer: Vec<Raw> = (0..2).map(|_| open_as(&server, "ann")).collect();
    newer.iter_mut().for_each(expect_pong);
    answer_ping(&mut lively);
    for raw in &mut silent {
        assert_eq!(raw.close_code(), 4410);
    }
    // The seats are theirs now: one more is above the limit, and they answer.
    let closes = |code: &str| server.count(&format!("fanfare_closes_total{{code=\"{code}\"}}"));
    assert_eq!((closes("4410"), closes("4409")), (2, 0));
    let mut surplus = open_as(&server, "ann");
    newer.iter_mut().for_each(answer_ping);
    answer_ping(&mut lively);
    assert_eq!(surplus.close_code(), 4409);
    newer.iter_mut().chain([&mut lively]).for_each(expect_pong);
    assert_eq!((closes("4410"), closes("4409")), (2, 1));
}

#[test]
fn those_that_wait_for_a_seat_are_bounded_and_one_that_ends_makes_room() {
    let flags = ["--connections-per-user-max", "2", "--pong-timeout", "20s"];
    let server = Server::start_for_people(&flags);
    let mut held: Vec<Raw> = (0..2).map(|_| open_as(&server, "ann")).collect();
    let mut waiting: Vec<Raw> = (0..2).map(|_| open_as(&server, "ann")).collect();
    assert_eq!(open_as(&server, "ann").close_code(), 4409, "twice the limit is the end");
    drop(held.remove(0));
    // One of those that wait has the seat. The other goes as soon as the last has answered.
    answer_ping(&mut held[0]);
    assert_eq!(waiting.pop().map(|mut raw| raw.close_code()), Some(4409));
    expect_pong(&mut waiting[0]);
    expect_pong(&mut held[0]);
}
