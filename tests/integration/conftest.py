"""Fixtures of the integration tests: the broker's queue to look into, and a broker that is away."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import redis
from celery import current_app
from django.conf import settings
from kombu import pools

from recsite.embedded import EmbeddedValkey, free_port


def _point_celery_at(url: str) -> str:
    before = str(current_app.conf.broker_url)
    current_app.conf.broker_url = current_app.conf.broker_write_url = url
    pools.reset()
    current_app._pool = None
    current_app.amqp._producer_pool = None
    return before


@pytest.fixture
def celery_queue(
    valkey: redis.Redis, valkey_server: EmbeddedValkey
) -> Iterator[Callable[[], list[tuple[str, list[Any]]]]]:
    """Give a function that lists what waits in the real broker: each task's name and arguments, oldest first."""
    before = _point_celery_at(valkey_server.url)

    def waiting() -> list[tuple[str, list[Any]]]:
        prefix = settings.CELERY_BROKER_TRANSPORT_OPTIONS["global_keyprefix"]
        raw: Any = valkey.lrange(f"{prefix}celery", 0, -1)
        messages = [json.loads(message) for message in reversed(raw)]
        return [(m["headers"]["task"], json.loads(base64.b64decode(m["body"]))[0]) for m in messages]

    yield waiting
    _point_celery_at(before)


@pytest.fixture
def broker_away() -> Iterator[None]:
    """Point Celery at a port where nobody listens."""
    before = _point_celery_at(f"redis://127.0.0.1:{free_port()}/0")
    yield
    _point_celery_at(before)
