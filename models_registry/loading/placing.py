"""Rows packed as they come, and given again in the order of their blocks: to be looked through, compared and written.

Ordering millions of rows at once takes more memory than a worker has. So each row is put into one of 256 buckets by the
first bits of its digest: some blocks of the table, few enough rows to be ordered in memory by themselves. All buckets
lie in one file, which has of every batch first the rows of the first bucket, then those of the second, and so on.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from models_registry.loading.arrow import Integers, Mask, starts_of
from models_registry.loading.field_types import longest_payload
from models_registry.loading.packing import Payloads, RefusedValue, pack_columns
from serving.formats.keys import FINGERPRINT_BYTES
from serving.formats.layouts import Layout

BUCKET_BITS = 8
BUCKETS = 1 << BUCKET_BITS
# Packed at a time: few enough rows for the processor's caches.
ROWS_PER_BATCH = 122_880
BYTES_PER_BATCH = 64 * 2**20
# Many kernels let nobody else have the processor until a write is done.
BYTES_PER_WRITE = 64 * 2**10
# How much of a digest's beginning is kept: more bits than any table has for its blocks.
PREFIX_BITS = 32
FINGERPRINT_BITS = 8 * FINGERPRINT_BYTES

Numbers = npt.NDArray[np.uint64]
Prefixes = npt.NDArray[np.uint32]

_HEAD = np.dtype([("prefix", "u4"), ("size", "u4"), ("fingerprint", "u8"), ("row", "u8")])


@dataclass(frozen=True)
class Digests:
    """What is kept of the digests of some rows' keys: their first 4 bytes, and bytes 8 to 13.

    `is_known` is which rows have a key at all; None if all have.
    """

    prefixes: Prefixes
    fingerprints: Numbers
    is_known: Mask | None

    def slice(self, start: int, end: int) -> Digests:
        """Return those of the rows from one to before another."""
        is_known = None if self.is_known is None else self.is_known[start:end]
        return Digests(self.prefixes[start:end], self.fingerprints[start:end], is_known)


@dataclass(frozen=True)
class PackedRows:
    """Rows in the order of block and fingerprint, and the number of each in the source, from 0."""

    blocks: npt.NDArray[Any]
    fingerprints: Numbers
    payloads: Payloads
    rows: Numbers


@dataclass(frozen=True)
class SharedPlaces:
    """How many places, each a block and a fingerprint, more than one row has.

    `samples` is for some of them how many rows they have, the first and the last of these, by number from 0.
    """

    count: int
    samples: list[tuple[int, int, int]]


@dataclass(frozen=True)
class _Piece:
    """One batch in the file: where the heads and the payloads of each bucket begin, and where the last ones end."""

    heads: Integers
    octets: Integers


class Buckets:
    """One load's rows on their way into the order of blocks.

    With `shared_bits` equal bits all digests begin, as those of one range of a large load do.

    Attributes:
        refused: the first value that the packer refused, its row counted in the source. From there on nothing more is
            packed, since no table will be made of it; places are still looked through.
    """

    def __init__(self, folder: Path, layout: Layout, *, shared_bits: int = 0) -> None:
        self.refused: RefusedValue | None = None
        self.layout = layout
        self._is_packing = True
        self._shared_bits = shared_bits
        self._file = (folder / "buckets").open("w+b")
        self._end = 0
        self._pieces: list[_Piece] = []

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    # --- In -----------------------------------------------------------------------------------------------------------

    def add(self, digests: Digests, columns: Mapping[str, pa.ChunkedArray], first_row: int) -> None:
        """Pack rows and put them into their buckets; one without a key is left out. Rows count from 0 in the source."""
        rows = len(digests.prefixes)
        at_once = max(1024, min(ROWS_PER_BATCH, BYTES_PER_BATCH // longest_payload(self.layout)))
        for start in range(0, rows, at_once):
            end = min(start + at_once, rows)
            batch = {name: column.slice(start, end - start) for name, column in columns.items()}
            payloads = self._pack(batch, end - start, first_row + start)
            self._put_down(digests.slice(start, end), payloads, first_row + start)

    def _pack(self, columns: Mapping[str, pa.ChunkedArray], rows: int, first_row: int) -> Payloads | None:
        if not self._is_packing:
            return None
        try:
            return pack_columns(self.layout, columns, rows)
        except RefusedValue as refusal:
            self.refused = RefusedValue(refusal.field, first_row + refusal.row, refusal.reason)
            self._is_packing = False
            return None

    def _put_down(self, digests: Digests, payloads: Payloads | None, first_row: int) -> None:
        heads = np.empty(len(digests.prefixes), _HEAD)
        heads["prefix"], heads["fingerprint"] = digests.prefixes, digests.fingerprints
        heads["size"] = 0 if payloads is None else np.diff(payloads.offsets)
        heads["row"] = np.arange(first_row, first_row + len(heads))
        if digests.is_known is not None:
            # A check refuses the load for such a row.
            heads, payloads, self._is_packing = heads[digests.is_known], None, False
        shared, first_bits = np.uint32(self._shared_bits), np.uint32(PREFIX_BITS - BUCKET_BITS)
        bucket = (heads["prefix"] << shared >> first_bits).astype(np.uint8)
        order = np.argsort(bucket, kind="stable")
        bounds = starts_of(np.bincount(bucket, minlength=BUCKETS))
        heads_at = self._append(heads[order])
        if payloads is None:
            octets_at = np.full(BUCKETS + 1, self._end, np.int64)
        else:
            moved = _in_order(payloads, order)
            octets_at = moved.offsets[bounds] + self._append(moved.octets)
        self._pieces.append(_Piece(heads_at + bounds * _HEAD.itemsize, octets_at))

    def _append(self, array: npt.NDArray[Any]) -> int:
        """Write an array's bytes; return where they begin."""
        begin = self._end
        octets = array.view(np.uint8).data
        for start in range(0, array.nbytes, BYTES_PER_WRITE):
            self._file.write(octets[start : start + BYTES_PER_WRITE])
        self._end += array.nbytes
        return begin

    # --- Out ----------------------------------------------------------------------------------------------------------

    def in_block_order(self, block_bits: int) -> Iterator[PackedRows]:
        """Yield all rows in order. Every row must have been packed.

        Memory: the rows of a bucket, or of a block where that is larger.
        """
        return (self._take_up(lot, block_bits) for lot in self._whole_blocks(block_bits))

    def bucket_by_bucket(self, block_bits: int, end_block: int) -> Iterator[PackedRows]:
        """Yield the rows of all blocks before one, and perhaps some more; the bits that all digests share must be 0.

        The blocks are in order, and so are the rows of each bucket. A block that is larger than a bucket comes in
        several runs of rows in order.

        Memory: the rows of a bucket, however large a block is.
        """
        end = -(-(end_block << BUCKET_BITS + self._shared_bits) >> block_bits)
        return (self._take_up(range(bucket, bucket + 1), block_bits) for bucket in range(min(end, BUCKETS)))

    def shared_places(self, block_bits: int, samples: int, beat: Callable[[], None]) -> SharedPlaces:
        """Find the places that more than one row has, with so many samples: those whose first rows come first.

        Memory: the rows of a bucket without their payloads, or of a block where that is larger.
        """
        shared = SharedPlaces(0, [])
        for lot in self._whole_blocks(block_bits):
            heads = self._heads(lot)
            fingerprints = np.sort(heads["fingerprint"])
            if (fingerprints[1:] == fingerprints[:-1]).any():
                times, first, last = _shared(heads, block_bits)
                earliest = np.argsort(first)[:samples]
                found = zip(*(column[earliest].tolist() for column in (times, first, last)), strict=True)
                ordered = sorted([*shared.samples, *found], key=lambda sample: sample[1])
                shared = SharedPlaces(shared.count + len(times), ordered[:samples])
            beat()
        return shared

    def _whole_blocks(self, block_bits: int) -> Iterator[range]:
        """Yield all buckets in order, those of one block together."""
        at_once = 1 << max(0, BUCKET_BITS + self._shared_bits - block_bits)
        return (range(first, min(first + at_once, BUCKETS)) for first in range(0, BUCKETS, at_once))

    def _take_up(self, buckets: range, block_bits: int) -> PackedRows:
        heads = self._heads(buckets)
        blocks, order = _order(heads, block_bits)
        octets = np.frombuffer(self._read(buckets, [piece.octets for piece in self._pieces]), np.uint8)
        payloads = Payloads(len(heads), octets, self.layout.payload_width, starts_of(heads["size"]))
        return PackedRows(blocks[order], heads["fingerprint"][order], _in_order(payloads, order), heads["row"][order])

    def _heads(self, buckets: range) -> npt.NDArray[Any]:
        return np.frombuffer(self._read(buckets, [piece.heads for piece in self._pieces]), _HEAD)

    def _read(self, buckets: range, bounds: list[Integers]) -> bytes:
        """Return what of every piece lies within some buckets.

        Raises:
            OSError: the file has not what was written into it.
        """
        self._file.flush()
        parts = []
        for starts in bounds:
            begin, end = int(starts[buckets.start]), int(starts[buckets.stop])
            part = os.pread(self._file.fileno(), end - begin, begin)
            if len(part) != end - begin:
                raise OSError("rows that were written to the disk are not there any more")
            parts.append(part)
        return b"".join(parts)


def as_arrow(payloads: Payloads) -> pa.Array:
    """Return payloads as an Arrow array over the same memory."""
    octets = pa.py_buffer(np.ascontiguousarray(payloads.octets))
    if payloads.width:
        return pa.Array.from_buffers(pa.binary(payloads.width), payloads.rows, [None, octets])
    offsets = pa.py_buffer(np.ascontiguousarray(payloads.offsets, np.int64))
    return pa.Array.from_buffers(pa.large_binary(), payloads.rows, [None, offsets, octets])


# --- Order ------------------------------------------------------------------------------------------------------------


def _order(heads: npt.NDArray[Any], block_bits: int) -> tuple[Prefixes, Integers]:
    """Return the block of each row, and the rows' order by block and fingerprint."""
    prefixes, fingerprints = heads["prefix"], heads["fingerprint"]
    blocks: Prefixes = prefixes >> np.uint32(PREFIX_BITS - block_bits) if block_bits else np.zeros_like(prefixes)
    if not len(blocks):
        return blocks, np.zeros(0, np.int64)
    first = blocks.min()
    if int(blocks.max() - first) >> (64 - FINGERPRINT_BITS):
        return blocks, np.lexsort((fingerprints, blocks))
    # Both in one number, which is several times faster.
    return blocks, np.argsort(((blocks - first).astype(np.uint64) << np.uint64(FINGERPRINT_BITS)) | fingerprints)


def _shared(heads: npt.NDArray[Any], block_bits: int) -> tuple[Integers, Integers, Integers]:
    """Return for every place that more than one row has how many have it, and the first and the last of them."""
    blocks, order = _order(heads, block_bits)
    blocks, fingerprints, rows = blocks[order], heads["fingerprint"][order], heads["row"][order].astype(np.int64)
    is_new = np.append(True, (blocks[1:] != blocks[:-1]) | (fingerprints[1:] != fingerprints[:-1]))
    starts = np.flatnonzero(is_new)
    times = np.diff(np.append(starts, len(rows)))
    first, last = np.minimum.reduceat(rows, starts), np.maximum.reduceat(rows, starts)
    return times[times > 1], first[times > 1], last[times > 1]


def _in_order(payloads: Payloads, order: Integers) -> Payloads:
    """Return payloads in another order."""
    width = payloads.width
    if width is not None:
        octets = payloads.octets.reshape(payloads.rows, width).take(order, axis=0).reshape(-1)
        return Payloads(len(order), octets, width, np.arange(len(order) + 1) * width)
    taken = as_arrow(payloads).take(pa.array(order))
    _, raw_offsets, raw_octets = taken.buffers()
    offsets = np.frombuffer(raw_offsets, np.int64)[taken.offset : taken.offset + len(taken) + 1]
    octets = np.zeros(0, np.uint8) if raw_octets is None else np.frombuffer(raw_octets, np.uint8)
    return Payloads(len(order), octets[offsets[0] : offsets[-1]], None, offsets - offsets[0])
