"""Parquet files, on the worker's disk or in Cloud Storage."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from models_registry.loading.report import SourceFile, SourceFiles
from models_registry.loading.sources.confinement import shown
from models_registry.loading.sources.parquet_files import Files, Found, find_files
from models_registry.loading.sources.parquet_reading import Damaged, open_file, reading, replaced
from models_registry.loading.sources.port import Confinement, Extract, SourceProblem

ROWS_PER_BATCH = 65_536
FOOTERS_AT_ONCE = 8
# A report names so many files; of the others it has the sums.
MAX_REPORTED = 100


@dataclass(frozen=True)
class _Footer:
    """What one file says of itself: its columns, and how many rows it holds."""

    schema: pa.Schema
    rows: int


@contextmanager
def open_parquet(
    location: str, confinement: Confinement, wanted: Sequence[str], *, gcs_endpoint: str | None
) -> Iterator[Extract]:
    """Open the Parquet files that a path or glob names; the port's contract.

    Every file's footer is read first, so that rows are known beforehand and files that differ are found before the
    first row. Memory is bounded by one row group of one file. `gcs_endpoint` is an emulator of Cloud Storage to ask
    instead, without credentials.
    """
    files = find_files(location, confinement, gcs_endpoint=gcs_endpoint)
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        footers = list(pool.map(lambda found: _read_footer(files, found), files.found))
    schema = _common_schema(files, footers, wanted)
    present = {name: None for footer in footers for name in footer.schema.names}
    yield Extract(
        schema=schema,
        batches=_batches(files, footers, schema),
        rows_expected=sum(footer.rows for footer in footers),
        snapshot_at=None,
        extra_columns=tuple(name for name in present if name not in set(wanted)),
        files=_reported(files, footers),
    )


def _reported(files: Files, footers: list[_Footer]) -> SourceFiles:
    first = [
        SourceFile(
            files.name(found),
            found.size_bytes,
            _moment(found.modified_ns),
            footer.rows,
        )
        for found, footer in zip(files.found[:MAX_REPORTED], footers, strict=False)
    ]
    size_bytes = sum(found.size_bytes for found in files.found)
    return SourceFiles(len(files.found), size_bytes, sum(footer.rows for footer in footers), tuple(first))


def _moment(nanoseconds: int) -> datetime | None:
    """Return a file's time to the second; None for one that a clock gone wrong wrote."""
    try:
        return datetime.fromtimestamp(nanoseconds // 10**9, UTC)
    except (ValueError, OverflowError):
        return None


def _read_footer(files: Files, found: Found) -> _Footer:
    name = files.name(found)
    with reading(name), files.open(found) as stream:
        parquet = open_file(stream, name)
        return _Footer(parquet.schema_arrow, parquet.metadata.num_rows)


def _common_schema(files: Files, footers: list[_Footer], wanted: Sequence[str]) -> pa.Schema:
    """Return the wanted columns as every file has them.

    Raises:
        SourceProblem: a file has another set of them or other types than the first, or names a column twice.
    """
    schemas = []
    for found, footer in zip(files.found, footers, strict=True):
        names = [name for name in footer.schema.names if name in set(wanted)]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SourceProblem(f"“{shown(files.name(found))}” has two columns named “{twice}”.")
        schemas.append({name: _plain(footer.schema.field(name).type) for name in names})
    first, first_name = schemas[0], shown(files.name(files.found[0]))
    for found, schema in zip(files.found, schemas, strict=True):
        for name in [*first, *schema]:
            if first.get(name) != schema.get(name):
                raise SourceProblem(
                    f"Column “{name}” is {schema.get(name, 'missing')} in “{shown(files.name(found))}” "
                    f"but {first.get(name, 'missing')} in “{first_name}”: all files must have the same columns."
                )
    return pa.schema(list(first.items()))


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return the type of a column's values: how writers choose to lay texts out, file by file, is no concern of a load.

    Dictionaries become what is in them and views of texts, which not all of Arrow can work with, plain texts; in lists
    too. Lists that are views stay what they are, and are refused with the columns: Arrow does not read them reliably.
    """
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type))
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain(kind.value_type))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type), kind.list_size)
    return kind


def _batches(files: Files, footers: list[_Footer], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for found, footer in zip(files.found, footers, strict=True):
        name = files.name(found)
        with reading(name), files.open(found) as stream:
            parquet = open_file(stream, name)
            if parquet.metadata.num_rows != footer.rows or not parquet.schema_arrow.equals(footer.schema):
                raise SourceProblem(replaced(name))
            rows = 0
            for batch in parquet.iter_batches(ROWS_PER_BATCH, columns=schema.names):
                rows += batch.num_rows
                # Arrow also reads “a.b” when asked for “a”, and gives columns in the file's order.
                yield batch.select(schema.names).cast(schema)
            if rows != footer.rows:
                raise Damaged
    files.check_unchanged()
