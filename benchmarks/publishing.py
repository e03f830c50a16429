"""What it costs to keep snapshots current: `python -m benchmarks publishing --studios 500`.

Every studio has ten models of five versions with 20 testers a model. Rows are made directly, in SQLite. CPU is this
process's: of a run of the control plane's task, and of one lane's look at Redis after it. Then a lane of one worker is
started, once with nothing on its disk and once with what that left.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from argparse import Namespace
from collections.abc import Callable
from datetime import timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from django.core.management import call_command
from django.db import connection
from django.db.models import F
from django.utils import timezone

from benchmarks.contenders import lane_launch
from benchmarks.machine import Cores, cpu_seconds, memory_bytes
from benchmarks.reporting import number, table
from benchmarks.servers import running
from benchmarks.site import BenchSite
from models_registry import models as registry
from models_registry.publishing import republish_all
from models_registry.redis_clients import publishing_client
from models_registry.rollouts.allocation import first_allocation
from recsite.embedded import free_port
from serving.configuration import assemble
from tenants.models import Tenant

MODELS, VERSIONS, TESTERS = 10, 5, 20
LAYOUT = [{"name": "offer_id", "type": "uint", "min": 0, "max": 4095}]
ROUNDS = 5
READY = b"GET /readyz HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Cost(NamedTuple):
    """Of one run: seconds of this process's CPU, queries, bytes that Valkey gave out."""

    cpu_seconds: float
    queries: float
    bytes_out: float


class Started(NamedTuple):
    """A lane that was started: seconds until it was ready, CPU and memory by then, bytes that it left on its disk."""

    seconds: float
    cpu_seconds: float
    memory_bytes: int
    disk_bytes: int


def run(options: Namespace, site: BenchSite, cores: Cores) -> int:
    """Print the costs of what happens with so many studios; give the exit code."""
    call_command("migrate", verbosity=0)
    republish_all()
    with_nobody = _start_lane(site, cores, free_port())
    for index in range(options.studios):
        _make_studio(f"studio{index}")
    found = {"all published at first": _cost(republish_all)}
    watch = assemble("lane").watch
    found["a lane that starts"] = _cost(watch.poll)
    found["a run in which nothing is due"] = _median(republish_all)
    found["the lane's look, each second"] = _median(watch.poll)
    passed = timedelta(minutes=6)
    Tenant.objects.update(
        snapshot_published_at=F("snapshot_published_at") - passed, snapshot_checked_at=F("snapshot_checked_at") - passed
    )
    checking, runs = Cost(0, 0, 0), 0
    while Tenant.objects.filter(snapshot_checked_at__lt=timezone.now() - timedelta(minutes=5)).exists():
        checking = Cost(*(sum(both) for both in zip(checking, _cost(republish_all), strict=True)))
        runs += 1
    found[f"five minutes' checks, {runs} runs"] = checking

    def look_after_a_minute() -> None:
        watch._roster_read_at = -math.inf  # noqa: SLF001  # nobody else need turn its clock
        watch.poll()

    found["the lane's look with the roster, each minute"] = _median(look_after_a_minute)
    rows = [
        (what, number(cost.cpu_seconds * 1000, ",.1f"), number(cost.queries), number(cost.bytes_out))
        for what, cost in found.items()
    ]
    print(table((f"{options.studios} studios", "ms of CPU", "queries", "bytes out of Redis"), rows))
    port = free_port()
    lanes = {
        "with nobody": with_nobody,
        "from Redis": _start_lane(site, cores, port),
        "with its files": _start_lane(site, cores, port),
    }
    started = [
        (
            what,
            f"{lane.seconds:.1f}",
            f"{lane.cpu_seconds:.1f}",
            number(lane.memory_bytes / 1e6),
            number(lane.disk_bytes / 1e6),
        )
        for what, lane in lanes.items()
    ]
    print(f"\n{table(('a lane that starts', 's until ready', 's of CPU', 'MB of memory', 'MB on its disk'), started)}")
    used: Any = publishing_client().info("memory")
    print(f"Redis: {used['used_memory'] / 1e6:,.0f} MB")
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    return 0


def _start_lane(site: BenchSite, cores: Cores, port: int) -> Started:
    launch = lane_launch(site, port, block_cache_mb=64)
    with running(launch, port, site.logs / f"lane-{port}.log", cores.all, READY) as lane:
        left = Path(launch.environment["RECSITE_VAR_DIR"]).rglob("*.snapshot")
        return Started(
            lane.seconds_to_ready,
            cpu_seconds(lane.processes),
            memory_bytes(lane.processes),
            sum(path.stat().st_blocks * 512 for path in left),
        )


def _median(act: Callable[[], object]) -> Cost:
    return Cost(*map(statistics.median, zip(*(_cost(act) for _ in range(ROUNDS)), strict=True)))


def _cost(act: Callable[[], object]) -> Cost:
    before = _bytes_out()
    queries: list[str] = []

    def count(execute: Callable[..., Any], sql: str, *more: Any) -> Any:
        queries.append(sql)
        return execute(sql, *more)

    with connection.execute_wrapper(count):
        started = time.process_time()
        act()
        used = time.process_time() - started
    return Cost(used, len(queries), _bytes_out() - before)


def _bytes_out() -> int:
    found: Any = publishing_client().info("stats")
    return int(found["total_net_output_bytes"])


def _make_studio(slug: str) -> None:
    tenant = Tenant.objects.create(slug=slug, name=slug)
    for index in range(MODELS):
        model = registry.RecommendationModel.objects.create(
            tenant=tenant, slug=f"m{index}", name=f"m{index}", key_fields=["player_id"], unit_field="player_id"
        )
        layout = registry.Layout.objects.create(model=model, revision=0, fields=LAYOUT)
        versions = registry.Version.objects.bulk_create(
            registry.Version(model=model, layout=layout, name=f"v{code}", code=code) for code in range(VERSIONS)
        )
        registry.RolloutRevision.objects.create(
            model=model,
            number=1,
            salt=f"{index:032x}",
            weights_bp={str(code): 2000 for code in range(VERSIONS)},
            allocation=_allocation(index),
            actor_name="benchmark",
        )
        registry.Override.objects.bulk_create(
            registry.Override(model=model, unit=f"tester{tester}", version=versions[tester % VERSIONS])
            for tester in range(TESTERS)
        )


@lru_cache(maxsize=MODELS)
def _allocation(index: int) -> bytes:
    return first_allocation(dict.fromkeys(range(VERSIONS), 2000), f"{index:032x}", 1)
