"""The port that every kind of source implements, and the words it shares with the loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import pyarrow as pa

from models_registry.loading.report import SourceFiles
from models_registry.models import ProblemCode


class SourceProblem(Exception):
    """A source that cannot be read. The message is one clear sentence for the people who own it, without a secret."""

    def __init__(self, sentence: str, code: ProblemCode = ProblemCode.SOURCE_UNREADABLE) -> None:
        super().__init__(sentence)
        self.code = code


@dataclass(frozen=True)
class Confinement:
    """What staff allow one studio to read. An empty tuple refuses every source of that kind."""

    datasets: tuple[str, ...]
    gs_prefixes: tuple[str, ...]
    local_roots: tuple[str, ...]


# Into so many parts a large source is cut, by the first 10 bits of its keys' digests.
PARTITIONS = 1024


@dataclass(frozen=True)
class Scratch:
    """A copy of a source's wanted columns that can be read in parts, each a range of the keys' digests.

    `table` is project.dataset.table.
    """

    table: str
    rows: int


@dataclass(frozen=True)
class Extract:
    """A source that has been opened: its rows come as Arrow batches, a bounded number of them in memory at a time.

    `schema` is that of every batch: the wanted columns that exist, in source order, with the types the source has
    (dictionaries decoded). `batches` may be gone through once and raises SourceProblem where reading fails.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    rows_expected: int | None
    snapshot_at: datetime | None
    extra_columns: tuple[str, ...]
    files: SourceFiles | None = None
    # Makes the copy, given the key fields and a job's labels; None for a source that is read by one worker.
    partition: Callable[[Sequence[str], Mapping[str, str]], Scratch] | None = None
