#!/usr/bin/env bash
# Runs a command with a PostgreSQL server of its own, whose URL is in FANFARE_TEST_POSTGRES.
#
# Installs Debian's package where the server is missing and this may install. Without a server the
# command runs all the same, and the tests that need one say that they did not run.

set -uo pipefail

find_bin() {
    local candidate
    for candidate in /usr/lib/postgresql/*/bin "$(dirname "$(command -v initdb || echo /none/initdb)")"; do
        [ -x "$candidate/initdb" ] && [ -x "$candidate/pg_ctl" ] && echo "$candidate"
    done | sort -V | tail -n 1
}

bin=$(find_bin)
if [ -z "$bin" ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install postgresql >/dev/null
    bin=$(find_bin)
fi
if [ -z "$bin" ]; then
    echo 'There is no PostgreSQL server here: nothing is tested against one.'
    exec "$@"
fi

# The server refuses to run as root. It need not outlive the machine, only itself: no fsync.
as_server=()
[ "$(id -u)" = 0 ] && as_server=(runuser -u postgres --)
work=$(mktemp -d)
chmod 755 "$work"
[ "$(id -u)" = 0 ] && chown postgres "$work"
stop() {
    (cd "$work" && "${as_server[@]+"${as_server[@]}"}" "$bin/pg_ctl" -D "$work/data" -m immediate -s stop) || true
    rm -rf "$work"
}
trap stop EXIT

start() {
    cd "$work" || return 1
    "${as_server[@]+"${as_server[@]}"}" "$bin/initdb" -D "$work/data" -U fanfare -A trust -E UTF8 \
        --locale=C >"$work/initdb" 2>&1 || { cat "$work/initdb"; return 1; }
    local port
    for _ in 1 2 3 4 5; do
        port=$((20000 + RANDOM % 12000)) # below those that the system hands out
        "${as_server[@]+"${as_server[@]}"}" "$bin/pg_ctl" -D "$work/data" -s -w -t 30 -l "$work/data/log" \
            -o "-p $port -c fsync=off -c listen_addresses=127.0.0.1 -c unix_socket_directories=$work" start &&
            url=postgres://fanfare@127.0.0.1:$port/postgres && return 0
    done
    cat "$work/data/log"
    return 1
}

here=$PWD
url=
start || { echo 'PostgreSQL does not start.'; exit 1; }
cd "$here" || exit 1
FANFARE_TEST_POSTGRES=$url "$@"
