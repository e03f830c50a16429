"""Every odd source of the corpus: the harmless ones are served, the bad ones leave what was served as it was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest
import redis
from django.conf import settings as project_settings
from pytest_django import Settings

from models_registry.models import LoadState, ProblemCode
from models_registry.publishing import build_tenant
from serving import engine
from serving.formats.seals import parse_seal_keys
from serving.http import Response
from tests import bad_file_sources as files
from tests import serving_world
from tests.bad_sources import BAD_COLUMNS, BAD_FILES, BAD_ROWS, HARMLESS, NAME, ROWS, SOURCES, Source, usual
from tests.loading_scene import Scene, row

pytestmark = pytest.mark.django_db


@pytest.fixture
def scene(tmp_path: Path, settings: Settings, valkey: redis.Redis) -> Scene:
    """Return a version that serves the usual rows, from a folder that is left empty."""
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    folder = tmp_path / "rows"
    folder.mkdir()
    made = Scene(folder)
    assert made.load(usual()).state == LoadState.ACTIVE
    (folder / NAME).unlink()
    return made


def served(scene: Scene, valkey: redis.Redis, keys: Sequence[str]) -> list[Any]:
    """Return what the lane's engine answers, reading the tables that a snapshot of this moment names."""
    known = serving_world.world(
        msgspec.structs.replace(build_tenant(scene.tenant), credentials=(serving_world.credential(),)),
        seal_keys=parse_seal_keys(project_settings.SEAL_KEYS),
    )
    settings = engine.Settings(project_settings.REDIS_PREFIX, 1e9)
    answers = []
    for key in keys:
        step = engine.begin(serving_world.get({"player_id": key}), known, serving_world.NOW, settings)
        while not isinstance(step, Response):
            read = cast(list[Any], valkey.mget(list(step.names)))
            step = step.resume([step.opened(index, block) for index, block in enumerate(read)])
        answers.append(msgspec.json.decode(step.body)["recommendation"] if step.status == 200 else step.status)
    return answers


def load(scene: Scene, source: Source) -> Any:
    source.write(scene.folder)
    scene.source.location = str(scene.folder / source.location)
    scene.source.save()
    return scene.load()


def name_of(source: Source) -> str:
    return source.name


BAD = [*BAD_FILES, *BAD_COLUMNS, *BAD_ROWS, *files.BAD_FILES, *files.BAD_COLUMNS, *files.BAD_ROWS]
CODES = {
    LoadState.REJECTED: {ProblemCode.ROWS_WRONG, ProblemCode.TOO_DIFFERENT},
    LoadState.FAILED: {
        ProblemCode.SOURCE_MISSING,
        ProblemCode.SOURCE_NOT_ALLOWED,
        ProblemCode.SOURCE_UNREADABLE,
        ProblemCode.SOURCE_CHANGED,
        ProblemCode.SOURCE_OVER_LIMIT,
    },
}
USUAL = [{name: value for name, value in row(number).items() if name != "player_id"} for number in range(ROWS)]


@pytest.mark.parametrize("source", BAD, ids=name_of)
def test_load__a_bad_source__ends_in_a_clear_sentence_and_what_was_served_is(
    source: Source, scene: Scene, valkey: redis.Redis
) -> None:
    ended = load(scene, source)

    assert ended.state == source.ends, ended.problem
    assert source.words in ended.problem
    assert ended.problem_code in CODES[ended.state]
    assert ended.problem[0] in f"“{ended.problem[0].upper()}"
    assert ended.problem.endswith(".")
    assert len(ended.problem) < 600
    assert ended.problem.isprintable()
    assert served(scene, valkey, [f"p{number}" for number in range(ROWS)]) == USUAL


@pytest.mark.parametrize("source", [*HARMLESS, *files.HARMLESS], ids=name_of)
def test_load__a_harmless_source__is_served(source: Source, scene: Scene, valkey: redis.Redis) -> None:
    ended = load(scene, source)

    assert (ended.state, ended.problem) == (LoadState.ACTIVE, "")
    assert ended.report["notes"] == ([source.words] if source.words else [])
    scene.version.refresh_from_db()
    assert scene.version.active_table == ended.table
    assert all(isinstance(found, dict) for found in served(scene, valkey, ["p0", "p1", "p46"]))


def test_corpus__its_names__differ() -> None:
    names = [source.name for source in [*SOURCES, *files.SOURCES]]
    assert len(set(names)) == len(names) > 200
