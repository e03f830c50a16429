"""Figures and moments as people read them: ages in words, shares in percent, sizes in MB."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any

from django.utils import timezone
from django.utils.timesince import timesince

NOTHING = "–"
# Longer than the 90 days that a token usually works for; months and weeks are cut down too far before.
LONGEST_IN_DAYS = timedelta(days=100)


def age(when: datetime | None, now: datetime | None = None) -> str:
    """Return how long ago something was (“3 hours ago”), or how far it lies ahead (“in 3 hours”)."""
    if when is None:
        return "never"
    now = now or timezone.now()
    apart = abs(now - when)
    if apart < timedelta(minutes=1):
        words = f"{int(apart.total_seconds())} s"
    elif timedelta(days=1) <= apart < LONGEST_IN_DAYS:
        words = f"{apart.days} day{'s' if apart.days > 1 else ''}"
    else:
        words = timesince(now - apart, now, depth=1).replace("\xa0", " ")
    return f"{words} ago" if when <= now else f"in {words}"


def duration(span: timedelta | float | None) -> str:
    """Return a length of time (a timedelta, or seconds) with its two largest units: “1 min 20 s”."""
    if span is None:
        return NOTHING
    seconds = span.total_seconds() if isinstance(span, timedelta) else float(span)
    if seconds < 10:
        return f"{seconds:.{1 if seconds >= 1 else 2}f} s"
    minutes, left = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {left} s" if minutes else f"{left} s"


def percent(basis_points: int | None) -> str:
    """Return basis points as a percentage, with as many places as it has: 6000 is “60 %”, 1234 “12.34 %”."""
    return NOTHING if basis_points is None else f"{percent_number(basis_points)} %"


def percent_number(basis_points: int) -> str:
    """Return basis points as the number that stands before the percent sign."""
    text = f"{Decimal(basis_points) / 100:,.2f}"
    return text.rstrip("0").rstrip(".")


def number(value: float | None) -> str:
    """Return a count with a comma at each thousand."""
    return NOTHING if value is None else f"{value:,.0f}"


def megabytes(size_bytes: int | None) -> str:
    """Return a size in MB (of 10^6 bytes); below 10 kB in bytes, so that a small table does not read as nothing."""
    if size_bytes is None:
        return NOTHING
    if size_bytes < 10_000:
        return f"{size_bytes:,} bytes"
    mb = size_bytes / 1_000_000
    return f"{mb:,.0f} MB" if mb >= 100 else f"{mb:,.1f} MB" if mb >= 1 else f"{mb:,.2f} MB"


def plain_json(value: Any) -> str:
    """Return a value as indented JSON, letters of every language as themselves."""
    return json.dumps(value, indent=2, ensure_ascii=False, default=str)


def exact(moment: datetime) -> str:
    """Return an instant to the second, by the clock of whoever looks: “12 Nov 2026, 14:02:07 Europe/Berlin”."""
    return f"{timezone.localtime(moment):%-d %b %Y, %H:%M:%S} {timezone.get_current_timezone_name()}"


def day(moment: datetime) -> str:
    """Return an instant's day, by the clock of whoever looks: “12 Nov 2026”."""
    return f"{timezone.localtime(moment):%-d %b %Y}"


def share(fraction: float) -> str:
    """Return a share (0 … 1) in percent with one place, two below one percent: “3.8 %”."""
    in_percent = 100 * fraction
    return f"{in_percent:,.1f} %" if in_percent >= 1 or not in_percent else f"{in_percent:.2f} %"
