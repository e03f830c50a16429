"""The list of a studio's models, and the way to a first answer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse

from models_registry.catalogue.selectors import ModelSummary, first_steps, models_of
from models_registry.traffic.propagation import propagation
from recsite.dashboard.commands_to_try import commands_to_try, example_model
from recsite.dashboard.gate import StudioRequest, studio_page


@studio_page()
def models(request: StudioRequest) -> HttpResponse:
    """Return every model with its weights, the age of its data and its state.

    Six queries on top of the gate's, and one pipeline to Redis.
    """
    summaries = models_of(request.studio.tenant)
    lanes = propagation(request.studio.tenant) if any(summary.data_at for summary in summaries) else None
    context = {
        "section": "models",
        "summaries": summaries,
        "is_unanswered": lanes is not None and not lanes.processes,
        **steps_context(request, summaries),
    }
    return render(request, "dashboard/models.html", context)


def steps_context(request: StudioRequest, summaries: Sequence[ModelSummary]) -> dict[str, Any]:
    """Return what `first_steps.html` wants. Two queries."""
    steps = first_steps(request.studio.tenant, summaries)
    context: dict[str, Any] = {"steps": steps}
    if steps.next_step == "ask" and steps.credential is not None:
        token_url = request.build_absolute_uri(reverse("token"))
        context["commands"] = commands_to_try(
            steps.credential, model=example_model(steps.credential), token_url=token_url
        )
    return context
