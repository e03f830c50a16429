"""A query for analysts: which version each player belongs to, in BigQuery's SQL, to be joined with any figure."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping
from string import Template

from models_registry.models import RecommendationModel, RolloutRevision
from models_registry.selectors import name_of
from serving.formats.keys import SEPARATOR, SLOTS
from tenants.templatetags.dashboard import exact

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
  SELECT slot, CASE code
    $cases
    END AS version
  FROM UNNEST(TO_CODE_POINTS(FROM_BASE64($codes))) AS code WITH OFFSET AS slot
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
    """Give a query that adds slot and version, as one revision of the weights has them, to the rows of a table.

    Args:
        model: whose units are divided.
        rollout: the revision, its 10,000 slots with it.
        names: of the model's versions by code.
        testers: units left out, as the weights do not decide for them.
    """
    fields = [model.unit_field] if model.unit_field else list(model.key_fields)
    parts = [f"CAST({field} AS STRING)" for field in fields]
    codes = bytes(rollout.allocation)
    cases = [f"WHEN {code} THEN {_text(name_of(code, names))}" for code in sorted(set(codes))]
    without = ", ".join(_text(unit) for unit in testers)
    query = _QUERY.substitute(
        model=model.slug,
        revision=rollout.number,
        phase=rollout.phase,
        since=exact(rollout.created_at),
        unit=parts[0] if len(parts) == 1 else f"CONCAT({f', {_text(SEPARATOR)}, '.join(parts)})",
        salt=_text(rollout.salt),
        slots=SLOTS,
        cases="\n    ".join(cases),
        codes=_text(base64.b64encode(codes).decode()),
    )
    return query + (_WITHOUT_TESTERS.substitute(testers=without) if without else "")


def _text(value: str) -> str:
    """Give a text as BigQuery's SQL."""
    escaped = "".join(f"\\x{ord(c):02x}" if c < " " else f"\\{c}" if c in "\\'" else c for c in value)
    return f"'{escaped}'"
