"""Sources that a loader meets sooner or later: damaged and odd files, tables that are wrong or just unusual.

Each case writes its files into a folder and says how a load of them must end.
"""

from __future__ import annotations

import base64
import gzip
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow.parquet import encryption

from tests.loading_scene import columns

ROWS = 60
NAME = "rows.parquet"


@dataclass(frozen=True)
class Source:
    """A case.

    Attributes:
        name: what is odd about it.
        write: makes its files in a folder.
        ends: the state in which a load of it ends.
        words: what the load's problem says, or where it becomes active its notes; "" for nothing.
        location: of the source, in the folder.
    """

    name: str
    write: Callable[[Path], object]
    ends: str
    words: str
    location: str = NAME


def usual(rows: int = ROWS, **changes: Any) -> dict[str, Any]:
    """Return the usual rows of the usual layout with some columns replaced, or left out where that is None."""
    made = {**columns(range(rows)), **changes}
    return {name: values for name, values in made.items() if values is not None}


def one(column: str, row: int, value: Any, kind: pa.DataType | None = None) -> dict[str, Any]:
    """Return the usual rows with one value replaced; `row` counts from 1."""
    values = list(columns(range(ROWS))[column])
    values[row - 1] = value
    return usual(**{column: pa.array(values, kind)})


def table(data: Mapping[str, Any], **options: Any) -> Callable[[Path], object]:
    """Return what writes rows as a Parquet file."""

    def write(folder: Path) -> None:
        pq.write_table(as_table(data), folder / NAME, **options)

    return write


def as_table(data: Mapping[str, Any]) -> pa.Table:
    """Return columns as an Arrow table."""
    return pa.table({name: v if isinstance(v, pa.Array) else pa.array(v) for name, v in data.items()})


def tables(*parts: Mapping[str, Any]) -> Callable[[Path], object]:
    """Return what writes several files."""

    def write(folder: Path) -> None:
        for number, part in enumerate(parts):
            pq.write_table(as_table(part), folder / f"part-{number}.parquet")

    return write


def raw(change: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Return what writes a good file whose bytes are then changed."""

    def write(folder: Path) -> None:
        table(usual(), compression="snappy")(folder)
        (folder / NAME).write_bytes(change((folder / NAME).read_bytes()))

    return write


def part(data: Mapping[str, Any], start: int, end: int) -> dict[str, Any]:
    """Return some rows of all."""
    return {name: values[start:end] for name, values in data.items()}


def every(column: str, value: Any, kind: pa.DataType | None = None) -> dict[str, Any]:
    """Return the usual rows with one value in all of a column."""
    return usual(**{column: pa.array([value] * ROWS, kind)})


def _scrambled_page(content: bytes) -> bytes:
    return content[:40] + bytes(byte ^ 0x5A for byte in content[40:160]) + content[160:]


def _linked(target: Callable[[Path], Path]) -> Callable[[Path], object]:
    def write(folder: Path) -> None:
        place = target(folder)
        place.mkdir(parents=True, exist_ok=True)
        table(usual())(place)
        (folder / NAME).symlink_to(place / NAME)

    return write


def _two_of_one_name(folder: Path) -> None:
    made = as_table(usual())
    twice = made.append_column("offer_id", made["offer_id"])
    pq.write_table(twice, folder / NAME)


def _write_unknown_type(folder: Path) -> None:
    """Write a column of bytes that Arrow's description calls whole numbers of 128 bits."""
    numbers, lists = pa.array(range(ROWS), pa.int32()), pa.array([[1]] * ROWS, pa.list_(pa.int32()))
    made = as_table(usual(offer_id=numbers, items=lists, wide=[1] * ROWS))
    told = made.schema.serialize().to_pybytes()
    assert told.count(b"\x40\0\0\0") == 1
    description = base64.b64encode(told.replace(b"\x40\0\0\0", b"\x80\0\0\0"))
    wide = pa.array([b"0" * 16] * ROWS, pa.binary(16))
    made = made.drop_columns("wide").append_column("wide", wide).replace_schema_metadata({"ARROW:schema": description})
    pq.write_table(made, folder / NAME, store_schema=False)


def _called_lzo(content: bytes) -> bytes:
    footer = content[-8 - int.from_bytes(content[-8:-4], "little") :]
    # In each column's metadata its codec, before its number of values: SNAPPY is 1, LZO 3.
    return content[: -len(footer)] + footer.replace(b"\x15\x02\x16", b"\x15\x06\x16")


def _write_column_that_is_no_text(folder: Path) -> None:
    table(usual(nameless=[1] * ROWS), store_schema=False)(folder)
    (folder / NAME).write_bytes((folder / NAME).read_bytes().replace(b"nameless", b"\xff\xfemeless"))


def _write_endless_footer(folder: Path) -> None:
    with (folder / NAME).open("wb") as file:
        file.write(b"PAR1")
        file.truncate(3_000_000_000)
        file.seek(0, os.SEEK_END)
        file.write((2_000_000_000).to_bytes(4, "little") + b"PAR1")


def _write_encrypted(folder: Path, *, column: str, plaintext_footer: bool) -> None:
    configuration = encryption.EncryptionConfiguration(
        footer_key="footer", column_keys={"column": [column]}, plaintext_footer=plaintext_footer
    )
    factory = encryption.CryptoFactory(lambda _: _Keys())
    properties = factory.file_encryption_properties(encryption.KmsConnectionConfig(), configuration)
    table(usual(secret=[1] * ROWS), encryption_properties=properties)(folder)


class _Keys(encryption.KmsClient):  # type: ignore[misc]  # Arrow gives it no types
    """Keeps keys as they are."""

    def __init__(self) -> None:
        super().__init__()

    def wrap_key(self, key_bytes: bytes, _: str) -> bytes:
        return base64.b64encode(key_bytes)


def _write_feather(folder: Path) -> None:
    with pa.OSFile(str(folder / NAME), "wb") as sink, pa.ipc.new_file(sink, as_table(usual()).schema) as writer:
        writer.write(as_table(usual()))


U64, VIEW = pa.uint64(), pa.string_view()
LOADS, REJECTED, FAILED = "active", "rejected", "failed"
PLAYERS = columns(range(ROWS))["player_id"]
CUT_SHORT, DAMAGED = "is cut short. Load again when", "is damaged: it cannot be read to its end"
NOT_PARQUET, ENCRYPTED = "is not a Parquet file. Write it as Parquet", "is encrypted. Write it without encryption"
STRUCT = pa.array([{"a": 1}] * ROWS)

HARMLESS = [
    Source("the usual rows", table(usual()), LOADS, ""),
    Source(
        "extra columns of every kind",
        table(
            usual(
                score=pa.array([0.5] * ROWS),
                day=pa.array([date(2026, 11, 1)] * ROWS),
                at=pa.array([datetime(2026, 11, 1)] * ROWS),  # noqa: DTZ001 - BigQuery's DATETIME has no zone
                nested=STRUCT,
                pairs=pa.array([[("a", 1)]] * ROWS, pa.map_(pa.string(), pa.int64())),
                lists=pa.array([[[1]]] * ROWS),
                raw=pa.array([b"\xff\xfe"] * ROWS),
            )
        ),
        LOADS,
        "Left out, because neither key nor layout has them: score, day, at, nested, pairs, lists, raw.",
    ),
    Source(
        "an extra column of INT96 timestamps",
        table(
            usual(at=pa.array([datetime(2026, 11, 1)] * ROWS, pa.timestamp("ns"))),  # noqa: DTZ001 - as above
            use_deprecated_int96_timestamps=True,
        ),
        LOADS,
        "Left out, because neither key nor layout has them: at.",
    ),
    Source(
        "an extra encrypted column",
        partial(_write_encrypted, column="secret", plaintext_footer=True),
        LOADS,
        "Left out, because neither key nor layout has them: secret.",
    ),
    Source(
        "an extra column of whole numbers of 128 bits",
        _write_unknown_type,
        LOADS,
        "Left out, because neither key nor layout has them: wide.",
    ),
    Source("columns in another order", table(dict(reversed(usual().items()))), LOADS, ""),
    Source("rows in another order", table({k: v[::-1] for k, v in usual().items()}), LOADS, ""),
    Source(
        "the optional column is missing",
        table(usual(title=None)),
        LOADS,
        "The optional column title is not in the source: it is absent in every row.",
    ),
    Source("the optional column is null in every row", table(usual(title=pa.nulls(ROWS))), LOADS, ""),
    Source("the optional column is null of type text", table(usual(title=pa.nulls(ROWS, pa.string()))), LOADS, ""),
    Source("row groups of seven rows", table(usual(), row_group_size=7), LOADS, ""),
    Source("three files", tables(*(part(usual(), a, a + 20) for a in (0, 20, 40))), LOADS, "", "part-*.parquet"),
    Source(
        "one of two files has no rows",
        tables(part({k: pa.array(v) for k, v in usual().items()}, 0, 0), usual()),
        LOADS,
        "",
        "part-*.parquet",
    ),
    *(
        Source(f"compressed by {codec}", table(usual(), compression=codec), LOADS, "")
        for codec in ("none", "snappy", "gzip", "brotli", "zstd", "lz4")
    ),
    Source("data pages of version 2", table(usual(), data_page_version="2.0"), LOADS, ""),
    Source(
        "no dictionaries and no statistics", table(usual(), use_dictionary=False, write_statistics=False), LOADS, ""
    ),
    Source("texts as dictionaries", table(usual(segment=pa.array(usual()["segment"]).dictionary_encode())), LOADS, ""),
    Source("keys as dictionaries", table(usual(player_id=pa.array(PLAYERS).dictionary_encode())), LOADS, ""),
    Source("long texts", table(usual(player_id=pa.array(PLAYERS, pa.large_string()))), LOADS, ""),
    *(
        Source(f"views of texts in {column}", table(usual(**{column: pa.array(usual()[column], VIEW)})), LOADS, "")
        for column in ("player_id", "segment", "title")
    ),
    Source("lists of long offsets", table(usual(items=pa.array([[1]] * ROWS, pa.large_list(pa.int64())))), LOADS, ""),
    Source("lists of one size", table(usual(items=pa.array([[1, 2]] * ROWS, pa.list_(pa.int64(), 2)))), LOADS, ""),
    Source("empty lists alone", table(usual(items=pa.array([[]] * ROWS, pa.list_(pa.null())))), LOADS, ""),
    *(
        Source(f"numbers as {kind}", table(usual(offer_id=pa.array(range(ROWS), kind))), LOADS, "")
        for kind in (pa.int8(), pa.uint8(), pa.int16(), pa.int32(), pa.uint64())
    ),
    Source("decimals as NUMERIC", table(every("discount", Decimal("0.07"), pa.decimal128(38, 9))), LOADS, ""),
    Source("decimals as short NUMERIC", table(every("discount", Decimal("0.07"), pa.decimal128(3, 2))), LOADS, ""),
    Source("decimals as FLOAT32", table(every("discount", 0.07, pa.float32())), LOADS, ""),
    Source("decimals as whole numbers", table(every("discount", 1, pa.int64())), LOADS, ""),
    Source("a float within rounding of its step", table(one("discount", 3, 0.1 + 0.2)), LOADS, ""),
    Source("minus zero", table(one("discount", 3, -0.0)), LOADS, ""),
    Source("values at their limits", table(usual(offer_id=[0, 4095] * (ROWS // 2))), LOADS, ""),
    Source("a fifth fewer rows", table(usual(48)), LOADS, ""),
    Source("a fifth more rows", table(usual(72)), LOADS, ""),
    Source(
        "keys beyond ASCII",
        table(usual(player_id=[*PLAYERS[:-1], "日本 🦊 'q\" ;--"])),
        LOADS,
        "",
    ),
    Source("a link to a file in the root", _linked(lambda folder: folder / "elsewhere"), LOADS, ""),
]

BAD_FILES = [
    Source("cut short", raw(lambda content: content[:-200]), FAILED, CUT_SHORT),
    Source("cut at half", raw(lambda content: content[: len(content) // 2]), FAILED, CUT_SHORT),
    Source("without its footer's mark", raw(lambda content: content[:-4] + b"XXXX"), FAILED, CUT_SHORT),
    Source("a footer of another length", raw(lambda c: c[:-8] + b"\xff\xff\xff\x7f" + c[-4:]), FAILED, DAMAGED),
    Source("a footer of nonsense", raw(lambda c: c[:-100] + b"\xaa" * 92 + c[-8:]), FAILED, DAMAGED),
    Source("encrypted", raw(lambda content: b"PARE" + content[4:-4] + b"PARE"), FAILED, ENCRYPTED),
    Source(
        "encrypted as a whole",
        partial(_write_encrypted, column="secret", plaintext_footer=False),
        FAILED,
        ENCRYPTED,
    ),
    Source(
        "an encrypted column",
        partial(_write_encrypted, column="offer_id", plaintext_footer=True),
        FAILED,
        ENCRYPTED,
    ),
    Source("a footer of 2 GB", _write_endless_footer, FAILED, "has 1,907 MB, more than 64: the file is damaged"),
    Source("an extra column whose name is no text", _write_column_that_is_no_text, FAILED, "name is not UTF-8 text"),
    Source("compressed by LZO", raw(_called_lzo), FAILED, "of a type or compression that cannot be read"),
    Source("a damaged page", raw(_scrambled_page), FAILED, DAMAGED),
    Source("compressed as a whole", raw(gzip.compress), FAILED, NOT_PARQUET),
    Source("no bytes at all", raw(lambda _: b""), FAILED, CUT_SHORT),
    Source("a CSV file", raw(lambda _: b"player_id,offer_id\np1,2\n"), FAILED, NOT_PARQUET),
    Source("an Arrow file", _write_feather, FAILED, NOT_PARQUET),
    Source("a folder", lambda folder: (folder / NAME).mkdir(), FAILED, "No file matches"),
    Source("a pipe", lambda folder: os.mkfifo(folder / NAME), FAILED, "is not a file"),
    Source("not there", lambda _: None, FAILED, "rows.parquet"),
    Source("no file of that pattern", table(usual()), FAILED, "nothing-*.parquet", "nothing-*.parquet"),
    Source(
        "a link out of the root",
        _linked(lambda folder: folder.parent / f"{folder.name}-out"),
        FAILED,
        "not in a folder that",
    ),
    Source("a link to nothing", lambda folder: (folder / NAME).symlink_to(folder / "gone"), FAILED, "is not a file"),
    Source("two columns of one name", _two_of_one_name, FAILED, "two columns named “offer_id”"),
    Source(
        "files of different types",
        tables(usual(), usual(offer_id=[str(n) for n in range(ROWS)])),
        FAILED,
        "all files must have the same columns",
        "part-*.parquet",
    ),
    Source(
        "a column is missing in one of the files",
        tables(usual(), usual(segment=None)),
        FAILED,
        "Column “segment” is missing in",
        "part-*.parquet",
    ),
]


WANTS_UINT = "the layout needs a whole number from 0 to 4,095"
BAD_COLUMNS = [
    Source("a column is missing", table(usual(offer_id=None)), REJECTED, f"Column offer_id is missing; {WANTS_UINT}."),
    Source("the key is missing", table(usual(player_id=None)), REJECTED, "Column player_id is missing; a key needs"),
    Source(
        "a column is renamed",
        table({"Offer_ID" if k == "offer_id" else k: v for k, v in usual().items()}),
        REJECTED,
        "Column offer_id is missing",
    ),
    Source(
        "no column that is wanted",
        table({"player": PLAYERS, "offer": list(range(ROWS))}),
        REJECTED,
        "Column player_id is missing; a key needs",
    ),
    Source("nothing but a key", table({"player_id": PLAYERS}), REJECTED, "column items is missing"),
    *(
        Source(f"{name} for a number", table(every("offer_id", value)), REJECTED, f"offer_id is {name}, {WANTS_UINT}")
        for name, value in (
            ("STRING", "7"),
            ("FLOAT64", 7.0),
            ("BOOL", True),
            ("NUMERIC", Decimal(7)),
            ("BYTES", b"7"),
            ("DATE", date(2026, 11, 1)),
            ("DATETIME", datetime(2026, 11, 1)),  # noqa: DTZ001 - as above
            ("TIME", time(9)),
            ("STRUCT", {"a": 7}),
            ("ARRAY<INT64>", [7]),
        )
    ),
    Source("whole numbers for a text", table(every("segment", 1)), REJECTED, "segment is INT64, the layout needs one"),
    Source("a number for a list", table(every("items", 1)), REJECTED, "items is INT64, the layout needs a list"),
    Source("texts in a list", table(every("items", ["a"])), REJECTED, "items is ARRAY<STRING>, the layout needs a"),
    Source(
        "views of lists",
        table(every("items", [1], pa.list_view(pa.int64()))),
        REJECTED,
        "items is LIST_VIEW<ELEMENT: INT64>",
    ),
    Source("lists in a list", table(every("items", [[1]])), REJECTED, "items is ARRAY<ARRAY<INT64>>"),
    Source("texts for decimals", table(every("discount", "0.5")), REJECTED, "discount is STRING, the layout needs a"),
    Source(
        "BIGNUMERIC for decimals",
        table(every("discount", Decimal("0.5"), pa.decimal256(50, 9))),
        REJECTED,
        "discount is BIGNUMERIC, the layout needs a number",
    ),
    *(
        Source(f"{name} for a key", table(usual(player_id=values)), REJECTED, f"player_id is {name}, a key needs")
        for name, values in (
            ("FLOAT64", [n / 2 for n in range(ROWS)]),
            ("BOOL", [True] * ROWS),
            ("STRUCT", STRUCT),
            ("empty", pa.nulls(ROWS)),
        )
    ),
]

BAD_ROWS = [
    Source(
        "no rows", table({k: pa.array(v).slice(0, 0) for k, v in usual().items()}), REJECTED, "The source has no rows"
    ),
    Source("half of the rows", table(usual(30)), REJECTED, "30 rows, 50.0 % fewer than the 60 now active"),
    Source("twice as many rows", table(usual(120)), REJECTED, "120 rows, 100.0 % more than the 60 now active"),
    Source(
        "every row twice",
        table({k: [*v, *v] for k, v in usual().items()}),
        REJECTED,
        "Key p0 is in row 1 and again in row 61; 60 keys occur more than once",
    ),
    Source("a key twice", table(one("player_id", 9, "p2")), REJECTED, "Key p2 is in row 3 and again in row 9"),
    Source(
        "keys in another spelling",
        table(usual(player_id=[key.upper() for key in PLAYERS])),
        REJECTED,
        "Only 0.0 % of the keys that are served are in the source",
    ),
    Source("a null key", table(one("player_id", 9, None)), REJECTED, "Column player_id, row 9: a key needs a value"),
    Source("an empty key", table(one("player_id", 9, "")), REJECTED, "Column player_id, row 9: a key needs a value"),
    *(
        Source(
            f"a key with U+{ord(character):04X}",
            table(one("player_id", 9, f"p{character}8")),
            REJECTED,
            f"Column player_id, row 9 (key p\\u{ord(character):04x}8): it contains a control character",
        )
        for character in "\0\t\n\x1e"
    ),
    Source(
        "a key with the separator of keys",
        table(one("player_id", 9, "p\x1f8")),
        REJECTED,
        "Column player_id, row 9 (key p / 8): it contains a control character",
    ),
    Source("a key too long", table(one("player_id", 9, "k" * 257)), REJECTED, "the key is longer than 256 bytes"),
    Source("a key too long in bytes", table(one("player_id", 9, "ü" * 129)), REJECTED, "longer than 256 bytes"),
    *(
        Source(
            f"bytes that are no text in {column}",
            table(usual(**{column: pa.array([b"ok"] * 8 + [bad] + [b"ok"] * 51).view(pa.string())})),
            REJECTED,
            f"Column {column} holds bytes in row 9 that are not valid UTF-8 text",
        )
        for column, bad in (("player_id", b"\xff\xfe"), ("segment", b"ne\xc3"), ("title", b"\xed\xa0\x80"))
    ),
    *(
        Source(f"a null in {column}", table(one(column, 9, None)), REJECTED, f"Column {column}, row 9 (key p8): ")
        for column in ("offer_id", "discount", "segment", "items")
    ),
    Source(
        "a column of nulls alone", table(usual(offer_id=pa.nulls(ROWS))), REJECTED, "offer_id, row 1 (key p0): a value"
    ),
    Source("above the maximum", table(one("offer_id", 9, 4096)), REJECTED, "row 9 (key p8): 4096 is not within 0 …"),
    Source("negative", table(one("offer_id", 9, -1)), REJECTED, "row 9 (key p8): -1 is not within 0 … 4095"),
    Source(
        "the largest UINT64", table(one("offer_id", 9, 2**64 - 1, U64)), REJECTED, "18446744073709551615 is not with"
    ),
    Source("the smallest INT64", table(one("offer_id", 9, -(2**63))), REJECTED, "-9223372036854775808 is not within"),
    Source("NaN", table(one("discount", 9, float("nan"))), REJECTED, "row 9 (key p8): nan is not a finite number"),
    Source("infinity", table(one("discount", 9, float("inf"))), REJECTED, "row 9 (key p8): inf is not a finite number"),
    Source("minus infinity", table(one("discount", 9, float("-inf"))), REJECTED, "-inf is not a finite number"),
    Source("a float above", table(one("discount", 9, 1.01)), REJECTED, "row 9 (key p8): 1.01 is not within 0 … 1"),
    Source("a float far above", table(one("discount", 9, 1e300)), REJECTED, "1e+300 is not within 0 … 1"),
    Source("a float below", table(one("discount", 9, -0.5)), REJECTED, "row 9 (key p8): -0.5 is not within 0 … 1"),
    Source("a float off its step", table(one("discount", 9, 0.123)), REJECTED, "0.123 is not a whole number of steps"),
    Source(
        "a float that only exact arithmetic refuses",
        table(one("discount", 9, 0.2500010001)),
        REJECTED,
        "Column discount, row 9 (key p8): 0.2500010001 is not a whole number of steps of 0.01 from 0",
    ),
    Source(
        "a NUMERIC off its step",
        table(every("discount", Decimal("0.123456789"), pa.decimal128(38, 9))),
        REJECTED,
        "row 1 (key p0): 0.123456789 is not a whole number of steps of 0.01 from 0; 60 like it",
    ),
    Source(
        "a NUMERIC of 38 digits",
        table(every("discount", Decimal("9" * 38), pa.decimal128(38, 0))),
        REJECTED,
        "Column discount, row 1 (key p0): " + "9" * 38 + " is not a whole number of steps of 0.01 from 0; 60 like it",
    ),
    Source("an unknown text", table(one("segment", 9, "gone")), REJECTED, "'gone' is not one of the 2 values"),
    Source("a text in another case", table(one("segment", 9, "New")), REJECTED, "'New' is not one of the 2 values"),
    Source("an empty text", table(one("segment", 9, "")), REJECTED, "row 9 (key p8): '' is not one of the 2 values"),
    Source("a text too long", table(one("title", 9, "x" * 21)), REJECTED, "the text is 21 bytes long, more than 20"),
    Source(
        "a huge text", table(one("title", 9, "x" * 2_000_000)), REJECTED, "the text is 2000000 bytes long, more than"
    ),
    Source(
        "a huge unknown text", table(one("segment", 9, "x" * 2_000_000)), REJECTED, "Column segment, row 9 (key p8): "
    ),
    Source("a list too long", table(one("items", 9, [1, 2, 3, 4])), REJECTED, "row 9 (key p8): the list has 4 items"),
    Source("a huge list", table(one("items", 9, [1] * 100_000)), REJECTED, "the list has 100000 items, more than 3"),
    Source(
        "a null in a list", table(one("items", 9, [1, None])), REJECTED, "row 9 (key p8): a list cannot contain nulls"
    ),
    Source("an item above", table(one("items", 9, [1, 1000])), REJECTED, "row 9 (key p8): 1000 is not within 0 … 999"),
    Source(
        "several things at once",
        table(usual(offer_id=[9999] * ROWS, segment=["gone"] * ROWS, player_id=["p1"] * ROWS)),
        REJECTED,
        "2 more checks failed",
    ),
]

SOURCES = [*HARMLESS, *BAD_FILES, *BAD_COLUMNS, *BAD_ROWS]
