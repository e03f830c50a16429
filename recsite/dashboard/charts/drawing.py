"""Charts as SVG: where things lie. Pure: no database, no request.

A chart is as wide as its place, so positions across are percentages and its columns are paths in a picture of their own
that is stretched (`preserveAspectRatio="none"`); down the page everything is in pixels, so that text stays as it is.
Values are drawn as steps, not as curves: a step says what was counted in its span, and nothing about what was between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from math import ceil, floor, log10
from zoneinfo import ZoneInfo

# The stretched picture's own units: across, and down for the largest value.
WIDTH, HEIGHT = 1000.0, 100.0
TIME_STEPS = [
    *(timedelta(minutes=n) for n in (5, 10, 15, 30)),
    *(timedelta(hours=n) for n in (1, 2, 3, 4, 6, 12)),
    *(timedelta(days=n) for n in (1, 2, 5, 7)),
]
MOST_TIME_LABELS = 8


@dataclass(frozen=True)
class Step:
    """One column: where it lies in time, and its value by layer; None where nothing is known."""

    starts_at: datetime
    ends_at: datetime
    values: Mapping[str, float] | None


@dataclass(frozen=True)
class Area:
    """A layer as it is drawn: `key` names it, `path` is in the stretched picture's units."""

    key: str
    path: str


@dataclass(frozen=True)
class ValueLine:
    """A line across at a round value; `y` in percent of the height from the top."""

    y: float
    words: str


@dataclass(frozen=True)
class TimeLabel:
    """A mark on the time's axis; `x` in percent.

    Attributes:
        anchor: `start`, `middle` or `end`: where its text lies against it.
        is_minor: left out where there is little room.
    """

    x: float
    words: str
    anchor: str
    is_minor: bool


@dataclass(frozen=True)
class Band:
    """A stretch of time of which nothing is known, in percent."""

    x: float
    width: float


@dataclass(frozen=True)
class Spot:
    """A column's place, in percent, with what it holds in words: for whoever points at it."""

    x: float
    width: float
    words: str


def areas(steps: Sequence[Step], keys: Sequence[str], top: float, since: datetime, until: datetime) -> list[Area]:
    """Return the layers' paths, stacked in the order of `keys` from the bottom; those to be drawn first come first.

    Each reaches down to the ground and is drawn over by those below it, so that no seam shows between two.
    Unknown columns leave a hole.
    """
    found = []
    for count in range(len(keys), 0, -1):
        path = _outline(steps, keys[:count], top, since, until)
        if path and any(step.values and step.values.get(keys[count - 1]) for step in steps):
            found.append(Area(keys[count - 1], path))
    return found


def _outline(steps: Sequence[Step], keys: Sequence[str], top: float, since: datetime, until: datetime) -> str:
    parts: list[str] = []
    is_open = False
    for step in steps:
        if step.values is None:
            if is_open:
                parts.append(f"V{HEIGHT:g}Z")
            is_open = False
            continue
        left, right = across(step.starts_at, since, until) * 10, across(step.ends_at, since, until) * 10
        height = HEIGHT * (1 - sum(step.values.get(key, 0.0) for key in keys) / top)
        if not is_open:
            parts.append(f"M{left:.4g} {HEIGHT:g}")
        parts.append(f"V{height:.4g}H{right:.4g}")
        is_open = True
    if is_open:
        parts.append(f"V{HEIGHT:g}Z")
    return "".join(parts)


def line(points: Sequence[tuple[datetime, datetime, float]], top: float, since: datetime, until: datetime) -> str:
    """Return a path that goes from span to span at their values, in the stretched picture's units."""
    parts: list[str] = []
    last: datetime | None = None
    for starts_at, ends_at, value in points:
        left, right = across(starts_at, since, until) * 10, across(ends_at, since, until) * 10
        height = HEIGHT * (1 - value / top)
        parts.append(f"V{height:.4g}H{right:.4g}" if last == starts_at else f"M{left:.4g} {height:.4g}H{right:.4g}")
        last = ends_at
    return "".join(parts)


def across(at: datetime, since: datetime, until: datetime) -> float:
    """Return an instant's place, in percent of the width."""
    return round(min(100.0, max(0.0, 100 * ((at - since) / (until - since)))), 3)


def bands(steps: Sequence[Step], since: datetime, until: datetime) -> list[Band]:
    """Return the stretches of which nothing is known, neighbours as one."""
    found: list[Band] = []
    for step in steps:
        if step.values is not None:
            continue
        left, right = across(step.starts_at, since, until), across(step.ends_at, since, until)
        if found and abs(found[-1].x + found[-1].width - left) < 0.01:
            left = found.pop().x
        found.append(Band(left, round(right - left, 3)))
    return found


def round_top(highest: float) -> float:
    """Return a round value that the highest one fits below: 1, 2, 2.5, 5 or 10 times a power of ten."""
    if highest <= 0:
        return 1.0
    power = 10.0 ** floor(log10(highest))
    return next(power * step for step in (1, 1.5, 2, 2.5, 3, 4, 5, 6, 8, 10, 20) if highest <= power * step * 1.0000001)


def value_lines(top: float, unit: str = "") -> list[ValueLine]:
    """Return lines at the top and at its half, the ground left out. `unit` stands behind each value."""
    return [ValueLine(0.0, f"{compact(top)}{unit}"), ValueLine(50.0, f"{compact(top / 2)}{unit}")]


def compact(value: float) -> str:
    """Return a value in few letters: 950, 1.2k, 35k, 1.4M."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{letter}"
    return f"{value:.3g}"


def time_labels(since: datetime, until: datetime, zone: ZoneInfo) -> list[TimeLabel]:
    """Return round local times between two instants: of a clock's hours within two days, of days beyond.

    Where clocks change, a label may be missing or an hour off its neighbours' distance; each is where its time is.
    """
    length = until - since
    step = next((step for step in TIME_STEPS if length / step <= MOST_TIME_LABELS), TIME_STEPS[-1])
    local = since.astimezone(zone)
    midnight = datetime(local.year, local.month, local.day)  # noqa: DTZ001  # a clock's face, made an instant below
    first = midnight if step < timedelta(days=1) else midnight + timedelta(days=1)
    labels: list[TimeLabel] = []
    for number in range(ceil((length + timedelta(days=2)) / step)):
        face = first + step * number
        at = face.replace(tzinfo=zone)
        if not since <= at <= until:
            continue
        x = across(at, since, until)
        words = f"{face:%-d %b}" if step >= timedelta(days=1) or not (face.hour or face.minute) else f"{face:%H:%M}"
        anchor = "start" if x < 4 else "end" if x > 96 else "middle"
        labels.append(TimeLabel(x, words, anchor, is_minor=bool(len(labels) % 2)))
    return labels
