"""Tables of which Redis lost a part (a flush, a fail-over, an eviction): noticed, and loaded again from their source.

Serving notes tables whose blocks it missed, and blocks of every kept table are looked for here. Until a new table is
active, serving answers from the table before, if that is whole, or with the fallback. A repair is a load like any
other: it reads what the source holds by now, and its checks may reject that.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import cast

import redis
from django.conf import settings
from django.db import transaction
from django.db.models import F, Max, Q
from redis.cluster import RedisCluster

from models_registry.catalogue.acts import record
from models_registry.loading.requests import load_request
from models_registry.loading.tables import TableInRedis
from models_registry.models import RUNNING_STATES, Load, LoadState, Table, TableState
from models_registry.redis_clients import loading_client
from serving.formats.keys import lost_tables_name
from serving.redis.clients import Client
from tenants import audit
from tenants.rules import RuleBroken
from tenants.services import lock_tenant

log = logging.getLogger(__name__)

# How often beat has this run. Looks that follow one another look for the next blocks of a table.
LOOK_SECONDS = 10
# Of all served tables together at each look, so that three looks see every block of some 10 million rows. Of a table
# that is only kept, a tenth of what a served one gets.
BLOCKS_LOOKED_FOR = 100_000
FEWEST_OF_ONE_TABLE = 16
# A repair that ended badly is tried again after twice as long each time.
FIRST_PAUSE = timedelta(seconds=30)
LONGEST_PAUSE = timedelta(hours=1)


def repair_all(now: datetime) -> list[Load]:
    """Look for what Redis lost, and have it loaded again; return the loads. Redis away: nothing is known, so nothing.

    Two of these at once start one load of a table. A studio that is being changed just now is left for the next time.

    Cost: a query, a few for each table that is damaged, and a sample of blocks (all of a small table) asked of Redis.
    """
    client = loading_client()
    try:
        reported = _reported(client)
        tables = list(_kept_tables())
        is_short = _is_short(client, tables)
        of_served = BLOCKS_LOOKED_FOR // max(1, sum(map(_is_served, tables)))
        for table in tables:
            is_suspect = is_short or table.lost_at is not None or table.table_id in reported
            share = max(FEWEST_OF_ONE_TABLE, of_served if _is_served(table) else of_served // 10)
            is_lost = _is_damaged(table, _window(table, share, now), is_suspect=is_suspect)
            # Of the right size and not as it was written: only who reads a block can know.
            if not is_lost and (table.lost_at is not None or table.table_id in reported):
                is_lost = TableInRedis.of(table).has_bad_seal()
            try:
                _note(table, now, is_lost=is_lost)
            except RuleBroken as problem:  # the next run sees to it, and must find it reported still
                log.info("repair.waits table=%s problem=%s", table.table_id, problem)
                reported.discard(table.table_id)
        if reported:
            client.srem(lost_tables_name(settings.REDIS_PREFIX), *reported)
    except redis.RedisError as error:
        log.warning("repair.redis_away problem=%s", error)
        return []
    return [load for table in tables if table.lost_at is not None for load in _reload(table, now)]


def _kept_tables() -> Iterator[Table]:
    kept = Q(version__active_table=F("pk")) | Q(version__previous_table=F("pk")) | Q(version__older_table=F("pk"))
    rows = Table.objects.unscoped().filter(kept, state=TableState.READY, version__model__tenant__ended_at=None)
    yield from rows.select_related("version__model__tenant")


# --- What Redis has ---------------------------------------------------------------------------------------------------


def _reported(client: Client) -> set[str]:
    """Return the tables of which serving missed a block."""
    members = cast(set[bytes], client.smembers(lost_tables_name(settings.REDIS_PREFIX)))
    return {member.decode(errors="replace") for member in members}


def _is_short(client: Client, tables: Sequence[Table]) -> bool:
    """Tell whether Redis has fewer keys than the tables have blocks: then some are lost wherever one looks."""
    wanted = sum(1 << table.block_bits for table in tables if table.lost_at is None)
    if isinstance(client, RedisCluster):
        return client.dbsize(target_nodes=RedisCluster.PRIMARIES) < wanted
    return client.dbsize() < wanted


def _is_served(table: Table) -> bool:
    return table.version.active_table_id == table.pk


def _window(table: Table, share: int, now: datetime) -> list[int]:
    """Return the numbers of the blocks that are looked for now, so many at most."""
    blocks = 1 << table.block_bits
    start = int(now.timestamp()) // LOOK_SECONDS * share
    return [number % blocks for number in range(start, start + min(share, blocks))]


def _is_damaged(table: Table, window: Sequence[int], *, is_suspect: bool) -> bool:
    """Tell whether a block of the window is missing; of a suspect table, whether its blocks have another total size."""
    in_redis = TableInRedis.of(table)
    if in_redis.count_missing(None if is_suspect else window):
        return True
    return is_suspect and sum(in_redis.read_lengths()) != table.size_bytes


# --- What is done about it --------------------------------------------------------------------------------------------


def _note(table: Table, now: datetime, *, is_lost: bool) -> None:
    """Write down that a table is lost, or is whole again after all (somebody restored a backup).

    Raises:
        RuleBroken: its studio is being changed just now, or has ended.
    """
    if is_lost == (table.lost_at is not None):
        return
    lost_at = now if is_lost else None
    same = Table.objects.unscoped().filter(pk=table.pk, state=TableState.READY, lost_at=table.lost_at)
    with transaction.atomic():
        lock_tenant(table.version.model.tenant, waits=False)
        table.lost_at = lost_at
        if not same.update(lost_at=lost_at):
            return
        name = f"{table.version.model.slug}/{table.version.name}"
        lost = audit.Action.TABLE_LOST, f"Redis lost part of a table of “{name}”."
        found = audit.Action.TABLE_FOUND, f"A table of “{name}” is whole again in Redis."
        after = {"table": table.table_id, "rows": table.row_count}
        record(table.version, None, *(lost if is_lost else found), after=after)
    log.warning("table.%s table=%s", "lost" if is_lost else "found", table.table_id)


def _reload(table: Table, now: datetime) -> Iterator[Load]:
    """Queue a load in place of a lost table, if the table is served, nothing loads already and it is not too soon."""
    version = table.version
    try:
        with transaction.atomic():
            lock_tenant(version.model.tenant, waits=False)
            version.refresh_from_db(fields=["active_table"])
            loads = Load.objects.unscoped().filter(version=version, is_dry_run=False)
            if version.active_table_id != table.pk or loads.filter(state__in=RUNNING_STATES).exists():
                return
            if now < _next_try(table, now):
                return
            load = load_request(version=version, actor=None, repairs=table)
    except RuleBroken as problem:
        log.warning("repair.refused table=%s problem=%s", table.table_id, problem)
        return
    log.info("repair.started table=%s load=%s", table.table_id, load.pk)
    yield load


def _next_try(table: Table, now: datetime) -> datetime:
    """Return when a table may be loaded again: at once, and later and later after each repair that ended badly."""
    tried = Load.objects.unscoped().filter(repairs=table, state__in=[LoadState.FAILED, LoadState.REJECTED])
    count, last = tried.count(), tried.aggregate(last=Max("finished_at"))["last"]
    if last is None:
        return now
    pause: timedelta = min(LONGEST_PAUSE, FIRST_PAUSE * 2 ** min(count - 1, 10))
    return cast(datetime, last) + pause
