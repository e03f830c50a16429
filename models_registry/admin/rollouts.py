"""Weights in the admin: the page that says what a change does before it is saved, the history, testers' overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import pairwise
from typing import Any, ClassVar

from django import forms
from django.contrib import admin, messages
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminDecimalFieldWidget

from models_registry.admin.columns import ModelFilter, NamedChoices, data_at, is_stale
from models_registry.models import BASIS_POINTS, Override, RecommendationModel, RolloutRevision, Version
from models_registry.rollouts.services import (
    Effect,
    current_rollout,
    effect_sentence,
    rollout_go_back,
    rollout_go_back_preview,
    rollout_preview,
    rollout_reweight,
    weights_bp_of,
)
from models_registry.services import override_remove, override_set
from tenants.rules import RuleBroken
from tenants.staff import (
    ReadOnlyAdmin,
    ReasonForm,
    ServiceForm,
    StaffAdmin,
    StudioFilter,
    acting,
    show_refusal,
    text_field,
)
from tenants.templatetags.words import age, number, percent, percent_number

HISTORY_SHOWN = 20
# Hold 4.5:1 under white text; the first codes of a model get different ones.
COLOURS = ("#3b5bdb", "#b35c00", "#0b7d5b", "#a61e8a", "#5f5fa8", "#8a5a2b", "#1a6f8f", "#b02a37")


@dataclass(frozen=True)
class Share:
    """A version and its weight, as pages show them."""

    code: int
    name: str
    bp: int
    colour: str


@dataclass(frozen=True)
class Proposal:
    """What saving would do.

    Attributes:
        sentence: the effect in words.
        flows: (from, to, basis points), the largest first.
        warnings: what else a person should know before saving.
        stamp: names the weights and the revision they were compared with; saving without it shows the effect first.
    """

    sentence: str
    flows: tuple[tuple[Share, Share, int], ...]
    warnings: tuple[str, ...]
    stamp: str


def colour_of(code: int) -> str:
    """Give a version's colour."""
    return COLOURS[code % len(COLOURS)]


def shares_of(weights_bp: Mapping[int, int], names: Mapping[int, str]) -> list[Share]:
    """Give the versions that have a weight, the largest first."""
    shares = [Share(code, names.get(code, f"version {code}"), bp, colour_of(code)) for code, bp in weights_bp.items()]
    return sorted((share for share in shares if share.bp), key=lambda share: (-share.bp, share.code))


class WeightsForm(ReasonForm):
    """One percentage a version, to 0.01 %, summing to 100."""

    def __init__(self, versions: Sequence[Version], weights_bp: Mapping[int, int], data: Any = None) -> None:
        super().__init__(data)
        self.versions = versions
        for version in versions:
            self.fields[f"weight_{version.code}"] = forms.DecimalField(
                label=version.name,
                min_value=0,
                max_value=100,
                decimal_places=2,
                initial=percent_number(weights_bp.get(version.code, 0)),
                widget=UnfoldAdminDecimalFieldWidget({"step": "0.01", "inputmode": "decimal", "class": "rs-weight"}),
                error_messages={
                    "required": "Give a weight; 0 for none.",
                    "invalid": "This is no number.",
                    "min_value": "At least 0 %%.",  # Django fills these three in with %
                    "max_value": "At most 100 %%.",
                    "max_decimal_places": "At most two places: steps of 0.01 %%.",
                },
            )

    @property
    def weights_bp(self) -> dict[int, int]:
        """The weights typed, in basis points by code."""
        return {version.code: int(self.cleaned_data[f"weight_{version.code}"] * 100) for version in self.versions}

    @property
    def is_readable(self) -> bool:
        """Whether every weight typed is a number that may be one."""
        return not self.is_bound or all(f"weight_{version.code}" in self.cleaned_data for version in self.versions)

    @property
    def total(self) -> Decimal:
        """The sum of what can be read of the weights typed, in percent."""
        names = [f"weight_{version.code}" for version in self.versions]
        if not self.is_bound:
            return sum((Decimal(self.fields[name].initial) for name in names), Decimal(0))
        return sum((self.cleaned_data.get(name) or Decimal(0) for name in names), Decimal(0))

    def clean(self) -> dict[str, Any]:
        """Refuse a sum other than 100 %."""
        data = super().clean() or self.cleaned_data
        if self.is_readable and self.total != 100:
            apart = 100 - self.total
            how = f"{apart.normalize():f} % is missing" if apart > 0 else f"{-apart.normalize():f} % is too much"
            raise forms.ValidationError(f"The weights add up to {self.total.normalize():f} %, not to 100 %: {how}.")
        return data

    def rows(self) -> list[tuple[Version, forms.BoundField, str]]:
        """Give each version with its field and its colour."""
        return [(version, self[f"weight_{version.code}"], colour_of(version.code)) for version in self.versions]


class GoBackForm(ReasonForm):
    """Why one goes back."""


class WeightPages(StaffAdmin):
    """The pages of a model's weights; the admin of models is made on it."""

    def get_urls(self) -> list[URLPattern]:
        """Add the page that goes back to a revision."""
        view = self.admin_site.admin_view(self.go_back)
        own = path("<path:object_id>/weights/<int:number>/", view, name="models_registry_recommendationmodel_go_back")
        return [own, *super().get_urls()]

    @action(description="Weights", url_path="weights", permissions=["act"], icon="balance")
    def weights(self, request: HttpRequest, object_id: str) -> HttpResponse:
        """Show the weights and the history; say what a change does; save it once that was said."""
        model = self.get_row(request, object_id)
        current = current_rollout(model)
        versions = _versions(model)
        present = weights_bp_of(current) if current else {}
        form = WeightsForm(versions, present, request.POST if request.method == "POST" else None)
        proposal = None
        if current is not None and form.is_valid():
            proposal = _propose(form, model, current, versions)
            was_said = proposal is not None and request.POST.get("stamp") == proposal.stamp
            if was_said and "_save" in request.POST and self._save(request, form, model):
                return HttpResponseRedirect(_weights_url(model))
        is_fragment = bool(request.headers.get("HX-Request"))
        context = {
            "model": model,
            "current": current,
            "shares": shares_of(present, {v.code: v.name for v in versions}),
            "form": form,
            "rows": _rows(form),
            "total": f"{form.total.normalize():f}" if form.is_readable else "",
            "proposal": proposal,
            "is_unchanged": form.is_bound and form.is_valid() and form.weights_bp == _full(present, versions),
            "must_look_again": "_save" in request.POST and proposal is not None,
            "is_fragment": is_fragment,
            "add_version_url": f"{reverse('admin:models_registry_version_add')}?model={model.pk}",
            "history": [] if is_fragment else _history(model, versions),
        }
        if is_fragment:
            return TemplateResponse(request, "models_registry/admin/_effect.html", context)
        status = 422 if form.is_bound and form.errors else 200
        return self.page(
            request,
            "models_registry/admin/weights.html",
            title=f"Weights of {model.slug}",
            obj=model,
            status=status,
            **context,
        )

    def go_back(self, request: HttpRequest, object_id: str, number: int) -> HttpResponse:
        """Say what going back to a revision does, then do it."""
        model = self.get_row(request, object_id)
        form = GoBackForm(request.POST if request.method == "POST" else None)
        versions = _versions(model)
        names = {version.code: version.name for version in versions}
        explanation: list[str] = []
        try:
            effect = rollout_go_back_preview(model=model, number=number)
            target = model.rollout_revisions.defer("allocation").get(number=number)
            there = weights_bp_of(target)
            shares = ", ".join(f"{share.name} {percent(share.bp)}" for share in shares_of(there, names))
            explanation = [
                f"Revision {number}, saved {age(target.created_at)} by {target.actor_name}: {shares}.",
                effect_sentence(effect, names),
                "Everybody gets exactly the version they got then.",
                *_warnings(there, versions, gaining={flow.to_code for flow in effect.flows}),
            ]
            if form.is_valid():
                rollout_go_back(model=model, number=number, actor=acting(request), reason=form.cleaned_data["reason"])
                message = f"Went back to revision {number}. {effect_sentence(effect, names)}"
                self.message_user(request, message, messages.SUCCESS)
                return HttpResponseRedirect(_weights_url(model))
        except RuleBroken as error:
            show_refusal(form, error) if form.is_bound else explanation.append(str(error))
        return self.ask(
            request,
            form,
            title=f"Go back to revision {number} of {model.slug}",
            obj=model,
            submit="Go back to this",
            explanation=explanation,
            cancel_url=_weights_url(model),
        )

    def _save(self, request: HttpRequest, form: WeightsForm, model: RecommendationModel) -> bool:
        try:
            revision = rollout_reweight(
                model=model,
                weights_bp=form.weights_bp,
                actor=acting(request),
                reason=form.cleaned_data["reason"],
            )
        except RuleBroken as error:
            show_refusal(form, error)
            return False
        text = f"Saved as revision {revision.number}. {percent(revision.moved_bp)} of players change version."
        self.message_user(request, text, messages.SUCCESS)
        return True


def _weights_url(model: RecommendationModel) -> str:
    return reverse("admin:models_registry_recommendationmodel_weights", args=[model.pk])


def _versions(model: RecommendationModel) -> list[Version]:
    found = model.versions.select_related("active_table__load").defer("active_table__load__report")
    return list(found.order_by("code"))


def _full(weights_bp: Mapping[int, int], versions: Sequence[Version]) -> dict[int, int]:
    return {version.code: weights_bp.get(version.code, 0) for version in versions}


def _propose(
    form: WeightsForm, model: RecommendationModel, current: RolloutRevision, versions: Sequence[Version]
) -> Proposal | None:
    """Give what saving would do; None for the present weights and for what is refused (said on the form)."""
    wanted = form.weights_bp
    if wanted == _full(weights_bp_of(current), versions):
        return None
    try:
        effect = rollout_preview(model=model, weights_bp=wanted)
    except RuleBroken as error:
        show_refusal(form, error)
        return None
    names = {version.code: version.name for version in versions}
    stamp = ",".join([f"{current.number}", *(f"{code}:{bp}" for code, bp in sorted(wanted.items()))])
    warnings = _warnings(wanted, versions, gaining={flow.to_code for flow in effect.flows})
    return Proposal(_say(effect, names, versions), _flows(effect, names), tuple(warnings), stamp)


def _say(effect: Effect, names: Mapping[int, str], versions: Sequence[Version]) -> str:
    counts = [version.active_table.row_count for version in versions if version.active_table]
    rows = max(counts, default=0)
    about = f" That is about {number(rows * effect.moved_bp / BASIS_POINTS)} of {number(rows)} keys." if rows else ""
    return effect_sentence(effect, names) + about


def _flows(effect: Effect, names: Mapping[int, str]) -> tuple[tuple[Share, Share, int], ...]:
    def share(code: int) -> Share:
        return Share(code, names.get(code, f"version {code}"), 0, colour_of(code))

    return tuple((share(flow.from_code), share(flow.to_code), flow.bp) for flow in effect.flows)


def _warnings(weights_bp: Mapping[int, int], versions: Sequence[Version], *, gaining: set[int]) -> list[str]:
    """Say which versions that would be served are not loaded, old, or cover fewer keys than the others."""
    most = max((version.active_table.row_count for version in versions if version.active_table), default=0)
    found = []
    for version in versions:
        if not weights_bp.get(version.code):
            continue
        table = version.active_table
        if table is None:
            found.append(f"{version.name} is not loaded: whoever gets it is answered the default.")
            continue
        if is_stale(data_at(table)):
            found.append(f"{version.name} is old: its data was read {age(data_at(table))}.")
        if version.code in gaining and table.row_count < 0.99 * most:
            fewer = 100 * (1 - table.row_count / most)
            found.append(
                f"{version.name} covers {number(table.row_count)} keys, {fewer:.1f} % fewer than the fullest version: "
                "the others get the default."
            )
    return found


def _rows(form: WeightsForm) -> list[dict[str, Any]]:
    return [
        {
            "version": version,
            "field": field,
            "colour": colour,
            "data_at": data_at(version.active_table) if version.active_table else None,
            "is_stale": version.active_table is not None and is_stale(data_at(version.active_table)),
        }
        for version, field, colour in form.rows()
    ]


def _history(model: RecommendationModel, versions: Sequence[Version]) -> list[dict[str, Any]]:
    names = {version.code: version.name for version in versions}
    newest = model.rollout_revisions.defer("allocation", "restores__allocation").select_related("restores")
    revisions = list(newest.order_by("-number")[: HISTORY_SHOWN + 1])
    lines = [
        {
            "revision": after,
            "before": shares_of(weights_bp_of(before), names) if before else [],
            "after": shares_of(weights_bp_of(after), names),
            "is_present": index == 0,
        }
        for index, (after, before) in enumerate(pairwise([*revisions, None]))
        if after is not None
    ]
    return lines[:HISTORY_SHOWN]


# --- Tables ---------------------------------------------------------------------------------------------------------


@admin.register(RolloutRevision)
class RolloutRevisionAdmin(ReadOnlyAdmin):
    """Every saved allocation."""

    studio_path, model_path = "model__tenant", "model"
    list_display = ("label", "studio", "model", "weights", "moved", "actor_name", "when", "reason")
    list_filter = (StudioFilter, ModelFilter)
    search_fields = ("model__slug", "model__tenant__name", "actor_name", "reason")
    date_hierarchy = "created_at"
    ordering = ("-created_at", "-number")
    fields = (
        "model",
        "number",
        "phase",
        "weights",
        "moved",
        "restored",
        "actor_name",
        "reason",
        "created_at",
        "salt",
        "go",
    )

    def get_queryset(self, request: HttpRequest) -> Any:
        """Leave the maps behind; bring names along."""
        versions = Prefetch("model__versions", queryset=Version.objects.unscoped().only("pk", "model", "code", "name"))
        rows = super().get_queryset(request).defer("allocation", "restores__allocation")
        return rows.select_related("model__tenant", "restores").prefetch_related(versions)

    @display(description="Revision", ordering="number")
    def label(self, revision: Any) -> str:
        """Give its number and phase."""
        return f"Revision {revision.number}, phase {revision.phase}"

    @display(description="Weights")
    def weights(self, revision: Any) -> str:
        """Give each version's share."""
        names = {version.code: version.name for version in revision.model.versions.all()}
        return " · ".join(f"{share.name} {percent(share.bp)}" for share in shares_of(weights_bp_of(revision), names))

    @display(description="Players moved", ordering="moved_bp")
    def moved(self, revision: Any) -> str:
        """Give the share of units that got another version."""
        return percent(revision.moved_bp)

    @display(description="Goes back to")
    def restored(self, revision: Any) -> str:
        """Give the revision that it restored."""
        return f"Revision {revision.restores.number}" if revision.restores else "–"

    @display(description="When", ordering="created_at")
    def when(self, revision: Any) -> str:
        """Say how long ago."""
        return age(revision.created_at)

    @display(description="Weights page")
    def go(self, revision: Any) -> str:
        """Lead to the page where one goes back."""
        return format_html(
            '<a class="text-link" href="{}">Open the weights of {}</a>', _weights_url(revision.model), revision.model
        )

    def audit_subject(self, obj: Any) -> str:
        """Give what the audit trail calls it."""
        return f"model {obj.model.slug}"


class OverrideForm(ServiceForm):
    """A tester's version. The versions offered are all; the service refuses another model's."""

    unit = text_field(
        label="Tester", max_length=256, help_text="The player's id, as the model's unit field has it in requests."
    )

    class Meta:
        model = Override
        fields: ClassVar = ["version", "note"]

    def write(self) -> Override:
        """Set the override."""
        data = self.cleaned_data
        version: Version = data["version"]
        unit = data["unit"] if self.instance.pk is None else self.instance.unit
        return override_set(model=version.model, unit=unit, version=version, actor=self.actor, note=data["note"])


@admin.register(Override)
class OverrideAdmin(NamedChoices):
    """Testers who get one version whatever the weights say."""

    can_add = can_delete = True
    form = OverrideForm
    actions = None
    studio_path, model_path = "model__tenant", "model"
    list_display = ("unit", "version", "model", "studio", "note", "made")
    list_filter = (StudioFilter, ModelFilter)
    list_select_related = ("model__tenant", "version")
    search_fields = ("unit", "note", "version__name", "model__slug", "model__tenant__name")
    add_fieldsets = ((None, {"fields": ("unit", "version", "note")}),)
    fields = ("unit", "version", "model", "note", "created_at")
    readonly_fields = ()

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> tuple[str, ...]:
        """Only a new one has fields to fill; setting it anew replaces it."""
        return ("unit", "version", "model", "note", "created_at") if obj else ()

    @display(description="Set", ordering="created_at")
    def made(self, override: Any) -> str:
        """Say how long ago."""
        return age(override.created_at)

    def audit_subject(self, obj: Any) -> str:
        """Give what the audit trail calls it."""
        return f"model {obj.model.slug}"

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Let the weights decide again."""
        override_remove(model=obj.model, unit=obj.unit, actor=acting(request))
