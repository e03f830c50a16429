"""Where things lie on a chart."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recsite.dashboard.charts import drawing
from recsite.dashboard.charts.drawing import Band, Step

SINCE = datetime(2026, 11, 20, 12, tzinfo=UTC)
UNTIL = SINCE + timedelta(hours=4)


def hours(*values: dict[str, float] | None) -> list[Step]:
    return [Step(SINCE + timedelta(hours=n), SINCE + timedelta(hours=n + 1), value) for n, value in enumerate(values)]


def test_areas__two_layers__the_upper_is_drawn_first_and_reaches_the_ground() -> None:
    steps = hours({"a": 50, "b": 50}, {"a": 25}, {"a": 0}, {"a": 100})
    upper, lower = drawing.areas(steps, ["a", "b"], 100.0, SINCE, UNTIL)
    assert (upper.key, upper.path) == ("b", "M0 100V0H250V75H500V100H750V0H1000V100Z")
    assert (lower.key, lower.path) == ("a", "M0 100V50H250V75H500V100H750V0H1000V100Z")


def test_areas__unknown_column__is_a_hole_and_not_a_zero() -> None:
    [area] = drawing.areas(hours({"a": 50}, None, {"a": 0}, {"a": 50}), ["a"], 50.0, SINCE, UNTIL)
    assert area.path == "M0 100V0H250V100ZM500 100V100H750V0H1000V100Z"


def test_areas__layer_without_values__is_left_out() -> None:
    assert [area.key for area in drawing.areas(hours({"a": 1, "b": 0}), ["a", "b"], 1.0, SINCE, UNTIL)] == ["a"]
    assert drawing.areas(hours(None, None), ["a"], 1.0, SINCE, UNTIL) == []


def test_bands__neighbours__are_one() -> None:
    assert drawing.bands(hours(None, None, {}, None), SINCE, UNTIL) == [Band(0.0, 50.0), Band(75.0, 25.0)]


def test_line__steps_that_touch__are_joined_and_others_are_not() -> None:
    hour = timedelta(hours=1)
    points = [(SINCE, SINCE + hour, 60.0), (SINCE + hour, SINCE + 2 * hour, 50.0), (SINCE + 3 * hour, UNTIL, 50.0)]
    assert drawing.line(points, 100.0, SINCE, UNTIL) == "M0 40H250V50H500M750 50H1000"


@pytest.mark.parametrize(
    ("highest", "top"), [(0, 1), (1, 1), (1.2, 1.5), (7, 8), (9.9, 10), (43, 50), (101, 150), (0.031, 0.04)]
)
def test_round_top__is_round_and_just_above(highest: float, top: float) -> None:
    assert drawing.round_top(highest) == pytest.approx(top)


@given(st.floats(min_value=1e-6, max_value=1e12))
def test_round_top__of_anything__leaves_no_more_than_half_the_chart_empty(highest: float) -> None:
    assert highest * 0.999 <= drawing.round_top(highest) <= highest * 2.0001


@pytest.mark.parametrize(
    ("value", "words"), [(0.5, "0.5"), (950, "950"), (1200, "1.2k"), (35_000, "35k"), (1_400_000, "1.4M")]
)
def test_compact__has_few_letters(value: float, words: str) -> None:
    assert drawing.compact(value) == words


def test_time_labels__a_day__are_the_local_clock_and_midnight_is_the_date() -> None:
    labels = drawing.time_labels(SINCE, SINCE + timedelta(days=1), ZoneInfo("Europe/Berlin"))
    words = [label.words for label in labels]
    assert words == ["15:00", "18:00", "21:00", "21 Nov", "03:00", "06:00", "09:00", "12:00"]
    # 15:00 in Berlin is 14:00 UTC: two of twenty-four hours after noon UTC.
    assert labels[0].x == pytest.approx(100 * 2 / 24, abs=0.01)


def test_time_labels__half_an_hour_off__are_round_there() -> None:
    labels = drawing.time_labels(SINCE, SINCE + timedelta(hours=1), ZoneInfo("Asia/Kolkata"))
    assert [label.words for label in labels] == ["17:30", "17:40", "17:50", "18:00", "18:10", "18:20", "18:30"]


def test_time_labels__over_the_end_of_summer_time__stand_where_their_time_is() -> None:
    since = datetime(2026, 10, 24, 22, tzinfo=UTC)  # midnight in Berlin; the 25th has 25 hours
    labels = drawing.time_labels(since, since + timedelta(hours=25), ZoneInfo("Europe/Berlin"))
    by_words = {label.words: label.x for label in labels}
    assert by_words["25 Oct"] == 0.0
    assert by_words["26 Oct"] == 100.0
    assert by_words["12:00"] == pytest.approx(100 * 13 / 25, abs=0.01)


def test_time_labels__a_month__are_days_in_order() -> None:
    labels = drawing.time_labels(SINCE, SINCE + timedelta(days=30), ZoneInfo("America/New_York"))
    assert [label.words for label in labels] == ["21 Nov", "26 Nov", "1 Dec", "6 Dec", "11 Dec", "16 Dec"]
