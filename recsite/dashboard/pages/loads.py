"""Loads: the list with its filters, and one with its progress and what its checks found."""

from __future__ import annotations

from typing import Any

from django.contrib import messages
from django.http import HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse

from models_registry.loading.progress import loads_of, progress_of
from models_registry.loading.report import Report
from models_registry.loading.requests import load_cancel, load_waive, may_be_waived
from models_registry.models import RUNNING_STATES, Load, LoadState, Table, Version
from recsite.dashboard.charts.spreads import spread_of
from recsite.dashboard.form_pages import form_page, sent
from recsite.dashboard.forms.dashboard_form import NeededReasonForm
from recsite.dashboard.forms.loads import LoadFilter
from recsite.dashboard.gate import StudioRequest, studio_page
from recsite.dashboard.inner_gates import load_page
from tenants.models import Role
from tenants.paging import page_of, read_cursor
from tenants.rules import RuleBroken

LINES = 30


@studio_page()
def loads(request: StudioRequest) -> HttpResponse:
    """Show the studio's loads, newest first, thirty at a time. Two queries on top of the gate's."""
    tenant = request.studio.tenant
    versions = Version.objects.for_tenant(tenant).order_by("model__slug", "name")
    form = LoadFilter(versions.values_list("model__slug", "name"), request.GET)
    after = read_cursor(request.GET.get("before", ""))
    page = page_of(loads_of(tenant, **form.chosen), by="pk", limit=LINES, after=after, is_descending=True)
    context = {
        "section": "loads",
        "form": form,
        "is_filtered": any(form.chosen.values()),
        "is_first_page": after is None,
        "lines": [progress_of(load) for load in page.rows],
        "newest": form.query(),
        "older": form.query(before=page.next_cursor) if page.next_cursor else "",
    }
    return render(request, "dashboard/loads.html", context)


@load_page()
def load(request: StudioRequest, load: Load) -> HttpResponse:
    """Show a load: how far it is, or how it ended and what its checks found. Four queries on top of the gate's."""
    table = Table.objects.for_tenant(request.studio.tenant).filter(load=load).first()
    of_version = Load.objects.for_tenant(request.studio.tenant).filter(version=load.version)
    about = _about(load)
    context = {
        **about,
        "running": of_version.filter(state__in=RUNNING_STATES).defer("report").order_by("-fence").first(),
        "table": table,
        "is_served": table is not None and load.version.active_table_id == table.pk,
        "may_be_waived": may_be_waived(load),
        "waived_by": load.waived_by.order_by("-fence").first() if load.state == LoadState.REJECTED else None,
        "spreads": [spread_of(field) for field in about["report"].fields],
    }
    return render(request, "dashboard/load.html", context)


@load_page()
def progress(request: StudioRequest, load: Load) -> HttpResponse:
    """Show how far a load is: the part of its page, and of its version's, that asks again until it has ended."""
    context = {"progress": progress_of(load), "page_url": request.htmx.current_url_abs_path}
    return render(request, "dashboard/_load_progress.html", context)


@load_page(Role.PRODUCT_MANAGER, ("POST",))
def cancel(request: StudioRequest, load: Load) -> HttpResponse:
    """End a load that waits or runs."""
    try:
        load_cancel(load=load, actor=request.user)
    except RuleBroken as error:
        messages.error(request, str(error))
    return redirect("load", request.studio.tenant.slug, load.pk)


@load_page(Role.STUDIO_ADMIN, ("GET", "POST"))
def activate_anyway(request: StudioRequest, load: Load) -> HttpResponse:
    """Ask why a rejected load should become active all the same, and queue the load that does it."""
    form = NeededReasonForm(sent(request))
    form.fields["reason"].label = "Why you waive these checks"
    if form.is_valid():
        with form.refusing():
            new = load_waive(load=load, actor=request.user, **form.cleaned_data)
            messages.success(request, f"Load {new.fence} is queued. It becomes active although these checks failed.")
            return redirect("load", request.studio.tenant.slug, new.pk)
    problem = "" if may_be_waived(load) else "This load can’t be activated: it failed a check that is never waived."
    back = reverse("load", args=[request.studio.tenant.slug, load.pk])
    return form_page(request, "dashboard/activate_anyway.html", form, **_about(load), problem=problem, back=back)


def _about(load: Load) -> dict[str, Any]:
    return {
        "section": "loads",
        "load": load,
        "version": load.version,
        "model": load.version.model,
        "progress": progress_of(load),
        "report": Report.read(load.report),
    }
