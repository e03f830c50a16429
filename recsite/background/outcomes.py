"""How tasks end, counted in Redis by whichever process sees it: `PREFIX:tasks` (hash), "TASK FIGURE" → number.

It never expires: its fields are the tasks that there are, times the figures. Where Redis loses it, counters begin at 0
again, as those of a process that was restarted do.
"""

from __future__ import annotations

import logging
import time
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import redis
from celery import states
from celery.signals import task_failure, task_postrun, task_prerun
from django.conf import settings

from models_registry.redis_clients import watching_client

log = logging.getLogger(__name__)

# Upper bounds in seconds; the last bucket has none.
DURATION_BOUNDS = (0.1, 1.0, 10.0, 60.0, 600.0, 3600.0)
BUCKETS = (*map(str, DURATION_BOUNDS), "+Inf")


@dataclass
class Outcomes:
    """How the runs of one task ended.

    Attributes:
        last_success: Unix seconds by the worker's clock; None if there was none.
        buckets: runs that ended, well or badly, by duration, not cumulated.
        seconds: that they took together.
    """

    last_success: float | None = None
    failures: int = 0
    buckets: dict[str, int] = field(default_factory=lambda: dict.fromkeys(BUCKETS, 0))
    seconds: float = 0.0


def tasks_name() -> str:
    """Return the Redis key of the hash."""
    return f"{settings.REDIS_PREFIX}:tasks"


def outcomes() -> dict[str, Outcomes]:
    """Return how tasks ended, by task.

    Raises:
        redis.RedisError, OSError: Redis does not say.
    """
    found: dict[str, Outcomes] = {}
    fields: Any = watching_client().hgetall(tasks_name())
    for raw, value in fields.items():
        task, _, figure = raw.decode().partition(" ")
        of = found.setdefault(task, Outcomes())
        if figure == "last_success":
            of.last_success = float(value)
        elif figure == "failures":
            of.failures = int(value)
        elif figure == "seconds":
            of.seconds = float(value)
        elif figure in of.buckets:
            of.buckets[figure] = int(value)
    return found


# By task id, in the process that runs it.
_began: dict[str, float] = {}


def _note_begin(task_id: str, **_: Any) -> None:
    _began[task_id] = time.monotonic()


def _note_end(sender: Any, task_id: str, state: str, **_: Any) -> None:
    began = _began.pop(task_id, None)
    if began is None or not _is_ours(sender.name):
        return
    seconds = time.monotonic() - began
    bucket = BUCKETS[bisect_left(DURATION_BOUNDS, seconds)]
    success = {"last_success": time.time()} if state == states.SUCCESS else {}
    _write(sender.name, {bucket: 1, "seconds": seconds}, success)


def _note_failure(sender: Any, **_: Any) -> None:
    """Count a failure; one that ended the task's process, or took too long, is seen by the process above it."""
    if _is_ours(sender.name):
        _write(sender.name, {"failures": 1}, {})


def _is_ours(task: str) -> bool:
    return not task.startswith("celery.")


def _write(task: str, added: Mapping[str, float], replaced: Mapping[str, float]) -> None:
    name = tasks_name()
    try:
        with watching_client().pipeline(transaction=False) as pipeline:
            for figure, number in added.items():
                if isinstance(number, int):
                    pipeline.hincrby(name, f"{task} {figure}", number)
                else:
                    pipeline.hincrbyfloat(name, f"{task} {figure}", number)
            for figure, number in replaced.items():
                pipeline.hset(name, f"{task} {figure}", str(number))
            pipeline.execute()
    except (redis.RedisError, OSError) as error:
        # The task's own end matters more, and most tasks need this Redis: they say so themselves.
        log.info("task.not_counted task=%s problem=%s", task, error)


def count_outcomes() -> None:
    """Have every task counted that this process runs or watches over."""
    task_prerun.connect(_note_begin, dispatch_uid="recsite.note_begin")
    task_postrun.connect(_note_end, dispatch_uid="recsite.note_end")
    task_failure.connect(_note_failure, dispatch_uid="recsite.note_failure")
