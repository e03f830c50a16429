"""Folders that are tables of another format: their files hold rows that are no longer in the table."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from models_registry.loading.sources.confinement import shown
from models_registry.loading.sources.port import SourceProblem

# Gives the names in a folder; none where there is no such folder.
Names = Callable[[str], Iterable[str]]


def check_no_table(folders: Iterable[str], names: Names, scheme: str) -> None:
    """Refuse files that belong to a table which only its own log can tell apart from what was deleted.

    Args:
        folders: of the files, and what they lie in, as far as the studio may read.
        names: what is in a folder.
        scheme: before a path in messages.

    Raises:
        SourceProblem: one of the folders is such a table.
    """
    for folder in folders:
        kind = _format_of(folder, names)
        if kind:
            raise SourceProblem(
                f"“{shown(scheme + folder)}” is {kind}: its files also hold rows that were deleted or replaced, so "
                "they cannot be read by themselves. Write its current rows to plain Parquet files in another folder, "
                "or load it through BigQuery."
            )


def _format_of(folder: str, names: Names) -> str:
    if any(names(f"{folder}/_delta_log")):
        return "a Delta table"
    if any(name.endswith((".metadata.json", ".metadata.json.gz")) for name in names(f"{folder}/metadata")):
        return "an Iceberg table"
    if any(names(f"{folder}/.hoodie")):
        return "a Hudi table"
    if any(names(f"{folder}/_spark_metadata")):
        return "the output of a Spark stream"
    return ""
