//! The log has each refusal with its reason, arrivals and departures, and operators' actions; a
//! storm of equal lines is a few and one with a count; and nothing waits for the log's reader.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use fanfare_test_support::nodes;
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};
use tungstenite::Message;

use fanfare_test_support::redis::Redis;
use fanfare_test_support::{Client, SECRET, Server, eventually, instance, token};

/// How long a line may take to be there.
const PATIENCE: Duration = Duration::from_secs(20);

/// Lines of one kind that are written within a window of ten seconds.
const EQUAL_LINES_MAX: usize = 10;

const DEBUG: &str = r#"export RUST_LOG=info,fanfare::ws=debug,fanfare::registry=debug,fanfare::messages=debug,fanfare::accounts=debug; exec "$@""#;

/// Waits for a line that has all of these words, and returns it.
fn line(server: &Server, words: &[&str]) -> String {
    let find = || {
        let log = server.log();
        let has_all = |line: &&str| words.iter().all(|word| line.contains(word));
        log.lines().find(has_all).map(str::to_owned)
    };
    let mut found = None;
    eventually(&format!("a line with {words:?}"), PATIENCE, || {
        found = find();
        found.is_some()
    });
    found.expect("it was found")
}

fn field<'a>(line: &'a str, name: &str) -> Option<&'a str> {
    let start = line.find(&format!(" {name}="))? + name.len() + 2;
    let rest = &line[start..];
    match rest.strip_prefix('"') {
        Some(quoted) => quoted.split('"').next(),
        None => rest.split(' ').next(),
    }
}

/// Equal requests in a storm.
const STORM: usize = 300;

/// A request that is refused: method, path, headers, body, the status and what the log says of it.
type Case<'a> = (&'a str, &'a str, Vec<(&'a str, &'a str)>, &'a [u8], u16, &'a str);

fn is_refusal(line: &str) -> bool {
    line.contains("request refused") || line.contains("request failed")
}

#[test]
fn every_refusal_is_found_by_its_request_id() {
    let server = Server::start(&["--jwt-secret", SECRET, "--auth", "required"]);
    let upgrade = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    let bad = format!("Bearer {}x", token("ann", "admin"));
    let weak = format!("Bearer {}", token("bob", "message"));
    let wrong = json!({"username": "nobody", "password": "not a password"}).to_string();
    let json = ("Content-Type", "application/json");
    let evil = ("Origin", "https://evil.example");
    let with = |more: &[(&'static str, &'static str)]| [&upgrade[..], more].concat();
    let cases: &[Case<'_>] = &[
        ("GET", "/nothing-here", vec![], b"", 404, "there is nothing at this path"),
        ("DELETE", "/metrics", vec![], b"", 405, "this path takes GET, HEAD"),
        ("GET", "/ws", vec![], b"", 426, "this resource is a WebSocket"),
        ("GET", "/ws", with(&[evil]), b"", 403, "pages of this origin may not call"),
        ("GET", "/ws/news", with(&[]), b"", 401, "a token is required"),
        ("GET", "/ws/online", vec![("Authorization", &bad)], b"", 401, "wrong signature"),
        ("GET", "/ws/stats", vec![], b"", 401, "a token is required"),
        (
            "GET",
            "/api/status/config.json",
            vec![("Authorization", &weak)],
            b"",
            403,
            "the token lacks the scope admin",
        ),
        ("POST", "/api/v1/users/login", vec![json], wrong.as_bytes(), 401, "no such account"),
        ("POST", "/api/v1/users/login", vec![json], b"{", 400, "the body is not JSON"),
        ("POST", "/api/v1/users/login", vec![], b"{}", 415, "is not application/json"),
        ("POST", "/eureka/apps/x", vec![("Authorization", &bad)], b"{}", 401, "wrong signature"),
    ];
    for (method, path, headers, body, status, reason) in cases {
        let reply = server.request(method, path, headers, body);
        assert_eq!(reply.status, *status, "{path}: {}", reply.text);
        let path_field = format!("path=\"{path}\"");
        let status_field = format!("status={status}");
        let found = line(&server, &["INFO fanfare::http", &path_field, &status_field, reason]);
        if let Some(id) = reply.body["request_id"].as_str() {
            assert_eq!(field(&found, "request_id"), Some(id), "{found}");
        } else {
            assert!(path.starts_with("/eureka") && field(&found, "request_id").is_some());
        }
        assert_eq!(field(&found, "method"), Some(*method), "{found}");
        assert!(
            field(&found, "client").is_some_and(|one| one.starts_with("127.0.0.1:")),
            "{found}"
        );
        let origin = headers.iter().find(|(name, _)| *name == "Origin").map(|(_, value)| *value);
        assert_eq!(field(&found, "origin"), origin, "{found}");
    }
    // Who it is, where a token said so.
    assert!(line(&server, &["config.json", "status=403"]).contains("user=\"bob\""));
    // A head that nobody can read is refused by the shard, and told all the same.
    let reply = server.raw(b"GET / HTTP/1.1\r\nHost: localhost\r\nno colon\r\n\r\n");
    let id = reply.body["request_id"].as_str().expect("an id");
    line(&server, &["request refused", &format!("request_id=\"{id}\"")]);
    assert_eq!(server.count("fanfare_refusals_total{code=\"malformed\",door=\"http\"}"), 2);
}

#[test]
fn a_client_behind_a_trusted_proxy_is_named() {
    let server = Server::start(&["--trusted-proxies", "127.0.0.1"]);
    let forwarded = [("X-Forwarded-For", "192.0.2.44")];
    server.request("GET", "/nothing-here", &forwarded, b"");
    assert!(line(&server, &["request refused"]).contains("client=\"192.0.2.44\""));
}

#[test]
fn a_storm_of_equal_lines_is_a_few_and_one_with_a_count() {
    let server = Server::start(&[]);
    let header = [("Authorization", "Bearer nonsense")];
    let mut last = String::new();
    for _ in 0..STORM {
        let reply = server.request("GET", "/ws/online", &header, b"");
        reply.expect_problem(401, "unauthorized");
        last = reply.body["request_id"].as_str().unwrap_or_default().to_owned();
    }
    let count = || {
        let log = server.log();
        let written = log.lines().filter(|line| is_refusal(line) && !line.contains("left_out"));
        let left_out = log.lines().filter(|line| line.contains("more lines like this"));
        let left_out = left_out.filter_map(|line| field(line, "left_out")?.parse::<usize>().ok());
        (written.count(), left_out.sum::<usize>())
    };
    eventually("each is written or counted", PATIENCE, || {
        let (written, left_out) = count();
        written + left_out == STORM
    });
    let (written, left_out) = count();
    // As many windows as the storm took; on a loaded machine more than one.
    assert!(written <= 5 * EQUAL_LINES_MAX && left_out >= STORM / 2, "{written}, {left_out}");
    let said = line(&server, &["more lines like this", &last]);
    assert!(said.contains("of=\"fanfare::http\"") && said.contains("status=401"), "{said}");
}

#[test]
fn a_filter_that_cannot_be_read_is_told() {
    let loud = r#"export RUST_LOG=fanfare=loud; exec "$@""#;
    let server = Server::start_by(Some(loud), &[]);
    line(&server, &["WARN fanfare::log", "RUST_LOG", "info is shown"]);
    line(&server, &["INFO fanfare::server", "started"]);
}

#[test]
fn lines_can_be_json() {
    let server = Server::start(&["--log-format", "json", "--access-log", "on"]);
    server.get("/nothing-here");
    line(&server, &["fanfare::access", "/nothing-here"]);
    let mut targets = Vec::new();
    for text in server.log().lines() {
        let line: Value = serde_json::from_str(text).unwrap_or_else(|_| panic!("no JSON: {text}"));
        for name in ["timestamp", "level", "target", "message"] {
            assert!(line[name].is_string(), "{name}: {text}");
        }
        targets.push(line["target"].as_str().unwrap_or_default().to_owned());
        if line["message"] == "request refused" {
            assert_eq!((&line["status"], &line["code"]), (&json!(404), &json!("not_found")));
        }
    }
    for target in ["fanfare::server", "fanfare::http", "fanfare::access"] {
        assert!(targets.iter().any(|one| one == target), "{target}: {targets:?}");
    }
}

#[test]
fn the_access_log_has_a_line_for_each_request() {
    let quiet = r#"export RUST_LOG=error; exec "$@""#;
    let flags = ["--access-log", "on", "--jwt-secret", SECRET];
    let server = Server::start_by(Some(quiet), &flags);
    let ann = token("ann", "admin");
    let reply = server.get(&format!("/ws/online?token={ann}&x=1"));
    assert_eq!(reply.status, 200);
    let found = line(&server, &["fanfare::access", "/ws/online"]);
    for (name, value) in [
        ("method", "GET"),
        ("path", "/ws/online"),
        ("status", "200"),
        ("bytes", &reply.text.len().to_string()),
        ("user", "ann"),
    ] {
        assert_eq!(field(&found, name), Some(value), "{found}");
    }
    assert!(field(&found, "duration_us").is_some_and(|us| us.parse::<u64>().is_ok()), "{found}");
    assert!(field(&found, "client").is_some() && field(&found, "request_id").is_some(), "{found}");
    let _client = server.connect_as("bob");
    let upgrade = line(&server, &["fanfare::access", "path=\"/ws\"", "status=101"]);
    assert_eq!(field(&upgrade, "user"), Some("bob"), "{upgrade}");
    // Each request has one, however many equal ones there are.
    for _ in 0..3 * EQUAL_LINES_MAX {
        server.get("/health");
    }
    eventually("a line each", PATIENCE, || {
        server.log().matches("path=\"/health\"").count() == 3 * EQUAL_LINES_MAX
    });
    assert!(!server.log().contains(&ann) && !server.log().contains("?token"));
}

#[test]
fn without_it_there_is_none() {
    let server = Server::start(&[]);
    server.get("/health");
    server.get("/nothing-here");
    line(&server, &["request refused"]);
    assert!(!server.log().contains("fanfare::access"));
}

#[test]
fn the_life_of_a_socket_is_told_at_debug() {
    let flags = ["--jwt-secret", SECRET];
    let server = Server::start_by(Some(DEBUG), &flags);
    let mut ann = server.connect_as("ann");
    let name = format!("connection=\"{}\"", ann.id());
    let connected = line(&server, &["DEBUG fanfare::ws", "client connected", &name]);
    assert_eq!(field(&connected, "user"), Some("ann"), "{connected}");
    assert!(field(&connected, "client").is_some(), "{connected}");

    ann.subscribe("orders");
    line(&server, &["subscribed", &name, "service=\"orders\""]);
    ann.send_json(&json!({"type": "subscribe", "channel": "news"}));
    ann.find_type("subscribed");
    line(&server, &["subscribed", &name, "channel=\"news\""]);
    ann.send_json(&json!({"type": "unsubscribe", "service_id": "orders"}));
    ann.find_type("unsubscribed");
    line(&server, &["unsubscribed", &name, "service=\"orders\""]);
    ann.send_text("nope");
    ann.find_type("error");
    line(&server, &["message refused", &name, "code=\"malformed\""]);

    let one = instance("orders", "one");
    server.register(std::slice::from_ref(&one));
    line(&server, &["DEBUG fanfare::registry", "instance registered", "orders/one"]);
    server.unregister(&[one]);
    line(&server, &["instance removed", "orders/one", "reason=\"unregister\""]);

    let message = json!({"to_user_id": "ann", "content": "a secret of two"});
    let sent = server.call("POST", "/api/v1/messages", &token("bob", "message"), &message);
    assert_eq!(sent.status, 201, "{}", sent.text);
    let id = sent.body["id"].as_str().expect("an id");
    let pushed = line(&server, &["message pushed to user", id]);
    assert_eq!((field(&pushed, "user"), field(&pushed, "connections")), (Some("ann"), Some("1")));
    assert!(!server.log().contains("a secret of two"));

    ann.socket.close(None).expect("a close frame");
    let gone = line(&server, &["client disconnected", &name]);
    assert!(["1000", "1005"].contains(&field(&gone, "code").unwrap_or_default()), "{gone}");
    let bob = server.connect_as("bob");
    let name = format!("connection=\"{}\"", bob.id());
    drop(bob);
    line(&server, &["client disconnected", &name, "code=1006"]);
}

/// The close code that ends a connection.
fn closed(client: &mut Client) -> u16 {
    loop {
        match client.next_message() {
            Message::Close(Some(frame)) => return frame.code.into(),
            Message::Close(None) => return 1005,
            _ => {}
        }
    }
}

#[test]
fn operators_actions_name_the_tokens_user() {
    let flags = ["--jwt-secret", SECRET, "--auth", "required"];
    let mut server = Server::start(&flags);
    let (ops, writer) = (token("ops-anna", "admin"), token("writer", "registry:write"));
    let body = json!({"instances": [instance("orders", "one"), instance("orders", "two")]});
    server.call("POST", "/api/registry/register.json", &writer, &body);
    let region = instance("orders", "one")["regionId"].as_str().unwrap_or_default().to_owned();
    let key = |id: &str| {
        json!({
            "instanceKey": {"regionId": region, "serviceId": "orders", "instanceId": id},
            "operation": "pull-out", "operationComplete": false, "operatorId": "somebody-else",
        })
    };
    let path = "/api/management/instance/operate-instance.json";
    let reply = server.call("POST", path, &ops, &key("one"));
    assert_eq!(reply.outcome(), ("success", "success"), "{}", reply.text);
    let said = line(&server, &["INFO fanfare::operator", "action=\"pull-out\"", "orders/one"]);
    assert_eq!(field(&said, "user"), Some("ops-anna"), "{said}");
    assert_eq!(field(&said, "operator_id"), Some("somebody-else"), "{said}");
    assert!(field(&said, "client").is_some() && field(&said, "request_id").is_some(), "{said}");

    let by = |server: &Server, id: &str| {
        let reply =
            server.call("GET", "/api/status/leases.json?serviceId=orders", &ops, &Value::Null);
        let list = reply.body["services"][0]["instances"].as_array().cloned().unwrap_or_default();
        let found = list.into_iter().find(|lease| lease["instance"]["instanceId"] == id);
        found.map(|lease| lease["pulled_out_by"].clone()).unwrap_or_default()
    };
    let anna = json!({"user_id": "ops-anna", "operator_id": "somebody-else"});
    assert_eq!((by(&server, "one"), by(&server, "two")), (anna.clone(), Value::Null));

    // The command line says whose token it has.
    let url = format!("http://{}", server.address());
    let args = ["pull-out", "orders", "two", "--region", &region, "--url", &url, "--token", &ops];
    let (is_done, text) = server.run(&args, "");
    assert!(is_done, "{text}");
    assert_eq!(by(&server, "two"), json!({"user_id": "ops-anna", "operator_id": "Ops-anna"}));
    let (_, listed) = server.run(&["instances", "orders", "--url", &url, "--token", &ops], "");
    assert!(listed.contains("by ops-anna (somebody-else)"), "{listed}");

    let lift = "/api/management/services/orders/self-protection";
    server.call("POST", lift, &ops, &json!({"enabled": false}));
    line(&server, &["action=\"lift self-protection\"", "on=\"orders\"", "user=\"ops-anna\""]);
    let channel = json!({"name": "news", "description": ""});
    server.call("POST", "/api/v1/channels", &ops, &channel);
    line(&server, &["action=\"create channel\"", "on=\"news\"", "user=\"ops-anna\""]);
    server.call("DELETE", "/api/v1/channels/news", &ops, &Value::Null);
    line(&server, &["action=\"delete channel\"", "on=\"news\"", "user=\"ops-anna\""]);

    let mut bob = server.connect_as("bob");
    let id = bob.id();
    server.call("DELETE", &format!("/api/v1/connections/{id}"), &ops, &Value::Null);
    assert_eq!(closed(&mut bob), 4403);
    line(&server, &["action=\"disconnect\"", &id, "user=\"ops-anna\""]);
    line(&server, &["client disconnected", &id, "code=4403", "user=\"bob\""]);

    // Who did it outlives the process.
    assert!(server.stop().success());
    server.restart();
    assert_eq!(by(&server, "one"), anna);
}

#[test]
fn logins_and_accounts_leave_lines() {
    let server = Server::start(&["--jwt-secret", SECRET]);
    let ann = json!({"username": "ann", "password": "a good password"});
    let made = server.post_json("/api/v1/users/register", &ann);
    let id = made.body["user_id"].as_str().expect("an id").to_owned();
    line(&server, &["fanfare::accounts", "account: created", &id]);
    let login = |username: &str, password: &str| {
        let body = json!({"username": username, "password": password});
        server.post_json("/api/v1/users/login", &body)
    };
    assert_eq!(login("ann", "a wrong password").status, 401);
    line(&server, &["request refused", "reason=\"wrong password\"", &id]);
    assert_eq!(login("my-own-password", "x").status, 401);
    line(&server, &["request refused", "reason=\"no such account\""]);
    assert!(!server.log().contains("my-own-password"), "a password may be typed as a name");

    let good = login("ann", "a good password");
    let mut socket = server.connect_with(good.body["token"].as_str().expect("a token"));
    let name = socket.id();
    socket.send_json(&json!({"type": "refresh", "token": "nonsense"}));
    socket.find_type("error");
    line(&server, &["token refused", &name, &id]);
    let (is_done, said) = server.run(&["user", "disable", "--name", "ann"], "");
    assert!(is_done, "{said}");
    assert_eq!(closed(&mut socket), 4401);
    line(&server, &["fanfare::accounts", "account disabled", &id]);
    assert_eq!(login("ann", "a good password").status, 401);
    line(&server, &["request refused", "reason=\"the account is disabled\"", &id]);
    server.run(&["user", "enable", "--name", "ann"], "");
    line(&server, &["account enabled", &id]);
    let (is_done, said) = server.run(&["user", "remove", "--name", "ann"], "");
    assert!(is_done, "{said}");
    line(&server, &["fanfare::accounts", "account removed", &id]);
}

#[test]
fn expiries_are_one_line_a_service() {
    let server = Server::start(&["--lease-ttl", "1s"]);
    let many: Vec<Value> = (0..50).map(|n| instance("orders", &format!("i{n}"))).collect();
    server.register(&many);
    // So many at once are held.
    let held = line(&server, &["WARN fanfare::registry", "self-protection holds", "orders"]);
    assert_eq!(field(&held, "leases"), Some("50"), "{held}");
    let lift = "/api/management/services/orders/self-protection";
    server.post_json(lift, &json!({"enabled": false}));
    line(&server, &["self-protection is over", "orders"]);
    let expired = line(&server, &["INFO fanfare::registry", "instances expired", "orders"]);
    assert_eq!(field(&expired, "left"), Some("0"), "{expired}");
    let count: usize = field(&expired, "count").and_then(|n| n.parse().ok()).expect("a count");
    assert!(count >= 3, "{expired}");
    assert!(expired.len() < 600, "it names a few of them: {expired}");
}

#[test]
fn starts_drains_and_ends_are_told() {
    let mut server = Server::start(&[]);
    let started = line(&server, &["INFO fanfare::server", "started"]);
    assert_eq!(field(&started, "address"), Some(&*server.address().to_string()), "{started}");
    let mut client = server.connect();
    server.terminate();
    assert_eq!(closed(&mut client), 1001);
    assert!(server.wait().success());
    let log = server.log();
    let place = |word: &str| log.find(word).unwrap_or_else(|| panic!("{word} in {log}"));
    assert!(place("draining") < place("drained") && place("drained") < place("stopped"), "{log}");
    assert_eq!(field(&line(&server, &["draining"]), "connections"), Some("1"));
}

#[test]
fn slow_readers_that_are_closed_are_named() {
    let flags = ["--outbox-bytes-max", "4096", "--write-timeout", "60s", "--jwt-secret", SECRET];
    let server = Server::start(&flags);
    let mut slow = server.connect_as("ann");
    slow.send_json(&json!({"type": "subscribe", "channel": "much"}));
    slow.find_type("subscribed");
    let body = json!({"payload": "x".repeat(60_000)});
    eventually("it does not keep up", PATIENCE, || {
        server.post_json("/api/v1/channels/much/messages", &body);
        server.log().contains("code=4408")
    });
    let said = line(&server, &["INFO fanfare::ws", "code=4408", &slow.id()]);
    assert!(said.contains("user=\"ann\"") && field(&said, "client").is_some(), "{said}");
}

/// Standard error is a pipe that nobody reads. What does not fit is left out; nothing waits.
#[test]
fn a_log_that_nobody_reads_holds_nobody_up() {
    let unread =
        r#"mkfifo unread; sleep 600 < unread & export RUST_LOG=debug; exec "$@" 2> unread"#;
    let mut server = Server::start_by(Some(unread), &["--access-log", "on"]);
    // A pipe holds 64 KiB.
    let path = format!("/{}", "x".repeat(200));
    for _ in 0..1_000 {
        assert_eq!(server.get(&path).status, 404);
    }
    let mut client = server.connect();
    client.subscribe("orders");
    server.register(&[instance("orders", "one")]);
    client.expect("service_change");
    assert!(server.stop().success(), "and its end waits for nobody either");
}

#[test]
fn a_peer_nodes_death_is_told() {
    let redis = Redis::start();
    let [one, mut other] = nodes::nodes(&redis, &["--auth", "open"]);
    line(&one, &["INFO fanfare::cluster", "another node is there"]);
    other.register(&[instance("orders", "of-the-other")]);
    eventually("it is known", PATIENCE, || {
        one.discover("orders")["instances"].as_array().is_some_and(|list| list.len() == 1)
    });
    other.kill();
    let gone = line(&one, &["WARN fanfare::cluster", "another node is gone"]);
    assert!(field(&gone, "silent_ms").is_some(), "{gone}");
    let taken = line(&one, &["INFO fanfare::cluster", "are taken over"]);
    assert_eq!(field(&taken, "leases"), Some("1"), "{taken}");
}

#[test]
fn a_connection_for_which_there_is_no_room_is_told() {
    let server = Server::start(&["--connections-per-address-max", "2", "--shards", "1"]);
    let _held = [server.connect(), server.connect()];
    let refused = server.try_connect(TcpStream::connect(server.address()).expect("accepted"));
    assert!(refused.is_none());
    let said = line(&server, &["connection refused", "too many connections from this address"]);
    assert!(field(&said, "client").is_some_and(|one| one.starts_with("127.0.0.1:")), "{said}");
}
