"""One range of a large load: read from its partitions, checked, written, verified; and what follows on the last one.

A range that fails is tried again alone: its blocks have the same names and contents whoever writes them. What a check
refuses ends the whole load. The spread of the values and the difference from the served table are measured on the first
range: a range of digests is a random sample of the keys.
"""

from __future__ import annotations

import logging
import time
from collections import defaultdict
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
from django.conf import settings
from django.db.models import F, Sum
from django.utils import timezone

from models_registry.loading import steps
from models_registry.loading.activation import activate
from models_registry.loading.broker import hand_over
from models_registry.loading.checks import Expected
from models_registry.loading.comparisons import blocks_to_compare
from models_registry.loading.endings import TIME_LIMIT_SHARE, Ending, end, verdict
from models_registry.loading.pulse import Overtaken, Pulse, Superseded, TookTooLong
from models_registry.loading.report import Report, Stage, StageName
from models_registry.loading.sources import PARTITIONS, open_partitions
from models_registry.loading.splitting import RANGE_TASK, Rejected, drop_scratch, finish_if_done
from models_registry.loading.staging import Staging
from models_registry.loading.steps import Work
from models_registry.loading.tables import COMMANDS_PER_SEND, TableInRedis, TableProblem
from models_registry.models import RUNNING_STATES, Load, LoadRange, LoadState, ProblemCode, RangeState, Table

log = logging.getLogger(__name__)

# A range whose runs failed or were lost this often ends the load.
MAX_RUNS = 3
RETRY_SECONDS = 5
_OF_THE_WHOLE = {"rows", "row count"}
_RELATED = ("load__version__model__tenant", "load__version__layout", "load__version__active_table", "load__table")


class RangePulse(Pulse):
    """A run's hold on its range, and on the load only as long as its ranges are being written."""

    def __init__(self, part: LoadRange, *, time_limit: timedelta) -> None:
        super().__init__(part.load, time_limit=time_limit, listener=None)
        self.part = part

    def enter(self, state: LoadState, **fields: Any) -> None:
        """Go on to a stage, which is the range's own affair, or end the load."""
        if state in RUNNING_STATES:
            self.write()
        else:
            self.write(state=state, **fields)

    def _write(self, **fields: Any) -> None:
        """Say that range and load are alive; `fields` are the load's.

        Raises:
            Overtaken: the range is in other hands, or the load is over; nothing was written to the load.
        """
        now = timezone.now()
        ranges = LoadRange.objects.unscoped()
        mine = ranges.filter(pk=self.part.pk, attempts=self.part.attempts, state=RangeState.RUNNING)
        if not mine.update(heartbeat_at=now, rows_written=self.rows_written):
            raise Overtaken
        written = ranges.filter(load=self.load).aggregate(rows=Sum("rows_written"))["rows"]
        load = Load.objects.unscoped().filter(pk=self.load.pk, attempts=self.load.attempts, state=LoadState.WRITING)
        if not load.update(heartbeat_at=now, rows_written=written, **fields):
            raise Overtaken


def run_range(range_id: int) -> None:
    """Run a range that waits; anything else is left alone."""
    waiting = LoadRange.objects.unscoped().filter(pk=range_id, state=RangeState.WAITING, load__state=LoadState.WRITING)
    if not waiting.update(
        state=RangeState.RUNNING, attempts=F("attempts") + 1, heartbeat_at=timezone.now(), rows_written=0
    ):
        return
    part = LoadRange.objects.unscoped().select_related(*_RELATED).get(pk=range_id)
    load = part.load
    pulse = RangePulse(part, time_limit=settings.LOAD_TIME_LIMIT * TIME_LIMIT_SHARE)
    if part.attempts > MAX_RUNS:
        problem = f"A worker was lost {MAX_RUNS} times with one range of the load (killed, or out of memory)."
        end(pulse, Ending(LoadState.FAILED, ProblemCode.WORKER_LOST, problem), Report.read(load.report))
        return
    work = Work(pulse)
    try:
        with steps.workspace(f"{load.pk}-{load.attempts}-{part.pk}-{part.attempts}") as folder:
            _go(work, part, folder)
    except Overtaken:
        log.warning("range.overtaken range=%s attempt=%s", part.pk, part.attempts)
        _drop_if_over(part)
    except (Rejected, Superseded, TookTooLong) as error:
        end(pulse, verdict(error, load), _report_of_whole(load, work))
        _drop_if_over(part)
    except Exception as error:
        if part.attempts >= MAX_RUNS:
            end(pulse, verdict(error, load), _report_of_whole(load, work))
            return
        log.exception("range.failed range=%s attempt=%s", part.pk, part.attempts)
        mine = LoadRange.objects.unscoped().filter(pk=part.pk, attempts=part.attempts, state=RangeState.RUNNING)
        if mine.update(state=RangeState.WAITING, heartbeat_at=timezone.now(), rows_written=0):
            hand_over(RANGE_TASK, part.pk, in_seconds=RETRY_SECONDS)
    else:
        log.info("range.done range=%s rows=%s", part.pk, pulse.rows_written)
        finish_if_done(load)


def _go(work: Work, part: LoadRange, folder: Path) -> None:
    load, whole = part.load, part.load.table
    blocks = _blocks(part, whole)
    # How many rows there are is checked for the whole.
    expected = replace(steps.expected_of(load), active_rows=None)
    source = open_partitions(load.scratch_table, part.first_partition, part.end_partition, expected.columns)
    with steps.extract(work, source, expected, folder, shared_bits=_shared_bits(part)) as staging:
        _check(work, part, staging, expected)
        at_work = LoadRange.objects.unscoped().filter(load=load, state=RangeState.RUNNING).count()
        limit = load.rows_per_second_limit
        # What is allowed is shared by those that are at work when each begins.
        rows_per_second = max(1, limit // max(1, at_work)) if limit else None
        lengths = steps.write(work, staging, whole, rows_per_second=rows_per_second, blocks=blocks)
        steps.verify(work, staging, whole, lengths, start=blocks.start)
    work.pulse.write()
    report = work.report.having(seconds_rested=work.pulse.seconds_rested)
    mine = LoadRange.objects.unscoped().filter(pk=part.pk, attempts=part.attempts, state=RangeState.RUNNING)
    values = {"rows_written": staging.rows, "size_bytes": sum(lengths), "report": report.as_json()}
    if not mine.update(state=RangeState.DONE, **values):
        raise Overtaken


def _check(work: Work, part: LoadRange, staging: Staging, expected: Expected) -> None:
    """Check every row; on the first range, which is a random sample, also what is compared with the served table."""
    whole, is_first = part.load.table, part.first_partition == 0
    with work.stage(StageName.CHECK), work.pulse.share.judged():
        steps.check_rows(work, staging, expected, block_bits=whole.block_bits, left_out=_OF_THE_WHOLE)
        if is_first and staging.key_fields and work.report.rows_are_good:
            steps.check_spread(work, staging, expected)
    served = expected.served
    if is_first and served is not None and work.report.rows_are_good:
        wanted = blocks_to_compare(served.table, whole.row_count, is_dry_run=False)
        if end_block := min(wanted, _blocks(part, served.table).stop):
            steps.compare(work, staging, expected, served, end_block=end_block, rows_of_whole=whole.row_count)
    work.reject_if_failed()


def _blocks(part: LoadRange, table: Table) -> range:
    """Return the numbers of a table's blocks that a range is."""
    blocks = 1 << table.block_bits
    return range(part.first_partition * blocks // PARTITIONS, part.end_partition * blocks // PARTITIONS)


def _shared_bits(part: LoadRange) -> int:
    """Return with how many equal bits the digests of a range's keys begin. A range is a power of two of partitions."""
    return (PARTITIONS // (part.end_partition - part.first_partition)).bit_length() - 1


def _report_of_whole(load: Load, work: Work) -> Report:
    """Return the load's report with what a range found."""
    notes = steps.notes_of_rests(work.pulse.seconds_rested, who="One of its ranges")
    # The first check, that of the columns, is in the load's report already.
    return Report.read(load.report).plus(checks=work.report.checks[1:], notes=notes)


def _drop_if_over(part: LoadRange) -> None:
    """Drop what a run wrote if the load is over: a sweep may have been there before the last block."""
    load = Load.objects.unscoped().get(pk=part.load_id)
    if load.state in {*RUNNING_STATES, LoadState.ACTIVE}:
        return
    table = part.load.table
    try:
        TableInRedis.of(table).drop(_blocks(part, table))
    except redis.RedisError as error:
        log.warning("range.not_dropped range=%s problem=%s", part.pk, error)


# --- When all are written ---------------------------------------------------------------------------------------------


def finish(load_id: int) -> None:
    """Verify the table of a load whose ranges are all written, and activate it. Twice does nothing twice."""
    related = ("version__model__tenant", "version__layout", "table", "requested_by")
    verifying = Load.objects.unscoped().select_related(*related).filter(pk=load_id, state=LoadState.VERIFYING)
    load = verifying.exclude(scratch_table="").first()
    if load is None:
        return
    began = time.monotonic()
    pulse = Pulse(load, time_limit=settings.LOAD_TIME_LIMIT * TIME_LIMIT_SHARE, listener=None)
    ranges = list(LoadRange.objects.unscoped().filter(load=load))
    pulse.rows_read = pulse.rows_written = sum(part.rows_written for part in ranges)
    report = _merged(load, ranges)
    try:
        pulse.enter(LoadState.VERIFYING)
        _verify(pulse, load.table, ranges)
        verified = Stage.of(StageName.VERIFY, time.monotonic() - began, pulse.rows_written)
        report = report.plus(stages=[verified])
        activate(pulse, load.table, report=report)
        log.info("load.done load=%s rows=%s ranges=%s", load.pk, pulse.rows_written, len(ranges))
    except Overtaken:
        log.warning("load.overtaken load=%s attempt=%s", load.pk, load.attempts)
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, the load must say so; `verdict` logs it
        end(pulse, verdict(error, load), report)
    drop_scratch(load.scratch_table)


def _verify(pulse: Pulse, table: Table, ranges: list[LoadRange]) -> None:
    """Compare what all ranges wrote with what should be there.

    Raises:
        TableProblem: rows or blocks are missing.
    """
    rows, size_bytes = sum(part.rows_written for part in ranges), sum(part.size_bytes for part in ranges)
    if rows != table.row_count:
        raise TableProblem(f"The ranges hold {rows:,} rows in total, but the source has {table.row_count:,}.")
    in_redis = TableInRedis.of(table)
    if missing := in_redis.count_missing():
        raise TableProblem(f"Redis lost part of what was written: at least {missing:,} blocks are missing.")
    found = 0
    for number, length in enumerate(in_redis.read_lengths()):
        found += length
        if not number % COMMANDS_PER_SEND:
            pulse.beat()
    if found != size_bytes:
        raise TableProblem(f"Redis holds {found:,} bytes of the table instead of {size_bytes:,}.")
    table.size_bytes = size_bytes
    Table.objects.unscoped().filter(pk=table.pk).update(size_bytes=size_bytes)


def _merged(load: Load, ranges: list[LoadRange]) -> Report:
    """Return the load's report with those of its ranges: checks that all passed once, times added up."""
    reports = [Report.read(part.report) for part in ranges]
    first = reports[0]
    seconds: dict[StageName, float] = defaultdict(float)
    for report in reports:
        for stage in report.stages:
            seconds[StageName(stage.name)] += stage.seconds
    rested = sum(report.seconds_rested or 0.0 for report in reports)
    rows = sum(part.rows_written for part in ranges)
    notes = [f"Read, checked and written in {len(ranges)} ranges of keys."]
    notes += steps.notes_of_rests(rested, who="Together they")
    stages = [Stage.of(name, spent, rows) for name, spent in seconds.items()]
    whole = Report.read(load.report).plus(first.checks[1:], notes, stages)
    return whole.having(fields=first.fields, distribution=first.distribution, difference=first.difference)
