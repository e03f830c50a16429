"""Parquet files, on the worker's disk or in Cloud Storage."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from models_registry.loading.report import SourceFile, SourceFiles
from models_registry.loading.sources.parquet_columns import Part, as_common, common_schema, partition_of
from models_registry.loading.sources.parquet_files import Files, Found, find_files
from models_registry.loading.sources.parquet_reading import Damaged, open_file, reading, replaced
from models_registry.loading.sources.port import Confinement, Extract

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
    location: str,
    confinement: Confinement,
    wanted: Sequence[str],
    *,
    gcs_endpoint: str | None,
    optional: Collection[str] = (),
    texts: Collection[str] = (),
) -> Iterator[Extract]:
    """Open the Parquet files that a path or glob names; the port's contract.

    Every file's footer is read first, so that rows are known beforehand and files that differ are found before the
    first row. Memory is bounded by one row group of one file. `gcs_endpoint` is an emulator of Cloud Storage to ask
    instead, without credentials.
    """
    files = find_files(location, confinement, gcs_endpoint=gcs_endpoint)
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        footers = list(pool.map(lambda found: _read_footer(files, found), files.found))
    parts = [
        Part(files.name(found), footer.schema, footer.rows, partition_of(found.path))
        for found, footer in zip(files.found, footers, strict=True)
    ]
    schema = common_schema(parts, set(wanted), optional=optional, texts=texts)
    present = {name: None for footer in footers for name in footer.schema.names}
    yield Extract(
        schema=schema,
        batches=_batches(files, parts, schema),
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


def _batches(files: Files, parts: Sequence[Part], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for found, part in zip(files.found, parts, strict=True):
        # Arrow also reads “a.b” when asked for “a”; what comes is looked up by its name.
        own = [name for name in schema.names if name in part.schema.names]
        with reading(part.name), files.open(found) as stream:
            parquet = open_file(stream, part.name)
            if parquet.metadata.num_rows != part.rows or not parquet.schema_arrow.equals(part.schema):
                raise replaced(part.name)
            rows = 0
            for batch in parquet.iter_batches(ROWS_PER_BATCH, columns=own):
                rows += batch.num_rows
                yield as_common(batch, part, schema)
            if rows != part.rows:
                raise Damaged
    files.check_unchanged()
