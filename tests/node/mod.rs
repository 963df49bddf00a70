//! A server process that comes back on its port, and a proxy that spoils what passes through it.
//!
//! What tests of the client need: they have to find the server again where it was, and to see a
//! connection break, or lose a single frame, at a moment of their choice.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::disallowed_methods, clippy::disallowed_types, reason = "a test has its own clock")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use fanfare_client::{Builder, Client, Instance, ServiceState};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::sync::watch;

/// How long anything may take that a test waits for.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The secret of the servers' tokens.
pub const SECRET: &str = "a secret of more than thirty-two bytes";

/// A server process with a port and a directory of its own.
pub struct Node {
    child: Child,
    address: SocketAddr,
    dir: PathBuf,
    flags: Vec<String>,
}

impl Node {
    pub fn start(flags: &[&str]) -> Node {
        let dir = std::env::temp_dir().join(format!("fanfare-client-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&dir).expect("a directory for the test");
        let mut all = vec!["--jwt-secret".to_owned(), SECRET.to_owned()];
        all.extend(flags.iter().map(|&flag| flag.to_owned()));
        let (child, address) = launch(&dir, "127.0.0.1:0", &all);
        Node { child, address, dir, flags: all }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// SIGTERM.
    pub fn terminate(&self) {
        self.signal("-TERM");
    }

    /// Any signal.
    pub fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        let status = Command::new("kill").args([signal, &pid]).status().expect("kill runs");
        assert!(status.success());
    }

    /// Waits for the end after [`Node::terminate`].
    pub fn wait(&mut self) {
        let start = Instant::now();
        while self.child.try_wait().expect("a child can be waited for").is_none() {
            assert!(start.elapsed() < Duration::from_secs(30), "the server does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Forgets everything that was stored.
    pub fn lose_data(&self) {
        fs::remove_dir_all(self.dir.join("data")).expect("its data");
    }

    /// Starts again on the same port and data.
    pub fn restart(&mut self) {
        (self.child, self.address) = launch(&self.dir, &self.address.to_string(), &self.flags);
    }

    pub fn get(&self, path: &str) -> Value {
        self.call("GET", path, "", &Value::Null).1
    }

    pub fn post(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.call("POST", path, "", body);
        assert!((200..300).contains(&status), "{path}: {status} {answer}");
        answer
    }

    /// Any call. Returns status and body.
    pub fn call(&self, method: &str, path: &str, token: &str, body: &Value) -> (u16, Value) {
        let mut stream = TcpStream::connect(self.address).expect("the server accepts");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout above zero");
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let bearer = if token.is_empty() {
            String::new()
        } else {
            format!("Authorization: Bearer {token}\r\n")
        };
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\n{bearer}Content-Type: application/json\r\n\
             Content-Length: {}\r\nConnection: close\r\n\r\n{body}",
            self.address,
            body.len()
        );
        stream.write_all(head.as_bytes()).expect("the server reads");
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).expect("an answer in time");
        let text = String::from_utf8(answer).expect("UTF-8");
        let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("HTTP");
        let body = text.split_once("\r\n\r\n").expect("a head").1;
        (status, serde_json::from_str(body).unwrap_or_default())
    }

    pub fn register(&self, instances: &[Value]) {
        let answer = self.post("/api/registry/register.json", &json!({"instances": instances}));
        assert_eq!(answer["responseStatus"]["status"], "success", "{answer}");
    }

    pub fn unregister(&self, instances: &[Value]) {
        let answer = self.post("/api/registry/unregister.json", &json!({"instances": instances}));
        assert_eq!(answer["responseStatus"]["status"], "success", "{answer}");
    }

    /// What discovery says of a service; null where it was never seen.
    pub fn discover(&self, service: &str) -> Value {
        self.get(&format!("/api/discovery/service.json?serviceId={service}"))["service"].clone()
    }

    /// Whether a client's state is exactly the registry's.
    pub fn agrees(&self, state: Option<&Arc<ServiceState>>) -> bool {
        let Some(state) = state else { return false };
        picture(state) == discovered(&self.discover(state.service.as_str()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("the server: {}", lines[lines.len().saturating_sub(20)..].join("\n"));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

fn launch(dir: &Path, bind: &str, flags: &[String]) -> (Child, SocketAddr) {
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("a log");
    let mut child = Command::new(env!("CARGO_BIN_EXE_fanfare"))
        .args(["--bind", bind, "--data-dir"])
        .arg(dir.join("data"))
        .args(flags)
        // With a secret the server would want tokens of everybody.
        .env("FANFARE_AUTH", "open")
        .current_dir(dir)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the binary starts");
    let mut stdout = BufReader::new(child.stdout.take().expect("it is piped"));
    let mut line = String::new();
    // A server that fails ends, and so does this.
    stdout.read_line(&mut line).expect("its first line");
    let address = line.trim_end().strip_prefix("fanfare listening on http://");
    let address = address.unwrap_or_else(|| panic!("the server does not listen: {line:?}"));
    std::thread::spawn(move || std::io::copy(&mut stdout, &mut std::io::sink()));
    (child, address.parse().expect("an address"))
}

type Picture = (String, u64, bool, BTreeMap<String, Value>);

fn by_name(instances: impl Iterator<Item = Value>) -> BTreeMap<String, Value> {
    let name = |one: &Value| format!("{}/{}", one["regionId"], one["instanceId"]);
    instances.map(|one| (name(&one), one)).collect()
}

fn picture(state: &ServiceState) -> Picture {
    let value = |one: &Arc<Instance>| serde_json::to_value(&**one).expect("JSON");
    let instances = by_name(state.instances.iter().map(value));
    (state.epoch.to_string(), state.revision, state.is_degraded, instances)
}

fn discovered(service: &Value) -> Picture {
    let instances = service["instances"].as_array().cloned().unwrap_or_default();
    (
        service["epoch"].as_str().unwrap_or_default().to_owned(),
        service["revision"].as_u64().unwrap_or_default(),
        service["degraded"].as_bool().unwrap_or_default(),
        by_name(instances.into_iter()),
    )
}

/// A client of a server, with waits that suit a test.
pub fn builder(url: &str) -> Builder {
    Client::builder().url(url).backoff(Duration::from_millis(20), Duration::from_millis(200))
}

/// A client that is connected.
pub async fn connect(url: &str) -> Client {
    builder(url).connect().await.expect("the server is there")
}

/// A client that is signed in.
pub async fn connect_as(url: &str, user: &str) -> Client {
    builder(url).token(token(user, 3_600, "")).connect().await.expect("the server is there")
}

/// Waits until something is so.
pub async fn eventually(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Waits for something, but not for ever.
pub async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("never: {what}"))
}

/// A token of a user that ends after so many seconds.
pub fn token(user: &str, seconds: u64, scope: &str) -> String {
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let claims = json!({"sub": user, "username": user, "exp": now + seconds, "scope": scope});
    let key = jsonwebtoken::EncodingKey::from_secret(SECRET.as_bytes());
    let header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    jsonwebtoken::encode(&header, &claims, &key).expect("a token")
}

/// An instance as JSON.
pub fn instance(service: &str, name: &str) -> Value {
    json!({
        "regionId": "r1", "serviceId": service, "instanceId": name, "status": "up",
        "url": format!("http://10.0.0.1/{name}"), "metadata": {"weight": 1},
    })
}

/// The same for a client.
pub fn described(service: &str, name: &str) -> Instance {
    serde_json::from_value(instance(service, name)).expect("an instance")
}

/// Passes bytes on to a server until it is told to cut, to refuse, or to lose a frame.
pub struct Proxy {
    address: SocketAddr,
    cut: watch::Sender<u64>,
    is_refusing: Arc<AtomicBool>,
    losing: Arc<std::sync::OnceLock<String>>,
    lost: Arc<AtomicUsize>,
}

impl Proxy {
    /// Starts in front of a server.
    pub async fn start(target: SocketAddr) -> Proxy {
        Proxy::losing(target, None).await
    }

    /// Loses the first frame of the server that holds this text.
    pub async fn losing(target: SocketAddr, text: Option<&str>) -> Proxy {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let proxy = Proxy {
            address: listener.local_addr().expect("it listens"),
            cut: watch::Sender::new(0),
            is_refusing: Arc::default(),
            losing: Arc::default(),
            lost: Arc::default(),
        };
        if let Some(text) = text {
            proxy.losing.set(text.to_owned()).expect("set once");
        }
        let (cut, is_refusing) = (proxy.cut.clone(), Arc::clone(&proxy.is_refusing));
        let (losing, lost) = (Arc::clone(&proxy.losing), Arc::clone(&proxy.lost));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                if is_refusing.load(Ordering::SeqCst) {
                    continue;
                }
                let Ok(server) = tokio::net::TcpStream::connect(target).await else { continue };
                let mut cut = cut.subscribe();
                let (losing, lost) = (losing.get().cloned(), Arc::clone(&lost));
                tokio::spawn(async move {
                    let (mut from_client, to_client) = client.into_split();
                    let (from_server, mut to_server) = server.into_split();
                    tokio::select! {
                        _ = tokio::io::copy(&mut from_client, &mut to_server) => {}
                        () = pass_frames(from_server, to_client, losing, &lost) => {}
                        _ = cut.changed() => {}
                    }
                });
            }
        });
        proxy
    }

    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// Ends every connection.
    pub fn cut(&self) {
        self.cut.send_modify(|count| *count += 1);
    }

    /// Whether new connections end at once.
    pub fn refuse(&self, is_refusing: bool) {
        self.is_refusing.store(is_refusing, Ordering::SeqCst);
    }

    /// How many frames were lost.
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::SeqCst)
    }
}

/// Passes on what a server says: its head, and then frame by frame (RFC 6455, 5.2).
async fn pass_frames(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    losing: Option<String>,
    lost: &AtomicUsize,
) {
    let mut held = Vec::new();
    let mut is_past_head = false;
    loop {
        let mut bytes = [0; 16 * 1_024];
        let Ok(count @ 1..) = from.read(&mut bytes).await else { return };
        held.extend_from_slice(&bytes[..count]);
        let Some(text) = &losing else {
            let passed = to.write_all(&held).await;
            held.clear();
            if passed.is_err() {
                return;
            }
            continue;
        };
        if !is_past_head {
            let Some(end) = held.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let head: Vec<u8> = held.drain(..end + 4).collect();
            is_past_head = true;
            if to.write_all(&head).await.is_err() {
                return;
            }
        }
        while let Some(length) = frame_length(&held).filter(|length| held.len() >= *length) {
            let frame: Vec<u8> = held.drain(..length).collect();
            let is_it = frame.windows(text.len()).any(|part| part == text.as_bytes());
            if is_it && lost.fetch_add(1, Ordering::SeqCst) == 0 {
                continue;
            }
            if to.write_all(&frame).await.is_err() {
                return;
            }
        }
    }
}

fn frame_length(bytes: &[u8]) -> Option<usize> {
    let short = usize::from(bytes.get(1)? & 0x7f);
    let number = |from: &[u8]| from.iter().fold(0, |sum, &byte| sum << 8 | usize::from(byte));
    match short {
        126 => Some(4 + number(bytes.get(2..4)?)),
        127 => Some(10 + number(bytes.get(2..10)?)),
        short => Some(2 + short),
    }
}
