//! The channels of rooms, users, dashboards, live entities and the server take only messages of
//! their own doors, from any caller, by any door and in any spelling; and a broadcast to a channel
//! obeys the same rules as a publication.

use fanfare_test_support::{Client, Server, token};
use serde_json::{Value, json};

/// Channels that are reserved, and what they are in a path, spelled in several ways.
const RESERVED: [(&str, &[&str]); 7] = [
    ("chat:r", &["chat:r", "chat%3Ar", "chat%3ar", "%63%68%61%74:r"]),
    ("chat:lobby", &["chat:lobby"]),
    ("user:ann", &["user:ann", "us%65r%3Aann"]),
    ("dashboard:d", &["dashboard:d", "%64ashboard%3Ad"]),
    ("live:order", &["live:order", "live%3Aorder"]),
    ("$stats", &["$stats", "%24stats"]),
    ("$anything", &["$anything", "%24anything"]),
];

/// Scopes of callers; none is a caller without a token.
const CALLERS: [Option<&str>; 5] =
    [None, Some(""), Some("message"), Some("publish message"), Some("admin")];

fn callers(mode: &str) -> impl Iterator<Item = String> + '_ {
    let callers = CALLERS.into_iter().filter(move |one| one.is_some() || mode == "open");
    callers.map(|scope| scope.map_or_else(String::new, |scope| token("ann", scope)))
}

fn connect(server: &Server, token: &str) -> Client {
    if token.is_empty() { server.connect() } else { server.connect_with(token) }
}

/// Sends a command and returns its answer; who comes and goes is announced in between.
fn ask(client: &mut Client, command: &Value, answer: &str) -> Value {
    client.send_json(command);
    client.find_type(answer)
}

/// Everything that tells a message: with and without a name, for all and for some, as text and not.
fn messages() -> [Value; 5] {
    let who = json!({"user_id": "bob", "username": "Bob"});
    [
        json!({"payload": "hello"}),
        json!({"payload": {"a": 1}, "event": "stats"}),
        json!({"payload": who, "event": "user.left", "type": "event"}),
        json!({"payload": who, "event": "user.joined", "exclude": ["0-0-0-0"]}),
        json!({"payload": {"content": "forged"}, "only_to": [], "metadata": {}}),
    ]
}

#[test]
fn no_message_gets_in_by_any_door() {
    for mode in ["open", "required"] {
        let server = Server::start_for_people(&["--auth", mode]);
        let mut bob = server.connect_with(&token("bob", "admin"));
        ask(&mut bob, &json!({"type": "join", "room": "r"}), "joined");
        let mut owner = server.connect_with(&token("ann", "admin"));
        for (channel, _) in RESERVED.iter().filter(|(name, _)| *name != "$stats") {
            ask(&mut owner, &json!({"type": "subscribe", "channel": channel}), "subscribed");
        }
        bob.drain();
        for caller in callers(mode) {
            let mut socket = connect(&server, &caller);
            for (channel, spellings) in RESERVED {
                for message in messages() {
                    let mut command = message.clone();
                    command["type"] = "publish".into();
                    command["channel"] = channel.into();
                    socket.send_json(&command);
                    socket.find(channel, |frame| {
                        frame["type"] == "error" && frame["code"] == "forbidden"
                    });
                    for spelling in spellings {
                        let path = format!("/api/v1/channels/{spelling}/messages");
                        let reply = server.call("POST", &path, &caller, &message);
                        assert_eq!(reply.status, 403, "{mode} {path}: {}", reply.text);
                        assert_eq!(reply.body["code"], "forbidden");
                    }
                }
                let envelope = json!({"message_type": "text", "data": 1, "to_channel": channel});
                let reply = server.call("POST", "/ws/broadcast", &caller, &envelope);
                assert_eq!(reply.status, 403, "{mode} {channel}: {}", reply.text);
            }
        }
        let heard: Vec<Value> = [owner.drain(), bob.drain()].concat();
        let is_message =
            |frame: &&Value| frame.get("channel").is_some() || frame["message_type"] == "text";
        let heard: Vec<&Value> = heard.iter().filter(is_message).collect();
        assert!(heard.is_empty(), "{heard:?}");
        for (channel, spellings) in RESERVED.iter().filter(|(name, _)| *name != "$stats") {
            let path = format!("/api/v1/channels/{}/history", spellings[0]);
            let kept = server.call("GET", &path, &token("ann", "admin"), &Value::Null).body;
            assert_eq!(kept["messages"], json!([]), "{channel}");
        }
    }
}

#[test]
fn names_that_are_merely_alike_are_ordinary_channels() {
    let server = Server::start(&[]);
    let mut ann = server.connect();
    for channel in [
        "Chat:r",
        "CHAT:r",
        "chat",
        "chats:r",
        " chat:r",
        "User:ann",
        "users",
        "Live:x",
        "lives:x",
        "dashboards:x",
        "x$stats",
        "\u{ff43}hat:r",
    ] {
        let command = json!({"type": "publish", "channel": channel, "payload": 1});
        assert_eq!(ask(&mut ann, &command, "published")["channel"], channel);
    }
    // They share nothing with the room.
    ask(&mut ann, &json!({"type": "subscribe", "channel": "chat:r"}), "subscribed");
    let reply = server.post_json("/api/v1/channels/Chat:r/messages", &json!({"payload": 1}));
    assert_eq!((reply.status, &reply.body["delivered_to"]), (200, &json!(0)));
}

#[test]
fn their_own_doors_stay_open() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let mut ann = server.connect_as("ann");
    for channel in ["live:order", "dashboard:d", "chat:r"] {
        ask(&mut ann, &json!({"type": "subscribe", "channel": channel}), "subscribed");
    }
    let publisher = token("robot", "publish");
    let update = json!({"action": "created", "data": 1});
    assert_eq!(server.call("POST", "/api/v1/live/order/1", &publisher, &update).status, 200);
    assert_eq!(ann.find_type("event")["event"], "order.created");
    let metrics = json!({"load": 1});
    let path = "/api/v1/dashboards/d/metrics";
    assert_eq!(server.call("POST", path, &publisher, &metrics).status, 200);
    assert_eq!(ann.find_type("event")["payload"], metrics);
    let mut bob = server.connect_as("bob");
    ask(&mut bob, &json!({"type": "join", "room": "r"}), "joined");
    assert_eq!(ann.find_type("event")["event"], "user.joined");
    bob.send_json(&json!({"type": "chat", "room": "r", "content": "hi"}));
    assert_eq!(ann.find_type("chat")["content"], "hi");
    ask(&mut bob, &json!({"type": "chat", "room": "r", "content": "me too"}), "chat");
    ann.send_json(&json!({"type": "chat", "room": "r", "content": "not a member"}));
    ann.find("a refusal", |frame| frame["code"] == "forbidden");
}

/// A server whose configuration file says this of namespaces.
fn with_rules(rules: &str, flags: &[&str]) -> Server {
    let dir = std::env::temp_dir().join(format!("fanfare-reserved-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let file = dir.join("fanfare.toml");
    std::fs::write(&file, rules).expect("written");
    let config = file.to_string_lossy().into_owned();
    let server = Server::start_for_people(&[&["--config", &config], flags].concat());
    std::fs::remove_dir_all(dir).expect("removed");
    server
}

#[test]
fn no_rule_of_the_configuration_opens_them() {
    let rules = [
        "",
        "c",
        "chat:",
        "chat:r",
        "user:",
        "$",
        "$anything",
        "live:",
        "live:order",
        "dashboard:",
    ]
    .map(|prefix| {
        format!("[namespaces.\"{prefix}\"]\npublish = \"anyone\"\nsubscribe = \"anyone\"\n")
    });
    let server = with_rules(&rules.concat(), &["--auth", "required"]);
    let admin = token("root", "admin");
    let mut socket = server.connect_with(&admin);
    for (channel, spellings) in RESERVED {
        socket.send_json(&json!({"type": "publish", "channel": channel, "payload": 1}));
        socket.expect_error("forbidden");
        let path = format!("/api/v1/channels/{}/messages", spellings[0]);
        let reply = server.call("POST", &path, &admin, &json!({"payload": 1}));
        assert_eq!(reply.status, 403, "{channel}");
    }
    assert!(server.log().contains("changes nothing"), "{}", server.log());
    let shown = server.call("GET", "/api/status/config.json", &admin, &Value::Null).body;
    assert_eq!(shown["namespaces"]["chat:r"]["publish"], "nobody", "what is shown is what holds");
    // Who may call the doors of live entities and dashboards is still the rule's to say.
    let server =
        with_rules("[namespaces.\"live:\"]\npublish = \"admin\"\n", &["--auth", "required"]);
    let update = |scope: &str| {
        let body = json!({"action": "created"});
        server.call("POST", "/api/v1/live/order/1", &token("robot", scope), &body).status
    };
    assert_eq!((update("publish"), update("admin")), (403, 200));
}

#[test]
fn a_broadcast_to_a_channel_obeys_its_rules() {
    let rules = "[namespaces.\"news:\"]\npublish = \"admin\"\n[namespaces.\"closed:\"]\npublish = \"nobody\"\n\
        [namespaces.\"club:\"]\npublish = \"users\"\n";
    for mode in ["open", "required"] {
        let server = with_rules(rules, &["--auth", mode]);
        let mut follower = server.connect_with(&token("ann", ""));
        for channel in ["news:x", "closed:x", "club:x", "c"] {
            ask(&mut follower, &json!({"type": "subscribe", "channel": channel}), "subscribed");
        }
        let send = |channel: &str, token: &str| {
            let body = json!({"message_type": "text", "data": channel, "to_channel": channel});
            server.call("POST", "/ws/broadcast", token, &body)
        };
        let (publisher, admin) = (token("robot", "publish"), token("root", "admin"));
        let is_open = mode == "open";
        send("closed:x", &admin).expect_problem(403, "forbidden");
        assert_eq!(send("news:x", &publisher).status, if is_open { 200 } else { 403 }, "{mode}");
        assert_eq!(send("news:x", &admin).body["delivered_to"], 1, "{mode}");
        send("club:x", "").expect_problem(401, "unauthorized");
        assert_eq!(send("club:x", &publisher).body["delivered_to"], 1, "{mode}");
        assert_eq!(send("c", &publisher).body["delivered_to"], 1, "{mode}");
        let heard = follower.drain();
        let heard: Vec<&Value> = heard.iter().filter(|one| one["message_type"] == "text").collect();
        assert_eq!(heard.len(), if is_open { 4 } else { 3 }, "{mode}: {heard:?}");
    }
}

#[test]
fn comings_and_goings_are_announced_by_the_server_alone() {
    let rules = "[namespaces.\"club:\"]\npresence = true\n";
    let server = with_rules(rules, &[]);
    let (mut ann, mut bob) = (server.connect_as("ann"), server.connect_as("bob"));
    ask(&mut ann, &json!({"type": "subscribe", "channel": "club:x"}), "subscribed");
    ask(&mut ann, &json!({"type": "subscribe", "channel": "plain"}), "subscribed");
    let who = json!({"user_id": "ann", "username": "Ann"});
    for event in ["user.left", "user.joined"] {
        let message = json!({"payload": who, "event": event});
        let aimed = json!({"payload": who, "event": event, "only_to": [ann.id()], "type": "json"});
        for body in [&message, &aimed] {
            let reply = server.post_json("/api/v1/channels/club:x/messages", body);
            reply.expect_problem(403, "forbidden");
        }
        let mut command = message.clone();
        command["type"] = "publish".into();
        command["channel"] = "club:x".into();
        bob.send_json(&command);
        bob.find("a refusal", |frame| frame["code"] == "forbidden");
        // Where nobody is announced the words are as good as others.
        command["channel"] = "plain".into();
        bob.send_json(&command);
        bob.find_type("published");
    }
    let other = json!({"payload": who, "event": "user.renamed"});
    assert_eq!(server.post_json("/api/v1/channels/club:x/messages", &other).status, 200);
    let events: Vec<Value> =
        ann.drain().into_iter().filter(|one| one["channel"] == "club:x").collect();
    assert_eq!(events.len(), 1, "{events:?}");
    assert_eq!(events[0]["event"], "user.renamed");
    ask(&mut bob, &json!({"type": "subscribe", "channel": "club:x"}), "subscribed");
    assert_eq!(ann.find_type("event")["event"], "user.joined");
}

#[test]
fn the_channel_of_a_user_is_followed_by_that_user_alone() {
    for mode in ["open", "required"] {
        let server = Server::start_for_people(&["--auth", mode]);
        let follow = json!({"type": "subscribe", "channel": "user:ann"});
        let system =
            json!({"type": "system", "payload": {"command": "subscribe", "channel": "user:ann"}});
        for command in [&follow, &system] {
            let mut ann = server.connect_with(&token("ann", ""));
            ask(&mut ann, command, "subscribed");
            let mut bob = server.connect_with(&token("bob", "admin"));
            bob.send_json(command);
            assert_eq!(bob.find_type("error")["code"], "forbidden");
            if mode == "open" {
                let mut nobody = server.connect();
                nobody.send_json(command);
                nobody.expect_error("unauthorized");
            }
        }
    }
}
