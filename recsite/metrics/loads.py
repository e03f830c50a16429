"""What Prometheus is told of loads. They are kept for ever, so none of the counts falls; and each is read once.

Loads that ended and are older than an hour are added up once and remembered, all up to some id. The hour is for ids
that were given before, and committed after, a later one's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import Count, DurationField, F, Min, QuerySet, Sum

from models_registry.models import ENDED_STATES, RUNNING_STATES, Load, LoadState
from recsite.metrics.families import Values
from serving.metrics import Definition

DEFINITIONS = (
    Definition("recsite_loads_total", "counter", "Loads that ended, by how.", ("state",)),
    Definition("recsite_tenant_loads_total", "counter", "The same by tenant.", ("tenant", "state")),
    Definition(
        "recsite_tenant_load_seconds_total",
        "counter",
        "Time that these loads took from when a worker began them.",
        ("tenant", "state"),
    ),
    Definition("recsite_load_rows_total", "counter", "Rows that loads wrote which ended.", ("tenant",)),
    Definition("recsite_loads_waiting", "gauge", "Loads that no worker has begun."),
    Definition(
        "recsite_load_oldest_waiting_seconds", "gauge", "For how long the oldest of them has waited; 0 where none does."
    ),
    Definition("recsite_loads_running", "gauge", "Loads at work."),
)
SETTLED_AFTER = timedelta(hours=1)
# So many ids a statement: 0.1 s on PostgreSQL.
AT_ONCE = 100_000


class Sums(NamedTuple):
    """What loads of one tenant that ended alike add up to."""

    loads: int = 0
    seconds: float = 0
    rows: int = 0


# By tenant and state.
Ended = Mapping[tuple[str, str], Sums]


class Settled(NamedTuple):
    """What all loads up to an id add up to, all of which have ended."""

    up_to: int
    ended: Ended


class LoadNumbers:
    """The numbers of one process. Three queries; for those that it has not read yet one more for each 100,000."""

    def __init__(self) -> None:
        # Replaced, not changed: threads that are asked at once do the same work and need no lock.
        self._settled = Settled(0, {})

    def read(self, now: datetime) -> Values:
        """Return what there is to tell."""
        running = list(
            Load.objects.unscoped()
            .filter(state__in=RUNNING_STATES)
            .order_by()
            .values_list("version__model__tenant__slug", "state")
            .annotate(count=Count("pk"), first_at=Min("created_at"), first_id=Min("pk"))
        )
        settled = self._settle(now, unfinished=min((first_id for *_, first_id in running), default=None))
        recent = _sums(Load.objects.unscoped().filter(pk__gt=settled.up_to))
        counts: dict[str, int] = defaultdict(int)
        asked_at = now
        for _, state, count, first_at, _ in running:
            counts[state] += count
            asked_at = min(asked_at, first_at) if state == LoadState.QUEUED else asked_at
        return _told(_added(settled.ended, recent), {tenant for tenant, *_ in running}) | {
            "recsite_loads_waiting": {(): counts.pop(LoadState.QUEUED, 0)},
            "recsite_load_oldest_waiting_seconds": {(): (now - asked_at).total_seconds()},
            "recsite_loads_running": {(): sum(counts.values())},
        }

    def _settle(self, now: datetime, unfinished: int | None) -> Settled:
        """Add up what has settled since the last time."""
        settled = self._settled
        old = Load.objects.unscoped().filter(pk__gt=settled.up_to, created_at__lt=now - SETTLED_AFTER)
        newest = old.order_by("-pk").values_list("pk", flat=True).first()
        until = min(newest or 0, unfinished - 1 if unfinished is not None else newest or 0)
        for first in range(settled.up_to, until, AT_ONCE):
            last = min(first + AT_ONCE, until)
            more = _sums(Load.objects.unscoped().filter(pk__gt=first, pk__lte=last))
            settled = Settled(last, _added(settled.ended, more))
            self._settled = settled
        return settled


def _sums(loads: QuerySet[Load]) -> Ended:
    rows = (
        loads.filter(state__in=ENDED_STATES)
        .order_by()
        .values_list("version__model__tenant__slug", "state")
        .annotate(
            count=Count("pk"),
            took=Sum(F("finished_at") - F("started_at"), output_field=DurationField()),
            written=Sum("rows_written"),
        )
    )
    return {
        (tenant, state): Sums(count, took.total_seconds() if took is not None else 0.0, written)
        for tenant, state, count, took, written in rows
    }


def _added(some: Ended, more: Ended) -> Ended:
    total = dict(some)
    for key, sums in more.items():
        before = total.get(key, Sums())
        total[key] = Sums(before.loads + sums.loads, before.seconds + sums.seconds, before.rows + sums.rows)
    return total


def _told(ended: Ended, tenants: set[str]) -> dict[str, Mapping[tuple[str, ...], float]]:
    """Return values of these tenants too: from 0 on, so that the first load of a kind is an increase."""
    tenants = tenants | {tenant for tenant, _ in ended}
    every = {(tenant, str(state)): Sums() for tenant in tenants for state in ENDED_STATES} | dict(ended)
    by_state: dict[tuple[str, ...], float] = dict.fromkeys(((str(state),) for state in ENDED_STATES), 0)
    rows: dict[tuple[str, ...], float] = defaultdict(float)
    for (tenant, state), sums in every.items():
        by_state[(state,)] += sums.loads
        rows[(tenant,)] += sums.rows
    return {
        "recsite_loads_total": by_state,
        "recsite_tenant_loads_total": {key: sums.loads for key, sums in every.items()},
        "recsite_tenant_load_seconds_total": {key: sums.seconds for key, sums in every.items()},
        "recsite_load_rows_total": rows,
    }
