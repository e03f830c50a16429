"""A load against the table that is served: what may differ only so much, unless somebody answers for it with a reason.

Each of these checks can be waived, because a studio may know why its players or its recommendations have changed.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from models_registry.loading import distributions
from models_registry.loading.checks import Expected
from models_registry.loading.columns import shown
from models_registry.loading.difference import Difference
from models_registry.loading.distributions import Shift
from models_registry.loading.report import Check, Distribution, Report, ReportedDifference
from models_registry.loading.served import Served
from models_registry.loading.staging import Staging
from models_registry.models import Table
from tenants.figures import percent, share

# A load that is to be activated is compared with the served table by about so many keys: enough to tell shares to
# ± 0.2 percentage points, and done in a tenth of a second. A dry run, whose purpose it is, compares every row.
ROWS_COMPARED = 2**16

_OF_WHAT = {"list length": " of lengths", "string length": " of lengths", "list items": " of items"}


def compare_distributions(report: Report, staging: Staging, expected: Expected) -> tuple[Report, list[Check]]:
    """Return the report with the values' spread in it, and a check for each field that can be compared.

    Cost: counts a sample of at most `distributions.SAMPLE_ROWS` rows, however many there are.
    """
    layout = expected.layout
    sample = staging.sample()
    shifts, kept = distributions.measure(layout, sample, expected.distribution)
    report = report.having(
        fields=tuple(shift.as_field() for shift in shifts), distribution=Distribution(sample.num_rows, tuple(kept))
    )
    return report, [_check_shift(shift, expected) for shift in shifts if shift.counts_before is not None]


def _check_shift(shift: Shift, expected: Expected) -> Check:
    what = f"distribution{_OF_WHAT.get(shift.aspect.kind, '')}"
    name = f"{shift.aspect.name}: {what}"
    check = partial(Check, name, may_be_waived=True)
    psi = shift.psi
    if psi is None:
        fewest = min(shift.aspect.rows, shift.rows_before)
        words = f"not judged: {fewest:,} rows are too few, at least {distributions.MIN_ROWS} are needed"
        return check(passed=True, words=words)
    against = "the served table" if expected.served is None else _name_of(expected.served)
    index = f"its population stability index against {against} is {psi:.3f}"
    if psi <= expected.max_psi:
        return check(passed=True, words=index)
    if psi <= shift.chance:
        return check(passed=True, words=f"{index}, which so few rows reach by chance")
    words = f"column {shift.aspect.name} has another {what} than {against}: {shift.moved_most()}; {index}, and "
    words += f"more than {expected.max_psi:g} is refused"
    return check(passed=False, words=words, is_waived=name in expected.waived)


def _name_of(served: Served) -> str:
    return f"the table of “{served.name}” (the most served version)" if served.name else "the served table"


def blocks_to_compare(served: Table, rows: int, *, is_dry_run: bool) -> int:
    """Return how many blocks of the served table a load of so many rows is compared with."""
    blocks = 1 << served.block_bits
    if is_dry_run:
        return blocks
    return min(blocks, max(1, blocks * ROWS_COMPARED // max(rows, served.row_count, 1)))


def difference_report(
    difference: Difference, served: Served, staging: Staging, beat: Callable[[], None], *, rows: int
) -> ReportedDifference:
    """Return what the report says: of the `rows` of the whole load, also where it is estimated from a part of them."""
    blocks = 1 << served.table.block_bits
    keys = {
        what: tuple(shown(key) for key in staging.keys_of(numbers, beat).values())
        for what, numbers in (("added", difference.added_rows), ("changed", difference.changed_rows))
    }
    return ReportedDifference(
        *_of_the_whole(difference, served.table, rows),
        against=served.name,
        samples=keys,
        is_estimate=difference.blocks < blocks,
        share_compared=round(difference.blocks / blocks, 6),
    )


def _of_the_whole(difference: Difference, served: Table, rows: int) -> tuple[int, int, int, int]:
    """Return how many rows of the whole are added, removed, changed and unchanged."""
    if difference.blocks == 1 << served.block_bits:
        return difference.added, difference.removed, difference.changed, difference.unchanged
    # Shares are what a part tells; of both tables the sizes are known.
    kept = min(round(difference.coverage * served.row_count), rows)
    compared = difference.changed + difference.unchanged
    changed = round(kept * difference.changed / compared) if compared else 0
    return rows - kept, served.row_count - kept, changed, kept - changed


def check_coverage(difference: Difference, expected: Expected) -> Check:
    """Hold the share of the served keys that are still there against what the model wants."""
    name, coverage = "coverage", difference.coverage
    passed = coverage >= expected.min_coverage
    by = f"of “{expected.served.name}” (the most served version)" if expected.served and expected.served.name else ""
    words = f"{share(coverage)} of the keys {by or 'that are served'} are in the source"
    if not passed:
        words = f"only {words}, and less than {percent(round(10_000 * expected.min_coverage))} is refused"
    is_waived = not passed and name in expected.waived
    return Check(name, passed, 0, words, may_be_waived=True, is_waived=is_waived)
