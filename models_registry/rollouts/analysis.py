"""A query for analysts: which version each player belongs to, in BigQuery's SQL, to be joined with any figure."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from string import Template

from models_registry.catalogue.selectors import name_of
from models_registry.models import RecommendationModel, RolloutRevision
from serving.formats.keys import SEPARATOR, SLOTS
from tenants.figures import exact

# One for each version that has slots; beyond the plain ones (a model with so many is yet to be seen) accented ones.
_LETTERS = string.ascii_letters + string.digits + "".join(map(chr, range(0x100, 0x200)))
_QUERY = Template("""\
-- Who belongs to which version of $model: revision $revision of the weights, phase $phase.
-- It holds since $since: count only what happened after that.
WITH units AS (
  SELECT *, $unit AS unit
  FROM `your-project.your_dataset.your_table`
),
slots AS (
  SELECT *, MOD(CAST(CONCAT('0x', SUBSTR(TO_HEX(MD5(CONCAT($salt, ':', unit))), 1, 15)) AS INT64), $slots) AS slot
  FROM units
),
allocation AS (
  SELECT position AS slot, CASE letter
    $cases
    END AS version
  FROM UNNEST(SPLIT($letters, '')) AS letter WITH OFFSET AS position
)
SELECT slots.*, allocation.version
FROM slots JOIN allocation ON allocation.slot = slots.slot
""")
_WITHOUT_TESTERS = Template("""\
-- Testers get their version whatever the weights say, so they do not count.
WHERE slots.unit NOT IN ($testers)
""")


def assignment_query(
    model: RecommendationModel, rollout: RolloutRevision, names: Mapping[int, str], testers: Iterable[str]
) -> str:
    """Return a query that adds slot and version, as one revision of the weights has them, to the rows of a table.

    `names` are the versions' by code. Testers are left out, as the weights do not decide for them.
    """
    fields = [model.unit_field] if model.unit_field else list(model.key_fields)
    parts = [f"CAST({field} AS STRING)" for field in fields]
    codes = bytes(rollout.allocation)
    letters = dict(zip(sorted(set(codes)), _LETTERS, strict=False))
    cases = [f"WHEN {_text(letter)} THEN {_text(name_of(code, names))}" for code, letter in letters.items()]
    without = ", ".join(_text(unit) for unit in testers)
    query = _QUERY.substitute(
        model=model.slug,
        revision=rollout.number,
        phase=rollout.phase,
        since=exact(rollout.created_at),
        unit=parts[0] if len(parts) == 1 else f"CONCAT({f', CHR({ord(SEPARATOR)}), '.join(parts)})",
        salt=_text(rollout.salt),
        slots=SLOTS,
        cases="\n    ".join(cases),
        letters=_text("".join(letters[code] for code in codes)),
    )
    return query + (_WITHOUT_TESTERS.substitute(testers=without) if without else "")


def _text(value: str) -> str:
    """Return a text as BigQuery's SQL. None of these texts holds a control character."""
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
