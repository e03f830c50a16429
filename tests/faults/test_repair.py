"""Redis loses tables while a lane serves them: no request fails, the loss is noticed, and a worker loads them again."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings as project_settings
from django.utils import timezone
from pytest_django import Settings

from models_registry.catalogue.services import default_set
from models_registry.loading.repair import repair_all
from models_registry.loading.requests import load_request
from models_registry.models import Load, LoadState, Table, Version
from models_registry.publishing import publish_tenant, republish_all
from recsite.embedded import EmbeddedValkey
from serving.formats.keys import block_name, canonical_key, digest, locate
from tenants.callers import mint_token
from tenants.credentials import credential_issue
from tests.celery_worker import celery_beat, celery_worker, point_celery_at
from tests.doors.raw_http import RawResponse
from tests.lane_process import LaneProcess, eventually, start_lane
from tests.loading_scene import Scene, columns, row

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = 3000
DEFAULT = {"offer_id": 1, "discount": 0.05, "segment": "new", "items": [], "title": None}


@pytest.fixture
def studio_scene(tmp_path: Path, settings: Settings, client: redis.Redis) -> Scene:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "loads"
    made = Scene(tmp_path)
    default_set(model=made.model, default_answer=DEFAULT, actor=None)
    made.load(columns(range(ROWS)))
    return made


class Players:
    """Asks a lane for players, and holds every answer against what may be answered."""

    def __init__(self, lane: LaneProcess, scene: Scene) -> None:
        credential = credential_issue(tenant=scene.tenant, name="game", actor=None).credential
        self._token, _ = mint_token(credential=credential)
        self._lane = lane
        assert publish_tenant(scene.tenant.pk)
        eventually(lambda: self.ask(1).status == 200)

    def ask(self, number: int) -> RawResponse:
        return self._lane.ask(f"/v1/recommendations?model=offers&player_id=p{number}", self._token)

    def sources(self) -> set[str | None]:
        """Ask for some players, each of whom gets the row or the fallback; give which of the two there were."""
        found: set[str | None] = set()
        for number in range(0, ROWS, 37):
            answer = self.ask(number)
            assert answer.status == 200
            source = answer.header("recommendation-source")
            right = DEFAULT if source else {name: value for name, value in row(number).items() if name != "player_id"}
            assert (json.loads(answer.body)["recommendation"], source) in ((right, None), (right, "fallback"))
            found.add(source)
        return found


@pytest.fixture
def players(studio_scene: Scene, server: EmbeddedValkey, tmp_path: Path) -> Iterator[Players]:
    with start_lane(server.url, tmp_path, "--block-cache-mb", "0") as lane:
        yield Players(lane, studio_scene)


def active(scene: Scene) -> Table:
    table = Version.objects.unscoped().get(pk=scene.version.pk).active_table
    assert table is not None
    return table


def repaired(scene: Scene, lost: Table) -> Any:
    """Do what beat does until another table is active."""
    republish_all()
    repair_all(timezone.now())
    return active(scene) != lost or None


@pytest.mark.parametrize("what", ["everything", "one block"])
def test_redis_loses__tables_of_a_lane_at_work__fallbacks_then_rows_again_by_one_load(
    what: str, players: Players, studio_scene: Scene, server: EmbeddedValkey, client: redis.Redis, tmp_path: Path
) -> None:
    lost = active(studio_scene)
    assert players.sources() == {None}
    with celery_worker(server.url, tmp_path, RECSITE_BROKER_URL=server.url) as log:
        eventually(lambda: "ready." in log.read_text(errors="replace") or None, seconds=60)
        if what == "everything":
            client.flushall()
            assert players.sources() == {"fallback"}
        else:
            number, _ = locate(digest(canonical_key(["p37"])), lost.block_bits)
            assert client.delete(block_name(project_settings.REDIS_PREFIX, lost.table_id, number))
            assert "fallback" in players.sources()
        eventually(lambda: repaired(studio_scene, lost), seconds=60)
    eventually(lambda: players.sources() == {None})
    loads = Load.objects.unscoped().filter(version=studio_scene.version, repairs=lost)
    assert [load.state for load in loads] == [LoadState.ACTIVE]


def test_redis_loses__tables_and_the_message_of_a_load_that_waits__that_load_brings_the_rows_back(
    players: Players, studio_scene: Scene, server: EmbeddedValkey, client: redis.Redis, tmp_path: Path
) -> None:
    lost = active(studio_scene)
    before = point_celery_at(server.url)
    waits = load_request(version=studio_scene.version, actor=None)
    point_celery_at(before)
    client.flushall()
    assert players.sources() == {"fallback"}
    broker = {"RECSITE_BROKER_URL": server.url}
    with celery_worker(server.url, tmp_path, **broker), celery_beat(server.url, tmp_path, **broker):
        eventually(lambda: active(studio_scene) != lost or None, seconds=120)
        eventually(lambda: players.sources() == {None} or None, seconds=60)
    lost.refresh_from_db()
    assert lost.lost_at is not None
    newest = Load.objects.unscoped().filter(version=studio_scene.version).latest("pk")
    assert (newest, newest.state, newest.attempts) == (waits, LoadState.ACTIVE, 1)


def test_redis_loses__a_block_of_which_the_table_before_is_whole__that_one_is_served(
    players: Players, studio_scene: Scene, client: redis.Redis
) -> None:
    before = active(studio_scene)
    studio_scene.load(columns(range(ROWS)))
    assert publish_tenant(studio_scene.tenant.pk)
    newest = active(studio_scene)
    assert newest != before
    for number in range(1 << newest.block_bits):
        assert client.delete(block_name(project_settings.REDIS_PREFIX, newest.table_id, number))
    assert players.sources() == {None}
    (load,) = repair_all(timezone.now())
    assert load.repairs == newest
