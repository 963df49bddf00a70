//! Removing an account: the name is free, its tokens are revoked, its messages stay.

use fanfare_test_support as support;
use std::time::Duration;

use fanfare_test_support::{READ_PATIENCE, Reply, Server, eventually, now_s};
use serde_json::{Value, json};

const PASSWORD: &str = "correct horse";
const ME: &str = "/api/v1/users/me";

fn register(server: &Server, name: &str) -> String {
    let body = json!({"username": name, "password": PASSWORD});
    let reply = server.post_json("/api/v1/users/register", &body);
    reply.body["user_id"].as_str().unwrap_or_else(|| panic!("{}", reply.text)).to_owned()
}

fn login(server: &Server, name: &str) -> Reply {
    server.post_json("/api/v1/users/login", &json!({"username": name, "password": PASSWORD}))
}

fn signed_in(server: &Server, name: &str) -> String {
    let reply = login(server, name);
    reply.body["token"].as_str().unwrap_or_else(|| panic!("{}", reply.text)).to_owned()
}

fn send(server: &Server, from: &str, to: &str) -> Reply {
    let body = json!({"to_user_id": to, "content": "hello"});
    server.call("POST", "/api/v1/messages", from, &body)
}

fn inbox(server: &Server, token: &str) -> usize {
    let reply = server.call("GET", "/api/v1/messages", token, &Value::Null);
    reply.body["messages"].as_array().unwrap_or_else(|| panic!("{}", reply.text)).len()
}

#[test]
fn an_operator_removes_an_account_beside_the_running_server() {
    let mut server = Server::start_for_people(&[]);
    let (ann, bob) = (register(&server, "ann"), register(&server, "bob"));
    let (of_ann, of_bob) = (signed_in(&server, "ann"), signed_in(&server, "bob"));
    let mut socket = server.connect_with(&of_ann);
    assert_eq!(send(&server, &of_ann, &bob).status, 201);
    let group =
        server.call("POST", "/api/v1/groups", &of_ann, &json!({"name": "g", "members": [bob]}));
    let group = group.body["group_id"].as_str().expect("an id").to_owned();
    let own =
        server.call("POST", "/api/v1/groups", &of_ann, &json!({"name": "own", "members": []}));
    let own = own.body["group_id"].as_str().expect("an id").to_owned();

    let (is_ok, said) = server.run(&["user", "remove", "--name", "ANN"], "");
    assert!(is_ok && said == format!("{ann}\tremoved\n"), "{said}");
    let (frames, code) = socket.read_to_close();
    assert_eq!((code, &frames[frames.len() - 1]["code"]), (4401, &json!("unauthorized")));
    login(&server, "ann").expect_problem(401, "unauthorized");
    send(&server, &of_ann, &bob).expect_problem(401, "unauthorized");
    eventually("nobody can write to ann", READ_PATIENCE, || {
        send(&server, &of_bob, &ann).status == 404
    });
    assert_eq!(send(&server, &of_bob, "name:ann").status, 404);
    assert_eq!(server.call("GET", "/api/v1/users?name=ann", &of_bob, &Value::Null).status, 404);
    assert_eq!(inbox(&server, &of_bob), 1, "what ann wrote stays");
    let groups = server.call("GET", &format!("/api/v1/groups/{group}"), &of_bob, &Value::Null).body;
    assert_eq!((&groups["owner"], &groups["members"]), (&json!(bob), &json!([bob])), "{groups}");
    let gone = server.call("GET", &format!("/api/v1/groups/{own}"), &of_bob, &Value::Null);
    assert!(gone.status >= 400, "{}", gone.text);
    let list = server.run(&["user", "list"], "").1;
    assert!(!list.contains(&ann) && list.contains(&bob), "{list}");
    for args in [["user", "remove", "--name", "ann"], ["user", "enable", "--id", &*ann]] {
        let (is_ok, said) = server.run(&args, "");
        assert!(!is_ok && said.contains("there is no user"), "{said}");
    }

    // The name is free, also after a restart, and its new owner is somebody else.
    assert!(server.stop().success());
    server.restart();
    let again = register(&server, "Ann");
    assert_ne!(again, ann);
    assert_eq!(inbox(&server, &signed_in(&server, "ann")), 0);
    assert_eq!(server.call("GET", "/ws/online", &of_ann, &Value::Null).status, 401);
    assert_eq!(send(&server, &signed_in(&server, "bob"), &ann).status, 404);
}

#[test]
fn users_remove_themselves_with_their_password() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let bob = register(&server, "bob");
    let token = signed_in(&server, "bob");
    let remove = |token: &str, body: &Value| server.call("DELETE", ME, token, body);
    remove("", &Value::Null).expect_problem(401, "unauthorized");
    remove(&token, &Value::Null).expect_problem(400, "invalid_argument");
    remove(&token, &json!({"password": "another"})).expect_problem(403, "forbidden");
    assert_eq!(login(&server, "bob").status, 200, "nothing happened");
    let mut socket = server.connect_with(&token);
    let reply = remove(&token, &json!({"password": PASSWORD}));
    assert_eq!((reply.status, reply.text.as_str()), (204, ""));
    assert_eq!(socket.read_to_close().1, 4401);
    remove(&token, &json!({"password": PASSWORD})).expect_problem(401, "unauthorized");
    login(&server, "bob").expect_problem(401, "unauthorized");
    assert_ne!(register(&server, "bob"), bob);
}

#[test]
fn a_user_of_another_issuer_is_forgotten_until_a_newer_token_comes() {
    let server = Server::start_for_people(&[]);
    let made = |age_s: u64| {
        let claims =
            json!({"sub": "eve", "exp": now_s() + 600, "iat": now_s() - age_s, "scope": "message"});
        support::sign(&claims, support::SECRET, jsonwebtoken::Algorithm::HS256)
    };
    let (old, bob) = (made(60), support::token("bob", "message"));
    drop(server.connect_with(&old));
    assert_eq!(send(&server, &bob, "eve").status, 201);
    assert_eq!(server.call("DELETE", ME, &old, &Value::Null).status, 204);
    eventually("eve is unknown", READ_PATIENCE, || send(&server, &bob, "eve").status == 404);
    assert_eq!(server.call("GET", "/api/v1/messages", &old, &Value::Null).status, 401);
    let mut socket = None;
    eventually("a token of a later second counts", Duration::from_secs(10), || {
        let stream = std::net::TcpStream::connect(server.address()).expect("it accepts");
        let bearer = format!("Bearer {}", made(0));
        socket = server.connect_to("/ws", stream, &[("authorization", &bearer)]).ok();
        socket.is_some()
    });
    eventually("eve is back", READ_PATIENCE, || send(&server, &bob, "eve").status == 201);
}
