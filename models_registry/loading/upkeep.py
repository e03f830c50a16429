"""What a sweep mends: loads whose worker is gone, tables that nobody needs, folders left behind.

Two sweeps at once do no harm: each change is a conditional UPDATE that one of them makes, and dropping a block that is
gone is nothing.
"""

from __future__ import annotations

import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import cast

import redis
from django.conf import settings
from django.db.models import Max, Q, QuerySet

from models_registry.loading.broker import count_messages, hand_over
from models_registry.loading.endings import too_long
from models_registry.loading.pulse import ALIVE_STATES
from models_registry.loading.requests import load_enqueue
from models_registry.loading.splitting import FINISH_TASK, RANGE_TASK, drop_scratch, finish_if_done
from models_registry.loading.tables import TableInRedis
from models_registry.models import (
    RUNNING_STATES,
    Load,
    LoadRange,
    LoadState,
    ProblemCode,
    RangeState,
    Table,
    TableState,
    Version,
)
from models_registry.redis_clients import loading_client
from serving.formats.snapshot import BadSnapshot, open_snapshot, parse_public_keys, snapshot_name
from tenants.models import Tenant

log = logging.getLogger(__name__)

# A run beats twice a second; silent for this long, its process is gone or hangs.
STALE_AFTER = timedelta(seconds=60)
# What no worker began for this long is handed to the broker again: its message may be lost. Where the broker holds
# fewer messages than there should be, some are lost (a flush), and whatever is not quite new is handed over again.
FORGOTTEN_AFTER = timedelta(minutes=5)
UNDERWAY_FOR = timedelta(seconds=15)
# Lanes learn of a new snapshot within seconds; until then they may read a table that was served before it.
DROP_AFTER = timedelta(seconds=60)
# A load in many hands has no run of its own to be missed.
_SPLIT = ~Q(scratch_table="") & Q(state__in=[LoadState.WRITING, LoadState.VERIFYING])


def sweep(now: datetime, enqueue_drop: Callable[[int], object]) -> Counter[str]:
    """Mend what was left behind; return how many of each kind. `enqueue_drop` has a worker drop a table.

    Cost: a handful of queries, one more for each thing found; a question to the broker where something waits; a read of
    Redis for each table to drop.
    """
    done: Counter[str] = Counter()
    for load in _stale_loads(now):
        done["loads queued again"] += _queue_again(load, now)
    forgotten = now - _patience(now)
    for load in _waiting_loads(forgotten):
        done["loads handed over again"] += _queue_again(load, now)
    for part in _lost_ranges(now, forgotten):
        done["ranges handed over again"] += _wait_again(part, now)
    for load in Load.objects.unscoped().exclude(scratch_table="").iterator():
        done["split loads gone on with"] += _go_on(load, now)
    orphaned = Table.objects.unscoped().filter(state=TableState.WRITING).exclude(load__state__in=RUNNING_STATES)
    done["tables orphaned"] = orphaned.update(state=TableState.DROPPING)
    done["tables of ended studios"] = _retire_tables_of_ended_studios(now)
    for table in Table.objects.unscoped().filter(state=TableState.DROPPING).select_related("version__model__tenant"):
        if may_drop(table, now):
            enqueue_drop(table.pk)
            done["tables to drop"] += 1
    done["folders removed"] = sum(1 for _ in _removed_folders())
    found = +done
    if found:
        log.info("loading.swept %s", " ".join(f"{what.replace(' ', '_')}={count}" for what, count in found.items()))
    return found


# --- Loads ------------------------------------------------------------------------------------------------------------


def _stale_loads(now: datetime) -> Iterator[Load]:
    running = Load.objects.unscoped().filter(state__in=ALIVE_STATES).exclude(_SPLIT)
    yield from running.filter(Q(heartbeat_at__lt=now - STALE_AFTER) | Q(heartbeat_at=None)).iterator()


def _waiting_loads(before: datetime) -> QuerySet[Load]:
    """Return the loads that no worker has begun and nobody has handed over since a moment."""
    queued = Load.objects.unscoped().filter(state=LoadState.QUEUED, created_at__lt=before)
    return queued.filter(Q(heartbeat_at__lt=before) | Q(heartbeat_at=None)).order_by("pk")


def _waiting_ranges(before: datetime) -> QuerySet[LoadRange]:
    waiting = LoadRange.objects.unscoped().filter(load__state=LoadState.WRITING, state=RangeState.WAITING)
    return waiting.filter(heartbeat_at__lt=before)


def _patience(now: datetime) -> timedelta:
    """Return for how long something may wait for a worker before its message counts as lost.

    A message that a worker holds and has not begun would be taken for a lost one; a second delivery does nothing twice.
    """
    before = now - UNDERWAY_FOR
    should_be = _waiting_loads(before).count() + _waiting_ranges(before).count()
    if not should_be:
        return FORGOTTEN_AFTER
    there_are = count_messages()
    return FORGOTTEN_AFTER if there_are is None or there_are >= should_be else UNDERWAY_FOR


def _queue_again(load: Load, now: datetime) -> bool:
    """Queue a load unless something happened to it since it was read. Its next run counts what has been tried."""
    unchanged = Load.objects.unscoped().filter(
        pk=load.pk, state=load.state, attempts=load.attempts, heartbeat_at=load.heartbeat_at
    )
    if not unchanged.update(state=LoadState.QUEUED, heartbeat_at=now):
        return False
    log.warning("load.queued_again load=%s state=%s attempts=%s", load.pk, load.state, load.attempts)
    load_enqueue(load.pk)
    return True


# --- Ranges of large loads -------------------------------------------------------------------------------------------


def _lost_ranges(now: datetime, forgotten: datetime) -> Iterator[LoadRange]:
    """Yield the ranges whose worker is gone, and those that nobody began or handed over since a moment."""
    running = LoadRange.objects.unscoped().filter(load__state=LoadState.WRITING, state=RangeState.RUNNING)
    yield from running.filter(heartbeat_at__lt=now - STALE_AFTER).iterator()
    yield from _waiting_ranges(forgotten).iterator()


def _wait_again(part: LoadRange, now: datetime) -> bool:
    unchanged = LoadRange.objects.unscoped().filter(
        pk=part.pk, state=part.state, attempts=part.attempts, heartbeat_at=part.heartbeat_at
    )
    if not unchanged.update(state=RangeState.WAITING, heartbeat_at=now, rows_written=0):
        return False
    hand_over(RANGE_TASK, part.pk)
    return True


def _go_on(load: Load, now: datetime) -> bool:
    """Do what is next for a load that was split, if whoever should have done it is gone."""
    unchanged = Load.objects.unscoped().filter(pk=load.pk, state=load.state, attempts=load.attempts)
    if load.state not in RUNNING_STATES:
        drop_scratch(load.scratch_table)
        return True
    if load.state in (LoadState.WRITING, LoadState.VERIFYING) and load.started_at is not None:
        if now - load.started_at > settings.LOAD_TIME_LIMIT:
            code = ProblemCode.TOOK_TOO_LONG
            return bool(
                unchanged.update(state=LoadState.FAILED, problem=too_long(), problem_code=code, finished_at=now)
            )
        if load.state == LoadState.WRITING:
            return finish_if_done(load)
        if load.heartbeat_at is None or load.heartbeat_at < now - STALE_AFTER:
            unchanged.update(heartbeat_at=now)
            hand_over(FINISH_TASK, load.pk)
            return True
    return False


# --- Tables -----------------------------------------------------------------------------------------------------------


def _retire_tables_of_ended_studios(now: datetime) -> int:
    """Let go of all tables of studios that ended; lanes have had their tombstones for a while by then."""
    gone = now - DROP_AFTER
    ready = Table.objects.unscoped().filter(state=TableState.READY, version__model__tenant__ended_at__lt=gone)
    if not ready.exists():
        return 0
    versions = Version.objects.unscoped().filter(model__tenant__ended_at__lt=gone)
    versions.update(active_table=None, previous_table=None, older_table=None)
    return ready.update(state=TableState.DROPPING)


def may_drop(table: Table, now: datetime) -> bool:
    """Tell whether nobody can be reading a table any more: neither the database, nor a snapshot, nor a slow lane."""
    if table.state != TableState.DROPPING:
        return False
    kept = Q(active_table=table) | Q(previous_table=table) | Q(older_table=table)
    if Version.objects.unscoped().filter(kept).exists():
        return False
    if table.activated_at is None:
        # It never was in a snapshot. Its run may still be at work if it was taken for dead; it drops it itself then.
        return True
    tables_of_version = Table.objects.unscoped().filter(version=table.version_id)
    newest = tables_of_version.aggregate(newest=Max("activated_at"))["newest"]
    if newest is not None and now - newest < DROP_AFTER:
        return False
    return not _is_published(table)


def _is_published(table: Table) -> bool:
    """Tell whether the snapshot that Redis holds names a table. One that cannot be read is mended by publishing."""
    tenant: Tenant = table.version.model.tenant
    name = snapshot_name(settings.REDIS_PREFIX, tenant.public_id)
    try:
        envelope = cast(bytes | None, loading_client().get(name))
        if envelope is None:
            return False
        published = open_snapshot(envelope, parse_public_keys(settings.SNAPSHOT_PUBLIC_KEYS)).tenant
    except (redis.RedisError, BadSnapshot) as error:
        log.warning("table.not_dropped table=%s problem=%s", table.table_id, error)
        return True
    versions = (version for model in published.models for version in model.versions)
    named = (found.id for version in versions for found in (version.active, version.previous) if found is not None)
    return table.table_id in named


def drop(table_pk: int, now: datetime) -> bool:
    """Drop the blocks of a table that may be dropped; say whether that was done.

    Raises:
        redis.RedisError: Redis is away; the next sweep tries again.
    """
    table = Table.objects.unscoped().select_related("version__model__tenant").filter(pk=table_pk).first()
    if table is None or not may_drop(table, now):
        return False
    TableInRedis.of(table).drop()
    same = Table.objects.unscoped().filter(pk=table.pk, table_id=table.table_id, state=TableState.DROPPING)
    same.update(state=TableState.DROPPED)
    log.info("table.dropped table=%s", table.table_id)
    return True


# --- Folders ----------------------------------------------------------------------------------------------------------


def _removed_folders() -> Iterator[Path]:
    """Remove the working folders on this machine that belong to no running load, and yield them."""
    workspace = settings.LOAD_WORKSPACE_DIR
    if not workspace.is_dir():
        return
    for folder in sorted(workspace.iterdir()):
        # Of a load and an attempt, or of a range of it besides.
        numbers = folder.name.split("-")
        if len(numbers) not in {2, 4} or not all(number.isdecimal() for number in numbers):
            continue
        load_id, attempt = numbers[:2]
        running = Load.objects.unscoped().filter(pk=int(load_id), attempts=int(attempt), state__in=ALIVE_STATES)
        if not running.exists():
            shutil.rmtree(folder, ignore_errors=True)
            yield folder
