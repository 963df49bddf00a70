//! A name names one user and an id names one user, and neither is ever taken for the other.

use fanfare_test_support as support;
use std::time::Duration;

use fanfare_test_support::{Reply, Server, eventually, token};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse";

fn register(server: &Server, username: &str) -> Reply {
    let body = json!({"username": username, "password": PASSWORD});
    server.post_json("/api/v1/users/register", &body)
}

/// Registers, and gives the user's id.
fn registered(server: &Server, username: &str) -> String {
    let reply = register(server, username);
    assert_eq!(reply.status, 201, "{username}: {}", reply.text);
    reply.body["user_id"].as_str().expect("an id").to_owned()
}

fn login(server: &Server, username: &str) -> Reply {
    let body = json!({"username": username, "password": PASSWORD});
    server.post_json("/api/v1/users/login", &body)
}

/// Has a user be known whom only a token names.
fn seen(server: &Server, user: &str) -> String {
    let token = token(user, "");
    assert_eq!(server.call("GET", "/api/v1/messages", &token, &Value::Null).status, 200);
    eventually("the user is stored", Duration::from_secs(20), || {
        server.run(&["user", "list"], "").1.lines().any(|line| line.starts_with(user))
    });
    token
}

#[test]
fn names_are_normalised_and_compared_without_case() {
    let server = Server::start_for_people(&["--registrations-per-minute-max", "0"]);
    let reply = register(&server, "\u{fb01}sh \u{ff34}ank");
    assert_eq!(
        (reply.status, &reply.body["username"]),
        (201, &json!("fish Tank")),
        "{}",
        reply.text
    );
    for same in ["fish tank", "FISH TANK", "\u{ff46}ish Tank", "f\u{131}sh tank", "fish\u{a0}tank"]
    {
        register(&server, same).expect_problem(409, "conflict");
    }
    for way in ["fish tank", "FISH Tank", "\u{fb01}sh tank"] {
        assert_eq!(login(&server, way).status, 200, "{way}");
    }
    // Look-alikes of a name that is there, each of one script.
    registered(&server, "paypal");
    for alike in ["paypa1", "PaypaI", "\u{440}\u{430}\u{443}\u{440}\u{430}\u{4c0}"] {
        register(&server, alike).expect_problem(409, "conflict");
    }
    registered(&server, "\u{418}\u{432}\u{430}\u{43d}");
    registered(&server, "\u{5c71}\u{7530} Taro");
}

#[test]
fn names_that_deceive_are_refused() {
    let server = Server::start_for_people(&[]);
    for name in [
        "a\u{200b}nn",
        "ann\u{202e}",
        "\u{2066}ann\u{2069}",
        "a\u{ad}nn",
        "ann\u{fe0f}",
        "\u{3164}",
        "ann\u{a0}",
        " ann",
        "a\u{7f}",
        "p\u{430}ypal",
        "0b7e6c1e-3c5a-4a0e-9d57-6d9d1f4f3c11",
        "0B7E6C1E3C5A4A0E9D576D9D1F4F3C11",
        "name:ann",
        "x\u{301}\u{301}\u{301}\u{301}\u{301}",
    ] {
        let reply = register(&server, name);
        reply.expect_problem(400, "invalid_argument");
        assert!(reply.text.contains("username"), "{}", reply.text);
        assert!(!server.run(&["user", "add", name], PASSWORD).0, "{name:?} by the command line");
    }
}

#[test]
fn no_name_equals_a_known_id() {
    let server = Server::start_for_people(&[]);
    let ann = registered(&server, "ann");
    register(&server, &ann).expect_problem(400, "invalid_argument");
    seen(&server, "robert");
    for name in ["robert", "Robert", "R0bert", "\u{ff32}obert"] {
        register(&server, name).expect_problem(409, "conflict");
    }
    assert!(!server.run(&["user", "add", "Robert"], PASSWORD).0);
}

#[test]
fn the_command_line_asks_which_of_two_is_meant() {
    let server = Server::start_for_people(&[]);
    let called_bob = registered(&server, "bob");
    // A token whose subject is somebody's name: the other way round, and it is handled.
    let with_id_bob = seen(&server, "bob");
    let by_login = login(&server, "bob").body["token"].as_str().expect("a token").to_owned();
    let status = |token: &str| server.call("GET", "/api/v1/messages", token, &Value::Null).status;
    for args in [
        &["user", "disable", "bob"][..],
        &["user", "enable", "bob"],
        &["user", "scope", "bob", "admin"],
        &["user", "revoke", "bob"],
        &["user", "reset-password", "bob"],
    ] {
        let (is_ok, said) = server.run(args, "another password\n");
        assert!(!is_ok && said.contains("--id") && said.contains("--name"), "{args:?}: {said}");
        assert!(said.contains(&called_bob), "both are named: {said}");
    }
    assert_eq!((status(&with_id_bob), status(&by_login)), (200, 200), "nothing changed");
    let (_, list) = server.run(&["user", "list"], "");
    assert!(!list.contains("admin") && !list.contains("disabled"), "{list}");
    assert_eq!(login(&server, "bob").status, 200);

    assert!(server.run(&["user", "disable", "--id", "bob"], "").0);
    eventually("the token counts no more", Duration::from_secs(20), || status(&with_id_bob) == 401);
    assert_eq!((status(&by_login), login(&server, "bob").status), (200, 200));
    assert!(server.run(&["user", "enable", "--id", "bob"], "").0);
    assert!(server.run(&["user", "disable", "--name", "BOB"], "").0);
    eventually("the account counts no more", Duration::from_secs(20), || status(&by_login) == 401);
    eventually("the other does", Duration::from_secs(20), || status(&with_id_bob) == 200);
    assert!(!server.run(&["user", "enable", "--id", "BOB"], "").0, "ids have case");
    assert!(!server.run(&["user", "enable", "--name", &called_bob], "").0, "an id is no name");
    assert!(server.run(&["user", "enable", &called_bob], "").0, "one account alone fits");
    eventually("it counts again", Duration::from_secs(20), || status(&by_login) == 200);
    let (is_ok, said) = server.run(&["user", "disable", "--name", "nobody"], "");
    assert!(!is_ok && said.contains("nobody"), "{said}");
}

#[test]
fn a_user_is_found_by_name() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let ann = registered(&server, "Ann B.");
    let token = login(&server, "ann b.").body["token"].as_str().expect("a token").to_owned();
    let find = |name: &str, token: &str| {
        server.call("GET", &format!("/api/v1/users?name={name}"), token, &Value::Null)
    };
    for name in ["Ann%20B.", "ann+b.", "%EF%BC%A1nn%20B."] {
        let reply = find(name, &token);
        assert_eq!(
            (reply.status, &reply.body),
            (200, &json!({"user_id": ann, "username": "Ann B."}))
        );
    }
    find("nobody", &token).expect_problem(404, "not_found");
    find(&ann, &token).expect_problem(404, "not_found");
    find("%00", &token).expect_problem(404, "not_found");
    find("x", "").expect_problem(401, "unauthorized");
    let without = server.call("GET", "/api/v1/users", &token, &Value::Null);
    without.expect_problem(400, "invalid_argument");
    server.request("POST", "/api/v1/users", &[], b"").expect_problem(405, "invalid_argument");
}

#[test]
fn names_cannot_be_guessed_by_the_thousand() {
    let server = Server::start_for_people(&["--unknown-names-per-minute-max", "5"]);
    registered(&server, "Ann");
    let find = |name: &str| server.get(&format!("/api/v1/users?name={name}"));
    for _ in 0..20 {
        assert_eq!(
            find("ann").status,
            200,
            "nobody acts as a user, and who is known may be asked for"
        );
    }
    let bob = token("bob", "");
    let write = |to: &str| {
        let body = json!({"to_user_id": to, "content": "x"});
        server.call("POST", "/api/v1/messages", &bob, &body)
    };
    for n in 0..3 {
        find(&format!("n{n}")).expect_problem(404, "not_found");
    }
    write("name:n3").expect_problem(404, "not_found");
    let send = json!({"to_user_id": "name:n4", "message_type": "text", "data": {}});
    server.post_json("/ws/send", &send).expect_problem(404, "not_found");
    for reply in [
        find("n5"),
        find("ann"),
        write("name:ann"),
        server.post_json("/ws/send", &send),
        server.call("GET", "/api/v1/messages?with=name:ann", &bob, &Value::Null),
    ] {
        reply.expect_problem(429, "rate_limited");
        assert!(reply.header("retry-after").is_some(), "{}", reply.text);
    }
    assert_eq!(write("bob").status, 201, "an id is not looked up");
}

#[test]
fn a_message_may_be_addressed_by_name() {
    let server = Server::start_for_people(&[]);
    let bob = registered(&server, "Bob");
    let token = login(&server, "Bob").body["token"].as_str().expect("a token").to_owned();
    let mut named = server.connect_with(&token);
    // Somebody else has that text as an id.
    let mut other = server.connect_as("Bob");
    let mut ann = server.connect_as("ann");
    let ann_token = support::token("ann", "");
    let post = |path: &str, body: &Value| server.call("POST", path, &ann_token, body);

    let reply = post("/api/v1/messages", &json!({"to_user_id": "name:bob", "content": "one"}));
    assert_eq!(reply.status, 201, "{}", reply.text);
    let heard = named.find_type("private");
    assert_eq!((&heard["to_user_id"], &heard["content"]), (&json!(bob), &json!("one")));
    let reply = post("/api/v1/messages", &json!({"to_user_id": "Bob", "content": "two"}));
    assert_eq!(reply.status, 201);
    assert_eq!(other.find_type("private")["content"], "two", "an id is an id");
    post("/api/v1/messages", &json!({"to_user_id": "name:cid", "content": "x"}))
        .expect_problem(404, "not_found");
    post("/api/v1/messages", &json!({"to_user_id": "bob", "content": "x"}))
        .expect_problem(404, "not_found");

    let send = json!({"to_user_id": "name:BOB", "message_type": "text", "data": {"n": 1}});
    assert_eq!(post("/ws/send", &send).body["delivered_to"], 1);
    assert_eq!(named.find_envelope("text")["data"], json!({"n": 1}));
    ann.send_json(
        &json!({"id": "e1", "message_type": "text", "data": {"n": 2}, "to_user_id": "name:bob"}),
    );
    assert_eq!(ann.find_envelope("ack")["data"]["delivered_to"], 1);
    let heard = named.find("n 2", |frame| frame["data"]["n"] == 2);
    assert_eq!(heard["to_user_id"], json!(bob), "whoever it is for has an id");
    ann.send_json(
        &json!({"id": "e2", "message_type": "text", "data": {}, "to_user_id": "name:cid"}),
    );
    assert_eq!(ann.find_envelope("error")["data"]["code"], "not_found");

    let group = json!({"name": "team", "members": ["name:bob", bob, "Bob"]});
    let reply = post("/api/v1/groups", &group);
    assert_eq!(reply.status, 201, "{}", reply.text);
    let path = format!("/api/v1/groups/{}", reply.body["group_id"].as_str().expect("an id"));
    let members = || server.call("GET", &path, &ann_token, &Value::Null).body["members"].clone();
    assert_eq!(members(), json!(["ann", bob, "Bob"]), "each once");
    let leave = |who: &str| {
        server.call("DELETE", &format!("{path}/members/{who}"), &ann_token, &Value::Null).status
    };
    assert_eq!((leave("name:bob"), leave("name:bob")), (204, 404));
    assert_eq!(members(), json!(["ann", "Bob"]));
    let add = json!({"user_id": "name:bob"});
    assert_eq!(post(&format!("{path}/members"), &add).body["user_id"], json!(bob));
    assert_eq!(members(), json!(["ann", "Bob", bob]));
    let with = "/api/v1/messages?with=name:bob";
    let page = server.call("GET", with, &ann_token, &Value::Null);
    assert_eq!(page.body["messages"][0]["content"], "one", "{}", page.text);
    assert_eq!(page.body["messages"].as_array().map(Vec::len), Some(1));
}

#[test]
fn a_tokens_name_is_shown_only_where_it_can_be() {
    let server = Server::start_for_people(&[]);
    let shown = |name: &str| {
        let claims = json!({"sub": "u1", "username": name, "exp": support::now_s() + 60});
        let signed = support::sign(&claims, support::SECRET, jsonwebtoken::Algorithm::HS256);
        let client = server.connect_with(&signed);
        assert_eq!(client.welcome["user_id"], "u1");
        let online = server.get("/ws/online").body;
        online["users"][0]["username"].as_str().expect("a name").to_owned()
    };
    assert_eq!(shown("Ann"), "Ann");
    eventually("she has left", Duration::from_secs(20), || {
        server.get("/ws/online").body["count"] == 0
    });
    assert_eq!(shown("Ann\u{202e}"), "u1");
    let claims = json!({"sub": "name:bob", "exp": support::now_s() + 60});
    let signed = support::sign(&claims, support::SECRET, jsonwebtoken::Algorithm::HS256);
    server.call("GET", "/ws/online", &signed, &Value::Null).expect_problem(401, "unauthorized");
}
