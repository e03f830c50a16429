"""Making and changing a model, adding a version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import timedelta
from typing import Any

from django.contrib import messages
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpResponse
from django.shortcuts import redirect, render
from django.utils import timezone

from models_registry.catalogue.selectors import ModelSummary, model_summary
from models_registry.catalogue.services import (
    default_set,
    layout_add,
    layouts_in_use,
    model_create,
    model_update,
    newest_layout,
    version_create,
)
from models_registry.loading.field_types import field_name
from models_registry.loading.requests import load_request
from models_registry.models import RecommendationModel, Version
from recsite.dashboard.form_pages import form_page, sent
from recsite.dashboard.forms.defaults import DefaultForm
from recsite.dashboard.forms.layouts import LayoutEditor
from recsite.dashboard.forms.models import ModelForm, ModelSettingsForm, VersionForm
from recsite.dashboard.gate import StudioRequest, studio_page
from recsite.dashboard.inner_gates import about_model, model_page
from serving.formats.layouts import Layout
from tenants.models import Role
from tenants.rules import RuleBroken

# A form that asks for what was made so shortly before was sent twice.
SENT_TWICE = timedelta(minutes=10)

# --- A new model ------------------------------------------------------------------------------------------------------


@studio_page(Role.PRODUCT_MANAGER, ("GET", "POST"))
def model_new(request: StudioRequest) -> HttpResponse:
    """Ask for a new model and its layout, and make it."""
    if request.method != "POST":
        return _model_new_page(request, ModelForm(), LayoutEditor.empty())
    action = request.POST.get("layout")
    if action:
        # Bound, so that what was typed stays, but not checked.
        typed = ModelForm(initial={name: request.POST.get(name, "") for name in ModelForm.base_fields})
        return _model_new_page(request, typed, LayoutEditor.edited(request.POST, action))
    form, editor = ModelForm(request.POST), LayoutEditor.typed(request.POST)
    if form.is_valid() & editor.is_valid():
        try:
            model = model_create(
                tenant=request.studio.tenant,
                actor=request.user,
                layout=editor.fields,
                default_answer=editor.default_answer,
                **form.cleaned_data,
            )
        except RuleBroken as error:
            if error.field in ("layout", "fields", "default_answer"):
                editor.problem = str(error)
            else:
                form.refuse(error)
        else:
            messages.success(request, f"Made the model {model.slug}. Next: a first version.")
            return redirect("rollout", model.tenant.slug, model.slug)
    return _model_new_page(request, form, editor, status=422)


def _model_new_page(request: StudioRequest, form: ModelForm, editor: LayoutEditor, status: int = 200) -> HttpResponse:
    context = {"section": "models", "form": form, "editor": editor, "is_refused": status == 422}
    return render(request, "dashboard/model_new.html", context, status=status)


# --- Settings ---------------------------------------------------------------------------------------------------------


@model_page(Role.VIEWER, ("GET", "POST"))
def model_settings(request: StudioRequest, model: RecommendationModel) -> HttpResponse:
    """Show what a model is, and change what of it can be changed: each part has a form of its own."""
    summary = model_summary(model)
    forms: dict[str, Any] = {
        "basics": ModelSettingsForm(
            initial={
                "name": model.name,
                "max_client_age_seconds": model.max_client_age_seconds,
                "max_row_count_change": round(100 * model.max_row_count_change, 1),
                "min_coverage": round(100 * model.min_coverage, 1),
                "max_psi": round(model.max_psi, 2),
            }
        ),
        "defaults": _default_forms(summary),
        "editor": LayoutEditor.of(newest_layout(model)),
    }
    if request.method != "POST":
        return _settings_page(request, summary, forms)
    if not request.studio.may_change:
        raise PermissionDenied(f"Changing a model needs the role “{Role.PRODUCT_MANAGER.label}”.")
    part = _SETTINGS.get(request.POST.get("part", ""))
    if part is None:
        raise Http404
    said = part(request, model, forms)
    if said is None:
        return _settings_page(request, summary, forms, status=200 if request.POST.get("layout") else 422)
    messages.success(request, said)
    return redirect("model-settings", model.tenant.slug, model.slug)


def _default_forms(summary: ModelSummary) -> list[DefaultForm]:
    """Return the form of each default that somebody gets or will get, that of the newest layout first. Two queries."""
    return [
        DefaultForm(layout, used_by=[s.name for s in summary.versions if s.version.layout_id == layout.pk])
        for layout in layouts_in_use(summary.model)
    ]


def _settings_page(
    request: StudioRequest, summary: ModelSummary, forms: dict[str, Any], status: int = 200
) -> HttpResponse:
    newest = newest_layout(summary.model)
    context = {
        **about_model(summary, "settings"),
        "layout": newest,
        "next_layout": newest.revision + 1,
        "is_refused": status == 422,
        "fields": [(field.name, field_name(field)) for field in Layout.parse(newest.fields).fields],
        **forms,
    }
    return render(request, "dashboard/model_settings.html", context, status=status)


def _save_basics(request: StudioRequest, model: RecommendationModel, forms: dict[str, Any]) -> str | None:
    form = forms["basics"] = ModelSettingsForm(request.POST)
    if form.is_valid():
        with form.refusing():
            model_update(model=model, actor=request.user, **form.values)
            return "Saved."
    return None


def _save_default(request: StudioRequest, model: RecommendationModel, forms: dict[str, Any]) -> str | None:
    revision = request.POST.get("revision", "")
    place, shown = next(
        ((place, one) for place, one in enumerate(forms["defaults"]) if str(one.layout.revision) == revision), (0, None)
    )
    if shown is None:
        raise Http404
    form = forms["defaults"][place] = DefaultForm(shown.layout, request.POST, shown.used_by)
    if form.is_valid():
        with form.refusing():
            default_set(model=model, layout=form.layout, default_answer=form.answer, actor=request.user)
            return f"Saved. {_said_of(form.answer, form.layout.revision)}"
    return None


def _said_of(answer: Mapping[str, Any] | None, revision: int) -> str:
    who = f"Whoever gets a version with layout {revision} and has no row gets"
    return f"{who} no recommendation." if answer is None else f"{who} this default from now on."


def _save_layout(request: StudioRequest, model: RecommendationModel, forms: dict[str, Any]) -> str | None:
    action = request.POST.get("layout")
    if action:
        forms["editor"] = LayoutEditor.edited(request.POST, action)
        return None
    newest = newest_layout(model)
    editor = forms["editor"] = LayoutEditor.typed(request.POST, newest.default)
    if not editor.is_valid():
        return None
    given: dict[str, Any] = {"model": model, "default_answer": editor.default_answer, "actor": request.user}
    try:
        if editor.fields == newest.fields and editor.default_answer != newest.default:
            default_set(layout=newest, **given)
            return f"The layout is as it was. {_said_of(editor.default_answer, newest.revision)}"
        layout = layout_add(fields=editor.fields, keeps_default=False, **given)
    except RuleBroken as error:
        editor.problem = str(error)
        return None
    return f"Saved as layout {layout.revision}. Versions made from now on have it; those there are keep theirs."


_SETTINGS: dict[str, Callable[[StudioRequest, RecommendationModel, dict[str, Any]], str | None]] = {
    "basics": _save_basics,
    "default": _save_default,
    "layout": _save_layout,
}


# --- Versions ---------------------------------------------------------------------------------------------------------


@model_page(Role.PRODUCT_MANAGER, ("GET", "POST"))
def version_new(request: StudioRequest, model: RecommendationModel) -> HttpResponse:
    """Ask for a new version and its source, make it, and have it loaded if that is wanted."""
    summary = model_summary(model)
    form = VersionForm(model.tenant, sent(request))
    if form.is_valid():
        values = form.cleaned_data
        try:
            version = version_create(
                model=model,
                name=values["name"],
                source_kind=values["source_kind"],
                source_location=values["source_location"],
                actor=request.user,
            )
        except RuleBroken as error:
            if made := _made_just_now(model, values):
                messages.success(request, f"Made the version {made.name}.")
                return redirect("version", model.tenant.slug, model.slug, made.name)
            form.refuse(error)
        else:
            said = f"Made the version {version.name}."
            if values["load_now"]:
                try:
                    load_request(version=version, actor=request.user)
                except RuleBroken as error:
                    messages.error(request, f"It is not being loaded. {error}")
                else:
                    said += " Its load is queued."
            if summary.versions:
                said += " It has no weight yet. Give it one."
            messages.success(request, said)
            return redirect("version", model.tenant.slug, model.slug, version.name)
    about = {**about_model(summary, ""), "allowed": request.studio.allowed_sources, "layout": newest_layout(model)}
    return form_page(request, "dashboard/version_new.html", form, **about)


def _made_just_now(model: RecommendationModel, values: dict[str, Any]) -> Version | None:
    """Return the version that this form made when it was sent before (double tap, reload), if that is what happened."""
    rows = Version.objects.for_tenant(model.tenant).filter(model=model, created_at__gt=timezone.now() - SENT_TWICE)
    source = {"source__kind": values["source_kind"], "source__location": values["source_location"].strip()}
    return rows.filter(name=values["name"], **source).first()
