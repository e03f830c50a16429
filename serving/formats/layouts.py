"""Layouts: the fields of an answer, and the bits they are packed into.

Fields are packed most significant bit first with no gaps; zero bits fill the last byte. Any field may be optional:
one presence bit stands before it. A value outside its field's range is refused, never clipped.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any, ClassVar, Self

import msgspec

MAX_INTEGER = 2**53 - 1
# Far below a Redis value's limit and a phone's patience; catches a layout with a slipped digit.
MAX_PAYLOAD_BYTES = 65_536
DECIMAL_TOLERANCE = Decimal("1e-6")


class BadLayout(ValueError):
    """A list of fields that is no layout; the message names the field."""


class BadValue(ValueError):
    """A value that its field cannot hold; the message names the field."""


class DamagedPayload(ValueError):
    """Bits that no record packs to."""


# --- Bits -------------------------------------------------------------------------------------------------------------


class BitWriter:
    """Appends codes to one growing integer."""

    __slots__ = ("_length", "_value")

    def __init__(self) -> None:
        self._value = 0
        self._length = 0

    def put(self, code: int, bits: int) -> None:
        """Append a code of so many bits."""
        self._value = self._value << bits | code
        self._length += bits

    def to_bytes(self) -> bytes:
        """Return what was put, with zero bits to the end of the last byte."""
        padding = -self._length % 8
        return (self._value << padding).to_bytes((self._length + padding) // 8, "big")


class BitReader:
    """Takes codes from the front of a payload, read as one integer."""

    __slots__ = ("_left", "_value")

    def __init__(self, payload: bytes) -> None:
        self._value = int.from_bytes(payload, "big")
        self._left = 8 * len(payload)

    def take(self, bits: int) -> int:
        """Return the code in the next bits; DamagedPayload if there are fewer."""
        self._left -= bits
        if self._left < 0:
            raise DamagedPayload("the payload is too short")
        return self._value >> self._left & ((1 << bits) - 1)

    def expect_end(self) -> None:
        """Raise DamagedPayload unless at most the zero bits of the last byte are left."""
        if self._left > 7 or self._value & ((1 << self._left) - 1):
            raise DamagedPayload("the payload is too long")


# --- Field types ------------------------------------------------------------------------------------------------------


class FieldKind(msgspec.Struct, frozen=True, tag_field="type", forbid_unknown_fields=True):
    """A field's type with its parameters. Each type says all of this, and each scalar what `Scalar` asks on top."""

    is_fixed_width: ClassVar[bool]

    @property
    def max_bits(self) -> int:
        """Bits of the longest value."""
        raise NotImplementedError

    def check(self) -> None:
        """Raise BadLayout unless the parameters make sense."""
        raise NotImplementedError

    def write(self, bits: BitWriter, value: Any) -> None:
        """Append a value; BadValue if it is of another type or out of range."""
        raise NotImplementedError

    def read(self, bits: BitReader) -> Any:
        """Take a value; DamagedPayload if no value is stored so."""
        raise NotImplementedError


class Scalar(FieldKind, frozen=True):
    """A value that is stored as one code of a fixed number of bits."""

    is_fixed_width = True

    @property
    def bits(self) -> int:
        """Bits of the code, at most 64."""
        raise NotImplementedError

    def to_code(self, value: Any) -> int:
        """Return the code of a value; BadValue if it is of another type or out of range."""
        raise NotImplementedError

    def from_code(self, code: int) -> Any:
        """Return the value of a code, as JSON shows it; DamagedPayload if no value has this code."""
        raise NotImplementedError

    @property
    def max_bits(self) -> int:
        return self.bits

    def write(self, bits: BitWriter, value: Any) -> None:
        bits.put(self.to_code(value), self.bits)

    def read(self, bits: BitReader) -> Any:
        return self.from_code(bits.take(self.bits))


class Bool(Scalar, frozen=True, tag="bool"):
    """True or false."""

    @property
    def bits(self) -> int:
        return 1

    def check(self) -> None:
        """Any: there are no parameters."""

    def to_code(self, value: Any) -> int:
        if not isinstance(value, bool):
            raise BadValue(f"{value!r} is not true or false")
        return int(value)

    def from_code(self, code: int) -> bool:
        return bool(code)


class Uint(Scalar, frozen=True, tag="uint"):
    """A whole number from `min` to `max`."""

    min: int
    max: int

    @property
    def bits(self) -> int:
        return (self.max - self.min).bit_length()

    def check(self) -> None:
        if not -MAX_INTEGER <= self.min <= self.max <= MAX_INTEGER or self.max - self.min > MAX_INTEGER:
            raise BadLayout("min must not be above max, and both must be within ±(2^53 − 1)")

    def to_code(self, value: Any) -> int:
        if not isinstance(value, int) or isinstance(value, bool):
            raise BadValue(f"{value!r} is not a whole number")
        if not self.min <= value <= self.max:
            raise BadValue(f"{value} is not within {self.min} … {self.max}")
        return value - self.min

    def from_code(self, code: int) -> int:
        value = self.min + code
        if value > self.max:
            raise DamagedPayload("a number beyond its maximum")
        return value


class Enum(Scalar, frozen=True, tag="enum"):
    """One of a list of texts."""

    values: tuple[str, ...]

    @property
    def bits(self) -> int:
        return (len(self.values) - 1).bit_length()

    def check(self) -> None:
        if not self.values or len(set(self.values)) != len(self.values) or len(self.values) > 65_536:
            raise BadLayout("values must be 1 to 65,536 different texts")

    def to_code(self, value: Any) -> int:
        try:
            return self.values.index(value)
        except ValueError:
            raise BadValue(f"{value!r} is not one of the {len(self.values)} values") from None

    def from_code(self, code: int) -> str:
        try:
            return self.values[code]
        except IndexError:
            raise DamagedPayload("an index beyond the values") from None


class DecimalNumber(Scalar, frozen=True, tag="decimal"):
    """A number from `min` to `max` in whole steps of `step`."""

    min: Decimal
    max: Decimal
    step: Decimal

    @property
    def places(self) -> int:
        """Digits after the point that any value may need."""
        return max(0, *(-int(x.normalize().as_tuple().exponent) for x in (self.min, self.step)))

    @property
    def _most(self) -> int:
        """The largest value, in units of the last place, at which JSON's numbers still tell every two values apart."""
        return 10**15 if self.places else MAX_INTEGER

    @property
    def steps(self) -> int:
        """Number of steps from min to max."""
        return int((self.max - self.min) / self.step)

    @property
    def float_tolerance(self) -> Decimal:
        """How far a binary float may lie from a whole step: 1e-6, and never near the middle between two steps."""
        return min(DECIMAL_TOLERANCE, self.step / 4)

    @property
    def bits(self) -> int:
        return self.steps.bit_length()

    def check(self) -> None:
        if not all(x.is_finite() for x in (self.min, self.max, self.step)) or self.step <= 0 or self.max < self.min:
            raise BadLayout("min must not be above max, and step must be above zero")
        if self.places > 12 or any(abs(x) * 10**self.places > self._most for x in (self.min, self.max)):
            raise BadLayout("values may have at most 15 digits, and at most 12 after the point")
        if (self.max - self.min) % self.step:
            raise BadLayout("max − min must be a whole number of steps")

    def to_code(self, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int | float | Decimal):
            raise BadValue(f"{value!r} is not a number")
        if not math.isfinite(value):
            raise BadValue(f"{value} is not a finite number")
        exact = Decimal(repr(value)) if isinstance(value, float) else Decimal(value)
        code = int(((exact - self.min) / self.step).to_integral_value())
        tolerance = self.float_tolerance if isinstance(value, float) else 0
        if abs(exact - (self.min + code * self.step)) > tolerance:
            raise BadValue(f"{value} is not a whole number of steps of {self.step} from {self.min}")
        if not 0 <= code <= self.steps:
            raise BadValue(f"{value} is not within {self.min} … {self.max}")
        return code

    def from_code(self, code: int) -> int | float:
        if code > self.steps:
            raise DamagedPayload("a number beyond its maximum")
        scale = 10**self.places
        scaled = int(self.min * scale) + code * int(self.step * scale)
        # A correctly rounded quotient prints with no more digits than the scale has.
        return scaled / scale if scale > 1 else scaled


class String(FieldKind, frozen=True, tag="string"):
    """Text of at most `max_bytes` bytes in UTF-8: its length, then its bytes."""

    is_fixed_width = False

    max_bytes: int

    def check(self) -> None:
        if not 0 <= self.max_bytes <= MAX_PAYLOAD_BYTES:
            raise BadLayout(f"max_bytes must be within 0 … {MAX_PAYLOAD_BYTES:,}")

    @property
    def length_bits(self) -> int:
        """Bits of the length that stands before the bytes."""
        return self.max_bytes.bit_length()

    @property
    def max_bits(self) -> int:
        return self.length_bits + 8 * self.max_bytes

    def write(self, bits: BitWriter, value: Any) -> None:
        if not isinstance(value, str):
            raise BadValue(f"{value!r} is not text")
        try:
            raw = value.encode()
        except UnicodeEncodeError:
            raise BadValue("the text is not valid Unicode") from None
        if len(raw) > self.max_bytes:
            raise BadValue(f"the text is {len(raw)} bytes long, more than {self.max_bytes}")
        bits.put(len(raw), self.length_bits)
        bits.put(int.from_bytes(raw, "big"), 8 * len(raw))

    def read(self, bits: BitReader) -> str:
        length = bits.take(self.length_bits)
        if length > self.max_bytes:
            raise DamagedPayload("a text beyond its longest")
        try:
            return bits.take(8 * length).to_bytes(length, "big").decode()
        except UnicodeDecodeError:
            raise DamagedPayload("a text that is not UTF-8") from None


ScalarKind = Bool | Uint | Enum | DecimalNumber


class List(FieldKind, frozen=True, tag="list"):
    """At most `max_items` values of one scalar type: their count, then the values."""

    is_fixed_width = False

    max_items: int
    item: ScalarKind

    def check(self) -> None:
        if not 0 <= self.max_items <= MAX_PAYLOAD_BYTES:
            raise BadLayout(f"max_items must be within 0 … {MAX_PAYLOAD_BYTES:,}")
        self.item.check()

    @property
    def count_bits(self) -> int:
        """Bits of the count that stands before the items."""
        return self.max_items.bit_length()

    @property
    def max_bits(self) -> int:
        return self.count_bits + self.max_items * self.item.max_bits

    def write(self, bits: BitWriter, value: Any) -> None:
        if not isinstance(value, list | tuple):
            raise BadValue(f"{value!r} is not a list")
        if len(value) > self.max_items:
            raise BadValue(f"the list has {len(value)} items, more than {self.max_items}")
        bits.put(len(value), self.count_bits)
        for item in value:
            if item is None:
                raise BadValue("a list cannot contain nulls")
            self.item.write(bits, item)

    def read(self, bits: BitReader) -> list[Any]:
        count = bits.take(self.count_bits)
        if count > self.max_items:
            raise DamagedPayload("a list beyond its longest")
        return [self.item.read(bits) for _ in range(count)]


Kind = ScalarKind | String | List


# --- Layouts ----------------------------------------------------------------------------------------------------------


class Field(msgspec.Struct, frozen=True):
    """One field of an answer."""

    name: str
    kind: Kind
    is_optional: bool = False

    @property
    def max_bits(self) -> int:
        """Bits of the longest value, presence bit included."""
        return self.kind.max_bits + self.is_optional


class Layout:
    """The fields of an answer in order, ready to pack and unpack.

    Attributes:
        fields: the fields.
        is_fixed_width: no list, text or optional field, so that every payload has the same width.
        payload_width: bytes of every payload of a fixed-width layout, None for a variable-width one.
    """

    __slots__ = ("fields", "is_fixed_width", "payload_width")

    def __init__(self, fields: Sequence[Field]) -> None:
        self.fields = tuple(fields)
        self.is_fixed_width = all(f.kind.is_fixed_width and not f.is_optional for f in self.fields)
        max_bits = sum(f.max_bits for f in self.fields)
        if max_bits > 8 * MAX_PAYLOAD_BYTES:
            raise BadLayout(f"an answer could be longer than {MAX_PAYLOAD_BYTES:,} bytes")
        self.payload_width = (max_bits + 7) // 8 if self.is_fixed_width else None

    @classmethod
    def parse(cls, raw: Any) -> Self:
        """Read a layout from parsed JSON: a list of `{"name", "type", …parameters, "optional"?}`.

        Raises:
            BadLayout: it is no such list; the message names the field.
        """
        if not isinstance(raw, list | tuple) or not raw:
            raise BadLayout("a layout is a list of one or more fields")
        fields: dict[str, Field] = {}
        for number, item in enumerate(raw, start=1):
            if not isinstance(item, Mapping):
                raise BadLayout(f"field {number} is not an object")
            parameters = dict(item)
            name = parameters.pop("name", None)
            is_optional = parameters.pop("optional", False)
            if not isinstance(name, str) or not 0 < len(name) <= 128 or min(name) < " ":
                raise BadLayout(f"field {number} needs a name of 1 to 128 characters")
            if name in fields:
                raise BadLayout(f"two fields are named “{name}”")
            if not isinstance(is_optional, bool):
                raise BadLayout(f"field “{name}”: optional must be true or false")
            try:
                kind = msgspec.convert(parameters, Kind)
                kind.check()
            except (msgspec.ValidationError, BadLayout, ArithmeticError) as error:
                raise BadLayout(f"field “{name}”: {error}") from None
            fields[name] = Field(name, kind, is_optional)
        return cls([*fields.values()])

    def pack(self, record: Mapping[str, Any]) -> bytes:
        """Return a record's payload.

        Raises:
            BadValue: a field is missing, unknown, or cannot hold its value; the message names it.
        """
        unknown = record.keys() - {f.name for f in self.fields}
        if unknown:
            raise BadValue(f"{min(unknown)!r} is not a field of this layout")
        bits = BitWriter()
        for field in self.fields:
            value = record.get(field.name)
            if field.is_optional:
                bits.put(int(value is not None), 1)
                if value is None:
                    continue
            elif value is None:
                raise BadValue(f"{field.name}: a value is required")
            try:
                field.kind.write(bits, value)
            except BadValue as error:
                raise BadValue(f"{field.name}: {error}") from None
        return bits.to_bytes()

    def unpack(self, payload: bytes) -> dict[str, Any]:
        """Return the record of a payload, fields in layout order, absent ones None.

        Raises:
            DamagedPayload: no record of this layout packs to these bytes.
        """
        bits = BitReader(payload)
        record: dict[str, Any] = {}
        for field in self.fields:
            if field.is_optional and not bits.take(1):
                record[field.name] = None
            else:
                record[field.name] = field.kind.read(bits)
        bits.expect_end()
        return record
