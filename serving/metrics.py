"""What serving counts: plain integers while it works, Prometheus' text when somebody asks.

A process has one `Numbers`. The lane's workers write theirs to a file once a second (`WorkerFile`), and the process
above them answers `/metrics` for all of them (`Workers`); the DRF door registers a `NumbersCollector` in the registry
of the process it lives in. Names, labels and help are in `DEFINITIONS` alone; `docs/metrics.md` is made from it.
"""

from __future__ import annotations

import os
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from operator import add
from pathlib import Path
from typing import Literal, NamedTuple, get_args

import msgspec
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from serving.formats.tokens import TokenRefusal
from serving.http import NO_ANSWER, Error, Exposure, Response
from serving.whole_files import replace_whole

# A worker that has not written for this long is not counted in gauges: it hangs, or its machine slept.
STALE_SECONDS = 10


class Definition(NamedTuple):
    """One metric.

    Attributes:
        across: how a gauge's values of several processes make one.
    """

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    help: str
    labels: tuple[str, ...] = ()
    across: Literal["sum", "max", "min"] = "sum"


DEFINITIONS = (
    Definition("recsite_requests_total", "counter", "Requests for recommendations, by HTTP status.", ("status",)),
    Definition(
        "recsite_exposures_total",
        "counter",
        "Answers by tenant, model, version and where they came from: table, default, fallback, or none (a 204). "
        "Each key of a batch counts, and so does an answer that the client was told it still holds (304).",
        ("tenant", "model", "version", "source"),
    ),
    Definition(
        "recsite_tenant_requests_total",
        "counter",
        "Requests by tenant and class: ok (from a table), default, fallback, none (a 204), 4xx, 429 (not among the "
        "4xx), 5xx. Each key of a batch counts. The tenant is empty where no accepted token said whose it was.",
        ("tenant", "class"),
    ),
    Definition(
        "recsite_rate_limited_total",
        "counter",
        "Requests over a limit (429), a batch once: credential's, tenant's, or of tokens found bad (bad_tokens).",
        ("tenant", "limit"),
    ),
    Definition(
        "recsite_token_refusals_total",
        "counter",
        "Requests without a token that is accepted (401), by why: missing, malformed, unknown_credential, revoked (of "
        "a known credential, with a retired secret or under a master key that this process was not given), signature, "
        "expired, clock (valid only in the future), claims (audience, issuer, tenant, length of life, sub).",
        ("reason",),
    ),
    Definition(
        "recsite_request_duration_seconds",
        "histogram",
        "Time from when a request is here as a whole to its answer, without the network, by outcome: cached (answered "
        "without Redis), redis, batch (of several keys), refused (an error that took no look at a table).",
        ("outcome",),
    ),
    Definition("recsite_requests_in_flight", "gauge", "Requests that wait for Redis."),
    Definition("recsite_unexpected_errors_total", "counter", "Requests that met a defect of this program (503)."),
    Definition(
        "recsite_snapshot_refusals_total",
        "counter",
        "Snapshots refused, by why: unreadable (damaged, unsigned, or an unknown key), outdated (older than the one "
        "in use) or contradictory.",
        ("reason",),
    ),
    Definition(
        "recsite_snapshot_age_seconds",
        "gauge",
        "Time since the control plane signed the stalest tenant's snapshot, or that it still holds, which is read once "
        "a minute. +Inf where nothing is known.",
        across="max",
    ),
    Definition(
        "recsite_snapshot_poll_age_seconds",
        "gauge",
        "Time since the map of revisions was last read from Redis, or since the start if it never was.",
        across="max",
    ),
    Definition("recsite_tenants", "gauge", "Tenants known that have not ended.", across="min"),
    Definition(
        "recsite_tenants_expected", "gauge", "Tenants that the map of revisions promises, ended ones too.", across="max"
    ),
    Definition(
        "recsite_snapshots_missing",
        "gauge",
        "Tenants that are promised and of whom no snapshot could be had: callers that nobody knows get 503.",
        across="max",
    ),
    Definition(
        "recsite_clock_skew_seconds",
        "gauge",
        "By how much, at least, the clock of this machine differs from the control plane's, by what that signs; 0 "
        "where they may agree (within 5 s). Tokens are refused from 30 s on.",
        across="max",
    ),
    Definition("recsite_redis_connected", "gauge", "Processes whose connection for blocks works."),
    Definition("recsite_redis_reads_total", "counter", "Blocks asked of Redis."),
    Definition("recsite_redis_batches_total", "counter", "Writes to Redis that carried them; several share one."),
    Definition("recsite_redis_errors_total", "counter", "Blocks not read because Redis was away or said no."),
    Definition("recsite_redis_timeouts_total", "counter", "Blocks not read because Redis missed the deadline."),
    Definition("recsite_lost_blocks_total", "counter", "Blocks of tables in use that were missing or damaged."),
    Definition("recsite_block_cache_hits_total", "counter", "Blocks found in the process's own cache."),
    Definition("recsite_block_cache_bytes", "gauge", "Memory that those caches take."),
    Definition("recsite_workers", "gauge", "Worker processes that serve."),
    Definition(
        "recsite_build_info",
        "gauge",
        "1, by what runs: the release, and the commit that it was built from (RECSITE_COMMIT).",
        ("version", "commit"),
        across="max",
    ),
    Definition(
        "recsite_var_free_ratio",
        "gauge",
        "What is free, of 1, of the disk that RECSITE_VAR_DIR is on; missing where it is not there.",
        across="min",
    ),
    Definition(
        "recsite_numbers_write_failures_total",
        "counter",
        "Times that a worker could not leave its numbers for /metrics, as on a full disk.",
    ),
)

# Counters without labels, and the attribute of `Numbers` that each is.
_UNLABELLED = {
    definition.name: definition.name.removeprefix("recsite_").removesuffix("_total")
    for definition in DEFINITIONS
    if definition.kind == "counter" and not definition.labels
}
# Upper bounds in seconds; the last bucket has none.
LATENCY_BOUNDS = (0.0005, 0.001, 0.002, 0.003, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.25, 1.0)
# Requests by latency bucket, not cumulated; at last the sum of their latencies.
Buckets = list[float]
_SUM = -1
OUTCOMES = ("cached", "redis", "batch", "refused")


class Reading(msgspec.Struct):
    """A process's numbers at one moment, in a form that can be written and added up.

    Attributes:
        values: of every counter and gauge, by metric name, then by label values; without those that `told_apart` adds.
        errors: how many there were.
        tenants: those that are known: who asks nothing is shown as that.
        buckets: by outcome.
    """

    values: dict[str, dict[tuple[str, ...], float]] = {}
    errors: dict[Error, int] = {}
    tenants: list[str] = []
    buckets: dict[str, Buckets] = msgspec.field(
        default_factory=lambda: {outcome: [0.0] * (len(LATENCY_BOUNDS) + 2) for outcome in OUTCOMES}
    )


class Numbers:
    """What one process counts. Adding to it costs tens of nanoseconds and takes no lock.

    Attributes are the metrics' names without prefix and suffix. A thread may lose another's addition: several hold a
    lock around `observe`, as the DRF door does.

    Attributes:
        cached: what `observe` adds latencies of requests to that Redis was not asked about, as is `redis` of others.
    """

    def __init__(self) -> None:
        self.requests: dict[int, int] = {}
        self.exposures: dict[Exposure, int] = {}
        self.snapshot_refusals: dict[str, int] = {}
        self.errors: dict[Error, int] = {}
        self.unexpected_errors = 0
        self.redis_reads = 0
        self.redis_batches = 0
        self.redis_errors = 0
        self.redis_timeouts = 0
        self.lost_blocks = 0
        self.block_cache_hits = 0
        self.numbers_write_failures = 0
        self.gauges: dict[str, float] = {}
        self._buckets = Reading().buckets
        self.cached, self.redis, self._batch, self._refused = self._buckets.values()

    def observe(self, response: Response, seconds: float, buckets: Buckets) -> None:
        """Count an answer that took this long; to `cached` or `redis`, where it is of one key."""
        status = response.status
        requests = self.requests
        requests[status] = requests.get(status, 0) + 1
        exposures = self.exposures
        for exposure in response.exposures:
            exposures[exposure] = exposures.get(exposure, 0) + 1
        if response.errors:
            errors = self.errors
            for error in response.errors:
                errors[error] = errors.get(error, 0) + 1
            if not response.exposures:
                buckets = self._refused
            elif status == 200:
                buckets = self._batch
        if len(response.exposures) > 1:
            buckets = self._batch
        buckets[bisect_left(LATENCY_BOUNDS, seconds)] += 1
        buckets[_SUM] += seconds
        if response.lost:
            self.lost_blocks += len(response.lost)

    def refuse(self, response: Response) -> None:
        """Count the answer to what was no request, or too much of one; it took no time that would say something."""
        self.requests[response.status] = self.requests.get(response.status, 0) + 1
        for error in response.errors:
            self.errors[error] = self.errors.get(error, 0) + 1

    def refuse_snapshot(self, reason: str) -> None:
        """Count a snapshot that was refused."""
        self.snapshot_refusals[reason] = self.snapshot_refusals.get(reason, 0) + 1

    def reading(self, tenants: Iterable[str] = ()) -> Reading:
        """Return the numbers as they stand, and which tenants are known."""
        values: dict[str, dict[tuple[str, ...], float]] = {
            "recsite_requests_total": {(str(status),): count for status, count in tuple(self.requests.items())},
            "recsite_exposures_total": {tuple(exposure): count for exposure, count in tuple(self.exposures.items())},
            "recsite_snapshot_refusals_total": {(why,): count for why, count in tuple(self.snapshot_refusals.items())},
            **{name: {(): getattr(self, attribute)} for name, attribute in _UNLABELLED.items()},
            **{name: {(): value} for name, value in self.gauges.items()},
        }
        buckets = {outcome: list(buckets) for outcome, buckets in self._buckets.items()}
        return Reading(values, dict(self.errors), list(tenants), buckets)


# --- Several processes as one ---------------------------------------------------------------------------------------


def combined(readings: Iterable[Reading]) -> Reading:
    """Return one reading for several processes."""
    total = Reading()
    for reading in readings:
        for definition in DEFINITIONS:
            _add(total, reading, definition)
        for error, count in reading.errors.items():
            total.errors[error] = total.errors.get(error, 0) + count
        total.tenants = sorted({*total.tenants, *reading.tenants})
        for outcome, buckets in total.buckets.items():
            buckets[:] = map(add, buckets, reading.buckets[outcome])
    return total


def _without_gauges(reading: Reading) -> Reading:
    names = {definition.name for definition in DEFINITIONS if definition.kind == "counter"}
    values = {name: values for name, values in reading.values.items() if name in names}
    return Reading(values, reading.errors, [], reading.buckets)


def _add(total: Reading, reading: Reading, definition: Definition) -> None:
    sums = total.values.setdefault(definition.name, {})
    for labels, value in reading.values.get(definition.name, {}).items():
        if labels not in sums:
            sums[labels] = value
        elif definition.across == "sum":
            sums[labels] += value
        else:
            sums[labels] = (max if definition.across == "max" else min)(sums[labels], value)


def told_apart(reading: Reading) -> dict[str, dict[tuple[str, ...], float]]:
    """Return the counters that follow from exposures and errors, so that no request need count them."""
    refusals: dict[tuple[str, ...], float] = {(reason,): 0 for reason in get_args(TokenRefusal)}
    limited: dict[tuple[str, ...], float] = {}
    requests: dict[tuple[str, ...], float] = {(tenant, "ok"): 0 for tenant in reading.tenants}
    for (tenant, _, _, source), count in reading.values.get("recsite_exposures_total", {}).items():
        of = (tenant, "ok" if source == "table" else source)
        requests[of] = requests.get(of, 0) + count
    for (tenant, status, reason), count in reading.errors.items():
        of = (tenant, "429" if status == 429 else f"{status // 100}xx")
        requests[of] = requests.get(of, 0) + count
        if status == 401:
            refusals[reason,] += count
        elif status == 429:
            limited[tenant, reason] = limited.get((tenant, reason), 0) + count
        elif reason == NO_ANSWER.code and tenant:
            # Its exposure says that it came from a fallback, but there was none.
            requests[tenant, "fallback"] = requests.get((tenant, "fallback"), 0) - count
    return {
        "recsite_tenant_requests_total": requests,
        "recsite_rate_limited_total": limited,
        "recsite_token_refusals_total": refusals,
    }


def families(reading: Reading) -> Iterator[Metric]:
    """Yield a reading in Prometheus' terms."""
    values = reading.values | told_apart(reading)
    for definition in DEFINITIONS:
        if definition.kind == "histogram":
            histogram = HistogramMetricFamily(definition.name, definition.help, labels=definition.labels)
            for outcome, (*buckets, seconds) in reading.buckets.items():
                histogram.add_metric([outcome], _cumulated(buckets), seconds)
            yield histogram
            continue
        family_class = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
        family = family_class(definition.name, definition.help, labels=definition.labels)
        for labels, value in sorted(values.get(definition.name, {}).items()):
            family.add_metric(labels, value)
        yield family


def _cumulated(buckets: Buckets) -> list[tuple[str, float]]:
    total = 0.0
    cumulated: list[tuple[str, float]] = []
    for bound, count in zip((*map(str, LATENCY_BOUNDS), "+Inf"), buckets, strict=True):
        total += count
        cumulated.append((bound, total))
    return cumulated


class NumbersCollector(Collector):
    """Shows one process's numbers, a reading with the gauges set, in a prometheus_client registry."""

    def __init__(self, reading: Callable[[], Reading]) -> None:
        self._reading = reading

    @override
    def collect(self) -> Iterator[Metric]:
        return families(self._reading())

    def describe(self) -> Iterator[Metric]:
        """Yield the families without values: registering must not ask for a reading."""
        return families(Reading())


# --- Through files, from worker processes to the one above them -----------------------------------------------------


class WorkerFile:
    """Where one worker process leaves its numbers, in the folder of its lane's; costs about 100 µs a time."""

    def __init__(self, directory: Path) -> None:
        self._path = directory / f"{os.getpid()}.{time.time_ns()}.numbers"

    def write(self, reading: Reading) -> None:
        """Replace what was left before.

        Raises:
            OSError: the folder cannot be written to.
        """
        replace_whole(self._path, msgspec.msgpack.encode(reading))


class Workers:
    """Adds up what a lane's workers wrote to its folder. Counters never fall: what an ended worker counted is kept."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._ended = Reading()
        self._lock = threading.Lock()
        self._decoder = msgspec.msgpack.Decoder(Reading)

    def reading(self) -> Reading:
        """Return the numbers of all workers, as of up to a second ago."""
        with self._lock:
            readings: list[Reading] = []
            for path in sorted(self._directory.glob("*.numbers")):
                # Asked first: a worker that ends after this has written its last before the next time.
                is_running = is_alive(int(path.name.partition(".")[0]))
                try:
                    reading = self._decoder.decode(path.read_bytes())
                    age_seconds = time.time() - path.stat().st_mtime
                except (OSError, msgspec.DecodeError):
                    continue
                if not is_running:
                    self._ended = combined([self._ended, _without_gauges(reading)])
                    path.unlink(missing_ok=True)
                elif age_seconds > STALE_SECONDS:
                    readings.append(_without_gauges(reading))
                else:
                    reading.values["recsite_workers"] = {(): 1}
                    readings.append(reading)
            return combined([self._ended, *readings])


def is_alive(process_id: int) -> bool:
    """Tell whether a process of this machine runs."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


# --- Documentation --------------------------------------------------------------------------------------------------


def as_markdown(control_plane: Sequence[Definition]) -> str:
    """Return docs/metrics.md; the control plane's metrics come after serving's."""
    lines = [
        "# Metrics",
        "",
        "Made by `python manage.py metrics_docs` from `serving/metrics.py` and what `recsite/metrics` names.",
        "",
        "The lane answers `/metrics` on a port of its own (`--metrics-port`), for all of its workers together. The DRF",
        "door's numbers have the same names and are in the `/metrics` of the dashboard, for whoever sends the bearer",
        "token `RECSITE_METRICS_TOKEN`: whichever of a server's workers answers, these and django-prometheus' numbers",
        "are those of all of them, and counters do not fall when one is replaced.",
        "",
        *_table(DEFINITIONS),
        "",
        "## The control plane",
        "",
        "In the `/metrics` of the dashboard, besides django-prometheus' own. Most are read from the database and from",
        "Redis when somebody asks, so of these every server answers alike: take `max` over several, not `sum`. Where",
        "one of the two is away, what is read from there is missing. Tokens and database errors each server counts for",
        "its own workers: of these take `sum`.",
        "",
        *_table(control_plane),
    ]
    return "\n".join(lines) + "\n"


def _table(definitions: Iterable[Definition]) -> Iterator[str]:
    yield "| name | kind | labels | what it says |"
    yield "|---|---|---|---|"
    for definition in definitions:
        labels = ", ".join(f"`{label}`" for label in definition.labels) or "–"
        yield f"| `{definition.name}` | {definition.kind} | {labels} | {definition.help} |"
