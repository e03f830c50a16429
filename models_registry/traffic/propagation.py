"""How far a change has spread: which serving processes have a studio's newest snapshot, and which do not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import redis
from django.conf import settings
from django.utils import timezone

from models_registry.redis_clients import publishing_client
from serving.reporting import LAST_WORD, STARTED, LastWord, find_processes, process_name
from tenants.models import Tenant

# A serving process writes each second; one that has not for this long has ended without a word, hangs, or is cut off.
SILENT_AFTER_MS = 6000


@dataclass(frozen=True)
class Process:
    """A serving process that has not said that it ends: it may serve, by an old snapshot.

    Attributes:
        is_lane: it is one of a lane's, not the DRF door in a dashboard's process.
        place: where it runs, for whoever looks for it.
        silent_seconds: how long it has said nothing, which is too long; None where it was heard of just now.
        is_live: it serves by the newest snapshot.
        live_ms: when it began to, Unix time by this machine's clock; None where it found that when it started.
    """

    is_lane: bool
    place: str
    silent_seconds: float | None
    is_live: bool
    live_ms: float | None = None


@dataclass(frozen=True)
class Propagation:
    """How far a tenant's newest snapshot has come.

    Attributes:
        all: serving processes. An hour after its last word one is forgotten.
        published_ms: when it was published, Unix time; None if it never was.
    """

    all: tuple[Process, ...]
    published_ms: float | None

    @property
    def processes(self) -> int:
        """Return how many there are."""
        return len(self.all)

    @property
    def silent(self) -> int:
        """Return how many have said nothing of late."""
        return sum(process.silent_seconds is not None for process in self.all)

    @property
    def live_on(self) -> int:
        """Return how many serve by the newest snapshot."""
        return sum(process.is_live for process in self.all)

    @property
    def seconds(self) -> float | None:
        """Return the seconds from publication to the last that took it; None while one has not, or all came later."""
        times = [process.live_ms for process in self.all if process.live_ms is not None]
        if self.behind or not times or self.published_ms is None:
            return None
        return max(0.0, max(times) - self.published_ms) / 1000

    @property
    def lanes(self) -> int:
        """Return how many are of lanes."""
        return sum(process.is_lane for process in self.all)

    @property
    def live_lanes(self) -> int:
        """Return how many of those serve by the newest snapshot."""
        return sum(process.is_lane and process.is_live for process in self.all)

    @property
    def is_served(self) -> bool:
        """Tell whether a lane is surely there."""
        return any(process.is_lane and process.silent_seconds is None for process in self.all)

    @property
    def behind(self) -> list[Process]:
        """Return those that do not serve by the newest snapshot, or of which nobody knows; the longest silent first."""
        found = [process for process in self.all if not process.is_live or process.silent_seconds is not None]
        return sorted(found, key=lambda process: (-(process.silent_seconds or 0), process.place))


def propagation(tenant: Tenant) -> Propagation | None:
    """Say which serving processes serve by a tenant's newest snapshot; None where Redis does not answer.

    No clock of another machine is compared with this one's: how long a process has been silent says Redis, and how
    long before its last word it took the snapshot says its own clock.
    """
    client = publishing_client()
    prefix = settings.REDIS_PREFIX
    try:
        found = find_processes(client, prefix)
        pipeline = client.pipeline(transaction=False)
        for name in found:
            pipeline.hmget(process_name(prefix, name.decode()), LAST_WORD, STARTED, tenant.public_id)
        reported = pipeline.execute()
    except redis.RedisError:
        return None
    now_ms = timezone.now().timestamp() * 1000
    processes = [
        _process(name.decode(), word, said, tenant.snapshot_revision, now_ms)
        for (name, word), said in zip(found.items(), reported, strict=True)
        # Of an earlier release: its clock must do, and what it serves by is not known.
        if (said[0] is not None and word.silent_ms is not None) or now_ms - int(word.at) < SILENT_AFTER_MS
    ]
    published_at = tenant.snapshot_published_at
    return Propagation(tuple(processes), None if published_at is None else published_at.timestamp() * 1000)


def _process(name: str, word: LastWord, said: list[Any], newest: int, now_ms: float) -> Process:
    kind, _, place = name.partition(":")
    host, _, number = place.rpartition(":")
    last_word, started, applied = said
    silent_ms = word.silent_ms or 0
    is_silent = silent_ms > SILENT_AFTER_MS
    live_ms, is_live = None, False
    if applied is not None and last_word is not None:
        revision, since_ms = map(int, applied.split())
        is_live = revision >= newest
        # What it found when it started says nothing about how fast a change came.
        if is_live and (started is None or since_ms > int(started)):
            live_ms = now_ms - silent_ms - (int(last_word) - since_ms)
    return Process(
        kind == "lane", f"{host}, process {number}", silent_ms / 1000 if is_silent else None, is_live, live_ms
    )
