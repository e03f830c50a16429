"""What the dashboard's /metrics says of the control plane: from the database, Redis, the broker, and of itself."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest
import redis
from django.db import OperationalError, connection, transaction
from django.test import Client
from django.utils import timezone
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families
from pytest_django.fixtures import DjangoAssertNumQueries, Settings

from models_registry.loading.broker import hand_over
from models_registry.models import ENDED_STATES, Load, LoadState, Version
from recsite.embedded import EmbeddedValkey
from recsite.metrics import control_plane, loads
from recsite.metrics.database import DEFINITIONS, DatabaseCollector
from recsite.metrics.loads import LoadNumbers
from recsite.metrics.servers import ServersCollector
from recsite.postgresql.base import DatabaseWrapper
from tenants.models import Tenant
from tests import factories
from tests.celery_worker import point_celery_at

pytestmark = pytest.mark.django_db


@pytest.fixture
def version(studio: Tenant) -> Version:
    made: Version = factories.SourceFactory.create(version__model__tenant=studio).version
    return made


@pytest.fixture(autouse=True)
def metrics_token(settings: Settings) -> None:
    settings.METRICS_TOKEN = "what Prometheus sends"


@pytest.fixture(autouse=True)
def nothing_remembered() -> Iterator[None]:
    """Have no numbers of another test's loads remembered, whose ids are given again."""
    control_plane.cache_clear()
    yield
    control_plane.cache_clear()


def metrics(client: Client) -> dict[str, float]:
    text = client.get("/metrics", headers={"Authorization": "Bearer what Prometheus sends"}).content.decode()
    samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for sample in samples
        if sample.name in {definition.name for definition in DEFINITIONS}
    }


def test_metrics__loads_late_versions_and_lost_tables__are_counted(version: Version, client: Client) -> None:
    hour = timedelta(hours=1)
    now = timezone.now()
    began = {"load__started_at": now - 3 * hour, "load__finished_at": now - 2 * hour, "load__rows_written": 40}
    table = factories.TableFactory.create(load__version=version, size_bytes=500, **began)
    factories.RolloutRevisionFactory.create(model=version.model, weights={version.code: 10_000})
    factories.CredentialFactory.create(
        tenant=version.model.tenant, previous_secret_hash="h", previous_until=now + hour, name="old and new"
    )
    Version.objects.unscoped().filter(pk=version.pk).update(active_table=table)
    for state in (LoadState.FAILED, LoadState.QUEUED, LoadState.WRITING):
        factories.LoadFactory.create(version=version, state=state)
    Load.objects.unscoped().filter(state=LoadState.QUEUED).update(created_at=now - hour)
    before = {name: value for name, value in metrics(client).items() if not name.startswith("recsite_db_connections")}
    tenant = version.model.tenant.slug
    named = f"{version.model.slug} {tenant} {version.name}"
    assert before.pop("recsite_load_oldest_waiting_seconds") == pytest.approx(3600, abs=60)
    assert before.pop(f"recsite_version_data_age_seconds {named}") == pytest.approx(3 * 3600, abs=60)
    ends = before.pop(f"recsite_credential_overlap_ends_timestamp_seconds {tenant}")
    assert ends == pytest.approx((now + hour).timestamp(), abs=1)
    assert {name: value for name, value in before.items() if value} == {
        f"recsite_tenant_loads_total active {tenant}": 1,
        f"recsite_tenant_loads_total failed {tenant}": 1,
        f"recsite_tenant_load_seconds_total active {tenant}": 3600,
        f"recsite_load_rows_total {tenant}": 40,
        f"recsite_version_weight_ratio {named}": 1,
        f"recsite_tables_bytes {tenant}": 500,
        "recsite_loads_total active": 1,
        "recsite_loads_total failed": 1,
        "recsite_loads_waiting": 1,
        "recsite_loads_running": 1,
    }
    Version.objects.unscoped().filter(pk=version.pk).update(freshness_minutes=60)
    type(table).objects.unscoped().filter(pk=table.pk).update(lost_at=now)
    after = metrics(client)
    assert (after["recsite_versions_late"], after["recsite_tables_lost"]) == (1, 1)
    assert after["recsite_most_late_seconds"] == pytest.approx(2 * 3600, abs=60)


@pytest.mark.django_db
def test_metrics__every_definition__has_a_value() -> None:
    now = timezone.now()
    parts = DatabaseCollector().parts
    assert {name for part in parts for name in part(now)} == {definition.name for definition in DEFINITIONS}


def test_metrics__asked_for__cost_nine_queries(
    version: Version, client: Client, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_num_queries(10 if connection.vendor == "postgresql" else 9):
        metrics(client)


def test_connections__of_the_server__are_told_by_what_they_do_with_its_limit(client: Client) -> None:
    if connection.vendor != "postgresql":
        assert not [name for name in metrics(client) if name.startswith("recsite_db_connections")]
        return
    before = metrics(client)
    another = connection.copy()
    another.set_autocommit(False)
    another.cursor().execute("SELECT 1")
    with connection.cursor() as cursor:
        # Within one transaction, which a test is, the server tells the same again.
        cursor.execute("SELECT pg_stat_clear_snapshot()")
    during = metrics(client)
    another.close()
    # The one that asks is active.
    assert before["recsite_db_connections active"] >= 1
    assert during["recsite_db_connections in_transaction"] == before["recsite_db_connections in_transaction"] + 1
    assert before["recsite_db_connections_max"] == 100


def test_load_numbers__of_loads_read_before__are_remembered_and_the_same(
    version: Version, monkeypatch: pytest.MonkeyPatch, django_assert_num_queries: DjangoAssertNumQueries
) -> None:
    monkeypatch.setattr(loads, "AT_ONCE", 2)
    now, hour = timezone.now(), timedelta(hours=1)

    def made(state: LoadState, *, hours_ago: int) -> Load:
        ended = {"started_at": now - hour, "finished_at": now} if state in ENDED_STATES else {}
        load = factories.LoadFactory.create(version=version, state=state, rows_written=7, **ended)
        Load.objects.unscoped().filter(pk=load.pk).update(created_at=now - hours_ago * hour)
        return load

    early = [made(LoadState.ACTIVE, hours_ago=4) for _ in range(3)]
    late = made(LoadState.WRITING, hours_ago=3)
    made(LoadState.FAILED, hours_ago=2)
    numbers = LoadNumbers()
    assert numbers.read(now) == LoadNumbers().read(now)
    assert numbers._settled.up_to == early[-1].pk

    Load.objects.unscoped().filter(pk=late.pk).update(state=LoadState.REJECTED, started_at=now - hour, finished_at=now)
    last = made(LoadState.ACTIVE, hours_ago=0)
    tenant = version.model.tenant.slug
    told = numbers.read(now)
    assert told == LoadNumbers().read(now)
    assert {state: count for (_, state), count in told["recsite_tenant_loads_total"].items() if count} == {
        "active": 4,
        "rejected": 1,
        "failed": 1,
    }
    assert told["recsite_load_rows_total"] == {(tenant,): 42}
    assert numbers._settled.up_to == last.pk - 1
    with django_assert_num_queries(3) as asked:
        assert numbers.read(now) == told
    assert f'"id" > {last.pk - 1}' in asked.captured_queries[-1]["sql"]


# --- Redis and the broker ---------------------------------------------------------------------------------------------


def samples() -> dict[tuple[str, ...], float]:
    found = [sample for family in ServersCollector().collect() for sample in family.samples]
    return {(sample.name, *sample.labels.values()): sample.value for sample in found}


def test_servers__of_each_role__tell_their_memory_and_what_waits(
    valkey: redis.Redis, valkey_server: EmbeddedValkey, settings: Settings
) -> None:
    settings.CELERY_BROKER_URL = valkey_server.url
    valkey.config_set("maxmemory", "123mb")
    before = point_celery_at(valkey_server.url)
    try:
        assert hand_over("loading.run", 1)
        assert hand_over("loading.run", 2)
        found = samples()
    finally:
        point_celery_at(before)
        valkey.config_set("maxmemory", 0)
    for role in ("tables", "broker"):
        assert found["recsite_redis_memory_bytes", role] > 100_000
        assert found["recsite_redis_memory_max_bytes", role] == 123 * 2**20
        assert found["recsite_redis_evicted_keys_total", role] == 0
    assert (found["recsite_queue_depth", "loads"], found["recsite_queue_depth", "celery"]) == (2, 0)


def test_servers__away_or_no_redis__are_left_out(settings: Settings) -> None:
    settings.TABLES_REDIS_URL = "redis://127.0.0.1:1/0"
    settings.CELERY_BROKER_URL = "amqp://127.0.0.1:1//"
    before = point_celery_at("redis://127.0.0.1:1/0")
    try:
        assert {name for name, label in samples() if label != "cache"} == set()
    finally:
        point_celery_at(before)


# --- What the processes count -----------------------------------------------------------------------------------------


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_tokens__minted_and_not__are_counted_by_tenant_and_by_why(studio: Tenant, client: Client) -> None:
    credential = factories.CredentialFactory.create(tenant=studio)
    reasons = ("invalid_client", "invalid_request", "other")

    def numbers() -> list[float]:
        refused = [counted("recsite_token_mint_failures_total", reason=reason) for reason in reasons]
        return [counted("recsite_tokens_minted_total", tenant=studio.slug), *refused]

    def ask(body: dict[str, str]) -> int:
        return client.post("/api/v1/token", body, content_type="application/json").status_code

    before = numbers()
    good = {"client_id": credential.client_id, "client_secret": factories.SECRET}
    assert ask(good) == 200
    assert ask(good | {"client_secret": "wrong"}) == 401
    assert ask(good | {"sub": ""}) == 400
    assert client.get("/api/v1/token").status_code == 405
    assert [now - was for now, was in zip(numbers(), before, strict=True)] == [1, 1, 1, 1]


def test_database__that_does_not_do_a_statement_or_take_a_connection__is_counted() -> None:
    before = {act: counted("recsite_db_errors_total", act=act) for act in ("connect", "statement")}
    too_long = "SET LOCAL statement_timeout = 1; SELECT pg_sleep(1)"
    fails = too_long if connection.vendor == "postgresql" else "SELECT 1 FROM nothing_of_that_name"
    with connection.cursor() as cursor, pytest.raises(OperationalError), transaction.atomic():
        cursor.execute(fails)
    assert counted("recsite_db_errors_total", act="statement") == before["statement"] + 1

    with pytest.raises(psycopg.OperationalError):
        DatabaseWrapper({}).get_new_connection({"host": "127.0.0.1", "port": 1, "dbname": "nothing"})
    assert counted("recsite_db_errors_total", act="connect") == before["connect"] + 1
