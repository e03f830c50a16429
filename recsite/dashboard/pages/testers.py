"""Testers: people who get one version whatever the weights say."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import HttpResponse
from django.shortcuts import redirect

from models_registry.catalogue.selectors import model_summary
from models_registry.models import Override, RecommendationModel
from models_registry.rollouts.testers import remove_tester, set_tester
from recsite.dashboard.form_pages import form_page, sent
from recsite.dashboard.forms.testers import TesterForm
from recsite.dashboard.gate import StudioRequest
from recsite.dashboard.inner_gates import about_model, model_page
from tenants.models import Role
from tenants.rules import RuleBroken


@model_page(Role.VIEWER, ("GET", "POST"))
def testers(request: StudioRequest, model: RecommendationModel) -> HttpResponse:
    """Show the testers and take a new one. Four queries on top of the gate's."""
    summary = model_summary(model)
    versions = [state.version for state in summary.versions]
    if request.method == "POST" and not request.studio.may_change:
        raise PermissionDenied(f"Adding a tester needs the role “{Role.PRODUCT_MANAGER.label}”.")
    form = TesterForm(versions, sent(request))
    if form.is_valid():
        with form.refusing():
            chosen = {**form.cleaned_data, "version": form.chosen}
            added = set_tester(model=model, actor=request.user, **chosen)
            messages.success(request, f"{added.unit} gets {added.version.name} from now on.")
            return redirect("testers", model.tenant.slug, model.slug)
    found = list(Override.objects.for_tenant(model.tenant).filter(model=model).select_related("version"))
    return form_page(request, "dashboard/testers.html", form, **about_model(summary, "testers"), testers=found)


@model_page(Role.PRODUCT_MANAGER, ("POST",))
def tester_remove(request: StudioRequest, model: RecommendationModel) -> HttpResponse:
    """Let the weights decide for a tester again."""
    unit = request.POST.get("unit", "")
    try:
        remove_tester(model=model, unit=unit, actor=request.user)
    except RuleBroken as error:
        messages.warning(request, str(error))
    else:
        messages.success(request, f"The weights decide for {unit} again.")
    return redirect("testers", model.tenant.slug, model.slug)
