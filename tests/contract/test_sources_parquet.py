"""What only Parquet files do: differ from each other, be damaged, be replaced while they are read."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pytest_django.fixtures import Settings

from models_registry.loading.sources import Confinement, Extract, SourceProblem, confinement, open_source
from recsite.embedded import free_port
from tests.contract.gcs_server import serve_gcs

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
        f"Column “level” is double in “{folder}/b.parquet” but int64 in “{folder}/a.parquet”: all files must have the "
        "same columns."
    )


def test_files__one_without_a_wanted_column__are_refused_whichever_it_is(folder: Path) -> None:
    write(folder, "a.parquet", player_id=["p1"], level=[1])
    write(folder, "b.parquet", player_id=["p2"])
    assert f"“level” is missing in “{folder}/b.parquet” but int64" in problem(folder)
    (folder / "b.parquet").rename(folder / "0.parquet")
    assert f"“level” is int64 in “{folder}/a.parquet” but missing" in problem(folder)


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


@pytest.mark.parametrize("content", [b"", b"PAR1", b"player_id,level\np1,1\n", b"PAR1" + b"\0" * 100 + b"PAR1"])
def test_file__that_is_no_parquet__is_a_clear_sentence(folder: Path, content: bytes) -> None:
    write(folder, "a.parquet", player_id=["p1"], level=[1])
    (folder / "b.parquet").write_bytes(content)
    assert problem(folder) == (f"“{folder}/b.parquet” is not a Parquet file, or it is damaged, encrypted or cut short.")


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
    assert problem(folder) == f"“{path}” is not a Parquet file, or it is damaged, encrypted or cut short."


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
        "“gs://studio-tables/out/a.parquet” is not a Parquet file, or it is damaged, encrypted or cut short."
    )


def test_bucket__that_the_worker_may_not_read__is_a_clear_sentence(cloud: Path) -> None:
    assert cloud_problem("gs://forbidden-tables/out/*.parquet", "gs://forbidden-tables") == (
        "The worker is not allowed to read “gs://forbidden-tables/out/*.parquet”."
    )


def test_cloud_storage__that_nobody_answers_for__is_a_clear_sentence(settings: Settings) -> None:
    settings.GCS_ENDPOINT = f"http://127.0.0.1:{free_port()}"
    assert cloud_problem("gs://studio-tables/out/*.parquet") == (
        "Cloud Storage could not be reached to read “gs://studio-tables/out/*.parquet”. Try again later."
    )
