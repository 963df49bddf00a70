//! The program against the real server: the invocations of the README, and a server that wants a token.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Output};

use fanfare_test_support::{SECRET, Server, program};
use serde_json::Value;

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

/// Runs with `--json`. Returns the exit status, the figures of the one test, and all that was printed.
fn figures(name: &str, arguments: &[&str]) -> (Option<i32>, Value, String) {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}.json"));
    let _ = fs::remove_file(&path);
    let output = stress(&[arguments, &["--json", path.to_str().expect("UTF-8")]].concat());
    let said = text(&output);
    let json = fs::read_to_string(&path).unwrap_or_else(|_| panic!("{said}"));
    let report: Value = serde_json::from_str(&json).expect("JSON");
    (output.status.code(), report["tests"][0].clone(), said)
}

#[test]
fn events_by_each_way_are_accounted_for_and_the_way_is_named() {
    let server = Server::start_for_people(&["--auth", "open", "--client-messages-per-s-max", "0"]);
    let url = url(&server);
    let tests: [&[&str]; 4] = [
        &["--test-type", "throughput", "--messages", "600", "--services", "7"],
        &["--test-type", "sustained", "--messages", "100", "--rate", "200"],
        &["--test-type", "fanout", "--messages", "20", "--rate", "50"],
        &["--test-type", "storm", "--messages", "2", "--services", "3"],
    ];
    for (way, publishers) in
        [("frames", 1), ("frames", 3), ("http", 1), ("http", 4), ("http-pipelined", 3)]
    {
        let count = publishers.to_string();
        let by = ["--publish-by", way, "--publishers", &count];
        for test in tests {
            let name = format!("by-{way}-{publishers}-{}", test[1]);
            let common = ["--url", &url, "--connections", "9"];
            let (status, test, said) = figures(&name, &[&common[..], &by, test].concat());
            assert_eq!(status, Some(0), "{name}: {said}");
            assert_eq!(
                (&test["publish_by"], &test["publishers"]),
                (&way.into(), &publishers.into())
            );
            assert_eq!(test["expected"], test["received"], "{name}: {said}");
            assert!(test["expected"].as_u64() > Some(0), "{name}: {said}");
            assert!(said.contains(&format!("{way} over")), "{name}: {said}");
            // The server says for how long a shard carried out commands.
            let longest_us = test["cost"]["longest_hold"]["shard_us"].as_f64();
            assert!(longest_us.is_some_and(|us| us < 60e6), "{name}: {test}");
            assert!(said.contains("longest hold"), "{name}: {said}");
        }
    }
}

#[test]
fn a_publisher_over_http_goes_on_where_the_server_ends_its_idle_connection() {
    let server = Server::start_for_people(&["--auth", "open", "--handshake-timeout", "1s"]);
    let arguments = ["--url", &url(&server), "--connections", "2", "--test-type", "sustained"];
    // Each of the connections rests for far longer than the server waits.
    let slow = ["--rate", "0.4", "--messages", "3", "--publish-by", "http", "--publishers", "3"];
    let (status, test, said) = figures("idle-http", &[&arguments[..], &slow].concat());
    assert_eq!(status, Some(0), "{said}");
    assert_eq!((&test["events_accepted"], &test["received"]), (&3.into(), &6.into()), "{said}");
}

#[test]
fn a_refusal_over_http_fails_the_run_and_is_said() {
    let server = server();
    let mut command = Command::new(program());
    command.args(["token", "--user", "reader", "--scope", "registry:read", "--ttl", "10m"]);
    let output = command.args(["--jwt-secret", SECRET]).output().expect("the server's program");
    let token = String::from_utf8(output.stdout).expect("a token").trim().to_owned();
    let arguments =
        ["--url", &url(&server), "--connections", "2", "--messages", "5", "--token", &token];
    for way in ["http", "http-pipelined"] {
        let (status, test, said) =
            figures(&format!("refused-{way}"), &[&arguments[..], &["--publish-by", way]].concat());
        assert_eq!(status, Some(1), "{said}");
        // The server may end a connection with the first refusal, which says so.
        assert!(test["events_refused"]["refused"].as_u64() >= Some(1), "{said}");
        assert!(said.contains("403 forbidden"), "{said}");
    }
}

#[test]
fn publishers_are_not_more_than_a_user_may_have() {
    let server = server();
    let arguments = ["--url", &url(&server), "--connections", "10", "--messages", "5"];
    let output = stress(&[&arguments[..], &["--token", &token(), "--publishers", "9"]].concat());
    assert_eq!(output.status.code(), Some(1), "{}", text(&output));
    assert!(text(&output).contains("--publishers"), "{}", text(&output));
}
