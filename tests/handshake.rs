//! The opening handshake: a 101 for what RFC 6455 asks for, and for nothing else.

use fanfare_test_support as support;
use fanfare_test_support::Server;
use fanfare_test_support::raw::{Raw, UPGRADE, text};

/// Sends a request head and returns the response's status and head.
fn knock(server: &Server, request_line: &str, headers: &str) -> (u16, String) {
    let mut raw = Raw::connect(server.address());
    let host = format!("Host: {}\r\n", server.address());
    raw.send(format!("{request_line}\r\n{host}{headers}\r\n").as_bytes());
    let (status, head, _) = raw.response();
    (status, head.to_lowercase())
}

const GET: &str = "GET /ws HTTP/1.1";

#[test]
fn a_good_request_is_answered_as_in_the_rfc() {
    let server = Server::start(&[]);
    let (status, head) = knock(&server, GET, UPGRADE);
    assert_eq!(status, 101);
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo="), "{head}");
    assert!(!head.contains("sec-websocket-protocol"));
    let with_protocol = format!("{UPGRADE}Sec-WebSocket-Protocol: chat, fanfare\r\n");
    let (status, head) = knock(&server, GET, &with_protocol);
    assert!(status == 101 && head.contains("sec-websocket-protocol: fanfare\r\n"), "{head}");
}

#[test]
fn each_fault_has_its_status() {
    let server = Server::start(&[]);
    let without = |part: &str| UPGRADE.replace(part, "");
    let (status, head) = knock(&server, GET, "");
    assert!(status == 426 && head.contains("upgrade: websocket"), "{head}");
    let (status, head) = knock(&server, "POST /ws HTTP/1.1", UPGRADE);
    assert!(status == 405 && head.contains("allow: get"), "{head}");
    let (status, head) = knock(&server, GET, &UPGRADE.replace(": 13", ": 12"));
    assert!(status == 426 && head.contains("sec-websocket-version: 13"), "{head}");
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    for (wrong, headers) in [
        (400, without(key)),
        (400, UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "dGhlIHNhbXBsZQ==")),
        (400, UPGRADE.replace("dGhlIHNhbXBsZSBub25jZQ==", "not base64 at all!!!!!!!")),
        (400, format!("{UPGRADE}{key}")),
        (400, format!("{UPGRADE}Content-Length: 3\r\n")),
        (400, format!("{UPGRADE}Transfer-Encoding: chunked\r\n")),
        (400, format!("{UPGRADE}Host: other\r\n")),
        (403, format!("{UPGRADE}Origin: http://evil.example\r\n")),
        (403, format!("{UPGRADE}Origin: null\r\n")),
        (401, format!("{UPGRADE}Authorization: Bearer nonsense\r\n")),
        (426, without("Connection: Upgrade\r\n")),
    ] {
        assert_eq!(knock(&server, GET, &headers).0, wrong, "{headers}");
    }
    assert_eq!(knock(&server, "GET /ws HTTP/1.0", UPGRADE).0, 400);
    let own = format!("{UPGRADE}Origin: http://{}\r\n", server.address());
    assert_eq!(knock(&server, GET, &own).0, 101);
}

#[test]
fn frames_right_behind_the_request_are_read() {
    let server = Server::start(&[]);
    let mut raw = Raw::connect(server.address());
    let head = format!("{GET}\r\nHost: {}\r\n{UPGRADE}\r\n", server.address());
    raw.send(&[head.as_bytes(), &text(r#"{"type":"ping","id":1}"#)].concat());
    assert!(raw.head().starts_with("HTTP/1.1 101"));
    assert_eq!(raw.json()["type"], "welcome");
    assert_eq!(raw.json()["id"], 1);
}

#[test]
fn a_connection_may_upgrade_after_other_requests() {
    let server = Server::start(&[]);
    let mut raw = Raw::connect(server.address());
    let host = format!("Host: {}\r\n", server.address());
    for _ in 0..2 {
        raw.send(format!("GET /health HTTP/1.1\r\n{host}\r\n").as_bytes());
        assert_eq!(raw.response().0, 200);
    }
    let head = format!("{GET}\r\n{host}{UPGRADE}\r\n");
    raw.send(&[head.as_bytes(), &text(r#"{"type":"ping","id":"x"}"#)].concat());
    assert!(raw.head().starts_with("HTTP/1.1 101"));
    assert_eq!(raw.json()["type"], "welcome");
    assert_eq!(raw.json()["id"], "x");
}

#[test]
fn ambiguous_heads_are_refused_on_first_and_later_requests() {
    let server = Server::start(&[]);
    let host = format!("Host: {}\r\n", server.address());
    for extra in [
        "Content-Length: 2\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 2\r\n",
        "Content-Length: 2\r\nContent-Length: 2\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: -2\r\n",
        "Content-Length: 2,2\r\n",
        "Transfer-Encoding: gzip\r\n",
    ] {
        let bad = format!("POST /api/registry/register HTTP/1.1\r\n{host}{extra}\r\n{{}}");
        let mut first = Raw::connect(server.address());
        first.send(bad.as_bytes());
        assert_eq!(first.response().0, 400, "{extra}");
        first.wait_for_end();
        let mut later = Raw::connect(server.address());
        later.send(format!("GET /health HTTP/1.1\r\n{host}\r\n").as_bytes());
        assert_eq!(later.response().0, 200);
        later.send(bad.as_bytes());
        assert_eq!(later.response().0, 400, "later: {extra}");
        later.wait_for_end();
    }
}

#[test]
fn heads_are_bounded_in_bytes_and_headers() {
    let server = Server::start(&[]);
    let head = |count: usize| {
        format!("GET /health HTTP/1.1\r\nHost: localhost\r\n{}\r\n", "a: b\r\n".repeat(count - 1))
    };
    let status = |bytes: &str| {
        let mut raw = Raw::connect(server.address());
        // The server may stop reading a giant head before its end.
        raw.try_send(bytes.as_bytes());
        raw.response().0
    };
    assert_eq!(status(&head(100)), 200);
    assert_eq!(status(&head(101)), 431);
    assert_eq!(status(&head(10_000)), 431);
    let long =
        format!("GET /health HTTP/1.1\r\nHost: localhost\r\nx: {}\r\n\r\n", "y".repeat(400 * 1024));
    assert_eq!(status(&long), 431);
    assert_eq!(server.get("/health").status, 200);
}

#[test]
fn silence_and_slowness_end_in_time() {
    let server = Server::start(&["--handshake-timeout", "500ms", "--body-timeout", "500ms"]);
    let mut silent = Raw::connect(server.address());
    let mut slow = Raw::connect(server.address());
    slow.send(b"GET /ws HTTP/1.1\r\nHo");
    let mut body = Raw::connect(server.address());
    body.send(
        b"POST /api/registry/register HTTP/1.1\r\nHost: localhost\r\n\
          Content-Type: application/json\r\nContent-Length: 10\r\n\r\n{",
    );
    silent.wait_for_end();
    slow.wait_for_end();
    assert_eq!(body.response().0, 408);
    body.wait_for_end();
}

#[test]
fn connect_and_abort_leaks_no_descriptor() {
    let server = Server::start(&[]);
    // The first requests open what is opened once.
    for _ in 0..10 {
        assert_eq!(server.get("/health").status, 200);
    }
    drop(Raw::open(server.address(), "/ws"));
    let mut before = 0;
    support::eventually("quiet", std::time::Duration::from_secs(10), || {
        std::mem::replace(&mut before, server.open_descriptors()) == before
    });
    for round in 0..2_000 {
        let mut raw = Raw::connect(server.address());
        if round % 3 == 1 {
            raw.send(b"GET /ws HTTP/1.1\r\n");
        } else if round % 3 == 2 {
            raw = Raw::open(server.address(), "/ws");
        }
        drop(raw);
    }
    support::eventually("every socket to be gone", std::time::Duration::from_secs(10), || {
        // The server may have opened a file of its own meanwhile; a leak would be hundreds.
        server.open_descriptors() <= before + 16
    });
    support::eventually("none to be counted", std::time::Duration::from_secs(10), || {
        server.metric("fanfare_connections{shard=\"0\"}") == 0.0
            && server.metric("fanfare_handshakes{shard=\"0\"}") == 0.0
    });
}

#[test]
fn a_chunk_that_is_none_is_refused_at_once() {
    // Far longer than a test may wait: the refusal must not be the body's timeout.
    let server = Server::start(&["--body-timeout", "60s"]);
    for chunks in
        ["zz\r\nabc\r\n", "\r\n", "5\r\nhelloXX0\r\n\r\n", "12345678123456781\r\n", "5\rx"]
    {
        let mut raw = Raw::connect(server.address());
        raw.send(
            format!(
                "POST /api/registry/register HTTP/1.1\r\nHost: localhost\r\n\
                 Content-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}"
            )
            .as_bytes(),
        );
        assert_eq!(raw.response().0, 400, "{chunks:?}");
        raw.wait_for_end();
    }
}
