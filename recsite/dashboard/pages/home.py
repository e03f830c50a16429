"""The way in: to the one studio a person has, to a choice among several, or to words on what to do without any."""

from __future__ import annotations

from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from models_registry.catalogue.selectors import with_model_count
from recsite.dashboard.gate import StudioRequest, studio_page
from tenants.access import is_platform_staff, studios_of
from tenants.models import Membership, Role, User


@require_safe
@never_cache
@login_required
def home(request: HttpRequest) -> HttpResponse:
    """Return the choice of studios, or go straight to the only one. Two queries besides session and person."""
    assert isinstance(request.user, User)  # noqa: S101 - login_required
    is_staff = is_platform_staff(request.user)
    studios = list(with_model_count(studios_of(request.user)))
    if len(studios) == 1 and not is_staff:
        return redirect("studio", studios[0].slug)
    if not studios:
        return render(request, "dashboard/no_studio.html", {"is_staff": is_staff})
    mine = Membership.objects.unscoped().filter(user=request.user).values_list("tenant_id", "role")
    roles = {tenant_id: Role(role).label for tenant_id, role in mine}
    choices = [(studio, roles.get(studio.pk, "Platform staff")) for studio in studios]
    return render(request, "dashboard/choose_studio.html", {"choices": choices})


@studio_page()
def studio(request: StudioRequest) -> HttpResponse:
    """Go to a studio's first page: its models."""
    return redirect("models", request.studio.tenant.slug)
