"""A database that drops its connections, as PostgreSQL does when it is restarted: requests and loads go on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
import redis
from django.core.signals import request_finished, request_started
from django.db import OperationalError, connection, transaction
from pytest_django import Settings

from models_registry.loading.pulse import Progress, Pulse
from models_registry.loading.running import claim, run_load
from models_registry.models import Load, LoadState
from tenants.models import Tenant
from tests import factories
from tests.loading_scene import Scene, all_blocks, blocks_of, columns

pytestmark = pytest.mark.django_db(transaction=True)

on_postgresql = pytest.mark.skipif(
    connection.vendor != "postgresql", reason="SQLite has no connections that could be lost; test_postgres.py runs it"
)


def drop_connections() -> None:
    """End all connections to the database, from another one."""
    place = connection.settings_dict
    with psycopg.connect(
        host=place["HOST"], port=place["PORT"], user=place["USER"], dbname="postgres", autocommit=True
    ) as administrator:
        ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s"
        assert administrator.execute(ended, [place["NAME"]]).fetchall()


@on_postgresql
def test_request__after_a_restart__has_a_new_connection() -> None:
    made = factories.TenantFactory.create()
    request_started.send(sender=None)
    assert Tenant.objects.count() == 1
    request_finished.send(sender=None)
    drop_connections()

    request_started.send(sender=None)
    assert Tenant.objects.get() == made


# --- Loads ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def scene(tmp_path: Path, settings: Settings, valkey: redis.Redis) -> Scene:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    made = Scene(tmp_path)
    made.write(columns(range(1500)))
    return made


def once(is_time: Callable[[Progress], bool]) -> Callable[[Progress], None]:
    """Return a listener that ends all connections when it is time."""
    done: list[bool] = []

    def listen(progress: Progress) -> None:
        if not done and is_time(progress):
            done.append(True)
            drop_connections()

    return listen


@on_postgresql
def test_load__connection_lost_while_it_writes__goes_on_and_becomes_active(scene: Scene, valkey: redis.Redis) -> None:
    load = scene.queue(rows_per_second_limit=500)
    run_load(load.pk, listener=once(lambda progress: progress.rows_written > 0))
    load = Load.objects.unscoped().get(pk=load.pk)
    assert (load.state, load.problem) == (LoadState.ACTIVE, "")
    assert blocks_of(valkey, load.table.table_id) == all_blocks(valkey)


@on_postgresql
def test_load__connection_lost_just_before_it_would_become_active__says_that_it_failed(
    scene: Scene, valkey: redis.Redis
) -> None:
    load = scene.queue()
    run_load(load.pk, listener=once(lambda progress: progress.state == LoadState.VERIFYING))
    load = Load.objects.unscoped().get(pk=load.pk)
    assert (load.state, load.finished_at is not None) == (LoadState.FAILED, True)
    assert "OperationalError" in load.problem
    assert all_blocks(valkey) == 0


class Losses:
    """Has queries fail until the connection is replaced, as PostgreSQL's do; to be wrapped around them."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *, is_usable: bool) -> None:
        self.is_lost = True
        self.replaced = 0
        monkeypatch.setattr(connection, "is_usable", lambda: is_usable)
        monkeypatch.setattr(connection, "close", self._close)

    def __call__(self, execute: Callable[..., Any], *arguments: Any) -> Any:
        if self.is_lost:
            raise OperationalError("server closed the connection unexpectedly")
        return execute(*arguments)

    def _close(self) -> None:
        self.is_lost = False
        self.replaced += 1


@pytest.fixture
def pulse(scene: Scene, settings: Settings) -> Pulse:
    load = claim(scene.queue().pk)
    assert load is not None
    return Pulse(load, time_limit=settings.LOAD_TIME_LIMIT, listener=None)


def test_beat__connection_lost__is_written_through_a_new_one(pulse: Pulse, monkeypatch: pytest.MonkeyPatch) -> None:
    pulse.rows_read = 7
    losses = Losses(monkeypatch, is_usable=False)
    with connection.execute_wrapper(losses):
        pulse.beat()
    assert losses.replaced == 1
    assert Load.objects.unscoped().get(pk=pulse.load.pk).rows_read == 7


def test_beat__connection_lost_within_a_transaction__raises(pulse: Pulse, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = Losses(monkeypatch, is_usable=False)
    with transaction.atomic(), connection.execute_wrapper(losses), pytest.raises(OperationalError):
        pulse.beat()
    assert losses.replaced == 0


def test_beat__an_error_on_a_connection_that_works__raises(pulse: Pulse, monkeypatch: pytest.MonkeyPatch) -> None:
    losses = Losses(monkeypatch, is_usable=True)
    with connection.execute_wrapper(losses), pytest.raises(OperationalError):
        pulse.beat()
    assert losses.replaced == 0
