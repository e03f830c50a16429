"""Writes on rollouts: weights, going back, new phases; and what a change would do before it is saved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from django.db import transaction
from django.db.models import Max

from models_registry.catalogue.acts import record_act
from models_registry.catalogue.codes import code_names_of
from models_registry.catalogue.selectors import ModelSummary, model_summary, name_of, weights_by_code
from models_registry.models import BASIS_POINTS, MAX_CODE, RecommendationModel, RolloutRevision, Version, new_salt
from models_registry.rollouts.allocation import (
    HISTORY,
    Flow,
    expected_flows,
    first_allocation,
    flows,
    reallocate,
    weights_of,
)
from models_registry.rollouts.cautions import cautions
from tenants import audit
from tenants.figures import percent
from tenants.models import User
from tenants.rules import ChangedMeanwhile, RuleBroken, check_reason
from tenants.services import lock_tenant


class CautionsUnseen(RuleBroken):
    """Something speaks against the weights, and the actor did not say that they are meant all the same."""


@dataclass(frozen=True)
class Effect:
    """What a change of allocation does.

    Attributes:
        moved_bp: basis points of all units that get another version.
        flows: from which version to which, the largest first; together `moved_bp`.
        is_new_phase: every unit gets a new slot, so that the figures are what is to be expected, not exact.
    """

    moved_bp: int
    flows: tuple[Flow, ...]
    is_new_phase: bool = False


# --- Reads ----------------------------------------------------------------------------------------------------------


def current_rollout(model: RecommendationModel) -> RolloutRevision | None:
    """Return the revision that is served, None for a model without versions. One query."""
    return RolloutRevision.objects.for_tenant(model.tenant).filter(model=model).order_by("-number").first()


def rollout_preview(*, model: RecommendationModel, weights_bp: Mapping[int, int]) -> Effect:
    """Return exactly what `rollout_reweight` would do with these weights now. Changes nothing.

    Takes three queries and a few milliseconds: `python -m benchmarks previews`.

    Raises:
        RuleBroken: as `rollout_reweight`, but the present weights are fine and move nothing.
    """
    current = _current_or_refuse(model)
    in_use = _in_use(model)
    weights = _check_weights(in_use, weights_bp)
    return _effect(current, current.salt, _next_allocation(current, weights, in_use))


def rollout_go_back_preview(*, model: RecommendationModel, number: int) -> Effect:
    """Return what `rollout_go_back` would do now.

    Raises:
        RuleBroken: there is no such revision.
    """
    current = _current_or_refuse(model)
    target = _revision_or_refuse(model, number)
    _check_still_there(model, target)
    return _effect(current, target.salt, bytes(target.allocation))


def rollout_new_phase_preview(*, model: RecommendationModel) -> Effect:
    """Return what `rollout_new_phase` with the present weights is to be expected to do.

    Raises:
        RuleBroken: the model has no version.
    """
    current = _current_or_refuse(model)
    found = tuple(expected_flows(bytes(current.allocation), bytes(current.allocation)))
    return Effect(sum(flow.bp for flow in found), found, is_new_phase=True)


def weights_without(weights_bp: Mapping[int, int], code: int) -> dict[int, int]:
    """Return the weights with one version's taken away and given to the others in proportion to what they have.

    What does not divide goes, a hundredth of a percent each, to those that rounding down cost most.

    Raises:
        RuleBroken: no other version has a weight, so that nobody could take it over.
    """
    others = {other: bp for other, bp in weights_bp.items() if other != code and bp}
    others_bp = sum(others.values())
    if not others_bp:
        raise RuleBroken(
            "This version has all of the weight. Give another version some first, or serve the default to everybody.",
            field="version",
        )
    shares = {other: divmod(bp * BASIS_POINTS, others_bp) for other, bp in others.items()}
    left = BASIS_POINTS - sum(whole for whole, _ in shares.values())
    by_loss = sorted(shares, key=lambda other: (-shares[other][1], -others[other], other))
    return {other: shares[other][0] + (other in by_loss[:left]) for other in sorted(others)}


def effect_sentence(effect: Effect, names: Mapping[int, str], units: str) -> str:
    """Return an effect in words, such as “10 % of players change version: 10 % from A to C”, with a full stop.

    `names` are the versions' by code, `units` is the model's `units_word`.
    """
    if not effect.moved_bp:
        return f"No {units} change version."
    parts = [f"{percent(f.bp)} from {name_of(f.from_code, names)} to {name_of(f.to_code, names)}" for f in effect.flows]
    about = "About " if effect.is_new_phase else ""
    return f"{about}{percent(effect.moved_bp)} of {units} change version: {', '.join(parts)}."


def default_sentence(summary: ModelSummary) -> str:
    """Return in words what everybody gets while the default is served to everybody, with a full stop."""
    without = [state for state in summary.served if state.version.layout.default is None]
    nobody_bp = sum(state.weight_bp for state in without)
    if not nobody_bp:
        return f"100 % of {summary.model.units_word} get the default answer."
    layouts = sorted({state.version.layout.revision for state in without})
    have = f"Layout {layouts[0]} has" if len(layouts) == 1 else f"Layouts {', '.join(map(str, layouts))} have"
    some = f", {percent(BASIS_POINTS - nobody_bp)} the default answer" if nobody_bp < BASIS_POINTS else ""
    return f"{percent(nobody_bp)} of {summary.model.units_word} get no recommendation{some}. {have} no default."


# --- Writes ---------------------------------------------------------------------------------------------------------


def rollout_reweight(
    *,
    model: RecommendationModel,
    weights_bp: Mapping[int, int],
    actor: User | None,
    reason: str,
    based_on: int | None = None,
    despite_cautions: bool = True,
) -> RolloutRevision:
    """Save new weights: the allocation with the fewest moved slots becomes the next revision and is served.

    Args:
        model: whose units are divided.
        weights_bp: basis points by version code, summing to exactly 10,000; a version left out has none.
        actor: who does it.
        reason: why, for the history; may be empty.
        based_on: the number of the revision whose weights the actor saw; None to save over whatever is there.
        despite_cautions: whether to save them although something speaks against them (`cautions`).

    Raises:
        RuleBroken: the weights do not sum to 10,000, name no version of the model, or are those it has already.
        ChangedMeanwhile: there is a newer revision than `based_on`.
        CautionsUnseen: something speaks against them, and they are not to be saved despite that.
    """
    reason = check_reason(reason)
    with transaction.atomic():
        current = _lock_current(model, based_on)
        in_use = _in_use(model)
        weights = _check_weights(in_use, weights_bp)
        if weights == weights_by_code(current.weights_bp):
            raise RuleBroken("These are already the current weights.", field="weights_bp")
        if not despite_cautions:
            _check_cautions(model, weights)
        act = audit.Action.ROLLOUT_REWEIGHT, f"Changed the weights of “{model.slug}”"
        return _save(current, actor, reason, act, allocation=_next_allocation(current, weights, in_use))


def rollout_switch_off(
    *, model: RecommendationModel, version: Version, actor: User | None, reason: str, based_on: int | None = None
) -> RolloutRevision:
    """Take a version's whole weight and give it to the others in proportion (`weights_without`): the kill switch.

    Going back to the revision before undoes it exactly.

    Raises:
        RuleBroken: it has no weight, or nobody else has.
        ChangedMeanwhile: as `rollout_reweight`.
    """
    reason = check_reason(reason)
    with transaction.atomic():
        current = _lock_current(model, based_on)
        present = weights_by_code(current.weights_bp)
        if version.model_id != model.pk or not present.get(version.code):
            raise RuleBroken(f"“{version.name}” has no weight to take away.", field="version")
        act = audit.Action.ROLLOUT_SWITCH_OFF, f"Switched off “{version.name}” of “{model.slug}”"
        weights = weights_without(present, version.code)
        return _save(current, actor, reason, act, allocation=_next_allocation(current, weights, _in_use(model)))


def rollout_go_back(
    *, model: RecommendationModel, number: int, actor: User | None, reason: str, based_on: int | None = None
) -> RolloutRevision:
    """Restore a revision's map exactly, with its phase and salt: everybody gets what they got then.

    Raises:
        RuleBroken: there is no such revision, it is the present map, or it gives units to a version that is gone.
        ChangedMeanwhile: as `rollout_reweight`.
    """
    reason = check_reason(reason)
    with transaction.atomic():
        current = _lock_current(model, based_on)
        target = _revision_or_refuse(model, number)
        _check_still_there(model, target)
        same = (target.salt, bytes(target.allocation), target.serves_default)
        if same == (current.salt, bytes(current.allocation), current.serves_default):
            raise RuleBroken(f"The current weights are already those of revision {number}.", field="number")
        act = audit.Action.ROLLOUT_GO_BACK, f"Went back to revision {number} of “{model.slug}”"
        served: dict[str, Any] = {"allocation": bytes(target.allocation), "serves_default": target.serves_default}
        return _save(current, actor, reason, act, restores=target, **served)


def rollout_serve_default(
    *,
    model: RecommendationModel,
    actor: User | None,
    reason: str,
    serves_default: bool = True,
    based_on: int | None = None,
) -> RolloutRevision:
    """Serve the default to everybody, testers too, or end that. The allocation stays, and may be changed meanwhile.

    Raises:
        RuleBroken: it is so already, or the model has no version.
        ChangedMeanwhile: as `rollout_reweight`.
    """
    reason = check_reason(reason)
    with transaction.atomic():
        current = _lock_current(model, based_on)
        if current.serves_default == serves_default:
            now = "already get the default answer" if serves_default else "get their own recommendations already"
            raise RuleBroken(f"All {model.units_word} of “{model.slug}” {now}.", field="serves_default")
        if serves_default:
            act = audit.Action.ROLLOUT_SERVE_DEFAULT, f"Served the default of “{model.slug}” to everybody"
        else:
            act = audit.Action.ROLLOUT_SERVE_AGAIN, f"Served recommendations of “{model.slug}” again"
        return _save(current, actor, reason, act, allocation=bytes(current.allocation), serves_default=serves_default)


def rollout_new_phase(
    *,
    model: RecommendationModel,
    actor: User | None,
    reason: str,
    weights_bp: Mapping[int, int] | None = None,
    based_on: int | None = None,
    despite_cautions: bool = True,
) -> RolloutRevision:
    """Begin a phase: a new salt gives every unit a new slot, with the present weights or with others.

    Raises:
        RuleBroken: the weights do not sum to 10,000 or name no version of the model.
        ChangedMeanwhile, CautionsUnseen: as `rollout_reweight`.
    """
    reason = check_reason(reason)
    with transaction.atomic():
        current = _lock_current(model, based_on)
        weights = (
            weights_by_code(current.weights_bp) if weights_bp is None else _check_weights(_in_use(model), weights_bp)
        )
        if not despite_cautions:
            _check_cautions(model, weights)
        phases = RolloutRevision.objects.for_tenant(model.tenant).filter(model=model)
        phase = (phases.aggregate(newest=Max("phase"))["newest"] or 0) + 1
        salt = new_salt()
        allocation = first_allocation(weights, salt, current.number + 1)
        act = audit.Action.ROLLOUT_NEW_PHASE, f"Began phase {phase} of “{model.slug}”"
        return _save(current, actor, reason, act, allocation=allocation, begins=(phase, salt))


# --- What the functions above share ---------------------------------------------------------------------------------


def _lock_current(model: RecommendationModel, based_on: int | None) -> RolloutRevision:
    """Return the revision that is served, under the studio's lock, if it is the one that the actor saw."""
    lock_tenant(model.tenant)
    current = _current_or_refuse(model)
    if based_on is not None and current.number != based_on:
        raise ChangedMeanwhile(
            f"{current.actor_name} changed the weights in the meantime (revision {current.number}). Nothing was saved."
        )
    return current


def _current_or_refuse(model: RecommendationModel) -> RolloutRevision:
    current = current_rollout(model)
    if current is None:
        raise RuleBroken(f"The model “{model.slug}” has no version yet.")
    return current


def _revision_or_refuse(model: RecommendationModel, number: int) -> RolloutRevision:
    found = RolloutRevision.objects.for_tenant(model.tenant).filter(model=model, number=number).first()
    if found is None:
        raise RuleBroken(f"The model “{model.slug}” has no revision {number}.", field="number")
    return found


def _check_weights(in_use: Mapping[int, datetime], weights_bp: Mapping[int, int]) -> dict[int, int]:
    """Return the weights above zero by code; RuleBroken unless they are whole, sum to 10,000 and name versions."""
    for bp in weights_bp.values():
        if isinstance(bp, bool) or not isinstance(bp, int) or not 0 <= bp <= BASIS_POINTS:
            raise RuleBroken("Each weight must be from 0 to 100 %, in steps of 0.01 %.", field="weights_bp")
    weights = {code: bp for code, bp in weights_bp.items() if bp}
    if not in_use.keys() >= weights.keys():
        raise RuleBroken("A weight names a version that this model does not have.", field="weights_bp")
    total = sum(weights.values())
    if total != BASIS_POINTS:
        raise RuleBroken(f"The weights sum to {percent(total)}. They must sum to 100 %.", field="weights_bp")
    return dict(sorted(weights.items()))


def _in_use(model: RecommendationModel) -> dict[int, datetime]:
    """Return the codes of a model's versions, each with when its version was made. One query."""
    rows = Version.objects.for_tenant(model.tenant).filter(model=model, archived_at=None)
    return dict(rows.values_list("code", "created_at"))


def _check_still_there(model: RecommendationModel, target: RolloutRevision) -> None:
    """Refuse to go back to a revision that gives units to a version which is archived: another may have its code."""
    names = code_names_of(model).at(target.created_at)
    kept = set(
        Version.objects.for_tenant(model.tenant).filter(model=model, archived_at=None).values_list("name", flat=True)
    )
    for code in sorted(weights_by_code(target.weights_bp)):
        if names.get(code) not in kept:
            name = name_of(code, names)
            raise RuleBroken(
                f"Revision {target.number} has players for {name}, which the model does not have any more.",
                field="number",
            )


def _check_cautions(model: RecommendationModel, weights: Mapping[int, int]) -> None:
    found = cautions(model_summary(model), weights)
    if found:
        words = " ".join(caution.sentence for caution in found)
        raise CautionsUnseen(f"{words} Nothing was saved.", field="despite_cautions")


def _next_allocation(current: RolloutRevision, weights: Mapping[int, int], in_use: Mapping[int, datetime]) -> bytes:
    """Return the map that the next revision would have with these weights."""
    phase = RolloutRevision.objects.unscoped().filter(model_id=current.model_id, phase=current.phase)
    before = phase.filter(number__lt=current.number).order_by("-number").values_list("allocation", "created_at")
    rows = list(before[:HISTORY])[::-1]
    history = [_without_others(bytes(allocation), weights, in_use, saved_at) for allocation, saved_at in rows]
    return reallocate(bytes(current.allocation), weights, current.salt, current.number + 1, history)


def _without_others(
    allocation: bytes, weights: Mapping[int, int], since: Mapping[int, datetime], saved_at: datetime
) -> bytes:
    """Return a map of before without the slots of archived versions whose codes others have now: those owe nothing."""
    reused = bytes(code for code in weights if code in since and since[code] > saved_at and code in allocation)
    if not reused:
        return allocation
    spare = next(code for code in range(MAX_CODE, -1, -1) if code not in weights)
    return allocation.translate(bytes.maketrans(reused, bytes([spare]) * len(reused)))


def _effect(current: RolloutRevision, salt: str, allocation: bytes) -> Effect:
    is_new_phase = salt != current.salt
    compare = expected_flows if is_new_phase else flows
    found = tuple(compare(bytes(current.allocation), allocation))
    return Effect(sum(flow.bp for flow in found), found, is_new_phase)


def _save(
    current: RolloutRevision,
    actor: User | None,
    reason: str,
    act: tuple[audit.Action, str],
    *,
    allocation: bytes,
    restores: RolloutRevision | None = None,
    begins: tuple[int, str] | None = None,
    serves_default: bool | None = None,
) -> RolloutRevision:
    """Make the next revision and its entry in the audit trail: `act` is what was done, and how the entry begins.

    `begins` is the number and the salt of a new phase. What is not given stays as it is.
    """
    kept = restores or current
    phase, salt = begins or (kept.phase, kept.salt)
    revision = RolloutRevision.objects.create(
        model_id=current.model_id,
        number=current.number + 1,
        phase=phase,
        salt=salt,
        weights_bp={str(code): bp for code, bp in weights_of(allocation).items()},
        allocation=allocation,
        serves_default=current.serves_default if serves_default is None else serves_default,
        moved_bp=min(_effect(current, salt, allocation).moved_bp, BASIS_POINTS),
        restores=restores,
        actor=actor,
        actor_name=audit.name_of(actor),
        reason=reason,
    )
    action, words = act
    model = revision.model
    before = {"revision": current.number, "phase": current.phase, "weights_bp": current.weights_bp}
    after = {"revision": revision.number, "phase": revision.phase, "weights_bp": revision.weights_bp}
    moved = f": {percent(revision.moved_bp)} of {model.units_word} change version."
    if revision.serves_default != current.serves_default:
        before["serves_default"], after["serves_default"] = current.serves_default, revision.serves_default
        moved = moved if revision.moved_bp else "."
    record_act(
        model,
        actor,
        action,
        f"{words}{moved}",
        reason=reason,
        before=before,
        after=after,
    )
    return revision
