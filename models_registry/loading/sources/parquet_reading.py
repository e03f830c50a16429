"""One Parquet file, opened without trusting it; and the sentence for whatever may be wrong with it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from models_registry.loading.sources.confinement import GS_SCHEME, is_link_on_the_way, shown
from models_registry.loading.sources.port import SourceProblem
from models_registry.models import ProblemCode

# So much of a file's end is read at once: all of an ordinary footer. Its own last words are eight bytes.
TAIL_BYTES = 65_536
ENDING_BYTES = 8
# A footer has some 150 bytes for each column of each row group, and takes several times as much in memory.
MAX_FOOTER_BYTES = 64 * 2**20
_MAGIC, _ENCRYPTED_MAGIC = b"PAR1", b"PARE"


class Damaged(Exception):
    """What a file says of itself does not fit together."""


def open_file(stream: pa.NativeFile, name: str) -> pq.ParquetFile:
    """Open a Parquet file by its footer, which is bounded before it is read.

    Raises:
        SourceProblem: it is not a Parquet file, cut short, encrypted, or its footer is too long.
        Exception: it is damaged or cannot be read; within `reading` that becomes a SourceProblem.
    """
    size = stream.size()
    tail = stream.read_at(min(size, TAIL_BYTES), max(0, size - TAIL_BYTES))
    ending = tail[-ENDING_BYTES:]
    if ending[4:] == _ENCRYPTED_MAGIC:
        raise _encrypted(name)
    if ending[4:] != _MAGIC or size < 4 + ENDING_BYTES:
        if not size or stream.read_at(4, 0) in {_MAGIC, _ENCRYPTED_MAGIC}:
            raise SourceProblem(
                f"“{shown(name)}” is cut short. Load again when all of it is there.", ProblemCode.SOURCE_CHANGED
            )
        raise SourceProblem(f"“{shown(name)}” is not a Parquet file. Write it as Parquet, or read others only.")
    length = int.from_bytes(ending[:4], "little")
    if length > size - 4 - ENDING_BYTES:
        raise Damaged
    if length > MAX_FOOTER_BYTES:
        raise SourceProblem(
            f"The footer of “{shown(name)}” has {length / 2**20:,.0f} MB, more than {MAX_FOOTER_BYTES // 2**20}: the "
            "file is damaged, or has too many columns and row groups. Write fewer.",
            ProblemCode.SOURCE_OVER_LIMIT,
        )
    wanted = length + ENDING_BYTES
    footer = tail[-wanted:] if wanted <= len(tail) else stream.read_at(wanted, size - wanted)
    try:
        parquet = _open(stream, footer)
    except pa.ArrowNotImplementedError:
        # Some writers put types into Arrow's own description of the columns that this Arrow does not know, such as
        # whole numbers of 128 bits. Parquet's description is enough.
        parquet = _open(stream, footer.replace(b"ARROW:schema", b"ARROW:------"))
    metadata = parquet.metadata
    rows = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    if sum(rows) != metadata.num_rows or min(rows, default=0) < 0:
        raise Damaged
    return parquet


def _open(stream: pa.NativeFile, footer: bytes) -> pq.ParquetFile:
    metadata = pq.read_metadata(pa.BufferReader(_MAGIC + footer))
    return pq.ParquetFile(stream, metadata=metadata, page_checksum_verification=True)


@contextmanager
def reading(name: str) -> Iterator[None]:
    """Turn whatever goes wrong while a file is read into a sentence about that file.

    Raises:
        SourceProblem: instead of every other exception.
    """
    try:
        yield
    except SourceProblem:
        raise
    except Exception as error:
        raise unreadable(name, error) from error


def replaced(name: str) -> SourceProblem:
    """Return the problem of a file that is another than the one that was found."""
    sentence = f"“{shown(name)}” was replaced while it was read. Load again when the new file is complete."
    return SourceProblem(sentence, ProblemCode.SOURCE_CHANGED)


def _encrypted(name: str) -> SourceProblem:
    return SourceProblem(f"“{shown(name)}” is encrypted. Write it without encryption: the worker has no key for it.")


def unreadable(name: str, error: Exception) -> SourceProblem:
    """Return the problem for an error of a reader's, whose own words are for programmers."""
    if isinstance(error, PermissionError):
        return SourceProblem(f"The worker is not allowed to read “{shown(name)}”.", ProblemCode.SOURCE_NOT_ALLOWED)
    if isinstance(error, FileNotFoundError):
        return SourceProblem(f"“{shown(name)}” does not exist (any more).", ProblemCode.SOURCE_MISSING)
    if isinstance(error, OSError) and is_link_on_the_way(error):
        return replaced(name)
    text = str(error)
    if isinstance(error, OSError) and name.startswith(GS_SCHEME):
        if "PERMISSION_DENIED" in text or "UNAUTHENTICATED" in text:
            return SourceProblem(
                f"Cloud Storage does not allow the worker to read “{shown(name)}”.", ProblemCode.SOURCE_NOT_ALLOWED
            )
        if "UNAVAILABLE" in text or "DEADLINE_EXCEEDED" in text or "Could not resolve" in text:
            return SourceProblem(
                f"Cloud Storage could not be reached to read “{shown(name)}”. Try again later.",
                ProblemCode.SOURCE_UNAVAILABLE,
            )
    return _what_is_wrong(name, error, text)


def _what_is_wrong(name: str, error: Exception, text: str) -> SourceProblem:
    if isinstance(error, UnicodeDecodeError):
        return SourceProblem(f"“{shown(name)}” has a column whose name is not UTF-8 text. Rename it, or leave it out.")
    if "decrypt" in text:
        return _encrypted(name)
    if isinstance(error, pa.ArrowNotImplementedError) or "not supported" in text:
        return SourceProblem(
            f"“{shown(name)}” has a column of a type or compression that cannot be read. Leave it out, or write it "
            "as another type, compressed by zstd or snappy."
        )
    if isinstance(error, MemoryError):
        return SourceProblem(
            f"“{shown(name)}” needs more memory than there is: it is damaged, or its row groups are too large.",
            ProblemCode.OUT_OF_MEMORY,
        )
    return SourceProblem(f"“{shown(name)}” is damaged: it cannot be read to its end. Write it again.")
