"""More odd sources: files in unusual layouts, parts that differ, folders that are something else."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Mapping
from datetime import date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.bad_sources import (
    CUT_SHORT,
    FAILED,
    LOADS,
    NAME,
    NOT_PARQUET,
    PLAYERS,
    REJECTED,
    ROWS,
    Source,
    as_table,
    every,
    one,
    part,
    raw,
    table,
    tables,
    usual,
)

PARTS = "part-*.parquet"
HALF = ROWS // 2
NULL = "__HIVE_DEFAULT_PARTITION__"
Write = Callable[[Path], object]


def halves(column: str, first: Any, second: Any) -> Write:
    """Return what writes the usual rows as two files, with other values of one column in each; None leaves it out."""
    made = []
    for start, values in ((0, first), (HALF, second)):
        rows = part(usual(), start, start + HALF)
        made.append({name: v for name, v in {**rows, column: values}.items() if v is not None})
    return tables(*made)


def in_folders(column: str, *values: str) -> Write:
    """Return what writes the usual rows into folders that are named for a column's values, without that column."""

    def write(folder: Path) -> None:
        each = ROWS // len(values)
        rows = {name: values for name, values in usual().items() if name != column}
        for number, value in enumerate(values):
            place = folder / f"{column}={value}"
            place.mkdir()
            pq.write_table(as_table(part(rows, number * each, (number + 1) * each)), place / "part-0.parquet")

    return write


def beside(*others: str) -> Write:
    """Return what writes the usual file, and files with nothing in them."""

    def write(folder: Path) -> None:
        for other in others:
            (folder / other).parent.mkdir(parents=True, exist_ok=True)
            (folder / other).write_bytes(b"?")
        table(usual())(folder)

    return write


def named(name: str | bytes, data: Mapping[str, Any] | None = None) -> Write:
    """Return what writes the usual rows under another name."""

    def write(folder: Path) -> None:
        path = folder / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Arrow takes no name that is not UTF-8.
        table(data or usual())(folder)
        (folder / NAME).rename(path)

    return write


def both(*writes: Write) -> Write:
    """Return what writes several things."""

    def write(folder: Path) -> None:
        for each in writes:
            each(folder)

    return write


def linked(link: str, target: str) -> Write:
    """Return what makes a link within the folder."""
    return lambda folder: (folder / link).symlink_to(folder / target)


def numbers(values: range, kind: pa.DataType) -> pa.Array:
    return pa.array(values, kind)


def renamed(old: str, new: str) -> Write:
    """Return what writes the usual rows with a column under another name."""
    return table({new if name == old else name: values for name, values in usual().items()})


def instead(start: bytes) -> Callable[[bytes], bytes]:
    """Return what puts other content in a file's place."""
    return lambda _: start + b"\0" * 99


def as_bytes(column: str, kind: pa.DataType) -> pa.Array:
    return pa.array([value.encode() for value in usual()[column]], kind)


UUIDS = [uuid.UUID(int=number) for number in range(ROWS)]
KEPT = [pa.array(PLAYERS[:HALF]), pa.array(PLAYERS[HALF:])]
SEGMENTS = usual()["segment"]
LISTS = usual()["items"]
CENTS = [Decimal(number) / 100 for number in range(HALF)]

BRACKETS = both(named("a[1].parquet"), named("a1.parquet"))
LATEST = both(named("day=1/a.parquet"), linked("latest", "day=1"))
OPTIONS: dict[str, dict[str, Any]] = {
    "page checksums": {"write_page_checksum": True},
    "checksums on pages of version 2": {"write_page_checksum": True, "data_page_version": "2.0"},
    "a page index": {"write_page_index": True},
    "pages of three rows": {"max_rows_per_page": 3},
    "a dictionary that does not fit": {"dictionary_pagesize_limit": 8},
    "columns of format 1.0": {"version": "1.0"},
    "nothing of Arrow's": {"store_schema": False},
    "streams of bytes": {"use_byte_stream_split": ["discount"], "use_dictionary": False},
    "numbers as differences": {
        "column_encoding": {"offer_id": "DELTA_BINARY_PACKED"},
        "use_dictionary": False,
    },
    "texts as differences": {"column_encoding": {"player_id": "DELTA_BYTE_ARRAY"}, "use_dictionary": False},
    "lengths apart": {"column_encoding": {"segment": "DELTA_LENGTH_BYTE_ARRAY"}, "use_dictionary": False},
}

HARMLESS = [
    *(Source(f"with {title}", table(usual(), **options), LOADS, "") for title, options in OPTIONS.items()),
    Source(
        "decimals as whole numbers inside",
        table(every("discount", Decimal("0.07"), pa.decimal128(9, 2)), store_decimal_as_integer=True),
        LOADS,
        "",
    ),
    *(
        Source(f"{title} as bytes", table(usual(**{column: as_bytes(column, kind)})), LOADS, "")
        for title, column, kind in (
            ("keys", "player_id", pa.binary()),
            ("long keys", "player_id", pa.large_binary()),
            ("a field's texts", "segment", pa.binary()),
        )
    ),
    Source(
        "extra columns of UUIDs and JSON",
        table(
            usual(
                id=pa.array([one_id.bytes for one_id in UUIDS], pa.uuid()),
                more=pa.array(["{}"] * ROWS, pa.json_()),
            )
        ),
        LOADS,
        "Left out, because neither key nor layout has them: id, more.",
    ),
    *(
        Source(f"parts with {title}", halves(column, *values), LOADS, "", PARTS)
        for title, column, values in (
            ("texts and long texts as keys", "player_id", (KEPT[0], KEPT[1].cast(pa.large_string()))),
            ("texts and views of texts", "segment", (pa.array(SEGMENTS[:HALF], pa.string_view()), SEGMENTS[HALF:])),
            ("numbers of 32 and 64 bits", "offer_id", (numbers(range(30), pa.int32()), list(range(30)))),
            ("numbers with and without a sign", "offer_id", (numbers(range(30), pa.uint16()), list(range(30)))),
            ("floats of 32 and 64 bits", "discount", (pa.array([0.07] * 30, pa.float32()), [0.07] * 30)),
            (
                "decimals of two widths",
                "discount",
                (pa.array(CENTS, pa.decimal128(3, 2)), pa.array(CENTS, pa.decimal128(38, 9))),
            ),
            ("lists and long lists", "items", (LISTS[:HALF], pa.array(LISTS[HALF:], pa.large_list(pa.int32())))),
            ("lists and lists of one size", "items", (LISTS[:HALF], pa.array([[1, 2]] * 30, pa.list_(pa.int64(), 2)))),
            ("lists and nothing but empty lists", "items", (pa.array([[]] * 30, pa.list_(pa.null())), LISTS[HALF:])),
            ("nothing but nulls in one", "title", (pa.nulls(30), ["x"] * 30)),
            ("the optional column in one alone", "title", (None, ["x"] * 30)),
            ("bytes and texts as keys", "player_id", (KEPT[0].cast(pa.binary()), KEPT[1])),
        )
    ),
    Source(
        "an empty part as pandas writes it",
        tables(usual(), {name: pa.array([], pa.float64()) for name in usual()}),
        LOADS,
        "",
        PARTS,
    ),
    Source(
        "an empty part without columns",
        tables({"x": pa.array([], pa.null())}, usual()),
        LOADS,
        "Left out, because neither key nor layout has them: x.",
        PARTS,
    ),
    *(
        Source(f"{column} in the names of folders: {', '.join(values)}", in_folders(column, *values), LOADS, "", place)
        for column, values, place in (
            ("segment", ("new", "loyal"), "**/*.parquet"),
            ("offer_id", ("7", "4095", "0"), "*/*.parquet"),
            ("discount", ("0.07", "1"), "**"),
            ("title", (NULL, "%E2%98%80 1"), "**/*.parquet"),
            ("title", ("2026-12-01", "2026-12-02"), "**/*.parquet"),
        )
    ),
    Source("a file whose name has brackets", BRACKETS, LOADS, "", "a[1].parquet"),
    Source("a file whose name is no text", named(b"\xff.parquet"), LOADS, "", "*.parquet"),
    Source("a folder of files", named("day/a.parquet"), LOADS, "", "day"),
    Source("a folder with .PARQUET", named("day/A.PARQUET"), LOADS, "", "day"),
    Source("a folder with .parq", named("day/a.parq"), LOADS, "", "day"),
    Source("a file without an ending", named("day/000000000000"), LOADS, "", "day/*"),
    Source("marks and checksums beside it", beside("_SUCCESS", ".rows.parquet.crc", "_tmp/a.parquet"), LOADS, "", "**"),
    Source("a folder that a link leads to", LATEST, LOADS, "", "latest"),
    Source("two ways to one file", LATEST, LOADS, "", "**/*.parquet"),
    Source("a folder of another format's name alone", beside("metadata/notes.json"), LOADS, "", "*.parquet"),
]

DELETED = "its files also hold rows that were deleted or replaced"
BAD_FILES = [
    *(
        Source(title, beside(log), FAILED, f"is {title}: {DELETED}", "*.parquet")
        for title, log in {
            "a Delta table": "_delta_log/00000000000000000000.json",
            "an Iceberg table": "metadata/00000-1c.metadata.json",
            "a Hudi table": ".hoodie/hoodie.properties",
            "the output of a Spark stream": "_spark_metadata/0",
        }.items()
    ),
    Source("a file of a Delta table", beside("_delta_log/00000000000000000000.json"), FAILED, "is a Delta table: "),
    Source(
        "partitions of a Delta table",
        both(beside("t/_delta_log/0.json"), named("t/day=1/a.parquet")),
        FAILED,
        "is a Delta table: ",
        "t/day=1",
    ),
    Source("a folder of partitions", named("t/day=1/a.parquet"), FAILED, "into folders, such as “day=1”", "t"),
    Source("a folder without .parquet", named("t/000000000000"), FAILED, "ends in .parquet. Write “", "t"),
    *(
        Source(f"{title} in place of Parquet", raw(instead(start)), FAILED, NOT_PARQUET)
        for title, start in {
            "ORC": b"ORC",
            "Avro": b"Obj\x01",
            "a ZIP": b"PK\x03\x04",
            "JSON": b'{"player_id": "p1"}\n',
            "an error page": b"<!DOCTYPE html><html><body>404</body></html>",
            "a pointer of Git LFS": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
        }.items()
    ),
    Source("nothing but a beginning", raw(lambda _: b"PAR1"), FAILED, CUT_SHORT),
    Source("being written", raw(lambda content: content[:500]), FAILED, CUT_SHORT),
    Source(
        "one part cut short",
        both(tables(usual()), lambda folder: (folder / "part-9.parquet").write_bytes(b"PAR1")),
        FAILED,
        "part-9.parquet” is cut short",
        PARTS,
    ),
    Source(
        "a marker that is no Parquet among the parts",
        both(tables(usual()), lambda folder: (folder / "part-done.parquet").write_bytes(b"done")),
        FAILED,
        "part-done.parquet” is not a Parquet file",
        PARTS,
    ),
    *(
        Source(f"parts with {title}", halves(column, *values), FAILED, words, PARTS)
        for title, column, values, words in (
            ("numbers and texts", "offer_id", (list(range(30)), ["1"] * 30), "“offer_id” is STRING in “"),
            ("whole numbers and floats", "offer_id", (list(range(30)), [1.0] * 30), "“offer_id” is FLOAT64 in “"),
            (
                "numbers with a sign and larger ones without",
                "offer_id",
                (list(range(30)), numbers(range(30), pa.uint64())),
                "“offer_id” is UINT64 in “",
            ),
            ("a list and one value", "items", (LISTS[:HALF], [1] * 30), "“items” is INT64 in “"),
            ("dates and texts as keys", "player_id", ([date(2026, 1, 1)] * 30, KEPT[1]), "“player_id” is STRING in “"),
            ("the key in one alone", "player_id", (None, KEPT[1]), "“player_id” is STRING in “"),
        )
    ),
]

MAP = pa.map_(pa.string(), pa.int64())
WRITE_TEXTS = "a key needs text or whole numbers (STRING or INT64); write texts: "
INT64 = '.astype("Int64") in pandas, CAST('
STRING = '.astype("string") in pandas, CAST('
BAD_COLUMNS = [
    *(
        Source(title, table(data), REJECTED, words)
        for title, data, words in (
            (
                "whole floats with NaN, as pandas makes them",
                every("offer_id", float("nan"), pa.float64()),
                f"needs a whole number from 0 to 4,095; write whole numbers: {INT64}offer_id AS INT64) in SQL",
            ),
            ("floats for a key", every("player_id", 1.0), f"(STRING or INT64); write whole numbers: {INT64}player_id"),
            ("dates for a key", every("player_id", date(2026, 1, 1)), f"is DATE, {WRITE_TEXTS}{STRING}"),
            (
                "moments for a key",
                every("player_id", datetime(2026, 1, 1)),  # noqa: DTZ001 - BigQuery's DATETIME has no zone
                f"is DATETIME, {WRITE_TEXTS}{STRING}",
            ),
            ("yes and no for a key", every("player_id", value=True), f"is BOOL, {WRITE_TEXTS}{STRING}"),
            ("numbers for a text", every("segment", 1), f"write texts: {STRING}segment AS STRING) in SQL"),
            ("UUIDs for a number", usual(offer_id=pa.array([i.bytes for i in UUIDS], pa.uuid())), "offer_id is UUID, "),
            ("a map for a list", usual(items=pa.array([[("a", 1)]] * ROWS, MAP)), "items is MAP, the layout needs a"),
            ("JSON for a list", usual(items=pa.array(["[1]"] * ROWS, pa.json_())), "items is JSON, the layout needs a"),
            ("bytes of one size for a key", usual(player_id=pa.array([b"01"] * ROWS, pa.binary(2))), "is BYTES, a key"),
        )
    ),
    *(
        Source(f"a column called {new}", renamed(old, new), REJECTED, f"Column {old} is missing, but there is {told}; ")
        for old, new, told in (
            ("offer_id", "Offer_ID", "Offer_ID"),
            ("offer_id", "offer_id ", "offer_id "),
            ("player_id", "PLAYER_ID", "PLAYER_ID"),
            ("items", "ｉtems", "ｉtems"),
        )
    ),
]

BAD_ROWS = [
    Source(
        "bytes that are no text as keys",
        table(usual(player_id=pa.array([b"ok"] * 8 + [b"\xff"] + [b"ok"] * 51))),
        REJECTED,
        "Column player_id holds bytes in row 9 that are not valid UTF-8 text",
    ),
    Source(
        "UUIDs as keys, which nobody had before",
        table(usual(player_id=pa.array([one_id.bytes for one_id in UUIDS], pa.uuid()))),
        REJECTED,
        "Only 0.0 % of the keys that are served are in the source",
    ),
    Source("a folder's number that does not fit", in_folders("offer_id", "9999", "1"), REJECTED, "9999 is not", "**"),
    Source("a folder's text that is unknown", in_folders("segment", "new", "gone"), REJECTED, "'gone' is not", "**"),
    Source("a folder of nulls for a field", in_folders("segment", "new", NULL), REJECTED, "row 1 (key p30)", "**"),
    Source("a folder of nulls for a key", in_folders("player_id", NULL), REJECTED, "is empty, a key needs text", "**"),
    Source("parts with the same keys", tables(usual(), usual()), REJECTED, "Key p0 is in row 1 and again in", PARTS),
    Source(
        "a float32 off its step",
        table(one("discount", 3, 0.123, pa.float32())),
        REJECTED,
        "is not a whole number of steps",
    ),
]

SOURCES = [*HARMLESS, *BAD_FILES, *BAD_COLUMNS, *BAD_ROWS]
