"""Loads from a Parquet file to tables in a real Valkey."""

from __future__ import annotations

import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis
from django.conf import settings as project_settings
from pytest_django import DjangoCaptureOnCommitCallbacks, Settings

from models_registry.loading import running
from models_registry.loading.pulse import Progress
from models_registry.loading.rejections import rejections
from models_registry.loading.report import Report
from models_registry.loading.report_text import report_lines
from models_registry.loading.requests import table_roll_back
from models_registry.loading.running import run_load
from models_registry.models import Load, LoadState, Table, TableState, Version
from serving.formats import snapshot
from serving.formats.keys import block_bits_for
from tenants.models import AuditEntry
from tests.loading_scene import Scene, all_blocks, answer, blocks_of, columns, row

pytestmark = pytest.mark.django_db


@pytest.fixture
def scene(tmp_path: Path, settings: Settings) -> Scene:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    return Scene(tmp_path)


def words(load: Load) -> dict[str, str]:
    """Return the words of the checks that failed, by name."""
    return {check["name"]: check["words"] for check in load.report["checks"] if not check["passed"]}


def table_ids(client: redis.Redis, scene: Scene) -> list[str]:
    """Return the tables that the published snapshot names."""
    envelope: Any = client.get(snapshot.snapshot_name(project_settings.REDIS_PREFIX, scene.tenant.public_id))
    if envelope is None:
        return []
    published = snapshot.open_snapshot(envelope, snapshot.parse_public_keys(project_settings.SNAPSHOT_PUBLIC_KEYS))
    versions = [version for model in published.tenant.models for version in model.versions]
    return [table.id for version in versions for table in (version.active, version.previous) if table]


# --- A load that becomes active ---------------------------------------------------------------------------------------


def test_run_load__a_good_source__every_row_is_served_as_it_was_written(scene: Scene, valkey: redis.Redis) -> None:
    load = scene.load(columns(range(1000)))

    assert (load.state, load.problem) == (LoadState.ACTIVE, "")
    assert (load.rows_expected, load.rows_read, load.rows_written) == (1000, 1000, 1000)
    table = load.table
    assert (table.state, table.row_count, table.block_bits) == (TableState.READY, 1000, block_bits_for(1000))
    for number in range(1000):
        wanted = {name: value for name, value in row(number).items() if name != "player_id"}
        assert answer(valkey, scene, table, f"p{number}") == wanted
    assert answer(valkey, scene, table, "p1000") is None
    assert blocks_of(valkey, table.table_id) == 2**table.block_bits == all_blocks(valkey)


def test_run_load__a_good_source__moves_the_pointer_and_leaves_a_trail(scene: Scene, valkey: redis.Redis) -> None:
    first = scene.load(columns(range(50)))
    second = scene.load(columns(range(55)))

    scene.version.refresh_from_db()
    assert scene.version.active_table == second.table
    assert scene.version.previous_table == first.table
    assert scene.version.active_fence == second.fence
    entries = AuditEntry.objects.for_tenant(scene.tenant).filter(action="load.activate").order_by("pk")
    assert [entry.summary for entry in entries] == [
        "Load 1 of “offers/a” is active: 50 rows.",
        "Load 2 of “offers/a” is active: 55 rows.",
    ]
    assert entries[1].before == {"active_table": first.table.table_id, "rows": 50}
    assert [stage["name"] for stage in first.report["stages"]] == ["extract", "check", "write", "verify"]
    assert [stage["name"] for stage in second.report["stages"]] == ["extract", "check", "compare", "write", "verify"]
    assert all(check["passed"] for check in second.report["checks"])


def test_run_load__after_activation__the_snapshot_is_announced_once_committed(
    scene: Scene, valkey: redis.Redis, django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        load = scene.load(columns(range(5)))
    assert table_ids(valkey, scene) == [load.table.table_id]


def test_run_load__keys_of_text_and_numbers__found_by_their_decimal_text(
    tmp_path: Path, settings: Settings, valkey: redis.Redis
) -> None:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    fields = [
        {"name": "level", "type": "uint", "min": 1, "max": 10},
        {"name": "band", "type": "uint", "min": 0, "max": 9},
    ]
    scene = Scene(tmp_path, fields=fields, key_fields=["country", "band"])
    data = {"level": [1, 2, 3], "band": [7, 8, 0], "country": ["DE", "日本", "DE"]}
    load = scene.load(data)
    assert answer(valkey, scene, load.table, "日本", "8") == {"level": 2, "band": 8}
    assert answer(valkey, scene, load.table, "DE", "0") == {"level": 3, "band": 0}
    assert answer(valkey, scene, load.table, "DE", "8") is None


def test_run_load__columns_as_bigquery_gives_them__stored_exactly(scene: Scene, valkey: redis.Redis) -> None:
    data = columns(range(3))
    data["discount"] = pa.array([Decimal("0.07"), Decimal(1), Decimal(0)], pa.decimal128(38, 9))
    data["items"] = pa.array([[], [5], [0, 999]], pa.list_(pa.int64()))
    load = scene.load(data)
    assert load.state == LoadState.ACTIVE, load.problem
    found = [answer(valkey, scene, load.table, f"p{number}") for number in range(3)]
    assert [(record["discount"], record["items"]) for record in found if record] == [
        (0.07, []),
        (1, [5]),
        (0, [0, 999]),
    ]


@pytest.mark.parametrize("is_list", [False, True])
def test_run_load__scores_rounded_to_32_bits__stored_as_they_were_meant(
    tmp_path: Path, settings: Settings, valkey: redis.Redis, is_list: bool
) -> None:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    number = {"type": "decimal", "min": 0, "max": 1000, "step": 0.01}
    field = {"type": "list", "max_items": 1, "item": number} if is_list else number
    scene = Scene(tmp_path, fields=[{"name": "score", **field}])
    scores = pa.array([step / 100 for step in range(100_001)], pa.float32())
    column = pa.ListArray.from_arrays(pa.array(range(100_002), pa.int32()), scores) if is_list else scores
    load = scene.load({"player_id": [f"p{step}" for step in range(100_001)], "score": column})
    assert load.state == LoadState.ACTIVE, load.problem
    for step in (0, 1, 12_345, 99_999, 100_000):
        wanted = step / 100
        assert answer(valkey, scene, load.table, f"p{step}") == {"score": [wanted] if is_list else wanted}


def test_run_load__columns_nobody_wants_and_an_optional_one_missing__noted(scene: Scene, valkey: redis.Redis) -> None:
    data = columns(range(3), score=[0.1, 0.2, 0.3], at=pa.array([1, 2, 3], pa.timestamp("us", "UTC")))
    del data["title"]
    load = scene.load(data)
    assert load.state == LoadState.ACTIVE
    assert load.report["notes"] == [
        "Left out, because neither key nor layout has them: score, at.",
        "The optional column title is not in the source: it is absent in every row.",
    ]


def test_run_load__of_files__reports_what_was_read(scene: Scene, valkey: redis.Redis) -> None:
    scene.source.location = str(scene.folder / "*.parquet")
    scene.source.save()
    scene.write(columns(range(3)), "b.parquet")
    scene.write(columns(range(3, 5)), "a.parquet")
    (scene.folder / "b.parquet").rename(scene.folder / os.fsdecode(b"b\xff.parquet"))
    os.utime(scene.folder / "a.parquet", (0, 1_795_000_000))
    load = scene.load()
    assert load.state == LoadState.ACTIVE, load.problem
    files = Report.read(load.report).files
    assert files is not None
    assert (files.count, files.rows, files.size_bytes) == (2, 5, sum(file.size_bytes for file in files.first))
    assert [(file.name, file.rows) for file in files.first] == [
        (f"{scene.folder}/a.parquet", 2),
        (f"{scene.folder}/b?.parquet", 3),
    ]
    assert files.first[0].modified_at == datetime(2026, 11, 18, 11, 6, 40, tzinfo=UTC)
    size = f"{files.first[0].size_bytes:,} bytes"
    line = f"  {scene.folder}/a.parquet: {size}, 2 rows, written 2026-11-18 11:06:40 UTC"
    assert line in report_lines(Report.read(load.report))


def test_run_load__field_names_that_sql_would_trip_over__loaded(
    tmp_path: Path, settings: Settings, valkey: redis.Redis
) -> None:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    texts = ["it's", 'a "quote"', "tab\there", "--"]
    fields: list[dict[str, Any]] = [
        {"name": "x", "type": "uint", "min": 0, "max": 9},
        {"name": "X", "type": "uint", "min": 0, "max": 9},
        {"name": 'rows"; --', "type": "enum", "values": texts},
        {"name": "block", "type": "bool"},
    ]
    scene = Scene(tmp_path, fields=fields, key_fields=["select"])
    keys = ["a", "b'", 'c"', "d;"]
    load = scene.load(
        {"select": keys, "x": [1, 2, 3, 4], "X": [5, 6, 7, 8], 'rows"; --': texts, "block": [True, False, True, False]}
    )
    assert load.state == LoadState.ACTIVE, load.problem
    assert answer(valkey, scene, load.table, 'c"') == {"x": 3, "X": 7, 'rows"; --': "tab\there", "block": True}


def test_run_load__progress__told_stage_by_stage(scene: Scene, valkey: redis.Redis) -> None:
    scene.write(columns(range(30)))
    told: list[Progress] = []
    run_load(scene.queue().pk, listener=told.append)
    states = [LoadState.EXTRACTING, LoadState.CHECKING, LoadState.WRITING, LoadState.VERIFYING, LoadState.ACTIVE]
    assert list(dict.fromkeys(progress.state for progress in told)) == states
    assert (told[-1].rows_read, told[-1].rows_written, told[-1].rows_expected) == (30, 30, 30)


def test_run_load__whatever_happens__leaves_no_folder(scene: Scene, valkey: redis.Redis) -> None:
    scene.load(columns(range(3)))
    scene.load(columns(range(3), offer_id=[1, 2, 9999]))
    assert list((scene.folder / "workspace").iterdir()) == []


# --- Which tables are kept --------------------------------------------------------------------------------------------


def test_run_load__a_limit_of_rows_a_second__its_writing_takes_that_long(
    tmp_path: Path, settings: Settings, valkey: redis.Redis
) -> None:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    scene = Scene(tmp_path, fields=[{"name": "likes", "type": "bool"}], key_fields=("player",))
    rows, limit = 70_000, 100_000
    load = scene.load({"player": list(range(rows)), "likes": [True] * rows}, rows_per_second_limit=limit)
    (writing,) = [stage for stage in load.report["stages"] if stage["name"] == "write"]
    # It rests after each send, and a send is a quarter of this table.
    assert writing["seconds"] >= rows / limit * 3 / 4


def test_run_load__a_fourth_table__the_oldest_is_no_longer_kept(scene: Scene, valkey: redis.Redis) -> None:
    loads = [scene.load(columns(range(10))) for _ in range(4)]
    states = [Table.objects.unscoped().get(load=load).state for load in loads]
    assert states == [TableState.DROPPING, TableState.READY, TableState.READY, TableState.READY]


def test_run_load__two_before_it__are_the_previous_and_the_older_table(scene: Scene, valkey: redis.Redis) -> None:
    first, second, third = (scene.load(columns(range(10))) for _ in range(3))
    version = Version.objects.unscoped().get(pk=scene.version.pk)
    held = (version.active_table, version.previous_table, version.older_table)
    assert held == (third.table, second.table, first.table)


def test_run_load__redis_lost_the_table_before_it__whole_ones_are_kept_in_its_place(
    scene: Scene, valkey: redis.Redis
) -> None:
    first, second, third = (scene.load(columns(range(10))) for _ in range(3))
    Table.objects.unscoped().filter(load=third).update(lost_at=third.created_at)
    fourth = scene.load(columns(range(10)))
    version = Version.objects.unscoped().get(pk=scene.version.pk)
    held = (version.active_table, version.previous_table, version.older_table)
    assert held == (fourth.table, second.table, first.table)
    assert Table.objects.unscoped().get(load=third).state == TableState.DROPPING


def test_run_load__after_going_back__the_table_in_use_is_kept(scene: Scene, valkey: redis.Redis) -> None:
    loads = [scene.load(columns(range(10))) for _ in range(3)]
    table_roll_back(version=scene.version, actor=None, reason="the newest was wrong")
    fourth = scene.load(columns(range(10)))
    scene.version.refresh_from_db()
    assert (scene.version.active_table, scene.version.previous_table) == (fourth.table, loads[1].table)
    states = {load.fence: Table.objects.unscoped().get(load=load).state for load in loads}
    assert states == {1: TableState.DROPPING, 2: TableState.READY, 3: TableState.READY}


# --- Loads that a check rejects ---------------------------------------------------------------------------------------


def bad(**changes: Any) -> Callable[[], dict[str, Any]]:
    return lambda: columns(range(3), **changes)


def without(name: str) -> Callable[[], dict[str, Any]]:
    return lambda: {k: v for k, v in columns(range(3)).items() if k != name}


WANTS_LIST = "the layout needs a list of at most 3 items, each a whole number from 0 to 999"
REJECTIONS = {
    "a column is missing": (
        without("offer_id"),
        {"columns": "column offer_id is missing; the layout needs a whole number from 0 to 4,095"},
    ),
    "the key is missing": (
        without("player_id"),
        {"columns": "column player_id is missing; a key needs text or whole numbers (STRING or INT64)"},
    ),
    "a timestamp for a number": (
        bad(offer_id=pa.array([1, 2, 3], pa.timestamp("us", "UTC"))),
        {"columns": "column offer_id is TIMESTAMP, the layout needs a whole number from 0 to 4,095"},
    ),
    "a float for a key": (
        bad(player_id=[0.5, 1.5, 2.5]),
        {
            "columns": "column player_id is FLOAT64, a key needs text or whole numbers (STRING or INT64); write whole "
            'numbers: .astype("Int64") in pandas, CAST(player_id AS INT64) in SQL'
        },
    ),
    "numbers for a list": (
        bad(items=[1, 2, 3]),
        {"columns": f"column items is INT64, {WANTS_LIST}"},
    ),
    "texts in a list of numbers": (
        bad(items=[["a"], [], []]),
        {"columns": f"column items is ARRAY<STRING>, {WANTS_LIST}"},
    ),
    "a null": (
        bad(segment=["new", None, "new"]),
        {"segment: no nulls": "column segment, row 2 (key p1): a value is required"},
    ),
    "beyond the maximum": (
        bad(offer_id=[1, 5000, 4096]),
        {"offer_id: values": "column offer_id, row 2 (key p1): 5000 is not within 0 … 4095; 2 like it"},
    ),
    "below the minimum": (
        bad(offer_id=[-1, 0, 1]),
        {"offer_id: values": "column offer_id, row 1 (key p0): -1 is not within 0 … 4095"},
    ),
    "no whole step": (
        bad(discount=[0.5, 0.25, 0.005]),
        {"discount: values": "column discount, row 3 (key p2): 0.005 is not a whole number of steps of 0.01 from 0"},
    ),
    "no whole step in NUMERIC": (
        bad(discount=pa.array([Decimal("0.5"), Decimal("0.015"), Decimal(0)], pa.decimal128(38, 3))),
        {"discount: values": "column discount, row 2 (key p1): 0.015 is not a whole number of steps of 0.01 from 0"},
    ),
    "not a number": (
        bad(discount=[0.5, float("nan"), float("inf")]),
        {"discount: values": "column discount, row 2 (key p1): nan is not a finite number; 2 like it"},
    ),
    "an unknown text": (
        bad(segment=["new", "loyal", "gone"]),
        {"segment: values": "column segment, row 3 (key p2): 'gone' is not one of the 2 values"},
    ),
    "a list too long": (
        bad(items=[[], [1, 2, 3, 4], []]),
        {"items: items": "column items, row 2 (key p1): the list has 4 items, more than 3"},
    ),
    "an item beyond": (
        bad(items=[[], [1], [1000, 2, 1001]]),
        {"items: values": "column items, row 3 (key p2): 1000 is not within 0 … 999; 2 like it"},
    ),
    "a null item": (
        bad(items=[[], [None], []]),
        {"items: values": "column items, row 2 (key p1): a list cannot contain nulls"},
    ),
    "a text too long": (
        bad(title=["a" * 21, None, ""]),
        {"title: values": "column title, row 1 (key p0): the text is 21 bytes long, more than 20"},
    ),
    "a null key": (
        bad(player_id=["a", None, "c"]),
        {"player_id: no nulls": "column player_id, row 2: a key needs a value"},
    ),
    "an empty key": (
        bad(player_id=["a", "b", ""]),
        {"player_id: not empty": "column player_id, row 3: a key needs a value"},
    ),
    "a control character in a key": (
        bad(player_id=["a", "b\n", "c"]),
        {"player_id: no control characters": "column player_id, row 2 (key b\\u000a): it contains a control character"},
    ),
    "a key too long": (
        bad(player_id=["a", "b", "ü" * 129]),
        {"key: not too long": f"the key, row 3 (key {'ü' * 79}…): the key is longer than 256 bytes"},
    ),
    "a key twice": (
        bad(player_id=["a", "b", "a"]),
        {"key: no duplicates": "key a is in row 1 and again in row 3"},
    ),
    "no rows": (
        lambda: {name: pa.array(values).slice(0, 0) for name, values in columns(range(3)).items()},
        {"rows": "the source has no rows"},
    ),
    "several things at once": (
        bad(player_id=["a", "a", "b"], offer_id=[9999, 1, 2], segment=["new", "gone", None]),
        {
            "key: no duplicates": "key a is in row 1 and again in row 2",
            "offer_id: values": "column offer_id, row 1 (key a): 9999 is not within 0 … 4095",
            "segment: no nulls": "column segment, row 3 (key b): a value is required",
            "segment: values": "column segment, row 2 (key a): 'gone' is not one of the 2 values",
        },
    ),
}


@pytest.mark.parametrize("what", REJECTIONS)
def test_run_load__a_bad_source__rejected_with_column_and_row_and_the_old_table_goes_on(
    what: str, scene: Scene, valkey: redis.Redis
) -> None:
    data, wanted = REJECTIONS[what]
    good = scene.load(columns(range(3)))
    load = scene.load(data())

    assert load.state == LoadState.REJECTED
    found = words(load)
    kinds = {name.rpartition(": ")[2] for name in found}
    assert rejections() == {(scene.version.model.tenant.slug, kind): 1 for kind in kinds}
    found.pop("row count", None)
    assert found == wanted
    assert load.problem.startswith(next(iter(wanted.values()))[1:20], 1)
    scene.version.refresh_from_db()
    assert scene.version.active_table == good.table
    assert not Table.objects.unscoped().filter(load=load).exists()
    assert all_blocks(valkey) == blocks_of(valkey, good.table.table_id)


def test_run_load__many_bad_rows__five_of_them_are_shown(scene: Scene, valkey: redis.Redis) -> None:
    load = scene.load(columns(range(20), offer_id=[9000 + number for number in range(20)]))
    (check,) = [check for check in load.report["checks"] if check["name"] == "offer_id: values"]
    assert check["count"] == 20
    assert check["samples"] == [{"row": n + 1, "key": f"p{n}", "value": str(9000 + n)} for n in range(5)]


def test_run_load__bytes_that_are_no_text__named_with_their_row(scene: Scene, valkey: redis.Redis) -> None:
    broken = pa.array([b"ok", b"\xff\xfe", b"fine"]).view(pa.string())
    load = scene.load(columns(range(3), title=broken))
    assert load.state == LoadState.REJECTED
    assert load.problem == "Column title holds bytes in row 2 that are not valid UTF-8 text."


@pytest.mark.parametrize(
    ("rows", "change", "fails_with"),
    [
        (131, 0.30, "131 rows, 31.0 % more than the 100 now active; a change of more than 30 % is refused"),
        (69, 0.30, "69 rows, 31.0 % fewer than the 100 now active; a change of more than 30 % is refused"),
        (130, 0.30, None),
        (70, 0.30, None),
        (300, 2.5, None),
    ],
)
def test_run_load__another_number_of_rows__rejected_beyond_what_the_model_allows(
    rows: int, change: float, fails_with: str | None, scene: Scene, valkey: redis.Redis
) -> None:
    scene.load(columns(range(100)))
    scene.model.max_row_count_change = change
    scene.model.save()
    load = scene.load(columns(range(rows)))
    assert words(load) == ({"row count": fails_with} if fails_with else {})
    assert load.state == (LoadState.REJECTED if fails_with else LoadState.ACTIVE)


def test_run_load__two_keys_with_one_fingerprint_in_one_block__rejected(scene: Scene, valkey: redis.Redis) -> None:
    # Bytes 8 to 13 of their digests are equal: found by trying some thirty million names.
    load = scene.load(columns(range(2), player_id=["p4162677", "p13993417"]))
    assert load.state == LoadState.REJECTED
    assert "same fingerprint by chance" in load.problem


def test_run_load__a_value_that_only_exact_arithmetic_refuses__rejected_before_anything_is_written(
    scene: Scene, valkey: redis.Redis
) -> None:
    # Just beyond the tolerance of 1e-6: SQL's floats let it pass, the packer does not.
    load = scene.load(columns(range(3), discount=[0.5, 0.2500010001, 0.75]))
    assert load.state == LoadState.REJECTED
    reason = "column discount, row 2 (key p1): 0.2500010001 is not a whole number of steps of 0.01 from 0"
    assert words(load) == {"discount: values": reason}
    assert all_blocks(valkey) == 0
    assert not Table.objects.unscoped().filter(load=load).exists()


# --- Loads that fail --------------------------------------------------------------------------------------------------


def test_run_load__a_source_that_is_not_there__fails_in_the_sources_words(scene: Scene, valkey: redis.Redis) -> None:
    load = scene.load()
    assert load.state == LoadState.FAILED
    assert "rows.parquet" in load.problem


def test_run_load__a_source_outside_what_the_studio_may_read__fails(scene: Scene, valkey: redis.Redis) -> None:
    scene.tenant.allowed_local_roots = []
    scene.tenant.save()
    load = scene.load(columns(range(3)))
    assert load.state == LoadState.FAILED
    assert load.problem.endswith(".")


def test_run_load__the_studio_ends_meanwhile__fails_and_leaves_nothing(scene: Scene, valkey: redis.Redis) -> None:
    scene.write(columns(range(3)))
    load = scene.queue()

    def end(progress: Progress) -> None:
        if progress.state == LoadState.WRITING:
            type(scene.tenant).objects.filter(pk=scene.tenant.pk).update(ended_at=load.created_at)

    run_load(load.pk, listener=end)
    load.refresh_from_db()
    assert load.state == LoadState.FAILED
    assert "has ended" in load.problem
    assert all_blocks(valkey) == 0


def test_run_load__longer_than_allowed__fails_and_says_so(
    scene: Scene, valkey: redis.Redis, settings: Settings
) -> None:
    settings.LOAD_TIME_LIMIT = timedelta(seconds=-1)
    load = scene.load(columns(range(3)))
    assert load.state == LoadState.FAILED
    assert "the longest a load may take" in load.problem


def test_run_load__an_error_nobody_thought_of__fails_without_its_details(
    scene: Scene, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(running, "block_bits_for", lambda _: 1 / 0)
    load = scene.load(columns(range(3)))
    assert load.state == LoadState.FAILED
    assert load.problem == "Something unexpected went wrong (ZeroDivisionError). The worker's log has the details."


def test_report__nothing_failed__no_problem() -> None:
    assert Report().problem == ""
