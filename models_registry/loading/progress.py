"""Reads about loads that the surfaces share: how far one is, and which ones there are."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db.models import QuerySet
from django.utils import timezone

from models_registry.loading.report import Report, StageName
from models_registry.models import RUNNING_STATES, Load, LoadState
from tenants.models import Tenant

# A running load says that it lives every few seconds; silent for this long, nobody works on it.
SILENT_AFTER = timedelta(minutes=2)
WAITING_LONG_AFTER = timedelta(seconds=15)

_STEPS = (
    (LoadState.QUEUED, "Queued"),
    (LoadState.EXTRACTING, "Reading"),
    (LoadState.CHECKING, "Checking"),
    (LoadState.WRITING, "Writing"),
    (LoadState.VERIFYING, "Verifying"),
    (LoadState.ACTIVE, "Active"),
)
_DRY_STEPS = (*_STEPS[:3], (LoadState.CHECKED, "Checked"))
# Which step each stage of a report belongs to.
STEP_OF_STAGE: dict[str, int] = {
    StageName.EXTRACT: 1,
    StageName.CHECK: 2,
    StageName.COMPARE: 2,
    StageName.WRITE: 3,
    StageName.VERIFY: 4,
}


@dataclass(frozen=True)
class Step:
    """A step of a load. `state` is done, now, stopped or ahead."""

    label: str
    state: str


@dataclass(frozen=True)
class LoadProgress:
    """How far a load is at some time. Only `steps`, and the speed of writing, need the load's report."""

    load: Load
    now: datetime

    @property
    def is_running(self) -> bool:
        """Tell whether it waits or runs."""
        return self.load.state in RUNNING_STATES

    @property
    def elapsed(self) -> timedelta | None:
        """For how long it has run, or ran; None while it waits."""
        load = self.load
        return None if load.started_at is None else (load.finished_at or self.now) - load.started_at

    @property
    def is_silent(self) -> bool:
        """Tell whether its worker has said nothing for minutes."""
        heard = self.load.heartbeat_at
        return self.is_running and heard is not None and self.now - heard > SILENT_AFTER

    @property
    def is_waiting_long(self) -> bool:
        """Tell whether no worker has begun it for a while."""
        return self.load.state == LoadState.QUEUED and self.now - self.load.created_at > WAITING_LONG_AFTER

    @property
    def rows_expected(self) -> int | None:
        """How many rows there are, where the source said it or all have been read."""
        has_read_all = self.load.state not in RUNNING_STATES[:2]
        return self.load.rows_expected or (self.load.rows_read if has_read_all else None)

    @property
    def read_share(self) -> float | None:
        """The share of the rows that were read, 0 … 1."""
        return _share(self.load.rows_read, self.load.rows_expected)

    @property
    def written_share(self) -> float | None:
        """The share of the rows that were written, 0 … 1."""
        return _share(self.load.rows_written, self.rows_expected)

    @property
    def rows_per_second(self) -> float | None:
        """The speed of writing while it writes, else of the whole run; None before the first row."""
        load = self.load
        if self.elapsed is None:
            return None
        seconds, rows = self.elapsed.total_seconds(), load.rows_read
        if load.state == LoadState.WRITING:
            seconds -= sum(stage.seconds for stage in Report.read(load.report).stages)
            rows = load.rows_written
        return rows / seconds if rows and seconds > 0 else None

    @property
    def seconds_left(self) -> float | None:
        """Until all rows are read, or written; None where that is not known."""
        load, rate = self.load, self.rows_per_second
        if rate and load.state == LoadState.EXTRACTING and load.rows_expected:
            return max(0.0, (load.rows_expected - load.rows_read) / rate)
        if rate and load.state == LoadState.WRITING:
            return max(0.0, (load.rows_read - load.rows_written) / rate)
        return None

    @property
    def steps(self) -> list[Step]:
        """All of its steps, in order."""
        load, stopped = self.load, "stopped"
        steps = _DRY_STEPS if load.is_dry_run else _STEPS
        order = [state for state, _ in steps]
        if load.state in order:
            reached = order.index(LoadState(load.state)) + (not self.is_running)
            stopped = "now"
        else:
            stages = Report.read(load.report).stages
            reached = STEP_OF_STAGE.get(stages[-1].name, 1) if stages else int(load.started_at is not None)
            if load.state == LoadState.REJECTED:
                reached = max(reached, order.index(LoadState.CHECKING))
        words = ["done" if i < reached else stopped if i == reached else "ahead" for i in range(len(order))]
        return [Step(label, word) for (_, label), word in zip(steps, words, strict=True)]


def progress_of(load: Load, now: datetime | None = None) -> LoadProgress:
    """Return how far a load is now. No query."""
    return LoadProgress(load, now or timezone.now())


def loads_of(tenant: Tenant, *, model: str = "", version: str = "", state: str = "") -> QuerySet[Load]:
    """Return a studio's loads, newest first, their versions and models with them and reports left out.

    Only those of a model's slug, a version's name and a state; empty for any.
    """
    wanted = {"version__model__slug": model, "version__name": version, "state": state}
    rows = Load.objects.for_tenant(tenant).filter(**{field: value for field, value in wanted.items() if value})
    return rows.select_related("version__model").defer("report").order_by("-pk")


def _share(done: int, total: int | None) -> float | None:
    return min(1.0, done / total) if total else None
