#!/usr/bin/env bash
# Asks the server thousands of strange and ordinary questions that its own description allows, and
# compares each answer with the description: no 5xx, no status, media type or body that is not
# described. Seeded, so that a failure comes again.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

version=4.32.5
venv=target/schemathesis-venv
server=${FANFARE_BIN:-target/debug/fanfare}

if ! python3 -m venv "$venv" 2>/dev/null; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get -qq update && apt-get -qq -y install python3-venv >/dev/null
        python3 -m venv "$venv"
    else
        echo 'SKIPPED: schemathesis (Python with venv is not installed)'
        exit 77
    fi
fi
"$venv/bin/pip" -q install "schemathesis==$version"
[ -x "$server" ] || cargo build --quiet --bin fanfare

dir=$(mktemp -d)
export JWT_SECRET="a secret of more than thirty-two bytes"
RUST_LOG=warn "$server" --bind 127.0.0.1:0 --data-dir "$dir/data" --auth required \
    >"$dir/out" 2>"$dir/log" &
pid=$!
trap 'kill $pid 2>/dev/null; wait $pid 2>/dev/null; rm -rf "$dir"' EXIT
for _ in $(seq 200); do
    grep -q listening "$dir/out" && break
    kill -0 $pid || { cat "$dir/log"; exit 1; }
    sleep 0.05
done
url=$(sed -n 's/^fanfare listening on //p' "$dir/out")
token=$("$server" token --user ann --scope admin --ttl 1h --data-dir "$dir/data")

failed=0
"$venv/bin/st" run "$url/openapi.json" --header "Authorization: Bearer $token" \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance \
    --phases examples,coverage,fuzzing,stateful --max-examples "${FANFARE_ST_EXAMPLES:-20}" \
    --seed 1 --generation-database none --no-color >"$dir/report" 2>&1 || failed=1
if [ $failed = 1 ]; then
    cat "$dir/report"
else
    grep -E 'generated|Tested|Selected' "$dir/report"
fi
if ! kill -0 $pid || grep -qE 'ERROR|panicked' "$dir/log"; then
    cat "$dir/log"
    failed=1
fi
if [ $failed = 0 ]; then
    printf 'test schemathesis ... ok\ntest result: ok. 1 passed; 0 failed; 0 ignored\n'
else
    printf 'test schemathesis ... FAILED\ntest result: FAILED. 0 passed; 1 failed; 0 ignored\n'
fi
exit $failed
