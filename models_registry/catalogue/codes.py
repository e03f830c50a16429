"""Codes of versions: one byte each, held by one version at a time, and free again some time after it was archived."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from models_registry.models import MAX_CODE, RecommendationModel, RolloutRevision, Version
from tenants.figures import duration
from tenants.rules import RuleBroken

# No phone holds an answer any longer that has the code: they keep one for a day at most, a tenth longer for the spread,
# and there is a day for whatever else is slow.
CODE_RETURNS_AFTER = timedelta(days=1) * 1.1 + timedelta(days=1)
CODES = MAX_CODE + 1
# From so many on, pages say how many are left.
MANY_CODES = 200


@dataclass(frozen=True)
class CodeNames:
    """Names of a model's versions by code. Of versions that had one code after another it knows which it was when.

    Attributes:
        held: by code, since when a version has had it and that one's name; the oldest first.
    """

    held: Mapping[int, Sequence[tuple[datetime, str]]]

    def at(self, moment: datetime) -> dict[int, str]:
        """Return the names of that time by code; of a code that nobody had yet, of whoever had it first."""
        return {
            code: next((name for since, name in reversed(holders) if since <= moment), holders[0][1])
            for code, holders in self.held.items()
        }


def code_names(versions: Sequence[Version]) -> CodeNames:
    """Return which of a model's versions, archived ones among them, had which code when."""
    held: dict[int, list[tuple[datetime, str]]] = defaultdict(list)
    for version in sorted(versions, key=lambda version: version.created_at):
        held[version.byte].append((version.created_at, version.name))
    return CodeNames(held)


def code_names_of(model: RecommendationModel) -> CodeNames:
    """Return which of a model's versions had which code when. One query."""
    rows = Version.objects.for_tenant(model.tenant).filter(model=model)
    return code_names(list(rows.only("model", "name", "code", "former_code", "created_at")))


def free_code(model: RecommendationModel, now: datetime) -> int:
    """Return the lowest code that no version has or had; else, of those that came back, the one unused the longest.

    Raises:
        RuleBroken: there is none.
    """
    in_use, resting = _codes(model)
    revisions = RolloutRevision.objects.for_tenant(model.tenant).filter(model=model)
    # A version that was deleted, which no release does any more, may be on phones still.
    gone = {int(code) for weights in revisions.values_list("weights_bp", flat=True).iterator() for code in weights}
    free = next((code for code in range(CODES) if code not in in_use | gone and code not in resting), None)
    if free is not None:
        return free
    back = sorted((since, code) for code, since in resting.items())
    if back and back[0][0] + CODE_RETURNS_AFTER <= now:
        return back[0][1]
    if back:
        wait = duration((back[0][0] + CODE_RETURNS_AFTER - now).total_seconds())
        raise RuleBroken(f"“{model.slug}” has used all {CODES} version codes. The next one comes back in {wait}.")
    raise RuleBroken(
        f"“{model.slug}” has used all {CODES} version codes. Archive versions that nobody gets: "
        f"their codes come back after {duration(CODE_RETURNS_AFTER.total_seconds())}."
    )


def codes_left(model: RecommendationModel, now: datetime) -> int:
    """Return how many more versions a model may have just now. One query."""
    in_use, resting = _codes(model)
    return CODES - len(in_use) - sum(since + CODE_RETURNS_AFTER > now for since in resting.values())


def _codes(model: RecommendationModel) -> tuple[set[int], dict[int, datetime]]:
    """Return the codes that versions have, and the others that archived ones had, with when they gave them back."""
    rows = Version.objects.for_tenant(model.tenant).filter(model=model)
    found = list(rows.values_list("code", "former_code", "archived_at"))
    in_use = {code for code, _, archived_at in found if archived_at is None}
    resting: dict[int, datetime] = {}
    for _, code, archived_at in found:
        if archived_at is not None and code is not None and code not in in_use:
            resting[code] = max(archived_at, resting.get(code, archived_at))
    return in_use, resting
