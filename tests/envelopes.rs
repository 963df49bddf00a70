//! Envelopes: from user to user, from a program to many, and the announcements of presence.

use fanfare_test_support as support;
use fanfare_test_support::{Client, Server, assert_is_time, token};
use serde_json::{Value, json};

fn envelope(to: Option<&str>, id: &str) -> Value {
    let mut envelope = json!({"id": id, "message_type": "text", "data": {"n": 1},
        "timestamp": "2020-01-01T00:00:00.000Z"});
    if let Some(to) = to {
        envelope["to_user_id"] = to.into();
    }
    envelope
}

fn acknowledged(client: &mut Client, id: &str) -> Value {
    let ack = client.find_envelope("ack");
    assert_eq!(ack["id"], id, "{ack}");
    assert_is_time(&ack["timestamp"]);
    ack["data"]["delivered_to"].clone()
}

#[test]
fn one_user_on_all_their_connections() {
    let server = Server::start_for_people(&[]);
    let mut ann = server.connect_as("ann");
    let mut bobs = [server.connect_as("bob"), server.connect_as("bob")];
    let mut cid = server.connect_as("cid");
    ann.send_json(&envelope(Some("bob"), "m1"));
    assert_eq!(acknowledged(&mut ann, "m1"), 2);
    for bob in &mut bobs {
        let got = bob.find_envelope("text");
        assert_eq!((&got["id"], &got["from_user_id"]), (&json!("m1"), &json!("ann")));
        assert_eq!((&got["data"], &got["to_user_id"]), (&json!({"n": 1}), &json!("bob")));
        assert_is_time(&got["timestamp"]);
        assert_ne!(got["timestamp"], "2020-01-01T00:00:00.000Z", "the time is the server's");
    }
    ann.send_json(&envelope(None, "m2"));
    assert_eq!(acknowledged(&mut ann, "m2"), 3, "everyone else who is signed in");
    assert_eq!(cid.find_envelope("text")["id"], "m2");
    ann.send_json(&envelope(Some("nobody"), "m3"));
    let error = ann.find_envelope("error");
    assert_eq!((&error["id"], &error["data"]["code"]), (&json!("m3"), &json!("not_found")));
    assert!(error["data"]["message"].is_string());
    drop(cid);
    support::eventually("cid is offline", support::READ_PATIENCE, || {
        ann.send_json(&envelope(Some("cid"), "m4"));
        acknowledged(&mut ann, "m4") == 0
    });
}

#[test]
fn ping_and_refusals_stay_in_the_family() {
    let server = Server::start_for_people(&[]);
    let mut nobody = server.connect();
    nobody.send_json(&json!({"message_type": "ping", "id": "p"}));
    let pong = nobody.find_envelope("pong");
    assert_eq!(pong["id"], "p");
    nobody.send_json(&envelope(None, "m"));
    assert_eq!(nobody.find_envelope("error")["data"]["code"], "unauthorized");
    let mut ann = server.connect_as("ann");
    for wrong in [
        json!({"message_type": "text", "id": "w"}),
        json!({"message_type": "text", "data": "no object", "id": "w"}),
        json!({"message_type": "user_joined", "data": {}, "id": "w"}),
        json!({"message_type": "text", "data": {}, "to_user_id": 7, "id": "w"}),
    ] {
        ann.send_json(&wrong);
        let error = ann.find_envelope("error");
        assert_eq!(
            (&error["id"], &error["data"]["code"]),
            (&json!("w"), &json!("invalid_argument"))
        );
    }
    ann.send_json(&json!({"type": "dance", "message_type": "text", "data": {}}));
    ann.expect_error("unknown_type");
}

#[test]
fn others_hear_who_comes_and_goes_once() {
    let server = Server::start_for_people(&[]);
    let mut ann = server.connect_as("ann");
    let (one, mut two) = (server.connect_as("bob"), server.connect_as("bob"));
    let joined = ann.find_envelope("user_joined");
    assert_eq!(joined["data"], json!({"user_id": "bob", "username": "Bob"}));
    assert!(ann.drain().is_empty(), "the second connection is no news");
    assert!(two.drain().is_empty(), "nobody hears of themselves");
    let online = server.get("/ws/online").body;
    assert_eq!(online["count"], 2);
    assert_eq!(
        (&online["users"][1]["user_id"], &online["users"][1]["connections"]),
        (&json!("bob"), &json!(2))
    );
    assert_eq!(online["users"][1]["username"], "Bob");
    assert_is_time(&online["users"][0]["connected_at"]);
    assert_eq!(server.get("/ws/stats").body["users_online"], 2);
    drop((one, two));
    assert_eq!(ann.find_envelope("user_left")["data"]["user_id"], "bob");
    let mut nobody = server.connect();
    let _cid = server.connect_as("cid");
    ann.find_envelope("user_joined");
    assert!(nobody.drain().is_empty(), "who is not signed in is told nothing");
}

#[test]
fn nobody_hears_of_themselves_on_any_connection() {
    let server = Server::start_for_people(&["--shards", "3"]);
    for n in 0..40 {
        // Both are on their way at once, on whatever shards.
        let user = format!("user{n}");
        let mut both = [server.connect_as(&user), server.connect_as(&user)];
        for client in &mut both {
            let heard = client.drain();
            assert!(heard.iter().all(|frame| frame["data"]["user_id"] != user), "{heard:?}");
        }
    }
}

#[test]
fn a_program_reaches_whom_it_names() {
    let server = Server::start_for_people(&[]);
    let mut clients = [server.connect(), server.connect_as("ann"), server.connect()];
    clients[2].ask(&json!({"type": "subscribe", "channel": "c"}), "subscribed");
    let ids: Vec<String> = clients.iter().map(Client::id).collect();
    let send = |body: Value| {
        let reply = server.post_json("/ws/broadcast", &body);
        assert_eq!(reply.status, 200, "{}", reply.text);
        assert!(reply.body["id"].is_string());
        reply.body["delivered_to"].as_u64().expect("a number")
    };
    let message = |extra: Value| {
        let mut body = json!({"message_type": "notice", "data": {"n": extra}});
        for (name, value) in extra.as_object().into_iter().flatten() {
            body[name] = value.clone();
        }
        body
    };
    assert_eq!(send(message(json!({}))), 3);
    assert_eq!(send(message(json!({"only_to": [ids[0], "1-1-1", ids[0]]}))), 1);
    assert_eq!(send(message(json!({"exclude": [ids[0], ids[1]]}))), 1);
    assert_eq!(send(message(json!({"to_channel": "c"}))), 1);
    assert_eq!(send(message(json!({"to_channel": "c", "exclude": [ids[2]]}))), 0);
    assert_eq!(send(message(json!({"to_channel": "empty"}))), 0);
    let counts: Vec<usize> = clients
        .iter_mut()
        .map(|client| {
            let frames = client.drain();
            frames.iter().filter(|frame| frame["message_type"] == "notice").count()
        })
        .collect();
    assert_eq!(counts, [2, 1, 3]);
    for wrong in [json!({}), json!({"message_type": "x"}), json!({"message_type": 7, "data": {}})] {
        server.post_json("/ws/broadcast", &wrong).expect_problem(400, "invalid_argument");
    }
    server.request("GET", "/ws/broadcast", &[], b"").expect_problem(405, "invalid_argument");
}

#[test]
fn a_program_reaches_a_user() {
    let server = Server::start_for_people(&[]);
    let mut ann = server.connect_as("ann");
    let send = |to: &str| {
        let body = json!({"to_user_id": to, "message_type": "notice", "data": {}});
        server.post_json("/ws/send", &body)
    };
    let reply = send("ann");
    assert_eq!((reply.status, &reply.body["delivered_to"]), (200, &json!(1)));
    assert_eq!(ann.find_envelope("notice")["id"], reply.body["id"]);
    send("stranger").expect_problem(404, "not_found");
    // A user whose token was seen is known, though never online.
    assert_eq!(server.call("GET", "/ws/online", &token("bob", ""), &Value::Null).status, 200);
    assert_eq!(send("bob").body["delivered_to"], 0);
}

#[test]
fn an_operator_sees_and_ends_connections() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let admin = token("root", "admin");
    let mut ann = server.connect_as("ann");
    ann.ask(&json!({"type": "subscribe", "channel": "c"}), "subscribed");
    ann.ask(&json!({"type": "join", "room": "r"}), "joined");
    let path = format!("/api/v1/connections/{}", ann.id());
    for (method, path) in [("GET", "/api/v1/connections"), ("GET", &*path), ("DELETE", &*path)] {
        let status = |token: &str| server.call(method, path, token, &Value::Null).status;
        assert_eq!((status(""), status(&token("ann", "publish"))), (401, 403), "{method} {path}");
    }
    let list = server.call("GET", "/api/v1/connections", &admin, &Value::Null).body;
    assert_eq!((&list["total"], &list["connections"][0]["user_id"]), (&json!(1), &json!("ann")));
    let one = server.call("GET", &path, &admin, &Value::Null).body;
    assert_eq!(
        (&one["connection_id"], &one["channels"], &one["rooms"]),
        (&json!(ann.id()), &json!(["c"]), &json!(["r"]))
    );
    assert!(one["remote_addr"].as_str().is_some_and(|address| address.starts_with("127.0.0.1:")));
    assert_is_time(&one["connected_at"]);
    let body = json!({"message_type": "notice", "data": {"x": 1}});
    let sent = server.call("POST", &format!("{path}/messages"), &admin, &body);
    assert_eq!((sent.status, &sent.body["delivered_to"]), (200, &json!(1)));
    assert_eq!(ann.find_envelope("notice")["data"], json!({"x": 1}));
    assert_eq!(server.call("DELETE", &path, &admin, &Value::Null).status, 204);
    let (_, code) = ann.read_to_close();
    assert_eq!(code, 4403);
    for id in ["nonsense", "0-99-1"] {
        let path = format!("/api/v1/connections/{id}");
        server.call("DELETE", &path, &admin, &Value::Null).expect_problem(404, "not_found");
        server.call("GET", &path, &admin, &Value::Null).expect_problem(404, "not_found");
    }
}
