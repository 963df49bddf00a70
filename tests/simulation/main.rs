//! Shards and control, driven by a seed: connections over pipes of memory, a clock that is told
//! what time it is, one thread that interleaves everyone's steps at random.
//!
//! What holds after every step: frames of a service arrive in order, without a gap that no snapshot
//! covers and without a repetition; a claimed revision is one whose picture the client has; answers
//! come once and in the order of the requests; nobody is closed but for what it did; outboxes keep
//! their bound. At every quiet moment all pictures equal the registry's.
//!
//! A seed that fails is printed with the command that plays it again.

#![allow(clippy::disallowed_methods, reason = "seeds to replay come from the environment")]

mod client;
mod clock;
mod cluster;
mod fault;
mod oracle;
mod pipe;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

use world::SimWorld;

/// The epoch of all revisions.
const EPOCH: &str = "epoch";
/// Changes that a service remembers here.
const HISTORY_MAX: u64 = 8;

/// After how long a connection may be ended, and for what.
#[allow(clippy::struct_field_names, reason = "the unit belongs to the name")]
struct Timeouts {
    pong_ms: u64,
    write_ms: u64,
    /// The shortest of all: how long a closed connection is waited for.
    shortest_ms: u64,
}

/// What the worlds went through, to know that they went through enough.
#[derive(Debug, Default)]
struct Seen {
    collapses: u64,
    snapshots: u64,
    replays: u64,
    slow_ends: u64,
    silent_ends: u64,
    /// Looks at published views.
    shown: u64,
}

fn play(seed: u64) -> Seen {
    catch_unwind(AssertUnwindSafe(|| SimWorld::new(seed).play())).unwrap_or_else(|fault| {
        eprintln!("replay with: FANFARE_SEED={seed} cargo test --test simulation -- one_seed");
        resume_unwind(fault)
    })
}

#[test]
fn a_hundred_known_worlds() {
    let mut all = Seen::default();
    for seed in 0..100 {
        let seen = play(seed);
        all.collapses += seen.collapses;
        all.snapshots += seen.snapshots;
        all.replays += seen.replays;
        all.slow_ends += seen.slow_ends;
        all.silent_ends += seen.silent_ends;
        all.shown += seen.shown;
    }
    println!("{all:?}");
    let Seen { collapses, snapshots, replays, slow_ends, silent_ends, shown } = all;
    let rarest = [collapses, snapshots, replays, slow_ends, silent_ends, shown].into_iter().min();
    assert!(rarest >= Some(10), "too little happened to mean anything: {all:?}");
}

/// Twenty, or as many as `FANFARE_WORLDS` says.
#[test]
fn twenty_fresh_worlds() {
    let worlds = std::env::var("FANFARE_WORLDS").ok().and_then(|count| count.parse().ok());
    for _ in 0..worlds.unwrap_or(20) {
        play(uuid::Uuid::new_v4().as_u64_pair().0);
    }
}

/// Plays the seed in `FANFARE_SEED`.
#[test]
fn one_seed() {
    if let Some(seed) = std::env::var("FANFARE_SEED").ok().and_then(|seed| seed.parse().ok()) {
        println!("{:?}", play(seed));
    }
}
