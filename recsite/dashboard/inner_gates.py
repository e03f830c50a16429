"""What every page of one model, version or load begins with: the studio's gate, then that in the studio."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, resolve_url

from models_registry.catalogue.selectors import ModelSummary, model_summary
from models_registry.models import Load, RecommendationModel, Version
from recsite.dashboard.form_pages import form_page
from recsite.dashboard.forms.dashboard_form import DashboardForm
from recsite.dashboard.gate import Gate, StudioRequest, View, studio_page
from tenants.models import Role, Tenant

GET = ("GET",)


def model_page(role: Role = Role.VIEWER, methods: tuple[str, ...] = GET) -> Callable[[View], Gate]:
    """Make a view one of a model's pages; it gets the model, its tenant with it. One query on top of the gate's."""
    return studio_page(role, methods, _model)


def version_page(role: Role = Role.VIEWER, methods: tuple[str, ...] = GET) -> Callable[[View], Gate]:
    """Make a view one of a version's pages; it gets the version with all that belongs to it. Two queries."""
    return studio_page(role, methods, _version)


def load_page(role: Role = Role.VIEWER, methods: tuple[str, ...] = GET) -> Callable[[View], Gate]:
    """Make a view one of a load's pages; it gets the load, its version, model and tenant with it. One query."""
    return studio_page(role, methods, _load)


def _model(tenant: Tenant, names: dict[str, Any]) -> RecommendationModel:
    found = get_object_or_404(RecommendationModel.objects.for_tenant(tenant), slug=names.pop("model"))
    found.tenant = tenant
    return found


def _version(tenant: Tenant, names: dict[str, Any]) -> Version:
    model = _model(tenant, names)
    tables = ("active_table__load", "previous_table__load", "older_table__load")
    rows = (
        Version.objects.for_tenant(tenant)
        .select_related("layout", "source", "schedule", *tables)
        .defer(*(f"{table}__{field}" for table in tables for field in ("report", "source_location")))
    )
    found = get_object_or_404(rows, model=model, name=names.pop("version"))
    found.model = model
    return found


def _load(tenant: Tenant, names: dict[str, Any]) -> Load:
    rows = Load.objects.for_tenant(tenant).select_related("version__model", "version__layout", "waives")
    found = get_object_or_404(rows, pk=names.pop("load"))
    found.version.model.tenant = tenant
    return found


# --- What their pages share -------------------------------------------------------------------------------------------


def about_model(summary: ModelSummary, tab: str) -> dict[str, Any]:
    """Return what each of a model's pages is given; `tab` is the one that is open."""
    model = summary.model
    return {"section": "models", "tab": tab, "summary": summary, "model": model, "who": model.units_word}


def version_address(version: Version) -> tuple[str, str, str, str]:
    """Return what `redirect` takes to the version's page."""
    return "version", version.model.tenant.slug, version.model.slug, version.name


def about_version(version: Version, summary: ModelSummary) -> dict[str, Any]:
    """Return what each of a version's pages is given.

    Raises:
        Http404: the version was deleted before the summary was read.
    """
    state = summary.version_state(version.code)
    if state is None:
        raise Http404
    about = about_model(summary, "")
    return {**about, "version": version, "state": state, "schedule": getattr(version, "schedule", None)}


def ask_about_version(
    request: StudioRequest, template: str, version: Version, form: DashboardForm, **more: Any
) -> HttpResponse:
    """Return a page that asks something about a version; one whose form is not valid is a 422."""
    about = about_version(version, model_summary(version.model))
    context = {**about, "problem": "", "back": resolve_url(*version_address(version)), **more}
    return form_page(request, template, form, **context)
