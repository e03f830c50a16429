"""When a worker leaves signs of life, and what is told of them."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
import redis
from celery import current_app
from django.db import OperationalError
from django_celery_beat.schedulers import DatabaseScheduler
from pytest_django import Settings

from recsite import __version__
from recsite.background.heartbeats import COMPONENTS, FORGET_MS, Heartbeat, heartbeat_name, signs, verdict
from recsite.background.scheduler import AGAIN_SECONDS, Scheduler
from recsite.background.steps import STANDS_STILL_SECONDS, Signs


class Counted(Heartbeat):
    """Counts signs instead of leaving them."""

    def __init__(self) -> None:
        super().__init__(["worker"])
        self.count = 0

    def beat(self) -> None:
        self.count += 1


@pytest.mark.parametrize(
    ("turned_ago", "signs"), [(1, 1), (STANDS_STILL_SECONDS + 1, 0), (None, 1)], ids=["turns", "stands", "has none"]
)
def test_signs__by_how_long_ago_the_event_loop_turned__are_left_or_not(turned_ago: float | None, signs: int) -> None:
    heartbeat = Counted()
    thread = Signs(heartbeat)
    thread._turned_at = None if turned_ago is None else time.monotonic() - turned_ago
    thread.end()
    thread.run()
    assert heartbeat.count == signs


def test_heartbeat__where_nothing_can_be_written__is_said_once(
    tmp_path_factory: pytest.TempPathFactory, settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path_factory.mktemp("var") / "file"
    file.touch()
    settings.VAR_DIR = file / "below"
    settings.TABLES_REDIS_URL = "redis://127.0.0.1:1/0"
    heartbeat = Heartbeat(COMPONENTS)
    heartbeat.beat()
    heartbeat.beat()
    assert [record.getMessage().partition(" ")[0] for record in caplog.records] == ["heartbeat.not_left"]


def test_heartbeat__of_some__is_remembered_of_these(
    valkey: redis.Redis, settings: Settings, tmp_path_factory: pytest.TempPathFactory
) -> None:
    settings.VAR_DIR = tmp_path_factory.mktemp("var")
    Heartbeat(["beat", "loader"]).beat()
    settings.RELEASE = ("later", "")
    valkey.psetex(heartbeat_name("worker"), FORGET_MS, b"what another release says")
    found = list(signs())
    assert [sign.component for sign in found] == ["worker", "loader", "beat"]
    assert all(0 <= sign.age_seconds < 60 for sign in found)
    assert [sign.told is not None and sign.told.version for sign in found] == [False, __version__, __version__]
    assert all(sign.told is None or 0 < (sign.told.free or 0) < 1 for sign in found)
    assert [verdict(component, settings.VAR_DIR)[0] for component in ("worker", "loader", "beat")] == [
        False,
        True,
        True,
    ]


class Times:
    """Fails so many times, then does nothing."""

    def __init__(self, failures: int) -> None:
        self.left = failures

    def __call__(self, *_: object) -> float:
        if self.left:
            self.left -= 1
            raise OperationalError("the database is away")
        return 1.0


def test_scheduler__database_away_at_its_start_and_later__goes_on(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.VAR_DIR = tmp_path
    away, ticking, slept = Times(2), Times(1), list[float]()
    handler = signal.getsignal(signal.SIGTERM)
    monkeypatch.setattr(DatabaseScheduler, "setup_schedule", away)
    monkeypatch.setattr(DatabaseScheduler, "tick", ticking)
    monkeypatch.setattr(time, "sleep", slept.append)
    made = Scheduler(app=current_app)
    assert (away.left, slept, signal.getsignal(signal.SIGTERM)) == (0, [AGAIN_SECONDS] * 2, handler)
    assert verdict("beat", tmp_path)[0]
    assert [made.tick(), made.tick()] == [AGAIN_SECONDS, 1.0]


def test_scheduler__told_to_end_in_the_middle_of_a_tick__does_not_touch_the_database(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.VAR_DIR = tmp_path
    synced: list[bool] = []
    monkeypatch.setattr(DatabaseScheduler, "setup_schedule", Times(0))
    monkeypatch.setattr(DatabaseScheduler, "sync", lambda _: synced.append(True))
    made = Scheduler(app=current_app)
    monkeypatch.setattr(DatabaseScheduler, "tick", lambda self: self.close() or 1.0)
    made.close()
    assert synced == [True]
    made.tick()
    made.sync()
    made.close()
    assert synced == [True]
