"""The control plane's own Redis clients. Serving's are others: a load must never share a connection with an answer."""

from __future__ import annotations

from functools import lru_cache

import redis
from django.conf import settings

from serving.redis.clients import Client, connect

PUBLISHING_TIMEOUT_SECONDS = 2.0
LOADING_TIMEOUT_SECONDS = 15.0
WATCHING_TIMEOUT_SECONDS = 1.0


def publishing_client() -> Client:
    """Return the client for snapshots: a command fails after 2 s, and once; a task repeats what failed."""
    return _client(settings.TABLES_REDIS_URL, PUBLISHING_TIMEOUT_SECONDS)


def loading_client() -> Client:
    """Return the client for tables: a pipeline of blocks fails after 15 s without an answer, and once."""
    return _client(settings.TABLES_REDIS_URL, LOADING_TIMEOUT_SECONDS)


def watching_client(url: str | None = None) -> Client:
    """Return the client for signs of life and metrics, which may be missing: a command fails after 1 s, and once.

    Args:
        url: of a server besides the one with the tables.
    """
    return _client(url or settings.TABLES_REDIS_URL, WATCHING_TIMEOUT_SECONDS)


def is_wrong_type(error: redis.ResponseError) -> bool:
    """Tell whether Redis refused because the key holds something else than what this project puts there."""
    return str(error).startswith("WRONGTYPE")


@lru_cache(maxsize=8)
def _client(url: str, timeout_seconds: float) -> Client:
    return connect(
        url,
        timeout_seconds=timeout_seconds,
        connect_timeout_seconds=min(2.0, timeout_seconds),
        check_seconds=15,
    )
