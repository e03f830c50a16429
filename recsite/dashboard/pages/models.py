"""The list of a studio's models, and the way to a first answer."""

from __future__ import annotations

from django.http import HttpResponse
from django.shortcuts import render

from models_registry.catalogue.selectors import model_summaries
from models_registry.traffic.propagation import propagation
from recsite.dashboard.first_steps import steps_context
from recsite.dashboard.gate import StudioRequest, studio_page


@studio_page()
def models(request: StudioRequest) -> HttpResponse:
    """Show every model with its weights, the age of its data and its state.

    Six queries on top of the gate's, and three reads from Redis.
    """
    summaries = model_summaries(request.studio.tenant)
    lanes = propagation(request.studio.tenant) if any(summary.data_at for summary in summaries) else None
    context = {
        "section": "models",
        "summaries": summaries,
        "is_unanswered": lanes is not None and not lanes.is_served,
        **steps_context(request, summaries),
    }
    return render(request, "dashboard/models.html", context)
