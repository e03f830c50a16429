"""The list of a studio's models, and the way to a first answer."""

from __future__ import annotations

from django.conf import settings
from django.http import HttpResponse
from django.shortcuts import render
from django.urls import reverse

from models_registry.selectors import first_steps, models_of
from tenants.pages.studio import StudioRequest, studio_page


@studio_page()
def models(request: StudioRequest) -> HttpResponse:
    """Give every model with its weights, the age of its data and its state. Five queries on top of the gate's."""
    summaries = models_of(request.studio.tenant)
    steps = first_steps(request.studio.tenant, summaries)
    context = {
        "section": "models",
        "summaries": summaries,
        "steps": steps,
        "token_url": request.build_absolute_uri(reverse("token")),
        "answer_url": f"{settings.SERVING_URL}/v1/recommendations",
    }
    return render(request, "models_registry/models.html", context)
