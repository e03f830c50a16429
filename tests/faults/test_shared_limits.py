"""Limits that several real lane processes share over a real Valkey."""

from __future__ import annotations

import threading
import time
from bisect import bisect_left
from collections.abc import Callable
from pathlib import Path

import msgspec
import redis
from django.conf import settings

from recsite.embedded import EmbeddedValkey
from serving.limits import Bucket
from serving.redis.clients import Client, connect
from serving.sharing import LimitSharing, Said, demand_name
from serving.world import World
from tests.doors.raw_http import request
from tests.doors.scene import Scene, player
from tests.lane_process import LaneProcess, eventually, start_lane
from tests.serving_world import AUDIENCE, MASTER_KEYS, PREFIX, credential, snapshot, tenant

LIMIT, BURST = 100, 50
FLOOD_SECONDS = 11.0
CONNECTIONS = 6


def processes_heard(client: Client) -> int:
    return int(client.hlen(demand_name(settings.REDIS_PREFIX)))


def publish_limits(scene: Scene) -> dict[str, bytes]:
    """Limit a credential of one tenant, and another tenant as a whole; give a request of each."""
    aurora, crowded = scene._aurora(), scene._crowded()
    limited = scene._credential("cr_shared", rate=LIMIT, burst=BURST)
    scene.put(msgspec.structs.replace(aurora, credentials=(*aurora.credentials, limited)))
    scene.put(msgspec.structs.replace(crowded, requests_per_second=LIMIT, burst=BURST))
    target = f"/v1/recommendations?model=offers&player_id={player(1)}"
    return {
        kind: request("GET", target, [("Authorization", f"Bearer {scene.token(credential_id)}")])
        for kind, credential_id in (("credential", "cr_shared"), ("tenant", "cr_crowded"))
    }


def flood(
    lane: LaneProcess, raw: dict[str, bytes], pause: Callable[[], float], until: float, accepted: dict[str, list[float]]
) -> None:
    """Ask on one connection, twice for each limit at a time, and note when each good answer came."""
    with lane.connect() as connection:
        while time.monotonic() < until:
            for kind, one in raw.items():
                connection.send(one * 2)
                for _ in range(2):
                    if connection.receive().status == 200:
                        accepted[kind].append(time.monotonic())
            time.sleep(pause())


def most_in(seconds: float, moments: list[float]) -> int:
    return max(bisect_left(moments, start + seconds) - index for index, start in enumerate(moments))


def test_flood_through_two_lanes_of_two_workers__the_limit_is_kept_and_used(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    raw = publish_limits(scene)
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    with (
        start_lane(server.url, tmp_path / "one", "--workers", "2") as one,
        start_lane(server.url, tmp_path / "two", "--workers", "2") as two,
    ):
        eventually(lambda: processes_heard(scene.client) == 4)
        time.sleep(1.5)  # each has heard of all the others
        began = time.monotonic()

        def often_then_seldom() -> float:
            return 0.04 if time.monotonic() < began + FLOOD_SECONDS / 2 else 0.25

        def seldom_then_often() -> float:
            return 0.29 - often_then_seldom()

        accepted: list[dict[str, list[float]]] = []
        threads = []
        for lane, pause in ((one, often_then_seldom), (two, seldom_then_often)):
            for _ in range(CONNECTIONS):
                accepted.append({kind: [] for kind in raw})
                arguments = (lane, raw, pause, began + FLOOD_SECONDS, accepted[-1])
                threads.append(threading.Thread(target=flood, args=arguments))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for kind in raw:
            moments = sorted(moment for each in accepted for moment in each[kind])
            assert len(moments) >= 0.8 * LIMIT * FLOOD_SECONDS, kind
            assert most_in(10, moments) <= 1.1 * LIMIT * 10 + BURST, kind
    # Both lanes have said good-bye, so that whoever starts next has the whole limits.
    assert processes_heard(scene.client) == 0


# --- One process's side of it ---------------------------------------------------------------------------------------


class Process:
    """A world with one limited credential, and its sharing; exchanges when told to."""

    def __init__(self, name: str, server: EmbeddedValkey, *, siblings: int = 1) -> None:
        self.world = World(MASTER_KEYS, AUDIENCE)
        self.client = connect(server.url, timeout_seconds=0.3, connect_timeout_seconds=0.3)
        self.sharing = LimitSharing(name, self.client, PREFIX, self.world, siblings=siblings)
        self.world.put(snapshot(tenant(credentials=(credential("cr_one", rate=100, burst=100),))))

    def bucket(self) -> Bucket:
        return self.world.buckets()["c:cr_one"]

    def exchange(self) -> None:
        self.sharing._measured_at -= 1.0
        self.sharing.exchange_if_due()

    def grants(self) -> int:
        """Return how many of a thousand requests a bucket left alone for long grants at once."""
        bucket, now = self.bucket(), self.bucket()._at + 1e6
        return sum(bucket.take(1, now) == 0.0 for _ in range(1000))


def test_alone__the_whole_limit_from_the_start(server: EmbeddedValkey) -> None:
    assert Process("a", server).grants() == 100
    asked = Process("b", server)
    asked.exchange()
    assert asked.grants() == 100


def test_siblings__each_a_part_before_redis_was_asked(server: EmbeddedValkey) -> None:
    assert Process("a", server, siblings=4).grants() == 25


def test_two_processes__halves_then_by_demand(server: EmbeddedValkey) -> None:
    one, two = Process("a", server), Process("b", server)
    for _ in range(3):
        one.exchange()
        two.exchange()
    assert (one.grants(), two.grants()) == (50, 50)
    for _ in range(12):
        one.grants()
        one.exchange()
        two.exchange()
    assert one.grants() == 97
    assert two.grants() == 2


def test_redis_away__shares_stay(server: EmbeddedValkey) -> None:
    one, two = Process("a", server), Process("b", server)
    for _ in range(3):
        one.exchange()
        two.exchange()
    server.stop()
    for process in (one, two):
        try:
            process.exchange()
        except redis.RedisError:
            assert process.grants() == 50
        else:
            raise AssertionError("a stopped server answered")


def test_process_gone__the_others_have_its_share(server: EmbeddedValkey) -> None:
    one, two = Process("a", server), Process("b", server)
    for _ in range(3):
        one.exchange()
        two.exchange()
    two.sharing.end()
    one.exchange()
    one.exchange()
    assert one.grants() == 100


def test_entry_that_no_longer_changes__counts_for_a_few_seconds_and_goes(server: EmbeddedValkey) -> None:
    one = Process("a", server)
    one.client.hset(demand_name(PREFIX), "killed", msgspec.msgpack.encode(Said(1, {})))
    one.exchange()
    one.exchange()
    assert one.grants() == 50
    number, since = one.sharing._heard["killed"]
    one.sharing._heard["killed"] = (number, since - 60)
    for _ in range(3):
        one.exchange()
    assert one.grants() == 100
    assert one.client.hkeys(demand_name(PREFIX)) == [b"a"]


def test_entry_nobody_understands__a_process_all_the_same(server: EmbeddedValkey) -> None:
    one = Process("a", server)
    one.client.hset(demand_name(PREFIX), "odd", "not msgpack")
    one.client.hset(
        demand_name(PREFIX),
        "boasting",
        msgspec.msgpack.encode(Said(1, {"c:cr_one": float("inf")})),
    )
    one.exchange()
    one.exchange()
    assert one.grants() == 33
