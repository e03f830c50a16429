"""What speaks against new weights: versions that would get more players without good data to answer them from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, assert_never

from models_registry.catalogue.selectors import VersionState
from models_registry.models import RecommendationModel
from tenants.figures import percent

# Fewer rows than the fullest version that is served by at least this share is worth a word.
FEWER_ROWS = 0.01


@dataclass(frozen=True)
class Caution:
    """One thing to know about a version before saving.

    Of fewer_rows, `share` is how many fewer it has, 0 … 1, and `than` the name of the version it is compared with.
    """

    kind: Literal["not_loaded", "late", "fewer_rows"]
    code: int
    name: str
    state: VersionState
    share: float = 0.0
    than: str = ""


def cautions(versions: Sequence[VersionState], weights_bp: Mapping[int, int]) -> list[Caution]:
    """Return what speaks against weights, by version; only versions that would get more than they have.

    `versions` are all of the model's, as they stand; `weights_bp` are the proposed weights, by code.
    """
    fullest = fullest_of(versions)
    found: list[Caution] = []
    for state in versions:
        if weights_bp.get(state.code, 0) <= state.weight_bp:
            continue
        if state.table is None:
            found.append(Caution("not_loaded", state.code, state.name, state))
            continue
        if state.is_late:
            found.append(Caution("late", state.code, state.name, state))
        fewer = fewer_rows(state, fullest)
        if fewer and fullest is not None:
            found.append(Caution("fewer_rows", state.code, state.name, state, share=fewer, than=fullest.name))
    return found


def caution_sentence(caution: Caution, model: RecommendationModel) -> str:
    """Return a caution about a model's weights in words, with a full stop."""
    answer = "no recommendation" if model.default_answer is None else "the default answer"
    match caution.kind:
        case "not_loaded":
            return f"{caution.name} was never loaded: whoever gets it would get {answer}."
        case "late":
            return f"{caution.name} is late: its data is from {caution.state.data_at:%Y-%m-%d %H:%M} UTC."
        case "fewer_rows":
            fewer = percent(round(10_000 * caution.share))
            return (
                f"{caution.name} has {fewer} fewer rows than {caution.than}: "
                f"about as many of those who move to it would get {answer}."
            )
        case _:
            assert_never(caution.kind)


def fewer_rows(state: VersionState, fullest: VersionState | None) -> float:
    """Return the share of rows a version lacks against the fullest one served, 0 … 1; 0 if not worth a word."""
    if state.table is None or fullest is None or fullest.table is None or not fullest.table.row_count:
        return 0.0
    fewer = 1 - state.table.row_count / fullest.table.row_count
    return fewer if fewer >= FEWER_ROWS else 0.0


def fullest_of(versions: Sequence[VersionState]) -> VersionState | None:
    """Return the version with the most rows among those that have a weight."""
    loaded = [state for state in versions if state.weight_bp and state.table is not None]
    return max(loaded, key=lambda state: state.table.row_count if state.table else 0, default=None)
