"""How far a load is: steps, speed, what is left, and whether anybody works on it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from models_registry.loading.progress import STEP_OF_STAGE, progress_of
from models_registry.loading.report import StageName
from models_registry.models import Load, LoadState
from recsite.dashboard.templatetags.loads import LOOKS, STAGES, stage_words

NOW = datetime(2026, 11, 12, 12, tzinfo=UTC)


def load(state: LoadState, **values: Any) -> Load:
    began = NOW - timedelta(seconds=20)
    return Load(**{"state": state, "created_at": began, "started_at": began, "heartbeat_at": NOW, **values})


def steps(found: Load) -> list[str]:
    return [step.state for step in progress_of(found, NOW).steps]


def test_progress__waiting__has_no_time_of_its_own() -> None:
    found = progress_of(load(LoadState.QUEUED, started_at=None, heartbeat_at=None), NOW)
    assert found.is_running
    assert (found.elapsed, found.rows_per_second, found.seconds_left) == (None, None, None)
    assert found.is_waiting_long
    assert steps(found.load) == ["now", "ahead", "ahead", "ahead", "ahead", "ahead"]


def test_progress__reading__is_judged_by_the_rows_the_source_promised() -> None:
    found = progress_of(load(LoadState.EXTRACTING, rows_read=2_000, rows_expected=5_000), NOW)
    assert (found.rows_per_second, found.seconds_left, found.read_share) == (100, 30, 0.4)
    assert found.written_share == 0


def test_progress__reading_without_a_promise__has_no_time_left() -> None:
    found = progress_of(load(LoadState.EXTRACTING, rows_read=2_000), NOW)
    assert (found.rows_per_second, found.seconds_left, found.read_share) == (100, None, None)


def test_progress__more_rows_than_promised__is_all_of_them() -> None:
    found = progress_of(load(LoadState.EXTRACTING, rows_read=6_000, rows_expected=5_000), NOW)
    assert (found.seconds_left, found.read_share) == (0, 1)


def test_progress__writing__leaves_the_earlier_stages_out_of_its_speed() -> None:
    stages = [{"name": "extract", "seconds": 8.0}, {"name": "check", "seconds": 2.0}]
    found = progress_of(load(LoadState.WRITING, rows_read=5_000, rows_written=1_000, report={"stages": stages}), NOW)
    assert (found.rows_per_second, found.seconds_left, found.written_share) == (100, 40, 0.2)


def test_progress__worker_that_says_nothing__is_silent() -> None:
    assert not progress_of(load(LoadState.WRITING), NOW).is_silent
    assert progress_of(load(LoadState.WRITING, heartbeat_at=NOW - timedelta(minutes=3)), NOW).is_silent
    ended = load(LoadState.FAILED, heartbeat_at=NOW - timedelta(minutes=3), finished_at=NOW)
    assert not progress_of(ended, NOW).is_silent


@pytest.mark.parametrize(
    ("state", "values", "wanted"),
    [
        (LoadState.ACTIVE, {}, ["done"] * 6),
        (LoadState.WRITING, {}, ["done", "done", "done", "now", "ahead", "ahead"]),
        (LoadState.REJECTED, {}, ["done", "done", "stopped", "ahead", "ahead", "ahead"]),
        (LoadState.FAILED, {"started_at": None}, ["stopped", "ahead", "ahead", "ahead", "ahead", "ahead"]),
        (LoadState.CHECKED, {"is_dry_run": True}, ["done"] * 4),
        (LoadState.REJECTED, {"is_dry_run": True}, ["done", "done", "stopped", "ahead"]),
    ],
)
def test_steps__of_a_state(state: LoadState, values: dict[str, Any], wanted: list[str]) -> None:
    assert steps(load(state, **values)) == wanted


def test_looks_and_words__of_states_and_stages__are_there_for_each() -> None:
    assert set(LOOKS) == set(LoadState)
    assert set(STAGES) == set(STEP_OF_STAGE) == set(StageName)
    assert stage_words("later") == "Later"
