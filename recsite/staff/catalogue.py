"""Models, layouts and versions with their sources and schedules in the admin."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

from django.contrib import admin
from django.db.models import Prefetch, Q, QuerySet
from django.http import HttpRequest
from django.utils import timezone
from django.utils.html import format_html, format_html_join
from unfold.contrib.filters.admin import ChoicesDropdownFilter, RadioFilter
from unfold.decorators import display

from models_registry.catalogue.selectors import LATE_AFTER, data_at, is_late, name_of, weights_by_code
from models_registry.loading.schedules import words
from models_registry.models import Layout, Load, LoadState, RecommendationModel, Schedule, Source, Version
from recsite.staff.columns import (
    LOAD_COLOURS,
    ModelFilter,
    VersionRowAdmin,
    data_time,
    newest_load,
    newest_weights,
)
from recsite.staff.pages import Label, ReadOnlyAdmin, StudioFilter, column, instant, link_to, list_link
from tenants.figures import age, megabytes, number, percent, plain_json

DATA_COLOURS = {"in_time": "success", "late": "warning", "missing": "danger", "none": "default"}


# --- Models ---------------------------------------------------------------------------------------------------------


@admin.register(RecommendationModel)
class RecommendationModelAdmin(ReadOnlyAdmin):
    """Models."""

    studio_path = "tenant"
    dashboard_page, dashboard_paths = "rollout", ("slug",)
    list_display = ("name", "studio", "short_name", "weights", "keys", "rows", "data_age")
    list_filter = (StudioFilter,)
    search_fields = ("slug", "name", "tenant__name", "tenant__slug")
    ordering = ("tenant__name", "slug")
    fieldsets = (
        (None, {"fields": ("name", "studio", "short_name", "keys", "unit")}),
        ("What it serves", {"fields": ("weights", "rows", "data_age", "versions_", "loads", "layouts_")}),
        ("What it answers", {"fields": ("kept_for",)}),
        ("When a load is rejected", {"fields": ("rows_differ", "keys_missing", "values_differ")}),
    )

    def get_queryset(self, request: HttpRequest) -> Any:
        """Bring versions with their tables, and the weights, along."""
        versions = (
            Version.objects.unscoped()
            .select_related("active_table__load")
            .defer("active_table__load__report", "active_table__load__source_location")
        )
        return (
            super()
            .get_queryset(request)
            .select_related("tenant")
            .annotate(weights_bp=newest_weights("pk"))
            .prefetch_related(Prefetch("versions", queryset=versions))
        )

    @display(description="Weights")
    def weights(self, model: Any) -> str:
        """Return each version's weight, the largest first."""
        weights = weights_by_code(model.weights_bp or {})
        names = {version.code: version.name for version in model.versions.all()}
        shares = sorted(weights.items(), key=lambda item: -item[1])
        if not shares:
            return "no version yet"
        return format_html_join(" · ", "<b>{}</b> {}", ((name_of(code, names), percent(bp)) for code, bp in shares))

    short_name = column("Short name", lambda model: str(model.slug))
    keys = column("Keyed by", lambda model: ", ".join(model.key_fields))
    unit = column("Who is bucketed", lambda model: model.unit_field or "the whole key")

    @display(description="Rows")
    def rows(self, model: Any) -> str:
        """Return the rows of the largest table that is served."""
        counts = [version.active_table.row_count for version in self._served(model) if version.active_table]
        return number(max(counts)) if counts else "–"

    @display(description="Data age", label=DATA_COLOURS)
    def data_age(self, model: Any) -> Label:
        """Return the age of the oldest table that is served."""
        served = self._served(model)
        if not served:
            return Label("none", "nothing served")
        tables = [version.active_table for version in served if version.active_table]
        if len(tables) < len(served):
            return Label("missing", "not loaded")
        oldest = min(data_at(table) for table in tables)
        now = timezone.now()
        return Label(
            "late" if any(is_late(version, now) for version in served) else "in_time", age(oldest).removesuffix(" ago")
        )

    kept_for = column("Clients keep an answer for", lambda model: f"{number(model.max_client_age_seconds)} s")
    rows_differ = column(
        "Rows", lambda model: f"their number differs by more than {percent(round(10_000 * model.max_row_count_change))}"
    )
    keys_missing = column(
        "Keys", lambda model: f"less than {percent(round(10_000 * model.min_coverage))} of those served are still there"
    )
    values_differ = column("Values", lambda model: f"a field's population stability index is above {model.max_psi:g}")
    versions_ = column("Versions", lambda model: list_link(Version, number(len(model.versions.all())), model=model.pk))
    loads = column("Loads", lambda model: list_link(Load, "See its loads", model=model.pk))
    layouts_ = column("Layouts", lambda model: list_link(Layout, "See its layouts", model=model.pk))

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls it."""
        return f"model {obj.slug}"

    def _served(self, model: Any) -> list[Version]:
        weights = weights_by_code(model.weights_bp or {})
        return [version for version in model.versions.all() if weights.get(version.code)]


@admin.register(Layout)
class LayoutAdmin(ReadOnlyAdmin):
    """Layouts: the fields of an answer. Never edited; a change is the next one."""

    studio_path, model_path = "model__tenant", "model"
    dashboard_page, dashboard_paths = "model-settings", ("model__slug",)
    list_display = ("revision_label", "studio", "model", "names", "made")
    list_filter = (StudioFilter, ModelFilter)
    list_select_related = ("model__tenant",)
    search_fields = ("model__slug", "model__tenant__name")
    ordering = ("model__tenant__name", "model__slug", "-revision")
    fields = ("model", "studio", "revision", "made", "content", "default_")

    revision_label = column("Layout", lambda layout: f"Layout {layout.revision}", "revision")
    names = column("Fields", lambda layout: ", ".join(field["name"] for field in layout.fields))
    content = column("Fields", lambda layout: _json(layout.fields))
    default_ = column(
        "Default answer",
        lambda layout: _json(layout.default) if layout.default is not None else "none: “204 No Content”",
    )
    made = column("Made", lambda layout: age(layout.created_at), "created_at")

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls its model."""
        return f"model {obj.model.slug}"


def _json(value: Any) -> str:
    return format_html('<pre class="rs-code">{}</pre>', plain_json(value))


# --- Versions -------------------------------------------------------------------------------------------------------


class DataFilter(RadioFilter):
    """Versions by whether they have rows, and how old these are."""

    title = "data"
    parameter_name = "data"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the choices."""
        return [("loaded", "Loaded"), ("late", "Late"), ("none", "Not loaded")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> Any:
        """Narrow to the choice."""
        chosen = self.value()
        if chosen == "none":
            return queryset.filter(active_table=None)
        if chosen in {"loaded", "late"}:
            queryset = queryset.exclude(active_table=None)
        if chosen != "late":
            return queryset
        dated = queryset.annotate(data_time=data_time("active_table"))
        now = timezone.now()
        late = Q(freshness_minutes=None, data_time__lt=now - LATE_AFTER)
        for minutes in queryset.exclude(freshness_minutes=None).order_by().values_list("freshness_minutes").distinct():
            late |= Q(freshness_minutes=minutes[0], data_time__lt=now - timedelta(minutes=minutes[0]))
        return dated.filter(late)


@admin.register(Version)
class VersionAdmin(ReadOnlyAdmin):
    """Versions."""

    studio_path, model_path = "model__tenant", "model"
    dashboard_page, dashboard_paths = "version", ("model__slug", "name")
    list_display = ("name", "studio", "model_link", "weight", "data_age", "rows", "size", "last_load")
    list_filter = (StudioFilter, ModelFilter, DataFilter)
    search_fields = ("name", "model__slug", "model__name", "model__tenant__name", "model__tenant__slug")
    ordering = ("model__tenant__name", "model__slug", "code")
    fieldsets = (
        (None, {"fields": ("name", "studio", "model_link", "code", "layout", "source_link", "created")}),
        ("What it serves", {"fields": ("weight", "data_age", "target", "rows", "size", "last_load")}),
    )

    created = instant("created_at", "Made")

    def get_queryset(self, request: HttpRequest) -> Any:
        """Bring the table, the source, the newest load and the weights along."""
        return (
            super()
            .get_queryset(request)
            .select_related("model__tenant", "layout", "source", "active_table__load")
            .defer("active_table__load__report", "active_table__load__source_location")
            .annotate(
                weights_bp=newest_weights("model"),
                load_state=newest_load("state"),
                load_at=newest_load("created_at"),
            )
        )

    model_link = column("Model", lambda version: link_to(version.model))

    @display(description="Source")
    def source_link(self, version: Any) -> str:
        """Lead to the source."""
        source = getattr(version, "source", None)
        return link_to(source, f"{source.get_kind_display()}: {source.location}") if source else "none yet"

    weight = column("Weight", lambda version: percent(weights_by_code(version.weights_bp or {}).get(version.code, 0)))

    @display(description="Data age", label=DATA_COLOURS)
    def data_age(self, version: Any) -> Label:
        """Return the age of its active table's data."""
        if version.active_table is None:
            return Label("none", "not loaded")
        when = data_at(version.active_table)
        return Label("late" if is_late(version, timezone.now()) else "in_time", age(when).removesuffix(" ago"))

    @display(description="Late after")
    def target(self, version: Any) -> str:
        """Say how old its data may become."""
        minutes = version.freshness_minutes
        return f"{number(minutes)} min" if minutes else "a day; it has no target of its own"

    rows = column(
        "Rows",
        lambda version: number(version.active_table.row_count if version.active_table else None),
        "active_table__row_count",
    )
    size = column(
        "Size",
        lambda version: megabytes(version.active_table.size_bytes if version.active_table else None),
        "active_table__size_bytes",
    )

    @display(description="Last load", ordering="load_at", label={**LOAD_COLOURS, "never": "default"})
    def last_load(self, version: Any) -> Label:
        """Return how its newest load stands."""
        if version.load_state is None:
            return Label("never", "never")
        return Label(version.load_state, f"{LoadState(version.load_state).label} · {age(version.load_at)}")

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls it."""
        return f"version {obj.model.slug}/{obj.name}"


@admin.register(Schedule)
class ScheduleAdmin(VersionRowAdmin):
    """Schedules."""

    list_display = ("version_link", "studio", "model_", "when", "is_enabled", "next_run", "last_run", "note")
    list_filter = (StudioFilter, ModelFilter, ("kind", ChoicesDropdownFilter))
    ordering = ("next_run_at",)
    fields = ("version_link", "when", "timezone", "is_enabled", "next_run", "last_run", "note")

    next_run = instant("next_run_at", "Next run")
    last_run = instant("last_run_at", "Last run")
    when = column("When", words)


@admin.register(Source)
class SourceAdmin(VersionRowAdmin):
    """Sources."""

    list_display = ("location_", "kind", "studio", "model_", "version_link")
    list_filter = (StudioFilter, ModelFilter, ("kind", ChoicesDropdownFilter))
    search_fields = ("location", *VersionRowAdmin.search_fields)
    ordering = ("version__model__tenant__name", "version__model__slug", "version__code")
    fields = ("version_link", "kind", "location")

    location_ = column(
        "Where",
        lambda source: source.location if len(source.location) <= 90 else f"{source.location[:90]}…",
        "location",
    )
