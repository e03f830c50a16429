"""How much of everything an installation needs: arithmetic over unit costs that benchmarks on this code measured.

Unit costs are those of docs/performance.md, of a core of the machine that is named there; whoever has measured their
own (`make bench-serving`, `make bench-loading`) gives those. Prices are examples of the order of a large cloud's list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from models_registry.loading.activation import TABLES_KEPT
from models_registry.loading.repair import BLOCKS_LOOKED_FOR, LOOK_SECONDS

# The served table and those kept for a rollback; while a load writes, one more.
TABLES_AT_ONCE = 1 + TABLES_KEPT + 1
ROWS_A_BLOCK = 48  # the mean lies between 32 and 64
SPARE = 1.25  # for the allocator's fragments
HOURS_A_MONTH = 730
GB = 10**9


@dataclass(frozen=True, kw_only=True)
class UnitCosts:
    """What one of each costs.

    Attributes:
        request_cpu_us: CPU time of a lane for a request, each with a token of its own and a block from Redis.
        redis_cpu_us: CPU time of Redis for a block, where a lane sends those of one turn together.
        row_bytes: memory of Redis for a row.
        rows_a_second: what one loader loads, checks included, on two cores of its own.
        answer_bytes: an answer on the wire: the README's has 320 bytes with its headers; TLS and TCP come to it.
        core_month, memory_gb_month, redis_gb_month: money for a core, a GB of memory and a GB of managed Redis a month.
        egress_gb: money for a GB sent to the internet.
    """

    request_cpu_us: float = 27.4
    redis_cpu_us: float = 2.5
    row_bytes: float = 13.3
    rows_a_second: float = 1_180_000
    answer_bytes: int = 400
    core_month: float = 25.0
    memory_gb_month: float = 3.5
    redis_gb_month: float = 20.0
    egress_gb: float = 0.08


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is asked of an installation.

    Attributes:
        players: rows of each version's table.
        versions: versions with weight, over all models and studios.
        requests: at the busiest moment, a second; a key of a batch counts as one.
        loads_a_day: of each version.
        load_minutes: within how long all versions' loads are to be done, if they begin at once.
        replicas: copies of each Redis.
        busy_share: of a core, a lane's or Redis', that the busiest moment may take; the rest is for bursts.
        average_share: of `requests`, over a month.
        redis_node_gb: memory of one Redis that you would run.
    """

    players: int
    versions: int = 2
    requests: int = 1_000
    loads_a_day: int = 6
    load_minutes: int = 30
    replicas: int = 1
    busy_share: float = 0.6
    average_share: float = 0.4
    redis_node_gb: int = 64


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What it takes.

    Attributes:
        lane_pods: of one worker and one core each; at least three, for three zones.
        redis_gb: of tables at the moment when all versions are loaded, without copies and spare.
        redis_nodes: masters, by memory or by the reads that a core can answer.
        redis_node_gb: of each, with a quarter spare for the allocator.
        redis_keys: blocks of all those tables.
        load_seconds: of one version's table on one loader.
        loaders: that must work at a time, with two cores each.
        look_seconds: until each block of the served tables has been looked for once.
        answers_gb_month: sent to players.
        machines_month: of lanes, loaders and Redis; not of the database, balancers and people.
        egress_month: of the answers.
    """

    lane_pods: int
    redis_gb: float
    redis_nodes: int
    redis_node_gb: int
    redis_is_bound_by: Literal["memory", "reads"]
    redis_keys: int
    load_seconds: float
    loaders: int
    look_seconds: float
    answers_gb_month: float
    machines_month: float
    egress_month: float


def plan(work: Workload, costs: UnitCosts) -> Plan:
    """Return what a workload takes; everything is linear but for the least numbers."""
    lane_pods = max(3, math.ceil(work.requests * costs.request_cpu_us / 1e6 / work.busy_share))
    rows = work.players * work.versions
    redis_gb = rows * costs.row_bytes * TABLES_AT_ONCE / GB
    by_memory = math.ceil(redis_gb * SPARE / work.redis_node_gb)
    by_reads = math.ceil(work.requests * costs.redis_cpu_us / 1e6 / work.busy_share)
    redis_nodes = max(1, by_memory, by_reads)
    load_seconds = work.players / costs.rows_a_second
    loaders = max(1, math.ceil(load_seconds * work.versions / (work.load_minutes * 60)))
    answers_gb = work.requests * work.average_share * HOURS_A_MONTH * 3600 * costs.answer_bytes / GB
    busy_hours = load_seconds * work.versions * work.loads_a_day * 30 / 3600
    machines = (
        lane_pods * (costs.core_month + 0.5 * costs.memory_gb_month)
        + redis_gb * SPARE * (1 + work.replicas) * costs.redis_gb_month
        # Loaders are paid for while they load, where machines come and go; the first one stays.
        + (2 * costs.core_month + 2 * costs.memory_gb_month) * max(1.0, busy_hours / HOURS_A_MONTH)
    )
    return Plan(
        lane_pods=lane_pods,
        redis_gb=redis_gb,
        redis_nodes=redis_nodes,
        redis_node_gb=math.ceil(redis_gb * SPARE / redis_nodes),
        redis_is_bound_by="reads" if by_reads > by_memory else "memory",
        redis_keys=math.ceil(rows * TABLES_AT_ONCE / ROWS_A_BLOCK),
        load_seconds=load_seconds,
        loaders=loaders,
        look_seconds=rows / ROWS_A_BLOCK / BLOCKS_LOOKED_FOR * LOOK_SECONDS,
        answers_gb_month=answers_gb,
        machines_month=machines,
        egress_month=answers_gb * costs.egress_gb,
    )
