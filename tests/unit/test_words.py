from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tenants.figures import age, duration, megabytes, number, percent, plain_json

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("apart", "words"),
    [
        (timedelta(seconds=0), "0 s ago"),
        (timedelta(seconds=59.9), "59 s ago"),
        (timedelta(minutes=1), "1 minute ago"),
        (timedelta(hours=3, minutes=59), "3 hours ago"),
        (timedelta(days=2, hours=5), "2 days ago"),
        (timedelta(seconds=-30), "in 30 s"),
        (timedelta(days=1), "1 day ago"),
        (timedelta(days=9, hours=23), "9 days ago"),
        (timedelta(days=-7), "in 7 days"),
        (timedelta(days=-90, seconds=1), "in 89 days"),
        (timedelta(days=130), "4 months ago"),
    ],
)
def test_age__an_instant__is_said_in_its_largest_unit(apart: timedelta, words: str) -> None:
    assert age(NOW - apart, NOW) == words


def test_age__of_nothing__is_never() -> None:
    assert age(None) == "never"


@pytest.mark.parametrize(
    ("span", "words"),
    [
        (0.031, "0.03 s"),
        (timedelta(milliseconds=1240), "1.2 s"),
        (9.96, "10.0 s"),
        (59.6, "1 min 0 s"),
        (80, "1 min 20 s"),
        (timedelta(hours=2, minutes=5, seconds=40), "2 h 5 min"),
        (None, "–"),
    ],
)
def test_duration__a_span__is_said_in_its_two_largest_units(span: timedelta | float | None, words: str) -> None:
    assert duration(span) == words


@pytest.mark.parametrize(
    ("basis_points", "words"),
    [(0, "0 %"), (1, "0.01 %"), (6000, "60 %"), (1234, "12.34 %"), (1230, "12.3 %"), (10_000, "100 %"), (None, "–")],
)
def test_percent__basis_points__keeps_every_place_it_has(basis_points: int | None, words: str) -> None:
    assert percent(basis_points) == words


@pytest.mark.parametrize(
    ("size_bytes", "words"),
    [
        (0, "0 bytes"),
        (9_999, "9,999 bytes"),
        (10_000, "0.01 MB"),
        (4_512_000, "4.5 MB"),
        (1_500_000_000, "1,500 MB"),
        (None, "–"),
    ],
)
def test_megabytes__bytes__are_said_in_mb_unless_few(size_bytes: int | None, words: str) -> None:
    assert megabytes(size_bytes) == words


def test_number__thousands__are_set_apart() -> None:
    assert (number(1_234_567), number(999.6), number(0), number(None)) == ("1,234,567", "1,000", "0", "–")


def test_plain_json__letters_of_every_language__stay_as_they_are() -> None:
    assert plain_json({"név": ["ő"]}) == '{\n  "név": [\n    "ő"\n  ]\n}'
