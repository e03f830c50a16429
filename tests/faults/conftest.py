"""A Redis that a test may do anything to, and what both doors are asked about in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from pytest_django import Settings

from recsite.embedded import EmbeddedValkey
from tests.doors.scene import Scene
from tests.faults.valve import Valve


@pytest.fixture
def server(tmp_path: Path) -> Iterator[EmbeddedValkey]:
    """Yield a valkey-server of the test's own."""
    valkey = EmbeddedValkey(tmp_path / "valkey", options=("--save", "", "--appendonly", "no")).start()
    yield valkey
    valkey.stop()


@pytest.fixture
def client(server: EmbeddedValkey, settings: Settings) -> Iterator[redis.Redis]:
    """Yield a connection to that server, which is where tables are in this test."""
    settings.TABLES_REDIS_URL = server.url
    with redis.Redis.from_url(server.url) as connection:
        yield connection


@pytest.fixture
def valve(server: EmbeddedValkey) -> Iterator[Valve]:
    """Yield a way to that server that may be closed."""
    made = Valve(server.port)
    yield made
    made.end()


@pytest.fixture
def scene(server: EmbeddedValkey) -> Iterator[Scene]:
    """Yield tenants and tables, written to that server."""
    client = redis.Redis.from_url(server.url)
    written = Scene(client)
    written.write_all()
    yield written
    client.close()
