"""A real Celery worker killed at any stage of a load: the old table goes on, the load ends well, no orphans."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from django.utils import timezone
from pytest_django import Settings

from models_registry.loading import upkeep
from models_registry.loading.requests import load_enqueue, load_request
from models_registry.loading.upkeep import DROP_AFTER, STALE_AFTER
from models_registry.models import Load, LoadState, Table, TableState, Version
from recsite.embedded import EmbeddedValkey
from tests.celery_worker import celery_worker
from tests.contract.gcs_server import serve_gcs
from tests.faults.valve import Valve
from tests.lane_process import descendants, eventually, is_running, stop
from tests.loading_scene import Scene, all_blocks, answer, blocks_of, columns, row

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = 6000
ENOUGH_BYTES = 60_000
# How a load is held in a state: what it asks of its source, or sends to Redis, arrives there no more.
HOLDS: dict[str, Callable[[Valve], None]] = {
    LoadState.EXTRACTING: lambda source: source.close_after(0),
    LoadState.CHECKING: lambda redis: redis.close_at("GET"),
    LoadState.WRITING: lambda redis: redis.close_after(ENOUGH_BYTES),
    LoadState.VERIFYING: lambda redis: redis.close_at("STRLEN"),
}
# Nothing of the new table is written in these.
BEFORE_WRITING = (LoadState.EXTRACTING, LoadState.CHECKING)


@pytest.fixture
def studio_scene(tmp_path: Path, settings: Settings) -> Scene:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "loads"
    bucket = tmp_path / "cloud" / "bucket"
    bucket.mkdir(parents=True)
    made = Scene(bucket)
    made.tenant.allowed_gs_prefixes = ["gs://bucket/"]
    made.tenant.save()
    made.source.location = "gs://bucket/rows.parquet"
    made.source.save()
    made.model.max_row_count_change = made.model.max_psi = 1e6
    made.model.min_coverage = 0
    made.model.save()
    return made


@pytest.fixture
def cloud(studio_scene: Scene) -> Iterator[Valve]:
    """Yield a way to where the source is that may be closed."""
    with serve_gcs(studio_scene.folder.parent) as url:
        made = Valve(int(url.rpartition(":")[2]))
        yield made
        made.end()


@contextmanager
def worker(server: EmbeddedValkey, valve: Valve, cloud: Valve, var_dir: Path) -> Iterator[int]:
    """Run a worker whose tables and source are behind the valves; give its process id."""
    places = {
        "RECSITE_REDIS_URL": f"redis://127.0.0.1:{valve.port}/0",
        "RECSITE_GCS_ENDPOINT": f"http://127.0.0.1:{cloud.port}",
        "RECSITE_BROKER_URL": server.url,
    }
    with celery_worker(server.url, var_dir, **places) as log:
        eventually(lambda: "ready." in log.read_text(errors="replace") or None, seconds=60)
        yield int((var_dir / "worker.pid").read_text())


def children(process_id: int) -> list[int]:
    return [pid for pid in descendants(process_id) if is_running(pid)]


def state_of(load: Load) -> str:
    return Load.objects.unscoped().get(pk=load.pk).state


def ended(load: Load) -> Load | None:
    found = Load.objects.unscoped().get(pk=load.pk)
    return found if found.finished_at else None


def active_table(scene: Scene) -> Table | None:
    return Version.objects.unscoped().get(pk=scene.version.pk).active_table


def killed(
    state: str,
    scene: Scene,
    server: EmbeddedValkey,
    valve: Valve,
    cloud: Valve,
    kill: Callable[[int], Any],
    var_dir: Path,
) -> tuple[Load, Table]:
    """Load once; begin a second load, kill what runs it while it is in a state; give that load and the old table."""
    held = cloud if state == LoadState.EXTRACTING else valve
    with worker(server, valve, cloud, var_dir) as process_id:
        scene.write(columns(range(300)))
        good = load_request(version=scene.version, actor=None)
        assert eventually(lambda: ended(good), seconds=60).state == LoadState.ACTIVE
        old = active_table(scene)
        assert old is not None

        scene.write(columns(range(ROWS)))
        HOLDS[state](held)
        load = load_request(version=scene.version, actor=None)
        eventually(lambda: held.is_holding, seconds=60)
        assert state_of(load) == state
        kill(process_id)
        held.cut()
    return load, old


def kill_child(process_id: int) -> None:
    (child,) = children(process_id)
    stop(child, signal.SIGKILL)
    eventually(lambda: [pid for pid in children(process_id) if pid != child] or None, seconds=30)


def kill_whole(process_id: int) -> None:
    everyone = [process_id, *children(process_id)]
    for pid in everyone:
        stop(pid, signal.SIGKILL)
    eventually(lambda: not any(is_running(pid) for pid in everyone) or None)


@pytest.mark.parametrize("state", HOLDS)
@pytest.mark.parametrize("kill", [kill_child, kill_whole], ids=["its child", "all of it"])
def test_worker__killed_at_work__the_old_table_goes_on_and_the_next_run_leaves_no_orphan(
    state: str,
    kill: Callable[[int], Any],
    studio_scene: Scene,
    server: EmbeddedValkey,
    valve: Valve,
    cloud: Valve,
    client: redis.Redis,
    tmp_path: Path,
) -> None:
    scene = studio_scene
    load, old = killed(state, scene, server, valve, cloud, kill, tmp_path)

    # None of a table is in Redis, half of it or all, and nothing of it shows.
    assert state_of(load) == state
    assert active_table(scene) == old
    assert answer(client, scene, old, "p7") == {k: v for k, v in row(7).items() if k != "player_id"}
    half = Table.objects.unscoped().filter(load=load).first()
    if half is None:
        assert state in BEFORE_WRITING
        assert all_blocks(client) == blocks_of(client, old.table_id)
    else:
        is_whole = state == LoadState.VERIFYING
        assert 0 < blocks_of(client, half.table_id) < 2**half.block_bits + is_whole
        assert not is_whole or blocks_of(client, half.table_id) == 2**half.block_bits

    # Once it has been silent for long enough it is queued again, and a worker that lives runs it.
    upkeep.sweep(timezone.now() + STALE_AFTER, lambda _: None)
    assert list((tmp_path / "loads").iterdir()) == []
    with worker(server, valve, cloud, tmp_path):
        load_enqueue(load.pk)
        done = eventually(lambda: ended(load), seconds=60)
    assert (done.state, done.attempts, done.problem) == (LoadState.ACTIVE, 2, "")
    assert done.report["notes"][0].startswith("The worker that ran this load before was lost")
    table = active_table(scene)
    assert table == done.table
    assert table is not None
    assert half is None or table.table_id != half.table_id
    assert answer(client, scene, table, f"p{ROWS - 1}") is not None
    assert all_blocks(client) == blocks_of(client, old.table_id) + blocks_of(client, table.table_id)


def test_worker__killed_and_the_load_given_up__its_half_table_is_swept_away(
    studio_scene: Scene, server: EmbeddedValkey, valve: Valve, cloud: Valve, client: redis.Redis, tmp_path: Path
) -> None:
    scene = studio_scene
    load, old = killed(LoadState.WRITING, scene, server, valve, cloud, kill_whole, tmp_path)
    Load.objects.unscoped().filter(pk=load.pk).update(attempts=2)

    now = timezone.now() + STALE_AFTER
    upkeep.sweep(now, lambda _: None)
    with worker(server, valve, cloud, tmp_path):
        load_enqueue(load.pk)
        given_up = eventually(lambda: ended(load), seconds=60)
    assert given_up.state == LoadState.FAILED
    assert given_up.problem.startswith("The worker that ran this load was lost 2 times")

    upkeep.sweep(now + DROP_AFTER, lambda pk: upkeep.drop(pk, now + DROP_AFTER))
    assert active_table(scene) == old
    assert Table.objects.unscoped().get(load=load).state == TableState.DROPPED
    assert all_blocks(client) == blocks_of(client, old.table_id)


def test_worker__a_task_delivered_twice__runs_once(
    studio_scene: Scene, server: EmbeddedValkey, valve: Valve, cloud: Valve, client: redis.Redis, tmp_path: Path
) -> None:
    scene = studio_scene
    scene.write(columns(range(300)))
    with worker(server, valve, cloud, tmp_path):
        load = load_request(version=scene.version, actor=None)
        load_enqueue(load.pk)
        load_enqueue(load.pk)
        eventually(lambda: ended(load), seconds=60)
        last = load_request(version=scene.version, actor=None)
        assert eventually(lambda: ended(last), seconds=60).state == LoadState.ACTIVE
    assert Load.objects.unscoped().get(pk=load.pk).attempts == 1
    assert Table.objects.unscoped().filter(version=scene.version).count() == 2


def test_redis_is_full__of_a_table_that_does_not_fit__the_load_fails_and_the_next_one_loads(
    studio_scene: Scene, server: EmbeddedValkey, valve: Valve, cloud: Valve, client: redis.Redis, tmp_path: Path
) -> None:
    scene = studio_scene
    with worker(server, valve, cloud, tmp_path):
        scene.write(columns(range(300)))
        good = load_request(version=scene.version, actor=None)
        assert eventually(lambda: ended(good), seconds=60).state == LoadState.ACTIVE
        old = active_table(scene)
        assert old is not None

        client.config_set("maxmemory", int(client.info("memory")["used_memory"]) + 400_000)
        scene.write(columns(range(30_000)))
        large = load_request(version=scene.version, actor=None)
        failed = eventually(lambda: ended(large), seconds=60)
        words = "The table could not be written to Redis: its memory is full (maxmemory)."
        assert (failed.state, failed.problem) == (LoadState.FAILED, words)
        assert active_table(scene) == old
        eventually(lambda: all_blocks(client) == blocks_of(client, old.table_id))

        scene.write(columns(range(400)))
        small = load_request(version=scene.version, actor=None)
        assert eventually(lambda: ended(small), seconds=60).state == LoadState.ACTIVE


REFUSALS: dict[str, tuple[Callable[[redis.Redis], object], Callable[[redis.Redis], object]]] = {
    "its memory is full": (lambda it: it.config_set("maxmemory", 1), lambda it: it.config_set("maxmemory", 0)),
    "it is a replica": (lambda it: it.replicaof("127.0.0.1", "1"), lambda it: it.replicaof("NO", "ONE")),
}


@pytest.mark.parametrize(("refuse", "take_again"), REFUSALS.values(), ids=REFUSALS)
def test_broker__refuses_while_a_message_waits__the_worker_goes_on_and_the_load_is_found(
    refuse: Callable[[redis.Redis], object],
    take_again: Callable[[redis.Redis], object],
    studio_scene: Scene,
    server: EmbeddedValkey,
    valve: Valve,
    cloud: Valve,
    client: redis.Redis,
    tmp_path: Path,
) -> None:
    scene = studio_scene
    scene.write(columns(range(300)))
    log = tmp_path / "worker.log"
    with worker(server, valve, cloud, tmp_path) as process_id:
        os.kill(process_id, signal.SIGSTOP)
        waits = load_request(version=scene.version, actor=None)
        refuse(client)
        os.kill(process_id, signal.SIGCONT)
        eventually(lambda: "onnection to broker lost" in log.read_text(errors="replace"), seconds=60)
        assert is_running(process_id)
        take_again(client)

        def swept_and_ended() -> Load | None:
            upkeep.sweep(timezone.now() + upkeep.UNDERWAY_FOR, lambda _: None)
            return ended(waits)

        done = eventually(swept_and_ended, seconds=60)
    assert (done.state, done.attempts) == (LoadState.ACTIVE, 1)
    assert all_blocks(client) == blocks_of(client, done.table.table_id)
