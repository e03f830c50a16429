"""The watch over snapshots against a real Valkey."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import redis

from recsite.embedded import EmbeddedValkey
from serving.formats.keys import lost_tables_name
from serving.formats.snapshot import (
    Listed,
    Roster,
    announcements_name,
    content_digest,
    revisions_name,
    roster_name,
    sign_roster,
    snapshot_name,
)
from serving.metrics import Numbers
from serving.redis.clients import connect
from serving.reporting import Reporter, processes_name
from serving.sharing import LimitSharing
from serving.snapshots import SnapshotKeeper, SnapshotWatch
from serving.world import World
from tests.serving_world import AUDIENCE, MASTER_KEYS, NOW, PREFIX, SIGNING_KEY, TRUSTED, credential, envelope, tenant

# So long that only an announcement can be why something is seen before it.
NEVER_SECONDS = 60.0


class Watched:
    """A world, and the watch that keeps it current; started when a test says so."""

    def __init__(self, url: str, directory: Path, *, poll_seconds: float = 0.1) -> None:
        self.world = World(MASTER_KEYS, AUDIENCE)
        self.numbers = Numbers()
        client = connect(url, timeout_seconds=0.3, connect_timeout_seconds=0.3)
        self.keeper = SnapshotKeeper(self.world, TRUSTED, directory, self.numbers)
        reporter = Reporter("lane", client, PREFIX, self.world, self.numbers)
        sharing = LimitSharing(reporter.process, client, PREFIX, self.world, siblings=1)
        self.watch = SnapshotWatch(self.keeper, reporter, sharing, client, PREFIX, poll_seconds)

    def revisions(self) -> dict[str, int]:
        return {known.id: known.revision for known in tuple(self.world.tenants.values())}

    def until(self, check: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 15
        while not check():
            assert time.monotonic() < deadline, self.revisions()
            time.sleep(0.01)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    valkey = EmbeddedValkey(tmp_path / "valkey", options=("--save", "", "--appendonly", "no")).start()
    yield valkey
    valkey.stop()


@pytest.fixture
def client(server: EmbeddedValkey) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(server.url) as connection:
        yield connection


@pytest.fixture
def watched(server: EmbeddedValkey, tmp_path: Path) -> Iterator[Watched]:
    made = Watched(server.url, tmp_path / "state")
    yield made
    made.watch.end()


def publish(client: redis.Redis, revision: int, tenant_id: str = "t1", *, is_announced: bool = False) -> None:
    content = tenant(tenant_id=tenant_id, credentials=(credential(f"cr_{tenant_id}"),))
    client.set(snapshot_name(PREFIX, tenant_id), envelope(content, revision))
    client.hset(revisions_name(PREFIX), tenant_id, str(revision))
    if is_announced:
        client.publish(announcements_name(PREFIX), tenant_id)


def test_poll__brings_every_tenant(watched: Watched, client: redis.Redis) -> None:
    for number in range(100):
        publish(client, 7, f"t{number}")
    assert watched.watch.poll()
    assert watched.revisions() == {f"t{number}": 7 for number in range(100)}


def test_poll__fetches_only_what_is_new(watched: Watched, client: redis.Redis) -> None:
    for tenant_id in ("t1", "t2", "t3"):
        publish(client, 7, tenant_id)
    watched.watch.poll()
    publish(client, 8, "t2")
    before = client.info("commandstats")["cmdstat_get"]["calls"]
    watched.watch.poll()
    assert client.info("commandstats")["cmdstat_get"]["calls"] - before == 1
    assert watched.revisions() == {"t1": 7, "t2": 8, "t3": 7}


def test_poll__once_all_are_known__reads_the_roster_every_minute_and_nothing_else(
    watched: Watched, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(client, 7)
    watched.watch.poll()
    [key_id] = TRUSTED
    raw: Any = client.get(snapshot_name(PREFIX, "t1"))
    at = NOW + 1000
    monkeypatch.setattr("serving.snapshots.time.time", lambda: float(at))
    listed = Listed("t1", 7, content_digest(raw))
    client.set(roster_name(PREFIX), sign_roster(Roster(at, (listed,)), key_id, SIGNING_KEY))
    before = client.info("commandstats")["cmdstat_get"]["calls"]
    for _ in range(5):
        watched.watch.poll()
    assert client.info("commandstats")["cmdstat_get"]["calls"] == before
    monkeypatch.setattr(watched.watch, "_roster_read_at", time.monotonic() - 61)
    watched.watch.poll()
    watched.watch.poll()
    assert client.info("commandstats")["cmdstat_get"]["calls"] == before + 1
    assert watched.world.tenants["t1"].issued_at == at


def test_poll__map_without_the_snapshot__asks_again(watched: Watched, client: redis.Redis) -> None:
    client.hset(revisions_name(PREFIX), "t1", "7")
    assert watched.watch.poll()
    assert watched.revisions() == {}
    publish(client, 7)
    watched.watch.poll()
    assert watched.revisions() == {"t1": 7}


def test_poll__keys_of_another_type__no_worse_than_redis_away(watched: Watched, client: redis.Redis) -> None:
    publish(client, 7)
    watched.watch.poll()
    client.set(revisions_name(PREFIX), "not a hash")
    assert not watched.watch.poll()
    client.delete(revisions_name(PREFIX), snapshot_name(PREFIX, "t1"))
    client.hset(revisions_name(PREFIX), "t1", "8")
    client.rpush(snapshot_name(PREFIX, "t1"), "not a string")
    assert not watched.watch.poll()
    assert watched.revisions() == {"t1": 7}


def test_thread__sees_what_is_published_unannounced(watched: Watched, client: redis.Redis) -> None:
    watched.watch.start()
    for revision in range(1, 4):
        publish(client, revision)
        watched.until(lambda revision=revision: watched.revisions() == {"t1": revision})  # type: ignore[misc]  # mypy cannot type a lambda's defaults


def test_thread__sees_what_is_announced_at_once(server: EmbeddedValkey, client: redis.Redis, tmp_path: Path) -> None:
    watched = Watched(server.url, tmp_path / "state", poll_seconds=NEVER_SECONDS)
    watched.watch.start()
    watched.until(lambda: bool(client.pubsub_numsub(announcements_name(PREFIX))[0][1]))
    for revision in range(1, 6):
        publish(client, revision, is_announced=True)
        watched.until(lambda revision=revision: watched.revisions() == {"t1": revision})  # type: ignore[misc]  # as above
    watched.watch.end()
    assert not watched.watch.is_alive()


def test_thread__redis_restarts_and_hangs__goes_on_and_forgets_nothing(
    watched: Watched, server: EmbeddedValkey, client: redis.Redis
) -> None:
    publish(client, 1)
    watched.watch.start()
    watched.until(lambda: watched.revisions() == {"t1": 1})
    server.stop()
    watched.until(lambda: watched.watch.poll_age_seconds() > 0.5)
    assert watched.revisions() == {"t1": 1}
    server.start()
    publish(client, 2, "t2")
    watched.until(lambda: watched.revisions() == {"t1": 1, "t2": 2})
    server.pause()
    watched.until(lambda: watched.watch.poll_age_seconds() > 0.5)
    server.resume()
    publish(client, 3)
    watched.until(lambda: watched.revisions() == {"t1": 3, "t2": 2})


def test_thread__a_defect_in_it__does_not_end_it(
    watched: Watched, client: redis.Redis, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(watched, "keeper", SimpleNamespace())
        patched.setattr(watched.watch, "_keeper", SimpleNamespace())
        watched.watch.start()
        watched.until(lambda: "snapshot.watch_failed" in caplog.text)
    publish(client, 1)
    watched.until(lambda: watched.revisions() == {"t1": 1})


def test_lost_tables__reported_in_one_set(watched: Watched, client: redis.Redis) -> None:
    watched.watch.start()
    watched.watch.report_lost(["table1", "table2"])
    watched.watch.report_lost(["table1"] * 100)
    watched.until(lambda: client.smembers(lost_tables_name(PREFIX)) == {b"table1", b"table2"})


def test_lost_tables__never_more_than_a_bounded_number_wait(watched: Watched) -> None:
    for number in range(5000):
        watched.watch.report_lost([f"t{number}"])
    assert len(watched.watch._lost) <= 1000


def test_processes__are_reported(watched: Watched, client: redis.Redis) -> None:
    watched.watch.start()
    watched.until(lambda: client.hlen(processes_name(PREFIX)) == 1)
