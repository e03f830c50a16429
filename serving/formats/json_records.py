"""Payload bits as JSON, without the record in between: what most answers are made of.

`JsonRecords(layout).text(payload)` gives exactly what `msgspec.json.encode(layout.unpack(payload))` gives, and refuses
what `unpack` refuses. Texts of numbers with a fraction, of enum values and of truth values are kept as they are met,
so that a field costs a few shifts and one look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from serving.formats.layouts import DamagedPayload, Field, Layout, List, Scalar, String, Uint

# Of each field. Enumerations and discounts have fewer; what has more is made anew each time.
MOST_TEXTS = 1024

Text = Callable[[int], str]


class JsonRecords:
    """Gives the records of one layout.

    Args:
        layout: of the payloads.
    """

    __slots__ = ("_fields", "_fixed", "_padding", "_template", "layout")

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        heads = [f"{_encoded(field.name)}:" for field in layout.fields]
        self._template = "{" + ",".join(f"{head.replace('%', '%%')}%s" for head in heads) + "}"
        # A layout of fixed width: what gives each field's text, how far to shift the payload for it, and its mask.
        self._fixed: list[tuple[Text, int, int]] | None = None
        self._padding = 0
        self._fields = [_FieldText(field) for field in layout.fields]
        if layout.payload_width is not None:
            left = 8 * layout.payload_width
            self._fixed = []
            for field in layout.fields:
                assert isinstance(field.kind, Scalar)  # noqa: S101  # that is what fixed width means
                left -= field.kind.bits
                self._fixed.append((_text_of(field.kind), left, (1 << field.kind.bits) - 1))
            self._padding = (1 << left) - 1

    def text(self, payload: bytes) -> str:
        """Give the record of a payload as a JSON object.

        Args:
            payload: of the layout's width, if it has one.

        Raises:
            DamagedPayload: no record of this layout packs to these bytes.
        """
        bits = int.from_bytes(payload, "big")
        if self._fixed is not None:
            if bits & self._padding:
                raise DamagedPayload("the payload is too long")
            return self._template % tuple([text(bits >> shift & mask) for text, shift, mask in self._fixed])
        left = 8 * len(payload)
        texts = []
        for field in self._fields:
            text, left = field.take(bits, left)
            texts.append(text)
        if left > 7 or bits & ((1 << left) - 1):
            raise DamagedPayload("the payload is too long")
        return self._template % tuple(texts)


class _FieldText:
    """One field of a layout of variable width.

    `take` gives its text and how many bits of the payload are left after it, of those that were left before it.
    """

    __slots__ = ("_bits", "_is_optional", "_mask", "_most", "_text", "take")

    def __init__(self, field: Field) -> None:
        kind = field.kind
        self._is_optional = field.is_optional
        self._most = 0
        self._bits = 0
        self._text: Text = str
        take: Callable[[int, int], tuple[str, int]]
        if isinstance(kind, String):
            self._most, self._mask, take = kind.max_bytes, (1 << kind.length_bits) - 1, self._string
            self._bits = kind.length_bits
        elif isinstance(kind, List):
            self._most, self._mask, take = kind.max_items, (1 << kind.item.bits) - 1, self._list
            self._bits, self._text = kind.item.bits, _text_of(kind.item)
        else:
            self._mask, take = (1 << kind.bits) - 1, self._scalar
            self._bits, self._text = kind.bits, _text_of(kind)
        self.take = self._optional(take) if field.is_optional else take

    def _optional(self, take: Callable[[int, int], tuple[str, int]]) -> Callable[[int, int], tuple[str, int]]:
        def taken(bits: int, left: int) -> tuple[str, int]:
            left -= 1
            if left < 0:
                raise DamagedPayload("the payload is too short")
            return take(bits, left) if bits >> left & 1 else ("null", left)

        return taken

    def _scalar(self, bits: int, left: int) -> tuple[str, int]:
        left -= self._bits
        if left < 0:
            raise DamagedPayload("the payload is too short")
        return self._text(bits >> left & self._mask), left

    def _list(self, bits: int, left: int) -> tuple[str, int]:
        width, mask, text = self._bits, self._mask, self._text
        count_bits = self._most.bit_length()
        left -= count_bits
        if left < 0:
            raise DamagedPayload("the payload is too short")
        count = bits >> left & ((1 << count_bits) - 1)
        if count > self._most:
            raise DamagedPayload("a list beyond its longest")
        end = left - count * width
        if end < 0:
            raise DamagedPayload("the payload is too short")
        if width == 0:
            return f"[{','.join([text(0)] * count)}]", end
        return f"[{','.join([text(bits >> at & mask) for at in range(left - width, end - 1, -width)])}]", end

    def _string(self, bits: int, left: int) -> tuple[str, int]:
        left -= self._bits
        if left < 0:
            raise DamagedPayload("the payload is too short")
        length = bits >> left & self._mask
        if length > self._most:
            raise DamagedPayload("a text beyond its longest")
        left -= 8 * length
        if left < 0:
            raise DamagedPayload("the payload is too short")
        raw = (bits >> left & ((1 << 8 * length) - 1)).to_bytes(length, "big")
        try:
            return _encoded(raw.decode()), left
        except UnicodeDecodeError:
            raise DamagedPayload("a text that is not UTF-8") from None


class _Texts(dict[int, str]):
    """The JSON texts of a kind of field by stored integer, as they are met."""

    def __init__(self, kind: Scalar) -> None:
        super().__init__()
        self._kind = kind

    def __missing__(self, code: int) -> str:
        text = _encoded(self._kind.from_code(code))
        if len(self) < MOST_TEXTS:
            self[code] = text
        return text


def _text_of(kind: Scalar) -> Text:
    """Give what gives the text of a stored integer; that raises DamagedPayload if no value is stored so."""
    if not isinstance(kind, Uint):
        return _Texts(kind).__getitem__
    low, high = kind.min, kind.max

    def number(code: int) -> str:
        value = low + code
        if value > high:
            raise DamagedPayload("a number beyond its maximum")
        return str(value)

    return number


def _encoded(value: Any) -> str:
    return msgspec.json.encode(value).decode()
