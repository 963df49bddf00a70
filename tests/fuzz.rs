//! No input ends the server or makes it panic: seeded garbage on every door, from noise to messages
//! that are right but for a few bytes. A seed that fails is in the message of the assertion.

use fanfare_test_support as support;
use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpStream};
use std::sync::OnceLock;
use std::time::Duration;

use fanfare_test_support::raw::{UPGRADE, masked};
use fanfare_test_support::{Rng, Server, instance};
use serde_json::json;

/// Connections of each kind.
const ROUNDS: u64 = 2_000;

/// What a door is given: whole inputs that are right.
fn samples(door: &str) -> Vec<Vec<u8>> {
    let messages = [
        json!({"type": "subscribe", "service_id": "s", "snapshot": true, "id": 1}),
        json!({"type": "subscribe", "service_id": "s", "since": {"epoch": "e", "revision": 4}}),
        json!({"type": "subscribe", "service_id": "*"}),
        json!({"type": "unsubscribe", "service_id": "s", "id": "x"}),
        json!({"type": "register", "instances": [instance("s", "one"), instance("s", "two")]}),
        json!({"type": "heartbeat", "instance_keys": [{"serviceId": "s", "instanceId": "one"}]}),
        json!({"type": "unregister", "instance_keys": [{"serviceId": "s", "instanceId": "two"}]}),
        json!({"type": "refresh", "token": "a.b.c"}),
        json!({"type": "ping"}),
        json!({"type": "subscribe", "channel": "c", "since": {"epoch": "e", "offset": 2}}),
        json!({"type": "unsubscribe", "channel": "c"}),
        json!({"type": "publish", "channel": "c", "payload": {"a": [1]}, "event": "e.f",
            "metadata": {"k": "v"}, "echo": false, "id": 2}),
        json!({"type": "system", "payload": {"command": "list_channels"}}),
        json!({"type": "system", "payload": {"command": "subscribe", "channel": "d"}}),
        json!({"type": "join", "room": "r"}),
        json!({"type": "chat", "room": "r", "content": "hi", "id": "c"}),
        json!({"type": "leave", "room": "r"}),
        json!({"id": "m", "message_type": "text", "data": {"n": 1}, "to_user_id": "me"}),
        json!({"id": 7, "message_type": "ping"}),
    ];
    let post = |path: &str, body: &serde_json::Value| {
        let body = body.to_string();
        format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let keys = json!({"instanceKeys": [{"serviceId": "s", "instanceId": "one"}]});
    match door {
        "frames" => {
            let mut samples: Vec<Vec<u8>> =
                messages.iter().map(|one| masked(0x81, one.to_string().as_bytes())).collect();
            samples.push(masked(0x89, b"ping"));
            samples.push(masked(0x8a, b""));
            samples.push(masked(0x88, &1000_u16.to_be_bytes()));
            samples.push([masked(0x01, b"{\"type\":"), masked(0x80, b"\"ping\"}")].concat());
            samples
        }
        "messages" => messages.iter().map(|one| one.to_string().into_bytes()).collect(),
        _ => [
            format!("GET /ws HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n"),
            post("/api/registry/register", &json!({"instances": [instance("s", "one")]})),
            post("/api/registry/heartbeat", &keys),
            post("/api/registry/unregister", &keys),
            post("/api/discovery/lookup", &json!({"discoveryConfigs": [{"serviceId": "s"}]})),
            post("/api/discovery/services-delta", &json!({"version": 0})),
            String::from("GET /api/discovery/service?serviceId=s HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            post("/ws/broadcast", &json!({"message_type": "n", "data": {}, "only_to": ["0-1-2"]})),
            post("/ws/send", &json!({"to_user_id": "me", "message_type": "n", "data": [1]})),
            post("/api/v1/channels/c/messages", &json!({"payload": "x", "exclude": ["0-1-2"]})),
            post("/api/v1/live/order/7", &json!({"action": "updated", "data": {}})),
            post("/api/v1/dashboards/d/metrics", &json!({"n": 1.5})),
            String::from(
                "GET /api/v1/channels/c/history?after=1&limit=5 HTTP/1.1\r\nHost: localhost\r\n\r\n",
            ),
            String::from("DELETE /api/v1/connections/0-1-2 HTTP/1.1\r\nHost: localhost\r\n\r\n"),
            String::from(
                "POST /api/registry/register HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\
                 Content-Type: application/json\r\n\r\n10\r\n{\"instances\":[]}\r\n0\r\n\r\n",
            ),
        ]
        .map(String::into_bytes)
        .to_vec(),
    }
}

/// A sample with a few bytes changed, lost, doubled or put in from elsewhere.
fn mutate(rng: &mut Rng, sample: &[u8]) -> Vec<u8> {
    let mut bytes = sample.to_vec();
    for _ in 0..=rng.below(4) {
        if bytes.is_empty() {
            break;
        }
        let at = rng.below(bytes.len());
        match rng.below(6) {
            0 => bytes[at] ^= 1 << rng.below(8),
            1 => bytes[at] = *b"\0\r\n\"{}[]:,\\\x7f\x80\xff0".get(rng.below(15)).unwrap_or(&b'x'),
            2 => drop(bytes.drain(at..(at + 1 + rng.below(8)).min(bytes.len()))),
            3 => {
                let piece = bytes[at..(at + 1 + rng.below(16)).min(bytes.len())].to_vec();
                bytes.splice(at..at, piece);
            }
            4 => bytes.truncate(at),
            _ => {
                let noise: Vec<u8> =
                    (0..rng.below(20)).map(|_| u8::try_from(rng.below(256)).unwrap_or(0)).collect();
                bytes.splice(at..at, noise);
            }
        }
    }
    bytes
}

/// Sends bytes in a few pieces and reads what comes until the server is done or says nothing more.
fn throw(server: &Server, rng: &mut Rng, bytes: &[u8]) {
    let mut stream = TcpStream::connect(server.address()).expect("the server accepts");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    let cut = rng.below(bytes.len() + 1);
    let _ = stream.write_all(&bytes[..cut]);
    let _ = stream.write_all(&bytes[cut..]);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answer = Vec::new();
    // A reset is as good an end as any: bytes that nobody wanted were still under way.
    if let Err(fault) = stream.read_to_end(&mut answer) {
        let kind = fault.kind();
        assert_eq!(
            kind,
            std::io::ErrorKind::ConnectionReset,
            "the server keeps a dead connection: {}",
            String::from_utf8_lossy(bytes).escape_debug()
        );
    }
}

fn expect_unharmed(server: &Server, door: &str, seed: u64) {
    assert_eq!(server.get("/health").status, 200, "{door}, seed {seed}");
    let log = server.log();
    assert!(!log.contains("panicked"), "{door}, up to seed {seed}:\n{log}");
    assert!(!log.contains("ERROR"), "{door}, up to seed {seed}:\n{log}");
}

fn fuzz(door: &str, input: impl Fn(&mut Rng, &[Vec<u8>]) -> Vec<u8>) {
    let server = Server::start_for_people(&["--connections-per-user-max", "1000"]);
    let samples = samples(door);
    for seed in 0..ROUNDS {
        let mut rng = Rng::seeded(seed);
        let bytes = input(&mut rng, &samples);
        throw(&server, &mut rng, &bytes);
        if seed % 50 == 49 {
            expect_unharmed(&server, door, seed);
        }
    }
    server.register(&[instance("after", "all")]);
    assert_eq!(server.discover("after")["revision"], 1);
    expect_unharmed(&server, door, ROUNDS);
}

/// The head of a signed-in socket: a user may say the most.
fn upgraded() -> Vec<u8> {
    static TOKEN: OnceLock<String> = OnceLock::new();
    let token = TOKEN.get_or_init(|| support::token("me", ""));
    format!("GET /ws?token={token} HTTP/1.1\r\nHost: localhost\r\n{UPGRADE}\r\n").into_bytes()
}

#[test]
fn requests() {
    fuzz("requests", |rng, samples| {
        let mut bytes = Vec::new();
        for _ in 0..=rng.below(3) {
            let sample = &samples[rng.below(samples.len())];
            bytes.extend(mutate(rng, sample));
        }
        bytes
    });
}

#[test]
fn frames() {
    fuzz("frames", |rng, samples| {
        let mut bytes = upgraded();
        for _ in 0..=rng.below(6) {
            let sample = &samples[rng.below(samples.len())];
            let is_whole = rng.below(2) == 0;
            bytes.extend(if is_whole { sample.clone() } else { mutate(rng, sample) });
        }
        bytes
    });
}

#[test]
fn messages() {
    fuzz("messages", |rng, samples| {
        let mut bytes = upgraded();
        for _ in 0..=rng.below(10) {
            let sample = &samples[rng.below(samples.len())];
            bytes.extend(masked(0x81, &mutate(rng, sample)));
        }
        bytes
    });
}

#[test]
fn noise() {
    fuzz("noise", |rng, _| {
        let mut bytes = if rng.below(2) == 0 { upgraded() } else { Vec::new() };
        bytes.extend((0..rng.below(3_000)).map(|_| u8::try_from(rng.below(256)).unwrap_or(0)));
        bytes
    });
}
