"""How a load ends that does not become active: in which state, and with which sentence for people."""

from __future__ import annotations

import logging
from typing import NamedTuple

import duckdb
import redis
from django.conf import settings
from django.utils import timezone

from models_registry.loading.columns import shown
from models_registry.loading.pulse import Overtaken, Pulse, Superseded, TookTooLong
from models_registry.loading.rejections import count_rejection
from models_registry.loading.report import Report
from models_registry.loading.sources import SourceProblem
from models_registry.loading.splitting import Rejected
from models_registry.loading.tables import TableProblem
from models_registry.models import Load, LoadState, ProblemCode
from tenants.rules import RuleBroken

log = logging.getLogger(__name__)

# A run ends itself somewhat before the worker would kill it, so that it can say why.
TIME_LIMIT_SHARE = 0.9


class Ending(NamedTuple):
    """How a load ends: in which state, why for programs, and why in a sentence for people."""

    state: LoadState
    code: ProblemCode
    problem: str


def verdict(error: Exception, load: Load) -> Ending:
    """Return how an error ends a load."""
    if isinstance(error, Rejected):
        return Ending(LoadState.REJECTED, ProblemCode.ROWS_WRONG, str(error))
    if isinstance(error, Superseded):
        return Ending(LoadState.SUPERSEDED, ProblemCode.SUPERSEDED, str(error))
    if isinstance(error, SourceProblem):
        return Ending(LoadState.FAILED, error.code, str(error))
    if isinstance(error, TableProblem):
        return Ending(LoadState.FAILED, ProblemCode.TABLE_DAMAGED, str(error))
    if isinstance(error, RuleBroken):
        return Ending(LoadState.FAILED, ProblemCode.REFUSED, str(error))
    if isinstance(error, TookTooLong):
        return Ending(LoadState.FAILED, ProblemCode.TOOK_TOO_LONG, too_long(TIME_LIMIT_SHARE))
    log.error("load.broke load=%s", load.pk, exc_info=error)
    return Ending(LoadState.FAILED, *_of_surroundings(error))


def too_long(share: float = 1.0) -> str:
    """Return the sentence for a load that took longer than it may: this share of the operator's limit."""
    minutes = settings.LOAD_TIME_LIMIT.total_seconds() * share / 60
    return f"The load was stopped after {minutes:,.0f} minutes, the longest a load may take."


def _of_surroundings(error: Exception) -> tuple[ProblemCode, str]:
    """Return what the worker's surroundings did to a load."""
    if isinstance(error, redis.OutOfMemoryError):
        return ProblemCode.REDIS_FULL, "The table could not be written to Redis: its memory is full (maxmemory)."
    if isinstance(error, redis.RedisError):
        return ProblemCode.REDIS_UNAVAILABLE, f"The table could not be written to Redis: {shown(error)}."
    if isinstance(error, duckdb.OutOfMemoryException | MemoryError):
        return (
            ProblemCode.OUT_OF_MEMORY,
            "The rows need more memory than a load may use (RECSITE_LOAD_MEMORY_MB), or more disk to spill to.",
        )
    if isinstance(error, duckdb.IOException | OSError):
        return ProblemCode.DISK_FAILED, f"The worker's disk failed: {shown(error)}."
    return (
        ProblemCode.UNEXPECTED,
        f"Something unexpected went wrong ({type(error).__name__}). The worker's log has the details.",
    )


def end(pulse: Pulse, ending: Ending, report: Report) -> None:
    """Write down how a load ended."""
    state, code, problem = ending
    if state == LoadState.REJECTED and report.may_be_waived:
        code = ProblemCode.TOO_DIFFERENT
    now = timezone.now()
    try:
        pulse.enter(state, problem=problem, problem_code=code, report=report.as_json(), finished_at=now)
    except Overtaken:
        log.warning("load.overtaken load=%s attempt=%s", pulse.load.pk, pulse.load.attempts)
    else:
        # The sentence, which the load's page has, may name a key: a player.
        log.info("load.ended load=%s state=%s problem_code=%s", pulse.load.pk, state, code)
        if state == LoadState.REJECTED:
            count_rejection(pulse.load, report)
