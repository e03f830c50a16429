"""The analysts' query, run by BigQuery: it puts every unit where serving puts it."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from models_registry.models import RecommendationModel, RolloutRevision
from models_registry.rollouts.analysis import assignment_query
from serving.formats.keys import SEPARATOR, slot
from tests import factories
from tests.bigquery.emulator import BigQuery
from tests.contract.source_stores import put_bigquery

pytestmark = pytest.mark.django_db

NAMES = {0: "2026-10-b", 1: "2026-11-a", 7: "2026-11-c"}
PLACEHOLDER = "your-project.your_dataset.your_table"


def rollout_of(model: RecommendationModel) -> RolloutRevision:
    revision: RolloutRevision = factories.RolloutRevisionFactory.create(
        model=model, weights={0: 5000, 1: 3000, 7: 2000}, salt="0296691cb2810965a50390ebc25eb3e1"
    )
    return revision


def ask(bigquery: BigQuery, query: str, table: str) -> list[Any]:
    assert query.count(PLACEHOLDER) == 1
    return list(bigquery.client.query(query.replace(PLACEHOLDER, table)).result())


def test_query__of_players__gives_each_the_slot_and_version_that_serving_does(bigquery: BigQuery) -> None:
    model = factories.ModelFactory.create()
    revision = rollout_of(model)
    players = [f"p{number}" for number in range(500)] + ["it's", "back\\slash", "münchen ☀"]
    kpi = pa.table({"player_id": players, "spent": pa.array(range(len(players)), pa.int64())})
    table = put_bigquery(bigquery, "kpis", "players", kpi)
    testers = ["p3", "it's", "back\\slash"]

    rows = ask(bigquery, assignment_query(model, revision, NAMES, testers), table)

    assert {row["player_id"] for row in rows} == set(players) - set(testers)
    for row in rows:
        own = slot(revision.salt, row["player_id"])
        assert (row["slot"], row["version"]) == (own, NAMES[revision.allocation[own]])
        assert row["spent"] == players.index(row["player_id"])


def test_query__of_whole_keys__joins_their_parts_as_serving_does(bigquery: BigQuery) -> None:
    model = factories.ModelFactory.create(key_fields=["country", "level"], unit_field="", default_answer=None)
    revision = rollout_of(model)
    kpi = pa.table({"country": ["DE", "LT", "D", "E"], "level": pa.array([1, 22, 3, 4], pa.int64())})
    table = put_bigquery(bigquery, "kpis", "bands", kpi)

    rows = ask(bigquery, assignment_query(model, revision, NAMES, []), table)

    assert len(rows) == 4
    for row in rows:
        own = slot(revision.salt, f"{row['country']}{SEPARATOR}{row['level']}")
        assert (row["slot"], row["version"]) == (own, NAMES[revision.allocation[own]])
