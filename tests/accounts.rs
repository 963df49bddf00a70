//! Accounts: registering, logging in, being slowed down, being disabled; and the keys that tokens
//! are checked with.

use fanfare_test_support as support;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use fanfare_test_support::{Reply, Server, assert_is_time, eventually, now_s, token};
use serde_json::{Value, json};

const REGISTER: &str = "/api/v1/users/register";
const LOGIN: &str = "/api/v1/users/login";

fn register(server: &Server, username: &str, password: &str) -> Reply {
    server.post_json(REGISTER, &json!({"username": username, "password": password}))
}

fn login(server: &Server, username: &str, password: &str) -> Reply {
    server.post_json(LOGIN, &json!({"username": username, "password": password}))
}

#[test]
fn who_registers_can_log_in() {
    let server = Server::start_for_people(&["--auth", "required"]);
    let reply = register(&server, "Ann", "correct horse");
    assert_eq!((reply.status, &reply.body["username"]), (201, &json!("Ann")), "{}", reply.text);
    let user_id = reply.body["user_id"].as_str().expect("an id").to_owned();
    register(&server, "Ann", "another one").expect_problem(409, "conflict");
    register(&server, "aNN", "another one").expect_problem(409, "conflict");
    let reply = login(&server, "Ann", "correct horse");
    assert_eq!((reply.status, &reply.body["user_id"]), (200, &json!(user_id)), "{}", reply.text);
    assert_is_time(&reply.body["expires_at"]);
    let token = reply.body["token"].as_str().expect("a token");
    let client = server.connect_with(token);
    assert_eq!(client.welcome["user_id"], user_id.as_str());
    let online = |token: &str| server.call("GET", "/ws/online", token, &Value::Null);
    let watcher = support::token("watcher", "sockets:read");
    assert_eq!(online(&watcher).body["users"][0]["username"], "Ann");
    online(token).expect_problem(403, "forbidden");
}

#[test]
fn wrong_accounts_are_refused_by_name() {
    let server = Server::start(&[]);
    for (body, word) in [
        (json!({"password": "12345678"}), "username"),
        (json!({"username": "ann"}), "password"),
        (json!({"username": "", "password": "12345678"}), "username"),
        (json!({"username": "a\u{0}b", "password": "12345678"}), "username"),
        (json!({"username": "ann", "password": "1234567"}), "password"),
        (json!({"username": "ann", "password": "x".repeat(2_000)}), "password"),
        (json!({"username": "ann", "password": "12345678", "email": "nowhere"}), "email"),
        (json!({"username": 7, "password": "12345678"}), ""),
    ] {
        let reply = server.post_json(REGISTER, &body);
        reply.expect_problem(400, "invalid_argument");
        assert!(reply.text.contains(word), "{}", reply.text);
        assert!(!reply.text.contains("12345678"), "a password is never repeated");
    }
    server.request("GET", REGISTER, &[], b"").expect_problem(405, "invalid_argument");
    server.post_json(LOGIN, &json!({"username": "ann"})).expect_problem(400, "invalid_argument");
}

#[test]
fn unknown_user_and_wrong_password_get_the_same_answer() {
    let server = Server::start(&[]);
    assert_eq!(register(&server, "ann", "correct horse").status, 201);
    let wrong = login(&server, "ann", "wrong horse!");
    let unknown = login(&server, "nobody", "wrong horse!");
    wrong.expect_problem(401, "unauthorized");
    unknown.expect_problem(401, "unauthorized");
    assert_eq!(wrong.body["detail"], unknown.body["detail"]);
    assert_eq!(wrong.header("www-authenticate"), unknown.header("www-authenticate"));
}

#[test]
fn the_eleventh_failed_login_of_a_minute_is_not_even_looked_at() {
    let server = Server::start(&[]);
    assert_eq!(register(&server, "ann", "correct horse").status, 201);
    for attempt in 0..10 {
        if attempt == 5 {
            assert_eq!(login(&server, "ann", "correct horse").status, 200, "no failure");
        }
        login(&server, "ann", "wrong horse!").expect_problem(401, "unauthorized");
    }
    let refused = login(&server, "ann", "correct horse");
    refused.expect_problem(429, "rate_limited");
    assert!(refused.header("retry-after").is_some());
}

#[test]
fn an_account_outlives_the_server() {
    let mut server = Server::start(&[]);
    assert_eq!(register(&server, "ann", "correct horse").status, 201);
    server.kill();
    server.restart();
    assert_eq!(login(&server, "ann", "correct horse").status, 200);
    register(&server, "ann", "correct horse").expect_problem(409, "conflict");
}

#[test]
fn the_command_line_adds_lists_and_disables() {
    let server = Server::start_for_people(&[]);
    let (is_ok, said) =
        server.run(&["user", "add", "Ann", "--email", "a@b.org"], "correct horse\n");
    assert!(is_ok && said.contains("Ann"), "{said}");
    let user_id = said.split_whitespace().next().expect("an id").to_owned();
    assert!(!server.run(&["user", "add", "ann"], "correct horse\n").0, "the name is taken");
    assert!(!server.run(&["user", "add", "bob"], "short\n").0);
    let reply = login(&server, "Ann", "correct horse");
    assert_eq!((reply.status, &reply.body["user_id"]), (200, &json!(user_id)));
    let token = reply.body["token"].as_str().expect("a token").to_owned();
    let mut ann = server.connect_with(&token);
    let (_, list) = server.run(&["user", "list"], "");
    assert!(
        list.contains(&user_id) && list.contains("active") && list.contains("a@b.org"),
        "{list}"
    );

    assert!(server.run(&["user", "disable", "ANN"], "").0);
    let (frames, code) = ann.read_to_close();
    assert_eq!((code, &frames[frames.len() - 1]["code"]), (4401, &json!("unauthorized")));
    login(&server, "Ann", "correct horse").expect_problem(401, "unauthorized");
    server
        .call("GET", "/api/v1/messages", &token, &Value::Null)
        .expect_problem(401, "unauthorized");
    assert!(server.run(&["user", "list"], "").1.contains("disabled"));
    assert!(server.run(&["user", "enable", &user_id], "").0);
    eventually("the account counts again", Duration::from_secs(5), || {
        server.call("GET", "/api/v1/messages", &token, &Value::Null).status == 200
    });
    let (is_ok, said) = server.run(&["user", "disable", "stranger"], "");
    assert!(!is_ok && said.contains("there is no user stranger"), "{said}");
}

#[test]
fn a_disabled_user_stays_out_after_a_restart() {
    let mut server = Server::start_for_people(&[]);
    let ann = token("ann", "");
    drop(server.connect_with(&ann));
    eventually("the user is stored", Duration::from_secs(5), || {
        server.run(&["user", "disable", "ann"], "").0
    });
    server.stop();
    server.restart();
    server.call("GET", "/ws/online", &ann, &Value::Null).expect_problem(401, "unauthorized");
}

#[test]
fn logins_do_not_keep_pushes_waiting() {
    let server = Server::start(&[]);
    assert_eq!(register(&server, "ann", "correct horse").status, 201);
    let mut client = server.connect();
    client.ask(&json!({"type": "subscribe", "channel": "c"}), "subscribed");
    std::thread::scope(|scope| {
        let storm: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    (0..5).map(|_| login(&server, "ann", "correct horse").status).collect()
                })
            })
            .collect();
        for n in 1..=50 {
            let body = json!({"payload": n});
            assert_eq!(server.post_json("/api/v1/channels/c/messages", &body).status, 200);
            assert_eq!(client.expect("json")["offset"], n);
        }
        let all: Vec<Vec<u16>> = storm.into_iter().map(|one| one.join().expect("ends")).collect();
        assert!(all.concat().iter().all(|&status| status == 200), "{all:?}");
    });
}

// --- Keys ----------------------------------------------------------------------------------------

struct Keys(PathBuf);

impl Keys {
    fn new() -> Keys {
        let dir = std::env::temp_dir().join(format!("fanfare-keys-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).expect("a directory");
        Keys(dir)
    }

    /// Makes a key pair with the system's OpenSSL. Returns the paths of the two files.
    fn pair(&self, name: &str, args: &[&str]) -> (PathBuf, PathBuf) {
        let (private, public) = (self.0.join(name), self.0.join(format!("{name}.pub")));
        let run = |args: Vec<&str>| {
            let output = Command::new("openssl").args(args).output().expect("openssl runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        };
        let (private_text, public_text) =
            (private.to_str().expect("UTF-8"), public.to_str().expect("UTF-8"));
        let mut generate = vec!["genpkey", "-out", private_text];
        generate.extend(args);
        run(generate);
        run(vec!["pkey", "-in", private_text, "-pubout", "-out", public_text]);
        (private, public)
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn sign(private: &Path, algorithm: jsonwebtoken::Algorithm) -> String {
    use jsonwebtoken::{Algorithm, EncodingKey, Header};
    let pem = std::fs::read(private).expect("the key");
    let key = match algorithm {
        Algorithm::RS256 => EncodingKey::from_rsa_pem(&pem),
        Algorithm::ES256 => EncodingKey::from_ec_pem(&pem),
        _ => EncodingKey::from_ed_pem(&pem),
    };
    let claims = json!({"sub": "ann", "exp": now_s() + 60});
    jsonwebtoken::encode(&Header::new(algorithm), &claims, &key.expect("a key")).expect("a token")
}

#[test]
fn public_keys_fix_the_algorithm() {
    use jsonwebtoken::Algorithm::{ES256, EdDSA, RS256};
    let keys = Keys::new();
    let kinds = [
        (RS256, keys.pair("rsa", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048"])),
        (ES256, keys.pair("ec", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256"])),
        (EdDSA, keys.pair("ed", &["-algorithm", "ED25519"])),
    ];
    for (algorithm, (_, public)) in &kinds {
        let server = Server::start(&["--jwt-public-key", &public.to_string_lossy()]);
        for (other, (private, _)) in &kinds {
            let token = sign(private, *other);
            let status = server.call("GET", "/api/v1/messages", &token, &Value::Null).status;
            assert_eq!(
                status,
                if other == algorithm { 200 } else { 401 },
                "{other:?} at {algorithm:?}"
            );
        }
        // The public key is no secret: a token signed with it as one is worth nothing.
        let pem = std::fs::read_to_string(public).expect("the key");
        let claims = json!({"sub": "ann", "exp": now_s() + 60});
        let forged = support::sign(&claims, &pem, jsonwebtoken::Algorithm::HS256);
        assert_eq!(server.call("GET", "/ws/online", &forged, &Value::Null).status, 401);
        // The tokens were for the user ann, so nobody else can be called that.
        register(&server, "ann", "correct horse").expect_problem(409, "conflict");
        assert_eq!(register(&server, "bob", "correct horse").status, 201);
        login(&server, "bob", "correct horse").expect_problem(503, "unavailable");
    }
}

#[test]
fn weak_and_wrong_keys_are_refused_at_the_start() {
    let keys = Keys::new();
    let server = Server::start(&[]);
    let (private, _) = keys.pair("private", &["-algorithm", "ED25519"]);
    let (_, short) = keys.pair("short", &["-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:1024"]);
    let (_, other) =
        keys.pair("p384", &["-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384"]);
    let nowhere = keys.0.join("nowhere");
    for (path, word) in
        [(&private, "private key"), (&short, "2,048"), (&other, "P-256"), (&nowhere, "nowhere")]
    {
        let (is_ok, said) = server.run(&["serve", "--jwt-public-key", &path.to_string_lossy()], "");
        assert!(!is_ok && said.contains("jwt-public-key") && said.contains(word), "{said}");
    }
    let both = ["serve", "--jwt-public-key", "x", "--jwt-secret", support::SECRET];
    let (is_ok, said) = server.run(&both, "");
    assert!(!is_ok && said.contains("jwt-public-key"), "{said}");
}
