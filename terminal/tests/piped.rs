//! The program in a script: commands piped in, JSON lines out, against the real server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Output, Stdio};

use serde_json::Value;

const SECRET: &str = "a secret of more than thirty-two bytes";

/// The server's program, beside ours. Built where only this package is tested.
fn program() -> PathBuf {
    let server = PathBuf::from(env!("CARGO_BIN_EXE_websocket_client")).with_file_name("fanfare");
    if !server.exists() {
        let mut build = Command::new(env!("CARGO"));
        build.args(["build", "-p", "fanfare", "--bin", "fanfare"]);
        assert!(build.status().expect("cargo runs").success());
    }
    server
}

struct Server {
    child: Child,
    dir: PathBuf,
    url: String,
}

impl Server {
    fn start(name: &str) -> Server {
        let dir = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
        // What a run before left behind is of no interest.
        let _ = std::fs::remove_dir_all(&dir);
        let mut child = Command::new(program())
            .args(["--bind", "127.0.0.1:0", "--jwt-secret", SECRET, "--data-dir"])
            .arg(&dir)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server runs");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it is piped");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let authority =
            line.trim().strip_prefix("fanfare listening on http://").expect("it listens");
        let url = format!("ws://{authority}/ws");
        Server { child, dir, url }
    }

    fn client(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_websocket_client"));
        command.args(["--json", "--url", &self.url]).args(args);
        command.env_remove("JWT_SECRET").env_remove("FANFARE_TOKEN");
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a script to its end.
    fn script(&self, args: &[&str], secret: Option<&str>, lines: &str) -> Output {
        let mut command = self.client(args);
        command.envs(secret.map(|secret| ("JWT_SECRET", secret)));
        let mut child = command.spawn().expect("the program runs");
        let mut stdin = child.stdin.take().expect("it is piped");
        stdin.write_all(lines.as_bytes()).expect("it reads");
        drop(stdin);
        child.wait_with_output().expect("it ends")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.dir);
    }
}

fn messages(output: &Output) -> Vec<Value> {
    let text = String::from_utf8_lossy(&output.stdout);
    let parse = |line: &str| serde_json::from_str(line).unwrap_or_else(|_| panic!("{line}"));
    text.lines().map(parse).collect()
}

fn kinds(messages: &[Value]) -> Vec<&str> {
    let kind = |one: &Value| if one["type"].is_string() { "type" } else { "message_type" };
    messages.iter().map(|one| one[kind(one)].as_str().unwrap_or_default()).collect()
}

/// Someone who stays, and is talked to.
struct Listener {
    child: Child,
    stdin: ChildStdin,
    stdout: BufReader<ChildStdout>,
}

impl Listener {
    fn start(server: &Server, user: &str) -> Listener {
        let mut command = server.client(&["--username", user]);
        let mut child = command.env("JWT_SECRET", SECRET).spawn().expect("the program runs");
        let stdin = child.stdin.take().expect("it is piped");
        let stdout = BufReader::new(child.stdout.take().expect("it is piped"));
        let mut listener = Listener { child, stdin, stdout };
        assert_eq!(listener.next_of("welcome")["user_id"], user);
        listener
    }

    fn type_in(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("it reads");
    }

    /// The next message of a kind. The server's silence ends the test run, as any hang does.
    fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let mut line = String::new();
            assert!(self.stdout.read_line(&mut line).expect("UTF-8") > 0, "no {kind} came");
            let message: Value = serde_json::from_str(&line).expect("JSON");
            if message["type"] == kind || message["message_type"] == kind {
                return message;
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_script_gets_an_answer_to_every_line() {
    let server = Server::start("script");
    let lines = "# a comment\nsubscribe service orders\nsubscribe channel news\nping\n\
                 json {\"type\":\"publish\",\"channel\":\"news\",\"payload\":\"hi\"}\n\
                 unsubscribe channel news\nonline\nstats\nhelp\nquit\nping\n";
    let output = server.script(&[], None, lines);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    let messages = messages(&output);
    let mut got = kinds(&messages);
    got.sort_unstable();
    let mut wanted = [
        "welcome",
        "subscribed",
        "subscribed",
        "pong",
        "published",
        "text",
        "unsubscribed",
        "http",
        "http",
    ];
    wanted.sort_unstable();
    assert_eq!(got, wanted, "one of each, and nothing after quit");
    assert!(said.contains("anonymous"), "{said}");
    assert!(said.contains("subscribe channel"), "help goes to standard error: {said}");
    assert!(!said.contains("websocket>"), "no prompt for a script");
}

#[test]
fn a_token_of_our_own_signs_us_in_and_people_are_heard() {
    let server = Server::start("people");
    let mut bob = Listener::start(&server, "bob");
    let lines = "text to all\nnotification look\nto bob only you\njoin general\nchat hello\n";
    let output = server.script(&["--username", "ann", "--email", "a@b.c"], Some(SECRET), lines);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = messages(&output);
    assert_eq!(messages[0]["user_id"], "ann");
    let got = kinds(&messages);
    assert_eq!(got.iter().filter(|kind| **kind == "ack").count(), 3, "{got:?}");
    assert!(got.contains(&"joined") && got.contains(&"chat"), "{got:?}");
    assert_eq!(bob.next_of("user_joined")["data"]["user_id"], "ann");
    assert_eq!(bob.next_of("text")["data"]["text"], "to all");
    assert_eq!(bob.next_of("notification")["data"]["text"], "look");
    let told = bob.next_of("text");
    assert_eq!((&told["data"]["text"], &told["from_user_id"]), (&"only you".into(), &"ann".into()));
    bob.type_in("ping");
    bob.next_of("pong");
}

#[test]
fn what_goes_wrong_shows_in_the_exit_status() {
    let server = Server::start("faults");
    let refused = server.script(&[], None, "chat hello\n");
    assert_eq!(refused.status.code(), Some(1), "a person is needed to chat");
    assert_eq!(kinds(&messages(&refused)), ["welcome", "error"]);
    let unknown = server.script(&[], None, "dance\nping\n");
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(kinds(&messages(&unknown)), ["welcome", "pong"], "the other lines are carried out");
    let wrong = server.script(&["--token", "nonsense"], None, "ping\n");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("401"));
    drop(server);
    let mut nowhere = Command::new(env!("CARGO_BIN_EXE_websocket_client"));
    nowhere.args(["--url", "ws://127.0.0.1:1/ws"]).stdin(Stdio::null());
    let nowhere = nowhere.output().expect("it ends");
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("no connection"));
}

#[test]
fn the_end_of_the_server_ends_the_script() {
    let mut server = Server::start("end");
    let mut bob = Listener::start(&server, "bob");
    server.child.kill().expect("it can be killed");
    server.child.wait().expect("a child can be waited for");
    assert_eq!(bob.child.wait().expect("it ends").code(), Some(1));
    bob.type_in_nothing();
}

impl Listener {
    /// Keeps standard input open to here, so that its end was not the reason.
    fn type_in_nothing(&mut self) {
        let _ = self.stdin.flush();
    }
}
