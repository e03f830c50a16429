"""New weights before they are saved: what they would do, and whether somebody has looked at that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from models_registry.catalogue.selectors import ModelSummary
from models_registry.rollouts.cautions import Caution, cautions
from models_registry.rollouts.services import Effect, rollout_preview
from recsite.dashboard.forms.weights import WeightsForm
from tenants.rules import RuleBroken, whole_number


@dataclass(frozen=True)
class Proposal:
    """New weights that could be saved, with what that would do.

    Attributes:
        weights_bp: by code.
        effect: who would change version.
        cautions: what speaks against it.
        stamp: what `WeightsForm.seen` must hold for it to be saved.
    """

    weights_bp: Mapping[int, int]
    effect: Effect
    cautions: list[Caution]
    stamp: str


def propose(summary: ModelSummary, form: WeightsForm) -> Proposal | None:
    """Return what saving these valid weights would do; None for the ones there are, and where a service refuses."""
    wanted = {code: bp for code, bp in form.weights_bp.items() if bp}
    if summary.rollout is None or wanted == summary.weights_bp:
        return None
    try:
        found = rollout_preview(model=summary.model, weights_bp=wanted)
    except RuleBroken as error:
        form.refuse(error)
        return None
    stamp = ",".join([f"{summary.rollout.number}", *(f"{code}:{bp}" for code, bp in sorted(wanted.items()))])
    return Proposal(wanted, found, cautions(summary, wanted), stamp)


def may_save(summary: ModelSummary, form: WeightsForm, proposal: Proposal) -> bool:
    """Tell whether this very effect was seen and its cautions were waved off; say on the form what is missing."""
    seen = form.cleaned_data["seen"]
    if seen != proposal.stamp:
        seen_number = whole_number(seen.partition(",")[0])
        newest = summary.rollout
        if newest is not None and seen_number not in (None, newest.number):
            words = f"{newest.actor_name} changed the weights in the meantime. This is what yours would do to theirs:"
        else:
            words = "Look at what this does, then save it."
        form.add_error(None, words)
        return False
    if proposal.cautions and not form.cleaned_data["go_on"]:
        form.add_error("go_on", "Nothing was saved: tick this if you mean it.")
        form.fields["go_on"].widget.attrs["autofocus"] = True
        return False
    return True
