//! The policies for making an account, and the scopes of a login.

use std::process::Command;

use fanfare_test_support::{READ_PATIENCE, Reply, Server, eventually, token};
use serde_json::{Value, json};

fn register(server: &Server, name: &str, token: &str) -> Reply {
    let body = json!({"username": name, "password": "correct horse"});
    server.call("POST", "/api/v1/users/register", token, &body)
}

fn login(server: &Server, name: &str) -> String {
    let body = json!({"username": name, "password": "correct horse"});
    let reply = server.post_json("/api/v1/users/login", &body);
    reply.body["token"].as_str().unwrap_or_else(|| panic!("{}", reply.text)).to_owned()
}

fn setting(server: &Server, name: &str) -> Value {
    let admin = token("root", "admin");
    server.call("GET", "/api/status/config.json", &admin, &Value::Null).body[name].clone()
}

#[test]
fn on_loopback_anybody_may_register() {
    for mode in ["open", "required"] {
        let server = Server::start_for_people(&["--auth", mode]);
        assert_eq!(setting(&server, "registration"), "open");
        assert_eq!(register(&server, "ann", "").status, 201, "{mode}");
    }
}

#[test]
fn where_others_can_reach_the_server_nobody_does_unless_it_is_said() {
    let server = Server::start_for_people(&["--auth", "required", "--bind", "0.0.0.0:0"]);
    assert_eq!(setting(&server, "registration"), "closed");
    register(&server, "ann", "").expect_problem(403, "forbidden");
    let said = ["--auth", "required", "--bind", "0.0.0.0:0", "--registration", "open"];
    assert_eq!(register(&Server::start_for_people(&said), "ann", "").status, 201);
}

#[test]
fn closed_is_closed_to_everybody_but_the_command_line() {
    for mode in ["open", "required"] {
        let server = Server::start_for_people(&["--auth", mode, "--registration", "closed"]);
        for token in [String::new(), token("eve", "message"), token("root", "admin")] {
            let reply = register(&server, "ann", &token);
            reply.expect_problem(403, "forbidden");
            assert!(reply.text.contains("closed"), "{}", reply.text);
        }
        // Refused before anything is read: whether a name is taken is nobody's to find out.
        let reply = server.post_json("/api/v1/users/register", &json!({}));
        reply.expect_problem(403, "forbidden");
        register(&server, "ann", "nonsense").expect_problem(401, "unauthorized");
        assert!(server.run(&["user", "add", "ann"], "correct horse\n").0);
        assert_eq!(server.connect_with(&login(&server, "ann")).welcome["type"], "welcome");
    }
}

#[test]
fn by_token_an_administrator_makes_accounts_for_others() {
    for mode in ["open", "required"] {
        let server = Server::start_for_people(&["--auth", mode, "--registration", "token"]);
        register(&server, "ann", "").expect_problem(401, "unauthorized");
        let all_but_admin =
            "registry:write publish message sockets:read channels:read audit:read registry:read";
        for scope in ["", "message", all_but_admin] {
            register(&server, "ann", &token("eve", scope)).expect_problem(403, "forbidden");
        }
        register(&server, "ann", "nonsense").expect_problem(401, "unauthorized");
        assert_eq!(register(&server, "ann", &token("root", "admin")).status, 201);
        register(&server, "bob", &login(&server, "ann")).expect_problem(403, "forbidden");
    }
}

#[test]
fn a_login_may_message_and_what_its_account_may() {
    let server = Server::start_for_people(&["--auth", "required"]);
    assert_eq!(setting(&server, "default_scopes"), "message");
    assert_eq!(register(&server, "ann", "").status, 201);
    let status = |method: &str, path: &str, token: &str| {
        let body = if method == "POST" { json!({}) } else { Value::Null };
        server.call(method, path, token, &body).status
    };
    let plain = login(&server, "ann");
    assert_eq!(status("GET", "/api/v1/messages", &plain), 200);
    for path in [
        "/ws/online",
        "/ws/stats",
        "/api/discovery/services.json",
        "/api/status/leases.json",
        "/api/status/config.json",
        "/api/v1/connections",
        "/api/v1/channels",
    ] {
        assert_eq!(status("GET", path, &plain), 403, "{path}");
    }
    assert!(server.run(&["user", "scope", "ann", "registry:write sockets:read"], "").0);
    eventually("its next login may more", READ_PATIENCE, || {
        status("GET", "/ws/online", &login(&server, "ann")) == 200
    });
    let more = login(&server, "ann");
    assert_eq!(status("GET", "/api/v1/messages", &more), 200, "the default ones are there as well");
    assert_eq!(status("POST", "/api/registry/register.json", &more), 200);
    assert_eq!(status("POST", "/ws/broadcast", &more), 403);
    assert_eq!(status("GET", "/ws/online", &plain), 403, "a token stays what it is");
    let renew = |token: &str| {
        server.call("POST", "/api/v1/users/renew", token, &Value::Null).body["token"]
            .as_str()
            .map(str::to_owned)
    };
    let renewed = renew(&plain).expect("the next one");
    assert_eq!(status("GET", "/ws/online", &renewed), 200, "until it is renewed");

    // What is taken away is taken away now: the tokens that have it count no more.
    let mut socket = server.connect_with(&renewed);
    let (is_ok, said) = server.run(&["user", "scope", "ann", "sockets:read"], "");
    assert!(is_ok && said.trim_end().ends_with("tokens ended"), "{said}");
    assert_eq!(socket.read_to_close().1, 4401);
    for token in [&plain, &more, &renewed] {
        assert_eq!(status("GET", "/api/v1/messages", token), 401);
        assert_eq!(renew(token), None);
    }
    let less = login(&server, "ann");
    assert_eq!(status("GET", "/ws/online", &less), 200);
    assert_eq!(status("POST", "/api/registry/register.json", &less), 403);
    // The same again, and more than before, end nothing.
    for scope in ["sockets:read", "sockets:read publish"] {
        assert!(!server.run(&["user", "scope", "ann", scope], "").1.contains("ended"), "{scope}");
        assert_eq!(status("GET", "/ws/online", &less), 200);
    }
}

/// A name and a password of an administrator open every door that `fanfare token --scope admin` does.
#[test]
fn an_administrator_signs_in_and_operates() {
    let server = Server::start_for_people(&["--auth", "required"]);
    assert!(server.run(&["user", "add", "root", "--scope", "admin"], "correct horse\n").0);
    let by_login = login(&server, "root");
    let by_command = token("root", "admin");
    let call = |method: &str, path: &str, token: &str, body: Value| {
        let reply = server.call(method, path, token, &body);
        assert!(reply.status < 300, "{method} {path}: {} {}", reply.status, reply.text);
        reply
    };
    let instance = json!({"serviceId": "orders", "instanceId": "a", "regionId": "r"});
    let key = json!({"regionId": "r", "serviceId": "orders", "instanceId": "a"});
    for (index, token) in [&by_login, &by_command].into_iter().enumerate() {
        call("POST", "/api/registry/register.json", token, json!({"instances": [instance]}));
        for is_complete in [false, true] {
            let body = json!({"instanceKey": key, "operation": "pull-out",
                "operationComplete": is_complete, "operatorId": "root"});
            let path = "/api/management/instance/operate-instance.json";
            let reply = call("POST", path, token, body);
            assert_eq!(reply.outcome(), ("success", "success"));
        }
        let path = "/api/management/services/orders/self-protection";
        call("POST", path, token, json!({"enabled": index == 0}));
        for path in
            ["/api/status/config.json", "/api/v1/connections", "/ws/stats", "/api/v1/channels"]
        {
            call("GET", path, token, Value::Null);
        }
        let name = format!("news{index}");
        call("POST", "/api/v1/channels", token, json!({"name": name, "description": ""}));
        call("POST", &format!("/api/v1/channels/{name}/messages"), token, json!({"payload": 1}));
        call("DELETE", &format!("/api/v1/channels/{name}"), token, Value::Null);
        call("POST", "/ws/broadcast", token, json!({"message_type": "text", "data": {}}));
        let victim = server.connect_as("eve");
        let id = victim.welcome["connection_id"].as_str().expect("an id").to_owned();
        call("DELETE", &format!("/api/v1/connections/{id}"), token, Value::Null);
    }
}

#[test]
fn what_every_login_may_is_a_setting() {
    let scopes = "sockets:read,registry:read channels:read";
    let server = Server::start_for_people(&["--auth", "required", "--default-scopes", scopes]);
    assert_eq!(setting(&server, "default_scopes"), "registry:read sockets:read channels:read");
    assert_eq!(register(&server, "ann", "").status, 201);
    let ann = login(&server, "ann");
    let get = |path: &str| server.call("GET", path, &ann, &Value::Null).status;
    assert_eq!((get("/ws/online"), get("/api/v1/channels")), (200, 200));
    assert_eq!(get("/api/v1/messages"), 403, "message is not among them");
    // Name and password allow the same where they stand in place of a token.
    let basic = ("Authorization", "Basic YW5uOmNvcnJlY3QgaG9yc2U=");
    assert_eq!(server.request("GET", "/eureka/apps", &[basic], b"").status, 200);
    let none = Server::start_for_people(&["--auth", "required", "--default-scopes", "none"]);
    assert_eq!(register(&none, "ann", "").status, 201);
    let ann = login(&none, "ann");
    assert_eq!(none.call("GET", "/api/v1/messages", &ann, &Value::Null).status, 403);
    assert_eq!(none.call("GET", "/api/status/node.json", &ann, &Value::Null).status, 200);
}

#[test]
fn wrong_words_are_refused_at_the_start() {
    for (flag, value, word) in [
        ("--registration", "maybe", "token"),
        ("--default-scopes", "message dancing", "dancing"),
        ("--group-invitations", "perhaps", "perhaps"),
    ] {
        let output = Command::new(env!("CARGO_BIN_EXE_fanfare"))
            .args(["check-config", flag, value])
            .output()
            .expect("the binary starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{said}");
        assert!(said.contains(flag) && said.contains(word), "{said}");
    }
    let (is_ok, said) =
        Server::start(&[]).run(&["token", "--user", "u", "--scope", "messages"], "");
    assert!(!is_ok && said.contains("sockets:read"), "{said}");
}
