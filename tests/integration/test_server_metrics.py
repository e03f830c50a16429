"""What the dashboard's /metrics says of Redis and of the broker's queues."""

from __future__ import annotations

import redis
from pytest_django.fixtures import Settings

from models_registry.loading.broker import hand_over
from recsite.embedded import EmbeddedValkey
from recsite.metrics.servers import ServersCollector
from tests.celery_worker import point_celery_at


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
