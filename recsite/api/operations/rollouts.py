"""Rollouts, read: which share of the units gets which version, how it became so, and what a change would do."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django.db.models import QuerySet
from rest_framework import serializers

from models_registry.catalogue.codes import code_names_of
from models_registry.catalogue.selectors import model_summary, name_of
from models_registry.models import BASIS_POINTS, RecommendationModel, RolloutRevision, Version
from models_registry.rollouts.cautions import Caution, cautions
from models_registry.rollouts.services import (
    Effect,
    current_rollout,
    default_sentence,
    effect_sentence,
    rollout_go_back_preview,
    rollout_new_phase_preview,
    rollout_preview,
)
from recsite.api.bodies import Answer, Body, Moment, Whole
from recsite.api.operations.lookups import find_model, one_of
from recsite.api.paging import PageQuery, page_of
from recsite.api.problems import not_found
from recsite.api.schema import Result, operation
from recsite.api.studio_view import StudioView
from tenants.models import Scope
from tenants.rules import RuleBroken

WEIGHTS = {"2026-10-c": 8000, "2026-11-a": 2000}
REVISION = {
    "number": 4,
    "phase": 1,
    "weights_bp": WEIGHTS,
    "moved_bp": 1000,
    "serves_default": False,
    "restores": None,
    "actor": "mara",
    "reason": "2026-11-a does well",
    "created_at": "2026-11-01T10:00:00Z",
}
FULL_REVISION = {
    **REVISION,
    "salt": "8b1d6a0f3c5e7d92a4b60718c9fe2d35",
    "codes": {"2026-10-c": 0, "2026-11-a": 1},
    "allocation_hex": "0000010000…",
}
EFFECT = {
    "moved_bp": 1000,
    "flows": [{"from_version": "2026-10-c", "to_version": "2026-11-a", "moved_bp": 1000}],
    "is_new_phase": False,
    "sentence": "10 % of players change version: 10 % from 2026-10-c to 2026-11-a.",
}
PREVIEW = {
    **EFFECT,
    "cautions": [
        {
            "kind": "fewer_rows",
            "version": "2026-11-a",
            "fewer_rows_share": 0.12,
            "than": "2026-10-c",
            "sentence": "2026-11-a covers fewer players: 12 % fewer rows than 2026-10-c. About as many of those who "
            "move would get the default answer.",
        }
    ],
}


class RevisionAnswer(Answer[RolloutRevision]):
    """One saved allocation."""

    example = REVISION
    number = serializers.IntegerField()
    phase = serializers.IntegerField(
        help_text="A new phase assigns every unit anew; new weights move as few as can be."
    )
    weights_bp = serializers.SerializerMethodField(help_text="Basis points by version name; together 10,000.")
    moved_bp = serializers.IntegerField(help_text="Basis points of all units that changed version.")
    serves_default = serializers.BooleanField(help_text="Everybody gets the default, whatever the weights are.")
    restores = serializers.IntegerField(
        source="restores.number", default=None, allow_null=True, help_text="The revision that was gone back to."
    )
    actor = serializers.CharField(source="actor_name")
    reason = serializers.CharField()
    created_at = serializers.DateTimeField()

    def get_weights_bp(self, revision: RolloutRevision) -> dict[str, int]:
        """Return the weights by name."""
        names = self.context["names"].at(revision.created_at)
        return {name_of(int(code), names): bp for code, bp in revision.weights_bp.items()}


class FullRevisionAnswer(RevisionAnswer):
    """A saved allocation with all that it takes to compute anybody's version from it."""

    example = FULL_REVISION
    salt = serializers.CharField(help_text="slot = int(md5_hex(salt + ':' + unit)[:15], 16) % 10000")
    codes = serializers.SerializerMethodField(help_text="Every version's code, as it was then.")
    allocation_hex = serializers.SerializerMethodField(
        help_text="20,000 hexadecimal digits: the version code of slot 0, of slot 1, … two digits each."
    )

    def get_codes(self, revision: RolloutRevision) -> dict[str, int]:
        """Return the codes by name."""
        return {name: code for code, name in self.context["names"].at(revision.created_at).items()}

    def get_allocation_hex(self, revision: RolloutRevision) -> str:
        """Return the map."""
        return bytes(revision.allocation).hex()


class FlowAnswer(Answer[Any]):
    """Units that go from one version to another."""

    from_version = serializers.CharField()
    to_version = serializers.CharField()
    moved_bp = serializers.IntegerField()


class EffectAnswer(Answer[Any]):
    """What a change would do."""

    example = EFFECT
    moved_bp = serializers.IntegerField(help_text="Basis points of all units that would get another version.")
    flows = FlowAnswer(many=True, help_text="The largest first.")
    is_new_phase = serializers.BooleanField(help_text="Everybody is assigned anew: the figures are expectations.")
    sentence = serializers.CharField(help_text="The same in words.")


class CautionAnswer(Answer[Caution]):
    """Something to know before saving."""

    kind = serializers.ChoiceField(
        choices=["not_loaded", "late", "fewer_rows"],
        help_text="It has no rows, its data is late (older than its target, or than a day without one), or it has "
        "fewer rows than another.",
    )
    version = serializers.CharField(source="name", help_text="The one that would get more than it has.")
    fewer_rows_share = serializers.FloatField(source="share", help_text="Of fewer_rows: how many fewer, 0 … 1.")
    than = serializers.CharField(help_text="Of fewer_rows: the version that has more; else empty.")
    sentence = serializers.CharField(help_text="The same in words.")


class PreviewAnswer(EffectAnswer):
    """What new weights would do, and what to know before saving them."""

    example = PREVIEW
    cautions = CautionAnswer(many=True)


def weights_field(**kwargs: Any) -> serializers.DictField:
    """Return the field that takes weights."""
    return serializers.DictField(
        child=Whole(min_value=0, max_value=BASIS_POINTS),
        allow_empty=False,
        help_text="Basis points (0.01 %) by version name, together 10,000; a version left out has none.",
        **kwargs,
    )


class Weights(Body):
    """Weights to look at."""

    example: ClassVar = {"weights_bp": WEIGHTS}
    weights_bp = weights_field()


class RevisionQuery(PageQuery):
    """Which revisions."""

    since = Moment(source="created_at__gte", required=False, help_text="Saved from this instant on.")


class RolloutDetail(StudioView, tag="Rollouts"):
    @operation("rollouts_read", Scope.READ, gives=FullRevisionAnswer)
    def get(self, model: str) -> Result:
        """Read a model's current rollout.

        With the salt and the map of all 10,000 slots, so that you can work out anybody's version yourself.
        """
        row = find_model(self.tenant, model)
        return Result(_current(row), names=code_names_of(row))


class RolloutPreview(StudioView, tag="Rollouts"):
    @operation("rollouts_preview", Scope.READ, takes=Weights, gives=PreviewAnswer)
    def post(self, given: dict[str, Any], model: str) -> dict[str, Any]:
        """Preview new weights: what saving them would do, exactly.

        Changes nothing. `cautions` are what the dashboard asks about before it saves.
        """
        summary = model_summary(find_model(self.tenant, model))
        weights_bp = weights_from_names(given["weights_bp"], summary.names)
        answer = effect_of(rollout_preview(model=summary.model, weights_bp=weights_bp), summary.names, summary.model)
        return {**answer, "cautions": cautions(summary, weights_bp)}


class NewPhaseEffect(StudioView, tag="Rollouts"):
    @operation(
        "rollouts_new_phase_effect",
        Scope.READ,
        gives=EffectAnswer,
        answer_example={**EFFECT, "moved_bp": 3200, "is_new_phase": True, "sentence": "About 32 % of players …"},
    )
    def get(self, model: str) -> dict[str, Any]:
        """Estimate what a new phase with the present weights would do. Changes nothing."""
        row = find_model(self.tenant, model)
        _current(row)
        return effect_of(rollout_new_phase_preview(model=row), names_of(row), row)


class RevisionList(StudioView, tag="Rollouts"):
    @operation("rollout_revisions_list", Scope.READ, takes=RevisionQuery, gives=RevisionAnswer)
    def get(self, asked: dict[str, Any], model: str) -> Result:
        """List a model's rollout revisions, newest first."""
        row = find_model(self.tenant, model)
        rows = _revisions(row).defer("allocation", "restores__allocation")
        return Result(page_of(rows, asked, by="number", is_descending=True), names=code_names_of(row))


class RevisionDetail(StudioView, tag="Rollouts"):
    @operation("rollout_revisions_read", Scope.READ, gives=FullRevisionAnswer)
    def get(self, model: str, number: str) -> Result:
        """Read a rollout revision, with its salt and map."""
        row = find_model(self.tenant, model)
        return Result(_revision(row, number), names=code_names_of(row))


class ServeDefaultEffect(StudioView, tag="Rollouts"):
    @operation(
        "rollouts_serve_default_effect",
        Scope.READ,
        gives=EffectAnswer,
        answer_example={
            "moved_bp": 0,
            "flows": [],
            "is_new_phase": False,
            "sentence": "100 % of players get the default answer.",
        },
    )
    def get(self, model: str) -> dict[str, Any]:
        """Preview serving the default to everybody. Changes nothing."""
        summary = model_summary(find_model(self.tenant, model))
        _current(summary.model)
        return {"moved_bp": 0, "flows": [], "is_new_phase": False, "sentence": default_sentence(summary)}


class RevisionEffect(StudioView, tag="Rollouts"):
    @operation("rollout_revisions_effect", Scope.READ, gives=EffectAnswer)
    def get(self, model: str, number: str) -> dict[str, Any]:
        """Preview going back to a revision. Changes nothing."""
        row = find_model(self.tenant, model)
        effect = rollout_go_back_preview(model=row, number=_revision(row, number).number)
        return effect_of(effect, names_of(row), row)


def names_of(model: RecommendationModel) -> dict[int, str]:
    """Return the names of a model's versions by code, archived ones left out. One query."""
    rows = Version.objects.for_tenant(model.tenant).filter(model=model, archived_at=None)
    return dict(rows.values_list("code", "name"))


def weights_from_names(weights_bp: Mapping[str, int], names: Mapping[int, str]) -> dict[int, int]:
    """Return weights by code.

    Raises:
        RuleBroken: the model has no version of such a name.
    """
    codes = {name: code for code, name in names.items()}
    unknown = sorted(weights_bp.keys() - codes.keys())
    if unknown:
        raise RuleBroken(f"The model has no version “{unknown[0]}”.", field="weights_bp")
    return {codes[name]: bp for name, bp in weights_bp.items()}


def effect_of(effect: Effect, names: Mapping[int, str], model: RecommendationModel) -> dict[str, Any]:
    """Return what a change would do, by version name."""
    flows = [
        {
            "from_version": name_of(flow.from_code, names),
            "to_version": name_of(flow.to_code, names),
            "moved_bp": flow.bp,
        }
        for flow in effect.flows
    ]
    return {
        "moved_bp": effect.moved_bp,
        "flows": flows,
        "is_new_phase": effect.is_new_phase,
        "sentence": effect_sentence(effect, names, model.units_word),
    }


def _revisions(model: RecommendationModel) -> QuerySet[RolloutRevision]:
    rows: QuerySet[RolloutRevision] = RolloutRevision.objects.for_tenant(model.tenant)
    return rows.filter(model=model).select_related("restores").defer("restores__allocation")


def _revision(model: RecommendationModel, number: str) -> RolloutRevision:
    return one_of(_revisions(model).filter(number=int(number)), f"The model has no revision {number}.")


def _current(model: RecommendationModel) -> RolloutRevision:
    revision = current_rollout(model)
    if revision is None:
        raise not_found(f"The model “{model.slug}” has no version yet.")
    return revision
