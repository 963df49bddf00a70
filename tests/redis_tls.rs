//! TLS to Redis, and Redis users that may do no more than a node needs.
//!
//! The authorities and certificates are made here, with `openssl`. Without it, or with a Redis that was
//! built without TLS, the tests of TLS are reported as skipped.

use fanfare_test_support as support;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::json;

use fanfare_test_support::nodes::{PATIENCE, await_ready, flags_at, refused};
use fanfare_test_support::redis::Redis;
use fanfare_test_support::{SECRET, Server, eventually, instance};

/// The certificates of a test. Dropping them removes them.
struct Certs(PathBuf);

impl Certs {
    /// An authority, a certificate of Redis for `localhost` and 127.0.0.1, one of a node, and an
    /// authority that has signed nothing. None without `openssl`.
    fn make() -> Option<Certs> {
        let dir = std::env::temp_dir().join(format!("fanfare-certs-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let certs = Certs(dir);
        let script = r#"set -e
            new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes"
            for ca in ca other; do
                $new -x509 -days 2 -subj "/CN=fanfare test $ca" -keyout $ca.key -out $ca.pem
            done
            leaf() {
                $new -subj "/CN=$1" -keyout $1.key -out $1.csr
                printf '%s' "$2" > ext
                openssl x509 -req -days 2 -in $1.csr -CA ca.pem -CAkey ca.key -CAcreateserial \
                    -extfile ext -out $1.pem
            }
            leaf redis 'subjectAltName=DNS:localhost,IP:127.0.0.1'
            leaf node 'extendedKeyUsage=clientAuth'
            leaf stranger 'subjectAltName=DNS:other.example'"#;
        let made = Command::new("sh")
            .args(["-c", script])
            .current_dir(&certs.0)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        made.is_ok_and(|status| status.success()).then_some(certs)
    }

    fn path(&self, name: &str) -> String {
        self.0.join(name).to_string_lossy().into_owned()
    }

    fn dir(&self) -> &Path {
        &self.0
    }
}

impl Drop for Certs {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A Redis that speaks TLS, and the certificates. None where that cannot be had.
fn encrypted(wants_certificate: bool) -> Option<(Certs, Redis)> {
    let made = Certs::make().and_then(|certs| {
        Redis::start_tls(certs.dir(), wants_certificate).map(|redis| (certs, redis))
    });
    if made.is_none() {
        support::skipped("no openssl, or a Redis without TLS");
    }
    made
}

fn works(server: &Server) {
    await_ready(server);
    server.register(&[instance("orders", "one")]);
    let body = json!({"payload": "hello"});
    assert_eq!(server.post_json("/api/v1/channels/news/messages", &body).status, 200);
}

/// Starts a node that cannot use Redis, and waits until its log says why.
fn says(url: &str, flags: &[&str], words: &str) {
    let flags = [&["--auth", "open"], flags].concat();
    let server = Server::start(&flags_at(url, &flags));
    eventually(words, PATIENCE, || server.log().contains(words));
    assert_eq!(server.get("/ready").status, 503);
}

#[test]
fn a_node_speaks_tls_with_an_authority_of_its_own() {
    let Some((certs, redis)) = encrypted(false) else { return };
    for host in ["localhost", "127.0.0.1"] {
        let url = format!("rediss://{host}:{}", redis.tls_port());
        let ca = certs.path("ca.pem");
        works(&Server::start(&flags_at(&url, &["--auth", "open", "--redis-ca", &ca])));
    }
}

#[test]
fn a_node_shows_its_certificate() {
    let Some((certs, redis)) = encrypted(true) else { return };
    let url = format!("rediss://localhost:{}", redis.tls_port());
    let (ca, cert, key) = (certs.path("ca.pem"), certs.path("node.pem"), certs.path("node.key"));
    let flags = ["--auth", "open", "--redis-ca", &ca, "--redis-cert", &cert, "--redis-key", &key];
    works(&Server::start(&flags_at(&url, &flags)));
    says(&url, &["--redis-ca", &ca], "Redis refuses this node's certificate, or wants one");
}

#[test]
fn faults_of_tls_are_named() {
    let Some((certs, redis)) = encrypted(false) else { return };
    let url = format!("rediss://localhost:{}", redis.tls_port());
    let other = certs.path("other.pem");
    says(&url, &["--redis-ca", &other], "is of an authority that is not known here");
    says(&url, &[], "is of an authority that is not known here");
}

#[test]
fn a_certificate_for_another_host_does_not_count() {
    let Some(certs) = Certs::make() else {
        support::skipped("no openssl");
        return;
    };
    for end in ["pem", "key"] {
        let (from, to) = (format!("stranger.{end}"), format!("redis.{end}"));
        std::fs::copy(certs.path(&from), certs.path(&to)).expect("it is copied");
    }
    let Some(redis) = Redis::start_tls(certs.dir(), false) else {
        support::skipped("a Redis without TLS");
        return;
    };
    let url = format!("rediss://localhost:{}", redis.tls_port());
    says(&url, &["--redis-ca", &certs.path("ca.pem")], "is not for the host that redis-url names");
}

#[test]
fn files_that_cannot_be_used_are_refused_at_the_start() {
    let Some(certs) = Certs::make() else {
        support::skipped("no openssl");
        return;
    };
    let empty = certs.path("empty.pem");
    std::fs::write(&empty, "no certificate").expect("it is written");
    let (cert, key, other) = (certs.path("node.pem"), certs.path("node.key"), certs.path("ca.key"));
    let joined = ["--jwt-secret", SECRET, "--redis-url", "rediss://localhost:1"];
    for (flags, file) in [
        (vec!["--redis-ca", "/nowhere/ca.pem"], "/nowhere/ca.pem"),
        (vec!["--redis-ca", &empty], &empty),
        (vec!["--redis-cert", &empty, "--redis-key", &key], &empty),
        (vec!["--redis-cert", &cert, "--redis-key", &other], &other),
    ] {
        let (status, said) = refused(&[&joined[..], &flags].concat());
        assert_eq!(status.code(), Some(2), "{said}");
        assert!(said.contains(file), "{file} is not named: {said}");
    }
}

/// The rule in docs/cluster.md, word for word.
fn documented_rule() -> Vec<String> {
    let text = std::fs::read_to_string("docs/cluster.md").expect("the document is there");
    let start = text.find("ACL SETUSER fanfare").expect("the rule is there");
    let rule = text[start..].split("```").next().expect("it ends");
    rule.replace('\\', " ").split_whitespace().map(str::to_owned).collect()
}

/// Asks with a client of its own, because the words are those of a user.
fn cli(redis: &Redis, words: &[&str]) -> String {
    let port = redis.address().port().to_string();
    let answer = Command::new("redis-cli").args(["-p", &port]).args(words).output();
    String::from_utf8(answer.expect("redis-cli is installed").stdout).expect("UTF-8")
}

#[test]
fn the_documented_rule_is_enough_and_nothing_is_refused() {
    let redis = Redis::start();
    let rule = documented_rule();
    let rule: Vec<&str> = rule.iter().map(String::as_str).collect();
    assert_eq!(redis.order(&rule), "+OK", "{rule:?}");
    let url = format!("redis://fanfare:PASSWORD@127.0.0.1:{}", redis.address().port());
    let servers: [Server; 2] =
        std::array::from_fn(|_| Server::start(&flags_at(&url, &["--auth", "open"])));
    servers.iter().for_each(works);
    // Everything that reaches Redis without a database: rooms, presence, questions between nodes,
    // histories, deletion, snapshots.
    let [a, b] = &servers;
    let mut client = a.connect_as("ann");
    client.send_json(&json!({"type": "join", "room": "general"}));
    client.find_type("joined");
    client.send_json(&json!({"type": "chat", "room": "general", "content": "hello"}));
    client.find_type("chat");
    client.send_json(&json!({"type": "subscribe", "channel": "news"}));
    client.find_type("subscribed");
    assert_eq!(b.get("/api/v1/channels/news/history").status, 200);
    assert_eq!(b.get("/api/v1/connections").status, 200);
    assert_eq!(b.request("DELETE", "/api/v1/channels/news", &[], b"").status, 204);
    redis.ask(&["DEL", "fanfare:{registry}:image"]);
    let c = Server::start(&flags_at(&url, &["--auth", "open"]));
    await_ready(&c);
    let refusals = cli(&redis, &["ACL", "LOG"]);
    assert!(refusals.trim().is_empty(), "something was refused:\n{refusals}");
    drop(servers);
    assert!(cli(&redis, &["ACL", "LOG"]).trim().is_empty());
}

#[test]
fn wrong_users_and_rules_are_named() {
    let redis = Redis::start();
    let port = redis.address().port();
    redis.order(&["ACL", "SETUSER", "narrow", "on", ">PASSWORD", "+@connection", "~fanfare:*"]);
    let at = |user: &str| format!("redis://{user}@127.0.0.1:{port}");
    let wrong = "refuses the user name or the password";
    says(&at("narrow:WRONG"), &[], wrong);
    says(&at("nobody:PASSWORD"), &[], wrong);
    says(&at("narrow:PASSWORD"), &[], "the ACL of the Redis user does not allow");
    redis.order(&["ACL", "SETUSER", "default", "off"]);
    says(&format!("redis://127.0.0.1:{port}"), &[], "redis-url has none");
}
