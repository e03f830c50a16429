"""The loader's Celery tasks: ids in, one call, and nothing that happens twice if a task is delivered twice."""

from __future__ import annotations

from celery import shared_task
from django.conf import settings
from django.utils import timezone

from models_registry.loading import ranges, repair, upkeep
from models_registry.loading.pacing import yield_to_others
from models_registry.loading.running import run_load

SWEEP_SECONDS = 30


@shared_task(name="loading.run")
def run(load_id: int) -> None:
    """Run a queued load. Its time limit is the worker's own (RECSITE_LOAD_TIME_LIMIT_SECONDS)."""
    if settings.LOAD_YIELDS:
        yield_to_others()
    run_load(load_id)


@shared_task(name="loading.run_range")
def run_range(range_id: int) -> None:
    """Run a range of a large load that waits."""
    if settings.LOAD_YIELDS:
        yield_to_others()
    ranges.run_range(range_id)


@shared_task(name="loading.finish_ranges")
def finish_ranges(load_id: int) -> None:
    """Verify and activate a large load whose ranges are all written."""
    ranges.finish(load_id)


@shared_task(name="loading.repair", time_limit=120)
def repair_tables() -> None:
    """Have what Redis lost loaded again. Beat runs it every 10 s."""
    repair.repair_all(timezone.now())


@shared_task(name="loading.sweep", time_limit=300)
def sweep() -> None:
    """Mend what lost workers left behind. Beat runs it every 30 s."""
    # A drop that waits longer than until the next sweep is asked for again by that one.
    upkeep.sweep(timezone.now(), lambda pk: drop_table.apply_async((pk,), expires=SWEEP_SECONDS))


@shared_task(name="loading.drop_table", time_limit=3600)
def drop_table(table_pk: int) -> None:
    """Drop a table that nobody needs any more, slowly."""
    upkeep.drop(table_pk, timezone.now())
