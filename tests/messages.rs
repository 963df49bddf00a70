//! Direct and group messages: stored, pushed, pulled, and only for their receivers.

use fanfare_test_support as support;
use fanfare_test_support::{Reply, Server, eventually, token};
use serde_json::{Value, json};

fn know(server: &Server, users: &[&str]) {
    for user in users {
        assert_eq!(server.call("GET", "/ws/online", &token(user, ""), &Value::Null).status, 200);
    }
}

fn send(server: &Server, from: &str, to: &str, content: &str) -> Reply {
    let body = json!({"to_user_id": to, "content": content});
    server.call("POST", "/api/v1/messages", &token(from, ""), &body)
}

fn pull(server: &Server, user: &str, query: &str) -> (Vec<String>, Value) {
    let path = format!("/api/v1/messages{query}");
    let reply = server.call("GET", &path, &token(user, ""), &Value::Null);
    assert_eq!(reply.status, 200, "{}", reply.text);
    let messages = reply.body["messages"].as_array().expect("a list");
    let text = |message: &Value| message["content"].as_str().expect("a text").to_owned();
    (messages.iter().map(text).collect(), reply.body["next"].clone())
}

fn group(server: &Server, owner: &str, members: &[&str]) -> String {
    let body = json!({"name": "team", "members": members});
    let reply = server.call("POST", "/api/v1/groups", &token(owner, ""), &body);
    assert_eq!(reply.status, 201, "{}", reply.text);
    reply.body["group_id"].as_str().expect("an id").to_owned()
}

#[test]
fn pushed_to_every_connection_of_the_receiver_alone() {
    let server = Server::start_for_people(&[]);
    let mut bobs = [server.connect_as("bob"), server.connect_as("bob")];
    let (mut ann, mut cid) = (server.connect_as("ann"), server.connect_as("cid"));
    let reply = send(&server, "ann", "bob", "hi \u{1F600} \"there\"");
    assert_eq!(reply.status, 201, "{}", reply.text);
    let id = reply.body["id"].as_str().expect("an id");
    assert_eq!(id.as_bytes()[14], b'7', "UUIDv7");
    for bob in &mut bobs {
        let pushed = bob.find_type("private");
        let want = json!({"type": "private", "id": id, "from_user_id": "ann", "to_user_id": "bob",
            "content": "hi \u{1F600} \"there\"", "created_at": reply.body["created_at"]});
        assert_eq!(pushed, want);
    }
    for other in [&mut ann, &mut cid] {
        assert!(other.drain().iter().all(|frame| frame["type"] != "private"));
    }
    assert!((support::now_s()).abs_diff(reply.body["created_at"].as_u64().expect("seconds")) < 60);
}

#[test]
fn pulled_by_a_cursor_oldest_first() {
    let server = Server::start_for_people(&[]);
    know(&server, &["ann", "bob", "cid"]);
    let mut ids = Vec::new();
    for n in 0..7 {
        let (from, to) = if n % 2 == 0 { ("ann", "bob") } else { ("bob", "ann") };
        ids.push(send(&server, from, to, &format!("m{n}")).body["id"].clone());
    }
    send(&server, "cid", "bob", "from cid");
    assert!(ids.is_sorted_by(|a, b| a.as_str() < b.as_str()));
    assert_eq!(pull(&server, "ann", "").0, ["m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
    let (page, next) = pull(&server, "ann", "?limit=3");
    assert_eq!((page, &next), (vec!["m0".into(), "m1".into(), "m2".into()], &ids[2]));
    let after = next.as_str().expect("a cursor");
    assert_eq!(
        pull(&server, "ann", &format!("?after={after}&limit=4")),
        (vec!["m3".into(), "m4".into(), "m5".into(), "m6".into()], Value::Null)
    );
    assert_eq!(pull(&server, "bob", "?with=cid").0, ["from cid"]);
    assert_eq!(pull(&server, "cid", "?with=ann"), (vec![], Value::Null));
    let ask = |query: &str| {
        let path = format!("/api/v1/messages?{query}");
        server.call("GET", &path, &token("ann", ""), &Value::Null)
    };
    for wrong in ["after=nonsense", "limit=0", "limit=x", "with="] {
        ask(wrong).expect_problem(400, "invalid_argument");
    }
    assert_eq!(ask("limit=100000").status, 200);
    server.get("/api/v1/messages").expect_problem(401, "unauthorized");
}

#[test]
fn wrong_messages_are_refused_and_nothing_is_stored() {
    let server = Server::start_for_people(&[]);
    know(&server, &["ann", "bob"]);
    send(&server, "ann", "stranger", "x").expect_problem(404, "not_found");
    for (body, code) in [
        (json!({"content": "x"}), "invalid_argument"),
        (json!({"to_user_id": "bob"}), "invalid_argument"),
        (json!({"to_user_id": "bob", "content": ""}), "invalid_argument"),
        (json!({"to_user_id": "bob", "content": 7}), "invalid_argument"),
        (json!({"to_user_id": "bob", "content": "a\u{0}b"}), "invalid_argument"),
        (json!({"to_user_id": "bob", "content": "x".repeat(16 * 1_024 + 1)}), "invalid_argument"),
    ] {
        let reply = server.call("POST", "/api/v1/messages", &token("ann", ""), &body);
        reply.expect_problem(400, code);
    }
    let body = json!({"to_user_id": "bob", "content": "x"});
    server.call("POST", "/api/v1/messages", "", &body).expect_problem(401, "unauthorized");
    assert_eq!(send(&server, "ann", "bob", &"x".repeat(16 * 1_024)).status, 201);
    assert_eq!(pull(&server, "bob", "").0.len(), 1);
    assert_eq!(send(&server, "bob", "bob", "a note").status, 201);
    assert_eq!(pull(&server, "bob", "").0.len(), 2, "once, though it is to and from bob");
}

#[test]
fn a_group_hears_its_members() {
    let server = Server::start_for_people(&[]);
    know(&server, &["ann", "bob", "cid", "eve"]);
    let id = group(&server, "ann", &["bob", "cid", "ann"]);
    let (mut ann, mut bob) = (server.connect_as("ann"), server.connect_as("bob"));
    let path = format!("/api/v1/groups/{id}/messages");
    let say = |user: &str, text: &str| {
        server.call("POST", &path, &token(user, ""), &json!({"content": text}))
    };
    let reply = say("ann", "hello");
    assert_eq!(reply.status, 201, "{}", reply.text);
    let pushed = bob.find_type("group");
    let want = json!({"type": "group", "id": reply.body["id"], "group_id": id,
        "from_user_id": "ann", "content": "hello", "created_at": reply.body["created_at"]});
    assert_eq!(pushed, want);
    assert!(ann.drain().iter().all(|frame| frame["type"] != "group"));
    say("eve", "let me in").expect_problem(403, "forbidden");
    let nowhere = server.call(
        "POST",
        "/api/v1/groups/none/messages",
        &token("ann", ""),
        &json!({"content": "x"}),
    );
    nowhere.expect_problem(404, "not_found");
    assert_eq!(pull(&server, "cid", "").0, ["hello"], "who was offline");
    assert_eq!(pull(&server, "eve", "").0.len(), 0);
    // Who comes later has not been told, who left was.
    let members = format!("/api/v1/groups/{id}/members");
    let add = |by: &str, user: &str| {
        server.call("POST", &members, &token(by, ""), &json!({"user_id": user})).status
    };
    assert_eq!((add("bob", "eve"), add("eve", "eve"), add("ann", "stranger")), (403, 403, 404));
    assert_eq!((add("ann", "eve"), add("ann", "eve")), (201, 200));
    let remove = |by: &str, user: &str| {
        server.call("DELETE", &format!("{members}/{user}"), &token(by, ""), &Value::Null).status
    };
    assert_eq!((remove("bob", "cid"), remove("cid", "cid"), remove("ann", "cid")), (403, 204, 404));
    assert_eq!(say("ann", "second").status, 201);
    assert_eq!(pull(&server, "eve", "").0, ["second"]);
    assert_eq!(pull(&server, "cid", "").0, ["hello"]);
    say("cid", "still?").expect_problem(403, "forbidden");
}

#[test]
fn groups_are_listed_described_and_deleted() {
    let server = Server::start_for_people(&[]);
    know(&server, &["ann", "bob", "eve"]);
    let id = group(&server, "ann", &["bob"]);
    let call = |method: &str, path: &str, user: &str| {
        server.call(method, path, &token(user, ""), &Value::Null)
    };
    let path = format!("/api/v1/groups/{id}");
    let list = call("GET", "/api/v1/groups", "bob").body;
    assert_eq!(
        (&list["groups"][0]["group_id"], &list["groups"][0]["name"]),
        (&json!(id), &json!("team"))
    );
    let one = call("GET", &path, "bob").body;
    assert_eq!((&one["members"], &one["owner"]), (&json!(["ann", "bob"]), &json!("ann")));
    call("GET", &path, "eve").expect_problem(403, "forbidden");
    call("GET", "/api/v1/groups/none", "eve").expect_problem(404, "not_found");
    call("DELETE", &path, "bob").expect_problem(403, "forbidden");
    // When the owner leaves, whoever came next manages the group.
    assert_eq!(call("DELETE", &format!("{path}/members/ann"), "ann").status, 204);
    assert_eq!(call("GET", &path, "bob").body["owner"], "bob");
    assert_eq!(call("DELETE", &path, "bob").status, 204);
    call("GET", &path, "bob").expect_problem(404, "not_found");
    let body = json!({"name": "x", "members": ["stranger"]});
    server
        .call("POST", "/api/v1/groups", &token("ann", ""), &body)
        .expect_problem(404, "not_found");
    for wrong in [json!({}), json!({"name": ""}), json!({"name": "x", "members": "bob"})] {
        let reply = server.call("POST", "/api/v1/groups", &token("ann", ""), &wrong);
        reply.expect_problem(400, "invalid_argument");
    }
}

#[test]
fn everything_is_there_after_a_restart() {
    let mut server = Server::start_for_people(&[]);
    know(&server, &["ann", "bob"]);
    let id = group(&server, "ann", &["bob"]);
    assert_eq!(send(&server, "ann", "bob", "before").status, 201);
    let defined = json!({"name": "news", "description": "what is new"});
    assert_eq!(server.post_json("/api/v1/channels", &defined).status, 201);
    server.kill();
    server.restart();
    assert_eq!(pull(&server, "bob", "").0, ["before"]);
    assert_eq!(send(&server, "ann", "bob", "after").status, 201, "bob is still known");
    let path = format!("/api/v1/groups/{id}/messages");
    let said = server.call("POST", &path, &token("bob", ""), &json!({"content": "to all"}));
    assert_eq!(said.status, 201);
    assert_eq!(pull(&server, "ann", "").0, ["before", "after", "to all"]);
    assert_eq!(server.get("/api/v1/channels/news").body["description"], "what is new");
    eventually("the channel is gone for good", support::READ_PATIENCE, || {
        server.request("DELETE", "/api/v1/channels/news", &[], b"").status == 404
    });
}
