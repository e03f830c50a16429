"""redis-py's clients for each kind of Redis that `serving.redis_url` knows."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import redis
from django_redis.pool import ConnectionFactory
from redis.backoff import NoBackoff
from redis.cluster import ClusterNode, RedisCluster
from redis.exceptions import RedisClusterException
from redis.retry import Retry
from redis.sentinel import Sentinel

from serving.redis_url import Place

Client = redis.Redis | RedisCluster


def connect(url: str, *, timeout_seconds: float, connect_timeout_seconds: float, check_seconds: float = 0) -> Client:
    """Give a client; it opens no connection before it is used.

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
    options |= {**place.login._asdict(), **place.tls_keywords()}
    if place.kind == "cluster":
        return Cluster(place.hosts, **options)
    sentinels: Any = Sentinel  # whose types are missing
    login = {**place.sentinel_login._asdict(), **place.tls_keywords()}
    manager = sentinels(place.hosts, sentinel_kwargs={**times, **login, "retry": Retry(NoBackoff(), 0)})
    client: redis.Redis = manager.master_for(place.service, db=place.database, **options)
    return client


class Cluster(RedisCluster):
    """redis-py's client of a cluster, with two things done otherwise.

    It asks the nodes where everything is when it is first used, not when it is made: a process must start while they
    are away. And that they are away is a `redis.ConnectionError`, as it is anywhere else.

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
            raise redis.ConnectionError(str(error)) from error

    def _make(self) -> None:
        if self._is_made or self._is_being_made:
            return
        self._is_being_made = True
        try:
            nodes = [ClusterNode(host, port) for host, port in self._hosts]
            super().__init__(startup_nodes=nodes, **self._options)
            self._is_made = True
        finally:
            self._is_being_made = False


class TablesConnectionFactory(ConnectionFactory):  # type: ignore[misc]  # untyped for mypy
    """django-redis' way to a connection, for every kind of Redis: the others as `connect` has it."""

    def connect(self, url: str) -> Any:
        """Give a client; of Sentinel and of a cluster there is one in a process, used by all of its threads."""
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
