#!/usr/bin/env python3
"""Puts deliberate faults into the engine, one by one, and shows that the simulation finds each.

    scripts/engine_faults.py [NAME...]

Each fault replaces one piece of text in one file. Where that text is not there exactly once the script says so
and fails: the fault has to follow the engine. The file is put back after each, however the run ends. Not a part of
scripts/test.sh: each fault is a build.
"""

import pathlib
import subprocess
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent

# Name, file, what is there, what is put in its place.
FAULTS = [
    (
        "a node that begins from a snapshot misses the first entry behind it",
        "src/state/install.rs",
        "for item in items {",
        "for item in items.into_iter().skip(1) {",
    ),
    (
        "followers get no snapshot where a node begins from another history",
        "src/control/cluster.rs",
        "            self.send_snapshot(service, now);\n",
        "            let _ = (service, now);\n",
    ),
    (
        "a lease that was proposed as overdue is renewed without the log",
        "src/state/registry/decide.rs",
        "!member.is_overdue && !member.is_proposed;",
        "!member.is_overdue;",
    ),
    (
        "leases follow the wall clock",
        "src/state/registry/instances.rs",
        "member.deadline_ms.max(now.unix_ms + member.ttl_ms)",
        "member.deadline_ms.max(now.wall_ms + member.ttl_ms)",
    ),
    (
        "a conditional registration looks only whether there is one",
        "src/state/registry/instances.rs",
        "if present != expected.as_ref() {",
        "if present.is_some() != expected.is_some() {",
    ),
    (
        "the mark of a degraded service is not told",
        "src/state/registry/history.rs",
        "if changes.is_empty() && service.told_degraded == degraded && !begins {",
        "if changes.is_empty() && !begins {",
    ),
    (
        "followers of a service that was never seen do not hear that contact is back",
        "src/state/registry/decide.rs",
        "followed.filter(|name| !self.by_name.contains_key(*name))",
        "followed.filter(|name| degraded && !self.by_name.contains_key(*name))",
    ),
    (
        "decisions of operators do not outlive the process",
        "src/state/registry/records.rs",
        "self.pulled_out.insert(&identity, record.pulled_out_by(), false);",
        "let _ = (&identity, record.pulled_out_by());",
    ),
    (
        "what the database has refused is not written again",
        "src/control/saver.rs",
        "            SetOutcome::Refused => {\n                self.put_back(registry);",
        "            SetOutcome::Refused => {\n                self.away = None;",
    ),
    (
        "commands of a connection pass the one that waits",
        "src/control/mod.rs",
        "Some(conn) => self.pending.hold(conn, held),",
        "Some(conn) if self.pending.next_late_ms() == Some(0) => self.pending.hold(conn, held),\n            Some(_) => Some(held),",
    ),
    (
        "followers are not told that messages of a channel are gone",
        "src/state/messaging/replicated/mod.rs",
        "        self.send(Topic::Channel(channel), Some(shards), frame, Aim::default());\n",
        "        let _ = (shards, frame);\n",
    ),
    (
        "a topic that was not heard for a while is not read again",
        "src/state/messaging/replicated/mod.rs",
        "        let keys: Vec<u32> = self.channels.keys().collect();\n",
        "        let keys: Vec<u32> = self.channels.keys().take(0).collect();\n",
    ),
    (
        "what other nodes ask is not answered",
        "src/control/cluster.rs",
        "cluster.respond(node, number, answer);",
        "let _ = (cluster, node, number, answer);",
    ),
    (
        "a message of a channel that is known already goes out again",
        "src/state/channel_stream.rs",
        "        if message.offset <= at.offset {",
        "        if message.offset < at.offset {",
    ),
    (
        "a message ahead of its turn goes out at once",
        "src/state/channel_stream.rs",
        "        if message.offset > at.offset + 1 {",
        "        if message.offset > at.offset + 3 {",
    ),
    (
        "a message of an epoch that is over leads followers away",
        "src/state/channel_stream.rs",
        "if is_heard && !self.past.iter().any(|epoch| epoch.as_str() == message.epoch) {",
        "if is_heard {",
    ),
    (
        "an older answer sets a channel back",
        "src/state/messaging/replicated/mod.rs",
        "            is_new && state.epoch == *epoch",
        "            is_new || state.epoch == *epoch",
    ),
    (
        "an answer comes before the followers know of another epoch",
        "src/state/messaging/replicated/mod.rs",
        "let condition = if state.epoch.as_str() != epoch {",
        "let condition = if state.epoch.as_str() != epoch && epoch.is_empty() {",
    ),
    (
        "the people of a node that is gone stay",
        "src/state/cluster_events.rs",
        "let transitions = self.cluster_presence.forget(&gone);",
        "let transitions = if gone.is_empty() { self.cluster_presence.forget(&gone) } else { Vec::new() };",
    ),
    (
        "facts of an entry that was lost are not told again",
        "src/state/cluster_presence/dirty.rs",
        "        self.is_awaited |= self.carried.take().is_some();\n        self.look_again(facts);",
        "        self.is_awaited |= self.carried.take().is_some();\n        let _ = facts;",
    ),
    (
        "users whom another node told of are never stored",
        "src/state/people.rs",
        "self.known.entry(user_id).or_insert(false);",
        "self.known.entry(user_id).or_insert(true);",
    ),
    (
        "a direct message is pushed twice",
        "src/state/messaging/direct_message.rs",
        "self.send_to_user(receiver, &entry.id, frame);",
        "self.send_to_user(receiver, &entry.id, frame.clone());\n                self.send_to_user(receiver, &entry.id, frame);",
    ),
    (
        "a group's message passes over its first member",
        "src/state/messaging/direct_message.rs",
        "Addressee::Group { members, .. } => &members[..],",
        "Addressee::Group { members, .. } => &members[members.len().min(1)..],",
    ),
    (
        "a frame goes on though the connection waits for a snapshot",
        "src/shard/slow_reader.rs",
        "            && resync_pending.services.contains(service)\n        {\n            return false;",
        "            && resync_pending.services.contains(service)\n            && resync_pending.services.len() > 100\n        {\n            return false;",
    ),
]


def is_found(path, old, new):
    """Whether the simulation fails with the fault in place. None where the fault cannot be put there."""
    file = ROOT / path
    text = file.read_text()
    if text.count(old) != 1:
        print(f"  {path}: the text is there {text.count(old)} times")
        return None
    try:
        file.write_text(text.replace(old, new))
        build = subprocess.run(
            ["cargo", "test", "--quiet", "--test", "simulation", "--no-run"], cwd=ROOT, capture_output=True
        )
        if build.returncode != 0:
            print(build.stderr.decode()[-2000:])
            return None
        tests = ["cargo", "test", "--quiet", "--test", "simulation", "--", "a_hundred_known"]
        started = time.monotonic()
        run = subprocess.run(tests, cwd=ROOT, capture_output=True)
        took = time.monotonic() - started
        lines = (run.stderr + run.stdout).decode(errors="replace").splitlines()
        seeds = [line.split("FANFARE_SEED=")[1].split()[0] for line in lines if line.startswith("replay with")]
        print(f"  seed {seeds[0]} finds it, after {took:.1f} s" if seeds else f"  no seed finds it, in {took:.1f} s")
        return bool(seeds)
    finally:
        file.write_text(text)


def main():
    chosen = [fault for fault in FAULTS if not sys.argv[1:] or any(name in fault[0] for name in sys.argv[1:])]
    missed = 0
    for name, path, old, new in chosen:
        print(name, flush=True)
        if is_found(path, old, new) is not True:
            missed += 1
    print(f"{len(chosen) - missed} of {len(chosen)} faults found")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
