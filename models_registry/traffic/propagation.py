"""How far a change has spread: which serving processes have a studio's newest snapshot."""

from __future__ import annotations

from typing import NamedTuple

import redis
from django.conf import settings
from django.utils import timezone

from models_registry.redis_clients import publishing_client
from serving.reporting import find_processes, process_name
from tenants.models import Tenant

# A serving process writes each second; one that has not for this long has ended without a word, hangs, or is cut off.
SILENT_AFTER_MS = 6000


class Propagation(NamedTuple):
    """How far a tenant's newest snapshot has come.

    Attributes:
        processes: serving processes that have not said that they end, silent ones too: they may serve by an old one.
        silent: how many of them have said nothing of late. After an hour they are forgotten.
        live_on: how many of all of them serve by it.
        seconds: from its publication to the last of those; None while not all do, or where there is none.
    """

    processes: int
    silent: int
    live_on: int
    seconds: float | None

    @property
    def reporting(self) -> int:
        """Return how many are surely there."""
        return self.processes - self.silent


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
        for process in found:
            pipeline.hmget(process_name(prefix, process.decode()), "", tenant.public_id)
        reported = pipeline.execute()
    except redis.RedisError:
        return None
    now_ms = timezone.now().timestamp() * 1000
    processes = silent = 0
    live_since_ms: list[float] = []
    for (at, silent_ms), (last_word, applied) in zip(found.values(), reported, strict=True):
        if silent_ms is None or last_word is None:
            # Of an earlier release: its clock must do, and what it serves by is not known.
            processes += now_ms - int(at) < SILENT_AFTER_MS
            continue
        processes += 1
        silent += silent_ms > SILENT_AFTER_MS
        if applied is not None:
            revision, since_ms = map(int, applied.split())
            if revision >= tenant.snapshot_revision:
                live_since_ms.append(now_ms - silent_ms - (int(last_word) - since_ms))
    seconds = None
    if live_since_ms and len(live_since_ms) == processes and tenant.snapshot_published_at is not None:
        seconds = max(0.0, max(live_since_ms) / 1000 - tenant.snapshot_published_at.timestamp())
    return Propagation(processes, silent, len(live_since_ms), seconds)
