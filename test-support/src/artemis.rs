//! A stand-in for Artemis' Java client, as its sources and its traffic have it: where it is strange, so is this.
//!
//! * HTTP: each header twice, gzip bodies in chunks of 10 bytes, the rest and 0, kept connections; 100 ms to
//!   connect and 100 ms to read; 5 tries 100 ms apart, a node that failed is left.
//! * `register` sends an *unregister*, and the instance goes into the set of heartbeats. What a heartbeat names
//!   as unknown is registered, as it was echoed.
//! * Sockets: a ping a second, whose pong is missed if it comes at once; a new session after a while, and the
//!   old one closed before the new one subscribes; back at once after any close, at most 5 times in 20 s.
//! * A frame above 8,192 UTF-16 units ends its socket with 1009. Its own texts are fragmented at 8,192 bytes.
//! * Changes are found by a map with lower-case keys; a time that is no number, and metadata that is no map of
//!   scalars, make it drop the frame, or the whole answer to a look-up.
//!
//! Imports `raw`. Imported by tests.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::time::{Duration, Instant};

use parking_lot::{Mutex, MutexGuard};
use serde_json::{Value, json};

use crate::raw::masked;

/// Longest frame that the client takes.
const FRAME_UNITS_MAX: usize = 8 * 1_024;

/// How soon after a ping a pong is missed.
const DEAF: Duration = Duration::from_millis(3);

/// The client's settings. Those of the real one are the default.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Time between two heartbeats.
    pub heartbeat: Duration,
    /// Time without a heartbeat after which it leaves its node.
    pub heartbeat_ttl: Duration,
    /// Time between two pings, and the longest wait for a pong.
    pub ping: Duration,
    /// Life of a session.
    pub session: Duration,
    /// Time between two looks for services that have no instances or could not be looked up.
    pub poll: Duration,
    /// Time to connect, and to read.
    pub http: Duration,
    /// Tries of a call.
    pub tries: usize,
    /// Reconnects within `reconnect_span`.
    pub reconnects_max: usize,
    pub reconnect_span: Duration,
    /// Where version 1 has its sockets; `websocket` is version 2.
    pub sockets: &'static str,
}

impl Default for Settings {
    fn default() -> Settings {
        Settings {
            heartbeat: Duration::from_secs(5),
            heartbeat_ttl: Duration::from_secs(20),
            ping: Duration::from_secs(1),
            session: Duration::from_mins(5),
            poll: Duration::from_mins(1),
            http: Duration::from_millis(100),
            tries: 5,
            reconnects_max: 5,
            reconnect_span: Duration::from_secs(20),
            sockets: "ws",
        }
    }
}

impl Settings {
    /// The same, ten times as fast where the real one waits for seconds, and with patience for a busy machine.
    pub fn fast() -> Settings {
        Settings {
            heartbeat: Duration::from_millis(500),
            http: Duration::from_secs(2),
            poll: Duration::from_secs(2),
            reconnects_max: 50,
            ..Settings::default()
        }
    }
}

/// What happened that should not.
#[derive(Debug, Default)]
pub struct Counts {
    /// Pings without a pong.
    pub pongs_missed: AtomicUsize,
    /// Frames that were too large.
    pub oversized: AtomicUsize,
    /// Frames and answers that could not be read.
    pub unreadable: AtomicUsize,
    /// Calls that failed for good.
    pub calls_failed: AtomicUsize,
    /// Sessions opened.
    pub sessions: AtomicUsize,
    /// Heartbeats answered.
    pub heartbeats: AtomicUsize,
    /// Instances registered because a heartbeat named them.
    pub registered: AtomicUsize,
}

impl Counts {
    /// One of them.
    pub fn of(count: &AtomicUsize) -> usize {
        count.load(Ordering::SeqCst)
    }
}

/// A client. Dropping it ends it without a word, as a killed process does.
pub struct ArtemisClient {
    shared: Arc<Shared>,
}

struct Shared {
    settings: Settings,
    domain: String,
    registry: Door,
    discovery: Door,
    /// What heartbeats name, by key.
    instances: Mutex<BTreeMap<String, Value>>,
    /// By lower-case name.
    services: Mutex<HashMap<String, Followed>>,
    counts: Counts,
    is_over: AtomicBool,
    last_heartbeat: Mutex<Instant>,
}

/// What the client knows of a service.
#[derive(Debug, Default, Clone)]
struct Followed {
    name: String,
    instances: BTreeMap<String, Value>,
    /// The kinds of changes so far.
    changes: Vec<String>,
    has_failed: bool,
}

/// One of the two halves: its nodes, its HTTP connection and its socket.
struct Door {
    nodes_path: &'static str,
    socket_path: &'static str,
    nodes: Mutex<Vec<String>>,
    /// The node in use; none if it failed.
    node: Mutex<Option<String>>,
    http: Mutex<Option<(String, TcpStream)>>,
    session: Mutex<Option<Arc<Session>>>,
    connects: Mutex<VecDeque<Instant>>,
    wake: Mutex<Option<Sender<()>>>,
}

struct Session {
    stream: Mutex<TcpStream>,
    is_open: AtomicBool,
    opened: Instant,
    node: String,
    pinged: Mutex<Instant>,
    pongs: AtomicUsize,
}

impl Door {
    fn new(nodes_path: &'static str, socket_path: &'static str) -> Door {
        Door {
            nodes_path,
            socket_path,
            nodes: Mutex::default(),
            node: Mutex::default(),
            http: Mutex::default(),
            session: Mutex::default(),
            connects: Mutex::default(),
            wake: Mutex::default(),
        }
    }

    fn leave(&self, node: &str) {
        let mut present = lock(&self.node);
        if present.as_deref() == Some(node) {
            *present = None;
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock()
}

/// An instance with all thirteen fields, as the Java client sends it.
pub fn artemis_instance(service: &str, name: &str) -> Value {
    json!({
        "groupId": null, "healthCheckUrl": format!("http://127.0.0.1:9000/{name}/health"),
        "instanceId": name, "ip": "127.0.0.1", "machineName": format!("m-{name}"),
        "metadata": {"v": "1"}, "port": 9000, "protocol": "http", "regionId": "SHA",
        "serviceId": service, "status": "up", "url": format!("http://127.0.0.1:9000/{name}"),
        "zoneId": "jqsha",
    })
}

fn key_of(instance: &Value) -> String {
    let text = |field: &str| instance[field].as_str().unwrap_or("null");
    let key = format!("{}.{}.{}", text("regionId"), text("serviceId"), text("instanceId"));
    key.to_lowercase()
}

impl ArtemisClient {
    /// Starts a client of a domain, `http://host:port`.
    pub fn start(domain: &str, settings: Settings) -> ArtemisClient {
        let shared = Arc::new(Shared {
            settings,
            domain: domain.to_owned(),
            registry: Door::new("up-registry-nodes", "registry/heartbeat"),
            discovery: Door::new("up-discovery-nodes", "discovery/instance-change"),
            instances: Mutex::default(),
            services: Mutex::default(),
            counts: Counts::default(),
            is_over: AtomicBool::new(false),
            last_heartbeat: Mutex::new(Instant::now()),
        });
        for is_registry in [true, false] {
            let door = shared.door(is_registry);
            shared.refresh(door);
            let (wake, woken) = channel();
            *lock(&door.wake) = Some(wake);
            let shared = Arc::clone(&shared);
            std::thread::spawn(move || shared.keep_session(is_registry, &woken));
        }
        let heart = Arc::clone(&shared);
        std::thread::spawn(move || heart.beat());
        let poller = Arc::clone(&shared);
        std::thread::spawn(move || poller.poll());
        ArtemisClient { shared }
    }

    /// What went wrong so far.
    pub fn counts(&self) -> &Counts {
        &self.shared.counts
    }

    /// The nodes that it was told of.
    pub fn nodes(&self) -> Vec<String> {
        lock(&self.shared.registry.nodes).clone()
    }

    /// The node of its heartbeats.
    pub fn heartbeat_node(&self) -> Option<String> {
        lock(&self.shared.registry.session).as_ref().map(|session| session.node.clone())
    }

    /// Registers an instance: it is unregistered, and named in heartbeats from now on.
    pub fn register(&self, instance: &Value) {
        let body = json!({"instances": [instance]});
        let _ = self.shared.call(&self.shared.registry, "/api/registry/unregister.json", &body);
        lock(&self.shared.instances).insert(key_of(instance), instance.clone());
    }

    /// Unregisters it.
    pub fn unregister(&self, instance: &Value) {
        let body = json!({"instances": [instance]});
        let _ = self.shared.call(&self.shared.registry, "/api/registry/unregister.json", &body);
        lock(&self.shared.instances).remove(&key_of(instance));
    }

    /// Looks a service up and follows it from then on.
    pub fn follow(&self, service: &str) {
        let key = service.to_lowercase();
        let followed = Followed { name: service.to_owned(), ..Followed::default() };
        lock(&self.shared.services).insert(key.clone(), followed);
        self.shared.reload(&key);
        if let Some(session) = lock(&self.shared.discovery.session).clone() {
            session.send_text(&subscription(service));
        }
    }

    /// The ids of the instances that it knows of a service.
    pub fn instances(&self, service: &str) -> Vec<String> {
        let services = lock(&self.shared.services);
        let followed = services.get(&service.to_lowercase());
        let ids = followed.into_iter().flat_map(|followed| followed.instances.values());
        let mut ids: Vec<String> =
            ids.filter_map(|one| one["instanceId"].as_str().map(str::to_owned)).collect();
        ids.sort();
        ids
    }

    /// One instance as it knows it.
    pub fn instance(&self, service: &str, name: &str) -> Option<Value> {
        let services = lock(&self.shared.services);
        let followed = services.get(&service.to_lowercase())?;
        followed.instances.values().find(|one| one["instanceId"] == name).cloned()
    }

    /// The kinds of changes that it has seen of a service.
    pub fn changes(&self, service: &str) -> Vec<String> {
        let services = lock(&self.shared.services);
        services.get(&service.to_lowercase()).map(|one| one.changes.clone()).unwrap_or_default()
    }

    /// Opens a new session of changes in place of the present one, as it does every few minutes.
    pub fn rotate(&self) {
        self.shared.connect(false);
    }
}

impl Drop for ArtemisClient {
    fn drop(&mut self) {
        self.shared.is_over.store(true, Ordering::SeqCst);
        for door in [&self.shared.registry, &self.shared.discovery] {
            if let Some(session) = lock(&door.session).take() {
                session.cut();
            }
            *lock(&door.wake) = None;
        }
    }
}

fn subscription(service: &str) -> Value {
    json!({"discoveryData": null, "regionId": null, "serviceId": service, "zoneId": null})
}

impl Shared {
    fn door(&self, is_registry: bool) -> &Door {
        if is_registry { &self.registry } else { &self.discovery }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::SeqCst)
    }

    // --- Nodes and calls -------------------------------------------------------------------------

    /// Asks the domain for the nodes. Where it fails the client uses what it knew, or the domain itself.
    fn refresh(&self, door: &Door) {
        let path = format!("/api/cluster/{}.json", door.nodes_path);
        let body = json!({"regionId": "SHA", "zoneId": "jqsha"});
        let Ok(answer) = self.try_call(&mut None, &self.domain, &path, &body) else { return };
        let nodes = answer["nodes"].as_array().cloned().unwrap_or_default();
        let mut urls: Vec<String> = nodes
            .iter()
            .filter_map(|node| Some(node["url"].as_str()?.trim_end_matches('/').to_owned()))
            .collect();
        urls.sort();
        urls.dedup();
        if !urls.is_empty() {
            *lock(&door.nodes) = urls;
        }
    }

    /// The node in use, or another one by chance.
    fn node_of(&self, door: &Door) -> String {
        let mut present = lock(&door.node);
        present
            .get_or_insert_with(|| {
                let nodes = lock(&door.nodes);
                if nodes.is_empty() {
                    return self.domain.clone();
                }
                let chance = uuid::Uuid::new_v4().as_u128() as usize;
                nodes[chance % nodes.len()].clone()
            })
            .clone()
    }

    fn call(&self, door: &Door, path: &str, body: &Value) -> Option<Value> {
        for _ in 0..self.settings.tries {
            if self.is_over() {
                return None;
            }
            let node = self.node_of(door);
            let mut kept = lock(&door.http);
            if let Ok(answer) = self.try_call(&mut kept, &node, path, body) {
                let status = &answer["responseStatus"];
                let code = status["errorCode"].as_str().unwrap_or_default();
                let is_down = ["internal-service-error", "service-unavailable"].contains(&code);
                let is_again = is_down || code == "rate-limited";
                if status["status"] != "fail" || !is_again {
                    return Some(answer);
                }
                if is_down {
                    door.leave(&node);
                }
            } else {
                *kept = None;
                door.leave(&node);
            }
            drop(kept);
            std::thread::sleep(Duration::from_millis(100));
        }
        self.counts.calls_failed.fetch_add(1, Ordering::SeqCst);
        None
    }

    /// One try, on the kept connection if it leads to the node.
    fn try_call(
        &self,
        kept: &mut Option<(String, TcpStream)>,
        node: &str,
        path: &str,
        body: &Value,
    ) -> Result<Value, String> {
        let said = |fault: std::io::Error| fault.to_string();
        let (address, prefix) = parts(node);
        if kept.as_ref().is_none_or(|(of, _)| of != node) {
            let stream = TcpStream::connect_timeout(&address, self.settings.http).map_err(said)?;
            stream.set_nodelay(true).map_err(said)?;
            stream.set_read_timeout(Some(self.settings.http)).map_err(said)?;
            *kept = Some((node.to_owned(), stream));
        }
        let Some((_, stream)) = kept else { return Err(String::from("no connection")) };
        let head = format!(
            "POST {prefix}{path} HTTP/1.1\r\nContent-Type: application/json\r\nAccept: application/json\r\n\
             Content-Encoding: gzip\r\nContent-Type: application/json\r\nAccept: application/json\r\n\
             Transfer-Encoding: chunked\r\nHost: {address}\r\nConnection: Keep-Alive\r\n\
             User-Agent: Apache-HttpClient/4.5.2 (Java/17)\r\nAccept-Encoding: gzip,deflate\r\n\r\n"
        );
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(body.to_string().as_bytes()).map_err(said)?;
        let packed = encoder.finish().map_err(said)?;
        stream.write_all(head.as_bytes()).map_err(said)?;
        for part in [&packed[..10], &packed[10..]] {
            stream.write_all(format!("{:x}\r\n", part.len()).as_bytes()).map_err(said)?;
            stream.write_all(part).map_err(said)?;
            stream.write_all(b"\r\n").map_err(said)?;
        }
        stream.write_all(b"0\r\n\r\n").map_err(said)?;
        let (status, closes, text) = read_answer(stream)?;
        if closes {
            *kept = None;
        }
        if status >= 400 {
            return Err(format!("status {status}"));
        }
        serde_json::from_slice(&text).map_err(|fault| fault.to_string())
    }

    // --- Discovery -------------------------------------------------------------------------------

    /// Looks a service up. One that is not followed is looked up as a null.
    fn reload(&self, key: &str) {
        let name = lock(&self.services).get(key).map(|followed| followed.name.clone());
        let config = name.map_or(Value::Null, |name| subscription(&name));
        let body = json!({"discoveryConfigs": [config], "regionId": "SHA", "zoneId": "jqsha"});
        let answer = self.call(&self.discovery, "/api/discovery/lookup.json", &body);
        let found = answer.filter(|answer| answer["responseStatus"]["status"] == "success");
        let services = found.as_ref().and_then(|answer| answer["services"].as_array());
        let is_readable = |service: &Value| {
            let instances = service["instances"].as_array();
            instances.is_some_and(|instances| instances.iter().all(has_scalars))
        };
        if let Some(followed) = lock(&self.services).get_mut(key) {
            followed.has_failed = services.is_none();
        }
        let Some(services) = services else { return };
        if !services.iter().all(is_readable) {
            self.counts.unreadable.fetch_add(1, Ordering::SeqCst);
            return;
        }
        for service in services {
            let id = service["serviceId"].as_str().unwrap_or_default().to_lowercase();
            if let Some(followed) = lock(&self.services).get_mut(&id) {
                let instances = service["instances"].as_array().cloned().unwrap_or_default();
                followed.instances = instances.into_iter().map(|one| (key_of(&one), one)).collect();
            }
        }
    }

    /// Looks again for services that have nothing, or could not be looked up.
    fn poll(&self) {
        while !self.is_over() {
            std::thread::sleep(self.settings.poll);
            let bare: Vec<String> = lock(&self.services)
                .iter()
                .filter(|(_, followed)| followed.has_failed || followed.instances.is_empty())
                .map(|(key, _)| key.clone())
                .collect();
            for key in bare {
                if !self.is_over() {
                    self.reload(&key);
                }
            }
        }
    }

    fn on_change(&self, text: &str) {
        let unreadable = || self.counts.unreadable.fetch_add(1, Ordering::SeqCst);
        let Ok(change) = serde_json::from_str::<Value>(text) else {
            unreadable();
            return;
        };
        let instance = &change["instance"];
        if !change["changeTime"].is_u64() || !has_scalars(instance) {
            unreadable();
            return;
        }
        let kind = change["changeType"].as_str().unwrap_or_default().to_owned();
        let service = instance["serviceId"].as_str().unwrap_or_default().to_owned();
        if let Some(followed) = lock(&self.services).get_mut(&service) {
            followed.changes.push(kind.clone());
        }
        if kind == "reload" {
            return self.reload(&service.to_lowercase());
        }
        let mut services = lock(&self.services);
        let Some(followed) = services.get_mut(&service) else { return };
        match kind.as_str() {
            // Without a region it matches none.
            "delete" if instance["regionId"].is_string() => {
                followed.instances.remove(&key_of(instance));
            }
            "new" | "change" => {
                followed.instances.insert(key_of(instance), instance.clone());
            }
            _ => {}
        }
    }

    // --- Heartbeats ------------------------------------------------------------------------------

    fn beat(&self) {
        let look = self.settings.heartbeat.min(Duration::from_secs(1)) / 2;
        while !self.is_over() {
            std::thread::sleep(look);
            let silent = lock(&self.last_heartbeat).elapsed();
            if silent >= self.settings.heartbeat_ttl {
                self.leave_heartbeat_node();
            }
            if silent < self.settings.heartbeat {
                continue;
            }
            let all: Vec<Value> = lock(&self.instances).values().cloned().collect();
            let session = lock(&self.registry.session).clone();
            let Some(session) = session.filter(|session| session.is_open.load(Ordering::SeqCst))
            else {
                continue;
            };
            if all.is_empty() || session.send_text(&json!({"instances": all})) {
                *lock(&self.last_heartbeat) = Instant::now();
            }
        }
    }

    fn leave_heartbeat_node(&self) {
        let session = lock(&self.registry.session).clone();
        if let Some(session) = session {
            self.registry.leave(&session.node);
        }
        if let Some(wake) = lock(&self.registry.wake).as_ref() {
            let _ = wake.send(());
        }
    }

    fn on_heartbeat_answer(&self, text: &str) {
        let Ok(answer) = serde_json::from_str::<Value>(text) else {
            self.counts.unreadable.fetch_add(1, Ordering::SeqCst);
            return;
        };
        self.counts.heartbeats.fetch_add(1, Ordering::SeqCst);
        let status = &answer["responseStatus"];
        let code = status["errorCode"].as_str().unwrap_or_default();
        if status["status"] == "fail"
            && ["internal-service-error", "service-unavailable"].contains(&code)
        {
            self.leave_heartbeat_node();
        }
        let failed = answer["failedInstances"].as_array().cloned().unwrap_or_default();
        let lost: Vec<Value> = failed
            .into_iter()
            .filter(|one| one["errorCode"] == "data-not-found" || one["errorCode"] == "unknown")
            .map(|one| one["instance"].clone())
            .collect();
        if lost.is_empty() {
            return;
        }
        let body = json!({"instances": lost});
        if self.call(&self.registry, "/api/registry/register.json", &body).is_some() {
            self.counts.registered.fetch_add(lost.len(), Ordering::SeqCst);
        }
    }

    // --- Sessions --------------------------------------------------------------------------------

    fn keep_session(self: Arc<Shared>, is_registry: bool, woken: &Receiver<()>) {
        while !self.is_over() {
            if !self.is_available(is_registry) {
                self.connect(is_registry);
            }
            match woken.recv_timeout(self.settings.ping) {
                Ok(()) | Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
            while woken.try_recv().is_ok() {}
        }
    }

    fn is_available(&self, is_registry: bool) -> bool {
        let door = self.door(is_registry);
        let Some(session) = lock(&door.session).clone() else { return false };
        let is_present = lock(&door.node).as_deref() == Some(&*session.node);
        if !is_present
            || session.opened.elapsed() >= self.settings.session
            || !session.is_open.load(Ordering::SeqCst)
        {
            return false;
        }
        let before = session.pongs.load(Ordering::SeqCst);
        *lock(&session.pinged) = Instant::now();
        if !session.send(0x89, b"") {
            return false;
        }
        let begun = Instant::now();
        while begun.elapsed() < self.settings.ping.max(Duration::from_secs(1)) {
            if session.pongs.load(Ordering::SeqCst) > before || self.is_over() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        if session.is_open.load(Ordering::SeqCst) {
            self.counts.pongs_missed.fetch_add(1, Ordering::SeqCst);
        }
        false
    }

    fn connect(self: &Arc<Shared>, is_registry: bool) {
        let door = self.door(is_registry);
        {
            let mut connects = lock(&door.connects);
            let span = self.settings.reconnect_span;
            while connects.front().is_some_and(|at| at.elapsed() >= span) {
                connects.pop_front();
            }
            if connects.len() >= self.settings.reconnects_max {
                return;
            }
            connects.push_back(Instant::now());
        }
        let node = self.node_of(door);
        let Some(stream) = self.upgrade(&node, door.socket_path) else {
            return door.leave(&node);
        };
        let reader = stream.try_clone().expect("a socket can be shared");
        let session = Arc::new(Session {
            stream: Mutex::new(stream),
            is_open: AtomicBool::new(true),
            opened: Instant::now(),
            node,
            pinged: Mutex::new(Instant::now()),
            pongs: AtomicUsize::new(0),
        });
        self.counts.sessions.fetch_add(1, Ordering::SeqCst);
        let old = lock(&door.session).replace(Arc::clone(&session));
        // The old one ends before the new one subscribes.
        if let Some(old) = old {
            old.close(1000);
        }
        let (shared, of) = (Arc::clone(self), Arc::clone(&session));
        std::thread::spawn(move || shared.read(is_registry, &of, reader));
        if !is_registry {
            let names: Vec<String> =
                lock(&self.services).values().map(|followed| followed.name.clone()).collect();
            for name in names {
                session.send_text(&subscription(&name));
            }
        }
    }

    fn upgrade(&self, node: &str, path: &str) -> Option<TcpStream> {
        let (address, prefix) = parts(node);
        let mut stream = TcpStream::connect_timeout(&address, Duration::from_secs(5)).ok()?;
        stream.set_nodelay(true).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
        let sockets = self.settings.sockets;
        let head = format!(
            "GET {prefix}/{sockets}/{path} HTTP/1.1\r\nHost: {address}\r\nUpgrade: websocket\r\n\
             Connection: upgrade\r\nSec-WebSocket-Version: 13\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        );
        stream.write_all(head.as_bytes()).ok()?;
        let (mut answer, mut byte) = (Vec::new(), [0]);
        while !answer.ends_with(b"\r\n\r\n") {
            stream.read_exact(&mut byte).ok()?;
            answer.push(byte[0]);
        }
        answer.starts_with(b"HTTP/1.1 101").then_some(stream)
    }

    fn read(&self, is_registry: bool, session: &Session, mut stream: TcpStream) {
        let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
        let (mut bytes, mut chunk) = (Vec::new(), vec![0; 64 * 1_024]);
        'reading: while !self.is_over() && session.is_open.load(Ordering::SeqCst) {
            match stream.read(&mut chunk) {
                Ok(0) => break,
                Ok(count) => bytes.extend_from_slice(&chunk[..count]),
                Err(fault)
                    if matches!(
                        fault.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    continue;
                }
                Err(_) => break,
            }
            while let Some((opcode, payload)) = take_frame(&mut bytes) {
                match opcode {
                    1 => {
                        let text = String::from_utf8_lossy(&payload);
                        if text.encode_utf16().count() > FRAME_UNITS_MAX {
                            self.counts.oversized.fetch_add(1, Ordering::SeqCst);
                            session.close(1009);
                            break 'reading;
                        }
                        if is_registry {
                            self.on_heartbeat_answer(&text);
                        } else {
                            self.on_change(&text);
                        }
                    }
                    8 => {
                        session.close(1000);
                        break 'reading;
                    }
                    9 => _ = session.send(0x8a, &payload),
                    10 if lock(&session.pinged).elapsed() >= DEAF => {
                        session.pongs.fetch_add(1, Ordering::SeqCst);
                    }
                    _ => {}
                }
            }
        }
        session.is_open.store(false, Ordering::SeqCst);
        // Back at once.
        if let Some(wake) = lock(&self.door(is_registry).wake).as_ref() {
            let _ = wake.send(());
        }
    }
}

impl Session {
    fn send(&self, first: u8, payload: &[u8]) -> bool {
        let mut stream = lock(&self.stream);
        let is_sent = stream.write_all(&masked(first, payload)).is_ok();
        if !is_sent {
            self.is_open.store(false, Ordering::SeqCst);
        }
        is_sent
    }

    /// A text, in fragments of 8,192 bytes.
    fn send_text(&self, value: &Value) -> bool {
        let text = value.to_string();
        let parts: Vec<&[u8]> = text.as_bytes().chunks(8_192).collect();
        let mut stream = lock(&self.stream);
        for (index, part) in parts.iter().enumerate() {
            let is_last = index + 1 == parts.len();
            let first = u8::from(index == 0) | if is_last { 0x80 } else { 0 };
            if stream.write_all(&masked(first, part)).is_err() {
                self.is_open.store(false, Ordering::SeqCst);
                return false;
            }
        }
        true
    }

    fn close(&self, code: u16) {
        let _ = lock(&self.stream).write_all(&masked(0x88, &code.to_be_bytes()));
        self.cut();
    }

    fn cut(&self) {
        self.is_open.store(false, Ordering::SeqCst);
        let _ = lock(&self.stream).shutdown(std::net::Shutdown::Both);
    }
}

/// The address in a base URL, and the path after it.
fn parts(node: &str) -> (SocketAddr, &str) {
    let rest = node.strip_prefix("http://").unwrap_or(node);
    let (address, prefix) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    (address.parse().expect("an address"), prefix)
}

fn has_scalars(instance: &Value) -> bool {
    let metadata = instance["metadata"].as_object();
    metadata.is_none_or(|all| all.values().all(|one| !one.is_object() && !one.is_array()))
}

/// A frame at the start of the bytes: its opcode and its payload.
fn take_frame(bytes: &mut Vec<u8>) -> Option<(u8, Vec<u8>)> {
    let (&first, &second) = (bytes.first()?, bytes.get(1)?);
    let (header, length) = match second & 0x7f {
        126 => (4, usize::from(u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?))),
        127 => {
            let length = u64::from_be_bytes(bytes.get(2..10)?.try_into().ok()?);
            (10, usize::try_from(length).ok()?)
        }
        short => (2, usize::from(short)),
    };
    if bytes.len() < header + length {
        return None;
    }
    let payload = bytes[header..header + length].to_vec();
    bytes.drain(..header + length);
    Some((first & 0x0f, payload))
}

/// Reads an answer with a length. Returns its status, whether the connection ends, and its body.
fn read_answer(stream: &mut TcpStream) -> Result<(u16, bool, Vec<u8>), String> {
    let mut bytes = Vec::new();
    let mut chunk = [0; 16 * 1_024];
    loop {
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
            let status = head.get(9..12).and_then(|text| text.parse().ok()).ok_or("no status")?;
            let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.and_then(|text| text.trim().parse().ok()).unwrap_or(0);
            if bytes.len() >= end + 4 + length {
                let closes = head.contains("connection: close");
                return Ok((status, closes, bytes[end + 4..end + 4 + length].to_vec()));
            }
        }
        match stream.read(&mut chunk) {
            Ok(0) => return Err(String::from("the connection ended")),
            Ok(count) => bytes.extend_from_slice(&chunk[..count]),
            Err(fault) => return Err(fault.to_string()),
        }
    }
}
