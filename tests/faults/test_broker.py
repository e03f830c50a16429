"""The broker goes away and comes back while a real worker and beat run: every load ends once, active."""

from __future__ import annotations

from contextlib import ExitStack
from datetime import timedelta
from pathlib import Path

import pytest
import redis
from django.utils import timezone
from pytest_django import Settings

from models_registry.loading.requests import load_request
from models_registry.loading.schedules import schedule_set
from models_registry.models import Load, LoadState, Schedule, ScheduleKind, Table, Version
from recsite.background.heartbeats import COMPONENTS, sign_path, verdict
from recsite.embedded import EmbeddedValkey
from tests import factories
from tests.celery_worker import beat_every_second, celery_beat, celery_worker
from tests.certificates import write_certificate
from tests.faults.valve import Valve
from tests.lane_process import eventually
from tests.loading_scene import Scene, all_blocks, answer, blocks_of, columns, row
from tests.redis_parts import tls_before

pytestmark = pytest.mark.django_db(transaction=True)

ROWS = 300


@pytest.fixture
def studio_scene(tmp_path: Path, settings: Settings, client: redis.Redis) -> Scene:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "loads"
    made = Scene(tmp_path)
    made.write(columns(range(ROWS)))
    return made


def another_version(scene: Scene, name: str) -> Version:
    version = factories.VersionFactory.create(model=scene.model, layout=scene.version.layout, name=name)
    factories.SourceFactory.create(version=version, location=scene.source.location)
    return version


def reload(load: Load) -> Load:
    return Load.objects.unscoped().select_related("version__active_table").get(pk=load.pk)


def became_active(load: Load) -> Load | None:
    found = reload(load)
    assert found.state in (*LoadState.values[:5], LoadState.ACTIVE), found.problem
    return found if found.finished_at else None


def has_begun(beat_log: Path) -> bool:
    """Tell whether a beat wrote into the database what it must run, which it does when it starts."""
    return "DatabaseScheduler: Schedule changed." in said(beat_log)


def said(log: Path) -> str:
    return log.read_text(errors="replace")


@pytest.mark.parametrize("keeps", ["yes", "no"], ids=["its queue is kept", "its queue is lost"])
def test_broker__goes_while_one_load_runs_and_one_waits_and_comes_back__each_load_is_active_once(
    keeps: str, studio_scene: Scene, server: EmbeddedValkey, valve: Valve, client: redis.Redis, tmp_path: Path
) -> None:
    scene = studio_scene
    waits, asked_meanwhile = another_version(scene, "b"), another_version(scene, "c")
    broker = EmbeddedValkey(tmp_path / "broker", options=("--save", "", "--appendonly", keeps))
    with ExitStack() as stack:
        stack.callback(broker.stop)
        broker.start()
        tables = {"RECSITE_REDIS_URL": f"redis://127.0.0.1:{valve.port}/0", "RECSITE_BROKER_URL": broker.url}
        worker_log = stack.enter_context(celery_worker(broker.url, tmp_path, **tables))
        beat_log = stack.enter_context(celery_beat(broker.url, tmp_path, **tables))
        eventually(lambda: "ready." in said(worker_log), seconds=60)
        eventually(lambda: has_begun(beat_log), seconds=60)
        beat_every_second("loading.sweep")

        valve.close_at("SET")
        loads = [load_request(version=scene.version, actor=None)]
        eventually(lambda: valve.is_holding, seconds=60)
        loads.append(load_request(version=waits, actor=None))
        assert [reload(load).state for load in loads] == [LoadState.WRITING, LoadState.QUEUED]

        broker.stop()
        loads.append(load_request(version=asked_meanwhile, actor=None))
        eventually(lambda: "connection to broker lost" in said(worker_log).lower(), seconds=60)
        # Who looks for the broker lives: a restart would help nobody, and end the load that runs.
        for component in COMPONENTS if keeps == "yes" else ():
            sign_path(component, tmp_path).unlink()
        for component in COMPONENTS if keeps == "yes" else ():
            eventually(lambda of=component: verdict(of, tmp_path)[0], seconds=60)  # type: ignore[misc]  # as below

        # What runs needs no broker. What waits says so, and nothing else.
        valve.open()
        eventually(lambda: became_active(loads[0]), seconds=60)
        assert [(reload(load).state, reload(load).problem) for load in loads[1:]] == [(LoadState.QUEUED, "")] * 2

        # What beat says of it meanwhile is a line each time: that it cannot send, or looks for the broker.
        eventually(lambda: {"beat.not_sent", "beat.no_broker"} & {*said(beat_log).split()}, seconds=60)
        assert "Traceback" not in said(beat_log)
        assert max(map(len, said(beat_log).splitlines())) < 500
        sent = said(beat_log).count("loading.sweep")
        broker.start()
        eventually(lambda: said(beat_log).count("loading.sweep") > sent, seconds=60)
        if keeps == "yes":
            eventually(lambda: became_active(loads[1]), seconds=60)
        # Of the others the broker knows nothing, which beat's sweep notices.
        for load in loads:
            eventually(lambda load=load: became_active(load), seconds=60)  # type: ignore[misc]  # mypy knows no defaults of lambdas

        # Nothing more comes of it: the worker is through with whatever the broker gave it.
        last = load_request(version=scene.version, actor=None)
        eventually(lambda: became_active(last), seconds=60)

    assert [(reload(load).attempts, reload(load).problem) for load in (*loads, last)] == [(1, "")] * 4
    tables_made = list(Table.objects.unscoped().all())
    assert len(tables_made) == Load.objects.unscoped().count() == 4
    assert all_blocks(client) == sum(blocks_of(client, table.table_id) for table in tables_made)
    for load in (*loads[1:], last):
        table = reload(load).version.active_table
        assert table is not None
        assert table.load_id == load.pk
        assert answer(client, scene, table, "p7") == {k: v for k, v in row(7).items() if k != "player_id"}


def test_schedule__due_while_two_beats_and_two_workers_run__one_load(
    studio_scene: Scene, server: EmbeddedValkey, client: redis.Redis, tmp_path: Path
) -> None:
    version = studio_scene.version
    with ExitStack() as stack:
        worker_logs, beat_logs = [], []
        for number in range(2):
            folder = tmp_path / f"machine{number}"
            folder.mkdir()
            broker = {"RECSITE_BROKER_URL": server.url}
            worker_logs.append(stack.enter_context(celery_worker(server.url, folder, **broker)))
            beat_logs.append(stack.enter_context(celery_beat(server.url, folder, **broker)))
        for log in worker_logs:
            eventually(lambda log=log: "ready." in said(log), seconds=90)  # type: ignore[misc]  # as above
        for log in beat_logs:
            eventually(lambda log=log: has_begun(log), seconds=90)  # type: ignore[misc]  # as above
        beat_every_second("scheduling.start_due")
        for log in beat_logs:
            eventually(lambda log=log: looked(log) >= 1, seconds=60)  # type: ignore[misc]  # as above

        schedule_set(version=version, actor=None, kind=ScheduleKind.INTERVAL, every_minutes=60)
        due_at = timezone.now() - timedelta(seconds=1)
        Schedule.objects.unscoped().filter(version=version).update(next_run_at=due_at)
        load = eventually(lambda: Load.objects.unscoped().filter(version=version).first(), seconds=60)
        eventually(lambda: became_active(load), seconds=60)
        seen = [looked(log) for log in beat_logs]
        for log, count in zip(beat_logs, seen, strict=True):
            eventually(lambda log=log, count=count: looked(log) > count + 2, seconds=60)  # type: ignore[misc]  # as above

    (only,) = Load.objects.unscoped().filter(version=version)
    assert (only.scheduled_for, only.attempts, only.state) == (due_at, 1, LoadState.ACTIVE)
    schedule = Schedule.objects.unscoped().get(version=version)
    assert (schedule.next_run_at, schedule.note) == (due_at + timedelta(hours=1), "")


def looked(log: Path) -> int:
    """Count how often a beat had the schedules looked at."""
    return said(log).count("beat.sends task=scheduling.start_due")


def test_broker__with_tls__its_certificate_is_checked(
    studio_scene: Scene, server: EmbeddedValkey, tmp_path: Path
) -> None:
    certificate, key = write_certificate(tmp_path)
    tables = {"RECSITE_REDIS_URL": server.url}
    with tls_before(server.port, certificate, key) as port:
        url = f"rediss://localhost:{port}/0"
        with celery_worker(url, tmp_path, **tables, RECSITE_BROKER_URL=url) as log:
            eventually(lambda: "CERTIFICATE_VERIFY_FAILED" in said(log), seconds=60)
        url += f"?ssl_ca_certs={certificate}"
        with celery_worker(url, tmp_path, **tables, RECSITE_BROKER_URL=url):
            load = load_request(version=studio_scene.version, actor=None)
            eventually(lambda: became_active(load), seconds=60)
