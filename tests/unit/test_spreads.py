"""Distributions of a load's report as charts and words."""

from __future__ import annotations

import pytest

from models_registry.loading.report import Bin, FieldSpread
from recsite.dashboard.charts.spreads import spread_of


def field(psi: float | None, *bins: tuple[str, float, float | None], kind: str = "uint") -> FieldSpread:
    return FieldSpread("offer_id", kind, tuple(Bin(*found) for found in bins), psi)


@pytest.mark.parametrize(
    ("psi", "words", "looks"),
    [
        (0.0, "as before", "ok"),
        (0.0999, "as before", "ok"),
        (0.1, "somewhat different", "warn"),
        (0.25, "very different", "bad"),
        (None, "too few rows to compare", "dim"),
    ],
)
def test_spread__index__is_said_in_words(psi: float | None, words: str, looks: str) -> None:
    found = spread_of(field(psi, ("0", 0.5, 0.4), ("1", 0.5, 0.6)))
    assert (found.words, found.looks, found.has_before) == (words, looks, True)


def test_spread__first_table__has_nothing_to_compare_with() -> None:
    found = spread_of(field(None, ("0", 1.0, None)))
    assert (found.words, found.has_before) == ("nothing to compare with yet", False)
    assert found.bars[0].width_before is None


def test_spread__widest_bar__fills_the_chart() -> None:
    found = spread_of(field(0.01, ("0", 0.2, 0.1), ("1", 0.3, 0.4), ("2", 0.5, 0.5)))
    assert [(bar.width, bar.width_before) for bar in found.bars] == [(40.0, 20.0), (60.0, 80.0), (100.0, 100.0)]


def test_spread__of_no_rows__draws_nothing() -> None:
    assert spread_of(field(None)).bars == []
    assert [bar.width for bar in spread_of(field(None, ("0", 0.0, 0.0))).bars] == [0.0]


@pytest.mark.parametrize(("kind", "what"), [("uint", ""), ("list length", "how many"), ("list items", "items")])
def test_spread__of_lists__says_what_is_counted(kind: str, what: str) -> None:
    assert spread_of(field(0.0, ("0", 1.0, 1.0), kind=kind)).of_what == what
