"""Blocks: the rows of a table that share the leading bits of their digest, as one Redis value.

Fixed-width layout: all fingerprints ascending, then all payloads in the same order. Variable-width layout: `u16 n`,
fingerprints ascending, `n + 1` offsets as `u32` from the start of the payloads, payloads. Integers are big-endian.
"""

import struct
from collections.abc import Sequence

from serving.formats.keys import FINGERPRINT_BYTES

_last_offset = struct.Struct(">I").unpack_from
_two_offsets = struct.Struct(">2I").unpack_from


class DamagedBlock(ValueError):
    """A value that is not a block of this layout: treated as lost data, never as “not in the table”."""


def encode_block(rows: Sequence[tuple[bytes, bytes]], payload_width: int | None) -> bytes:
    """Return the block of `(fingerprint, payload)` rows; `payload_width` in bytes, None for a variable-width layout.

    This is the format in its plainest form; the loader's vectorised writer is checked against it.

    Raises:
        ValueError: two rows share a fingerprint.
    """
    ordered = sorted(rows)
    fingerprints = [fingerprint for fingerprint, _ in ordered]
    if len(set(fingerprints)) != len(fingerprints):
        raise ValueError("two rows of one block share a fingerprint")
    payloads = [payload for _, payload in ordered]
    if payload_width is not None:
        return b"".join(fingerprints + payloads)
    offsets = [0]
    for payload in payloads:
        offsets.append(offsets[-1] + len(payload))
    count = len(ordered)
    return b"".join([struct.pack(">H", count), *fingerprints, struct.pack(f">{count + 1}I", *offsets), *payloads])


def find_payload(block: bytes, fingerprint: bytes, payload_width: int | None) -> bytes | None:
    """Return the payload of a fingerprint, or None where the block does not hold it.

    Raises:
        DamagedBlock: the value's length cannot be that of a block with this payload width.
    """
    if payload_width is not None:
        count, remainder = divmod(len(block), FINGERPRINT_BYTES + payload_width)
        if remainder:
            raise DamagedBlock("length is not a whole number of rows")
        index = _index(block, fingerprint, 0, count * FINGERPRINT_BYTES)
        if index is None:
            return None
        start = count * FINGERPRINT_BYTES + index * payload_width
        return block[start : start + payload_width]

    if len(block) < 6:
        raise DamagedBlock("shorter than an empty block")
    count = block[0] << 8 | block[1]
    offsets_at = 2 + count * FINGERPRINT_BYTES
    payloads_at = offsets_at + 4 * (count + 1)
    if len(block) < payloads_at or len(block) != payloads_at + _last_offset(block, payloads_at - 4)[0]:
        raise DamagedBlock("length does not match its offsets")
    index = _index(block, fingerprint, 2, offsets_at)
    if index is None:
        return None
    start, end = _two_offsets(block, offsets_at + 4 * index)
    return block[payloads_at + start : payloads_at + end]


def _index(block: bytes, fingerprint: bytes, start: int, end: int) -> int | None:
    """Return the row number of a fingerprint in the run of them from `start` to `end`.

    A scan in C beats a bisection in Python at 64 rows; a hit that straddles two fingerprints is passed over.
    """
    at = block.find(fingerprint, start, end)
    while at >= 0:
        if not (at - start) % FINGERPRINT_BYTES:
            return (at - start) // FINGERPRINT_BYTES
        at = block.find(fingerprint, at + 1, end)
    return None
