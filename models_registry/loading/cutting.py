"""Blocks out of rows in order: the format of `serving.formats.blocks`, cut from whole batches."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from models_registry.loading.arrow import Integers
from models_registry.loading.packing import Payloads
from serving.formats.keys import FINGERPRINT_BYTES

MAX_ROWS_IN_BLOCK = 65_535


class SharedPlace(ValueError):
    """Two rows of one block have one fingerprint; a check finds this before any row is packed."""


@dataclass(frozen=True)
class Cut:
    """Finished blocks: the number of the first, and their values one after the other."""

    first: int
    blocks: list[bytes]


@dataclass(frozen=True)
class _Rows:
    """Rows in order of block and fingerprint."""

    blocks: npt.NDArray[Any]
    fingerprints: npt.NDArray[np.uint64]
    payloads: Payloads

    def from_row(self, row: int) -> _Rows:
        """Return the rows from one on."""
        payloads, start = self.payloads, self.payloads.offsets[row]
        rest = Payloads(payloads.rows - row, payloads.octets[start:], payloads.width, payloads.offsets[row:] - start)
        return _Rows(self.blocks[row:], self.fingerprints[row:], rest)

    def followed_by(self, more: _Rows) -> _Rows:
        """Return these rows and then others."""
        ends = self.payloads.offsets[-1] + more.payloads.offsets[1:]
        payloads = Payloads(
            self.payloads.rows + more.payloads.rows,
            np.concatenate([self.payloads.octets, more.payloads.octets]),
            self.payloads.width,
            np.concatenate([self.payloads.offsets, ends]),
        )
        return _Rows(
            np.concatenate([self.blocks, more.blocks]), np.concatenate([self.fingerprints, more.fingerprints]), payloads
        )


class BlockCutter:
    """Takes rows in order of block and fingerprint, batch by batch, and gives the blocks of a range, empty ones too.

    `first_block` is the first of them, `end_block` the one after the last, `payload_width` the layout's.
    """

    def __init__(self, payload_width: int | None, first_block: int, end_block: int) -> None:
        self._next_block = first_block
        self._end_block = end_block
        nothing = Payloads(0, np.zeros(0, np.uint8), payload_width, np.zeros(1, np.int64))
        self._waiting = _Rows(np.zeros(0, np.uint32), np.zeros(0, np.uint64), nothing)

    def add(self, blocks: npt.NDArray[Any], fingerprints: npt.NDArray[np.uint64], payloads: Payloads) -> Cut:
        """Return the blocks that are complete with these rows: all before the last row's own, which may go on.

        Raises:
            SharedPlace: see there.
            ValueError: the rows are not in order, or not of the range.
        """
        rows = self._waiting.followed_by(_Rows(blocks, fingerprints, payloads))
        if not len(rows.blocks):
            return Cut(self._next_block, [])
        last = int(rows.blocks[-1])
        if not self._next_block <= int(rows.blocks[0]) <= last < self._end_block:
            raise ValueError("rows of other blocks than those that are next")
        _check_order(rows)
        complete = int(np.searchsorted(rows.blocks, last))
        self._waiting = rows.from_row(complete)
        return self._cut(rows, last)

    def finish(self) -> Cut:
        """Return the remaining blocks."""
        return self._cut(self._waiting, self._end_block)

    def _cut(self, rows: _Rows, end_block: int) -> Cut:
        first = self._next_block
        self._next_block = end_block
        bounds = np.searchsorted(rows.blocks, np.arange(first, end_block + 1))
        fixed = rows.payloads.width is not None
        return Cut(first, list(_fixed(rows, bounds) if fixed else _variable(rows, bounds)))


def _check_order(rows: _Rows) -> None:
    same_block = rows.blocks[1:] == rows.blocks[:-1]
    if (same_block & (rows.fingerprints[1:] == rows.fingerprints[:-1])).any():
        raise SharedPlace("two rows have one place")
    if ((rows.blocks[1:] < rows.blocks[:-1]) | (same_block & (rows.fingerprints[1:] < rows.fingerprints[:-1]))).any():
        raise ValueError("rows are not in order")


def _fingerprint_bytes(rows: _Rows) -> bytes:
    octets = rows.fingerprints.astype(">u8").view(np.uint8).reshape(-1, 8)
    return octets[:, 8 - FINGERPRINT_BYTES :].tobytes()


def _fixed(rows: _Rows, bounds: Integers) -> Iterator[bytes]:
    fingerprints, payloads = _fingerprint_bytes(rows), rows.payloads.octets.tobytes()
    width = rows.payloads.width or 0
    for start, end in pairwise(bounds.tolist()):
        yield fingerprints[FINGERPRINT_BYTES * start : FINGERPRINT_BYTES * end] + payloads[width * start : width * end]


def _variable(rows: _Rows, bounds: Integers) -> Iterator[bytes]:
    fingerprints, payloads = _fingerprint_bytes(rows), rows.payloads.octets.tobytes()
    counts = np.diff(bounds)
    if len(counts) and counts.max() > MAX_ROWS_IN_BLOCK:
        raise ValueError("a block of a variable-width layout holds at most 65,535 rows")
    # Each block has one offset more than it has rows: block j's offsets are those of its rows and the next row's.
    block_of_offset = np.repeat(np.arange(len(counts)), counts + 1)
    offsets = rows.payloads.offsets[np.arange(len(block_of_offset)) + bounds[0] - block_of_offset]
    offsets = offsets - rows.payloads.offsets[bounds[:-1]][block_of_offset]
    heads, offset_bytes = counts.astype(">u2").tobytes(), offsets.astype(">u4").tobytes()
    starts = rows.payloads.offsets[bounds].tolist()
    offsets_at = 0
    for number, (start, end) in enumerate(pairwise(bounds.tolist())):
        offsets_end = offsets_at + 4 * (end - start + 1)
        yield b"".join(
            (
                heads[2 * number : 2 * number + 2],
                fingerprints[FINGERPRINT_BYTES * start : FINGERPRINT_BYTES * end],
                offset_bytes[offsets_at:offsets_end],
                payloads[starts[number] : starts[number + 1]],
            )
        )
        offsets_at = offsets_end
