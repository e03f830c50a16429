"""What several lists of models, versions and loads show alike, and the filters they share."""

from __future__ import annotations

from functools import reduce
from typing import Any

from django.db.models import F, OuterRef, QuerySet, Subquery
from django.db.models.functions import Coalesce
from django.http import HttpRequest
from unfold.contrib.filters.admin import DropdownFilter

from models_registry.models import Layout, Load, LoadState, RecommendationModel, RolloutRevision, Version
from recsite.staff.pages import StaffAdmin
from tenants.rules import whole_number

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


class NamedChoices(StaffAdmin):
    """An admin whose drop-downs name models, versions and layouts with their studio, since many are named alike."""

    def formfield_for_foreignkey(self, db_field: Any, request: HttpRequest, **kwargs: Any) -> Any:
        """Name the rows in full, in the order of their names."""
        field = super().formfield_for_foreignkey(db_field, request, **kwargs)
        paths = _NAME_PATHS.get(db_field.remote_field.model)
        if paths is not None:
            above = paths[-1].rpartition("__")[0]
            field.queryset = field.queryset.select_related(above).order_by(*reversed(paths))
            field.label_from_instance = lambda row: " / ".join(
                str(reduce(getattr, path.split("__"), row)) for path in reversed(paths)
            )
        return field


# What a row is called, from its own name up to its studio's.
_NAME_PATHS: dict[type, tuple[str, ...]] = {
    RecommendationModel: ("slug", "tenant__name"),
    Version: ("name", "model__slug", "model__tenant__name"),
    Layout: ("revision", "model__slug", "model__tenant__name"),
}


class ModelFilter(DropdownFilter):
    """Rows of one model, reached by the `model_path` of the table's admin."""

    title = "model"
    parameter_name = "model"

    def __init__(self, request: HttpRequest, params: Any, model: Any, model_admin: Any) -> None:
        self.path = model_admin.model_path
        super().__init__(request, params, model, model_admin)

    def lookups(self, request: HttpRequest, model_admin: Any) -> list[tuple[str, str]]:
        """Return the models, each with its studio."""
        rows = RecommendationModel.objects.unscoped().order_by("tenant__name", "slug")
        return [(str(pk), f"{name} / {slug}") for pk, name, slug in rows.values_list("pk", "tenant__name", "slug")]

    def queryset(self, request: HttpRequest, queryset: QuerySet[Any]) -> QuerySet[Any]:
        """Narrow to the choice."""
        chosen = whole_number(self.value() or "")
        return queryset if chosen is None else queryset.filter(**{self.path: chosen})
