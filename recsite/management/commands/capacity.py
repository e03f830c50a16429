"""`manage.py capacity`: what an installation of a size needs."""

from __future__ import annotations

import math
from argparse import ArgumentParser, ArgumentTypeError
from collections.abc import Callable
from dataclasses import MISSING, Field, fields
from typing import Any

from django.core.management.base import BaseCommand
from typing_extensions import override

from recsite.capacity import Figure, Plan, UnitCosts, Workload, plan

SUFFIXES = {"k": 1e3, "M": 1e6, "B": 1e9}


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
                figure: Figure = field.metadata["figure"]
                is_needed = field.default is MISSING
                parser.add_argument(
                    "--" + field.name.replace("_", "-"),
                    type=_number(field, figure),
                    default=None if is_needed else field.default,
                    required=is_needed,
                    metavar="N",
                    help=figure.words if is_needed else f"{figure.words} (default: {field.default:,})",
                )

    @override
    def handle(self, **options: Any) -> None:
        work = Workload(**{field.name: options[field.name] for field in fields(Workload)})
        costs = UnitCosts(**{field.name: options[field.name] for field in fields(UnitCosts)})
        self.stdout.write("\n".join(_lines(work, plan(work, costs))))


def _number(field: Field[Any], figure: Figure) -> Callable[[str], float]:
    def read(typed: str) -> float:
        try:
            number = float(typed.rstrip("kMB")) * SUFFIXES.get(typed[-1:], 1)
        except ValueError:
            raise ArgumentTypeError(f"“{typed}” is not a number; write 5000, 50k, 20M or 1B") from None
        if not figure.least <= number <= figure.most:
            raise ArgumentTypeError(f"from {figure.least:,} to {figure.most:,.0f}")
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
