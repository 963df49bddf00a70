"""Published Eureka clients against a real server, over real connections.

Each check prints `test NAME ... ok` or `FAILED`, and the last line counts them. The server is the
binary in FANFARE_BIN; what else there is to run is told by the environment, see
scripts/eureka_clients.sh.
"""

import json
import os
import queue
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request

from websockets.sync.client import connect

HERE = os.path.dirname(os.path.abspath(__file__))
SERVER = os.path.abspath(os.environ.get("FANFARE_BIN", "target/debug/fanfare"))
PATIENCE_S = 15
LEASE_S = 3

passed, failed = 0, 0


def free_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Server:
    """A running server that can be killed and started again where it was."""

    def __init__(self, *flags):
        self.port = free_port()
        self.flags = flags
        self.dir = tempfile.mkdtemp(prefix="fanfare-eureka-")
        self.process = None
        self.start()

    def start(self):
        self.log = open(os.path.join(self.dir, "log"), "ab")
        command = [SERVER, "--bind", f"127.0.0.1:{self.port}"]
        command += ["--data-dir", os.path.join(self.dir, "data"), *self.flags]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self.log)
        line = self.process.stdout.readline()
        assert b"listening" in line, open(os.path.join(self.dir, "log")).read()

    def kill(self):
        self.process.kill()
        self.process.wait()
        self.log.close()

    def url(self, path):
        return f"http://127.0.0.1:{self.port}{path}"

    def call(self, method, path, body=None, headers=None):
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json", **(headers or {})}
        request = urllib.request.Request(self.url(path), data, headers, method=method)
        with urllib.request.urlopen(request, timeout=5) as answer:
            text = answer.read()
            return json.loads(text) if text.strip() else None

    def register(self, service, instance, port):
        one = {"serviceId": service, "instanceId": instance, "ip": "127.0.0.1", "port": port,
               "leaseTtlMs": 600_000, "url": f"http://127.0.0.1:{port}/"}
        self.call("POST", "/api/registry/register.json", {"instances": [one]})

    def operate(self, service, instance, is_complete):
        self.call("POST", "/api/management/instance/operate-instance.json", {
            "instanceKey": {"serviceId": service, "instanceId": instance},
            "operation": "pull-out", "operationComplete": is_complete, "operatorId": "test"})

    def discovered(self, service):
        answer = self.call("GET", f"/api/discovery/service.json?serviceId={service}")
        service = answer.get("service") or {"instances": []}
        return sorted(one["instanceId"] for one in service["instances"])

    def remove(self):
        self.kill()
        shutil.rmtree(self.dir, ignore_errors=True)


class Listener:
    """Everything that the server pushes about services, in the order in which it came."""

    def __init__(self, server):
        self.changes = []
        self.arrived = threading.Condition()
        self.socket = connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None)
        self.socket.send(json.dumps({"type": "subscribe", "service_id": "*"}))
        threading.Thread(target=self.listen, daemon=True).start()

    def listen(self):
        try:
            for text in self.socket:
                frame = json.loads(text)
                for change in frame.get("changes") or []:
                    with self.arrived:
                        self.changes.append((time.monotonic(), frame["service_id"], change))
                        self.arrived.notify_all()
        except Exception:  # The server was killed.
            pass

    def mark(self):
        with self.arrived:
            return len(self.changes)

    def wait(self, since, service, kind, reason=None, patience=PATIENCE_S):
        """The first such change since a mark, and when it came."""
        end = time.monotonic() + patience
        with self.arrived:
            while True:
                for at, name, change in self.changes[since:]:
                    if name == service and change["changeType"] == kind \
                            and reason in (None, change["reason"]):
                        return at, change
                left = end - time.monotonic()
                assert left > 0, f"no {kind} of {service}, only {self.changes[since:]}"
                self.arrived.wait(left)

    def reasons(self, since):
        with self.arrived:
            return [change["reason"] for _, _, change in self.changes[since:]]


class Client:
    """A client in a process of its own."""

    def __init__(self, name, command, app, instance, environment=None):
        self.name, self.command, self.app, self.instance = name, command, app, instance
        self.environment = {**os.environ, **(environment or {})}
        self.process = None

    def start(self):
        self.log = tempfile.NamedTemporaryFile("w+", prefix=f"{self.name}-")
        self.process = subprocess.Popen(
            self.command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.log,
            text=True, env=self.environment)
        self.lines = queue.Queue()
        threading.Thread(target=self.read, daemon=True).start()
        answer = self.answer(60)
        assert answer == "started", answer

    def read(self):
        for line in self.process.stdout:
            self.lines.put(line)
        self.lines.put("")

    def answer(self, patience=PATIENCE_S):
        line = self.lines.get(timeout=patience)
        if not line:
            self.log.seek(0)
            raise AssertionError(f"{self.name} ended: {self.log.read()[-2000:]}")
        return json.loads(line)

    def ask(self, text):
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()
        return self.answer()

    def sees(self, app, expected, patience=PATIENCE_S):
        eventually(lambda: self.ask(f"see {app}"), sorted(expected), f"{self.name} sees", patience)

    def kill(self):
        if self.process and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()


class Prometheus:
    """Prometheus with nothing but its Eureka discovery."""

    name, app = "prometheus", None

    def __init__(self, server, program, extra=""):
        self.port = free_port()
        self.dir = tempfile.mkdtemp(prefix="prometheus-")
        config = os.path.join(self.dir, "prometheus.yml")
        with open(config, "w") as out:
            out.write(f"""
scrape_configs:
  - job_name: eureka
    scrape_interval: 1h
    scrape_timeout: 1s
    eureka_sd_configs:
      - server: {server.url("/eureka")}
        refresh_interval: 1s
{extra}
    relabel_configs:
      - source_labels: [__meta_eureka_app_instance_status]
        regex: UP
        action: keep
      - source_labels: [__meta_eureka_app_instance_id]
        target_label: id
      - source_labels: [__meta_eureka_app_name]
        target_label: app
""")
        self.command = [program, f"--config.file={config}", "--log.level=error",
                        f"--web.listen-address=127.0.0.1:{self.port}",
                        f"--storage.tsdb.path={self.dir}/data"]
        self.process = None

    def start(self):
        self.process = subprocess.Popen(self.command, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)

    def see(self, app):
        url = f"http://127.0.0.1:{self.port}/api/v1/targets?state=active"
        try:
            with urllib.request.urlopen(url, timeout=5) as answer:
                targets = json.load(answer)["data"]["activeTargets"]
        except OSError:
            return None  # It is still starting.
        labels = [target["labels"] for target in targets]
        return sorted(one["id"] for one in labels if one["app"] == app.upper())

    def sees(self, app, expected, patience=30):
        # It hands on what it has discovered every five seconds.
        eventually(lambda: self.see(app), sorted(expected), f"{self.name} sees", patience)

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        shutil.rmtree(self.dir, ignore_errors=True)


def eventually(get, expected, what, patience=PATIENCE_S):
    end = time.monotonic() + patience
    while True:
        found = get()
        if found == expected:
            return
        assert time.monotonic() < end, f"{what} {found}, not {expected}"
        time.sleep(0.1)


def test(name, check, *arguments):
    global passed, failed
    try:
        note = check(*arguments)
        passed += 1
        print(f"test {name} ... ok" + (f"   # {note}" if note else ""), flush=True)
    except Exception as fault:  # A check that breaks is one that fails; the others still run.
        failed += 1
        print(f"test {name} ... FAILED\n    {type(fault).__name__}: {fault}", flush=True)


def clients_of(server):
    url = server.url("/eureka/")
    clients = [Client(
        "py_eureka_client", [sys.executable, f"{HERE}/py_client.py", url, "py-app", "py:1", "9001"],
        "py-app", "py:1")]
    modules = os.environ.get("EUREKA_NODE_MODULES")
    if modules:
        for name, delta in (("eureka_js_client", "0"), ("eureka_js_client_delta", "1")):
            app, host = f"js-app-{delta}", f"js-host-{delta}"
            clients.append(Client(
                name, ["node", f"{HERE}/js_client.js", str(server.port), app, host, "9002"],
                app, host, {"NODE_PATH": modules, "USE_DELTA": delta}))
    classes = os.environ.get("EUREKA_JAVA_CLASSES")
    if classes:
        url = server.url("/eureka/v2/")
        clients.append(Client(
            "netflix_client",
            ["java", "--add-opens=java.base/java.util=ALL-UNNAMED", "-cp", classes, "JavaClient",
             url, "java-app", "java:1", "9003"],
            "java-app", "java:1"))
    return clients


def starts(client, listener):
    before, began = listener.mark(), time.monotonic()
    client.start()
    at, change = listener.wait(before, client.app, "new")
    assert change["instance"]["instanceId"] == client.instance, change
    if change["instance"]["status"] == "starting":  # Netflix' own says so first.
        _, change = listener.wait(before, client.app, "change")
    assert change["instance"]["status"] == "up", change
    return f"pushed {at - began:.2f} s after the process began"


def push_delay(client, server):
    """How soon a POST like the client's arrives as a push."""
    with connect(f"ws://127.0.0.1:{server.port}/ws", proxy=None) as watcher:
        watcher.send(json.dumps({"type": "subscribe", "service_id": "probe"}))
        while json.loads(watcher.recv(5))["type"] != "subscribed":
            pass
        body = {"instance": {"app": "probe", "hostName": "h", "ipAddr": "127.0.0.1"}}
        began = time.monotonic()
        server.call("POST", "/eureka/apps/probe", body)
        assert json.loads(watcher.recv(5))["type"] == "service_change"
        took = time.monotonic() - began
        server.call("DELETE", "/eureka/apps/probe/h")
        assert took < 0.5, took
        return f"{took * 1000:.1f} ms after the POST was sent"


def sees_ours(client, server):
    server.register(f"ours-{client.name}", "one", 8001)
    client.sees(f"ours-{client.name}", ["one"])


def loses_what_is_out(client, server):
    server.operate(f"ours-{client.name}", "one", False)
    client.sees(f"ours-{client.name}", [])
    server.operate(f"ours-{client.name}", "one", True)
    client.sees(f"ours-{client.name}", ["one"])


def takes_itself_out(client, server, listener, others):
    before = listener.mark()
    client.ask("out")
    listener.wait(before, client.app, "delete", "pull_out")
    assert server.discovered(client.app) == []
    for other in others:
        other.sees(client.app, [])
    before = listener.mark()
    client.ask("in")
    listener.wait(before, client.app, "new", "pull_in")
    for other in others:
        other.sees(client.app, [client.instance])


def is_taken_out(client, server, others):
    path = f"/eureka/apps/{client.app}/{client.instance}/status?value=OUT_OF_SERVICE"
    server.call("PUT", path)
    for other in others:
        other.sees(client.app, [])
    time.sleep(1.5)  # Its own heartbeats do not end it.
    assert server.discovered(client.app) == []
    server.call("DELETE", f"/eureka/apps/{client.app}/{client.instance}/status")
    for other in others:
        other.sees(client.app, [client.instance])


def outlives_a_restart(client, server, listener, since):
    assert client.process.poll() is None, "it has ended"
    if client.app:
        assert server.discovered(client.app) == [client.instance]
        gone = [one for _, name, one in listener.changes[since:]
                if name == client.app and one["changeType"] == "delete"]
        assert not gone, gone
    server.register(f"after-{client.name}", "one", 8002)
    client.sees(f"after-{client.name}", ["one"])


def is_evicted(client, server, listener):
    before, began = listener.mark(), time.monotonic()
    client.kill()
    at, _ = listener.wait(before, client.app, "delete", "expired")
    took = at - began
    # Its last heartbeat was up to an interval ago, and expiry is at most a second late.
    assert LEASE_S - 1.5 <= took <= LEASE_S + 1.5, took
    assert server.discovered(client.app) == []
    return f"{took:.2f} s after the kill, lease {LEASE_S} s"


def stops_cleanly(client, server, listener):
    client.start()
    listener_mark = listener.mark()
    assert client.ask("stop") is True
    listener.wait(listener_mark, client.app, "delete", "unregister")
    eventually(lambda: server.discovered(client.app), [], "discovery shows")


def accounts():
    server = Server("--auth", "required")
    client = prometheus = None
    try:
        data = os.path.join(server.dir, "data")
        subprocess.run(
            [SERVER, "user", "add", "shop", "--scope", "registry:write", "--data-dir", data],
            input=b"correct horse\n", check=True, stdout=subprocess.DEVNULL)
        url = f"http://shop:correct%20horse@127.0.0.1:{server.port}/eureka/"
        client = Client("py", [sys.executable, f"{HERE}/py_client.py", url, "paid", "p:1", "9009"],
                        "paid", "p:1")
        client.start()
        client.sees("paid", ["p:1"])
        time.sleep(LEASE_S + 1)
        client.sees("paid", ["p:1"])
        program = os.environ.get("EUREKA_PROMETHEUS")
        if program:
            prometheus = Prometheus(server, program, """
        basic_auth:
          username: shop
          password: correct horse
""")
            prometheus.start()
            prometheus.sees("paid", ["p:1"])
    finally:
        for one in (client, prometheus):
            if one:
                one.kill()
        server.remove()


def main():
    server = Server()
    clients = clients_of(server)
    listener = Listener(server)
    everyone = list(clients)
    program = os.environ.get("EUREKA_PROMETHEUS")
    if program:
        prometheus = Prometheus(server, program)
        prometheus.start()
        everyone.append(prometheus)
    try:
        time.sleep(0.3)
        test("a_registration_is_pushed_at_once", push_delay, None, server)
        for client in clients:
            test(f"{client.name}_registers_and_is_pushed", starts, client, listener)
        for client in everyone:
            test(f"{client.name}_sees_ours", sees_ours, client, server)
        for client in everyone:
            test(f"{client.name}_loses_what_is_out_of_service", loses_what_is_out, client, server)
        for client in clients:
            others = [one for one in everyone if one is not client]
            if client.name in ("py_eureka_client", "netflix_client"):
                test(f"{client.name}_takes_itself_out", takes_itself_out, client, server, listener,
                     others)
            else:
                test(f"{client.name}_is_taken_out", is_taken_out, client, server, others)
        before = [len(client.ask(f"see {client.app}")) for client in clients]
        print(f"the server is killed and started again, {len(before)} clients connected")
        server.kill()
        time.sleep(0.5)
        server.start()
        listener = Listener(server)
        since = listener.mark()
        time.sleep(2 * LEASE_S)
        for client in everyone:
            test(f"{client.name}_outlives_a_restart", outlives_a_restart, client, server, listener,
                 since)
        for client in clients:
            test(f"{client.name}_is_evicted_after_its_lease", is_evicted, client, server, listener)
        for client in clients:
            test(f"{client.name}_stops_cleanly", stops_cleanly, client, server, listener)
        test("a_name_and_a_password_in_the_url", accounts)
    finally:
        for client in everyone:
            client.kill()
        log = open(os.path.join(server.dir, "log")).read()
        server.remove()
    test("the_server_never_panicked", lambda: _assert("panicked" not in log, log[-2000:]))
    word = "ok" if failed == 0 else "FAILED"
    print(f"test result: {word}. {passed} passed; {failed} failed; 0 ignored")
    return failed != 0


def _assert(is_so, words):
    assert is_so, words


if __name__ == "__main__":
    sys.exit(main())
