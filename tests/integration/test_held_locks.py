"""A session that holds a studio's row and does not end: its studio waits, and nobody else.

On SQLite one lock is everybody's, so `test_postgres.py` runs these.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
import redis
from django.conf import settings as project_settings
from django.db import connection
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from models_registry.loading.activation import activate
from models_registry.loading.pulse import Pulse
from models_registry.loading.repair import repair_all
from models_registry.loading.report import Report
from models_registry.loading.schedules import start_due_loads
from models_registry.models import Load, LoadState, Traffic, Version
from models_registry.publishing import republish_all
from models_registry.traffic import collecting
from serving.formats import snapshot
from serving.reporting import FIELD, TrafficBatch, traffic_name
from tenants.credentials import credential_issue
from tenants.models import Role, Tenant
from tenants.services import tenant_update
from tests import factories
from tests.integration.api_client import ApiClient
from tests.integration.dashboard_scene import make_offers, post, signed_in
from tests.loading_scene import Scene, columns

pytestmark = [
    pytest.mark.django_db(transaction=True),
    pytest.mark.skipif(connection.vendor != "postgresql", reason="one lock is everybody's; test_postgres.py runs it"),
]
Holding = Callable[..., AbstractContextManager[None]]
# Longer than the tests that give up at once may take, shorter than a test may.
LOCK_SECONDS = 30


@pytest.fixture
def holding() -> Holding:
    """Return what has another session hold rows for as long as a block lasts."""

    @contextmanager
    def hold(row: Any, how: str = "UPDATE") -> Iterator[None]:
        place = connection.settings_dict
        where = {"host": place["HOST"], "port": place["PORT"], "user": place["USER"], "dbname": place["NAME"]}
        table = type(row)._meta.db_table
        with psycopg.connect(**where) as holder:
            holder.execute(f"SELECT FROM {table} WHERE id = %s FOR {how}", [row.pk])
            yield

    return hold


@contextmanager
def patience(text: str) -> Iterator[None]:
    """Have this connection wait for locks so long."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, false)", [text])
    yield
    with connection.cursor() as cursor:
        cursor.execute("SELECT set_config('lock_timeout', %s, false)", [f"{LOCK_SECONDS}s"])


@pytest.fixture(autouse=True)
def _patient() -> Iterator[None]:
    """Have whatever waits for a lock fail the test, later than anything that does not."""
    with patience(f"{LOCK_SECONDS}s"):
        yield


WORDS = "is being saved just now, so nothing was saved. Try again in a moment."


def test_save__studio_is_held__says_so_and_keeps_what_was_typed(
    studio: Tenant, valkey: redis.Redis, holding: Holding
) -> None:
    offers = make_offers(studio)
    manager = factories.MembershipFactory.create(tenant=studio, role=Role.PRODUCT_MANAGER).user
    client = signed_in(manager)
    typed = {"weight-0": "50", "weight-1": "30", "weight-2": "20", "reason": "c won", "step": "save"}
    seen = post(client, f"{offers.url}/weights", typed)
    typed["seen"] = seen.html.partition('name="seen" value="')[2].partition('"')[0]
    with holding(studio), patience("100ms"):
        answer = post(client, f"{offers.url}/weights", typed)
    assert answer.status == 422
    assert f"Another change in “{studio.name}” {WORDS}" in answer.text
    assert 'value="50"' in answer.html
    assert ">\nc won</textarea>" in answer.html
    assert offers.model.rollout_revisions.count() == 1
    assert post(client, f"{offers.url}/weights", typed).status == 302
    assert offers.model.rollout_revisions.count() == 2


def test_operation__studio_is_held__is_503_and_works_when_sent_again(
    studio: Tenant, api: ApiClient, holding: Holding
) -> None:
    make_offers(studio)
    body = {"weights_bp": {"2026-11-a": 10_000, "2026-11-b": 0, "2026-11-c": 0}, "reason": "why not"}
    for key in (None, "once"):
        with holding(studio), patience("100ms"):
            answer = api.post("models/offers/rollout/reweight", body, key=key)
        assert (answer.status, answer.code, answer.headers["Retry-After"]) == (503, "unavailable", "5")
        assert WORDS in answer.body["detail"]
    assert api.post("models/offers/rollout/reweight", body, key="once").status == 201


def test_start_due_loads__one_studio_is_held__the_others_start_and_it_later(
    celery_queue: object, holding: Holding, caplog: pytest.LogCaptureFixture
) -> None:
    now = timezone.now()
    schedules = [
        factories.ScheduleFactory.create(
            version=factories.SourceFactory.create().version, next_run_at=now - timedelta(minutes=number)
        )
        for number in (3, 2, 1)
    ]
    held, *others = schedules
    with holding(held.version.model.tenant), patience("5s"):
        started = start_due_loads(now)
    assert "schedule.failed" not in caplog.text  # as it would be after the wait
    assert [load.version_id for load in started] == [other.version_id for other in others]
    assert [load.version_id for load in start_due_loads(now)] == [held.version_id]


def test_repair_all__one_studio_is_held__the_others_are_repaired_and_it_later(
    tmp_path: Path, settings: Settings, valkey: redis.Redis, holding: Holding
) -> None:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    held = Scene(tmp_path)
    held.load(columns(range(10)))
    other = make_offers(factories.TenantFactory.create())
    valkey.flushall()
    with holding(held.tenant):
        loads = repair_all(timezone.now())
    assert {load.version_id for load in loads} == {other.a.pk, other.b.pk, other.c.pk}
    [load] = repair_all(timezone.now())
    assert load.version_id == held.version.pk


def test_republish_all__one_studio_is_held__the_others_are_published_and_it_too(
    studio: Tenant, valkey: redis.Redis, holding: Holding
) -> None:
    other = factories.TenantFactory.create()
    republish_all()
    Tenant.objects.update(burst=7, snapshot_checked_at=timezone.now() - timedelta(minutes=6))
    with holding(studio):
        assert republish_all() == 2
    Tenant.objects.update(snapshot_checked_at=timezone.now() - timedelta(minutes=6))
    with holding(studio):
        republish_all()
    other.refresh_from_db()
    assert other.snapshot_checked_at is not None
    assert other.snapshot_checked_at > timezone.now() - timedelta(minutes=1)
    trusted = snapshot.parse_public_keys(project_settings.SNAPSHOT_PUBLIC_KEYS)
    raw: Any = valkey.get(snapshot.snapshot_name(project_settings.REDIS_PREFIX, studio.public_id))
    assert snapshot.open_snapshot(raw, trusted).tenant.burst == 7
    republish_all()
    assert republish_all() == 0


def test_collect__a_credential_is_held__everything_is_counted_and_its_last_use_is_noted_later(
    studio: Tenant, valkey: redis.Redis, holding: Holding
) -> None:
    offers = make_offers(studio)
    credentials = [credential_issue(tenant=studio, name=name, actor=None).credential for name in ("one", "two")]

    def send(at: int) -> None:
        uses = {credential.client_id: 1 for credential in credentials}
        batch = TrafficBatch(at, [(studio.slug, "offers", offers.a.name, "table", 5)], uses, at - 5)
        valkey.xadd(traffic_name(project_settings.REDIS_PREFIX), {FIELD: msgspec.msgpack.encode(batch)})

    at = int(timezone.now().timestamp())
    send(at - 10)
    with holding(credentials[0], "NO KEY UPDATE"):  # as a rotation does
        assert collecting.collect() == 1
    assert Traffic.objects.unscoped().filter(version=offers.a, answers=5).exists()
    for credential in credentials:
        credential.refresh_from_db()
    assert [credential.last_used_at is None for credential in credentials] == [True, False]
    send(at)
    assert collecting.collect() == 1
    credentials[0].refresh_from_db()
    assert credentials[0].last_used_at is not None


def test_activate__studio_is_held__waits_for_it_and_does_not_fail(
    studio: Tenant, valkey: redis.Redis, holding: Holding
) -> None:
    version = factories.VersionFactory.create(model__tenant=studio)
    load = factories.LoadFactory.create(version=version, state=LoadState.VERIFYING, fence=1, attempts=1)
    Version.objects.unscoped().filter(pk=version.pk).update(last_fence=1)
    table = factories.TableFactory.create(load=load)
    load = Load.objects.unscoped().select_related("version__model__tenant", "requested_by").get(pk=load.pk)
    pulse = Pulse(load, time_limit=timedelta(minutes=5), listener=None)
    beats, may_go = threading.Event(), threading.Event()

    def hold() -> None:
        with holding(studio):
            beats.set()
            assert may_go.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    assert beats.wait(30)
    original, seen = pulse.beat, []

    def beat() -> None:
        seen.append(1)
        may_go.set()
        holder.join(30)
        original()

    pulse.beat = beat  # type: ignore[method-assign]  # it ends the holder's wait when it is first waited for
    with patience("100ms"):
        activate(pulse, table, report=Report())
    assert seen
    load.refresh_from_db()
    assert load.state == LoadState.ACTIVE


def test_update__studio_is_held__changes_nothing(studio: Tenant, valkey: redis.Redis, holding: Holding) -> None:
    with holding(studio), patience("100ms"), pytest.raises(Exception, match="is being saved just now"):
        tenant_update(tenant=studio, actor=None, burst=7)
    studio.refresh_from_db()
    assert studio.burst != 7


def test_pages__studio_is_held__are_read_as_always(studio: Tenant, valkey: redis.Redis, holding: Holding) -> None:
    offers = make_offers(studio)
    client: Client = signed_in(factories.MembershipFactory.create(tenant=studio, role=Role.VIEWER).user)
    with holding(studio):
        assert client.get(offers.url).status_code == 200
