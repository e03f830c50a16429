"""Payloads as JSON without the record in between: the same bytes as by way of the record, the same refusals."""

from __future__ import annotations

import gc
import weakref

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.formats.json_records import MOST_TEXTS, WIDEST_WRITTEN, JsonRecords
from serving.formats.layouts import DamagedPayload, Layout
from tests.unit.format_strategies import layouts, records_of

WIDE = Layout.parse([{"name": "x%s", "type": "decimal", "min": 0, "max": "99.99", "step": "0.01"}])


layouts_with_records = layouts().flatmap(lambda layout: st.tuples(st.just(layout), records_of(layout)))


def by_way_of_the_record(layout: Layout, payload: bytes) -> str | None:
    try:
        return msgspec.json.encode(layout.unpack(payload)).decode()
    except DamagedPayload:
        return None


def directly(records: JsonRecords, payload: bytes) -> str | None:
    try:
        return records.text(payload)
    except DamagedPayload:
        return None


@given(layouts_with_records)
def test_any_record__the_same_bytes(drawn: tuple[Layout, dict[str, object]]) -> None:
    layout, record = drawn
    payload = layout.pack(record)
    assert directly(JsonRecords(layout), payload) == by_way_of_the_record(layout, payload)


@pytest.mark.parametrize("fields", [WIDEST_WRITTEN, WIDEST_WRITTEN + 1])
def test_wide_layout__with_a_function_or_without__the_same_bytes_and_the_same_refusal(fields: int) -> None:
    layout = Layout.parse([{"name": f"x{n}", "type": "uint", "min": 0, "max": 2 * n} for n in range(fields)])
    payload = layout.pack({f"x{n}": n for n in range(fields)})
    text = directly(JsonRecords(layout), payload)
    assert text == by_way_of_the_record(layout, payload)
    assert text is not None
    assert directly(JsonRecords(layout), b"\xff" * len(payload)) is None


@given(layouts(), st.binary(max_size=40))
def test_any_bytes__the_same_bytes_or_the_same_refusal(layout: Layout, payload: bytes) -> None:
    if layout.payload_width is not None:
        payload = payload[: layout.payload_width].ljust(layout.payload_width, b"\x00")
    assert directly(JsonRecords(layout), payload) == by_way_of_the_record(layout, payload)


@pytest.mark.parametrize("is_asked", [True, False])
def test_records__not_needed_any_more__are_freed_without_a_collection_of_garbage(
    is_asked: bool,
) -> None:
    gc.disable()
    try:
        records = JsonRecords(WIDE)
        if is_asked:
            records.text(WIDE.pack({"x%s": 1}))
        gone: list[weakref.ref[object]] = [weakref.ref(records), weakref.ref(records.text)]
        del records
        assert [reference() for reference in gone] == [None, None]
    finally:
        gc.enable()


def test_text__kept_without_its_records__still_right() -> None:
    text, payload = JsonRecords(WIDE).text, WIDE.pack({"x%s": 1})
    assert [text(payload), text(payload)] == [by_way_of_the_record(WIDE, payload)] * 2


def test_texts__more_than_are_kept__still_right() -> None:
    records = JsonRecords(WIDE)
    for _ in range(2):
        for number in range(0, 9_999, 5):
            payload = WIDE.pack({"x%s": number / 100})
            assert records.text(payload) == by_way_of_the_record(WIDE, payload)
    assert MOST_TEXTS < 2_000


@pytest.mark.parametrize("payload", [b"\xff\xff", b"\x9c\x40"])
def test_beyond_the_maximum__refused(payload: bytes) -> None:
    with pytest.raises(DamagedPayload):
        JsonRecords(WIDE).text(payload)
