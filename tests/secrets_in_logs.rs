//! No secret reaches the log, whatever `RUST_LOG` asks for.
//!
//! The server runs with `RUST_LOG=trace` and is given tokens in every place that takes one, passwords,
//! and URLs with passwords in them. Then its whole log is searched.

use fanfare_test_support as support;
use fanfare_test_support::nodes;
use std::net::TcpStream;

use serde_json::json;

use fanfare_test_support::nodes::{PATIENCE, await_ready};
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{SECRET, Server, eventually, token};

/// Everything is asked for, of every library.
const ALL: &str = r#"export RUST_LOG=trace; exec "$@""#;

/// The part of a token that nothing else has in it.
fn signature(token: &str) -> String {
    token.rsplit('.').next().expect("a token has parts").to_owned()
}

fn expect_none(log: &str, secrets: &[String]) {
    assert!(log.contains("TRACE") || log.contains("DEBUG") || log.contains("INFO"), "an empty log");
    for secret in secrets {
        let found = log.lines().find(|line| line.contains(secret.as_str()));
        assert_eq!(found, None, "{secret} is in the log");
    }
}

/// A server that asks every library for everything still says of them no more than usual.
#[test]
fn libraries_say_no_more_than_info() {
    let server = Server::start_by(Some(ALL), &[]);
    server.get("/health");
    let log = server.log();
    let is_loud = |line: &&str| line.contains("TRACE") || line.contains("DEBUG");
    for line in log.lines().filter(is_loud) {
        assert!(line.contains(" fanfare"), "of a library: {line}");
    }
}

#[test]
fn tokens_and_passwords_are_not_in_the_log() {
    are_not_in_the_log("text");
}

#[test]
fn tokens_and_passwords_are_not_in_a_log_of_json() {
    are_not_in_the_log("json");
}

/// With the access log, and every line of the server's own.
/// What makes a request an upgrade.
const UPGRADE: [(&str, &str); 4] = [
    ("Upgrade", "websocket"),
    ("Connection", "Upgrade"),
    ("Sec-WebSocket-Version", "13"),
    ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

fn are_not_in_the_log(format: &str) {
    let flags = ["--jwt-secret", SECRET, "--auth", "required", "--registration", "open"];
    let shown = ["--log-format", format, "--access-log", "on"];
    let server = Server::start_by(Some(ALL), &[&flags[..], &shown].concat());
    let (good, bad) = (token("ann", "admin"), format!("{}x", token("bob", "admin")));
    let (password, wrong) = ("a-password-of-ann", "a-wrong-password");
    let registered = json!({"username": "carol", "password": password});
    server.call("POST", "/api/v1/users/register", "", &registered);
    let login = server.call("POST", "/api/v1/users/login", "", &registered);
    let given = login.body["token"].as_str().unwrap_or("no.token.given").to_owned();
    let attempt = json!({"username": "carol", "password": wrong});
    server.call("POST", "/api/v1/users/login", "", &attempt);
    let mut secrets = vec![SECRET.to_owned(), password.to_owned(), wrong.to_owned()];
    let host = server.address().to_string();
    for one in [&good, &bad, &given] {
        secrets.push(signature(one));
        // Each place, on every door: also where a token has no business.
        for path in
            ["/ws", "/ws/news", "/ws/echo", "/ws/online", "/api/status/node.json", "/nowhere"]
        {
            let query = format!("{path}?token={one}");
            for headers in [&UPGRADE[..], &[]] {
                open(&server, &query, headers);
                // Before a path, as Artemis' clients have it, and below one that is not there.
                open(&server, &format!("/t/{one}{path}"), headers);
                open(&server, &format!("/nowhere/t/{one}{path}"), headers);
                open(&server, &format!("/t/{one}/ws/registry/heartbeat"), headers);
                open(&server, &format!("/t/{one}"), headers);
                let bearer = format!("Bearer {one}");
                open(&server, path, &[headers, &[("Authorization", &bearer)]].concat());
                let protocols = format!("fanfare, bearer.{one}");
                open(&server, path, &[headers, &[("Sec-WebSocket-Protocol", &protocols)]].concat());
                open(&server, path, &[headers, &[("Referer", &query)]].concat());
            }
            // A head that is refused, in several ways.
            for head in [
                format!("GET {query} HTTP/9.9\r\n\r\n"),
                format!("GET {query}\r\nbroken head {one}\r\n\r\n"),
                format!("BREW {query} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n"),
                format!("GET {path}?{} HTTP/1.1\r\nHost: {host}\r\n\r\n", one.repeat(200)),
                // A name that is not the server's, and a target with a name of its own.
                format!("GET {query} HTTP/1.1\r\nHost: {one}\r\nConnection: close\r\n\r\n"),
                format!("GET http://{host}{query} HTTP/1.1\r\nHost: {host}\r\n\r\n"),
            ] {
                send(&server, head.as_bytes());
            }
        }
        let body = format!("{{\"username\":\"{one}\",\"password\":[\"{one}\"]}}");
        let json = [("Content-Type", "application/json")];
        // As values of the wrong type, and as a name of the wrong kind.
        let strange =
            format!("{{\"instances\":\"{one}\",\"instanceKey\":\"{one}\",\"enabled\":\"{one}\"}}");
        let admin = format!("Bearer {good}");
        let admin = [("Content-Type", "application/json"), ("Authorization", &*admin)];
        for path in [
            "/api/v1/users/login",
            "/api/v1/users/register",
            "/api/registry/register.json",
            "/api/management/instance/operate-instance.json",
            "/api/management/services/s/self-protection",
            "/ws/broadcast",
        ] {
            for body in [&body, &strange, &format!("{body}{one}")] {
                server.request("POST", path, &json, body.as_bytes());
                server.request("POST", path, &admin, body.as_bytes());
            }
        }
        let login = json!({"username": one, "password": one});
        server.call("POST", "/api/v1/users/login", "", &login);
    }
    let mut client = server.connect_with(&good);
    // A token where it belongs, and as a value of the wrong type in every field.
    let refresh = token("ann", "admin publish");
    secrets.push(signature(&refresh));
    client.send_json(&json!({"type": "refresh", "token": refresh}));
    client.find_type("refreshed");
    client.send_json(&json!({"type": "refresh", "token": bad}));
    client.find_type("error");
    client.send_json(&json!({"type": "refresh", "token": {"a": bad}}));
    client.find_type("error");
    for field in
        ["since", "instances", "instance_keys", "snapshot", "echo", "metadata", "to_user_id"]
    {
        client.send_json(&json!({"type": "subscribe", "service_id": "s", field: good}));
    }
    client.send_text(&good);
    client.send_json(&json!({"type": "ping"}));
    client.find_type("pong");
    // The Eureka door takes names and passwords in a header.
    let basic = "Y2Fyb2w6YS1wYXNzd29yZC1vZi1hbm4=";
    secrets.push(basic.to_owned());
    let header = format!("Basic {basic}");
    server.request("GET", "/eureka/apps", &[("Authorization", &header)], b"");
    eventually("the last request is in the log", PATIENCE, || {
        let log = server.log();
        let last = log.lines().rev().find(|line| line.contains("fanfare::access"));
        last.is_some_and(|line| line.contains("/eureka/apps"))
    });
    let log = server.log();
    for said in ["request refused", "token refused", "client connected", "wrong password"] {
        assert!(log.contains(said), "{said} was not told, so nothing was tried");
    }
    expect_none(&log, &secrets);
}

/// Any answer will do, or none.
fn open(server: &Server, path: &str, headers: &[(&str, &str)]) {
    let mut head = format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", server.address());
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !headers.iter().any(|(name, _)| *name == "Connection") {
        head += "Connection: close\r\n";
    }
    send(server, format!("{head}\r\n").as_bytes());
}

fn send(server: &Server, bytes: &[u8]) {
    use std::io::{Read as _, Write as _};

    let mut stream = TcpStream::connect(server.address()).expect("the server accepts");
    stream.set_read_timeout(Some(support::READ_PATIENCE)).expect("a timeout above zero");
    let _ = stream.write_all(bytes);
    let mut some = [0; 256];
    let _ = stream.read(&mut some);
}

#[test]
fn the_password_of_redis_is_not_in_the_log() {
    let redis = Redis::start();
    let (right, wrong) = ("right-password-of-redis", "wrong-password-of-redis");
    let given = format!(">{right}");
    redis.order(&["ACL", "SETUSER", "node", "on", &given, "~*", "&*", "+@all"]);
    let port = redis.address().port();
    let flags = |url: &str| {
        let flags = ["--redis-url", url, "--jwt-secret", SECRET, "--auth", "open"];
        Server::start_by(Some(ALL), &flags)
    };
    let server = flags(&format!("redis://node:{right}@127.0.0.1:{port}"));
    await_ready(&server);
    let refused = flags(&format!("redis://node:{wrong}@127.0.0.1:{port}"));
    eventually("it says why", PATIENCE, || refused.log().contains("the password of redis-url"));
    for server in [&server, &refused] {
        let shown = server.get("/api/status/config.json").text;
        for text in [server.log(), shown] {
            expect_none(&format!("INFO {text}"), &[right.into(), wrong.into(), SECRET.into()]);
        }
    }
}

#[test]
fn the_password_of_a_database_is_not_in_the_log() {
    // Nobody listens there: what the server says of it has to do without the password.
    let password = "the-password-of-a-database";
    let url = format!("postgres://fanfare:{password}@127.0.0.1:1/fanfare");
    for more in [&[][..], &["--redis-url", "redis://127.0.0.1:1", "--jwt-secret", SECRET][..]] {
        let flags = [&["--database-url", &url, "--auth", "open"], more].concat();
        let (_, said) = nodes::refused_by("export RUST_LOG=trace; exec", &flags);
        assert!(!said.is_empty(), "it says why it does not start");
        assert!(!said.contains(password), "{said}");
    }
}
