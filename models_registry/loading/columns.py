"""Columns in front of people: what their types are called, and how their values are shown."""

from __future__ import annotations

from collections.abc import Callable

import pyarrow as pa

from models_registry.loading.arrow import is_list, is_text

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
# Types that have parameters, by what tells them; a BIGNUMERIC is one of the decimals.
_FAMILIES: dict[str, Callable[[pa.DataType], bool]] = {
    "BIGNUMERIC": pa.types.is_decimal256,
    "NUMERIC": pa.types.is_decimal,
    "STRUCT": pa.types.is_struct,
    "MAP": pa.types.is_map,
    "TIME": pa.types.is_time,
    "BYTES": pa.types.is_fixed_size_binary,
    "UUID": lambda kind: isinstance(kind, pa.UuidType),
    "JSON": lambda kind: isinstance(kind, pa.JsonType),
}


def is_key(kind: pa.DataType) -> bool:
    """Tell whether a column can be part of a key: texts or whole numbers."""
    return is_text(kind) or bool(pa.types.is_integer(kind))


def type_name(kind: pa.DataType) -> str:
    """Return a column's type as a data scientist knows it from BigQuery."""
    if is_list(kind):
        return f"ARRAY<{type_name(kind.value_type)}>"
    if pa.types.is_timestamp(kind):
        return "TIMESTAMP" if kind.tz else "DATETIME"
    for name, is_one in _FAMILIES.items():
        if is_one(kind):
            return name
    return _NAMES.get(str(kind), str(kind).upper())


def shown(value: object) -> str:
    """Return a value as text for a sentence and the database: control characters spelled out, at most 80 long."""
    text = "".join(c if c >= " " and c.isprintable() else f"\\u{ord(c):04x}" for c in str(value)[: MAX_SHOWN + 1])
    return text if len(text) <= MAX_SHOWN else f"{text[: MAX_SHOWN - 1]}…"


def shortened(reason: str) -> str:
    """Return a reason that quotes a value of any length: its beginning and its end, which says what is wrong."""
    return reason if len(reason) <= 2 * MAX_SHOWN else f"{reason[:MAX_SHOWN]}…{reason[-MAX_SHOWN:]}"
