"""The way to a first answer, on the pages where somebody is who has not got one yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.urls import reverse

from models_registry.catalogue.selectors import ModelSummary, first_steps
from recsite.dashboard.commands_to_try import commands_to_try, example_model
from recsite.dashboard.gate import StudioRequest


def steps_context(request: StudioRequest, summaries: Sequence[ModelSummary]) -> dict[str, Any]:
    """Return what `first_steps.html` wants. Two queries."""
    steps = first_steps(request.studio.tenant, summaries)
    context: dict[str, Any] = {"steps": steps, "commands": ""}
    if steps.next_step == "ask" and steps.credential is not None:
        token_url = request.build_absolute_uri(reverse("token"))
        context["commands"] = commands_to_try(
            steps.credential, model=example_model(steps.credential), token_url=token_url
        )
    return context
