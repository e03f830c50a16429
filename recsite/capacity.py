"""How much of everything an installation needs: arithmetic over unit costs that benchmarks on this code measured.

Unit costs are those of docs/performance.md, of a core of the machine that is named there; whoever has measured their
own (`make bench-serving`, `make bench-loading`) gives those. Prices are examples of the order of a large cloud's list.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal, NamedTuple

from models_registry.loading.activation import TABLES_KEPT
from models_registry.loading.repair import BLOCKS_LOOKED_FOR, LOOK_SECONDS

# The served table and those kept for a rollback; while a load writes, one more.
TABLES_AT_ONCE = 1 + TABLES_KEPT + 1
ROWS_A_BLOCK = 48  # the mean lies between 32 and 64
SPARE = 1.25  # for the allocator's fragments
HOURS_A_MONTH = 730
GB = 10**9


class Figure(NamedTuple):
    """What a figure that somebody gives is, and the least and the most that it may be."""

    words: str
    least: float
    most: float


def _figure(words: str, least: float, most: float) -> dict[str, Figure]:
    return {"figure": Figure(words, least, most)}


@dataclass(frozen=True, kw_only=True)
class Workload:
    """What is asked of an installation."""

    players: int = field(metadata=_figure("rows of each version's table, such as 20M or 1B", 1, 1e12))
    versions: int = field(default=2, metadata=_figure("versions with weight, over all models and studios", 1, 1e6))
    requests: int = field(
        default=1_000,
        metadata=_figure("a second at the busiest moment, such as 50k; a key of a batch is one", 1, 1e9),
    )
    loads_a_day: int = field(default=6, metadata=_figure("of each version", 0, 1440))
    # If they begin at once.
    load_minutes: int = field(
        default=30, metadata=_figure("within how long the loads of all versions are to be done", 1, 1440)
    )
    replicas: int = field(default=1, metadata=_figure("copies of each Redis", 0, 10))
    # A lane's core or Redis'; the rest is for bursts.
    busy_share: float = field(default=0.6, metadata=_figure("of a core that the busiest moment may take", 0.01, 1))
    average_share: float = field(default=0.4, metadata=_figure("of --requests, over a month", 0, 1))
    redis_node_gb: int = field(default=64, metadata=_figure("memory of one Redis that you would run", 1, 1e5))


@dataclass(frozen=True, kw_only=True)
class UnitCosts:
    """What one of each costs; money is in any one currency."""

    # Each with a token of its own and a block from Redis.
    request_cpu_us: float = field(
        default=27.4, metadata=_figure("CPU time of a lane for a request (make bench-serving, “CPU µs”)", 0.1, 1e6)
    )
    # Where a lane sends those of one turn together.
    redis_cpu_us: float = field(
        default=2.5, metadata=_figure("CPU time of Redis for a block (make bench-serving)", 0.1, 1e6)
    )
    row_bytes: float = field(
        default=13.3,
        metadata=_figure("memory of Redis for a row (make bench-loading, or the report of a load)", 1, 1e6),
    )
    # Checks included, on two cores of its own.
    rows_a_second: float = field(
        default=1_180_000, metadata=_figure("what one loader loads (make bench-loading)", 1, 1e9)
    )
    # The README's has 320 with its headers.
    answer_bytes: int = field(default=400, metadata=_figure("an answer with its headers, TLS and TCP", 1, 1e6))
    core_month: float = field(default=25.0, metadata=_figure("price of a core for a month", 0, 1e6))
    memory_gb_month: float = field(default=3.5, metadata=_figure("price of a GB of memory for a month", 0, 1e6))
    redis_gb_month: float = field(default=20.0, metadata=_figure("price of a GB of Redis for a month", 0, 1e6))
    egress_gb: float = field(default=0.08, metadata=_figure("price of a GB sent to the internet", 0, 1e6))


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
