#!/usr/bin/env python
"""Example recommendations, each computed from (studio, model, version, key): any answer can be proved right or wrong.

    python examples/generate.py --out DIR [--players 300000]        writes DIR/STUDIO/MODEL/VERSION.parquet
    python examples/generate.py --answer aurora offers 2026-11-a p000042     prints what the service must answer

A row is 16 whole numbers of 32 bits: SHA-512 of `studio/model/version/` and the key values joined by U+001F. The
fields take them in order, one for each value (a list: one for its length, then one for each possible item), and the
remainder by the number of values the field can have picks the value. `answer` does that for one key in plain Python;
`write_parquet` does it for whole columns at a time.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

DEFAULT_PLAYERS = 300_000
WORDS_A_ROW = 16
ROWS_A_BATCH = 100_000

COUNTRIES = ("BR", "CA", "CN", "DE", "EG", "ES", "FR", "GB", "ID", "IN", "IT", "JP", "KR", "MX", "NG", "PL", "TR", "US")
LEVEL_BANDS = range(1, 51)

Words = npt.NDArray[np.uint32]


class UnknownExample(LookupError):
    """There is no such studio, model or version among the examples, or the key has other fields."""


@dataclass(frozen=True)
class Example:
    """One model of one studio: what it is keyed by, the layout of its answers, the names of its versions."""

    studio: str
    model: str
    key_fields: tuple[str, ...]
    layout: tuple[dict[str, Any], ...]
    versions: tuple[str, ...]
    # Of how many of the players this studio knows.
    share_of_players: float = 1.0


EXAMPLES = (
    Example(
        studio="aurora",
        model="offers",
        key_fields=("player_id",),
        layout=(
            {"name": "offer_id", "type": "uint", "min": 1, "max": 5000},
            {"name": "discount", "type": "decimal", "min": 0, "max": "0.75", "step": "0.05"},
            {"name": "segment", "type": "enum", "values": ["newcomer", "regular", "collector", "spender"]},
            {"name": "items", "type": "list", "max_items": 5, "item": {"type": "uint", "min": 1, "max": 999}},
        ),
        versions=("2026-11-a", "2026-11-b"),
    ),
    Example(
        studio="aurora",
        model="difficulty",
        key_fields=("country", "level_band"),
        layout=(
            {"name": "enemy_health", "type": "decimal", "min": "0.50", "max": "2.00", "step": "0.05"},
            {"name": "lives", "type": "uint", "min": 3, "max": 9},
            {"name": "hints", "type": "bool"},
        ),
        versions=("2026-11",),
    ),
    Example(
        studio="borealis",
        model="offers",
        key_fields=("player_id",),
        layout=(
            {"name": "bundle", "type": "enum", "values": ["starter", "weekend", "season", "legend", "none"]},
            {"name": "price", "type": "decimal", "min": "0.99", "max": "19.99", "step": "0.5"},
            {"name": "gems", "type": "uint", "min": 0, "max": 100_000},
        ),
        versions=("autumn",),
        share_of_players=0.5,
    ),
)


def example_of(studio: str, model: str) -> Example:
    """Return the example model with these names.

    Raises:
        UnknownExample: there is none.
    """
    for example in EXAMPLES:
        if (example.studio, example.model) == (studio, model):
            return example
    raise UnknownExample(f"{studio}/{model} is none of: {', '.join(f'{e.studio}/{e.model}' for e in EXAMPLES)}")


def keys_of(example: Example, players: int = DEFAULT_PLAYERS) -> Iterator[tuple[str, ...]]:
    """Yield the keys that a model's tables hold, as text, in the order of its key fields."""
    if example.key_fields == ("player_id",):
        return ((f"p{number:06d}",) for number in range(1, int(players * example.share_of_players) + 1))
    return ((country, str(band)) for country in COUNTRIES for band in LEVEL_BANDS)


# --- One answer, plainly ----------------------------------------------------------------------------------------------


def answer(tenant: str, model: str, version: str, key: Mapping[str, Any]) -> dict[str, Any]:
    """Return the recommendation that a version holds for a key, as the service's JSON shows it.

    Raises:
        UnknownExample: see there.
    """
    example = example_of(tenant, model)
    if version not in example.versions or key.keys() != set(example.key_fields):
        raise UnknownExample(
            f"{tenant}/{model} has the versions {', '.join(example.versions)}"
            f" and the key {', '.join(example.key_fields)}"
        )
    digest = _digest(_prefix(tenant, model, version), [str(key[name]) for name in example.key_fields])
    words = iter([int.from_bytes(digest[at : at + 4], "big") for at in range(0, len(digest), 4)])
    return {field["name"]: _value(field, words) for field in example.layout}


def _value(field: Mapping[str, Any], words: Iterator[int]) -> Any:
    if field["type"] == "list":
        length = next(words) % (field["max_items"] + 1)
        every = [_value(field["item"], words) for _ in range(field["max_items"])]
        return every[:length]
    word = next(words)
    match field["type"]:
        case "bool":
            return word % 2 == 1
        case "uint":
            return field["min"] + word % (field["max"] - field["min"] + 1)
        case "enum":
            return field["values"][word % len(field["values"])]
        case "decimal":
            return float(_decimals(field)[word % len(_decimals(field))])
        case other:
            raise NotImplementedError(f"the examples have no field of type {other}")


def _decimals(field: Mapping[str, Any]) -> list[Decimal]:
    low, high, step = (Decimal(field[name]) for name in ("min", "max", "step"))
    return [low + step * number for number in range(int((high - low) / step) + 1)]


def _prefix(tenant: str, model: str, version: str) -> str:
    return f"{tenant}/{model}/{version}/"


def _digest(prefix: str, key: Sequence[str]) -> bytes:
    return hashlib.sha512((prefix + "\x1f".join(key)).encode()).digest()


# --- Whole tables -----------------------------------------------------------------------------------------------------


def write_parquet(path: Path, example: Example, version: str, players: int = DEFAULT_PLAYERS) -> int:
    """Write a version's rows as one Parquet file; return how many. Takes about a second for 300,000 rows."""
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".unfinished")
    rows = 0
    with pq.ParquetWriter(unfinished, _schema(example)) as writer:
        for batch in batches(example, version, players):
            writer.write_batch(batch)
            rows += batch.num_rows
    unfinished.replace(path)
    return rows


def batches(example: Example, version: str, players: int = DEFAULT_PLAYERS) -> Iterator[pa.RecordBatch]:
    """Yield a version's rows, key columns first, at most `ROWS_A_BATCH` at a time."""
    keys = keys_of(example, players)
    prefix = _prefix(example.studio, example.model, version)
    schema = _schema(example)
    while chunk := list(islice(keys, ROWS_A_BATCH)):
        digests = b"".join([_digest(prefix, key) for key in chunk])
        words = np.frombuffer(digests, ">u4").reshape(-1, WORDS_A_ROW).astype(np.uint32)
        columns = [
            pa.array(column).cast(schema.field(name).type)
            for name, column in zip(example.key_fields, zip(*chunk, strict=True), strict=True)
        ]
        used = 0
        for field in example.layout:
            column, taken = _column(field, words[:, used:])
            columns.append(column)
            used += taken
        yield pa.record_batch(columns, schema=schema)


def _column(field: Mapping[str, Any], words: Words) -> tuple[pa.Array, int]:
    """Return a field's column and how many words of each row it took."""
    if field["type"] != "list":
        return _scalars(field, words[:, 0]), 1
    longest = field["max_items"]
    lengths = words[:, 0] % (longest + 1)
    # Row by row, the first `length` of the possible items.
    kept = words[:, 1 : 1 + longest][np.arange(longest) < lengths[:, None]]
    offsets = np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)
    return pa.ListArray.from_arrays(pa.array(offsets), _scalars(field["item"], kept)), 1 + longest


def _scalars(field: Mapping[str, Any], words: Words) -> pa.Array:
    match field["type"]:
        case "bool":
            return pa.array(words % 2 == 1)
        case "uint":
            return pa.array(field["min"] + (words % (field["max"] - field["min"] + 1)).astype(np.int64))
        case "enum":
            return pa.array(field["values"], pa.string()).take(pa.array(words % len(field["values"])))
        case "decimal":
            values = _decimals(field)
            return pa.array(values, _type(field)).take(pa.array(words % len(values)))
        case other:
            raise NotImplementedError(f"the examples have no field of type {other}")


def _schema(example: Example) -> pa.Schema:
    keys = [(name, pa.int64() if name == "level_band" else pa.string()) for name in example.key_fields]
    return pa.schema([*keys, *((field["name"], _type(field)) for field in example.layout)])


def _type(field: Mapping[str, Any]) -> pa.DataType:
    match field["type"]:
        case "list":
            return pa.list_(_type(field["item"]))
        case "decimal":
            # BigQuery's NUMERIC with as many places as the field shows.
            return pa.decimal128(18, max(2, -int(Decimal(field["step"]).as_tuple().exponent)))
        case "bool":
            return pa.bool_()
        case "uint":
            return pa.int64()
        case "enum":
            return pa.string()
        case other:
            raise NotImplementedError(f"the examples have no field of type {other}")


# --- Command line -----------------------------------------------------------------------------------------------------


def parquet_path(directory: Path, example: Example, version: str) -> Path:
    """Return where a version's file lies below a directory."""
    return directory / example.studio / example.model / f"{version}.parquet"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(
        description="Example recommendations, computed from studio, model, version and key."
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--out", type=Path, metavar="DIR", help="write every version's rows as Parquet below DIR")
    what.add_argument("--answer", nargs="+", metavar="WORD", help="STUDIO MODEL VERSION KEY…: print one answer as JSON")
    parser.add_argument("--players", type=int, default=DEFAULT_PLAYERS, help="default: %(default)s")
    given = parser.parse_args(arguments)
    if given.out:
        for example in EXAMPLES:
            for version in example.versions:
                path = parquet_path(given.out, example, version)
                print(f"{write_parquet(path, example, version, given.players):>9,} rows  {path}")
        return 0
    if len(given.answer) < 4:
        parser.error("--answer takes STUDIO MODEL VERSION and the key's values")
    studio, model, version, *values = given.answer
    try:
        fields = example_of(studio, model).key_fields
        key = dict(zip(fields, values, strict=True)) if len(values) == len(fields) else {}
        print(json.dumps(answer(studio, model, version, key)))
    except UnknownExample as error:
        parser.error(str(error))
    return 0


if __name__ == "__main__":
    sys.exit(main())
