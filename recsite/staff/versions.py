"""Versions and their sources in the admin: load now, go back to the previous table."""

from __future__ import annotations

from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html
from unfold.contrib.filters.admin import ChoicesDropdownFilter, RadioFilter
from unfold.decorators import action, display
from unfold.enums import ActionVariant

from models_registry.catalogue.selectors import STALE_AFTER, data_at, is_late, weights_by_code
from models_registry.catalogue.services import source_set, version_create
from models_registry.loading.requests import load_request, table_roll_back
from models_registry.loading.schedules import words
from models_registry.models import RUNNING_STATES, Load, LoadState, Schedule, Source, SourceKind, Table, Version
from recsite.staff.columns import (
    LOAD_COLOURS,
    ModelFilter,
    NamedChoices,
    data_time,
    newest_load,
    newest_weights,
)
from recsite.staff.pages import (
    Label,
    ReadOnlyAdmin,
    ReasonForm,
    ServiceForm,
    StudioFilter,
    acting,
    area_field,
    change_url,
    choice_field,
    link_to,
    show_refusal,
)
from tenants.figures import age, megabytes, number, percent
from tenants.rules import RuleBroken

DATA_COLOURS = {"fresh": "success", "stale": "warning", "none": "default"}
LOCATION_HELP = (
    "Parquet: a whole path or a glob, or gs://bucket/…. "
    "BigQuery table: project.dataset.table. BigQuery query: its text."
)


class SourceForm(ServiceForm):
    """Where a version's rows come from."""

    source_kind = choice_field(SourceKind.choices, label="Kind of source")
    source_location = area_field(rows=3, label="Where", help_text=LOCATION_HELP)

    class Meta:
        model = Version
        fields: ClassVar[list[str]] = []

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        source = Source.objects.unscoped().filter(version_id=self.instance.pk).first() if self.instance.pk else None
        if source is not None:
            self.initial.update(source_kind=source.kind, source_location=source.location)

    def write(self) -> Version:
        """Change the source."""
        version: Version = self.instance
        data = self.cleaned_data
        source_set(version=version, kind=data["source_kind"], location=data["source_location"], actor=self.actor)
        return version


class NewVersionForm(SourceForm):
    """A new version with its source."""

    class Meta:
        model = Version
        fields: ClassVar = ["model", "name", "layout"]
        help_texts: ClassVar = {
            "name": "In answers and on pages, such as 2026-11-a; never changes.",
            "layout": "One of the model's. Empty: its newest.",
        }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if "layout" in self.fields:
            self.fields["layout"].required = False

    def write(self) -> Version:
        """Make the version."""
        return version_create(actor=self.actor, **self.cleaned_data)


class RollBackForm(ReasonForm):
    """Which of the kept tables to serve again, and why."""

    table = choice_field([], label="Table", required=False)
    field_order = ("table", "reason")

    def __init__(self, kept: list[Table], *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        field: Any = self.fields["table"]
        field.choices = [
            (table.table_id, f"Load {table.load.fence}: {number(table.row_count)} rows, read {age(data_at(table))}")
            for table in kept
        ]


class DataFilter(RadioFilter):
    """Versions by whether they have rows, and how old these are."""

    title = "data"
    parameter_name = "data"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [("loaded", "Loaded"), ("stale", "Older than a day"), ("none", "Not loaded")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        """Narrow to the choice."""
        chosen = self.value()
        if chosen == "none":
            return queryset.filter(active_table=None)
        if chosen in {"loaded", "stale"}:
            queryset = queryset.exclude(active_table=None)
        return stale_only(queryset) if chosen == "stale" else queryset


def stale_only(versions: QuerySet[Any]) -> Any:
    """Narrow to versions whose data is older than a day."""
    return versions.annotate(data_time=data_time("active_table")).filter(data_time__lt=timezone.now() - STALE_AFTER)


@admin.register(Version)
class VersionAdmin(NamedChoices):
    """Versions."""

    can_add = can_change = True
    studio_path, model_path = "model__tenant", "model"
    list_display = ("name", "studio", "model_link", "weight", "data_age", "rows", "size", "last_load")
    list_filter = (StudioFilter, ModelFilter, DataFilter)
    search_fields = ("name", "model__slug", "model__name", "model__tenant__name", "model__tenant__slug")
    ordering = ("model__tenant__name", "model__slug", "code")
    actions = ("load_selected",)
    actions_row = ("load_now", "activate_previous")
    change_form_outer_before_template = "staff/_version.html"
    add_fieldsets = (
        (None, {"fields": ("model", "name", "layout")}),
        ("Source", {"fields": ("source_kind", "source_location")}),
    )
    fieldsets = (
        ("Source", {"fields": ("source_kind", "source_location")}),
        ("Fixed", {"fields": ("model", "name", "code", "layout", "created_at")}),
    )

    def get_queryset(self, request: HttpRequest) -> Any:
        """Bring tables, the source, the newest load and the weights along."""
        tables = ("active_table__load", "previous_table__load", "older_table__load")
        return (
            super()
            .get_queryset(request)
            .select_related("model__tenant", "layout", "source", *tables)
            .defer(*(f"{path}__{field}" for path in tables for field in ("report", "source_location")))
            .annotate(
                weights_bp=newest_weights("model"),
                load_pk=newest_load("pk"),
                load_state=newest_load("state"),
                load_at=newest_load("created_at"),
            )
        )

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Only the source of a version changes."""
        return ("model", "name", "code", "layout", "created_at") if obj else ()

    def get_form(self, request: HttpRequest, obj: Any = None, change: bool = False, **kwargs: Any) -> Any:  # noqa: FBT001, FBT002 - Django's own signature
        """A new version has another form than one that exists."""
        kwargs["form"] = SourceForm if obj else NewVersionForm
        return super().get_form(request, obj, change=change, **kwargs)

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Say what an empty layout means."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        if db_field.name == "layout":
            field.empty_label = "The newest"
        return field

    # --- Columns ----------------------------------------------------------------------------------------------------

    @display(description="Model")
    def model_link(self, version: Any) -> str:
        """Lead to the model."""
        return link_to(version.model)

    @display(description="Weight")
    def weight(self, version: Any) -> str:
        """Return its share of the players."""
        url = reverse("admin:models_registry_recommendationmodel_weights", args=[version.model_id])
        bp = weights_by_code(version.weights_bp or {}).get(version.code, 0)
        return format_html('<a class="text-link" href="{}">{}</a>', url, percent(bp))

    @display(description="Data age", label=DATA_COLOURS)
    def data_age(self, version: Any) -> Label:
        """Return the age of its active table's data."""
        if version.active_table is None:
            return Label("none", "not loaded")
        when = data_at(version.active_table)
        return Label("stale" if is_late(version, timezone.now()) else "fresh", age(when).removesuffix(" ago"))

    @display(description="Rows", ordering="active_table__row_count")
    def rows(self, version: Any) -> str:
        """Return its active table's rows."""
        return number(version.active_table.row_count if version.active_table else None)

    @display(description="Size", ordering="active_table__size_bytes")
    def size(self, version: Any) -> str:
        """Return its active table's size in Redis."""
        return megabytes(version.active_table.size_bytes if version.active_table else None)

    @display(description="Last load", ordering="load_at", label={**LOAD_COLOURS, "never": "default"})
    def last_load(self, version: Any) -> Label:
        """Return how its newest load stands."""
        if version.load_state is None:
            return Label("never", "never")
        return Label(version.load_state, f"{LoadState(version.load_state).label} · {age(version.load_at)}")

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls it."""
        return f"version {obj.model.slug}/{obj.name}"

    # --- Pages ------------------------------------------------------------------------------------------------------

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Show what the version serves and its loads, with a button for the next one."""
        version = context.get("original")
        if version is not None:
            weight = weights_by_code(version.weights_bp or {}).get(version.code, 0)
            state, words = self.data_age(version)
            loads = version.loads.defer("report", "source_location").order_by("-pk")
            context.update(
                weight=weight,
                weights_url=reverse("admin:models_registry_recommendationmodel_weights", args=[version.model_id]),
                data_age=words,
                data_colour=DATA_COLOURS[state],
                loads=[
                    {"load": load, "url": change_url(load), "colour": LOAD_COLOURS[load.state]} for load in loads[:5]
                ],
                loads_url=f"{reverse('admin:models_registry_load_changelist')}?version__id__exact={version.pk}",
                load_url=reverse("admin:models_registry_version_load_now", args=[version.pk]),
                back_url=reverse("admin:models_registry_version_activate_previous", args=[version.pk]),
                **_back(version),
                is_running=version.load_state in RUNNING_STATES,
            )
        return super().render_change_form(request, context, *args, **kwargs)

    @action(
        description="Load now", url_path="load", permissions=["act"], icon="download", variant=ActionVariant.PRIMARY
    )
    def load_now(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask (a GET), or queue a load and go to its page (a POST)."""
        version = self.get_row(request, object_id)
        if request.method == "POST":
            try:
                load = load_request(version=version, actor=acting(request))
            except RuleBroken as error:
                self.message_user(request, str(error), messages.ERROR)
                return HttpResponseRedirect(change_url(version))
            return HttpResponseRedirect(change_url(load))
        source = getattr(version, "source", None)
        explanation = [
            f"Reads {source.get_kind_display()}: {source.location}" if source else "It has no source yet.",
            "The rows are checked first. What is served now goes on being served until the new table is whole.",
        ]
        if version.load_state in RUNNING_STATES:
            explanation.append("A load of this version is running. Of two loads only the newer one becomes active.")
        return self.ask(
            request,
            forms.Form(),
            title=f"Load {version.model.slug} / {version.name}",
            obj=version,
            submit="Load now",
            explanation=explanation,
        )

    @action(
        description="Activate the previous table",
        url_path="activate-previous",
        permissions=["act"],
        icon="undo",
    )
    def activate_previous(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Ask for a reason, then serve the table before the active one again."""
        version = self.get_row(request, object_id)
        kept = kept_tables(version)
        if request.method == "POST":
            form = RollBackForm(kept, request.POST)
        else:
            form = RollBackForm(kept, initial={"table": request.GET.get("table")})
        if form.is_valid():
            table = next((table for table in kept if table.table_id == form.cleaned_data["table"]), None)
            reason = form.cleaned_data["reason"]
            try:
                table_roll_back(version=version, actor=acting(request), reason=reason, table=table)
            except RuleBroken as error:
                show_refusal(form, error)
            else:
                self.message_user(request, f"{version.name} serves an earlier table again.", messages.SUCCESS)
                return HttpResponseRedirect(change_url(version))
        if not kept:
            explanation = [f"{version.name} has no earlier table that is whole, so there is nothing to go back to."]
        else:
            active = version.active_table
            explanation = [
                f"Now served: {number(active.row_count)} rows, read {age(data_at(active))}.",
                "It is live within 2 seconds; the table served now is kept. The next load becomes active as always.",
            ]
        return self.ask(
            request,
            form,
            title=f"Roll {version.model.slug} / {version.name} back to an earlier table",
            obj=version,
            submit="Activate this table",
            explanation=explanation,
        )

    @admin.action(description="Load now", permissions=["act"])
    def load_selected(self, request: HttpRequest, queryset: QuerySet[Any]) -> HttpResponse | None:
        """Queue a load of each version that is ticked."""
        loads: list[Load] = []
        for version in queryset:
            try:
                loads.append(load_request(version=version, actor=acting(request)))
            except RuleBroken as error:
                self.message_user(request, f"{version.name}: {error}", messages.ERROR)
        if len(loads) == 1:
            return HttpResponseRedirect(change_url(loads[0]))
        if loads:
            self.message_user(request, f"Queued {len(loads)} loads.", messages.SUCCESS)
            return HttpResponseRedirect(reverse("admin:models_registry_load_changelist"))
        return None


def _back(version: Version) -> dict[str, Any]:
    """Return what the button for another table says: after a roll-back that table may be the newer one."""
    kept, active = kept_tables(version), version.active_table
    if not kept or active is None:
        return {"previous": None}
    previous = kept[0]
    is_newer = previous.load.fence > active.load.fence
    words = "Activate the newer table again" if is_newer else "Roll back to an earlier table"
    return {
        "previous": previous,
        "back_words": f"{words} ({number(previous.row_count)} rows, {age(data_at(previous))})",
    }


def kept_tables(version: Version) -> list[Table]:
    """Return the tables a version can go back to: those of the two it keeps that are whole."""
    if version.active_table is None:
        return []
    return [table for table in (version.previous_table, version.older_table) if table and table.is_whole]


@admin.register(Schedule)
class ScheduleAdmin(ReadOnlyAdmin):
    """Schedules: seen here, changed on the version's page of the dashboard."""

    studio_path, model_path = "version__model__tenant", "version__model"
    list_display = ("version_link", "studio", "model_", "when", "is_enabled", "next_run_at", "last_run_at", "note")
    list_filter = (StudioFilter, ModelFilter, ("kind", ChoicesDropdownFilter))
    list_select_related = ("version__model__tenant",)
    search_fields = ("version__name", "version__model__slug", "version__model__tenant__name")
    ordering = ("next_run_at",)
    fields = ("version_link", "when", "timezone", "is_enabled", "next_run_at", "last_run_at", "note")

    @display(description="When")
    def when(self, schedule: Any) -> str:
        """Say when it runs."""
        return words(schedule)

    @display(description="Model", ordering="version__model__slug")
    def model_(self, schedule: Any) -> str:
        """Return its model."""
        return str(schedule.version.model)

    @display(description="Version", ordering="version__name")
    def version_link(self, schedule: Any) -> str:
        """Lead to its version."""
        return link_to(schedule.version)

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls its version."""
        return f"version {obj.version.model.slug}/{obj.version.name}"


@admin.register(Source)
class SourceAdmin(ReadOnlyAdmin):
    """Sources: seen here, changed on the version's page."""

    studio_path, model_path = "version__model__tenant", "version__model"
    list_display = ("location_", "kind", "studio", "model_", "version_link")
    list_filter = (StudioFilter, ModelFilter, ("kind", ChoicesDropdownFilter))
    list_select_related = ("version__model__tenant",)
    search_fields = ("location", "version__name", "version__model__slug", "version__model__tenant__name")
    ordering = ("version__model__tenant__name", "version__model__slug", "version__code")
    fields = ("version_link", "kind", "location")

    @display(description="Where", ordering="location")
    def location_(self, source: Any) -> str:
        """Return the location, cut where it is long."""
        return source.location if len(source.location) <= 90 else f"{source.location[:90]}…"

    @display(description="Model", ordering="version__model__slug")
    def model_(self, source: Any) -> str:
        """Return its model."""
        return str(source.version.model)

    @display(description="Version", ordering="version__name")
    def version_link(self, source: Any) -> str:
        """Lead to the page where it is changed."""
        return link_to(source.version)

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls it."""
        return f"version {obj.version.model.slug}/{obj.version.name}"
