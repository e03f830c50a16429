"""What `serving.redis.patches` does otherwise than redis-py: that redis-py still needs it, and that it helps.

A test whose name begins with `test_redis_py` fails once redis-py does right by itself; its patch can go then.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.crc import key_slot
from redis.exceptions import RedisClusterException
from redis.retry import Retry
from redis.sentinel import Sentinel

from recsite.embedded import EmbeddedValkey, free_port
from serving.redis import patches
from serving.redis.clients import by_holder, connect
from serving.redis.patches import Cluster, OfMaster
from tests.lane_process import eventually
from tests.redis_parts import ask, cluster_node, cluster_port, identity

OPTIONS: dict[str, Any] = {"socket_timeout": 2, "socket_connect_timeout": 2, "retry": Retry(NoBackoff(), 0)}
IN_PARTS: dict[str, Any] = {**OPTIONS, "require_full_coverage": False}
KEY = "key"
SLOT = key_slot(KEY.encode())
Hosts = tuple[tuple[str, int], ...]


def redis_py(hosts: Hosts) -> Any:
    """Return redis-py's own client of a cluster."""
    return RedisCluster(startup_nodes=[ClusterNode(host, port) for host, port in hosts], **IN_PARTS)


def patched(hosts: Hosts) -> Any:
    return Cluster(hosts, **IN_PARTS)


@pytest.fixture
def nobody() -> Hosts:
    return (("127.0.0.1", free_port()),)


@pytest.fixture(scope="module")
def node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """Run a cluster of one node, which owns every slot but the last."""
    with cluster_node(tmp_path_factory.mktemp("cluster") / "node") as running:
        ask(running, "CLUSTER", "ADDSLOTSRANGE", 0, 16_382)
        eventually(lambda: b"cluster_state:ok" in ask(running, "CLUSTER", "INFO"))
        yield running


@pytest.fixture(scope="module")
def guest(node: EmbeddedValkey, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """Run a node of that cluster which owns no slot; that of KEY is on its way to it."""
    with cluster_node(tmp_path_factory.mktemp("cluster") / "guest") as running:
        ask(node, "CLUSTER", "MEET", "127.0.0.1", running.port, cluster_port(running))
        eventually(lambda: knows(node, running) and knows(running, node))
        eventually(lambda: b"cluster_state:ok" in ask(running, "CLUSTER", "INFO"))
        ask(running, "CLUSTER", "SETSLOT", SLOT, "IMPORTING", identity(node))
        ask(node, "CLUSTER", "SETSLOT", SLOT, "MIGRATING", identity(running))
        yield running


def knows(node: EmbeddedValkey, other: EmbeddedValkey) -> bool:
    return identity(other) in str(ask(node, "CLUSTER", "NODES"))


def uncovered() -> str:
    """Return a key of the slot that nobody owns."""
    return next(name for name in map(str, range(1_000_000)) if key_slot(name.encode()) == 16_383)


# --- 1, 2: a cluster that is away ------------------------------------------------------------------------------------


def test_redis_py__made_while_the_nodes_are_away__an_error_that_is_no_redis_error(nobody: Hosts) -> None:
    with pytest.raises(RedisClusterException) as raised:
        redis_py(nobody)
    assert not isinstance(raised.value, redis.RedisError)


def test_cluster__made_while_the_nodes_are_away__a_connection_error_when_used(nobody: Hosts) -> None:
    client = patched(nobody)
    with pytest.raises(redis.ConnectionError):
        client.get(KEY)
    with pytest.raises(redis.ConnectionError):
        client.pipeline()
    with pytest.raises(redis.ConnectionError):
        client.pubsub()
    client.close()


def test_redis_py__pipeline_with_a_slot_that_nobody_owns__an_error_that_is_no_redis_error(
    node: EmbeddedValkey,
) -> None:
    client = redis_py((("127.0.0.1", node.port),))
    with pytest.raises(RedisClusterException) as raised:
        client.pipeline().get(uncovered()).execute()
    assert not isinstance(raised.value, redis.RedisError)
    client.close()


def test_cluster__pipeline_with_a_slot_that_nobody_owns__a_connection_error(node: EmbeddedValkey) -> None:
    client = patched((("127.0.0.1", node.port),))
    with pytest.raises(redis.ConnectionError):
        client.pipeline().get(uncovered()).execute()
    assert client.pipeline().get("another").execute() == [None]
    client.close()


def test_connect__a_slot_that_nobody_owns__the_others_are_served(node: EmbeddedValkey) -> None:
    client = connect(f"redis+cluster://127.0.0.1:{node.port}", timeout_seconds=2, connect_timeout_seconds=2)
    assert client.get("another") is None
    assert [*by_holder(client, ["another", uncovered()])] == [f"127.0.0.1:{node.port}", ""]
    with pytest.raises(redis.ConnectionError):
        client.get(uncovered())
    client.close()


# --- 3: the addresses of the URL --------------------------------------------------------------------------------------


def test_redis_py__with_a_topology__forgets_the_addresses_it_was_given(node: EmbeddedValkey, nobody: Hosts) -> None:
    client = redis_py((*nobody, ("127.0.0.1", node.port)))
    assert [*client.nodes_manager.startup_nodes] == [f"127.0.0.1:{node.port}"]
    client.close()


def test_cluster__after_a_failure__knows_the_addresses_it_was_given_and_those_it_found(
    node: EmbeddedValkey, nobody: Hosts
) -> None:
    client = patched((*nobody, ("127.0.0.1", node.port)))
    with pytest.raises(redis.ConnectionError):
        client.get(uncovered())
    assert {*client.nodes_manager.startup_nodes} == {f"127.0.0.1:{port}" for port in (nobody[0][1], node.port)}
    client.close()


# --- 4: a node that owns nothing yet ----------------------------------------------------------------------------------


def test_redis_py__told_to_ask_a_node_without_slots__fails(node: EmbeddedValkey, guest: EmbeddedValkey) -> None:
    client = redis_py((("127.0.0.1", node.port),))
    assert client.get_node(node_name=f"127.0.0.1:{guest.port}") is None
    with pytest.raises(AttributeError):
        client.get(KEY)
    client.close()


def test_cluster__told_to_ask_a_node_without_slots__asks_it(node: EmbeddedValkey, guest: EmbeddedValkey) -> None:
    client = patched((("127.0.0.1", node.port),))
    client.set(KEY, "value")
    assert client.get(KEY) == b"value"
    assert int(ask(guest, "CLUSTER", "COUNTKEYSINSLOT", SLOT)) == 1
    assert int(ask(node, "CLUSTER", "COUNTKEYSINSLOT", SLOT)) == 0
    client.close()


# --- 5: a master that was replaced and lives on -----------------------------------------------------------------------


class Named(Sentinel):
    """Sentinels that name whom the test says."""

    port = 0

    def discover_master(self, service_name: str) -> tuple[str, int]:
        return "127.0.0.1", self.port


@pytest.fixture
def masters(tmp_path: Path) -> Iterator[list[EmbeddedValkey]]:
    servers = [EmbeddedValkey(tmp_path / name).start() for name in ("old", "new")]
    yield servers
    for server in servers:
        server.stop()


def who_is_asked_after_another_is_named(masters: list[EmbeddedValkey], kind: type[redis.Redis]) -> list[int]:
    """Return the port of the server that answers before another one is named, and twice a second after it was."""
    make: Any = Named  # whose types are missing
    manager = make([])
    manager.port = masters[0].port
    client: Any = manager.master_for("tables", redis_class=kind, **OPTIONS)
    asked = [int(client.config_get("port")["port"])]
    manager.port = masters[1].port
    time.sleep(patches.FOLLOW_SECONDS)
    asked.append(int(client.config_get("port")["port"]))
    ((answered),) = client.pipeline(transaction=False).config_get("port").execute()
    asked.append(int(answered["port"]))
    client.close()
    return asked


def test_redis_py__another_master_is_named__goes_on_with_the_old_one(masters: list[EmbeddedValkey]) -> None:
    asked = who_is_asked_after_another_is_named(masters, redis.Redis)
    assert asked == [masters[0].port] * 3


def test_of_master__another_master_is_named__follows_within_a_second(masters: list[EmbeddedValkey]) -> None:
    asked = who_is_asked_after_another_is_named(masters, OfMaster)
    assert asked == [masters[0].port, masters[1].port, masters[1].port]


# --- 6: a slot that gets an owner -------------------------------------------------------------------------------------


@pytest.fixture
def gap(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """Run a cluster of one node, which owns every slot but the last."""
    with cluster_node(tmp_path / "node") as running:
        ask(running, "CLUSTER", "ADDSLOTSRANGE", 0, 16_382)
        eventually(lambda: b"cluster_state:ok" in ask(running, "CLUSTER", "INFO"))
        yield running


def does_get(client: Any, key: str) -> bool:
    try:
        return bool(client.pipeline().get(key).execute() == [None])
    except (redis.RedisError, RedisClusterException):
        return False


def test_redis_py__slot_gets_an_owner__never_asks_it(gap: EmbeddedValkey) -> None:
    client = redis_py((("127.0.0.1", gap.port),))
    assert not does_get(client, uncovered())
    ask(gap, "CLUSTER", "ADDSLOTS", 16_383)
    time.sleep(2 * patches.FOLLOW_SECONDS)
    assert [does_get(client, uncovered()) for _ in range(3)] == [False] * 3
    with pytest.raises(RedisClusterException):
        client.get(uncovered())
    client.close()


def test_cluster__slot_gets_an_owner__asks_it_within_a_second(gap: EmbeddedValkey) -> None:
    client = patched((("127.0.0.1", gap.port),))
    assert not does_get(client, uncovered())
    ask(gap, "CLUSTER", "ADDSLOTS", 16_383)
    eventually(lambda: does_get(client, uncovered()), seconds=3 * patches.FOLLOW_SECONDS)
    client.close()
