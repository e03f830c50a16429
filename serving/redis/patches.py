"""What is done otherwise than in redis-py, all of it here; each with what redis-py does and why that will not do.

`tests/contract/test_redis_patches.py` has a test for each that fails once redis-py needs it no more. Numbers with a #
are of issues and changes at https://github.com/redis/redis-py.

1. A cluster's client asks the nodes where everything is when it is made (`RedisCluster.__init__` calls
   `NodesManager.initialize`) and raises an error while they are away. A process must start then all the same, so here
   it asks when it is first used: `Cluster` is made without redis-py's `__init__`, which is called later. (#3311, open.)
2. That no node can be reached, or none has a slot, is a `RedisClusterException` there, which is no `RedisError`; also
   from a pipeline's `execute`. Whoever uses any kind of Redis expects `redis.ConnectionError`, and here gets it. (No
   issue was found that says so, as of redis-py 8.1.)
3. Once it has a topology it begins each later search with the nodes of that (`startup_nodes` are replaced). When all
   of them are gone, as where a managed cluster is replaced by another behind the same name, it never finds the new
   ones. Here the addresses of the URL are added again after each failure. (`dynamic_startup_nodes=False` would ask
   those of the URL alone, which may be gone while the others live. #2472 and #3604 are of this kind.)
4. Where a slot on its way says that a key is (ASK), it looks up among nodes that own a slot (`NodesManager.get_node`);
   for one that is just being filled it gets None and fails. Here such a node is found by the address that was told.
   (#4015; #4214, open, would mend it.)
5. The Sentinels are asked for the master only when a connection is made (`SentinelManagedConnection.connect_to`). A
   master that was replaced may live on, cut off from the Sentinels alone, and then takes what others never see. Here
   they are asked once a second, and connections to another server than the one they name are let go. (#435, closed
   for the case in which the old master says that it is one no more; #3874, open, is its like.)
6. A slot that nobody owned when the nodes were asked is nobody's for ever: a command for it fails before it is sent
   (`NodesManager.get_node_from_slot`), and only a node's answer makes the client ask again. Here the nodes are asked
   again, at most once a second. (#3620, closed by #3621; the test shows where it still is so.)
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException, SlotNotCoveredError
from redis.sentinel import SentinelConnectionPool

# How often the Sentinels are asked whether the master is another one, and a cluster's nodes for a slot's new owner.
FOLLOW_SECONDS = 1.0


class Cluster(RedisCluster):
    """redis-py's client of a cluster of which some hosts are known, with what is said above under 1 to 4 and 6."""

    def __init__(self, hosts: tuple[tuple[str, int], ...], **options: Any) -> None:
        # redis-py's own comes later, in `_make` (1).
        self._hosts = hosts
        self._options = options
        self._is_made = False
        self._looked_at = 0.0
        # Making it sends commands, which come by here again.
        self._making = threading.RLock()
        self._is_being_made = False

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command to the node that it is for, and return its reply."""
        with self._used():
            return self._typed.execute_command(*args, **options)

    def pipeline(self, transaction: bool | None = None, shard_hint: Any = None) -> Any:  # noqa: FBT001  # redis-py's
        """Return a pipeline, without a transaction: that would need all keys in one slot."""
        if transaction:
            raise ValueError("a cluster has no transactions over several keys")
        with self._used():
            pipeline: Any = self._typed.pipeline(None, shard_hint)
        execute: Callable[..., Any] = pipeline.execute

        def translated(*arguments: Any, **keywords: Any) -> Any:
            with self._used():
                return execute(*arguments, **keywords)

        pipeline.execute = translated  # (2), for the commands are sent by it
        return pipeline

    def pubsub(self, *arguments: Any, **options: Any) -> Any:
        """Return what listens to channels, at one node."""
        with self._used():
            return self._typed.pubsub(*arguments, **options)

    def ping(self, **_: Any) -> bool:
        """Ask every node that can be written to; a replica that is away holds nothing up."""
        return bool(super().ping(target_nodes=self.PRIMARIES))

    def holder_of(self, key: str) -> str:
        """Return the name of the node that holds a key's slot, as far as is known; "" where none does.

        Raises:
            redis.ConnectionError: the cluster is away.
        """
        with self._used():
            try:
                return str(self._typed.get_node_from_key(key).name)
            except SlotNotCoveredError:
                return ""

    def close(self) -> None:
        """Close the connections to all nodes."""
        if self._is_made:
            super().close()

    @property
    def _typed(self) -> Any:
        """redis-py's own methods, whose types are missing."""
        return super()

    @contextmanager
    def _used(self) -> Iterator[None]:
        try:
            if not self._is_made:
                with self._making:
                    self._make()
            yield
        except RedisClusterException as error:
            if self._is_made:
                if isinstance(error, SlotNotCoveredError):
                    self._look_again()
                nodes = self.nodes_manager  # (3)
                nodes.startup_nodes = {**{node.name: node for node in self._first_nodes()}, **nodes.startup_nodes}
            raise redis.ConnectionError(str(error)) from error  # (2)

    def _make(self) -> None:
        if self._is_made or self._is_being_made:
            return
        self._is_being_made = True
        try:
            super().__init__(startup_nodes=self._first_nodes(), **self._options)
            _find_guests(self.nodes_manager)
            self._is_made = True
        finally:
            self._is_being_made = False

    def _look_again(self) -> None:
        """Ask the nodes who owns which slot by now (6); that they are away changes nothing."""
        now = time.monotonic()
        if now - self._looked_at >= FOLLOW_SECONDS:
            self._looked_at = now
            with suppress(RedisClusterException, redis.RedisError, OSError):
                self.nodes_manager.initialize()

    def _first_nodes(self) -> list[ClusterNode]:
        return [ClusterNode(host, port) for host, port in self._hosts]


def _find_guests(manager: Any) -> None:
    """Have a client's map of nodes find those too that own no slot (4)."""
    known: Callable[..., Any] = manager.get_node
    guests: dict[str, ClusterNode] = {}

    def get_node(host: str | None = None, port: int | None = None, node_name: str | None = None) -> Any:
        node = known(host, port, node_name)
        if node is None and node_name:
            asked, _, number = node_name.rpartition(":")
            guest = ClusterNode(asked, int(number))
            node = known(node_name=guest.name) or guests.setdefault(guest.name, guest)
        return node

    manager.get_node = get_node


class OfMaster(redis.Redis):
    """redis-py's client of the master that the Sentinels name, who are asked once a second while it is used (5)."""

    _followed_at = 0.0

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """Send one command to whoever is the master now, and return its reply."""
        self._follow()
        client: Any = super()  # whose types are missing
        return client.execute_command(*args, **options)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:  # noqa: FBT001, FBT002  # redis-py's
        """Return a pipeline of commands for whoever is the master now."""
        self._follow()
        return super().pipeline(transaction, shard_hint)

    def _follow(self) -> None:
        """Let go of connections to a master that is none any more; Sentinels that are away change nothing."""
        now = time.monotonic()
        if now - self._followed_at >= FOLLOW_SECONDS:
            self._followed_at = now
            pool = self.connection_pool
            if isinstance(pool, SentinelConnectionPool):
                with suppress(redis.RedisError, OSError):
                    pool.get_master_address()
