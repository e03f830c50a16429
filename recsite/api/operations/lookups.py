"""From the names in an address to rows of the caller's studio: missing and another studio's are the same 404."""

from __future__ import annotations

from typing import TypeVar

from django.db.models import Model, QuerySet

from models_registry.models import Layout, RecommendationModel, Version
from recsite.api.problems import not_found
from tenants.models import Tenant
from tenants.rules import RuleBroken

Row = TypeVar("Row", bound=Model)


def one_of(rows: QuerySet[Row], otherwise: str) -> Row:
    """Return the first of some rows. One query.

    Raises:
        Problem: there is none: a 404 that says so.
    """
    found = rows.first()
    if found is None:
        raise not_found(otherwise)
    return found


def find_model(tenant: Tenant, slug: str) -> RecommendationModel:
    """Return a model, its studio with it. One query.

    Raises:
        Problem: a 404.
    """
    rows = RecommendationModel.objects.for_tenant(tenant).select_related("tenant").filter(slug=slug)
    return one_of(rows, f"There is no model “{slug}”.")


def find_version(tenant: Tenant, model: str, name: str) -> Version:
    """Return a version with its model, studio, layout, source, schedule and tables. One query.

    Raises:
        Problem: a 404.
    """
    rows: QuerySet[Version] = Version.objects.for_tenant(tenant).filter(model__slug=model, name=name)
    rows = with_tables(rows).select_related("model__tenant", "layout", "source", "schedule")
    return one_of(rows, f"There is no version “{name}” of a model “{model}”.")


def with_tables(versions: QuerySet[Version]) -> QuerySet[Version]:
    """Have the tables fetched with the versions, and of the loads that made them what tells how old they are."""
    loads = ("active_table__load", "previous_table__load", "older_table__load")
    return versions.select_related(*loads).defer(
        *(f"{load}__{field}" for load in loads for field in ("report", "source_location", "problem"))
    )


def version_named(model: RecommendationModel, name: str, *, field: str) -> Version:
    """Return a version that a body names. One query.

    Raises:
        RuleBroken: the model has none of this name.
    """
    found = Version.objects.for_tenant(model.tenant).filter(model=model, name=name, archived_at=None).first()
    if found is None:
        raise RuleBroken(f"The model has no version “{name}”.", field=field)
    return found


def layout_numbered(model: RecommendationModel, revision: int | None) -> Layout | None:
    """Return a layout that a body names by its revision; None where it names none.

    Raises:
        RuleBroken: the model has no such layout.
    """
    if revision is None:
        return None
    found: Layout | None = Layout.objects.for_tenant(model.tenant).filter(model=model, revision=revision).first()
    if found is None:
        raise RuleBroken(f"The model has no layout {revision}.", field="layout_revision")
    return found
