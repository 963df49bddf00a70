//! TLS in the server itself: the same HTTP and WebSocket behind it, slow readers included, and a
//! certificate that is read again while connections stay.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use fanfare_test_support::{Picture, Server, eventually, instances};
use serde_json::{Value, json};
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};
use tungstenite::{Message, WebSocket};

type Tls = StreamOwned<ClientConnection, TcpStream>;

/// A certificate for localhost and its key, in a directory of their own.
struct Identity(PathBuf);

impl Identity {
    fn new() -> Identity {
        let dir = std::env::temp_dir().join(format!("fanfare-tls-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let identity = Identity(dir);
        identity.renew();
        identity
    }

    fn renew(&self) {
        let made = Command::new("openssl")
            .args(["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"])
            .args(["-nodes", "-days", "2", "-subj", "/CN=localhost"])
            .args(["-addext", "subjectAltName=DNS:localhost"])
            .args(["-addext", "basicConstraints=critical,CA:FALSE", "-keyout"])
            .arg(self.key())
            .arg("-out")
            .arg(self.certificate())
            .output()
            .expect("OpenSSL's program is installed");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    }

    fn certificate(&self) -> PathBuf {
        self.0.join("cert.pem")
    }

    fn key(&self) -> PathBuf {
        self.0.join("key.pem")
    }

    fn server(&self, flags: &[&str]) -> Server {
        let (certificate, key) = (self.certificate(), self.key());
        let mut all = vec!["--tls-cert", text(&certificate), "--tls-key", text(&key)];
        all.extend(flags);
        Server::start(&all)
    }

    /// A connection whose other end has to have the present certificate.
    fn connect(&self, server: &Server) -> std::io::Result<Tls> {
        self.connect_over(TcpStream::connect(server.address())?)
    }

    fn connect_over(&self, stream: TcpStream) -> std::io::Result<Tls> {
        let mut roots = RootCertStore::empty();
        let certificate = CertificateDer::from_pem_file(self.certificate()).expect("a certificate");
        roots.add(certificate).expect("a root");
        let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .expect("versions")
            .with_root_certificates(roots)
            .with_no_client_auth();
        let name = ServerName::try_from("localhost").expect("a name");
        let connection = ClientConnection::new(Arc::new(config), name).expect("a connection");
        stream.set_read_timeout(Some(Duration::from_secs(10)))?;
        let mut tls = StreamOwned::new(connection, stream);
        while tls.conn.is_handshaking() {
            tls.conn.complete_io(&mut tls.sock)?;
        }
        Ok(tls)
    }
}

impl Drop for Identity {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Sends a request and reads one answer with a `Content-Length`.
fn exchange(tls: &mut Tls, method: &str, path: &str, body: &str) -> (u16, Value) {
    let request = format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    );
    tls.write_all(request.as_bytes()).expect("it is sent");
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        tls.read_exact(&mut byte).expect("a head in time");
        head.push(byte[0]);
    }
    let head = String::from_utf8(head).expect("text").to_ascii_lowercase();
    let length = head.split("content-length: ").nth(1).expect("a length");
    let length = length.split("\r\n").next().and_then(|text| text.parse().ok()).expect("a number");
    let mut body = vec![0; length];
    tls.read_exact(&mut body).expect("a body in time");
    let status = head[9..12].parse().expect("a status");
    (status, serde_json::from_slice(&body).expect("JSON"))
}

fn register(tls: &mut Tls, list: &[Value]) {
    let body = json!({"instances": list}).to_string();
    let (status, answer) = exchange(tls, "POST", "/api/registry/register.json", &body);
    assert_eq!((status, &answer["responseStatus"]["status"]), (200, &json!("success")), "{answer}");
}

fn socket(tls: Tls) -> WebSocket<Tls> {
    let (mut socket, _) =
        tungstenite::client("wss://localhost/ws", tls).expect("the server upgrades");
    assert_eq!(next(&mut socket)["type"], "welcome");
    socket
}

fn next(socket: &mut WebSocket<Tls>) -> Value {
    loop {
        if let Message::Text(text) = socket.read().expect("a frame in time") {
            return serde_json::from_str(&text).expect("JSON");
        }
    }
}

fn ask(socket: &mut WebSocket<Tls>, command: &Value, answer: &str) -> Value {
    socket.send(Message::text(command.to_string())).expect("it is sent");
    loop {
        let frame = next(socket);
        if frame["type"] == answer {
            return frame;
        }
    }
}

#[test]
fn http_and_sockets_behind_tls() {
    let identity = Identity::new();
    let server = identity.server(&[]);
    let mut tls = identity.connect(&server).expect("a handshake");
    assert_eq!(exchange(&mut tls, "GET", "/health", "").1, json!({"status": "up"}));
    let mut follower = socket(identity.connect(&server).expect("a handshake"));
    ask(&mut follower, &json!({"type": "subscribe", "service_id": "s"}), "subscribed");
    register(&mut tls, &instances("s", 3));
    let push = next(&mut follower);
    assert_eq!((&push["type"], &push["revision"]), (&json!("service_change"), &json!(3)));
    // The connection that has served HTTP becomes a socket, too.
    let mut late = socket(tls);
    ask(&mut late, &json!({"type": "ping"}), "pong");
}

#[test]
fn a_slow_reader_behind_tls_catches_up() {
    let identity = Identity::new();
    let server = identity.server(&["--outbox-bytes-max", "64KiB"]);
    let mut tls = identity.connect(&server).expect("a handshake");
    let mut follower = socket(identity.connect(&server).expect("a handshake"));
    let subscribe = json!({"type": "subscribe", "service_id": "s", "snapshot": true});
    let mut picture = Picture::of_subscribed(&ask(&mut follower, &subscribe, "subscribed"));
    // Far more than socket buffers and the outbox hold, while the follower reads nothing.
    for round in 0..60 {
        let mut list = instances("s", 300);
        for one in &mut list {
            one["metadata"] = json!({"round": round, "filling": "x".repeat(200)});
        }
        register(&mut tls, &list);
    }
    let (_, answer) = exchange(&mut tls, "GET", "/api/discovery/service.json?serviceId=s", "");
    let registry = Picture::of_discovered(&answer["service"]);
    while picture.revision < registry.revision {
        picture.apply(&next(&mut follower));
    }
    assert_eq!(picture.names(), registry.names());
    let (_, stats) = exchange(&mut tls, "GET", "/ws/stats", "");
    assert!(stats["slow_readers_total"].as_u64() > Some(0), "nothing was skipped: {stats}");
    ask(&mut follower, &json!({"type": "ping"}), "pong");
}

/// What waits in the session of TLS is not progress either.
#[test]
fn one_behind_tls_that_takes_nothing_is_gone_after_one_write_timeout() {
    const WRITE_TIMEOUT: Duration = Duration::from_secs(8);
    let identity = Identity::new();
    let server = identity.server(&["--outbox-bytes-max", "64KiB", "--write-timeout", "8s"]);
    let stream = server.narrow_stream();
    let port = stream.local_addr().expect("an address").port();
    let mut stalled = socket(identity.connect_over(stream).expect("a handshake"));
    ask(&mut stalled, &json!({"type": "subscribe", "service_id": "s"}), "subscribed");
    let mut tls = identity.connect(&server).expect("a handshake");
    let slow_readers = |tls: &mut Tls| {
        exchange(tls, "GET", "/ws/stats", "").1["slow_readers_total"].as_u64().expect("a count")
    };
    for round in 0.. {
        let mut list = instances("s", 300);
        for one in &mut list {
            one["metadata"] = json!({"round": round, "filling": "x".repeat(200)});
        }
        register(&mut tls, &list);
        if slow_readers(&mut tls) > 0 {
            break;
        }
        assert!(round < 500, "its outbox never filled");
    }
    let since = Instant::now();
    eventually("its socket is gone", WRITE_TIMEOUT + Duration::from_secs(5), || {
        !server.has_socket(port)
    });
    assert!(since.elapsed() > WRITE_TIMEOUT / 2, "gone after {:?}", since.elapsed());
}

#[test]
fn a_certificate_is_read_again_and_connections_stay() {
    let identity = Identity::new();
    let server = identity.server(&[]);
    let mut before = socket(identity.connect(&server).expect("a handshake"));
    identity.renew();
    let refused = identity.connect(&server).expect_err("it still shows the old certificate");
    assert_eq!(refused.kind(), std::io::ErrorKind::InvalidData, "{refused}");
    server.signal("HUP");
    eventually("the new certificate is shown", Duration::from_secs(10), || {
        identity.connect(&server).is_ok()
    });
    ask(&mut before, &json!({"type": "ping"}), "pong");
    // What cannot be read changes nothing.
    std::fs::write(identity.certificate(), "no certificate").expect("written");
    server.signal("HUP");
    eventually("the fault is logged", Duration::from_secs(10), || {
        server.log().contains("the certificate stays as it was")
    });
    ask(&mut before, &json!({"type": "ping"}), "pong");
}

/// Sends bytes to a server and reads to the connection's end.
fn answer_to(server: &Server, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(server.address()).expect("the server accepts");
    stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
    stream.write_all(bytes).expect("it is sent");
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).expect("an end, and no reset");
    answer
}

#[test]
fn what_is_no_tls_is_told_so_at_once() {
    let identity = Identity::new();
    // Nobody who waits for the handshake's timeout is answered within the patience of this test.
    let server = identity.server(&["--handshake-timeout", "1m"]);
    let body = vec![b'x'; 20_000];
    let post = b"POST /eureka/apps/X HTTP/1.1\r\nHost: localhost\r\nContent-Length: 20000\r\n\r\n";
    for bytes in [
        &b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n"[..],
        b"G",
        b"\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"some text",
        &[&post[..], &body].concat(),
    ] {
        let answer = String::from_utf8(answer_to(&server, bytes)).expect("a text");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\n"), "{head}");
        assert!(head.contains("Content-Type: application/problem+json"), "{head}");
        let body: Value = serde_json::from_str(body).expect("JSON");
        assert_eq!((&body["status"], &body["code"]), (&json!(400), &json!("malformed")));
        assert!(body["detail"].as_str().is_some_and(|detail| detail.contains("https://")));
    }
    for bytes in [
        &b"\x00"[..],
        b"\x80\x2e\x01\x00\x02",
        b"\xff\xff\xff\xff\xff",
        b"\x16GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\xff\xff\x00\x00\x00\x00",
        b"\x16\x03\x01\x00\x04\x63\x00\x00\x00",
    ] {
        let answer = answer_to(&server, bytes);
        assert_eq!(answer.first(), Some(&21), "an alert for {bytes:?}: {answer:?}");
    }
    let mut tls = identity.connect(&server).expect("a handshake");
    assert_eq!(exchange(&mut tls, "GET", "/health", "").0, 200);
}

#[test]
fn silence_ends_without_harm() {
    let identity = Identity::new();
    let server = identity.server(&["--handshake-timeout", "300ms"]);
    for bytes in [&b""[..], b"\x16", b"\x16\x03\x01\x01\x00"] {
        let mut stream = TcpStream::connect(server.address()).expect("the server accepts");
        stream.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        stream.write_all(bytes).expect("it is sent");
        // An alert, a reset or nothing: in any case an end, and no text.
        let mut answer = Vec::new();
        let _ = stream.read_to_end(&mut answer);
        assert!(!answer.starts_with(b"HTTP"), "silence was answered");
    }
    let mut tls = identity.connect(&server).expect("a handshake");
    assert_eq!(exchange(&mut tls, "GET", "/health", "").0, 200);
}

#[test]
fn what_cannot_be_used_is_named_at_the_start() {
    let identity = Identity::new();
    std::fs::write(identity.key(), "no key").expect("written");
    let (certificate, key) = (identity.certificate(), identity.key());
    for (flags, word) in [
        (vec!["--tls-cert", text(&certificate)], "tls-key"),
        (vec!["--tls-key", text(&key)], "tls-cert"),
        (vec!["--tls-cert", text(&certificate), "--tls-key", text(&key)], "key.pem"),
        (vec!["--tls-cert", "/nowhere/cert.pem", "--tls-key", text(&key)], "/nowhere/cert.pem"),
    ] {
        let run = Command::new(env!("CARGO_BIN_EXE_fanfare"))
            .args(["--bind", "127.0.0.1:0", "--data-dir"])
            .arg(identity.0.join("data"))
            .args(&flags)
            .output()
            .expect("the binary starts");
        let said = String::from_utf8_lossy(&run.stderr).into_owned();
        assert_eq!(run.status.code(), Some(2), "{said}");
        assert!(said.contains(word), "{said}");
    }
}

/// Our own client, behind the commands of the binary: it trusts what the system trusts.
#[test]
fn the_command_line_speaks_tls_and_trusts_nobody_else() {
    let identity = Identity::new();
    let server = identity.server(&[]);
    register(&mut identity.connect(&server).expect("a handshake"), &instances("orders", 2));
    let url = format!("https://localhost:{}", server.address().port());
    let ask = |trusted: &Path| {
        let run = Command::new(env!("CARGO_BIN_EXE_fanfare"))
            .args(["services", "--url", &url])
            .env("SSL_CERT_FILE", trusted)
            .output()
            .expect("the binary starts");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (run.status.success(), text(&run.stdout), text(&run.stderr))
    };
    let (is_well, text, fault) = ask(&identity.certificate());
    assert!(is_well && text.contains("orders"), "{text}{fault}");
    let (is_well, _, fault) = ask(&Identity::new().certificate());
    assert!(!is_well && fault.contains("certificate"), "{fault}");
}
