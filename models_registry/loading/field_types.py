"""Field types as the control plane knows them: one class a type, with all that loads, the editor and the API need.

How one value becomes bits and comes back is the matter of the class of the same type in `serving.formats.layouts`. To
add a type, write both classes and name them in `field_type` and `TYPES`; CONTRIBUTING.md has the steps.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum as Choices
from typing import Any, ClassVar, Generic, TypeVar, assert_never

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from models_registry.loading.arrow import Codes, Mask, Numbers, bounded, filled, is_list, is_text, storable
from models_registry.loading.decimals import DecimalColumn
from serving.formats.layouts import (
    BadValue,
    Bool,
    DecimalNumber,
    Enum,
    Field,
    Kind,
    Layout,
    List,
    ScalarKind,
    String,
    Uint,
)

# So many texts fit into a sentence.
_FEW = 8

K = TypeVar("K", bound=Kind)
S = TypeVar("S", bound=ScalarKind)

# --- Parameters -------------------------------------------------------------------------------------------------------


class Input(Choices):
    """How a parameter is given: what the editor shows, and what JSON holds."""

    WHOLE = "whole number"
    NUMBER = "number"
    TEXTS = "texts"
    ITEM = "type of an item, with its parameters"


@dataclass(frozen=True)
class Parameter:
    """A parameter of a field type.

    Attributes:
        name: in the layout's JSON, and of its input in the editor.
        input: how it is given.
        label: over its input.
        missing: what the editor says where it is empty.
        meaning: in the API's reference.
    """

    name: str
    input: Input
    label: str
    missing: str
    meaning: str


MIN = Parameter("min", Input.NUMBER, "From", "Enter the smallest value.", "the smallest value")
MAX = Parameter("max", Input.NUMBER, "To", "Enter the largest value.", "the largest value")
STEP = Parameter("step", Input.NUMBER, "Step", "Enter the step.", "every value is min plus a whole number of these")
VALUES = Parameter("values", Input.TEXTS, "Texts, one per line", "Enter at least one text.", "the texts")
MAX_BYTES = Parameter(
    "max_bytes", Input.WHOLE, "At most, in bytes", "Enter the largest number of bytes.", "the largest length, in UTF-8"
)
ITEM = Parameter("item", Input.ITEM, "Of what", "Choose what the list holds.", "what it holds")
MAX_ITEMS = Parameter(
    "max_items", Input.WHOLE, "At most", "Enter the largest number of items.", "the largest number of items"
)

# --- What a type says -------------------------------------------------------------------------------------------------


class FieldType(ABC, Generic[K]):
    """A type with its parameters' values.

    Attributes:
        name: in the layout's JSON.
        title: in the editor.
        parameters: in the order in which the editor asks for them.
        kind: the same in `serving.formats.layouts`.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    parameters: ClassVar[tuple[Parameter, ...]]

    def __init__(self, kind: K) -> None:
        self.kind = kind

    @abstractmethod
    def wants(self) -> str:
        """Return what values it takes, in the words of the editor, such as “a whole number from 0 to 100”."""

    def choices(self) -> tuple[str, ...]:
        """Return what there is to choose from, as `typed` reads it; nothing where a person types a value."""
        return ()

    @abstractmethod
    def typed(self, text: str) -> Any:
        """Return the value that a person typed, as JSON holds it; the text itself if it can be none of the type."""

    def shown(self, value: Any) -> str:
        """Return a value as `typed` reads it."""
        return str(value)

    @abstractmethod
    def accepts(self, column: pa.DataType) -> bool:
        """Tell whether it can take values of a column. One that is null in every row is not asked about."""

    @abstractmethod
    def bad_values(self, value: str, column: pa.DataType) -> list[str]:
        """Return SQL conditions, one of which a value meets that it cannot hold.

        Null meets none, nor does a value about which SQL is in doubt: the packer decides about that. Of a list these
        are about the list, not its items.

        Args:
            value: an SQL expression.
            column: of that type; one that it accepts.
        """


@dataclass(frozen=True)
class Spread:
    """The values of a column that fit, ready to be counted: texts as an Arrow array, or numbers (whole ones or not).

    `unfit` is how many do not.
    """

    values: pa.Array | Numbers
    unfit: int = 0
    is_whole: bool = True


class ScalarType(FieldType[S]):
    """A type whose values are stored as one code of a fixed number of bits."""

    @abstractmethod
    def codes(self, column: pa.Array) -> tuple[Codes, Mask] | None:
        """Return the codes of a column, and which of its values have none; None where none of that type has.

        What stands in the place of a null or of a value without a code means nothing. Dictionaries are decoded.
        """

    @abstractmethod
    def spread(self, values: pa.Array) -> Spread:
        """Return the values of a column that it accepts, for the comparison with the served table; no nulls come."""


# --- The types --------------------------------------------------------------------------------------------------------


class UintType(ScalarType[Uint]):
    """A whole number."""

    name = "uint"
    title = "Whole number"
    parameters = (MIN, MAX)

    @override
    def wants(self) -> str:
        return f"a whole number from {self.kind.min:,} to {self.kind.max:,}"

    @override
    def typed(self, text: str) -> Any:
        return _number(text)

    @override
    def accepts(self, column: pa.DataType) -> bool:
        return bool(pa.types.is_integer(column))

    @override
    def bad_values(self, value: str, column: pa.DataType) -> list[str]:
        return [f"{value} < {self.kind.min}", f"{value} > {self.kind.max}"]

    @override
    def codes(self, column: pa.Array) -> tuple[Codes, Mask] | None:
        if not pa.types.is_integer(column.type):
            return None
        values, bad = bounded(column, self.kind.min, self.kind.max)
        return (values - self.kind.min).astype(np.uint64), bad

    @override
    def spread(self, values: pa.Array) -> Spread:
        codes, unfit = scalar_codes(self.kind, values)
        return Spread((codes[~unfit].astype(np.int64) + self.kind.min).astype(np.float64), int(unfit.sum()))


class DecimalType(ScalarType[DecimalNumber]):
    """A number with steps."""

    name = "decimal"
    title = "Number with steps"
    parameters = (MIN, MAX, STEP)

    @override
    def wants(self) -> str:
        return f"a number from {self.kind.min:,} to {self.kind.max:,} in steps of {self.kind.step}"

    @override
    def typed(self, text: str) -> Any:
        return _number(text)

    @override
    def accepts(self, column: pa.DataType) -> bool:
        # DuckDB holds decimals of up to 38 digits, which BigQuery calls NUMERIC.
        is_exact = pa.types.is_decimal(column) and not pa.types.is_decimal256(column)
        return bool(pa.types.is_integer(column) or pa.types.is_floating(column) or is_exact)

    @override
    def bad_values(self, value: str, column: pa.DataType) -> list[str]:
        return DecimalColumn(self.kind).bad_values(value, column)

    @override
    def codes(self, column: pa.Array) -> tuple[Codes, Mask] | None:
        return DecimalColumn(self.kind).codes(column)

    @override
    def spread(self, values: pa.Array) -> Spread:
        codes, unfit = scalar_codes(self.kind, values)
        numbers = DecimalColumn(self.kind).numbers(codes[~unfit])
        return Spread(numbers, int(unfit.sum()), is_whole=self.kind.places == 0)


class EnumType(ScalarType[Enum]):
    """One of several texts."""

    name = "enum"
    title = "One of several texts"
    parameters = (VALUES,)

    @override
    def wants(self) -> str:
        return f"one of {len(self.kind.values)} texts"

    @override
    def choices(self) -> tuple[str, ...]:
        return tuple(self.kind.values)

    @override
    def typed(self, text: str) -> Any:
        return text

    @override
    def accepts(self, column: pa.DataType) -> bool:
        return is_text(column)

    @override
    def bad_values(self, value: str, column: pa.DataType) -> list[str]:
        return [f"{value} NOT IN ({', '.join(map(_literal, self.kind.values))})"]

    @override
    def codes(self, column: pa.Array) -> tuple[Codes, Mask] | None:
        if not is_text(column.type):
            return None
        found = pc.index_in(column, value_set=pa.array(self.kind.values, column.type))
        codes = filled(found, -1).astype(np.int64)
        return np.maximum(codes, 0).astype(np.uint64), codes < 0

    @override
    def spread(self, values: pa.Array) -> Spread:
        return Spread(storable(values))


class BoolType(ScalarType[Bool]):
    """Yes or no."""

    name = "bool"
    title = "Yes or no"
    parameters = ()

    @override
    def wants(self) -> str:
        return "yes or no"

    @override
    def choices(self) -> tuple[str, ...]:
        return tuple(_YES_OR_NO)

    @override
    def typed(self, text: str) -> Any:
        return _YES_OR_NO.get(text.lower(), text)

    @override
    def shown(self, value: Any) -> str:
        return "yes" if value else "no"

    @override
    def accepts(self, column: pa.DataType) -> bool:
        return bool(pa.types.is_boolean(column))

    @override
    def bad_values(self, value: str, column: pa.DataType) -> list[str]:
        return []

    @override
    def codes(self, column: pa.Array) -> tuple[Codes, Mask] | None:
        if not pa.types.is_boolean(column.type):
            return None
        return filled(column, False).astype(np.uint64), np.zeros(len(column), np.bool_)  # noqa: FBT003 (a value)

    @override
    def spread(self, values: pa.Array) -> Spread:
        return Spread(values.cast(pa.string()))


class StringType(FieldType[String]):
    """Text."""

    name = "string"
    title = "Text"
    parameters = (MAX_BYTES,)

    @override
    def wants(self) -> str:
        return f"a text of at most {self.kind.max_bytes:,} bytes"

    @override
    def typed(self, text: str) -> Any:
        return text

    @override
    def accepts(self, column: pa.DataType) -> bool:
        return is_text(column)

    @override
    def bad_values(self, value: str, column: pa.DataType) -> list[str]:
        return [f"strlen({value}) > {self.kind.max_bytes}"]


class ListType(FieldType[List]):
    """Several values of one scalar type."""

    name = "list"
    title = "List"
    parameters = (ITEM, MAX_ITEMS)

    @override
    def wants(self) -> str:
        return f"a list of at most {self.kind.max_items:,} items, each {scalar_type(self.kind.item).wants()}"

    @override
    def typed(self, text: str) -> Any:
        item = scalar_type(self.kind.item)
        return [item.typed(line.strip()) for line in text.splitlines() if line.strip()]

    @override
    def shown(self, value: Any) -> str:
        return "\n".join(map(scalar_type(self.kind.item).shown, value))

    @override
    def accepts(self, column: pa.DataType) -> bool:
        return is_list(column) and _takes(scalar_type(self.kind.item), column.value_type)

    @override
    def bad_values(self, value: str, column: pa.DataType) -> list[str]:
        return [f"len({value}) > {self.kind.max_items}"]


_YES_OR_NO = {"yes": True, "no": False}
# Larger than what any type holds, and not so large that to write it out takes long.
_HUGE = 2**64


def _number(text: str) -> Any:
    """Return a number, typed with either separator; a text that is none as it is."""
    try:
        number = Decimal(text.strip().replace(",", "."))
        if abs(number) >= _HUGE:
            return text
        return int(number) if number == number.to_integral_value() else float(number)
    except (ArithmeticError, ValueError):
        return text


# In the order in which the editor offers them.
TYPES: tuple[type[FieldType[Any]], ...] = (UintType, DecimalType, EnumType, BoolType, StringType, ListType)
SCALAR_TYPES = tuple(one for one in TYPES if issubclass(one, ScalarType))
TYPES_BY_NAME = {one.name: one for one in TYPES}


def field_type(kind: Kind) -> FieldType[Any]:
    """Return what the control plane knows of a kind of field."""
    match kind:
        case String():
            return StringType(kind)
        case List():
            return ListType(kind)
        case _:
            return scalar_type(kind)


def scalar_type(kind: ScalarKind) -> ScalarType[Any]:
    """Return the same of a scalar."""
    match kind:
        case Uint():
            return UintType(kind)
        case DecimalNumber():
            return DecimalType(kind)
        case Enum():
            return EnumType(kind)
        case Bool():
            return BoolType(kind)
        case other:
            assert_never(other)


# --- Fields -----------------------------------------------------------------------------------------------------------


def longest_payload(layout: Layout) -> int:
    """Return how many bytes a row's payload can have, at most."""
    return sum(field.max_bits for field in layout.fields) // 8 + 1


def is_accepted(field: Field, column: pa.DataType) -> bool:
    """Tell whether a field can take values of a column; one that is null in every row always fits."""
    return _takes(field_type(field.kind), column)


def _takes(of: FieldType[Any], column: pa.DataType) -> bool:
    return bool(pa.types.is_null(column)) or of.accepts(column)


def field_name(field: Field) -> str:
    """Return what a field wants, in the words of the layout editor, such as “a whole number from 0 to 100”."""
    words = field_type(field.kind).wants()
    return f"{words}, or nothing" if field.is_optional else words


def typed_value(field: Field, text: str) -> Any:
    """Return the value that a person typed for a field, as JSON holds it; nothing for an optional one is None.

    Raises:
        BadValue: the field cannot hold it; the message says what it wants, as a sentence.
    """
    if field.is_optional and not text:
        return None
    of = field_type(field.kind)
    value = of.typed(text)
    if refusal_of(field, value):
        listed = of.choices()
        few = f"one of: {', '.join(listed)}" if 0 < len(listed) <= _FEW else of.wants()
        raise BadValue(f"Enter {few}.")
    return value


def shown_value(field: Field, value: Any) -> str:
    """Return a field's value as `typed_value` reads it."""
    return "" if value is None else field_type(field.kind).shown(value)


def refusal_of(field: Field, value: object) -> str:
    """Return why a field refuses a value, in the layout's own words but without the field's name; "" if it takes it."""
    try:
        Layout([field]).pack({field.name: value})
    except BadValue as error:
        return str(error).removeprefix(f"{field.name}: ")
    return ""


def scalar_codes(kind: ScalarKind, column: pa.Array) -> tuple[Codes, Mask]:
    """Return the codes of a column, and which rows the kind cannot hold (their codes mean nothing; nor do nulls')."""
    if not len(column):
        return np.zeros(0, np.uint64), np.zeros(0, np.bool_)
    found = scalar_type(kind).codes(column)
    return (np.zeros(len(column), np.uint64), np.ones(len(column), np.bool_)) if found is None else found


def parameters_of(types: Iterable[type[FieldType[Any]]]) -> dict[Parameter, list[str]]:
    """Return the parameters that some types have, each with the names of the types that have it."""
    found: dict[Parameter, list[str]] = {}
    for one in types:
        for parameter in one.parameters:
            found.setdefault(parameter, []).append(one.name)
    return found


def _literal(text: str) -> str:
    """Return a text as SQL. Its only special character is the quote; NUL would end the statement."""
    return "'" + text.replace("'", "''").replace("\0", "' || chr(0) || '") + "'"
