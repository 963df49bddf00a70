//! Keeps three sentences of ARCHITECTURE.md true: heads name the rooms that are imported, nothing below `server`
//! reads the clock or a random source by itself, and every bound is in `limits`.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use source::{Source, sources};

// The other checks of `tests/tidy.rs` need more of it.
#[allow(dead_code)]
#[path = "tidy/source.rs"]
mod source;

/// The rooms whose modules say in their heads which rooms they import.
const WITH_TRUE_HEADS: &[&str] = &[
    "auth", "cluster", "config", "control", "doors", "http", "logging", "server", "shard", "state",
    "stats", "store", "wire", "ws",
];

/// The rooms that a head names behind "Imports", up to the end of that sentence. None if it has no such
/// sentence, or says "everything".
fn imports_in_head(text: &str) -> Option<BTreeSet<String>> {
    let head = text.lines().map_while(|line| line.strip_prefix("//!")).map(str::trim);
    let head = head.collect::<Vec<_>>().join(" ");
    let at = head.rfind("Imports ")? + "Imports ".len();
    let sentence = head[at..].split(". ").next().unwrap_or_default();
    if sentence.starts_with("every") {
        return None;
    }
    let names = sentence.split('`').skip(1).step_by(2);
    Some(names.map(|name| name.split("::").next().unwrap_or_default().to_owned()).collect())
}

#[test]
fn heads_name_the_rooms_that_are_imported() {
    let all = sources("src");
    let rooms: BTreeSet<String> = all.iter().map(|source| source.room().to_owned()).collect();
    let (mut faults, mut checked) = (Vec::new(), 0);
    for source in all.iter().filter(|source| WITH_TRUE_HEADS.contains(&source.room())) {
        let text = std::fs::read_to_string(&source.path).expect("UTF-8");
        let Some(mut said) = imports_in_head(&text) else { continue };
        said.retain(|name| rooms.contains(name) && name != source.room());
        let is_room = source.path.iter().count() == 3 && source.path.ends_with("mod.rs");
        // The head of a room's `mod.rs` speaks for the room.
        let speaks_for = |other: &&Source| {
            other.path == source.path || (is_room && other.room() == source.room())
        };
        let named = all.iter().filter(speaks_for).flat_map(Source::imports);
        let named: BTreeSet<String> = named
            .map(|(_, name)| name)
            .filter(|name| rooms.contains(name) && name != source.room())
            .collect();
        checked += 1;
        if said != named {
            faults.push(format!("{}: says {said:?}, imports {named:?}", source.path.display()));
        }
    }
    assert!(checked > 80, "only {checked} heads were read");
    assert!(faults.is_empty(), "heads that are wrong:\n{}", faults.join("\n"));
}

/// What below `server` reads the time or a random source by itself, and why.
const READ_BY_THEMSELVES: &[(&str, &str)] = &[
    ("auth/credential_cache.rs", "the key of its digests is a secret of the process"),
    ("auth/jwt.rs", "a token's id"),
    ("auth/mod.rs", "a secret that is made at the first start"),
    ("clock.rs", "the clock"),
    ("cluster", "timers of its tasks; the seed of its pauses; a new epoch"),
    ("http/guard.rs", "timers of a connection's task"),
    (
        "logging",
        "lines carry the time at which they are written, before there is a server and after",
    ),
    ("store/accounts.rs", "the id of an account that the command line makes"),
    ("ws/user_connections.rs", "the keys of its table's hash, which a `HashMap` makes as well"),
];

/// Names whose use is a look at the time or a random source.
const READS: &[&str] = &[
    "Clock::start",
    "Instant::now",
    "SystemTime",
    "Uuid::new",
    "OsRng",
    "getrandom",
    "thread_rng",
    "RandomState",
];

#[test]
fn time_and_chance_are_handed_in() {
    let (mut faults, mut used) = (Vec::new(), BTreeSet::new());
    for source in sources("src") {
        let path =
            source.path.strip_prefix("src").expect("below src").to_string_lossy().into_owned();
        if ["server", "cli", "main", "fuzzing", "internals"].contains(&source.room()) {
            continue;
        }
        for (index, line) in source.code.lines().enumerate() {
            let line = line.trim_start();
            if line.starts_with("use ") || !READS.iter().any(|read| line.contains(read)) {
                continue;
            }
            match READ_BY_THEMSELVES.iter().find(|(allowed, _)| path.starts_with(allowed)) {
                Some((allowed, _)) => _ = used.insert(*allowed),
                None => faults.push(format!("src/{path}:{}: {line}", index + 1)),
            }
        }
    }
    assert!(faults.is_empty(), "hand these in:\n{}", faults.join("\n"));
    let idle: Vec<_> =
        READ_BY_THEMSELVES.iter().filter(|(allowed, _)| !used.contains(allowed)).collect();
    assert!(idle.is_empty(), "these read neither any more: {idle:?}");
}

/// Constants that are called a maximum, are in no way a choice of ours, and so stand where they are used.
const GIVEN_MAXIMA: &[(&str, &str)] = &[
    ("COUNTER_MAX", "the width of a field of a message's id"),
    ("HEADER_BYTES_MAX", "RFC 6455, 5.2"),
    ("STORED_MAX", "RFC 1951, 3.2.4"),
];

#[test]
fn every_bound_is_in_limits() {
    let mut faults = Vec::new();
    for source in sources("src") {
        if source.room() == "limits" {
            continue;
        }
        for (index, line) in source.code.lines().enumerate() {
            let Some((_, rest)) = line.split_once("const ") else { continue };
            let name: String =
                rest.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
            let is_bound = ["MAX", "MIN", "LIMIT", "CAPACITY"]
                .iter()
                .any(|word| name.split('_').any(|part| part == *word));
            let is_value = rest[name.len()..].starts_with(':');
            // A bound that is made of those in `limits` is one of them.
            let is_derived = line.contains("limits::");
            let is_given = GIVEN_MAXIMA.iter().any(|(given, _)| *given == name);
            if is_bound && is_value && !is_derived && !is_given {
                faults.push(format!("{}:{}: {name}", source.path.display(), index + 1));
            }
        }
    }
    assert!(faults.is_empty(), "move these to src/limits.rs:\n{}", faults.join("\n"));
}

/// The walks of ARCHITECTURE.md: each row names a file, and a function that is in it.
#[test]
fn walks_lead_through_functions_that_are_there() {
    let document = fs::read_to_string("ARCHITECTURE.md").expect("the document");
    let mut steps = 0;
    for line in document.lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, file, function, _, _] = cells[..] else { continue };
        let Some(file) = file.strip_prefix("`src/").and_then(|file| file.strip_suffix('`')) else {
            continue;
        };
        let text = fs::read_to_string(Path::new("src").join(file))
            .unwrap_or_else(|fault| panic!("{file}: {fault}"));
        let name = function.trim_matches('`');
        let is_there = [format!("fn {name}("), format!("fn {name}<")];
        assert!(is_there.iter().any(|one| text.contains(one)), "{file} has no function {name}");
        steps += 1;
    }
    assert!(steps >= 20, "the walks are read: {steps} steps");
}
