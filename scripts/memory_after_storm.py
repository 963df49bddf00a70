#!/usr/bin/env python3
"""What stays of a server's memory after rounds of connections that come, subscribe and go.

    scripts/memory_after_storm.py BINARY [CONNECTIONS [ROUNDS [SHARDS]]]

The server is started on a free port with data of its own. A round opens the connections, has each
follow one service, closes them all, and looks at the memory 12 s later, when the allocator has had
its time. Linux only.
"""

import resource
import socket
import subprocess
import sys
import tempfile
import time

TEXT = b'{"type":"subscribe","service_id":"s"}'
FRAME = bytes([0x81, 0x80 | len(TEXT), 0, 0, 0, 0]) + TEXT
HEAD = (
    "GET /ws HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
    "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
BATCH = 200


def memory_kb(pid):
    """Resident memory in KB: all of it, and the part that is no file."""
    sizes = {}
    with open(f"/proc/{pid}/smaps_rollup") as table:
        for line in table:
            name, *rest = line.split()
            if name in ("Rss:", "Anonymous:"):
                sizes[name] = int(rest[0])
    return sizes["Rss:"], sizes["Anonymous:"]


def open_all(port, count):
    """Opens the connections, and returns them once all have subscribed."""
    opened = []
    for number in range(1, count + 1):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(HEAD.encode() % port + FRAME)
        opened.append(connection)
        if number % BATCH == 0 or number == count:
            for one in opened[-((number - 1) % BATCH + 1):]:
                answer = b""
                while b'"subscribed"' not in answer:
                    answer += one.recv(4096)
    return opened


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    count, rounds, shards = (
        int(sys.argv[at]) if len(sys.argv) > at else default
        for at, default in ((2, 10_000), (3, 3), (4, 2))
    )
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with tempfile.TemporaryDirectory() as data:
        server = subprocess.Popen(
            [sys.argv[1], "--bind", "127.0.0.1:0", "--data-dir", data, "--shards", str(shards)],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        try:
            port = int(server.stdout.readline().rsplit(":", 1)[1])
            time.sleep(3)
            start = memory_kb(server.pid)

            def say(when):
                rss, anonymous = memory_kb(server.pid)
                more = 100 * (rss / start[0] - 1)
                print(
                    f"{when:<20} {rss / 1000:6.2f} MB, {anonymous / 1000:5.2f} of them no file, "
                    f"{more:+.1f} %",
                    flush=True,
                )

            say("start")
            for number in range(1, rounds + 1):
                opened = open_all(port, count)
                say(f"round {number}, connected")
                for connection in opened:
                    connection.close()
                time.sleep(12)
                say(f"round {number}, gone")
        finally:
            server.terminate()
            server.wait()


main()
