"""Columns against a layout: which Arrow types a field takes, and how both are called in front of people."""

from __future__ import annotations

import pyarrow as pa

from serving.formats.layouts import Bool, DecimalNumber, Enum, Field, List, Scalar, String, Uint

MAX_SHOWN = 80
_NAMES = {
    "bool": "BOOL",
    "double": "FLOAT64",
    "float": "FLOAT32",
    "halffloat": "FLOAT16",
    "string": "STRING",
    "large_string": "STRING",
    "string_view": "STRING",
    "binary": "BYTES",
    "large_binary": "BYTES",
    "binary_view": "BYTES",
    "date32[day]": "DATE",
    "date64[ms]": "DATE",
    "null": "empty",
}


def is_text(kind: pa.DataType) -> bool:
    """Tell whether a column holds texts."""
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_key(kind: pa.DataType) -> bool:
    """Tell whether a column can be part of a key: texts or whole numbers."""
    return is_text(kind) or bool(pa.types.is_integer(kind))


def is_accepted(field: Field, kind: pa.DataType) -> bool:
    """Tell whether a field can take values of a column; one that is null in every row always fits."""
    if pa.types.is_null(kind):
        return True
    if isinstance(field.kind, String):
        return is_text(kind)
    if isinstance(field.kind, List):
        is_list = pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
        return is_list and (pa.types.is_null(kind.value_type) or _is_accepted_scalar(field.kind.item, kind.value_type))
    return _is_accepted_scalar(field.kind, kind)


def _is_accepted_scalar(scalar: Scalar, kind: pa.DataType) -> bool:
    if isinstance(scalar, Bool):
        return bool(pa.types.is_boolean(kind))
    if isinstance(scalar, Uint):
        return bool(pa.types.is_integer(kind))
    if isinstance(scalar, Enum):
        return is_text(kind)
    # DuckDB holds decimals of up to 38 digits, which BigQuery calls NUMERIC.
    is_exact = pa.types.is_decimal(kind) and not pa.types.is_decimal256(kind)
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or is_exact)


def type_name(kind: pa.DataType) -> str:
    """Return a column's type as a data scientist knows it from BigQuery."""
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return f"ARRAY<{type_name(kind.value_type)}>"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz else "DATETIME"
    if pa.types.is_decimal256(kind):
        return "BIGNUMERIC"
    if pa.types.is_decimal(kind):
        return "NUMERIC"
    if pa.types.is_struct(kind):
        return "STRUCT"
    if pa.types.is_time(kind):
        return "TIME"
    return _NAMES.get(str(kind), str(kind).upper())


def field_name(field: Field) -> str:
    """Return what a field wants, in the words of the layout editor, such as “a whole number from 0 to 100”."""
    if isinstance(field.kind, String):
        words = f"a text of at most {field.kind.max_bytes:,} bytes"
    elif isinstance(field.kind, List):
        words = f"a list of at most {field.kind.max_items:,} items, each {_scalar_name(field.kind.item)}"
    else:
        words = _scalar_name(field.kind)
    return f"{words}, or nothing" if field.is_optional else words


def _scalar_name(scalar: Scalar) -> str:
    if isinstance(scalar, Uint):
        return f"a whole number from {scalar.min:,} to {scalar.max:,}"
    if isinstance(scalar, Enum):
        return f"one of {len(scalar.values)} texts"
    if isinstance(scalar, DecimalNumber):
        return f"a number from {scalar.min:,} to {scalar.max:,} in steps of {scalar.step}"
    return "yes or no"


def shown(value: object) -> str:
    """Return a value as text for a sentence and the database: control characters spelled out, at most 80 long."""
    text = "".join(c if c >= " " and c.isprintable() else f"\\u{ord(c):04x}" for c in str(value)[: MAX_SHOWN + 1])
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def shortened(reason: str) -> str:
    """Return a reason that quotes a value of any length: its beginning and its end, which says what is wrong."""
    return reason if len(reason) <= 2 * MAX_SHOWN else f"{reason[:MAX_SHOWN]}…{reason[-MAX_SHOWN:]}"
