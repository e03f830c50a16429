"""A process that looks how long Redis keeps others waiting: `python -m benchmarks.stalls PORT`.

It sends a PING every millisecond until its input ends, and prints the longest time that an answer took. A process of
its own, because another thread's turn at the interpreter would look like a stall of Redis.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time

EVERY_SECONDS = 0.001


def main() -> None:
    """Ask until the input ends."""
    longest = looks = over = 0.0
    with socket.create_connection(("127.0.0.1", int(sys.argv[1]))) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        print("ready", flush=True)
        while not select.select([sys.stdin], [], [], EVERY_SECONDS)[0]:
            began = time.perf_counter()
            connection.sendall(b"PING\r\n")
            if not connection.recv(64):
                sys.exit("Valkey closed the connection")
            took = time.perf_counter() - began
            looks += 1
            over += took > 0.005
            longest = max(longest, took)
    print(json.dumps({"longest_ms": longest * 1e3, "looks": looks, "over_5_ms": over}), flush=True)


if __name__ == "__main__":
    main()
