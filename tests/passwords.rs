//! Passwords: changed by their users, reset by an operator, and never accepted after a change.

use fanfare_test_support as support;
use std::time::Duration;

use fanfare_test_support::{Reply, Server, eventually};
use serde_json::{Value, json};

const OLD: &str = "correct horse";
const NEW: &str = "battery staple";
const CHANGE: &str = "/api/v1/users/me/password";

fn login(server: &Server, password: &str) -> Reply {
    let body = json!({"username": "ann", "password": password});
    server.post_json("/api/v1/users/login", &body)
}

fn token_of(reply: &Reply) -> String {
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.body["token"].as_str().expect("a token").to_owned()
}

fn change(server: &Server, token: &str, old: &str, new: &str) -> Reply {
    server.call("PUT", CHANGE, token, &json!({"old": old, "new": new}))
}

fn is_good(server: &Server, token: &str) -> bool {
    match server.call("GET", "/api/v1/messages", token, &Value::Null).status {
        200 => true,
        401 => false,
        other => panic!("{other}"),
    }
}

/// A server with an account.
fn server(flags: &[&str]) -> Server {
    let server = Server::start_for_people(flags);
    let body = json!({"username": "ann", "password": OLD});
    assert_eq!(server.post_json("/api/v1/users/register", &body).status, 201);
    server
}

#[test]
fn a_change_ends_the_other_tokens_and_keeps_the_one_it_was_made_with() {
    let mut server = server(&[]);
    let (used, other) = (token_of(&login(&server, OLD)), token_of(&login(&server, OLD)));
    let (mut kept, mut closed) = (server.connect_with(&used), server.connect_with(&other));
    let reply = change(&server, &used, OLD, NEW);
    assert_eq!((reply.status, reply.text.as_str()), (204, ""));
    let (frames, code) = closed.read_to_close();
    assert_eq!((code, &frames[frames.len() - 1]["code"]), (4401, &json!("unauthorized")));
    kept.ask(&json!({"type": "ping"}), "pong");
    assert!(is_good(&server, &used) && !is_good(&server, &other));
    login(&server, OLD).expect_problem(401, "unauthorized");
    // In the same second as the change, and good.
    let fresh = token_of(&login(&server, NEW));
    assert!(is_good(&server, &fresh));
    server.connect_with(&fresh).ask(&json!({"type": "ping"}), "pong");
    let renewed = server.call("POST", "/api/v1/users/renew", &used, &Value::Null);
    assert!(is_good(&server, &token_of(&renewed)));
    server.kill();
    server.restart();
    assert!(is_good(&server, &used) && is_good(&server, &fresh) && !is_good(&server, &other));
    // The next change was made with another one.
    assert_eq!(change(&server, &fresh, NEW, OLD).status, 204);
    assert!(is_good(&server, &fresh) && !is_good(&server, &used));
}

#[test]
fn a_change_wants_the_old_password_and_a_good_new_one() {
    let server = server(&[]);
    let token = token_of(&login(&server, OLD));
    for (body, word) in [
        (json!({"new": NEW}), "old"),
        (json!({"old": OLD}), "new"),
        (json!({"old": OLD, "new": "short"}), "new"),
        (json!({"old": OLD, "new": "x".repeat(2_000)}), "new"),
        (json!({"old": OLD, "new": 7}), ""),
    ] {
        let reply = server.call("PUT", CHANGE, &token, &body);
        reply.expect_problem(400, "invalid_argument");
        assert!(reply.text.contains(word), "{}", reply.text);
    }
    change(&server, "", OLD, NEW).expect_problem(401, "unauthorized");
    server.call("POST", CHANGE, &token, &json!({})).expect_problem(405, "invalid_argument");
    // A user of whom only a token is known.
    let foreign = support::token("tok", "");
    change(&server, &foreign, OLD, NEW).expect_problem(403, "forbidden");
    for _ in 0..9 {
        let reply = change(&server, &token, "wrong horse!", NEW);
        assert!(matches!(reply.status, 403 | 429), "{}", reply.text);
    }
    assert!(is_good(&server, &token), "a wrong password ends nothing");
    // Whoever found a token does not find the password.
    eventually("guessing is slowed down", Duration::from_secs(20), || {
        change(&server, &token, "wrong horse!", NEW).status == 429
    });
}

#[test]
fn of_two_changes_at_once_one_is_made() {
    let server = server(&[]);
    let token = token_of(&login(&server, OLD));
    let made: Vec<u16> = std::thread::scope(|scope| {
        let change = |n: u32| change(&server, &token, OLD, &format!("new password {n}")).status;
        let all = [1, 2, 3].map(|n| scope.spawn(move || change(n)));
        all.map(|one| one.join().expect("answered")).to_vec()
    });
    assert_eq!(made.iter().filter(|&&status| status == 204).count(), 1, "{made:?}");
    assert!(made.iter().all(|status| matches!(status, 204 | 403 | 409)), "{made:?}");
}

#[test]
fn an_operator_resets_a_password_beside_the_running_server() {
    let server = server(&[]);
    let token = token_of(&login(&server, OLD));
    let mut client = server.connect_with(&token);
    let reset = ["user", "reset-password", "--name", "ANN"];
    assert!(!server.run(&reset, "short\n").0);
    let (is_ok, said) = server.run(&reset, &format!("{NEW}\n"));
    assert!(is_ok && !said.contains(NEW), "{said}");
    login(&server, OLD).expect_problem(401, "unauthorized");
    let (frames, code) = client.read_to_close();
    assert_eq!((code, &frames[frames.len() - 1]["code"]), (4401, &json!("unauthorized")));
    assert!(!is_good(&server, &token));
    assert!(is_good(&server, &token_of(&login(&server, NEW))));
}

/// Eureka's clients show name and password with each request, and what was right is remembered.
#[test]
fn a_remembered_password_falls_with_every_change() {
    let server = server(&["--auth", "required"]);
    let look = |password: &str| {
        use base64::Engine as _;
        let pair = format!("ann:{password}");
        let basic = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        server.request("GET", "/eureka/apps", &[("Authorization", &basic)], b"").status
    };
    let run = |args: &[&str], input: &str| {
        let (is_ok, said) = server.run(args, input);
        assert!(is_ok, "{said}");
    };
    run(&["user", "scope", "--name", "ann", "admin"], "");
    eventually("the scope is there", Duration::from_secs(20), || look(OLD) == 200);
    let token = token_of(&login(&server, OLD));
    assert_eq!(change(&server, &token, OLD, NEW).status, 204);
    assert_eq!(look(OLD), 401, "at once, where the server made the change itself");
    assert_eq!(look(NEW), 200);
    run(&["user", "reset-password", "--name", "ann"], "a third password\n");
    eventually("the second one is forgotten", Duration::from_secs(20), || look(NEW) == 401);
    assert_eq!(look("a third password"), 200);
    run(&["user", "disable", "--name", "ann"], "");
    eventually("the account is closed", Duration::from_secs(20), || {
        look("a third password") == 401
    });
}

/// Each way in which a name can be written is one name to those who count failures.
#[test]
fn other_spellings_are_no_other_tries() {
    let server = server(&[]);
    let spellings = ["ann", "ANN", "Ann", "aNN", "\u{ff41}nn", "a\u{ff4e}n", "an\u{ff4e}", "ANn"];
    for name in spellings.iter().cycle().take(10) {
        let body = json!({"username": name, "password": "wrong horse!"});
        server.post_json("/api/v1/users/login", &body).expect_problem(401, "unauthorized");
    }
    login(&server, OLD).expect_problem(429, "rate_limited");
}
