"""`manage.py capacity`: what an installation of a size needs."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any

from django.core.management.base import BaseCommand
from typing_extensions import override

from recsite.capacity import Plan, UnitCosts, Workload, plan

SUFFIXES = {"k": 1e3, "M": 1e6, "B": 1e9}
# Of each option what it is, the least and the most.
OPTIONS = {
    "players": ("rows of each version's table, such as 20M or 1B", 1, 1e12),
    "versions": ("versions with weight, over all models and studios", 1, 1e6),
    "requests": ("a second at the busiest moment, such as 50k; a key of a batch is one", 1, 1e9),
    "loads_a_day": ("of each version", 0, 1440),
    "load_minutes": ("within how long the loads of all versions are to be done", 1, 1440),
    "replicas": ("copies of each Redis", 0, 10),
    "busy_share": ("of a core that the busiest moment may take", 0.01, 1),
    "average_share": ("of --requests, over a month", 0, 1),
    "redis_node_gb": ("memory of one Redis that you would run", 1, 1e5),
    "request_cpu_us": ("CPU time of a lane for a request (make bench-serving, “CPU µs”)", 0.1, 1e6),
    "redis_cpu_us": ("CPU time of Redis for a block (make bench-serving)", 0.1, 1e6),
    "row_bytes": ("memory of Redis for a row (make bench-loading, or the report of a load)", 1, 1e6),
    "rows_a_second": ("what one loader loads (make bench-loading)", 1, 1e9),
    "answer_bytes": ("an answer with its headers, TLS and TCP", 1, 1e6),
    "core_month": ("price of a core for a month", 0, 1e6),
    "memory_gb_month": ("price of a GB of memory for a month", 0, 1e6),
    "redis_gb_month": ("price of a GB of Redis for a month", 0, 1e6),
    "egress_gb": ("price of a GB sent to the internet", 0, 1e6),
}


class Command(BaseCommand):
    """Prints a plan; nothing is connected to."""

    help = (
        "Say what an installation of a size needs: lanes, Redis, loaders, money. The unit costs are those measured "
        "for docs/performance.md; give your own where you have measured them, and your prices."
    )
    requires_system_checks = ()

    @override
    def add_arguments(self, parser: ArgumentParser) -> None:
        for of in (Workload, UnitCosts):
            for field in fields(of):
                words, least, most = OPTIONS[field.name]
                is_needed = field.default is MISSING
                parser.add_argument(
                    "--" + field.name.replace("_", "-"),
                    type=_number(field, least, most),
                    default=None if is_needed else field.default,
                    required=is_needed,
                    metavar="N",
                    help=words if is_needed else f"{words} (default: {field.default:,})",
                )

    @override
    def handle(self, **options: Any) -> None:
        work = Workload(**{field.name: options[field.name] for field in fields(Workload)})
        costs = UnitCosts(**{field.name: options[field.name] for field in fields(UnitCosts)})
        self.stdout.write("\n".join(_lines(work, plan(work, costs))))


def _number(field: Field[Any], least: float, most: float) -> Callable[[str], float]:
    def read(typed: str) -> float:
        try:
            number = float(typed.rstrip("kMB")) * SUFFIXES.get(typed[-1:], 1)
        except ValueError:
            raise ArgumentTypeError(f"“{typed}” is not a number; write 5000, 50k, 20M or 1B") from None
        if not least <= number <= most:
            raise ArgumentTypeError(f"from {least:,} to {most:,.0f}")
        if field.type == "float":
            return number
        if number != math.trunc(number):
            raise ArgumentTypeError("a whole number")
        return int(number)

    return read


def _lines(work: Workload, needed: Plan) -> list[str]:
    copies = {0: "", 1: ", each with a copy"}.get(work.replicas, f", each with {work.replicas} copies")
    reason = f"; so many for {needed.redis_is_bound_by}" if needed.redis_nodes > 1 else ""
    return [
        f"{work.players:,} players × {work.versions:,} versions, {work.requests:,} requests/s at most",
        "",
        f"  Lanes     {needed.lane_pods:,} pods of one core and 0.5 GB",
        f"  Redis     {needed.redis_nodes:,} of {needed.redis_node_gb:,} GB{copies}{reason}",
        f"            {needed.redis_gb:,.1f} GB of tables, {needed.redis_keys:,} keys, while all versions are loaded",
        f"            a lost block that nobody asks for is noticed within {_span(max(10.0, needed.look_seconds))}",
        f"  Loaders   {needed.loaders:,} of two cores and 1.5 GB; a version takes one {_span(needed.load_seconds)}",
        f"  Answers   {needed.answers_gb_month:,.0f} GB a month",
        f"  Money     {needed.machines_month:,.0f} a month for these machines, {needed.egress_month:,.0f} for sending",
    ]


def _span(seconds: float) -> str:
    if seconds < 100:
        return f"{math.ceil(seconds)} s"
    return f"{seconds / 60:,.0f} min" if seconds < 6000 else f"{seconds / 3600:,.1f} h"
