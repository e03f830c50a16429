"""Rows on their way: Arrow batches into DuckDB, which spills to disk, and out again in the order of their blocks.

DuckDB runs with external access off and its configuration locked; it sees the rows that are handed to it and nothing
else. Columns have plain names inside (`c0`, `c1` …), whatever the source calls them.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import duckdb
import pyarrow as pa

from models_registry.loading.background import call, read_ahead
from serving.formats.keys import SEPARATOR

# DuckDB keeps rows in groups of 122,880; a whole number of them at a time lets it use every thread.
ROWS_PER_INSERT = 4 * 122_880
BYTES_PER_INSERT = 64 * 2**20
# A slow source must not look as if it stood still.
SECONDS_PER_INSERT = 1.0
ROWS_PER_BATCH = 122_880
BYTES_PER_BATCH = 64 * 2**20
MAX_THREADS = 4

# Columns of `in_block_order` that no field can be called like.
BLOCK = "\x00block"
FINGERPRINT = "\x00fingerprint"


def select(what: str, source: str) -> str:
    """Give a query. Both parts are made of this package's own names, of numbers and of quoted texts alone."""
    return f"SELECT {what} FROM {source}"  # noqa: S608 - see the docstring


def block_of(block_bits: int) -> str:
    """Give SQL for a row's block number."""
    return f"(h >> {32 - block_bits})" if block_bits else "0::UINTEGER"


class InvalidText(ValueError):
    """A text that is not UTF-8.

    Attributes:
        column: its column.
        row: its row in the source, from 1.
    """

    def __init__(self, column: str, row: int) -> None:
        super().__init__(f"column {column} holds bytes in row {row:,} that are not valid UTF-8 text")
        self.column = column
        self.row = row


class Staging:
    """One load's rows in a DuckDB database of its own.

    Attributes:
        rows: how many are in it.
        names: the name inside of each column.
        key_fields: what makes a row's key; empty while the source lacks one of them, and rows then have no place.
    """

    def __init__(self, folder: Path, *, columns: Sequence[str], key_fields: Sequence[str], memory_mb: int) -> None:
        self.rows = 0
        self.names = {column: f"c{number}" for number, column in enumerate(columns)}
        self.key_fields = tuple(key_fields) if set(key_fields) <= set(columns) else ()
        self._connection = duckdb.connect(
            str(folder / "rows.duckdb"),
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
        cancel: Callable[[], None] | None = None,
    ) -> Generator[int]:
        """Take all rows; give how many there are so far after every few hundred thousand.

        Args:
            schema: of the batches; it must have every staged column.
            batches: is gone through in another thread.
            beat: see `read_ahead`.
            cancel: see `read_ahead`.

        Raises:
            InvalidText: a text is not UTF-8.
            Exception: whatever the source raised.
        """
        wanted = pa.schema([schema.field(column) for column in self.names])
        self._insert(self._renamed(wanted.empty_table()), "CREATE TABLE rows AS")
        for table in read_ahead(_gather(batches, wanted), beat, cancel=cancel):
            self._insert(self._renamed(table), "INSERT INTO rows")
            self.rows += table.num_rows
            yield self.rows

    def _renamed(self, table: pa.Table) -> pa.Table:
        columns = [_for_duckdb(table[column]) for column in self.names]
        return pa.table(columns, names=list(self.names.values()))

    def _insert(self, table: pa.Table, statement: str) -> None:
        """Add rows, each with its place: `h` is the first 4 bytes of its digest, `fingerprint` bytes 8 to 13."""
        columns, source = "NULL::UINTEGER AS h, NULL::UBIGINT AS fingerprint", "incoming"
        if self.key_fields:
            columns = "('0x' || digest[1:8])::UINTEGER AS h, ('0x' || digest[17:28])::UBIGINT AS fingerprint"
            source = f"({select(f'*, md5({self.key}) AS digest', 'incoming')})"
        self._connection.register("incoming", table)
        self._connection.execute(f"{statement} {select(', '.join([*self.names.values(), columns]), source)}")
        self._connection.unregister("incoming")

    def query(self, sql: str, beat: Callable[[], None], parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """Give the rows of a query that has few; it may take long."""
        return call(
            lambda: list(self._connection.execute(sql, list(parameters)).fetchall()),
            beat,
            cancel=self._connection.interrupt,
        )

    def in_block_order(
        self,
        fields: Sequence[str],
        block_bits: int,
        max_row_bytes: int,
        beat: Callable[[], None],
        *,
        end_block: int | None = None,
    ) -> Generator[pa.RecordBatch]:
        """Give all rows ordered by block and fingerprint.

        Args:
            fields: columns to give under their own names; one that is not staged is left out.
            block_bits: as `serving.formats.keys.block_bits_for` gives them.
            max_row_bytes: how long a row can be; bounds the rows of a batch.
            beat: see `read_ahead`.
            end_block: only rows of blocks before this one; None for all.

        Returns:
            Batches of `BLOCK` (uint32), `FINGERPRINT` (uint64) and the fields, read ahead of their use.
        """
        block = block_of(block_bits)
        staged = [field for field in fields if field in self.names]
        chosen = "".join(f", {self.names[field]}" for field in staged)
        where = "" if end_block is None else f" WHERE h < {end_block << (32 - block_bits)}"
        sql = select(f"{block} AS block, fingerprint{chosen}", f"rows{where} ORDER BY block, fingerprint")
        rows = max(1024, min(ROWS_PER_BATCH, BYTES_PER_BATCH // max(1, max_row_bytes)))

        def batches() -> Iterator[pa.RecordBatch]:
            for batch in self._connection.sql(sql).to_arrow_reader(rows):
                yield batch.rename_columns([BLOCK, FINGERPRINT, *staged])

        return read_ahead(batches(), beat, cancel=self._connection.interrupt)

    def sample(self, fields: Sequence[str], rows: int, beat: Callable[[], None]) -> pa.Table:
        """Give about so many rows, or all if there are fewer: those of the lowest digests, so always of the same keys.

        Args:
            fields: columns to give under their own names; one that is not staged is left out.
            rows: how many.
            beat: see `read_ahead`.
        """
        staged = [field for field in fields if field in self.names]
        columns = ", ".join([*(self.names[field] for field in staged), "1"])
        where = "" if self.rows <= rows else f" WHERE h < {2**32 * rows // self.rows}"
        sql = select(columns, f"rows{where}")
        found: pa.Table = call(
            lambda: self._connection.sql(sql).to_arrow_table(), beat, cancel=self._connection.interrupt
        )
        return found.rename_columns([*staged, "\x00"]).select(staged)

    def row_at(self, block: int, fingerprint: int, block_bits: int, beat: Callable[[], None]) -> tuple[int, str]:
        """Give the number (from 1) and key of the row in a place."""
        where = f"rows WHERE fingerprint = {fingerprint} AND {block_of(block_bits)} = {block}"
        row, key = self.query(select(f"rowid, {self.key}", where), beat)[0]
        return int(row) + 1, str(key).replace(SEPARATOR, " / ")

    def keys_at(self, places: Sequence[tuple[int, int]], block_bits: int, beat: Callable[[], None]) -> list[str]:
        """Give the keys of the rows in some places (block, fingerprint), in no particular order."""
        is_there = [f"fingerprint = {print_} AND {block_of(block_bits)} = {block}" for block, print_ in places]
        if not is_there:
            return []
        found = self.query(select(self.key, f"rows WHERE {' OR '.join(is_there)} ORDER BY rowid"), beat)
        return [str(key).replace(SEPARATOR, " / ") for (key,) in found]

    def records(
        self, row_ids: Sequence[int], fields: Sequence[str], beat: Callable[[], None]
    ) -> list[tuple[list[str], dict[str, Any]]]:
        """Give key values (as text) and record of some rows, counted from 0, in no particular order."""
        staged = [field for field in fields if field in self.names]
        keys = [f"{self.names[field]}::VARCHAR" for field in self.key_fields]
        chosen = ", ".join([*keys, *(self.names[field] for field in staged)])
        numbers = ", ".join(str(int(number)) for number in row_ids)
        sql = select(chosen, f"rows WHERE rowid IN ({numbers})")
        found: pa.Table = call(
            lambda: self._connection.sql(sql).to_arrow_table(), beat, cancel=self._connection.interrupt
        )
        values = zip(*(column.to_pylist() for column in found.columns), strict=True)
        return [(list(row[: len(keys)]), dict(zip(staged, row[len(keys) :], strict=True))) for row in values]


def _for_duckdb(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Give a column in a type that DuckDB reads; it knows no 16-bit floats."""
    return column.cast(pa.float32()) if pa.types.is_float16(column.type) else column


def _gather(batches: Iterable[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.Table]:
    """Give the batches joined to tables of a size that DuckDB likes, their texts checked."""
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
