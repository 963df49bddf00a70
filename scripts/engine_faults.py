#!/usr/bin/env python3
"""Puts deliberate faults into a copy of the engine and shows that the simulation finds each.

    scripts/engine_faults.py [NAME...]     faults whose names contain one of these words; all without any
    scripts/engine_faults.py --all         plays all fixed seeds of each, and says how many find it
    scripts/engine_faults.py --check       only looks whether each fault still fits the engine

All faults are in one build: each stands behind a number that the program reads once, from the variable
FANFARE_FAULT. The tree itself is not touched; the copy and its build are under `target/faults`, the build about
one and a half gigabytes. A first run without any fault shows that it is the fault which is found.

Each fault replaces one piece of text in one file. Where that text is not there exactly once the script says so
and fails: the fault has to follow the engine.
"""

import os
import pathlib
import shutil
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
WORK = pathlib.Path(os.environ.get("FANFARE_FAULTS_DIR", ROOT / "target" / "faults"))
# How long the seeds of one fault may take: a fault may also have the engine never come to an end.
PATIENCE_S = 600

# Name, file, what is there, what is put in its place. `FAULT` is whether the fault is chosen.
FAULTS = [
    (
        "a node that begins from a snapshot misses the first entry behind it",
        "src/state/install.rs",
        "for item in items {",
        "for item in items.into_iter().skip(usize::from(FAULT)) {",
    ),
    (
        "followers get no snapshot where a node begins from another history",
        "src/control/cluster.rs",
        "            self.send_snapshot(service, now);\n",
        "            if !FAULT {\n                self.send_snapshot(service, now);\n            }\n",
    ),
    (
        "expiry is held though new instances make up for those that are missing",
        "src/state/registry/instances.rs",
        "        if self.services[service].is_degraded() {\n            // One more",
        "        if !FAULT && self.services[service].is_degraded() {\n            // One more",
    ),
    (
        "a lease ends though it was renewed after it was proposed as overdue",
        "src/state/registry/lease.rs",
        "if member.lease != lease || member.is_overdue {",
        "if (member.lease != lease && !FAULT) || member.is_overdue {",
    ),
    (
        "a lease that is taken over leaves the owner before no time",
        "src/state/registry/lease.rs",
        "let more_ms = if member.owner == commit.owner {",
        "let more_ms = if FAULT || member.owner == commit.owner {",
    ),
    (
        "a lease that was proposed as overdue is renewed without the log",
        "src/state/registry/decide.rs",
        "!member.is_overdue && !member.is_proposed;",
        "!member.is_overdue && (FAULT || !member.is_proposed);",
    ),
    (
        "leases follow the wall clock",
        "src/state/registry/instances.rs",
        "member.deadline_ms.max(now.unix_ms + member.ttl_ms)",
        "member.deadline_ms.max((if FAULT { now.wall_ms } else { now.unix_ms }) + member.ttl_ms)",
    ),
    (
        "a conditional registration looks only whether there is one",
        "src/state/registry/instances.rs",
        "if present != expected.as_ref() {",
        "if (if FAULT { present.is_some() != expected.is_some() } else { present != expected.as_ref() }) {",
    ),
    (
        "the mark of a degraded service is not told",
        "src/state/registry/history.rs",
        "if changes.is_empty() && service.told_degraded == degraded && !begins {",
        "if changes.is_empty() && (FAULT || service.told_degraded == degraded) && !begins {",
    ),
    (
        "followers of a service that was never seen do not hear that contact is back",
        "src/state/registry/decide.rs",
        "followed.filter(|name| !self.by_name.contains_key(*name))",
        "followed.filter(|name| (degraded || !FAULT) && !self.by_name.contains_key(*name))",
    ),
    (
        "who follows everything does not hear that contact is back, of a service that nobody follows by name",
        "src/state/registry/decide.rs",
        "        unseen.extend(told.into_iter().filter(|name| !self.by_name.contains_key(name)));",
        "        unseen.extend(told.into_iter().filter(|name| !FAULT && !self.by_name.contains_key(name)));",
    ),
    (
        "decisions of operators do not outlive the process",
        "src/state/registry/records.rs",
        "self.pulled_out.insert(&identity, record.pulled_out_by(), false);",
        "if !FAULT { self.pulled_out.insert(&identity, record.pulled_out_by(), false); }",
    ),
    (
        "what the database has refused is not written again",
        "src/control/saver.rs",
        "            SetOutcome::Refused => {\n                self.put_back(registry, audit);",
        "            SetOutcome::Refused if FAULT => self.away = None,\n"
        "            SetOutcome::Refused => {\n                self.put_back(registry, audit);",
    ),
    (
        "commands of a connection pass the one that waits",
        "src/control/mod.rs",
        "Some(conn) => self.pending.hold(conn, held),",
        "Some(conn) if !FAULT || self.pending.next_late_ms() == Some(0) => self.pending.hold(conn, held),\n"
        "            Some(_) => Some(held),",
    ),
    (
        "followers are not told that messages of a channel are gone",
        "src/state/messaging/replicated.rs",
        "        self.send(Topic::Channel(channel), Some(shards), frame, Aim::default());\n",
        "        if !FAULT {\n"
        "            self.send(Topic::Channel(channel), Some(shards), frame, Aim::default());\n"
        "        }\n",
    ),
    (
        "a topic that was not heard for a while is not read again",
        "src/state/messaging/replicated.rs",
        "        let keys: Vec<u32> = self.channels.keys().collect();\n",
        "        let keys = self.channels.keys().take(if FAULT { 0 } else { usize::MAX });\n"
        "        let keys: Vec<u32> = keys.collect();\n",
    ),
    (
        "what other nodes ask is not answered",
        "src/control/cluster.rs",
        "cluster.respond(node, number, answer);",
        "if !FAULT { cluster.respond(node, number, answer); }",
    ),
    (
        "a message of a channel that is known already goes out again",
        "src/state/channel_stream.rs",
        "        if message.offset <= at.offset {",
        "        if message.offset < at.offset || (!FAULT && message.offset == at.offset) {",
    ),
    (
        "a message ahead of its turn goes out at once",
        "src/state/channel_stream.rs",
        "        if message.offset > at.offset + 1 {",
        "        if message.offset > at.offset + (if FAULT { 3 } else { 1 }) {",
    ),
    (
        "a message of an epoch that is over leads followers away",
        "src/state/channel_stream.rs",
        "if is_heard && !self.past.iter().any(|epoch| epoch.as_str() == message.epoch) {",
        "if is_heard && (FAULT || !self.past.iter().any(|epoch| epoch.as_str() == message.epoch)) {",
    ),
    (
        "an older answer sets a channel back",
        "src/state/messaging/replicated.rs",
        "            is_new && state.epoch == *epoch",
        "            (FAULT || is_new) && (state.epoch == *epoch || (FAULT && is_new))",
    ),
    (
        "an answer comes before the followers know of another epoch",
        "src/state/messaging/replicated.rs",
        "let condition = if state.epoch.as_str() != epoch {",
        "let condition = if state.epoch.as_str() != epoch && (!FAULT || epoch.is_empty()) {",
    ),
    (
        "the people of a node that is gone stay",
        "src/state/cluster_events.rs",
        "let transitions = self.cluster_presence.forget(&gone);",
        "let transitions = if FAULT && !gone.is_empty() { Vec::new() } else { self.cluster_presence.forget(&gone) };",
    ),
    (
        "facts of an entry that was lost are not told again",
        "src/state/cluster_presence/dirty.rs",
        "        self.is_awaited |= self.carried.take().is_some();\n        self.look_again(facts);",
        "        self.is_awaited |= self.carried.take().is_some();\n        if !FAULT {\n            self.look_again(facts);\n        }",
    ),
    (
        "users whom another node told of are never stored",
        "src/state/people.rs",
        "            self.told.insert(user_id);",
        "            if !FAULT {\n                self.told.insert(user_id);\n            }",
    ),
    (
        "a direct message is pushed twice",
        "src/state/messaging/direct_message.rs",
        "self.send_to_user(receiver, &entry.id, frame);",
        "if FAULT {\n"
        "                    self.send_to_user(receiver, &entry.id, frame.clone());\n"
        "                }\n"
        "                self.send_to_user(receiver, &entry.id, frame);",
    ),
    (
        "a group's message passes over its first member",
        "src/state/messaging/direct_message.rs",
        "Addressee::Group { members, .. } => &members[..],",
        "Addressee::Group { members, .. } => &members[members.len().min(usize::from(FAULT))..],",
    ),
    (
        "a frame goes on though the connection waits for a snapshot",
        "src/shard/slow_reader.rs",
        "            && conn.is_resync_pending(service)\n        {\n            return false;",
        "            && conn.is_resync_pending(service)\n            && !FAULT\n        {\n            return false;",
    ),
]

# Added to the copy: the number of the fault that the run has.
CHOICE = """
/// Deliberate faults.
mod deliberate {
    /// Whether this run has the fault.
    pub(crate) fn is_on(number: u32) -> bool {
        static CHOSEN: std::sync::LazyLock<Option<u32>> =
            std::sync::LazyLock::new(|| std::env::var("FANFARE_FAULT").ok()?.parse().ok());
        *CHOSEN == Some(number)
    }
}
"""


def faulty_files():
    """The engine's files with all faults in them, by their paths; None where a fault does not fit."""
    files, fits = {}, True
    for number, (name, path, old, new) in enumerate(FAULTS, start=1):
        text = files.get(path) or (ROOT / path).read_text()
        if text.count(old) != 1:
            print(f"{name}: the text is in {path} {text.count(old)} times")
            fits = False
        files[path] = text.replace(old, new.replace("FAULT", f"crate::deliberate::is_on({number})"))
    path = "src/lib.rs"
    files[path] = (files.get(path) or (ROOT / path).read_text()) + CHOICE
    return files if fits else None


def copy_tree(files):
    """Brings the copy up to date. What did not change keeps its time, so that it is not built again."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard"], cwd=ROOT, capture_output=True, check=True
    )
    tree = WORK / "tree"
    names = {name for name in listed.stdout.decode().splitlines() if (ROOT / name).is_file()}
    for there in [path for path in tree.rglob("*") if path.is_file()]:
        if str(there.relative_to(tree)) not in names:
            there.unlink()
    for name in names:
        content = files[name].encode() if name in files else (ROOT / name).read_bytes()
        to = tree / name
        if not to.is_file() or to.read_bytes() != content:
            to.parent.mkdir(parents=True, exist_ok=True)
            to.write_bytes(content)
            shutil.copymode(ROOT / name, to)
    return tree


def build(tree):
    """Builds the simulation. Returns the program, or None."""
    # Of little use to anything but the runs: less to build and quicker to play.
    environment = {**os.environ, "CARGO_TARGET_DIR": str(WORK / "build")}
    started = time.monotonic()
    command = ["cargo", "test", "--profile", "simulation", "--test", "simulation", "--no-run"]
    run = subprocess.run(command, cwd=tree, env=environment, capture_output=True)
    said = run.stderr.decode()
    if run.returncode != 0:
        print(said[-4000:])
        return None
    print(f"built in {time.monotonic() - started:.0f} s", flush=True)
    return tree / said.rsplit("(", 1)[1].split(")", 1)[0]


def play(program, number, plays_all):
    """Plays the fixed seeds with a fault; 0 is none. Returns the seeds that fail, and how long it took."""
    environment = {**os.environ, "FANFARE_FAULT": str(number)}
    if plays_all:
        environment["FANFARE_PLAY_ON"] = "1"
    started = time.monotonic()
    try:
        run = subprocess.run(
            [program, "a_hundred_known_worlds"],
            cwd=WORK / "tree",
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=PATIENCE_S,
        )
        said, failed = run.stdout, run.returncode != 0
    except subprocess.TimeoutExpired as over:
        said, failed = over.stdout or b"", True
    lines = said.decode(errors="replace").splitlines()
    seeds = [int(line.split("FANFARE_SEED=")[1].split()[0]) for line in lines if "FANFARE_SEED=" in line]
    if failed and not seeds:
        print("\n".join(lines[-20:]))
    return seeds, time.monotonic() - started


def main():
    words = [word for word in sys.argv[1:] if not word.startswith("--")]
    options = set(sys.argv[1:]) - set(words)
    if options - {"--all", "--check"}:
        print(__doc__)
        return 2
    files = faulty_files()
    if files is None:
        return 1
    if "--check" in options:
        print(f"{len(FAULTS)} faults fit the engine")
        return 0
    program = build(copy_tree(files))
    if program is None:
        return 1
    plays_all = "--all" in options
    began = time.monotonic()
    seeds, took = play(program, 0, plays_all)
    print(f"{'fails' if seeds else 'passes'} in {took:.1f} s without a fault", flush=True)
    if seeds:
        return 1
    chosen = [(number, fault[0]) for number, fault in enumerate(FAULTS, start=1)]
    chosen = [(number, name) for number, name in chosen if not words or any(word in name for word in words)]
    found = 0
    for number, name in chosen:
        seeds, took = play(program, number, plays_all)
        found += bool(seeds)
        by = "no seed finds it" if not seeds else f"seed {seeds[0]} finds it"
        if plays_all and seeds:
            by = f"{len(seeds)} seeds find it, such as {sorted(seeds)[:3]}"
        print(f"{name}: {by}, in {took:.1f} s", flush=True)
    print(f"{found} of {len(chosen)} faults found in {time.monotonic() - began:.0f} s")
    return 0 if found == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
