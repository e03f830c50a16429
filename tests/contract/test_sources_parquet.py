"""What only Parquet files do: differ from each other, be damaged, be replaced while they are read."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pytest_django.fixtures import Settings

from models_registry.loading.sources import (
    Confinement,
    Extract,
    SourceProblem,
    confinement,
    open_source,
    parquet_files,
)
from recsite.embedded import free_port
from tests.contract.gcs_server import serve_gcs

ROOT = Path(__file__).resolve().parents[2]
WANTED = ("player_id", "level")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


def read(
    folder: Path, pattern: str = "*.parquet", wanted: Sequence[str] = WANTED
) -> tuple[Extract, list[pa.RecordBatch]]:
    confinement = Confinement((), (), (str(folder),))
    with open_source("parquet", f"{folder}/{pattern}", confinement, wanted, labels={}) as extract:
        return extract, list(extract.batches)


def problem(folder: Path, pattern: str = "*.parquet") -> str:
    with pytest.raises(SourceProblem) as raised:
        read(folder, pattern)
    return str(raised.value)


def write(folder: Path, name: str, **columns: object) -> Path:
    path = folder / name
    pq.write_table(pa.table(columns), path)
    return path


# --- Files that differ ----------------------------------------------------------------------------------------------


def test_files__with_another_type__name_file_column_and_both_types(folder: Path) -> None:
    write(folder, "a.parquet", player_id=["p1"], level=[1])
    write(folder, "b.parquet", player_id=["p2"], level=[1.5])
    assert problem(folder) == (
        f"Column “level” is FLOAT64 in “{folder}/b.parquet” but INT64 in “{folder}/a.parquet”: all files must have the "
        "same columns."
    )


def test_files__one_without_a_wanted_column__are_refused_whichever_it_is(folder: Path) -> None:
    write(folder, "a.parquet", player_id=["p1"], level=[1])
    write(folder, "b.parquet", player_id=["p2"])
    assert f"“level” is missing in “{folder}/b.parquet” but INT64" in problem(folder)
    (folder / "b.parquet").rename(folder / "0.parquet")
    assert f"“level” is INT64 in “{folder}/a.parquet” but missing" in problem(folder)


NUMERIC = pa.decimal128


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        (pa.array(["a"]), pa.array(["b"], pa.large_string()), pa.large_string()),
        (pa.array([1], pa.int32()), pa.array([2**40]), pa.int64()),
        (pa.array([1], pa.uint16()), pa.array([-1], pa.int8()), pa.int32()),
        (pa.array([2**32 - 1], pa.uint32()), pa.array([-1]), pa.int64()),
        (pa.array([Decimal("1.5")], NUMERIC(3, 1)), pa.array([Decimal("0.25")], NUMERIC(9, 4)), NUMERIC(9, 4)),
        (pa.array([None]), pa.array([7]), pa.int64()),
        (pa.array([[1]]), pa.array([[2]], pa.large_list(pa.int32())), pa.large_list(pa.int64())),
        (pa.array([[1]]), pa.array([[2]], pa.list_(pa.int64(), 1)), pa.list_(pa.int64())),
        (pa.array([[]], pa.list_(pa.null())), pa.array([["x"]]), pa.list_(pa.string())),
        # What people wrote, not the float64 whose bits begin alike.
        (pa.array([123.45], pa.float32()), pa.array([0.1]), pa.float64()),
        (pa.array([[123.45]], pa.list_(pa.float32())), pa.array([[0.1]]), pa.list_(pa.float64())),
    ],
    ids=str,
)
def test_files__that_differ_in_how_they_were_written__are_one(
    folder: Path, one: pa.Array, other: pa.Array, both: pa.DataType
) -> None:
    for name in ("ab", "ba"):
        for letter, part in zip(name, (one, other), strict=True):
            write(folder, f"{letter}.parquet", player_id=[letter], level=part)
        extract, batches = read(folder)
        assert extract.schema.field("level").type == both
        found = {row["player_id"]: row["level"] for row in pa.Table.from_batches(batches).to_pylist()}
        wanted = dict(zip(name, (one[0].as_py(), other[0].as_py()), strict=True))
        if pa.types.is_float32(one.type) or one.type == pa.list_(pa.float32()):
            wanted[name[0]] = 123.45 if one.type == pa.float32() else [123.45]
        assert found == wanted


@pytest.mark.parametrize(
    ("one", "other", "words"),
    [
        (pa.array([2**63], pa.uint64()), pa.array([1]), ("INT64", "UINT64")),
        (pa.array([1]), pa.array(["1"]), ("STRING", "INT64")),
        (pa.array([[1]]), pa.array([["1"]]), ("ARRAY<STRING>", "ARRAY<INT64>")),
        (
            pa.array([Decimal(1)], NUMERIC(38, 0)),
            pa.array([Decimal("0.5")], NUMERIC(38, 9)),
            ("DECIMAL128(38, 9)", "DECIMAL128(38, 0)"),
        ),
    ],
    ids=str,
)
def test_files__of_types_that_cannot_become_one__say_both(
    folder: Path, one: pa.Array, other: pa.Array, words: tuple[str, str]
) -> None:
    write(folder, "a.parquet", player_id=["p0"], level=[None])
    write(folder, "b.parquet", player_id=["p1"], level=one)
    write(folder, "c.parquet", player_id=["p2"], level=other)
    assert f"is {words[0]} in “{folder}/c.parquet” but {words[1]} in “{folder}/b.parquet”" in problem(folder)


def test_files__one_without_rows__has_no_say(folder: Path) -> None:
    write(folder, "a.parquet", player_id=pa.array([], pa.float64()))
    write(folder, "b.parquet", player_id=["p1"], level=[1])
    extract, batches = read(folder)
    assert extract.schema.types == [pa.string(), pa.int64()]
    assert pa.Table.from_batches(batches).to_pylist() == [{"player_id": "p1", "level": 1}]


def test_files__some_without_an_optional_column__have_nulls_for_it(folder: Path) -> None:
    write(folder, "a.parquet", player_id=["p1"])
    write(folder, "b.parquet", player_id=["p2"], level=[7])
    assert "“level” is INT64 in" in problem(folder)
    assert read_as(folder, optional={"level"}) == [{"player_id": "p1", "level": None}, {"player_id": "p2", "level": 7}]


def read_as(folder: Path, pattern: str = "**/*.parquet", **kwargs: Any) -> list[dict[str, Any]]:
    allowed = Confinement((), (), (str(folder),))
    with open_source("parquet", f"{folder}/{pattern}", allowed, WANTED, labels={}, **kwargs) as extract:
        found: list[dict[str, Any]] = pa.Table.from_batches(extract.batches, extract.schema).to_pylist()
        return found


@pytest.mark.parametrize(
    ("folders", "texts", "values"),
    [
        (("level=7", "level=-12"), (), [7, -12]),
        (("level=7", "level=__HIVE_DEFAULT_PARTITION__"), (), [7, None]),
        (("level=7", "level=08"), (), ["7", "08"]),
        (("level=7", "level=8"), ("level",), ["7", "8"]),
        (("level=0.5", "level=8"), (), [0.5, 8.0]),
        (("level=true", "level=false"), (), [True, False]),
        (("level=S%C3%A3o%3APaulo", "level=a=b"), (), ["São:Paulo", "a=b"]),
        (("day=1/level=7", "day=2/level=8"), (), [7, 8]),
    ],
)
def test_folders__named_like_partitions__are_columns(
    folder: Path, folders: tuple[str, ...], texts: tuple[str, ...], values: list[Any]
) -> None:
    for number, name in enumerate(folders):
        (folder / str(number) / name).mkdir(parents=True)
        write(folder / str(number) / name, "part-0.parquet", player_id=[f"p{number}"])
    found = [(row["player_id"], row["level"]) for row in read_as(folder, texts=texts)]
    assert found == [(f"p{number}", value) for number, value in enumerate(values)]


def test_folders__named_like_a_column_that_the_file_has__have_no_say(folder: Path) -> None:
    (folder / "level=7").mkdir()
    write(folder / "level=7", "a.parquet", player_id=["p1"], level=[3])
    assert read_as(folder) == [{"player_id": "p1", "level": 3}]


def test_column__of_uuids_bytes_or_json__is_text_where_text_is_wanted(folder: Path) -> None:
    ids = [uuid.UUID(int=n) for n in (1, 2**127 + 5)]
    column = pa.array([ids[0].bytes, None, ids[1].bytes], pa.uuid())
    for name, values in {"a": column.slice(1), "b": column.slice(0, 0)}.items():
        write(folder, f"{name}.parquet", player_id=values, level=pa.array(["{}"] * len(values), pa.json_()))
    found = read_as(folder, texts=WANTED)
    assert found == [{"player_id": None, "level": "{}"}, {"player_id": str(ids[1]), "level": "{}"}]
    write(folder, "b.parquet", player_id=pa.array([b"p\xc3\xbc", None]), level=pa.array([b"x"] * 2, pa.large_binary()))
    assert read_as(folder, "b.parquet", texts=WANTED) == [
        {"player_id": "pü", "level": "x"},
        {"player_id": None, "level": "x"},
    ]
    extract, _ = read(folder, "b.parquet")
    assert extract.schema.types == [pa.binary(), pa.large_binary()]


def test_files__that_differ_in_columns_nobody_wants__are_read(folder: Path) -> None:
    write(folder, "a.parquet", player_id=["p1"], level=[1], old=[1])
    write(folder, "b.parquet", new=["x"], level=[2], player_id=["p2"])
    extract, batches = read(folder)
    assert extract.extra_columns == ("old", "new")
    assert pa.Table.from_batches(batches).to_pylist() == [
        {"player_id": "p1", "level": 1},
        {"player_id": "p2", "level": 2},
    ]


def test_files__encoded_as_a_dictionary_here_and_plain_there__are_read_as_one(folder: Path) -> None:
    write(folder, "a.parquet", player_id=pa.array(["p1"]).dictionary_encode(), level=[1])
    write(folder, "b.parquet", player_id=["p2"], level=[2])
    extract, batches = read(folder)
    assert extract.schema.field("player_id").type == pa.string()
    assert [batch.column("player_id").to_pylist() for batch in batches] == [["p1"], ["p2"]]


@pytest.mark.parametrize("text", [pa.string_view(), pa.dictionary(pa.int32(), pa.string())])
@pytest.mark.parametrize("lists", [pa.list_, pa.large_list, lambda text: pa.list_(text, 1)])
def test_files__with_texts_laid_out_in_some_way_in_lists__are_read_as_plain_texts(
    folder: Path, text: pa.DataType, lists: Callable[[pa.DataType], pa.DataType]
) -> None:
    values = [["a text longer than what a view holds itself"], None, ["b"]]
    write(
        folder,
        "a.parquet",
        player_id=pa.array(["p1", "p2", "p3"], pa.string_view()),
        level=pa.array(values, lists(text)),
    )
    extract, batches = read(folder)
    plain = pa.large_string() if text == pa.string_view() else pa.string()
    assert extract.schema.types == [pa.large_string(), lists(plain)]
    assert [batch.column("level").to_pylist() for batch in batches] == [values]


def test_column__whose_name_begins_like_a_wanted_one__is_not_read_for_it(folder: Path) -> None:
    write(folder, "a.parquet", **{"level.boost": [7], "player_id": ["p1"], "level": [1]})
    _, batches = read(folder)
    assert pa.Table.from_batches(batches).to_pylist() == [{"player_id": "p1", "level": 1}]


def test_file__with_a_column_twice__is_refused(folder: Path) -> None:
    table = pa.Table.from_arrays([pa.array(["p1"]), pa.array([1]), pa.array([2])], ["player_id", "level", "level"])
    pq.write_table(table, folder / "a.parquet")
    assert problem(folder) == f"“{folder}/a.parquet” has two columns named “level”."


# --- Files that are none --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is cut short. Load again when all of it is there."),
        (b"PAR1", "is cut short. Load again when all of it is there."),
        (b"player_id,level\np1,1\n", "is not a Parquet file. Write it as Parquet, or read others only."),
        (b"PAR1" + b"\0" * 100 + b"PAR1", "is damaged: it cannot be read to its end. Write it again."),
        (b"PARE" + b"\0" * 100 + b"PARE", "is encrypted. Write it without encryption: the worker has no key for it."),
    ],
)
def test_file__that_is_no_parquet__is_a_clear_sentence(folder: Path, content: bytes, words: str) -> None:
    write(folder, "a.parquet", player_id=["p1"], level=[1])
    (folder / "b.parquet").write_bytes(content)
    assert problem(folder) == f"“{folder}/b.parquet” {words}"


def test_file__of_fewer_rows_than_it_says__is_damaged(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, "a.parquet", player_id=["p1"], level=[1])
    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: iter(()))
    assert "is damaged" in problem(folder)


# Each byte of the file may be hit, those that describe it more often.
FUZZ = """
import random, resource, sys
from pathlib import Path
import django, pyarrow as pa, pyarrow.parquet as pq

django.setup()
from models_registry.loading.sources.parquet import open_parquet
from models_registry.loading.sources.port import Confinement, SourceProblem

resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))
path, drawn = Path(sys.argv[1]) / "a.parquet", random.Random(2026)
rows = pa.table({"player_id": [f"p{n}" for n in range(300)], "level": range(300), "items": [[1], []] * 150})
pq.write_table(rows, path, use_dictionary=["level"])
good = path.read_bytes()
footer = len(good) - 8 - int.from_bytes(good[-8:-4], "little")
for _ in range(int(sys.argv[2])):
    content = bytearray(good)
    for _ in range(drawn.choice((1, 1, 2, 8))):
        place = drawn.randrange(footer if drawn.random() < 0.7 else 0, len(content))
        content[place] = drawn.choice((0, 255, content[place] ^ 1 << drawn.randrange(8)))
    if drawn.random() < 0.1:
        del content[drawn.randrange(len(content)) :]
    path.write_bytes(content)
    try:
        confinement = Confinement((), (), (sys.argv[1],))
        with open_parquet(str(path), confinement, ("player_id", "level", "items"), gcs_endpoint=None) as extract:
            print("read", sum(batch.num_rows for batch in extract.batches))
    except SourceProblem as problem:
        print(str(problem).partition("parquet” ")[2])
"""


@pytest.mark.slow
def test_file__damaged_anywhere__is_a_sentence_about_it_or_read_whole(folder: Path) -> None:
    # A process of its own, whose memory is bounded: a damaged size may ask for anything.
    command = [sys.executable, "-c", FUZZ, str(folder), "400"]
    ended = subprocess.run(command, check=False, capture_output=True, text=True, timeout=100, cwd=ROOT)
    assert ended.returncode == 0, ended.stderr[-2000:]
    found = ended.stdout.splitlines()
    assert len(found) == 400
    known = ("is damaged: ", "is cut short", "is not a Parquet file", "has ", "needs more memory")
    assert [line for line in found if line != "read 300" and not line.startswith(known)] == []
    assert sum(line.startswith("is damaged: ") for line in found) > 100


def test_file__cut_short__is_found_before_the_first_row(folder: Path) -> None:
    path = write(folder, "a.parquet", player_id=["p1"] * 1000, level=[1] * 1000)
    path.write_bytes(path.read_bytes()[:-40])
    with (
        pytest.raises(SourceProblem, match="cut short"),
        open_source("parquet", str(path), Confinement((), (), (str(folder),)), WANTED, labels={}),
    ):
        pass


def test_file__damaged_in_the_middle__is_found_where_it_is_read(folder: Path) -> None:
    path = folder / "a.parquet"
    table = pa.table({"player_id": [f"p{n}" for n in range(10_000)], "level": list(range(10_000))})
    pq.write_table(table, path, compression="zstd", use_dictionary=False)
    content = bytearray(path.read_bytes())
    for place in range(100, len(content) // 2, 50):
        content[place] ^= 0xFF
    path.write_bytes(content)
    assert problem(folder) == f"“{path}” is damaged: it cannot be read to its end. Write it again."


def test_file__replaced_between_opening_and_reading__is_refused(folder: Path) -> None:
    path = write(folder, "a.parquet", player_id=["p1"], level=[1])
    with open_source("parquet", str(path), Confinement((), (), (str(folder),)), WANTED, labels={}) as extract:
        write(folder, "a.parquet", player_id=["p1", "p2"], level=[1, 2])
        with pytest.raises(SourceProblem, match="was replaced while it was read"):
            list(extract.batches)


def test_file__removed_between_opening_and_reading__is_a_clear_sentence(folder: Path) -> None:
    path = write(folder, "a.parquet", player_id=["p1"], level=[1])
    with open_source("parquet", str(path), Confinement((), (), (str(folder),)), WANTED, labels={}) as extract:
        path.unlink()
        with pytest.raises(SourceProblem, match=r"does not exist \(any more\)"):
            list(extract.batches)


# --- Links that take a place after it was checked -------------------------------------------------------------------


@pytest.fixture
def rival(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return another studio's folder, with a file that looks like ours."""
    folder = tmp_path_factory.mktemp("rival") / "day=1"
    folder.mkdir()
    write(folder, "a.parquet", player_id=["theirs"], level=[9])
    return folder


def replace_by_link(path: Path, target: Path) -> None:
    path.rename(path.with_name("_away"))
    path.symlink_to(target)


@pytest.mark.parametrize("part", ["day=1", "day=1/a.parquet"])
def test_link__put_in_a_files_place_once_it_was_checked__is_not_followed(
    folder: Path, rival: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "day=1").mkdir()
    path = write(folder / "day=1", "a.parquet", player_id=["ours"], level=[1])
    check = confinement.check_local

    def check_then_replace(checked: Path, roots: Sequence[str], location: str) -> Path:
        real = check(checked, roots, location)
        if checked == path:
            # What is looked at next is whether it is a file, then it is opened.
            monkeypatch.setattr(Path, "is_file", lambda _: True)
            replace_by_link(folder / part, rival.parent / part)
        return real

    monkeypatch.setattr(confinement, "check_local", check_then_replace)
    assert problem(folder, "day=1/*.parquet") == (
        f"“{path}” was replaced while it was read. Load again when the new file is complete."
    )


@pytest.mark.parametrize("part", ["day=1", "day=1/a.parquet"])
def test_link__put_in_a_files_place_before_its_rows_are_read__is_not_followed(
    folder: Path, rival: Path, part: str
) -> None:
    (folder / "day=1").mkdir()
    path = write(folder / "day=1", "a.parquet", player_id=["ours"], level=[1])
    with open_source("parquet", str(path), Confinement((), (), (str(folder),)), WANTED, labels={}) as extract:
        replace_by_link(folder / part, rival.parent / part)
        with pytest.raises(SourceProblem, match="was replaced while it was read"):
            list(extract.batches)


def test_link__put_in_a_folders_place_once_it_was_checked__is_not_listed(
    folder: Path, rival: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "day=1").mkdir()
    (rival / "a.parquet").rename(rival / "their-plans.parquet")
    check = confinement.check_local

    def check_then_replace(checked: Path, roots: Sequence[str], location: str) -> Path:
        real = check(checked, roots, location)
        if checked == folder / "day=1" and not checked.is_symlink():
            replace_by_link(checked, rival)
        return real

    monkeypatch.setattr(confinement, "check_local", check_then_replace)
    assert "their-plans" not in problem(folder, "*/*.parquet")


def test_pipe__put_in_a_files_place_before_its_rows_are_read__is_not_waited_for(folder: Path) -> None:
    path = write(folder, "a.parquet", player_id=["ours"], level=[1])
    with open_source("parquet", str(path), Confinement((), (), (str(folder),)), WANTED, labels={}) as extract:
        path.unlink()
        os.mkfifo(path)
        with pytest.raises(SourceProblem, match="is not a file"):
            list(extract.batches)


def test_file__behind_a_link_within_the_folder__is_read_where_the_link_led_when_it_was_checked(folder: Path) -> None:
    for day, player in (("day=1", "old"), ("day=2", "new")):
        (folder / day).mkdir()
        write(folder / day, "a.parquet", player_id=[player], level=[1])
    latest = folder / "latest"
    latest.symlink_to(folder / "day=1")
    confinement_of_studio = Confinement((), (), (str(folder),))
    with open_source("parquet", f"{latest}/*.parquet", confinement_of_studio, WANTED, labels={}) as extract:
        latest.unlink()
        latest.symlink_to(folder / "day=2")
        assert [batch.to_pylist() for batch in extract.batches] == [[{"player_id": "old", "level": 1}]]


# --- Files that change while they are read ---------------------------------------------------------------------------


@contextmanager
def opened(location: Path | str, folder: Path) -> Iterator[Extract]:
    with open_source("parquet", str(location), Confinement((), (), (str(folder),)), WANTED, labels={}) as extract:
        yield extract


def test_files__one_replaced_by_an_equal_one_while_another_is_read__are_refused(folder: Path) -> None:
    for name in "abc":
        write(folder, f"{name}.parquet", player_id=[f"old {name}"], level=[1])
    with opened(f"{folder}/*.parquet", folder) as extract:
        next(extract.batches)
        write(folder, "next.tmp", player_id=["new a"], level=[1]).rename(folder / "a.parquet")
        with pytest.raises(SourceProblem, match=r"a\.parquet” was replaced while it was read\. Load again when"):
            list(extract.batches)


def test_files__one_written_over_in_its_place__are_refused(folder: Path) -> None:
    path = write(folder, "a.parquet", player_id=["p1"], level=[1])
    with opened(path, folder) as extract:
        next(extract.batches)
        status = path.stat()
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns + 1))
        with pytest.raises(SourceProblem, match="was replaced while it was read"):
            list(extract.batches)


@pytest.mark.parametrize(("what", "words"), [("came", "b.parquet” came while"), ("went", "a.parquet” was removed")])
def test_files__one_that_comes_or_goes_while_they_are_read__are_refused(folder: Path, what: str, words: str) -> None:
    path = write(folder, "a.parquet", player_id=["p1"], level=[1])
    with opened(f"{folder}/*.parquet", folder) as extract:
        next(extract.batches)
        write(folder, "b.parquet", player_id=["p2"], level=[1])
        if what == "went":
            (folder / "b.parquet").unlink()
            path.unlink()
            write(folder, "0.parquet", player_id=["p1"], level=[1])
            (folder / "0.parquet").rename(folder / "c.parquet")
        with pytest.raises(SourceProblem, match=words):
            list(extract.batches)


@pytest.mark.parametrize("pattern", ["latest", "latest/*.parquet", "latest/a.parquet"])
def test_files__behind_a_link_that_is_moved_while_they_are_read__are_read_where_it_led(
    folder: Path, pattern: str
) -> None:
    for day in ("day=1", "day=2"):
        (folder / day).mkdir()
        write(folder / day, "a.parquet", player_id=[day], level=[1])
    (folder / "latest").symlink_to(folder / "day=1")
    with opened(folder / pattern, folder) as extract:
        (folder / "latest").unlink()
        (folder / "latest").symlink_to(folder / "day=2")
        assert [batch.to_pylist() for batch in extract.batches] == [[{"player_id": "day=1", "level": 1}]]


# --- Which files a location takes ------------------------------------------------------------------------------------


def players(folder: Path, pattern: str) -> list[str]:
    return [row["player_id"] for batch in read(folder, pattern)[1] for row in batch.to_pylist()]


def test_name__with_brackets_that_is_there__takes_that_file_alone(folder: Path) -> None:
    (folder / "run[1]").mkdir()
    (folder / "run1").mkdir()
    for place in (folder, folder / "run[1]", folder / "run1"):
        write(place, "scores[1].parquet", player_id=["exact"], level=[1])
        write(place, "scores1.parquet", player_id=["neighbour"], level=[1])
    assert players(folder, "scores[1].parquet") == ["exact"]
    assert players(folder, "run[1]/scores[1].parquet") == ["exact"]
    (folder / "scores[1].parquet").unlink()
    assert players(folder, "scores[1].parquet") == ["neighbour"]


def test_folder__named_outright__takes_files_that_end_like_parquet_in_any_case(folder: Path) -> None:
    (folder / "day").mkdir()
    for name in ("a.parquet", "B.PARQUET", "c.parq", "_d.parquet", ".e.parquet", "f.txt"):
        write(folder / "day", name, player_id=[name], level=[1])
    assert players(folder, "day") == ["B.PARQUET", "a.parquet", "c.parq"]


def test_folder__without_such_files__says_what_to_write(folder: Path) -> None:
    (folder / "day").mkdir()
    write(folder / "day", "000000000000", player_id=["p1"], level=[1])
    assert problem(folder, "day") == (
        f"No file in “{folder}/day” ends in .parquet. Write “{folder}/day/*” to read every file in it."
    )
    assert players(folder, "day/*") == ["p1"]


def test_folder__of_partitions_named_outright__says_what_to_write(folder: Path) -> None:
    (folder / "rows" / "country=DE").mkdir(parents=True)
    write(folder / "rows" / "country=DE", "a.parquet", player_id=["p1"], level=[1])
    assert problem(folder, "rows") == (
        f"“{folder}/rows” is divided into folders, such as “country=DE”. Write “{folder}/rows/**/*.parquet” to read "
        "all of them, or name one."
    )
    assert players(folder, "rows/**/*.parquet") == players(folder, "rows/country=DE") == ["p1"]


def test_file__that_two_names_lead_to__is_read_once(folder: Path) -> None:
    (folder / "day=1").mkdir()
    write(folder / "day=1", "a.parquet", player_id=["p1"], level=[1])
    (folder / "latest").symlink_to(folder / "day=1")
    assert players(folder, "**/*.parquet") == ["p1"]


# --- Tables of other formats ------------------------------------------------------------------------------------------

TABLES = {
    "a Delta table": ("_delta_log/00000000000000000000.json", "part-0.parquet"),
    "an Iceberg table": ("metadata/v1.metadata.json", "data/part-0.parquet"),
    "a Hudi table": (".hoodie/hoodie.properties", "part-0.parquet"),
    "the output of a Spark stream": ("_spark_metadata/0", "part-0.parquet"),
}


def write_table(folder: Path, log: str, part: str) -> None:
    for path in (folder / log, folder / part, folder / "day=1" / "part-1.parquet"):
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path.parent, path.name, player_id=["deleted"], level=[1])


@pytest.mark.parametrize("pattern", ["t", "t/*", "t/**", "t/**/*.parquet", "t/*/*.parquet", "*/day=1/*", "t/{part}"])
@pytest.mark.parametrize("kind", TABLES)
def test_table__of_another_format__is_refused_however_it_is_named(folder: Path, kind: str, pattern: str) -> None:
    write_table(folder / "t", *TABLES[kind])
    assert problem(folder, pattern.format(part=TABLES[kind][1])) == (
        f"“{folder}/t” is {kind}: its files also hold rows that were deleted or replaced, so they cannot be read by "
        "themselves. Write its current rows to plain Parquet files in another folder, or load it through BigQuery."
    )


def test_table__that_holds_the_folder_a_studio_may_read__is_none_of_its_business(folder: Path) -> None:
    write_table(folder / "t", *TABLES["a Delta table"])
    assert players(folder / "t" / "day=1", "*.parquet") == ["deleted"]


def test_folder__called_metadata_with_nothing_of_a_table__is_a_folder(folder: Path) -> None:
    (folder / "metadata").mkdir()
    (folder / "metadata" / "readme.json").touch()
    (folder / "_delta_log").mkdir()
    write(folder, "a.parquet", player_id=["p1"], level=[1])
    assert players(folder, "*.parquet") == ["p1"]


# --- What a page says of itself ---------------------------------------------------------------------------------------


def test_page__of_which_one_byte_is_another__is_found_where_the_file_has_checksums(folder: Path) -> None:
    path = folder / "a.parquet"
    table = pa.table({"player_id": ["aaaaaaaaaaaa"], "level": [1]})
    pq.write_table(table, path, compression="none", use_dictionary=False, write_page_checksum=True)
    content = path.read_bytes()
    value = b"\x0c\0\0\0aaaaaaa"
    assert content.count(value) == 1
    path.write_bytes(content.replace(value, value[:-1] + b"b"))
    assert "damaged" in problem(folder)


def test_kind__that_nobody_knows__is_refused(folder: Path) -> None:
    with (
        pytest.raises(SourceProblem, match="“csv” is not a kind of source"),
        open_source("csv", f"{folder}/a.csv", Confinement((), (), (str(folder),)), WANTED, labels={}),
    ):
        pass


# --- Cloud Storage --------------------------------------------------------------------------------------------------


@pytest.fixture
def cloud(folder: Path, settings: Settings) -> Iterator[Path]:
    """Yield the folder of a bucket, served."""
    bucket = folder / "studio-tables"
    (bucket / "out" / "day=1").mkdir(parents=True)
    with serve_gcs(folder) as settings.GCS_ENDPOINT:
        yield bucket


def cloud_problem(location: str, prefix: str = "gs://studio-tables/out/") -> str:
    with (
        pytest.raises(SourceProblem) as raised,
        open_source("parquet", location, Confinement((), (prefix,), ()), WANTED, labels={}) as extract,
    ):
        list(extract.batches)
    return str(raised.value)


@pytest.mark.parametrize(
    "pattern",
    ["day=1/a.parquet", "day=1/*.parquet", "day=1", "*/*.parquet", "**/*.parquet", "**", "day=[1-9]/?.parquet"],
)
def test_object__named_in_whatever_way__is_read_and_markers_are_not(cloud: Path, pattern: str) -> None:
    write(cloud / "out" / "day=1", "a.parquet", player_id=["p1"], level=[1])
    (cloud / "out" / "day=1" / "_SUCCESS").touch()
    (cloud / "outer").mkdir()
    (cloud / "outer" / "b.parquet").write_bytes(b"of somebody else")
    confinement = Confinement((), ("gs://studio-tables/out",), ())
    with open_source("parquet", f"gs://studio-tables/out/{pattern}", confinement, WANTED, labels={}) as extract:
        assert [batch.to_pylist() for batch in extract.batches] == [[{"player_id": "p1", "level": 1}]]


def test_object__cut_short__is_a_clear_sentence(cloud: Path) -> None:
    path = write(cloud / "out", "a.parquet", player_id=["p1"], level=[1])
    path.write_bytes(path.read_bytes()[:-10])
    assert cloud_problem("gs://studio-tables/out/*.parquet") == (
        "“gs://studio-tables/out/a.parquet” is cut short. Load again when all of it is there."
    )


def test_bucket__that_the_worker_may_not_read__is_a_clear_sentence(cloud: Path) -> None:
    assert cloud_problem("gs://forbidden-tables/out/*.parquet", "gs://forbidden-tables") == (
        "The worker is not allowed to read “gs://forbidden-tables/out/*.parquet”."
    )


def test_cloud_storage__that_nobody_answers_for__is_a_clear_sentence(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parquet_files, "GCS_RETRY_LIMIT", timedelta(seconds=1))
    settings.GCS_ENDPOINT = f"http://127.0.0.1:{free_port()}"
    assert cloud_problem("gs://studio-tables/out/*.parquet") == (
        "Cloud Storage could not be reached to read “gs://studio-tables/out/*.parquet”. Try again later."
    )


@pytest.mark.parametrize("pattern", ["t", "t/*", "t/**/*.parquet", "t/{part}"])
@pytest.mark.parametrize("kind", TABLES)
def test_objects__that_are_a_table_of_another_format__are_refused(cloud: Path, kind: str, pattern: str) -> None:
    write_table(cloud / "out" / "t", *TABLES[kind])
    location = f"gs://studio-tables/out/{pattern.format(part=TABLES[kind][1])}"
    assert cloud_problem(location).startswith(f"“gs://studio-tables/out/t” is {kind}: its files also hold")


def test_objects__in_partitions_named_outright__say_what_to_write(cloud: Path) -> None:
    write(cloud / "out" / "day=1", "a.parquet", player_id=["p1"], level=[1])
    assert cloud_problem("gs://studio-tables/out", "gs://studio-tables/") == (
        "“gs://studio-tables/out” is divided into folders, such as “day=1”. Write "
        "“gs://studio-tables/out/**/*.parquet” to read all of them, or name one."
    )


@pytest.mark.parametrize("when", ["before the first row", "after it"])
def test_object__replaced_by_an_equal_one__is_refused(cloud: Path, when: str) -> None:
    path = write(cloud / "out", "a.parquet", player_id=["p1"], level=[1])
    location, allowed = "gs://studio-tables/out/*.parquet", Confinement((), ("gs://studio-tables/out",), ())
    with open_source("parquet", location, allowed, WANTED, labels={}) as extract:
        if when == "after it":
            next(extract.batches)
        write(cloud / "out", "a.parquet", player_id=["p2"], level=[1])
        with pytest.raises(SourceProblem, match=r"a\.parquet” was replaced while it was read"):
            list(extract.batches)
    assert path.exists()


def test_object__replaced_amid_its_rows__is_not_read_on(cloud: Path) -> None:
    path = cloud / "out" / "a.parquet"
    rows = pa.table({"player_id": [f"p{n}" for n in range(200_000)], "level": [1] * 200_000})
    pq.write_table(rows, path, row_group_size=50_000, use_dictionary=False, compression="none")
    location, allowed = "gs://studio-tables/out/*.parquet", Confinement((), ("gs://studio-tables/out",), ())
    with open_source("parquet", location, allowed, WANTED, labels={}) as extract:
        next(extract.batches)
        pq.write_table(rows, path, row_group_size=50_000, use_dictionary=False, compression="none")
        with pytest.raises(SourceProblem, match=r"a\.parquet” (does not exist \(any more\)|was replaced)"):
            list(extract.batches)
