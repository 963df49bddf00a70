#!/usr/bin/env bash
# Every check of the project, in one go. Ends with `N passed, N failed, N skipped`, and fails if anything
# failed. A test or a stage that cannot run here is skipped, and never counts as passed.
#
#   scripts/test.sh            everything
#   scripts/test.sh --quick    what a change needs before the next one: a minute or two, once built
#   scripts/test.sh --night    everything, each set of features, and Miri
#
# Needs the Rust toolchain. What else a stage needs it installs, or skips.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

quick=0
night=0
case ${1:-} in
    '') ;;
    --quick) quick=1 ;;
    --night) night=1 ;;
    *)
        sed -n '2,9s/^# \{0,1\}//p' "${BASH_SOURCE[0]}" >&2
        exit 2
        ;;
esac

log=$(mktemp)
# Rust's runner keeps what a test prints that passes, so a test that cannot run here writes that down.
FANFARE_TEST_SKIPPED=$(mktemp)
export FANFARE_TEST_SKIPPED
trap 'rm -f "$log" "$FANFARE_TEST_SKIPPED"' EXIT
passed=0
failed=0
skipped=0
faults=()
gaps=()
times=()

# A stage ends with this status where it could not run at all.
readonly could_not_run=77

# Runs a stage. A stage that fails does not hide the ones after it.
stage() {
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    : >"$FANFARE_TEST_SKIPPED"
    local begun=$SECONDS
    "$@" 2>&1 | tee "$log"
    local status=${PIPESTATUS[0]}
    times+=("$(printf '%5d s  %s' $((SECONDS - begun)) "$name")")
    case $status in
        0) passed=$((passed + 1)) ;;
        "$could_not_run") ;;
        *) failed=$((failed + 1)) && faults+=("$name") ;;
    esac
    local good bad missing gap
    {
        read -r good bad missing
        passed=$((passed + good))
        failed=$((failed + bad))
        skipped=$((skipped + missing))
        while read -r gap; do
            gaps+=("$name: $gap")
        done
    } < <(scripts/count_results.sh "$log" "$FANFARE_TEST_SKIPPED")
    return 0
}

# Prints what was skipped, what failed and how long each stage took, then the sum. Fails if anything failed.
sum_up() {
    local line
    printf '\n'
    printf '%s\n' "${times[@]}"
    for line in "${gaps[@]+"${gaps[@]}"}"; do
        printf 'skipped: %s\n' "$line"
    done
    for line in "${faults[@]+"${faults[@]}"}"; do
        printf 'failed: %s\n' "$line"
    done
    printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
    [ "$failed" -eq 0 ]
}

# Benches run once each, to see that they work. Nobody measures with this profile.
benches() {
    CARGO_PROFILE_BENCH_LTO=off CARGO_PROFILE_BENCH_CODEGEN_UNITS=16 \
        CARGO_PROFILE_BENCH_OPT_LEVEL=1 CARGO_PROFILE_BENCH_DEBUG=false \
        cargo bench -p fanfare --benches -- --test
}

# Each package as its users build it: with the workspace it is built with what others turn on. The server is checked
# without the feature `internals`, which its tests turn on and which hides code that nothing uses.
packages_alone() {
    cargo clippy -p fanfare --lib --bins -- -D warnings &&
        cargo clippy -p fanfare-client --all-targets -- -D warnings &&
        cargo clippy -p fanfare-client --all-targets --all-features -- -D warnings
}

docs() {
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps -p fanfare -p fanfare-client -p fanfare-protocol
}

# Each package with each set of its features, for itself: in the workspace one turns on what another needs.
features() {
    local version=0.6.46
    if ! cargo hack --version 2>/dev/null | grep -qF "$version"; then
        cargo install --quiet --locked --version "$version" cargo-hack || {
            echo "SKIPPED: sets of features (cargo-hack $version cannot be installed)"
            return "$could_not_run"
        }
    fi
    cargo hack check --workspace --feature-powerset --lib --bins
}

# The oldest compiler that the manifest promises. Where it is the one in use, the lints have shown it.
oldest_compiler() {
    local oldest
    oldest=$(sed -n 's/^rust-version = "\(.*\)"$/\1/p' Cargo.toml)
    case $(rustc --version) in
        "rustc $oldest".*)
            echo "rustc $oldest is the compiler of all other stages."
            return 0
            ;;
    esac
    rustup toolchain list 2>/dev/null | grep -q "^$oldest" ||
        rustup toolchain install "$oldest" --profile minimal >/dev/null 2>&1 || {
        echo "SKIPPED: the oldest compiler (Rust $oldest cannot be installed)"
        return "$could_not_run"
    }
    CARGO_TARGET_DIR=target/oldest cargo "+$oldest" check --workspace --lib --bins
}

# Licences, sources and known faults of the dependencies. The list of faults is fetched.
deny() {
    cargo deny --version >/dev/null 2>&1 || {
        echo 'SKIPPED: licences and advisories (cargo-deny is not installed)'
        return "$could_not_run"
    }
    cargo deny check licenses bans sources || return 1
    local said
    said=$(cargo deny check advisories 2>&1) && return 0
    printf '%s\n' "$said"
    if grep -q 'failed to fetch advisory database' <<<"$said"; then
        echo 'SKIPPED: known faults of dependencies (the list of advisories is not reachable)'
        return 0
    fi
    return 1
}

# Each deliberate fault quotes a line of the engine, and follows it.
faults_fit() {
    command -v python3 >/dev/null || {
        echo 'SKIPPED: whether the deliberate faults fit the engine (there is no python3)'
        return "$could_not_run"
    }
    python3 scripts/engine_faults.py --check
}

# The lints of what is built into a program, the models and units, and a handful of promises on the wire.
if [ "$quick" = 1 ]; then
    stage 'format' cargo fmt --all --check
    stage 'lints of libraries and programs' cargo clippy --workspace --lib --bins -- -D warnings
    # The whole workspace, so that what it builds is what the whole run builds.
    stage 'tests' cargo test --no-fail-fast --workspace --lib \
        --test tidy --test state --test simulation --test channels --test registry_push --test leases --test rfc6455
    sum_up
    exit
fi

# Nodes are joined by a Redis that the tests start themselves.
if ! command -v redis-server >/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get -qq update && apt-get -qq -y install redis-server >/dev/null
    else
        echo 'redis-server is not installed: the tests of several nodes will fail.'
    fi
fi

rustup component list --installed 2>/dev/null | grep -q '^clippy' ||
    rustup component add clippy rustfmt >/dev/null 2>&1 || true

# The clock of a server is bent by libfaketime. Without it those tests say that they are skipped.
if ! command -v faketime >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get -qq update && apt-get -qq -y install faketime >/dev/null ||
        echo 'faketime is not installed: the tests of a corrected clock are SKIPPED.'
fi

# Keys for the tests of tokens are made with OpenSSL's program.
if ! command -v openssl >/dev/null && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get -qq update && apt-get -qq -y install openssl >/dev/null
fi

# Examples in JavaScript run with the Node that the browser's tests name.
if [ ! -x tests/browser/node_modules/node/bin/node ]; then
    (cd tests/browser && npm ci --no-audit --no-fund --loglevel=error) ||
        echo 'Node 22 could not be installed: examples in JavaScript are SKIPPED.'
fi

stage 'format' cargo fmt --all --check
stage 'lints' cargo clippy --workspace --all-targets -- -D warnings
stage 'packages alone' packages_alone
stage 'documentation' docs
if [ "$night" = 1 ]; then
    # The lints and the packages alone have built each set that there is.
    stage 'features' features
fi
stage 'oldest compiler' oldest_compiler
stage 'deliberate faults' faults_fit
stage 'dependencies' deny
stage 'tests' scripts/with_postgres.sh cargo test --workspace --no-fail-fast
if [ "$night" = 1 ]; then
    stage 'undefined behaviour' scripts/miri.sh
fi
stage 'benches, once each' benches
stage 'Autobahn' scripts/autobahn.sh
# These meet the program as it was built for the tests.
export FANFARE_BIN=$PWD/target/debug/fanfare
stage 'description of the API' scripts/schemathesis.sh
stage 'pages in a browser' sh tests/browser/run.sh
stage 'Eureka clients' scripts/eureka_clients.sh
stage 'deployment' scripts/check_deploy.sh

sum_up
