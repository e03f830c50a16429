"""Versions, their sources and tables."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from django.db.models import QuerySet
from django.urls import reverse
from django.utils import timezone
from rest_framework import serializers
from typing_extensions import override

from models_registry.catalogue.archiving import version_archive
from models_registry.catalogue.selectors import data_at, is_late
from models_registry.catalogue.services import source_set, version_create
from models_registry.loading.requests import table_roll_back
from models_registry.loading.schedules import MAX_MINUTES, freshness_set
from models_registry.models import RecommendationModel, RolloutRevision, Source, SourceKind, Table, Version
from recsite.api.bodies import Answer, Body, Choice, Reason, Text, Whole
from recsite.api.operations.lookups import find_model, find_version, layout_numbered, with_tables
from recsite.api.operations.schedules import SCHEDULE, ScheduleAnswer
from recsite.api.paging import PageQuery, page_of
from recsite.api.problems import fields_named
from recsite.api.schema import Result, operation
from recsite.api.studio_view import StudioView
from tenants.models import Scope
from tenants.rules import RuleBroken

TABLE = {
    "table_id": "3f7k2m9xq0bd",
    "load_fence": 7,
    "row_count": 2145332,
    "size_bytes": 32180017,
    "is_whole": True,
    "data_at": "2026-11-01T09:58:30Z",
    "activated_at": "2026-11-01T10:00:00Z",
}
SOURCE = {"kind": "bigquery_table", "location": "night-owl-analytics.recommendations.offers_2026_11_a"}
VERSION = {
    "name": "2026-11-a",
    "model": "offers",
    "code": 1,
    "layout_revision": 0,
    "weight_bp": 2000,
    "source": SOURCE,
    "active_table": TABLE,
    "previous_table": None,
    "older_table": None,
    "schedule": SCHEDULE,
    "freshness_minutes": 360,
    "is_late": False,
    "last_fence": 7,
    "created_at": "2026-10-30T16:02:41Z",
    "archived_at": None,
}


class SourceAnswer(Answer[Source]):
    """Where a version's rows come from."""

    kind = serializers.ChoiceField(choices=SourceKind.choices)
    location = serializers.CharField(
        help_text="A path or glob (local or gs://), project.dataset.table, or the text of a query."
    )


class TableAnswer(Answer[Table]):
    """The rows that one load made."""

    table_id = serializers.CharField()
    load_fence = serializers.IntegerField(source="load.fence", help_text="The load that made it.")
    row_count = serializers.IntegerField()
    size_bytes = serializers.IntegerField(help_text="In Redis.")
    is_whole = serializers.BooleanField(help_text="Only a whole table is served.")
    data_at = serializers.SerializerMethodField(help_text="The instant whose data these are.")
    activated_at = serializers.DateTimeField(allow_null=True)

    def get_data_at(self, table: Table) -> datetime:
        """Return when its data was read."""
        return data_at(table)


class VersionAnswer(Answer[Version]):
    """One trained version of a model."""

    example = VERSION
    name = serializers.CharField()
    model = serializers.CharField(source="model.slug")
    code = serializers.IntegerField(
        source="byte", help_text="Its byte in bit-packed answers; of an archived one, what it was."
    )
    layout_revision = serializers.IntegerField(source="layout.revision")
    weight_bp = serializers.SerializerMethodField(help_text="Its share of all units, in basis points (0.01 %).")
    source_ = SourceAnswer(allow_null=True)
    active_table = TableAnswer(allow_null=True, help_text="What it is answered from; null: never loaded.")
    previous_table = TableAnswer(allow_null=True, help_text="What rolling back would serve again.")
    older_table = TableAnswer(allow_null=True, help_text="The second one that is kept to roll back to.")
    schedule = ScheduleAnswer(allow_null=True, help_text="When it is loaded automatically; null: never.")
    freshness_minutes = serializers.IntegerField(
        allow_null=True, help_text="How old its data may become before it is late; null: no target."
    )
    is_late = serializers.SerializerMethodField(help_text="Its data is older than the target, or than a day.")
    last_fence = serializers.IntegerField(help_text="The number of its newest load; 0: none.")
    created_at = serializers.DateTimeField()
    archived_at = serializers.DateTimeField(allow_null=True, help_text="null: it is in use.")

    def get_weight_bp(self, version: Version) -> int:
        """Return its weight."""
        weights: dict[str, int] = self.context["weights"]
        return weights.get(str(version.code), 0)

    def get_is_late(self, version: Version) -> bool:
        """Tell whether its data is too old."""
        return is_late(version, timezone.now())

    @override
    def to_representation(self, instance: Version) -> Any:
        # A version may have no source and no schedule.
        for name in ("source", "schedule"):
            if not hasattr(instance, name):
                setattr(instance, name, None)  # for this answer only
        return super().to_representation(instance)


class NewSource(Body):
    """Where rows come from. Confined to what platform staff allow the studio (`studio_read`)."""

    example = SOURCE
    kind = Choice(choices=SourceKind.choices)
    location = Text(
        max_length=100_000, help_text="A path or glob (local or gs://), project.dataset.table, or the text of a query."
    )


class NewVersion(Body):
    """A version to create."""

    example: ClassVar = {"name": "2026-12-a", "source": SOURCE}
    name = Text(max_length=60, help_text="Letters, digits, dots, hyphens and underscores; never changes.")
    source_ = NewSource()
    layout_revision = Whole(min_value=0, max_value=255, required=False, help_text="Without it, the newest.")


class RollBack(Reason):
    """Which table to serve again, and why."""

    example: ClassVar = {"reason": "Prices were wrong in the newest table"}
    table = Text(
        max_length=12,
        required=False,
        help_text="The `table_id` of `previous_table` or `older_table`; without it, the previous one.",
    )


class Archiving(Reason):
    """Why a version is archived."""

    example: ClassVar = {"reason": "Nobody gets it any more"}


class NewFreshness(Body):
    """How fresh a version's data should be."""

    example: ClassVar = {"freshness_minutes": 360}
    freshness_minutes = Whole(
        min_value=1, max_value=MAX_MINUTES, allow_null=True, help_text="How old it may become; null: no target."
    )


class VersionList(StudioView, tag="Versions"):
    @operation("versions_list", Scope.READ, takes=PageQuery, gives=VersionAnswer)
    def get(self, asked: dict[str, Any], model: str) -> Result:
        """List a model's versions, oldest first, those left out that are archived."""
        row = find_model(self.tenant, model)
        versions: QuerySet[Version] = Version.objects.for_tenant(self.tenant).filter(model=row, archived_at=None)
        versions = with_tables(versions).select_related("model", "layout", "source", "schedule")
        return Result(page_of(versions, asked, by="pk"), weights=_weights(row))

    @operation(
        "versions_create",
        Scope.VERSIONS_WRITE,
        takes=NewVersion,
        gives=VersionAnswer,
        status=201,
        answer_example={
            **VERSION,
            "name": "2026-12-a",
            "code": 2,
            "weight_bp": 0,
            "active_table": None,
            "last_fence": 0,
        },
    )
    def post(self, given: dict[str, Any], model: str) -> Result:
        """Create a version with its source.

        A model's first version gets all units; a later one none, until the weights give it some.
        """
        row = find_model(self.tenant, model)
        with fields_named(source_kind="source.kind", source_location="source.location", layout="layout_revision"):
            version = version_create(
                model=row,
                name=given["name"],
                source_kind=given["source"]["kind"],
                source_location=given["source"]["location"],
                layout=layout_numbered(row, given.get("layout_revision")),
                actor=self.actor,
            )
        return _found(self, model, version.name, at=reverse("api-version", args=[model, version.name]))


class VersionDetail(StudioView, tag="Versions"):
    @operation("versions_read", Scope.READ, gives=VersionAnswer)
    def get(self, model: str, version: str) -> Result:
        """Read a version."""
        return _found(self, model, version)


class VersionArchive(StudioView, tag="Versions"):
    @operation(
        "versions_archive",
        Scope.VERSIONS_WRITE,
        takes=Archiving,
        gives=VersionAnswer,
        answer_example={
            **VERSION,
            "name": "2026-09-b",
            "weight_bp": 0,
            "active_table": None,
            "schedule": None,
            "freshness_minutes": None,
            "archived_at": "2026-12-01T09:00:00Z",
        },
    )
    def post(self, given: dict[str, Any], model: str, version: str) -> Result:
        """Archive a version that has no weight, no tester and no load that runs. There is no way back.

        Its tables are dropped, its schedule ends, its history stays, and so does its name. Its code comes back
        after about two days, when no client can hold an answer with it.
        """
        version_archive(version=find_version(self.tenant, model, version), actor=self.actor, reason=given["reason"])
        return _found(self, model, version)


class VersionSource(StudioView, tag="Versions"):
    @operation("versions_set_source", Scope.VERSIONS_WRITE, takes=NewSource, gives=VersionAnswer)
    def put(self, given: dict[str, Any], model: str, version: str) -> Result:
        """Change a version's source, from the next load on."""
        row = find_version(self.tenant, model, version)
        with fields_named(source_kind="kind", source_location="location"):
            source_set(version=row, kind=given["kind"], location=given["location"], actor=self.actor)
        return _found(self, model, version)


class VersionRollBack(StudioView, tag="Versions"):
    @operation(
        "versions_roll_back",
        Scope.LOADS_RUN,
        takes=RollBack,
        gives=VersionAnswer,
        answer_example={**VERSION, "previous_table": TABLE},
    )
    def post(self, given: dict[str, Any], model: str, version: str) -> Result:
        """Roll a version back to one of its two earlier tables.

        The active table takes the place of the chosen one, so that doing it twice undoes it. Serving has it within
        2 seconds.
        """
        row = find_version(self.tenant, model, version)
        table = _kept_table(row, given.get("table"))
        table_roll_back(version=row, actor=self.actor, reason=given["reason"], table=table)
        return _found(self, model, version)


class VersionFreshness(StudioView, tag="Versions"):
    @operation("versions_set_freshness", Scope.VERSIONS_WRITE, takes=NewFreshness, gives=VersionAnswer)
    def put(self, given: dict[str, Any], model: str, version: str) -> Result:
        """Set how old a version's data may become before it counts as late."""
        row = find_version(self.tenant, model, version)
        with fields_named(minutes="freshness_minutes"):
            freshness_set(version=row, actor=self.actor, minutes=given["freshness_minutes"])
        return _found(self, model, version)


def _found(view: StudioView, model: str, name: str, at: str = "") -> Result:
    """Return a version as it is now. Two queries."""
    version = find_version(view.tenant, model, name)
    return Result(version, at=at, weights=_weights(version.model))


def _weights(model: RecommendationModel) -> dict[str, int]:
    """Return the weights that are served, by code as JSON has it. One query."""
    rows = RolloutRevision.objects.for_tenant(model.tenant).filter(model=model).order_by("-number")
    newest: dict[str, int] | None = rows.values_list("weights_bp", flat=True).first()
    return newest or {}


def _kept_table(version: Version, table_id: str | None) -> Table | None:
    """Return the kept table of an id; None without one.

    Raises:
        RuleBroken: the version keeps none of this id.
    """
    if table_id is None:
        return None
    for table in (version.previous_table, version.older_table):
        if table is not None and table.table_id == table_id:
            return table
    raise RuleBroken(f"“{version.name}” does not keep the table “{table_id}”.", field="table")
