//! A Redis of a test's own, that can be stopped, started and stalled.
//!
//! `FANFARE_TEST_REDIS` names another program than `redis-server`, such as `valkey-server`; with
//! `FANFARE_TEST_REDIS_CLUSTER` each is a Redis Cluster of one node, which refuses a command or a
//! script with keys of several slots as any other would.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::eventually;

pub struct Redis {
    child: Option<Child>,
    port: u16,
    dir: PathBuf,
    is_cluster: bool,
    /// The port of its bus, if it is a Cluster.
    bus: u16,
    /// The port for TLS, if there is one.
    tls_port: u16,
    /// Arguments beside those of every test.
    more: Vec<String>,
}

/// A free port below those that the system hands out: Redis comes back to it, and a connection of
/// another test could have it by then.
fn free_port() -> u16 {
    loop {
        let chance = u16::try_from(uuid::Uuid::new_v4().as_u128() % 8_000).expect("below");
        let port = 12_000 + chance;
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

impl Redis {
    /// Starts one that has every write on disk before it answers.
    pub fn start() -> Redis {
        Redis::start_as(std::env::var_os("FANFARE_TEST_REDIS_CLUSTER").is_some(), &[])
    }

    /// Starts one that is not a Cluster, whatever the environment says: a node of a Cluster follows
    /// no other.
    pub fn start_alone() -> Redis {
        Redis::start_as(false, &[])
    }

    /// Starts one with TLS at a port of its own. The files are PEM; clients have to show a
    /// certificate of that authority if `wants_certificate`. None if the program was built without
    /// TLS.
    pub fn start_tls(certs: &Path, wants_certificate: bool) -> Option<Redis> {
        let file = |name: &str| certs.join(name).to_string_lossy().into_owned();
        let (certificate, key, ca) = (file("redis.pem"), file("redis.key"), file("ca.pem"));
        let wanted = if wants_certificate { "yes" } else { "no" };
        let more =
            ["--tls-cert-file", &certificate, "--tls-key-file", &key, "--tls-ca-cert-file", &ca];
        let more = [&more[..], &["--tls-auth-clients", wanted]].concat();
        has_tls().then(|| Redis::start_as(false, &more))
    }

    /// Starts a Redis Cluster of one node.
    pub fn start_cluster() -> Redis {
        Redis::start_as(true, &[])
    }

    fn start_as(is_cluster: bool, more: &[&str]) -> Redis {
        // The process dies here and not the machine: memory is as good as a disk, and does not keep
        // a test waiting when the disk is busy.
        let memory = PathBuf::from("/dev/shm");
        let base = if memory.is_dir() { memory } else { std::env::temp_dir() };
        let dir = base.join(format!("fanfare-redis-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&dir).expect("a directory");
        let more = more.iter().map(|&argument| argument.to_owned()).collect();
        let mut redis = Redis { child: None, port: 0, dir, is_cluster, bus: 0, tls_port: 0, more };
        for _ in 0..5 {
            (redis.port, redis.bus, redis.tls_port) = (free_port(), free_port(), free_port());
            if redis.try_launch() {
                return redis;
            }
            // Another process was faster.
        }
        panic!("there is no port for Redis");
    }

    pub fn launch(&mut self) {
        assert!(self.try_launch(), "Redis ends at once");
    }

    fn try_launch(&mut self) -> bool {
        let port = self.port.to_string();
        let program = std::env::var_os("FANFARE_TEST_REDIS");
        let mut command = Command::new(program.unwrap_or_else(|| "redis-server".into()));
        command
            .args(["--bind", "127.0.0.1", "--port", &port, "--save", ""])
            .args(["--appendonly", "yes", "--appendfsync", "always", "--dir"])
            .arg(&self.dir)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        if !self.more.is_empty() {
            command.args(&self.more).args(["--tls-port", &self.tls_port.to_string()]);
        }
        if self.is_cluster {
            command.args(["--cluster-enabled", "yes", "--cluster-port", &self.bus.to_string()]);
        }
        let child = self.child.insert(command.spawn().expect("redis-server is installed"));
        let mut is_gone = false;
        eventually("Redis answers", Duration::from_secs(20), || {
            is_gone = child.try_wait().expect("it is a child").is_some();
            is_gone || answers(self.port)
        });
        if is_gone {
            return false;
        }
        if self.is_cluster {
            // An error if it knows them from before.
            line(&mut self.tell(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]));
            eventually("the slots are served", Duration::from_secs(20), || {
                line(&mut self.tell(&["GET", "anything"])).starts_with("$-1")
            });
        }
        true
    }

    /// Sends a command with a number as its answer.
    pub fn ask(&self, words: &[&str]) -> u64 {
        number(&mut self.tell(words))
    }

    /// Sends a command. Returns the first line of its answer.
    pub fn order(&self, words: &[&str]) -> String {
        line(&mut self.tell(words)).trim_end().to_owned()
    }

    /// Makes it a replica of another, and waits until it has the other's data.
    pub fn follow(&self, primary: &Redis) {
        // A primary waits for more replicas before it begins, 5 s by default.
        primary.order(&["CONFIG", "SET", "repl-diskless-sync-delay", "0"]);
        let port = primary.port.to_string();
        assert_eq!(self.order(&["REPLICAOF", "127.0.0.1", &port]), "+OK");
        self.catch_up(primary);
    }

    /// Waits until it has all that its primary had when this was called. `WAIT` does not tell: it asks for
    /// what its own connection wrote, and each command here has a connection of its own.
    pub fn catch_up(&self, primary: &Redis) {
        let mark = format!("fanfare-test:{}", primary.ask(&["INCR", "fanfare-test:step"]));
        primary.order(&["SET", &mark, "1"]);
        eventually("the replica is in step", Duration::from_secs(20), || {
            self.ask(&["EXISTS", &mark]) == 1
        });
    }

    /// Makes it a primary.
    pub fn promote(&self) {
        assert_eq!(self.order(&["REPLICAOF", "NO", "ONE"]), "+OK");
    }

    /// Makes it a replica of an address without a server: its primary died, and no replica was
    /// promoted.
    pub fn demote(&self) {
        assert_eq!(self.order(&["REPLICAOF", "127.0.0.1", "1"]), "+OK");
    }

    /// How many connections follow a topic.
    pub fn followers(&self, topic: &str) -> u64 {
        let mut answer = self.tell(&["PUBSUB", "NUMSUB", topic]);
        // An array of two: its length, the topic's length, the topic.
        for _ in 0..3 {
            line(&mut answer);
        }
        number(&mut answer)
    }

    fn tell(&self, words: &[&str]) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("Redis accepts");
        let mut text = format!("*{}\r\n", words.len());
        for word in words {
            text += &format!("${}\r\n{word}\r\n", word.len());
        }
        stream.write_all(text.as_bytes()).expect("it is sent");
        BufReader::new(stream)
    }

    /// The entries of the registry's log that have one of these words in them, a line each.
    pub fn log_about(&self, words: &[&str]) -> String {
        let answer = Command::new("redis-cli")
            .args(["-p", &self.port.to_string(), "--json"])
            .args(["XRANGE", "fanfare:{registry}:log", "-", "+"])
            .output()
            .expect("redis-cli is installed");
        let entries: Vec<serde_json::Value> =
            serde_json::from_slice(&answer.stdout).unwrap_or_default();
        let lines = entries.iter().map(serde_json::Value::to_string);
        let said: Vec<String> =
            lines.filter(|line| words.iter().any(|word| line.contains(word))).collect();
        said.join("\n")
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    /// The port for TLS.
    pub fn tls_port(&self) -> u16 {
        self.tls_port
    }

    pub fn address(&self) -> SocketAddr {
        SocketAddr::from(([127, 0, 0, 1], self.port))
    }

    /// Kills it.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Removes its data from the disk. It has to be down.
    pub fn wipe(&self) {
        let _ = std::fs::remove_dir_all(&self.dir);
        std::fs::create_dir_all(&self.dir).expect("a directory");
    }

    /// Keeps a copy of its data on disk.
    pub fn remember(&self) {
        copy(&self.dir, &self.dir.with_extension("copy"));
    }

    /// Restores that copy. It has to be down.
    pub fn go_back(&self) {
        self.wipe();
        copy(&self.dir.with_extension("copy"), &self.dir);
    }

    /// Stops or continues the process.
    pub fn signal(&self, name: &str) {
        let pid = self.child.as_ref().expect("it runs").id().to_string();
        let status = Command::new("kill").args([&format!("-{name}"), &pid]).status();
        assert!(status.expect("kill runs").success());
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        self.kill();
        let _ = std::fs::remove_dir_all(&self.dir);
        let _ = std::fs::remove_dir_all(self.dir.with_extension("copy"));
    }
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("it can be listed") {
        let entry = entry.expect("an entry");
        let (path, to) = (entry.path(), to.join(entry.file_name()));
        if path.is_dir() {
            copy(&path, &to);
        } else {
            std::fs::copy(path, to).expect("it is copied");
        }
    }
}

/// Whether the program supports TLS: whether it is linked with a TLS library.
fn has_tls() -> bool {
    let program = std::env::var("FANFARE_TEST_REDIS").unwrap_or_else(|_| "redis-server".to_owned());
    let linked = Command::new("sh").args(["-c", r#"ldd "$(command -v "$0")""#, &program]).output();
    linked.is_ok_and(|linked| String::from_utf8_lossy(&linked.stdout).contains("libssl"))
}

fn answers(port: u16) -> bool {
    let Ok(mut stream) = TcpStream::connect(("127.0.0.1", port)) else { return false };
    let mut answer = [0; 5];
    stream.write_all(b"PING\r\n").is_ok()
        && std::io::Read::read_exact(&mut stream, &mut answer).is_ok()
        && answer == *b"+PONG"
}

fn line(answer: &mut BufReader<TcpStream>) -> String {
    let mut line = String::new();
    answer.read_line(&mut line).expect("an answer");
    line
}

fn number(answer: &mut BufReader<TcpStream>) -> u64 {
    let line = line(answer);
    line.trim_start_matches(':').trim().parse().unwrap_or_else(|_| panic!("{line}"))
}
