"""The bulk packer: whole Arrow columns to payload bits, equal bit for bit to `Layout.pack` of every row.

Every value is an unsigned code of at most 64 bits at a bit position in its row. Each row owns whole 64-bit words of one
scratch array, so a column is placed by two shifts and two additions (bits never overlap, so adding is or-ing), without
a loop over rows. The codes of a column are a matter of its field's type: see `field_types`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from models_registry.loading.arrow import (
    CHUNK_BYTES,
    Codes,
    Integers,
    Mask,
    Octets,
    is_list,
    is_text,
    plain,
    starts_of,
    text_buffers,
)
from models_registry.loading.field_types import refusal_of, scalar_codes
from serving.formats.layouts import BadValue, Field, Layout, List, Scalar, ScalarKind, String

WORD = 64


class RefusedValue(BadValue):
    """A value that its field cannot hold: in which row, from 0, and for which reason, without the field's name."""

    def __init__(self, field: str, row: int, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.row = row
        self.reason = reason


@dataclass(frozen=True)
class Payloads:
    """The payloads of a batch, one after the other.

    Each has `width` bytes; None where they differ. `offsets` is where each begins in `octets`, and the end of the last.
    """

    rows: int
    octets: Octets
    width: int | None
    offsets: Integers


def pack_columns(layout: Layout, columns: Mapping[str, pa.Array], rows: int) -> Payloads:
    """Return the payloads of a batch of rows. A field without a column is null in every row.

    Raises:
        RefusedValue: what `Layout.pack` would refuse, for the first such row of the first such field.
    """
    page = _Page(rows)
    for field in layout.fields:
        column = columns.get(field.name)
        _FieldWriter(field, column if column is not None else pa.nulls(rows)).write(page)
    return page.variable() if layout.payload_width is None else page.fixed(layout.payload_width)


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
        """Append `counts[row]` of the codes, which are in order, to each row.

        `bits_before` is for each code how many bits of its row's codes come before it.
        """
        rows = np.repeat(np.arange(self.rows), counts)
        start = self.position if isinstance(self.position, int) else self.position[rows]
        self._pieces.append(_Piece(codes, bits, start + bits_before, rows))

    def fixed(self, width: int) -> Payloads:
        """Write all pieces, `width` bytes a row."""
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

    def variable(self) -> Payloads:
        """Write all pieces, each row as long as it is."""
        row_bits = np.broadcast_to(np.asarray(self.position, np.int64), (self.rows,))
        row_bytes = (row_bits + 7) >> 3
        row_words = (row_bits + WORD - 1) // WORD
        first_word = starts_of(row_words)
        # One word more, for the (empty) part of a last code that would spill over.
        words = np.zeros(int(first_word[-1]) + 1, np.uint64)
        first_bit = first_word[:-1] * WORD
        for piece in self._pieces:
            base = first_bit if piece.rows is None else first_bit[piece.rows]
            _place(words, piece.codes, piece.bits, base + piece.position)

        offsets = starts_of(row_bytes)
        if self.rows and (row_words == row_words[0]).all():
            octets = words[:-1].byteswap().view(np.uint8).reshape(self.rows, -1)
            return Payloads(self.rows, octets[np.arange(octets.shape[1]) < row_bytes[:, None]], None, offsets)
        moved_by = np.repeat(first_word[:-1] * 8 - offsets[:-1], row_bytes)
        return Payloads(self.rows, words.byteswap().view(np.uint8)[np.arange(offsets[-1]) + moved_by], None, offsets)


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
        self.column = plain(column)
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
        match self.field.kind:
            case String() as kind:
                self._write_text(page, kind)
            case List() as kind:
                self._write_list(page, kind)
            case Scalar() as kind:
                self._write_scalar(page, kind)
            case other:
                assert_never(other)

    def _write_scalar(self, page: _Page, kind: ScalarKind) -> None:
        codes, bad = scalar_codes(kind, self.column)
        if self.valid is not None:
            codes[~self.valid] = 0
            bad &= self.valid
        if bad.any():
            raise self._refusal(int(np.argmax(bad)))
        page.put(codes, self._where_present(kind.bits))

    def _write_text(self, page: _Page, kind: String) -> None:
        column = self.column
        if not is_text(column.type):
            self._refuse_type()
            column = pa.nulls(page.rows, pa.large_string())
        starts, lengths, data = text_buffers(column)
        if self.valid is not None:
            lengths = np.where(self.valid, lengths, 0)
        too_long = lengths > kind.max_bytes
        if too_long.any():
            raise self._refusal(int(np.argmax(too_long)))
        page.put(lengths.astype(np.uint64), self._where_present(kind.length_bits))

        chunks = -(-lengths // CHUNK_BYTES)
        rows = np.repeat(np.arange(page.rows), chunks)
        done = (np.arange(len(rows)) - np.repeat(starts_of(chunks)[:-1], chunks)) * CHUNK_BYTES
        size = np.minimum(lengths[rows] - done, CHUNK_BYTES)
        octets = data[(starts[rows] + done)[:, None] + np.arange(CHUNK_BYTES)]
        codes = octets.view(">u8").reshape(-1).astype(np.uint64) >> (WORD - 8 * size).astype(np.uint64)
        page.put_many(codes, 8 * size, chunks, 8 * done)
        page.position = page.position + 8 * lengths

    def _write_list(self, page: _Page, kind: List) -> None:
        if not is_list(self.column.type):
            self._refuse_type()
            lengths, items = np.zeros(page.rows, np.int64), pa.nulls(0)
        else:
            lengths = pc.list_value_length(self.column).fill_null(0).to_numpy(zero_copy_only=False).astype(np.int64)
            items = plain(self.column.flatten())
        too_long = lengths > kind.max_items
        if too_long.any():
            raise self._refusal(int(np.argmax(too_long)))
        codes, bad = scalar_codes(kind.item, items)
        if items.null_count:
            bad |= ~items.is_valid().to_numpy(zero_copy_only=False)
        starts = starts_of(lengths)
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
        return RefusedValue(self.field.name, row, refusal_of(self.field, value) or f"{value!r} cannot be stored")

    def _refuse_type(self) -> None:
        """Raise for a column of a type that the field cannot take, unless it holds nothing at all."""
        if self.column.null_count < len(self.column):
            raise self._refusal(0 if self.valid is None else int(np.argmax(self.valid)))
