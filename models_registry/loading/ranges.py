"""One range of a large load: read from its partitions, checked, written, verified; and what follows on the last one.

A range that fails is tried again alone: its blocks have the same names and contents whoever writes them. What a check
refuses ends the whole load. The spread of the values and the difference from the served table are measured on the first
range: a range of digests is a random sample of the keys.
"""

from __future__ import annotations

import logging
import random
import time
from collections import Counter
from contextlib import AbstractContextManager, closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import redis
from django.conf import settings
from django.db.models import F, Sum
from django.utils import timezone

from models_registry.loading import tables
from models_registry.loading.activation import activate
from models_registry.loading.broker import hand_over
from models_registry.loading.checks import Expected, check_rows
from models_registry.loading.comparisons import compare_distributions
from models_registry.loading.pacing import Pacer
from models_registry.loading.pulse import Overtaken, Pulse, Superseded, TookTooLong
from models_registry.loading.running import ROWS_LOOKED_UP, TIME_LIMIT_SHARE, Run, end, notes_of_rests, verdict
from models_registry.loading.sources import PARTITIONS, Extract, open_partitions
from models_registry.loading.splitting import RANGE_TASK, Rejected, drop_scratch, finish_if_done
from models_registry.loading.staging import Staging
from models_registry.loading.tables import TableProblem
from models_registry.models import RUNNING_STATES, Load, LoadRange, LoadState, RangeState, Table
from serving.formats.layouts import Layout

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
    pulse = RangePulse(part, time_limit=settings.LOAD_TIME_LIMIT * TIME_LIMIT_SHARE)
    run = _RangeRun(pulse, part)
    if part.attempts > MAX_RUNS:
        problem = f"A worker was lost {MAX_RUNS} times with one range of the load (killed, or out of memory)."
        end(pulse, LoadState.FAILED, problem, part.load.report)
        return
    try:
        with run.workspace() as folder:
            run.go(folder)
    except Overtaken:
        log.warning("range.overtaken range=%s attempt=%s", part.pk, part.attempts)
        run.drop_if_over()
    except (Rejected, Superseded, TookTooLong) as error:
        end(pulse, *verdict(error, part.load), run.whole_report())
        run.drop_if_over()
    except Exception as error:
        if part.attempts >= MAX_RUNS:
            end(pulse, *verdict(error, part.load), run.whole_report())
            return
        log.exception("range.failed range=%s attempt=%s", part.pk, part.attempts)
        mine = LoadRange.objects.unscoped().filter(pk=part.pk, attempts=part.attempts, state=RangeState.RUNNING)
        if mine.update(state=RangeState.WAITING, heartbeat_at=timezone.now(), rows_written=0):
            hand_over(RANGE_TASK, part.pk, in_seconds=RETRY_SECONDS)
    else:
        log.info("range.done range=%s rows=%s", part.pk, pulse.rows_written)
        finish_if_done(part.load)


class _RangeRun(Run):
    """The stages of one run of a range."""

    def __init__(self, pulse: RangePulse, part: LoadRange) -> None:
        super().__init__(pulse)
        self.part = part
        self.whole: Table = part.load.table
        self._first = part.first_partition * (1 << self.whole.block_bits) // PARTITIONS
        self._end = part.end_partition * (1 << self.whole.block_bits) // PARTITIONS

    @property
    def folder_name(self) -> str:
        """See `Run`."""
        return f"{super().folder_name}-{self.part.pk}-{self.part.attempts}"

    @property
    def _shared_bits(self) -> int:
        """See `Run`. A range is a power of two of partitions."""
        return (PARTITIONS // (self.part.end_partition - self.part.first_partition)).bit_length() - 1

    def go(self, folder: Path) -> None:
        """Go through all stages."""
        layout = self._layout()
        served = self.load.version.active_table if self.part.first_partition == 0 else None
        expected = replace(self._expected(layout, self.load.version.active_table), active_rows=None)
        with self._extracted(expected, folder) as staging:
            self._check(staging, expected, served)
            lengths = self._write_range(staging, layout)
            self._verify_range(staging, layout, lengths)
        self.pulse.write()
        mine = LoadRange.objects.unscoped().filter(pk=self.part.pk, attempts=self.part.attempts)
        self.report["seconds_rested"] = self.pulse.seconds_rested
        values = {"rows_written": staging.rows, "size_bytes": sum(lengths), "report": self.report}
        if not mine.filter(state=RangeState.RUNNING).update(state=RangeState.DONE, **values):
            raise Overtaken

    def _source(self, expected: Expected) -> AbstractContextManager[Extract]:
        part = self.part
        return open_partitions(self.load.scratch_table, part.first_partition, part.end_partition, expected.columns)

    def _check(self, staging: Staging, expected: Expected, served: Table | None) -> None:
        with self._stage("check"), self.pulse.share.judged():
            bits = self.whole.block_bits
            for check in check_rows(staging, self._schema, expected, self.pulse.beat, block_bits=bits):
                if check.name not in _OF_THE_WHOLE:
                    self._found(check)
            self._check_packed(staging)
            if self.part.first_partition == 0 and staging.key_fields and self._rows_are_good():
                found, checks = compare_distributions(staging, expected)
                self.report |= found
                for check in checks:
                    self._found(check)
        if served is not None and self._rows_are_good() and self._blocks_to_compare(served, staging.rows):
            self._compare(staging, expected, served)
        if problem := self._problem():
            raise Rejected(problem)

    def _rows_of_whole(self, staging: Staging) -> int:
        return self.whole.row_count

    def _blocks_to_compare(self, served: Table, rows: int) -> int:
        within = self.part.end_partition * (1 << served.block_bits) // PARTITIONS
        return min(within, super()._blocks_to_compare(served, self.whole.row_count))

    def _write_range(self, staging: Staging, layout: Layout) -> list[int]:
        lengths: list[int] = []
        bits = self.whole.block_bits
        place = (self.client, settings.REDIS_PREFIX, self.whole.table_id)
        at_work = LoadRange.objects.unscoped().filter(load=self.load, state=RangeState.RUNNING).count()
        limit = self.load.rows_per_second_limit
        with self._stage("write"):
            pacer = Pacer(
                self.client,
                # What is allowed is shared by those that are at work when each begins.
                rows_per_second=max(1, limit // max(1, at_work)) if limit else None,
                rows_per_block=self.whole.row_count / (1 << bits),
                rest=self.pulse.rest,
            )
            cuts = self._cuts(staging, layout, bits, first=self._first, end=self._end)
            with closing(tables.write_blocks(*place, cuts, lengths, pacer=pacer)) as sent:
                for _ in sent:
                    self.pulse.beat()
        return lengths

    def _verify_range(self, staging: Staging, layout: Layout, lengths: list[int]) -> None:
        with self._stage("verify"):
            place = (self.client, settings.REDIS_PREFIX, self.whole.table_id)
            tables.verify_lengths(*place, lengths, self.pulse.beat, start=self._first)
            chosen = random.sample(range(staging.rows), min(ROWS_LOOKED_UP, staging.rows))
            rows = staging.records(chosen, [field.name for field in layout.fields], self.pulse.beat) if chosen else []
            tables.verify_rows(*place, block_bits=self.whole.block_bits, layout=layout, rows=rows)

    def whole_report(self) -> dict[str, Any]:
        """Return the load's report with what this range found."""
        known = self.load.report
        notes = notes_of_rests(self.pulse.seconds_rested, who="One of its ranges")
        return {
            **known,
            "checks": [*known.get("checks", []), *self.report["checks"][1:]],
            "notes": [*known.get("notes", []), *notes],
        }

    def drop_if_over(self) -> None:
        """Drop what this run wrote if the load is over: a sweep may have been there before the last block."""
        load = Load.objects.unscoped().get(pk=self.load.pk)
        if load.state in {*RUNNING_STATES, LoadState.ACTIVE}:
            return
        try:
            blocks = range(self._first, self._end)
            tables.drop_blocks(self.client, settings.REDIS_PREFIX, self.whole.table_id, blocks)
        except redis.RedisError as error:
            log.warning("range.not_dropped range=%s problem=%s", self.part.pk, error)


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
        seconds = round(time.monotonic() - began, 3)
        report["stages"].append(_stage("verify", seconds, pulse.rows_written))
        activate(pulse, load.table, report=report)
        log.info("load.done load=%s rows=%s ranges=%s", load.pk, pulse.rows_written, len(ranges))
    except Overtaken:
        log.warning("load.overtaken load=%s attempt=%s", load.pk, load.attempts)
        return
    except Exception as error:  # noqa: BLE001 - whatever it is, the load must say so; `verdict` logs it
        end(pulse, *verdict(error, load), report)
    drop_scratch(load.scratch_table)


def _verify(pulse: Pulse, table: Table, ranges: list[LoadRange]) -> None:
    """Compare what all ranges wrote with what should be there.

    Raises:
        TableProblem: rows or blocks are missing.
    """
    rows, size_bytes = sum(part.rows_written for part in ranges), sum(part.size_bytes for part in ranges)
    if rows != table.row_count:
        raise TableProblem(f"The ranges have {rows:,} rows together, the source has {table.row_count:,}.")
    place = (Run(pulse).client, settings.REDIS_PREFIX, table.table_id)
    blocks = 1 << table.block_bits
    if missing := tables.count_missing(*place, range(blocks)):
        raise TableProblem(f"Redis lost part of what was written: at least {missing:,} blocks are missing.")
    found = 0
    for number, length in enumerate(tables.read_lengths(*place, blocks)):
        found += length
        if not number % tables.COMMANDS_PER_SEND:
            pulse.beat()
    if found != size_bytes:
        raise TableProblem(f"Redis holds {found:,} bytes of the table instead of {size_bytes:,}.")
    table.size_bytes = size_bytes
    Table.objects.unscoped().filter(pk=table.pk).update(size_bytes=size_bytes)


def _merged(load: Load, ranges: list[LoadRange]) -> dict[str, Any]:
    """Return the load's report with those of its ranges: checks that all passed once, times added up."""
    report: dict[str, Any] = {**load.report}
    report["checks"] = [*report["checks"], *ranges[0].report["checks"][1:]]
    together = f"Read, checked and written in {len(ranges)} ranges of keys."
    rested = sum(part.report.get("seconds_rested", 0.0) for part in ranges)
    report["notes"] = [*report["notes"], together, *notes_of_rests(rested, who="Together they")]
    report |= {
        name: ranges[0].report[name] for name in ("fields", "distribution", "difference") if name in ranges[0].report
    }
    seconds: Counter[str] = Counter()
    for part in ranges:
        for stage in part.report["stages"]:
            seconds[stage["name"]] += stage["seconds"]
    rows = sum(part.rows_written for part in ranges)
    report["stages"] = [*report["stages"], *(_stage(name, spent, rows) for name, spent in seconds.items())]
    return report


def _stage(name: str, seconds: float, rows: int) -> dict[str, Any]:
    rate = round(rows / seconds) if seconds else 0
    return {"name": name, "seconds": round(seconds, 3), "rows": rows, "rows_per_second": rate}
