#!/usr/bin/env python3
"""Puts ten deliberate faults into the engine, one by one, and shows that the simulation finds each.

    scripts/engine_faults.py [NAME...]

Each fault replaces one piece of text in one file. Where that text is not there exactly once the script says so
and fails: the fault has to follow the engine. The file is put back after each, however the run ends. Not a part of
scripts/test.sh: each fault is a build.
"""

import pathlib
import subprocess
import sys

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
        "a lease ends though it was renewed after it was proposed as overdue",
        "src/state/registry/lease.rs",
        "if member.lease != lease || member.is_overdue {",
        "if (member.lease != lease && lease == 0) || member.is_overdue {",
    ),
    (
        "followers get no snapshot where a node begins from another history",
        "src/control/cluster.rs",
        "            self.send_snapshot(service, now);\n",
        "            let _ = (service, now);\n",
    ),
    (
        "commands of a connection pass the one that waits",
        "src/control/mod.rs",
        "Some(conn) => self.pending.hold(conn, held),",
        "Some(conn) if self.pending.next_late_ms() == Some(0) => self.pending.hold(conn, held),\n            Some(_) => Some(held),",
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
        "what other nodes ask is not answered",
        "src/control/cluster.rs",
        "cluster.respond(node, number, answer);",
        "let _ = (cluster, node, number, answer);",
    ),
    (
        "the people of a node that is gone stay",
        "src/state/cluster_events.rs",
        "let transitions = self.cluster_presence.forget(&gone);",
        "let transitions = if gone.is_empty() { self.cluster_presence.forget(&gone) } else { Vec::new() };",
    ),
    (
        "facts of an entry that was lost are not told again",
        "src/state/cluster_presence.rs",
        "        self.dirty.is_awaited |= self.carried.take().is_some();\n        self.look_again(facts);",
        "        self.dirty.is_awaited |= self.carried.take().is_some();\n        let _ = facts;",
    ),
    (
        "a direct message is pushed twice",
        "src/state/messaging/direct_message.rs",
        "self.send_to_user(receiver, &entry.id, frame);",
        "self.send_to_user(receiver, &entry.id, frame.clone());\n                self.send_to_user(receiver, &entry.id, frame);",
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
        tests = ["cargo", "test", "--quiet", "--test", "simulation", "--", "cluster::a_hundred"]
        run = subprocess.run(tests, cwd=ROOT, capture_output=True)
        said = [line for line in run.stderr.decode().splitlines() + run.stdout.decode().splitlines()
                if line.startswith("replay with")]
        print("  " + (said[0] if said else "no seed finds it"))
        return run.returncode != 0
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
