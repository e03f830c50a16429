"""The peers of `make bench-loading`, a process each: `python -m benchmarks.loading_peers NAME FILE PORT`.

They write the table of four fields, a key for each row. `prepare` writes the commands that `raw` sends. Like the
loader's process, they say `ready`, wait for a line, and print how long it took and their peak memory.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import redis

from benchmarks.machine import peak_memory_bytes

PEERS = {
    "raw": "raw client, prepared SETs",
    "set": "redis-py, a SET per row",
    "hash": "redis-py, a hash per row",
}
SETS_A_PIPELINE = 1_000
HASHES_A_PIPELINE = 100
_CHUNK_BYTES = 2**18
_PATIENCE_SECONDS = 10
# Whatever is answered to this was sent before it.
_END, _END_SAID = b"*2\r\n$4\r\nECHO\r\n$4\r\nends\r\n", b"$4\r\nends\r\n"


def write_sets(source: Path, port: int) -> None:
    """Write a string of JSON for each row, 1,000 a pipeline."""
    with redis.Redis(port=port) as client:
        pipeline = client.pipeline(transaction=False)
        for number, (name, row) in enumerate(_rows(source), start=1):
            pipeline.set(name, _json(row))
            if not number % SETS_A_PIPELINE:
                pipeline.execute()
        pipeline.execute()


def write_hashes(source: Path, port: int) -> None:
    """Write a hash for each row, 100 a pipeline: the layout and the default of spark-redis."""
    with redis.Redis(port=port) as client:
        pipeline = client.pipeline(transaction=False)
        for number, (name, row) in enumerate(_rows(source), start=1):
            pipeline.hset(name, mapping={field: str(value) for field, value in row.items()})
            if not number % HASHES_A_PIPELINE:
                pipeline.execute()
        pipeline.execute()


def prepare(source: Path, commands: Path) -> None:
    """Write a SET for each row as Redis' protocol has it; the same keys and values as `write_sets`."""
    with commands.open("wb") as file:
        for name, row in _rows(source):
            key, value = name.encode(), _json(row).encode()
            file.write(b"*3\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n%b\r\n" % (len(key), key, len(value), value))


def pipe(commands: Path, port: int) -> None:
    """Send what `prepare` wrote as fast as it is taken, while replies are read.

    Raises:
        RuntimeError: a reply is an error, or none comes any more.
    """
    said, rest, is_read = b"", memoryview(b""), False
    with commands.open("rb") as file, socket.create_connection(("127.0.0.1", port)) as connection:
        connection.settimeout(0)
        while not said.endswith(_END_SAID):
            if not rest and not is_read:
                data = file.read(_CHUNK_BYTES)
                is_read = not data
                rest = memoryview(data or _END)
            readable, writable, _ = select.select([connection], [connection] if rest else [], [], _PATIENCE_SECONDS)
            if not readable and not writable:
                raise RuntimeError("Valkey takes nothing and says nothing")
            if readable:
                arrived = connection.recv(_CHUNK_BYTES)
                if not arrived or b"-" in arrived:
                    raise RuntimeError(f"Valkey said {arrived[:200]!r}")
                said = said[-len(_END_SAID) :] + arrived
            if writable:
                rest = rest[connection.send(rest) :]


def _rows(source: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with pq.ParquetFile(source) as file:
        for batch in file.iter_batches(65_536):
            for row in batch.to_pylist():
                row["discount"] = float(row["discount"])
                yield f"offers:{row.pop('player_id')}", row


def _json(row: dict[str, Any]) -> str:
    return json.dumps(row, separators=(",", ":"))


def main() -> None:
    """Do as the command line says."""
    name, source, port = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    write = {"raw": pipe, "set": write_sets, "hash": write_hashes}[name]
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.perf_counter()
    write(source, port)
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_bytes": peak_memory_bytes()}), flush=True)


if __name__ == "__main__":
    main()
