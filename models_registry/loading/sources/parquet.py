"""Parquet files, on the worker's disk or in Cloud Storage."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from models_registry.loading.sources import confinement as rules
from models_registry.loading.sources.confinement import GS_SCHEME, shown
from models_registry.loading.sources.port import Confinement, Extract, SourceProblem

ROWS_PER_BATCH = 65_536
FOOTERS_AT_ONCE = 8
# How long Cloud Storage may fail one call before that is the answer; the client retries in between.
GCS_RETRY_LIMIT = timedelta(seconds=10)


@dataclass(frozen=True)
class _Files:
    """Files that have been found and may be read: `paths` are as `filesystem` takes them, local ones real."""

    filesystem: fs.FileSystem
    scheme: str
    paths: list[str]

    def name(self, path: str) -> str:
        return f"{self.scheme}{path}"

    def open(self, path: str) -> pa.NativeFile:
        """Open one of the files; a local one only where it was when it was checked, with no link followed.

        Raises:
            SourceProblem: it is a pipe or a device by now.
            OSError: it cannot be opened; also Arrow's own.
        """
        if self.scheme:
            return self.filesystem.open_input_file(path)
        # Whoever opens a pipe waits for its writer, unless told not to.
        descriptor = rules.open_real(path, os.O_NONBLOCK)
        try:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise _not_a_file(path)
            # Arrow takes only a name; this one is the descriptor's own.
            return self.filesystem.open_input_file(f"/dev/fd/{descriptor}")
        finally:
            os.close(descriptor)


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
    is_remote = location.startswith(GS_SCHEME)
    files = _remote(location, confinement, gcs_endpoint) if is_remote else _local(location, confinement)
    with ThreadPoolExecutor(FOOTERS_AT_ONCE) as pool:
        footers = list(pool.map(lambda path: _read_footer(files, path), files.paths))
    schema = _common_schema(files, footers, wanted)
    present = {name: None for footer in footers for name in footer.schema.names}
    yield Extract(
        schema=schema,
        batches=_batches(files, footers, schema),
        rows_expected=sum(footer.rows for footer in footers),
        snapshot_at=None,
        extra_columns=tuple(name for name in present if name not in set(wanted)),
    )


def _local(location: str, confinement: Confinement) -> _Files:
    folder, pattern = rules.local_folder(location, confinement.local_roots)

    def listing(path: str) -> list[tuple[str, bool]]:
        real = rules.check_local(Path(path), confinement.local_roots, path)
        try:
            descriptor = rules.open_real(str(real), os.O_DIRECTORY)
            try:
                with os.scandir(descriptor) as entries:
                    return [(entry.name, entry.is_dir()) for entry in entries]
            finally:
                os.close(descriptor)
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise SourceProblem(f"“{shown(path)}” cannot be listed: {error.strerror}.") from error

    found = rules.at_most_max_files(rules.expand(str(folder).rstrip("/"), pattern, listing), location)
    real_paths = [str(rules.check_local(Path(path), confinement.local_roots, path)) for path in found]
    for path in real_paths:
        if not Path(path).is_file():
            raise _not_a_file(path)
    return _Files(fs.LocalFileSystem(), "", real_paths)


def _not_a_file(path: str) -> SourceProblem:
    return SourceProblem(f"“{shown(path)}” is not a file.")


def _remote(location: str, confinement: Confinement, gcs_endpoint: str | None) -> _Files:
    folder, pattern = rules.gs_folder(location, confinement.gs_prefixes)
    filesystem = _gcs(gcs_endpoint)
    try:
        paths = _remote_paths(filesystem, folder, pattern)
    except (OSError, pa.ArrowException) as error:
        raise SourceProblem(_unreadable(location, error)) from error
    return _Files(filesystem, GS_SCHEME, rules.at_most_max_files(paths, location))


def _remote_paths(filesystem: fs.FileSystem, folder: str, pattern: tuple[str, ...]) -> Iterator[str]:
    """Yield the objects that match.

    Cloud Storage has no folders: Arrow sees one only where some tool left a marker for it. So a pattern with a wildcard
    in a folder's name lists every object below the folder that is certain.
    """
    if len(pattern) == 1 and not rules.has_wildcard(pattern[0]):
        named = filesystem.get_file_info(f"{folder}/{pattern[0]}")
        if named.type == fs.FileType.File:
            return iter([named.path])
        folder, pattern = f"{folder}/{pattern[0]}", ("*.parquet",)
    selector = fs.FileSelector(folder, recursive=len(pattern) > 1, allow_not_found=True)
    tree: dict[str, set[tuple[str, bool]]] = {}
    for info in filesystem.get_file_info(selector):
        if info.type == fs.FileType.File:
            parent, _, name = info.path.rpartition("/")
            is_folder = False
            while name and parent.startswith(folder) and (name, is_folder) not in tree.setdefault(parent, set()):
                tree[parent].add((name, is_folder))
                (parent, _, name), is_folder = parent.rpartition("/"), True
    return rules.expand(folder, pattern, lambda path: tree.get(path, set()))


def _gcs(endpoint: str | None) -> fs.FileSystem:
    if endpoint is None:
        return fs.GcsFileSystem(retry_time_limit=GCS_RETRY_LIMIT)
    address = urlsplit(endpoint)
    return fs.GcsFileSystem(
        anonymous=True, scheme=address.scheme, endpoint_override=address.netloc, retry_time_limit=GCS_RETRY_LIMIT
    )


def _read_footer(files: _Files, path: str) -> _Footer:
    try:
        with files.open(path) as stream:
            parquet = pq.ParquetFile(stream)
            return _Footer(parquet.schema_arrow, parquet.metadata.num_rows)
    except (OSError, pa.ArrowException) as error:
        raise SourceProblem(_unreadable(files.name(path), error)) from error


def _unreadable(name: str, error: Exception) -> str:
    """Return the sentence for an error of Arrow's, whose own words are for programmers."""
    if isinstance(error, PermissionError):
        return f"The worker is not allowed to read “{shown(name)}”."
    if isinstance(error, FileNotFoundError):
        return f"“{shown(name)}” does not exist (any more)."
    if isinstance(error, OSError) and rules.is_link_on_the_way(error):
        return _replaced(name)
    text = str(error)
    if isinstance(error, OSError) and name.startswith(GS_SCHEME):
        if "PERMISSION_DENIED" in text or "UNAUTHENTICATED" in text:
            return f"Cloud Storage does not allow the worker to read “{shown(name)}”."
        if "UNAVAILABLE" in text or "DEADLINE_EXCEEDED" in text or "Could not resolve" in text:
            return f"Cloud Storage could not be reached to read “{shown(name)}”. Try again later."
    return f"“{shown(name)}” is not a Parquet file, or it is damaged, encrypted or cut short."


def _replaced(name: str) -> str:
    return f"“{shown(name)}” was replaced while it was read. Load again when the new file is complete."


def _common_schema(files: _Files, footers: list[_Footer], wanted: Sequence[str]) -> pa.Schema:
    """Return the wanted columns as every file has them.

    Raises:
        SourceProblem: a file has another set of them or other types than the first, or names a column twice.
    """
    schemas = []
    for path, footer in zip(files.paths, footers, strict=True):
        names = [name for name in footer.schema.names if name in set(wanted)]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SourceProblem(f"“{shown(files.name(path))}” has two columns named “{twice}”.")
        schemas.append({name: _plain(footer.schema.field(name).type) for name in names})
    first, first_name = schemas[0], shown(files.name(files.paths[0]))
    for path, schema in zip(files.paths, schemas, strict=True):
        for name in [*first, *schema]:
            if first.get(name) != schema.get(name):
                raise SourceProblem(
                    f"Column “{name}” is {schema.get(name, 'missing')} in “{shown(files.name(path))}” "
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


def _batches(files: _Files, footers: list[_Footer], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    for path, footer in zip(files.paths, footers, strict=True):
        try:
            with files.open(path) as stream:
                parquet = pq.ParquetFile(stream)
                if parquet.metadata.num_rows != footer.rows or not parquet.schema_arrow.equals(footer.schema):
                    raise SourceProblem(_replaced(files.name(path)))
                for batch in parquet.iter_batches(ROWS_PER_BATCH, columns=schema.names):
                    # Arrow also reads “a.b” when asked for “a”, and gives columns in the file's order.
                    yield batch.select(schema.names).cast(schema)
        except (OSError, pa.ArrowException) as error:
            raise SourceProblem(_unreadable(files.name(path), error)) from error
