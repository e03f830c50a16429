"""The page for whoever writes the game names every error that serving can answer with."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from recsite.environment import BASE_DIR

PAGE = (BASE_DIR / "docs" / "serving.md").read_text()
ACTIONS = {"again", "renew", "never again"}


def errors_in_code() -> Iterator[tuple[int, str]]:
    """Yield the status and code of each error that `serving` makes, wherever it does."""
    for path in sorted((BASE_DIR / "serving").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            match node:
                case ast.Call(func=ast.Name("problem"), args=[ast.Constant(int(status)), ast.Constant(str(code)), *_]):
                    yield status, code
                case ast.Call(func=ast.Name("bad_request"), args=[ast.Constant(str(code)), *_]):
                    yield 400, code


def test_page__names_each_error_and_what_to_do() -> None:
    rows = re.findall(r"^\| (\d{3}) \| `(\w+)` \| ([\w ]+) \|", PAGE, re.MULTILINE)
    assert {action for _, _, action in rows} == ACTIONS
    stated = [(int(status), code) for status, code, _ in rows]
    assert sorted(stated) == sorted(set(errors_in_code()))
