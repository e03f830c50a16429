"""Rows through DuckDB into blocks, against the plain encoder; and the checks in SQL against the packer."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models_registry.loading.checks import Expected, check_columns, check_rows
from models_registry.loading.cutting import BlockCutter, SharedPlace
from models_registry.loading.packing import Payloads, RefusedValue, pack_columns
from models_registry.loading.staging import BLOCK, FINGERPRINT, Staging
from serving.formats.blocks import encode_block
from serving.formats.keys import canonical_key, digest, locate
from serving.formats.layouts import BadValue, DecimalNumber, Field, Layout
from tests.unit.format_strategies import decimals, layouts, records_of, uints

generated = settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])


def nothing() -> None:
    """A heartbeat that says nothing."""


def payloads(rows: Sequence[bytes], width: int | None) -> Payloads:
    offsets = np.cumsum([0, *map(len, rows)]).astype(np.int64)
    return Payloads(len(rows), np.frombuffer(b"".join(rows), np.uint8), width, offsets)


# --- Cutting ----------------------------------------------------------------------------------------------------------


@st.composite
def placed_rows(draw: st.DrawFn) -> tuple[int, list[tuple[int, int, bytes]], int | None]:
    """Block bits, rows in order as (block, fingerprint, payload), and the payloads' width."""
    bits = draw(st.integers(0, 5))
    width = draw(st.sampled_from([None, 0, 1, 3]))
    payload = st.binary(max_size=6) if width is None else st.binary(min_size=width, max_size=width)
    places = st.tuples(st.integers(0, 2**bits - 1), st.integers(0, 2**48 - 1))
    rows = draw(st.dictionaries(places, payload, max_size=80))
    return bits, [(*place, rows[place]) for place in sorted(rows)], width


@generated
@given(placed_rows(), st.lists(st.integers(0, 80), max_size=4))
def test_block_cutter__rows_in_batches_of_any_size__every_block_as_the_plain_encoder_has_it(
    case: tuple[int, list[tuple[int, int, bytes]], int | None], ends: list[int]
) -> None:
    bits, rows, width = case
    cutter = BlockCutter(width, 0, 2**bits)
    blocks: dict[int, bytes] = {}
    bounds = sorted({0, *(min(end, len(rows)) for end in ends), len(rows)})
    for start, end in zip(bounds, [*bounds[1:], len(rows)], strict=True):
        batch = rows[start:end]
        cut = cutter.add(
            np.array([block for block, _, _ in batch], np.uint32),
            np.array([fingerprint for _, fingerprint, _ in batch], np.uint64),
            payloads([payload for _, _, payload in batch], width),
        )
        blocks |= dict(enumerate(cut.blocks, start=cut.first))
    cut = cutter.finish()
    blocks |= dict(enumerate(cut.blocks, start=cut.first))

    wanted: dict[int, list[tuple[bytes, bytes]]] = defaultdict(list)
    for block, fingerprint, payload in rows:
        wanted[block].append((fingerprint.to_bytes(6, "big"), payload))
    assert blocks == {number: encode_block(wanted[number], width) for number in range(2**bits)}


@pytest.mark.parametrize(
    ("places", "error"),
    [
        ([(0, 5), (0, 5)], SharedPlace),
        ([(0, 5), (0, 4)], ValueError),
        ([(1, 5), (0, 6)], ValueError),
        ([(0, 5), (2, 6)], ValueError),
    ],
)
def test_block_cutter__rows_that_cannot_be_cut__refused(places: list[tuple[int, int]], error: type[Exception]) -> None:
    with pytest.raises(error):
        BlockCutter(1, 0, 2).add(
            np.array([block for block, _ in places], np.uint32),
            np.array([fingerprint for _, fingerprint in places], np.uint64),
            payloads([b"x"] * len(places), 1),
        )


def test_block_cutter__a_second_batch_that_begins_with_the_last_row_again__refused() -> None:
    cutter = BlockCutter(1, 0, 1)
    batch = np.zeros(1, np.uint32), np.array([7], np.uint64), payloads([b"x"], 1)
    cutter.add(*batch)
    with pytest.raises(SharedPlace):
        cutter.add(*batch)


# --- DuckDB -----------------------------------------------------------------------------------------------------------


def staged(folder: Path, table: pa.Table, key_fields: Sequence[str]) -> Staging:
    staging = Staging(folder, columns=table.column_names, key_fields=key_fields, memory_mb=256)
    for _ in staging.fill(table.schema, table.to_batches(max_chunksize=7), nothing):
        pass
    return staging


texts = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=12)


@generated
@given(st.sets(st.tuples(texts, st.integers(-(2**63), 2**63 - 1)), min_size=1, max_size=20), st.integers(0, 30))
@example({("日本", 1), ("'; --", -1), ("a b", 0)}, 30)
def test_staging__any_keys__ordered_by_the_places_that_serving_looks_in(
    tmp_path_factory: pytest.TempPathFactory, keys: set[tuple[str, int]], bits: int
) -> None:
    rows = sorted(keys)
    table = pa.table({"country": [c for c, _ in rows], "band": [b for _, b in rows], "n": list(range(len(rows)))})
    with staged(tmp_path_factory.mktemp("staging"), table, ["country", "band"]) as staging:
        batches = list(staging.in_block_order(["n"], bits, 8, nothing))
    found = [
        (int(block), int(fingerprint).to_bytes(6, "big"), number)
        for batch in batches
        for block, fingerprint, number in zip(*(batch[n].to_pylist() for n in (BLOCK, FINGERPRINT, "n")), strict=True)
    ]
    places = [locate(digest(canonical_key([country, str(band)])), bits) for country, band in rows]
    assert found == sorted((*place, number) for number, place in enumerate(places))


@pytest.mark.parametrize(
    "statement",
    ["SELECT * FROM '/etc/hostname'", "COPY (SELECT 1) TO '/tmp/recsite-out.csv'", "SET enable_external_access = true"],
)
def test_staging__sql_that_reaches_out__refused(statement: str, tmp_path: Path) -> None:
    with staged(tmp_path, pa.table({"k": ["a"]}), ["k"]) as staging, pytest.raises(duckdb.Error):
        staging.query(statement, nothing)


def test_staging__more_rows_than_memory__spills_and_loses_none(tmp_path: Path) -> None:
    rows = 400_000
    table = pa.table({"k": pa.array([f"{n:0150d}" for n in range(rows)]), "n": np.arange(rows)})
    with Staging(tmp_path, columns=["k", "n"], key_fields=["k"], memory_mb=128) as staging:
        assert list(staging.fill(table.schema, table.to_batches(max_chunksize=65_536), nothing))[-1] == rows
        numbers = [batch["n"].to_numpy() for batch in staging.in_block_order(["k", "n"], 10, 1000, nothing)]
    assert np.array_equal(np.sort(np.concatenate(numbers)), np.arange(rows))


# --- The checks in SQL and the packer, together -----------------------------------------------------------------------


def outcome(layout: Layout, columns: dict[str, pa.Array], rows: int, folder: Path) -> tuple[bool, bool]:
    """Tell whether the checks pass, and whether the packer takes every row."""
    table = pa.table({"key": [f"k{n}" for n in range(rows)], **columns})
    expected = Expected(("key",), layout, active_rows=None, max_row_count_change=0.3, max_psi=0.25, min_coverage=0.5)
    check, usable = check_columns(table.schema, expected)
    with staged(folder, table.select(usable), ["key"]) as staging:
        passed = check.passed and all(found.passed for found in check_rows(staging, table.schema, expected, nothing))
    try:
        pack_columns(layout, columns, rows)
    except RefusedValue:
        return passed, False
    return passed, True


@st.composite
def layouts_with_columns(draw: st.DrawFn) -> tuple[Layout, dict[str, pa.Array], int]:
    layout = draw(layouts(max_fields=4))
    records = draw(st.lists(records_of(layout), min_size=1, max_size=6))
    columns = {}
    for field in layout.fields:
        values = [record[field.name] for record in records]
        is_decimal = isinstance(getattr(field.kind, "item", field.kind), DecimalNumber)
        kind = pa.decimal128(38, 12) if is_decimal else None
        columns[field.name] = pa.array(values, pa.list_(kind) if kind and hasattr(field.kind, "item") else kind)
    return layout, columns, len(records)


@generated
@given(layouts_with_columns())
def test_checks__records_the_layout_packs__pass(
    tmp_path_factory: pytest.TempPathFactory, case: tuple[Layout, dict[str, pa.Array], int]
) -> None:
    assert outcome(*case, tmp_path_factory.mktemp("staging")) == (True, True)


def number_columns(kind: Any, data: st.DataObject) -> pa.Array:
    low, high = float(kind.min), float(kind.max)
    edges = [low, high, low - 1, high + 1, (low + high) / 2]
    floats = st.one_of(st.sampled_from(edges), st.floats(), st.floats(low - 1, high + 1))
    values = data.draw(st.lists(floats, min_size=1, max_size=5))
    if isinstance(kind, DecimalNumber) and data.draw(st.booleans()):
        return pa.array(values)
    whole = [int(max(-(2.0**62), min(2.0**62, value))) for value in values if math.isfinite(value)]
    return pa.array(whole or [0])


@generated
@given(st.one_of(uints(), decimals()), st.data())
def test_checks__any_numbers__refuse_nothing_that_the_packer_takes(
    tmp_path_factory: pytest.TempPathFactory, kind: Any, data: st.DataObject
) -> None:
    column = number_columns(kind, data)
    layout = Layout([Field("x", kind)])
    passed, packed = outcome(layout, {"x": column}, len(column), tmp_path_factory.mktemp("staging"))
    assert passed or not packed
    # What SQL lets pass and the packer does not is within rounding; the packer's word is what counts.
    if not isinstance(kind, DecimalNumber):
        assert passed == packed


@pytest.mark.parametrize(
    "kind", [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
)
@pytest.mark.parametrize(("low", "high"), [(0, 2**53 - 1), (-5, 5), (1000, 2000), (-(2**40), -1)])
def test_checks__integers_of_every_width__judged_as_the_packer_does(
    kind: pa.DataType, low: int, high: int, tmp_path: Path
) -> None:
    limits = np.iinfo(kind.to_pandas_dtype())
    layout = Layout.parse([{"name": "x", "type": "uint", "min": low, "max": high}])
    values = [int(limits.min), int(limits.max), low - 1, low, high, high + 1, 0]
    for number, value in enumerate(value for value in values if limits.min <= value <= limits.max):
        folder = tmp_path / str(number)
        folder.mkdir()
        passed, packed = outcome(layout, {"x": pa.array([value], kind)}, 1, folder)
        assert passed == packed == (low <= value <= high)


@pytest.mark.parametrize(
    "column",
    [
        pa.array([1.5, 0.25], pa.float32()),
        pa.array(np.array([1.5, 0.25], np.float16)),
        pa.array(["1.5", "0.25"]).cast(pa.decimal64(5, 2)),
        pa.array(["1.5", "0.25"]).cast(pa.decimal128(38, 20)),
        pa.array([1, 0], pa.uint16()),
        pa.nulls(2),
    ],
)
def test_checks__numbers_of_every_arrow_kind__pass(column: pa.Array, tmp_path: Path) -> None:
    field = {"name": "x", "type": "decimal", "min": 0, "max": 2, "step": 0.25, "optional": True}
    assert outcome(Layout.parse([field]), {"x": column}, 2, tmp_path) == (True, True)


def test_checks__lists_and_texts_of_every_arrow_kind__pass(tmp_path: Path) -> None:
    layout = Layout.parse(
        [
            {"name": "a", "type": "list", "max_items": 2, "item": {"type": "enum", "values": ["x", "y"]}},
            {"name": "b", "type": "list", "max_items": 2, "item": {"type": "uint", "min": 0, "max": 9}},
            {"name": "c", "type": "string", "max_bytes": 9},
            {"name": "d", "type": "list", "max_items": 2, "item": {"type": "bool"}},
        ]
    )
    columns = {
        "a": pa.array([["x"], ["y", "x"]], pa.large_list(pa.large_string())),
        "b": pa.array([[1, 2], [3, 4]], pa.list_(pa.int32(), 2)),
        "c": pa.array(["héllo", ""], pa.string_view()),
        "d": pa.array([[], []]),
    }
    assert outcome(layout, columns, 2, tmp_path) == (True, True)


def test_bad_value__is_what_both_refuse() -> None:
    assert issubclass(RefusedValue, BadValue)
