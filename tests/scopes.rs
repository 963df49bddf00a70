//! The scopes of tokens where tokens are required: exactly the tables of docs/operations.md, call
//! by call and command by command; and the end of subscriptions when a new token allows less.

use std::collections::BTreeSet;

use fanfare_test_support::{Client, Server, instance, token};
use serde_json::{Value, json};

/// Every word there is.
const WORDS: [&str; 8] = [
    "registry:read",
    "registry:write",
    "sockets:read",
    "message",
    "publish",
    "channels:read",
    "audit:read",
    "admin",
];

/// Whether a token with one scope may do what needs another.
fn includes(scope: &str, needed: &str) -> bool {
    scope == needed || scope == "admin" || (scope, needed) == ("registry:write", "registry:read")
}

/// All words but those that include a scope.
fn others(needed: &str) -> String {
    let others: Vec<&str> = WORDS.into_iter().filter(|word| !includes(word, needed)).collect();
    others.join(" ")
}

/// One row of the documented table and one call of it.
struct Call {
    /// `no token`, `any token` or a scope.
    needs: String,
    as_user: bool,
    method: String,
    path: String,
}

impl Call {
    fn sample(&self) -> String {
        let part = |part: &str| if part.starts_with('{') { "x" } else { part }.to_owned();
        self.path.split('/').map(part).collect::<Vec<_>>().join("/")
    }

    /// Who calls. Whoever signs out, or ends the account, can call nothing after it.
    fn caller(&self) -> String {
        if self.path.ends_with("/logout") || self.path.ends_with("/users/me") {
            uuid::Uuid::new_v4().to_string()
        } else {
            String::from("ann")
        }
    }

    fn body(&self) -> Value {
        if self.method == "POST" { json!({}) } else { Value::Null }
    }
}

/// The table of HTTP calls, as operators read it.
fn documented() -> Vec<Call> {
    let text = std::fs::read_to_string("docs/operations.md").expect("the document is there");
    let section = text.split("### Scopes").nth(1).expect("the section");
    let table = section.split("| scope | HTTP |").nth(1).expect("the table");
    let mut calls = Vec::new();
    for row in table.lines().skip(2).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let needs = cells[1].split('`').nth(1).unwrap_or(cells[1]);
        let needs = needs.trim_end_matches(", as a user").to_owned();
        for call in cells[2].split('`').skip(1).step_by(2) {
            if let Some((method, path)) = call.split_once(' ') {
                calls.push(Call {
                    needs: needs.clone(),
                    as_user: cells[1].contains("as a user"),
                    method: method.to_owned(),
                    path: path.to_owned(),
                });
            }
        }
    }
    calls
}

#[test]
fn the_table_has_every_call_that_is_described() {
    let server = Server::start(&[]);
    let document = server.get("/openapi.json").body;
    let bare = |path: &str| {
        let part = |part: &str| if part.starts_with('{') { "{}" } else { part }.to_owned();
        path.split('/').map(part).collect::<Vec<_>>().join("/")
    };
    let mut described = BTreeSet::new();
    for (path, item) in document["paths"].as_object().expect("paths") {
        for (method, operation) in item.as_object().expect("operations") {
            let scope = operation["x-scope"].as_str().unwrap_or_default().to_owned();
            described.insert((method.to_ascii_uppercase(), bare(path), scope));
        }
    }
    let calls = documented();
    let count = calls.len();
    let listed: BTreeSet<_> = calls
        .into_iter()
        .map(|call| {
            let scope = if call.needs.ends_with("token") { String::new() } else { call.needs };
            (call.method, bare(&call.path), scope)
        })
        .collect();
    assert_eq!(listed.len(), count, "a call stands in the table of docs/operations.md twice");
    let missing: Vec<_> = described.difference(&listed).collect();
    assert!(missing.is_empty(), "not in the table of docs/operations.md: {missing:?}");
    let unknown: Vec<_> = listed.difference(&described).collect();
    assert!(unknown.is_empty(), "in the table of docs/operations.md alone: {unknown:?}");
}

#[test]
fn each_call_needs_what_the_table_says_and_nothing_else() {
    let server = Server::start_for_people(&["--auth", "required"]);
    for call in documented() {
        let (path, body, needs) = (call.sample(), call.body(), &*call.needs);
        let what = format!("{} {path}", call.method);
        // 401 of the login itself is no refusal to be asked.
        let ask = |token: &str| server.call(&call.method, &path, token, &body);
        let lacks = |token: &str| ask(token).text.contains("lacks the scope");
        if needs == "no token" {
            assert_ne!(ask("").body["detail"], "a token is required", "{what}");
            assert!(!lacks(""), "{what}");
            continue;
        }
        ask("").expect_problem(401, "unauthorized");
        if needs == "any token" {
            assert!(!lacks(&token(&call.caller(), "")), "{what}");
            assert_ne!(ask(&token(&call.caller(), "")).status, 401, "{what}");
            continue;
        }
        for scope in ["", "openid profile", &others(needs)] {
            let reply = ask(&token("ann", scope));
            reply.expect_problem(403, "forbidden");
            assert!(reply.text.contains(needs), "{what} with {scope:?}: {}", reply.text);
        }
        for scope in WORDS.into_iter().filter(|scope| includes(scope, needs)) {
            assert!(!lacks(&token("ann", scope)), "{what} with {scope}");
            assert_ne!(ask(&token("ann", scope)).status, 401, "{what} with {scope}");
        }
    }
}

#[test]
fn an_open_server_looks_at_no_scope() {
    let server = Server::start_for_people(&["--auth", "open"]);
    for call in documented() {
        let ask = |token: &str| server.call(&call.method, &call.sample(), token, &call.body());
        let what = format!("{} {}", call.method, call.path);
        let token = token(&call.caller(), "");
        assert!(!ask(&token).text.contains("lacks the scope"), "{what}");
        let is_asked_for = ask("").body["detail"] == "a token is required";
        assert_eq!(is_asked_for, call.as_user, "{what}");
    }
    let mut client = server.connect_with(&token("ann", ""));
    for (command, _) in commands() {
        assert_eq!(refusal(&mut client, command.clone()), None, "{command}");
    }
}

/// Commands over a socket, and what they need.
fn commands() -> Vec<(Value, &'static str)> {
    let key = json!({"serviceId": "s", "instanceId": "i"});
    let system =
        |command: &str| json!({"type": "system", "payload": {"command": command, "channel": "c"}});
    vec![
        (json!({"type": "ping"}), ""),
        (json!({"message_type": "ping"}), ""),
        (json!({"type": "subscribe", "channel": "c"}), ""),
        (json!({"type": "publish", "channel": "c", "payload": 1}), ""),
        (json!({"type": "unsubscribe", "channel": "c"}), ""),
        (system("subscribe"), ""),
        (system("unsubscribe"), ""),
        (system("list_channels"), "channels:read"),
        (json!({"type": "subscribe", "channel": "$stats"}), "sockets:read"),
        (json!({"type": "subscribe", "channel": "$other"}), "sockets:read"),
        (json!({"type": "subscribe", "service_id": "s"}), "registry:read"),
        (json!({"type": "subscribe", "service_id": "s", "snapshot": true}), "registry:read"),
        (json!({"type": "subscribe", "service_id": "*"}), "registry:read"),
        (json!({"type": "unsubscribe", "service_id": "s"}), ""),
        (json!({"type": "unsubscribe", "service_id": "*"}), ""),
        (json!({"type": "register", "instances": [instance("s", "i")]}), "registry:write"),
        (json!({"type": "heartbeat", "instance_keys": [key]}), "registry:write"),
        (json!({"type": "unregister", "instance_keys": [key]}), "registry:write"),
        (json!({"type": "join", "room": "r"}), "message"),
        (json!({"type": "chat", "content": "hi"}), "message"),
        (json!({"type": "leave", "room": "r"}), ""),
        (json!({"message_type": "text", "data": {}}), "message"),
        (json!({"message_type": "text", "data": {}, "to_user_id": "ann"}), "message"),
    ]
}

/// The code and the words with which a command is refused; none where it is not.
fn refusal(client: &mut Client, mut command: Value) -> Option<(String, String)> {
    command["id"] = json!("this");
    client.send_json(&command);
    let answer = client.find("the answer", |frame| frame["id"] == "this");
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    if answer["type"] == "error" {
        return Some((text(&answer["code"]), text(&answer["message"])));
    }
    let data = &answer["data"];
    (answer["message_type"] == "error").then(|| (text(&data["code"]), text(&data["message"])))
}

#[test]
fn each_command_needs_what_the_table_says_and_nothing_else() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let tokens: Vec<&str> = [""].into_iter().chain(WORDS).collect();
    for scope in tokens {
        let mut client = server.connect_with(&token("ann", scope));
        for (command, needed) in commands() {
            let refused = refusal(&mut client, command.clone());
            if needed.is_empty() || includes(scope, needed) {
                assert_eq!(refused, None, "{command} with {scope:?}");
                continue;
            }
            let (code, message) = refused.unwrap_or_else(|| panic!("{command} with {scope:?}"));
            assert_eq!(code, "forbidden", "{command} with {scope:?}");
            // Whether a channel may be followed is its namespace's to say.
            let is_of_channel = message == "this channel may not be followed";
            assert!(message.contains(needed) || is_of_channel, "{command}: {message}");
        }
    }
}

#[test]
fn the_socket_of_a_channel_asks_the_same() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let open = |path: &str, scope: &str| {
        let stream = std::net::TcpStream::connect(server.address()).expect("accepts");
        let bearer = format!("Bearer {}", token("ann", scope));
        server.connect_to(path, stream, &[("authorization", &bearer)]).err()
    };
    assert_eq!(open("/ws/c", ""), None);
    assert_eq!(open("/ws/%24stats", "message"), Some(403));
    assert_eq!(open("/ws/$stats", "sockets:read"), None);
    assert_eq!(open("/ws/user:bob", "admin"), Some(403));
    assert_eq!(open("/ws/user%3Aann", ""), None);
    let history = |channel: &str, scope: &str| {
        let path = format!("/api/v1/channels/{channel}/history");
        server.call("GET", &path, &token("ann", scope), &Value::Null).status
    };
    assert_eq!((history("%24stats", "message"), history("$stats", "sockets:read")), (403, 200));
    assert_eq!((history("user:bob", "admin"), history("user:ann", "")), (403, 200));
}

/// What ends without being asked for, up to here.
fn withdrawn(client: &mut Client) -> BTreeSet<String> {
    let mut topics = BTreeSet::new();
    for frame in client.drain() {
        assert_eq!(
            (&frame["type"], &frame["reason"], frame.get("id")),
            (&json!("unsubscribed"), &json!("forbidden"), None),
            "{frame}"
        );
        let topic = frame["channel"].as_str().or(frame["service_id"].as_str()).expect("a topic");
        assert!(topics.insert(topic.to_owned()), "{topic} ended twice");
    }
    topics
}

#[test]
fn a_new_token_that_allows_less_ends_what_it_does_not_allow() {
    let dir = std::env::temp_dir().join(format!("fanfare-scopes-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let file = dir.join("fanfare.toml");
    let text = "[namespaces.\"club:\"]\nsubscribe = \"channels:read\"\n\
        [namespaces.\"chat:vip\"]\nsubscribe = \"audit:read\"\npresence = true\n";
    std::fs::write(&file, text).expect("written");
    let config = file.to_string_lossy().into_owned();
    let server = Server::start_for_people(&["--auth", "required", "--config", &config]);
    std::fs::remove_dir_all(dir).expect("removed");
    let all = "registry:read sockets:read channels:read audit:read message";
    let mut bob = server.connect_with(&token("bob", all));
    bob.ask(&json!({"type": "join", "room": "vip"}), "joined");
    let mut ann = server.connect_with(&token("ann", all));
    for service in ["s", "t", "*"] {
        ann.ask(&json!({"type": "subscribe", "service_id": service}), "subscribed");
    }
    for channel in ["c", "club:x", "chat:open", "$other"] {
        ann.ask(&json!({"type": "subscribe", "channel": channel}), "subscribed");
    }
    ann.ask(&json!({"type": "join", "room": "vip"}), "joined");
    ann.ask(&json!({"type": "join", "room": "hall"}), "joined");
    assert_eq!(bob.find_type("event")["event"], "user.joined");
    // As much as before takes nothing away.
    ann.ask(&json!({"type": "refresh", "token": token("ann", all)}), "refreshed");
    assert_eq!(withdrawn(&mut ann), BTreeSet::new());
    // One is still under way when the new token comes: it was allowed, and ends with the others.
    ann.send_json(&json!({"type": "subscribe", "service_id": "late", "id": 1}));
    ann.send_json(&json!({"type": "refresh", "token": token("ann", "message"), "id": 2}));
    assert_eq!(ann.expect("subscribed")["id"], 1);
    assert_eq!(ann.expect("refreshed")["id"], 2);
    let ended = ["*", "s", "t", "late", "club:x", "$other", "chat:vip"];
    assert_eq!(withdrawn(&mut ann), ended.map(String::from).into());
    assert_eq!(bob.find_type("event")["event"], "user.left");
    // They are over, and the others are not.
    let admin = token("root", "admin");
    let register = json!({"instances": [instance("s", "i"), instance("late", "i")]});
    server.call("POST", "/api/registry/register.json", &admin, &register);
    for channel in ["c", "club:x"] {
        let path = format!("/api/v1/channels/{channel}/messages");
        let reply = server.call("POST", &path, &admin, &json!({"payload": 1}));
        assert_eq!(reply.body["delivered_to"], usize::from(channel == "c"), "{channel}");
    }
    bob.send_json(&json!({"type": "chat", "room": "vip", "content": "among us"}));
    bob.find_type("chat");
    let heard = ann.drain();
    assert_eq!(heard.len(), 1, "{heard:?}");
    assert_eq!((&heard[0]["channel"], &heard[0]["payload"]), (&json!("c"), &json!(1)));
    ann.send_json(&json!({"type": "subscribe", "service_id": "s"}));
    ann.expect_error("forbidden");
    ann.ask(&json!({"type": "chat", "room": "hall", "content": "still here"}), "chat");
    // More again is allowed again.
    ann.ask(&json!({"type": "refresh", "token": token("ann", "registry:read")}), "refreshed");
    ann.ask(&json!({"type": "subscribe", "service_id": "s"}), "subscribed");
    assert_eq!(
        refusal(&mut ann, json!({"type": "chat", "content": "x"})).expect("refused").0,
        "forbidden"
    );
}
