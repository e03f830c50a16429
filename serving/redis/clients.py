"""redis-py's clients for each kind of Redis that `serving.redis.url` knows."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Any

import redis
from django_redis.pool import ConnectionFactory
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException, SlotNotCoveredError
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from serving.redis.url import Place

Client = redis.Redis | RedisCluster
# How often the Sentinels are asked whether the master is another one, and how long each may take.
FOLLOW_SECONDS = 1.0
SENTINEL_SECONDS = 0.5


def connect(url: str, *, timeout_seconds: float, connect_timeout_seconds: float, check_seconds: float = 0) -> Client:
    """Return a client; it opens no connection before it is used.

    Every command is bounded in time and none is sent twice, but for a redirection of a cluster, which redis-py follows.

    Args:
        url: as above.
        timeout_seconds: for an answer.
        connect_timeout_seconds: for a connection.
        check_seconds: a connection idle for longer is asked whether it lives before it is used; 0 for never.

    Raises:
        ValueError: no such URL.
    """
    place = Place.parse(url)
    times: dict[str, Any] = {"socket_timeout": timeout_seconds, "socket_connect_timeout": connect_timeout_seconds}
    options = {**times, "health_check_interval": check_seconds, "retry": Retry(NoBackoff(), 0)}
    if place.kind == "one":
        return redis.Redis.from_url(url, **options)
    options |= place.server_keywords()
    if place.kind == "cluster":
        return Cluster(place.hosts, **options)
    sentinels: Any = Sentinel  # whose types are missing
    asking: dict[str, Any] = {name: min(seconds, SENTINEL_SECONDS) for name, seconds in times.items()}
    asking |= {**place.sentinel_keywords(), "retry": Retry(NoBackoff(), 0)}
    manager = sentinels(place.hosts, sentinel_kwargs=asking)
    client: redis.Redis = manager.master_for(place.service, redis_class=OfMaster, db=place.database, **options)
    return client


class OfMaster(redis.Redis):
    """redis-py's client of the master that the Sentinels name, who are asked once a second as long as it is used.

    redis-py asks them only when it connects. A master that was replaced may live on, cut off from the Sentinels alone,
    and then takes what others never see.
    """

    _followed_at = 0.0

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """See redis-py."""
        self._follow()
        client: Any = super()  # whose types are missing
        return client.execute_command(*args, **options)

    def pipeline(self, transaction: bool = True, shard_hint: Any = None) -> Any:  # noqa: FBT001, FBT002  # redis-py's
        """See redis-py."""
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


class Cluster(RedisCluster):
    """redis-py's client of a cluster, with four things done otherwise.

    It asks the nodes where everything is when it is first used, not when it is made: a process must start while they
    are away. That they are away is a `redis.ConnectionError`, as it is anywhere else. When all nodes it knows are gone
    it begins again with those of the URL, which redis-py forgets. And it follows a slot to a node that owns none yet.

    Args:
        hosts: some nodes.
        options: of each connection.
    """

    def __init__(self, hosts: tuple[tuple[str, int], ...], **options: Any) -> None:
        self._hosts = hosts
        self._options = options
        self._is_made = False
        # Making it sends commands, which come by here again.
        self._making = threading.RLock()
        self._is_being_made = False

    def execute_command(self, *args: Any, **options: Any) -> Any:
        """See redis-py."""
        with self._used():
            return self._typed.execute_command(*args, **options)

    def pipeline(self, transaction: bool | None = None, shard_hint: Any = None) -> Any:  # noqa: FBT001  # redis-py's
        """See redis-py; without a transaction, which would need all keys in one slot."""
        if transaction:
            raise ValueError("a cluster has no transactions over several keys")
        with self._used():
            pipeline: Any = self._typed.pipeline(None, shard_hint)
        execute: Callable[..., Any] = pipeline.execute

        def translated(*arguments: Any, **keywords: Any) -> Any:
            with self._used():
                return execute(*arguments, **keywords)

        pipeline.execute = translated
        return pipeline

    def pubsub(self, *arguments: Any, **options: Any) -> Any:
        """See redis-py."""
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
        """See redis-py."""
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
                nodes = self.nodes_manager
                nodes.startup_nodes = {**{node.name: node for node in self._first_nodes()}, **nodes.startup_nodes}
            raise redis.ConnectionError(str(error)) from error

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

    def _first_nodes(self) -> list[ClusterNode]:
        return [ClusterNode(host, port) for host, port in self._hosts]


def by_holder(client: Client, keys: Iterable[str]) -> dict[str, list[str]]:
    """Return keys by the server that holds them, in their order: what one pipeline can ask, or lose, at once.

    Raises:
        redis.ConnectionError: the cluster is away.
    """
    if not isinstance(client, Cluster):
        return {"": [*keys]}
    held: dict[str, list[str]] = {}
    for key in keys:
        held.setdefault(client.holder_of(key), []).append(key)
    return held


def _find_guests(manager: Any) -> None:
    """Have a client's map of nodes find those too that own no slot.

    redis-py looks up by its address where a slot on its way says that a key is (ASK). It knows the nodes that own a
    slot, by numeric address; a node that is just being filled it would take for None.
    """
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


class TablesConnectionFactory(ConnectionFactory):  # type: ignore[misc]  # untyped for mypy
    """django-redis' way to a connection, for every kind of Redis: the others as `connect` has it."""

    def connect(self, url: str) -> Any:
        """Return a client; of Sentinel and of a cluster there is one in a process, used by all of its threads."""
        if Place.parse(url).kind == "one":
            return super().connect(url)
        return _shared(url, self.options["SOCKET_TIMEOUT"], self.options["SOCKET_CONNECT_TIMEOUT"])

    def disconnect(self, connection: Any) -> None:
        """Close what this process no longer needs; what others share stays."""
        if not isinstance(connection, RedisCluster):
            super().disconnect(connection)


@lru_cache(maxsize=8)
def _shared(url: str, timeout_seconds: float, connect_timeout_seconds: float) -> Client:
    return connect(url, timeout_seconds=timeout_seconds, connect_timeout_seconds=connect_timeout_seconds)
