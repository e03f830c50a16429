"""What every benchmark does with its figures: tables, a JSON file, and the marked parts of a document."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks.site import ROOT


class NoSuchMarks(RuntimeError):
    """A document has no such marks."""


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a Markdown table that also reads well as text: the first column to the left, the others to the right."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        first, *others = (
            cell.ljust(width) if index == 0 else cell.rjust(width)
            for index, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        return f"| {' | '.join((first, *others))} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join((line(head), line(rule), *(line(row) for row in rows)))


def number(value: float | None, form: str = ",.0f") -> str:
    """Return a figure; a dash where there is none."""
    return "–" if value is None else format(value, form)


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write a run's figures."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n")


def stamp() -> dict[str, str]:
    """Return when this is, and of which commit the code is; “and changes” where it is not quite that commit."""

    def git(*arguments: str) -> str:
        done = subprocess.run(
            ["git", *arguments],  # noqa: S607 - whichever git the user has
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.stdout.strip()

    commit = git("rev-parse", "--short", "HEAD") or "unknown"
    changes = " and changes" if git("status", "--porcelain", "--untracked-files=no", "--", "*.py") else ""
    return {"at": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"), "commit": commit + changes}


def fill(document: Path, name: str, content: str) -> None:
    """Replace what stands between `<!-- NAME: … -->` and `<!-- end of NAME -->`.

    Raises:
        NoSuchMarks: there are no such marks.
    """
    text = document.read_text()
    start, end = f"<!-- {name}:", f"<!-- end of {name} -->"
    before, found, rest = text.partition(start)
    comment, closed, rest = rest.partition("-->\n")
    _, ended, after = rest.partition(end)
    if not (found and closed and ended):
        raise NoSuchMarks(f"{document} has no marks “{name}”")
    document.write_text(f"{before}{start}{comment}-->\n\n{content}\n\n{end}{after}")
