//! RFC 6455 on raw sockets: a violation is closed with the right code, the close frame arrives
//! before the end, and no stream of bytes harms the server.

use fanfare_test_support::Server;
use fanfare_test_support::raw::{Raw, masked, text};

const PING: &str = r#"{"type":"ping"}"#;

/// Sends bytes on a fresh JSON socket and returns the code it is closed with.
fn code(server: &Server, bytes: &[u8]) -> u16 {
    let mut raw = Raw::open(server.address(), "/ws");
    raw.send(bytes);
    raw.close_code()
}

fn assert_alive(server: &Server) {
    let mut raw = Raw::open(server.address(), "/ws");
    raw.send(&text(PING));
    assert_eq!(raw.json()["type"], "pong");
}

#[test]
fn protocol_errors_are_closed_with_1002() {
    let server = Server::start(&[]);
    let long_ping = masked(0x89, &[0; 126]);
    for (what, bytes) in [
        ("unmasked", b"\x81\x02{}".to_vec()),
        ("reserved bit 1", masked(0xc1, b"{}")),
        ("reserved bit 2", masked(0xa1, b"{}")),
        ("reserved bit 3", masked(0x91, b"{}")),
        ("reserved data opcode", masked(0x83, b"{}")),
        ("reserved control opcode", masked(0x8b, b"{}")),
        ("stray continuation", masked(0x80, b"{}")),
        ("fragmented ping", masked(0x09, b"x")),
        ("oversize ping", long_ping),
        ("text inside a text", [masked(0x01, b"{"), masked(0x81, b"}")].concat()),
        ("close code 1005", masked(0x88, &1005_u16.to_be_bytes())),
    ] {
        assert_eq!(code(&server, &bytes), 1002, "{what}");
    }
    assert_alive(&server);
}

#[test]
fn binary_is_not_spoken_on_the_json_socket() {
    let server = Server::start(&[]);
    assert_eq!(code(&server, &masked(0x82, b"x")), 1003);
}

#[test]
fn text_that_is_not_utf_8_is_closed_with_1007() {
    let server = Server::start(&[]);
    assert_eq!(code(&server, &masked(0x81, b"\xff\xfe")), 1007);
}

#[test]
fn a_message_may_be_64_kib_and_not_a_byte_more() {
    let server = Server::start(&[]);
    let padded = |bytes: usize| format!("{PING}{}", " ".repeat(bytes - PING.len()));
    let mut raw = Raw::open(server.address(), "/ws");
    raw.send(&text(&padded(65_536)));
    assert_eq!(raw.json()["type"], "pong");
    raw.send(&text(&padded(65_537)));
    assert_eq!(raw.close_code(), 1009);
    // The same in fragments.
    let half = vec![b' '; 40_000];
    let bytes = [masked(0x01, &half), masked(0x80, &half)].concat();
    assert_eq!(code(&server, &bytes), 1009);
}

#[test]
fn an_announced_giant_is_refused_at_once() {
    let server = Server::start(&[]);
    let header = [0x81, 0xff, 0x40, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4];
    assert_eq!(code(&server, &header), 1009);
}

#[test]
fn a_million_empty_fragments_come_to_an_end() {
    let server = Server::start(&[]);
    let mut raw = Raw::open(server.address(), "/ws");
    let fragments = masked(0x00, b"").repeat(10_000);
    let mut is_open = raw.try_send(&masked(0x01, b""));
    for _ in 0..100 {
        is_open = is_open && raw.try_send(&fragments);
    }
    raw.wait_for_end();
    assert!(server.metric("fanfare_closes_total{code=\"1009\"}") >= 1.0);
    assert_alive(&server);
}

#[test]
fn pings_are_answered_with_their_payload() {
    let server = Server::start(&[]);
    let mut raw = Raw::open(server.address(), "/ws");
    raw.send(&[masked(0x89, b""), masked(0x89, b"payload"), text(PING)].concat());
    let frames = [raw.frame(), raw.frame(), raw.frame()].map(|frame| frame.expect("an answer"));
    assert_eq!((frames[0].opcode, &frames[0].payload[..]), (10, &b""[..]));
    assert_eq!((frames[1].opcode, &frames[1].payload[..]), (10, &b"payload"[..]));
    assert_eq!(frames[2].opcode, 1);
}

#[test]
fn a_flood_of_pings_whose_pongs_nobody_reads_is_bounded() {
    let server = Server::start(&["--write-timeout", "1s"]);
    let mut raw = Raw::open(server.address(), "/ws");
    let pings = masked(0x89, &[b'x'; 125]).repeat(1_000);
    // 13 MB out and as much back: TCP stops the writer, or the server ends the connection.
    for _ in 0..100 {
        if !raw.try_send(&pings) {
            break;
        }
    }
    drop(raw);
    assert!(server.metric("fanfare_outbox_bytes_peak") <= 2.0 * 1024.0 * 1024.0);
    assert_alive(&server);
}

#[test]
fn a_close_is_answered_in_kind_and_then_the_stream_ends() {
    let server = Server::start(&[]);
    for sent in [1000_u16, 1001, 3000, 4999] {
        let mut raw = Raw::open(server.address(), "/ws");
        raw.send(&masked(0x88, &sent.to_be_bytes()));
        assert_eq!(raw.close_code(), sent);
    }
    let mut raw = Raw::open(server.address(), "/ws");
    raw.send(&masked(0x88, b""));
    let close = raw.frame().expect("a close frame");
    assert_eq!((close.opcode, close.payload.len()), (8, 0));
    assert_eq!(raw.frame(), None);
}

#[test]
fn the_answer_to_a_close_reaches_a_client_that_has_stopped_writing() {
    let server = Server::start(&[]);
    let mut raw = Raw::open(server.address(), "/ws");
    raw.send(&[text(PING), masked(0x88, &1000_u16.to_be_bytes())].concat());
    raw.end_writing();
    assert_eq!(raw.json()["type"], "pong");
    assert_eq!(raw.close_code(), 1000);
}

#[test]
fn a_hundred_thousand_levels_are_an_error_and_no_overflow() {
    let wide = ["--client-message-bytes-max", "1MiB", "--outbox-bytes-max", "2MiB"];
    // As deep as a message of 64 KiB can be, and then deeper.
    for (server, lists, objects) in
        [(Server::start(&[]), 30_000, 10_000), (Server::start(&wide), 100_000, 100_000)]
    {
        let mut raw = Raw::open(server.address(), "/ws");
        for message in [
            format!("{}{}", "[".repeat(lists), "]".repeat(lists)),
            format!("{{\"type\":\"ping\",\"x\":{}{}}}", "[".repeat(lists), "]".repeat(lists)),
            format!("{}1{}", "{\"a\":".repeat(objects), "}".repeat(objects)),
            "[".repeat(lists),
        ] {
            raw.send(&text(&message));
            let answer = raw.json();
            assert_eq!((&answer["type"], &answer["code"]), (&"error".into(), &"malformed".into()));
            let json = [("Content-Type", "application/json")];
            for path in ["/api/registry/register", "/api/discovery/lookup"] {
                // HTTP bodies skip what they do not know, however deep it is.
                let reply = server.request("POST", path, &json, message.as_bytes());
                assert!(reply.status < 500, "{}", reply.text);
            }
        }
        assert_alive(&server);
    }
}

#[test]
fn echo_returns_messages_whole_and_unchanged() {
    let server = Server::start(&[]);
    let mut raw = Raw::open(server.address(), "/ws/echo");
    let big = vec![0xa5; 3_000_000];
    let bytes = [
        text("hello"),
        masked(0x02, b"a"),
        masked(0x89, b"p"),
        masked(0x80, b"b"),
        masked(0x82, &big),
    ]
    .concat();
    raw.send(&bytes);
    let expected: [(u8, &[u8]); 4] = [(1, b"hello"), (10, b"p"), (2, b"ab"), (2, &big)];
    for (opcode, payload) in expected {
        let frame = raw.frame().expect("an echo");
        assert_eq!(frame.opcode, opcode);
        assert!(frame.payload == payload, "{} bytes came back", frame.payload.len());
    }
    let server = Server::start(&["--echo", "off"]);
    assert_eq!(server.get("/ws/echo").status, 404);
}
