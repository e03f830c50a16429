"""The control plane's own Redis clients. Serving's are others: a load must never share a connection with an answer."""

from __future__ import annotations

from functools import lru_cache

import redis
from django.conf import settings
from redis.backoff import NoBackoff
from redis.retry import Retry

PUBLISHING_TIMEOUT_SECONDS = 2.0
LOADING_TIMEOUT_SECONDS = 15.0


def publishing_client() -> redis.Redis:
    """Give the client for snapshots: a command fails after 2 s, and once; a task repeats what failed."""
    return _client(settings.TABLES_REDIS_URL, PUBLISHING_TIMEOUT_SECONDS)


def loading_client() -> redis.Redis:
    """Give the client for tables: a pipeline of blocks fails after 15 s without an answer, and once."""
    return _client(settings.TABLES_REDIS_URL, LOADING_TIMEOUT_SECONDS)


@lru_cache(maxsize=8)
def _client(url: str, timeout_seconds: float) -> redis.Redis:
    client: redis.Redis = redis.Redis.from_url(
        url,
        socket_timeout=timeout_seconds,
        socket_connect_timeout=2.0,
        health_check_interval=15,
        retry=Retry(NoBackoff(), 0),
    )
    return client
