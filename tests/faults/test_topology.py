"""The lane on a real cluster and behind real Sentinels, while slots move and servers end."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import redis
from django.conf import settings as project_settings
from redis.crc import key_slot

from models_registry import redis_clients
from models_registry.loading.tables import TableInRedis
from recsite.embedded import EmbeddedValkey
from serving.formats.keys import block_name
from serving.formats.snapshot import revisions_name, snapshot_name
from serving.redis.clients import Client, connect
from serving.redis.patches import FOLLOW_SECONDS
from tests.doors.processes import start_doors
from tests.doors.raw_http import RawConnection, request
from tests.doors.scene import PLAYERS, Scene, offer
from tests.doors.test_parity import wait_until_found
from tests.lane_process import LaneProcess, eventually, offer_at, start_lane
from tests.loading_scene import Scene as LoadingScene
from tests.loading_scene import answer, columns, row
from tests.redis_parts import (
    ClusterOfThree,
    Guard,
    Watched,
    ask,
    cluster_node,
    cluster_of_three,
    guarded_by_sentinel,
    guarded_cluster,
    is_master,
    tls_before,
    watched,
)

if TYPE_CHECKING:
    from pytest_django.fixtures import Settings

ELSEWHERE: dict[str, Any] = {
    "RECSITE_BROKER_URL": "redis://127.0.0.1:1/0",
    "RECSITE_CACHE_URL": "redis://127.0.0.1:1/0",
}
# After another server was promoted.
MOST_FALLBACK_SECONDS = 5.0


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[ClusterOfThree]:
    with cluster_of_three(tmp_path / "cluster") as running:
        yield running


@contextmanager
def client_of(url: str) -> Iterator[Client]:
    client = connect(url, timeout_seconds=5, connect_timeout_seconds=2)
    yield client
    client.close()


@contextmanager
def lane_on(url: str, folder: Path) -> Iterator[tuple[LaneProcess, Scene]]:
    """Start a lane without a cache, with tables and snapshots written through redis-py."""
    with client_of(url) as client:
        scene = Scene(client)
        scene.write_all()
        with start_lane(url, folder, "--block-cache-mb", "0", **ELSEWHERE) as lane:
            eventually(lambda: lane.offer(scene).header("recommendation-source") is None)
            yield lane, scene


class Load:
    """Players who ask without end; every answer is held against what the tables say.

    Attributes:
        seen: how often each kind of answer came: `right`, `fallback`, or a problem in words.
        last_fallback_at: `time.monotonic` of the last answer that was a fallback.
    """

    def __init__(self, port: int, scene: Scene) -> None:
        self.seen: Counter[str] = Counter()
        self.last_fallback_at = 0.0
        self._port = port
        self._scene = scene
        self._is_ending = threading.Event()
        self._threads = [threading.Thread(target=self._run, args=(first,)) for first in (0, 1)]

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_ending.set()
        for thread in self._threads:
            thread.join(30)

    def _run(self, first: int) -> None:
        number = first
        while not self._is_ending.is_set():
            number = (number + 2) % PLAYERS
            try:
                kind = self.ask(number)
            except Exception as error:  # noqa: BLE001  # the test looks at what was seen
                kind = f"{type(error).__name__}: {error}"
            self.seen[kind] += 1
            if kind == "fallback":
                self.last_fallback_at = time.monotonic()

    def ask(self, number: int) -> str:
        """Ask once; give what came."""
        response = offer_at(self._port, self._scene, number)
        if response.status != 200:
            return f"status {response.status}"
        source = response.header("recommendation-source")
        if source is not None:
            return source
        body: dict[str, Any] = json.loads(response.body)
        is_right = body["recommendation"] == offer("aurora", body["version"], number)
        return "right" if is_right else f"wrong: {body}"


def blocks(table_id: str) -> list[str]:
    return [block_name(project_settings.REDIS_PREFIX, table_id, number) for number in range(8)]


# --- Cluster --------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_cluster__a_load__writes_to_every_node_and_drops_from_every_node(
    cluster: ClusterOfThree, tmp_path: Path, settings: Settings
) -> None:
    settings.TABLES_REDIS_URL = cluster.url
    scene = LoadingScene(tmp_path)
    load = scene.load(columns(range(2_000)))
    assert load.state == "active", load.problem
    client = redis_clients.loading_client()
    assert answer(client, scene, load.table, "p7") == {k: v for k, v in row(7).items() if k != "player_id"}
    names = [block_name(settings.REDIS_PREFIX, load.table.table_id, n) for n in range(1 << load.table.block_bits)]
    assert len({key_slot(name.encode()) * 3 // 16_384 for name in names}) == 3
    assert sum(bool(client.exists(name)) for name in names) == len(names)
    TableInRedis.of(load.table).drop()
    assert not any(client.exists(name) for name in names)


@pytest.mark.django_db(transaction=True)
@pytest.mark.parametrize("run", [guarded_cluster, guarded_by_sentinel])
def test_load__with_tls_and_passwords__is_written_and_read_back(
    run: Callable[[Path, Guard], AbstractContextManager[str]], tmp_path: Path, settings: Settings
) -> None:
    with run(tmp_path / "guarded", Guard.make(tmp_path)) as url:
        settings.TABLES_REDIS_URL = url
        scene = LoadingScene(tmp_path)
        load = scene.load(columns(range(500)))
        assert load.state == "active", load.problem
        found = answer(redis_clients.loading_client(), scene, load.table, "p7")
        assert found == {k: v for k, v in row(7).items() if k != "player_id"}


def test_cluster__slots_move_under_load__no_wrong_answer_and_no_fallback(
    cluster: ClusterOfThree, tmp_path: Path
) -> None:
    with lane_on(cluster.url, tmp_path) as (lane, scene), Load(lane.port, scene) as load:
        moved = 0
        for name in [*blocks("tab-a"), *blocks("tab-b")]:
            slot = key_slot(name.encode())
            source = next(node for node in cluster.masters if ask(node, "CLUSTER", "COUNTKEYSINSLOT", slot))
            target = cluster.masters[(cluster.masters.index(source) + 1) % 3]
            # A while without, a while with the key on the other side.
            moved += cluster.move_slot(slot, source, target, pause=lambda: time.sleep(0.15))
        time.sleep(0.5)
    assert moved >= 16
    assert set(load.seen) == {"right"}, load.seen
    assert load.seen["right"] > 200


def test_cluster__slots_move_to_a_node_that_owned_none__both_doors_and_clients_go_on(
    cluster: ClusterOfThree, tmp_path: Path
) -> None:
    names = [*blocks("tab-a")[:2], *blocks("tab-b")[:2], revisions_name(project_settings.REDIS_PREFIX)]
    with client_of(cluster.url) as client, cluster_node(tmp_path / "fourth") as fourth:
        scene = Scene(client)
        scene.write_all()
        cluster.join(fourth)
        with start_doors(cluster.url, tmp_path, deadline_ms=200, variables=ELSEWHERE) as doors:
            wait_until_found(doors, scene)
            loads = [Load(port, scene) for port in (doors.lane_port, doors.drf_port)]
            with loads[0], loads[1]:
                for name in names:
                    slot = key_slot(name.encode())
                    source = next(node for node in cluster.masters if ask(node, "CLUSTER", "COUNTKEYSINSLOT", slot))

                    def use_client(key: str = name) -> None:
                        assert client.exists(key) == 1
                        pipeline: Any = client.pipeline(transaction=False)
                        assert pipeline.exists(key).execute() == [1]
                        time.sleep(0.3)

                    assert cluster.move_slot(slot, source, fourth, pause=use_client) >= 1
            assert [set(load.seen) for load in loads] == [{"right"}] * 2
            assert "watch_failed" not in (tmp_path / "lane.log").read_text()


def test_cluster__every_node_at_another_address__a_client_finds_them_by_its_url(tmp_path: Path) -> None:
    """The addresses of the URL lead to the nodes for ever, as a managed cluster's do."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(cluster_node(tmp_path / f"node{number}")) for number in range(3)]
        cluster = ClusterOfThree(nodes, [])
        relays = stack.enter_context(ExitStack())
        announce(nodes, relays, tmp_path)
        cluster.start()
        with client_of(cluster.url) as client:
            client.set("known", 1)
            relays.close()
            for node in nodes:
                ask(node, "CLIENT", "KILL", "TYPE", "normal")
            with pytest.raises(redis.ConnectionError):
                client.set("known", 2)
            announce(nodes, relays, tmp_path)
            eventually(lambda: is_set(client), seconds=10)


def announce(nodes: list[EmbeddedValkey], relays: ExitStack, folder: Path) -> None:
    """Have nodes tell clients the addresses of new relays in place of their own."""
    guard = Guard.make(folder)
    for node in nodes:
        port = relays.enter_context(tls_before(node.port, guard.certificate, guard.key))
        ask(node, "CONFIG", "SET", "cluster-announce-port", port)


def is_set(client: Client) -> bool:
    try:
        return bool(client.set("known", 3))
    except redis.RedisError:
        return False


def test_cluster__one_shard_is_gone__a_new_lane_starts_and_both_doors_serve_the_others(
    tmp_path: Path,
) -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(cluster_node(tmp_path / f"node{number}")) for number in range(3)]
        cluster = ClusterOfThree(nodes, [])
        cluster.start()
        client = stack.enter_context(client_of(cluster.url))
        scene = Scene(client)
        scene.write_all()
        prefix = project_settings.REDIS_PREFIX
        needed = [revisions_name(prefix), snapshot_name(prefix, "t-aurora")]
        needing = {key_slot(name.encode()) for name in needed}
        gone = next(n for n in nodes if not any(ask(n, "CLUSTER", "COUNTKEYSINSLOT", slot) for slot in needing))
        kill(gone)
        with start_doors(cluster.url, tmp_path, deadline_ms=200, wait_ready=False, variables=ELSEWHERE) as doors:
            loads = [Load(port, scene) for port in (doors.lane_port, doors.drf_port)]
            eventually(lambda: loads[0].ask(1) in ("right", "fallback"))
            kinds = [[load.ask(number) for number in range(PLAYERS)] for load in loads]
            assert set(kinds[0]) == {"right", "fallback"}
            assert kinds[0] == kinds[1]
            # What is on that shard, they cannot know: a balancer keeps those that knew it before.
            for port in (doors.lane_port, doors.drf_port):
                with RawConnection(port) as door:
                    assert door.ask(request("GET", "/readyz")).status == 503


def test_cluster__one_slot_is_nobodys__both_doors_serve_the_others_and_it_again_once_it_is_owned(
    tmp_path: Path,
) -> None:
    slot = key_slot(blocks("tab-a")[0].encode())
    with ExitStack() as stack:
        nodes = [stack.enter_context(cluster_node(tmp_path / f"node{number}")) for number in range(3)]
        cluster = ClusterOfThree(nodes, [])
        cluster.start()
        scene = Scene(stack.enter_context(client_of(cluster.url)))
        scene.write_all()
        owner = next(node for node in nodes if ask(node, "CLUSTER", "COUNTKEYSINSLOT", slot))
        for node in nodes:
            ask(node, "CLUSTER", "DELSLOTS", slot)
        with start_doors(cluster.url, tmp_path, deadline_ms=200, variables=ELSEWHERE) as doors:
            loads = [Load(port, scene) for port in (doors.lane_port, doors.drf_port)]
            eventually(lambda: loads[0].ask(1) in ("right", "fallback"))
            kinds = [[load.ask(number) for number in range(PLAYERS)] for load in loads]
            assert set(kinds[0]) == {"right", "fallback"}
            assert kinds[0] == kinds[1]
            ask(owner, "CLUSTER", "ADDSLOTS", slot)
            eventually(lambda: {load.ask(number) for load in loads for number in range(PLAYERS)} == {"right"})


def test_cluster__asked_to_fail_over__answers_from_the_promoted_replica(
    cluster: ClusterOfThree, tmp_path: Path
) -> None:
    with lane_on(cluster.url, tmp_path) as (lane, scene), Load(lane.port, scene) as load:
        ask(cluster.replicas[1], "CLUSTER", "FAILOVER")
        promoted_at = promoted(cluster.replicas[1])
        time.sleep(3)
        right = load.seen["right"]
        eventually(lambda: load.seen["right"] > right + 50)
    assert set(load.seen) <= {"right", "fallback"}, load.seen
    assert load.last_fallback_at - promoted_at <= MOST_FALLBACK_SECONDS


def test_cluster__a_master_is_killed__falls_back_until_its_replica_is_promoted(
    cluster: ClusterOfThree, tmp_path: Path
) -> None:
    held = {key_slot(name.encode()) for name in [*blocks("tab-a"), *blocks("tab-b")]}
    with lane_on(cluster.url, tmp_path) as (lane, scene), Load(lane.port, scene) as load:
        index = next(
            n for n, node in enumerate(cluster.masters) if any(ask(node, "CLUSTER", "COUNTKEYSINSLOT", s) for s in held)
        )
        victim, heir = cluster.masters[index], cluster.replicas[index]
        kill(victim)
        eventually(lambda: load.seen["fallback"])
        promoted_at = promoted(heir)
        time.sleep(MOST_FALLBACK_SECONDS)
        right = load.seen["right"]
        eventually(lambda: load.seen["right"] > right + 50)
        eventually(lambda: lane.metrics()["recsite_redis_connected"] == 1)
    assert set(load.seen) == {"right", "fallback"}, load.seen
    assert load.last_fallback_at - promoted_at <= MOST_FALLBACK_SECONDS


# --- Sentinel -------------------------------------------------------------------------------------------------------


@pytest.fixture
def sentinels(tmp_path: Path) -> Iterator[Watched]:
    with watched(tmp_path / "watched") as running:
        yield running


def test_sentinel__the_master_is_killed__goes_on_with_the_promoted_one(sentinels: Watched, tmp_path: Path) -> None:
    with lane_on(sentinels.url, tmp_path) as (lane, scene), Load(lane.port, scene) as load:
        kill(sentinels.master)
        eventually(lambda: load.seen["fallback"])
        promoted_at = promoted(sentinels.replica)
        time.sleep(MOST_FALLBACK_SECONDS)
        right = load.seen["right"]
        eventually(lambda: load.seen["right"] > right + 50)
        # What is published from now on arrives as well.
        scene.revision += 1_000_000
        eventually(lambda: published(scene))
    assert set(load.seen) == {"right", "fallback"}, load.seen
    assert load.last_fallback_at - promoted_at <= MOST_FALLBACK_SECONDS


def test_sentinel__names_another_master_while_the_old_one_lives__clients_leave_it(sentinels: Watched) -> None:
    with client_of(sentinels.url) as client:
        client.set("before", 1)
        sentinels.name_the_replica()
        time.sleep(FOLLOW_SECONDS)
        client.set("after", 1)
        pipeline: Any = client.pipeline(transaction=False)
        pipeline.set("after too", 1).execute()
    assert [ask(sentinels.replica, "EXISTS", name) for name in ("before", "after", "after too")] == [1, 1, 1]
    assert ask(sentinels.master, "EXISTS", "after") == 0


def published(scene: Scene) -> bool:
    scene.publish()
    return True


def kill(server: EmbeddedValkey) -> None:
    assert server.process is not None
    server.process.kill()
    server.process.wait()


def promoted(server: EmbeddedValkey) -> float:
    eventually(lambda: is_master(server), seconds=20)
    return time.monotonic()
