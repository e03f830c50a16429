"""The files of a source: found, held as they were found, and opened only as such."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pyarrow as pa
from pyarrow import fs

from models_registry.loading.sources import confinement as rules
from models_registry.loading.sources.confinement import GS_SCHEME, shown
from models_registry.loading.sources.parquet_reading import replaced, unreadable
from models_registry.loading.sources.port import Confinement, SourceProblem
from models_registry.loading.sources.table_formats import check_no_table
from models_registry.models import ProblemCode

# How long Cloud Storage may fail one call before that is the answer; the client retries in between.
GCS_RETRY_LIMIT = timedelta(seconds=10)


@dataclass(frozen=True)
class Found:
    """A file as it was when it was listed: `path` as its filesystem takes it, a local one real.

    In Cloud Storage `inode` is 0; an object's generation is held from when it is first opened.
    """

    path: str
    size_bytes: int
    modified_ns: int
    inode: int = 0


@dataclass(frozen=True)
class Files:
    """Files that have been found and may be read. `find` looks for them once more."""

    location: str
    filesystem: fs.FileSystem
    scheme: str
    found: list[Found]
    find: Callable[[], list[Found]]
    _generations: dict[str, bytes] = field(default_factory=dict)

    def name(self, found: Found) -> str:
        """Return a file's name for messages and reports, in which a name that is not UTF-8 has “?”."""
        return f"{self.scheme}{found.path}".encode(errors="replace").decode()

    def open(self, found: Found) -> pa.NativeFile:
        """Open one of the files, if it is the one that was found; a local one with no link followed.

        Raises:
            SourceProblem: it is another by now, a pipe or a device.
            OSError: it cannot be opened; also Arrow's own.
        """
        if self.scheme:
            return self._open_object(found)
        # Whoever opens a pipe waits for its writer, unless told not to.
        descriptor = rules.open_real(found.path, os.O_NONBLOCK)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise _not_a_file(found.path)
            if _as_found(found.path, status) != found:
                raise replaced(found.path)
            # Arrow takes only a name; this one is the descriptor's own.
            return self.filesystem.open_input_file(f"/dev/fd/{descriptor}")
        finally:
            os.close(descriptor)

    def _open_object(self, found: Found) -> pa.NativeFile:
        """Open an object. What is read from then on is of the generation that it has now."""
        stream = self.filesystem.open_input_file(found.path)
        generation = stream.metadata()["generation"]
        if stream.size() != found.size_bytes or self._generations.setdefault(found.path, generation) != generation:
            stream.close()
            raise replaced(self.name(found))
        return stream

    def check_unchanged(self) -> None:
        """Look for the files once more.

        Raises:
            SourceProblem: one came, went, or is another.
        """
        before, now = ({file.path: file for file in files} for files in (self.found, self.find()))
        for path in sorted(before.keys() | now.keys()):
            if before.get(path) == now.get(path):
                continue
            name = self.name(before.get(path) or now[path])
            if path in before and path in now:
                raise replaced(name)
            what = "was removed" if path in before else "came"
            raise SourceProblem(
                f"“{shown(name)}” {what} while “{shown(self.location)}” was read. Load again when all files are there.",
                ProblemCode.SOURCE_CHANGED,
            )


def find_files(location: str, confinement: Confinement, *, gcs_endpoint: str | None) -> Files:
    """Find the files that a path or glob names, local or in Cloud Storage.

    Raises:
        SourceProblem: they may not be read, there are none or too many, or they are a table of another format.
    """
    if not location.startswith(GS_SCHEME):
        # Links on the way are followed once: where they led, a writer that moves them leaves everything as it was.
        folder, pattern = _real_folder(location, confinement.local_roots)

        def find_local() -> list[Found]:
            return _find_local(folder, pattern, location, confinement.local_roots)

        return Files(location, fs.LocalFileSystem(), "", find_local(), find_local)

    filesystem = _gcs(gcs_endpoint)

    def find_remote() -> list[Found]:
        try:
            return _find_remote(filesystem, location, confinement.gs_prefixes)
        except (OSError, pa.ArrowException) as error:
            raise unreadable(location, error) from error

    return Files(location, filesystem, GS_SCHEME, find_remote(), find_remote)


# --- On the worker's disk ---------------------------------------------------------------------------------------------


def _real_folder(location: str, roots: Sequence[str]) -> tuple[str, tuple[str, ...]]:
    folder, pattern = rules.local_folder(location, roots)
    named = folder / pattern[0]
    if len(pattern) == 1 and named.is_symlink() and named.exists():
        real = rules.check_local(named, roots, location)
        folder, pattern = real.parent, (real.name,)
    return str(folder).rstrip("/"), pattern


def _find_local(folder: str, pattern: Sequence[str], location: str, roots: Sequence[str]) -> list[Found]:
    def listing(path: str) -> list[tuple[str, bool]]:
        real = rules.check_local(Path(path), roots, path)
        try:
            return list(_entries(str(real)))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise SourceProblem(f"“{shown(path)}” cannot be listed: {error.strerror}.") from error

    real_roots = [os.path.realpath(root) for root in roots]
    above = _folders([f"{folder}/{pattern[0]}/"], real_roots)
    check_no_table(above, _local_names, "")
    matches = _matches(folder, pattern, listing, location, "")
    # A link beside the file that it leads to brings nothing new.
    real_paths = list(dict.fromkeys(str(rules.check_local(Path(path), roots, path)) for path in matches))
    found = []
    for path in real_paths:
        try:
            status = os.stat(path)  # noqa: PTH116 - as `open` has it from a descriptor
        except OSError:
            raise _not_a_file(path) from None
        if not stat.S_ISREG(status.st_mode):
            raise _not_a_file(path)
        found.append(_as_found(path, status))
    check_no_table(sorted(set(_folders(real_paths, real_roots)) - set(above)), _local_names, "")
    return found


def _as_found(path: str, status: os.stat_result) -> Found:
    return Found(path, status.st_size, status.st_mtime_ns, status.st_ino)


def _entries(path: str) -> Generator[tuple[str, bool]]:
    descriptor = rules.open_real(path, os.O_DIRECTORY)
    try:
        with os.scandir(descriptor) as entries:
            for entry in entries:
                yield entry.name, entry.is_dir()
    finally:
        os.close(descriptor)


def _local_names(path: str) -> Iterator[str]:
    with closing(_entries(path)) as entries:
        try:
            yield from (name for name, _ in entries)
        except OSError:
            return


def _not_a_file(path: str) -> SourceProblem:
    return SourceProblem(f"“{shown(path)}” is not a file.")


# --- In Cloud Storage -------------------------------------------------------------------------------------------------


class _Objects:
    """What has been listed so far. Cloud Storage has no folders: here they are what names make of them."""

    def __init__(self, filesystem: fs.FileSystem) -> None:
        self.infos: dict[str, fs.FileInfo] = {}
        self._filesystem = filesystem
        self._tree: dict[str, set[tuple[str, bool]]] = {}
        self._deep: list[str] = []

    def take(self, top: str, *, is_deep: bool) -> None:
        """List a folder, or all that lies below it."""
        for info in self._filesystem.get_file_info(fs.FileSelector(top, recursive=is_deep, allow_not_found=True)):
            if info.type == fs.FileType.File:
                self.infos[info.path] = info
                self._add(info.path, top)
        if is_deep:
            self._deep.append(top)

    def _add(self, path: str, top: str) -> None:
        parent, _, name = path.rpartition("/")
        is_folder = False
        while name and parent.startswith(top) and (name, is_folder) not in self._tree.setdefault(parent, set()):
            self._tree[parent].add((name, is_folder))
            (parent, _, name), is_folder = parent.rpartition("/"), True

    def take_whole(self, folder: str, name: str) -> None:
        """List a folder that is named outright."""
        inner = f"{folder}/{name}"
        self.take(inner, is_deep=False)
        self._tree.setdefault(folder, set()).add((name, True))
        if not any(rules.of_folder(self.listing(inner))):
            # What lies deeper can say why, and there is no way to ask for folders alone.
            self.take(inner, is_deep=True)

    def listing(self, path: str) -> set[tuple[str, bool]]:
        """Return what is known to be in a folder."""
        return self._tree.get(path, set())

    def names(self, path: str) -> Iterator[str]:
        """Return the names in a folder, which is listed if it was not yet."""
        if not any(path.startswith(f"{top}/") for top in self._deep):
            self.take(path, is_deep=False)
        return (name for name, _ in self.listing(path))


def _find_remote(filesystem: fs.FileSystem, location: str, prefixes: Sequence[str]) -> list[Found]:
    """Find the objects that match; a wildcard in a folder's name lists all that lies below the certain part."""
    folder, pattern = rules.gs_folder(location, prefixes)
    allowed = [prefix.removeprefix(GS_SCHEME) for prefix in prefixes]
    objects = _Objects(filesystem)
    if len(pattern) == 1 and not rules.has_wildcard(pattern[0]):
        certain = f"{folder}/{pattern[0]}"
        named = filesystem.get_file_info(certain)
        if named.type == fs.FileType.File:
            check_no_table(_folders([certain], allowed), objects.names, GS_SCHEME)
            return [Found(certain, named.size, named.mtime_ns)]
        objects.take_whole(folder, pattern[0])
    else:
        certain = folder
        objects.take(folder, is_deep=len(pattern) > 1)
    above = _folders([f"{certain}/"], allowed)
    check_no_table(above, objects.names, GS_SCHEME)
    paths = _matches(folder, pattern, objects.listing, location, GS_SCHEME)
    check_no_table(sorted(set(_folders(paths, allowed)) - set(above)), objects.names, GS_SCHEME)
    return [Found(path, objects.infos[path].size, objects.infos[path].mtime_ns) for path in paths]


def _gcs(endpoint: str | None) -> fs.FileSystem:
    if endpoint is None:
        return fs.GcsFileSystem(retry_time_limit=GCS_RETRY_LIMIT)
    address = urlsplit(endpoint)
    return fs.GcsFileSystem(
        anonymous=True, scheme=address.scheme, endpoint_override=address.netloc, retry_time_limit=GCS_RETRY_LIMIT
    )


# --- Both -------------------------------------------------------------------------------------------------------------


def _matches(folder: str, pattern: Sequence[str], listing: rules.Listing, location: str, scheme: str) -> list[str]:
    try:
        return rules.at_most_max_files(rules.expand(folder, pattern, listing), location)
    except rules.OtherwiseNamed as problem:
        raise SourceProblem(problem.words(scheme)) from None


def _folders(paths: Iterable[str], tops: Sequence[str]) -> list[str]:
    """Return the folders of files and all that these lie in, down from the tops that the studio may read."""
    found: dict[str, None] = {}
    for path in paths:
        folder = path.rpartition("/")[0]
        while folder not in found and any(f"{folder}/".startswith(f"{top.rstrip('/')}/") for top in tops):
            found[folder] = None
            folder = folder.rpartition("/")[0]
    return sorted(found)
