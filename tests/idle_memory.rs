//! What an idle connection costs in memory stays what PERF.md says.
//!
//! A shard and control hold a thousand connections over sockets of memory, and an allocator counts the bytes that
//! each adds: what is asked for, not what the real allocator rounds it up to. Tables double, so the number of
//! connections is one at which they are about half full.

use std::alloc::System;

use cap::Cap;
use crowd::Crowd;

#[allow(dead_code, reason = "`benches/idle.rs` needs more of it")]
#[path = "../benches/support/crowd.rs"]
mod crowd;

#[global_allocator]
static ALLOCATOR: Cap<System> = Cap::new(System, usize::MAX);

/// Connections that are there before it is counted: buffers and tables of their size are made by then.
const BEFORE: usize = 500;
const COUNTED: usize = 5_000;

fn bytes_each(is_signed_in: bool) -> usize {
    let mut crowd = Crowd::new(BEFORE + COUNTED);
    (0..BEFORE).for_each(|_| crowd.open(is_signed_in));
    crowd.let_time_pass(2_000);
    let before = ALLOCATOR.allocated();
    (0..COUNTED).for_each(|_| crowd.open(is_signed_in));
    // The deadlines of the handshakes pass. Before the first pings, which nobody would answer here.
    crowd.let_time_pass(11_000);
    assert_eq!(crowd.len(), BEFORE + COUNTED, "all are there");
    let each = ALLOCATOR.allocated().saturating_sub(before) / COUNTED;
    crowd.leave(0);
    each
}

/// One test, so that nothing else allocates meanwhile.
#[test]
fn idle_connections_stay_small() {
    let anonymous = bytes_each(false);
    let signed_in = bytes_each(true);
    println!("anonymous {anonymous} bytes, signed in {signed_in}");
    assert!(anonymous <= 440, "an anonymous connection costs {anonymous} bytes");
    assert!(signed_in <= 800, "a signed-in connection costs {signed_in} bytes");
}
