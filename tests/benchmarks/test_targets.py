from __future__ import annotations

from benchmarks.measuring import Measurement, medians
from benchmarks.questions import Tokens
from benchmarks.targets import Case, Target, targets


def row(rate: float, *, p99_ms: float | None = 1.0) -> Measurement:
    return Measurement(rate, 10.0, 1.0, 0.5, 0.1, half_rate=rate / 2, p50_ms=0.5, p99_ms=p99_ms)


def found(
    rows: dict[Case, Measurement], *, answers: tuple[int, int] = (0, 0), **extras: dict[str, float]
) -> list[Target]:
    return targets(rows, extras, answers)


def test_targets__nothing_measured__none_is_reached_or_missed() -> None:
    assert {target.is_met for target in found({})} == {None}


def test_targets__the_ratio_to_go__is_held_against_its_limit() -> None:
    go: Case = ("go", Tokens.SHARED, False)
    lane: Case = ("lane", Tokens.SHARED, False)
    reached = next(t for t in found({lane: row(15_000), go: row(10_000)}) if "against Go" in t.words)
    missed = next(t for t in found({lane: row(14_900), go: row(10_000)}) if "against Go" in t.words)
    assert (reached.found, reached.is_met) == ("1.50 ×", True)
    assert (missed.found, missed.is_met) == ("1.49 ×", False)


def test_targets__the_slowest_hundredth__may_take_three_milliseconds() -> None:
    lane: Case = ("lane", Tokens.OWN, True)
    words = "a token per player, each used once, block cache on and warm: p99"
    assert [t.is_met for t in found({lane: row(1, p99_ms=3.0)}) if words in t.words] == [True]
    assert [t.is_met for t in found({lane: row(1, p99_ms=3.01)}) if words in t.words] == [False]


def test_targets__a_million_answers__counts_only_whole_and_without_an_error() -> None:
    def verdict(right: int, errors: int) -> bool | None:
        return next(t for t in found({}, answers=(right, errors)) if "answers" in t.words).is_met

    assert (verdict(1_000_000, 0), verdict(1_000_000, 1), verdict(999_999, 0)) == (True, False, None)


def test_targets__further_figures__are_at_least_or_below() -> None:
    by_words = {
        t.words: t.is_met for t in found({}, start={"seconds": 2.0, "memory_mb": 149.0}, workers={"ratio": 1.8})
    }
    assert by_words["start with 100 studios of 10 models"] is False
    assert by_words["memory of that lane, without a block cache"] is True
    assert by_words["two workers on two cores against one on one"] is True


def test_medians__of_rounds__are_taken_figure_by_figure() -> None:
    middle = medians([row(1, p99_ms=9), row(5, p99_ms=None), row(3, p99_ms=7)])
    assert (middle.rate, middle.p99_ms, middle.cpu_us) == (3, 8, 10)


def test_measurement__a_server_with_time_left_and_a_generator_without__says_who_was_the_limit() -> None:
    assert Measurement(1, 1, 0.6, 0.8, 0.15).is_limited_by_asking
    assert not Measurement(1, 1, 0.95, 0.8, 0.15).is_limited_by_asking
    assert not Measurement(1, 1, 0.6, 0.3, 0.15).is_limited_by_asking
