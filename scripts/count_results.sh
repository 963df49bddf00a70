#!/usr/bin/env bash
# Counts the results of a stage of scripts/test.sh.
#
#   scripts/count_results.sh LOG SKIPPED
#
# LOG is what the stage printed: the result lines of Rust's runner, the `# pass N` lines of Node's, and a line
# `SKIPPED: WHAT` for whatever else could not run. SKIPPED is the file that tests report to which cannot run
# here (fanfare_test_support::skipped): `whole` or `part`, the test and the reason, between tabs. Rust's runner
# counts a test that returns early as passed, so each `whole` one moves from the passed to the skipped.
#
# Prints `PASSED FAILED SKIPPED`, then a line for each thing that was skipped.

set -euo pipefail

awk -F '\t' '
    FNR == 1 { file += 1 }
    file == 1 && /^test result: / {
        # test result: ok. 12 passed; 0 failed; 1 ignored; ...
        split($0, word, " ")
        for (at in word) {
            if (word[at] ~ /^passed/) passed += word[at - 1]
            if (word[at] ~ /^failed/) failed += word[at - 1]
            if (word[at] ~ /^ignored/) ignored += word[at - 1]
        }
    }
    file == 1 && /^# (pass|fail|skipped) [0-9]+$/ {
        split($0, word, " ")
        if (word[2] == "pass") passed += word[3]
        if (word[2] == "fail") failed += word[3]
        if (word[2] == "skipped") ignored += word[3]
    }
    file == 1 && sub(/^SKIPPED: /, "") { skipped += 1; gaps[skipped] = $0 }
    file == 2 && NF == 3 && !(($1 == "part") && seen[$0]++) {
        skipped += 1
        gaps[skipped] = $2 ": " $3 ($1 == "part" ? " (a part of it)" : "")
        if ($1 == "whole") passed -= 1
    }
    END {
        printf "%d %d %d\n", passed, failed, skipped + ignored
        if (ignored > 0) printf "%d tests that are marked as ignored\n", ignored
        for (at = 1; at <= skipped; at++) print gaps[at]
    }
' <(echo; cat "$1") <(echo; cat "$2")
