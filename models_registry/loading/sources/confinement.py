"""Which files, objects and tables a studio may read: pure rules, and file names matched without leaving a root.

A refusal is the same whether or not the thing exists, so that nobody can feel their way around a disk or a project.
"""

from __future__ import annotations

import errno
import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from models_registry.loading.sources.port import SourceProblem
from models_registry.models import ProblemCode

GS_SCHEME = "gs://"
_WILDCARD = re.compile(r"[*?\[]")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]")
# Project (perhaps of a domain: "example.com:project"), dataset, table. No decorator ("$", "@") and no wildcard.
_TABLE = re.compile(r"((?:[a-z0-9.-]{3,60}:)?[a-z0-9-]{3,60})\.([A-Za-z0-9_]{1,1024})\.([\w -]{1,1024})")
# What a query can read without BigQuery listing it among the tables it references.
_UNLISTED = re.compile(r"external_query|information_schema|__tables", re.IGNORECASE)
_ESCAPE = re.compile(r"\\(?:[xX]([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([0-3][0-7]{2}))")
MAX_FILES = 10_000
# BigQuery lists at most this many of the tables that a query references.
MAX_REFERENCED = 50
MAX_SHOWN = 200
# For a folder on the way Linux asks only that it may be passed through; elsewhere it must be readable.
_ON_THE_WAY = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW

Listing = Callable[[str], Iterable[tuple[str, bool]]]


def shown(location: str) -> str:
    """Return a location as a message quotes it: on one line, at most 200 characters, “?” for what is not UTF-8."""
    text = " ".join(location.encode(errors="replace").decode().split())
    return text if len(text) <= MAX_SHOWN else f"{text[:MAX_SHOWN]}…"


def has_wildcard(segment: str) -> bool:
    """Tell whether a segment of a path matches more than itself."""
    return _WILDCARD.search(segment) is not None


def split_glob(path: str, location: str) -> tuple[str, tuple[str, ...]]:
    """Return the folder that a path certainly lies below, and the segments of the pattern below that folder.

    A path without a wildcard gives its own folder and one segment, its name. Messages quote `location`.

    Raises:
        SourceProblem: a segment is empty, `.` or `..`, or there is more than one `**`.
    """
    segments = path.split("/")
    if any(segment in {"", ".", ".."} for segment in segments[1:]) or "\0" in path or "\\" in path:
        raise SourceProblem(
            f"“{shown(location)}” is not a plain path: leave out empty parts, “.”, “..” and backslashes."
        )
    if segments.count("**") > 1:
        raise SourceProblem(f"“{shown(location)}” contains “**” more than once.")
    literal = 0
    while literal < len(segments) - 1 and not has_wildcard(segments[literal]):
        literal += 1
    pattern = segments[literal:]
    return "/".join(segments[:literal]), tuple([*pattern, "*"] if pattern[-1] == "**" else pattern)


def local_folder(location: str, roots: Sequence[str]) -> tuple[Path, tuple[str, ...]]:
    """Return the real folder and the pattern below it that a local location names, if it lies below an allowed root.

    Raises:
        SourceProblem: it does not, there is no allowed root, or it is no absolute, plain path.
    """
    if not roots:
        raise SourceProblem(
            "This studio may not read files of the worker: platform staff have not allowed any folder for it.",
            ProblemCode.SOURCE_NOT_ALLOWED,
        )
    if not location.startswith("/"):
        raise SourceProblem(f"“{shown(location)}” is neither an absolute path nor a gs:// address.")
    folder, pattern = split_glob(location, location)
    return check_local(Path(folder or "/"), roots, location), pattern


def check_local(path: Path, roots: Sequence[str], location: str) -> Path:
    """Return the real path of a file or folder, every symbolic link followed, if it is an allowed root or below one.

    Raises:
        SourceProblem: it is not.
    """
    real = Path(os.path.realpath(path))
    for root in roots:
        if Path(root).is_absolute() and real.is_relative_to(os.path.realpath(root)):
            return real
    raise SourceProblem(
        f"This studio may not read “{shown(location)}”: it is not in a folder that platform staff have allowed.",
        ProblemCode.SOURCE_NOT_ALLOWED,
    )


def open_real(path: str, flags: int = 0) -> int:
    """Open for reading what `check_local` gave, and return the descriptor, which is the caller's to close.

    What was checked is a path, and whoever may write below it can put a link into any place of it a moment later. So
    the way is gone name by name and no link is followed: what opens lies where the check saw it.

    Raises:
        OSError: it is not there, may not be read, or a link took a place on the way (`is_link_on_the_way`).
    """
    *folders, name = path.removeprefix("/").split("/")
    folder = os.open("/", _ON_THE_WAY)
    try:
        for segment in folders:
            outer, folder = folder, os.open(segment, _ON_THE_WAY, dir_fd=folder)
            os.close(outer)
        return os.open(name or ".", os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
    finally:
        os.close(folder)


def is_link_on_the_way(error: OSError) -> bool:
    """Tell whether `open_real` met a link, or a file, in the place of a folder or of what it was to open."""
    return error.errno in {errno.ELOOP, errno.ENOTDIR}


def gs_folder(location: str, prefixes: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    """Return `bucket/folder` and the pattern below it that a `gs://` location names, if an allowed prefix covers it.

    A prefix ends at a path boundary: `gs://b/fo` allows `gs://b/fo/x.parquet`, not `gs://b/foo/x.parquet`.

    Raises:
        SourceProblem: none does, there is no allowed prefix, or it is no plain address.
    """
    if not prefixes:
        raise SourceProblem(
            "This studio may not read Cloud Storage: platform staff have not allowed any gs:// address for it.",
            ProblemCode.SOURCE_NOT_ALLOWED,
        )
    path = location.removeprefix(GS_SCHEME)
    folder, pattern = split_glob(path, location)
    if not _BUCKET.fullmatch(path.split("/", 1)[0]) or not folder:
        raise SourceProblem(f"“{shown(location)}” is not an address of the form gs://bucket/folder/file.parquet.")
    # The text up to the first wildcard: every match starts with it, so what covers it covers every match.
    literal = f"{GS_SCHEME}{_WILDCARD.split(path, maxsplit=1)[0]}"
    for prefix in prefixes:
        bucket, _, rest = prefix.removeprefix(GS_SCHEME).partition("/")
        if (
            prefix.startswith(GS_SCHEME)
            and _BUCKET.fullmatch(bucket)
            and not {".", ".."} & set(rest.split("/"))
            and (literal.startswith(f"{prefix.rstrip('/')}/"))
        ):
            return folder, pattern
    raise SourceProblem(
        f"This studio may not read “{shown(location)}”: it is not under a gs:// address that platform staff have "
        "allowed.",
        ProblemCode.SOURCE_NOT_ALLOWED,
    )


class OtherwiseNamed(Exception):
    """A folder that was named outright has no Parquet files of its own, but others that another pattern takes."""

    def __init__(self, path: str, *, partition: str = "") -> None:
        super().__init__(path)
        self.path = path
        self.partition = partition

    def words(self, scheme: str) -> str:
        """Return the sentence for it; `scheme` comes before paths."""
        path = f"{scheme}{self.path}"
        if self.partition:
            return (
                f"“{shown(path)}” is divided into folders, such as “{shown(self.partition)}”. Write "
                f"“{shown(f'{path}/**/*.parquet')}” to read all of them, or name one."
            )
        return f"No file in “{shown(path)}” ends in .parquet. Write “{shown(f'{path}/*')}” to read every file in it."


def expand(folder: str, pattern: Sequence[str], listing: Listing) -> Iterator[str]:
    """Yield the files below a folder that match a pattern, in name order.

    `*`, `?` and `[…]` match within one name, `**` any number of folders; a name that is there letter by letter is meant
    alone. As in Spark and Hive, a wildcard at the start of a segment does not match names that begin with `.` or `_`
    (markers and half-written files). A folder that is named outright stands for its Parquet files. `listing` gives the
    names in a folder, each with whether it is a folder, and must refuse what is out of bounds.

    Raises:
        OtherwiseNamed: a folder that is named outright wants another pattern.
    """
    head, rest = pattern[0], pattern[1:]
    names = sorted(listing(folder))
    if head == "**":
        yield from expand(folder, rest, listing)
        for name, is_folder in names:
            if is_folder and name[0] not in "._":
                yield from expand(f"{folder}/{name}", pattern, listing)
        return
    exact = [(name, is_folder) for name, is_folder in names if name == head]
    for name, is_folder in exact or names:
        if not _matches(name, head):
            continue
        if rest and is_folder:
            yield from expand(f"{folder}/{name}", rest, listing)
        elif not rest and not is_folder:
            yield f"{folder}/{name}"
        elif not rest and name == head:
            yield from _whole_folder(f"{folder}/{name}", list(listing(f"{folder}/{name}")))


def of_folder(names: Iterable[tuple[str, bool]]) -> Iterator[str]:
    """Yield those names in a folder which it stands for when it is named outright, in order."""
    for name, is_folder in sorted(names):
        if not is_folder and name[0] not in "._" and name.lower().endswith((".parquet", ".parq")):
            yield name


def _whole_folder(path: str, names: Sequence[tuple[str, bool]]) -> Iterator[str]:
    visible = [(name, is_folder) for name, is_folder in sorted(names) if name[0] not in "._"]
    partitions = [name for name, is_folder in visible if is_folder and "=" in name]
    if partitions:
        raise OtherwiseNamed(path, partition=partitions[0])
    found = list(of_folder(names))
    if not found and any(not is_folder for _, is_folder in visible):
        raise OtherwiseNamed(path)
    yield from (f"{path}/{name}" for name in found)


def _matches(name: str, segment: str) -> bool:
    if name == segment:
        return True
    if name[0] in "._" and _WILDCARD.match(segment):
        return False
    return fnmatchcase(name, segment)


def at_most_max_files(files: Iterator[str], location: str) -> list[str]:
    """Return the files as a list.

    Raises:
        SourceProblem: there are none, or more than 10,000.
    """
    found = list(islice(files, MAX_FILES + 1))
    if len(found) > MAX_FILES:
        raise SourceProblem(
            f"“{shown(location)}” matches more than {MAX_FILES:,} files. Write fewer, larger ones.",
            ProblemCode.SOURCE_OVER_LIMIT,
        )
    if not found:
        raise SourceProblem(f"No file matches “{shown(location)}”.", ProblemCode.SOURCE_MISSING)
    return found


class TableName(NamedTuple):
    """A table of BigQuery, by its three names."""

    project: str
    dataset: str
    table: str

    def __str__(self) -> str:
        return ".".join(self)


@dataclass(frozen=True)
class Referenced:
    """What BigQuery says a query does and reads, as `project.dataset` and a word for the thing in it."""

    statement: str
    things: tuple[tuple[str, str], ...]
    tables: int


def bigquery_table(location: str, datasets: Sequence[str]) -> TableName:
    """Return the table that a location names, if it lies in an allowed dataset.

    Raises:
        SourceProblem: it does not, there is no allowed dataset, or it is not `project.dataset.table`.
    """
    require_datasets(datasets)
    match = _TABLE.fullmatch(location.strip())
    if match is None:
        raise SourceProblem(
            f"“{shown(location)}” is not of the form project.dataset.table; for several tables use a query."
        )
    name = TableName(*match.groups())
    if f"{name.project}.{name.dataset}" not in datasets:
        raise SourceProblem(
            f"This studio may not read “{name}”: platform staff have not allowed the dataset "
            f"“{name.project}.{name.dataset}”.",
            ProblemCode.SOURCE_NOT_ALLOWED,
        )
    return name


def require_datasets(datasets: Sequence[str]) -> None:
    """Raise SourceProblem if the studio may read nothing in BigQuery."""
    if not datasets:
        raise SourceProblem(
            "This studio may not read BigQuery: platform staff have not allowed any dataset for it.",
            ProblemCode.SOURCE_NOT_ALLOWED,
        )


def check_query_text(query: str) -> None:
    """Refuse what BigQuery runs without saying what it reads.

    BigQuery's own list of referenced tables is the rule (`check_referenced`). It leaves out other databases behind a
    connection, the metadata views and trained models, so their words are refused wherever they stand, also spelled
    with escapes. That is coarser than a parser and cannot be fooled like one.

    Raises:
        SourceProblem: the query holds such a word.
    """
    plain = _ESCAPE.sub(lambda match: chr(int(next(filter(None, match.groups())), 8 if match[4] else 16)), query)
    for text in (query, plain):
        found = _UNLISTED.search(text)
        if found is not None:
            raise SourceProblem(
                f"A query may not use {found[0].upper()}: BigQuery does not say what is read through it, so it cannot "
                "be checked against what this studio may read.",
                ProblemCode.SOURCE_NOT_ALLOWED,
            )
        words = {word.casefold() for word in re.findall(r"\w+", text)}
        if {"ml", "model"} <= words:
            raise SourceProblem(
                "A query may not use ML functions: BigQuery does not say which models they read, so they cannot be "
                "checked against what this studio may read.",
                ProblemCode.SOURCE_NOT_ALLOWED,
            )


def check_referenced(referenced: Referenced, datasets: Sequence[str]) -> None:
    """Check what BigQuery says a query reads against what the studio may read.

    Raises:
        SourceProblem: it is not one SELECT, reads something else, or BigQuery's list is empty or may be incomplete.
    """
    require_datasets(datasets)
    if referenced.statement != "SELECT":
        raise SourceProblem("A query must be one SELECT statement, and nothing else.")
    check_datasets(referenced, datasets)


def check_datasets(referenced: Referenced, datasets: Sequence[str]) -> None:
    """Raise SourceProblem unless everything in BigQuery's list lies in these datasets and the list is whole."""
    if not referenced.tables:
        raise SourceProblem(
            "BigQuery does not say which tables this query reads, so it cannot be checked against what this studio "
            "may read.",
            ProblemCode.SOURCE_NOT_ALLOWED,
        )
    if referenced.tables >= MAX_REFERENCED:
        raise SourceProblem(
            f"The query reads {MAX_REFERENCED} tables or more, and BigQuery does not list more than that, so they "
            "cannot be checked against what this studio may read; read fewer tables.",
            ProblemCode.SOURCE_NOT_ALLOWED,
        )
    for dataset, thing in referenced.things:
        if dataset not in datasets:
            raise SourceProblem(
                f"This studio may not read {thing}, which the query uses: platform staff have not allowed the "
                f"dataset “{dataset}”.",
                ProblemCode.SOURCE_NOT_ALLOWED,
            )
