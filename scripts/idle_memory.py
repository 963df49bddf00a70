#!/usr/bin/env python3
"""Resident memory of one idle connection of a server.

    scripts/idle_memory.py BINARY [--connections N] [--kind anonymous,signed-in,tls] [--shards N]

The server is started on a free port with data of its own for each kind. N connections (10,000) open a
WebSocket and follow one service. Two seconds later the growth of the server's resident memory is divided
by their number.

anonymous  plain sockets
signed-in  plain sockets, each of a user of its own, who is online
tls        anonymous ones over TLS 1.3; `openssl` makes the certificate

Linux only.
"""

import argparse
import base64
import hashlib
import hmac
import json
import os
import resource
import socket
import ssl
import subprocess
import tempfile
import time

TEXT = b'{"type":"subscribe","service_id":"s"}'
FRAME = bytes([0x81, 0x80 | len(TEXT), 0, 0, 0, 0]) + TEXT
HEAD = (
    "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n%s\r\n"
)
SECRET = "0123456789abcdef0123456789abcdef"
BATCH = 100


def resident_kib(pid):
    with open(f"/proc/{pid}/smaps_rollup") as table:
        return next(int(line.split()[1]) for line in table if line.startswith("Rss:"))


def token(number):
    """A token (HS256) of the user with this number."""

    def part(value):
        return base64.urlsafe_b64encode(value).rstrip(b"=")

    claims = {"sub": f"user-{number:06}", "username": f"User {number}", "exp": int(time.time()) + 86_400}
    text = part(b'{"alg":"HS256","typ":"JWT"}') + b"." + part(json.dumps(claims).encode())
    return (text + b"." + part(hmac.new(SECRET.encode(), text, hashlib.sha256).digest())).decode()


def open_all(port, count, kind):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    opened = []
    for number in range(1, count + 1):
        connection = socket.create_connection(("127.0.0.1", port))
        if kind == "tls":
            connection = context.wrap_socket(connection)
        signed_in = f"Authorization: Bearer {token(number)}\r\n" if kind == "signed-in" else ""
        connection.sendall((HEAD % (port, signed_in)).encode() + FRAME)
        opened.append(connection)
        if number % BATCH == 0 or number == count:
            for one in opened[-((number - 1) % BATCH + 1):]:
                answer = b""
                while b'"subscribed"' not in answer:
                    more = one.recv(65536)
                    if not more:
                        raise SystemExit(f"refused: {answer}")
                    answer += more
    return opened


def measure(binary, count, kind, shards):
    with tempfile.TemporaryDirectory() as data:
        arguments = [binary, "--auth", "open", "--bind", "127.0.0.1:0", "--data-dir", f"{data}/data", "--shards", str(shards)]
        if kind == "tls":
            subprocess.run(
                ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
                 "-keyout", f"{data}/key.pem", "-out", f"{data}/cert.pem", "-days", "2", "-subj", "/CN=localhost"],
                check=True,
                capture_output=True,
            )
            arguments += ["--tls-cert", f"{data}/cert.pem", "--tls-key", f"{data}/key.pem"]
        server = subprocess.Popen(
            arguments,
            env=os.environ | {"JWT_SECRET": SECRET},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            port = int(server.stdout.readline().rsplit(":", 1)[1])
            # One of each kind before the start is measured, for what is made at the first use.
            open_all(port, 1, kind)[0].close()
            time.sleep(2)
            before = resident_kib(server.pid)
            opened = open_all(port, count, kind)
            time.sleep(2)
            after = resident_kib(server.pid)
            each = (after - before) * 1024 / count
            print(
                f"{kind:<10} {each:7.0f} bytes = {each / 1024:.2f} KiB each; {before} KiB before, "
                f"{after} KiB with {count:,}",
                flush=True,
            )
            for connection in opened:
                connection.close()
        finally:
            server.terminate()
            server.wait()


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("binary")
    parser.add_argument("--connections", type=int, default=10_000)
    parser.add_argument("--kind", default="anonymous,signed-in,tls")
    parser.add_argument("--shards", type=int, default=1)
    given = parser.parse_args()
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    for kind in given.kind.split(","):
        measure(given.binary, given.connections, kind, given.shards)


main()
