"""The formats against independent, plainer computations of the same thing, and against their own inverses."""

from __future__ import annotations

import hashlib
import struct
from decimal import Decimal
from typing import Any, assert_never

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from serving.formats import keys
from serving.formats.blocks import DamagedBlock, encode_block, find_payload
from serving.formats.encoding import base64url_decode, base64url_encode
from serving.formats.keys import BadKey
from serving.formats.layouts import (
    BadLayout,
    BadValue,
    Bool,
    DamagedPayload,
    DecimalNumber,
    Enum,
    Kind,
    Layout,
    List,
    String,
    Uint,
)
from serving.formats.snapshot import FORMAT, BadSnapshot, Snapshot, Tenant, open_snapshot, sign_snapshot
from tests.unit.format_strategies import layouts, records_of

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
key_values = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=20)

# --- Keys and slots ---------------------------------------------------------------------------------------------------


@given(st.lists(key_values, min_size=1, max_size=3))
def test_canonical_key__values_of_key_fields__joined_and_reversible(values: list[str]) -> None:
    key = keys.canonical_key(values)
    assert key.decode().split("\x1f") == values


@pytest.mark.parametrize("values", [[""], ["a", ""], ["a\n"], ["\x00"], ["\x1f"], ["\ud800"], ["x" * 257], ["ü" * 129]])
def test_canonical_key__what_no_table_can_hold__refused(values: list[str]) -> None:
    with pytest.raises(BadKey):
        keys.canonical_key(values)


def test_canonical_key__exactly_256_bytes__taken() -> None:
    assert len(keys.canonical_key(["a" * 99, "ü" * 77, "b"])) == 256


@given(st.binary(max_size=60), st.integers(0, keys.MAX_BLOCK_BITS))
def test_locate__any_key__the_leading_bits_and_the_later_bytes_of_md5(key: bytes, bits: int) -> None:
    digest = hashlib.md5(key).hexdigest()  # noqa: S324 - the format's own hash
    binary = f"{int(digest, 16):0128b}"
    block, fingerprint = keys.locate(keys.digest(key), bits)
    assert block == int(binary[:bits] or "0", 2)
    assert fingerprint.hex() == digest[16:28]


@given(st.integers(0, 2**40))
def test_block_bits_for__any_number_of_rows__the_smallest_with_a_mean_of_64(rows: int) -> None:
    bits = keys.block_bits_for(rows)
    assert rows <= 64 * 2**bits or bits == keys.MAX_BLOCK_BITS
    assert bits == 0 or rows > 64 * 2 ** (bits - 1)


@given(texts, texts)
def test_slot__any_unit__what_the_query_shown_to_analysts_computes(salt: str, unit: str) -> None:
    digest = hashlib.md5(f"{salt}:{unit}".encode()).hexdigest()  # noqa: S324 - as above
    assert keys.slot(salt, unit) == int(digest[:15], 16) % 10_000


def test_block_name__block_in_lower_case_hex_and_no_braces() -> None:
    assert keys.block_name("recsite", "0123456789ab", 0xBEEF) == "recsite:t:0123456789ab:beef"


# --- Payload bits -----------------------------------------------------------------------------------------------------


def bits_of(kind: Kind, value: Any) -> str:
    """Spell a value's bits out, as DESIGN's table has them, in text."""

    def spelled(code: int, highest: int) -> str:
        width = highest.bit_length()
        return f"{code:0{width}b}" if width else ""

    match kind:
        case Bool():
            return "1" if value else "0"
        case Uint():
            return spelled(value - kind.min, kind.max - kind.min)
        case Enum():
            return spelled(kind.values.index(value), len(kind.values) - 1)
        case DecimalNumber():
            return spelled(int((value - kind.min) / kind.step), int((kind.max - kind.min) / kind.step))
        case String():
            raw = value.encode()
            return spelled(len(raw), kind.max_bytes) + "".join(f"{byte:08b}" for byte in raw)
        case List():
            return spelled(len(value), kind.max_items) + "".join(bits_of(kind.item, item) for item in value)
        case other:
            assert_never(other)


@st.composite
def records(draw: st.DrawFn) -> tuple[Layout, dict[str, Any]]:
    layout = draw(layouts())
    return layout, draw(records_of(layout))


@given(records())
def test_pack__any_record__its_bits_spelled_out(case: tuple[Layout, dict[str, Any]]) -> None:
    layout, record = case
    bits = ""
    for field in layout.fields:
        value = record[field.name]
        bits += ("0" if value is None else "1") if field.is_optional else ""
        bits += "" if value is None else bits_of(field.kind, value)
    padded = bits + "0" * (-len(bits) % 8)
    wanted = bytes(int(padded[at : at + 8], 2) for at in range(0, len(padded), 8))
    assert layout.pack(record) == wanted
    assert layout.payload_width in (None, len(wanted))


@given(records())
def test_unpack__what_was_packed__the_same_values(case: tuple[Layout, dict[str, Any]]) -> None:
    layout, record = case
    found = layout.unpack(layout.pack(record))
    assert list(found) == [field.name for field in layout.fields]
    for field in layout.fields:
        assert as_decimals(found[field.name]) == as_decimals(record[field.name])


def as_decimals(value: Any) -> Any:
    """Make floats what they print as, so that 0.1 is a tenth."""
    if isinstance(value, list):
        return [as_decimals(item) for item in value]
    return Decimal(repr(value)) if isinstance(value, float) else value


@given(layouts(), st.binary(max_size=60))
def test_unpack__any_bytes__a_record_that_packs_to_them_or_damaged(layout: Layout, payload: bytes) -> None:
    try:
        record = layout.unpack(payload)
    except DamagedPayload:
        return
    assert layout.pack(record) == payload


@given(records(), st.integers(0, 10_000))
def test_unpack__a_byte_too_many_or_too_few__damaged(case: tuple[Layout, dict[str, Any]], extra: int) -> None:
    layout, record = case
    payload = layout.pack(record)
    with pytest.raises(DamagedPayload):
        layout.unpack(payload + bytes([extra % 256]))
    if payload:
        with pytest.raises(DamagedPayload):
            layout.unpack(payload[:-1])


@given(layouts())
def test_parse__what_json_gives_of_a_layout__the_same_layout(layout: Layout) -> None:
    raw = [
        msgspec.to_builtins(field.kind, builtin_types=(Decimal,)) | {"name": field.name, "optional": field.is_optional}
        for field in layout.fields
    ]
    assert Layout.parse(raw).fields == layout.fields


@pytest.mark.parametrize(
    "field",
    [
        {"name": "x", "type": "uint", "min": 2, "max": 1},
        {"name": "x", "type": "uint", "min": -1, "max": 2**53 - 1},
        {"name": "x", "type": "uint", "min": 0},
        {"name": "x", "type": "uint", "min": 0, "max": 1, "step": 1},
        {"name": "x", "type": "enum", "values": []},
        {"name": "x", "type": "enum", "values": ["a", "a"]},
        {"name": "x", "type": "decimal", "min": 0, "max": 1, "step": 0},
        {"name": "x", "type": "decimal", "min": 0, "max": 1, "step": 0.3},
        {"name": "x", "type": "string", "max_bytes": -1},
        {"name": "x", "type": "string", "max_bytes": 70_000},
        {"name": "x", "type": "list", "max_items": 1, "item": {"type": "string", "max_bytes": 1}},
        {"name": "x", "type": "list", "max_items": 1, "item": {"type": "bool", "optional": True}},
        {"name": "x", "type": "nothing"},
        {"name": "", "type": "bool"},
        {"type": "bool"},
        "x",
    ],
)
def test_parse__what_is_no_layout__refused(field: Any) -> None:
    with pytest.raises(BadLayout):
        Layout.parse([field])


def test_pack__a_field_the_layout_does_not_have__refused() -> None:
    layout = Layout.parse([{"name": "x", "type": "bool"}])
    with pytest.raises(BadValue, match="'y' is not a field"):
        layout.pack({"x": True, "y": 1})


# --- Blocks -----------------------------------------------------------------------------------------------------------

fingerprints = st.binary(min_size=6, max_size=6)


@given(st.dictionaries(fingerprints, st.binary(max_size=9), max_size=70), fingerprints)
def test_find_payload__variable_width__what_was_encoded(rows: dict[bytes, bytes], other: bytes) -> None:
    block = encode_block(list(rows.items()), None)
    for fingerprint in [*rows, other]:
        assert find_payload(block, fingerprint, None) == rows.get(fingerprint)
    count = len(rows)
    offsets = struct.unpack_from(f">{count + 1}I", block, 2 + 6 * count)
    assert len(block) == 2 + 6 * count + 4 * (count + 1) + offsets[-1]


@given(st.dictionaries(fingerprints, st.binary(min_size=3, max_size=3), max_size=70), fingerprints)
def test_find_payload__fixed_width__what_was_encoded(rows: dict[bytes, bytes], other: bytes) -> None:
    block = encode_block(list(rows.items()), 3)
    assert block == b"".join(sorted(rows)) + b"".join(rows[fingerprint] for fingerprint in sorted(rows))
    for fingerprint in [*rows, other]:
        assert find_payload(block, fingerprint, 3) == rows.get(fingerprint)


def test_find_payload__bytes_that_straddle_two_fingerprints__not_found() -> None:
    block = encode_block([(b"abcdef", b"1"), (b"ghijkl", b"2")], 1)
    assert find_payload(block, b"defghi", 1) is None


@given(st.dictionaries(fingerprints, st.binary(min_size=1, max_size=5), min_size=1, max_size=9), st.data())
def test_find_payload__a_block_cut_short_or_longer__damaged(rows: dict[bytes, bytes], data: st.DataObject) -> None:
    block = encode_block(list(rows.items()), None)
    cut = data.draw(st.integers(0, len(block) - 1))
    for damaged in (block[:cut], block + b"\x00"):
        with pytest.raises(DamagedBlock):
            find_payload(damaged, next(iter(rows)), None)


def test_encode_block__one_fingerprint_twice__refused() -> None:
    with pytest.raises(ValueError, match="share a fingerprint"):
        encode_block([(b"abcdef", b"1"), (b"abcdef", b"2")], 1)


# --- Envelopes --------------------------------------------------------------------------------------------------------

SIGNING_KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
DOCUMENT = Snapshot(FORMAT, 7, 1_800_000_000, Tenant("0123456789ab", "red-fox", False, (), (), 10, 20))


def test_open_snapshot__what_was_signed__the_same_document() -> None:
    assert open_snapshot(sign_snapshot(DOCUMENT, "k1", SIGNING_KEY), {"k1": SIGNING_KEY.public_key()}) == DOCUMENT


@given(st.data())
def test_open_snapshot__any_bit_changed__refused(data: st.DataObject) -> None:
    envelope = bytearray(sign_snapshot(DOCUMENT, "k1", SIGNING_KEY))
    at = data.draw(st.integers(0, 8 * len(envelope) - 1))
    envelope[at // 8] ^= 1 << at % 8
    with pytest.raises(BadSnapshot):
        open_snapshot(bytes(envelope), {"k1": SIGNING_KEY.public_key()})


@given(st.binary(max_size=200))
def test_base64url__any_bytes__back_again_and_without_padding(raw: bytes) -> None:
    text = base64url_encode(raw)
    assert not set(text) & set("+/=")
    assert base64url_decode(text) == raw


@pytest.mark.parametrize("text", ["=", "QQ==", "QR", "A", "Q Q", "QQ\n", "+w", "ü"])
def test_base64url__anything_but_the_one_spelling__refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - whichever kind of it
        base64url_decode(text)
