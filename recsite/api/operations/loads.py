"""Loads: starting them, watching them, reading what their checks found."""

from __future__ import annotations

from typing import Any, ClassVar

from django.db.models import QuerySet
from django.urls import resolve, reverse
from rest_framework import serializers

from models_registry.loading.requests import MAX_ROWS_PER_SECOND, load_cancel, load_request, load_waive
from models_registry.models import FRUITLESS_STATES, RUNNING_STATES, Load, LoadState, ProblemCode, SourceKind
from recsite.api.authentication import caller_of, needs
from recsite.api.bodies import Answer, Body, Moment, Text, Whole, YesNo
from recsite.api.operations.lookups import find_version, one_of
from recsite.api.operations.versions import NewSource
from recsite.api.paging import PageQuery, page_of
from recsite.api.problems import fields_named
from recsite.api.schema import Result, operation
from recsite.api.studio_view import StudioView
from tenants.models import Scope, Tenant
from tenants.paging import Page

LOAD = {
    "model": "offers",
    "version": "2026-11-a",
    "fence": 7,
    "state": "active",
    "is_finished": True,
    "source": {"kind": "bigquery_table", "location": "night-owl-analytics.recommendations.offers_2026_11_a"},
    "source_snapshot_at": "2026-11-01T09:58:30Z",
    "is_dry_run": False,
    "rows_per_second_limit": None,
    "requested_by": "Airflow, nightly publish (at_5f2m8q0xk1bc)",
    "scheduled_for": None,
    "is_repair": False,
    "accepts": None,
    "accept_reason": "",
    "attempts": 1,
    "rows_expected": 2145332,
    "rows_read": 2145332,
    "rows_written": 2145332,
    "problem": "",
    "problem_code": "",
    "may_be_retried": False,
    "created_at": "2026-11-01T09:58:21Z",
    "started_at": "2026-11-01T09:58:22Z",
    "finished_at": "2026-11-01T09:58:59Z",
}
QUEUED = {
    **LOAD,
    "state": "queued",
    "is_finished": False,
    "source_snapshot_at": None,
    "attempts": 0,
    "rows_expected": None,
    "rows_read": 0,
    "rows_written": 0,
    "started_at": None,
    "finished_at": None,
    "report": {},
}
REPORT = {
    "checks": [
        {
            "name": "offer_id: range",
            "passed": False,
            "count": 3,
            "words": "3 rows have an offer_id that is not within 0 … 4095",
            "samples": [{"row": 812, "key": "p000811", "value": "5000"}],
            "may_be_waived": False,
        }
    ],
    "notes": ["Left out, because neither key nor layout has them: exported_at."],
    "stages": [{"name": "extract", "seconds": 12.4, "rows": 2145332, "rows_per_second": 173010}],
}
REJECTED = {
    **LOAD,
    "state": "rejected",
    "rows_written": 0,
    "problem": "3 rows have an offer_id that is not within 0 … 4095.",
    "problem_code": "rows_wrong",
    "report": REPORT,
}


class LoadSourceAnswer(Answer[Load]):
    """What a load read: fixed when it was queued."""

    kind = serializers.ChoiceField(source="source_kind", choices=SourceKind.choices)
    location = serializers.CharField(source="source_location")


class LoadAnswer(Answer[Load]):
    """One run that reads a source and makes a table."""

    example = LOAD
    model = serializers.CharField(source="version.model.slug")
    version = serializers.CharField(source="version.name")
    fence = serializers.IntegerField(help_text="Its number within the version; of two loads only the newer activates.")
    state = serializers.ChoiceField(choices=LoadState.choices)
    is_finished = serializers.SerializerMethodField(help_text="It has ended, whether well or not.")
    source_ = LoadSourceAnswer(source="*")
    source_snapshot_at = serializers.DateTimeField(allow_null=True, help_text="The instant at which BigQuery was read.")
    is_dry_run = serializers.BooleanField(help_text="It only reads and checks, and ends checked or rejected.")
    rows_per_second_limit = serializers.IntegerField(
        allow_null=True, help_text="The most rows written in a second; null: as many as serving allows."
    )
    requested_by = serializers.CharField(source="requested_by_name")
    scheduled_for = serializers.DateTimeField(
        allow_null=True, help_text="When the version's schedule was due; null: somebody asked for it."
    )
    is_repair = serializers.SerializerMethodField(help_text="The system asked for it, because Redis lost rows.")
    accepts = serializers.IntegerField(
        source="waives.fence",
        default=None,
        allow_null=True,
        help_text="The rejected load whose failed comparison checks it waives.",
    )
    accept_reason = serializers.CharField(source="waive_reason", help_text="Why it waives them; else empty.")
    attempts = serializers.IntegerField(help_text="How many times a worker began it.")
    rows_expected = serializers.IntegerField(allow_null=True, help_text="null where the source does not say.")
    rows_read = serializers.IntegerField()
    rows_written = serializers.IntegerField()
    problem = serializers.CharField(help_text="One clear sentence, when it was rejected or failed; else empty.")
    problem_code = serializers.ChoiceField(
        choices=ProblemCode.choices,
        allow_blank=True,
        help_text="The same for programs: a value never changes its meaning, and more may come; else empty.",
    )
    may_be_retried = serializers.BooleanField(
        help_text="It ended badly, and the same load may end well a while later though nobody mends anything."
    )
    created_at = serializers.DateTimeField()
    started_at = serializers.DateTimeField(allow_null=True)
    finished_at = serializers.DateTimeField(allow_null=True)

    def get_is_repair(self, load: Load) -> bool:
        """Tell whether it replaces a table that was lost."""
        return load.repairs_id is not None

    def get_is_finished(self, load: Load) -> bool:
        """Tell whether it has ended."""
        return load.state not in RUNNING_STATES


class LoadReportAnswer(LoadAnswer):
    """A load with its report."""

    example = REJECTED
    report = serializers.DictField(
        help_text="`checks` (each with name, passed, count, words, samples, may_be_waived), `fields` (how each is "
        "distributed, now and in what is served), `difference` (keys added, removed, changed), `files` (how many "
        "were read, and of the first 100 name, size, time and rows), `notes` and `stages` (seconds and rates)."
    )


class NewLoad(Body):
    """What to load, and how."""

    example: ClassVar = {"dry_run": True}
    source_ = NewSource(
        required=False,
        help_text="Read this, for this load alone; without it, the version's source, which stays as it is.",
    )
    dry_run = YesNo(
        required=False, default=False, help_text="Only read, check and compare; what is served stays as it is."
    )
    rows_per_second_limit = Whole(
        min_value=1,
        max_value=MAX_ROWS_PER_SECOND,
        required=False,
        allow_null=True,
        default=None,
        help_text="The most rows to write in a second; without it, as many as serving allows.",
    )


class Waiver(Body):
    """Why the checks that rejected a load are waived."""

    example: ClassVar = {"reason": "The studio closed half of its countries"}
    reason = Text(max_length=500, help_text="Required; kept with the load and in the audit trail.")


class Cancellation(Body):
    """Why a load is ended."""

    example: ClassVar = {"reason": "The table is written again at noon"}
    reason = Text(max_length=500, required=False, default="", help_text="Kept in the audit trail.")


class LoadQuery(PageQuery):
    """Which loads."""

    state = serializers.ChoiceField(choices=LoadState.choices, required=False)
    since = Moment(source="created_at__gte", required=False, help_text="Asked for from this instant on.")


class AllLoadsQuery(LoadQuery):
    """Which loads of the whole studio."""

    model = serializers.SlugField(
        source="version__model__slug", max_length=50, required=False, help_text="Of this model."
    )
    version = serializers.CharField(
        source="version__name", max_length=60, required=False, help_text="Of versions with this name."
    )


def _came_to_nothing(tenant: Tenant, location: str) -> bool:
    """Tell whether the load at an address has ended without a table to serve. One query."""
    names = resolve(location).kwargs
    rows = Load.objects.for_tenant(tenant).filter(state__in=FRUITLESS_STATES)
    return rows.filter(
        version__model__slug=names["model"], version__name=names["version"], fence=int(names["fence"])
    ).exists()


class StudioLoads(StudioView, tag="Loads"):
    @operation("loads_list", Scope.READ, takes=AllLoadsQuery, gives=LoadAnswer)
    def get(self, asked: dict[str, Any]) -> Page[Any]:
        """List the studio's loads, newest first."""
        return page_of(_rows(self.tenant), asked, by="pk", is_descending=True)


class VersionLoads(StudioView, tag="Loads"):
    @operation("version_loads_list", Scope.READ, takes=LoadQuery, gives=LoadAnswer)
    def get(self, asked: dict[str, Any], model: str, version: str) -> Page[Any]:
        """List a version's loads, newest first."""
        rows = _rows(self.tenant).filter(version=find_version(self.tenant, model, version))
        return page_of(rows, asked, by="fence", is_descending=True)

    @operation(
        "version_loads_start",
        Scope.LOADS_RUN,
        takes=NewLoad,
        gives=LoadReportAnswer,
        status=201,
        answer_example={**QUEUED, "is_dry_run": True},
        came_to_nothing=_came_to_nothing,
    )
    def post(self, given: dict[str, Any], model: str, version: str) -> Result:
        """Start a load, or a dry run.

        It waits for a worker. Ask for it (`Location`) until `is_finished`, and look at `state`: `active` is served;
        `rejected` was stopped by a check (see `report`), and the old table is still served. A dry run that passes
        every check ends `checked`.

        A `source` needs the scope `versions:write` as well. The load and its report keep it, and a repair of the
        table reads it again; a schedule reads the version's.

        With an `Idempotency-Key` that was sent before, the answer is the load that it started, unless that ended
        without a table since (rejected, failed, cancelled): then a new one is started, so a job that is run again after
        the data was mended loads them.
        """
        row, source = find_version(self.tenant, model, version), given.pop("source", None)
        if source is not None:
            needs(Scope.VERSIONS_WRITE).check(caller_of(self.request))
            given |= {"source_kind": source["kind"], "source_location": source["location"]}
        with fields_named(source_kind="source.kind", source_location="source.location"):
            load = load_request(version=row, actor=self.actor, **given)
        return Result(load, at=reverse("api-version-load", args=[model, version, load.fence]))


class LoadDetail(StudioView, tag="Loads"):
    @operation("version_loads_read", Scope.READ, gives=LoadReportAnswer)
    def get(self, model: str, version: str, fence: str) -> Load:
        """Read a load with its report."""
        return _find(self.tenant, model, version, fence)


class LoadCancellation(StudioView, tag="Loads"):
    @operation(
        "version_loads_cancel",
        Scope.LOADS_RUN,
        takes=Cancellation,
        gives=LoadReportAnswer,
        answer_example={
            **QUEUED,
            "state": "cancelled",
            "is_finished": True,
            "problem": "Airflow, nightly publish (at_5f2m8q0xk1bc) cancelled it.",
            "problem_code": "cancelled",
            "finished_at": "2026-11-01T09:58:24Z",
        },
    )
    def post(self, given: dict[str, Any], model: str, version: str, fence: str) -> Load:
        """End a load that waits or runs.

        What is served stays as it is; what the load had written is dropped. One that has ended is refused.
        """
        return load_cancel(load=_find(self.tenant, model, version, fence), actor=self.actor, **given)


class LoadActivation(StudioView, tag="Loads"):
    @operation(
        "version_loads_activate_anyway",
        Scope.LOADS_WAIVE,
        takes=Waiver,
        gives=LoadReportAnswer,
        status=201,
        answer_example={**QUEUED, "fence": 8, "accepts": 7, "accept_reason": "The studio closed half of its countries"},
        came_to_nothing=_came_to_nothing,
    )
    def post(self, given: dict[str, Any], model: str, version: str, fence: str) -> Result:
        """Load again what a check rejected, and waive that check.

        For a load that is meant to differ so much from what is served: each of its failed checks must say
        `may_be_waived`. The source is read anew. A check of the rows themselves is never waived.
        """
        load = load_waive(load=_find(self.tenant, model, version, fence), actor=self.actor, reason=given["reason"])
        return Result(load, at=reverse("api-version-load", args=[model, version, load.fence]))


def _rows(tenant: Tenant) -> QuerySet[Load]:
    """Return the studio's loads, reports left out."""
    rows: QuerySet[Load] = Load.objects.for_tenant(tenant).select_related("version__model", "waives")
    return rows.defer("report", "waives__report")


def _find(tenant: Tenant, model: str, version: str, fence: str) -> Load:
    """Return a load with its report. One query."""
    rows: QuerySet[Load] = Load.objects.for_tenant(tenant).select_related("version__model__tenant", "waives")
    rows = rows.filter(version__model__slug=model, version__name=version, fence=int(fence))
    return one_of(rows.defer("waives__report"), f"There is no load {fence} of “{model}/{version}”.")
