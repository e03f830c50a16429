"""What people can do on the dashboard, programs can do through the API: a table accounts for every address of both."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

from recsite.api.described.document import document
from recsite.api.described.reference import METHODS
from tests.routes import studio_routes

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "api.md"


def table() -> list[tuple[list[str], list[str]]]:
    """Return the rows of the document's table: names of the dashboard's addresses, and of the API's operations."""
    _, _, section = DOCUMENT.read_text().partition("## What the dashboard does, and with which operation")
    rows = re.findall(r"^\| (?!---|page )(.+?) \| (.+?) \|$", section.partition("\n## ")[0], re.MULTILINE)
    return [(re.findall("`(.+?)`", pages), re.findall("`(.+?)`", operations)) for pages, operations in rows]


def test_dashboard__each_address__is_in_the_table_with_operations() -> None:
    pages = Counter(page for pages, _ in table() for page in pages)

    assert pages == Counter(studio_routes())
    assert all(operations for _, operations in table())


def test_api__each_operation__is_in_the_table() -> None:
    operations = Counter(operation for _, operations in table() for operation in operations)

    told = [path[method] for path in document()["paths"].values() for method in METHODS if method in path]
    assert operations == Counter(operation["operationId"] for operation in told)
