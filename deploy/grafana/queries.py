"""What several panels ask, and the pieces that questions are made of."""

from __future__ import annotations

LANE, CONTROL = 'job="recsite-lane"', 'job="recsite-dashboard"'
# Both doors.
DOORS = 'job=~"recsite-lane|recsite-dashboard"'
STUDIO, MODEL = 'tenant=~"$tenant"', 'tenant=~"$tenant", model=~"$model"'
# Requests are many; loads come every few hours.
OFTEN, SELDOM = "[$__rate_interval]", "[1h]"


def rate(metric: str, labels: str, *by: str) -> str:
    """Return the sum of a counter's rates, by labels."""
    return f"sum{_by(by)}(rate({metric}{{{labels}}}{OFTEN}))"


def same(gauge: str, labels: str, *by: str) -> str:
    """Return what every server of the dashboard tells alike."""
    return f"max{_by(by)}({gauge}{{{labels}}})"


def same_hour(counter: str, labels: str, *by: str) -> str:
    """Return by how much a counter grew in an hour that every server of the dashboard tells alike."""
    return f"max{_by(by)}(increase({counter}{{{labels}}}{SELDOM}))"


def _by(labels: tuple[str, ...]) -> str:
    return f" by ({', '.join(labels)}) " if labels else ""


def slowest(share: float, outcomes: str = "") -> str:
    """Return the time that a share of requests takes at most, by outcome where none is named."""
    labels, by = (f"{LANE}, {outcomes}", ("le",)) if outcomes else (LANE, ("le", "outcome"))
    return f"histogram_quantile({share}, {rate('recsite_request_duration_seconds_bucket', labels, *by)})"


REQUESTS = rate("recsite_requests_total", LANE)
_FAILED = rate("recsite_requests_total", f'{LANE}, status=~"5.."')
ERRORS = f"({_FAILED} or vector(0)) / {REQUESTS}"
EXPOSED = ("recsite_exposures_total", f"{DOORS}, {MODEL}")
# To players who are not in the table.
NOT_FOUND = (EXPOSED[0], f'{EXPOSED[1]}, source=~"default|none"')
FALLBACKS = rate("recsite_exposures_total", f'{LANE}, source="fallback"')
VERSION = ("tenant", "model", "version")
WEIGHT = same("recsite_version_weight_ratio", f"{CONTROL}, {MODEL}", *VERSION)
# 0, too, of a version with weight that nobody got.
_SEEN = f"({rate(*EXPOSED, *VERSION)} or 0 * {WEIGHT})"
SPLIT = f"{_SEEN} / on (tenant, model) group_left () {rate(*EXPOSED, 'tenant', 'model')}"
AGE = same("recsite_version_data_age_seconds", f"{CONTROL}, {MODEL}", *VERSION)
LOADED = ("recsite_tenant_loads_total", f"{CONTROL}, {STUDIO}")
LOADED_SECONDS = ("recsite_tenant_load_seconds_total", LOADED[1])
TASK_SECONDS = "recsite_task_duration_seconds_bucket"
CACHED, READ = rate("recsite_block_cache_hits_total", LANE), rate("recsite_redis_reads_total", LANE)
OVERLAP_ENDS = same("recsite_credential_overlap_ends_timestamp_seconds", f"{CONTROL}, {STUDIO}", "tenant")
MOST = same("recsite_redis_memory_max_bytes", CONTROL, "role")
