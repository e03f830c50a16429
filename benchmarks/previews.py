"""What the preview of a change of weights costs: `python -m benchmarks previews`.

For models of 2 to 12 versions with 200 revisions of one phase behind them, which is all that a preview reads of a
longer history: revisions that move 1 % of the units from one version to another, and, as the worst that can be,
revisions with weights drawn anew each time. Rows are in SQLite; CPU is this process's, queries included.
"""

from __future__ import annotations

import os
import random
import statistics
import time
from argparse import Namespace

from django.core.management import call_command

from benchmarks.machine import Cores
from benchmarks.reporting import number, table
from benchmarks.site import BenchSite
from models_registry import models as registry
from models_registry.rollouts.allocation import HISTORY, first_allocation, reallocate
from models_registry.rollouts.services import rollout_preview
from tenants.models import Tenant

VERSIONS = (2, 3, 6, 12)
STEP_BP = 100
PREVIEWS = 40
SALT = "5f1c0a9e5f1c0a9e5f1c0a9e5f1c0a9e"

Weights = dict[int, int]


def run(_options: Namespace, _site: BenchSite, _cores: Cores) -> int:
    """Print what previews cost; give the exit code."""
    call_command("migrate", verbosity=0)
    tenant = Tenant.objects.create(slug="previews", name="Previews")
    draw = random.Random(1)
    rows: list[tuple[str, ...]] = []
    for versions in VERSIONS:
        for words, is_step in (("steps of 1 %", True), ("weights drawn anew", False)):
            model, weights = _make_model(tenant, f"m{len(rows)}", versions, draw, is_step=is_step)
            costs = sorted(_cost(model, _next(weights, draw, is_step=is_step)) for _ in range(PREVIEWS))
            shown = (number(1000 * cost, ",.1f") for cost in (statistics.median(costs), costs[-1]))
            rows.append((f"{versions} versions, {words}", *shown))
    print(table((f"{HISTORY} revisions", "ms of CPU, median", "worst"), rows))
    print(f"load of the machine: {os.getloadavg()[0]:.1f}")
    return 0


def _cost(model: registry.RecommendationModel, weights: Weights) -> float:
    started = time.process_time()
    rollout_preview(model=model, weights_bp=weights)
    return time.process_time() - started


def _next(weights: Weights, draw: random.Random, *, is_step: bool) -> Weights:
    """Return weights that some product manager, or nobody in their senses, would choose after these."""
    if not is_step:
        cuts = sorted(draw.sample(range(1, registry.BASIS_POINTS), len(weights) - 1))
        return {code: end - start for code, (start, end) in enumerate(zip([0, *cuts], [*cuts, 10_000], strict=True))}
    giver = draw.choice([code for code, bp in weights.items() if bp >= STEP_BP])
    taker = draw.choice([code for code in weights if code != giver])
    return {**weights, giver: weights[giver] - STEP_BP, taker: weights[taker] + STEP_BP}


def _make_model(
    tenant: Tenant, slug: str, versions: int, draw: random.Random, *, is_step: bool
) -> tuple[registry.RecommendationModel, Weights]:
    """Make a model with so many revisions that a preview reads all of history; return it with its present weights."""
    model = registry.RecommendationModel.objects.create(
        tenant=tenant, slug=slug, name=slug, key_fields=["player_id"], unit_field="player_id"
    )
    layout = registry.Layout.objects.create(
        model=model, revision=0, fields=[{"name": "offer_id", "type": "uint", "min": 0, "max": 4095}]
    )
    registry.Version.objects.bulk_create(
        registry.Version(model=model, layout=layout, name=f"v{code}", code=code) for code in range(versions)
    )
    weights = dict.fromkeys(range(versions), registry.BASIS_POINTS // versions)
    weights[0] += registry.BASIS_POINTS - sum(weights.values())
    maps, all_weights = [first_allocation(weights, SALT, 1)], [weights]
    while len(maps) <= HISTORY:
        all_weights.append(_next(all_weights[-1], draw, is_step=is_step))
        maps.append(reallocate(maps[-1], all_weights[-1], SALT, len(maps) + 1, maps[:-1]))
    registry.RolloutRevision.objects.bulk_create(
        registry.RolloutRevision(
            model=model,
            number=index,
            salt=SALT,
            weights_bp={str(code): bp for code, bp in its_weights.items()},
            allocation=its_map,
            actor_name="benchmark",
        )
        for index, (its_map, its_weights) in enumerate(zip(maps, all_weights, strict=True), 1)
    )
    return model, all_weights[-1]
