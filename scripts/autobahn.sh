#!/usr/bin/env bash
# The Autobahn fuzzing client against /ws/echo: sections 1 to 7, 9 and 10, none failed.
#
# The client runs on Python 2.7 only. Where none is found this says so and runs nothing.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

find_python() {
    command -v python2.7 >/dev/null && python2.7 -c '' 2>/dev/null && command -v python2.7 && return
    local root=${PYENV_ROOT:-$HOME/.pyenv} candidate
    for candidate in "$root"/versions/2.7*/bin/python2.7; do
        [ -x "$candidate" ] && echo "$candidate" && return
    done
    return 1
}

if ! python=$(find_python); then
    echo 'SKIPPED: Autobahn (there is no Python 2.7)'
    exit 77
fi

work=$PWD/target/autobahn
mkdir -p "$work"
# The marker is a copy of the list, so a changed list is installed anew and from nothing.
if ! cmp -s tests/autobahn/requirements.txt "$work/installed"; then
    rm -rf "$work/packages"
    "$python" -m pip install -q --no-deps --disable-pip-version-check \
        --target "$work/packages" -r tests/autobahn/requirements.txt
    cp tests/autobahn/requirements.txt "$work/installed"
fi

server=${1:-target/debug/fanfare}
[ -x "$server" ] || cargo build
data=$(mktemp -d)
"$server" --bind 127.0.0.1:0 --data-dir "$data" >"$data/out" 2>"$data/err" &
pid=$!
trap 'kill "$pid" 2>/dev/null || true; wait "$pid" 2>/dev/null || true; rm -rf "$data"' EXIT
for _ in $(seq 100); do
    grep -q listening "$data/out" && break
    sleep 0.1
done
port=$(sed -n 's/.*:\([0-9]*\)$/\1/p' "$data/out" | head -n 1)

rm -rf "$work/reports"
cat >"$work/client.json" <<END
{
  "outdir": "$work/reports",
  "servers": [{"agent": "fanfare", "url": "ws://127.0.0.1:$port/ws/echo"}],
  "cases": ["1.*", "2.*", "3.*", "4.*", "5.*", "6.*", "7.*", "9.*", "10.*"],
  "exclude-cases": [],
  "exclude-agent-cases": {}
}
END
# As a site directory, because a namespace package among them needs its .pth file read.
"$python" -W ignore -c "import site, sys; sys.path.insert(0, '$work/packages')
site.addsitedir('$work/packages'); sys.argv[0] = 'wstest'
from autobahntestsuite.wstest import run; run()" \
    -m fuzzingclient -s "$work/client.json" >"$work/log" 2>&1 || { tail -n 20 "$work/log"; exit 1; }

"$python" - "$work/reports/index.json" <<'END'
import json, sys
cases = json.load(open(sys.argv[1]))["fanfare"]
fine = ("OK", "NON-STRICT", "INFORMATIONAL")
failed = sorted(name for name, case in cases.items()
                if case["behavior"] not in fine or case["behaviorClose"] not in fine)
for name in failed:
    print("failed: case %s: %s" % (name, cases[name]["behavior"]))
print("Autobahn: %d cases, %d failed" % (len(cases), len(failed)))
sys.exit(1 if failed or not cases else 0)
END
