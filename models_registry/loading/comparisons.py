"""A load against the table that is served: what may differ only so much, unless somebody answers for it with a reason.

Each of these checks can be waived, because a studio may know why its players or its recommendations have changed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from models_registry.loading import distributions
from models_registry.loading.checks import Check, Expected
from models_registry.loading.distributions import Shift
from models_registry.loading.staging import Staging

_OF_WHAT = {"list length": " of lengths", "string length": " of lengths", "list items": " of items"}


def compare_distributions(
    staging: Staging, expected: Expected, beat: Callable[[], None]
) -> tuple[dict[str, Any], list[Check]]:
    """Give what the report says about the values' spread, and a check for each field that can be compared.

    Cost: reads a sample of at most `distributions.SAMPLE_ROWS` rows, however many there are.
    """
    layout = expected.layout
    sample = staging.sample([field.name for field in layout.fields], distributions.sample_rows(layout), beat)
    shifts, kept = distributions.measure(layout, sample, expected.distribution)
    report = {
        "fields": [shift.as_json() for shift in shifts],
        "distribution": {"rows": sample.num_rows, "fields": kept},
    }
    return report, [_check_shift(shift, expected) for shift in shifts if shift.counts_before is not None]


def _check_shift(shift: Shift, expected: Expected) -> Check:
    what = f"distribution{_OF_WHAT.get(shift.aspect.kind, '')}"
    name = f"{shift.aspect.name}: {what}"
    psi = shift.psi
    if psi is None:
        fewest = min(shift.aspect.rows, shift.rows_before)
        words = f"not judged, because {fewest:,} rows are too few: that takes {distributions.MIN_ROWS}"
        return Check(name, passed=True, count=0, words=words, may_be_waived=True)
    index = f"its population stability index against the served table is {psi:.3f}"
    if psi <= expected.max_psi:
        return Check(name, passed=True, count=0, words=index, may_be_waived=True)
    if psi <= shift.chance:
        words = f"{index}, which so few rows reach by chance"
        return Check(name, passed=True, count=0, words=words, may_be_waived=True)
    words = f"column {shift.aspect.name} has another {what} than the served table: {shift.moved_most()}; {index}, and "
    words += f"more than {expected.max_psi:g} is refused"
    return Check(name, passed=False, count=0, words=words, may_be_waived=True, is_waived=name in expected.waived)
