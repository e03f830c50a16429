"""A real worker, of loads too, and a real beat: who lives is told from who hangs, and how tasks end is counted."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import pytest
import redis
from celery import current_app
from django.utils import timezone
from prometheus_client.samples import Sample
from pytest_django import Settings

from models_registry.loading.requests import load_request
from models_registry.models import Load, LoadState
from recsite import __version__
from recsite.background.heartbeats import COMPONENTS, SILENT_SECONDS, Component, sign_path, signs, verdict
from recsite.background.outcomes import outcomes
from recsite.embedded import EmbeddedValkey
from recsite.metrics.background import BackgroundCollector
from tests.celery_worker import celery_beat, celery_worker
from tests.doors.processes import ROOT, environment
from tests.faults.valve import Valve
from tests.lane_process import eventually, is_paused
from tests.loading_scene import Scene, columns

pytestmark = pytest.mark.django_db(transaction=True)


def make_old(component: Component, var_dir: Path) -> None:
    """Let a sign of life look as old as one that counts as silence."""
    at = time.time() - SILENT_SECONDS - 1
    os.utime(sign_path(component, var_dir), (at, at))


def samples() -> list[Sample]:
    """Return what the dashboard would tell."""
    return [sample for family in BackgroundCollector().collect() for sample in family.samples]


def asked(component: Component, var_dir: Path) -> tuple[int, str]:
    """Ask as a probe does."""
    command = [sys.executable, "manage.py", "healthy", component]
    said = subprocess.run(
        command, cwd=ROOT, env=environment("redis://", var_dir), capture_output=True, text=True, timeout=60, check=False
    )
    return said.returncode, said.stdout + said.stderr


def test_background__busy_hanging_and_running_again__is_told_apart(
    tmp_path: Path, settings: Settings, server: EmbeddedValkey, client: redis.Redis, valve: Valve
) -> None:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "loads"
    scene = Scene(tmp_path)
    scene.write(columns(range(300)))
    tables = {"RECSITE_REDIS_URL": f"redis://127.0.0.1:{valve.port}/0", "RECSITE_BROKER_URL": server.url}
    nothing_yet = f"worker: no sign of life yet, there is no {tmp_path}/heartbeats/worker.\n"
    assert asked("worker", tmp_path) == (1, nothing_yet)

    with ExitStack() as stack:
        stack.enter_context(celery_worker(server.url, tmp_path, **tables))
        stack.enter_context(celery_beat(server.url, tmp_path, **tables))
        for component in COMPONENTS:
            eventually(lambda of=component: verdict(of, tmp_path)[0], seconds=60)  # type: ignore[misc]  # mypy knows no defaults of lambdas

        # Busy: the worker's only process stands still in the middle of a load, and Redis takes nothing.
        valve.close_at("SET")
        load = load_request(version=scene.version, actor=None)
        eventually(lambda: valve.is_holding, seconds=60)
        for component in COMPONENTS:
            make_old(component, tmp_path)
        for component in COMPONENTS:
            eventually(lambda of=component: verdict(of, tmp_path)[0], seconds=60)  # type: ignore[misc]  # as above
        assert Load.objects.unscoped().get(pk=load.pk).state == LoadState.WRITING
        valve.open()

        # How it ended, how another did, and who lives, in Redis.
        current_app.send_task("loading.run_range", args=["no number"])
        eventually(lambda: "loading.run_range" in outcomes(), seconds=60)
        ran = eventually(lambda: outcomes().get("loading.run"), seconds=60)
        assert ran.last_success is not None
        assert abs(ran.last_success - timezone.now().timestamp()) < 60
        assert (ran.failures, sum(ran.buckets.values())) == (0, 1)
        eventually(lambda: outcomes()["loading.run_range"].failures, seconds=60)
        assert outcomes()["loading.run_range"].last_success is None
        eventually(lambda: [sign.component for sign in signs()] == list(COMPONENTS), seconds=60)
        assert all(sign.age_seconds < SILENT_SECONDS for sign in signs())

        told = {(found.name, *found.labels.values()): found.value for found in samples()}
        for component in COMPONENTS:
            assert abs(told["recsite_heartbeat_timestamp_seconds", component] - time.time()) < SILENT_SECONDS
            assert told["recsite_background_build_info", component, __version__, ""] == 1
            assert 0 < told["recsite_background_var_free_ratio", component] < 1
        assert told["recsite_task_last_success_timestamp_seconds", "loading.run"] == ran.last_success
        assert told["recsite_task_failures_total", "loading.run_range"] == 1
        assert told["recsite_task_duration_seconds_count", "loading.run"] == 1
        assert told["recsite_task_duration_seconds_bucket", "loading.run", "+Inf"] == 1
        assert told["recsite_task_duration_seconds_sum", "loading.run"] == pytest.approx(ran.seconds)

        # Hanging.
        pids = [int((tmp_path / f"{name}.pid").read_text()) for name in ("worker", "beat")]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
            eventually(lambda of=pid: is_paused(of))  # type: ignore[misc]  # mypy cannot type a lambda's defaults
        for component in COMPONENTS:
            make_old(component, tmp_path)
        code, sentence = asked("beat", tmp_path)
        assert code == 1
        assert re.fullmatch(r"beat: no sign of life for \d+ s, and one is due every 5 s\.\n", sentence)
        assert [verdict(component, tmp_path)[0] for component in COMPONENTS] == [False] * 3

        for pid in pids:
            os.kill(pid, signal.SIGCONT)
        for component in COMPONENTS:
            eventually(lambda of=component: verdict(of, tmp_path)[0], seconds=60)  # type: ignore[misc]  # as above
        assert asked("worker", tmp_path)[0] == 0
