"""A real Celery worker in a process of its own, and this process's Celery pointed at a broker."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from celery import current_app
from django.db import connection
from kombu import pools

from tests.doors.processes import environment, running


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
    own = environment(redis_url, var_dir, RECSITE_DATABASE_URL=f"sqlite:///{connection.settings_dict['NAME']}", **env)
    arguments = [sys.executable, "-m", "celery", "-A", "recsite", "worker", "--concurrency", "1", "--loglevel", "INFO"]
    before = point_celery_at(redis_url)
    log = var_dir / "worker.log"
    try:
        with running(arguments, own, log):
            yield log
    finally:
        point_celery_at(before)
