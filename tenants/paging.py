"""Long lists, page by page: a cursor says where the next page begins, and rows that are added disturb nothing."""

from __future__ import annotations

import json
from typing import Any, Generic, NamedTuple, TypeVar

from django.db.models import QuerySet

from serving.formats.encoding import base64url_decode, base64url_encode
from serving.formats.layouts import MAX_INTEGER

Row = TypeVar("Row")


class Page(NamedTuple, Generic[Row]):
    """One page of rows.

    Attributes:
        rows: its rows.
        next_cursor: where the next page begins; None on the last.
        beyond: the first row of the next page.
    """

    rows: list[Row]
    next_cursor: str | None
    beyond: Row | None


def page_of(
    rows: QuerySet[Any], *, by: str, limit: int, after: int | str | None = None, is_descending: bool = False
) -> Page[Any]:
    """Return one page of at most `limit` rows. One query, as fast for the last page as for the first.

    No two rows share the value of `by`, the field that orders them; it may be another row's (`user__username`). `after`
    is the last value of it on the page before, as `read_cursor` returns it; None for the first page.
    """
    if after is not None:
        rows = rows.filter(**{f"{by}__{'lt' if is_descending else 'gt'}": after})
    found = list(rows.order_by(f"-{by}" if is_descending else by)[: limit + 1])
    if len(found) <= limit:
        return Page(found, None, None)
    last = found[limit - 1]
    for name in by.split("__"):
        last = getattr(last, name)
    return Page(found[:limit], write_cursor(last), found[limit])


def write_cursor(value: int | str) -> str:
    """Return the cursor of the page after this value."""
    return base64url_encode(json.dumps([value]).encode())


def read_cursor(cursor: str, kind: type[int | str] = int) -> int | str | None:
    """Return the value in a cursor; None unless it is one of ours with a value of this kind."""
    try:
        [value] = json.loads(base64url_decode(cursor))
    except (ValueError, TypeError, RecursionError):
        return None
    is_ours = isinstance(value, kind) and not isinstance(value, bool)
    is_ours = is_ours and (value.isprintable() if isinstance(value, str) else abs(value) <= MAX_INTEGER)
    return value if is_ours else None
