"""Rollouts, changed: new weights, a version switched off, the way back, a new phase."""

from __future__ import annotations

from typing import Any, ClassVar

from models_registry.catalogue.codes import code_names_of
from models_registry.rollouts.services import (
    rollout_go_back,
    rollout_new_phase,
    rollout_reweight,
    rollout_serve_default,
    rollout_switch_off,
)
from recsite.api.bodies import Reason, Text, Whole, YesNo
from recsite.api.operations.lookups import find_model, version_named
from recsite.api.operations.rollouts import (
    REVISION,
    WEIGHTS,
    RevisionAnswer,
    names_of,
    weights_field,
    weights_from_names,
)
from recsite.api.schema import Result, operation
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


def _despite_cautions() -> YesNo:
    return YesNo(
        required=False, help_text="false: nothing is saved if the preview has `cautions`; a 422 `refused` says them."
    )


class NewWeights(RolloutChange):
    """Weights to save."""

    example: ClassVar = {"weights_bp": WEIGHTS, "reason": "2026-11-a does well"}
    weights_bp = weights_field()
    despite_cautions = _despite_cautions()


class SwitchOff(RolloutChange):
    """A version to be switched off."""

    example: ClassVar = {"version": "2026-11-a", "reason": "It recommends one offer to everybody"}
    version = Text(max_length=60, help_text="The version's name.")


class ServeDefault(RolloutChange):
    """Whether everybody gets the default."""

    example: ClassVar = {"serves_default": True, "reason": "It recommends one offer to everybody"}
    serves_default = YesNo(
        required=False, help_text="false ends it: recommendations are served again. True without it."
    )


class NewPhase(RolloutChange):
    """A phase to begin."""

    example: ClassVar = {"weights_bp": WEIGHTS, "reason": "A fresh split for the November test"}
    weights_bp = weights_field(required=False)
    despite_cautions = _despite_cautions()


class GoBack(RolloutChange):
    """The revision to go back to."""

    example: ClassVar = {"number": 3, "reason": "2026-11-a sells less"}
    number = Whole(min_value=1, max_value=10**9, help_text="The revision whose map is restored exactly.")


class RolloutReweight(StudioView, tag="Rollouts"):
    @operation("rollouts_reweight", Scope.ROLLOUTS_WRITE, takes=NewWeights, gives=RevisionAnswer, status=201)
    def post(self, given: dict[str, Any], model: str) -> Result:
        """Save new weights.

        As few units as possible change version: exactly the sum of the increases. Serving has them within 2 seconds.
        """
        row = find_model(self.tenant, model)
        names = names_of(row)
        given["weights_bp"] = weights_from_names(given["weights_bp"], names)
        revision = rollout_reweight(model=row, actor=self.actor, **given)
        return Result(revision, names=code_names_of(row))


class RolloutSwitchOff(StudioView, tag="Rollouts"):
    @operation(
        "rollouts_switch_off",
        Scope.ROLLOUTS_WRITE,
        takes=SwitchOff,
        gives=RevisionAnswer,
        status=201,
        answer_example={**REVISION, "number": 5, "weights_bp": {"2026-10-c": 10000}, "moved_bp": 2000},
    )
    def post(self, given: dict[str, Any], model: str) -> Result:
        """Switch a version off: the others take over its units in proportion to their weights.

        Going back to the revision before undoes it exactly.
        """
        row = find_model(self.tenant, model)
        given["version"] = version_named(row, given["version"], field="version")
        revision = rollout_switch_off(model=row, actor=self.actor, **given)
        return Result(revision, names=code_names_of(row))


class RolloutServeDefault(StudioView, tag="Rollouts"):
    @operation(
        "rollouts_serve_default",
        Scope.ROLLOUTS_WRITE,
        takes=ServeDefault,
        gives=RevisionAnswer,
        status=201,
        answer_example={**REVISION, "number": 5, "serves_default": True, "moved_bp": 0},
    )
    def post(self, given: dict[str, Any], model: str) -> Result:
        """Serve the default to everybody, testers too, or end that.

        For a model that must stop at once, whatever its versions. Weights stay, and tables are kept: it ends as fast.
        """
        row = find_model(self.tenant, model)
        revision = rollout_serve_default(model=row, actor=self.actor, **given)
        return Result(revision, names=code_names_of(row))


class RolloutGoBack(StudioView, tag="Rollouts"):
    @operation(
        "rollouts_go_back",
        Scope.ROLLOUTS_WRITE,
        takes=GoBack,
        gives=RevisionAnswer,
        status=201,
        answer_example={**REVISION, "number": 5, "restores": 3, "reason": "2026-11-a sells less"},
    )
    def post(self, given: dict[str, Any], model: str) -> Result:
        """Go back to a revision: everybody gets what they got then."""
        row = find_model(self.tenant, model)
        revision = rollout_go_back(model=row, actor=self.actor, **given)
        return Result(revision, names=code_names_of(row))


class RolloutNewPhase(StudioView, tag="Rollouts"):
    @operation(
        "rollouts_new_phase",
        Scope.ROLLOUTS_WRITE,
        takes=NewPhase,
        gives=RevisionAnswer,
        status=201,
        answer_example={**REVISION, "number": 6, "phase": 2, "moved_bp": 3200},
    )
    def post(self, given: dict[str, Any], model: str) -> Result:
        """Begin a new phase: every unit is assigned anew, with the present weights or others."""
        row = find_model(self.tenant, model)
        names = names_of(row)
        if "weights_bp" in given:
            given["weights_bp"] = weights_from_names(given["weights_bp"], names)
        revision = rollout_new_phase(model=row, actor=self.actor, **given)
        return Result(revision, names=code_names_of(row))
