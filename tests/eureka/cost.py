"""What fetching the registry costs the server, in processor time.

    FANFARE_BIN=target/release/fanfare python3 tests/eureka/cost.py [INSTANCES] [SERVICES]

Prints a table: for each form of the answer the microseconds of user and system time that the server
spends on the first GET of all, on one after a change of one instance, and on one that changes
nothing; and what a bare program spends on sending the same bytes. Needs nothing but Python.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

SERVER = os.environ.get("FANFARE_BIN", "target/release/fanfare")
INSTANCES = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
SERVICES = int(sys.argv[2]) if len(sys.argv) > 2 else 200
FORMS = [("JSON", "application/json", ""), ("JSON", "application/json", "gzip"),
         ("XML", "*/*", ""), ("XML", "*/*", "gzip")]


def cpu_us(pid):
    """Time of all threads there are, from the scheduler."""
    total = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{task}/schedstat") as text:
                total += int(text.read().split()[0])
        except OSError:
            pass
    return total / 1000


class Connection:
    buffer = bytearray(1 << 20)

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, method, path, headers="", body=b""):
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        self.socket.sendall(head.encode() + body)
        data = b""
        while b"\r\n\r\n" not in data:
            more = self.socket.recv(65536)
            assert more, "the server closed the connection"
            data += more
        head, rest = data.split(b"\r\n\r\n", 1)
        status = int(head.split()[1])
        length = 0
        for line in head.decode().lower().split("\r\n"):
            if line.startswith("content-length:"):
                length = int(line.split(":")[1])
        left = length - len(rest)
        while left > 0:
            left -= self.socket.recv_into(self.buffer, min(left, len(self.buffer)))
        return status, length


def instance(number, round_=0):
    app = f"app-{number % SERVICES}"
    return {"instance": {
        "instanceId": f"10.0.{number // 250}.{number % 250}:{app}:8080", "app": app,
        "hostName": f"host-{number}.example.org", "ipAddr": f"10.0.{number // 250}.{number % 250}",
        "port": {"$": 8080, "@enabled": "true"}, "securePort": {"$": 443, "@enabled": "false"},
        "dataCenterInfo": {"@class": "com.netflix.appinfo.InstanceInfo$DefaultDataCenterInfo",
                           "name": "MyOwn"},
        "leaseInfo": {"renewalIntervalInSecs": 30, "durationInSecs": 3600},
        "metadata": {"zone": "z1", "management.port": "8081", "version": f"1.{round_}"},
        "homePageUrl": f"http://host-{number}.example.org:8080/",
        "statusPageUrl": f"http://host-{number}.example.org:8080/actuator/info",
        "healthCheckUrl": f"http://host-{number}.example.org:8080/actuator/health",
        "vipAddress": app, "secureVipAddress": app, "status": "UP",
        "lastDirtyTimestamp": str(1795218115911 + round_)}}


def register(connection, number, round_=0):
    body = json.dumps(instance(number, round_)).encode()
    app = f"app-{number % SERVICES}"
    status, _ = connection.ask("POST", f"/eureka/apps/{app}",
                               "Content-Type: application/json\r\n", body)
    assert status == 204, status


def floor_us(length, rounds, is_fresh):
    """What a program spends that only reads requests and sends as many bytes; over one connection,
    or over a fresh one each time."""
    listener = socket.create_server(("127.0.0.1", 0))
    body = b"x" * length
    pid = os.fork()
    if pid == 0:
        head = f"HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n".encode()
        while True:
            peer, _ = listener.accept()
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 128 * 1024)
            while peer.recv(65536):
                peer.sendall(head)
                peer.sendall(body)
            peer.close()
    spent = get_us(pid, listener.getsockname()[1], rounds, is_fresh)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    listener.close()
    return spent


def get_us(pid, port, rounds, is_fresh, headers=""):
    """What a process spends on a GET of everyone."""
    connection = Connection(port)
    connection.ask("GET", "/eureka/apps", headers)
    before = cpu_us(pid)
    for _ in range(rounds):
        if is_fresh:
            connection.socket.close()
            connection = Connection(port)
        connection.ask("GET", "/eureka/apps", headers)
    spent = (cpu_us(pid) - before) / rounds
    connection.socket.close()
    return spent


def start(directory):
    process = subprocess.Popen(
        [SERVER, "--bind", "127.0.0.1:0", "--data-dir", f"{directory}/data", "--shards", "1"],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    port = int(process.stdout.readline().decode().rsplit(":", 1)[1])
    return process, port


def settle(pid):
    """Until the store has written everything."""
    for _ in range(20):
        before = cpu_us(pid)
        time.sleep(0.3)
        if cpu_us(pid) - before < 1_500:
            return


def main():
    directory = tempfile.mkdtemp(prefix="fanfare-cost-")
    process, port = start(directory)
    first = Connection(port)
    before = cpu_us(process.pid)
    for number in range(INSTANCES):
        register(first, number)
    print(f"{INSTANCES} instances of {SERVICES} services; "
          f"a registration: {(cpu_us(process.pid) - before) / INSTANCES:.0f} us")
    rows = []
    for language, accept, coding in FORMS:
        # A server of its own for each form: nothing is built yet.
        settle(process.pid)
        process.terminate()
        process.wait()
        process, port = start(directory)
        connection = Connection(port)
        settle(process.pid)
        headers = f"Accept: {accept}\r\n" + (f"Accept-Encoding: {coding}\r\n" if coding else "")
        path = "/eureka/apps"
        before = cpu_us(process.pid)
        _, length = connection.ask("GET", path, headers)
        first_us = cpu_us(process.pid) - before
        changed = 0.0
        for round_ in range(20):
            register(connection, round_ * 37 % INSTANCES, round_ + 1)
            settle_quick = cpu_us(process.pid)
            connection.ask("GET", path, headers)
            changed += cpu_us(process.pid) - settle_quick
        settle(process.pid)
        rounds = 100
        figures = []
        for is_fresh in (False, True):
            figures.append(get_us(process.pid, port, rounds, is_fresh, headers))
            figures.append(floor_us(length, rounds, is_fresh))
        rows.append((f"{language}{', gzip' if coding else ''}", length, first_us, changed / 20,
                     *figures))
        if language == "JSON":
            herd(process, port, headers, rows[-1][0])
    process.terminate()
    process.wait()
    shutil.rmtree(directory, ignore_errors=True)
    print("| form | bytes | first GET us | after a change us | unchanged us | bare send us "
          "| unchanged, new connection us | bare send, new connection us |")
    print("|---|---|---|---|---|---|---|---|")
    for name, length, *figures in rows:
        print(f"| {name} | {length} | " + " | ".join(f"{us:.0f}" for us in figures) + " |")


def herd(process, port, headers, name):
    """1,000 clients that poll each 30 s while one instance changes each second: for 15 s, so that
    half of them have their turn, each over a connection of its own."""
    connections = []
    writer = Connection(port)
    stop = threading.Event()

    def change():
        round_ = 100
        while not stop.wait(1):
            round_ += 1
            register(writer, round_ * 41 % INSTANCES, round_)

    settle(process.pid)
    before, began = cpu_us(process.pid), time.monotonic()
    thread = threading.Thread(target=change)
    thread.start()
    polls = 500
    for number in range(polls):
        due = began + number * 0.030
        time.sleep(max(0, due - time.monotonic()))
        connections.append(Connection(port))
        connections[-1].ask("GET", "/eureka/apps", headers)
    stop.set()
    thread.join()
    took = time.monotonic() - began
    share = (cpu_us(process.pid) - before) / 1e6 / took * 100
    print(f"1,000 clients, a poll each 30 s, {name}, one change a second: {polls / took:.0f} "
          f"GET/s take {share:.2f} % of a core")


main()
