//! A server process and its clients, as a test meets them from outside.
//!
//! A test starts the real binary on a port the kernel picks, with a data directory of its own, and
//! speaks to it over TCP. Every wait is bounded, so a server that says nothing fails the test
//! instead of stopping it.
//!
//! Not here: anything of the crate itself. What a test knows of the server is what a client knows.

#![allow(dead_code, reason = "each test file uses its own part")]
#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

/// How long a client waits for the next bytes.
pub const READ_PATIENCE: Duration = Duration::from_secs(5);

/// How long a server may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// How long a server may take to stop, as documented.
pub const STOP_PATIENCE: Duration = Duration::from_secs(30);

const LISTENING: &str = "fanfare listening on http";

/// The secret of servers that people sign in to.
pub const SECRET: &str = "a secret of more than thirty-two bytes";

/// A running server. Dropping it kills the process and removes its directory.
pub struct Server {
    child: Child,
    address: SocketAddr,
    dir: PathBuf,
    flags: Vec<String>,
    /// What the shell does before it becomes the server.
    prelude: Option<String>,
}

impl Server {
    /// Starts a server with the flags of every test and these.
    pub fn start(flags: &[&str]) -> Server {
        Server::start_within(None, flags)
    }

    /// Starts a server that takes the tokens of [`token`].
    pub fn start_for_people(flags: &[&str]) -> Server {
        let mut all = vec!["--jwt-secret", SECRET];
        all.extend(flags);
        Server::start(&all)
    }

    /// The directory that the server runs in; its data is in `data`.
    pub fn dir(&self) -> &std::path::Path {
        &self.dir
    }

    /// Runs the same program with other arguments on the same data, to its end. Returns whether it
    /// succeeded, and what it wrote: its result, or all of it where it failed.
    pub fn run(&self, args: &[&str], input: &str) -> (bool, String) {
        let mut child = Command::new(env!("CARGO_BIN_EXE_fanfare"))
            .args(args)
            .arg("--data-dir")
            .arg(self.dir.join("data"))
            .current_dir(&self.dir)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary starts");
        child.stdin.take().expect("it is piped").write_all(input.as_bytes()).expect("it reads");
        let output = child.wait_with_output().expect("it ends");
        let is_done = output.status.success();
        let text = if is_done { output.stdout } else { [output.stdout, output.stderr].concat() };
        (is_done, String::from_utf8_lossy(&text).into_owned())
    }

    /// A call with a token and a JSON body.
    pub fn call(&self, method: &str, path: &str, token: &str, body: &Value) -> Reply {
        let bearer = format!("Bearer {token}");
        let mut headers = Vec::new();
        if !token.is_empty() {
            headers.push(("Authorization", &*bearer));
        }
        if body.is_null() {
            return self.request(method, path, &headers, b"");
        }
        headers.push(("Content-Type", "application/json"));
        self.request(method, path, &headers, body.to_string().as_bytes())
    }

    /// A client of `/ws` that is signed in as a user, with what a login gives.
    pub fn connect_as(&self, user: &str) -> Client {
        self.connect_with(&token(user, "message"))
    }

    /// A client of `/ws` that is signed in with a token.
    pub fn connect_with(&self, token: &str) -> Client {
        let stream = TcpStream::connect(self.address).expect("the server accepts");
        let bearer = format!("Bearer {token}");
        self.connect_to("/ws", stream, &[("authorization", &bearer)])
            .unwrap_or_else(|status| panic!("refused with {status}"))
    }

    /// The same with so many file descriptors at most.
    pub fn start_within(descriptors_max: Option<usize>, flags: &[&str]) -> Server {
        let prelude = descriptors_max.map(|max| format!(r#"ulimit -n {max}; exec "$@""#));
        Server::start_by(prelude.as_deref(), flags)
    }

    /// The same by way of a shell, whose last command has to be `exec ... "$@"`.
    pub fn start_by(prelude: Option<&str>, flags: &[&str]) -> Server {
        let prelude = prelude.map(str::to_owned);
        let dir = std::env::temp_dir().join(format!("fanfare-test-{}", uuid::Uuid::new_v4()));
        fs::create_dir_all(&dir).expect("a directory for the test");
        let flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let (child, address) = launch(&dir, &flags, prelude.as_deref());
        Server { child, address, dir, flags, prelude }
    }

    /// Everything it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.join("log")).expect("its log")
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// How many descriptors it has open.
    pub fn open_descriptors(&self) -> usize {
        let path = format!("/proc/{}/fd", self.child.id());
        fs::read_dir(path).expect("a running process").count()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection of a client whose kernel takes little on its behalf.
    pub fn narrow_stream(&self) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // The window is agreed upon when the connection is made, so this comes before.
        socket.set_recv_buffer_size(4 * 1024).expect("a socket option");
        socket.connect(&self.address.into()).expect("the server accepts");
        TcpStream::from(socket)
    }

    /// Whether the kernel still has the server's end of a connection, in whatever state.
    pub fn has_socket(&self, client_port: u16) -> bool {
        let table = fs::read_to_string("/proc/net/tcp").expect("the kernel's table");
        let port_of = |address: &str| {
            let (_, port) = address.split_once(':')?;
            u16::from_str_radix(port, 16).ok()
        };
        table.lines().skip(1).any(|line| {
            let mut fields = line.split_whitespace().skip(1);
            let (local, remote) =
                (fields.next().and_then(port_of), fields.next().and_then(port_of));
            (local, remote) == (Some(self.address.port()), Some(client_port))
        })
    }

    /// Sends SIGTERM.
    pub fn terminate(&self) {
        self.signal("TERM");
    }

    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let signal = format!("-{name}");
        let status = Command::new("kill").args([&signal, &pid]).status().expect("kill runs");
        assert!(status.success(), "no {name} for process {pid}");
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self) -> ExitStatus {
        let child = &mut self.child;
        let mut exit = None;
        eventually("the server ends", STOP_PATIENCE, || {
            exit = child.try_wait().expect("a child can be waited for");
            exit.is_some()
        });
        exit.expect("it ended")
    }

    /// Stops the server as an operator does, and waits for its end.
    pub fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.wait()
    }

    /// Ends the process without a word.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Starts another server on the same data, which has to end by itself. Returns how it ended and
    /// what it wrote to standard error.
    pub fn start_another(&self) -> (ExitStatus, String) {
        let log = self.dir.join("another");
        let mut child = command(&self.dir, None)
            .stdout(Stdio::null())
            .stderr(File::create(&log).expect("a log file"))
            .spawn()
            .expect("the binary starts");
        let started = Instant::now();
        loop {
            if let Some(status) = child.try_wait().expect("a child can be waited for") {
                return (status, fs::read_to_string(log).expect("its log"));
            }
            if started.elapsed() > START_PATIENCE {
                let _ = child.kill();
                let _ = child.wait();
                panic!("the other server runs, too");
            }
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Starts a server again in the same data directory. The one before has ended.
    pub fn restart(&mut self) {
        let ended = self.child.try_wait().expect("a child can be waited for").is_some();
        assert!(ended, "the server before still runs");
        (self.child, self.address) = launch(&self.dir, &self.flags, self.prelude.as_deref());
    }

    /// Changes the value of a flag for the next start.
    pub fn set_flag(&mut self, flag: &str, value: &str) {
        let at = self.flags.iter().position(|one| one == flag).expect("it was given");
        value.clone_into(&mut self.flags[at + 1]);
    }

    /// A GET request.
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], b"")
    }

    /// A POST request with a JSON body.
    pub fn post_json(&self, path: &str, body: &Value) -> Reply {
        let headers = [("Content-Type", "application/json")];
        self.request("POST", path, &headers, body.to_string().as_bytes())
    }

    /// Any request.
    pub fn request(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> Reply {
        let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {}\r\n", self.address);
        for (name, value) in headers {
            text += &format!("{name}: {value}\r\n");
        }
        if !body.is_empty() || method == "POST" {
            text += &format!("Content-Length: {}\r\n", body.len());
        }
        text += "Connection: close\r\n\r\n";
        let mut bytes = text.into_bytes();
        bytes.extend_from_slice(body);
        self.raw(&bytes)
    }

    /// Sends these bytes and reads one answer.
    pub fn raw(&self, bytes: &[u8]) -> Reply {
        let mut stream = TcpStream::connect(self.address).expect("the server accepts");
        stream.set_read_timeout(Some(READ_PATIENCE)).expect("a timeout above zero");
        // A server may refuse a long body before it has arrived. Then its answer counts.
        let _ = stream.write_all(bytes);
        Reply::read(stream)
    }

    /// Registers instances; all have to succeed.
    pub fn register(&self, instances: &[Value]) {
        let reply = self.post_json("/api/registry/register.json", &json!({"instances": instances}));
        assert_eq!(reply.outcome(), ("success", "success"), "{}", reply.body);
    }

    /// Removes instances; all have to succeed.
    pub fn unregister(&self, instances: &[Value]) {
        let reply =
            self.post_json("/api/registry/unregister.json", &json!({"instances": instances}));
        assert_eq!(reply.outcome(), ("success", "success"), "{}", reply.body);
    }

    /// Renews the leases of instances; all have to succeed.
    pub fn heartbeat(&self, instances: &[Value]) {
        let reply =
            self.post_json("/api/registry/heartbeat.json", &json!({"instances": instances}));
        assert_eq!(reply.outcome(), ("success", "success"), "{}", reply.body);
    }

    /// Takes an instance out of discovery, or puts it back.
    pub fn operate(&self, instance: &Value, is_complete: bool) -> Reply {
        self.post_json(
            "/api/management/instance/operate-instance.json",
            &json!({
                "instanceKey": {
                    "regionId": instance["regionId"],
                    "serviceId": instance["serviceId"],
                    "instanceId": instance["instanceId"],
                },
                "operation": "pull-out", "operationComplete": is_complete, "operatorId": "ada",
            }),
        )
    }

    /// The `service` part of what discovery says about a service, which has to be known.
    pub fn discover(&self, service: &str) -> Value {
        let reply = self.get(&format!("/api/discovery/service.json?serviceId={service}"));
        assert_eq!(reply.outcome(), ("success", "success"), "{}", reply.body);
        reply.body["service"].clone()
    }

    /// The value of a sample on the metrics page, by its name and labels.
    pub fn metric(&self, sample: &str) -> f64 {
        self.sample(sample).parse().expect("a number")
    }

    /// The value of a sample that counts whole things.
    pub fn count(&self, sample: &str) -> u64 {
        self.sample(sample).parse().expect("a whole number")
    }

    fn sample(&self, sample: &str) -> String {
        let page = self.get("/metrics").text;
        let value = page.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no sample {sample} in:\n{page}")).to_owned()
    }

    /// A client of `/ws` that has read its welcome.
    pub fn connect(&self) -> Client {
        self.connect_over(TcpStream::connect(self.address).expect("the server accepts"))
    }

    /// A client over a stream that may lead nowhere; without its welcome.
    pub fn try_connect(&self, stream: TcpStream) -> Option<Client> {
        let url = format!("ws://{}/ws", self.address);
        let (socket, _) = tungstenite::client(url, stream).ok()?;
        Some(Client { socket, welcome: Value::Null, requests: 0 })
    }

    /// The same over a stream the test has made.
    pub fn connect_over(&self, stream: TcpStream) -> Client {
        self.connect_to("/ws", stream, &[]).unwrap_or_else(|status| panic!("refused with {status}"))
    }

    /// A client of any path with more headers, or the status it was refused with.
    pub fn connect_to(
        &self,
        path: &str,
        stream: TcpStream,
        headers: &[(&'static str, &str)],
    ) -> Result<Client, u16> {
        stream.set_read_timeout(Some(READ_PATIENCE)).expect("a timeout above zero");
        stream.set_nodelay(true).expect("a TCP option");
        let url = format!("ws://{}{path}", self.address);
        let mut request = url.into_client_request().expect("a valid address");
        for &(name, value) in headers {
            request.headers_mut().insert(name, value.parse().expect("a header's value"));
        }
        match tungstenite::client(request, stream) {
            Ok((socket, _)) => {
                let mut client = Client { socket, welcome: Value::Null, requests: 0 };
                client.welcome = client.expect("welcome");
                Ok(client)
            }
            Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(reply))) => {
                Err(reply.status().as_u16())
            }
            Err(fault) => panic!("the handshake failed: {fault}"),
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = fs::read_to_string(self.dir.join("log")).unwrap_or_default();
            let lines: Vec<&str> = log.lines().collect();
            let tail = &lines[lines.len().saturating_sub(20)..];
            eprintln!("the server's last words:\n{}", tail.join("\n"));
        }
        let _ = fs::remove_dir_all(&self.dir);
    }
}

/// The server's program with the flags of every test, within a bound of descriptors.
fn command(dir: &std::path::Path, prelude: Option<&str>) -> Command {
    let binary = env!("CARGO_BIN_EXE_fanfare");
    let mut command = match prelude {
        None => Command::new(binary),
        Some(prelude) => {
            let mut command = Command::new("sh");
            command.args(["-c", prelude, "sh", binary]);
            command
        }
    };
    command.arg("--data-dir").arg(dir.join("data")).env("FANFARE_BIND", "127.0.0.1:0");
    // With a secret the server would want tokens of everybody. A test that is about that says so.
    command.env("FANFARE_AUTH", "open");
    command.current_dir(dir).stdin(Stdio::null());
    command
}

fn launch(dir: &std::path::Path, flags: &[String], prelude: Option<&str>) -> (Child, SocketAddr) {
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("a log file");
    let mut child = command(dir, prelude)
        .args(flags)
        .stdout(Stdio::piped())
        .stderr(log)
        .spawn()
        .expect("the binary starts");
    let stdout = child.stdout.take().expect("it is piped");
    let (first_line, line) = mpsc::channel();
    std::thread::spawn(move || {
        let mut stdout = BufReader::new(stdout);
        let mut text = String::new();
        let _ = stdout.read_line(&mut text);
        let _ = first_line.send(text);
        // What follows is read and dropped, so that the server never writes into a closed pipe.
        let _ = std::io::copy(&mut stdout, &mut std::io::sink());
    });
    let line = line.recv_timeout(START_PATIENCE).unwrap_or_default();
    let url = line.strip_prefix(LISTENING).map(|rest| rest.trim_start_matches('s'));
    let address = url.and_then(|url| url.strip_prefix("://")?.trim_end().parse().ok());
    let Some(address) = address else {
        let _ = child.kill();
        let _ = child.wait();
        let log = fs::read_to_string(dir.join("log")).unwrap_or_default();
        panic!("the server does not listen; it said {line:?} and:\n{log}");
    };
    (child, address)
}

/// Says that the test at hand, or a part of it, cannot run here, and why. `scripts/test.sh` counts these:
/// what a test prints that passes, its runner keeps.
pub fn skipped(why: &str) {
    eprintln!("SKIPPED: {why}");
    let Some(path) = std::env::var_os("FANFARE_TEST_SKIPPED") else { return };
    let thread = std::thread::current();
    let line = format!("{}: {why}\n", thread.name().unwrap_or("a test"));
    let file = File::options().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("it is written down");
}

/// Asks again and again whether something is so, until it is or the patience is over.
pub fn eventually(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// An HTTP answer.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub text: String,
    /// The body as JSON, or null where it is none.
    pub body: Value,
}

impl Reply {
    pub fn read(stream: TcpStream) -> Reply {
        let mut stream = BufReader::new(stream);
        let mut line = String::new();
        stream.read_line(&mut line).expect("a status line in time");
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no status line: {line:?}"));
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            stream.read_line(&mut line).expect("headers in time");
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_ascii_lowercase(), value.trim().to_owned()));
        }
        let mut reply = Reply { status, headers, text: String::new(), body: Value::Null };
        assert_eq!(reply.header("transfer-encoding"), None, "chunks are not understood here");
        let length = reply.header("content-length").unwrap_or("0").parse().expect("a length");
        let mut bytes = vec![0; length];
        stream.read_exact(&mut bytes).expect("a body in time");
        reply.text = String::from_utf8(bytes).expect("the body is UTF-8");
        reply.body = serde_json::from_str(&reply.text).unwrap_or_default();
        reply
    }

    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(other, _)| other == name).map(|(_, value)| value.as_str())
    }

    /// Status and error code of a registry answer, which has to be HTTP 200.
    pub fn outcome(&self) -> (&str, &str) {
        assert_eq!(self.status, 200, "{}", self.text);
        let status = &self.body["responseStatus"];
        let text = |field: &str| status[field].as_str().unwrap_or_else(|| panic!("{}", self.text));
        (text("status"), text("errorCode"))
    }

    /// Checks that this is a problem of that status and code.
    pub fn expect_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), Some("application/problem+json"), "{}", self.text);
        assert_eq!(self.body["type"], "about:blank", "{}", self.text);
        assert_eq!(self.body["status"], status, "{}", self.text);
        assert_eq!(self.body["code"], code, "{}", self.text);
        for field in ["title", "detail", "request_id"] {
            let text = self.body[field].as_str().unwrap_or_default();
            assert!(!text.is_empty(), "{field} is missing: {}", self.text);
        }
    }
}

/// A WebSocket client.
pub struct Client {
    pub socket: WebSocket<TcpStream>,
    pub welcome: Value,
    requests: u64,
}

impl Client {
    pub fn send_text(&mut self, text: &str) {
        self.socket.send(Message::text(text)).expect("the server reads");
    }

    pub fn send_json(&mut self, value: &Value) {
        self.send_text(&value.to_string());
    }

    /// Sends a command and returns the next frame, whose type is known.
    pub fn ask(&mut self, command: &Value, answer: &str) -> Value {
        self.send_json(command);
        self.expect(answer)
    }

    /// The next message other than ping and pong.
    pub fn next_message(&mut self) -> Message {
        loop {
            match self.socket.read() {
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Ok(message) => return message,
                Err(fault) => panic!("no message: {fault}"),
            }
        }
    }

    /// The next frame.
    pub fn next_json(&mut self) -> Value {
        match self.next_message() {
            Message::Text(text) => serde_json::from_str(text.as_str()).expect("a frame is JSON"),
            other => panic!("not a text message: {other:?}"),
        }
    }

    /// The first of the next frames that is so; the others are skipped.
    pub fn find(&mut self, what: &str, mut is_so: impl FnMut(&Value) -> bool) -> Value {
        for _ in 0..1_000 {
            let frame = self.next_json();
            if is_so(&frame) {
                return frame;
            }
        }
        panic!("a thousand frames, and none is {what}");
    }

    /// The next frame of a type, whatever comes before it.
    pub fn find_type(&mut self, kind: &str) -> Value {
        self.find(kind, |frame| frame["type"] == kind)
    }

    /// The next envelope of a type, whatever comes before it.
    pub fn find_envelope(&mut self, message_type: &str) -> Value {
        self.find(message_type, |frame| frame["message_type"] == message_type)
    }

    /// Every frame that is on its way: a ping's answer marks the place.
    pub fn drain(&mut self) -> Vec<Value> {
        self.requests += 1;
        let id = format!("drain-{}", self.requests);
        // Through control: what it had sent before this answer is there before it. A ping would be
        // answered by the shard, ahead of what is on its way to it. No token is needed for it.
        self.send_json(&json!({"type": "unsubscribe", "id": id, "channel": "never followed"}));
        let mut frames = Vec::new();
        loop {
            let frame = self.next_json();
            if frame["id"] == id.as_str() {
                return frames;
            }
            frames.push(frame);
        }
    }

    /// The connection's id.
    pub fn id(&self) -> String {
        self.welcome["connection_id"].as_str().expect("an id").to_owned()
    }

    /// The next frame, whose type is known.
    pub fn expect(&mut self, kind: &str) -> Value {
        let frame = self.next_json();
        assert_eq!(frame["type"], kind, "{}", brief(&frame));
        frame
    }

    /// The next frame, which is an error of that code.
    pub fn expect_error(&mut self, code: &str) -> Value {
        let frame = self.expect("error");
        assert_eq!(frame["code"], code, "{frame}");
        assert!(frame["message"].is_string() && frame["temporary"].is_boolean(), "{frame}");
        frame
    }

    /// Expects the connection's end as the next thing. Returns the close code.
    pub fn expect_close(&mut self) -> u16 {
        match self.next_message() {
            Message::Close(Some(frame)) => frame.code.into(),
            other => panic!("not a close with a code: {other:?}"),
        }
    }

    /// Every frame up to the connection's end, and the close code.
    pub fn read_to_close(&mut self) -> (Vec<Value>, u16) {
        let mut frames = Vec::new();
        loop {
            match self.next_message() {
                Message::Text(text) => {
                    frames.push(serde_json::from_str(text.as_str()).expect("a frame is JSON"));
                }
                Message::Close(Some(frame)) => return (frames, frame.code.into()),
                other => panic!("neither a frame nor a close with a code: {other:?}"),
            }
        }
    }

    /// Subscribes to a service. Returns the answer, which is the next frame.
    pub fn subscribe(&mut self, service: &str) -> Value {
        self.ask(&json!({"type": "subscribe", "service_id": service}), "subscribed")
    }

    /// Subscribes to a service and starts a picture from its snapshot.
    pub fn follow(&mut self, service: &str) -> Picture {
        let command = json!({"type": "subscribe", "service_id": service, "snapshot": true});
        Picture::of_subscribed(&self.ask(&command, "subscribed"))
    }

    /// Subscribes again from where the picture stands, and corrects it where that is needed.
    /// Returns whether the server had all changes since.
    pub fn resume(&mut self, picture: &mut Picture) -> bool {
        let since = json!({"epoch": picture.epoch, "revision": picture.revision});
        let command = json!({"type": "subscribe", "service_id": picture.service, "since": since});
        let answer = self.ask(&command, "subscribed");
        let is_recovered = answer["recovered"].as_bool().expect("recovered is a boolean");
        if is_recovered {
            assert_eq!(answer.get("instances"), None, "{answer}");
            picture.resumed(&answer);
            let revision = answer["revision"].as_u64().expect("a revision");
            while picture.revision < revision {
                // Changes, unless they are more than a slow connection may be owed.
                picture.apply(&self.next_json());
            }
        } else {
            *picture = Picture::of_subscribed(&answer);
        }
        is_recovered
    }

    /// Applies every frame that is on its way. Subscribing twice changes nothing, so its answer
    /// marks the place: what happened before it has arrived before it, unless the connection has
    /// fallen behind and is owed a snapshot, which the answer then holds or is followed by.
    pub fn catch_up(&mut self, picture: &mut Picture) {
        self.requests += 1;
        let id = format!("catch-up-{}", self.requests);
        self.send_json(&json!({"type": "subscribe", "service_id": picture.service, "id": id}));
        loop {
            let frame = self.next_json();
            if frame["id"] == id.as_str() {
                assert_eq!(frame["type"], "subscribed", "{frame}");
                assert_eq!(frame["epoch"], picture.epoch.as_str(), "{frame}");
                let revision = frame["revision"].as_u64().expect("a revision");
                if frame["instances"].is_array() {
                    *picture = Picture::of_subscribed(&frame);
                } else if picture.revision != revision {
                    picture.apply(&self.expect("service_snapshot"));
                }
                assert!(picture.revision >= revision, "behind {frame}");
                return;
            }
            picture.apply(&frame);
        }
    }
}

/// What a client knows of a service, built from frames alone. Every frame is checked: a gap, a
/// double or a change that does not fit fails the test.
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    pub service: String,
    pub epoch: String,
    pub revision: u64,
    pub degraded: bool,
    /// By identity.
    pub instances: BTreeMap<String, Value>,
}

impl Picture {
    /// From an answer to subscribe that holds instances.
    pub fn of_subscribed(answer: &Value) -> Picture {
        Picture::of(answer["service_id"].as_str(), answer)
    }

    /// From the `service` part of a discovery answer.
    pub fn of_discovered(service: &Value) -> Picture {
        Picture::of(service["serviceId"].as_str(), service)
    }

    fn of(service: Option<&str>, whole: &Value) -> Picture {
        let list = whole["instances"].as_array().unwrap_or_else(|| panic!("{whole}"));
        let instances: BTreeMap<String, Value> =
            list.iter().map(|instance| (identity(instance), instance.clone())).collect();
        assert_eq!(instances.len(), list.len(), "an instance stands twice: {whole}");
        Picture {
            service: service.expect("a service's name").to_owned(),
            epoch: whole["epoch"].as_str().expect("an epoch").to_owned(),
            revision: whole["revision"].as_u64().expect("a revision"),
            degraded: whole["degraded"].as_bool().expect("a mark"),
            instances,
        }
    }

    /// Takes in the answer to a resumption that was recovered. Where nothing was missed the mark may
    /// still have changed; else the frame that follows has it.
    pub fn resumed(&mut self, answer: &Value) {
        assert_eq!(answer["epoch"], self.epoch.as_str(), "{answer}");
        if answer["revision"] == self.revision {
            self.degraded = answer["degraded"].as_bool().expect("a mark");
        }
    }

    /// Takes a pushed frame in.
    pub fn apply(&mut self, frame: &Value) {
        assert_eq!(frame["service_id"], self.service.as_str(), "{}", brief(frame));
        match frame["type"].as_str() {
            Some("service_change") => self.apply_change(frame),
            Some("service_snapshot") => {
                let snapshot = Picture::of_subscribed(frame);
                // Another epoch is another count: nodes that lost their log begin one.
                let is_later = snapshot.epoch != self.epoch || snapshot.revision >= self.revision;
                assert!(is_later, "back in time: {}", brief(frame));
                *self = snapshot;
            }
            _ => panic!("not about a service: {}", brief(frame)),
        }
    }

    fn apply_change(&mut self, frame: &Value) {
        assert_eq!(frame["epoch"], self.epoch.as_str(), "{}", brief(frame));
        assert_eq!(frame["from"], self.revision, "a gap or a double: {}", brief(frame));
        let changes = frame["changes"].as_array().expect("changes");
        for change in changes {
            let (id, instance) = (identity(&change["instance"]), change["instance"].clone());
            let before = match change["changeType"].as_str() {
                Some("delete") => self.instances.remove(&id),
                _ => self.instances.insert(id, instance),
            };
            let is_new = change["changeType"] == "new";
            assert_eq!(before.is_none(), is_new, "does not fit what was: {}", brief(change));
            assert_is_time(&change["changeTime"]);
        }
        self.revision += changes.len() as u64;
        assert_eq!(frame["revision"], self.revision, "{}", brief(frame));
        self.degraded = frame["degraded"].as_bool().expect("a mark");
    }

    /// Checks that the picture is what the registry says now.
    pub fn expect_equals_registry(&self, server: &Server) {
        let registry = Picture::of_discovered(&server.discover(&self.service));
        let head = |of: &Picture| (of.epoch.clone(), of.revision, of.degraded, of.instances.len());
        assert_eq!(head(self), head(&registry));
        let differs = |(id, one): &(&String, &Value)| registry.instances.get(*id) != Some(*one);
        let wrong = self.instances.iter().find(differs);
        assert_eq!(wrong, None, "the registry knows it otherwise, or not at all");
    }

    /// The instances' names.
    pub fn names(&self) -> Vec<&str> {
        self.instances.values().filter_map(|instance| instance["instanceId"].as_str()).collect()
    }
}

/// The beginning of a frame, for a message.
fn brief(frame: &Value) -> String {
    let text = frame.to_string();
    let end = text.char_indices().nth(600).map_or(text.len(), |(end, _)| end);
    text[..end].to_owned()
}

/// What makes two instances the same: region, service and instance, whatever their case.
fn identity(instance: &Value) -> String {
    let part = |field: &str| instance[field].as_str().unwrap_or_default().to_ascii_lowercase();
    format!("{}/{}/{}", part("regionId"), part("serviceId"), part("instanceId"))
}

/// The seconds since 1970, as tokens count them.
pub fn now_s() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs()
}

/// A token of a user, valid for an hour; the name is the id with a capital letter.
pub fn token(user: &str, scope: &str) -> String {
    let mut name = user.to_owned();
    name[..1].make_ascii_uppercase();
    let claims = json!({"sub": user, "username": name, "exp": now_s() + 3_600, "scope": scope});
    sign(&claims, SECRET, jsonwebtoken::Algorithm::HS256)
}

/// A token with these claims.
pub fn sign(claims: &Value, secret: &str, algorithm: jsonwebtoken::Algorithm) -> String {
    let key = jsonwebtoken::EncodingKey::from_secret(secret.as_bytes());
    jsonwebtoken::encode(&jsonwebtoken::Header::new(algorithm), claims, &key).expect("a token")
}

/// Checks for a time like `2026-11-20T12:00:00.123Z`.
pub fn assert_is_time(value: &Value) {
    let text = value.as_str().unwrap_or_default();
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '9' } else { c }).collect();
    assert_eq!(shape, "9999-99-99T99:99:99.999Z", "not a time: {value}");
}

/// An instance with the usual fields.
pub fn instance(service: &str, name: &str) -> Value {
    json!({
        "regionId": "r1", "zoneId": "z1", "serviceId": service, "instanceId": name,
        "ip": "10.0.0.1", "port": 8080, "protocol": "http", "status": "up",
        "url": format!("http://10.0.0.1:8080/{name}"), "metadata": {"weight": 1},
    })
}

/// Instances named `i0`, `i1` and so on.
pub fn instances(service: &str, count: usize) -> Vec<Value> {
    (0..count).map(|n| instance(service, &format!("i{n}"))).collect()
}

/// A copy with one field changed.
pub fn with(instance: &Value, field: &str, value: Value) -> Value {
    let mut copy = instance.clone();
    copy[field] = value;
    copy
}

/// Small random numbers from a seed, the same every time.
pub struct Rng(u64);

impl Rng {
    pub fn seeded(seed: u64) -> Rng {
        Rng(seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 33).expect("31 bits fit") % end
    }
}
