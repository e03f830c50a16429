"""A source that is too large for one worker: three of them share its ranges, and one is killed on the way."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import grpc
import pyarrow as pa
import pytest
import redis
from django.core.management import call_command
from django.utils import timezone
from pytest_django import Settings

from models_registry.catalogue.services import source_set
from models_registry.loading import ranges, upkeep
from models_registry.loading.requests import load_request
from models_registry.loading.running import run_load
from models_registry.loading.upkeep import STALE_AFTER
from models_registry.models import Load, LoadRange, LoadState, RangeState, SourceKind, Table, TableState, Version
from recsite.embedded import EmbeddedValkey
from tests.bigquery.emulator import PROJECT, BigQuery
from tests.celery_worker import celery_worker, point_celery_at
from tests.contract.source_stores import put_bigquery
from tests.lane_process import descendants, eventually, is_running, stop
from tests.loading_scene import Scene, all_blocks, answer, blocks_of, row

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = 6000
# The fewest that the setting takes; a range then has 250 rows at most.
SPLIT_ROWS = 1000
FIELDS: list[dict[str, Any]] = [
    {"name": "offer_id", "type": "uint", "min": 0, "max": 4095},
    {"name": "items", "type": "list", "max_items": 3, "item": {"type": "uint", "min": 0, "max": 999}},
    {"name": "title", "type": "string", "max_bytes": 20, "optional": True},
]


def record(number: int) -> dict[str, Any]:
    return {field["name"]: row(number)[field["name"]] for field in FIELDS}


def columns(count: int, **changes: Any) -> pa.Table:
    rows = [{"player_id": f"p{number}", "noise": number, **record(number)} for number in range(count)]
    table = pa.Table.from_pylist(rows)
    for name, values in changes.items():
        table = table.set_column(table.schema.get_field_index(name), name, pa.array(values, table[name].type))
    return table


@pytest.fixture
def scene(bigquery: BigQuery, valkey: redis.Redis, tmp_path: Path, settings: Settings) -> Scene:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "loads"
    settings.LOAD_SPLIT_ROWS = SPLIT_ROWS
    made = Scene(tmp_path, fields=FIELDS)
    made.tenant.allowed_datasets = [f"{PROJECT}.recommendations"]
    made.tenant.save()
    made.model.max_row_count_change = 1000.0
    made.model.save()
    return made


def put(scene: Scene, bigquery: BigQuery, table: pa.Table, name: str, *, kind: str = SourceKind.BIGQUERY_TABLE) -> None:
    location = put_bigquery(bigquery, "recommendations", name, table)
    if kind == SourceKind.BIGQUERY_QUERY:
        location = f"SELECT * FROM `{location}`"
    source_set(version=scene.version, kind=kind, location=location, actor=None)


def reload(load: Load) -> Load:
    return Load.objects.unscoped().select_related("version", "table").get(pk=load.pk)


def parts(load: Load, **conditions: Any) -> list[LoadRange]:
    return list(LoadRange.objects.unscoped().filter(load=load, **conditions))


def active(scene: Scene) -> Table | None:
    return Version.objects.unscoped().get(pk=scene.version.pk).active_table


def assert_served(scene: Scene, client: redis.Redis, count: int = ROWS) -> None:
    table = active(scene)
    assert table is not None
    assert table.row_count == count
    for number in range(0, count, 7):
        assert answer(client, scene, table, f"p{number}") == record(number)
    assert answer(client, scene, table, f"p{count}") is None


# --- Three workers ----------------------------------------------------------------------------------------------------


@pytest.fixture
def workers(
    scene: Scene, bigquery: BigQuery, valkey_server: EmbeddedValkey, tmp_path: Path
) -> Iterator[list[list[int]]]:
    """Run three workers; give the ids of each one's processes."""
    environment = {
        "RECSITE_BIGQUERY_PROJECT": PROJECT,
        "RECSITE_BIGQUERY_API_ENDPOINT": bigquery.api_endpoint,
        "RECSITE_BIGQUERY_STORAGE_ENDPOINT": bigquery.storage_endpoint,
        "RECSITE_LOAD_SPLIT_ROWS": str(SPLIT_ROWS),
    }
    with ExitStack() as stack:
        found: list[list[int]] = []
        for number in range(3):
            before = set(descendants(os.getpid()))
            folder = tmp_path / f"worker{number}"
            folder.mkdir()
            log = stack.enter_context(celery_worker(valkey_server.url, folder, **environment))
            eventually(lambda log=log: "ready." in log.read_text(errors="replace") or None, seconds=90)  # type: ignore[misc]  # mypy knows no defaults of lambdas
            found.append([pid for pid in descendants(os.getpid()) if pid not in before])
        yield found


def test_ranges__of_three_workers_one_is_killed__its_range_alone_is_done_again_and_the_table_appears_at_once(
    scene: Scene, bigquery: BigQuery, workers: list[list[int]], valkey: redis.Redis
) -> None:
    put(scene, bigquery, columns(500), "small")
    small = load_request(version=scene.version, actor=None)
    assert eventually(lambda: load if (load := reload(small)).finished_at else None, seconds=60).state == "active"
    assert parts(small) == []
    old = active(scene)

    put(scene, bigquery, columns(ROWS), "large")
    bigquery.fronts.reset()
    bigquery.fronts.holds_reads = True
    load = load_request(version=scene.version, actor=None)
    eventually(lambda: len(parts(load, state=RangeState.RUNNING)) == 3 or None, seconds=90)
    assert len(parts(load)) == 32
    for process_id in workers[0]:
        with suppress(ProcessLookupError):
            stop(process_id, signal.SIGKILL)
    eventually(lambda: not any(is_running(process_id) for process_id in workers[0]) or None)
    bigquery.fronts.holds_reads = False

    eventually(lambda: len(parts(load, state=RangeState.DONE)) == 31 or None, seconds=120)
    (dropped,) = parts(load, state=RangeState.RUNNING)
    assert (reload(load).state, active(scene)) == (LoadState.WRITING, old)
    assert answer(valkey, scene, old, "p7") == record(7) if old else None
    upkeep.sweep(timezone.now() + STALE_AFTER, lambda _: None)
    done = eventually(lambda: load if (load := reload(load_of(dropped))).finished_at else None, seconds=90)
    assert (done.state, done.problem, done.rows_written, done.attempts) == (LoadState.ACTIVE, "", ROWS, 1)
    assert {part.pk: part.attempts for part in parts(load)} == {
        part.pk: 2 if part.pk == dropped.pk else 1 for part in parts(load)
    }
    assert_served(scene, valkey)
    assert old is not None
    assert all_blocks(valkey) == blocks_of(valkey, old.table_id) + blocks_of(valkey, done.table.table_id)


def load_of(part: LoadRange) -> Load:
    return Load.objects.unscoped().get(pk=part.load_id)


def test_load_command__of_a_source_that_workers_share__says_how_it_ended(
    scene: Scene, bigquery: BigQuery, workers: list[list[int]], valkey: redis.Redis
) -> None:
    put(scene, bigquery, columns(ROWS), "commanded")
    printed = io.StringIO()
    call_command("load", f"{scene.tenant.slug}/{scene.model.slug}/{scene.version.name}", stdout=printed)
    assert "Workers of the queue “loads” share it in 32 ranges of keys." in printed.getvalue()
    assert f"{ROWS:,} rows are active after" in printed.getvalue()
    assert_served(scene, valkey)


# --- One after the other, in this process -----------------------------------------------------------------------------


@pytest.fixture
def queued(valkey_server: EmbeddedValkey) -> Iterator[None]:
    """Let tasks wait in a broker where nobody takes them."""
    before = point_celery_at(valkey_server.url)
    yield
    point_celery_at(before)


def begun(scene: Scene) -> Load:
    load = load_request(version=scene.version, actor=None)
    run_load(load.pk)
    assert reload(load).state == LoadState.WRITING, reload(load).problem
    return load


def run_all(load: Load, before: Callable[[LoadRange], object] = lambda _: None) -> Load:
    for part in parts(load):
        before(part)
        ranges.run_range(part.pk)
    ranges.finish(load.pk)
    return reload(load)


@pytest.mark.parametrize("kind", [SourceKind.BIGQUERY_TABLE, SourceKind.BIGQUERY_QUERY])
def test_ranges__of_a_source__each_reads_its_own_partitions_and_the_copy_is_bounded_and_dropped(
    kind: str, scene: Scene, bigquery: BigQuery, valkey: redis.Redis, queued: None
) -> None:
    put(scene, bigquery, columns(ROWS), f"whole_{kind}", kind=kind)
    bigquery.fronts.reset()
    load = begun(scene)
    job = bigquery.fronts.queries()[-1]
    statement = job["query"]["query"]
    assert "PARTITION BY RANGE_BUCKET(recsite_partition, GENERATE_ARRAY(0, 1024, 1))" in statement
    assert "expiration_timestamp" in statement
    assert ("FOR SYSTEM_TIME AS OF" in statement) == (kind == SourceKind.BIGQUERY_TABLE)
    assert "noise" not in statement
    assert int(job["query"]["maximumBytesBilled"]) > 0
    assert job["labels"]["recsite_load"] == str(load.pk)
    scratch = reload(load).scratch_table
    assert bigquery.client.get_table(scratch).num_rows == ROWS

    bigquery.fronts.reset()
    done = run_all(load)
    assert (done.state, done.problem, done.rows_read, done.rows_written) == (LoadState.ACTIVE, "", ROWS, ROWS)
    asked = [session.read_options.row_restriction for session in bigquery.fronts.sessions]
    assert asked == [f"recsite_partition >= {n} AND recsite_partition < {n + 32}" for n in range(0, 1024, 32)]
    assert sum(part.size_bytes for part in parts(load)) == done.table.size_bytes
    names = [check["name"] for check in done.report["checks"]]
    assert len(names) == len(set(names))
    assert {"columns", "row count", "offer_id: values"} <= set(names)
    assert {stage["name"] for stage in done.report["stages"]} >= {"extract", "check", "write", "verify"}
    assert_served(scene, valkey)
    assert done.scratch_table == ""
    assert scratch.split(".")[-1] not in {t.table_id for t in bigquery.client.list_tables(scratch.rpartition(".")[0])}
    # And what the next load is compared with is there.
    put(scene, bigquery, columns(ROWS), f"again_{kind}", kind=kind)
    again = run_all(begun(scene))
    assert again.state == LoadState.ACTIVE
    assert again.report["difference"]["changed"] == again.report["difference"]["removed"] == 0
    assert again.report["difference"]["is_estimate"]
    assert all(sum(part["share_before"] for part in field["bins"]) > 0 for field in again.report["fields"])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"offer_id": [*range(4095), 5000, *([7] * (ROWS - 4096))]}, "5000 is not within 0 … 4095"),
        ({"player_id": [*(f"p{n}" for n in range(ROWS - 1)), None]}, "a key needs a value"),
        ({"player_id": [*(f"p{n}" for n in range(ROWS - 1)), "p17"]}, "p17"),
    ],
    ids=["a value", "no key", "a key twice"],
)
def test_ranges__one_row_of_one_is_bad__the_whole_is_rejected_and_nothing_of_it_stays(
    changes: dict[str, Any], words: str, scene: Scene, bigquery: BigQuery, valkey: redis.Redis, queued: None
) -> None:
    put(scene, bigquery, columns(ROWS, **changes), f"bad_{len(words)}")
    load = begun(scene)
    ended = run_all(load)
    assert ended.state == LoadState.REJECTED
    assert words in ended.problem
    assert any(not check["passed"] for check in ended.report["checks"])
    assert active(scene) is None
    now = timezone.now()
    upkeep.sweep(now, lambda pk: upkeep.drop(pk, now))
    assert all_blocks(valkey) == 0
    assert (reload(load).scratch_table, reload(load).table.state) == ("", TableState.DROPPED)


def test_ranges__reading_of_one_fails__it_alone_is_tried_again(
    scene: Scene, bigquery: BigQuery, valkey: redis.Redis, queued: None
) -> None:
    put(scene, bigquery, columns(ROWS), "flaky")
    load = begun(scene)
    first, *others = parts(load)
    bigquery.fronts.read_failure = grpc.StatusCode.INTERNAL
    ranges.run_range(first.pk)
    assert [(part.state, part.attempts) for part in parts(load, pk=first.pk)] == [(RangeState.WAITING, 1)]
    bigquery.fronts.read_failure = None
    assert run_all(load).state == LoadState.ACTIVE
    assert [part.attempts for part in parts(load)] == [2, *([1] * len(others))]
    assert_served(scene, valkey)


def test_ranges__reading_of_one_fails_for_good__the_load_fails_in_words(
    scene: Scene, bigquery: BigQuery, valkey: redis.Redis, queued: None
) -> None:
    put(scene, bigquery, columns(ROWS), "broken")
    load = begun(scene)
    bigquery.fronts.read_failure = grpc.StatusCode.INTERNAL
    first = parts(load)[0]
    for _ in range(3):
        ranges.run_range(first.pk)
    assert reload(load).state == LoadState.FAILED
    assert reload(load).problem.startswith("BigQuery ")
    bigquery.fronts.read_failure = None
    assert run_all(load).state == LoadState.FAILED
    assert {part.attempts for part in parts(load)} == {3, 0}


def test_ranges__everything_delivered_twice__happens_once(
    scene: Scene, bigquery: BigQuery, valkey: redis.Redis, queued: None
) -> None:
    put(scene, bigquery, columns(ROWS), "twice")
    load = begun(scene)
    ended = run_all(load, lambda part: ranges.run_range(part.pk))
    ranges.finish(load.pk)
    run_load(load.pk)
    assert reload(load) == ended
    assert {part.attempts for part in parts(load)} == {1}
    assert all_blocks(valkey) == 1 << ended.table.block_bits


def test_ranges__redis_loses_a_block_of_a_written_range__the_whole_is_not_activated(
    scene: Scene, bigquery: BigQuery, valkey: redis.Redis, queued: None
) -> None:
    put(scene, bigquery, columns(ROWS), "lossy")
    load = begun(scene)

    def lose(part: LoadRange) -> None:
        if part.first_partition == 32:
            assert valkey.delete(*valkey.keys(f"*:t:{reload(load).table.table_id}:0"))

    ended = run_all(load, lose)
    assert (ended.state, active(scene)) == (LoadState.FAILED, None)
    assert ended.problem.startswith("Redis lost part of what was written")


def test_sweep__messages_of_a_split_load_are_lost__it_is_gone_on_with_from_where_it_was(
    scene: Scene, bigquery: BigQuery, valkey: redis.Redis, queued: None
) -> None:
    put(scene, bigquery, columns(ROWS), "forgotten")
    load = begun(scene)
    later = timezone.now() + upkeep.UNDERWAY_FOR
    assert upkeep.sweep(later, print) == {}
    valkey.flushall()
    assert upkeep.sweep(later, print) == {"ranges handed over again": len(parts(load))}
    for part in parts(load):
        ranges.run_range(part.pk)
    assert reload(load).state == LoadState.VERIFYING
    # The ranges may have taken long.
    later = timezone.now() + upkeep.UNDERWAY_FOR + STALE_AFTER
    assert upkeep.sweep(later, print) == {"split loads gone on with": 1}
    ranges.finish(load.pk)
    assert reload(load).state == LoadState.ACTIVE


def test_sweep__a_split_load_that_takes_too_long__fails(
    scene: Scene, bigquery: BigQuery, valkey: redis.Redis, queued: None, settings: Settings
) -> None:
    put(scene, bigquery, columns(ROWS), "endless")
    load = begun(scene)
    now = timezone.now() + settings.LOAD_TIME_LIMIT
    upkeep.sweep(now, print)
    assert reload(load).state == LoadState.FAILED
    assert "the longest a load may take" in reload(load).problem
