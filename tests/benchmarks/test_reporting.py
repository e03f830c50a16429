from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reporting import NoSuchMarks, fill, number, table


def test_table__rows__are_markdown_in_columns() -> None:
    assert table(("", "a/s"), [("one", "1"), ("three", "1,000")]) == (
        "|       |   a/s |\n| :---- | ----: |\n| one   |     1 |\n| three | 1,000 |"
    )


def test_number__none__is_a_dash() -> None:
    assert (number(None), number(1234.5), number(0.256, ".0%")) == ("–", "1,234", "26%")


def test_fill__a_marked_place__holds_the_new_content_and_nothing_else_changes(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("Before.\n\n<!-- figures: by a command -->\n\nold\n\n<!-- end of figures -->\n\nAfter.\n")
    fill(document, "figures", "new")
    fill(document, "figures", "newer")
    assert document.read_text() == (
        "Before.\n\n<!-- figures: by a command -->\n\nnewer\n\n<!-- end of figures -->\n\nAfter.\n"
    )


def test_fill__no_such_place__says_so_and_changes_nothing(tmp_path: Path) -> None:
    document = tmp_path / "page.md"
    document.write_text("<!-- figures: without an end -->\n")
    with pytest.raises(NoSuchMarks, match="figures"):
        fill(document, "figures", "new")
    assert document.read_text() == "<!-- figures: without an end -->\n"
