"""What serving tells the control plane, through Redis: which snapshot each process serves by, and what was asked.

A process writes a few small things each second, from the thread of its snapshot watch, never for a request:

- `PREFIX:serving` (hash): process → when it last wrote, Unix ms. Only to find processes by: clocks differ.
- `PREFIX:process:PROCESS` (hash): tenant → the revision it serves that tenant by, and since when, Unix ms; under ""
  when it wrote, and under `started` when it first did. It expires an hour after the process has stopped writing, so
  that how much is left of that says, by Redis's clock alone, for how long it has been silent, and what ended in
  whatever way leaves nothing behind.
- `PREFIX:traffic` (stream): what was asked since the process last wrote. The control plane reads the stream in order
  and remembers how far it came in the same transaction, so that nothing is counted twice or left out.

Redis away: numbers wait here and are sent later. A stream that nobody reads is cut at about a day's length.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, TypeVar

import msgspec

from serving.http import Exposure
from serving.metrics import Numbers
from serving.redis.clients import Client
from serving.world import World

TRAFFIC_EVERY_SECONDS = 5.0
# Entries of the stream: a day of twenty processes.
MOST_ENTRIES = 350_000
FIELD = b"b"
# Fields of a process's hash besides those of tenants, whose ids are longer.
LAST_WORD, STARTED = "", "started"
# So long after its last word a process is forgotten.
FORGET_MS = 3_600_000
Key = TypeVar("Key", Exposure, str)


class TrafficBatch(msgspec.Struct, frozen=True):
    """What one process was asked in a few seconds.

    Attributes:
        at: Unix seconds of the moment it was put together.
        exposures: answers by tenant slug, model slug, version name and source.
        credentials: requests by credential id.
        since: Unix seconds of the batch before, or of the process's start; 0 in batches of older releases.
    """

    at: int
    exposures: list[tuple[str, str, str, str, int]]
    credentials: dict[str, int]
    since: int = 0


def traffic_name(prefix: str) -> str:
    """Return the Redis key of the stream of batches."""
    return f"{prefix}:traffic"


def processes_name(prefix: str) -> str:
    """Return the Redis key of the hash of serving processes."""
    return f"{prefix}:serving"


def process_name(prefix: str, process: str) -> str:
    """Return the Redis key of the hash that says which revision a process serves each tenant by."""
    return f"{prefix}:process:{process}"


def former_applied_name(prefix: str, tenant_id: str) -> str:
    """Return the Redis key in which earlier releases wrote what is now in a hash per process; it never expired."""
    return f"{prefix}:applied:{tenant_id}"


class LastWord(NamedTuple):
    """When a process last wrote.

    Attributes:
        at: Unix ms by its own clock, as it wrote it.
        silent_ms: how long ago that is by Redis's clock; None of an earlier release, which leaves no such trace.
    """

    at: bytes
    silent_ms: int | None


def find_processes(client: Client, prefix: str) -> dict[bytes, LastWord]:
    """Return the serving processes, each with its last word.

    Raises:
        redis.RedisError, OSError: Redis did not answer.
    """
    written: Any = client.hgetall(processes_name(prefix))
    pipeline = client.pipeline(transaction=False)
    for name in written:
        pipeline.pttl(process_name(prefix, name.decode()))
    return {
        name: LastWord(at, max(0, FORGET_MS - left_ms) if left_ms >= 0 else None)
        for (name, at), left_ms in zip(written.items(), pipeline.execute(), strict=True)
    }


class Reporter:
    """Reports for one process, a `lane` or a `door`. For one thread. What was not sent is sent next time."""

    def __init__(self, kind: str, client: Client, prefix: str, world: World, numbers: Numbers) -> None:
        self.process = f"{kind}:{socket.gethostname()}:{os.getpid()}"
        self._client = client
        self._prefix = prefix
        self._world = world
        self._numbers = numbers
        self._applied: dict[str, int] = {}
        self._is_first = True
        self._sent_exposures: dict[Exposure, int] = {}
        self._sent_uses: dict[str, int] = {}
        self._sent_at = 0.0
        self._counted_from = int(time.time())
        self._started_ms = 0

    def report(self) -> None:
        """Say that this process lives, what it serves by where that is news, and every 5 s what was asked.

        Raises:
            redis.RedisError, OSError: Redis did not take it.
        """
        if self._is_first:
            self._forget_the_gone()
        now_ms = int(time.time() * 1000)
        self._started_ms = self._started_ms or now_ms
        own = process_name(self._prefix, self.process)
        news = {
            tenant.id: tenant.revision
            for tenant in tuple(self._world.tenants.values())
            if self._applied.get(tenant.id) != tenant.revision
        }
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hset(own, LAST_WORD, str(now_ms))
        pipeline.hset(own, STARTED, str(self._started_ms))
        for tenant_id, revision in news.items():
            pipeline.hset(own, tenant_id, f"{revision} {now_ms}")
        pipeline.pexpire(own, FORGET_MS)
        pipeline.hset(processes_name(self._prefix), self.process, str(now_ms))
        is_new, *_ = pipeline.execute()
        if is_new and self._applied:
            # Redis has forgotten this process, and with it what it had reported: say it again next time.
            self._applied = {}
        else:
            self._applied.update(news)
        if time.monotonic() - self._sent_at >= TRAFFIC_EVERY_SECONDS:
            self.send_traffic()

    def end(self) -> None:
        """Say that this process is gone, so that nobody waits for it.

        Raises:
            redis.RedisError, OSError: Redis did not take it.
        """
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hdel(processes_name(self._prefix), self.process)
        pipeline.unlink(process_name(self._prefix, self.process))
        pipeline.execute()

    def _forget_the_gone(self) -> None:
        """Strike processes off whose own word has expired. What grows by each start is tidied at each start.

        One of a release that has no word of its own is on the list again a second later.
        """
        found = find_processes(self._client, self._prefix)
        gone = [name for name, word in found.items() if word.silent_ms is None]
        if gone:
            self._client.hdel(processes_name(self._prefix), *gone)
        self._is_first = False

    def send_traffic(self) -> None:
        """Send what was asked since the last time.

        Raises:
            redis.RedisError, OSError: Redis did not take it. Where it took it and could not say so, that batch is
                counted twice: the one case, and a rare one, in which the charts show more than there was.
        """
        self._sent_at = time.monotonic()
        exposures, uses = dict(self._numbers.exposures), dict(self._world.uses)
        now = int(time.time())
        batch = TrafficBatch(
            now,
            [(*exposure, count) for exposure, count in _since(exposures, self._sent_exposures).items()],
            _since(uses, self._sent_uses),
            self._counted_from,
        )
        if batch.exposures or batch.credentials:
            entry = {FIELD: msgspec.msgpack.encode(batch)}
            self._client.xadd(traffic_name(self._prefix), entry, maxlen=MOST_ENTRIES, approximate=True)  # type: ignore[arg-type]  # bytes are as good
        self._sent_exposures, self._sent_uses, self._counted_from = exposures, uses, now


def _since(now: Mapping[Key, int], before: Mapping[Key, int]) -> dict[Key, int]:
    return {key: count - before.get(key, 0) for key, count in now.items() if count != before.get(key, 0)}
