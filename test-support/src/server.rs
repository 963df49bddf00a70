//! A server process, seen from outside: started, stopped, killed, called over HTTP.
//!
//! Imports `reply`, `socket` and the root. Imported by tests, `client` and `nodes`.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};
use tungstenite::client::IntoClientRequest as _;

use crate::{Client, READ_PATIENCE, Reply, SECRET, STOP_PATIENCE, eventually, token};

/// How long a server may take to listen.
const START_PATIENCE: Duration = Duration::from_secs(20);

/// Any free port.
const ANY_PORT: &str = "127.0.0.1:0";

const LISTENING: &str = "fanfare listening on http";

/// The server's program.
///
/// Cargo builds it for the tests of its package and names its path. Elsewhere it is the one in the
/// target directory of the test, which is built if there is none yet: `cargo test -p` of another
/// package does not build it again after a change, `cargo build` does.
pub fn program() -> &'static Path {
    static PROGRAM: OnceLock<PathBuf> = OnceLock::new();
    PROGRAM.get_or_init(|| {
        if let Some(built) = std::env::var_os("CARGO_BIN_EXE_fanfare") {
            return built.into();
        }
        // A test is target/PROFILE/deps/NAME.
        let own = std::env::current_exe().expect("a test has a path");
        let profile = own.ancestors().nth(2).expect("a target directory");
        let program = profile.join("fanfare");
        if !program.exists() {
            build(profile);
        }
        program
    })
}

fn build(profile: &Path) {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "-p", "fanfare", "--bin", "fanfare"]);
    match profile.file_name().and_then(|name| name.to_str()) {
        Some("debug") | None => {}
        Some(name) => {
            build.args(["--profile", name]);
        }
    }
    let status = build.current_dir(env!("CARGO_MANIFEST_DIR")).status();
    assert!(status.expect("cargo runs").success(), "the server cannot be built");
}

/// A running server. Dropping it kills the process and removes its directory.
pub struct Server {
    child: Child,
    address: SocketAddr,
    dir: PathBuf,
    flags: Vec<String>,
    /// The shell's commands before it becomes the server.
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
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Runs the same program with other arguments on the same data, to its end. Returns whether it
    /// succeeded, and its output: standard output, or all of it if it failed.
    pub fn run(&self, args: &[&str], input: &str) -> (bool, String) {
        let mut child = Command::new(program())
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

    /// A client of `/ws` that is signed in as a user, with a token as from a login.
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
        let (child, address) = launch(&dir, ANY_PORT, &flags, prelude.as_deref());
        Server { child, address, dir, flags, prelude }
    }

    /// Its log so far.
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

    /// Its address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The URL that clients connect to.
    pub fn url(&self) -> String {
        format!("ws://{}", self.address)
    }

    /// A connection of a client whose kernel takes little on its behalf.
    pub fn narrow_stream(&self) -> TcpStream {
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        // The window is agreed upon when the connection is made, so this comes before.
        socket.set_recv_buffer_size(4 * 1024).expect("a socket option");
        socket.connect(&self.address.into()).expect("the server accepts");
        TcpStream::from(socket)
    }

    /// Whether the kernel still has the server's end of a connection, in any state.
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

    /// Kills the process.
    pub fn kill(&mut self) {
        self.child.kill().expect("the process can be killed");
        self.child.wait().expect("a child can be waited for");
    }

    /// Starts another server on the same data, which has to end by itself. Returns its exit status
    /// and its standard error.
    pub fn start_another(&self) -> (ExitStatus, String) {
        let log = self.dir.join("another");
        let mut child = command(&self.dir, ANY_PORT, None)
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

    /// Starts a server again in the same data directory, on another port. The one before has ended.
    pub fn restart(&mut self) {
        self.restart_at(ANY_PORT);
    }

    /// The same on the port it had, where clients find it again.
    pub fn restart_in_place(&mut self) {
        self.restart_at(&self.address.to_string());
    }

    fn restart_at(&mut self, bind: &str) {
        let ended = self.child.try_wait().expect("a child can be waited for").is_some();
        assert!(ended, "the server before still runs");
        let prelude = self.prelude.as_deref();
        (self.child, self.address) = launch(&self.dir, bind, &self.flags, prelude);
    }

    /// Removes all stored data. The server has ended.
    pub fn lose_data(&self) {
        fs::remove_dir_all(self.dir.join("data")).expect("its data");
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

    /// The same, which has to succeed. Returns the body of the answer.
    pub fn post(&self, path: &str, body: &Value) -> Value {
        let reply = self.post_json(path, body);
        assert!((200..300).contains(&reply.status), "{path}: {} {}", reply.status, reply.text);
        reply.body
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
fn command(dir: &Path, bind: &str, prelude: Option<&str>) -> Command {
    let mut command = match prelude {
        None => Command::new(program()),
        Some(prelude) => {
            let mut command = Command::new("sh");
            command.args(["-c", prelude, "sh"]).arg(program());
            command
        }
    };
    command.arg("--data-dir").arg(dir.join("data")).env("FANFARE_BIND", bind);
    // With a secret the server requires tokens. A test about that sets the flag itself.
    command.env("FANFARE_AUTH", "open");
    command.current_dir(dir).stdin(Stdio::null());
    command
}

fn launch(dir: &Path, bind: &str, flags: &[String], prelude: Option<&str>) -> (Child, SocketAddr) {
    let log = File::options().create(true).append(true).open(dir.join("log")).expect("a log file");
    let mut child = command(dir, bind, prelude)
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
        // Later lines are read and dropped, so that the server never writes into a closed pipe.
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
