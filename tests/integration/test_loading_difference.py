"""A load's rows against the table that is served, block by block, in a real Valkey."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import redis
from django.conf import settings as project_settings
from django.test import Client
from pytest_django import Settings

from models_registry.loading import comparisons, difference
from models_registry.loading.requests import load_waive
from models_registry.loading.running import run_load
from models_registry.models import Load, LoadState
from serving.formats.keys import block_name
from tests.integration.dashboard_scene import get
from tests.loading_scene import Scene, answer, columns, row

pytestmark = pytest.mark.django_db

FIXED = [
    {"name": "offer_id", "type": "uint", "min": 0, "max": 4095},
    {"name": "rank", "type": "uint", "min": 0, "max": 7},
]
NOTHING = [{"name": "only", "type": "enum", "values": ["this"]}]


@pytest.fixture(autouse=True)
def workspace(tmp_path: Path, settings: Settings, valkey: redis.Redis) -> None:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"


def scene_of(folder: Path, fields: list[dict[str, Any]] | None = None) -> Scene:
    """Return a scene whose loads are not stopped for differing."""
    scene = Scene(folder, fields=fields)
    scene.model.max_row_count_change = scene.model.max_psi = 1e9
    scene.model.min_coverage = 0
    scene.model.save()
    return scene


def fixed(rows: dict[str, int]) -> dict[str, Any]:
    """Return rows of `FIXED` by key; a row's value is offer and rank."""
    keys = list(rows)
    return {
        "player_id": pa.array(keys, pa.string()),
        "offer_id": pa.array([rows[key] // 8 for key in keys], pa.int64()),
        "rank": pa.array([rows[key] % 8 for key in keys], pa.int64()),
    }


def variable(rows: dict[str, int]) -> dict[str, Any]:
    """Return rows of the usual layout by key; a row's value is the player whose recommendation it has."""
    keys = list(rows)
    made = columns([rows[key] for key in keys])
    return {**made, "player_id": keys}


def found(load: Load) -> tuple[int, int, int, int]:
    assert load.state in {LoadState.CHECKED, LoadState.ACTIVE}, load.problem
    said = load.report["difference"]
    return said["added"], said["removed"], said["changed"], said["unchanged"]


def wanted(before: dict[str, int], now: dict[str, int]) -> tuple[int, int, int, int]:
    changed = sum(1 for key in before.keys() & now.keys() if before[key] != now[key])
    return len(now.keys() - before.keys()), len(before.keys() - now.keys()), changed, len(before.keys() & now) - changed


@pytest.mark.parametrize(("fields", "data"), [(FIXED, fixed), (None, variable)], ids=["fixed", "variable"])
@pytest.mark.parametrize(
    ("rows_before", "rows_now"), [(1, 1), (1, 3000), (3000, 1), (64, 65), (3000, 2900), (2900, 20_000)]
)
def test_difference__tables_of_any_sizes__counts_what_a_dictionary_would(
    rows_before: int,
    rows_now: int,
    fields: list[dict[str, Any]] | None,
    data: Callable[[dict[str, int]], dict[str, Any]],
    tmp_path: Path,
) -> None:
    rng = random.Random(rows_before * rows_now)
    before = {f"p{number}": rng.randrange(3000) for number in rng.sample(range(2 * rows_before), rows_before)}
    now = {f"p{number}": rng.randrange(3000) for number in rng.sample(range(2 * rows_now), rows_now)}
    for key in list(before)[::3]:
        if key in now:
            now[key] = before[key]
    scene = scene_of(tmp_path, fields)
    scene.load(data(before))
    load = scene.load(data(now), is_dry_run=True)

    # Two players of the usual layout can have one recommendation; of this one every number is another.
    if data is fixed:
        assert found(load) == wanted(before, now)
    else:
        same = {number: str({k: v for k, v in row(number).items() if k != "player_id"}) for number in range(3000)}
        texts = [{key: same[value] for key, value in rows.items()} for rows in (before, now)]
        assert found(load) == wanted(*texts)  # type: ignore[arg-type]  # values are only compared
    said = load.report["difference"]
    assert (said["is_estimate"], said["share_compared"]) == (False, 1.0)
    assert set(said["samples"]["added"]) <= now.keys() - before.keys()
    assert set(said["samples"]["changed"]) <= {key for key in now.keys() & before.keys() if now[key] != before[key]}
    assert len(said["samples"]["added"]) == min(5, said["added"])
    assert len(said["samples"]["changed"]) == min(5, said["changed"])


def test_difference__a_layout_of_no_bits__every_known_row_is_unchanged(tmp_path: Path) -> None:
    scene = scene_of(tmp_path, NOTHING)
    scene.load({"player_id": [f"p{n}" for n in range(300)], "only": ["this"] * 300})
    load = scene.load({"player_id": [f"p{n}" for n in range(100, 500)], "only": ["this"] * 400}, is_dry_run=True)
    assert found(load) == (200, 100, 0, 200)


def test_difference__the_same_again__everything_is_unchanged(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    scene.load(columns(range(5000)))
    assert found(scene.load(columns(range(5000)), is_dry_run=True)) == (0, 0, 0, 5000)


def test_difference__read_in_many_small_chunks__the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(difference, "CHUNK_BYTES", 1)
    scene = scene_of(tmp_path)
    scene.load(columns(range(1500)))
    assert found(scene.load(columns(range(500, 1600)), is_dry_run=True)) == (100, 500, 0, 1000)


def test_difference__a_first_load__there_is_none(tmp_path: Path) -> None:
    load = scene_of(tmp_path).load(columns(range(10)), is_dry_run=True)
    assert load.state == LoadState.CHECKED
    assert "difference" not in load.report
    assert "compare" not in [stage["name"] for stage in load.report["stages"]]


def test_difference__a_block_is_lost__is_noted_and_stops_nothing(tmp_path: Path, valkey: redis.Redis) -> None:
    scene = scene_of(tmp_path)
    good = scene.load(columns(range(1000)))
    valkey.delete(block_name(project_settings.REDIS_PREFIX, good.table.table_id, 3))
    load = scene.load(columns(range(1000)), is_dry_run=True)
    assert load.state == LoadState.CHECKED
    assert "difference" not in load.report
    assert load.report["notes"] == [
        "Not compared row by row with the served table: Redis has lost block 3 of the served table."
    ]


def test_difference__a_block_is_damaged__is_noted(tmp_path: Path, valkey: redis.Redis) -> None:
    scene = scene_of(tmp_path)
    good = scene.load(columns(range(1000)))
    valkey.set(block_name(project_settings.REDIS_PREFIX, good.table.table_id, 3), b"\xff\xff?")
    load = scene.load(columns(range(1000)), is_dry_run=True)
    assert (load.state, len(load.report["notes"])) == (LoadState.CHECKED, 1)
    assert "damaged" in load.report["notes"][0]


def test_difference__a_value_that_only_the_packer_refuses__rejects_a_dry_run(tmp_path: Path) -> None:
    scene = scene_of(tmp_path)
    scene.load(columns(range(3)))
    load = scene.load(columns(range(3), discount=[0.5, 0.2500010001, 0.75]), is_dry_run=True)
    assert load.state == LoadState.REJECTED
    assert load.problem.startswith("Column discount, row 2 (key p1): 0.2500010001 is not a whole number of steps")


def test_difference__of_a_load_with_many_rows__is_estimated_from_some_blocks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparisons, "ROWS_COMPARED", 4000)
    scene = scene_of(tmp_path, FIXED)
    scene.load(fixed({f"p{n}": n for n in range(20_000)}))
    load = scene.load(fixed({f"p{n}": n + (n % 4 == 0) for n in range(2_000, 22_000)}))
    added, removed, changed, unchanged = found(load)
    assert (added + changed + unchanged, removed + changed + unchanged) == (20_000, 20_000)
    assert added == pytest.approx(2000, rel=0.2)
    assert changed == pytest.approx(4500, rel=0.2)
    said = load.report["difference"]
    assert said["is_estimate"]
    assert said["share_compared"] == pytest.approx(0.2, abs=0.01)
    stage = next(stage for stage in load.report["stages"] if stage["name"] == "compare")
    assert stage["rows"] == pytest.approx(4000, rel=0.1)


# --- Coverage ---------------------------------------------------------------------------------------------------------


def test_coverage__keys_written_in_another_way__rejected_though_all_else_is_as_before(
    tmp_path: Path, valkey: redis.Redis
) -> None:
    scene = Scene(tmp_path)
    good = scene.load(columns(range(1000)))
    load = scene.load(columns(range(1000), player_id=[f"P{number}" for number in range(1000)]))
    assert load.state == LoadState.REJECTED
    assert load.problem == ("Only 0.0 % of the keys that are served are in the source, and less than 50 % is refused.")
    assert load.report["difference"]["removed"] == 1000
    assert answer(valkey, scene, good.table, "p1") is not None

    new = load_waive(load=load, actor=None, reason="new ids")
    run_load(new.pk)
    new.refresh_from_db()
    assert new.state == LoadState.ACTIVE
    assert answer(valkey, scene, new.table, "P1") is not None


def test_coverage__half_of_the_keys_and_as_many_new_ones__the_models_limit_decides(tmp_path: Path) -> None:
    scene = Scene(tmp_path)
    scene.load(columns(range(100)))
    load = scene.load(columns(range(100), player_id=[f"p{number + 60}" for number in range(100)]))
    assert [check["name"] for check in load.report["checks"] if not check["passed"]] == ["coverage"]
    scene.model.min_coverage = 0.4
    scene.model.save()
    assert scene.load().state == LoadState.ACTIVE


# --- On the dashboard -------------------------------------------------------------------------------------------------


def test_dashboard__a_load_with_a_difference__shows_it_with_the_distributions(
    tmp_path: Path, admin_client: Client
) -> None:
    scene = scene_of(tmp_path)
    scene.load(columns(range(300)))
    load = scene.load(columns(range(7, 400)))
    text = get(admin_client, f"/studios/{scene.model.tenant.slug}/loads/{load.pk}").text
    assert "What it changed" in text
    assert "Added 100 Removed 7" in text
    assert "How the values are spread" in text
    assert text.count("(PSI ") == 6
    assert "Comparing with what is served" in text
