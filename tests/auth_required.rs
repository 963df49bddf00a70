//! `--auth required`: no token, no service; the right scope for each thing; and sockets that end when
//! their token does.

use fanfare_test_support::raw::{Raw, UPGRADE, text};
use fanfare_test_support::{Server, now_s, sign};
use jsonwebtoken::Algorithm;
use serde_json::json;

const SECRET: &str = "a secret of more than thirty-two bytes";

fn server() -> Server {
    Server::start(&["--auth", "required", "--jwt-secret", SECRET])
}

fn token(scope: &str, ttl_s: u64) -> String {
    let claims = json!({"sub": "u1", "exp": now_s() + ttl_s, "scope": scope});
    sign(&claims, SECRET, Algorithm::HS256)
}

fn open(server: &Server, path: &str, headers: &str) -> (Raw, u16) {
    let mut raw = Raw::connect(server.address());
    let address = server.address();
    let head = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\n{UPGRADE}{headers}\r\n");
    raw.send(head.as_bytes());
    let head = raw.head();
    (raw, head[9..12].parse().expect("a status"))
}

fn call(server: &Server, method: &str, path: &str, token: Option<&str>) -> u16 {
    let mut raw = Raw::connect(server.address());
    let bearer = token.map(|token| format!("Authorization: Bearer {token}\r\n"));
    let body = r#"{"instances":[{"serviceId":"s","instanceId":"i"}]}"#;
    let body = if method == "POST" { body } else { "" };
    raw.send(
        format!(
            "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n{}\r\n{body}",
            body.len(),
            bearer.unwrap_or_default()
        )
        .as_bytes(),
    );
    raw.response().0
}

#[test]
fn a_token_is_taken_in_each_of_three_places() {
    let server = server();
    let token = token("", 60);
    let (mut raw, status) = open(&server, "/ws", &format!("Authorization: Bearer {token}\r\n"));
    assert_eq!(status, 101);
    assert_eq!(raw.json()["user_id"], "u1");
    let (_, status) = open(&server, &format!("/ws?token={token}"), "");
    assert_eq!(status, 101);
    let protocols = format!("Sec-WebSocket-Protocol: fanfare, bearer.{token}\r\n");
    assert_eq!(open(&server, "/ws", &protocols).1, 101);
    assert_eq!(open(&server, "/ws", "").1, 401);
}

#[test]
fn wrong_tokens_are_refused_before_the_101_in_every_mode() {
    let claims = json!({"sub": "u1", "exp": now_s() + 60});
    let expired = json!({"sub": "u1", "exp": now_s()});
    let wrong = [
        sign(&claims, "another secret, as long as the right one", Algorithm::HS256),
        sign(&claims, SECRET, Algorithm::HS512),
        sign(&expired, SECRET, Algorithm::HS256),
        sign(&json!({"sub": "u1"}), SECRET, Algorithm::HS256),
        sign(&json!({"sub": "", "exp": now_s() + 60}), SECRET, Algorithm::HS256),
        // {"alg":"none"} . {"sub":"u1","exp":9999999999} . nothing
        String::from("eyJhbGciOiJub25lIn0.eyJzdWIiOiJ1MSIsImV4cCI6OTk5OTk5OTk5OX0."),
        String::from("nonsense"),
    ];
    for server in [server(), Server::start(&["--jwt-secret", SECRET])] {
        for token in &wrong {
            let header = format!("Authorization: Bearer {token}\r\n");
            assert_eq!(open(&server, "/ws", &header).1, 401, "{token}");
            assert_eq!(call(&server, "GET", "/api/status/node.json", Some(token)), 401, "{token}");
        }
    }
}

#[test]
fn http_calls_need_a_token_and_registry_writes_their_scope() {
    let server = server();
    let (plain, writer, admin) = (token("", 60), token("registry:write", 60), token("admin", 60));
    let reader = token("registry:read", 60);
    for open in ["/health", "/ready", "/metrics"] {
        assert_eq!(call(&server, "GET", open, None), 200, "{open}");
    }
    for (method, path) in [
        ("POST", "/api/registry/register.json"),
        ("GET", "/api/discovery/services.json"),
        ("GET", "/ws/stats"),
        ("GET", "/api/status/config.json"),
    ] {
        assert_eq!(call(&server, method, path, None), 401, "{path}");
    }
    assert_eq!(call(&server, "GET", "/api/status/node.json", Some(&plain)), 200);
    for token in [&reader, &writer, &admin] {
        assert_eq!(call(&server, "GET", "/api/discovery/services.json", Some(token)), 200);
    }
    for token in [&plain, &reader] {
        assert_eq!(call(&server, "POST", "/api/registry/register.json", Some(token)), 403);
    }
    assert_eq!(call(&server, "GET", "/api/discovery/services.json", Some(&plain)), 403);
    assert_eq!(call(&server, "POST", "/api/registry/register.json", Some(&writer)), 200);
    assert_eq!(call(&server, "POST", "/api/registry/register.json", Some(&admin)), 200);
}

#[test]
fn a_socket_that_may_read_the_registry_may_follow_and_not_write() {
    let server = server();
    let (mut raw, _) =
        open(&server, "/ws", &format!("Authorization: Bearer {}\r\n", token("registry:read", 60)));
    raw.json();
    raw.send(&text(r#"{"type":"subscribe","service_id":"s"}"#));
    assert_eq!(raw.json()["type"], "subscribed");
    for kind in ["register", "heartbeat", "unregister"] {
        raw.send(&text(&format!(r#"{{"type":"{kind}","instances":[],"id":"{kind}"}}"#)));
        let answer = raw.json();
        assert_eq!((&answer["code"], &answer["id"]), (&json!("forbidden"), &json!(kind)));
    }
}

#[test]
fn a_socket_ends_with_its_token_unless_it_is_refreshed() {
    let server = server();
    let bearer = format!("Authorization: Bearer {}\r\n", token("", 2));
    let (mut ending, _) = open(&server, "/ws", &bearer);
    let (mut staying, _) = open(&server, "/ws", &bearer);
    ending.json();
    staying.json();
    let stranger = json!({"sub": "u2", "exp": now_s() + 60});
    let stranger = sign(&stranger, SECRET, Algorithm::HS256);
    staying.send(&text(&format!(r#"{{"type":"refresh","token":"{stranger}"}}"#)));
    assert_eq!(staying.json()["code"], "forbidden");
    staying.send(&text(&format!(r#"{{"type":"refresh","token":"{}","id":1}}"#, token("", 60))));
    let answer = staying.json();
    assert_eq!((&answer["type"], &answer["id"]), (&json!("refreshed"), &json!(1)));
    assert_eq!(ending.json()["code"], "token_expired");
    assert_eq!(ending.close_code(), 4401);
    staying.send(&text(r#"{"type":"ping"}"#));
    assert_eq!(staying.json()["type"], "pong");
}
