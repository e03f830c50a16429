"""Which rows of the served table a load adds, removes, changes and leaves as they are.

The served table's blocks come back from Redis in pipelines, a few megabytes at a time; the load's rows are put into the
order of its blocks, so that both sides can be merged block by block. Redis knows keys by their places alone, so nobody
can say what the key of a removed row was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models_registry.loading.arrow import Integers
from models_registry.loading.packing import Payloads
from models_registry.loading.placing import FINGERPRINT_BITS, Buckets, Numbers, PackedRows, as_arrow
from models_registry.loading.tables import TableInRedis, TableProblem
from models_registry.models import Table
from serving.formats.blocks import DamagedBlock
from serving.formats.keys import FINGERPRINT_BYTES
from serving.formats.layouts import Layout

MAX_SAMPLES = 5
CHUNK_BYTES = 4 * 2**20
# A row's place in a chunk is one 64-bit number: 48 bits of fingerprint below 16 bits of block.
MAX_CHUNK_BLOCKS = 2**12


@dataclass
class Difference:
    """What was found, in rows, in so many blocks of the served table.

    `removed` are its rows whose key the load has not, `added` the load's rows whose key it has not; `changed` and
    `unchanged` have a key in both. The lists hold a few of the load's rows, by number in the source, from 0.
    """

    blocks: int
    added: int = 0
    removed: int = 0
    changed: int = 0
    unchanged: int = 0
    added_rows: list[int] = field(default_factory=list)
    changed_rows: list[int] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """How many of the load's rows were compared."""
        return self.added + self.changed + self.unchanged

    @property
    def coverage(self) -> float:
        """The share of the served keys that the load has; 1.0 where none is served."""
        kept = self.changed + self.unchanged
        return kept / (kept + self.removed) if kept + self.removed else 1.0


def find_difference(
    buckets: Buckets, served: Table, layout: Layout, beat: Callable[[], None], *, end_block: int
) -> Difference:
    """Compare a load's rows, of which every check has passed, with the served table, which has this layout.

    Where the load's is another, only keys are compared: what is in both counts as unchanged. Only the blocks before
    `end_block` are compared. Blocks being ranges of digests, that is a random sample of the keys of both sides.

    Raises:
        TableProblem: the served table has lost a block.
        redis.RedisError: Redis is away.

    Memory: a chunk of blocks and a bucket of rows. Cost: one GET a block; no more rows are read than are compared.
    """
    difference = Difference(blocks=end_block)
    mean_bytes = served.size_bytes // (1 << served.block_bits) + 1
    chunk_blocks = max(1, min(MAX_CHUNK_BLOCKS, CHUNK_BYTES // mean_bytes))
    width = layout.payload_width
    are_compared = layout.fields == buckets.layout.fields and width != 0
    with closing(TableInRedis.of(served).read(end_block, chunk_blocks)) as chunks:
        ours = _Ahead(buckets.bucket_by_bucket(served.block_bits, end_block))
        first = 0
        for blocks in chunks:
            try:
                theirs = _read(blocks, width)
            except DamagedBlock:
                raise TableProblem("A block of the served table in Redis is damaged.") from None
            _compare(difference, first, theirs, ours.take_before(first + len(blocks)), are_compared)
            first += len(blocks)
            beat()
    return difference


@dataclass(frozen=True)
class _Rows:
    """Rows in order: the block and fingerprint of each, its payload, and which it is in the source, if known."""

    blocks: npt.NDArray[Any]
    fingerprints: Numbers
    payloads: pa.Array
    rows: Numbers

    def slice(self, start: int, end: int) -> _Rows:
        payloads = self.payloads.slice(start, end - start)
        return _Rows(self.blocks[start:end], self.fingerprints[start:end], payloads, self.rows[start:end])


class _Ahead:
    """Rows that come in batches, given out by block."""

    def __init__(self, packed: Iterator[PackedRows]) -> None:
        self._packed = packed
        self._rows: _Rows | None = None

    def take_before(self, end_block: int) -> list[_Rows]:
        """Return the next rows, up to this block."""
        taken: list[_Rows] = []
        while True:
            if self._rows is None:
                found = next(self._packed, None)
                if found is None:
                    return taken
                self._rows = _Rows(found.blocks, found.fingerprints, as_arrow(found.payloads), found.rows)
            end = int(np.searchsorted(self._rows.blocks, end_block))
            taken.append(self._rows.slice(0, end))
            if end < len(self._rows.blocks):
                self._rows = self._rows.slice(end, len(self._rows.blocks))
                return taken
            self._rows = None


def _compare(difference: Difference, first: int, theirs: _Rows, parts: list[_Rows], are_compared: bool) -> None:  # noqa: FBT001  # private
    """Compare the rows of a chunk that begins at block `first`; the served ones count their blocks from it.

    Every part is in order by itself; two of them may be of one block.
    """
    before = (theirs.blocks.astype(np.uint64) << np.uint64(FINGERPRINT_BITS)) | theirs.fingerprints
    for_samples = []
    matched = 0
    for part in parts:
        now = ((part.blocks - first).astype(np.uint64) << np.uint64(FINGERPRINT_BITS)) | part.fingerprints
        if not len(now):
            continue
        near = np.searchsorted(before, now)
        is_known = np.append(before, np.uint64(2**64 - 1))[near] == now
        known = int(np.count_nonzero(is_known))
        matched += known
        difference.added += len(now) - known
        if known < len(now):
            for_samples.append((difference.added_rows, part.rows[~is_known]))
        if not are_compared:
            difference.unchanged += known
            continue
        start = int(near[0])
        # Where both sides have the same keys in a row, which is the usual case, nothing need be picked.
        is_run = known == len(now) and int(near[-1]) - start == known - 1
        payloads = part.payloads if known == len(now) else part.payloads.filter(pa.array(is_known))
        old = theirs.payloads.slice(start, known) if is_run else theirs.payloads.take(pa.array(near[is_known]))
        is_same = pc.equal(old, payloads)
        same = int(is_same.true_count)
        difference.unchanged += same
        difference.changed += known - same
        if same < known:
            differs = ~is_same.to_numpy(zero_copy_only=False)
            for_samples.append((difference.changed_rows, part.rows[is_known][differs]))
    difference.removed += len(before) - matched
    for samples, found in for_samples:
        samples.extend(found[: MAX_SAMPLES - len(samples)].tolist())


# --- Blocks to rows ---------------------------------------------------------------------------------------------------


def _read(blocks: list[bytes], width: int | None) -> _Rows:
    """Return the rows of blocks that follow one another; they count from 0.

    Raises:
        DamagedBlock: a block's length cannot be that of one with this payload width.
    """
    if width is not None:
        sizes = np.fromiter(map(len, blocks), np.int64, len(blocks))
        counts, rest = np.divmod(sizes, FINGERPRINT_BYTES + width)
        if rest.any():
            raise DamagedBlock("length is not a whole number of rows")
        ends = (FINGERPRINT_BYTES * counts).tolist()
        fingerprints = b"".join([block[:end] for block, end in zip(blocks, ends, strict=True)])
        octets = b"".join([block[end:] for block, end in zip(blocks, ends, strict=True)])
        total = int(counts.sum())
        payloads = Payloads(total, np.frombuffer(octets, np.uint8), width, np.arange(total + 1) * width)
    else:
        counts, fingerprints, payloads = _read_variable(blocks)
    numbers = np.repeat(np.arange(len(blocks)), counts)
    return _Rows(numbers, _fingerprints(fingerprints), as_arrow(payloads), np.zeros(0, np.uint64))


def _read_variable(blocks: list[bytes]) -> tuple[Integers, bytes, Payloads]:
    counts = np.fromiter((int.from_bytes(block[:2], "big") for block in blocks), np.int64, len(blocks))
    middles = (2 + FINGERPRINT_BYTES * counts).tolist()
    ends = (2 + FINGERPRINT_BYTES * counts + 4 * (counts + 1)).tolist()
    if any(len(block) < end for block, end in zip(blocks, ends, strict=True)):
        raise DamagedBlock("shorter than its rows")
    fingerprints = b"".join([block[2:middle] for block, middle in zip(blocks, middles, strict=True)])
    raw = b"".join([block[middle:end] for block, middle, end in zip(blocks, middles, ends, strict=True)])
    octets = b"".join([block[end:] for block, end in zip(blocks, ends, strict=True)])
    offsets = np.frombuffer(raw, ">u4").astype(np.int64)
    last = np.cumsum(counts + 1) - 1
    sizes = offsets[last]
    if int(sizes.sum()) != len(octets):
        raise DamagedBlock("length does not match its offsets")
    starts = np.cumsum(sizes) - sizes
    # Each block has one offset more than it has rows: its last one, which is where the next block's first row begins.
    total = np.append(np.delete(offsets, last) + np.repeat(starts, counts), len(octets))
    return counts, fingerprints, Payloads(len(total) - 1, np.frombuffer(octets, np.uint8), None, total)


def _fingerprints(raw: bytes) -> Numbers:
    octets = np.zeros((len(raw) // FINGERPRINT_BYTES, 8), np.uint8)
    octets[:, 8 - FINGERPRINT_BYTES :] = np.frombuffer(raw, np.uint8).reshape(-1, FINGERPRINT_BYTES)
    return octets.view(">u8").reshape(-1).astype(np.uint64)
