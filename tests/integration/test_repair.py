"""What Redis loses is noticed and loaded again: once, not in a circle, and never because Redis is merely away."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import cast

import pytest
import redis
from django.conf import settings as project_settings
from django.utils import timezone
from pytest_django import Settings

from models_registry.loading import repair
from models_registry.loading.repair import FIRST_PAUSE, LONGEST_PAUSE, repair_all
from models_registry.loading.running import run_load
from models_registry.models import Load, LoadState, Source, Table, TableState, Version
from recsite.embedded import free_port
from serving.formats.keys import block_name, lost_tables_name
from tenants.models import AuditEntry
from tests import factories
from tests.loading_scene import Scene, answer, columns

pytestmark = pytest.mark.django_db

ROWS = 3000
NAME = lost_tables_name(project_settings.REDIS_PREFIX)


@pytest.fixture
def scene(tmp_path: Path, settings: Settings, valkey: redis.Redis) -> Scene:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    made = Scene(tmp_path)
    made.write(columns(range(ROWS)))
    return made


@pytest.fixture
def table(scene: Scene) -> Table:
    made: Table = scene.load().table
    assert made.block_bits >= 5
    return made


def lose(client: redis.Redis, table: Table, number: int) -> None:
    assert client.delete(block_name(project_settings.REDIS_PREFIX, table.table_id, number))


def again(table: Table) -> Table:
    return Table.objects.unscoped().get(pk=table.pk)


def active(scene: Scene) -> Table | None:
    return Version.objects.unscoped().get(pk=scene.version.pk).active_table


def end(load: Load, state: LoadState, when: datetime) -> None:
    Load.objects.unscoped().filter(pk=load.pk).update(state=state, finished_at=when)


def test_repair_all__everything_is_there__nothing(scene: Scene, table: Table) -> None:
    assert repair_all(timezone.now()) == []
    assert again(table).lost_at is None


@pytest.mark.parametrize("how", ["flush", "one block", "one block, of which nothing can be seen but by all"])
def test_repair_all__something_is_gone__a_new_load_takes_its_place_once(
    how: str, scene: Scene, table: Table, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = timezone.now()
    if how == "flush":
        valkey.flushall()
    elif how == "one block":
        lose(valkey, table, 7)
    else:
        # As with a table so large that a sample misses the block: serving tells of it.
        monkeypatch.setattr(repair, "BLOCKS_LOOKED_FOR", 0)
        monkeypatch.setattr(repair, "FEWEST_OF_ONE_TABLE", 0)
        monkeypatch.setattr(repair, "_is_short", lambda *_: False)
        lose(valkey, table, 7)
        assert repair_all(now) == []
        valkey.sadd(NAME, table.table_id)
    (load,) = repair_all(now)
    assert (load.version, load.repairs, load.state) == (scene.version, table, LoadState.QUEUED)
    assert again(table).lost_at == now
    assert valkey.smembers(NAME) == set()
    assert repair_all(now + timedelta(seconds=10)) == []

    run_load(load.pk)
    repaired = active(scene)
    assert repaired is not None
    assert repaired.load == load
    assert answer(valkey, scene, repaired, "p7") is not None
    assert again(table).state == TableState.DROPPING
    assert repair_all(now + timedelta(hours=1)) == []
    entries = AuditEntry.objects.for_tenant(scene.tenant).values_list("action", flat=True)
    assert sorted(entries) == ["load.activate", "load.activate", "load.request", "table.lost"]


def test_repair_all__the_version_has_another_source_since__what_the_table_was_made_of_is_read(
    scene: Scene, table: Table, valkey: redis.Redis
) -> None:
    Source.objects.unscoped().filter(version=scene.version).update(location="/srv/tables/next.parquet")
    lose(valkey, table, 7)
    valkey.sadd(NAME, table.table_id)
    (load,) = repair_all(timezone.now())
    assert load.source_location == table.load.source_location != "/srv/tables/next.parquet"


def test_repair_all__fewer_keys_than_blocks__every_block_is_looked_for(
    scene: Scene, table: Table, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repair, "BLOCKS_LOOKED_FOR", 0)
    monkeypatch.setattr(repair, "FEWEST_OF_ONE_TABLE", 0)
    lose(valkey, table, 3)
    assert len(repair_all(timezone.now())) == 1


@pytest.mark.parametrize("part", [0, 1, 2, 3])
def test_repair_all__a_block_that_nobody_asks_for__noticed_in_one_of_three_looks(
    part: int, scene: Scene, table: Table, monkeypatch: pytest.MonkeyPatch, valkey: redis.Redis
) -> None:
    blocks = 1 << table.block_bits
    monkeypatch.setattr(repair, "BLOCKS_LOOKED_FOR", blocks // 3 + 1)
    monkeypatch.setattr(repair, "_is_short", lambda *_: False)
    lose(valkey, table, part * (blocks - 1) // 3)
    now = timezone.now()
    found = [load for look in range(3) for load in repair_all(now + look * timedelta(seconds=repair.LOOK_SECONDS))]
    assert [load.repairs for load in found] == [table]


def test_repair_all__a_block_was_cut_short__noticed_when_serving_tells(
    scene: Scene, table: Table, valkey: redis.Redis
) -> None:
    valkey.set(block_name(project_settings.REDIS_PREFIX, table.table_id, 0), b"x")
    valkey.sadd(NAME, table.table_id, "unknown00000", b"\xff")
    assert len(repair_all(timezone.now())) == 1


def test_repair_all__blocks_changed_places__noticed_when_serving_tells_and_until_they_are_back(
    scene: Scene, table: Table, valkey: redis.Redis
) -> None:
    names = [block_name(project_settings.REDIS_PREFIX, table.table_id, number) for number in range(2)]
    valkey.set(names[0], cast(bytes, valkey.get(names[1])))
    valkey.sadd(NAME, table.table_id)
    now = timezone.now()
    (load,) = repair_all(now)
    assert again(table).lost_at is not None
    assert repair_all(now + timedelta(seconds=10)) == []
    assert again(table).lost_at is not None
    end(load, LoadState.SUPERSEDED, now)


def test_repair_all__serving_missed_a_block_that_is_there__nothing(
    scene: Scene, table: Table, valkey: redis.Redis
) -> None:
    valkey.sadd(NAME, table.table_id)
    assert repair_all(timezone.now()) == []
    assert again(table).lost_at is None
    assert valkey.smembers(NAME) == set()


def test_repair_all__a_load_of_the_version_runs__waits_for_it(scene: Scene, table: Table, valkey: redis.Redis) -> None:
    running = scene.queue()
    valkey.flushall()
    assert repair_all(timezone.now()) == []
    run_load(running.pk)
    assert repair_all(timezone.now()) == []
    assert active(scene) == Load.objects.unscoped().get(pk=running.pk).table


def test_repair_all__only_a_kept_table_is_lost__no_load_and_nobody_goes_back_to_it(
    scene: Scene, table: Table, valkey: redis.Redis
) -> None:
    scene.load()
    lose(valkey, table, 0)
    assert repair_all(timezone.now()) == []
    assert again(table).lost_at is not None


def test_repair_all__the_repair_fails_again_and_again__tried_less_and_less_often(
    scene: Scene, table: Table, valkey: redis.Redis
) -> None:
    now = timezone.now()
    valkey.flushall()
    pauses = []
    for _ in range(9):
        (load,) = repair_all(now)
        end(load, LoadState.REJECTED, now)
        began = now
        while not repair_all(now + timedelta(seconds=1)):
            now += timedelta(seconds=30)
        Load.objects.unscoped().filter(repairs=table, state=LoadState.QUEUED).delete()
        pauses.append(now - began)
    assert pauses[0] <= FIRST_PAUSE + timedelta(seconds=30)
    assert all(later >= earlier for earlier, later in pairwise(pauses))
    assert LONGEST_PAUSE - timedelta(seconds=30) <= pauses[-1] <= LONGEST_PAUSE + timedelta(seconds=30)


def test_repair_all__the_blocks_come_back_from_a_backup__whole_again(
    scene: Scene, table: Table, valkey: redis.Redis
) -> None:
    name = block_name(project_settings.REDIS_PREFIX, table.table_id, 5)
    value = valkey.get(name)
    assert isinstance(value, bytes)
    lose(valkey, table, 5)
    (load,) = repair_all(timezone.now())
    end(load, LoadState.FAILED, timezone.now())
    valkey.set(name, value)
    assert repair_all(timezone.now() + timedelta(hours=2)) == []
    assert again(table).lost_at is None


def test_repair_all__redis_is_away__nothing_is_known(scene: Scene, table: Table, settings: Settings) -> None:
    settings.TABLES_REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    assert repair_all(timezone.now()) == []
    assert again(table).lost_at is None


def test_repair_all__no_source_or_the_studio_has_ended__no_load(
    scene: Scene, table: Table, valkey: redis.Redis
) -> None:
    valkey.flushall()
    scene.source.delete()
    assert repair_all(timezone.now()) == []
    assert again(table).lost_at is not None
    factories.SourceFactory.create(version=scene.version)
    scene.tenant.ended_at = timezone.now()
    scene.tenant.save()
    assert repair_all(timezone.now()) == []
