"""One version: what it serves, the tables it can go back to, its source, its loads, and the analysts' query."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render

from models_registry.catalogue.archiving import version_archive, why_kept
from models_registry.catalogue.codes import CODE_RETURNS_AFTER
from models_registry.catalogue.selectors import ModelSummary, data_at, model_summary
from models_registry.catalogue.services import source_set
from models_registry.loading.progress import loads_of, progress_of
from models_registry.loading.requests import load_request, table_roll_back
from models_registry.models import Override, RolloutRevision, Table, TableState, Version
from models_registry.rollouts.analysis import assignment_query
from recsite.dashboard.first_steps import steps_context
from recsite.dashboard.form_pages import sent
from recsite.dashboard.forms.dashboard_form import ReasonForm
from recsite.dashboard.forms.loads import LoadForm
from recsite.dashboard.forms.models import SourceForm
from recsite.dashboard.gate import StudioRequest
from recsite.dashboard.inner_gates import about_version, ask_about_version, version_address, version_page
from tenants.models import Role
from tenants.rules import RuleBroken

LOADS_SHOWN = 5


@dataclass(frozen=True)
class KeptTable:
    """A table that a version has or can go back to.

    Attributes:
        table: its load with it.
        data_at: the instant whose data it holds.
        is_served: it is the active one.
        words: what the button says that serves it; empty for the one that is served, and for one that is not whole.
    """

    table: Table
    data_at: datetime
    is_served: bool
    words: str


@version_page()
def version(request: StudioRequest, version: Version) -> HttpResponse:
    """Show all about a version; of an archived one, what stays. At most eight queries on top of the gate's."""
    if version.archived_at is not None:
        return _archived(request, version)
    summary = model_summary(version.model)
    about = about_version(version, summary)
    lines = [progress_of(load) for load in _loads(version, LOADS_SHOWN + 1)]
    context = {
        **about,
        "source": getattr(version, "source", None),
        "tables": kept_tables(version),
        "lines": lines[:LOADS_SHOWN],
        "has_older": len(lines) > LOADS_SHOWN,
        "progress": next((line for line in lines if line.is_running), None),
        "query": _query(summary),
        **(steps_context(request, [summary]) if about["state"].table is None else {"steps": None, "commands": ""}),
    }
    return render(request, "dashboard/version.html", context)


@version_page(Role.PRODUCT_MANAGER, ("GET", "POST"))
def version_archive_page(request: StudioRequest, version: Version) -> HttpResponse:
    """Say what archiving a version means, ask why, and do it."""
    form = ReasonForm(sent(request))
    if form.is_valid():
        with form.refusing():
            version_archive(version=version, actor=request.user, reason=form.cleaned_data["reason"])
            messages.success(request, f"Archived {version.name}.")
            return redirect("rollout", version.model.tenant.slug, version.model.slug)
    problem = why_kept(version)
    back_after = CODE_RETURNS_AFTER
    return ask_about_version(
        request, "dashboard/version_archive.html", version, form, problem=problem, back_after=back_after
    )


@version_page(Role.PRODUCT_MANAGER, ("GET", "POST"))
def version_load(request: StudioRequest, version: Version) -> HttpResponse:
    """Queue a load of a version, and go to where it can be followed; or ask first how fast it may go."""
    form = LoadForm(sent(request))
    if form.is_valid():
        return _load(request, version, said=f"The load of {version.name} is queued.", **form.cleaned_data)
    return ask_about_version(request, "dashboard/version_load.html", version, form)


@version_page(Role.PRODUCT_MANAGER, ("POST",))
def version_dry_run(request: StudioRequest, version: Version) -> HttpResponse:
    """Queue a dry run of a version, and go to where it can be followed."""
    return _load(request, version, said=f"The dry run of {version.name} is queued.", dry_run=True)


def _load(request: StudioRequest, version: Version, *, said: str, **how: Any) -> HttpResponse:
    try:
        load = load_request(version=version, actor=request.user, **how)
    except RuleBroken as error:
        messages.error(request, str(error))
        return redirect(*version_address(version))
    messages.success(request, said)
    return redirect("load", version.model.tenant.slug, load.pk)


@version_page(Role.PRODUCT_MANAGER, ("GET", "POST"))
def version_source(request: StudioRequest, version: Version) -> HttpResponse:
    """Ask where a version's rows come from, and change it."""
    source = getattr(version, "source", None)
    held = {"source_kind": source.kind, "source_location": source.location} if source else None
    form = SourceForm(version.model.tenant, sent(request), initial=held)
    if form.is_valid():
        kind, location = form.cleaned_data["source_kind"], form.cleaned_data["source_location"]
        with form.refusing():
            source_set(version=version, kind=kind, location=location, actor=request.user)
            messages.success(request, f"Saved. The next load of {version.name} reads there.")
            return redirect(*version_address(version))
    allowed = request.studio.allowed_sources
    return ask_about_version(request, "dashboard/version_source.html", version, form, allowed=allowed)


@version_page(Role.PRODUCT_MANAGER, ("GET", "POST"))
def roll_back(request: StudioRequest, version: Version, table: str) -> HttpResponse:
    """Say what serving another of a version's tables would do, ask why, and do it."""
    target = next((kept for kept in kept_tables(version) if kept.table.table_id == table), None)
    if (
        target is None
        and not Table.objects.for_tenant(version.model.tenant).filter(version=version, table_id=table).exists()
    ):
        raise Http404
    form = ReasonForm(sent(request))
    problem = ""
    if target is None or (not target.words and not target.is_served):
        problem = "This table is not kept any more, so there is nothing to go back to."
    elif target.is_served:
        problem = "This table is the one that is served now."
    elif form.is_valid():
        with form.refusing():
            table_roll_back(version=version, actor=request.user, reason=form.cleaned_data["reason"], table=target.table)
            messages.success(request, f"{version.name} serves this table from now on; it is live within 2 seconds.")
            return redirect(*version_address(version))
    now = next((kept for kept in kept_tables(version) if kept.is_served), None)
    return ask_about_version(
        request, "dashboard/roll_back.html", version, form, target=target, now=now, problem=problem
    )


def _archived(request: StudioRequest, version: Version) -> HttpResponse:
    context = {
        "section": "models",
        "model": version.model,
        "version": version,
        "lines": [progress_of(load) for load in _loads(version, LOADS_SHOWN)],
    }
    return render(request, "dashboard/version_archived.html", context)


# --- What these share -------------------------------------------------------------------------------------------------


def kept_tables(version: Version) -> list[KeptTable]:
    """Return the table that is served and the ones kept to go back to, that one first. No query."""
    active = version.active_table
    if active is None:
        return []
    tables = [KeptTable(active, data_at(active), is_served=True, words="")]
    words = "Roll back to the previous table"
    for table in (version.previous_table, version.older_table):
        if table is None or table.state != TableState.READY:
            continue
        is_newer = table.load.fence > active.load.fence
        says = ("Serve the newer table again" if is_newer else words) if table.is_whole else ""
        tables.append(KeptTable(table, data_at(table), is_served=False, words=says))
        words = words if is_newer else "Roll back to the table before that"
    return tables


def _loads(version: Version, limit: int) -> Any:
    return loads_of(version.model.tenant, model=version.model.slug, version=version.name)[:limit]


def _query(summary: ModelSummary) -> str:
    """Return the analysts' query; two queries."""
    if summary.rollout is None:
        return ""
    tenant = summary.model.tenant
    rollout = RolloutRevision.objects.for_tenant(tenant).get(pk=summary.rollout.pk)
    testers = Override.objects.for_tenant(tenant).filter(model=summary.model).values_list("unit", flat=True)
    return assignment_query(summary.model, rollout, summary.names, testers)
