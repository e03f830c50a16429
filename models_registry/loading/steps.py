"""The steps of a run, from an open source to verified blocks, which whole loads and ranges of large ones share.

`running` puts them together for a whole load, `ranges` for a range. What they find is in the report of the `Work` that
they share, also when one of them fails.
"""

from __future__ import annotations

import random
import shutil
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import redis
from django.conf import settings

from models_registry.loading import checks
from models_registry.loading.background import call
from models_registry.loading.checks import Expected, check_columns
from models_registry.loading.columns import shortened, shown
from models_registry.loading.comparisons import check_coverage, compare_distributions, difference_report
from models_registry.loading.cutting import BlockCutter, Cut
from models_registry.loading.difference import find_difference
from models_registry.loading.pacing import Pacer
from models_registry.loading.pulse import Pulse
from models_registry.loading.report import Check, Report, Sample, Stage, StageName
from models_registry.loading.requests import failed_checks
from models_registry.loading.served import Served, served_before
from models_registry.loading.sources import Extract
from models_registry.loading.splitting import Rejected
from models_registry.loading.staging import InvalidText, Staging
from models_registry.loading.tables import TableInRedis, TableProblem
from models_registry.models import Load, LoadState, Table
from serving.formats.layouts import BadLayout, Layout
from serving.tracing import span

ROWS_LOOKED_UP = 200
# A new version is trained to answer otherwise, so its values may be spread so many times as differently; not all alike.
OF_ANOTHER_MODEL = 10


@dataclass
class _Timed:
    """A stage under way. `rows` is how many it has gone through; None: as many as were read."""

    rows: int | None = None


@dataclass
class Work:
    """What the steps of one run share: its hold on its load, what was found so far, and the source's columns."""

    pulse: Pulse
    report: Report = field(default_factory=Report)
    schema: pa.Schema = field(default_factory=lambda: pa.schema([]))

    def add_checks(self, *found: Check) -> None:
        """Put checks into the report."""
        self.report = self.report.plus(checks=found)

    def add_notes(self, *notes: str) -> None:
        """Put notes into the report."""
        self.report = self.report.plus(notes=notes)

    @contextmanager
    def stage(self, name: StageName) -> Iterator[_Timed]:
        """Put a stage's time and rate into the report, also if it fails."""
        began = time.monotonic()
        timed = _Timed()
        try:
            with span(f"load.{name}", load=self.pulse.load.pk):
                yield timed
        finally:
            rows = self.pulse.rows_read if timed.rows is None else timed.rows
            self.report = self.report.plus(stages=[Stage.of(name, time.monotonic() - began, rows)])

    def reject_if_failed(self) -> None:
        """Raise Rejected if a check failed and was not waived."""
        if problem := self.report.problem:
            raise Rejected(problem)


@contextmanager
def workspace(name: str) -> Iterator[Path]:
    """Yield a run's own folder, and leave nothing of it. The sweep knows by its name whose it is."""
    folder = settings.LOAD_WORKSPACE_DIR / name
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def expected_of(load: Load) -> Expected:
    """Return what a load's rows are held against.

    Raises:
        Rejected: the version's layout cannot be read.
    """
    version, model = load.version, load.version.model
    try:
        layout = Layout.parse(version.layout.fields)
        served = served_before(load)
    except BadLayout as error:
        raise Rejected(f"The version's layout is damaged: {error}.") from None
    is_first = served is None or bool(served.name)
    distribution = served.distribution if served else None
    return Expected(
        key_fields=tuple(model.key_fields),
        layout=layout,
        active_rows=served.table.row_count if served and not is_first else None,
        max_row_count_change=model.max_row_count_change,
        max_psi=model.max_psi * (OF_ANOTHER_MODEL if is_first else 1),
        min_coverage=model.min_coverage,
        served=served,
        distribution=distribution.fields if distribution else (),
        waived=frozenset(failed_checks(load.waives) if load.waives else ()),
    )


def notes_of_rests(seconds: float, *, who: str = "It") -> list[str]:
    """Return what a report says of so much rest."""
    return [f"{who} rested for {seconds:,.0f} s, so as not to hold up others."] if seconds >= 1 else []


# --- Extract ----------------------------------------------------------------------------------------------------------


@contextmanager
def extract(
    work: Work,
    source: AbstractContextManager[Extract],
    expected: Expected,
    folder: Path,
    *,
    shared_bits: int = 0,
    before_rows: Callable[[Extract], None] | None = None,
) -> Iterator[Staging]:
    """Read a source into DuckDB; the rows are there while the block lasts, the source is closed by then.

    `before_rows` is called when the columns are known; what it raises ends the run. `shared_bits` is as in `Staging`.

    Raises:
        Rejected: no column can be read, or a text is not UTF-8.
        SourceProblem: the source cannot be read.
    """
    pulse = work.pulse
    with ExitStack() as stack:
        with work.stage(StageName.EXTRACT), _opened(source, pulse.beat) as (opened, close):
            fields = {"rows_expected": opened.rows_expected, "source_snapshot_at": opened.snapshot_at}
            pulse.enter(LoadState.EXTRACTING, **fields)
            work.schema = opened.schema
            work.report = work.report.having(files=opened.files)
            check, usable = check_columns(opened.schema, expected, opened.extra_columns)
            work.add_notes(*_notes_of_columns(opened, expected))
            work.add_checks(check)
            if not usable:  # no row can be read, so there is nothing more to find
                raise Rejected(work.report.problem)
            if before_rows is not None:
                before_rows(opened)
            staging = stack.enter_context(
                Staging(
                    folder,
                    columns=usable,
                    key_fields=expected.key_fields,
                    layout=expected.layout,
                    memory_mb=settings.LOAD_MEMORY_MB,
                    shared_bits=shared_bits,
                )
            )
            _fill(work, staging, opened, close)
        yield staging


@contextmanager
def _opened(
    source: AbstractContextManager[Extract], beat: Callable[[], None]
) -> Iterator[tuple[Extract, Callable[[], None]]]:
    """Open a source in another thread, since that may take long (a query runs first); close it at the end, or before.

    Closing it before the end makes a thread that waits for its rows give up.
    """
    with ExitStack() as stack:
        opened = call(source.__enter__, beat)
        stack.push(source.__exit__)
        yield opened, stack.close


def _notes_of_columns(opened: Extract, expected: Expected) -> Iterator[str]:
    if opened.extra_columns:
        names = ", ".join(map(shown, opened.extra_columns))
        yield f"Left out, because neither key nor layout has them: {names}."
    for layout_field in expected.layout.fields:
        if layout_field.is_optional and layout_field.name not in opened.schema.names:
            yield f"The optional column {layout_field.name} is not in the source: it is absent in every row."


def _fill(work: Work, staging: Staging, opened: Extract, close: Callable[[], None]) -> None:
    pulse = work.pulse
    filling = staging.fill(
        opened.schema, opened.batches, pulse.beat, may_be_ahead=lambda: not pulse.share.is_wanted, cancel=close
    )
    try:
        with pulse.share.judged(), closing(filling):
            for rows in filling:
                pulse.rows_read = rows
                pulse.beat()
    except InvalidText as problem:
        sample = Sample(problem.row, "", "bytes that are not text")
        work.add_checks(Check(f"{problem.column}: text", passed=False, count=1, words=str(problem), samples=(sample,)))
        raise Rejected(work.report.problem) from None


# --- Check ------------------------------------------------------------------------------------------------------------


def check_rows(
    work: Work, staging: Staging, expected: Expected, *, block_bits: int | None = None, left_out: Collection[str] = ()
) -> None:
    """Check the rows by themselves.

    Where they are only a part of the table to be made, `block_bits` is of that, and `left_out` names the checks that
    say nothing about a part.
    """
    found = checks.check_rows(staging, work.schema, expected, work.pulse.beat, block_bits=block_bits)
    work.add_checks(*(check for check in found if check.name not in left_out))
    # The packer's judgement of a value is exact; SQL's is not.
    refused = staging.buckets.refused
    if refused is None or not work.report.rows_are_good:
        return
    row = refused.row
    key = shown(staging.keys_of([row], work.pulse.beat)[row])
    words = f"column {refused.field}, row {row + 1:,} (key {key}): {shortened(refused.reason)}"
    sample = Sample(row + 1, key, shown(refused.reason))
    work.add_checks(Check(f"{refused.field}: values", passed=False, count=1, words=words, samples=(sample,)))


def check_spread(work: Work, staging: Staging, expected: Expected) -> None:
    """Measure how the values are spread, and compare that with the served table."""
    work.report, found = compare_distributions(work.report, staging, expected)
    # Where single rows are wrong, how all of them are spread says nothing more.
    if work.report.rows_are_good:
        work.add_checks(*found)


def compare(
    work: Work, staging: Staging, expected: Expected, served: Served, *, end_block: int, rows_of_whole: int
) -> None:
    """Find the difference of good rows from the served table, in its blocks before `end_block`.

    That the table cannot be read is no fault of this load.
    """
    beat, table = work.pulse.beat, served.table
    with work.stage(StageName.COMPARE) as timed:
        timed.rows = 0
        try:
            found = find_difference(staging.buckets, table, served.layout, beat, end_block=end_block)
        except (TableProblem, redis.RedisError) as error:
            work.add_notes(f"Not compared row by row with the served table: {shown(error)}")
            return
        timed.rows = found.rows
        if served.layout.fields == expected.layout.fields:
            difference = difference_report(found, served, staging, beat, rows=rows_of_whole)
            work.report = work.report.having(difference=difference)
    work.add_checks(check_coverage(found, expected))


# --- Write and verify -------------------------------------------------------------------------------------------------


def write(
    work: Work, staging: Staging, table: Table, *, rows_per_second: int | None, blocks: range | None = None
) -> list[int]:
    """Write some blocks of a table (None: all) from their rows; return the length of each in bytes.

    It writes at most `rows_per_second`; None: as fast as serving allows.

    Raises:
        redis.RedisError: Redis is away, or its memory is full.
        TableProblem: not every replica took what was written in time.
    """
    lengths: list[int] = []
    in_redis = TableInRedis.of(table)
    with work.stage(StageName.WRITE):
        per_block = table.row_count / len(in_redis.blocks)
        pacer = Pacer(in_redis.client, rows_per_second=rows_per_second, rows_per_block=per_block, rest=work.pulse.rest)
        cuts = _cuts(work.pulse, staging, table.block_bits, in_redis.blocks if blocks is None else blocks)
        with closing(in_redis.write(cuts, lengths, pacer=pacer)) as sent:
            for _ in sent:
                work.pulse.beat()
    return lengths


def _cuts(pulse: Pulse, staging: Staging, block_bits: int, blocks: range) -> Iterator[Cut]:
    cutter = BlockCutter(staging.buckets.layout.payload_width, blocks.start, blocks.stop)
    for rows in staging.buckets.in_block_order(block_bits):
        yield cutter.add(rows.blocks, rows.fingerprints, rows.payloads)
        pulse.rows_written += rows.payloads.rows
    yield cutter.finish()


def verify(work: Work, staging: Staging, table: Table, lengths: list[int], *, start: int = 0) -> None:
    """Read back how long each written block is, from block `start` on, and look some rows up.

    Raises:
        TableProblem: something is not as it was written.
    """
    beat, in_redis, layout = work.pulse.beat, TableInRedis.of(table), staging.buckets.layout
    with work.stage(StageName.VERIFY):
        in_redis.verify_lengths(lengths, beat, start=start)
        chosen = random.sample(range(staging.rows), min(ROWS_LOOKED_UP, staging.rows))
        if chosen:
            in_redis.verify_rows(layout, staging.records(chosen, [known.name for known in layout.fields], beat))
