"""What every page of one model begins with: the studio's gate, then the model in that studio."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any

from django.http import HttpResponse
from django.shortcuts import get_object_or_404

from models_registry.catalogue.selectors import ModelSummary
from models_registry.models import RecommendationModel
from recsite.dashboard.gate import Gate, StudioRequest, View, studio_page
from tenants.models import Role


def about_model(summary: ModelSummary, tab: str) -> dict[str, Any]:
    """Return what each of a model's pages is given; `tab` is the one that is open."""
    model = summary.model
    return {"section": "models", "tab": tab, "summary": summary, "model": model, "who": model.units_word}


def model_page(role: Role = Role.VIEWER, methods: tuple[str, ...] = ("GET",)) -> Callable[[View], Gate]:
    """Make a view one of a model's pages; it gets the model, its tenant with it. One query on top of the gate's.

    A model that does not exist and one of another studio are the same 404, as it is looked for in the studio alone.
    """

    def decorate(view: View) -> Gate:
        @studio_page(role, methods)
        @wraps(view)
        def find(request: StudioRequest, model: str, **kwargs: Any) -> HttpResponse:
            tenant = request.studio.tenant
            found = get_object_or_404(RecommendationModel.objects.for_tenant(tenant), slug=model)
            found.tenant = tenant
            return view(request, found, **kwargs)

        return find

    return decorate
