"""Saved weights and testers in the admin."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.db.models import Prefetch
from django.http import HttpRequest
from unfold.decorators import display

from models_registry.catalogue.codes import code_names
from models_registry.catalogue.selectors import name_of, weights_by_code
from models_registry.models import Override, RolloutRevision, Version
from recsite.staff.columns import ModelFilter
from recsite.staff.pages import ReadOnlyAdmin, StudioFilter, column, instant
from tenants.figures import age, percent


@admin.register(RolloutRevision)
class RolloutRevisionAdmin(ReadOnlyAdmin):
    """Every saved allocation."""

    studio_path, model_path = "model__tenant", "model"
    dashboard_page, dashboard_paths = "history", ("model__slug",)
    list_display = ("label", "studio", "model", "weights", "moved", "actor_name", "when", "reason")
    list_filter = (StudioFilter, ModelFilter)
    search_fields = ("model__slug", "model__tenant__name", "actor_name", "reason")
    date_hierarchy = "created_at"
    ordering = ("-created_at", "-number")
    fields = ("model", "number", "phase", "weights", "moved", "restored", "actor_name", "reason", "saved", "salt")

    saved = instant("created_at", "Saved")

    def get_queryset(self, request: HttpRequest) -> Any:
        """Leave the maps behind; bring names along."""
        versions = Prefetch(
            "model__versions",
            queryset=Version.objects.unscoped().only("model", "code", "former_code", "name", "created_at"),
        )
        rows = super().get_queryset(request).defer("allocation", "restores__allocation")
        return rows.select_related("model__tenant", "restores").prefetch_related(versions)

    label = column("Revision", lambda revision: f"Revision {revision.number}, phase {revision.phase}", "number")

    @display(description="Weights")
    def weights(self, revision: Any) -> str:
        """Return each version's weight, the largest first."""
        names = code_names(revision.model.versions.all()).at(revision.created_at)
        shares = sorted(weights_by_code(revision.weights_bp).items(), key=lambda item: (-item[1], item[0]))
        return " · ".join(f"{name_of(code, names)} {percent(bp)}" for code, bp in shares if bp)

    moved = column("Moved", lambda revision: percent(revision.moved_bp), "moved_bp")
    restored = column(
        "Goes back to", lambda revision: f"Revision {revision.restores.number}" if revision.restores else "–"
    )
    when = column("When", lambda revision: age(revision.created_at), "created_at")

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls its model."""
        return f"model {obj.model.slug}"


@admin.register(Override)
class TesterAdmin(ReadOnlyAdmin):
    """Testers, who get one version whatever the weights say."""

    studio_path, model_path = "model__tenant", "model"
    dashboard_page, dashboard_paths = "testers", ("model__slug",)
    list_display = ("unit", "version", "model", "studio", "note", "made")
    list_filter = (StudioFilter, ModelFilter)
    list_select_related = ("model__tenant", "version")
    search_fields = ("unit", "note", "version__name", "model__slug", "model__tenant__name")
    fields = ("unit", "version", "model", "studio", "note", "made")

    made = column("Set", lambda override: age(override.created_at), "created_at")

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls its model."""
        return f"model {obj.model.slug}"
