"""What several lists of models, versions and loads show alike, and the filter they share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.db.models import F, OuterRef, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest

from models_registry.models import Load, LoadState, RecommendationModel, RolloutRevision
from recsite.staff.pages import OwnerFilter, ReadOnlyAdmin, column, link_to

LOAD_COLOURS = {
    LoadState.QUEUED.value: "info",
    LoadState.EXTRACTING.value: "info",
    LoadState.CHECKING.value: "info",
    LoadState.WRITING.value: "info",
    LoadState.VERIFYING.value: "info",
    LoadState.ACTIVE.value: "success",
    LoadState.CHECKED.value: "success",
    LoadState.REJECTED.value: "warning",
    LoadState.FAILED.value: "danger",
    LoadState.SUPERSEDED.value: "default",
    LoadState.CANCELLED.value: "default",
}


def newest_weights(model_path: str) -> Subquery:
    """Return the present weights (basis points by code, as JSON holds them) of the model at that path of a query."""
    revisions = RolloutRevision.objects.unscoped().filter(model=OuterRef(model_path)).order_by("-number")
    return Subquery(revisions.values("weights_bp")[:1])


def newest_load(field: str) -> Subquery:
    """Return a field of a version's newest load."""
    loads = Load.objects.unscoped().filter(version=OuterRef("pk"), is_dry_run=False)
    return Subquery(loads.order_by("-pk").values(field)[:1])


def data_time(table_path: str) -> Coalesce:
    """Return the instant whose data the table at that path holds: BigQuery's, or when the load began to read."""
    return Coalesce(
        F(f"{table_path}__load__source_snapshot_at"),
        F(f"{table_path}__load__started_at"),
        F(f"{table_path}__created_at"),
    )


class ModelFilter(OwnerFilter):
    """Rows of one model."""

    title = parameter_name = "model"

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the models, each with its studio."""
        rows = RecommendationModel.objects.unscoped().order_by("tenant__name", "slug")
        return [(str(pk), f"{name} / {slug}") for pk, name, slug in rows.values_list("pk", "tenant__name", "slug")]


class VersionRowAdmin(ReadOnlyAdmin):
    """The admin of a table whose rows are a version's."""

    studio_path, model_path = "version__model__tenant", "version__model"
    dashboard_page = "version"
    dashboard_paths: Sequence[str] = ("version__model__slug", "version__name")
    list_select_related: Any = ("version__model__tenant",)
    search_fields: Any = ("version__name", "version__model__slug", "version__model__tenant__name")

    model_ = column("Model", lambda row: str(row.version.model), "version__model__slug")
    version_link = column("Version", lambda row: link_to(row.version), "version__name")

    def audit_subject(self, obj: Any) -> str:
        """Return what the audit trail calls its version."""
        return f"version {obj.version.model.slug}/{obj.version.name}"
