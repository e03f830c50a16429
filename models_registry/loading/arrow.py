"""Arrow columns as numpy arrays, and what kind of values they hold."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

Codes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Numbers = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]
Octets = npt.NDArray[np.uint8]

# How much of a text is read at a time.
CHUNK_BYTES = 8


def plain(column: pa.Array) -> pa.Array:
    """Return one array of values: chunks joined, dictionaries decoded."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def filled(column: pa.Array, value: Any) -> npt.NDArray[Any]:
    """Return a column with a value in place of its nulls."""
    whole = column.fill_null(value) if column.null_count else column
    array: npt.NDArray[Any] = whole.to_numpy(zero_copy_only=False)
    return array


def bounded(column: pa.Array, lowest: int, highest: int) -> tuple[Integers, Mask]:
    """Return an integer column as int64 with `lowest` where a value is not within the bounds, and where that is so."""
    values = filled(column, 0)
    limits = np.iinfo(values.dtype)
    bad = np.zeros(len(values), np.bool_)
    if lowest > limits.max or highest < limits.min or lowest > highest:
        return np.full(len(values), lowest, np.int64), ~bad
    if lowest > limits.min:
        bad |= values < lowest
    if highest < limits.max:
        bad |= values > highest
    within = values.astype(np.int64)
    within[bad] = lowest
    return within, bad


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a column holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_list(kind: pa.DataType) -> bool:
    """Tell whether a column holds lists."""
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def text_buffers(column: pa.Array) -> tuple[Integers, Integers, Octets]:
    """Return each row's first byte, its length, and all bytes with room to read a whole chunk from any of them."""
    column = column.cast(pa.large_string())
    _, offset_buffer, data_buffer = column.buffers()
    if offset_buffer is None or not len(column):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(CHUNK_BYTES, np.uint8)
    ends = np.frombuffer(offset_buffer, np.int64)[column.offset : column.offset + len(column) + 1]
    used = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    data = np.concatenate([used[ends[0] : ends[-1]], np.zeros(CHUNK_BYTES, np.uint8)])
    return ends[:-1] - ends[0], np.diff(ends), data


def storable(texts: pa.Array) -> pa.Array:
    """Return texts that a database takes: PostgreSQL's JSON knows no NUL."""
    return pc.replace_substring(texts, "\0", "\\u0000")


def starts_of(lengths: npt.NDArray[Any]) -> Integers:
    """Return where each of some runs that follow one another begins, and where the last ends."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts
