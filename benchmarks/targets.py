"""What the lane is to reach, and whether a run says that it does; docs/performance.md says what it cannot reach."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from benchmarks.measuring import Measurement
from benchmarks.questions import Tokens

# Contender, whose token, whether with the block cache on.
Case = tuple[str, Tokens, bool]
Figures = Mapping[str, float]


@dataclass(frozen=True)
class Target:
    """One figure to reach.

    Attributes:
        words: what it is.
        wanted: the figure in words, with its unit.
        found: as measured, in the same unit; None where this run did not measure it.
        is_met: None likewise.
    """

    words: str
    wanted: str
    found: str | None
    is_met: bool | None


def targets(rows: Mapping[Case, Measurement], extras: Mapping[str, Figures], checked: tuple[int, int]) -> list[Target]:
    """Hold a run against the targets.

    Args:
        rows: medians by case.
        extras: further figures by the name of their part.
        checked: right answers and errors of the lane over the whole run.
    """
    return [
        _ratio(rows, ("lane", Tokens.SHARED, False), ("go", Tokens.SHARED, False), 1.5),
        _ratio(rows, ("lane", Tokens.SHARED, False), ("empty", Tokens.SHARED, False), 0.6),
        _ratio(rows, ("lane", Tokens.SHARED, True), ("empty", Tokens.SHARED, False), 0.7),
        _ratio(rows, ("lane", Tokens.OWN, False), ("go", Tokens.OWN, False), 1.1),
        _ratio(rows, ("lane", Tokens.OWN, False), ("fastapi", Tokens.OWN, False), 8),
        *_latencies(rows),
        _answers(checked),
        _at_least(
            "Ed25519 tokens, each used ten times, against what PyJWT alone verifies",
            extras,
            "ed25519",
            "ratio_used_ten_times",
            2,
        ),
        _at_least("two workers on two cores against one on one", extras, "workers", "ratio", 1.8),
        _at_least(
            "useful answers at three times the load, against the peak on as many connections",
            extras,
            "overload",
            "ratio",
            0.9,
        ),
        _below("start with 100 studios of 10 models", extras, "start", "seconds", 2, "s"),
        _below("memory of that lane, without a block cache", extras, "start", "memory_mb", 150, "MB"),
    ]


def _ratio(rows: Mapping[Case, Measurement], one: Case, other: Case, wanted: float) -> Target:
    against = {"go": "Go", "empty": "granian's empty handler", "fastapi": "FastAPI"}[other[0]]
    cache = "block cache on and warm" if one[2] else "block cache off"
    words = f"lane, {one[1]}, {cache}, against {against}"
    if one not in rows or other not in rows:
        return Target(words, f"≥ {wanted:g} ×", None, None)
    found = rows[one].rate / rows[other].rate
    return Target(words, f"≥ {wanted:g} ×", f"{found:.2f} ×", found >= wanted)


def _latencies(rows: Mapping[Case, Measurement]) -> list[Target]:
    found = []
    for tokens in Tokens:
        for has_cache in (False, True):
            words = f"lane, {tokens}, block cache {'on and warm' if has_cache else 'off'}: p99 at half of its peak"
            row = rows.get(("lane", tokens, has_cache))
            p99 = None if row is None else row.p99_ms
            found.append(
                Target(words, "≤ 3 ms", None, None)
                if p99 is None
                else Target(words, "≤ 3 ms", f"{p99:.2f} ms", p99 <= 3)
            )
    return found


def _answers(checked: tuple[int, int]) -> Target:
    right, errors = checked
    words = "answers of the lane, each compared with the generator's"
    wanted = "1,000,000 without an error"
    is_met = False if errors else True if right >= 1_000_000 else None
    return Target(words, wanted, f"{right:,} right, {errors:,} errors", is_met)


def _at_least(words: str, extras: Mapping[str, Figures], part: str, name: str, wanted: float) -> Target:
    found = extras.get(part, {}).get(name)
    if found is None:
        return Target(words, f"≥ {wanted:g} ×", None, None)
    return Target(words, f"≥ {wanted:g} ×", f"{found:.2f} ×", found >= wanted)


def _below(words: str, extras: Mapping[str, Figures], part: str, name: str, wanted: float, unit: str) -> Target:
    found = extras.get(part, {}).get(name)
    if found is None:
        return Target(words, f"< {wanted:g} {unit}", None, None)
    return Target(
        words, f"< {wanted:g} {unit}", f"{found:.2f} {unit}" if found < 10 else f"{found:.0f} {unit}", found < wanted
    )
