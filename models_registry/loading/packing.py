"""The bulk packer: whole Arrow columns to payload bits, equal bit for bit to `Layout.pack` of every row.

Every value is an unsigned code of at most 64 bits at a bit position in its row. Each row owns whole 64-bit words of one
scratch array, so a column is placed by two shifts and two additions (bits never overlap, so adding is or-ing), without
a loop over rows. What numbers cannot decide beyond doubt (a float within rounding of the tolerance's edge, a decimal
wider than 64 bits) is decided by the layout itself, value by value; such values are rare.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from serving.formats.layouts import BadValue, Bool, DecimalNumber, Enum, Field, Layout, List, Scalar, String, Uint

Codes = npt.NDArray[np.uint64]
Integers = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Octets = npt.NDArray[np.uint8]

WORD = 64
CHUNK_BYTES = 8
# Above this a 64-bit float has no fraction left; every layout's numbers lie below it.
FLOAT_EXACT = float(2**53)


class RefusedValue(BadValue):
    """A value that its field cannot hold.

    Attributes:
        field: the field's name.
        row: its row in the batch, from 0.
        reason: why, without the field's name.
    """

    def __init__(self, field: str, row: int, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.row = row
        self.reason = reason


@dataclass(frozen=True)
class Payloads:
    """The payloads of a batch, one after the other.

    Attributes:
        rows: how many there are.
        octets: all their bytes.
        width: bytes of each; None where they differ.
        offsets: where each begins in `octets`, and the end of the last.
    """

    rows: int
    octets: Octets
    width: int | None
    offsets: Integers


def pack_columns(layout: Layout, columns: Mapping[str, pa.Array], rows: int) -> Payloads:
    """Return the payloads of a batch.

    Args:
        layout: the fields.
        columns: an Arrow array of `rows` values for each field; a field without one is null in every row.
        rows: how many rows there are.

    Raises:
        RefusedValue: what `Layout.pack` would refuse, for the first such row of the first such field.
    """
    page = _Page(rows)
    for field in layout.fields:
        column = columns.get(field.name)
        _FieldWriter(field, column if column is not None else pa.nulls(rows)).write(page)
    return page.to_payloads(layout.payload_width)


# --- Placing codes ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Piece:
    """Codes at bit positions counted from the start of their row; `rows` None means one for every row in order."""

    codes: Codes
    bits: int | Integers
    position: int | Integers
    rows: Integers | None = None


class _Page:
    """Collects the pieces of a batch. `position` is where the next field begins: a number while all rows agree."""

    def __init__(self, rows: int) -> None:
        self.rows = rows
        self.position: int | Integers = 0
        self._pieces: list[_Piece] = []

    def put(self, codes: Codes, bits: int | Integers) -> None:
        """Append a code to every row; where `bits` is 0 the code must be 0 too."""
        self._pieces.append(_Piece(codes, bits, self.position))
        self.position = self.position + bits

    def put_many(self, codes: Codes, bits: int | Integers, counts: Integers, bits_before: Integers) -> None:
        """Append `counts[row]` codes to each row.

        Args:
            codes: the codes of all rows in order.
            bits: of each code.
            counts: how many each row gets.
            bits_before: for each code, the bits of its row's codes that come before it.
        """
        rows = np.repeat(np.arange(self.rows), counts)
        start = self.position if isinstance(self.position, int) else self.position[rows]
        self._pieces.append(_Piece(codes, bits, start + bits_before, rows))

    def to_payloads(self, width: int | None) -> Payloads:
        """Write all pieces. A `width` in bytes says that every row has the same."""
        return self._variable() if width is None else self._fixed(width)

    def _fixed(self, width: int) -> Payloads:
        row_words = max(1, -(-width // 8))
        words = np.zeros((self.rows, row_words), np.uint64)
        for piece in self._pieces:
            if not isinstance(piece.position, int) or not isinstance(piece.bits, int):
                raise TypeError("a fixed-width layout has no field of varying width")
            if not piece.bits:
                continue
            word, offset = divmod(piece.position, WORD)
            room = WORD - offset - piece.bits
            if room >= 0:
                words[:, word] |= piece.codes << np.uint64(room)
            else:
                words[:, word] |= piece.codes >> np.uint64(-room)
                words[:, word + 1] |= piece.codes << np.uint64(WORD + room)
        octets = words.byteswap().view(np.uint8).reshape(self.rows, 8 * row_words)
        return Payloads(self.rows, octets[:, :width].reshape(-1), width, np.arange(self.rows + 1) * width)

    def _variable(self) -> Payloads:
        row_bits = np.broadcast_to(np.asarray(self.position, np.int64), (self.rows,))
        row_bytes = (row_bits + 7) >> 3
        row_words = (row_bits + WORD - 1) // WORD
        first_word = _starts(row_words)
        # One word more, for the (empty) part of a last code that would spill over.
        words = np.zeros(int(first_word[-1]) + 1, np.uint64)
        first_bit = first_word[:-1] * WORD
        for piece in self._pieces:
            base = first_bit if piece.rows is None else first_bit[piece.rows]
            _place(words, piece.codes, piece.bits, base + piece.position)

        offsets = _starts(row_bytes)
        if self.rows and (row_words == row_words[0]).all():
            octets = words[:-1].byteswap().view(np.uint8).reshape(self.rows, -1)
            return Payloads(self.rows, octets[np.arange(octets.shape[1]) < row_bytes[:, None]], None, offsets)
        moved_by = np.repeat(first_word[:-1] * 8 - offsets[:-1], row_bytes)
        return Payloads(self.rows, words.byteswap().view(np.uint8)[np.arange(offsets[-1]) + moved_by], None, offsets)


def _starts(lengths: Integers) -> Integers:
    """Return where each of some runs begins, and where the last ends."""
    starts = np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=starts[1:])
    return starts


def _place(words: Codes, codes: Codes, bits: int | Integers, position: Integers) -> None:
    """Add codes to words, each at an absolute bit position counted from the first word's most significant bit."""
    word, offset = position >> 6, position & (WORD - 1)
    room = WORD - offset - bits
    upper = codes << np.clip(room, 0, WORD - 1).astype(np.uint64)
    spills = np.flatnonzero(room < 0)
    if len(spills):
        over = -room[spills]
        upper[spills] = codes[spills] >> over.astype(np.uint64)
        np.add.at(words, word[spills] + 1, codes[spills] << (WORD - over).astype(np.uint64))
    np.add.at(words, word, upper)


# --- Columns to codes -------------------------------------------------------------------------------------------------


class _FieldWriter:
    """One field's column on its way into a page."""

    def __init__(self, field: Field, column: pa.Array) -> None:
        self.field = field
        self.column = _plain(column)
        self.valid: Mask | None = None
        if self.column.null_count:
            self.valid = self.column.is_valid().to_numpy(zero_copy_only=False)

    def write(self, page: _Page) -> None:
        """Append the field to every row."""
        if self.field.is_optional:
            present = np.ones(page.rows, np.uint64) if self.valid is None else self.valid.astype(np.uint64)
            page.put(present, 1)
        elif self.valid is not None:
            raise RefusedValue(self.field.name, int(np.argmin(self.valid)), "a value is required")
        kind = self.field.kind
        if isinstance(kind, List):
            self._write_list(page, kind)
        elif isinstance(kind, String):
            self._write_text(page, kind)
        else:
            self._write_scalar(page, kind)

    def _write_scalar(self, page: _Page, kind: Scalar) -> None:
        codes, bad = scalar_codes(kind, self.column)
        if self.valid is not None:
            codes[~self.valid] = 0
            bad &= self.valid
        if bad.any():
            raise self._refusal(int(np.argmax(bad)))
        page.put(codes, self._where_present(kind.bits))

    def _write_text(self, page: _Page, kind: String) -> None:
        column = self.column
        if not _is_text(column.type):
            self._refuse_type()
            column = pa.nulls(page.rows, pa.large_string())
        starts, lengths, data = _text_buffers(column)
        if self.valid is not None:
            lengths = np.where(self.valid, lengths, 0)
        too_long = lengths > kind.max_bytes
        if too_long.any():
            raise self._refusal(int(np.argmax(too_long)))
        page.put(lengths.astype(np.uint64), self._where_present(kind.length_bits))

        chunks = -(-lengths // CHUNK_BYTES)
        rows = np.repeat(np.arange(page.rows), chunks)
        done = (np.arange(len(rows)) - np.repeat(_starts(chunks)[:-1], chunks)) * CHUNK_BYTES
        size = np.minimum(lengths[rows] - done, CHUNK_BYTES)
        octets = data[(starts[rows] + done)[:, None] + np.arange(CHUNK_BYTES)]
        codes = octets.view(">u8").reshape(-1).astype(np.uint64) >> (WORD - 8 * size).astype(np.uint64)
        page.put_many(codes, 8 * size, chunks, 8 * done)
        page.position = page.position + 8 * lengths

    def _write_list(self, page: _Page, kind: List) -> None:
        if not _is_list(self.column.type):
            self._refuse_type()
            lengths, items = np.zeros(page.rows, np.int64), pa.nulls(0)
        else:
            lengths = pc.list_value_length(self.column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
            items = _plain(self.column.flatten())
        too_long = lengths > kind.max_items
        if too_long.any():
            raise self._refusal(int(np.argmax(too_long)))
        codes, bad = scalar_codes(kind.item, items)
        if items.null_count:
            bad |= ~items.is_valid().to_numpy(zero_copy_only=False)
        starts = _starts(lengths)
        if bad.any():
            raise self._refusal(int(np.searchsorted(starts, int(np.argmax(bad)), side="right")) - 1)
        page.put(lengths.astype(np.uint64), self._where_present(kind.count_bits))
        before = (np.arange(len(codes)) - np.repeat(starts[:-1], lengths)) * kind.item.bits
        page.put_many(codes, kind.item.bits, lengths, before)
        page.position = page.position + lengths * kind.item.bits

    def _where_present(self, bits: int) -> int | Integers:
        if not self.field.is_optional:
            return bits
        if self.valid is None:
            return np.full(len(self.column), bits, np.int64)
        return np.where(self.valid, bits, 0)

    def _refusal(self, row: int) -> RefusedValue:
        """Return the refusal of one row, in the layout's own words."""
        value = self.column[row].as_py()
        try:
            Layout([self.field]).pack({self.field.name: value})
        except BadValue as error:
            return RefusedValue(self.field.name, row, str(error).removeprefix(f"{self.field.name}: "))
        return RefusedValue(self.field.name, row, f"{value!r} cannot be stored")

    def _refuse_type(self) -> None:
        """Raise for a column of a type that the field cannot take, unless it holds nothing at all."""
        if self.column.null_count < len(self.column):
            raise self._refusal(0 if self.valid is None else int(np.argmax(self.valid)))


def scalar_codes(kind: Scalar, column: pa.Array) -> tuple[Codes, Mask]:
    """Return the codes of a column, and which rows the kind cannot hold (their codes mean nothing; nor do nulls')."""
    if not len(column):
        return np.zeros(0, np.uint64), np.zeros(0, np.bool_)
    if isinstance(kind, Bool) and pa.types.is_boolean(column.type):
        return _filled(column, False).astype(np.uint64), np.zeros(len(column), np.bool_)  # noqa: FBT003 (a value)
    if isinstance(kind, Uint) and pa.types.is_integer(column.type):
        values, bad = _bounded(column, kind.min, kind.max)
        return (values - kind.min).astype(np.uint64), bad
    if isinstance(kind, Enum) and _is_text(column.type):
        found = pc.index_in(column, value_set=pa.array(kind.values, column.type))
        codes = _filled(found, -1).astype(np.int64)
        return np.maximum(codes, 0).astype(np.uint64), codes < 0
    if isinstance(kind, DecimalNumber):
        codes_or_none = _DecimalColumn(kind).codes(column)
        if codes_or_none is not None:
            return codes_or_none
    return np.zeros(len(column), np.uint64), np.ones(len(column), np.bool_)


class _DecimalColumn:
    """The arithmetic of one decimal field, in integers of its smallest place."""

    def __init__(self, kind: DecimalNumber) -> None:
        self.kind = kind
        self.scale = 10**kind.places
        self.min = int(kind.min * self.scale)
        self.max = int(kind.max * self.scale)
        # With one value alone the step does not matter, and may be any size.
        self.step = int(kind.step * self.scale) if kind.steps else int(FLOAT_EXACT)

    def codes(self, column: pa.Array) -> tuple[Codes, Mask] | None:
        """Return codes and bad rows; None for a column that holds no numbers."""
        if pa.types.is_integer(column.type):
            whole, bad = _bounded(column, -(-self.min // self.scale), self.max // self.scale)
            return self._from_scaled(whole * self.scale, bad)
        if pa.types.is_floating(column.type):
            return self._from_floats(column)
        if pa.types.is_decimal32(column.type) or pa.types.is_decimal64(column.type):
            column = column.cast(pa.decimal128(column.type.precision, column.type.scale))
        if pa.types.is_decimal128(column.type):
            return self._from_decimals(column)
        if pa.types.is_decimal(column.type):
            nothing = np.zeros(len(column), np.bool_)
            return self._decide(column, np.zeros(len(column), np.uint64), nothing, ~nothing)
        return None

    def _from_scaled(self, scaled: Integers, bad: Mask) -> tuple[Codes, Mask]:
        bad = bad | (scaled < self.min) | (scaled > self.max)
        codes, rest = np.divmod(np.where(bad, 0, scaled - self.min), self.step)
        return codes.astype(np.uint64), bad | (rest != 0)

    def _from_floats(self, column: pa.Array) -> tuple[Codes, Mask]:
        values = _filled(column, 0).astype(np.float64)
        with np.errstate(over="ignore", invalid="ignore"):
            scaled = values * self.scale
        bad = ~(np.abs(scaled) <= 2 * FLOAT_EXACT)
        scaled[bad] = self.min
        steps = np.rint((scaled - self.min) / self.step)
        away = np.abs(scaled - (self.min + steps * self.step))
        tolerance = float(self.kind.float_tolerance * self.scale)
        # More than all roundings above together; nearer to the tolerance than this, the layout decides.
        doubt = 8 * np.spacing(np.abs(scaled) + (abs(self.min) + 1))
        bad |= (away > tolerance + doubt) | (steps < 0) | (steps > self.kind.steps)
        doubtful = away >= tolerance - doubt
        if self.scale == 1:
            doubtful &= away != 0
        doubtful = ~bad & (doubtful | (scaled - self.min > FLOAT_EXACT / 2))
        codes = np.where(bad, 0, steps).astype(np.uint64)
        return self._decide(column, codes, bad, doubtful)

    def _from_decimals(self, column: pa.Array) -> tuple[Codes, Mask]:
        words = np.frombuffer(column.buffers()[1], np.int64)
        words = words[2 * column.offset : 2 * (column.offset + len(column))].reshape(-1, 2)
        low, high = words[:, 0], words[:, 1]
        is_wide = high != low >> 63
        surplus = column.type.scale - self.kind.places
        if surplus <= 0:
            factor = 10**-surplus
            bad = is_wide | (low > int(FLOAT_EXACT) // factor) | (low < -(int(FLOAT_EXACT) // factor))
            codes, bad = self._from_scaled(np.where(bad, 0, low) * factor, bad)
            return codes, bad
        if surplus > 18:
            nothing = np.zeros(len(column), np.bool_)
            return self._decide(column, np.zeros(len(column), np.uint64), nothing, ~nothing)
        scaled, rest = np.divmod(low, 10**surplus)
        codes, bad = self._from_scaled(scaled, is_wide | (rest != 0))
        return self._decide(column, codes, bad & ~is_wide, is_wide)

    def _decide(self, column: pa.Array, codes: Codes, bad: Mask, doubtful: Mask) -> tuple[Codes, Mask]:
        """Ask the layout about every doubtful value that is not null."""
        if column.null_count:
            doubtful = doubtful & column.is_valid().to_numpy(zero_copy_only=False)
        rows = np.flatnonzero(doubtful)
        for row, value in zip(rows.tolist(), column.take(pa.array(rows)).to_pylist(), strict=True):
            try:
                codes[row] = self.kind.to_code(value)
            except BadValue:
                bad[row] = True
        return codes, bad


# --- Arrow to numpy ---------------------------------------------------------------------------------------------------


def _plain(column: pa.Array) -> pa.Array:
    """Return one array of values: chunks joined, dictionaries decoded."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    if pa.types.is_dictionary(column.type):
        column = column.dictionary_decode()
    return column.cast(pa.large_string()) if pa.types.is_string_view(column.type) else column


def _filled(column: pa.Array, value: Any) -> npt.NDArray[Any]:
    filled = column.fill_null(value) if column.null_count else column
    array: npt.NDArray[Any] = filled.to_numpy(zero_copy_only=False)
    return array


def _bounded(column: pa.Array, lowest: int, highest: int) -> tuple[Integers, Mask]:
    """Return an integer column as int64 with `lowest` where a value is not within the bounds, and where that is so."""
    values = _filled(column, 0)
    limits = np.iinfo(values.dtype)
    bad = np.zeros(len(values), np.bool_)
    if lowest > limits.max or highest < limits.min or lowest > highest:
        return np.full(len(values), lowest, np.int64), ~bad
    if lowest > limits.min:
        bad |= values < lowest
    if highest < limits.max:
        bad |= values > highest
    bounded = values.astype(np.int64)
    bounded[bad] = lowest
    return bounded, bad


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _is_list(kind: pa.DataType) -> bool:
    return bool(pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind))


def _text_buffers(column: pa.Array) -> tuple[Integers, Integers, Octets]:
    """Return each row's first byte, its length, and all bytes with room to read a whole chunk from any of them."""
    column = column.cast(pa.large_string())
    _, offset_buffer, data_buffer = column.buffers()
    if offset_buffer is None or not len(column):
        return np.zeros(0, np.int64), np.zeros(0, np.int64), np.zeros(CHUNK_BYTES, np.uint8)
    ends = np.frombuffer(offset_buffer, np.int64)[column.offset : column.offset + len(column) + 1]
    used = np.frombuffer(data_buffer, np.uint8) if data_buffer is not None else np.zeros(0, np.uint8)
    data = np.concatenate([used[ends[0] : ends[-1]], np.zeros(CHUNK_BYTES, np.uint8)])
    return ends[:-1] - ends[0], np.diff(ends), data
