//! The program against the real server: the invocations of the README, and a server that wants a token.

use std::process::{Command, Output};

use fanfare_test_support::{SECRET, Server, program};

fn stress(arguments: &[&str]) -> Output {
    // What `--spawn` looks for beside it.
    program();
    let output = Command::new(env!("CARGO_BIN_EXE_websocket_stress_test")).args(arguments).output();
    output.expect("the program runs")
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

/// A server that serves nobody without a token.
fn server() -> Server {
    Server::start_for_people(&["--auth", "required"])
}

fn url(server: &Server) -> String {
    format!("{}/ws", server.url())
}

fn token() -> String {
    let mut command = Command::new(program());
    command.args(["token", "--user", "me", "--scope", "admin", "--ttl", "10m"]);
    let output = command.args(["--jwt-secret", SECRET]).output().expect("the server's program");
    assert!(output.status.success(), "{}", text(&output));
    String::from_utf8(output.stdout).expect("a token").trim().to_owned()
}

#[test]
fn a_token_opens_the_door() {
    let server = server();
    let token = token();
    let common = ["--url", &url(&server), "--connections", "12", "--messages", "20"];
    let output = stress(&[&common[..], &["--token", &token]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!text(&output).contains(&token), "the token is a secret");
    let output = stress(&[&common[..], &["--token", "none"]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("401"), "{}", text(&output));
    let output = stress(&common);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn one_user_holds_so_many_connections_and_the_program_says_so() {
    let server = server();
    let arguments = ["--url", &url(&server), "--connections", "80", "--messages", "5"];
    let output = stress(&[&arguments[..], &["--token", &token()]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("--connections-per-user-max"), "{}", text(&output));
}

#[test]
fn signing_in_as_many_users_needs_the_secret() {
    let server = server();
    let arguments = ["--url", &url(&server), "--connections", "8", "--messages", "20"];
    let chat = [&arguments[..], &["--test-type", "chat"]].concat();
    let output = stress(&chat);
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("--jwt-secret is needed"), "{}", text(&output));
    let output = stress(&[&chat[..], &["--jwt-secret", SECRET]].concat());
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!text(&output).contains(SECRET), "the secret stays one");
    let direct = [&arguments[..], &["--test-type", "direct", "--jwt-secret", SECRET]].concat();
    let output = stress(&direct);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(!text(&output).contains("left on the server"), "{}", text(&output));
    // What was made is gone again.
    let (is_done, list) = server.run(&["user", "list"], "");
    assert!(is_done && !list.contains("load-"), "{list}");
}

#[test]
fn all_says_which_tests_it_leaves_out() {
    let server = server();
    let arguments = ["--url", &url(&server), "--connections", "8", "--messages", "20"];
    let all = ["--test-type", "all", "--duration", "1", "--token", &token()];
    let output = stress(&[&arguments[..], &all].concat());
    let said = text(&output);
    assert_eq!(output.status.code(), Some(0), "{said}");
    for test in ["chat", "direct"] {
        assert!(
            said.contains(&format!("{test}: skipped")) && said.contains("JWT_SECRET"),
            "{said}"
        );
    }
}

#[test]
fn the_short_invocations_pass() {
    for arguments in [
        &["--connections", "50", "--messages", "10", "--test-type", "throughput"][..],
        &["--connections", "100", "--test-type", "storm"],
        &["--connections", "30", "--duration", "2", "--test-type", "sustained"],
        &["--connections", "40", "--services", "4", "--duration", "2", "--test-type", "chat"],
        &["--connections", "16", "--messages", "200", "--test-type", "direct"],
        &["--connections", "20", "--duration", "2", "--messages", "20", "--test-type", "all"],
    ] {
        let output = stress(&[arguments, &["--spawn"]].concat());
        assert_eq!(output.status.code(), Some(0), "{arguments:?}\n{}", text(&output));
    }
}
