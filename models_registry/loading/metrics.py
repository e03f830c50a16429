"""What Prometheus is told of loads and tables, read from the database whenever it asks the dashboard's process."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping

from django.db import DatabaseError
from django.db.models import Count, F, Q
from django.utils import timezone
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from models_registry.catalogue.selectors import is_late, late_by
from models_registry.loading.pulse import ALIVE_STATES
from models_registry.models import RUNNING_STATES, Load, LoadState, Table, TableState, Version
from serving.metrics import Definition

log = logging.getLogger(__name__)

DEFINITIONS = (
    Definition("recsite_loads_total", "counter", "Loads that ended, by how.", ("state",)),
    Definition("recsite_loads_waiting", "gauge", "Loads that no worker has begun."),
    Definition("recsite_loads_running", "gauge", "Loads at work."),
    Definition("recsite_versions_late", "gauge", "Versions whose data is older than their target for freshness."),
    Definition(
        "recsite_most_late_seconds", "gauge", "How far the latest of them is beyond its target; 0 where none is late."
    ),
    Definition("recsite_tables_lost", "gauge", "Tables in use of which Redis lost a part and that are not repaired."),
)


class LoadingCollector(Collector):
    """Reads the numbers when they are asked for. Three queries."""

    @override
    def collect(self) -> Iterator[Metric]:
        try:
            values = _read()
        except DatabaseError as error:
            log.warning("metrics.no_database problem=%s", error)
            return
        yield from _families(values)

    def describe(self) -> Iterator[Metric]:
        """Yield the families without values: registering must not ask the database."""
        yield from _families({})


def _families(values: Mapping[str, Mapping[tuple[str, ...], float]]) -> Iterator[Metric]:
    for definition in DEFINITIONS:
        kind = CounterMetricFamily if definition.kind == "counter" else GaugeMetricFamily
        family = kind(definition.name, definition.help, labels=definition.labels)
        for labels, value in values.get(definition.name, {}).items():
            family.add_metric(labels, value)
        yield family


def _read() -> dict[str, dict[tuple[str, ...], float]]:
    loads = Load.objects.unscoped().order_by().values("state").annotate(count=Count("pk"))
    by_state: dict[str, int] = dict(loads.values_list("state", "count"))
    ends = [state for state in LoadState.values if state not in RUNNING_STATES]
    late = _late_seconds()
    served = Q(version__active_table=F("pk"))
    lost = Table.objects.unscoped().filter(served, state=TableState.READY, lost_at__isnull=False).count()
    return {
        "recsite_loads_total": {(state,): by_state.get(state, 0) for state in ends},
        "recsite_loads_waiting": {(): by_state.get(LoadState.QUEUED, 0)},
        "recsite_loads_running": {(): sum(by_state.get(state, 0) for state in ALIVE_STATES)},
        "recsite_versions_late": {(): len(late)},
        "recsite_most_late_seconds": {(): max(late, default=0)},
        "recsite_tables_lost": {(): lost},
    }


def _late_seconds() -> list[float]:
    """Return for each version that is beyond its target by how much. One query."""
    now = timezone.now()
    versions = Version.objects.unscoped().filter(freshness_minutes__isnull=False, model__tenant__ended_at=None)
    found = versions.select_related("active_table__load").defer(
        "active_table__load__report", "active_table__load__source_location"
    )
    return [late_by(version, now).total_seconds() for version in found if is_late(version, now)]
