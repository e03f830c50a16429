"""A source that is too large for one worker: cut into ranges of its keys' digests, which any worker may take.

BigQuery has sorted the rows into 1,024 partitions by then. A range is some of these that follow one another, and whole
blocks of the table; whoever writes the last one has the whole verified and activated. What is done with a range is in
`models_registry.loading.ranges`.
"""

from __future__ import annotations

import logging

from django.conf import settings
from django.db import transaction
from django.utils import timezone

from models_registry.loading.broker import hand_over
from models_registry.loading.pulse import Pulse
from models_registry.loading.report import Report
from models_registry.loading.sources import PARTITIONS, Scratch, SourceProblem, drop_partitions
from models_registry.models import Load, LoadRange, LoadState, RangeState, Table, TableState, new_table_id
from serving.formats.keys import block_bits_for
from serving.formats.seals import parse_seal_keys

log = logging.getLogger(__name__)

RANGE_TASK = "loading.run_range"
FINISH_TASK = "loading.finish_ranges"
# A range has at most this share of the rows from which on a load is cut up, so that workers of one size do for both.
RANGES_PER_WORKER_LOAD = 4


class Rejected(Exception):
    """A check failed."""


class HandedOver(Exception):
    """The load is in other workers' hands now."""


def split(pulse: Pulse, scratch: Scratch, *, report: Report) -> None:
    """Hand a load, its source in partitions by now, over to whoever takes its ranges.

    Raises:
        HandedOver: that was done.
        Rejected: a check failed; the copy is dropped.
        Overtaken: another run has the load.
    """
    if problem := report.problem:
        drop_scratch(scratch.table)
        raise Rejected(problem)
    load = pulse.load
    block_bits = block_bits_for(scratch.rows)
    width = PARTITIONS // _count(scratch.rows, block_bits)
    now = timezone.now()
    pulse.rows_read = scratch.rows
    with transaction.atomic():
        pulse.enter(LoadState.WRITING, report=report.as_json(), scratch_table=scratch.table)
        new_table(load, scratch.rows, block_bits)
        LoadRange.objects.unscoped().filter(load=load).delete()
        ranges = LoadRange.objects.bulk_create(
            LoadRange(load=load, first_partition=first, end_partition=first + width, heartbeat_at=now)
            for first in range(0, PARTITIONS, width)
        )
    for part in ranges:
        hand_over(RANGE_TASK, part.pk)
    raise HandedOver


def new_table(load: Load, rows: int, block_bits: int) -> Table:
    """Record the table that a load is about to write. One row a load: an earlier attempt's blocks are gone by now."""
    values = {
        "version": load.version,
        "table_id": new_table_id(),
        "state": TableState.WRITING,
        "block_bits": block_bits,
        "row_count": rows,
        "seal_key_id": next(iter(parse_seal_keys(settings.SEAL_KEYS)), ""),
        "size_bytes": 0,
        "created_at": timezone.now(),
    }
    table, _ = Table.objects.unscoped().update_or_create(load=load, defaults=values)
    return table


def finish_if_done(load: Load) -> bool:
    """Have a load verified and activated if all of its ranges are written; say whether that was done by this call."""
    ranges = LoadRange.objects.unscoped().filter(load=load)
    if not ranges.exists() or ranges.exclude(state=RangeState.DONE).exists():
        return False
    writing = Load.objects.unscoped().filter(pk=load.pk, attempts=load.attempts, state=LoadState.WRITING)
    if not writing.update(state=LoadState.VERIFYING, heartbeat_at=timezone.now()):
        return False
    hand_over(FINISH_TASK, load.pk)
    return True


def drop_scratch(table: str) -> None:
    """Drop the copy in BigQuery, and forget it. Where that fails it expires by itself."""
    try:
        drop_partitions(table)
    except SourceProblem as problem:
        log.warning("load.scratch_not_dropped table=%s problem=%s", table, problem)
    Load.objects.unscoped().filter(scratch_table=table).update(scratch_table="")


def _count(rows: int, block_bits: int) -> int:
    """Return the number of ranges: a power of two, so that each is whole partitions and whole blocks."""
    wanted = -(-rows * RANGES_PER_WORKER_LOAD // settings.LOAD_SPLIT_ROWS)
    return min(1 << max(0, wanted - 1).bit_length(), PARTITIONS, 1 << block_bits)
