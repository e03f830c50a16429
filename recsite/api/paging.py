"""How the API is asked for one page of a list."""

from __future__ import annotations

import re
from typing import Any

from django.db.models import QuerySet
from rest_framework import serializers
from typing_extensions import override

from recsite.api.bodies import Query
from tenants import paging
from tenants.paging import Page, read_cursor

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
        min_value=1, max_value=MAX_LIMIT, default=DEFAULT_LIMIT, help_text="The most rows in one answer."
    )
    cursor = serializers.CharField(
        max_length=500, required=False, help_text="`next_cursor` of the page before; leave it out for the first page."
    )


def page_of(
    rows: QuerySet[Any], asked: dict[str, Any], *, by: str, kind: type[int | str] = int, is_descending: bool = False
) -> Page[Any]:
    """Return the page that is asked for (`tenants.paging.page_of`).

    Args:
        rows: all of them.
        asked: what a `PageQuery` read. What it has beyond limit and cursor filters: a field's `source` is the lookup.
        by: the field that orders them.
        kind: of that field's values.
        is_descending: the newest first.

    Raises:
        ValidationError: the cursor is none of ours.
    """
    lookups = dict(asked)
    limit, cursor, after = lookups.pop("limit"), lookups.pop("cursor", None), None
    if cursor is not None:
        after = read_cursor(cursor, kind)
        if after is None:
            raise serializers.ValidationError({"cursor": ["This isn’t a cursor. Send the next_cursor of an answer."]})
    return paging.page_of(rows.filter(**lookups), by=by, limit=limit, after=after, is_descending=is_descending)
