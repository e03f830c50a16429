"""What pages that have a form share."""

from __future__ import annotations

from typing import Any

from django.forms import BaseForm
from django.http import HttpResponse, QueryDict
from django.shortcuts import render

from recsite.dashboard.gate import StudioRequest


def sent(request: StudioRequest) -> QueryDict | None:
    """Return what a form is bound to: what was sent, None where the page is only looked at."""
    return request.POST if request.method == "POST" else None


def form_page(request: StudioRequest, template: str, form: BaseForm, **context: Any) -> HttpResponse:
    """Return a page with a form; one whose form is not valid is a 422."""
    return render(request, template, {"form": form, **context}, status=422 if form.errors else 200)
