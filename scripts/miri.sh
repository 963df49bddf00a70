#!/usr/bin/env bash
# Runs tests in Miri, which finds undefined behaviour and, between threads, data races and what weak memory allows.
#
# Two packages: what both ends of a connection share, and `tests/miri`, which has the server's modules with delicate
# data structures (outbox, timer wheel, sets of subscribers, frames, mailboxes and the hand-over of control) without
# its dependencies. What threads do is played with several seeds. The project forbids unsafe code, so what is judged is
# what it builds on, in the way in which it is used.
#
# Needs a nightly toolchain with Miri. `MIRI_TOOLCHAIN` names it; the default is installed where it can be.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

toolchain=${MIRI_TOOLCHAIN:-nightly-2026-10-30}
if ! cargo "+$toolchain" miri --version >/dev/null 2>&1; then
    rustup toolchain install "$toolchain" --profile minimal --component miri --component rust-src >/dev/null 2>&1 || {
        echo "SKIPPED: Miri ($toolchain cannot be installed)"
        exit 77
    }
fi

# No leak check: the runner's threads outlive `main`. A clock and a temporary directory are let in.
export MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-ignore-leaks"
# What it builds is of no use to other toolchains.
export CARGO_TARGET_DIR=$PWD/target/miri
# Each test is built once and runs alone, whatever else failed.
status=0
cargo "+$toolchain" miri test -p fanfare-protocol --lib || status=1
cargo "+$toolchain" miri test --manifest-path tests/miri/Cargo.toml --lib -- --skip id:: || status=1
MIRIFLAGS="$MIRIFLAGS -Zmiri-many-seeds=1..8" \
    cargo "+$toolchain" miri test --manifest-path tests/miri/Cargo.toml --lib -- mailbox:: || status=1
exit "$status"
