"""What Prometheus is told of the Redis servers and the broker's queues, asked of them whenever it asks."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import redis
from django.conf import settings
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from redis.cluster import RedisCluster
from typing_extensions import override

from models_registry.loading.broker import QUEUES, count_messages
from models_registry.redis_clients import watching_client
from recsite.metrics.families import Values, families
from serving.metrics import Definition

log = logging.getLogger(__name__)

DEFINITIONS = (
    Definition(
        "recsite_redis_memory_bytes",
        "gauge",
        "Memory that Redis uses, by what it is for: tables, broker, cache (one server may be all three). Of a cluster "
        "the sum. Missing where it does not answer.",
        ("role",),
    ),
    Definition("recsite_redis_memory_max_bytes", "gauge", "The memory that it may use; 0: no limit is set.", ("role",)),
    Definition(
        "recsite_redis_evicted_keys_total",
        "counter",
        "Keys that it dropped for want of memory: of tables, lost data.",
        ("role",),
    ),
    Definition("recsite_queue_depth", "gauge", "Messages in the broker that no worker has taken.", ("queue",)),
)


class ServersCollector(Collector):
    """Asks them when it is asked; each that hangs costs a second."""

    @override
    def collect(self) -> Iterator[Metric]:
        return families(DEFINITIONS, _read())

    def describe(self) -> Iterator[Metric]:
        """Yield the families without values: registering must not ask anybody."""
        return families(DEFINITIONS, {})


def _read() -> Values:
    used: dict[tuple[str, ...], float] = {}
    most: dict[tuple[str, ...], float] = {}
    evicted: dict[tuple[str, ...], float] = {}
    for role, url in _urls().items():
        try:
            said = _said(url)
        except (redis.RedisError, OSError, ValueError) as error:
            # ValueError: a broker that is no Redis, or one that only Celery reaches.
            log.debug("metrics.redis_not_asked role=%s problem=%s", role, type(error).__name__)
            continue
        used[(role,)] = sum(each["used_memory"] for each in said)
        most[(role,)] = sum(each["maxmemory"] for each in said)
        evicted[(role,)] = sum(each["evicted_keys"] for each in said)
    depths = {(queue,): count_messages(queue) for queue in QUEUES}
    return {
        "recsite_redis_memory_bytes": used,
        "recsite_redis_memory_max_bytes": most,
        "recsite_redis_evicted_keys_total": evicted,
        "recsite_queue_depth": {queue: depth for queue, depth in depths.items() if depth is not None},
    }


def _urls() -> dict[str, str]:
    return {
        "tables": settings.TABLES_REDIS_URL,
        "broker": settings.CELERY_BROKER_URL,
        "cache": settings.CACHES["default"]["LOCATION"][0],
    }


def _said(url: str) -> list[Mapping[str, Any]]:
    client = watching_client(url)
    if isinstance(client, RedisCluster):
        by_node: Any = client.info(target_nodes=RedisCluster.PRIMARIES)
        nodes: Iterable[Any] = by_node.values()
        return list(nodes)
    alone: Any = client.info()
    return [alone]
