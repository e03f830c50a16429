"""What serving answered, and how far the newest change has come."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

from django.utils import timezone
from rest_framework import serializers

from models_registry.models import RecommendationModel, TrafficSpan, Version
from models_registry.traffic import propagation, reading
from recsite.api.bodies import Answer, Moment, Query
from recsite.api.operations.lookups import find_model
from recsite.api.schema import operation
from recsite.api.studio_view import StudioView
from tenants.models import Scope

MAX_POINTS = 1000
TRAFFIC = {
    "collected_until": "2026-11-01T10:00:07Z",
    "span_seconds": 3600,
    "gaps": [{"starts_at": "2026-11-01T04:12:10Z", "ends_at": "2026-11-01T04:14:31Z"}],
    "versions": [
        {
            "version": "2026-10-c",
            "answers_24h": 812345,
            "share_24h": 0.8012,
            "default_share_24h": 0.0021,
            "points": [{"starts_at": "2026-11-01T09:00:00Z", "answers": 34210}],
        }
    ],
}
PROPAGATION = {
    "snapshot_revision": 1793527200123,
    "published_at": "2026-11-01T10:00:00Z",
    "processes": 3,
    "silent": 1,
    "live_on": 2,
    "seconds": None,
    "behind": [{"is_lane": True, "place": "lane-7, process 12", "silent_seconds": 25.0}],
}


class PointAnswer(Answer[Any]):
    """What was answered in one span of time."""

    starts_at = serializers.DateTimeField()
    answers = serializers.IntegerField()


class VersionTrafficAnswer(Answer[Any]):
    """What one version answered."""

    version = serializers.CharField()
    answers_24h = serializers.IntegerField(help_text="In the last 24 hours.")
    share_24h = serializers.FloatField(allow_null=True, help_text="Of the model's answers, 0 … 1; null without any.")
    default_share_24h = serializers.FloatField(
        allow_null=True, help_text="Of its own answers, how many were the default or a fallback, 0 … 1."
    )
    points = PointAnswer(
        many=True, help_text="Every span of the time asked for; empty for a version that answered nothing."
    )


class GapAnswer(Answer[Any]):
    """A time of which counts were lost, so that its points may be too low."""

    starts_at = serializers.DateTimeField()
    ends_at = serializers.DateTimeField()


class TrafficAnswer(Answer[Any]):
    """What a model's versions answered, as serving counted it."""

    example = TRAFFIC
    collected_until = serializers.DateTimeField(
        allow_null=True, help_text="Answers before this are counted; points after it are not known yet."
    )
    span_seconds = serializers.IntegerField()
    gaps = GapAnswer(many=True, help_text="Times within those asked for whose counts were lost; usually none.")
    versions = VersionTrafficAnswer(many=True, help_text="By code.")


class BehindAnswer(Answer[Any]):
    """A serving process that does not serve by the newest snapshot, or of which nobody knows."""

    is_lane = serializers.BooleanField(help_text="One of a lane's; false: the DRF door in a dashboard's process.")
    place = serializers.CharField()
    silent_seconds = serializers.FloatField(
        allow_null=True, help_text="For how long it has said nothing; null: it was heard of just now."
    )


class PropagationAnswer(Answer[Any]):
    """How far the studio's newest snapshot has come."""

    example = PROPAGATION
    snapshot_revision = serializers.IntegerField(help_text="0: nothing has been published yet.")
    published_at = serializers.DateTimeField(allow_null=True)
    processes = serializers.IntegerField(allow_null=True, help_text="That serve; null: Redis does not answer.")
    silent = serializers.IntegerField(
        allow_null=True,
        help_text="How many of them have said nothing for 6 s: they may still serve, by an old snapshot. "
        "Forgotten after an hour.",
    )
    live_on = serializers.IntegerField(allow_null=True, help_text="How many of them serve by the newest snapshot.")
    seconds = serializers.FloatField(
        allow_null=True,
        help_text="From its publication until the last of them had it, those left out that started later; null while "
        "not all have.",
    )
    behind = BehindAnswer(many=True, allow_null=True, help_text="Those that may serve by an older one.")


class TrafficQuery(Query):
    """Which time."""

    span_seconds = serializers.ChoiceField(
        choices=[(str(span.value), span.label) for span in TrafficSpan],
        default="3600",
        help_text="How long each point's span is: 60 (kept for three hours), 300 (two days), 3600 or 21600 (35 days).",
    )
    since = Moment(required=False, help_text="24 hours ago without it.")
    until = Moment(required=False, help_text="Now without it.")


class ModelTraffic(StudioView, tag="Traffic"):
    @operation("traffic_read", Scope.READ, takes=TrafficQuery, gives=TrafficAnswer)
    def get(self, asked: dict[str, Any], model: str) -> dict[str, Any]:
        """Read what each version of a model answered, in the last 24 hours and over time."""
        span = TrafficSpan(int(asked["span_seconds"]))
        since, until = _times(asked, span)
        row = find_model(self.tenant, model)
        return {
            "collected_until": reading.collected_until(),
            "span_seconds": int(span),
            "gaps": reading.gaps(since, until),
            "versions": _versions(row, span, since, until),
        }


class Propagation(StudioView, tag="Traffic"):
    @operation("propagation_read", Scope.READ, gives=PropagationAnswer)
    def get(self) -> dict[str, Any]:
        """Read how many serving processes have the studio's newest change."""
        found = propagation.propagation(self.tenant)
        return {
            "snapshot_revision": self.tenant.snapshot_revision,
            "published_at": self.tenant.snapshot_published_at,
            "processes": found.processes if found else None,
            "silent": found.silent if found else None,
            "live_on": found.live_on if found else None,
            "seconds": found.seconds if found else None,
            "behind": found.behind if found else None,
        }


def _times(asked: dict[str, Any], span: TrafficSpan) -> tuple[datetime, datetime]:
    """Return the first and the last instant that are asked about.

    Raises:
        ValidationError: they are in the wrong order, or too far apart for one answer.
    """
    until = asked.get("until") or timezone.now()
    try:
        since = asked.get("since") or until - timedelta(hours=24)
    except OverflowError:
        raise serializers.ValidationError({"until": ["There are no counts from that time."]}) from None
    if since > until:
        raise serializers.ValidationError({"since": ["This must be before “until”, and not in the future."]})
    if (until - since) / timedelta(seconds=span) > MAX_POINTS:
        raise serializers.ValidationError({"since": [f"One answer has at most {MAX_POINTS:,} points."]})
    return since, until


def _versions(model: RecommendationModel, span: TrafficSpan, since: datetime, until: datetime) -> list[dict[str, Any]]:
    """Return each version's numbers, by code. Three queries."""
    seen = reading.seen(model)
    series = reading.series(model, span=span, since=since, until=until)
    nothing = reading.Seen(0, None, None)
    rows = Version.objects.for_tenant(model.tenant).filter(model=model).order_by("code")
    return [
        {
            "version": name,
            "answers_24h": seen.get(pk, nothing).answers,
            "share_24h": seen.get(pk, nothing).share,
            "default_share_24h": seen.get(pk, nothing).default_share,
            "points": series.get(pk, []),
        }
        for pk, name in rows.values_list("pk", "name")
    ]
