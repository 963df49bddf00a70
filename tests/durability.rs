//! An acknowledged message is there after a kill: once, and in order.
//!
//! The server is killed at random moments while eight people write to each other as fast as they
//! can, twenty times over the same data. `FANFARE_SEED=N` plays other moments.

use fanfare_test_support as support;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use fanfare_test_support::{Rng, Server, token};
use serde_json::{Value, json};

const KILLS: usize = 20;
const WRITERS: usize = 8;

/// What one writer was told: the ids in the order of the answers, each with what it wrote.
type Acknowledged = Vec<(String, String)>;

/// A connection that is kept for many calls. Every fault is the end of it.
struct Line(BufReader<TcpStream>);

impl Line {
    fn open(address: SocketAddr) -> Option<Line> {
        let stream = TcpStream::connect(address).ok()?;
        stream.set_read_timeout(Some(support::READ_PATIENCE)).ok()?;
        stream.set_nodelay(true).ok()?;
        Some(Line(BufReader::new(stream)))
    }

    fn post(&mut self, path: &str, token: &str, body: &Value) -> Option<(u16, Value)> {
        let body = body.to_string();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\
             Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes()).ok()?;
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).ok()? == 0 {
                return None;
            }
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().ok()?;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().ok()?;
            }
        }
        let mut bytes = vec![0; length];
        self.0.read_exact(&mut bytes).ok()?;
        Some((status, serde_json::from_slice(&bytes).ok()?))
    }
}

/// Writes to the next user, or to the group, until the server has gone.
fn write(
    address: SocketAddr,
    writer: usize,
    group: &str,
    counter: &AtomicU64,
    is_over: &AtomicBool,
) -> Acknowledged {
    let token = token(&format!("user{writer}"), "");
    let mut acknowledged = Vec::new();
    let Some(mut line) = Line::open(address) else { return acknowledged };
    while !is_over.load(Ordering::SeqCst) {
        let content = format!("{writer}-{}", counter.fetch_add(1, Ordering::SeqCst));
        let (path, body) = if content.ends_with('7') {
            (format!("/api/v1/groups/{group}/messages"), json!({"content": content}))
        } else {
            let to = format!("user{}", (writer + 1) % WRITERS);
            (String::from("/api/v1/messages"), json!({"to_user_id": to, "content": content}))
        };
        match line.post(&path, &token, &body) {
            Some((201, answer)) => {
                let id = answer["id"].as_str().expect("an id").to_owned();
                acknowledged.push((id, content));
            }
            Some((status, answer)) => panic!("{status}: {answer}"),
            None => break,
        }
    }
    acknowledged
}

/// Everything that a user may pull, in the order in which it comes.
fn pull_all(server: &Server, user: &str) -> Vec<(String, String)> {
    let (mut all, mut after) = (Vec::new(), String::new());
    loop {
        let path = format!("/api/v1/messages?limit=500&after={after}");
        let reply = server.call("GET", &path, &token(user, ""), &Value::Null);
        assert_eq!(reply.status, 200, "{}", reply.text);
        for message in reply.body["messages"].as_array().expect("a list") {
            let text = |field: &str| message[field].as_str().expect("a text").to_owned();
            all.push((text("id"), text("content")));
        }
        match reply.body["next"].as_str() {
            Some(next) => next.clone_into(&mut after),
            None => return all,
        }
    }
}

#[test]
#[allow(clippy::disallowed_methods, reason = "a test may be told its seed")]
fn an_acknowledged_message_outlives_twenty_kills() {
    let seed = std::env::var("FANFARE_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(7);
    let mut rng = Rng::seeded(seed);
    let mut server = Server::start_for_people(&[]);
    let users: Vec<String> = (0..WRITERS).map(|n| format!("user{n}")).collect();
    for user in &users {
        server.call("GET", "/ws/online", &token(user, ""), &Value::Null);
    }
    let body = json!({"name": "all", "members": users});
    let group = server.call("POST", "/api/v1/groups", &token("user0", ""), &body).body;
    let group = group["group_id"].as_str().expect("an id").to_owned();
    let (counter, mut told) = (AtomicU64::new(0), vec![Acknowledged::new(); WRITERS]);
    for _ in 0..KILLS {
        let (address, is_over) = (server.address(), AtomicBool::new(false));
        let goal = counter.load(Ordering::SeqCst) + rng.below(400) as u64;
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..WRITERS)
                .map(|n| {
                    let (group, counter, is_over) = (&group, &counter, &is_over);
                    scope.spawn(move || write(address, n, group, counter, is_over))
                })
                .collect();
            support::eventually("they have written enough", Duration::from_secs(30), || {
                counter.load(Ordering::SeqCst) >= goal
            });
            server.kill();
            is_over.store(true, Ordering::SeqCst);
            for (told, writer) in told.iter_mut().zip(writers) {
                told.extend(writer.join().expect("a writer ends"));
            }
        });
        server.restart();
    }
    let count: usize = told.iter().map(Vec::len).sum();
    assert!(count > KILLS, "hardly anything was acknowledged: {count}");
    for (writer, told) in told.iter().enumerate() {
        assert!(told.is_sorted_by(|a, b| a.0 < b.0), "ids rise, through every restart");
        for reader in [writer, (writer + 1) % WRITERS] {
            let pulled = pull_all(&server, &users[reader]);
            assert!(pulled.is_sorted_by(|a, b| a.0 < b.0), "in order, and no id twice");
            let mut contents: Vec<&String> = pulled.iter().map(|(_, content)| content).collect();
            contents.sort_unstable();
            assert!(contents.is_sorted_by(|a, b| a < b), "nothing is there twice");
            let mut rest = pulled.iter();
            for message in told {
                assert!(rest.any(|one| one == message), "{message:?} is lost, or out of order");
            }
        }
    }
}
