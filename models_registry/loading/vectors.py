"""Test vectors of the formats, run through what production runs: bulk packer, DuckDB, block cutter, lane reader."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from models_registry.loading.background import nothing
from models_registry.loading.cutting import BlockCutter
from models_registry.loading.packing import RefusedValue, pack_columns
from models_registry.loading.staging import Staging, select
from serving.formats import keys
from serving.formats.blocks import DamagedBlock, encode_block, find_payload
from serving.formats.layouts import BadLayout, BadValue, DamagedPayload, Layout

MEMORY_MB = 256


class NoVectors(ValueError):
    """A document that is not a file of test vectors; the message says why."""


@dataclass
class Section:
    """What became of one section of the file."""

    name: str
    vectors: int = 0
    differences: list[str] = field(default_factory=list)


def check_vectors(document: Any) -> list[Section]:
    """Run every vector; return each section with its differences.

    Raises:
        NoVectors: the document is none, or holds not one vector.
    """
    if not isinstance(document, dict):
        raise NoVectors("it is not a JSON object")
    checks: dict[str, Callable[[Any], Iterator[str]]] = {
        "slot": _check_slot,
        "locate": _check_locate,
        "pack": _check_pack,
        "block": _check_block,
        "refuse": _check_refuse,
    }
    unknown = document.keys() - checks.keys() - {"about"}
    if unknown:
        raise NoVectors(f"it has a section “{min(unknown)}”, which this release does not know")
    sections = []
    for name, check in checks.items():
        vectors = document.get(name, [])
        if not isinstance(vectors, list):
            raise NoVectors(f"its section “{name}” is not a list")
        section = Section(name, len(vectors))
        for number, vector in enumerate(vectors, start=1):
            section.differences += [f"{name} {number}: {words}" for words in _differences(check, vector)]
        sections.append(section)
    if not any(section.vectors for section in sections):
        raise NoVectors("it holds no vectors")
    return sections


def _differences(check: Callable[[Any], Iterator[str]], vector: Any) -> list[str]:
    try:
        return list(check(vector))
    except KeyError as error:
        return [f"the vector lacks {error}"]
    except (TypeError, AttributeError, OverflowError, BadLayout) as error:
        return [f"it is not a vector of this kind: {error}"]
    except (ValueError, duckdb.Error, pa.ArrowException) as error:
        return [f"{type(error).__name__}: {error}"]


# --- Slots and places -------------------------------------------------------------------------------------------------


def _check_slot(vector: Any) -> Iterator[str]:
    found = keys.slot(vector["salt"], vector["unit"])
    if found != vector["slot"]:
        yield f"the slot is {found}, the file says {vector['slot']}"


def _check_locate(vector: Any) -> Iterator[str]:
    values, bits = [str(value) for value in vector["key"]], _block_bits(vector)
    canonical = keys.canonical_key(values)
    block, fingerprint = keys.locate(keys.digest(canonical), bits)
    wanted = (vector["canonical"].lower(), vector["block"], vector["fingerprint"].lower())
    if (canonical.hex(), block, fingerprint.hex()) != wanted:
        yield f"serving finds {(canonical.hex(), block, fingerprint.hex())}, the file says {wanted}"
    with _staged([values], {}, Layout([])) as staging:
        ((key,),) = staging.query(select(f"encode({staging.key})", "rows"), nothing)
        places = [
            (int(rows.blocks[0]), int(rows.fingerprints[0]).to_bytes(keys.FINGERPRINT_BYTES, "big").hex())
            for rows in staging.buckets.in_block_order(bits)
            if len(rows.blocks)
        ]
    loaded = (bytes(key).hex(), *places[0])
    if loaded != wanted:
        yield f"the loader finds {loaded}, the file says {wanted}"


# --- Payloads ---------------------------------------------------------------------------------------------------------


def _check_pack(vector: Any) -> Iterator[str]:
    layout, record, wanted = Layout.parse(vector["layout"]), vector["record"], bytes.fromhex(vector["bytes"])
    try:
        yield from _compare("the bulk packer gives", _bulk_pack(layout, record), wanted)
        yield from _compare("the layout packs", layout.pack(record), wanted)
    except BadValue as refusal:
        yield f"the record was refused: {refusal}"
    yield from _check_unpacked(layout, wanted, record)


def _check_unpacked(layout: Layout, payload: bytes, record: Mapping[str, Any]) -> Iterator[str]:
    try:
        found = layout.unpack(payload)
    except DamagedPayload as error:
        yield f"the file's bytes cannot be decoded: {error}"
        return
    wanted = {field.name: record.get(field.name) for field in layout.fields}
    if found != wanted:
        yield f"the file's bytes decode to {found}, the file says {wanted}"


def _check_refuse(vector: Any) -> Iterator[str]:
    layout, record = Layout.parse(vector["layout"]), vector["record"]
    ways: dict[str, Callable[[], bytes]] = {
        "bulk packer": lambda: _bulk_pack(layout, record),
        "layout": lambda: layout.pack(record),
    }
    for way, pack in ways.items():
        try:
            payload = pack()
        except BadValue:
            continue
        yield f"the {way} took the record, as {payload.hex()}, and should have refused it"


# --- Blocks -----------------------------------------------------------------------------------------------------------


def _check_block(vector: Any) -> Iterator[str]:
    layout, bits, wanted = Layout.parse(vector["layout"]), _block_bits(vector), bytes.fromhex(vector["bytes"])
    number = vector.get("block", 0)
    rows = [(_key_values(row["key"]), row["record"]) for row in vector["rows"]]
    try:
        yield from _compare("the loader cuts", _cut(layout, bits, number, rows), wanted)
    except BadValue as refusal:
        yield f"a record was refused: {refusal}"
    placed = [(keys.locate(keys.digest(keys.canonical_key(key)), bits), record) for key, record in rows]
    plain = encode_block([(place[1], layout.pack(record)) for place, record in placed], layout.payload_width)
    yield from _compare("the plain encoder gives", plain, wanted)
    for (block, fingerprint), record in placed:
        if block != number:
            yield f"a row of block {block} is among those of block {number}"
        try:
            payload = find_payload(wanted, fingerprint, layout.payload_width)
        except DamagedBlock as error:
            yield f"the lane cannot read the file's bytes: {error}"
            return
        if payload is None:
            yield f"the lane does not find the row of {record} in the file's bytes"
        else:
            yield from _check_unpacked(layout, payload, record)


def _cut(layout: Layout, bits: int, number: int, rows: Sequence[tuple[list[str], dict[str, Any]]]) -> bytes:
    """Return one block as a load would write it."""
    columns = _columns(layout, [record for _, record in rows])
    cutter = BlockCutter(layout.payload_width, number, number + 1)
    blocks: list[bytes] = []
    with _staged([key for key, _ in rows], columns, layout) as staging:
        if staging.buckets.refused is not None:
            raise staging.buckets.refused
        for placed in staging.buckets.in_block_order(bits):
            blocks += cutter.add(placed.blocks, placed.fingerprints, placed.payloads).blocks
    blocks += cutter.finish().blocks
    return blocks[0]


# --- Records to what production gets ----------------------------------------------------------------------------------


def _block_bits(vector: Any) -> int:
    bits = vector["block_bits"]
    if not isinstance(bits, int) or not 0 <= bits <= keys.MAX_BLOCK_BITS:
        raise TypeError(f"block_bits is a whole number from 0 to {keys.MAX_BLOCK_BITS}")
    return bits


def _key_values(key: Any) -> list[str]:
    return [str(value) for value in key] if isinstance(key, list) else [str(key)]


def _columns(layout: Layout, records: Sequence[Mapping[str, Any]]) -> dict[str, pa.Array]:
    """Return records as the columns that a source would give.

    Raises:
        BadValue: no column can hold such values, or a record has a field that the layout has not.
    """
    for record in records:
        unknown = record.keys() - {field.name for field in layout.fields}
        if unknown:
            raise BadValue(f"{min(unknown)!r} is not a field of this layout")
    columns = {}
    for layout_field in layout.fields:
        values = [record.get(layout_field.name) for record in records]
        try:
            columns[layout_field.name] = pa.array(values)
        except (pa.ArrowException, ValueError, TypeError, OverflowError) as error:
            raise RefusedValue(layout_field.name, 0, f"no column holds {values!r}: {error}") from None
    return columns


def _bulk_pack(layout: Layout, record: Mapping[str, Any]) -> bytes:
    return pack_columns(layout, _columns(layout, [record]), 1).octets.tobytes()


@contextmanager
def _staged(key_values: Sequence[Sequence[str]], columns: Mapping[str, pa.Array], layout: Layout) -> Iterator[Staging]:
    """Yield staged rows, in a folder that goes when the block ends."""
    # No field can be called like this, so that keys and fields do not meet.
    by_field = zip(*key_values, strict=True)
    key_columns = {f"\x00key{number}": pa.array(values) for number, values in enumerate(by_field)}
    table = pa.table({**key_columns, **columns})
    with (
        tempfile.TemporaryDirectory() as folder,
        Staging(
            Path(folder), columns=table.column_names, key_fields=list(key_columns), layout=layout, memory_mb=MEMORY_MB
        ) as staging,
    ):
        for _ in staging.fill(table.schema, table.to_batches(), nothing):
            pass
        yield staging


def _compare(what: str, found: bytes, wanted: bytes) -> Iterator[str]:
    if found != wanted:
        yield f"{what} {found.hex()}, the file says {wanted.hex()}"
