//! A text that no database can keep is refused at every door, with one message for every database,
//! and does not stop other clients' writes.
//!
//! `PostgreSQL` has no text with a NUL character. One such text in a transaction used to take
//! everything beside it along, again and again.

use fanfare_test_support as support;
use fanfare_test_support::postgres as pg;
use std::time::Duration;

use fanfare_test_support::{SECRET, Server, eventually, token};
use serde_json::{Value, json};

const OPERATE: &str = "/api/management/instance/operate-instance.json";
const REGISTER: &str = "/api/registry/register.json";

/// Servers over each kind of database there is here.
fn servers() -> Vec<Server> {
    let mut servers = vec![Server::start_for_people(&[])];
    if let Some(database) = pg::Database::create_for_part() {
        servers.push(Server::start_for_people(&["--database-url", database.url()]));
    }
    servers
}

/// Everything that is stored is on disk: a later write of each kind goes through.
fn still_stores(server: &Server, admin: &str) {
    let group = json!({"name": "after", "members": []});
    let reply = server.call("POST", "/api/v1/groups", admin, &group);
    assert_eq!(reply.status, 201, "{}", reply.body);
    eventually("the store is well", Duration::from_secs(20), || {
        let commits = server.count("fanfare_store_commits_total");
        commits > 0 && server.get("/ready").status == 200
    });
    assert_eq!(server.count("fanfare_store_set_aside_total"), 0, "nothing bad got that far");
}

/// The letters that are wrong in a name: none may be invisible to a log or a terminal.
const IN_NAMES: [&str; 6] = ["\\u0000", "a\\u0000", "a\\nb", "\\u001f", "\\u007f", "\\u0085"];

/// A JSON string of so many bytes.
fn long(bytes: usize) -> String {
    "x".repeat(bytes)
}

/// Sends a body as it stands. Returns the status and the code of a refusal, in either of the two
/// forms that refusals have.
fn refusal(server: &Server, method: &str, path: &str, body: &str) -> (u16, String) {
    let bearer = format!("Bearer {}", token("root", "admin"));
    let headers = [("Content-Type", "application/json"), ("Authorization", &*bearer)];
    let reply = server.request(method, path, &headers, body.as_bytes());
    let of_artemis = reply.body["responseStatus"]["errorCode"].as_str();
    let code = of_artemis.or_else(|| reply.body["code"].as_str()).unwrap_or_default();
    (reply.status, code.to_owned())
}

#[test]
fn the_registry_takes_no_text_that_cannot_be_kept() {
    for server in servers() {
        let admin = token("root", "admin");
        server.register(&[json!({"serviceId": "s", "instanceId": "i"})]);
        let mut tried = 0;
        let mut refused = |path: &str, body: &str| {
            tried += 1;
            assert_eq!(
                refusal(&server, "POST", path, body),
                (200, String::from("bad-request")),
                "{path} {body}"
            );
        };
        let in_names: Vec<String> =
            IN_NAMES.iter().map(|&text| text.to_owned()).chain([long(256)]).collect();
        for text in &in_names {
            let key = r#""instanceKey":{"serviceId":"s","instanceId":"i"},"operation":"pull-out""#;
            refused(OPERATE, &format!(r#"{{{key},"operatorId":"{text}"}}"#));
            for field in
                ["regionId", "zoneId", "groupId", "machineName", "ip", "protocol", "instanceId"]
            {
                let others = r#""serviceId":"s""#;
                let rest = if field == "instanceId" { "" } else { r#","instanceId":"j""# };
                let one = format!(r#"{{{others}{rest},"{field}":"{text}"}}"#);
                refused(REGISTER, &format!(r#"{{"instances":[{one}]}}"#));
            }
            let one = format!(r#"{{"serviceId":"{text}","instanceId":"j"}}"#);
            refused(REGISTER, &format!(r#"{{"instances":[{one}]}}"#));
        }
        for part in [
            r#""url":"http://a\u0000""#,
            r#""healthCheckUrl":"\u0000""#,
            r#""metadata":{"a\u0000":"b"}"#,
            r#""metadata":{"a":"b\u0000"}"#,
            r#""metadata":{"a":[{"b":["\\\u0000"]}]}"#,
            // Half a pair is no character at all.
            r#""metadata":{"a":"\ud800"}"#,
            r#""metadata":{"\udfff":1}"#,
            r#""url":"\ud800x""#,
        ] {
            let one = format!(r#"{{"serviceId":"s","instanceId":"j",{part}}}"#);
            let body = format!(r#"{{"instances":[{one}]}}"#);
            let (status, code) = refusal(&server, "POST", REGISTER, &body);
            tried += 1;
            assert!(
                (status, &*code) == (200, "bad-request") || (status, &*code) == (400, "malformed"),
                "{body}: {status} {code}"
            );
            // The same in a body that another parser reads, because it is large.
            let filler =
                format!(r#"{{"serviceId":"s","instanceId":"k","url":"{}"}}"#, long(40_000));
            let body = format!(r#"{{"instances":[{filler},{one}]}}"#);
            let (status, code) = refusal(&server, "POST", REGISTER, &body);
            tried += 1;
            assert!(code == "bad-request" || code == "malformed", "{part}: {status} {code}");
        }
        eprintln!("{tried} bad texts of the registry");
        let service = server.discover("s");
        let names: Vec<&Value> = service["instances"]
            .as_array()
            .expect("a list")
            .iter()
            .map(|one| &one["instanceId"])
            .collect();
        assert!(!names.iter().any(|name| **name == "j"), "{names:?}");
        still_stores(&server, &admin);
    }
}

#[test]
fn people_and_channels_take_no_text_that_cannot_be_kept() {
    for server in servers() {
        let admin = token("root", "admin");
        drop(server.connect_as("bob"));
        let mut tried = 0;
        for (method, path, body) in [
            ("POST", "/api/v1/messages", r#"{"to_user_id":"bob","content":"TEXT"}"#),
            ("POST", "/api/v1/messages", r#"{"to_user_id":"TEXT","content":"a"}"#),
            ("POST", "/api/v1/groups", r#"{"name":"TEXT","members":[]}"#),
            ("POST", "/api/v1/groups", r#"{"name":"g","members":["TEXT"]}"#),
            ("POST", "/api/v1/channels", r#"{"name":"TEXT","description":"d"}"#),
            ("POST", "/api/v1/channels", r#"{"name":"c","description":"TEXT"}"#),
            ("POST", "/api/v1/users/register", r#"{"username":"TEXT","password":"correct horse"}"#),
            (
                "POST",
                "/api/v1/users/register",
                r#"{"username":"u","password":"correct horse","email":"a@TEXT"}"#,
            ),
            ("POST", "/ws/send", r#"{"to_user_id":"TEXT","message_type":"text","data":{}}"#),
        ] {
            for text in ["\\u0000", "a\\u0000b", "\\ud800", "a\\udc00"] {
                let (status, code) = refusal(&server, method, path, &body.replace("TEXT", text));
                tried += 1;
                let is_refused =
                    status == 400 && (code == "invalid_argument" || code == "malformed");
                assert!(is_refused, "{path} {body} {text}: {status} {code}");
            }
        }
        for (method, path, body) in [
            ("GET", "/api/v1/groups/a%00b", Value::Null),
            ("DELETE", "/api/v1/groups/a%00b", Value::Null),
            ("POST", "/api/v1/groups/a%00b/members", json!({"user_id": "bob"})),
            ("POST", "/api/v1/groups/a%00b/messages", json!({"content": "a"})),
            ("DELETE", "/api/v1/groups/a%00b/members/bob", Value::Null),
            ("DELETE", "/api/v1/groups/g/members/b%00b", Value::Null),
            ("GET", "/api/v1/channels/a%00b", Value::Null),
            ("DELETE", "/api/v1/channels/a%00b", Value::Null),
            ("GET", "/api/v1/messages?with=a%00b", Value::Null),
            ("GET", "/api/v1/messages?after=a%00b", Value::Null),
        ] {
            let reply = server.call(method, path, &admin, &body);
            tried += 1;
            assert!(
                matches!(reply.status, 400 | 404),
                "{method} {path}: {} {}",
                reply.status,
                reply.body
            );
        }
        let login = json!({"username": "a\u{0}b", "password": "correct horse"});
        let reply = server.call("POST", "/api/v1/users/login", "", &login);
        assert_eq!(reply.status, 401, "{}", reply.body);

        let mut socket = server.connect_as("ann");
        for text in [
            r#"{"type":"join","room":"a\u0000"}"#,
            r#"{"type":"chat","content":"a\u0000"}"#,
            r#"{"type":"subscribe","channel":"a\u0000"}"#,
            r#"{"type":"subscribe","service_id":"a\u0000"}"#,
        ] {
            socket.send_text(text);
            tried += 1;
            assert_eq!(socket.find_type("error")["code"], "invalid_argument", "{text}");
        }
        eprintln!("{} bad texts of people and channels", tried + 1);
        still_stores(&server, &admin);
    }
}

/// A token with these claims, valid for an hour.
fn signed(claims: &Value) -> String {
    let mut claims = claims.clone();
    claims["exp"] = 4_000_000_000_u64.into();
    support::sign(&claims, SECRET, jsonwebtoken::Algorithm::HS256)
}

#[test]
fn a_token_brings_no_text_that_cannot_be_kept() {
    for server in servers() {
        for claims in
            [json!({"sub": "a\u{0}b"}), json!({"sub": "a\nb"}), json!({"sub": "x".repeat(256)})]
        {
            let reply = server.call("GET", "/api/v1/groups", &signed(&claims), &Value::Null);
            assert_eq!(reply.status, 401, "{claims}: {}", reply.body);
        }
        // What is only shown is left out.
        for (n, claims) in [
            json!({"sub": "u0", "username": "a\u{0}b"}),
            json!({"sub": "u1", "username": "x".repeat(256)}),
            json!({"sub": "u2", "email": "a\u{0}@b"}),
        ]
        .into_iter()
        .enumerate()
        {
            let bearer = signed(&claims);
            let reply = server.call("GET", "/api/v1/groups", &bearer, &Value::Null);
            assert_eq!(reply.status, 200, "{claims}: {}", reply.body);
            let body = json!({"to_user_id": format!("u{n}"), "content": "seen"});
            let reply = server.call("POST", "/api/v1/messages", &token("ann", ""), &body);
            assert_eq!(reply.status, 201, "{}", reply.body);
        }
        still_stores(&server, &token("root", "admin"));
    }
}

#[test]
fn the_command_line_takes_no_text_that_cannot_be_kept() {
    let server = Server::start_for_people(&[]);
    for args in [
        &["user", "add", "a\nb", "--password", "correct horse"][..],
        &["user", "add", "ann", "--password", "correct horse", "--email", "a\u{7f}@b"],
        &["token", "--user", "a\nb", "--jwt-secret", SECRET],
        &["token", "--user", "a", "--username", "a\u{1b}b", "--jwt-secret", SECRET],
    ] {
        let (is_done, text) = server.run(args, "");
        assert!(!is_done, "{args:?}: {text}");
    }
}
