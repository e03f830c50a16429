"""What speaks against new weights: versions that would get more players without good data to answer them from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from models_registry.catalogue.selectors import ModelSummary, VersionState
from tenants.figures import age, share

# Fewer rows than the fullest version that is served by at least this share is worth a word.
FEWER_ROWS = 0.01


@dataclass(frozen=True)
class Caution:
    """One thing to know about a version before saving.

    Attributes:
        lead, rest: what it says: which version is how, and what that means for players. Each ends with a full stop,
            or the lead with a colon.
        share: of fewer_rows: how many fewer it has, 0 … 1.
        than: of fewer_rows: the name of the version it is compared with.
    """

    kind: Literal["not_loaded", "late", "fewer_rows"]
    code: int
    name: str
    lead: str
    rest: str
    share: float = 0.0
    than: str = ""

    @property
    def sentence(self) -> str:
        """All that it says."""
        return f"{self.lead} {self.rest}"


def cautions(summary: ModelSummary, weights_bp: Mapping[int, int]) -> list[Caution]:
    """Return what speaks against a model's proposed weights, by code; only of versions that would get more."""
    model = summary.model
    who = model.units_word
    fullest = fullest_of(summary.versions)
    found: list[Caution] = []
    for state in summary.versions:
        if weights_bp.get(state.code, 0) <= state.weight_bp:
            continue
        answer = "no recommendation" if state.version.layout.default is None else "the default answer"
        if state.table is None:
            lead = f"{state.name} was never loaded."
            found.append(Caution("not_loaded", state.code, state.name, lead, f"Its {who} would get {answer}."))
            continue
        if state.is_late:
            lead = f"{state.name} is late."
            found.append(Caution("late", state.code, state.name, lead, f"Its data is from {age(state.data_at)}."))
        fewer = fewer_rows(state, fullest)
        if fewer and fullest is not None:
            lead = f"{state.name} covers fewer {who}:"
            rest = f"{share(fewer)} fewer rows than {fullest.name}. About as many of those who move would get {answer}."
            found.append(Caution("fewer_rows", state.code, state.name, lead, rest, fewer, fullest.name))
    return found


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
