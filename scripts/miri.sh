#!/usr/bin/env bash
# Runs the tests of what both ends of a connection share in Miri, which finds undefined behaviour.
#
# The project forbids unsafe code, so what is judged is what it builds on: `bytes`, `serde_json` and the standard
# library, in the parsing of what comes from outside. The server's own modules need its whole dependency tree built
# for Miri; `cargo miri test -p fanfare --lib -- wheel:: subscribers:: shard::outbox::` does that by hand.
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
export CARGO_TARGET_DIR=target/miri
cargo "+$toolchain" miri test -p fanfare-protocol --lib
