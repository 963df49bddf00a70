//! The keys that tokens are checked with change while the server runs, and a bad set of keys changes nothing.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use fanfare_test_support::{SECRET, Server, eventually, now_s, sign};
use jsonwebtoken::{Algorithm, EncodingKey, Header};
use parking_lot::Mutex;
use serde_json::{Value, json};

const PATIENCE: Duration = Duration::from_secs(10);

/// A token of an unknown key has the set read again, ten seconds after the last reading at the earliest.
const EARLY_PATIENCE: Duration = Duration::from_secs(20);

/// A key of Ed25519, as its issuer has it.
struct Issuer {
    pem: Vec<u8>,
    /// The public point.
    x: String,
}

/// Directories of keys that are gone after the test.
struct Keys(PathBuf);

impl Keys {
    fn new() -> Keys {
        let name = format!("fanfare-token-keys-{}", uuid::Uuid::new_v4().simple());
        let dir = std::env::temp_dir().join(name);
        std::fs::create_dir(&dir).expect("a directory");
        Keys(dir)
    }

    fn issuer(&self, name: &str) -> Issuer {
        let private = self.0.join(name);
        let run = |args: &[&str]| {
            let output = Command::new("openssl").args(args).output().expect("openssl runs");
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            output.stdout
        };
        let path = private.to_str().expect("UTF-8");
        run(&["genpkey", "-algorithm", "ED25519", "-out", path]);
        let der = run(&["pkey", "-in", path, "-pubout", "-outform", "DER"]);
        // The point ends the document (RFC 8410, section 4).
        let x = URL_SAFE_NO_PAD.encode(&der[der.len() - 32..]);
        Issuer { pem: std::fs::read(&private).expect("the key"), x }
    }

    fn write(&self, set: &str) -> String {
        let path = self.0.join("jwks.json");
        std::fs::write(&path, set).expect("written");
        path.to_str().expect("UTF-8").to_owned()
    }
}

impl Drop for Keys {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Issuer {
    fn key(&self, kid: &str) -> Value {
        json!({"kty": "OKP", "crv": "Ed25519", "use": "sig", "kid": kid, "x": self.x})
    }

    fn token(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut all = json!({"sub": "ann", "exp": now_s() + 600});
        all.as_object_mut().expect("an object").extend(claims.as_object().expect("one").clone());
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(Algorithm::EdDSA) };
        let key = EncodingKey::from_ed_pem(&self.pem).expect("a key");
        jsonwebtoken::encode(&header, &all, &key).expect("a token")
    }
}

fn set_of(keys: &[Value]) -> String {
    json!({"keys": keys}).to_string()
}

fn status(server: &Server, token: &str) -> u16 {
    server.call("GET", "/api/v1/messages", token, &Value::Null).status
}

fn failures(server: &Server) -> String {
    let page = server.get("/metrics").text;
    let line = page.lines().find(|line| line.starts_with("fanfare_token_key_failures_total"));
    line.expect("the metric").to_owned()
}

/// Tries to start a server, and returns what it says instead.
fn refusal(flags: &[&str]) -> String {
    let other = Server::start(&[]);
    let (is_ok, said) = other.run(&[&["serve", "--bind", "127.0.0.1:0"], flags].concat(), "");
    assert!(!is_ok, "it started: {said}");
    said
}

#[test]
fn a_file_of_keys_is_read_again_on_a_signal_and_a_bad_one_changes_nothing() {
    let keys = Keys::new();
    let (old, new) = (keys.issuer("old"), keys.issuer("new"));
    let path = keys.write(&set_of(&[old.key("old")]));
    let server = Server::start(&["--jwt-jwks-file", &path]);
    let (by_old, by_new) = (old.token(Some("old"), &json!({})), new.token(Some("new"), &json!({})));
    assert_eq!((status(&server, &by_old), status(&server, &by_new)), (200, 401));
    // The name of a key chooses among keys; a token without one is tried with each.
    assert_eq!(status(&server, &old.token(Some("new"), &json!({}))), 401);
    assert_eq!(status(&server, &old.token(None, &json!({}))), 200);
    // What anybody can read is no secret that signs.
    let claims = json!({"sub": "ann", "exp": now_s() + 600});
    assert_eq!(status(&server, &sign(&claims, &old.x, Algorithm::HS256)), 401);

    keys.write(&set_of(&[old.key("old"), new.key("new")]));
    server.signal("HUP");
    eventually("the new key counts", PATIENCE, || status(&server, &by_new) == 200);
    assert_eq!(status(&server, &by_old), 200);

    keys.write(&set_of(&[new.key("new")]));
    server.signal("HUP");
    eventually("the old key is over", PATIENCE, || status(&server, &by_old) == 401);

    let secret = json!({"kty": "oct", "kid": "s", "k": "c2VjcmV0"});
    let private = json!({"kty": "OKP", "crv": "Ed25519", "x": new.x, "d": new.x});
    for (failed, broken) in
        ["{", "{}", &set_of(&[secret]), &set_of(&[new.key("n"), private])].into_iter().enumerate()
    {
        keys.write(broken);
        server.signal("HUP");
        let expected = format!("fanfare_token_key_failures_total {}", failed + 1);
        eventually("the failure counts", PATIENCE, || failures(&server) == expected);
        assert_eq!(status(&server, &by_new), 200, "{broken}");
    }
    assert!(server.log().contains("the token keys stay as they were"));
    keys.write(&set_of(&[old.key("old")]));
    server.signal("HUP");
    eventually("the good one counts again", PATIENCE, || status(&server, &by_old) == 200);
}

#[test]
fn a_server_without_a_good_set_of_keys_does_not_start() {
    let keys = Keys::new();
    let issuer = keys.issuer("a");
    for (set, word) in [
        ("nothing", "not a JSON document"),
        ("{\"keys\":[]}", "no key of RSA, P-256 or Ed25519"),
        (&set_of(&[json!({"kty": "oct", "k": "AAAA"})]), "a secret"),
        (&set_of(&[json!({"kty": "OKP", "crv": "Ed25519", "x": issuer.x, "d": "AA"})]), "private"),
    ] {
        let said = refusal(&["--jwt-jwks-file", &keys.write(set)]);
        assert!(said.contains("jwt-jwks-file") && said.contains(word), "{said}");
    }
    let path = keys.write(&set_of(&[issuer.key("a")]));
    for other in [&["--jwt-secret", SECRET][..], &["--jwt-public-key", &path]] {
        let said = refusal(&[&["--jwt-jwks-file", &path], other].concat());
        assert!(said.contains("tokens are checked in one way"), "{said}");
    }
    let said = refusal(&["--jwt-jwks-file", &path, "--jwt-other-secrets", SECRET]);
    assert!(said.contains("jwt-other-secrets") && !said.contains(SECRET), "{said}");
    let said = refusal(&["--jwt-jwks-url", "ftp://issuer.example/keys"]);
    assert!(said.contains("jwt-jwks-url"), "{said}");
}

/// The server of an issuer, with the document that it has at the moment; none: it is down.
struct Site {
    url: String,
    document: Arc<Mutex<Option<String>>>,
    readings: Arc<AtomicU64>,
}

impl Site {
    fn start(document: String) -> Site {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let url = format!("http://{}/keys?tenant=1", listener.local_addr().expect("an address"));
        let document = Arc::new(Mutex::new(Some(document)));
        let readings = Arc::new(AtomicU64::new(0));
        let (shown, count) = (Arc::clone(&document), Arc::clone(&readings));
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut head = Vec::new();
                let mut lines = BufReader::new(stream.try_clone().expect("a handle"));
                while lines.read_until(b'\n', &mut head).unwrap_or(0) > 2 {}
                assert!(head.starts_with(b"GET /keys?tenant=1"), "{head:?}");
                count.fetch_add(1, Ordering::SeqCst);
                let (line, body) = match &*shown.lock() {
                    Some(body) => ("200 OK", body.clone()),
                    None => ("503 Service Unavailable", String::new()),
                };
                let length = body.len();
                let _ = write!(
                    stream,
                    "HTTP/1.1 {line}\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
                );
            }
        });
        Site { url, document, readings }
    }

    fn set(&self, document: Option<String>) {
        *self.document.lock() = document;
    }
}

#[test]
fn keys_at_a_url_are_read_as_soon_as_a_token_needs_them_and_kept_for_the_next_start() {
    let keys = Keys::new();
    let (old, new) = (keys.issuer("old"), keys.issuer("new"));
    let site = Site::start(set_of(&[old.key("old")]));
    let mut server = Server::start(&["--jwt-jwks-url", &site.url]);
    let (by_old, by_new) = (old.token(Some("old"), &json!({})), new.token(Some("new"), &json!({})));
    assert_eq!(status(&server, &by_old), 200);
    assert_eq!(site.readings.load(Ordering::SeqCst), 1);

    // The refresh is five minutes away, and nobody sends a signal.
    site.set(Some(set_of(&[old.key("old"), new.key("new")])));
    eventually("the new key counts", EARLY_PATIENCE, || status(&server, &by_new) == 200);
    assert_eq!(site.readings.load(Ordering::SeqCst), 2, "one reading for all of these tokens");

    // The issuer is down, and the server begins again.
    site.set(None);
    server.stop();
    server.restart();
    assert_eq!((status(&server, &by_old), status(&server, &by_new)), (200, 200));
    assert!(server.log().contains("the last good ones are used"));
    let kept = server.dir().join("data/jwks.json");
    assert!(is_private(&kept), "only the server reads what it trusts");

    // What is kept is of this URL alone.
    let other = format!("{}&other", site.url);
    let flags = ["serve", "--bind", "127.0.0.1:0", "--jwt-jwks-url", &other];
    let (is_ok, said) = server.run(&flags, "");
    assert!(!is_ok, "{said}");
    assert!(said.contains("jwt-jwks-url") && said.contains("503"), "{said}");
}

fn is_private(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::metadata(path).expect("it is kept").permissions().mode() & 0o777 == 0o600
}

#[test]
fn tokens_of_another_issuer_or_for_others_are_refused() {
    let keys = Keys::new();
    let issuer = keys.issuer("a");
    let path = keys.write(&set_of(&[issuer.key("a")]));
    let flags = ["--jwt-jwks-file", &path, "--jwt-issuer", "https://issuer.example"];
    let server = Server::start(&[&flags[..], &["--jwt-audience", "push, registry"]].concat());
    for (iss, aud, expected) in [
        (json!("https://issuer.example"), json!("push"), 200),
        (json!("https://issuer.example"), json!(["mail", "registry"]), 200),
        (json!("https://issuer.example/"), json!("push"), 401),
        (json!("https://issuer.example"), json!("mail"), 401),
        (json!("https://issuer.example"), json!(null), 401),
        (json!(null), json!("push"), 401),
    ] {
        let token = issuer.token(Some("a"), &json!({"iss": iss, "aud": aud}));
        assert_eq!(status(&server, &token), expected, "{iss} {aud}");
    }
}

#[test]
fn a_secret_is_changed_while_tokens_of_the_old_one_still_count() {
    let other = "another secret of more than thirty-two bytes";
    let claims = json!({"sub": "ann", "exp": now_s() + 600});
    let of = |secret: &str| sign(&claims, secret, Algorithm::HS256);
    let flags = ["--jwt-secret", SECRET, "--jwt-other-secrets", other, "--jwt-audience", "push"];
    let server = Server::start(&flags[..4]);
    assert_eq!((status(&server, &of(SECRET)), status(&server, &of(other))), (200, 200));
    assert_eq!(status(&server, &of("a third secret of more than thirty-two bytes")), 401);
    let config = server.get("/api/status/config.json").text;
    assert!(!config.contains(other) && !server.log().contains(other));

    // A server's own tokens are for its own audience.
    let server = Server::start(&flags);
    assert_eq!(status(&server, &of(SECRET)), 401);
    let registered = json!({"username": "bob", "password": "correct horse"});
    assert_eq!(server.call("POST", "/api/v1/users/register", "", &registered).status, 201);
    let login = server.call("POST", "/api/v1/users/login", "", &registered);
    assert_eq!(status(&server, login.body["token"].as_str().expect("a token")), 200);
}
