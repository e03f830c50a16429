"""How a load ends that does not become active: in which state, and with which sentence for people."""

from __future__ import annotations

import logging

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
from models_registry.models import Load, LoadState
from tenants.rules import RuleBroken

log = logging.getLogger(__name__)

# A run ends itself somewhat before the worker would kill it, so that it can say why.
TIME_LIMIT_SHARE = 0.9


def verdict(error: Exception, load: Load) -> tuple[LoadState, str]:
    """Return how an error ends a load, and the sentence for it."""
    if isinstance(error, Rejected):
        return LoadState.REJECTED, str(error)
    if isinstance(error, Superseded):
        return LoadState.SUPERSEDED, str(error)
    if isinstance(error, SourceProblem | TableProblem | RuleBroken):
        return LoadState.FAILED, str(error)
    if isinstance(error, TookTooLong):
        return LoadState.FAILED, too_long(TIME_LIMIT_SHARE)
    log.error("load.broke load=%s", load.pk, exc_info=error)
    return LoadState.FAILED, _words(error)


def too_long(share: float = 1.0) -> str:
    """Return the sentence for a load that took longer than it may: this share of the operator's limit."""
    minutes = settings.LOAD_TIME_LIMIT.total_seconds() * share / 60
    return f"The load was stopped after {minutes:,.0f} minutes, the longest a load may take."


def _words(error: Exception) -> str:
    """Return the sentence for what the worker's surroundings did to a load."""
    if isinstance(error, redis.RedisError):
        is_full = isinstance(error, redis.OutOfMemoryError)
        reason = "its memory is full (maxmemory)" if is_full else shown(error)
        return f"The table could not be written to Redis: {reason}."
    if isinstance(error, duckdb.OutOfMemoryException | MemoryError):
        return "The rows need more memory than a load may use (RECSITE_LOAD_MEMORY_MB), or more disk to spill to."
    if isinstance(error, duckdb.IOException | OSError):
        return f"The worker's disk failed: {shown(error)}."
    return f"Something unexpected went wrong ({type(error).__name__}). The worker's log has the details."


def end(pulse: Pulse, state: LoadState, problem: str, report: Report) -> None:
    """Write down how a load ended."""
    try:
        pulse.enter(state, problem=problem, report=report.as_json(), finished_at=timezone.now())
    except Overtaken:
        log.warning("load.overtaken load=%s attempt=%s", pulse.load.pk, pulse.load.attempts)
    else:
        log.info("load.ended load=%s state=%s problem=%s", pulse.load.pk, state, problem)
        if state == LoadState.REJECTED:
            count_rejection(pulse.load, report)
