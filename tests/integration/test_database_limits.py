"""A load under PostgreSQL's limits for statements and for transactions in which nothing happens: it works outside."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis
from django.db import InternalError, connection, transaction
from pytest_django import Settings

from models_registry.loading.running import run_load
from models_registry.models import Load, LoadState
from tests.loading_scene import Scene, columns

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="SQLite has no limits; test_postgres.py runs it"),
]

LIMIT_SECONDS = 0.4
ROWS = 1500


@pytest.fixture
def scene(tmp_path: Path, settings: Settings, valkey: redis.Redis) -> Scene:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    made = Scene(tmp_path)
    made.write(columns(range(ROWS)))
    return made


@contextmanager
def limited() -> Iterator[None]:
    limits = "statement_timeout", "idle_in_transaction_session_timeout"
    with connection.cursor() as cursor:
        for limit in limits:
            cursor.execute(f"SET {limit} = '{LIMIT_SECONDS}s'")
        yield
    with connection.cursor() as cursor:
        for limit in limits:
            cursor.execute(f"RESET {limit}")


def test_load__takes_longer_than_the_limits__becomes_active(scene: Scene) -> None:
    # What it is compared with.
    assert scene.load().state == LoadState.ACTIVE
    load = scene.queue(rows_per_second_limit=ROWS)
    with limited():
        run_load(load.pk)
    load = Load.objects.unscoped().get(pk=load.pk)
    assert (load.state, load.problem) == (LoadState.ACTIVE, "")
    (took,) = [stage["seconds"] for stage in load.report["stages"] if stage["name"] == "write"]
    assert took > LIMIT_SECONDS, "nothing was tried"


def test_limits__a_transaction_in_which_nothing_happens__is_ended() -> None:
    def idle() -> None:
        with limited(), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute("SELECT 1")
            time.sleep(2 * LIMIT_SECONDS)
            cursor.execute("SELECT 1")

    with pytest.raises(InternalError):
        idle()
    connection.close()
