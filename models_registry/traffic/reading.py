"""What was answered, read for pages, charts and the API."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from django.db.models import OuterRef, Subquery, Sum
from django.utils import timezone

from models_registry.models import (
    CredentialUse,
    RecommendationModel,
    Traffic,
    TrafficGap,
    TrafficPosition,
    TrafficSource,
    TrafficSpan,
)
from models_registry.traffic.collecting import span_start
from tenants.scoping import TenantOwnedQuerySet


class Seen(NamedTuple):
    """What one version answered in a span of time.

    Attributes:
        answers: all of them.
        share: of the model's answers, 0 … 1; None where there were none.
        default_share: of this version's answers, how many were the default or a fallback, 0 … 1; None without answers.
    """

    answers: int
    share: float | None
    default_share: float | None


def seen(model: RecommendationModel, *, hours: int = 24, now: datetime | None = None) -> dict[int, Seen]:
    """Return what each version of a model answered in the last hours, by the version's key. One query."""
    since = (now or timezone.now()) - timedelta(hours=hours)
    rows = (
        Traffic.objects.for_tenant(model.tenant)
        .filter(version__model=model, span=TrafficSpan.FIVE_MINUTES, starts_at__gte=since)
        .values("version_id", "source")
        .annotate(total=Sum("answers"))
        .order_by()
    )
    by_version: dict[int, Counter[str]] = {}
    for row in rows:
        by_version.setdefault(row["version_id"], Counter())[row["source"]] += row["total"]
    everything = sum(counts.total() for counts in by_version.values())
    return {
        version_id: Seen(
            answers=counts.total(),
            share=counts.total() / everything if everything else None,
            default_share=(counts.total() - counts[TrafficSource.TABLE]) / counts.total() if counts.total() else None,
        )
        for version_id, counts in by_version.items()
    }


class Point(NamedTuple):
    """A version's answers in one span; `starts_at` is the span's beginning."""

    starts_at: datetime
    answers: int


def series(
    model: RecommendationModel, *, span: TrafficSpan, since: datetime, until: datetime | None = None
) -> dict[int, list[Point]]:
    """Return each version's answers over time, every span of the time listed, by the version's key. One query."""
    until = until or timezone.now()
    first = span_start(int(since.timestamp()), span)
    starts = [first + timedelta(seconds=span) * n for n in range(int((until - first) / timedelta(seconds=span)) + 1)]
    rows = (
        Traffic.objects.for_tenant(model.tenant)
        .filter(version__model=model, span=span, starts_at__gte=first, starts_at__lte=until)
        .values_list("version_id", "starts_at")
        .annotate(total=Sum("answers"))
        .order_by()
    )
    counts = {(version_id, starts_at): total for version_id, starts_at, total in rows}
    return {
        version_id: [Point(start, counts.get((version_id, start), 0)) for start in starts]
        for version_id in {version_id for version_id, _ in counts}
    }


def requests_in_24_hours(credential_ids: Iterable[int], *, now: datetime | None = None) -> dict[int, int]:
    """Return each credential's requests in the last 24 hours (whole hours, and the one that runs), by its key.

    One query. The caller has narrowed the credentials to one studio.
    """
    rows = _uses_in_24_hours(now).filter(credential_id__in=list(credential_ids))
    return dict(rows.values_list("credential_id").annotate(total=Sum("requests")).order_by())


def requests_of_each() -> Subquery:
    """Return an annotation of credentials: the requests of each in the last 24 hours, NULL for none."""
    rows = _uses_in_24_hours().filter(credential=OuterRef("pk")).order_by().values("credential")
    return Subquery(rows.annotate(total=Sum("requests")).values("total"))


def _uses_in_24_hours(now: datetime | None = None) -> TenantOwnedQuerySet[CredentialUse]:
    since = (now or timezone.now()) - timedelta(hours=24)
    return CredentialUse.objects.unscoped().filter(starts_at__gte=since)


def collected_until() -> datetime | None:
    """Return up to when serving's counts are in the database; None if they were never collected. One query."""
    return TrafficPosition.objects.values_list("moved_at", flat=True).first()


def gaps(since: datetime, until: datetime) -> list[TrafficGap]:
    """Return the times between two instants of which counts were lost, oldest first. One query."""
    return list(TrafficGap.objects.filter(ends_at__gt=since, starts_at__lt=until))
