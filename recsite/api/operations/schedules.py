"""When versions are loaded automatically."""

from __future__ import annotations

from typing import Any, ClassVar

from rest_framework import serializers

from models_registry.loading.schedules import MAX_CRONTAB, MAX_MINUTES, schedule_remove, schedule_set, words
from models_registry.models import Schedule, ScheduleKind, Version
from recsite.api.bodies import Answer, Body, Choice, Text, Whole, YesNo
from recsite.api.operations.lookups import find_version
from recsite.api.problems import not_found
from recsite.api.schema import operation
from recsite.api.studio_view import StudioView
from tenants.models import Scope

SCHEDULE = {
    "kind": "crontab",
    "every_minutes": None,
    "crontab": "0 */4 * * *",
    "timezone": "Europe/Berlin",
    "is_enabled": True,
    "words": "at minute 0 past every fourth hour (Europe/Berlin)",
    "next_run_at": "2026-11-01T12:00:00Z",
    "last_run_at": "2026-11-01T08:00:04Z",
    "note": "",
}


class ScheduleAnswer(Answer[Schedule]):
    """When a version is loaded automatically."""

    example = SCHEDULE
    kind = serializers.ChoiceField(choices=ScheduleKind.choices)
    every_minutes = serializers.IntegerField(allow_null=True, help_text="Of an interval.")
    crontab = serializers.CharField(help_text="Of a crontab; else empty.")
    timezone = serializers.CharField(help_text="Whose clock a crontab goes by.")
    is_enabled = serializers.BooleanField(help_text="A schedule that isn’t starts no loads.")
    words = serializers.SerializerMethodField(help_text="The same in words.")
    next_run_at = serializers.DateTimeField(allow_null=True)
    last_run_at = serializers.DateTimeField(allow_null=True, help_text="When it last started a load.")
    note = serializers.CharField(help_text="Why the last due run started no load; empty if it did.")

    def get_words(self, schedule: Schedule) -> str:
        """Say when it runs."""
        return words(schedule)


class NewSchedule(Body):
    """When to load: every so many minutes, or at the times of a crontab."""

    example: ClassVar = {"kind": "crontab", "crontab": "0 */4 * * *", "timezone": "Europe/Berlin"}
    kind = Choice(choices=ScheduleKind.choices)
    every_minutes = Whole(min_value=1, max_value=MAX_MINUTES, required=False, help_text="Of an interval.")
    crontab = Text(
        max_length=MAX_CRONTAB,
        required=False,
        help_text="Of a crontab: minute, hour, day of the month, month, day of the week.",
    )
    timezone = Text(max_length=64, required=False, help_text="From the IANA database; without it, UTC.")
    is_enabled = YesNo(required=False, help_text="false keeps the schedule without starting loads.")


class VersionSchedule(StudioView, tag="Versions"):
    @operation("schedules_read", Scope.READ, gives=ScheduleAnswer)
    def get(self, model: str, version: str) -> Schedule:
        """Read a version's schedule."""
        return _schedule_of(find_version(self.tenant, model, version))

    @operation(
        "schedules_set",
        Scope.VERSIONS_WRITE,
        takes=NewSchedule,
        gives=ScheduleAnswer,
        answer_example={**SCHEDULE, "last_run_at": None},
    )
    def put(self, given: dict[str, Any], model: str, version: str) -> Schedule:
        """Set a version's schedule.

        A run that is due while another load of the version is still running is skipped, and `note` says so. A time
        that daylight saving skips runs once at the next valid moment; one that it repeats runs once.
        """
        return schedule_set(version=find_version(self.tenant, model, version), actor=self.actor, **given)

    @operation("schedules_remove", Scope.VERSIONS_WRITE)
    def delete(self, model: str, version: str) -> None:
        """Remove a version's schedule: it is loaded only when somebody asks."""
        row = find_version(self.tenant, model, version)
        _schedule_of(row)
        schedule_remove(version=row, actor=self.actor)


def _schedule_of(version: Version) -> Schedule:
    found: Schedule | None = getattr(version, "schedule", None)
    if found is None:
        raise not_found(f"The version “{version.name}” has no schedule.")
    return found
