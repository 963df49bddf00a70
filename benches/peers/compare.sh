#!/usr/bin/env bash
# Measures servers side by side: each pinned to one core, the load generator to another.
#
# The order is round, mode, server: every server is measured within the same minute for each mode
# and round, so that a machine that slows down slows all of them. Each run has a server process of
# its own, started for it and stopped after it. The lines of results are kept; the tables at the
# end are medians over the rounds.

set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)

servers=floor-send,floor-coalesce,naive,bun,uws,fanfare
modes=spaced-50,spaced-200,spaced-10k,flood,topics,topics-http,idle,storm
rounds=3
seconds=5
fanfare=$here/../../target/release/fanfare
fanfare_shards=1
uws=$here/uws/peer-uws
centrifugo=$(command -v centrifugo || true)
baseline=
server_cpu=0
generator_cpu=1
# Rounds of this run are told apart from others in the same file.
stamp=$(date +%Y%m%d-%H%M%S)
out=$here/results/$stamp.jsonl

usage() {
    cat <<END
usage: compare.sh [options]

  --servers LIST         $servers
                         also: centrifugo
  --modes LIST           $modes
                         also: spaced-1k-http,flood-http,flood-http-64,topics-http-64,
                         register,register-http,stalled,heartbeat,registrations,
                         registrations-pipelined,registrations-new,beats,beats-pipelined,
                         lookup,lookup-pipelined,listing,direct-1,direct-64,direct-128
  --rounds N             $rounds
  --seconds D            measured time of a run ($seconds)
  --fanfare PATH         the fanfare binary; ./target/release/fanfare of the repository
  --fanfare-shards N     $fanfare_shards
  --uws PATH             the uws peer, which the reader builds; uws/peer-uws
  --centrifugo PATH      Centrifugo 6, where servers name it; the one of the search path
  --baseline SERVER      one of the servers: tables of ratios to it, round by round
  --server-cpu LIST      cores of the server, as taskset takes them ($server_cpu)
  --generator-cpu LIST   cores of the generator ($generator_cpu)
  --out FILE             lines of results are appended here
END
}

while [ $# -gt 0 ]; do
    case $1 in
        --servers) servers=$2 ;;
        --modes) modes=$2 ;;
        --rounds) rounds=$2 ;;
        --seconds) seconds=$2 ;;
        --fanfare) fanfare=$2 ;;
        --fanfare-shards) fanfare_shards=$2 ;;
        --uws) uws=$2 ;;
        --centrifugo) centrifugo=$2 ;;
        --baseline) baseline=$2 ;;
        --server-cpu) server_cpu=$2 ;;
        --generator-cpu) generator_cpu=$2 ;;
        --out) out=$2 ;;
        *) usage >&2; exit 1 ;;
    esac
    shift 2
done

generator=$here/generator/target/release/peer-generator
bun=$here/bun/node_modules/.bin/bun
# Ten thousand sockets on each side.
ulimit -n "$(ulimit -Hn)"
scratch=$(mktemp -d)
server_pid=
stop() {
    if [ -n "$server_pid" ]; then
        kill -KILL "$server_pid" 2>/dev/null || true
        wait "$server_pid" 2>/dev/null || true
        server_pid=
    fi
}
trap 'stop; rm -rf "$scratch"' EXIT
mkdir -p "$(dirname "$out")"

# A port that nobody listens on, for a server that cannot pick one itself.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    echo "$port"
}

# The command of a server, in the array `command`. Sets `address` where it is known before.
command_of() {
    address=
    case $1 in
        centrifugo)
            address=127.0.0.1:$(free_port)
            cat >"$scratch/centrifugo.json" <<END
{
  "http_server": { "address": "127.0.0.1", "port": "${address#*:}" },
  "log": { "level": "error" },
  "client": { "insecure": true, "allowed_origins": ["*"] },
  "http_api": { "insecure": true },
  "health": { "enabled": true }
}
END
            command=("$centrifugo" --config "$scratch/centrifugo.json") ;;
        floor-*) command=("$here/floor/target/release/peer-floor" "${1#floor-}" --bind 127.0.0.1:0) ;;
        naive) command=("$here/naive/target/release/peer-naive" --bind 127.0.0.1:0) ;;
        bun) command=("$bun" "$here/bun/server.ts" --bind 127.0.0.1:0) ;;
        uws) command=("$uws" --bind 127.0.0.1:0) ;;
        fanfare)
            rm -rf "$scratch/data"
            command=("$fanfare" --bind 127.0.0.1:0 --data-dir "$scratch/data"
                --shards "$fanfare_shards" --client-messages-per-s-max 0) ;;
        *) echo "no server is called $1" >&2; exit 1 ;;
    esac
}

# Starts a server and waits for the line with its address, or for its port. Sets `server_pid` and `address`.
start() {
    command_of "$1"
    : >"$scratch/stdout"
    taskset -c "$server_cpu" "${command[@]}" >"$scratch/stdout" 2>"$scratch/stderr" &
    server_pid=$!
    for _ in $(seq 200); do
        if [ -n "$address" ]; then
            # It says nothing; it is there once its port is.
            (exec 3<>"/dev/tcp/${address%:*}/${address#*:}") 2>/dev/null && return 0
        else
            address=$(sed -n 's|.*listening on http://\([0-9.:]*\).*|\1|p' "$scratch/stdout" | head -n 1)
            [ -n "$address" ] && return 0
        fi
        kill -0 "$server_pid" 2>/dev/null || break
        sleep 0.05
    done
    echo "$1 did not start: $(tail -n 3 "$scratch/stderr")" >&2
    return 1
}

# The generator's arguments for a mode, in the array `load`, and the name of its table in `title`.
load_of() {
    case $1 in
        spaced-50) title="spaced, 1000 subscribers, 50 events/s"; load=(spaced --events-per-s 50) ;;
        spaced-200) title="spaced, 1000 subscribers, 200 events/s"; load=(spaced --events-per-s 200) ;;
        spaced-10k) title="spaced, 10000 subscribers, 10 events/s"
            load=(spaced --subscribers 10000 --events-per-s 10) ;;
        spaced-1k-http) title="spaced, 1000 subscribers, 50 events/s by HTTP"
            load=(spaced --events-per-s 50 --http) ;;
        flood) title="flood, 1000 subscribers"; load=(flood) ;;
        flood-http-64) title="flood, 1000 subscribers, 64 connections without pipelining"
            load=(flood --publish-by http --publishers 64) ;;
        flood-http) title="flood, 1000 subscribers, by HTTP"; load=(flood --http) ;;
        topics) title="topics, 1000 x 20, by register frames"; load=(topics) ;;
        topics-http) title="topics, 1000 x 20, by pipelined HTTP"; load=(topics --http) ;;
        topics-http-64) title="topics, 1000 x 20, 64 connections without pipelining"
            load=(topics --publish-by http --publishers 64) ;;
        register) title="register, one at a time by frames until one follower has it"
            load=(register) ;;
        register-http) title="register, one at a time by HTTP until one follower has it"
            load=(register --publish-by http) ;;
        registrations) title="registrations that renew, 8 connections without pipelining"
            load=(registrations) ;;
        registrations-pipelined) title="registrations that renew, 8 connections, 32 pipelined on each"
            load=(registrations --pipeline 32) ;;
        registrations-new) title="registrations of new instances, 8 connections without pipelining"
            load=(registrations --new) ;;
        beats) title="heartbeats one by one, 8 connections without pipelining"; load=(beats) ;;
        beats-pipelined) title="heartbeats one by one, 8 connections, 32 pipelined on each"
            load=(beats --pipeline 32) ;;
        lookup) title="discovery of a service of 20 instances, 8 connections without pipelining"
            load=(lookup) ;;
        lookup-pipelined) title="discovery of a service of 20 instances, 8 connections, 32 pipelined on each"
            load=(lookup --pipeline 32) ;;
        listing) title="listings of 100000 instances while 1000 sockets ping"; load=(listing) ;;
        direct-*) title="durable messages, ${1#direct-} senders by HTTP"
            load=(direct --workers "${1#direct-}" --tokens "$scratch/tokens") ;;
        idle) title="idle, 10000 subscribed connections"; load=(idle) ;;
        storm) title="storm, 10000 connections"; load=(storm) ;;
        heartbeat) title="heartbeat, 8 keep-alive connections"; load=(heartbeat) ;;
        stalled) title="stalled, 100 of 1000 stop reading, 16 KB events"
            # The kernel holds some 4 MB for each of them; only then the server's own part starts.
            load=(stalled --seconds 15) ;;
        *) echo "no mode is called $1" >&2; exit 1 ;;
    esac
}

# Users and their tokens for the senders of durable messages, made by the server itself.
make_tokens() {
    local user
    for user in $(seq 0 128); do
        echo "user$user $("$fanfare" token --user "user$user" --scope message \
            --data-dir "$scratch/data" 2>/dev/null)"
    done >"$scratch/tokens"
}

# What the generator has to know of a server, in the array `dialect`. False where the server cannot
# do the mode.
dialect_of() {
    dialect=()
    case $1,$2 in
        fanfare,direct-*) make_tokens ;;
        *,direct-*) return 1 ;;
        centrifugo,*) dialect=(--protocol centrifugo) ;;
    esac
}

# One run. A server that cannot do a mode is left out of its table; the others go on.
measure() {
    start "$1" || { stop; return 0; }
    load_of "$2"
    local line
    if ! dialect_of "$1" "$2"; then
        echo "  $1: $2 is not for it" >&2
    elif line=$(timeout 180 taskset -c "$generator_cpu" "$generator" "${load[0]}" \
        --server "$address" --pid "$server_pid" --seconds "$seconds" \
        --server-name "$1" --run-name "$title" --round "$stamp-$round" \
        "${dialect[@]}" "${load[@]:1}" 2>"$scratch/error"); then
        echo "$line" >>"$out"
        echo "  $1: done" >&2
    else
        echo "  $1: $2 failed: $(head -n 1 "$scratch/error")" >&2
    fi
    stop
}

available=()
for server in ${servers//,/ }; do
    command_of "$server"
    if [ -n "${command[0]}" ] && [ -x "${command[0]}" ]; then
        available+=("$server")
    else
        echo "$server is left out: it is not built (see README.md)" >&2
    fi
done
for mode in ${modes//,/ }; do load_of "$mode"; done
if [ -n "$baseline" ] && [[ " ${available[*]} " != *" $baseline "* ]]; then
    echo "--baseline: $baseline is not among the servers that are measured" >&2
    exit 1
fi
if [ ! -x "$generator" ]; then
    echo "the generator is not built (see README.md)" >&2
    exit 1
fi

for round in $(seq "$rounds"); do
    for mode in ${modes//,/ }; do
        echo "round $round, $mode" >&2
        for server in "${available[@]}"; do
            measure "$server" "$mode"
        done
    done
done

echo "Medians of $rounds rounds of $seconds s; $(uname -sr), server on core $server_cpu, generator on core $generator_cpu."
"$generator" table "$out" ${baseline:+--baseline "$baseline"}
