"""What Prometheus is told of loads, tables, versions and credentials, read from the database whenever it asks."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

from django.db import DatabaseError, connection
from django.db.models import F, Min, OuterRef, Q, Subquery, Sum
from django.db.models.functions import Coalesce
from django.utils import timezone
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from models_registry.catalogue.selectors import is_late, late_by
from models_registry.models import (
    BASIS_POINTS,
    RecommendationModel,
    RolloutRevision,
    Table,
    TableState,
    Version,
)
from recsite.metrics.families import Values, families
from recsite.metrics.loads import DEFINITIONS as LOADS
from recsite.metrics.loads import LoadNumbers
from serving.metrics import Definition
from tenants.models import Credential

log = logging.getLogger(__name__)

SERVED = ("tenant", "model", "version")
DEFINITIONS = (
    *LOADS,
    Definition("recsite_versions_late", "gauge", "Versions whose data is older than their target for freshness."),
    Definition(
        "recsite_most_late_seconds", "gauge", "How far the latest of them is beyond its target; 0 where none is late."
    ),
    Definition(
        "recsite_version_data_age_seconds",
        "gauge",
        "Age of the data that a version with weight is served from.",
        SERVED,
    ),
    Definition("recsite_version_weight_ratio", "gauge", "A version's weight, where it has one, of 1.", SERVED),
    Definition("recsite_tables_lost", "gauge", "Tables in use of which Redis lost a part and that are not repaired."),
    Definition(
        "recsite_tables_bytes", "gauge", "Bytes of a tenant's tables that are in Redis, all kept ones.", ("tenant",)
    ),
    Definition(
        "recsite_credential_overlap_ends_timestamp_seconds",
        "gauge",
        "When the first of a tenant's secrets ends that were replaced and are still accepted.",
        ("tenant",),
    ),
    Definition(
        "recsite_db_connections",
        "gauge",
        "Connections that the PostgreSQL server has, whoever's, by what they do: active (a statement), in_transaction "
        "(between two), idle (kept for the next request), other (of users whom it may not tell of). Missing on SQLite.",
        ("state",),
    ),
    Definition("recsite_db_connections_max", "gauge", "How many it takes at most, those for its superusers included."),
)
CONNECTION_STATES = ("active", "in_transaction", "idle", "other")


class DatabaseCollector(Collector):
    """Reads the numbers when they are asked for. Nine queries, on PostgreSQL ten."""

    def __init__(self) -> None:
        # Loads last: at first there may be many to read, and if that takes longer than it may, the others are told.
        self.parts: Sequence[Callable[[datetime], Values]] = (
            _of_connections,
            _of_tables,
            _of_versions,
            LoadNumbers().read,
        )

    @override
    def collect(self) -> Iterator[Metric]:
        values: dict[str, Mapping[tuple[str, ...], float]] = {}
        now = timezone.now()
        try:
            for part in self.parts:
                values |= part(now)
        except DatabaseError as error:
            log.warning("metrics.no_database problem=%s", error)
        yield from families(DEFINITIONS, values)

    def describe(self) -> Iterator[Metric]:
        """Yield the families without values: registering must not ask the database."""
        yield from families(DEFINITIONS, {})


def _of_connections(_now: datetime) -> Values:
    """Return what PostgreSQL tells of its connections: all that there are, of all machines. One query.

    Counting those of this process alone would not say how near the server is to its limit; Django has no pool that
    could run out.
    """
    counts: dict[tuple[str, ...], float] = {}
    most: dict[tuple[str, ...], float] = {}
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute(
                "SELECT CASE WHEN state LIKE 'idle in transaction%%' THEN 'in_transaction'"
                " WHEN state IN ('active', 'idle') THEN state ELSE 'other' END, count(*),"
                " current_setting('max_connections')::int FROM pg_stat_activity WHERE datname IS NOT NULL GROUP BY 1",
                [],
            )
            found = cursor.fetchall()
        counts = {(state,): 0 for state in CONNECTION_STATES} | {(state,): count for state, count, _ in found}
        most = {(): found[0][2]}
    return {"recsite_db_connections": counts, "recsite_db_connections_max": most}


def _of_tables(now: datetime) -> Values:
    """Return what is told of tables and of secrets that end. Three queries."""
    served = Q(version__active_table=F("pk"))
    lost = Table.objects.unscoped().filter(served, state=TableState.READY, lost_at__isnull=False).count()
    kept = Table.objects.unscoped().exclude(state=TableState.DROPPED).order_by()
    sizes = kept.values_list("version__model__tenant__slug").annotate(Sum("size_bytes"))
    accepted = Credential.objects.unscoped().filter(previous_until__gt=now, revoked_at=None, tenant__ended_at=None)
    ends = accepted.order_by().values_list("tenant__slug").annotate(Min("previous_until"))
    return {
        "recsite_tables_lost": {(): lost},
        "recsite_tables_bytes": {(tenant,): size for tenant, size in sizes},
        "recsite_credential_overlap_ends_timestamp_seconds": {(tenant,): at.timestamp() for tenant, at in ends},
    }


def _of_versions(now: datetime) -> Values:
    """Return what is told of versions of tenants that have not ended. Three queries."""
    late = _late_seconds(now)
    newest = RolloutRevision.objects.unscoped().filter(model=OuterRef("pk")).order_by("-number")
    models = RecommendationModel.objects.unscoped().filter(tenant__ended_at=None).order_by()
    weights: dict[int, Any] = dict(models.values_list("pk", Subquery(newest.values("weights_bp")[:1])))
    ages: dict[tuple[str, ...], float] = {}
    shares: dict[tuple[str, ...], float] = {}
    # Rows without objects: there may be tens of thousands. The instant is `data_at`'s.
    load = "active_table__load__"
    at = Coalesce(f"{load}source_snapshot_at", f"{load}started_at", "active_table__created_at")
    names = ("model__tenant__slug", "model__slug", "name")
    versions = Version.objects.unscoped().filter(model__tenant__ended_at=None).order_by()
    for model, code, read_at, *named in versions.values_list("model_id", "code", at, *names):
        share_bp = (weights.get(model) or {}).get(str(code), 0)
        if share_bp:
            shares[tuple(named)] = share_bp / BASIS_POINTS
            if read_at is not None:
                ages[tuple(named)] = (now - read_at).total_seconds()
    return {
        "recsite_versions_late": {(): len(late)},
        "recsite_most_late_seconds": {(): max(late, default=0)},
        "recsite_version_data_age_seconds": ages,
        "recsite_version_weight_ratio": shares,
    }


def _late_seconds(now: datetime) -> list[float]:
    """Return for each version that is beyond its target by how much. One query."""
    versions = Version.objects.unscoped().filter(freshness_minutes__isnull=False, model__tenant__ended_at=None)
    found = versions.select_related("active_table__load").defer(
        "active_table__load__report", "active_table__load__source_location"
    )
    return [late_by(version, now).total_seconds() for version in found if is_late(version, now)]
