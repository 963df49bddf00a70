//! Running out of file descriptors stops nothing for good: open connections are served, the accept
//! loop pauses instead of spinning, and new connections are accepted as soon as there is room.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::time::Duration;

use fanfare_test_support::raw::{Raw, text};
use fanfare_test_support::{READ_PATIENCE, Server, eventually};

/// Enough for the server itself, and for a few connections.
const DESCRIPTORS: usize = 44;

const REFUSED: &str = "cannot accept a connection";

fn refusals(server: &Server) -> usize {
    server.log().matches(REFUSED).count()
}

#[test]
fn without_descriptors_the_server_waits_for_one() {
    // Each refusal is to be seen: with `debug` asked for anywhere, equal lines are not folded.
    let prelude = format!(r#"ulimit -n {DESCRIPTORS}; export RUST_LOG=info,none=debug; exec "$@""#);
    let server = Server::start_by(Some(&prelude), &["--shards", "1"]);
    let mut early = Raw::open(server.address(), "/ws");
    // The kernel takes these; the server can not. It says so once a pause, and not in a frenzy.
    let crowd: Vec<TcpStream> = (0..2 * DESCRIPTORS)
        .map(|_| TcpStream::connect(server.address()).expect("the kernel accepts"))
        .collect();
    eventually("a few refusals", READ_PATIENCE, || refusals(&server) >= 3);
    let ticks = cpu_ticks(&server);
    let start = refusals(&server);
    eventually("some more", READ_PATIENCE, || refusals(&server) >= start + 10);
    // Ten pauses of 100 ms are a hundred ticks of a thread that spins.
    let spent = cpu_ticks(&server) - ticks;
    assert!(spent < 50, "{spent} ticks of 10 ms while there was nothing to do");
    for _ in 0..20 {
        early.send(&text(r#"{"type":"ping"}"#));
        assert_eq!(early.json()["type"], "pong");
    }
    drop(crowd);
    eventually("room again", READ_PATIENCE, || is_served(&server));
    assert!(!server.log().contains("panicked"));
}

/// Whether a request is answered. The socket may be one of those that wait for room.
fn is_served(server: &Server) -> bool {
    let mut stream = TcpStream::connect(server.address()).expect("the kernel accepts");
    stream.set_read_timeout(Some(Duration::from_millis(300))).expect("a timeout");
    let _ =
        stream.write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    answer.starts_with(b"HTTP/1.1 200")
}

/// Processor time of the whole process, in hundredths of a second.
fn cpu_ticks(server: &Server) -> u64 {
    let stat = std::fs::read_to_string(format!("/proc/{}/stat", server.pid())).expect("it runs");
    let (_, rest) = stat.rsplit_once(')').expect("a name in brackets");
    let fields: Vec<&str> = rest.split_whitespace().collect();
    let number = |index: usize| fields[index].parse::<u64>().expect("a number");
    number(11) + number(12)
}

/// The kernel stops every thread of a process while its table grows; it must not do so in a storm.
#[test]
fn the_table_has_its_size_from_the_start() {
    let server = Server::start_within(Some(4_096), &[]);
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid()));
    let status = status.expect("it runs");
    let line = status.lines().find_map(|line| line.strip_prefix("FDSize:")).expect("Linux");
    assert_eq!(line.trim(), "4096");
    assert!(server.open_descriptors() < 100);
}
