"""One run of a load through its states: extract, check, write, verify, activate. A dry run ends after the checks.

Nothing that it does is visible before the activation. However it ends before that, the table that was active stays so,
and what it had written is dropped. Two runs never work on one load: to begin is a conditional UPDATE, and a run that
was thought dead and taken over stops at its next write (`Pulse`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path

import redis
from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from models_registry.loading import steps
from models_registry.loading.activation import activate
from models_registry.loading.background import call
from models_registry.loading.checks import Expected, check_row_count
from models_registry.loading.comparisons import blocks_to_compare
from models_registry.loading.endings import TIME_LIMIT_SHARE, Ending, end, verdict
from models_registry.loading.pulse import Overtaken, Progress, Pulse
from models_registry.loading.report import Report, StageName
from models_registry.loading.sources import Confinement, Extract, open_source
from models_registry.loading.splitting import HandedOver, new_table, split
from models_registry.loading.staging import Staging
from models_registry.loading.steps import Work
from models_registry.loading.tables import TableInRedis
from models_registry.models import Load, LoadState, ProblemCode, Table, TableState
from serving.formats.keys import block_bits_for

log = logging.getLogger(__name__)

# A load whose run was lost this often is not begun again: it may be what kills the worker.
MAX_RUNS = 2
BEGUN_AGAIN = "The worker that ran this load before was lost (killed, or out of memory), so the load was begun again."


def run_load(load_id: int, *, listener: Callable[[Progress], None] | None = None) -> None:
    """Run a queued load to its end, whatever that is; the Load says it. Anything but a queued load is left alone.

    The listener is told how far the load is, about twice a second.
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
    related = ("version__model__tenant", "version__layout", "version__active_table__load", "requested_by", "waives")
    load = Load.objects.unscoped().select_related(*related).get(pk=load_id)
    if load.attempts > MAX_RUNS:
        problem = (
            f"The worker that ran this load was lost {MAX_RUNS} times (killed, or out of memory), "
            "so the load was not tried again."
        )
        lost = Ending(LoadState.FAILED, ProblemCode.WORKER_LOST, problem)
        end(Pulse(load, time_limit=settings.LOAD_TIME_LIMIT, listener=None), lost, Report())
        return None
    return load


def run_claimed(load: Load, *, listener: Callable[[Progress], None] | None = None) -> None:
    """Run a load that `claim` returned."""
    pulse = Pulse(load, time_limit=settings.LOAD_TIME_LIMIT * TIME_LIMIT_SHARE, listener=listener)
    work = Work(pulse, Report(notes=(BEGUN_AGAIN,) if load.attempts > 1 else ()))
    with ExitStack() as unless_active:
        try:
            with steps.workspace(f"{load.pk}-{load.attempts}") as folder:
                _go(work, folder, unless_active)
            log.info("load.done load=%s rows=%s", load.pk, pulse.rows_written)
        except HandedOver:
            log.info("load.split load=%s", load.pk)
        except Overtaken:
            log.warning("load.overtaken load=%s attempt=%s", load.pk, load.attempts)
        except KeyboardInterrupt:
            problem = "The load was interrupted from the keyboard."
            end(pulse, Ending(LoadState.FAILED, ProblemCode.WORKER_LOST, problem), work.report)
            raise
        except Exception as error:  # noqa: BLE001 - whatever it is, the load must say so; `verdict` logs it
            end(pulse, verdict(error, load), work.report)


def _go(work: Work, folder: Path, unless_active: ExitStack) -> None:
    """Go through all stages. `unless_active` takes what must be done when the run ends without an active table."""
    try:
        table = _prepare(work, folder, unless_active)
    finally:
        work.add_notes(*steps.notes_of_rests(work.pulse.seconds_rested))
    if table is None:
        work.pulse.enter(LoadState.CHECKED, report=work.report.as_json(), finished_at=timezone.now())
        return
    activate(work.pulse, table, report=work.report)
    unless_active.pop_all()
    work.pulse.tell(LoadState.ACTIVE)


def _prepare(work: Work, folder: Path, unless_active: ExitStack) -> Table | None:
    """Go through all stages but the last; return the table that waits for that, or None after a dry run."""
    load = work.pulse.load
    expected = steps.expected_of(load)
    source = _source(load, expected)
    split_if_large = partial(_split_if_large, work, expected)
    with steps.extract(work, source, expected, folder, before_rows=split_if_large) as staging:
        _check(work, staging, expected)
        if load.is_dry_run:
            return None
        table = _new_table(work, staging.rows, unless_active)
        lengths = steps.write(work, staging, table, rows_per_second=load.rows_per_second_limit)
        table.size_bytes = sum(lengths)
        Table.objects.unscoped().filter(pk=table.pk).update(size_bytes=table.size_bytes)
        work.pulse.enter(LoadState.VERIFYING)
        steps.verify(work, staging, table, lengths)
    return table


def _source(load: Load, expected: Expected) -> AbstractContextManager[Extract]:
    tenant = load.version.model.tenant
    confinement = Confinement(
        datasets=tuple(tenant.allowed_datasets),
        gs_prefixes=tuple(tenant.allowed_gs_prefixes),
        local_roots=tuple(tenant.allowed_local_roots),
    )
    return open_source(
        load.source_kind,
        load.source_location,
        confinement,
        expected.columns,
        labels=_labels(load),
        optional=expected.optional,
        texts=expected.texts,
    )


def _labels(load: Load) -> dict[str, str]:
    model = load.version.model
    return {"recsite_studio": model.tenant.slug, "recsite_model": model.slug, "recsite_load": str(load.pk)}


def _split_if_large(work: Work, expected: Expected, extract: Extract) -> None:
    """Have a source that is too large for one worker cut into ranges for all of them; this run then is over.

    Raises:
        HandedOver: that was done.
        Rejected: it has not the right columns, or not the right number of rows.
    """
    pulse, load, partition = work.pulse, work.pulse.load, extract.partition
    is_large = (extract.rows_expected or 0) >= settings.LOAD_SPLIT_ROWS
    if partition is None or not is_large or load.is_dry_run:
        return
    work.reject_if_failed()
    scratch = call(lambda: partition(expected.key_fields, _labels(load)), pulse.beat)
    work.add_checks(check_row_count(scratch.rows, expected))
    _drop_earlier_attempt(load)
    split(pulse, scratch, report=work.report)


def _check(work: Work, staging: Staging, expected: Expected) -> None:
    pulse, load = work.pulse, work.pulse.load
    pulse.enter(LoadState.CHECKING, report=work.report.as_json())
    with work.stage(StageName.CHECK), pulse.share.judged():
        steps.check_rows(work, staging, expected)
        if staging.key_fields:
            steps.check_spread(work, staging, expected)
    served = expected.served
    if served is not None and work.report.rows_are_good:
        end_block = blocks_to_compare(served.table, staging.rows, is_dry_run=load.is_dry_run)
        steps.compare(work, staging, expected, served, end_block=end_block, rows_of_whole=staging.rows)
    work.reject_if_failed()


def _new_table(work: Work, rows: int, unless_active: ExitStack) -> Table:
    """Record the table before its first block is written, so that none is ever lost sight of."""
    load = work.pulse.load
    _drop_earlier_attempt(load)
    with transaction.atomic():
        work.pulse.enter(LoadState.WRITING, report=work.report.as_json())
        table = new_table(load, rows, block_bits_for(rows))
    unless_active.callback(_drop, table)
    return table


def _drop_earlier_attempt(load: Load) -> None:
    earlier = Table.objects.unscoped().filter(load=load).exclude(state=TableState.DROPPED).first()
    if earlier is not None:
        TableInRedis.of(earlier).drop()


def _drop(table: Table) -> None:
    """Drop what a run wrote that did not become active. Redis away: a sweep does it later."""
    mine = Table.objects.unscoped().filter(table_id=table.table_id)
    mine.filter(state=TableState.WRITING).update(state=TableState.DROPPING)
    # It may be dropped already by those who took this run for dead, or its row be another run's by now: what was
    # written since is nobody's all the same.
    if mine.filter(state=TableState.READY).exists():
        return
    try:
        TableInRedis.of(table).drop()
    except redis.RedisError as error:
        log.warning("table.not_dropped table=%s problem=%s", table.table_id, error)
        return
    mine.update(state=TableState.DROPPED)
