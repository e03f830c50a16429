"""What every page of one version begins with: the gate of its model, then the version in that model."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, resolve_url

from models_registry.catalogue.selectors import ModelSummary, model_summary
from models_registry.models import RecommendationModel, Version
from recsite.dashboard.form_pages import form_page
from recsite.dashboard.forms.dashboard_form import DashboardForm
from recsite.dashboard.gate import Gate, StudioRequest, View
from recsite.dashboard.model_gate import about_model, model_page
from tenants.models import Role


def version_page(role: Role = Role.VIEWER, methods: tuple[str, ...] = ("GET",)) -> Callable[[View], Gate]:
    """Make a view one of a version's pages; it gets the version with all that belongs to it. One query.

    A version that does not exist and one of another model are the same 404.
    """

    def decorate(view: View) -> Gate:
        @model_page(role, methods)
        @wraps(view)
        def find(request: StudioRequest, model: RecommendationModel, version: str, **kwargs: Any) -> HttpResponse:
            tables = ("active_table__load", "previous_table__load", "older_table__load")
            rows = (
                Version.objects.for_tenant(model.tenant)
                .select_related("layout", "source", "schedule", *tables)
                .defer(*(f"{table}__{field}" for table in tables for field in ("report", "source_location")))
            )
            found = get_object_or_404(rows, model=model, name=version)
            found.model = model
            return view(request, found, **kwargs)

        return find

    return decorate


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
