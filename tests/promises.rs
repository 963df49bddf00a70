//! The table of promises names tests that exist; and the statements of the documents that no other
//! test holds: first line, figures, defaults, names.

use fanfare_test_support as support;
use std::fs;
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};

use fanfare_test_support::{SECRET, Server};
use serde_json::{Value, json};

/// How many statements of the systems before this one were tried by hand once.
const PROMISES_MIN: usize = 107;

/// The test of a row's last cell that is not there. Files are spans with a slash; what follows one is in
/// it.
fn missing(cell: &str) -> Vec<String> {
    let mut faults = Vec::new();
    let mut file: Option<(&str, String)> = None;
    let mut count = 0;
    for span in cell.split('`').skip(1).step_by(2) {
        if span.contains('/') && Path::new(span).extension().is_some() {
            match fs::read_to_string(span) {
                Ok(text) => file = Some((span, text)),
                Err(fault) => faults.push(format!("{span}: {fault}")),
            }
            continue;
        }
        let Some((name, text)) = &file else {
            faults.push(format!("{span} is in no file"));
            continue;
        };
        count += 1;
        let is_there = match Path::new(name).extension().and_then(|end| end.to_str()) {
            Some("rs") => is_test(text, span),
            Some("mjs") => text.contains(&format!("test(\"{span}\"")),
            _ => text.contains(span),
        };
        if !is_there {
            faults.push(format!("{name} has no test {span:?}"));
        }
    }
    if count == 0 {
        faults.push(format!("no test is named: {cell}"));
    }
    faults
}

/// Whether a function is there and is a test, or is all of a file that is its own runner.
fn is_test(text: &str, name: &str) -> bool {
    let lines: Vec<&str> = text.lines().collect();
    lines.iter().enumerate().any(|(index, line)| {
        let is_it = line.trim_start().split("fn ").nth(1).is_some_and(|rest| {
            rest.strip_prefix(name).is_some_and(|rest| rest.starts_with(['(', '<']))
        });
        let before = &lines[index.saturating_sub(4)..index];
        is_it
            && (name == "main"
                || before.iter().any(|line| line.contains("test]") || line.contains("::test")))
    })
}

#[test]
fn every_promise_names_a_test_that_is_there() {
    let text = fs::read_to_string("docs/promises.md").expect("the table is there");
    let rows: Vec<Vec<&str>> = text
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| a user may rely on"))
        .map(|line| line.trim_matches('|').split(" | ").collect())
        .collect();
    assert!(rows.len() >= PROMISES_MIN, "{} rows", rows.len());
    let mut faults = Vec::new();
    for row in &rows {
        match row[..] {
            [promise, said_in, held_by] => {
                assert!(said_in.contains("]("), "no document is named for: {promise}");
                faults.extend(missing(held_by));
            }
            _ => faults.push(format!("not three cells: {row:?}")),
        }
    }
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    // A table that takes anything would hold nothing.
    assert_eq!(missing("`tests/promises.rs` `every_promise_names_a_test_that_is_there`"), [""; 0]);
    for wrong in
        ["`tests/promises.rs` `missing`", "`tests/promises.rs`", "`nowhere`", "`tests/no.rs` `x`"]
    {
        assert!(!missing(wrong).is_empty(), "{wrong}");
    }
}

#[test]
fn the_first_line_says_where_it_listens() {
    // A server of the tests reads it: nothing else would tell where it listens.
    let server = Server::start(&[]);
    assert_eq!(server.get("/health").body, json!({"status": "up"}));
    let dir = server.dir().join("first");
    let mut child = Command::new(env!("CARGO_BIN_EXE_fanfare"))
        .args(["--bind", "127.0.0.1:0", "--data-dir"])
        .arg(&dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(child.stdout.take().expect("it is piped"));
    std::io::BufRead::read_line(&mut stdout, &mut line).expect("a line");
    let address = line.strip_prefix("fanfare listening on http://").expect("its first line");
    TcpStream::connect(address.trim_end()).expect("it listens there");
    child.kill().expect("it can be killed");
    child.wait().expect("a child can be waited for");
}

#[test]
fn limits_and_defaults_are_those_that_are_stated() {
    let server = Server::start(&[]);
    let config = server.get("/api/status/config.json").body;
    for (name, stated) in [
        ("auth", json!("open")),
        ("lease_ttl", json!("20s")),
        ("ping_interval", json!("25s")),
        ("pong_timeout", json!("10s")),
        ("write_timeout", json!("15s")),
        ("handshake_timeout", json!("10s")),
        ("body_timeout", json!("15s")),
        ("self_protection_max", json!("10m")),
        ("echo", json!(true)),
        ("eureka", json!(true)),
        ("default_scopes", json!("message")),
        ("client_message_bytes_max", json!(65_536)),
        ("echo_message_bytes_max", json!(16_777_216)),
        ("http_body_bytes_max", json!(1_048_576)),
        ("http_registry_body_bytes_max", json!(8_388_608)),
        ("subscriptions_per_connection_max", json!(1_024)),
        ("connections_per_user_max", json!(16)),
        ("client_messages_per_s_max", json!(100)),
        ("client_messages_burst_max", json!(200)),
        ("topic_bytes_max", json!(255)),
        ("service_history_max", json!(1_024)),
        ("channel_history_max", json!(256)),
        ("outbox_bytes_max", json!(1_048_576)),
        ("outbox_frames_max", json!(4_096)),
        ("instance_bytes_max", json!(65_536)),
        ("history_bytes_max", json!(268_435_456)),
        ("answer_bytes_max", json!(67_108_864)),
        ("control_frames_per_s_max", json!(50)),
        ("control_frames_burst_max", json!(100)),
        ("connections_max", json!("auto")),
        ("redis_url", Value::Null),
    ] {
        assert_eq!(config.get(name), Some(&stated), "{name}");
    }
}

#[test]
fn the_statistics_have_every_figure() {
    let server = Server::start(&["--shards", "2"]);
    let stats = server.get("/ws/stats").body;
    for figure in [
        "connections",
        "users_online",
        "subscriptions",
        "topics",
        "events_total",
        "deliveries_total",
        "delivered_bytes_total",
        "slow_readers_total",
        "uptime_s",
        "memory_rss_bytes",
    ] {
        assert!(stats[figure].is_u64(), "{figure}: {stats}");
    }
    for quantile in ["p50", "p90", "p99", "p999", "max"] {
        assert!(stats["fanout_latency_us"][quantile].is_u64(), "{quantile}: {stats}");
    }
    let shards = stats["shards"].as_array().expect("one entry a shard");
    assert_eq!(shards.len(), 2);
    for figure in ["connections", "subscriptions", "topics", "events_total", "deliveries_total"] {
        assert!(shards.iter().all(|shard| shard[figure].is_u64()), "{figure}: {stats}");
    }
}

/// An upgrade request for a path, as a browser sends it.
fn upgrade(server: &Server, path: &str) -> u16 {
    let headers = [
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    server.request("GET", path, &headers, b"").status
}

#[test]
fn names_of_calls_are_no_channels() {
    let server = Server::start(&[]);
    for name in ["online", "stats", "broadcast", "send"] {
        assert_ne!(upgrade(&server, &format!("/ws/{name}")), 101, "{name}");
    }
    for name in ["news", "online2", "chat%3Aroom1"] {
        assert_eq!(upgrade(&server, &format!("/ws/{name}")), 101, "{name}");
    }
    assert_eq!(server.get("/ws/online").body, json!({"count": 0, "users": []}));
}

#[test]
fn a_socket_that_is_called_as_a_page_says_what_it_is() {
    let server = Server::start(&[]);
    for path in ["/ws", "/ws/news", "/ws/echo"] {
        let plain = server.get(path);
        assert_eq!((plain.status, plain.header("upgrade")), (426, Some("websocket")), "{path}");
        let posted = server.post_json(path, &json!({}));
        assert_eq!((posted.status, posted.header("allow")), (405, Some("GET")), "{path}");
    }
}

#[test]
fn system_commands_are_the_same_as_the_others() {
    let server = Server::start(&[]);
    let mut client = server.connect();
    let system = |command: &str, channel: &str| json!({"type": "system", "id": 1, "payload": {"command": command, "channel": channel}});
    let answer = client.ask(&system("subscribe", "news"), "subscribed");
    assert_eq!(
        (&answer["channel"], &answer["offset"], &answer["id"]),
        (&json!("news"), &json!(0), &json!(1))
    );
    let list = json!({"type": "system", "payload": {"command": "list_channels"}});
    let listed = client.ask(&list, "system");
    assert_eq!(listed["payload"]["command"], "list_channels");
    let channel = json!({"name": "news", "description": "", "subscribers": 1});
    assert_eq!(listed["payload"]["channels"], json!([channel]));
    let answer = client.ask(&system("unsubscribe", "news"), "unsubscribed");
    assert_eq!((&answer["channel"], &answer["id"]), (&json!("news"), &json!(1)));
    client.send_json(&system("dance", "news"));
    client.expect_error("invalid_argument");
}

#[test]
fn the_smoke_test_takes_its_flags() {
    let missing = ["curl", "openssl", "python3"].into_iter().find(|tool| {
        let mut look = Command::new("sh");
        let found = look.args(["-c", &format!("command -v {tool}")]).stdout(Stdio::null()).status();
        !found.is_ok_and(|status| status.success())
    });
    if let Some(tool) = missing {
        return support::skipped(&format!("{tool} is not installed"));
    }
    let server = Server::start_for_people(&["--auth", "open"]);
    let (http, ws) = (format!("http://{}", server.address()), format!("ws://{}", server.address()));
    let output = Command::new("scripts/test_websocket.sh")
        .args(["--skip-performance", "--server-url", &http, "--ws-url", &ws])
        .args(["--jwt-secret", SECRET])
        .env_remove("JWT_SECRET")
        .output()
        .expect("bash runs it");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}");
    assert!(said.trim_end().ends_with(" passed, 0 failed"), "{said}");
    assert!(said.lines().filter(|line| line.starts_with("PASS")).count() > 20, "{said}");
}
