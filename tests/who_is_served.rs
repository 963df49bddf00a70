//! The default of `--auth`, and unintended input of the environment and the command line: unknown
//! names, a directory without a server's data.

#![allow(clippy::disallowed_methods, reason = "a terminal takes a moment to hide what is typed")]

use fanfare_test_support as support;
use fanfare_test_support::postgres;
use std::fs;
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use fanfare_test_support::{SECRET, Server, eventually, token};
use parking_lot::Mutex;
use serde_json::Value;

/// Starts a server that was told nothing about `auth`.
fn untold(flags: &[&str]) -> Server {
    Server::start_by(Some("unset FANFARE_AUTH; exec \"$@\""), flags)
}

/// A directory of a test's own.
struct Dir(PathBuf);

impl Dir {
    fn new() -> Dir {
        let dir = std::env::temp_dir().join(format!("fanfare-served-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&dir).expect("a directory");
        Dir(dir)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Runs the program to its end with nothing but these variables of ours. Returns its exit status,
/// standard output and standard error.
fn run(dir: &Path, args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String, String) {
    let done = Command::new(env!("CARGO_BIN_EXE_fanfare"))
        .args(args)
        .current_dir(dir)
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .output()
        .expect("the binary starts");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

#[test]
fn a_secret_of_ones_own_means_that_tokens_are_wanted() {
    let server = untold(&["--jwt-secret", SECRET]);
    let why: Vec<_> =
        server.log().lines().filter(|line| line.contains("auth ")).map(str::to_owned).collect();
    assert!(why.len() == 1 && why[0].contains("required: jwt-secret is given"), "{why:?}");
    assert!(!server.log().contains(SECRET));
    server.get("/ws/stats").expect_problem(401, "unauthorized");
    let admin = token("root", "admin");
    assert_eq!(server.call("GET", "/ws/stats", &admin, &Value::Null).status, 200);
    let config = server.call("GET", "/api/status/config.json", &admin, &Value::Null).body;
    assert_eq!(
        (&config["auth"], &config["sources"]["auth"]),
        (&"required".into(), &"default".into())
    );

    let said = untold(&["--jwt-secret", SECRET, "--auth", "open"]);
    assert_eq!(said.get("/ws/stats").status, 200);
    assert!(said.log().contains("auth open: set by a flag"), "{}", said.log());
}

#[test]
fn on_loopback_without_one_anybody_is_served_and_the_log_says_why() {
    let server = untold(&[]);
    assert_eq!(server.get("/ws/stats").status, 200);
    let log = server.log();
    assert!(log.contains("auth open: only this machine reaches 127.0.0.1:0"), "{log}");
    let dir = Dir::new();
    let (status, _, said) = run(&dir.0, &["--bind", "0.0.0.0:0"], &[]);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("--auth required") && said.contains("--auth open"), "{said}");
}

#[test]
fn an_unknown_variable_stops_the_start_and_those_of_others_do_not() {
    let dir = Dir::new();
    let (status, _, said) =
        run(&dir.0, &["--port", "9000"], &[("FANFARE_BND", "x"), ("FANFARE_PORT", "80")]);
    assert_eq!(status, Some(2), "{said}");
    for words in [
        "--port: unknown flag; is --bind meant",
        "FANFARE_BND: unknown variable; is FANFARE_BIND meant",
        "FANFARE_PORT: ",
    ] {
        assert!(said.contains(words), "{said}");
    }
    assert!(!dir.0.join("fanfare-data").exists(), "nothing was made");
    let of_kubernetes = [
        ("FANFARE_SERVICE_HOST", "10.96.0.7"),
        ("FANFARE_SERVICE_PORT", "8080"),
        ("FANFARE_PORT", "tcp://10.96.0.7:8080"),
        ("FANFARE_PORT_8080_TCP_ADDR", "10.96.0.7"),
        ("FANFARE_SEED", "7"),
    ];
    let (status, said, fault) = run(&dir.0, &["check-config"], &of_kubernetes);
    assert_eq!((status, said.as_str()), (Some(0), "the configuration is in order\n"), "{fault}");
}

#[test]
fn the_command_line_makes_neither_secret_nor_database_by_accident() {
    let dir = Dir::new();
    let data = dir.path("data");
    let token = ["token", "--user", "ann", "--data-dir", &data];
    let add = ["user", "add", "ann", "--password", "correct horse", "--data-dir", &data];
    let list = ["user", "list", "--data-dir", &data];
    for args in [&token[..], &add, &list] {
        let (status, out, said) = run(&dir.0, args, &[]);
        assert_eq!((status, out.as_str()), (Some(2), ""), "{args:?}: {said}");
        assert!(said.contains(&data) && said.contains("--init"), "{args:?}: {said}");
    }
    assert!(!Path::new(&data).exists(), "nothing was made");

    let (status, out, said) = run(&dir.0, &[&token[..], &["--init"]].concat(), &[]);
    assert_eq!((status, out.trim().split('.').count()), (Some(0), 3), "{said}");
    assert!(said.contains(&data), "{said}");
    assert_eq!(run(&dir.0, &token, &[]).0, Some(0), "it is there now");
    assert_eq!(run(&dir.0, &add, &[]).0, Some(2), "a secret is no database");
    assert_eq!(run(&dir.0, &[&add[..], &["--init"]].concat(), &[]).0, Some(0));
    let (status, out, said) = run(&dir.0, &list, &[]);
    assert!(
        status == Some(0) && out.contains("ann") && said.contains("using the database"),
        "{said}"
    );

    // A secret that is given needs no directory, and none is named.
    let (status, _, said) = run(&dir.0, &["token", "--user", "ann"], &[("JWT_SECRET", SECRET)]);
    assert_eq!((status, said.as_str()), (Some(0), ""));
    let other = format!("sqlite://{}", dir.path("other.db"));
    let (status, _, said) = run(&dir.0, &["user", "list", "--database-url", &other], &[]);
    assert!(status == Some(2) && said.contains("other.db"), "{said}");
    assert!(!dir.0.join("other.db").exists() && !dir.0.join("fanfare-data").exists());
}

#[test]
fn an_empty_database_on_a_server_is_left_empty() {
    let Some(database) = postgres::Database::create() else { return };
    let dir = Dir::new();
    let tables = "SELECT COUNT(*) FROM pg_tables WHERE schemaname = 'public'";
    let list = ["user", "list", "--database-url", database.url()];
    let (status, _, said) = run(&dir.0, &list, &[]);
    assert!(status == Some(2) && said.contains("--init"), "{said}");
    assert!(said.contains(database.url()), "{said}");
    assert_eq!(database.ask(tables), 0);
    assert_eq!(run(&dir.0, &[&list[..], &["--init"]].concat(), &[]).0, Some(0));
    assert!(database.ask(tables) > 0);
    assert_eq!(run(&dir.0, &list, &[]).0, Some(0), "they are there now");
}

/// Runs the program at a terminal, where each prompt is answered. Returns its exit status and all that
/// the terminal shows.
fn at_a_terminal(dir: &Path, args: &[&str], answers: &[(&str, &str)]) -> (Option<i32>, String) {
    let line = format!("'{}' {}", env!("CARGO_BIN_EXE_fanfare"), args.join(" "));
    let mut child = Command::new("script")
        .args(["-q", "-e", "-c", &line, "/dev/null"])
        .current_dir(dir)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("script starts");
    let mut stdout = child.stdout.take().expect("it is piped");
    let shown = Arc::new(Mutex::new(String::new()));
    let screen = Arc::clone(&shown);
    let reader = std::thread::spawn(move || {
        let mut bytes = [0; 1_024];
        while let Ok(count @ 1..) = stdout.read(&mut bytes) {
            screen.lock().push_str(&String::from_utf8_lossy(&bytes[..count]));
        }
    });
    let mut stdin = child.stdin.take().expect("it is piped");
    for (prompt, answer) in answers {
        eventually(prompt, Duration::from_secs(20), || shown.lock().contains(prompt));
        // The prompt is shown before the terminal stops showing what is typed.
        eventually("the echo is off", Duration::from_secs(20), || is_echo_off(child.id()));
        writeln!(stdin, "{answer}").expect("it reads");
    }
    let status = child.wait().expect("it ends").code();
    reader.join().expect("no panic");
    let shown = shown.lock().clone();
    (status, shown)
}

/// Whether the terminal that `script` made shows nothing of what is typed.
fn is_echo_off(script: u32) -> bool {
    let children = std::fs::read_to_string(format!("/proc/{script}/task/{script}/children"));
    let children = children.unwrap_or_default();
    let Some(child) = children.split_whitespace().next() else { return false };
    let Ok(terminal) = std::fs::read_link(format!("/proc/{child}/fd/0")) else { return false };
    let settings = Command::new("stty").arg("-a").arg("-F").arg(terminal).output();
    settings.is_ok_and(|said| String::from_utf8_lossy(&said.stdout).contains("-echo "))
}

#[test]
fn a_password_is_asked_for_twice_and_not_shown() {
    if Command::new("script").arg("--version").output().is_err() {
        return support::skipped("script (util-linux) is not installed");
    }
    let server = Server::start(&[]);
    let data = server.dir().join("data").display().to_string();
    let add = ["user", "add", "ann", "--data-dir", &data];
    let (status, shown) = at_a_terminal(
        server.dir(),
        &add,
        &[("password: ", "correct horse"), ("again: ", "correct hose")],
    );
    assert!(status == Some(1) && shown.contains("differ"), "{shown}");
    let answers = [("password: ", "correct horse"), ("again: ", "correct horse")];
    let (status, shown) = at_a_terminal(server.dir(), &add, &answers);
    assert!(status == Some(0) && !shown.contains("horse"), "{shown}");
    let body = serde_json::json!({"username": "ann", "password": "correct horse"});
    assert_eq!(server.post_json("/api/v1/users/login", &body).status, 200);
}

#[test]
fn the_start_says_where_its_data_is_and_what_it_makes() {
    let mut server = untold(&[]);
    let data = server.dir().join("data").display().to_string();
    let log = server.log();
    let line = log.lines().find(|line| line.contains("data directory")).expect("a line");
    assert!(
        line.contains(&data) && line.contains("(new)") && line.contains("made there now"),
        "{line}"
    );
    assert!(server.stop().success());
    server.restart();
    let log = server.log();
    let line = log.lines().filter(|line| line.contains("data directory")).nth(1).expect("a line");
    assert!(line.contains(&data) && !line.contains("new") && !line.contains("made"), "{line}");
}

#[test]
fn a_command_shows_the_flags_that_concern_it() {
    let dir = Dir::new();
    let help = |args: &[&str]| {
        let (status, text, said) = run(&dir.0, args, &[]);
        assert_eq!(status, Some(0), "{args:?}: {said}");
        text
    };
    let all = help(&["--help"]);
    assert!(all.contains("--outbox-bytes-max") && all.contains("--data-dir"));
    assert!(help(&["serve", "--help"]).contains("--outbox-bytes-max"));
    for name in ["services", "stats", "watch", "pull-out"] {
        let text = help(&[name, "--help"]);
        assert!(text.contains("--url") && text.contains("--token"), "{name}: {text}");
        for other in ["--outbox-bytes-max", "--data-dir", "--jwt-secret", "--redis-url"] {
            assert!(!text.contains(other), "{name}: {text}");
        }
    }
    let text = help(&["token", "--help"]);
    assert!(text.contains("--data-dir") && text.contains("--jwt-secret"), "{text}");
    assert!(!text.contains("--outbox-bytes-max") && !text.contains("--redis-url"), "{text}");
    let text = help(&["user", "add", "--help"]);
    assert!(text.contains("--data-dir") && text.contains("--database-url"), "{text}");
    assert!(!text.contains("--outbox-bytes-max") && !text.contains("--redis-url"), "{text}");
    // What is not shown is still taken: the settings of a server say where it is.
    let (status, _, said) =
        run(&dir.0, &["services", "--shards", "2", "--bind", "127.0.0.1:1"], &[]);
    assert!(status == Some(1) && said.contains("127.0.0.1:1"), "{said}");
}
