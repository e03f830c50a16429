"""The rollout page: weights with their effect before they are saved, the history, and the ways back."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from django.contrib import messages
from django.http import Http404, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.html import format_html

from models_registry.catalogue.codes import MANY_CODES, codes_left
from models_registry.catalogue.selectors import ModelSummary, VersionState, history_of, model_summary, weights_by_code
from models_registry.models import Override, RecommendationModel, RolloutRevision
from models_registry.rollouts.cautions import cautions, fewer_rows, fullest_of
from models_registry.rollouts.services import (
    default_sentence,
    rollout_go_back,
    rollout_go_back_preview,
    rollout_new_phase,
    rollout_new_phase_preview,
    rollout_preview,
    rollout_reweight,
    rollout_serve_default,
    rollout_switch_off,
    weights_without,
)
from models_registry.traffic import reading
from models_registry.traffic.over_time import DAY, read
from recsite.dashboard.charts.pictures import model_charts
from recsite.dashboard.form_pages import form_page, sent
from recsite.dashboard.forms.dashboard_form import ReasonForm
from recsite.dashboard.forms.weights import WeightsForm
from recsite.dashboard.gate import StudioRequest
from recsite.dashboard.going_live import live_of
from recsite.dashboard.inner_gates import about_model, model_page
from recsite.dashboard.local_time import zone_of
from recsite.dashboard.proposals import Proposal, may_save, propose
from tenants.figures import percent
from tenants.models import Role
from tenants.paging import read_cursor
from tenants.rules import RuleBroken

LINES = 10
LINES_OF_HISTORY = 50


@dataclass(frozen=True)
class VersionRow:
    """A line of the table of versions: how it stands, its field (for those who may change it), what was seen of it."""

    state: VersionState
    field: Any
    seen: reading.Seen | None
    fewer_rows: float


# A version is worth a line that has players or testers, is being loaded, or was made so lately, or is among the newest.
NEW_FOR = timedelta(days=7)
NEWEST = 5
# Fewer than these are not worth a click.
FOLDED_AT_LEAST = 3


def _fold(rows: list[VersionRow], tried: Collection[int], now: datetime) -> tuple[list[VersionRow], list[VersionRow]]:
    """Return the rows that are worth a look and the others, the newest first.

    `tried` are keys of versions with testers.
    """
    rows = sorted(rows, key=lambda row: row.state.version.pk, reverse=True)
    shown: list[VersionRow] = []
    folded: list[VersionRow] = []
    for place, row in enumerate(rows):
        state, version = row.state, row.state.version
        is_new = place < NEWEST or version.created_at > now - NEW_FOR
        is_shown = is_new or state.weight_bp or state.is_loading or version.pk in tried or row.field.errors
        (shown if is_shown or row.field.value() != row.field.initial else folded).append(row)
    return (rows, []) if len(folded) < FOLDED_AT_LEAST else (shown, folded)


# --- The page -------------------------------------------------------------------------------------------------------


@model_page()
def rollout(request: StudioRequest, model: RecommendationModel) -> HttpResponse:
    """Show a model's versions, weights, traffic and history. Ten queries on top of the gate's."""
    summary = model_summary(model)
    return _page(request, summary, WeightsForm(summary.versions))


@model_page(Role.PRODUCT_MANAGER, ("GET", "POST"))
def weights(request: StudioRequest, model: RecommendationModel) -> HttpResponse:
    """Save weights whose effect was on the screen; otherwise return the page again, with that effect."""
    if request.method != "POST":
        return _to_rollout(model)
    summary = model_summary(model)
    form = WeightsForm(summary.versions, request.POST)
    proposal = propose(summary, form) if form.is_valid() else None
    if proposal is None:
        return _page(request, summary, form, status=422 if form.errors else 200)
    if request.POST.get("step") != "save":
        return _page(request, summary, form, proposal)
    if not may_save(summary, form, proposal):
        return _page(request, summary, form, proposal, status=422)
    try:
        revision = rollout_reweight(
            model=model,
            weights_bp=proposal.weights_bp,
            actor=request.user,
            reason=form.cleaned_data["reason"],
            based_on=summary.rollout.number if summary.rollout else None,
            despite_cautions=form.cleaned_data["go_on"],
        )
    except RuleBroken as error:
        form.refuse(error)
        return _page(request, summary, form, proposal, status=422)
    _say_saved(request, summary, revision)
    return _to_rollout(model)


@model_page(Role.PRODUCT_MANAGER, ("POST",))
def effect(request: StudioRequest, model: RecommendationModel) -> HttpResponse:
    """Show what saving would do, for the page to show while somebody types. Changes nothing."""
    summary = model_summary(model)
    form = WeightsForm(summary.versions, request.POST)
    proposal = propose(summary, form) if form.is_valid() else None
    return render(request, "dashboard/_effect.html", _proposal_context(summary, form, proposal))


@model_page()
def live(request: StudioRequest, model: RecommendationModel) -> HttpResponse:
    """Show how far the newest weights have come: one line, which asks again until they are everywhere."""
    summary = model_summary(model)
    return render(request, "dashboard/_live.html", {"summary": summary, "live": live_of(summary)})


@model_page()
def history(request: StudioRequest, model: RecommendationModel) -> HttpResponse:
    """Show the older lines of the history, fifty at a time."""
    summary = model_summary(model)
    after = read_cursor(request.GET.get("before", ""))
    page = history_of(summary, after=after, limit=LINES_OF_HISTORY)
    context = {**about_model(summary, "rollout"), "lines": page.rows, "older": page.next_cursor}
    return render(request, "dashboard/history.html", context)


# --- Changes that are asked about on a page of their own --------------------------------------------------------------


@model_page(Role.PRODUCT_MANAGER, ("GET", "POST"))
def go_back(request: StudioRequest, model: RecommendationModel, number: int) -> HttpResponse:
    """Say what going back to a revision would do, and do it."""
    summary = model_summary(model)
    revisions = RolloutRevision.objects.for_tenant(model.tenant).filter(model=model).defer("allocation")
    target = get_object_or_404(revisions, number=number)
    form = _reason_form(request, summary)
    if saved := _save(request, summary, form, rollout_go_back, number=number):
        return saved
    effect, problem = _try(rollout_go_back_preview, model=model, number=number)
    after = weights_by_code(target.weights_bp)
    more = {"target": target, "after_bp": after, "cautions": cautions(summary, after) if effect else []}
    return _ask(request, "dashboard/go_back.html", summary, form, effect=effect, problem=problem, **more)


@model_page(Role.PRODUCT_MANAGER, ("GET", "POST"))
def new_phase(request: StudioRequest, model: RecommendationModel) -> HttpResponse:
    """Say what a new phase is and would do, and begin it."""
    summary = model_summary(model)
    form = _reason_form(request, summary)
    if saved := _save(request, summary, form, rollout_new_phase):
        return saved
    effect, problem = _try(rollout_new_phase_preview, model=model)
    return _ask(request, "dashboard/new_phase.html", summary, form, effect=effect, problem=problem)


@model_page(Role.PRODUCT_MANAGER, ("GET", "POST"))
def serve_default(request: StudioRequest, model: RecommendationModel) -> HttpResponse:
    """Say what serving the default to everybody would do, or ending it, and do it."""
    summary = model_summary(model)
    if summary.rollout is None:
        raise Http404
    # What was asked about, also if somebody else was faster.
    begins = request.POST.get("to", "default" if not summary.serves_default else "own") == "default"
    form = _reason_form(request, summary)
    if saved := _save(request, summary, form, rollout_serve_default, serves_default=begins):
        return saved
    sentence = default_sentence(summary)
    return _ask(request, "dashboard/serve_default.html", summary, form, begins=begins, sentence=sentence, problem="")


@model_page(Role.PRODUCT_MANAGER, ("GET", "POST"))
def switch_off(request: StudioRequest, model: RecommendationModel, version: str) -> HttpResponse:
    """Say who would take over a version's players, and hand them over."""
    summary = model_summary(model)
    state = next((found for found in summary.versions if found.name == version), None)
    if state is None:
        raise Http404
    form = _reason_form(request, summary)
    if saved := _save(request, summary, form, rollout_switch_off, version=state.version):
        return saved
    after, problem = _try(weights_without, weights_bp=summary.weights_bp, code=state.code)
    effect = None
    if after is not None and state.weight_bp:
        effect, problem = _try(rollout_preview, model=model, weights_bp=after)
    elif after is not None:
        problem = f"“{version}” has no weight to take away."
    warnings = cautions(summary, after) if after else []
    more = {"state": state, "after_bp": after or {}, "cautions": warnings}
    return _ask(request, "dashboard/switch_off.html", summary, form, effect=effect, problem=problem, **more)


# --- What these share -----------------------------------------------------------------------------------------------


def _page(
    request: StudioRequest,
    summary: ModelSummary,
    form: WeightsForm,
    proposal: Proposal | None = None,
    status: int = 200,
) -> HttpResponse:
    model = summary.model
    history = history_of(summary, limit=LINES)
    reading = read([summary], DAY)
    chart = model_charts(reading, reading.models[model.pk], zone_of(request), is_small=True)
    has_traffic = chart.traffic.answers > 0
    seen = {total.code: total.seen for total in chart.traffic.totals if total.answers}
    fullest = fullest_of(summary.versions)
    rows = [VersionRow(state, field, seen.get(state.code), fewer_rows(state, fullest)) for state, field in form.rows()]
    testers = Override.objects.for_tenant(model.tenant).filter(model=model)
    tried = set(testers.order_by().values_list("version", flat=True).distinct()) if len(rows) > NEWEST else set()
    shown, folded = _fold(rows, tried, timezone.now())
    is_near_the_end = max(summary.names, default=0) >= MANY_CODES - 1
    context = {
        **_proposal_context(summary, form, proposal),
        "rows": rows,
        "shown": shown,
        "folded": folded,
        "codes_left": codes_left(model, timezone.now()) if is_near_the_end else None,
        "has_traffic": has_traffic,
        "chart": chart,
        "zone": zone_of(request).key,
        "lines": history.rows,
        "has_older": history.next_cursor is not None,
        "live": live_of(summary),
    }
    return render(request, "dashboard/rollout.html", context, status=status)


def _proposal_context(summary: ModelSummary, form: WeightsForm, proposal: Proposal | None) -> dict[str, Any]:
    return {**about_model(summary, "rollout"), "form": form, "proposal": proposal, "names": summary.names}


def _ask(request: StudioRequest, template: str, summary: ModelSummary, form: ReasonForm, **more: Any) -> HttpResponse:
    context = {**about_model(summary, "rollout"), "names": summary.names, **more}
    back = reverse("rollout", args=[summary.model.tenant.slug, summary.model.slug])
    return form_page(request, template, form, back=back, **context)


def _reason_form(request: StudioRequest, summary: ModelSummary) -> ReasonForm:
    return ReasonForm(sent(request), initial={"based_on": summary.rollout.number if summary.rollout else None})


def _save(
    request: StudioRequest, summary: ModelSummary, form: ReasonForm, act: Callable[..., RolloutRevision], **more: Any
) -> HttpResponse | None:
    """Do what was asked about and go back to the rollout; None where that is still to be asked, or was refused."""
    if form.is_valid():
        with form.refusing():
            _say_saved(request, summary, act(model=summary.model, actor=request.user, **more, **form.cleaned_data))
            return _to_rollout(summary.model)
    return None


def _try(preview: Any, **arguments: Any) -> tuple[Any, str]:
    """Return a preview, or why there is none."""
    try:
        return preview(**arguments), ""
    except RuleBroken as error:
        return None, str(error)


def _say_saved(request: StudioRequest, before: ModelSummary, revision: RolloutRevision) -> None:
    if revision.serves_default != before.serves_default:
        everybody = "Everybody gets" if revision.serves_default else "Players get"
        gets = "the default answer" if revision.serves_default else "their own recommendations again"
        messages.success(request, f"Saved as revision {revision.number}. {everybody} {gets}.")
        return
    about = "About " if before.rollout is not None and before.rollout.salt != revision.salt else ""
    messages.success(
        request,
        format_html(
            "Saved as revision {}. {}{} of {} change version.",
            revision.number,
            about,
            percent(revision.moved_bp),
            before.model.units_word,
        ),
    )


def _to_rollout(model: RecommendationModel) -> HttpResponse:
    return redirect("rollout", model.tenant.slug, model.slug)
