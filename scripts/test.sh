#!/usr/bin/env bash
# Every check of the project, in one go. Ends with `N passed, N failed, N skipped`, and fails if anything
# did. Skipped is each test and each stage that could not run here: it says so in a line `SKIPPED: ...`.
#
# Needs the Rust toolchain. What else a stage needs it installs, or skips.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

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

# A stage ends with this status where it could not run at all.
readonly could_not_run=77

# Notes what could not run here.
skip() {
    printf 'SKIPPED: %s\n' "$1"
    skipped=$((skipped + 1))
    gaps+=("$1")
}

# Runs a stage. A stage that fails does not hide the ones after it.
stage() {
    local name=$1
    shift
    printf '\n== %s\n' "$name"
    : >"$FANFARE_TEST_SKIPPED"
    "$@" 2>&1 | tee "$log"
    local status=${PIPESTATUS[0]}
    case $status in
        0) passed=$((passed + 1)) ;;
        "$could_not_run") ;;
        *) failed=$((failed + 1)) && faults+=("$name") ;;
    esac
    local counts ignored gap
    counts=$(sed -n 's/^test result: .* \([0-9]*\) passed; \([0-9]*\) failed.*/\1 \2/p' "$log")
    # What node's runner says, which is the last word of its stage.
    counts+=$'\n'$(sed -n 's/^# \(pass\|fail\) //p' "$log" | paste -sd' ')
    while read -r good bad; do
        [ -n "$good" ] && passed=$((passed + good)) && failed=$((failed + bad))
    done <<<"$counts"
    while read -r ignored; do
        skipped=$((skipped + ignored))
        [ "$ignored" -gt 0 ] && gaps+=("$name: $ignored tests")
    done < <(sed -n -e 's/^test result: .* failed; \([0-9]*\) ignored.*/\1/p' -e 's/^# skipped //p' "$log")
    while read -r gap; do
        [ -n "$gap" ] && skipped=$((skipped + 1)) && gaps+=("$name: $gap")
    done < <(sed -n 's/^SKIPPED: //p' "$log"; sort -u "$FANFARE_TEST_SKIPPED")
    return 0
}

# Benches run once each, to see that they work. Nobody measures with this profile.
benches() {
    CARGO_PROFILE_BENCH_LTO=off CARGO_PROFILE_BENCH_CODEGEN_UNITS=16 \
        CARGO_PROFILE_BENCH_OPT_LEVEL=1 CARGO_PROFILE_BENCH_DEBUG=false \
        cargo bench -p fanfare --benches -- --test
}

# The client alone, with and without TLS: with the workspace it is built with what others turn on.
client_alone() {
    cargo clippy -p fanfare-client --all-targets -- -D warnings &&
        cargo clippy -p fanfare-client --all-targets --all-features -- -D warnings
}

docs() {
    RUSTDOCFLAGS='-D warnings' cargo doc --no-deps -p fanfare -p fanfare-client -p fanfare-protocol
}

# Licences, sources and known faults of the dependencies. The list of faults is fetched.
deny() {
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
stage 'client alone' client_alone
stage 'documentation' docs
if cargo deny --version >/dev/null 2>&1; then
    stage 'dependencies' deny
else
    printf '\n== dependencies\n'
    skip 'licences and advisories (cargo-deny is not installed)'
fi
stage 'tests' scripts/with_postgres.sh cargo test --workspace --no-fail-fast
if compgen -G 'benches/*.rs' >/dev/null; then
    stage 'benches, once each' benches
fi
if [ -x scripts/autobahn.sh ]; then
    stage 'Autobahn' scripts/autobahn.sh
fi
# These meet the program as it was built for the tests.
export FANFARE_BIN=$PWD/target/debug/fanfare
stage 'description of the API' scripts/schemathesis.sh
stage 'pages in a browser' sh tests/browser/run.sh
stage 'Eureka clients' scripts/eureka_clients.sh
stage 'deployment' scripts/check_deploy.sh

printf '\n'
for gap in "${gaps[@]+"${gaps[@]}"}"; do
    printf 'skipped: %s\n' "$gap"
done
for fault in "${faults[@]+"${faults[@]}"}"; do
    printf 'failed: %s\n' "$fault"
done
printf '\n%d passed, %d failed, %d skipped\n' "$passed" "$failed" "$skipped"
[ "$failed" -eq 0 ]
