"""One load's rows: as they came, in DuckDB, which spills to disk; and packed, on their way into the order of blocks.

DuckDB runs with external access off and its configuration locked; it sees the rows that are handed to it and nothing
else. Columns have plain names inside (`c0`, `c1` …), whatever the source calls them. Rows keep their numbers.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import duckdb
import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models_registry.loading.background import always, call, nothing, read_ahead
from models_registry.loading.decimals import DecimalColumn
from models_registry.loading.distributions import sample_rows
from models_registry.loading.placing import PREFIX_BITS, Buckets, Digests
from serving.formats.keys import SEPARATOR
from serving.formats.layouts import DecimalNumber, Kind, Layout, List

# DuckDB keeps rows in groups of 122,880; a whole number of them at a time lets it use every thread.
ROWS_PER_INSERT = 2 * 122_880
BYTES_PER_INSERT = 64 * 2**20
# A slow source must not look as if it stood still.
SECONDS_PER_INSERT = 1.0
MAX_THREADS = 4
# Rows that wait for the next stage, in so many tables at most; three stages are at work at once.
TABLES_AHEAD = 1


def select(what: str, source: str) -> str:
    """Return a query. Both parts are made of this package's own names, of numbers and of quoted texts alone."""
    return f"SELECT {what} FROM {source}"  # noqa: S608 - see the docstring


class InvalidText(ValueError):
    """A text that is not UTF-8. Its row counts from 1 in the source."""

    def __init__(self, column: str, row: int) -> None:
        super().__init__(f"column {column} holds bytes in row {row:,} that are not valid UTF-8 text")
        self.column = column
        self.row = row


class Staging:
    """One load's rows.

    What is spilled beyond `memory_mb`, and the packed rows, are in `folder`. `shared_bits` is how many equal bits the
    digests of all keys begin with.

    Attributes:
        rows: how many there are so far.
        names: the name inside of each column.
        key_fields: what makes a row's key; empty while the source lacks one of them, and rows then have no place.
        buckets: the packed rows.
    """

    def __init__(
        self,
        folder: Path,
        *,
        columns: Sequence[str],
        key_fields: Sequence[str],
        layout: Layout,
        memory_mb: int,
        shared_bits: int = 0,
    ) -> None:
        self.rows = 0
        self.names = {column: f"c{number}" for number, column in enumerate(columns)}
        self.key_fields = tuple(key_fields) if set(key_fields) <= set(columns) else ()
        self.buckets = Buckets(folder, layout, shared_bits=shared_bits)
        self._kinds = {field.name: field.kind for field in layout.fields}
        self._fields = [field.name for field in layout.fields if field.name in self.names]
        self._sample = _Sample(sample_rows(layout), shared_bits)
        # A database in memory spills as one on disk does, but takes rows several times faster: it does not compress.
        self._connection = duckdb.connect(
            config={
                "memory_limit": f"{memory_mb}MB",
                "threads": min(os.cpu_count() or 1, MAX_THREADS),
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
        spill = str(folder / "spill").replace("'", "''")
        self._connection.execute(f"SET temp_directory = '{spill}'")
        self._connection.execute("SET enable_external_access = false")
        self._connection.execute("SET lock_configuration = true")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self.buckets.close()

    @property
    def key(self) -> str:
        """SQL for a row's canonical key, as text."""
        return f" || chr({ord(SEPARATOR)}) || ".join(f"{self.names[field]}::VARCHAR" for field in self.key_fields)

    def fill(
        self,
        schema: pa.Schema,
        batches: Iterable[pa.RecordBatch],
        beat: Callable[[], None],
        *,
        may_be_ahead: Callable[[], bool] = always,
        cancel: Callable[[], None] | None = None,
    ) -> Generator[int]:
        """Take all rows; yield how many there are so far after every few hundred thousand.

        The batches, whose schema has every staged column, are gone through in another thread: the last three arguments
        are those of `read_ahead`. Three threads are at work otherwise.

        Raises:
            InvalidText: a text is not UTF-8.
            Exception: whatever the source raised.
        """
        wanted = pa.schema([schema.field(column) for column in self.names])
        self._connection.register("incoming", self._renamed(wanted.empty_table()))
        self._connection.execute(f"CREATE TABLE rows AS {select('*', 'incoming')}")

        def staged() -> Iterator[tuple[pa.Table, Digests | None]]:
            gathered = _gather(batches, wanted)
            for table in read_ahead(gathered, nothing, depth=TABLES_AHEAD, may_be_ahead=may_be_ahead):
                yield table, self._insert(table)

        rows = read_ahead(staged(), beat, depth=TABLES_AHEAD, may_be_ahead=may_be_ahead, cancel=cancel)
        for table, digests in rows:
            fields = table.select(self._fields)
            if digests is not None:
                columns = dict(zip(fields.column_names, fields.columns, strict=True))
                self.buckets.add(digests, columns, self.rows)
                self._sample.add(fields, digests.prefixes)
            self.rows += table.num_rows
            yield self.rows

    def _renamed(self, table: pa.Table) -> pa.Table:
        columns = (table[column] for column in self.names)
        # DuckDB knows no 16-bit floats.
        read = [column.cast(pa.float32()) if pa.types.is_float16(column.type) else column for column in columns]
        return pa.table(read, names=list(self.names.values()))

    def _insert(self, table: pa.Table) -> Digests | None:
        """Add rows; return their keys' digests, if they have keys."""
        self._connection.register("incoming", self._renamed(table))
        self._connection.execute(f"INSERT INTO rows {select('*', 'incoming')}")
        if not self.key_fields:
            return None
        # Whole numbers of 64 bits whose bytes stand the other way round.
        digest = f"({select(f'md5_number({self.key}) AS digest', 'incoming')})"
        halves = f"(digest & {2**64 - 1})::UBIGINT, (digest >> 64)::UBIGINT"
        first, second = self._connection.sql(select(halves, digest)).to_arrow_table().columns
        is_known = first.is_valid().to_numpy() if first.null_count else None
        first, second = (half.fill_null(0).to_numpy().byteswap() for half in (first, second))
        return Digests((first >> np.uint64(64 - PREFIX_BITS)).astype(np.uint32), second >> np.uint64(16), is_known)

    def query(self, sql: str, beat: Callable[[], None], parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Return the rows of a query that has few; it may take long."""
        interrupt = self._connection.interrupt
        return call(lambda: self._connection.execute(sql, list(parameters)).fetchall(), beat, cancel=interrupt)

    def sample(self) -> pa.Table:
        """Return the fields of the rows with the lowest digests, of the same keys always; of all if there are few."""
        return self._sample.table(self.rows)

    def keys_of(self, row_ids: Sequence[int], beat: Callable[[], None]) -> dict[int, str]:
        """Return the keys of some rows, by their numbers from 0 and in their order."""
        if not row_ids:
            return {}
        numbers = ", ".join(str(int(number)) for number in row_ids)
        found = self.query(select(f"rowid, {self.key}", f"rows WHERE rowid IN ({numbers}) ORDER BY rowid"), beat)
        return {int(row): str(key).replace(SEPARATOR, " / ") for row, key in found}

    def records(
        self, row_ids: Sequence[int], fields: Sequence[str], beat: Callable[[], None]
    ) -> list[tuple[list[str], dict[str, Any]]]:
        """Return key values (as text) and record of some rows, counted from 0, in no particular order."""
        staged = [field for field in fields if field in self.names]
        keys = [f"{self.names[field]}::VARCHAR" for field in self.key_fields]
        chosen = ", ".join([*keys, *(self.names[field] for field in staged)])
        numbers = ", ".join(str(int(number)) for number in row_ids)
        sql = select(chosen, f"rows WHERE rowid IN ({numbers})")
        interrupt = self._connection.interrupt
        found: pa.Table = call(lambda: self._connection.sql(sql).to_arrow_table(), beat, cancel=interrupt)
        texts = [column.to_pylist() for column in found.columns[: len(keys)]]
        fields_values = [
            _values(self._kinds[field], column)
            for field, column in zip(staged, found.columns[len(keys) :], strict=True)
        ]
        values = zip(*texts, *fields_values, strict=True)
        return [(list(row[: len(keys)]), dict(zip(staged, row[len(keys) :], strict=True))) for row in values]


def _values(kind: Kind, column: pa.ChunkedArray) -> list[Any]:
    """Return a field's values for the layout, to which a float32 is some number beside what was meant."""
    found: list[Any] = column.to_pylist()
    if isinstance(kind, DecimalNumber) and pa.types.is_float32(column.type):
        found = DecimalColumn(kind).meant(column.combine_chunks()).to_pylist()
    if isinstance(kind, List) and isinstance(kind.item, DecimalNumber) and pa.types.is_float32(column.type.value_type):
        of = DecimalColumn(kind.item)
        found = [None if one is None else of.meant(pa.array(one, pa.float32())).to_pylist() for one in found]
    return found


class _Sample:
    """Bottom-k sample: keep the rows with the lowest digests, 1.5 to 3 times the wanted number, whatever the total."""

    def __init__(self, rows: int, shared_bits: int) -> None:
        self._wanted = rows
        self._shared = np.uint32(shared_bits)
        self._below = 2**PREFIX_BITS
        self._kept: list[tuple[pa.Table, npt.NDArray[np.uint32]]] = []

    def add(self, rows: pa.Table, prefixes: npt.NDArray[np.uint32]) -> None:
        self._kept.append(_lowest(rows, prefixes << self._shared, self._below))
        # Halving the bound leaves about 1.5 times the wanted number.
        if sum(len(kept) for _, kept in self._kept) > 3 * self._wanted:
            self._below //= 2
            self._kept = [_lowest(*kept, self._below) for kept in self._kept]

    def table(self, rows: int) -> pa.Table:
        below = 2**PREFIX_BITS if rows <= self._wanted else 2**PREFIX_BITS * self._wanted // rows
        found = [_lowest(*kept, below)[0] for kept in self._kept]
        return pa.concat_tables(found) if found else pa.table({})


def _lowest(rows: pa.Table, prefixes: npt.NDArray[np.uint32], below: int) -> tuple[pa.Table, npt.NDArray[np.uint32]]:
    is_low = prefixes < below
    return (rows, prefixes) if is_low.all() else (rows.filter(pa.array(is_low)), prefixes[is_low])


def _gather(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Yield the batches joined to tables of a size that DuckDB likes, their texts checked."""
    waiting: list[pa.RecordBatch] = []
    size = rows = rows_before = 0
    began = time.monotonic()
    for batch in batches:
        chosen = batch.select(schema.names)
        _check_texts(chosen, rows_before)
        rows_before += batch.num_rows
        waiting.append(chosen)
        size += chosen.nbytes
        rows += chosen.num_rows
        is_late = time.monotonic() - began >= SECONDS_PER_INSERT
        if rows >= ROWS_PER_INSERT or size >= BYTES_PER_INSERT or is_late:
            yield pa.Table.from_batches(waiting)
            waiting, size, rows = [], 0, 0
            began = time.monotonic()
    if waiting:
        yield pa.Table.from_batches(waiting, schema)


def _check_texts(batch: pa.RecordBatch, rows_before: int) -> None:
    for name, column in zip(batch.schema.names, batch.columns, strict=True):
        if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
            continue
        try:
            column.validate(full=True)
        except pa.ArrowInvalid:
            raise InvalidText(name, rows_before + _first_invalid(column) + 1) from None


def _first_invalid(column: pa.Array) -> int:
    for row, raw in enumerate(column.cast(pa.large_binary()).to_pylist()):
        try:
            (raw or b"").decode()
        except UnicodeDecodeError:
            return row
    return 0
