"""redis-py's clients for each kind of Redis that `serving.redis.url` knows."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any, assert_never

import redis
from django_redis.pool import ConnectionFactory
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.retry import Retry
from redis.sentinel import Sentinel

from serving.redis.patches import Cluster, OfMaster
from serving.redis.url import RedisUrl

Client = redis.Redis | RedisCluster
# How long each Sentinel may take to say which server is the master.
SENTINEL_SECONDS = 0.5


def connect(url: str, *, timeout_seconds: float, connect_timeout_seconds: float, check_seconds: float = 0) -> Client:
    """Return a client; it opens no connection before it is used.

    Every command is bounded in time and none is sent twice, but for a redirection of a cluster, which redis-py follows.
    A connection idle for longer than `check_seconds` is asked whether it lives before it is used; 0 for never.

    Raises:
        ValueError: no such URL.
    """
    parsed = RedisUrl.parse(url)
    times: dict[str, Any] = {"socket_timeout": timeout_seconds, "socket_connect_timeout": connect_timeout_seconds}
    options = {**times, "health_check_interval": check_seconds, "retry": Retry(NoBackoff(), 0)}
    match parsed.kind:
        case "one":
            return redis.Redis.from_url(url, **options)
        case "cluster":
            # One slot that nobody owns must not take the others away.
            return Cluster(parsed.hosts, require_full_coverage=False, **options | parsed.server_keywords())
        case "sentinel":
            return _master(parsed, times, options | parsed.server_keywords())
        case unknown:
            assert_never(unknown)


def _master(parsed: RedisUrl, times: dict[str, Any], options: dict[str, Any]) -> redis.Redis:
    """Return a client of whichever server the Sentinels say is the master."""
    sentinels: Any = Sentinel  # whose types are missing
    asking: dict[str, Any] = {name: min(seconds, SENTINEL_SECONDS) for name, seconds in times.items()}
    asking |= {**parsed.sentinel_keywords(), "retry": Retry(NoBackoff(), 0)}
    manager = sentinels(parsed.hosts, sentinel_kwargs=asking)
    client: redis.Redis = manager.master_for(parsed.service, redis_class=OfMaster, db=parsed.database, **options)
    return client


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


class TablesConnectionFactory(ConnectionFactory):  # type: ignore[misc]  # untyped for mypy
    """django-redis' way to a connection, for every kind of Redis: the others as `connect` has it."""

    def connect(self, url: str) -> Any:
        """Return a client; of Sentinel and of a cluster there is one in a process, used by all of its threads."""
        if RedisUrl.parse(url).kind == "one":
            return super().connect(url)
        return _shared(url, self.options["SOCKET_TIMEOUT"], self.options["SOCKET_CONNECT_TIMEOUT"])

    def disconnect(self, connection: Any) -> None:
        """Close what this process no longer needs; what others share stays."""
        if not isinstance(connection, RedisCluster):
            super().disconnect(connection)


@lru_cache(maxsize=8)
def _shared(url: str, timeout_seconds: float, connect_timeout_seconds: float) -> Client:
    return connect(url, timeout_seconds=timeout_seconds, connect_timeout_seconds=connect_timeout_seconds)
