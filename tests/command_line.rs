//! The commands beside the server: their output, and their messages on a fault.

use std::process::{Command, Stdio};
use std::time::Duration;

use fanfare_test_support::{SECRET, Server, eventually, instance, instances, token};
use serde_json::{Value, json};

/// Runs the binary. Returns its exit status, standard output and standard error.
fn run(args: &[&str]) -> (Option<i32>, String, String) {
    let dir = std::env::temp_dir().join(format!("fanfare-cli-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let done = Command::new(env!("CARGO_BIN_EXE_fanfare"))
        .args(args)
        .current_dir(&dir)
        .env("RUST_LOG", "error")
        .output()
        .expect("the binary starts");
    let _ = std::fs::remove_dir_all(dir);
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (done.status.code(), text(&done.stdout), text(&done.stderr))
}

fn ask(server: &Server, args: &[&str]) -> (Option<i32>, String, String) {
    let url = format!("http://{}", server.address());
    run(&[args, &["--url", &url]].concat())
}

#[test]
fn a_running_server_is_asked() {
    let server = Server::start(&[]);
    server.register(&instances("orders", 3));
    let (status, text, _) = ask(&server, &["services"]);
    assert_eq!(status, Some(0));
    let row = text.lines().find(|line| line.starts_with("orders")).expect("a row");
    assert_eq!(row.split_whitespace().collect::<Vec<_>>(), ["orders", "3", "3", "ok"]);
    let (_, text, _) = ask(&server, &["instances", "ORDERS", "--json"]);
    let leases: Vec<Value> =
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    assert_eq!(leases.len(), 3);
    assert!(leases[0]["expires_in_ms"].as_i64() > Some(0), "{}", leases[0]);

    let one = instance("orders", "i1");
    let region = one["regionId"].as_str().expect("a region");
    let words = ["orders", "i1", "--region", region];
    assert_eq!(ask(&server, &[&["pull-out"][..], &words].concat()).0, Some(0));
    assert!(ask(&server, &["instances", "orders"]).1.contains("pulled out"));
    assert_eq!(server.discover("orders")["instances"].as_array().map(Vec::len), Some(2));
    assert_eq!(ask(&server, &[&["pull-in"][..], &words].concat()).0, Some(0));

    let mut follower = server.connect();
    follower.ask(&json!({"type": "subscribe", "channel": "news: a/b"}), "subscribed");
    let (_, text, _) = ask(&server, &["publish", "news: a/b", "{\"n\":1}", "--event", "e.x"]);
    assert!(text.ends_with("to 1 connections\n"), "{text}");
    let frame = follower.find_type("event");
    assert_eq!((&frame["event"], &frame["payload"]), (&json!("e.x"), &json!({"n": 1})));
    ask(&server, &["publish", "news: a/b", "not JSON"]);
    assert_eq!(follower.find_type("text")["payload"], "not JSON");

    let (_, text, _) = ask(&server, &["stats", "--json"]);
    let stats: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!((&stats["connections"], &stats["instances"]), (&json!(1), &json!(3)));
    assert!(ask(&server, &["stats"]).1.contains("fanout_latency_us p99"));
}

#[test]
fn a_service_is_watched_through_a_restart() {
    let mut server = Server::start(&[]);
    server.register(&instances("orders", 1));
    let url = format!("http://{}", server.address());
    let out = server.dir().join("watched");
    let mut child = Command::new(env!("CARGO_BIN_EXE_fanfare"))
        .args(["watch", "orders", "--json", "--url", &url])
        .current_dir(server.dir())
        .stdout(std::fs::File::create(&out).expect("a file"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let says = |what: &str| {
        eventually(what, Duration::from_secs(20), || {
            std::fs::read_to_string(&out).unwrap_or_default().contains(what)
        });
    };
    says("\"revision\":1");
    server.register(&[instance("orders", "second")]);
    says("\"change_type\":\"new\"");
    server.stop();
    let _ = child.kill();
    let _ = child.wait();
}

#[test]
fn what_happened_is_shown_and_followed() {
    let server = Server::start(&[]);
    server.register(&instances("orders", 2));
    let mut text = String::new();
    eventually("both are in the log", Duration::from_secs(20), || {
        text = ask(&server, &["events", "--service", "orders"]).1;
        text.lines().count() == 2
    });
    let words: Vec<&str> = text.lines().flat_map(str::split_whitespace).collect();
    assert_eq!(words[1..6], ["instance.registered", "orders/i0", "by", "127.0.0.1", "(http)"]);
    let url = format!("http://{}", server.address());
    let out = server.dir().join("followed");
    let mut child = Command::new(env!("CARGO_BIN_EXE_fanfare"))
        .args(["events", "--follow", "--json", "--kind", "instance", "--url", &url])
        .current_dir(server.dir())
        .stdout(std::fs::File::create(&out).expect("a file"))
        .stderr(Stdio::null())
        .spawn()
        .expect("the binary starts");
    let shown = |count: usize| {
        let mut seen = Vec::new();
        eventually(&format!("{count} events"), Duration::from_secs(20), || {
            let lines = std::fs::read_to_string(&out).unwrap_or_default();
            seen = lines.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
            seen.len() >= count
        });
        seen
    };
    shown(2);
    server.unregister(&instances("orders", 1));
    let seen: Vec<Value> = shown(3);
    let _ = child.kill();
    let _ = child.wait();
    let ids: Vec<_> = seen.iter().map(|event| event["id"].as_u64()).collect();
    assert_eq!(ids, [Some(1), Some(2), Some(3)], "each once");
    assert_eq!(seen[2]["kind"], "instance.unregistered");
    assert_eq!(ask(&server, &["events", "--kind", "account"]).1, "");
    let (status, _, fault) = ask(&server, &["events", "--from", "yesterday"]);
    assert!(status != Some(0) && fault.contains("from is no time"), "{fault}");
}

#[test]
fn what_is_wrong_is_said_with_what_to_do() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let (weak, reader) = (token("ann", ""), token("ann", "registry:read"));
    for (args, words) in [
        (vec!["services"], ["missing or wrong", "fanfare token"]),
        (vec!["services", "--token", "nonsense"], ["missing or wrong", "fanfare token"]),
        (vec!["publish", "c", "1", "--token", &weak], ["does not allow", "--scope"]),
        (vec!["services", "--token", &weak], ["does not allow", "registry:read"]),
        (vec!["stats", "--token", &reader], ["does not allow", "sockets:read"]),
        (vec!["instances", "none", "--token", &reader], ["no such service", ""]),
    ] {
        let (status, _, fault) = ask(&server, &args);
        assert_eq!(status, Some(1), "{fault}");
        assert!(words.iter().all(|word| fault.contains(word)), "{args:?}: {fault}");
        assert!(!fault.contains("nonsense") && !fault.contains(&weak), "{fault}");
    }
    let (status, _, fault) = run(&["stats", "--url", "http://127.0.0.1:1"]);
    assert!(status == Some(1) && fault.contains("is it running there"), "{fault}");
    let (status, _, fault) = run(&["stats", "--url", "127.0.0.1"]);
    assert!(status == Some(1) && fault.contains("URL"), "{fault}");
    assert_eq!(run(&["instances"]).0, Some(2));
}

#[test]
fn the_program_describes_itself() {
    let (status, text, _) = run(&["info", "--shards", "3", "--json"]);
    assert_eq!(status, Some(0));
    let info: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(info["settings"]["shards"], json!({"value": 3, "source": "flag"}));
    assert_eq!(info["settings"]["lease_ttl"]["source"], "default");
    assert_eq!(info["build"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(info["machine"]["connections_max"].as_u64() > Some(0));
    let (_, text, _) = run(&["info", "--jwt-secret", SECRET]);
    assert!(text.contains("jwt_secret") && !text.contains(SECRET));

    assert!(run(&["man"]).1.contains(".TH fanfare 1"));
    for shell in ["bash", "zsh", "fish"] {
        assert!(run(&["completions", shell]).1.contains("pull-out"), "{shell}");
    }
    assert_eq!(run(&["completions", "csh"]).0, Some(2));
}

#[test]
fn a_configuration_is_checked_and_written() {
    assert_eq!(run(&["check-config"]).1, "the configuration is in order\n");
    let (status, _, fault) = run(&["check-config", "--bind", "0.0.0.0:80", "--shards", "none"]);
    assert_eq!(status, Some(2));
    assert!(fault.contains("--auth") && fault.contains("--shards"), "{fault}");
    let (status, _, fault) = run(&["check-config", "--jwt-public-key", "/nowhere.pem"]);
    assert!(status == Some(1) && fault.contains("/nowhere.pem"), "{fault}");

    let (_, template, _) = run(&["default-config"]);
    let dir = std::env::temp_dir().join(format!("fanfare-config-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let file = dir.join("fanfare.toml");
    let file_text = file.to_str().expect("UTF-8");
    std::fs::write(&file, &template).expect("written");
    assert_eq!(run(&["check-config", "--config", file_text]).0, Some(0));
    // Uncommented, what has a default by itself says what holds anyway.
    let spoken: Vec<String> = template
        .lines()
        .filter(|line| line.starts_with('#') && !line.starts_with("# ") && !line.contains("unset:"))
        .map(|line| line.trim_start_matches('#').to_owned())
        .collect();
    assert!(spoken.len() > 20, "{template}");
    std::fs::write(&file, spoken.join("\n")).expect("written");
    let settings = |args: &[&str]| -> Value {
        serde_json::from_str::<Value>(&run(args).1).expect("JSON")["settings"].clone()
    };
    let (plain, read) =
        (settings(&["info", "--json"]), settings(&["info", "--json", "--config", file_text]));
    for (key, value) in plain.as_object().expect("settings") {
        assert_eq!(value["value"], read[key]["value"], "{key}");
    }
    assert_eq!(read["lease_ttl"]["source"], "file");
    let _ = std::fs::remove_dir_all(dir);
}

#[test]
fn a_short_secret_is_a_wrong_setting() {
    let short = "thirty-one bytes are one too few";
    assert_eq!(short.len(), 32);
    let short = &short[1..];
    for args in [
        &["--bind", "127.0.0.1:0", "--jwt-secret", short][..],
        &["token", "--user", "u", "--jwt-secret", short],
        &["check-config", "--jwt-secret", short],
    ] {
        let (status, text, fault) = run(args);
        assert_eq!((status, text.as_str()), (Some(2), ""), "{args:?}: {fault}");
        assert!(fault.contains("--jwt-secret") && fault.contains("at least 32"), "{fault}");
        assert!(!fault.contains(short), "{fault}");
    }
    // The one in the data directory, which somebody put there.
    let dir = std::env::temp_dir().join(format!("fanfare-secret-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&dir).expect("a directory");
    std::fs::write(dir.join("jwt-secret"), short).expect("written");
    let data_dir = dir.to_str().expect("UTF-8");
    for args in [&["--bind", "127.0.0.1:0"][..], &["token", "--user", "u"], &["check-config"]] {
        let (status, text, fault) = run(&[args, &["--data-dir", data_dir]].concat());
        let expected = if args == ["check-config"] { 1 } else { 2 };
        assert_eq!((status, text.as_str()), (Some(expected), ""), "{args:?}: {fault}");
        assert!(fault.contains("jwt-secret") && fault.contains("at least 32"), "{fault}");
    }
    let _ = std::fs::remove_dir_all(dir);
}

#[test]
fn a_token_of_the_command_line_can_be_told_from_others() {
    let claims = |args: &[&str]| -> Value {
        use base64::Engine as _;
        let (status, text, fault) =
            run(&[&["token", "--user", "u", "--jwt-secret", SECRET], args].concat());
        assert_eq!(status, Some(0), "{fault}");
        let part = text.split('.').nth(1).expect("claims");
        let json = base64::engine::general_purpose::URL_SAFE_NO_PAD.decode(part).expect("base64");
        serde_json::from_slice(&json).expect("JSON")
    };
    let (one, other) = (claims(&[]), claims(&["--ttl", "10m"]));
    assert!(one["jti"].is_string() && one["jti"] != other["jti"], "{one}");
    assert_eq!(
        other["exp"].as_u64().zip(other["iat"].as_u64()).map(|(exp, iat)| exp - iat),
        Some(600)
    );
    for args in [&["user", "disable"][..], &["user", "revoke", "a", "--id", "b"], &["token"]] {
        assert_eq!(run(args).0, Some(2), "{args:?}");
    }
}
