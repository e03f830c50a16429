"""What a cursor holds, and what is none."""

from __future__ import annotations

import pytest

from serving.formats.encoding import base64url_encode
from tenants.paging import read_cursor, write_cursor


@pytest.mark.parametrize("value", [0, 7, 2**53 - 1, "mara", "Größe", ""])
def test_cursor__written__reads_back(value: int | str) -> None:
    assert read_cursor(write_cursor(value), type(value)) == value


@pytest.mark.parametrize(
    "cursor",
    [
        *("", "7", "nonsense", "=", "é", "9" * 400),
        *(
            base64url_encode(text.encode())
            for text in ("7", "[]", "[7, 8]", "[true]", "[null]", "[1.5]", "[9e99]", "{}")
        ),
        base64url_encode(f"[{2**53}]".encode()),
        base64url_encode(b"[" * 100_000),
        base64url_encode(b"\xff"),
        write_cursor("7"),
    ],
)
def test_cursor__none_of_ours__is_none(cursor: str) -> None:
    assert read_cursor(cursor) is None


@pytest.mark.parametrize("value", [7, "\0", "a\nb", "\ud800"])
def test_cursor__of_another_kind_or_with_unprintable_text__is_none(value: int | str) -> None:
    assert read_cursor(write_cursor(value), str) is None
