"""Loads and tables in the admin: a load's progress while it runs, what its checks found, which table is served."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from django.contrib import admin
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display

from models_registry.loading.progress import progress_of
from models_registry.models import Load, LoadRange, LoadState, Table, TableState
from recsite.staff.columns import LOAD_COLOURS, ModelFilter
from recsite.staff.pages import Label, ReadOnlyAdmin, StudioFilter, link_to
from tenants.figures import age, duration, megabytes, number, percent_number


def progress(load: Load, now: datetime | None = None) -> dict[str, Any]:
    """Return the figures of a load's page."""
    found = progress_of(load, now)
    return {
        "steps": found.steps,
        "is_running": found.is_running,
        "label": LoadState(load.state).label,
        "colour": LOAD_COLOURS[load.state],
        "read": _of(load.rows_read, load.rows_expected),
        "read_share": _percent(found.read_share) if found.is_running else "",
        "written": _of(load.rows_written, found.rows_expected),
        "written_share": _percent(found.written_share) if found.is_running else "",
        "speed": _speed(found.rows_per_second),
        "elapsed": duration(found.elapsed),
        "silent_for": age(load.heartbeat_at, now) if found.is_silent else "",
        "is_waiting_long": found.is_waiting_long,
    }


def _of(done: int, total: int | None) -> str:
    return f"{number(done)} of {number(total)}" if total else number(done)


def _percent(share: float | None) -> str:
    return "" if share is None else percent_number(round(10_000 * share))


def _speed(rate: float | None) -> str:
    return f"{number(rate)} rows/s" if rate else "–"


@admin.register(Load)
class LoadAdmin(ReadOnlyAdmin):
    """Loads."""

    studio_path, model_path = "version__model__tenant", "version__model"
    list_display = ("label", "studio", "model_", "version_link", "state_label", "rows", "speed", "took", "asked")
    list_filter = (StudioFilter, ModelFilter, ("state", ChoicesDropdownFilter))
    search_fields = (
        *("version__name", "version__model__slug", "version__model__tenant__name"),
        *("requested_by_name", "problem"),
    )
    date_hierarchy = "created_at"
    ordering = ("-created_at", "-pk")

    def get_queryset(self, request: HttpRequest) -> Any:
        """Bring version, model and studio along."""
        return super().get_queryset(request).select_related("version__model__tenant")

    def get_urls(self) -> list[URLPattern]:
        """Add the part of the page that is fetched anew every second."""
        view = self.admin_site.admin_view(self.progress_view)
        return [path("<path:object_id>/progress/", view, name="models_registry_load_progress"), *super().get_urls()]

    def lookup_allowed(self, lookup: str, value: str, request: HttpRequest | None = None) -> bool:
        """Let the version's page link to the version's loads."""
        return lookup == "version__id__exact" or super().lookup_allowed(lookup, value, request)

    @display(description="Load", ordering="fence")
    def label(self, load: Any) -> str:
        """Return its number."""
        return f"Load {load.fence}"

    @display(description="Model")
    def model_(self, load: Any) -> str:
        """Return its model."""
        return str(load.version.model)

    @display(description="Version", ordering="version__name")
    def version_link(self, load: Any) -> str:
        """Lead to its version."""
        return link_to(load.version)

    @display(description="State", ordering="state", label=LOAD_COLOURS)
    def state_label(self, load: Any) -> Label:
        """Say how it stands."""
        return Label(load.state, load.get_state_display())

    @display(description="Rows", ordering="rows_read")
    def rows(self, load: Any) -> str:
        """Return the rows written, or read so far."""
        return number(load.rows_written or load.rows_read) if load.rows_read else "–"

    @display(description="Speed")
    def speed(self, load: Any) -> str:
        """Return rows a second over the whole run."""
        return _speed(progress_of(load).rows_per_second)

    @display(description="Took")
    def took(self, load: Any) -> str:
        """Return how long it ran."""
        return duration(progress_of(load).elapsed)

    @display(description="Asked for", ordering="created_at")
    def asked(self, load: Any) -> str:
        """Say when, and by whom."""
        return f"{age(load.created_at)} by {load.requested_by_name or 'the system'}"

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls its version."""
        return f"version {obj.version.model.slug}/{obj.version.name}"

    def changeform_view(
        self, request: HttpRequest, object_id: str | None = None, form_url: str = "", extra_context: Any = None
    ) -> HttpResponse:
        """Show the load; there is no form."""
        load = self.get_row(request, object_id or "")
        return self.page(
            request,
            "staff/load.html",
            title=f"Load {load.fence} of {load.version.model.slug} / {load.version.name}",
            obj=load,
            **self._load_context(load),
        )

    def progress_view(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Return the part of the page that changes while the load runs."""
        load = self.get_row(request, object_id)
        return TemplateResponse(request, "staff/_load.html", self._load_context(load))

    def _load_context(self, load: Load) -> dict[str, Any]:
        table = Table.objects.unscoped().filter(load=load).first()
        checks = load.report.get("checks", [])
        return {
            "load": load,
            "progress": progress(load),
            "table": table,
            "failed_checks": [check for check in checks if not check["passed"]],
            "passed_checks": [check for check in checks if check["passed"]],
            "stages": load.report.get("stages", []),
            "notes": load.report.get("notes", []),
            "is_served": table is not None and load.version.active_table_id == table.pk,
            "progress_url": reverse("admin:models_registry_load_progress", args=[load.pk]),
            "version_url": reverse("admin:models_registry_version_change", args=[load.version_id]),
        }


@admin.register(LoadRange)
class LoadRangeAdmin(ReadOnlyAdmin):
    """The ranges of large loads, which any worker takes."""

    studio_path, model_path = "load__version__model__tenant", "load__version__model"
    list_display = ("part", "load_link", "studio", "state", "attempts", "rows", "heartbeat_at")
    list_filter = (StudioFilter, ModelFilter, ("state", ChoicesDropdownFilter))
    list_select_related = ("load__version__model__tenant",)
    search_fields = ("load__version__name", "load__version__model__slug", "load__version__model__tenant__name")
    ordering = ("-load", "first_partition")
    fields = ("part", "load_link", "state", "attempts", "rows", "size", "heartbeat_at")

    @display(description="Partitions", ordering="first_partition")
    def part(self, part: Any) -> str:
        """Say which of the 1,024 partitions it is."""
        return f"{part.first_partition} to {part.end_partition - 1}"

    @display(description="Load", ordering="load")
    def load_link(self, part: Any) -> str:
        """Lead to its load."""
        return link_to(part.load)

    @display(description="Rows", ordering="rows_written")
    def rows(self, part: Any) -> str:
        """Return the rows written so far."""
        return number(part.rows_written)

    @display(description="Size", ordering="size_bytes")
    def size(self, part: Any) -> str:
        """Return its bytes in Redis."""
        return megabytes(part.size_bytes)

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls its version."""
        return f"version {obj.load.version.model.slug}/{obj.load.version.name}"


def is_kept(table: Table) -> bool:
    """Tell whether its version can go back to a table."""
    version = table.version
    return table.is_whole and table.pk in (version.previous_table_id, version.older_table_id)


@admin.register(Table)
class TableAdmin(ReadOnlyAdmin):
    """Tables: the rows in Redis that each load made."""

    studio_path, model_path = "version__model__tenant", "version__model"
    list_display = ("table_id", "studio", "model_", "version_link", "role", "rows", "size", "made")
    list_filter = (StudioFilter, ModelFilter, ("state", ChoicesDropdownFilter))
    list_select_related = ("version__model__tenant", "load__version")
    search_fields = ("table_id", "version__name", "version__model__slug", "version__model__tenant__name")
    date_hierarchy = "created_at"
    fields = (
        "table_id",
        "version_link",
        "load_link",
        "role",
        "rows",
        "size",
        "row_bytes",
        "blocks",
        "activated_at",
        "created_at",
    )
    change_form_outer_before_template = "staff/_table.html"

    @display(description="Model")
    def model_(self, table: Any) -> str:
        """Return its model."""
        return str(table.version.model)

    @display(description="Version", ordering="version__name")
    def version_link(self, table: Any) -> str:
        """Lead to its version."""
        return link_to(table.version)

    @display(description="Load", ordering="load__fence")
    def load_link(self, table: Any) -> str:
        """Lead to the load that made it."""
        return link_to(table.load, f"Load {table.load.fence}")

    @display(
        description="State",
        ordering="state",
        label={
            "served": "success",
            "previous": "info",
            "writing": "info",
            "lost": "danger",
            "dropping": "warning",
            "ready": "default",
            "dropped": "default",
        },
    )
    def role(self, table: Any) -> Label:
        """Say whether it is served, kept to go back to, or gone."""
        if table.version.active_table_id == table.pk:
            return Label("served", "Served")
        if table.lost_at is not None and table.state == TableState.READY:
            return Label("lost", "Redis lost part of it")
        if is_kept(table):
            return Label("previous", "Kept: can be activated")
        return Label(table.state, table.get_state_display())

    @display(description="Rows", ordering="row_count")
    def rows(self, table: Any) -> str:
        """Count them."""
        return number(table.row_count)

    @display(description="Size", ordering="size_bytes")
    def size(self, table: Any) -> str:
        """Return its bytes in Redis."""
        return megabytes(table.size_bytes)

    @display(description="Bytes a row")
    def row_bytes(self, table: Any) -> str:
        """Return what a row takes in Redis."""
        return f"{table.size_bytes / table.row_count:.1f}" if table.row_count else "–"

    @display(description="Blocks")
    def blocks(self, table: Any) -> str:
        """Count its Redis keys."""
        return number(1 << table.block_bits)

    @display(description="Made", ordering="created_at")
    def made(self, table: Any) -> str:
        """Say how long ago."""
        return age(table.created_at)

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls its version."""
        return f"version {obj.version.model.slug}/{obj.version.name}"

    def render_change_form(self, request: HttpRequest, context: dict[str, Any], *args: Any, **kwargs: Any) -> Any:
        """Offer to activate the table that a version can go back to."""
        table = context["original"]
        if is_kept(table):
            url = reverse("admin:models_registry_version_activate_previous", args=[table.version_id])
            context["activate_url"] = f"{url}?table={table.table_id}"
        return super().render_change_form(request, context, *args, **kwargs)
