"""When a version is loaded by itself, and how old its data may become: two questions on pages of their own."""

from __future__ import annotations

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect

from models_registry.loading.schedules import freshness_set, in_words, schedule_remove, schedule_set, words
from models_registry.models import Version
from recsite.dashboard.form_pages import sent
from recsite.dashboard.forms.schedules import FreshnessForm, ScheduleForm
from recsite.dashboard.gate import StudioRequest
from recsite.dashboard.inner_gates import ask_about_version, version_address, version_page
from tenants.models import Role


@version_page(Role.PRODUCT_MANAGER, ("GET", "POST"))
def version_schedule(request: StudioRequest, version: Version) -> HttpResponse:
    """Ask when a version is loaded by itself, and set it."""
    held = getattr(version, "schedule", None)
    form = ScheduleForm(held, sent(request))
    if form.is_valid():
        said = f"{version.name} is loaded only on request."
        with form.refusing(every_minutes="every"):
            if form.cleaned_data["kind"]:
                schedule = schedule_set(version=version, actor=request.user, **form.values)
                said = f"{version.name} is loaded {words(schedule)}."
            elif held is not None:
                schedule_remove(version=version, actor=request.user)
            messages.success(request, said)
            return redirect(*version_address(version))
    return ask_about_version(request, "dashboard/version_schedule.html", version, form)


@version_page(Role.PRODUCT_MANAGER, ("GET", "POST"))
def version_freshness(request: StudioRequest, version: Version) -> HttpResponse:
    """Ask how old a version's data may become, and set it."""
    form = FreshnessForm(version, sent(request))
    if form.is_valid():
        with form.refusing(minutes="amount"):
            freshness_set(version=version, actor=request.user, minutes=form.minutes)
            target = "a day" if form.minutes is None else in_words(form.minutes)
            messages.success(request, f"The data of {version.name} counts as late after {target}.")
            return redirect(*version_address(version))
    return ask_about_version(request, "dashboard/version_freshness.html", version, form)
