#!/usr/bin/env bash
# Runs each fuzz target for so many seconds (60 by default), from the corpus that is kept.
#
#   scripts/fuzz.sh [SECONDS] [TARGET...]
#
# Needs a nightly toolchain for the sanitizer and cargo-fuzz, which it installs when it is missing.
# Without a nightly toolchain nothing is fuzzed, and the script says so; `cargo test fuzzing` replays the
# corpus with any toolchain. An input that breaks a promise stays in fuzz/artifacts/TARGET.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

seconds=${1:-60}
shift $(($# > 0 ? 1 : 0))
targets=("$@")
if [ ${#targets[@]} -eq 0 ]; then
    mapfile -t targets < <(sed -n 's/^path = "fuzz_targets\/\(.*\)\.rs"$/\1/p' fuzz/Cargo.toml)
fi

if ! cargo +nightly --version >/dev/null 2>&1; then
    echo 'There is no nightly toolchain here: nothing was fuzzed.'
    exit 0
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    cargo install cargo-fuzz --locked --version 0.13.1 || exit 1
fi

failed=0
for target in "${targets[@]}"; do
    # What this run finds interesting goes to a folder of its own: the corpus in the tree stays small.
    found=$(mktemp -d)
    printf '\n== %s, %s s\n' "$target" "$seconds"
    cargo +nightly fuzz run "$target" "$found" "fuzz/corpus/$target" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -max_len=65536 \
        -print_final_stats=1 2>&1 | grep -E 'stat::number_of_executed_units|panicked|SUMMARY|ERROR|Test unit'
    [ "${PIPESTATUS[0]}" -eq 0 ] || failed=$((failed + 1))
    rm -rf "$found"
done
printf '\n%d targets fuzzed, %d failed\n' "${#targets[@]}" "$failed"
[ "$failed" -eq 0 ]
