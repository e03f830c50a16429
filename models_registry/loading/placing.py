"""Staged rows in the order of their blocks, packed: what is written, and what is compared with the table before."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from models_registry.loading.packing import Payloads, RefusedValue, pack_columns
from models_registry.loading.staging import BLOCK, FINGERPRINT, Staging
from serving.formats.layouts import Layout


class RefusedRow(Exception):
    """A row whose value the packer refused, and its place."""

    def __init__(self, refusal: RefusedValue, block: int, fingerprint: int, block_bits: int) -> None:
        super().__init__(str(refusal))
        self.refusal = refusal
        self.block = block
        self.fingerprint = fingerprint
        self.block_bits = block_bits


@dataclass(frozen=True)
class PackedRows:
    """Rows in the order of block and fingerprint."""

    blocks: npt.NDArray[Any]
    fingerprints: npt.NDArray[np.uint64]
    payloads: Payloads


def packed_in_order(
    staging: Staging, layout: Layout, block_bits: int, beat: Callable[[], None], *, end_block: int | None = None
) -> Generator[PackedRows]:
    """Pack the rows of all blocks, or of those before `end_block`, batch by batch.

    Raises:
        RefusedRow: a value that the checks in SQL could not judge exactly does not fit its field.
    """
    names = [field.name for field in layout.fields]
    with closing(staging.in_block_order(names, block_bits, longest_row(layout), beat, end_block=end_block)) as batches:
        for batch in batches:
            columns = {name: batch[name] for name in batch.schema.names}
            blocks, fingerprints = columns.pop(BLOCK).to_numpy(), columns.pop(FINGERPRINT).to_numpy()
            try:
                payloads = pack_columns(layout, columns, batch.num_rows)
            except RefusedValue as refusal:
                place = int(blocks[refusal.row]), int(fingerprints[refusal.row])
                raise RefusedRow(refusal, *place, block_bits) from None
            yield PackedRows(blocks, fingerprints, payloads)


def longest_row(layout: Layout) -> int:
    """Give how many bytes a row's payload can have, at most."""
    return sum(field.max_bits for field in layout.fields) // 8 + 1
