//! Keeps three sentences of ARCHITECTURE.md true: no circle of imports inside a room, nothing below `server`
//! reads the clock or a random source by itself, and every bound is in `limits`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use source::{Source, sources};

// The other checks of `tests/tidy.rs` need more of it.
#[allow(dead_code)]
#[path = "tidy/source.rs"]
mod source;

/// The rooms whose files import each other without a circle. A room's `mod.rs` is left out: it holds the type that the
/// files of the room implement, so it and they know each other.
const WITHOUT_CIRCLES: &[&str] = &[
    "auth", "cli", "config", "doors", "http", "logging", "mailbox", "server", "shard", "stats",
    "store", "wire", "ws",
];

/// The rooms whose modules say in their heads which rooms they import.
const WITH_TRUE_HEADS: &[&str] = &[
    "auth", "config", "doors", "http", "logging", "server", "shard", "stats", "store", "wire", "ws",
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

/// The file right below a room: `http/users` for `src/http/users.rs` and what lies below it.
fn file_of(source: &Source) -> Option<String> {
    let mut parts = source.path.iter().skip(2);
    let name = parts.next()?.to_str()?.trim_end_matches(".rs").to_owned();
    (name != "mod" && name != "tests").then_some(name)
}

/// The files of a room that a source names, by `super::` or `crate::room::`.
fn siblings(source: &Source, room: &str, files: &BTreeSet<String>) -> BTreeSet<String> {
    let depth = source.path.iter().count() - 2;
    let is_module = source.path.ends_with("mod.rs");
    let up = "super::".repeat(if is_module { depth - 1 } else { depth });
    let mut found = BTreeSet::new();
    for start in [up, format!("crate::{room}::")].iter().filter(|start| !start.is_empty()) {
        for (at, _) in source.code.match_indices(start.as_str()) {
            let before = source.code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || c == '_' || c == ':') {
                continue;
            }
            let rest = &source.code[at + start.len()..];
            let names = match rest.strip_prefix('{') {
                None => rest,
                Some(group) => &group[..group.find('}').unwrap_or(0)],
            };
            let is_group = rest.starts_with('{');
            for part in names.split(',').take(if is_group { usize::MAX } else { 1 }) {
                let part = part.trim_start();
                let end = part.find(|c: char| !c.is_alphanumeric() && c != '_');
                let name = &part[..end.unwrap_or(part.len())];
                if files.contains(name) {
                    found.insert(name.to_owned());
                }
            }
        }
    }
    found
}

/// Files that lie on a circle: those from which a path of imports leads back.
fn circles(edges: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let reaches = |start: &String| {
        let (mut seen, mut open) = (BTreeSet::new(), vec![start]);
        while let Some(file) = open.pop() {
            for next in edges.get(file).into_iter().flatten() {
                if next == start {
                    return true;
                }
                if seen.insert(next) {
                    open.push(next);
                }
            }
        }
        false
    };
    edges.keys().filter(|file| reaches(file)).cloned().collect()
}

#[test]
fn files_of_a_room_import_each_other_without_circles() {
    let (mut faults, mut drawn) = (Vec::new(), 0);
    for room in WITHOUT_CIRCLES {
        let dir = format!("src/{room}");
        assert!(Path::new(&dir).is_dir(), "{dir} is a room");
        let all = sources(&dir);
        let files: BTreeSet<String> = all.iter().filter_map(file_of).collect();
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for source in &all {
            let Some(file) = file_of(source) else { continue };
            let mut named = siblings(source, room, &files);
            named.remove(&file);
            edges.entry(file).or_default().extend(named);
        }
        drawn += edges.values().map(BTreeSet::len).sum::<usize>();
        let found = circles(&edges);
        if !found.is_empty() {
            let list: Vec<_> =
                found.iter().map(|file| format!("{file} -> {:?}", edges[file])).collect();
            faults.push(format!("{room}:\n  {}", list.join("\n  ")));
        }
    }
    assert!(drawn > 100, "only {drawn} imports were found");
    assert!(faults.is_empty(), "circles of imports:\n{}", faults.join("\n"));
}

#[test]
fn a_circle_is_found() {
    let edges = |pairs: &[(&str, &str)]| {
        let mut edges: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in pairs {
            edges.entry((*from).to_owned()).or_default().insert((*to).to_owned());
        }
        edges
    };
    assert!(circles(&edges(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
    assert_eq!(circles(&edges(&[("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")])), ["b", "c"]);
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
