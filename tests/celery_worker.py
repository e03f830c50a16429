"""A real Celery worker and a real beat in processes of their own, and this process's Celery pointed at a broker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import current_app
from django.db import connection
from django_celery_beat.models import IntervalSchedule, PeriodicTask
from kombu import pools

from tests.doors.processes import ROOT, environment
from tests.warm_start import running_warm

PROJECT = ("-A", "recsite")


def point_celery_at(url: str) -> str:
    """Send this process's tasks to another broker; give the one before."""
    before = str(current_app.conf.broker_url)
    current_app.conf.broker_url = current_app.conf.broker_write_url = url
    pools.reset()
    current_app._pool = None
    current_app.amqp._producer_pool = None
    return before


@contextmanager
def celery_worker(redis_url: str, var_dir: Path, **env: str) -> Iterator[Path]:
    """Run a worker on the tests' own database until the block ends; gives its log."""
    own = environment(redis_url, var_dir, RECSITE_DATABASE_URL=_database_url(), **env)
    arguments = ["worker", "--concurrency", "1", "--pidfile", str(var_dir / "worker.pid"), "--loglevel", "INFO"]
    before = point_celery_at(redis_url)
    log = var_dir / "worker.log"
    try:
        with running_warm("celery", [*PROJECT, *arguments], own, log, cwd=ROOT):
            yield log
    finally:
        point_celery_at(before)


@contextmanager
def celery_beat(redis_url: str, var_dir: Path, **env: str) -> Iterator[Path]:
    """Run a beat on the tests' own database until the block ends; gives its log. It looks for work every second."""
    own = environment(redis_url, var_dir, RECSITE_DATABASE_URL=_database_url(), **env)
    arguments = ["beat", "--max-interval", "1", "--pidfile", str(var_dir / "beat.pid"), "--loglevel", "INFO"]
    log = var_dir / "beat.log"
    with running_warm("celery", [*PROJECT, *arguments], own, log, cwd=ROOT):
        yield log


def beat_every_second(task: str) -> None:
    """Have every beat that runs send one of its tasks once a second, as staff may in the admin."""
    entry = PeriodicTask.objects.get(name=task)
    entry.interval, _ = IntervalSchedule.objects.get_or_create(every=1, period=IntervalSchedule.SECONDS)
    entry.save()


def _database_url() -> str:
    return f"sqlite:///{connection.settings_dict['NAME']}"
