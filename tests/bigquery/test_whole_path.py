"""BigQuery, written by Google's client → a real Celery worker → Valkey → both doors; and what a load says when not."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pyarrow as pa
import pytest
import redis

from models_registry.catalogue.services import model_create, source_set, version_create
from models_registry.loading.requests import load_request
from models_registry.models import Load, LoadState, SourceKind, Version
from models_registry.publishing import publish_tenant
from recsite.embedded import EmbeddedValkey
from tenants.callers import mint_token
from tenants.credentials import credential_issue
from tenants.models import Tenant
from tenants.services import tenant_create, tenant_update
from tests.bigquery.emulator import PROJECT, BigQuery
from tests.celery_worker import celery_worker
from tests.contract.source_stores import put_bigquery
from tests.doors.processes import start_doors
from tests.doors.raw_http import RawConnection, request

pytestmark = pytest.mark.django_db(transaction=True)

LAYOUT = [
    {"name": "offer_id", "type": "uint", "min": 0, "max": 4095},
    {"name": "price", "type": "decimal", "min": 0, "max": 100, "step": 0.01},
    {"name": "items", "type": "list", "max_items": 4, "item": {"type": "uint", "min": 0, "max": 999}},
    {"name": "title", "type": "string", "max_bytes": 20, "optional": True},
]
DATASET = "lantern"
LOCATION = f"{PROJECT}.{DATASET}.offers"
GOOD = f"{PROJECT}.{DATASET}.good"
PLAYERS = 300


def record(number: int) -> dict[str, Any]:
    """Return what a player is to be recommended."""
    return {
        "offer_id": number * 7 % 4096,
        "price": number % 101 * 0.5 + 0.25,
        "items": [(number + i) % 1000 for i in range(number % 5)],
        "title": None if number % 3 == 0 else f"Angebot {number} é",
    }


def rows(**changes: pa.Array) -> pa.Table:
    """Return the table as BigQuery has it: NUMERIC prices, NULL titles, a TIMESTAMP that nobody wants."""
    records = [record(number) for number in range(PLAYERS)]
    columns: dict[str, pa.Array] = {
        "player_id": pa.array([f"p{number}" for number in range(PLAYERS)]),
        "offer_id": pa.array([r["offer_id"] for r in records], pa.int64()),
        "price": pa.array([Decimal(str(r["price"])) for r in records], pa.decimal128(38, 9)),
        "items": pa.array([r["items"] for r in records], pa.list_(pa.int64())),
        "title": pa.array([r["title"] for r in records]),
        "trained_at": pa.array([datetime(2026, 11, 1, tzinfo=UTC)] * PLAYERS, pa.timestamp("us", tz="UTC")),
    }
    return pa.table({name: array for name, array in (columns | changes).items() if array is not None})


@dataclass
class Way:
    """A version to load, and everything that loads and serves it."""

    version: Version
    lane_port: int
    drf_port: int
    log: Path

    def load(self, kind: str, location: str) -> Load:
        """Set the source, load it by the worker, and give the load as it ended."""
        source_set(version=self.version, kind=kind, location=location, actor=None)
        return self.load_again()

    def load_again(self) -> Load:
        """Load the source as it is set."""
        load = load_request(version=self.version, actor=None)
        deadline = time.monotonic() + 90
        while load.finished_at is None:
            assert time.monotonic() < deadline, self.log.read_text(errors="replace")[-3000:]
            time.sleep(0.1)
            load.refresh_from_db()
        return load

    def assert_served(self) -> None:
        """Ask both doors for every player."""
        tenant = self.version.model.tenant
        token, _ = mint_token(credential=credential_issue(tenant=tenant, name="test", actor=None).credential)
        headers = [("Authorization", f"Bearer {token}")]
        for port in (self.lane_port, self.drf_port):
            with RawConnection(port) as door:
                wait_until_known(door, headers)
                for number in range(PLAYERS):
                    answer = door.ask(request("GET", target({"player_id": f"p{number}"}), headers))
                    assert answer.header("recommendation-source") is None
                    served = json.loads(answer.body)
                    assert served == {"model": "offers", "version": "a", "recommendation": record(number)}


def target(parameters: Mapping[str, str]) -> str:
    return f"/v1/recommendations?{urlencode(parameters)}"


def wait_until_known(door: RawConnection, headers: list[tuple[str, str]]) -> None:
    """Wait until the door has the snapshot with this credential and the table."""
    deadline = time.monotonic() + 10
    while (answer := door.ask(request("GET", target({"player_id": "p1"}), headers))).status != 200:
        assert time.monotonic() < deadline, answer
        time.sleep(0.1)


@pytest.fixture
def way(bigquery: BigQuery, valkey: redis.Redis, valkey_server: EmbeddedValkey, tmp_path: Path) -> Iterator[Way]:
    allowed = (f"{PROJECT}.{DATASET}",)
    tenant: Tenant = tenant_create(slug="lantern", name="Lantern Games", actor=None, allowed_datasets=allowed)
    model = model_create(
        tenant=tenant,
        slug="offers",
        name="Offers",
        key_fields=["player_id"],
        layout=LAYOUT,
        unit_field="player_id",
        actor=None,
    )
    version = version_create(
        model=model, name="a", source_kind=SourceKind.BIGQUERY_TABLE, source_location=LOCATION, actor=None
    )
    assert publish_tenant(tenant.pk)
    settings = {
        "RECSITE_BIGQUERY_PROJECT": PROJECT,
        "RECSITE_BIGQUERY_API_ENDPOINT": bigquery.api_endpoint,
        "RECSITE_BIGQUERY_STORAGE_ENDPOINT": bigquery.storage_endpoint,
    }
    with (
        celery_worker(valkey_server.url, tmp_path, **settings) as log,
        start_doors(valkey_server.url, tmp_path) as doors,
    ):
        yield Way(version, doors.lane_port, doors.drf_port, log)


def test_load__from_a_table_then_from_a_query__served_by_both_doors(way: Way, bigquery: BigQuery) -> None:
    put_bigquery(bigquery, DATASET, "offers", rows())
    load = way.load(SourceKind.BIGQUERY_TABLE, LOCATION)
    assert (load.state, load.problem, load.rows_written) == (LoadState.ACTIVE, "", PLAYERS)
    assert load.source_snapshot_at is not None
    assert any("trained_at" in str(note) for note in load.report["notes"])
    asked_for = bigquery.fronts.sessions[-1].table_modifiers.snapshot_time
    assert asked_for.timestamp() == pytest.approx(load.source_snapshot_at.timestamp(), abs=1e-5)
    way.assert_served()

    query = f"SELECT player_id, offer_id, price, items, title FROM `{LOCATION}` WHERE trained_at IS NOT NULL"
    load = way.load(SourceKind.BIGQUERY_QUERY, query)
    assert (load.state, load.problem) == (LoadState.ACTIVE, "")
    labels = bigquery.fronts.queries()[-1]["labels"]
    assert labels == {"recsite_studio": "lantern", "recsite_model": "offers", "recsite_load": str(load.pk)}
    way.assert_served()


def test_load__of_what_will_not_do__says_so_in_a_sentence_and_the_old_table_goes_on(
    way: Way, bigquery: BigQuery
) -> None:
    put_bigquery(bigquery, DATASET, "good", rows())
    assert way.load(SourceKind.BIGQUERY_TABLE, GOOD).state == LoadState.ACTIVE

    nothing = pa.array([None] * PLAYERS, pa.int64())
    times = pa.array([datetime(2026, 11, 1, tzinfo=UTC)] * PLAYERS, pa.timestamp("us", tz="UTC"))
    third = pa.array([Decimal("0.333")] * PLAYERS, pa.decimal128(38, 9))
    for name, table, state, words in (
        ("nulls", rows(offer_id=nothing), LoadState.REJECTED, ("column offer_id, row 1", "a value is required")),
        ("times", rows(offer_id=times), LoadState.REJECTED, ("column offer_id is TIMESTAMP", "a whole number from 0")),
        ("thirds", rows(price=third), LoadState.REJECTED, ("price", "0.333")),
        ("unnamed", rows().drop_columns(["price"]), LoadState.REJECTED, ("column price is missing",)),
    ):
        put_bigquery(bigquery, DATASET, name, table)
        load = way.load(SourceKind.BIGQUERY_TABLE, f"{PROJECT}.{DATASET}.{name}")
        assert load.state == state, (name, load.problem)
        assert all(word.lower() in load.problem.lower() for word in words), (name, load.problem)

    load = way.load(SourceKind.BIGQUERY_TABLE, f"{PROJECT}.{DATASET}.absent")
    assert load.state == LoadState.FAILED
    assert load.problem.startswith(f"BigQuery cannot find the table “{PROJECT}.{DATASET}.absent”")

    load = way.load(SourceKind.BIGQUERY_QUERY, f"SELECT player_id, bonus FROM `{GOOD}`")
    assert load.state == LoadState.FAILED
    assert load.problem.startswith("BigQuery refuses the query: ")
    assert "bonus" in load.problem

    secrets = put_bigquery(bigquery, "foreign", "secrets", rows())
    load = way.load(SourceKind.BIGQUERY_QUERY, f"SELECT s.* FROM `{secrets}` s JOIN `{GOOD}` g USING (player_id)")
    assert load.state == LoadState.FAILED
    assert load.problem == (
        f"This studio may not read “{secrets}”, which the query uses: platform staff have not allowed the dataset "
        f"“{PROJECT}.foreign”."
    )
    way.assert_served()


def test_load__of_a_table_that_the_studio_may_no_longer_read__fails_and_the_old_table_goes_on(
    way: Way, bigquery: BigQuery
) -> None:
    location = put_bigquery(bigquery, DATASET, "withdrawn", rows())
    assert way.load(SourceKind.BIGQUERY_TABLE, location).state == LoadState.ACTIVE
    sessions_before = len(bigquery.fronts.sessions)
    tenant_update(tenant=way.version.model.tenant, actor=None, allowed_datasets=[f"{PROJECT}.another"])
    load = way.load_again()
    assert (load.state, load.problem) == (
        LoadState.FAILED,
        f"This studio may not read “{location}”: platform staff have not allowed the dataset “{PROJECT}.{DATASET}”.",
    )
    assert len(bigquery.fronts.sessions) == sessions_before
    way.assert_served()
