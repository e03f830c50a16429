"""What Prometheus is told of workers, loaders, beat and tasks, read from Redis when it asks a dashboard's process."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator

import redis
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from models_registry.loading.rejections import rejections
from recsite.background.heartbeats import Sign, signs
from recsite.background.outcomes import Outcomes, outcomes
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
DEFINITIONS = (HEARTBEAT, BUILD, FREE, LAST_SUCCESS, FAILURES, DURATION, REJECTIONS)


class BackgroundCollector(Collector):
    """Reads the numbers when they are asked for. Eight commands of Redis."""

    @override
    def collect(self) -> Iterator[Metric]:
        try:
            given, tasks, rejected = list(signs()), outcomes(), rejections()
        except (redis.RedisError, OSError) as error:
            log.warning("metrics.no_redis problem=%s", error)
            return
        yield _of_rejections(rejected)
        yield from _of_signs(given)
        yield from _of_tasks(tasks)

    def describe(self) -> Iterator[Metric]:
        """Yield the families without values: registering must not ask Redis."""
        yield _of_rejections({})
        yield from _of_signs([])
        yield from _of_tasks({})


def _of_rejections(rejected: dict[tuple[str, str], int]) -> Metric:
    family = CounterMetricFamily(REJECTIONS.name, REJECTIONS.help, labels=REJECTIONS.labels)
    for labels, count in rejected.items():
        family.add_metric(labels, count)
    return family


def _of_signs(given: list[Sign]) -> Iterator[Metric]:
    now = time.time()
    heartbeats, builds, free = (
        GaugeMetricFamily(definition.name, definition.help, labels=definition.labels)
        for definition in (HEARTBEAT, BUILD, FREE)
    )
    for component, age_seconds, told in given:
        heartbeats.add_metric([component], now - age_seconds)
        if told is not None:
            builds.add_metric([component, told.version, told.commit], 1)
            if told.free is not None:
                free.add_metric([component], told.free)
    yield from (heartbeats, builds, free)


def _of_tasks(tasks: dict[str, Outcomes]) -> Iterator[Metric]:
    last = GaugeMetricFamily(LAST_SUCCESS.name, LAST_SUCCESS.help, labels=LAST_SUCCESS.labels)
    failures = CounterMetricFamily(FAILURES.name, FAILURES.help, labels=FAILURES.labels)
    duration = HistogramMetricFamily(DURATION.name, DURATION.help, labels=DURATION.labels)
    for task, of in sorted(tasks.items()):
        if of.last_success is not None:
            last.add_metric([task], of.last_success)
        failures.add_metric([task], of.failures)
        total = 0
        cumulated: list[tuple[str, float]] = []
        for bound, count in of.buckets.items():
            total += count
            cumulated.append((bound, total))
        duration.add_metric([task], cumulated, of.seconds)
    yield from (last, failures, duration)
