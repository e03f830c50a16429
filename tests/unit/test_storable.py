"""What JSON can say and a database cannot keep."""

from __future__ import annotations

from typing import Any

import pytest

from tenants.rules import MAX_DEPTH, unstorable


def nested(depth: int) -> Any:
    value: Any = "x"
    for number in range(depth):
        value = [value] if number % 2 else {"a": value}
    return value


@pytest.mark.parametrize("value", [None, True, "Größe", -(2**53) + 1, 1.5, {"a": [1, {"b": None}]}, nested(MAX_DEPTH)])
def test_value__that_can_be_kept__has_no_problem(value: Any) -> None:
    assert unstorable(value) is None


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ("a\0", "NUL"),
        ({"a\0": 1}, "NUL"),
        ([{"a": "\ud800"}], "surrogate"),
        (2**53, "9,007,199,254,740,991"),
        ([float("nan")], "not finite"),
        ({"a": float("-inf")}, "not finite"),
        (nested(MAX_DEPTH + 1), "too many lists or objects"),
        (nested(100_000), "too many lists or objects"),
    ],
)
def test_value__that_cannot_be_kept__is_said(value: Any, words: str) -> None:
    assert words in (unstorable(value) or "")
