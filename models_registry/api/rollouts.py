"""Rollouts: which share of the units gets which version, and how it became so."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from django.db.models import QuerySet
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response

from models_registry.api.lookups import find_model
from models_registry.models import BASIS_POINTS, RecommendationModel, RolloutRevision, Version
from models_registry.rollouts.services import (
    Effect,
    current_rollout,
    effect_sentence,
    rollout_go_back,
    rollout_go_back_preview,
    rollout_new_phase,
    rollout_preview,
    rollout_reweight,
)
from tenants.api.authentication import needs
from tenants.api.bodies import Answer, Body, Moment, Query, Reason, Whole, read_body, read_query
from tenants.api.idempotency import idempotent
from tenants.api.paging import PageQuery, page_of
from tenants.api.problems import not_found
from tenants.api.schema import operation, page_answer
from tenants.api.studio_view import StudioView, page
from tenants.models import Scope
from tenants.rules import RuleBroken

WEIGHTS = {"2026-10-c": 8000, "2026-11-a": 2000}
REVISION = {
    "number": 4,
    "phase": 1,
    "weights_bp": WEIGHTS,
    "moved_bp": 1000,
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
    "sentence": "10.0 % of players change version: 10.0 % from 2026-10-c to 2026-11-a.",
}


class RevisionAnswer(Answer[RolloutRevision]):
    """One saved allocation."""

    number = serializers.IntegerField()
    phase = serializers.IntegerField(
        help_text="A new phase assigns every unit anew; new weights move as few as can be."
    )
    weights_bp = serializers.SerializerMethodField(help_text="Basis points by version name; together 10,000.")
    moved_bp = serializers.IntegerField(help_text="Basis points of all units that changed version.")
    restores = serializers.IntegerField(
        source="restores.number", default=None, allow_null=True, help_text="The revision that was gone back to."
    )
    actor = serializers.CharField(source="actor_name")
    reason = serializers.CharField()
    created_at = serializers.DateTimeField()

    def get_weights_bp(self, revision: RolloutRevision) -> dict[str, int]:
        """Give the weights by name."""
        return {_name(self.context["names"], int(code)): bp for code, bp in revision.weights_bp.items()}


class FullRevisionAnswer(RevisionAnswer):
    """A saved allocation with all that it takes to compute anybody's version from it."""

    salt = serializers.CharField(help_text="slot = int(md5_hex(salt + ':' + unit)[:15], 16) % 10000")
    codes = serializers.SerializerMethodField(help_text="Every version's code.")
    allocation_hex = serializers.SerializerMethodField(
        help_text="20,000 hexadecimal digits: the version code of slot 0, of slot 1, … two digits each."
    )

    def get_codes(self, revision: RolloutRevision) -> dict[str, int]:
        """Give the codes by name."""
        return {name: code for code, name in self.context["names"].items()}

    def get_allocation_hex(self, revision: RolloutRevision) -> str:
        """Give the map."""
        return bytes(revision.allocation).hex()


class FlowAnswer(Answer[Any]):
    """Units that go from one version to another."""

    from_version = serializers.CharField()
    to_version = serializers.CharField()
    moved_bp = serializers.IntegerField()


class EffectAnswer(Answer[Any]):
    """What a change would do."""

    moved_bp = serializers.IntegerField(help_text="Basis points of all units that would get another version.")
    flows = FlowAnswer(many=True, help_text="The largest first.")
    is_new_phase = serializers.BooleanField(help_text="Everybody is assigned anew: the figures are expectations.")
    sentence = serializers.CharField(help_text="The same in words.")


def _weights(**kwargs: Any) -> serializers.DictField:
    return serializers.DictField(
        child=Whole(min_value=0, max_value=BASIS_POINTS),
        help_text="Basis points (0.01 %) by version name, together 10,000; a version left out has none.",
        **kwargs,
    )


class Weights(Body):
    """Weights to look at."""

    weights_bp = _weights(allow_empty=False)


class NewWeights(Reason):
    """Weights to save."""

    weights_bp = _weights(allow_empty=False)


class NewPhase(Reason):
    """A phase to begin."""

    weights_bp = _weights(required=False, allow_empty=False)


class GoBack(Reason):
    """The revision to go back to."""

    number = Whole(min_value=1, max_value=10**9, help_text="The revision whose map is restored exactly.")


class RevisionQuery(PageQuery):
    """Which revisions."""

    since = Moment(required=False, help_text="Saved from this instant on.")


class RolloutDetail(StudioView):
    """What is served now."""

    tag: ClassVar = "Rollouts"

    @operation("rollouts_read", need=needs(Scope.READ), answer=FullRevisionAnswer, answer_example=FULL_REVISION)
    def get(self, request: Request, model: str) -> Response:
        """Read a model's current rollout.

        With the salt and the map of all 10,000 slots, so that an experiment can be joined to any figure.
        """
        read_query(request, Query)
        row = find_model(self.tenant, model)
        revision = current_rollout(row)
        if revision is None:
            raise not_found(f"The model “{model}” has no version yet.")
        return Response(FullRevisionAnswer(revision, context={"names": _names(row)}).data)


class RolloutPreview(StudioView):
    """What new weights would do."""

    tag: ClassVar = "Rollouts"

    @operation(
        "rollouts_preview",
        need=needs(Scope.READ),
        body=Weights,
        answer=EffectAnswer,
        example={"weights_bp": WEIGHTS},
        answer_example=EFFECT,
    )
    def post(self, request: Request, model: str) -> Response:
        """Say what new weights would do, exactly. Changes nothing."""
        given = read_body(request, Weights)
        row = find_model(self.tenant, model)
        names = _names(row)
        return _effect(rollout_preview(model=row, weights_bp=_by_code(given["weights_bp"], names)), names)


class RolloutReweight(StudioView):
    """New weights."""

    tag: ClassVar = "Rollouts"

    @operation(
        "rollouts_reweight",
        need=needs(Scope.ROLLOUTS_WRITE),
        body=NewWeights,
        answer=RevisionAnswer,
        status=201,
        example={"weights_bp": WEIGHTS, "reason": "2026-11-a does well"},
        answer_example=REVISION,
    )
    @idempotent()
    def post(self, request: Request, model: str) -> Response:
        """Save new weights.

        As few units change version as can be: exactly the sum of the increases. Serving has it within 2 seconds.
        """
        given = read_body(request, NewWeights)
        row = find_model(self.tenant, model)
        names = _names(row)
        weights = _by_code(given["weights_bp"], names)
        revision = rollout_reweight(model=row, weights_bp=weights, actor=self.actor, reason=given["reason"])
        return _saved(revision, names)


class RolloutGoBack(StudioView):
    """An earlier map again."""

    tag: ClassVar = "Rollouts"

    @operation(
        "rollouts_go_back",
        need=needs(Scope.ROLLOUTS_WRITE),
        body=GoBack,
        answer=RevisionAnswer,
        status=201,
        example={"number": 3, "reason": "2026-11-a sells less"},
        answer_example={**REVISION, "number": 5, "restores": 3, "reason": "2026-11-a sells less"},
    )
    @idempotent()
    def post(self, request: Request, model: str) -> Response:
        """Go back to a revision: everybody gets what they got then."""
        given = read_body(request, GoBack)
        row = find_model(self.tenant, model)
        revision = rollout_go_back(model=row, number=given["number"], actor=self.actor, reason=given["reason"])
        return _saved(revision, _names(row))


class RolloutNewPhase(StudioView):
    """Everybody anew."""

    tag: ClassVar = "Rollouts"

    @operation(
        "rollouts_new_phase",
        need=needs(Scope.ROLLOUTS_WRITE),
        body=NewPhase,
        answer=RevisionAnswer,
        status=201,
        example={"weights_bp": WEIGHTS, "reason": "A fresh split for the November test"},
        answer_example={**REVISION, "number": 6, "phase": 2, "moved_bp": 3200},
    )
    @idempotent()
    def post(self, request: Request, model: str) -> Response:
        """Begin a phase: every unit is assigned anew, with the present weights or with others."""
        given = read_body(request, NewPhase)
        row = find_model(self.tenant, model)
        names = _names(row)
        weights = _by_code(given["weights_bp"], names) if "weights_bp" in given else None
        revision = rollout_new_phase(model=row, weights_bp=weights, actor=self.actor, reason=given["reason"])
        return _saved(revision, names)


class RevisionList(StudioView):
    """The history."""

    tag: ClassVar = "Rollouts"

    @operation(
        "rollout_revisions_list",
        need=needs(Scope.READ),
        query=RevisionQuery,
        answer=page_answer(RevisionAnswer),
        answer_example={"results": [REVISION], "next_cursor": None},
    )
    def get(self, request: Request, model: str) -> Response:
        """List a model's rollout revisions, the newest first."""
        asked = read_query(request, RevisionQuery)
        row = find_model(self.tenant, model)
        rows = _revisions(row).defer("allocation", "restores__allocation")
        if "since" in asked:
            rows = rows.filter(created_at__gte=asked["since"])
        return page(page_of(rows, asked, by="number", is_descending=True), RevisionAnswer, names=_names(row))


class RevisionDetail(StudioView):
    """One revision."""

    tag: ClassVar = "Rollouts"

    @operation(
        "rollout_revisions_read", need=needs(Scope.READ), answer=FullRevisionAnswer, answer_example=FULL_REVISION
    )
    def get(self, request: Request, model: str, number: str) -> Response:
        """Read a rollout revision, with its salt and map."""
        read_query(request, Query)
        row = find_model(self.tenant, model)
        revision = _revisions(row).filter(number=int(number)).first()
        if revision is None:
            raise not_found(f"The model has no revision {number}.")
        return Response(FullRevisionAnswer(revision, context={"names": _names(row)}).data)


class RevisionEffect(StudioView):
    """What going back to a revision would do."""

    tag: ClassVar = "Rollouts"

    @operation("rollout_revisions_effect", need=needs(Scope.READ), answer=EffectAnswer, answer_example=EFFECT)
    def get(self, request: Request, model: str, number: str) -> Response:
        """Say what going back to a revision would do now. Changes nothing."""
        read_query(request, Query)
        row = find_model(self.tenant, model)
        if not _revisions(row).filter(number=int(number)).exists():
            raise not_found(f"The model has no revision {number}.")
        return _effect(rollout_go_back_preview(model=row, number=int(number)), _names(row))


def _revisions(model: RecommendationModel) -> QuerySet[RolloutRevision]:
    rows: QuerySet[RolloutRevision] = RolloutRevision.objects.for_tenant(model.tenant)
    return rows.filter(model=model).select_related("restores").defer("restores__allocation")


def _names(model: RecommendationModel) -> dict[int, str]:
    """Give the names of a model's versions by code. One query."""
    return dict(Version.objects.for_tenant(model.tenant).filter(model=model).values_list("code", "name"))


def _name(names: Mapping[int, str], code: int) -> str:
    return names.get(code, f"version {code}")


def _by_code(weights_bp: Mapping[str, int], names: Mapping[int, str]) -> dict[int, int]:
    """Give weights by code.

    Raises:
        RuleBroken: the model has no version of such a name.
    """
    codes = {name: code for code, name in names.items()}
    unknown = sorted(weights_bp.keys() - codes.keys())
    if unknown:
        raise RuleBroken(f"The model has no version “{unknown[0]}”.", field="weights_bp")
    return {codes[name]: bp for name, bp in weights_bp.items()}


def _effect(effect: Effect, names: Mapping[int, str]) -> Response:
    flows = [
        {
            "from_version": _name(names, flow.from_code),
            "to_version": _name(names, flow.to_code),
            "moved_bp": flow.bp,
        }
        for flow in effect.flows
    ]
    answer = {
        "moved_bp": effect.moved_bp,
        "flows": flows,
        "is_new_phase": effect.is_new_phase,
        "sentence": effect_sentence(effect, names),
    }
    return Response(EffectAnswer(answer).data)


def _saved(revision: RolloutRevision, names: Mapping[int, str]) -> Response:
    return Response(RevisionAnswer(revision, context={"names": names}).data, status=201)
