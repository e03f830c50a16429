"""Rollouts, changed: new weights, a version switched off, the way back, a new phase."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from rest_framework.request import Request
from rest_framework.response import Response

from models_registry.models import RolloutRevision
from models_registry.rollouts.services import (
    rollout_go_back,
    rollout_new_phase,
    rollout_reweight,
    rollout_switch_off,
)
from recsite.api.authentication import needs
from recsite.api.bodies import Reason, Text, Whole, YesNo, read_body
from recsite.api.idempotency import idempotent
from recsite.api.operations.lookups import find_model, version_named
from recsite.api.operations.rollouts import (
    REVISION,
    WEIGHTS,
    RevisionAnswer,
    names_of,
    weights_field,
    weights_from_names,
)
from recsite.api.schema import operation
from recsite.api.studio_view import StudioView
from tenants.models import Scope


class RolloutChange(Reason):
    """What every change of a rollout may say."""

    based_on = Whole(
        min_value=1,
        max_value=10**9,
        required=False,
        help_text="The number of the revision this was decided on: if there is a newer one, nothing is saved and the "
        "answer is a 409 `conflict`. Without it, the newest is replaced, whatever it is.",
    )


class NewWeights(RolloutChange):
    """Weights to save."""

    weights_bp = weights_field()
    despite_cautions = YesNo(
        required=False,
        help_text="false: nothing is saved if the preview has `cautions`; a 422 `refused` says them.",
    )


class SwitchOff(RolloutChange):
    """A version to be switched off."""

    version = Text(max_length=60, help_text="The version's name.")


class NewPhase(RolloutChange):
    """A phase to begin."""

    weights_bp = weights_field(required=False)


class GoBack(RolloutChange):
    """The revision to go back to."""

    number = Whole(min_value=1, max_value=10**9, help_text="The revision whose map is restored exactly.")


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

        As few units as possible change version: exactly the sum of the increases. Serving has them within 2 seconds.
        """
        given = read_body(request, NewWeights)
        row = find_model(self.tenant, model)
        names = names_of(row)
        given["weights_bp"] = weights_from_names(given["weights_bp"], names)
        revision = rollout_reweight(model=row, actor=self.actor, **given)
        return _saved(revision, names)


class RolloutSwitchOff(StudioView):
    """The kill switch."""

    tag: ClassVar = "Rollouts"

    @operation(
        "rollouts_switch_off",
        need=needs(Scope.ROLLOUTS_WRITE),
        body=SwitchOff,
        answer=RevisionAnswer,
        status=201,
        example={"version": "2026-11-a", "reason": "It recommends one offer to everybody"},
        answer_example={**REVISION, "number": 5, "weights_bp": {"2026-10-c": 10000}, "moved_bp": 2000},
    )
    @idempotent()
    def post(self, request: Request, model: str) -> Response:
        """Switch a version off: the others take over its units in proportion to their weights.

        Going back to the revision before undoes it exactly.
        """
        given = read_body(request, SwitchOff)
        row = find_model(self.tenant, model)
        given["version"] = version_named(row, given["version"], field="version")
        revision = rollout_switch_off(model=row, actor=self.actor, **given)
        return _saved(revision, names_of(row))


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
        revision = rollout_go_back(model=row, actor=self.actor, **given)
        return _saved(revision, names_of(row))


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
        """Begin a new phase: every unit is assigned anew, with the present weights or others."""
        given = read_body(request, NewPhase)
        row = find_model(self.tenant, model)
        names = names_of(row)
        if "weights_bp" in given:
            given["weights_bp"] = weights_from_names(given["weights_bp"], names)
        revision = rollout_new_phase(model=row, actor=self.actor, **given)
        return _saved(revision, names)


def _saved(revision: RolloutRevision, names: Mapping[int, str]) -> Response:
    return Response(RevisionAnswer(revision, context={"names": names}).data, status=201)
