"""The exception every service raises for what a person can put right, and the checks that several services share."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from django.core.exceptions import ValidationError
from django.core.validators import validate_slug

from serving.formats.layouts import MAX_INTEGER

# A layout needs seven within a request's body: the body, the fields, a field, its item, its fields, a field, its texts.
MAX_DEPTH = 16


class RuleBroken(ValueError):
    """A change that is refused. The message is a sentence for the person who asked for it, and holds no secret.

    Attributes:
        field: the argument it is about, where it is about one, so that a form can show it there.
    """

    def __init__(self, message: str, *, field: str = "") -> None:
        super().__init__(message)
        self.field = field


class AlreadyMade(RuleBroken):
    """What a form asks for was made when that form was sent before; its secret is not given twice."""


class ChangedMeanwhile(RuleBroken):
    """A change that was decided on what somebody has changed since; nothing was saved."""


class LimitReached(RuleBroken):
    """A change that is refused because the studio has as much of something as it may."""


def whole_number(text: str) -> int | None:
    """Return the number that an address or a hidden field holds; None for any other text.

    Also for one of more digits than any id has: Python refuses to read some thousand.
    """
    return int(text) if text.isdecimal() and len(text) < 16 else None


def unstorable(value: Any) -> str | None:
    """Return what of a JSON value a database, or another reader of JSON, cannot keep; None where they can keep it."""
    waiting = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        if isinstance(part, Mapping | list | tuple):
            if depth == MAX_DEPTH:
                return "too many lists or objects inside each other"
            below = [*part.keys(), *part.values()] if isinstance(part, Mapping) else part
            waiting += [(item, depth + 1) for item in below]
        elif problem := _unstorable_scalar(part):
            return problem
    return None


def _unstorable_scalar(value: Any) -> str | None:
    match value:
        case str() if "\0" in value:
            return "the NUL character (U+0000)"
        case str() if any("\ud800" <= character <= "\udfff" for character in value):
            return "half a character (a surrogate, U+D800 to U+DFFF)"
        case float() if not math.isfinite(value):
            return "a number that is not finite"
        case int() if abs(value) > MAX_INTEGER:
            return f"a whole number beyond {MAX_INTEGER:,}"
    return None


def check_slug(slug: str) -> str:
    """Return the slug; RuleBroken unless it is 1 to 50 letters, digits, hyphens and underscores."""
    try:
        validate_slug(slug)
    except ValidationError:
        raise RuleBroken(
            f"“{slug}” is not a valid short name. Use letters, digits, hyphens and underscores.", field="slug"
        ) from None
    if len(slug) > 50:
        raise RuleBroken("A short name can have at most 50 characters.", field="slug")
    return slug


def check_text(text: str, *, field: str, what: str, max_length: int, is_required: bool = True) -> str:
    """Return the text without spaces around it; RuleBroken if it is missing, too long or holds control characters."""
    cleaned = text.strip()
    if is_required and not cleaned:
        raise RuleBroken(f"{what} is missing.", field=field)
    if len(cleaned) > max_length:
        raise RuleBroken(f"{what} can have at most {max_length} characters.", field=field)
    if any(character < " " for character in cleaned):
        raise RuleBroken(f"{what} must be plain text on one line.", field=field)
    return cleaned


def check_reason(reason: str, *, is_required: bool = False) -> str:
    """Return the reason as the audit trail keeps it; RuleBroken if it is required and missing, or too long."""
    cleaned = " ".join(reason.split())
    return check_text(cleaned, field="reason", what="The reason", max_length=500, is_required=is_required)


def check_limits(requests_per_second: int | None, burst: int | None) -> dict[str, int]:
    """Return those limits that are given, by field; RuleBroken unless they are whole numbers from 1 to 1,000,000."""
    limits = {"requests_per_second": requests_per_second, "burst": burst}
    for (field, value), what in zip(limits.items(), ("The limit per second", "The burst"), strict=True):
        if value is not None and (type(value) is not int or not 1 <= value <= 1_000_000):
            raise RuleBroken(f"{what} must be a whole number from 1 to 1,000,000.", field=field)
    return {field: value for field, value in limits.items() if value is not None}
