//! Several nodes of one cluster, and clients of them that survive their failures.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::client::IntoClientRequest as _;
use tungstenite::{Message, WebSocket};

use crate::proxy::FaultyProxy;
use crate::redis::Redis;
use crate::{Client, SECRET, Server, eventually, program};

/// How long nodes may take to agree again.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// A node that is ready.
pub fn node(redis: &Redis, flags: &[&str]) -> Server {
    node_at(&redis.url(), flags)
}

/// A node that is ready, and the proxy between it and Redis.
pub fn node_over_proxy(redis: &Redis, flags: &[&str]) -> (Server, FaultyProxy) {
    let proxy = FaultyProxy::to(redis.address());
    (node_at(&format!("redis://{}", proxy.address()), flags), proxy)
}

/// Nodes that are ready.
pub fn nodes<const N: usize>(redis: &Redis, flags: &[&str]) -> [Server; N] {
    let all = std::array::from_fn(|_| Server::start(&flags_at(&redis.url(), flags)));
    all.iter().for_each(await_ready);
    all
}

fn node_at(url: &str, flags: &[&str]) -> Server {
    let server = Server::start(&flags_at(url, flags));
    await_ready(&server);
    server
}

/// The flags of a node that finds Redis under a URL.
pub fn flags_at<'a>(url: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    [&["--redis-url", url, "--jwt-secret", SECRET, "--shards", "1"], flags].concat()
}

/// Waits until a node takes part.
pub fn await_ready(server: &Server) {
    eventually("the node is ready", PATIENCE, || server.get("/ready").status == 200);
}

/// Waits until a node has found that it is cut off.
pub fn await_cut_off(server: &Server) {
    eventually("the node is cut off", PATIENCE, || server.get("/ready").status == 503);
}

/// Starts a server that has to refuse. Returns its exit status and its standard error.
pub fn refused(flags: &[&str]) -> (ExitStatus, String) {
    refused_by("exec", flags)
}

/// The same by way of a shell; its last command is `exec`.
pub fn refused_by(prelude: &str, flags: &[&str]) -> (ExitStatus, String) {
    let dir = std::env::temp_dir().join(format!("fanfare-refused-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir_all(&dir).expect("a directory");
    let log = std::fs::File::create(dir.join("log")).expect("a log file");
    let mut child = Command::new("sh")
        .args(["-c", &format!(r#"{prelude} "$0" "$@""#)])
        .arg(program())
        .args(["--bind", "127.0.0.1:0", "--data-dir", "data"])
        .args(flags)
        .current_dir(&dir)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .spawn()
        .expect("the binary starts");
    let start = Instant::now();
    let status = loop {
        let status = child.try_wait().expect("a child can be waited for");
        if status.is_some() || start.elapsed() > PATIENCE {
            break status;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    if status.is_none() {
        let _ = child.kill();
        let _ = child.wait();
    }
    let said = std::fs::read_to_string(dir.join("log")).expect("its log");
    let _ = std::fs::remove_dir_all(&dir);
    (status.unwrap_or_else(|| panic!("it was not refused: {said}")), said)
}

/// A call that may fail: the server may then have carried it out, and the test does not count it.
pub fn try_call(
    address: SocketAddr,
    patience: Duration,
    (method, path): (&str, &str),
    token: &str,
    body: &Value,
) -> Option<(u16, Value)> {
    let mut request =
        format!("{method} {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
    if !token.is_empty() {
        request += &format!("Authorization: Bearer {token}\r\n");
    }
    let body = if body.is_null() { String::new() } else { body.to_string() };
    if !body.is_empty() {
        let length = body.len();
        request += &format!("Content-Type: application/json\r\nContent-Length: {length}\r\n");
    }
    let mut stream = TcpStream::connect_timeout(&address, patience).ok()?;
    stream.set_read_timeout(Some(patience)).ok()?;
    stream.write_all(format!("{request}\r\n{body}").as_bytes()).ok()?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).ok()?;
    let text = String::from_utf8(answer).ok()?;
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.split(' ').nth(1)?.parse().ok()?;
    Some((status, serde_json::from_str(body).unwrap_or_default()))
}

/// A socket that may end at any time.
pub struct Line(WebSocket<TcpStream>);

/// The connection is over.
#[derive(Debug)]
pub struct Ended;

impl Line {
    /// A socket at a node, if it gets one in time.
    pub fn open(address: SocketAddr, patience: Duration, token: &str) -> Option<Line> {
        let stream = TcpStream::connect_timeout(&address, patience).ok()?;
        stream.set_read_timeout(Some(patience)).ok()?;
        let mut request = format!("ws://{address}/ws").into_client_request().ok()?;
        if !token.is_empty() {
            let bearer = format!("Bearer {token}").parse().expect("a header's value");
            request.headers_mut().insert("authorization", bearer);
        }
        let (socket, _) = tungstenite::client(request, stream).ok()?;
        socket.get_ref().set_read_timeout(Some(Duration::from_millis(2))).ok()?;
        Some(Line(socket))
    }

    /// Sends a command. False if the connection is over.
    pub fn send(&mut self, command: &Value) -> bool {
        self.0.send(Message::text(command.to_string())).is_ok()
    }

    /// The next frame, if one has arrived.
    pub fn poll(&mut self) -> Result<Option<Value>, Ended> {
        loop {
            match self.0.read() {
                Ok(Message::Text(text)) => {
                    return Ok(Some(serde_json::from_str(&text).expect("a frame is JSON")));
                }
                Ok(Message::Ping(_) | Message::Pong(_)) => {}
                Err(tungstenite::Error::Io(fault))
                    if matches!(
                        fault.kind(),
                        std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut
                    ) =>
                {
                    return Ok(None);
                }
                _ => return Err(Ended),
            }
        }
    }
}

/// The messages that a follower of a channel has seen. Every frame is checked: a gap or a double
/// fails the test, unless the server reported a loss.
#[derive(Debug, Clone)]
pub struct Trail {
    pub channel: String,
    pub epoch: String,
    pub offset: u64,
    /// Each message by its epoch and offset.
    pub seen: Vec<(String, u64, Value)>,
    /// The reported losses: of an epoch, the offsets above the first number up to the second.
    pub told: Vec<(String, u64, u64)>,
}

impl Trail {
    /// From an answer to subscribe.
    pub fn begin(answer: &Value) -> Trail {
        let (epoch, offset) = place(answer);
        Trail {
            channel: answer["channel"].as_str().expect("a channel").to_owned(),
            told: vec![(epoch.clone(), 0, offset)],
            epoch,
            offset,
            seen: Vec::new(),
        }
    }

    /// The command that resumes here.
    pub fn resume(&self) -> Value {
        let since = json!({"epoch": self.epoch, "offset": self.offset});
        json!({"type": "subscribe", "channel": self.channel, "since": since})
    }

    /// Applies a `subscribed`: the answer to [`Trail::resume`], or one without a request. Returns
    /// whether all missed messages will come.
    pub fn subscribed(&mut self, frame: &Value) -> bool {
        assert_eq!(frame["channel"], self.channel.as_str(), "{frame}");
        let (epoch, offset) = place(frame);
        if frame["recovered"] == true {
            assert_eq!(epoch, self.epoch, "recovered, and from another epoch: {frame}");
            assert!(offset >= self.offset, "back in time, at {}: {frame}", self.offset);
            return true;
        }
        if epoch == self.epoch {
            assert!(offset >= self.offset, "back in time, at {}: {frame}", self.offset);
            self.told.push((epoch, self.offset, offset));
        } else {
            self.told.push((self.epoch.clone(), self.offset, u64::MAX));
            self.told.push((epoch.clone(), 0, offset));
            self.epoch = epoch;
        }
        self.offset = offset;
        false
    }

    /// Adds a message.
    pub fn apply(&mut self, frame: &Value) {
        assert_eq!(frame["channel"], self.channel.as_str(), "{frame}");
        assert_eq!(
            frame["offset"],
            self.offset + 1,
            "a gap or a double in {}: {frame}",
            self.epoch
        );
        self.offset += 1;
        self.seen.push((self.epoch.clone(), self.offset, frame.clone()));
    }

    /// Reads until the trail has reached an offset, or beyond.
    pub fn follow_to(&mut self, client: &mut Client, offset: u64) {
        while self.offset < offset {
            self.follow_one(client);
        }
    }

    /// Reads the next frame about the channel.
    pub fn follow_one(&mut self, client: &mut Client) {
        let frame = client.find("about the channel", |frame| frame["channel"] == *self.channel);
        if frame["type"] == "subscribed" {
            assert_eq!(frame["recovered"], false, "unasked, and nothing is lost: {frame}");
            self.subscribed(&frame);
        } else {
            self.apply(&frame);
        }
    }

    /// The payloads in the order they came.
    pub fn payloads(&self) -> Vec<&Value> {
        self.seen.iter().map(|(_, _, frame)| &frame["payload"]).collect()
    }

    /// The message at an offset. None if the server reported that it would not come.
    pub fn at(&self, epoch: &str, offset: u64) -> Option<&Value> {
        let message = self.seen.iter().find(|one| (&*one.0, one.1) == (epoch, offset));
        let is_excused = || {
            let is_in = |(of, above, to): &(String, u64, u64)| {
                of == epoch && (*above < offset && offset <= *to)
            };
            self.told.iter().any(is_in)
        };
        assert!(message.is_some() || is_excused(), "{} {epoch}/{offset} is missing", self.channel);
        message.map(|one| &one.2)
    }
}

/// The epoch and the offset that a frame names.
pub fn place(frame: &Value) -> (String, u64) {
    let epoch = frame["epoch"].as_str().unwrap_or_else(|| panic!("no epoch: {frame}"));
    let offset = frame["offset"].as_u64().unwrap_or_else(|| panic!("no offset: {frame}"));
    (epoch.to_owned(), offset)
}
