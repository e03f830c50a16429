from __future__ import annotations

import math
from collections.abc import Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from models_registry.loading import distributions
from models_registry.loading.distributions import MIN_ROWS, Shift, measure, population_stability_index, psi_by_chance
from models_registry.loading.report import Bin
from serving.formats.layouts import Layout


def layout(**field: Any) -> Layout:
    return Layout.parse([{"name": "f", **field}])


UINT = layout(type="uint", min=0, max=1_000_000)
ENUM = layout(type="enum", values=["a", "b", "c\0"])


def spread(of: Layout, values: Any, kept: Sequence[Any] = ()) -> tuple[list[Shift], list[dict[str, Any]]]:
    column = values if isinstance(values, pa.Array) else pa.array(values)
    return measure(of, pa.table({"f": column}), kept)


def shares(of: Layout, now: Any, before: Any = None) -> dict[str, tuple[float, float | None]]:
    """Return share now and before by label, of the first aspect."""
    kept = [] if before is None else spread(of, before)[1]
    bins = spread(of, now, kept)[0][0].as_field().bins
    return {found.label: (found.share, found.share_before) for found in bins}


def psi(of: Layout, now: Any, before: Any) -> float | None:
    return spread(of, now, spread(of, before)[1])[0][0].psi


# --- Bins -------------------------------------------------------------------------------------------------------------


def test_measure__an_enum__each_value_has_a_bin_and_nul_is_spelled_out() -> None:
    assert shares(ENUM, ["a", "a", "b", "c\0"], ["a", "b", "b", "b"]) == {
        "b": (0.25, 0.75),
        "a": (0.5, 0.25),
        "c\\u0000": (0.25, 0.0),
    }
    assert shares(ENUM, ["c\0"]) == {"c\\u0000": (1.0, None)}
    assert "\0" not in str(spread(ENUM, ["c\0"])[1])


def test_measure__a_bool_that_may_be_absent__three_bins() -> None:
    of = layout(type="bool", optional=True)
    found = shares(of, [True, None, False, True], [True, True, None, None])
    assert found == {"true": (0.5, 0.5), "false": (0.25, 0.0), "absent": (0.25, 0.5)}


def test_measure__few_numbers__each_has_a_bin() -> None:
    found = shares(UINT, [1, 5, 5, 9], [1, 5, 1, 1])
    assert found == {"1": (0.25, 0.75), "5": (0.5, 0.25), "9": (0.25, 0.0)}


def test_measure__numbers_that_are_new__stand_in_their_order_and_at_most_five_of_them() -> None:
    assert list(shares(UINT, [3, 4, 9], [4, 9])) == ["3", "4", "9"]
    found = shares(UINT, [1, 2, 3, 4, 5, 6, 7, 8], [20])
    assert list(found) == ["1", "2", "3", "4", "5", "20", "anything else"]
    assert found["anything else"] == (0.375, 0.0)


def test_measure__more_values_before_than_bins__what_was_among_them_is_not_claimed_to_be_new() -> None:
    of = layout(type="string", max_bytes=9)
    before = [f"t{n:02}" for n in range(30) for _ in range(30 - n)]
    found = shares(of, ["t29"] * 10, before)
    assert found["anything else"][0] == 1.0
    assert found["anything else"][1] is not None
    assert found["anything else"][1] > 0


def test_measure__many_numbers__in_tenths_of_the_rows_before() -> None:
    found = shares(UINT, list(range(500, 1500)), list(range(1000)))
    assert list(found)[:3] == ["up to 99", "100 … 199", "200 … 299"]
    assert found["up to 99"] == (0.0, 0.1)
    assert found["above 899"] == (0.6, 0.1)
    assert sum(now for now, _ in found.values()) == pytest.approx(1)


def test_measure__decimals_as_floats_and_as_numeric__are_the_same_values() -> None:
    of = layout(type="decimal", min=0, max=1, step=0.1)
    floats = [0.1 + 0.2, 0.7, 0.7]
    exact = pa.array([Decimal("0.3"), Decimal("0.7"), Decimal("0.7")], pa.decimal128(38, 9))
    assert shares(of, floats, exact) == {"0.3": (0.333333, 0.333333), "0.7": (0.666667, 0.666667)}


def test_measure__many_decimals__labels_say_which_bound_counts() -> None:
    of = layout(type="decimal", min=0, max=10, step=0.01)
    labels = list(shares(of, [number / 100 for number in range(1000)]))
    assert labels[:2] == ["up to 0.99", "above 0.99 to 1.99"]


def test_measure__a_list__lengths_and_items() -> None:
    of = layout(type="list", max_items=3, item={"type": "uint", "min": 0, "max": 9})
    found, kept = spread(of, [[1, 2], [], [2, 2, 2], None])
    assert [(shift.aspect.kind, shift.aspect.rows) for shift in found] == [("list length", 4), ("list items", 4)]
    assert [bin_.label for bin_ in found[0].as_field().bins] == ["0", "2", "3", "absent"]
    assert found[1].as_field().bins[1] == Bin("2", 0.8, None)
    assert [one["kind"] for one in kept] == ["list length", "list items"]


def test_measure__few_texts_by_value_and_many_by_length() -> None:
    of = layout(type="string", max_bytes=200, optional=True)
    few, _ = spread(of, ["sale"] * 8 + [f"t{n}" for n in range(30)] + ["x"] * 60)
    assert few[0].aspect.kind == "string"
    many, _ = spread(of, [f"text {n}" for n in range(1000)])
    assert many[0].aspect.kind == "string length"
    assert [bin_.label for bin_ in many[0].as_field().bins] == ["6", "7", "8"]
    long, _ = spread(of, ["a" * 100] * 50)
    assert long[0].aspect.kind == "string length"


def test_measure__texts_that_were_few_and_are_many__are_compared_as_before() -> None:
    of = layout(type="string", max_bytes=200)
    [shift] = spread(of, [f"text {n}" for n in range(1000)], spread(of, ["sale"] * 500 + ["gift"] * 500)[1])[0]
    assert shift.aspect.kind == "string"
    assert shift.psi is not None
    assert shift.psi > 1


KINDS: dict[str, tuple[Layout, Any]] = {
    "uint": (UINT, 7),
    "enum": (ENUM, "a"),
    "bool": (layout(type="bool"), True),
    "string": (layout(type="string", max_bytes=3), "abc"),
    "decimal": (layout(type="decimal", min=0, max=9, step=1), 3),
    "list": (layout(type="list", max_items=3, item={"type": "bool"}), [True]),
}


@pytest.mark.parametrize("rows", [0, 300])
@pytest.mark.parametrize("kind", KINDS)
def test_measure__no_value_at_all__all_are_absent(kind: str, rows: int) -> None:
    of, value = KINDS[kind]
    for nothing in (pa.nulls(rows), pa.nulls(rows, pa.array([value]).type)):
        for shift in spread(of, nothing, spread(of, nothing)[1])[0]:
            assert {bin_.label for bin_ in shift.as_field().bins} <= {"absent"}


@pytest.mark.parametrize("kind", KINDS)
def test_measure__values_that_came_or_went__are_a_shift(kind: str) -> None:
    of, value = KINDS[kind]
    for now, before in ((pa.nulls(300), [value] * 300), ([value] * 300, pa.nulls(300))):
        shift = spread(of, now, spread(of, before)[1])[0][0]
        assert shift.psi is not None
        assert shift.psi > 5


def test_measure__values_that_no_layout_holds__are_told_apart_from_others() -> None:
    of = layout(type="decimal", min=0, max=1, step=0.5)
    assert shares(of, [0.5, float("nan"), float("inf"), 7.0]) == {"0.5": (0.25, None), "does not fit": (0.75, None)}


def test_measure__a_column_that_is_missing__is_left_out() -> None:
    assert measure(UINT, pa.table({"g": [1]}), []) == ([], [])


# --- The index --------------------------------------------------------------------------------------------------------


def test_psi__a_worked_example__is_the_sum_of_its_terms() -> None:
    now, before = [400_000, 600_000], [500_000, 500_000]
    wanted = (0.4 - 0.5) * math.log(0.4 / 0.5) + (0.6 - 0.5) * math.log(0.6 / 0.5)
    assert population_stability_index(now, before) == pytest.approx(wanted, rel=1e-4)


def test_psi__the_same_shares__is_nothing_and_is_symmetric() -> None:
    assert population_stability_index([10, 20, 0], [10, 20, 0]) == 0
    assert population_stability_index([1000, 2000], [2000, 4000]) == pytest.approx(0, abs=1e-6)
    assert population_stability_index([9, 1], [5, 5]) == pytest.approx(population_stability_index([5, 5], [9, 1]))
    assert population_stability_index([], []) == 0


def test_psi__a_bin_that_was_empty__is_large_and_finite() -> None:
    assert 1 < population_stability_index([500, 500], [1000, 0]) < 20


def test_psi__everybody_gets_one_offer_now__is_far_above_any_limit() -> None:
    found = psi(UINT, [7] * 1000, list(range(1000)))
    assert found is not None
    assert found > 1


def test_psi__too_few_rows__is_not_judged() -> None:
    assert psi(ENUM, ["a"] * (MIN_ROWS - 1), ["b"] * 5000) is None
    assert psi(ENUM, ["a"] * 5000, ["b"] * (MIN_ROWS - 1)) is None
    assert psi(ENUM, ["a"] * MIN_ROWS, ["b"] * MIN_ROWS) is not None


def test_chance__chi_square_quantiles__are_met() -> None:
    # Tables of chi-square at 0.9999: 1, 9 and 19 degrees of freedom. The approximation is on the safe side for one.
    for bins, quantile, off in ((2, 15.137, 0.08), (10, 33.720, 0.02), (20, 50.796, 0.02)):
        assert psi_by_chance(bins, 1000, 1000) == pytest.approx(quantile * 0.002, rel=off)
    assert psi_by_chance(1, 1000, 1000) == 0


@pytest.mark.parametrize("rows", [MIN_ROWS, 1000, 5000])
def test_chance__samples_of_one_population__are_next_to_never_above_it(rows: int) -> None:
    rng = np.random.default_rng(7)
    above = 0
    for _ in range(1000):
        shares = rng.dirichlet(np.ones(10) * 2)
        now, before = (rng.multinomial(rows, shares).tolist() for _ in range(2))
        index = population_stability_index(now, before)
        above += index > max(0.25, psi_by_chance(10, rows, rows))
    assert above <= 1


def test_sample_rows__long_rows__are_sampled_less() -> None:
    assert distributions.sample_rows(UINT) == distributions.SAMPLE_ROWS
    assert distributions.sample_rows(layout(type="string", max_bytes=60_000)) == 1024
