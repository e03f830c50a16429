"""Columns of several files as one: what differs only in how it was written is unified where nothing is lost."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models_registry.loading.arrow import is_list, is_text
from models_registry.loading.columns import type_name
from models_registry.loading.sources.confinement import shown
from models_registry.loading.sources.port import SourceProblem

MAX_DIGITS = 38
# What Hive and Spark call a partition of nulls.
NULL_PARTITION = "__HIVE_DEFAULT_PARTITION__"
_WHOLE = re.compile(r"0|-?[1-9][0-9]{0,17}")
_DECIMAL = re.compile(r"-?[0-9]{1,15}\.[0-9]{1,15}|0|-?[1-9][0-9]{0,14}")


@dataclass(frozen=True)
class Part:
    """One file: its name, columns and number of rows, and what the folders that it lies in say of every row."""

    name: str
    schema: pa.Schema
    rows: int
    partition: Mapping[str, str | None]


def partition_of(path: str) -> dict[str, str | None]:
    """Return the columns and values that folders such as `country=DE` stand for; None for the partition of nulls."""
    found: dict[str, str | None] = {}
    for folder in path.split("/")[:-1]:
        name, is_partition, value = folder.partition("=")
        if name and is_partition:
            found[unquote(name)] = None if value == NULL_PARTITION else unquote(value)
    return found


def common_schema(
    parts: Sequence[Part], wanted: Collection[str], *, optional: Collection[str], texts: Collection[str]
) -> pa.Schema:
    """Return the wanted columns, each with a type that holds the values of every file.

    A file without rows has no say. A column of `optional` may be missing in some files. What `texts` names is wanted as
    text, so bytes are read as such, and partitions as they are written.

    Raises:
        SourceProblem: a column is missing in one of several files, has types that cannot become one, or is there twice.
    """
    folders = _partition_types(parts, wanted, texts)
    told = []
    for part in parts:
        names = [name for name in part.schema.names if name in wanted]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise SourceProblem(f"“{shown(part.name)}” has two columns named “{twice}”.")
        own = {name: _plain(part.schema.field(name).type, is_text=name in texts) for name in names}
        told.append({**own, **{name: folders[name] for name in part.partition if name in folders and name not in own}})
    pairs = list(zip(parts, told, strict=True))
    counting = [(part, columns) for part, columns in pairs if part.rows] or pairs
    every = dict.fromkeys(name for _, columns in counting for name in columns)
    return pa.schema([(name, _common(name, counting, is_optional=name in optional)) for name in every])


def _common(name: str, parts: Sequence[tuple[Part, Mapping[str, pa.DataType]]], *, is_optional: bool) -> pa.DataType:
    (held_by, first_columns), *others = parts
    kind = first_columns.get(name)
    for part, columns in others:
        other = columns.get(name)
        if kind is None or other is None:
            fits = is_optional or kind is other
            merged = other if kind is None else kind
        else:
            merged = _unified(kind, other)
            fits = merged is not None
        if not fits:
            one, two = _two_names(other, kind)
            raise SourceProblem(
                f"Column “{name}” is {one} in “{shown(part.name)}” but {two} in “{shown(held_by.name)}”: all files "
                "must have the same columns."
            )
        if kind is None or (pa.types.is_null(kind) and other is not None):
            held_by = part
        kind = merged
    return kind


def _two_names(one: pa.DataType | None, other: pa.DataType | None) -> tuple[str, str]:
    names = ["missing" if kind is None else type_name(kind) for kind in (one, other)]
    if names[0] == names[1]:
        names = [str(kind).upper() for kind in (one, other)]
    return names[0], names[1]


def _plain(kind: pa.DataType, *, is_text: bool) -> pa.DataType:
    """Return the type of a column's values: how writers choose to lay texts out, file by file, is no concern of a load.

    Dictionaries become what is in them and views of texts, which not all of Arrow can work with, plain texts; in lists
    too. Lists that are views stay what they are, and are refused with the columns: Arrow does not read them reliably.
    """
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type, is_text=is_text)
    if pa.types.is_string_view(kind):
        return pa.large_string()
    if pa.types.is_list(kind):
        return pa.list_(_plain(kind.value_type, is_text=False))
    if pa.types.is_large_list(kind):
        return pa.large_list(_plain(kind.value_type, is_text=False))
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_plain(kind.value_type, is_text=False), kind.list_size)
    if is_text and isinstance(kind, pa.UuidType | pa.JsonType):
        return pa.string()
    if is_text and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind)):
        return pa.string() if pa.types.is_binary(kind) else pa.large_string()
    return kind


# --- One type for two -------------------------------------------------------------------------------------------------


def _unified(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return a type that has every value of two others as it is; None if there is none."""
    if one.equals(other) or pa.types.is_null(other):
        return one
    if pa.types.is_null(one):
        return other
    if is_text(one) and is_text(other):
        return pa.large_string()
    if is_list(one) and is_list(other):
        return _unified_lists(one, other)
    if pa.types.is_integer(one) and pa.types.is_integer(other):
        return _unified_whole(one, other)
    if pa.types.is_floating(one) and pa.types.is_floating(other):
        return max(one, other, key=lambda kind: kind.bit_width)
    if pa.types.is_decimal(one) and pa.types.is_decimal(other):
        scale = max(one.scale, other.scale)
        digits = max(one.precision - one.scale, other.precision - other.scale) + scale
        return pa.decimal128(digits, scale) if digits <= MAX_DIGITS else None
    return None


def _unified_lists(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    item = _unified(one.value_type, other.value_type)
    if item is None:
        return None
    are_fixed = [pa.types.is_fixed_size_list(kind) for kind in (one, other)]
    if all(are_fixed) and one.list_size == other.list_size:
        return pa.list_(item, one.list_size)
    is_large = pa.types.is_large_list(one) or pa.types.is_large_list(other)
    return pa.large_list(item) if is_large else pa.list_(item)


def _unified_whole(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    are_signed = [pa.types.is_signed_integer(kind) for kind in (one, other)]
    if are_signed[0] == are_signed[1]:
        return max(one, other, key=lambda kind: kind.bit_width)
    signed, unsigned = (one, other) if are_signed[0] else (other, one)
    wide = {16: pa.int16(), 32: pa.int32(), 64: pa.int64()}
    return wide.get(max(signed.bit_width, 2 * unsigned.bit_width))


def _partition_types(parts: Sequence[Part], wanted: Collection[str], texts: Collection[str]) -> dict[str, pa.DataType]:
    """Return the types of the wanted columns that folders stand for, from all of their values."""
    values: dict[str, set[str]] = {}
    for part in parts:
        for name, value in part.partition.items():
            if name in wanted:
                values.setdefault(name, set()).update(() if value is None else (value,))
    return {name: _type_of(found, is_text=name in texts) for name, found in values.items()}


def _type_of(values: Collection[str], *, is_text: bool) -> pa.DataType:
    if not values:
        return pa.null()
    if is_text:
        return pa.string()
    if all(map(_WHOLE.fullmatch, values)):
        return pa.int64()
    if all(map(_DECIMAL.fullmatch, values)):
        return pa.float64()
    return pa.bool_() if set(values) <= {"true", "false"} else pa.string()


# --- Rows -------------------------------------------------------------------------------------------------------------


def as_common(batch: pa.RecordBatch, part: Part, schema: pa.Schema) -> pa.RecordBatch:
    """Return rows of a file with the columns of all: its own, what its folders say, or nulls.

    Raises:
        pa.ArrowException: a column is not what the file said.
    """
    own = set(batch.schema.names)
    columns = []
    for field in schema:
        if field.name in own:
            columns.append(_converted(batch.column(field.name), field.type))
        elif (value := part.partition.get(field.name)) is not None:
            columns.append(pa.repeat(pa.scalar(value).cast(field.type), batch.num_rows))
        else:
            columns.append(pa.nulls(batch.num_rows, field.type))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _converted(column: pa.Array, kind: pa.DataType) -> pa.Array:
    if column.type.equals(kind):
        return column
    if isinstance(column.type, pa.UuidType):
        return _uuid_texts(column.storage).cast(kind)
    if isinstance(column.type, pa.JsonType):
        return column.storage.cast(kind)
    if is_text(kind) and pa.types.is_binary(column.type):
        # Whether they are texts is checked with all texts, where their rows are known.
        return column.view(pa.string()).cast(kind)
    if is_text(kind) and pa.types.is_large_binary(column.type):
        return column.view(pa.large_string())
    as_texts = _narrow_floats_as_texts(column.type, kind)
    return column.cast(as_texts).cast(kind) if as_texts else column.cast(kind)


def _narrow_floats_as_texts(kind: pa.DataType, wanted: pa.DataType) -> pa.DataType | None:
    """Return a column's type with texts in place of its floats, if these are to become wider ones.

    The shortest text of a float32 is what people wrote; its bits as a float64 are some other number beside that.
    """
    if is_list(kind) and is_list(wanted):
        inner = _narrow_floats_as_texts(kind.value_type, wanted.value_type)
        return None if inner is None else pa.large_list(inner)
    both = pa.types.is_floating(kind) and pa.types.is_floating(wanted)
    return pa.string() if both and kind.bit_width < wanted.bit_width else None


_HEX = np.frombuffer("".join(f"{octet:02x}" for octet in range(256)).encode(), np.uint8).reshape(256, 2)
_UUID_GROUPS = (4, 6, 8, 10)


def _uuid_texts(column: pa.Array) -> pa.Array:
    """Return UUIDs, 16 bytes each, as their usual text of 36 characters."""
    if not len(column):
        return pa.array([], pa.string())
    filled = column.fill_null(bytes(16)) if column.null_count else column
    octets = np.frombuffer(filled.buffers()[1], np.uint8)[16 * filled.offset : 16 * (filled.offset + len(filled))]
    digits = _HEX[octets.reshape(-1, 16)].reshape(-1, 32)
    dash = np.full((len(digits), 1), ord("-"), np.uint8)
    ends = [0, *(2 * group for group in _UUID_GROUPS), 32]
    pieces = [piece for start, end in pairwise(ends) for piece in (dash, digits[:, start:end])]
    texts = np.ascontiguousarray(np.concatenate(pieces[1:], axis=1))
    made = pa.Array.from_buffers(pa.binary(36), len(column), [None, pa.py_buffer(texts)]).cast(pa.binary())
    made = made.view(pa.string())
    return pc.if_else(column.is_valid(), made, None) if column.null_count else made
