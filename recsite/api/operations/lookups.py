"""From the names in an address to rows of the caller's studio: missing and another studio's are the same 404."""

from __future__ import annotations

from django.db.models import QuerySet

from models_registry.models import RecommendationModel, Version
from recsite.api.problems import not_found
from tenants.models import Tenant
from tenants.rules import RuleBroken


def find_model(tenant: Tenant, slug: str) -> RecommendationModel:
    """Return a model, its studio with it. One query.

    Raises:
        Problem: a 404.
    """
    found = RecommendationModel.objects.for_tenant(tenant).select_related("tenant").filter(slug=slug).first()
    if found is None:
        raise not_found(f"There is no model “{slug}”.")
    return found


def find_version(tenant: Tenant, model: str, name: str) -> Version:
    """Return a version with its model, studio, layout, source, schedule and tables. One query.

    Raises:
        Problem: a 404.
    """
    rows = Version.objects.for_tenant(tenant).filter(model__slug=model, name=name)
    found = with_tables(rows).select_related("model__tenant", "layout", "source", "schedule").first()
    if found is None:
        raise not_found(f"There is no version “{name}” of a model “{model}”.")
    return found


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
    found = Version.objects.for_tenant(model.tenant).filter(model=model, name=name).first()
    if found is None:
        raise RuleBroken(f"The model has no version “{name}”.", field=field)
    return found
