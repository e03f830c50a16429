"""A table's blocks as a load writes them, made by the formats' own functions."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from serving.formats.blocks import encode_block
from serving.formats.keys import block_name, canonical_key, digest, locate
from serving.formats.layouts import Layout
from serving.formats.seals import Seal


def table_blocks(
    prefix: str,
    table_id: str,
    rows: Mapping[tuple[str, ...], Mapping[str, Any]],
    layout: Layout,
    block_bits: int,
    seal: Seal | None = None,
) -> dict[str, bytes]:
    """Return every block by its name in Redis; `rows` are records by the values of their key."""
    blocks: dict[int, list[tuple[bytes, bytes]]] = {number: [] for number in range(1 << block_bits)}
    for key, record in rows.items():
        number, fingerprint = locate(digest(canonical_key(key)), block_bits)
        blocks[number].append((fingerprint, layout.pack(record)))
    plain = {number: encode_block(content, layout.payload_width) for number, content in blocks.items()}
    return {
        block_name(prefix, table_id, number): block + (seal.of(number, block) if seal else b"")
        for number, block in plain.items()
    }
