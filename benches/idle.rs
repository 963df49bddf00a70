//! A million idle connections over sockets of memory: bytes each, seconds to connect and subscribe, one event to all
//! of them, and a storm that leaves.
//!
//!     cargo bench --bench idle [-- CONNECTIONS [anonymous|signed-in]]
//!
//! Without a number 250,000 connections, anonymous unless said. The kernel's own memory for a socket comes on top, and is in PERF.md.

use fanfare::internals::clock::Clock;

mod support {
    pub mod crowd;
}
use support::crowd::Crowd;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Resident memory of this process, in bytes. Linux only; 0 elsewhere.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<usize>().ok());
    kib.unwrap_or(0) * 1024
}

#[allow(clippy::cast_precision_loss, reason = "figures for people")]
fn run(count: usize, is_signed_in: bool) {
    let clock = Clock::start();
    let since = |start_ns: u64| (clock.now().ns - start_ns) as f64 / 1e9;
    let mut crowd = Crowd::new(count);
    // What the first connection makes is there for all.
    crowd.open(is_signed_in);
    let before = resident();
    let start_ns = clock.now().ns;
    while crowd.len() < count {
        crowd.open(is_signed_in);
    }
    let connect_s = since(start_ns);
    let each = resident().saturating_sub(before) / count;
    let received = crowd.received();
    let start_ns = clock.now().ns;
    crowd.publish(1);
    let event_s = since(start_ns);
    assert!(crowd.received() - received > 100 * count as u64, "everyone got the event");
    let start_ns = clock.now().ns;
    crowd.leave(0);
    let leave_s = since(start_ns);
    let left = resident().saturating_sub(before);
    let kind = if is_signed_in { "signed-in" } else { "anonymous" };
    println!(
        "{count} {kind} connections: {each} bytes each; connect and subscribe {connect_s:.2} s \
         ({:.0} a second); one event to all {event_s:.3} s ({:.0} ns each); all leave {leave_s:.2} s, \
         {:.1} MB stay",
        count as f64 / connect_s,
        event_s * 1e9 / count as f64,
        left as f64 / 1e6,
    );
}

fn main() {
    // `cargo bench` adds flags of its own.
    let given: Vec<String> =
        std::env::args().skip(1).filter(|one| !one.starts_with("--")).collect();
    let count = given.iter().find_map(|one| one.parse().ok()).unwrap_or(250_000);
    // One kind a run: a second one would use the memory that the first has left.
    run(count, given.iter().any(|one| one == "signed-in"));
}
