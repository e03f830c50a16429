"""The way to a first answer, on the pages where somebody is who has not got one yet."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from models_registry.catalogue.selectors import ModelSummary, first_steps
from recsite.dashboard.commands_to_try import commands_to_try, example_model
from recsite.dashboard.gate import StudioRequest


def steps_context(request: StudioRequest, summaries: Sequence[ModelSummary]) -> dict[str, Any]:
    """Return what `first_steps.html` wants. Two queries."""
    steps = first_steps(request.studio.tenant, summaries)
    context: dict[str, Any] = {"steps": steps, "commands": ""}
    if steps.next_step == "ask" and steps.credential is not None:
        context["commands"] = commands_to_try(request, steps.credential, example_model(steps.credential))
    return context
