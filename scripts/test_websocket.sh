#!/usr/bin/env bash
# A smoke test of a running server, for whoever operates it. `--help` says how.

set -uo pipefail

usage() {
    cat <<'END'
Checks a running fanfare server from outside: HTTP, WebSocket, pushes, tokens, and a little load.

  scripts/test_websocket.sh [--skip-performance] [--server-url URL] [--ws-url URL] [--jwt-secret SECRET]

  --server-url URL     http:// or https:// (default: http://127.0.0.1:8080)
  --ws-url URL         ws:// or wss:// (default: the server's, with the other scheme)
  --jwt-secret SECRET  the server's HS256 secret; better given as JWT_SECRET, which nobody else can read.
                       Without it the checks of tokens are skipped, and a server with --auth required
                       cannot be tested.
  --skip-performance   no 50 sockets at the end

Each check is a line PASS, FAIL or SKIP; the last line is `N passed, N failed`. Exit status 0 when
nothing failed, else 1. For a certificate of your own CA set SSL_CERT_FILE.

Needs bash, curl and openssl, and python3 (standard library only) for the sockets.

What it registers, it removes: instances of the service `fanfare-smoke-test` (their lease is 10 s should
the test die) and a channel. What the server never forgets stays: that service's name, the users
`smoke-test-0` to `smoke-test-4`, and with a secret one direct message between two of them. Users who
are online see these come and go.
END
}

server_url=http://127.0.0.1:8080
ws_url=
secret=${JWT_SECRET:-}
with_performance=1
while [ $# -gt 0 ]; do
    case $1 in
        --help | -h) usage; exit 0 ;;
        --skip-performance) with_performance=0; shift; continue ;;
        --server-url | --ws-url | --jwt-secret)
            [ $# -ge 2 ] || { echo "$1 wants a value; see --help" >&2; exit 1; } ;;
        *) echo "unknown: $1; see --help" >&2; exit 1 ;;
    esac
    case $1 in
        --server-url) server_url=$2 ;;
        --ws-url) ws_url=$2 ;;
        --jwt-secret) secret=$2 ;;
    esac
    shift 2
done
server_url=${server_url%/}
[ -n "$ws_url" ] || ws_url=ws${server_url#http}
ws_url=${ws_url%/}
ws_url=${ws_url%/ws}

missing=()
for tool in curl openssl python3; do
    command -v "$tool" >/dev/null || missing+=("$tool")
done
if [ ${#missing[@]} -gt 0 ]; then
    echo "missing: ${missing[*]}. Nothing was tested." >&2
    exit 1
fi

passed=0
failed=0
pass() { passed=$((passed + 1)); printf 'PASS  %s\n' "$1"; }
fail() { failed=$((failed + 1)); printf 'FAIL  %s: %s\n' "$1" "$2"; }
skip() { printf 'SKIP  %s: %s\n' "$1" "$2"; }
summary() {
    printf '\n%d passed, %d failed\n' "$passed" "$failed"
    [ "$failed" -eq 0 ]
    exit
}

work=$(mktemp -d)
service=fanfare-smoke-test
run=$(openssl rand -hex 6)
channel=fanfare-smoke-test:$run
admin=
# shellcheck disable=SC2317 # the trap calls it
cleanup() {
    # The Python part removes what it made; this is for when it could not.
    if [ -e "$work/dirty" ]; then
        request POST /api/registry/unregister "$admin" \
            "{\"instanceKeys\":[{\"serviceId\":\"$service\",\"instanceId\":\"$run\"}]}"
        request DELETE "/api/v1/channels/$channel" "$admin"
    fi
    rm -rf "$work"
}
trap cleanup EXIT
trap 'exit 1' INT TERM

base64url() { openssl base64 -A | tr '+/' '-_' | tr -d '='; }

# Prints a token for user $1 with scopes $2, signed with secret $3.
token() {
    local now head body
    now=$(date +%s)
    head=$(printf '{"alg":"HS256","typ":"JWT"}' | base64url)
    body=$(printf '{"sub":"%s","username":"%s","scope":"%s","iat":%d,"exp":%d}' \
        "$1" "$1" "$2" "$now" $((now + 600)) | base64url)
    # The key in hex goes by the command line of openssl, as there is no other way on 1.1.1: for these
    # milliseconds other users of this machine could read it.
    printf '%s.%s.%s' "$head" "$body" "$(printf '%s.%s' "$head" "$body" |
        openssl dgst -sha256 -mac HMAC -macopt "hexkey:$(printf %s "$3" | od -An -v -tx1 | tr -d ' \n')" \
            -binary | base64url)"
}

# request METHOD PATH TOKEN [BODY] [curl options]: leaves $status, and the answer in $work/body and
# $work/head. The token goes by a file, because other users can read command lines.
request() {
    local method=$1 path=$2 bearer=$3 body=${4:-}
    shift $(($# < 4 ? $# : 4))
    : >"$work/config"
    [ -n "$bearer" ] && printf 'header = "Authorization: Bearer %s"\n' "$bearer" >"$work/config"
    [ -n "$body" ] && set -- -H 'Content-Type: application/json' --data-binary "$body" "$@"
    : >"$work/body"
    : >"$work/head"
    # curl prefers CURL_CA_BUNDLE, Python does not know it.
    [ -z "${SSL_CERT_FILE:-}" ] || set -- --cacert "$SSL_CERT_FILE" "$@"
    status=$(curl -sS --http1.1 --max-time 10 -K "$work/config" -X "$method" -o "$work/body" \
        -D "$work/head" -w '%{http_code}' "$@" "$server_url$path" 2>"$work/curl")
}

has() { grep -qF -- "$1" "$work/body"; }
has_header() { grep -qiE -- "^$1" "$work/head"; }
seen() { printf '%s %s %s' "$status" "$(head -c 160 "$work/body" | tr -d '\r\n')" "$(head -n 1 "$work/curl")"; }

# expect NAME STATUS [text in the body]
expect() {
    if [ "$status" = "$2" ] && { [ -z "${3:-}" ] || has "$3"; }; then
        pass "$1"
    else
        fail "$1" "wanted $2 ${3:-}, got $(seen)"
    fi
}

request GET /health ''
expect 'GET /health' 200 '"up"'
if [ "$status" = 000 ]; then
    echo "Nothing answers at $server_url; the rest was not tested."
    summary
fi
request GET /ready ''
expect 'GET /ready' 200 '"checks"'
request GET /metrics ''
if [ "$status" = 403 ]; then
    skip 'GET /metrics' 'a proxy keeps it to itself'
else
    expect 'GET /metrics' 200 'fanfare_connections{'
fi

# Which mode it is, the server says itself.
request GET /ws/online ''
case $status in
    200) mode=open ;;
    401) mode=required ;;
    *) mode=open; fail 'who is served' "wanted 200 or 401, got $(seen)" ;;
esac
echo "      the server is $server_url, --auth $mode"
if [ -n "$secret" ]; then
    admin=$(token smoke-test-0 'admin registry:write publish' "$secret")
    request GET /ws/online "$admin"
    expect 'a token signed here (HS256) is taken' 200 '"users"'
    request GET /ws/online "$(token smoke-test-0 admin "$secret-not")"
    expect 'a token of another secret is refused' 401 '"unauthorized"'
    request GET /ws/online "$(printf '{"alg":"none"}' | base64url).$(cut -d. -f2 <<<"$admin")."
    expect 'a token of alg none is refused' 401 '"unauthorized"'
    request GET /api/status/node.json "$(token smoke-test-0 '' "$secret")"
    expect 'the same user without scopes is known' 200
    if [ "$mode" = required ]; then
        request GET /ws/online "$(token smoke-test-0 message "$secret")"
        expect 'but may not ask who is online without the scope' 403 'sockets:read'
        request GET /api/discovery/services.json "$(token smoke-test-0 message "$secret")"
        expect 'nor read the registry' 403 'registry:read'
        request POST /ws/send "$(token smoke-test-0 '' "$secret")" \
            '{"to_user_id":"smoke-test-0","message_type":"text","data":{}}'
        expect 'nor send' 403 '"forbidden"'
    fi
elif [ "$mode" = required ]; then
    fail 'tokens' 'this server wants them: give its secret by JWT_SECRET or --jwt-secret'
    summary
else
    skip 'tokens, users, direct messages' 'no secret given (JWT_SECRET or --jwt-secret)'
    request GET /ws/online not.a.token
    expect 'a wrong token is refused' 401 '"unauthorized"'
fi

request GET /ws/online "$admin"
expect 'GET /ws/online' 200 '"count"'
request GET /ws/stats "$admin"
expect 'GET /ws/stats' 200 '"fanout_latency_us"'

# Handshakes that must not come through. A proxy may answer some of them itself, with a 4xx as well.
key=$(openssl rand -base64 16)
hands=(-H 'Connection: Upgrade' -H 'Upgrade: websocket')
request GET /ws "$admin"
# The header is for one hop: a proxy, which is told by its name, may have kept it.
if [ "$status" = 426 ] && { has_header 'upgrade: *websocket' || has_header '(server|via):'; }; then
    pass 'GET /ws without an upgrade: 426'
else
    fail 'GET /ws without an upgrade: 426' "got $(seen)"
fi
request POST /ws "$admin" '{}'
if [ "$status" = 405 ] && has_header 'allow: *GET'; then
    pass 'POST /ws: 405'
else
    fail 'POST /ws: 405' "got $(seen)"
fi
request GET /ws "$admin" '' "${hands[@]}" -H 'Sec-WebSocket-Version: 8' -H "Sec-WebSocket-Key: $key"
if [ "$status" = 426 ] && has_header 'sec-websocket-version: *13'; then
    pass 'another version: 426, and which one is spoken'
else
    fail 'another version: 426, and which one is spoken' "got $(seen)"
fi
request GET /ws "$admin" '' "${hands[@]}" -H 'Sec-WebSocket-Version: 13'
expect 'no key: 400' 400
request GET /ws "$admin" '' "${hands[@]}" -H 'Sec-WebSocket-Version: 13' -H 'Sec-WebSocket-Key: c2hvcnQ='
expect 'a key that is too short: 400' 400
request GET /ws "$admin" '' "${hands[@]}" -H 'Sec-WebSocket-Version: 13' -H "Sec-WebSocket-Key: $key" \
    -H 'Origin: null'
expect 'a page of no origin: 403' 403
request GET /ws not.a.token '' "${hands[@]}" -H 'Sec-WebSocket-Version: 13' -H "Sec-WebSocket-Key: $key"
expect 'a wrong token: 401 before the 101' 401

# The sockets. Python prints the same lines as above, and they are counted here.
tokens=$admin
if [ -n "$secret" ]; then
    # 50 sockets are more than one user may have.
    for user in 1 2 3 4; do
        tokens+=" $(token "smoke-test-$user" 'publish message' "$secret")"
    done
fi
touch "$work/dirty"
while IFS= read -r line; do
    case $line in
        PASS*) passed=$((passed + 1)) ;;
        FAIL*) failed=$((failed + 1)) ;;
        CLEAN) rm -f "$work/dirty"; continue ;;
    esac
    printf '%s\n' "$line"
done < <(SERVER_URL=$server_url WS_URL=$ws_url TOKENS=$tokens SERVICE=$service RUN=$run CHANNEL=$channel \
    PERFORMANCE=$with_performance python3 - 2>&1 <<'PYTHON'
import base64, hashlib, json, os, selectors, socket, ssl, struct, time
from http.client import HTTPConnection, HTTPSConnection
from urllib.parse import quote, urlsplit

env = os.environ
server, gate = urlsplit(env["SERVER_URL"]), urlsplit(env["WS_URL"])
tokens = env["TOKENS"].split()
service, run, channel = env["SERVICE"], env["RUN"], env["CHANNEL"]
WAIT_S = 10


class Socket:
    """A WebSocket client: as much of RFC 6455 as a smoke test needs."""

    def __init__(self, token=None, path="/ws"):
        secure = gate.scheme == "wss"
        port = gate.port or (443 if secure else 80)
        self.link = socket.create_connection((gate.hostname, port), WAIT_S)
        self.link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if secure:
            self.link = ssl.create_default_context().wrap_socket(self.link, server_hostname=gate.hostname)
        key = base64.b64encode(os.urandom(16)).decode()
        lines = ["GET %s HTTP/1.1" % (gate.path + path), "Host: " + gate.netloc.rpartition("@")[2],
                 "Connection: Upgrade", "Upgrade: websocket",
                 "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: " + key]
        if token:
            lines.append("Authorization: Bearer " + token)
        self.link.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        self.bytes, self.frames = b"", []
        while b"\r\n\r\n" not in self.bytes:
            self.more()
        head, _, self.bytes = self.bytes.partition(b"\r\n\r\n")
        head = head.decode("latin-1").split("\r\n")
        self.status = int(head[0].split()[1])
        accept = hashlib.sha1((key + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()
        fields = {name.strip().lower(): value.strip() for name, _, value in
                  (line.partition(":") for line in head[1:])}
        if self.status != 101:
            raise AssertionError("the upgrade was answered " + head[0])
        if fields.get("sec-websocket-accept") != base64.b64encode(accept).decode():
            raise AssertionError("Sec-WebSocket-Accept does not fit the key")
        self.welcome = self.until(lambda frame: frame.get("type") == "welcome")

    def more(self):
        got = self.link.recv(65536)
        if not got:
            raise AssertionError("the connection was closed")
        self.bytes += got

    def parse(self):
        """The next whole frame of what has arrived, as (opcode, payload), or None."""
        if len(self.bytes) < 2:
            return None
        size, at = self.bytes[1] & 127, 2
        if size > 125:
            at = 4 if size == 126 else 10
            if len(self.bytes) < at:
                return None
            size = int.from_bytes(self.bytes[2:at], "big")
        if len(self.bytes) < at + size:
            return None
        frame = self.bytes[0] & 15, self.bytes[at:at + size]
        self.bytes = self.bytes[at + size:]
        return frame

    def arrived(self):
        """All JSON messages that have arrived; pings are answered on the way."""
        while (frame := self.parse()) is not None:
            opcode, payload = frame
            if opcode == 9:
                self.write(10, payload)
            elif opcode == 8:
                code = struct.unpack("!H", payload[:2])[0] if len(payload) > 1 else 1005
                raise AssertionError("closed with %d %s" % (code, payload[2:].decode("utf-8", "replace")))
            elif opcode == 1:
                yield json.loads(payload)

    def until(self, fits, wait_s=WAIT_S):
        """The first message that fits. Others are kept for later questions."""
        deadline = time.monotonic() + wait_s
        while True:
            for index, frame in enumerate(self.frames):
                if fits(frame):
                    return self.frames.pop(index)
            left = deadline - time.monotonic()
            if left <= 0:
                raise AssertionError("nothing came within %d s; before: %s" % (wait_s, self.frames[-3:]))
            new = list(self.arrived())
            if new:
                self.frames += new
                continue
            self.link.settimeout(left)
            try:
                self.more()
            except socket.timeout:
                pass

    def write(self, opcode, payload):
        mask, size = os.urandom(4), len(payload)
        head = bytes([128 | opcode])
        if size < 126:
            head += bytes([128 | size])
        else:
            head += bytes([128 | 126]) + struct.pack("!H", size)
        body = bytes(byte ^ mask[index & 3] for index, byte in enumerate(payload))
        self.link.settimeout(WAIT_S)
        self.link.sendall(head + mask + body)

    def ask(self, message):
        """Sends a message and returns its own answer, which carries its id."""
        Socket.count = getattr(Socket, "count", 0) + 1
        message = dict(message, id="q%d" % Socket.count)
        self.write(1, json.dumps(message).encode())
        answer = self.until(lambda frame: frame.get("id") == message["id"])
        if "error" in (answer.get("type"), answer.get("message_type")):
            raise AssertionError(json.dumps(answer)[:200])
        return answer

    def close(self):
        try:
            self.write(8, struct.pack("!H", 1000))
        except OSError:
            pass
        self.link.close()


def call(method, path, body=None, token=None):
    kind = HTTPSConnection if server.scheme == "https" else HTTPConnection
    link = kind(server.hostname, server.port, timeout=WAIT_S)
    headers = {"Content-Type": "application/json"} if body is not None else {}
    if token:
        headers["Authorization"] = "Bearer " + token
    link.request(method, server.path + path, None if body is None else json.dumps(body), headers)
    answer = link.getresponse()
    text = answer.read()
    link.close()
    if answer.status >= 300:
        raise AssertionError("%s %s: %d %s" % (method, path, answer.status, text[:160]))
    return json.loads(text or b"null")


def check(name):
    """Runs a function as a check. What it needs of earlier ones it finds in `state`."""
    def decorate(function):
        try:
            detail = function()
            print("PASS  " + name + (": " + detail if detail else ""), flush=True)
        except Exception as fault:
            print("FAIL  %s: %s" % (name, str(fault)[:300] or type(fault).__name__), flush=True)
    return decorate


def equal(got, wanted):
    if got != wanted:
        raise AssertionError("wanted %r, got %r" % (wanted, got))


class state:
    watcher = worker = None
    revision = None


first = tokens[0] if tokens else None
second = tokens[1] if tokens else None
instance = {"serviceId": service, "instanceId": run, "ip": "192.0.2.1", "port": 80, "leaseTtlMs": 10000}
key = {"serviceId": service, "instanceId": run}


def change(kind, reason):
    """The watcher's next change of our instance. The test may run twice at once."""
    def fits(frame):
        return frame.get("type") == "service_change" and any(
            change["instance"]["instanceId"] == run for change in frame["changes"])
    frame = state.watcher.until(fits)
    mine = [change for change in frame["changes"] if change["instance"]["instanceId"] == run][0]
    equal((mine["changeType"], mine["reason"]), (kind, reason))
    equal(frame["revision"] - frame["from"], len(frame["changes"]))
    if frame["from"] < state.revision:
        raise AssertionError("revision %d came after %d" % (frame["revision"], state.revision))
    state.revision = frame["revision"]


@check("upgrade: 101, and a welcome")
def _():
    state.watcher, state.worker = Socket(first), Socket(second)
    for field in ("connection_id", "node_id", "ping_interval_ms", "version"):
        if field not in state.watcher.welcome:
            raise AssertionError("the welcome has no " + field)
    return "version " + state.watcher.welcome["version"]


if first:
    @check("sign-in: the welcome names the token's user")
    def _():
        equal(state.watcher.welcome["user_id"], "smoke-test-0")
        online = call("GET", "/ws/online", token=first)
        if "smoke-test-0" not in [user["user_id"] for user in online["users"]]:
            raise AssertionError("/ws/online does not list the user")


@check("ping and pong")
def _():
    equal(state.watcher.ask({"type": "ping"})["type"], "pong")


@check("what is unknown is refused, and the socket stays")
def _():
    state.watcher.write(1, b'{"type":"no-such-thing","id":"wrong"}')
    answer = state.watcher.until(lambda frame: frame.get("id") == "wrong")
    equal((answer["type"], answer["code"]), ("error", "unknown_type"))


@check("subscribe to a service, with a snapshot")
def _():
    answer = state.watcher.ask({"type": "subscribe", "service_id": service, "snapshot": True})
    equal(answer["type"], "subscribed")
    answer["epoch"], answer["instances"]
    state.revision = answer["revision"]


@check("register over HTTP: pushed")
def _():
    answer = call("POST", "/api/registry/register", {"instances": [instance]}, first)
    equal(answer["responseStatus"]["status"], "success")
    change("new", "register")


@check("discovery finds it")
def _():
    answer = call("GET", "/api/discovery/service?serviceId=" + service, token=first)
    if run not in [found["instanceId"] for found in answer["service"]["instances"]]:
        raise AssertionError("it is not among the instances")


# Where tokens are required only the first one may write to the registry.
@check("register over a socket: a change is pushed")
def _():
    answer = state.watcher.ask({"type": "register", "instances": [dict(instance, port=81)]})
    equal((answer["type"], answer["failed_instances"]), ("registered", []))
    change("change", "update")


@check("heartbeat")
def _():
    answer = state.watcher.ask({"type": "heartbeat", "instance_keys": [key]})
    equal((answer["type"], answer["failed_instance_keys"]), ("heartbeat_ack", []))


@check("unregister: pushed")
def _():
    answer = state.watcher.ask({"type": "unregister", "instance_keys": [key]})
    equal((answer["type"], answer["failed_instance_keys"]), ("unregistered", []))
    change("delete", "unregister")


@check("unsubscribe")
def _():
    equal(state.watcher.ask({"type": "unsubscribe", "service_id": service})["type"], "unsubscribed")


@check("channel: published over a socket, pushed to its followers")
def _():
    equal(state.watcher.ask({"type": "subscribe", "channel": channel})["type"], "subscribed")
    said = state.worker.ask({"type": "publish", "channel": channel, "payload": {"n": 1}})
    equal(said["type"], "published")
    got = state.watcher.until(lambda frame: frame.get("message_id") == said["message_id"])
    equal((got["type"], got["payload"], got["offset"]), ("json", {"n": 1}, said["offset"]))


@check("channel: published over HTTP, and in its history")
def _():
    path = "/api/v1/channels/" + quote(channel, safe="")
    said = call("POST", path + "/messages", {"payload": "two"}, first)
    got = state.watcher.until(lambda frame: frame.get("message_id") == said["message_id"])
    equal((got["type"], got["payload"]), ("text", "two"))
    history = call("GET", path + "/history", token=first)
    equal([message["payload"] for message in history["messages"]], [{"n": 1}, "two"])


if first:
    @check("envelope: delivered to its user, and acknowledged")
    def _():
        answer = state.watcher.ask({"message_type": "text", "data": {"run": run}, "to_user_id": "smoke-test-1"})
        equal(answer["message_type"], "ack")
        if answer["data"]["delivered_to"] < 1:
            raise AssertionError("delivered to nobody")
        got = state.worker.until(lambda frame: frame.get("data") == {"run": run})
        equal(got["from_user_id"], "smoke-test-0")

    @check("direct message: stored, pushed, and there to be pulled")
    def _():
        said = call("POST", "/api/v1/messages", {"to_user_id": "smoke-test-1", "content": "smoke " + run}, first)
        got = state.worker.until(lambda frame: frame.get("id") == said["id"])
        equal((got["type"], got["from_user_id"], got["content"]), ("private", "smoke-test-0", "smoke " + run))
        # Pages go from old to new. The id before ours is the cursor; ids are UUIDs, so count down.
        before = "%032x" % (int(said["id"].replace("-", ""), 16) - 1)
        before = "-".join((before[:8], before[8:12], before[12:16], before[16:20], before[20:]))
        pulled = call("GET", "/api/v1/messages?limit=50&after=" + before, token=second)
        if said["id"] not in [message["id"] for message in pulled["messages"]]:
            raise AssertionError("it is not among the messages")


def performance():
    sockets_max, messages = 50, 100
    fans = []
    try:
        started = time.monotonic()
        for index in range(sockets_max):
            # 10 of each user: 16 are allowed, and the ones above are still open.
            fans.append(Socket(tokens[index % len(tokens)] if tokens else None))
        opened_s = time.monotonic() - started
        for fan in fans:
            fan.ask({"type": "subscribe", "channel": channel})
        publisher = state.worker
        started = time.monotonic()
        # Within the burst that one connection is allowed.
        for number in range(messages):
            publisher.write(1, json.dumps({"type": "publish", "channel": channel, "echo": False,
                                           "payload": "load-%d" % number}).encode())
        waiting = selectors.DefaultSelector()
        got = {}
        for fan in fans:
            fan.link.settimeout(WAIT_S)
            waiting.register(fan.link, selectors.EVENT_READ, fan)
            got[fan] = []
        deadline = started + 30
        total = 0
        while total < sockets_max * messages and time.monotonic() < deadline:
            for ready, _ in waiting.select(1):
                fan = ready.data
                fan.more()
                # TLS may hold more than the kernel does.
                while getattr(fan.link, "pending", lambda: 0)():
                    fan.more()
                for frame in fan.arrived():
                    if str(frame.get("payload", "")).startswith("load-"):
                        got[fan].append(frame["payload"])
                        total += 1
        took_s = time.monotonic() - started
        wanted = ["load-%d" % number for number in range(messages)]
        wrong = [seen for seen in got.values() if seen != wanted]
        if wrong:
            raise AssertionError("%d of %d sockets did not get all %d messages in order within 30 s"
                                 % (len(wrong), sockets_max, messages))
        return "%d sockets opened in %.2f s, %d pushes in %.2f s, %.0f a second" % (
            sockets_max, opened_s, total, took_s, total / took_s)
    finally:
        for fan in fans:
            fan.close()


if env["PERFORMANCE"] == "1":
    check("load: every socket gets every message in order")(performance)


@check("clean-up: nothing of the test is left")
def _():
    call("POST", "/api/registry/unregister", {"instanceKeys": [key]}, first)
    call("DELETE", "/api/v1/channels/" + quote(channel, safe=""), token=first)
    found = call("GET", "/api/discovery/service?serviceId=" + service, token=first)
    if run in [left["instanceId"] for left in found["service"]["instances"]]:
        raise AssertionError("the instance is still there")
    if channel in [left["name"] for left in call("GET", "/api/v1/channels", token=first)["channels"]]:
        raise AssertionError("the channel is still there")
    print("CLEAN", flush=True)


for link in (state.watcher, state.worker):
    if link:
        link.close()
PYTHON
)
[ "$passed" -gt 0 ] && [ -e "$work/dirty" ] && fail 'the sockets' 'that part did not come to its end'
summary
