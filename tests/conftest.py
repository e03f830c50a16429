"""Fixtures that several kinds of test share: a real Valkey, and the project's settings pointed at it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from django.core.cache import caches

from recsite.embedded import EmbeddedValkey


@pytest.fixture(scope="session")
def valkey_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedValkey]:
    """Give one real valkey-server for the whole run."""
    server = EmbeddedValkey(tmp_path_factory.mktemp("valkey"), options=("--save", "", "--appendonly", "no")).start()
    yield server
    server.stop()


@pytest.fixture
def valkey(valkey_server: EmbeddedValkey, settings: pytest.FixtureRequest) -> Iterator[redis.Redis]:
    """Give a client of that server, emptied, with Django's settings (tables, caches, broker) pointed at it."""
    client = redis.Redis.from_url(valkey_server.url)
    client.flushall()
    settings.TABLES_REDIS_URL = valkey_server.url  # type: ignore[attr-defined]  # pytest-django's settings wrapper
    for name in ("default", "tables"):
        settings.CACHES[name]["LOCATION"] = valkey_server.url  # type: ignore[attr-defined]  # as above
    _forget_cache_connections()
    yield client
    client.close()
    _forget_cache_connections()


def _forget_cache_connections() -> None:
    caches.close_all()
    for alias in list(caches.settings):
        if hasattr(caches._connections, alias):
            delattr(caches._connections, alias)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder: tests that start real processes are slow."""
    for item in items:
        if {"faults", "doors", "bigquery", "demo"} & set(Path(item.path).parts):
            item.add_marker(pytest.mark.slow)
