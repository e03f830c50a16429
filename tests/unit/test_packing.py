"""The bulk packer against the layout itself: the same bits for every record, the same refusals."""

from __future__ import annotations

import math
from collections.abc import Iterator
from decimal import Decimal
from fractions import Fraction
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from models_registry.loading.decimals import DecimalColumn
from models_registry.loading.packing import Payloads, RefusedValue, pack_columns
from serving.formats.layouts import BadValue, DecimalNumber, Field, Layout, List, String
from tests.unit.format_strategies import decimals, layouts, records_of, uints

generated = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def payloads_of(packed: Payloads) -> list[bytes]:
    raw = packed.octets.tobytes()
    return [raw[start:end] for start, end in zip(packed.offsets[:-1], packed.offsets[1:], strict=True)]


def pack_values(layout: Layout, *values: Any, kind: pa.DataType | None = None) -> list[bytes]:
    return payloads_of(pack_columns(layout, {layout.fields[0].name: pa.array(values, kind)}, len(values)))


def one(kind: Any, *, is_optional: bool = False) -> Layout:
    return Layout([Field("x", kind, is_optional)])


def columns_of(layout: Layout, records: list[dict[str, Any]]) -> dict[str, pa.Array]:
    """Columns as a source gives them: decimals as decimal128, everything else as Arrow infers it."""
    columns = {}
    for field in layout.fields:
        values = [record[field.name] for record in records]
        kind: pa.DataType | None = None
        if isinstance(field.kind, DecimalNumber):
            kind = pa.decimal128(38, 12)
        elif isinstance(field.kind, List) and isinstance(field.kind.item, DecimalNumber):
            kind = pa.list_(pa.decimal128(38, 12))
        columns[field.name] = pa.array(values, kind)
    return columns


@st.composite
def layouts_with_records(draw: st.DrawFn) -> tuple[Layout, list[dict[str, Any]]]:
    layout = draw(layouts())
    return layout, draw(st.lists(records_of(layout), max_size=12))


@generated
@given(layouts_with_records())
def test_pack_columns__any_records__the_layouts_own_bits(case: tuple[Layout, list[dict[str, Any]]]) -> None:
    layout, records = case
    packed = pack_columns(layout, columns_of(layout, records), len(records))
    assert payloads_of(packed) == [layout.pack(record) for record in records]
    assert (packed.rows, packed.width) == (len(records), layout.payload_width)


@generated
@given(layouts_with_records(), st.integers(0, 5), st.integers(0, 5))
def test_pack_columns__a_slice_of_a_larger_batch__its_rows_alone(
    case: tuple[Layout, list[dict[str, Any]]], before: int, length: int
) -> None:
    layout, records = case
    sliced = {name: column.slice(before, length) for name, column in columns_of(layout, records).items()}
    wanted = [layout.pack(record) for record in records[before : before + length]]
    assert payloads_of(pack_columns(layout, sliced, len(wanted))) == wanted


# --- Numbers ----------------------------------------------------------------------------------------------------------


def near(kind: DecimalNumber) -> st.SearchStrategy[float]:
    """Floats about a decimal's steps and about the edge of its tolerance, and anything else."""
    steps = st.integers(-2, kind.steps + 2)
    shifts = st.sampled_from([0, 1, -1, Decimal("0.999999999"), Decimal("1.000000001"), Decimal("0.5"), 3])
    about = st.builds(lambda step, by: float(kind.min + step * kind.step + by * kind.float_tolerance), steps, shifts)
    return st.one_of(about, st.floats(float(kind.min) - 1, float(kind.max) + 1), st.floats())


@st.composite
def decimals_with_floats(draw: st.DrawFn) -> tuple[DecimalNumber, list[float]]:
    kind = draw(decimals())
    return kind, draw(st.lists(near(kind), min_size=1, max_size=8))


@generated
@given(decimals_with_floats())
@example((DecimalNumber(Decimal(0), Decimal(9), Decimal(1)), [3.000001]))
@example((DecimalNumber(Decimal(-(2**53) + 1), Decimal(2**53 - 1), Decimal(1)), [2.0**53 - 1, -3.0, 2.5]))
@example((DecimalNumber(Decimal(0), Decimal(1), Decimal("0.01")), [0.29, 0.57, 0.1 + 0.2]))
def test_pack_columns__floats__accepted_and_refused_as_the_layout_does(case: tuple[DecimalNumber, list[float]]) -> None:
    kind, values = case
    for value in values:
        check_like_layout(one(kind), pa.array([value], pa.float64()))


def rounded_to(kind: DecimalNumber, value: float) -> int | None:
    """Return the code of a value that was rounded to 32 bits, worked out in fractions; None if it has none."""
    half_a_place = Fraction(float(np.spacing(np.float32(abs(value))))) / 2
    code = round((Fraction(value) - Fraction(kind.min)) / Fraction(kind.step))
    away = abs(Fraction(value) - Fraction(kind.min) - code * Fraction(kind.step))
    allowed = min(Fraction(kind.float_tolerance) + half_a_place, Fraction(kind.step) / 4)
    return code if away <= allowed and 0 <= code <= kind.steps else None


@st.composite
def decimals_with_narrow_floats(draw: st.DrawFn) -> tuple[DecimalNumber, list[float]]:
    kind = draw(decimals())
    drawn = draw(st.lists(st.one_of(near(kind), st.floats(width=32)), min_size=1, max_size=8))
    with np.errstate(over="ignore"):
        narrow = np.array([*drawn, float(kind.min), float(kind.max)]).astype(np.float32)
        # And their neighbours.
        above, below = (np.nextafter(narrow, np.float32(end)) for end in (np.inf, -np.inf))
    return kind, [float(value) for value in np.concatenate([narrow, above, below])]


@generated
@given(decimals_with_narrow_floats())
@example((DecimalNumber(Decimal(0), Decimal(1000), Decimal("0.01")), [float(np.float32(123.45))]))
def test_pack_columns__narrow_floats__are_forgiven_half_of_their_last_place(
    case: tuple[DecimalNumber, list[float]],
) -> None:
    kind, values = case
    layout = one(kind)
    codes = {value: rounded_to(kind, value) for value in values if math.isfinite(value) and abs(value) < 1e30}
    for value in values:
        if codes.get(value) is None:
            with pytest.raises(RefusedValue):
                pack_columns(layout, {"x": pa.array([value], pa.float32())}, 1)
    good = [value for value in values if codes.get(value) is not None]
    column = pa.array(good, pa.float32())
    wanted = [kind.from_code(codes[value] or 0) for value in good]
    packed = payloads_of(pack_columns(layout, {"x": column}, len(good)))
    assert packed == [layout.pack({"x": value}) for value in wanted]
    assert DecimalColumn(kind).meant(column).to_pylist() == wanted


@generated
@given(st.one_of(uints(), decimals()), st.data())
def test_pack_columns__integers_of_every_width__accepted_and_refused_as_the_layout_does(
    kind: Any, data: st.DataObject
) -> None:
    low, high = int(kind.min), int(kind.max)
    for width in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()):
        limits = np.iinfo(width.to_pandas_dtype())
        near_edges = [v for v in (low - 1, low, high, high + 1) if limits.min <= v <= limits.max]
        value = data.draw(st.one_of(st.integers(int(limits.min), int(limits.max)), st.sampled_from([0, *near_edges])))
        check_like_layout(one(kind), pa.array([value], width))


@generated
@given(decimals(), st.integers(0, 30), st.data())
def test_pack_columns__decimals_of_every_scale__accepted_and_refused_as_the_layout_does(
    kind: DecimalNumber, scale: int, data: st.DataObject
) -> None:
    unscaled = data.draw(
        st.one_of(
            st.integers(-(10**37), 10**37),
            st.integers(-2, kind.steps + 2).map(lambda step: int((kind.min + step * kind.step) * 10**scale)),
        ).filter(lambda number: abs(number) < 10**38)
    )
    value = Decimal(unscaled).scaleb(-scale)
    check_like_layout(one(kind), pa.array([value], pa.decimal128(38, scale)))
    check_like_layout(one(kind), pa.array([value], pa.decimal256(70, scale)))


def check_like_layout(layout: Layout, column: pa.Array) -> None:
    record = {"x": column[0].as_py()}
    wanted: bytes | str
    try:
        wanted = layout.pack(record)
    except BadValue as error:
        wanted = str(error)
    found: bytes | str
    try:
        (found,) = payloads_of(pack_columns(layout, {"x": column}, 1))
    except RefusedValue as error:
        found = str(error)
    assert found == wanted


# --- Refusals ---------------------------------------------------------------------------------------------------------

UINT = {"name": "x", "type": "uint", "min": 10, "max": 20}
ENUM = {"name": "x", "type": "enum", "values": ["a", "b"]}
RATE = {"name": "x", "type": "decimal", "min": 0, "max": 1, "step": 0.01}
TEXT = {"name": "x", "type": "string", "max_bytes": 3}
BITS = {"name": "x", "type": "list", "max_items": 2, "item": {"type": "bool"}}
NUMBERS = {"name": "x", "type": "list", "max_items": 3, "item": {"type": "uint", "min": 0, "max": 3}}


def refusals() -> Iterator[Any]:
    yield pytest.param(UINT, pa.array([10, 20, 21, 22]), 2, "21 is not within 10 … 20", id="above")
    yield pytest.param(UINT, pa.array([10, 9]), 1, "9 is not within 10 … 20", id="below")
    yield pytest.param(UINT, pa.array([10, None]), 1, "a value is required", id="null")
    yield pytest.param(UINT, pa.array(["15"]), 0, "'15' is not a whole number", id="text for a number")
    yield pytest.param(UINT, pa.array([15.0]), 0, "15.0 is not a whole number", id="float for a whole number")
    yield pytest.param(UINT, pa.array([True]), 0, "True is not a whole number", id="bool for a number")
    yield pytest.param({**UINT, "optional": True}, pa.array([None, "15"]), 1, "'15' is not a whole number", id="late")
    yield pytest.param(ENUM, pa.array(["a", "c"]), 1, "'c' is not one of the 2 values", id="unknown")
    yield pytest.param(RATE, pa.array([0.5, float("nan")]), 1, "nan is not a finite number", id="nan")
    yield pytest.param(RATE, pa.array([0.005]), 0, "0.005 is not a whole number of steps of 0.01 from 0", id="step")
    yield pytest.param(RATE, pa.array([1.01]), 0, "1.01 is not within 0 … 1", id="beyond")
    yield pytest.param(TEXT, pa.array(["é", "é—"]), 1, "the text is 5 bytes long, more than 3", id="long text")
    yield pytest.param(TEXT, pa.array([b"abc"]), 0, "b'abc' is not text", id="bytes for text")
    yield pytest.param(BITS, pa.array([[], [True] * 3]), 1, "the list has 3 items, more than 2", id="long list")
    yield pytest.param(NUMBERS, pa.array([[1], [], [0, 3, 4]]), 2, "4 is not within 0 … 3", id="item beyond")
    yield pytest.param(NUMBERS, pa.array([[1], [2, None]]), 1, "a list cannot contain nulls", id="null item")
    yield pytest.param(NUMBERS, pa.array([3]), 0, "3 is not a list", id="number for a list")
    yield pytest.param(BITS, pa.array([[], [1]]), 1, "1 is not true or false", id="number for a bool")


@pytest.mark.parametrize(("field", "column", "row", "reason"), list(refusals()))
def test_pack_columns__a_value_the_field_cannot_hold__named_with_its_row(
    field: dict[str, Any], column: pa.Array, row: int, reason: str
) -> None:
    with pytest.raises(RefusedValue) as refusal:
        pack_columns(Layout.parse([field]), {"x": column}, len(column))
    assert (refusal.value.field, refusal.value.row, refusal.value.reason) == ("x", row, reason)


def test_pack_columns__a_missing_column__null_in_every_row() -> None:
    layout = Layout.parse([{**TEXT, "optional": True}, {**UINT, "name": "y"}])
    assert payloads_of(pack_columns(layout, {"y": pa.array([10, 11])}, 2)) == [b"\x00", b"\x08"]
    with pytest.raises(RefusedValue, match=r"^x: a value is required$"):
        pack_columns(Layout.parse([UINT]), {}, 3)


# --- Shapes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
def test_pack_columns__text_of_every_arrow_kind__the_same_bits(kind: pa.DataType) -> None:
    assert pack_values(one(String(20)), "", "héllo wörld", kind=kind) == [
        one(String(20)).pack({"x": ""}),
        one(String(20)).pack({"x": "héllo wörld"}),
    ]


@pytest.mark.parametrize("kind", [pa.large_list(pa.int64()), pa.list_(pa.int64(), 2), pa.list_(pa.uint8())])
def test_pack_columns__lists_of_every_arrow_kind__the_same_bits(kind: pa.DataType) -> None:
    layout = Layout.parse([{**NUMBERS, "optional": True}])
    values = [[1, 2], None, [3, 0]]
    assert pack_values(layout, *values, kind=kind) == [layout.pack({"x": value}) for value in values]


def test_pack_columns__dictionaries_and_chunks__the_same_bits() -> None:
    layout = Layout.parse([{**ENUM, "optional": True}])
    values = ["b", None, "a", "b"]
    chunked = pa.chunked_array([pa.array(values[:2]), pa.array(values[2:])]).dictionary_encode()
    assert payloads_of(pack_columns(layout, {"x": chunked}, 4)) == [layout.pack({"x": value}) for value in values]


def test_pack_columns__a_text_of_many_words_among_short_ones__the_same_bits() -> None:
    decimal = DecimalNumber(Decimal(0), Decimal(9), Decimal("0.001"))
    layout = Layout([Field("y", List(4000, decimal)), Field("x", String(50_000))])
    texts = ["", "a" * 49_999, "bc", "ю" * 20_000]
    lists: list[list[int]] = [[], [1, 2] * 2000, [9], []]
    packed = pack_columns(layout, {"x": pa.array(texts), "y": pa.array(lists, pa.list_(pa.int64()))}, 4)
    assert payloads_of(packed) == [layout.pack({"x": x, "y": y}) for x, y in zip(texts, lists, strict=True)]


def test_pack_columns__fields_of_no_bits__empty_payloads() -> None:
    layout = Layout.parse([{"name": "x", "type": "uint", "min": 7, "max": 7}])
    packed = pack_columns(layout, {"x": pa.array([7, 7, 7])}, 3)
    assert (packed.rows, packed.width, packed.octets.tobytes()) == (3, 0, b"")
    wide = Layout.parse([{"name": f"f{i}", "type": "uint", "min": 0, "max": 2**32 - 1} for i in range(2)] + [UINT])
    padded = Layout([*wide.fields[:2], *layout.fields])
    columns = {"f0": pa.array([1]), "f1": pa.array([2]), "x": pa.array([7])}
    assert payloads_of(pack_columns(padded, columns, 1)) == [b"\x00\x00\x00\x01\x00\x00\x00\x02"]
