"""One run of a load through its states: extract, check, write, verify, activate. A dry run ends after the checks.

Nothing that it does is visible before the activation. However it ends before that, the table that was active stays so,
and what it had written is dropped. Two runs never work on one load: to begin is a conditional UPDATE, and a run that
was thought dead and taken over stops at its next write (`Pulse`).
"""

from __future__ import annotations

import logging
import random
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import redis
from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from models_registry.loading import tables
from models_registry.loading.activation import activate
from models_registry.loading.background import call
from models_registry.loading.checks import (
    Check,
    Expected,
    Sample,
    check_columns,
    check_row_count,
    check_rows,
    problem_of,
)
from models_registry.loading.columns import shortened, shown
from models_registry.loading.comparisons import (
    blocks_to_compare,
    check_coverage,
    compare_distributions,
    difference_report,
)
from models_registry.loading.cutting import BlockCutter, Cut
from models_registry.loading.difference import find_difference
from models_registry.loading.pacing import Pacer
from models_registry.loading.pulse import Overtaken, Progress, Pulse, Superseded, TookTooLong
from models_registry.loading.requests import failed_checks
from models_registry.loading.sources import Confinement, Extract, SourceProblem, open_source
from models_registry.loading.splitting import HandedOver, Rejected, new_table, split
from models_registry.loading.staging import InvalidText, Staging
from models_registry.loading.tables import TableProblem
from models_registry.models import Load, LoadState, Table, TableState
from models_registry.redis_clients import loading_client
from serving.formats.keys import block_bits_for
from serving.formats.layouts import BadLayout, Layout
from tenants.rules import RuleBroken

log = logging.getLogger(__name__)

# A load whose run was lost this often is not begun again: it may be what kills the worker.
MAX_RUNS = 2
BEGUN_AGAIN = "The worker that ran this load before was lost (killed, or out of memory), so it was begun again."
ROWS_LOOKED_UP = 200
# A run ends itself somewhat before the worker would kill it, so that it can say why.
TIME_LIMIT_SHARE = 0.9


def run_load(load_id: int, *, listener: Callable[[Progress], None] | None = None) -> None:
    """Run a queued load to its end, whatever that is; the Load says it. Anything but a queued load is left alone.

    Args:
        load_id: of the Load.
        listener: told how far the load is, about twice a second.
    """
    load = claim(load_id)
    if load is not None:
        run_claimed(load, listener=listener)


def claim(load_id: int) -> Load | None:
    """Take a queued load into this process's hands; None if it is not queued (any more).

    A load whose runs were lost `MAX_RUNS` times fails here instead of being begun again.
    """
    now = timezone.now()
    queued = Load.objects.unscoped().filter(pk=load_id, state=LoadState.QUEUED)
    if not queued.update(
        state=LoadState.EXTRACTING, attempts=F("attempts") + 1, started_at=now, heartbeat_at=now, rows_read=0
    ):
        return None
    related = (
        *("version__model__tenant", "version__layout", "version__active_table__load"),
        *("requested_by", "waives"),
    )
    load = Load.objects.unscoped().select_related(*related).get(pk=load_id)
    if load.attempts > MAX_RUNS:
        problem = (
            f"The worker that ran this load was lost {MAX_RUNS} times (killed, or out of memory); not tried again."
        )
        end(Pulse(load, time_limit=settings.LOAD_TIME_LIMIT, listener=None), LoadState.FAILED, problem, {})
        return None
    return load


def run_claimed(load: Load, *, listener: Callable[[Progress], None] | None = None) -> None:
    """Run a load that `claim` gave."""
    pulse = Pulse(load, time_limit=settings.LOAD_TIME_LIMIT * TIME_LIMIT_SHARE, listener=listener)
    run = Run(pulse)
    try:
        with run.workspace() as folder:
            run.go(folder)
        log.info("load.done load=%s rows=%s", load.pk, pulse.rows_written)
    except HandedOver:
        log.info("load.split load=%s", load.pk)
    except Overtaken:
        log.warning("load.overtaken load=%s attempt=%s", load.pk, load.attempts)
    except KeyboardInterrupt:
        end(pulse, LoadState.FAILED, "It was interrupted from the keyboard.", run.report)
        raise
    except Exception as error:  # noqa: BLE001 - whatever it is, the load must say so; `verdict` logs it
        end(pulse, *verdict(error, load), run.report)
    finally:
        run.drop_unless_active()


def verdict(error: Exception, load: Load) -> tuple[LoadState, str]:
    """Return how an error ends a load, and the sentence for it."""
    if isinstance(error, Rejected):
        return LoadState.REJECTED, str(error)
    if isinstance(error, Superseded):
        return LoadState.SUPERSEDED, str(error)
    if isinstance(error, SourceProblem | TableProblem | RuleBroken):
        return LoadState.FAILED, str(error)
    if isinstance(error, TookTooLong):
        minutes = settings.LOAD_TIME_LIMIT.total_seconds() * TIME_LIMIT_SHARE / 60
        return LoadState.FAILED, f"It had not ended after {minutes:,.0f} minutes, the longest a load may take."
    log.error("load.broke load=%s", load.pk, exc_info=error)
    if isinstance(error, redis.RedisError):
        is_full = isinstance(error, redis.OutOfMemoryError)
        reason = "its memory is full (maxmemory)" if is_full else shown(error)
        return LoadState.FAILED, f"Redis did not take the table: {reason}."
    if isinstance(error, duckdb.OutOfMemoryException | MemoryError):
        words = "The rows need more memory than a load may have (RECSITE_LOAD_MEMORY_MB), or more disk to spill to."
        return LoadState.FAILED, words
    if isinstance(error, duckdb.IOException | OSError):
        return LoadState.FAILED, f"The worker's disk failed: {shown(error)}."
    words = f"Something unexpected went wrong ({type(error).__name__}); the worker's log says where."
    return LoadState.FAILED, words


def end(pulse: Pulse, state: LoadState, problem: str, report: dict[str, Any]) -> None:
    """Write down how a load ended."""
    try:
        pulse.enter(state, problem=problem, report=report, finished_at=timezone.now())
    except Overtaken:
        log.warning("load.overtaken load=%s attempt=%s", pulse.load.pk, pulse.load.attempts)
    else:
        log.info("load.ended load=%s state=%s problem=%s", pulse.load.pk, state, problem)


def notes_of_rests(seconds: float, *, who: str = "It") -> list[str]:
    """Return what a report says of so much rest."""
    return [f"{who} rested for {seconds:,.0f} s, so as not to hold up others."] if seconds >= 1 else []


class Run:
    """The stages of one run.

    Attributes:
        report: what `Load.report` will hold: checks, notes, and each stage's time and rate.
    """

    def __init__(self, pulse: Pulse) -> None:
        self.pulse = pulse
        self.load = pulse.load
        self.model = self.load.version.model
        self.client = loading_client()
        notes = [BEGUN_AGAIN] if self.load.attempts > 1 else []
        self.report: dict[str, Any] = {"checks": [], "notes": notes, "stages": []}
        self.table: Table | None = None
        self._checks: list[Check] = []
        self._schema = pa.schema([])

    @property
    def folder_name(self) -> str:
        """The name of this run's own folder; the sweep knows by it whose it is."""
        return f"{self.load.pk}-{self.load.attempts}"

    @contextmanager
    def workspace(self) -> Iterator[Path]:
        """Yield a folder of this run's own, and leave nothing of it."""
        folder = settings.LOAD_WORKSPACE_DIR / self.folder_name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def go(self, folder: Path) -> None:
        """Go through all stages."""
        try:
            table = self._prepare(folder)
        finally:
            self.report["notes"] += notes_of_rests(self.pulse.seconds_rested)
        if table is None:
            self.pulse.enter(LoadState.CHECKED, report=self.report, finished_at=timezone.now())
            return
        activate(self.pulse, table, report=self.report)
        self.table = None
        self.pulse.tell(LoadState.ACTIVE)

    def _prepare(self, folder: Path) -> Table | None:
        """Go through all stages but the last; give the table that waits for that, or None after a dry run."""
        layout = self._layout()
        active = self.load.version.active_table
        expected = self._expected(layout, active)
        with self._extracted(expected, folder) as staging:
            self._check(staging, expected, active)
            if self.load.is_dry_run:
                return None
            table, lengths = self._write(staging, layout)
            self._verify(staging, layout, table, lengths)
        return table

    def _expected(self, layout: Layout, active: Table | None) -> Expected:
        return Expected(
            key_fields=tuple(self.model.key_fields),
            layout=layout,
            active_rows=active.row_count if active else None,
            max_row_count_change=self.model.max_row_count_change,
            max_psi=self.model.max_psi,
            min_coverage=self.model.min_coverage,
            distribution=active.load.report.get("distribution", {}).get("fields", ()) if active else (),
            waived=frozenset(failed_checks(self.load.waives) if self.load.waives else ()),
        )

    def _layout(self) -> Layout:
        try:
            return Layout.parse(self.load.version.layout.fields)
        except BadLayout as error:
            raise Rejected(f"The version's layout is damaged: {error}.") from None

    @contextmanager
    def _stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Put a stage's time and rate into the report, also if it fails; it may say for itself how many rows it had."""
        began = time.monotonic()
        stage: dict[str, Any] = {"name": name}
        try:
            yield stage
        finally:
            seconds = time.monotonic() - began
            rows = stage.get("rows", self.pulse.rows_read)
            rate = round(rows / seconds) if seconds else 0
            stage |= {"seconds": round(seconds, 3), "rows": rows, "rows_per_second": rate}
            self.report["stages"].append(stage)

    @property
    def _shared_bits(self) -> int:
        """With how many equal bits the digests of all keys begin."""
        return 0

    # --- Extract and check ---------------------------------------------------------------------------------------

    @contextmanager
    def _extracted(self, expected: Expected, folder: Path) -> Iterator[Staging]:
        """Read the source into DuckDB; the rows are there while the block lasts, the source is closed by then."""
        with ExitStack() as stack:
            with self._stage("extract"), _opened(self._source(expected), self.pulse.beat) as (extract, close):
                fields = {"rows_expected": extract.rows_expected, "source_snapshot_at": extract.snapshot_at}
                self.pulse.enter(LoadState.EXTRACTING, **fields)
                self._schema = extract.schema
                check, usable = check_columns(extract.schema, expected)
                self._note_columns(extract, expected)
                self._found(check)
                if not usable:  # no row can be read, so there is nothing more to find
                    raise Rejected(self._problem())
                self._split_if_large(extract, expected)
                staging = stack.enter_context(
                    Staging(
                        folder,
                        columns=usable,
                        key_fields=expected.key_fields,
                        layout=expected.layout,
                        memory_mb=settings.LOAD_MEMORY_MB,
                        shared_bits=self._shared_bits,
                    )
                )
                self._fill(staging, extract, close)
            yield staging

    def _split_if_large(self, extract: Extract, expected: Expected) -> None:
        """Have a source that is too large for one worker cut into ranges for all of them; this run then is over.

        Raises:
            HandedOver: that was done.
            Rejected: it has not the right columns, or not the right number of rows.
        """
        partition = extract.partition
        is_large = (extract.rows_expected or 0) >= settings.LOAD_SPLIT_ROWS
        if partition is None or not is_large or self.load.is_dry_run:
            return
        if problem := self._problem():
            raise Rejected(problem)
        scratch = call(lambda: partition(expected.key_fields, self._labels()), self.pulse.beat)
        self._found(check_row_count(scratch.rows, expected))
        self._drop_earlier_attempt()
        split(self.pulse, scratch, report=self.report, problem=self._problem())

    def _labels(self) -> dict[str, str]:
        tenant = self.model.tenant.slug
        return {"recsite_studio": tenant, "recsite_model": self.model.slug, "recsite_load": str(self.load.pk)}

    def _source(self, expected: Expected) -> AbstractContextManager[Extract]:
        tenant, load = self.model.tenant, self.load
        confinement = Confinement(
            datasets=tuple(tenant.allowed_datasets),
            gs_prefixes=tuple(tenant.allowed_gs_prefixes),
            local_roots=tuple(tenant.allowed_local_roots),
        )
        place = (load.source_kind, load.source_location)
        return open_source(*place, confinement, expected.columns, labels=self._labels())

    def _fill(self, staging: Staging, extract: Extract, close: Callable[[], None]) -> None:
        filling = staging.fill(
            extract.schema,
            extract.batches,
            self.pulse.beat,
            may_be_ahead=lambda: not self.pulse.share.is_wanted,
            cancel=close,
        )
        try:
            with self.pulse.share.judged(), closing(filling):
                for rows in filling:
                    self.pulse.rows_read = rows
                    self.pulse.beat()
        except InvalidText as problem:
            sample = Sample(problem.row, "", "bytes that are no text")
            words = str(problem)
            self._found(Check(f"{problem.column}: text", passed=False, count=1, words=words, samples=(sample,)))
            raise Rejected(self._problem()) from None

    def _note_columns(self, extract: Extract, expected: Expected) -> None:
        notes = self.report["notes"]
        if extract.extra_columns:
            names = ", ".join(map(shown, extract.extra_columns))
            notes.append(f"Left out, because neither key nor layout has them: {names}.")
        notes.extend(
            f"The optional column {field.name} is not in the source: it is absent in every row."
            for field in expected.layout.fields
            if field.is_optional and field.name not in extract.schema.names
        )

    def _check(self, staging: Staging, expected: Expected, served: Table | None) -> None:
        self.pulse.enter(LoadState.CHECKING, report=self.report)
        with self._stage("check"), self.pulse.share.judged():
            for check in check_rows(staging, self._schema, expected, self.pulse.beat):
                self._found(check)
            self._check_packed(staging)
            if staging.key_fields:
                found, checks = compare_distributions(staging, expected)
                self.report |= found
                # Where single rows are wrong, how all of them are spread says nothing more.
                for check in checks if self._rows_are_good() else ():
                    self._found(check)
        if served is not None and self._rows_are_good():
            self._compare(staging, expected, served)
        problem = self._problem()
        if problem:
            raise Rejected(problem)

    def _check_packed(self, staging: Staging) -> None:
        """Turn the packer's exact judgement of one value into a failed check, if SQL let that value pass."""
        refused = staging.buckets.refused
        if refused is None or not self._rows_are_good():
            return
        field, reason, row = refused.refusal.field, refused.refusal.reason, refused.row
        key = shown(staging.keys_of([row], self.pulse.beat)[row])
        sample = Sample(row + 1, key, shown(reason))
        words = f"column {field}, row {row + 1:,} (key {key}): {shortened(reason)}"
        self._found(Check(f"{field}: values", passed=False, count=1, words=words, samples=(sample,)))

    def _compare(self, staging: Staging, expected: Expected, served: Table) -> None:
        """Find the difference from the served table. That it cannot be read is no fault of this load."""
        end_block = self._blocks_to_compare(served, staging.rows)
        place = (self.client, settings.REDIS_PREFIX, served)
        with self._stage("compare") as stage:
            stage["rows"] = 0
            try:
                found = find_difference(staging.buckets, expected.layout, *place, self.pulse.beat, end_block=end_block)
            except (TableProblem, redis.RedisError) as error:
                self.report["notes"].append(f"Not compared row by row with the served table: {shown(error)}")
                return
            stage["rows"] = found.rows
            self.report["difference"] = difference_report(
                found, served, staging, self.pulse.beat, rows=self._rows_of_whole(staging)
            )
        self._found(check_coverage(found, expected))

    def _rows_of_whole(self, staging: Staging) -> int:
        return staging.rows

    def _blocks_to_compare(self, served: Table, rows: int) -> int:
        return blocks_to_compare(served, rows, is_dry_run=self.load.is_dry_run)

    def _found(self, check: Check) -> None:
        self._checks.append(check)
        self.report["checks"].append(check.as_json())

    def _rows_are_good(self) -> bool:
        return all(check.passed or check.may_be_waived for check in self._checks)

    def _problem(self) -> str:
        return problem_of(self._checks)

    # --- Write and verify ----------------------------------------------------------------------------------------

    def _write(self, staging: Staging, layout: Layout) -> tuple[Table, list[int]]:
        """Write the blocks under a new table's id. The table is recorded first, so that none is ever lost sight of."""
        block_bits = block_bits_for(staging.rows)
        self._drop_earlier_attempt()
        with transaction.atomic():
            self.pulse.enter(LoadState.WRITING, report=self.report)
            self.table = new_table(self.load, staging.rows, block_bits)
        lengths: list[int] = []
        with self._stage("write"):
            place = (self.client, settings.REDIS_PREFIX, self.table.table_id)
            pacer = Pacer(
                self.client,
                rows_per_second=self.load.rows_per_second_limit,
                rows_per_block=staging.rows / (1 << block_bits),
                rest=self.pulse.rest,
            )
            cuts = self._cuts(staging, layout, block_bits)
            with closing(tables.write_blocks(*place, cuts, lengths, pacer=pacer)) as sent:
                for _ in sent:
                    self.pulse.beat()
        self.table.size_bytes = sum(lengths)
        Table.objects.unscoped().filter(pk=self.table.pk).update(size_bytes=self.table.size_bytes)
        return self.table, lengths

    def _drop_earlier_attempt(self) -> None:
        earlier = Table.objects.unscoped().filter(load=self.load).exclude(state=TableState.DROPPED).first()
        if earlier is not None:
            tables.drop_table(self.client, settings.REDIS_PREFIX, earlier.table_id, earlier.block_bits)

    def _cuts(
        self, staging: Staging, layout: Layout, block_bits: int, *, first: int = 0, end: int | None = None
    ) -> Iterator[Cut]:
        cutter = BlockCutter(layout.payload_width, first, 1 << block_bits if end is None else end)
        for rows in staging.buckets.in_block_order(block_bits):
            yield cutter.add(rows.blocks, rows.fingerprints, rows.payloads)
            self.pulse.rows_written += rows.payloads.rows
        yield cutter.finish()

    def _verify(self, staging: Staging, layout: Layout, table: Table, lengths: list[int]) -> None:
        self.pulse.enter(LoadState.VERIFYING)
        with self._stage("verify"):
            place = (self.client, settings.REDIS_PREFIX, table.table_id)
            tables.verify_lengths(*place, lengths, self.pulse.beat)
            chosen = random.sample(range(staging.rows), min(ROWS_LOOKED_UP, staging.rows))
            rows = staging.records(chosen, [field.name for field in layout.fields], self.pulse.beat)
            tables.verify_rows(*place, block_bits=table.block_bits, layout=layout, rows=rows)

    # --- Clean up ------------------------------------------------------------------------------------------------

    def drop_unless_active(self) -> None:
        """Drop what this run wrote, unless it became active. Redis away: a sweep does it later."""
        if self.table is None:
            return
        mine = Table.objects.unscoped().filter(table_id=self.table.table_id)
        mine.filter(state=TableState.WRITING).update(state=TableState.DROPPING)
        # It may be dropped already by those who took this run for dead, or its row be another run's by now: what was
        # written since is nobody's all the same.
        if mine.filter(state=TableState.READY).exists():
            return
        try:
            tables.drop_table(self.client, settings.REDIS_PREFIX, self.table.table_id, self.table.block_bits)
        except redis.RedisError as error:
            log.warning("table.not_dropped table=%s problem=%s", self.table.table_id, error)
            return
        mine.update(state=TableState.DROPPED)


@contextmanager
def _opened(
    source: AbstractContextManager[Extract], beat: Callable[[], None]
) -> Iterator[tuple[Extract, Callable[[], None]]]:
    """Open a source in another thread, since that may take long (a query runs first); close it at the end, or before.

    Closing it before the end makes a thread that waits for its rows give up.
    """
    with ExitStack() as stack:
        extract = call(source.__enter__, beat)
        stack.push(source.__exit__)
        yield extract, stack.close
