"""Loads and tables in the admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from unfold.contrib.filters.admin import ChoicesDropdownFilter
from unfold.decorators import display

from models_registry.loading.progress import progress_of
from models_registry.models import Load, LoadRange, Table, TableState
from recsite.staff.columns import LOAD_COLOURS, ModelFilter, VersionRowAdmin
from recsite.staff.pages import Label, ReadOnlyAdmin, StudioFilter, column, instant, link_to
from tenants.figures import age, duration, megabytes, number


@admin.register(Load)
class LoadAdmin(VersionRowAdmin):
    """Loads. What the checks found and how far one has come is on its page of the dashboard."""

    dashboard_page = "load"
    dashboard_paths = ("pk",)
    list_display = ("label", "studio", "model_", "version_link", "state_label", "rows", "speed", "took", "asked")
    list_filter = (StudioFilter, ModelFilter, ("state", ChoicesDropdownFilter))
    search_fields = (*VersionRowAdmin.search_fields, "requested_by_name", "problem")
    date_hierarchy = "created_at"
    ordering = ("-created_at", "-pk")
    fieldsets = (
        (None, {"fields": ("label", "studio", "model_", "version_link", "asked")}),
        ("What came of it", {"fields": ("state_label", "problem_", "rows", "speed", "took", "attempts")}),
        ("What it read", {"fields": ("source_kind", "source_location", "as_of")}),
        ("Times", {"fields": ("queued", "began", "ended")}),
    )

    as_of = instant("source_snapshot_at", "As of")
    queued = instant("created_at", "Asked for")
    began = instant("started_at", "Began")
    ended = instant("finished_at", "Ended")
    label = column("Load", lambda load: f"Load {load.fence}{', a dry run' if load.is_dry_run else ''}", "fence")
    problem_ = column("Problem", lambda load: load.problem or "–")

    @display(description="State", ordering="state", label=LOAD_COLOURS)
    def state_label(self, load: Any) -> Label:
        """Say how it stands."""
        return Label(load.state, load.get_state_display())

    rows = column(
        "Rows", lambda load: number(load.rows_written or load.rows_read) if load.rows_read else "–", "rows_read"
    )

    @display(description="Speed")
    def speed(self, load: Any) -> str:
        """Return rows a second over the whole run."""
        rate = progress_of(load).rows_per_second
        return f"{number(rate)} rows/s" if rate else "–"

    took = column("Took", lambda load: duration(progress_of(load).elapsed))
    asked = column(
        "Asked for", lambda load: f"{age(load.created_at)} by {load.requested_by_name or 'the system'}", "created_at"
    )


@admin.register(LoadRange)
class LoadRangeAdmin(ReadOnlyAdmin):
    """The ranges of large loads, which any worker takes."""

    studio_path, model_path = "load__version__model__tenant", "load__version__model"
    dashboard_page, dashboard_paths = "load", ("load__pk",)
    list_display = ("part", "load_link", "studio", "state", "attempts", "rows", "heard")
    list_filter = (StudioFilter, ModelFilter, ("state", ChoicesDropdownFilter))
    list_select_related = ("load__version__model__tenant",)
    search_fields = ("load__version__name", "load__version__model__slug", "load__version__model__tenant__name")
    ordering = ("-load", "first_partition")
    fields = ("part", "load_link", "state", "attempts", "rows", "size", "heard")

    heard = instant("heartbeat_at", "Last heard of")
    part = column("Partitions", lambda part: f"{part.first_partition} to {part.end_partition - 1}", "first_partition")
    load_link = column("Load", lambda part: link_to(part.load), "load")
    rows = column("Rows", lambda part: number(part.rows_written), "rows_written")
    size = column("Size", lambda part: megabytes(part.size_bytes), "size_bytes")

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls its version."""
        return f"version {obj.load.version.model.slug}/{obj.load.version.name}"


@admin.register(Table)
class TableAdmin(VersionRowAdmin):
    """Tables: the rows in Redis that each load made."""

    list_display = ("table_id", "studio", "model_", "version_link", "role", "rows", "size", "made")
    list_filter = (StudioFilter, ModelFilter, ("state", ChoicesDropdownFilter))
    list_select_related = ("version__model__tenant", "load__version")
    search_fields = ("table_id", *VersionRowAdmin.search_fields)
    date_hierarchy = "created_at"
    fields = (
        *("table_id", "studio", "model_", "version_link", "load_link", "role", "rows", "size", "row_bytes", "blocks"),
        "sealed",
        *("activated", "created"),
    )

    activated = instant("activated_at", "Activated")
    created = instant("created_at", "Begun")
    load_link = column("Load", lambda table: link_to(table.load, f"Load {table.load.fence}"), "load__fence")

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
        version = table.version
        if version.active_table_id == table.pk:
            return Label("served", "Served")
        if table.lost_at is not None and table.state == TableState.READY:
            return Label("lost", "Redis lost part of it")
        if table.is_whole and table.pk in (version.previous_table_id, version.older_table_id):
            return Label("previous", "Kept: can be activated")
        return Label(table.state, table.get_state_display())

    rows = column("Rows", lambda table: number(table.row_count), "row_count")
    size = column("Size", lambda table: megabytes(table.size_bytes), "size_bytes")
    row_bytes = column(
        "Bytes a row", lambda table: f"{table.size_bytes / table.row_count:.1f}" if table.row_count else "–"
    )
    blocks = column("Blocks", lambda table: number(1 << table.block_bits))
    sealed = column("Sealed with the key", lambda table: table.seal_key_id or "–", "seal_key_id")
    made = column("Made", lambda table: age(table.created_at), "created_at")
