"""Weights in the admin: the page that says what a change does before it is saved, the history, testers' overrides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any, ClassVar

from django.contrib import admin, messages
from django.db.models import Prefetch
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path, reverse
from django.utils.html import format_html
from unfold.decorators import action, display
from unfold.widgets import UnfoldAdminDecimalFieldWidget

from models_registry.catalogue.selectors import (
    VERSION_COLOURS,
    ModelSummary,
    VersionState,
    history_of,
    model_summary,
    name_of,
)
from models_registry.models import BASIS_POINTS, Override, RecommendationModel, RolloutRevision, Version
from models_registry.rollouts.cautions import Caution, cautions
from models_registry.rollouts.services import (
    Effect,
    effect_sentence,
    rollout_go_back,
    rollout_go_back_preview,
    rollout_preview,
    rollout_reweight,
    weights_bp_of,
)
from models_registry.rollouts.testers import override_remove, override_set
from recsite.dashboard.forms.weights import WeightsForm
from recsite.staff.columns import ModelFilter, NamedChoices
from recsite.staff.pages import (
    ReadOnlyAdmin,
    ReasonForm,
    ServiceForm,
    StaffAdmin,
    StudioFilter,
    acting,
    area_field,
    show_refusal,
    text_field,
)
from tenants.figures import age, number, percent, percent_number
from tenants.rules import RuleBroken

HISTORY_SHOWN = 20


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
        cautions: what speaks against it.
        stamp: names the weights and the revision they were compared with; saving without it shows the effect first.
    """

    sentence: str
    flows: tuple[tuple[Share, Share, int], ...]
    cautions: tuple[str, ...]
    stamp: str


def shares_of(weights_bp: Mapping[int, int], names: Mapping[int, str]) -> list[Share]:
    """Return the versions that have a weight, the largest first."""
    shares = [_share(code, names, bp) for code, bp in weights_bp.items() if bp]
    return sorted(shares, key=lambda share: (-share.bp, share.code))


def _share(code: int, names: Mapping[int, str], bp: int = 0) -> Share:
    return Share(code, name_of(code, names), bp, VERSION_COLOURS[code % len(VERSION_COLOURS)])


class StaffWeightsForm(WeightsForm):
    """The dashboard's form of weights, in the admin's looks."""

    def __init__(self, versions: Sequence[VersionState], data: Any = None) -> None:
        super().__init__(versions, data)
        del self.fields["go_on"], self.fields["seen"]
        for state, bound in self.rows():
            bound.field.initial = percent_number(state.weight_bp)
            bound.field.widget = UnfoldAdminDecimalFieldWidget({**bound.field.widget.attrs, "class": "rs-weight"})
        self.fields["reason"] = area_field(
            rows=2, max_length=500, required=False, label="Why", help_text="Kept in the history and the audit trail."
        )

    @property
    def total(self) -> str:
        """The sum in percent, empty while a weight is no number."""
        if not self.is_bound:
            return percent_number(sum(state.weight_bp for state in self.versions))
        return percent_number(sum(self.weights_bp.values())) if self.has_weights else ""


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
        summary = model_summary(self.get_row(request, object_id))
        model, current = summary.model, summary.rollout
        form = StaffWeightsForm(summary.versions, request.POST if request.method == "POST" else None)
        proposal = _propose(form, summary) if form.is_valid() else None
        was_said = proposal is not None and request.POST.get("stamp") == proposal.stamp
        if was_said and "_save" in request.POST and self._save(request, form, summary):
            return HttpResponseRedirect(_weights_url(model))
        is_fragment = bool(request.headers.get("HX-Request"))
        context = {
            "model": model,
            "current": current,
            "shares": shares_of(summary.weights_bp, summary.names),
            "form": form,
            "rows": [
                {"state": state, "field": bound, "colour": _share(state.code, summary.names).colour}
                for state, bound in form.rows()
            ],
            "proposal": proposal,
            "is_unchanged": form.is_bound and form.is_valid() and proposal is None,
            "must_look_again": "_save" in request.POST and proposal is not None,
            "is_fragment": is_fragment,
            "add_version_url": f"{reverse('admin:models_registry_version_add')}?model={model.pk}",
            "history": [] if is_fragment else _history(summary),
        }
        if is_fragment:
            return TemplateResponse(request, "staff/_effect.html", context)
        status = 422 if form.is_bound and form.errors else 200
        return self.page(
            request,
            "staff/weights.html",
            title=f"Weights of {model.slug}",
            obj=model,
            status=status,
            **context,
        )

    def go_back(self, request: HttpRequest, object_id: str, number: int) -> HttpResponse:
        """Say what going back to a revision does, then do it."""
        summary = model_summary(self.get_row(request, object_id))
        model, names = summary.model, summary.names
        form = ReasonForm(request.POST if request.method == "POST" else None)
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
                *map(_words_of, cautions(summary.versions, there)),
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

    def _save(self, request: HttpRequest, form: StaffWeightsForm, summary: ModelSummary) -> bool:
        try:
            revision = rollout_reweight(
                model=summary.model,
                weights_bp=form.weights_bp,
                actor=acting(request),
                reason=form.cleaned_data["reason"],
                based_on=summary.rollout.number if summary.rollout else None,
            )
        except RuleBroken as error:
            show_refusal(form, error)
            return False
        text = f"Saved as revision {revision.number}. {percent(revision.moved_bp)} of players change version."
        self.message_user(request, text, messages.SUCCESS)
        return True


def _weights_url(model: RecommendationModel) -> str:
    return reverse("admin:models_registry_recommendationmodel_weights", args=[model.pk])


def _propose(form: StaffWeightsForm, summary: ModelSummary) -> Proposal | None:
    """Return what saving would do; None for the present weights and for what is refused (said on the form)."""
    wanted = form.weights_bp
    if wanted == {state.code: state.weight_bp for state in summary.versions}:
        return None
    try:
        effect = rollout_preview(model=summary.model, weights_bp=wanted)
    except RuleBroken as error:
        show_refusal(form, error)
        return None
    number_seen = summary.rollout.number if summary.rollout else 0
    stamp = ",".join([f"{number_seen}", *(f"{code}:{bp}" for code, bp in sorted(wanted.items()))])
    flows = tuple((_share(f.from_code, summary.names), _share(f.to_code, summary.names), f.bp) for f in effect.flows)
    against = tuple(map(_words_of, cautions(summary.versions, wanted)))
    return Proposal(_say(effect, summary), flows, against, stamp)


def _say(effect: Effect, summary: ModelSummary) -> str:
    rows = max((state.table.row_count for state in summary.versions if state.table), default=0)
    about = f" That is about {number(rows * effect.moved_bp / BASIS_POINTS)} of {number(rows)} keys." if rows else ""
    return effect_sentence(effect, summary.names) + about


def _words_of(caution: Caution) -> str:
    if caution.kind == "not_loaded":
        return f"{caution.name} is not loaded: whoever gets it is answered the default."
    if caution.kind == "late":
        return f"{caution.name} is late: its data was read {age(caution.state.data_at)}."
    fewer = percent(round(10_000 * caution.share))
    return f"{caution.name} covers {fewer} fewer keys than {caution.than}: the others get the default."


def _history(summary: ModelSummary) -> list[dict[str, Any]]:
    lines = history_of(summary.model, summary.names, limit=HISTORY_SHOWN + 1).rows
    shown = [
        {
            "revision": line.revision,
            "before": shares_of(before.weights_bp, summary.names) if before else [],
            "after": shares_of(line.weights_bp, summary.names),
            "is_present": line.is_newest,
        }
        for line, before in zip_longest(lines, lines[1:])
    ]
    return shown[:HISTORY_SHOWN]


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
        """Return its number and phase."""
        return f"Revision {revision.number}, phase {revision.phase}"

    @display(description="Weights")
    def weights(self, revision: Any) -> str:
        """Return each version's share."""
        names = {version.code: version.name for version in revision.model.versions.all()}
        return " · ".join(f"{share.name} {percent(share.bp)}" for share in shares_of(weights_bp_of(revision), names))

    @display(description="Players moved", ordering="moved_bp")
    def moved(self, revision: Any) -> str:
        """Return the share of units that got another version."""
        return percent(revision.moved_bp)

    @display(description="Goes back to")
    def restored(self, revision: Any) -> str:
        """Return the revision that it restored."""
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
        """Return what the audit trail calls it."""
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
        """Return what the audit trail calls it."""
        return f"model {obj.model.slug}"

    def delete_model(self, request: HttpRequest, obj: Any) -> None:
        """Let the weights decide again."""
        override_remove(model=obj.model, unit=obj.unit, actor=acting(request))
