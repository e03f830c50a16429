"""What Prometheus is told of workers, loaders, beat and tasks, read from Redis when it asks a dashboard's process."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from itertools import accumulate

import redis
from prometheus_client.metrics_core import HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from models_registry.loading.rejections import rejections
from recsite.background.heartbeats import Sign, signs
from recsite.background.outcomes import Outcomes, outcomes
from recsite.metrics.families import Values, families
from serving.metrics import Definition

log = logging.getLogger(__name__)

HEARTBEAT = Definition(
    "recsite_heartbeat_timestamp_seconds",
    "gauge",
    "When a worker, a loader or beat last gave a sign of life: the last of them where there are several. Each gives "
    "one every 5 s; a kind that was silent for a week is not shown.",
    ("component",),
)
LAST_SUCCESS = Definition(
    "recsite_task_last_success_timestamp_seconds", "gauge", "When a task of the background last ended well.", ("task",)
)
FAILURES = Definition(
    "recsite_task_failures_total",
    "counter",
    "Runs of a task that ended in an error, took too long or lost their process. A load that is rejected or fails is "
    "none: its task has done its work.",
    ("task",),
)
DURATION = Definition(
    "recsite_task_duration_seconds", "histogram", "Time that runs of a task took, well ended or not.", ("task",)
)
BUILD = Definition(
    "recsite_background_build_info",
    "gauge",
    "1, by what the last worker, loader or beat runs that gave a sign of life.",
    ("component", "version", "commit"),
)
FREE = Definition(
    "recsite_background_var_free_ratio",
    "gauge",
    "What is free, of 1, of the disk that its RECSITE_VAR_DIR is on.",
    ("component",),
)
REJECTIONS = Definition(
    "recsite_load_rejections_total",
    "counter",
    "Rejected loads by the kind of check that stopped them, such as values, no nulls, row count; one that several "
    "stopped counts for each.",
    ("tenant", "check"),
)
_PLAIN = (HEARTBEAT, BUILD, FREE, LAST_SUCCESS, FAILURES, REJECTIONS)
DEFINITIONS = (*_PLAIN, DURATION)


class BackgroundCollector(Collector):
    """Reads the numbers when they are asked for. Eight commands of Redis."""

    @override
    def collect(self) -> Iterator[Metric]:
        try:
            given, tasks, rejected = list(signs()), outcomes(), rejections()
        except (redis.RedisError, OSError) as error:
            log.warning("metrics.no_redis problem=%s", error)
            return
        yield from families(_PLAIN, _values(rejected, given, tasks))
        yield _durations(tasks)

    def describe(self) -> Iterator[Metric]:
        """Yield the families without values: registering must not ask Redis."""
        yield from families(_PLAIN, {})
        yield _durations({})


def _values(rejected: dict[tuple[str, str], int], given: list[Sign], tasks: dict[str, Outcomes]) -> Values:
    now = time.time()
    told = [(component, told) for component, _, told in given if told is not None]
    return {
        REJECTIONS.name: {(tenant, check): count for (tenant, check), count in rejected.items()},
        HEARTBEAT.name: {(component,): now - age_seconds for component, age_seconds, _ in given},
        BUILD.name: {(component, of.version, of.commit): 1 for component, of in told},
        FREE.name: {(component,): of.free for component, of in told if of.free is not None},
        LAST_SUCCESS.name: {(task,): of.last_success for task, of in tasks.items() if of.last_success is not None},
        FAILURES.name: {(task,): of.failures for task, of in tasks.items()},
    }


def _durations(tasks: dict[str, Outcomes]) -> Metric:
    family = HistogramMetricFamily(DURATION.name, DURATION.help, labels=DURATION.labels)
    for task, of in sorted(tasks.items()):
        totals = accumulate(of.buckets.values())
        family.add_metric([task], list(zip(of.buckets, totals, strict=True)), of.seconds)
    return family
