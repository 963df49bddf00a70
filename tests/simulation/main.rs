//! One to three nodes, their clients and what lies between them, driven by a seed.
//!
//! Every node has real control and real shards over pipes of memory. One node is alone with its database;
//! several share a simulated sequencer and a simulated database. A seed decides who moves next, what is torn,
//! delayed, lost, refused or repeated, who stops reading, whose process ends, and what each clock says.
//!
//! What holds after every step: frames of a service or a channel follow each other without a gap or a repetition;
//! a service at a revision, and a channel at an offset, are the same to all; nobody knows a revision that no node
//! has shown; answers come once and in the order of the requests; nobody is closed but for what it did; no lease
//! ends within its time after a heartbeat was accepted; what a conditional registration replaced is what its writer
//! believed; an instance that is pulled out is not shown. At a quiet moment all nodes show the same, which is what
//! was accepted, and each client what its node shows; rooms have whom they should have; a message that was accepted
//! has come once to each connection that was there, and is in the database; a node that ends then comes back with
//! all of it.
//!
//! `FANFARE_SEED=N FANFARE_STORY=1 cargo test --test simulation -- one_seed --nocapture` tells the story of a seed:
//! the log, the faults and every frame.

#![allow(clippy::disallowed_methods, reason = "seeds to replay come from the environment")]

mod client;
mod clock;
mod fault;
mod holder;
mod node;
mod oracle;
mod pipe;
mod rest;
mod sequencer;
mod store;
mod world;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Instant;

use fanfare::internals::auth::Authenticator;
use fanfare::internals::id::ShardId;
use fanfare::internals::limits::Limits;
use fanfare::internals::shard;
use fanfare::internals::state;
use fanfare::internals::stats::Stats;
use fanfare::internals::ws::authorizer::Authorizer;

use world::SimWorld;

const STARTED_MS: u64 = 1_800_000_000_000;
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

/// What worlds went through, each with how often, to know that they went through enough.
type Seen = BTreeMap<&'static str, u64>;

/// A world that was played.
struct Played {
    seen: Seen,
    /// A hash of all that was sent to anybody, and when.
    trace: u64,
}

fn play(seed: u64) -> Played {
    catch_unwind(AssertUnwindSafe(|| SimWorld::new(seed).play())).unwrap_or_else(|fault| {
        eprintln!("replay with: FANFARE_SEED={seed} cargo test --test simulation -- one_seed");
        resume_unwind(fault)
    })
}

/// Plays worlds on all cores, or on as many as `FANFARE_THREADS` says. `seed` gives each its seed. Ends with
/// the first that fails; with `FANFARE_PLAY_ON` all are played.
fn play_all(worlds: u64, seed: impl Fn(u64) -> u64 + Sync) -> Seen {
    let (next, failures) = (AtomicU64::new(0), AtomicU64::new(0));
    let plays_on = std::env::var_os("FANFARE_PLAY_ON").is_some();
    let started = Instant::now();
    let work = || {
        let mut all = Seen::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= worlds || (failures.load(Ordering::Relaxed) > 0 && !plays_on) {
                return all;
            }
            let seed = seed(number);
            match catch_unwind(AssertUnwindSafe(|| play(seed))) {
                Ok(played) => {
                    for (what, count) in played.seen {
                        *all.entry(what).or_default() += count;
                    }
                }
                Err(fault) => {
                    failures.fetch_add(1, Ordering::Relaxed);
                    if !plays_on {
                        resume_unwind(fault)
                    }
                }
            }
            if worlds >= 1_000 && (number + 1).is_multiple_of(1_000) {
                eprintln!("{} worlds in {} s", number + 1, started.elapsed().as_secs());
            }
        }
    };
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let cores = read_variable("FANFARE_THREADS").unwrap_or(cores as u64);
    let all = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..cores).map(|_| scope.spawn(work)).collect();
        let mut all = Seen::new();
        for thread in threads {
            let seen = thread.join().unwrap_or_else(|fault| resume_unwind(fault));
            for (what, count) in seen {
                *all.entry(what).or_default() += count;
            }
        }
        all
    });
    let failures = failures.load(Ordering::Relaxed);
    assert_eq!(failures, 0, "worlds of {worlds} failed");
    all
}

fn read_variable(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

#[test]
fn a_hundred_known_worlds() {
    let all = play_all(100, |number| number);
    println!("{all:#?}");
    let is_enough = all.len() >= 30 && all.values().all(|count| *count >= 20);
    assert!(is_enough, "too little happened to mean anything: {all:#?}");
}

/// Twenty, or as many as `FANFARE_WORLDS` says.
#[test]
fn twenty_fresh_worlds() {
    play_all(read_variable("FANFARE_WORLDS").unwrap_or(20), |_| {
        uuid::Uuid::new_v4().as_u64_pair().0
    });
}

/// Plays the seed in `FANFARE_SEED`.
#[test]
fn one_seed() {
    if let Some(seed) = read_variable("FANFARE_SEED") {
        println!("{:#?}", play(seed).seen);
    }
}

/// A failure can be looked into: its seed brings about the same again, byte for byte.
#[test]
fn a_seed_is_played_again_exactly() {
    for seed in 0..6 {
        assert_eq!(play(seed).trace, play(seed).trace, "seed {seed} is not the same again");
    }
}

/// An authorizer that is open to everyone.
fn open_gate() -> Authorizer {
    Authorizer::open(Authenticator::hs256(fanfare_test_support::SECRET.as_bytes()))
}

fn shard_settings(
    index: usize,
    limits: &Arc<Limits>,
    authorizer: &Arc<Authorizer>,
    stats: &Arc<Stats>,
    seed: u64,
) -> shard::Settings {
    shard::Settings {
        id: shard_id(index),
        node_id: "simulated".into(),
        limits: Arc::clone(limits),
        authorizer: Arc::clone(authorizer),
        is_draining: Arc::new(AtomicBool::new(false)),
        access_log: false,
        stats: Arc::clone(stats),
        seed,
    }
}

fn shard_id(index: usize) -> ShardId {
    ShardId(u16::try_from(index).expect("few shards"))
}

fn people_settings() -> state::Settings {
    state::Settings {
        channels: state::channels::bounds::Settings {
            namespaces: Arc::default(),
            history_max: 8,
            history_bytes_max: 4_096,
            channels_max: 100,
            per_connection_max: 100,
            per_address_max: None,
        },
        history_bytes_max: 1_048_576,
        users_max: 100,
        subscriptions_max: 100,
        epoch: String::from("c"),
        node: String::from("n"),
        seed: 1,
    }
}
