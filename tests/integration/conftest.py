"""Fixtures of the integration tests: the broker's queue to look into, and a broker that is away."""

from __future__ import annotations

import base64
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from typing import Any, TypeVar

import pytest
import redis
from django.conf import settings
from django.db import transaction
from pytest_django import DjangoDbBlocker

from recsite.celery import app
from recsite.embedded import EmbeddedValkey, free_port
from tenants.models import Tenant
from tests.celery_worker import point_celery_at
from tests.integration.api_client import ApiClient, token_client
from tests.template_names import unknown_names

Made = TypeVar("Made")


@pytest.fixture(scope="module")
def made_once(
    django_db_setup: None, django_db_blocker: DjangoDbBlocker
) -> Iterator[Callable[[Callable[[], Made]], Made]]:
    """Yield what calls a function whose rows all tests of the module find; they are rolled back after the last of them.

    For what takes long to make. Each test's own changes are rolled back as ever, those of its Python objects are not:
    a test gets a copy of them (`copy.deepcopy`).
    """

    def make(function: Callable[[], Made]) -> Made:
        with django_db_blocker.unblock():
            return function()

    with ExitStack() as together:
        with django_db_blocker.unblock():
            together.enter_context(transaction.atomic())
        yield make
        with django_db_blocker.unblock():
            transaction.set_rollback(True)
            together.close()


@pytest.fixture
def celery_queue(
    valkey: redis.Redis, valkey_server: EmbeddedValkey
) -> Iterator[Callable[[], list[tuple[str, list[Any]]]]]:
    """Yield a function that lists what waits in the real broker: each task's name and arguments, oldest first."""
    before = point_celery_at(valkey_server.url)

    def waiting() -> list[tuple[str, list[Any]]]:
        prefix = settings.CELERY_BROKER_TRANSPORT_OPTIONS["global_keyprefix"]
        messages = []
        for queue in app.conf.task_queues:
            raw: Any = valkey.lrange(f"{prefix}{queue.name}", 0, -1)
            messages += [json.loads(message) for message in reversed(raw)]
        return [(m["headers"]["task"], json.loads(base64.b64decode(m["body"]))[0]) for m in messages]

    yield waiting
    point_celery_at(before)


@pytest.fixture
def broker_away() -> Iterator[None]:
    """Point Celery at a port where nobody listens."""
    before = point_celery_at(f"redis://127.0.0.1:{free_port()}/0")
    yield
    point_celery_at(before)


@pytest.fixture
def broker_hangs() -> Iterator[list[socket.socket]]:
    """Point Celery at somebody who never answers; give the connections made to them so far."""
    connections: list[socket.socket] = []

    def accept() -> None:
        with suppress(OSError):
            while True:
                connections.append(listener.accept()[0])

    with socket.create_server(("127.0.0.1", 0)) as listener:
        before = point_celery_at(f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
        accepting = threading.Thread(target=accept, daemon=True)
        accepting.start()
        yield connections
        point_celery_at(before)
        listener.shutdown(socket.SHUT_RDWR)
        accepting.join()
    for connection in connections:
        connection.close()


@pytest.fixture
def api(studio: Tenant, valkey: redis.Redis) -> ApiClient:
    """Return a caller of the API with a token of the studio that may do all that tokens may."""
    return token_client(studio)


@pytest.fixture(autouse=True)
def no_unknown_names() -> Iterator[None]:
    """Fail a test one of whose pages asked for a name that is not there."""
    with unknown_names() as found:
        yield
    assert not found, "templates ask for names that are not there: " + ", ".join(sorted(found))
