//! The harness of all tests with a running server: the process, its clients, and its surroundings.
//!
//! A test starts the real binary on a port that the kernel picks, with a data directory of its own,
//! and speaks to it over TCP. Every wait is bounded, so a silent server fails the test instead of
//! stopping it.
//!
//! ```no_run
//! use fanfare_test_support::{Server, instance};
//!
//! let server = Server::start(&["--shards", "1"]);
//! let mut client = server.connect();
//! let mut picture = client.follow("orders");
//! server.register(&[instance("orders", "i1")]);
//! picture.apply(&client.expect("service_change"));
//! picture.expect_equals_registry(&server);
//! ```
//!
//! * [`Server`], [`Reply`], [`Client`], [`Picture`]: a process, HTTP, a WebSocket, the state in its
//!   frames.
//! * [`raw`]: a WebSocket by hand.
//! * [`client`]: the Rust client in tests.
//! * [`nodes`], [`redis`], [`postgres`]: several nodes and their stores.
//! * [`proxy`]: a connection that fails on demand. [`small_disk`]: a disk that fills up.
//!
//! Not here: anything of the server's crate. A test knows of the server as much as a client does.

#![allow(clippy::disallowed_methods, reason = "a test process has the clock of the wall")]

pub mod artemis;
pub mod client;
pub mod nodes;
pub mod postgres;
pub mod proxy;
pub mod raw;
pub mod redis;
pub mod small_disk;

mod picture;
mod reply;
mod server;
mod socket;

use std::fs::File;
use std::io::Write as _;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

pub use picture::Picture;
pub use reply::Reply;
pub use server::{Server, program};
pub use socket::Client;

/// How long a client waits for the next bytes.
pub const READ_PATIENCE: Duration = Duration::from_secs(5);

/// How long a server may take to stop, as documented.
pub const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// The secret of servers that people sign in to.
pub const SECRET: &str = "a secret of more than thirty-two bytes";

/// Reports that the calling test cannot run here, and why. The test returns right after it.
///
/// Rust's runner counts such a test as passed and keeps its output. So the report goes to the file
/// that `FANFARE_TEST_SKIPPED` names, and `scripts/count_results.sh` takes the test out of the
/// passed ones.
pub fn skipped(why: &str) {
    report("whole", why);
}

/// Reports that a part of the calling test cannot run here, and why. The rest of the test runs, and counts.
pub fn skipped_in_part(why: &str) {
    report("part", why);
}

fn report(extent: &str, why: &str) {
    eprintln!("SKIPPED: {why}");
    let Some(path) = std::env::var_os("FANFARE_TEST_SKIPPED") else { return };
    let thread = std::thread::current();
    // The runner names the thread of a test after it.
    let line = format!("{extent}\t{}\t{why}\n", thread.name().unwrap_or("a test"));
    let file = File::options().append(true).create(true).open(path);
    file.and_then(|mut file| file.write_all(line.as_bytes())).expect("the file can be written");
}

/// Checks a condition again and again, until it holds or the patience is over.
pub fn eventually(what: &str, patience: Duration, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < patience, "not within {patience:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The seconds since 1970, as tokens count them.
pub fn now_s() -> u64 {
    std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs()
}

/// A token of a user, valid for an hour; the name is the id with a capital letter.
pub fn token(user: &str, scope: &str) -> String {
    let mut name = user.to_owned();
    name[..1].make_ascii_uppercase();
    token_for(user, &name, 3_600, scope)
}

/// A token of a user with a name, valid for so many seconds.
pub fn token_for(user: &str, name: &str, seconds: u64, scope: &str) -> String {
    let claims = json!({"sub": user, "username": name, "exp": now_s() + seconds, "scope": scope});
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
