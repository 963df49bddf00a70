//! The program against the real server: the invocations of the README, and a server that wants a token.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

const SECRET: &str = "a secret of more than thirty-two bytes";

/// The server's program, beside ours. Built where only this package is tested.
fn program() -> PathBuf {
    let ours = PathBuf::from(env!("CARGO_BIN_EXE_websocket_stress_test"));
    let server = ours.with_file_name("fanfare");
    if !server.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "-p", "fanfare", "--bin", "fanfare"]);
        if ours.iter().any(|part| part == "release") {
            build.arg("--release");
        }
        assert!(build.status().expect("cargo runs").success());
    }
    server
}

fn stress(arguments: &[&str]) -> Output {
    program();
    let output = Command::new(env!("CARGO_BIN_EXE_websocket_stress_test")).args(arguments).output();
    output.expect("the program runs")
}

fn text(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr[..]].concat();
    String::from_utf8_lossy(&both).into_owned()
}

struct Server {
    child: Child,
    dir: PathBuf,
    url: String,
}

impl Server {
    /// One that serves nobody without a token.
    fn start(name: &str) -> Server {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        // What a run before left behind is of no interest.
        let _ = std::fs::remove_dir_all(&dir);
        let mut child = Command::new(program())
            .args(["--bind", "127.0.0.1:0", "--auth", "required", "--jwt-secret", SECRET])
            .arg("--data-dir")
            .arg(&dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let authority = line.trim().strip_prefix("fanfare listening on http://").expect(&line);
        let url = format!("ws://{authority}/ws");
        Server { child, dir, url }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
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
    let server = Server::start("with-token");
    let token = token();
    let common = ["--url", &server.url, "--connections", "12", "--messages", "20"];
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
    let server = Server::start("one-user");
    let arguments = ["--url", &server.url, "--connections", "80", "--messages", "5"];
    let output = stress(&[&arguments[..], &["--token", &token()]].concat());
    assert_eq!(output.status.code(), Some(1));
    assert!(text(&output).contains("--connections-per-user-max"), "{}", text(&output));
}

#[test]
fn signing_in_as_many_users_needs_the_secret() {
    let server = Server::start("with-secret");
    let arguments = ["--url", &server.url, "--connections", "8", "--messages", "20"];
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
    let mut list = Command::new(program());
    list.args(["user", "list", "--data-dir"]).arg(&server.dir);
    let list = list.output().expect("the server's program");
    assert!(list.status.success() && !text(&list).contains("load-"), "{}", text(&list));
}

#[test]
fn all_says_which_tests_it_leaves_out() {
    let server = Server::start("without-secret");
    let arguments = ["--url", &server.url, "--connections", "8", "--messages", "20"];
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
