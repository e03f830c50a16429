"""Rows through DuckDB and buckets into blocks, against the plain encoder; and the checks in SQL against the packer."""

from __future__ import annotations

import math
import time
from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models_registry.loading import staging as staging_module
from models_registry.loading.checks import Expected, check_columns, check_rows
from models_registry.loading.cutting import BlockCutter, SharedPlace
from models_registry.loading.packing import Payloads, RefusedValue, pack_columns
from models_registry.loading.placing import Buckets, Digests
from models_registry.loading.staging import ROWS_PER_INSERT, Staging
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


N = Layout.parse([{"name": "n", "type": "uint", "min": 0, "max": 2**20}])


def staged(folder: Path, table: pa.Table, key_fields: Sequence[str], layout: Layout = N) -> Staging:
    staging = Staging(folder, columns=table.column_names, key_fields=key_fields, layout=layout, memory_mb=256)
    for _ in staging.fill(table.schema, table.to_batches(max_chunksize=7), nothing):
        pass
    return staging


def placed(buckets: Buckets, bits: int) -> list[tuple[int, bytes, bytes, int]]:
    """Return block, fingerprint, payload and number of every row, as they come."""
    found = []
    for rows in buckets.in_block_order(bits):
        raw, ends = rows.payloads.octets.tobytes(), rows.payloads.offsets.tolist()
        prints = [int(number).to_bytes(6, "big") for number in rows.fingerprints]
        cut = [raw[start:end] for start, end in pairwise(ends)]
        found += list(zip(rows.blocks.tolist(), prints, cut, rows.rows.tolist(), strict=True))
    return found


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
        found = placed(staging.buckets, bits)
    places = [locate(digest(canonical_key([country, str(band)])), bits) for country, band in rows]
    assert found == sorted((*place, N.pack({"n": number}), number) for number, place in enumerate(places))


@pytest.mark.parametrize(
    "statement",
    ["SELECT * FROM '/etc/hostname'", "COPY (SELECT 1) TO '/tmp/recsite-out.csv'", "SET enable_external_access = true"],
)
def test_staging__sql_that_reaches_out__refused(statement: str, tmp_path: Path) -> None:
    with staged(tmp_path, pa.table({"k": ["a"]}), ["k"]) as staging, pytest.raises(duckdb.Error):
        staging.query(statement, nothing)


def test_staging__more_rows_than_memory__spills_and_loses_none(tmp_path: Path) -> None:
    rows = 1_000_000
    table = pa.table({"k": pa.array([f"{n:0150d}" for n in range(rows)]), "n": np.arange(rows)})
    with Staging(tmp_path, columns=["k", "n"], key_fields=["k"], layout=N, memory_mb=128) as staging:
        assert list(staging.fill(table.schema, table.to_batches(max_chunksize=65_536), nothing))[-1] == rows
        assert any((tmp_path / "spill").iterdir())
        ((moved,),) = staging.query("SELECT count(*) FILTER (c1 <> rowid OR c0::BIGINT <> c1) FROM rows", nothing)
        numbers = [batch.rows for batch in staging.buckets.in_block_order(10)]
    assert moved == 0
    assert np.array_equal(np.sort(np.concatenate(numbers)), np.arange(rows))


def test_staging__it_may_not_be_ahead__begins_the_next_rows_when_these_are_done_with(tmp_path: Path) -> None:
    table = pa.table({"k": np.arange(3 * ROWS_PER_INSERT), "n": np.zeros(3 * ROWS_PER_INSERT, np.int64)})
    begun: list[int] = []

    def batches() -> Iterator[pa.RecordBatch]:
        for batch in table.to_batches(max_chunksize=ROWS_PER_INSERT):
            begun.append(len(begun))
            yield batch

    with Staging(tmp_path, columns=["k", "n"], key_fields=["k"], layout=N, memory_mb=256) as staging:
        filling = staging.fill(table.schema, batches(), nothing, may_be_ahead=lambda: False)
        for number, _ in enumerate(filling, start=1):
            # Time enough for one that does not wait.
            time.sleep(0.1)
            assert len(begun) == number
    assert len(begun) == 3


# --- Buckets ----------------------------------------------------------------------------------------------------------


TEXT = Layout.parse([{"name": "t", "type": "string", "max_bytes": 9}])


@st.composite
def digested_rows(draw: st.DrawFn) -> tuple[int, int, list[tuple[int, int]]]:
    """Shared bits, block bits of the table, and places and fingerprints of rows, many on the borders of buckets."""
    shared_bits = draw(st.integers(0, 10))
    block_bits = draw(st.integers(shared_bits, 30))
    prefix = draw(st.integers(0, 2**shared_bits - 1)) << (32 - shared_bits)
    step = 2 ** (32 - shared_bits - 8)
    borders = [bucket * step + away for bucket in (0, 1, 7, 128, 255) for away in (0, 1, step - 1)]
    anywhere = st.integers(0, 2 ** (32 - shared_bits) - 1)
    place = st.one_of(st.sampled_from(borders), anywhere).map(lambda rest: prefix + rest)
    fingerprint = st.one_of(st.sampled_from([0, 1, 2**48 - 1]), st.integers(0, 2**48 - 1))
    rows = draw(st.lists(st.tuples(place, fingerprint), max_size=60))
    return shared_bits, block_bits, rows


def filled(folder: Path, layout: Layout, shared_bits: int, rows: Sequence[tuple[int, int]], at_once: int) -> Buckets:
    """Return buckets with rows whose payload is their number."""
    buckets = Buckets(folder, layout, shared_bits=shared_bits)
    numbers = list(range(len(rows)))
    values = {
        "n": pa.chunked_array([numbers], pa.int64()),
        "t": pa.chunked_array([[str(n) for n in numbers]], pa.string()),
    }
    (field,) = layout.fields
    for start in range(0, len(rows), at_once):
        part = rows[start : start + at_once]
        places, fingerprints = (np.array(column) for column in zip(*part, strict=True))
        digests = Digests(places.astype(np.uint32), fingerprints.astype(np.uint64), None)
        buckets.add(digests, {field.name: values[field.name].slice(start, len(part))}, start)
    return buckets


@generated
@given(digested_rows(), st.sampled_from([N, TEXT]), st.integers(1, 60))
@example((0, 0, [(2**32 - 1, 5), (0, 7), (2**24, 6)]), TEXT, 2)
@example((0, 30, [(2**24 - 1, 5), (0, 7), (0, 6)]), N, 2)
@example((10, 10, [(5, 2**48 - 1), (2**22 - 1, 0)]), N, 1)
def test_buckets__any_digests__in_the_order_of_blocks(
    tmp_path_factory: pytest.TempPathFactory,
    case: tuple[int, int, list[tuple[int, int]]],
    layout: Layout,
    at_once: int,
) -> None:
    shared_bits, bits, rows = case
    buckets = filled(tmp_path_factory.mktemp("buckets"), layout, shared_bits, rows, at_once)
    found = placed(buckets, bits)
    shared = buckets.shared_places(bits, len(rows), nothing)
    buckets.close()
    (field,) = layout.fields
    wanted = [
        (place >> 32 - bits, fingerprint.to_bytes(6, "big"), layout.pack({field.name: n if layout is N else str(n)}), n)
        for n, (place, fingerprint) in enumerate(rows)
    ]
    assert [row[:2] for row in found] == sorted(row[:2] for row in wanted)
    assert sorted(found) == sorted(wanted)

    numbers: dict[tuple[int, bytes], list[int]] = defaultdict(list)
    for block, fingerprint, _, number in wanted:
        numbers[block, fingerprint].append(number)
    twice = [(len(same), same[0], same[-1]) for same in numbers.values() if len(same) > 1]
    assert (shared.count, shared.samples) == (len(twice), sorted(twice, key=lambda sample: sample[1]))


@generated
@given(st.integers(0, 12), st.data(), st.lists(st.tuples(st.integers(0, 2**32 - 1), st.integers(0, 9)), max_size=60))
def test_buckets__blocks_before_one__none_of_their_rows_is_missing_and_blocks_are_in_order(
    tmp_path_factory: pytest.TempPathFactory, bits: int, data: st.DataObject, rows: list[tuple[int, int]]
) -> None:
    end = data.draw(st.integers(1, 2**bits))
    buckets = filled(tmp_path_factory.mktemp("buckets"), N, 0, rows, 7)
    lots = list(buckets.bucket_by_bucket(bits, end))
    buckets.close()
    blocks = [block for lot in lots for block in lot.blocks.tolist()]
    assert blocks == sorted(blocks)
    numbers = {number for lot in lots for number in lot.rows.tolist()}
    assert numbers >= {number for number, (place, _) in enumerate(rows) if place >> 32 - bits < end}
    for lot in lots:
        order = list(zip(lot.blocks.tolist(), lot.fingerprints.tolist(), strict=True))
        assert order == sorted(order)


def test_buckets__a_row_that_the_packer_refuses__is_named_and_places_are_still_looked_through(tmp_path: Path) -> None:
    buckets = Buckets(tmp_path, N)
    for first, values in ((0, [1, 2]), (2, [3, -1, 4]), (5, [-2])):
        places = np.arange(first, first + len(values), dtype=np.uint32)
        digests = Digests(places, np.full(len(values), 7, np.uint64), None)
        buckets.add(digests, {"n": pa.chunked_array([values])}, first)
    assert buckets.refused is not None
    assert (buckets.refused.row, buckets.refused.field) == (3, "n")
    assert buckets.shared_places(0, 5, nothing).samples == [(6, 0, 5)]
    buckets.close()


def test_staging__rows_without_a_key__have_no_place(tmp_path: Path) -> None:
    table = pa.table({"k": ["a", None, "a", "b"], "n": [1, 2, 3, 4]})
    with staged(tmp_path, table, ["k"]) as staging:
        assert staging.buckets.shared_places(0, 5, nothing).samples == [(2, 0, 2)]
        assert staging.keys_of([3, 0], nothing) == {0: "a", 3: "b"}


@pytest.mark.parametrize("rows", [500, 5000, 40_000])
def test_staging__a_sample__is_of_the_lowest_digests(
    rows: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(staging_module, "sample_rows", lambda _: 1000)
    keys = [f"p{number}" for number in range(rows)]
    table = pa.table({"k": keys, "n": range(rows)})
    with Staging(tmp_path, columns=["k", "n"], key_fields=["k"], layout=N, memory_mb=256) as staging:
        monkeypatch.setattr(staging_module, "ROWS_PER_INSERT", 300)
        for _ in staging.fill(table.schema, table.to_batches(max_chunksize=300), nothing):
            pass
        found = staging.sample()["n"].to_pylist()
    below = 2**32 if rows <= 1000 else 2**32 * 1000 // rows
    assert found == [n for n, key in enumerate(keys) if int.from_bytes(digest(key.encode())[:4], "big") < below]
    assert len(found) == min(rows, 1000) or 850 < len(found) < 1150


# --- The checks in SQL and the packer, together -----------------------------------------------------------------------


def outcome(layout: Layout, columns: dict[str, pa.Array], rows: int, folder: Path) -> tuple[bool, bool]:
    """Tell whether the checks pass, and whether the packer takes every row."""
    table = pa.table({"key": [f"k{n}" for n in range(rows)], **columns})
    expected = Expected(("key",), layout, active_rows=None, max_row_count_change=0.3, max_psi=0.25, min_coverage=0.5)
    check, usable = check_columns(table.schema, expected)
    with staged(folder, table.select(usable), ["key"], layout) as staging:
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
