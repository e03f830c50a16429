"""The page of limits says what the code holds to."""

from __future__ import annotations

import importlib
import re

import pytest

from recsite.environment import BASE_DIR

ROWS = re.findall(
    r"^\| .+ \| ([\d,]+) \| `([\w.]+)\.(\w+)` \|$", (BASE_DIR / "docs/limits.md").read_text(), re.MULTILINE
)


@pytest.mark.parametrize(("stated", "module", "constant"), ROWS, ids=[constant for _, _, constant in ROWS])
def test_limit__is_what_the_page_says(stated: str, module: str, constant: str) -> None:
    assert getattr(importlib.import_module(module), constant) == int(stated.replace(",", ""))


def test_page__has_limits_of_each_kind() -> None:
    assert len(ROWS) > 20
