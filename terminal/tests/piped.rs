//! The program in a script: commands piped in, JSON lines out, against the real server.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use fanfare_client::{Api, Error};
use fanfare_test_support::{SECRET, Server};
use serde_json::Value;

const PASSWORD: &str = "correct horse";

/// Longest wait for anything, on a machine that has much else to do.
const PATIENCE: Duration = Duration::from_secs(30);

fn url(server: &Server) -> String {
    format!("{}/ws", server.url())
}

fn client(server: &Server, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_websocket_client"));
    command.args(["--json", "--url", &url(server)]).args(args);
    for name in ["JWT_SECRET", "FANFARE_TOKEN", "FANFARE_PASSWORD"] {
        command.env_remove(name);
    }
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

/// Runs a script to its end.
fn script(server: &Server, args: &[&str], secret: Option<&str>, lines: &str) -> Output {
    let mut command = client(server, args);
    command.envs(secret.map(|secret| ("JWT_SECRET", secret)));
    let mut child = command.spawn().expect("the program runs");
    let mut stdin = child.stdin.take().expect("it is piped");
    stdin.write_all(lines.as_bytes()).expect("it reads");
    drop(stdin);
    child.wait_with_output().expect("it ends")
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
    stdout: Receiver<String>,
}

impl Listener {
    fn start(server: &Server, user: &str) -> Listener {
        let mut listener = Listener::with_secret(server, user, "JWT_SECRET", SECRET);
        assert_eq!(listener.next_of("welcome")["user_id"], user);
        listener
    }

    /// Signs in by what stands in a variable of the environment.
    fn with_secret(server: &Server, user: &str, name: &str, secret: &str) -> Listener {
        let mut command = client(server, &["--username", user]);
        let mut child = command.env(name, secret).spawn().expect("the program runs");
        let stdin = child.stdin.take().expect("it is piped");
        let out = BufReader::new(child.stdout.take().expect("it is piped"));
        let (lines, stdout) = channel();
        std::thread::spawn(move || {
            for line in out.lines().map_while(Result::ok) {
                if lines.send(line).is_err() {
                    return;
                }
            }
        });
        Listener { child, stdin, stdout }
    }

    fn type_in(&mut self, line: &str) {
        writeln!(self.stdin, "{line}").expect("it reads");
    }

    /// The next message of a kind.
    fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let line = self.stdout.recv_timeout(PATIENCE);
            let line = line.unwrap_or_else(|fault| panic!("no {kind} came: {fault}"));
            let message: Value = serde_json::from_str(&line).expect("JSON");
            assert_ne!(message["type"], "refreshed", "no line asked for that");
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
    let server = Server::start_for_people(&[]);
    let lines = "# a comment\nsubscribe service orders\nsubscribe channel news\nping\n\
                 json {\"type\":\"publish\",\"channel\":\"news\",\"payload\":\"hi\"}\n\
                 unsubscribe channel news\nonline\nstats\nhelp\nquit\nping\n";
    let output = script(&server, &[], None, lines);
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
    let server = Server::start_for_people(&[]);
    let mut bob = Listener::start(&server, "bob");
    let lines = "text to all\nnotification look\nto bob only you\njoin general\nchat hello\n";
    let output = script(&server, &["--username", "ann", "--email", "a@b.c"], Some(SECRET), lines);
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    let messages = messages(&output);
    assert_eq!(messages[0]["user_id"], "ann");
    let got = kinds(&messages);
    assert_eq!(got.iter().filter(|kind| **kind == "ack").count(), 3, "{got:?}");
    assert!(got.contains(&"joined") && got.contains(&"chat"), "{got:?}");
    assert_eq!(bob.next_of("user_joined")["data"]["user_id"], "ann");
    assert_eq!(bob.next_of("text")["data"]["content"], "to all");
    assert_eq!(bob.next_of("notification")["data"]["content"], "look");
    let told = bob.next_of("text");
    assert_eq!(
        (&told["data"]["content"], &told["from_user_id"]),
        (&"only you".into(), &"ann".into())
    );
    bob.type_in("ping");
    bob.next_of("pong");
}

/// Without `--json` a script reads what a person would.
#[test]
fn people_read_sentences() {
    let server = Server::start_for_people(&[]);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let api = Api::new(&url(&server)).expect("a URL");
    let bob_id = runtime.block_on(api.create_account("Bob", PASSWORD, None)).expect("a new name");
    let mut bob = Listener::with_secret(&server, "bob", "FANFARE_PASSWORD", PASSWORD);
    assert_eq!(bob.next_of("welcome")["user_id"], *bob_id);
    let mut cid = Listener::start(&server, "cid");
    // Both are known to be online before the third comes, who would hear of it else.
    assert_eq!(bob.next_of("user_joined")["data"]["user_id"], "cid");
    let mut command = Command::new(env!("CARGO_BIN_EXE_websocket_client"));
    command.args(["--url", &url(&server), "--username", "ann", "--no-auto-ping=true"]);
    command.env("JWT_SECRET", SECRET).env_remove("FANFARE_TOKEN").env_remove("FANFARE_PASSWORD");
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the program runs");
    let lines = "to bob by name\nto cid by id\nto name:BOB once more\nto nobody-knows hi\n\
                 text to everybody\nping\njoin general\nchat hello\nsubscribe service orders\n";
    child.stdin.take().expect("it is piped").write_all(lines.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert_eq!(output.status.code(), Some(1), "a line was refused");
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let wanted = [
        "connected as ann",
        "sent to 1 connection",
        "sent to 1 connection",
        "sent to 1 connection",
        "refused (not_found): there is no such user",
        "sent to 2 connections",
        "you are in general with ann",
        "general ann: hello",
        "following service orders at 0: none",
    ];
    assert_eq!(said.lines().collect::<Vec<_>>(), wanted, "pongs are not among them");
    let noted = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(noted.contains("the server answered after"), "{noted}");
    // What is for one user has an order of its own beside what is for all.
    let heard = |listener: &mut Listener, count: usize| {
        let texts: Vec<Value> = (0..count).map(|_| listener.next_of("text")).collect();
        let (mine, all): (Vec<_>, Vec<_>) =
            texts.iter().partition(|text| !text["to_user_id"].is_null());
        assert_eq!(
            all.iter().map(|text| &text["data"]["content"]).collect::<Vec<_>>(),
            ["to everybody"]
        );
        mine.into_iter()
            .map(|text| (text["to_user_id"].clone(), text["data"]["content"].clone()))
            .collect::<Vec<_>>()
    };
    let to_bob = |content: &str| (Value::from(bob_id.as_str()), Value::from(content));
    assert_eq!(heard(&mut bob, 3), [to_bob("by name"), to_bob("once more")]);
    assert_eq!(heard(&mut cid, 2), [(Value::from("cid"), Value::from("by id"))]);
}

#[test]
fn what_goes_wrong_shows_in_the_exit_status() {
    let server = Server::start_for_people(&[]);
    let refused = script(&server, &[], None, "chat hello\n");
    assert_eq!(refused.status.code(), Some(1), "a person is needed to chat");
    assert_eq!(kinds(&messages(&refused)), ["welcome", "error"]);
    let unknown = script(&server, &[], None, "dance\nping\n");
    assert_eq!(unknown.status.code(), Some(1));
    assert_eq!(kinds(&messages(&unknown)), ["welcome", "pong"], "the other lines are carried out");
    let wrong = script(&server, &["--token", "nonsense"], None, "ping\n");
    assert_eq!(wrong.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&wrong.stderr).contains("401"));
    drop(server);
    let mut nowhere = Command::new(env!("CARGO_BIN_EXE_websocket_client"));
    nowhere.args(["--url", "ws://127.0.0.1:1/ws"]).stdin(Stdio::null());
    let nowhere = nowhere.output().expect("it ends");
    assert_eq!(nowhere.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&nowhere.stderr).contains("no connection"));
}

/// Logs in without renewing, and waits until the server ends that.
async fn outlast_a_login(url: &str, user: &str) {
    let api = Api::new(url).expect("a URL");
    let login = api.login(user, PASSWORD).await.expect("the password is right");
    let mut socket =
        api.with_token(&login.token).expect("a token").open_socket().await.expect("signed in");
    let end = async {
        loop {
            if let Err(error) = socket.next().await {
                return error;
            }
        }
    };
    let error = tokio::time::timeout(PATIENCE, end).await.expect("a login ends");
    assert!(matches!(error, Error::Closed { code: 4401, .. }), "{error}");
}

/// A person chats while three logins that are not renewed come to their end, one after the other.
fn a_person_chats_beyond_the_login(args: &[&str]) {
    let server = Server::start_for_people(args);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.expect("a runtime");
    let api = Api::new(&url(&server)).expect("a URL");
    let user_id = runtime.block_on(api.create_account("ann", PASSWORD, None)).expect("a new name");
    let mut ann = Listener::with_secret(&server, "ann", "FANFARE_PASSWORD", PASSWORD);
    let welcome = ann.next_of("welcome");
    assert_eq!(welcome["user_id"], *user_id);
    ann.type_in("join general");
    ann.next_of("joined");
    for number in 1..=3 {
        runtime.block_on(outlast_a_login(&url(&server), "ann"));
        ann.type_in(&format!("chat {number} over"));
        assert_eq!(ann.next_of("chat")["content"], format!("{number} over"));
    }
}

#[test]
fn a_login_is_renewed_while_a_person_chats() {
    a_person_chats_beyond_the_login(&["--login-token-ttl", "5s"]);
}

#[test]
fn where_a_login_cannot_be_renewed_the_password_begins_another() {
    let args = ["--login-token-ttl", "5s", "--session-max", "5s"];
    a_person_chats_beyond_the_login(&args);
}

#[test]
fn a_wrong_password_is_told() {
    let server = Server::start_for_people(&[]);
    let mut command = client(&server, &["--username", "ann"]);
    let wrong = command.env("FANFARE_PASSWORD", PASSWORD).stdin(Stdio::null()).output();
    let wrong = wrong.expect("it ends");
    assert_eq!(wrong.status.code(), Some(1));
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(said.contains("wrong username or password") && !said.contains(PASSWORD), "{said}");
    assert!(wrong.stdout.is_empty(), "it does not go on as nobody");
}

#[test]
fn the_end_of_the_server_ends_the_script() {
    let mut server = Server::start_for_people(&[]);
    let mut bob = Listener::start(&server, "bob");
    server.kill();
    assert_eq!(bob.child.wait().expect("it ends").code(), Some(1));
    bob.type_in_nothing();
}

impl Listener {
    /// Keeps standard input open to here, so that its end was not the reason.
    fn type_in_nothing(&mut self) {
        let _ = self.stdin.flush();
    }
}

/// A server with a secret wants tokens, and whoever has the secret can do here what a person does.
#[test]
fn a_token_of_our_own_is_enough_where_tokens_are_wanted() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let lines = "text hi\nsubscribe service orders\nsubscribe channel news\njoin general\n\
        chat hello\nonline\nstats\n";
    let output = script(&server, &["--username", "ann"], Some(SECRET), lines);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert_eq!(output.status.code(), Some(0), "{said}");
    assert!(!said.contains("forbidden") && said.contains("\"joined\""), "{said}");
    let refused = script(&server, &["--username", "ann"], None, "online\n");
    assert_eq!(refused.status.code(), Some(1), "without it nobody is let in");
}
