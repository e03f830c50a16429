"""How far a change has spread: which serving processes have a studio's newest snapshot."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import NamedTuple

import redis
from django.conf import settings
from django.utils import timezone

from models_registry.redis_clients import publishing_client
from serving.redis.clients import Client
from serving.reporting import applied_name, processes_name
from tenants.models import Tenant

# A serving process writes each second; one that has not for this long has ended or hangs.
SILENT_AFTER = timedelta(seconds=6)
FORGET_AFTER = timedelta(hours=1)


class Propagation(NamedTuple):
    """How far a tenant's newest snapshot has come.

    Attributes:
        processes: serving processes that live.
        live_on: how many of them serve by it.
        seconds: from its publication to the last of those; None while not all do, or where there is none.
    """

    processes: int
    live_on: int
    seconds: float | None


def propagation(tenant: Tenant, *, now: datetime | None = None) -> Propagation | None:
    """Say which serving processes serve by a tenant's newest snapshot; None where Redis does not answer."""
    client = publishing_client()
    prefix = settings.REDIS_PREFIX
    try:
        pipeline = client.pipeline(transaction=False)
        pipeline.hgetall(processes_name(prefix))
        pipeline.hgetall(applied_name(prefix, tenant.public_id))
        written, applied = pipeline.execute()
    except redis.RedisError:
        return None
    now_ms = (now or timezone.now()).timestamp() * 1000
    silent_ms, forget_ms = SILENT_AFTER.total_seconds() * 1000, FORGET_AFTER.total_seconds() * 1000
    ages_ms = {process: now_ms - int(at) for process, at in written.items()}
    living = {process for process, age in ages_ms.items() if age < silent_ms}
    gone = [process for process, age in ages_ms.items() if age > forget_ms]
    if gone:
        _forget(client, tenant, gone)
    current = {
        process: int(since_ms)
        for process, (revision, since_ms) in ((p, value.split()) for p, value in applied.items())
        if process in living and int(revision) >= tenant.snapshot_revision
    }
    seconds = None
    if current and len(current) == len(living) and tenant.snapshot_published_at is not None:
        seconds = max(0.0, max(current.values()) / 1000 - tenant.snapshot_published_at.timestamp())
    return Propagation(len(living), len(current), seconds)


def _forget(client: Client, tenant: Tenant, processes: list[bytes]) -> None:
    try:
        client.hdel(processes_name(settings.REDIS_PREFIX), *processes)
        client.hdel(applied_name(settings.REDIS_PREFIX, tenant.public_id), *processes)
    except redis.RedisError:
        return  # another time
