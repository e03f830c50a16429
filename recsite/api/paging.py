"""Long lists, page by page: each answer says where the next page begins, and rows that are added disturb nothing."""

from __future__ import annotations

import json
import re
from typing import Any, NamedTuple

from django.db.models import Model, QuerySet
from rest_framework import serializers
from typing_extensions import override

from recsite.api.bodies import MAX_INTEGER, Query
from serving.formats.encoding import base64url_decode, base64url_encode

DEFAULT_LIMIT = 50
MAX_LIMIT = 200


class QueryWhole(serializers.IntegerField):
    """A whole number in an address: digits, nothing else."""

    @override
    def to_internal_value(self, data: Any) -> int:
        if not re.fullmatch("[0-9]{1,15}", str(data)):
            raise serializers.ValidationError("This must be a whole number.")
        return int(data)


class PageQuery(Query):
    """Which page of a list."""

    limit = QueryWhole(
        min_value=1, max_value=MAX_LIMIT, default=DEFAULT_LIMIT, help_text="How many at most in one answer."
    )
    cursor = serializers.CharField(
        max_length=500, required=False, help_text="`next_cursor` of the page before; left out for the first page."
    )


class Page(NamedTuple):
    """One page of rows and where the next begins."""

    rows: list[Any]
    next_cursor: str | None


def page_of(
    rows: QuerySet[Any], asked: dict[str, Any], *, by: str, kind: type[int | str] = int, is_descending: bool = False
) -> Page:
    """Return one page, ordered by a field that no two of the rows share. One query, whatever the page.

    Args:
        rows: all of them, filtered.
        asked: `limit` and `cursor`, as `PageQuery` reads them.
        by: the field, which may be another row's (`user__username`).
        kind: of the field's values.
        is_descending: the newest first.

    Raises:
        ValidationError: the cursor is none of ours.
    """
    cursor = asked.get("cursor")
    if cursor is not None:
        rows = rows.filter(**{f"{by}__{'lt' if is_descending else 'gt'}": _read(cursor, kind)})
    limit = asked["limit"]
    found = list(rows.order_by(f"-{by}" if is_descending else by)[: limit + 1])
    is_more = len(found) > limit
    return Page(found[:limit], _write(found[limit - 1], by) if is_more else None)


def _write(row: Model, by: str) -> str:
    value: Any = row
    for name in by.split("__"):
        value = getattr(value, name)
    return base64url_encode(json.dumps([value]).encode())


def _read(cursor: str, kind: type[int | str]) -> int | str:
    try:
        [value] = json.loads(base64url_decode(cursor))
    except (ValueError, TypeError, RecursionError):
        value = None
    if kind is str and isinstance(value, str) and value.isprintable():
        return value
    if kind is int and isinstance(value, int) and not isinstance(value, bool) and abs(value) <= MAX_INTEGER:
        return value
    raise serializers.ValidationError({"cursor": ["This is no cursor; take next_cursor of an answer."]})
