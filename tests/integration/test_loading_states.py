"""A load's hold on itself: claims, duplicates, newer loads, lost workers; sweeping up; the command."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.conf import settings as project_settings
from django.core.management import CommandError, call_command
from django.utils import timezone
from pytest_django import Settings

from models_registry.loading import pacing, steps, tasks, upkeep
from models_registry.loading.background import call, read_ahead
from models_registry.loading.cutting import Cut
from models_registry.loading.endings import verdict
from models_registry.loading.pulse import Overtaken, Progress, Pulse, Superseded, TookTooLong
from models_registry.loading.requests import load_cancel, load_enqueue
from models_registry.loading.running import claim, run_claimed, run_load
from models_registry.loading.sources import SourceProblem
from models_registry.loading.tables import TableInRedis, TableProblem
from models_registry.loading.tasks import drop_table, run, sweep
from models_registry.loading.upkeep import DROP_AFTER, FORGOTTEN_AFTER, STALE_AFTER, UNDERWAY_FOR
from models_registry.models import ENDED_STATES, Load, LoadState, ProblemCode, Table, TableState, Version
from models_registry.publishing import publish_tenant
from recsite.embedded import EmbeddedValkey
from tenants.models import AuditEntry, User
from tenants.rules import RuleBroken
from tenants.services import tenant_end
from tests import factories
from tests.loading_scene import Scene, all_blocks, blocks_of, columns

pytestmark = pytest.mark.django_db

Waiting = Callable[[], list[tuple[str, list[Any]]]]


@pytest.fixture
def scene(tmp_path: Path, settings: Settings, valkey: redis.Redis) -> Scene:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    made = Scene(tmp_path)
    made.write(columns(range(200)))
    return made


def at(state: LoadState, action: Callable[[], object]) -> Callable[[Progress], None]:
    """Return a listener that does something once, when a load enters a state."""
    done: list[bool] = []

    def listen(progress: Progress) -> None:
        if progress.state == state and not done:
            done.append(True)
            action()

    return listen


def reload(load: Load) -> Load:
    return Load.objects.unscoped().get(pk=load.pk)


@pytest.mark.parametrize("yields", [True, False])
def test_task__makes_way_for_others_where_that_is_set(
    scene: Scene, settings: Settings, monkeypatch: pytest.MonkeyPatch, *, yields: bool
) -> None:
    made_way: list[int] = []
    # Not done for real: it is for good, and other tests follow.
    monkeypatch.setattr(tasks, "yield_to_others", lambda: made_way.append(1))
    settings.LOAD_YIELDS = yields
    tasks.run(scene.queue().pk)
    assert made_way == [1] * yields


# --- One run at a time ------------------------------------------------------------------------------------------------


def test_run__delivered_twice__does_nothing_twice(scene: Scene, valkey: redis.Redis) -> None:
    load = scene.queue()
    run(load.pk)
    first = reload(load)
    run(load.pk)
    assert reload(load) == first
    assert (reload(load).attempts, reload(load).state) == (1, LoadState.ACTIVE)
    assert all_blocks(valkey) == blocks_of(valkey, first.table.table_id)


def test_run__delivered_again_while_it_runs__the_second_leaves_it_alone(scene: Scene, valkey: redis.Redis) -> None:
    load = scene.queue()
    run_load(load.pk, listener=at(LoadState.WRITING, lambda: run_load(load.pk)))
    assert (reload(load).attempts, reload(load).state) == (1, LoadState.ACTIVE)
    assert Table.objects.unscoped().filter(version=scene.version).count() == 1


def test_claim__a_load_that_is_not_queued__nothing(scene: Scene) -> None:
    load = factories.LoadFactory.create(version=scene.version, state=LoadState.REJECTED)
    assert claim(load.pk) is None
    assert claim(0) is None


def test_claim__lost_twice_already__fails_instead(scene: Scene) -> None:
    load = scene.queue()
    Load.objects.unscoped().filter(pk=load.pk).update(attempts=2)
    run_load(load.pk)
    ended = reload(load)
    assert ended.state == LoadState.FAILED
    assert ended.problem.startswith("The worker that ran this load was lost 2 times")
    assert ended.finished_at is not None


def test_run_load__given_up_and_dropped_by_a_sweep_meanwhile__drops_what_it_wrote_since(
    scene: Scene, valkey: redis.Redis
) -> None:
    load = scene.queue()

    def give_up() -> None:
        assert all_blocks(valkey) > 0
        Load.objects.unscoped().filter(pk=load.pk).update(state=LoadState.FAILED, finished_at=timezone.now())
        Table.objects.unscoped().filter(load=load).update(state=TableState.DROPPED)

    run_load(load.pk, listener=at(LoadState.VERIFYING, give_up))
    assert (reload(load).state, reload(load).table.state) == (LoadState.FAILED, TableState.DROPPED)
    assert all_blocks(valkey) == 0


def test_run_load__taken_over_by_another_run__touches_nothing_more(scene: Scene, valkey: redis.Redis) -> None:
    load = scene.queue()

    def take_over() -> None:
        Load.objects.unscoped().filter(pk=load.pk).update(attempts=2, problem="the other run's")

    run_load(load.pk, listener=at(LoadState.VERIFYING, take_over))
    after = reload(load)
    assert (after.state, after.problem, after.finished_at) == (LoadState.VERIFYING, "the other run's", None)
    assert Version.objects.unscoped().get(pk=scene.version.pk).active_table is None
    assert all_blocks(valkey) == 0


def test_run_load__after_a_run_that_was_lost__writes_a_fresh_table_and_leaves_no_orphan(
    scene: Scene, valkey: redis.Redis
) -> None:
    load = scene.queue()
    lost = claim(load.pk)
    assert lost is not None
    table = factories.TableFactory.create(load=load, state=TableState.WRITING, block_bits=4)
    list(TableInRedis.of(table).write([Cut(0, [b"x"] * 16)], []))
    Load.objects.unscoped().filter(pk=load.pk).update(state=LoadState.QUEUED)

    run_load(load.pk)
    assert reload(load).state == LoadState.ACTIVE
    assert reload(load).table.table_id != table.table_id
    assert all_blocks(valkey) == blocks_of(valkey, reload(load).table.table_id) == 2 ** reload(load).table.block_bits


# --- A newer load wins ------------------------------------------------------------------------------------------------


def test_two_loads__the_older_begins_while_a_newer_waits__superseded(scene: Scene, valkey: redis.Redis) -> None:
    older, newer = scene.queue(), scene.queue()
    run_load(older.pk)
    run_load(newer.pk)
    assert (reload(older).state, reload(newer).state) == (LoadState.SUPERSEDED, LoadState.ACTIVE)
    assert reload(older).problem == "Load 2, which is newer, replaced it."
    assert all_blocks(valkey) == blocks_of(valkey, reload(newer).table.table_id)


def test_two_loads__a_newer_one_becomes_active_first__the_older_never_does(scene: Scene, valkey: redis.Redis) -> None:
    older = scene.queue()
    run_load(older.pk, listener=at(LoadState.VERIFYING, lambda: run_load(scene.queue().pk)))
    newer = Load.objects.unscoped().get(version=scene.version, fence=older.fence + 1)
    assert (reload(older).state, newer.state) == (LoadState.SUPERSEDED, LoadState.ACTIVE)
    version = Version.objects.unscoped().get(pk=scene.version.pk)
    assert (version.active_table, version.active_fence) == (newer.table, newer.fence)
    assert all_blocks(valkey) == blocks_of(valkey, newer.table.table_id)
    assert reload(older).table.state == TableState.DROPPED


def test_two_loads__the_newer_is_rejected__the_older_may_still_become_active(scene: Scene, valkey: redis.Redis) -> None:
    older = scene.queue()
    factories.LoadFactory.create(version=scene.version, fence=older.fence + 1, state=LoadState.REJECTED)
    run_load(older.pk)
    assert reload(older).state == LoadState.ACTIVE


# --- Cancelled --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", [LoadState.EXTRACTING, LoadState.WRITING, LoadState.VERIFYING])
def test_load_cancel__while_it_runs__leaves_the_old_table_and_no_blocks(
    scene: Scene, valkey: redis.Redis, owner: User, state: LoadState
) -> None:
    good = scene.load()
    load = scene.queue()

    run_load(load.pk, listener=at(state, lambda: load_cancel(load=load, actor=owner, reason="Wrong table")))

    ended = reload(load)
    assert (ended.state, ended.problem_code) == (LoadState.CANCELLED, ProblemCode.CANCELLED)
    assert ended.problem == f"{owner.get_username()} cancelled it."
    assert not ended.may_be_retried
    assert scene_active(scene) == good.table
    assert all_blocks(valkey) == blocks_of(valkey, good.table.table_id)
    entry = AuditEntry.objects.for_tenant(scene.tenant).get(action="load.cancel")
    assert (entry.actor, entry.reason, entry.before) == (owner, "Wrong table", {"fence": load.fence})


def test_load_cancel__before_a_worker_began__nothing_runs(scene: Scene, valkey: redis.Redis) -> None:
    load = load_cancel(load=scene.queue(), actor=None)

    run_load(load.pk)
    assert (reload(load).state, reload(load).attempts, all_blocks(valkey)) == (LoadState.CANCELLED, 0, 0)
    assert upkeep.sweep(timezone.now() + timedelta(hours=1), print) == {}


def test_load_cancel__of_a_newer_one__the_older_may_still_become_active(scene: Scene, valkey: redis.Redis) -> None:
    older = scene.queue()
    load_cancel(load=scene.queue(), actor=None)

    run_load(older.pk)
    assert reload(older).state == LoadState.ACTIVE


@pytest.mark.parametrize("state", ENDED_STATES)
def test_load_cancel__of_one_that_has_ended__is_refused(scene: Scene, state: LoadState) -> None:
    load = factories.LoadFactory.create(version=scene.version, state=state)

    with pytest.raises(RuleBroken, match=f"^Load {load.fence} has already ended: "):
        load_cancel(load=load, actor=None)
    assert reload(load).state == state


# --- Why it ended, for programs ---------------------------------------------------------------------------------------

# Part of the API's contract: a code never changes its meaning, nor whether asking again may help.
MAY_BE_RETRIED = {
    "source_missing": True,
    "source_not_allowed": False,
    "source_unreadable": False,
    "source_over_limit": False,
    "source_changed": True,
    "source_unavailable": True,
    "rows_wrong": False,
    "too_different": False,
    "superseded": False,
    "cancelled": False,
    "worker_lost": True,
    "took_too_long": False,
    "out_of_memory": False,
    "disk_failed": True,
    "redis_unavailable": True,
    "redis_full": False,
    "table_damaged": True,
    "refused": False,
    "unexpected": True,
}


def test_problem_codes__each_says_whether_asking_again_may_help() -> None:
    assert {code.value: code.may_be_retried for code in ProblemCode} == MAY_BE_RETRIED


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SourceProblem("No file matches “x”.", ProblemCode.SOURCE_MISSING), "source_missing"),
        (SourceProblem("“x” is damaged."), "source_unreadable"),
        (Superseded("Load 2, which is newer, replaced it."), "superseded"),
        (TookTooLong(), "took_too_long"),
        (TableProblem("1 block is missing."), "table_damaged"),
        (RuleBroken("The studio has ended."), "refused"),
        (redis.ConnectionError("away"), "redis_unavailable"),
        (redis.OutOfMemoryError("full"), "redis_full"),
        (MemoryError(), "out_of_memory"),
        (OSError(28, "No space left on device"), "disk_failed"),
        (ZeroDivisionError(), "unexpected"),
    ],
)
def test_verdict__of_an_error__has_a_code_for_programs(scene: Scene, error: Exception, code: str) -> None:
    assert verdict(error, scene.queue()).code == code


def test_run_load__rejected__tells_wrong_rows_from_rows_that_differ_too_much(scene: Scene, valkey: redis.Redis) -> None:
    scene.load(columns(range(200)))
    fewer = scene.load(columns(range(20)))
    wrong = scene.load(columns(range(20), offer_id=[9999] * 20))

    assert (fewer.state, fewer.problem_code) == (LoadState.REJECTED, ProblemCode.TOO_DIFFERENT)
    assert (wrong.state, wrong.problem_code) == (LoadState.REJECTED, ProblemCode.ROWS_WRONG)
    assert scene.load(columns(range(200))).problem_code == ""


# --- Redis goes away --------------------------------------------------------------------------------------------------


def test_run_load__redis_away_while_writing__fails_and_a_sweep_drops_what_was_written(
    scene: Scene, tmp_path: Path, settings: Settings, valkey: redis.Redis
) -> None:
    good = scene.load()
    server = EmbeddedValkey(tmp_path / "other", options=("--appendonly", "yes", "--appendfsync", "always")).start()
    settings.TABLES_REDIS_URL = server.url
    load = scene.queue()
    try:
        # The first blocks arrive; then the server is gone.
        run_load(load.pk, listener=at(LoadState.VERIFYING, server.stop))
        failed = reload(load)
        assert failed.state == LoadState.FAILED
        assert failed.problem.startswith("The table could not be written to Redis: ")
        assert (failed.table.state, scene_active(scene)) == (TableState.DROPPING, good.table)

        server.start()
        with redis.Redis.from_url(server.url) as client:
            assert all_blocks(client) == 2**failed.table.block_bits
            asked: list[int] = []
            upkeep.sweep(timezone.now(), asked.append)
            assert asked == [failed.table.pk]
            assert upkeep.drop(asked[0], timezone.now())
            assert all_blocks(client) == 0
        assert reload(load).table.state == TableState.DROPPED
    finally:
        server.stop()


def test_run_load__redis_is_full__fails_and_leaves_nothing_but_the_old_table(scene: Scene, valkey: redis.Redis) -> None:
    good = scene.load()
    scene.version.model.max_row_count_change = scene.version.model.max_psi = 1000
    scene.version.model.save()
    used = int(valkey.info("memory")["used_memory"])
    valkey.config_set("maxmemory", used + 200_000)
    try:
        load = scene.load(columns(range(240), title=[None] * 240))
        assert load.state == LoadState.ACTIVE, "so little still fits"
        load = scene.load(columns(range(20_000)))
        assert load.state == LoadState.FAILED
        assert load.problem == "The table could not be written to Redis: its memory is full (maxmemory)."
    finally:
        valkey.config_set("maxmemory", 0)
    version = Version.objects.unscoped().get(pk=scene.version.pk)
    assert version.previous_table == good.table
    assert version.active_table is not None
    held = blocks_of(valkey, good.table.table_id) + blocks_of(valkey, version.active_table.table_id)
    assert all_blocks(valkey) == held


def scene_active(scene: Scene) -> Table | None:
    return Version.objects.unscoped().get(pk=scene.version.pk).active_table


# --- Sweeping up ------------------------------------------------------------------------------------------------------


def test_sweep__a_worker_that_is_gone__its_load_is_queued_and_handed_over_once(
    scene: Scene, celery_queue: Waiting
) -> None:
    load = claim(scene.queue().pk)
    assert load is not None
    assert load.heartbeat_at is not None
    now = load.heartbeat_at + STALE_AFTER

    assert upkeep.sweep(now, print) == {}
    assert upkeep.sweep(now + timedelta(seconds=1), print) == {"loads queued again": 1}
    assert reload(load).state == LoadState.QUEUED
    assert upkeep.sweep(now + timedelta(seconds=2), print) == {}
    assert celery_queue() == [("loading.run", [load.pk])]
    run_load(load.pk)
    assert (reload(load).state, reload(load).attempts) == (LoadState.ACTIVE, 2)


def test_sweep__a_load_that_still_beats__left_alone(scene: Scene, celery_queue: Waiting) -> None:
    load = scene.queue()
    run_load(load.pk, listener=at(LoadState.WRITING, sweep))
    assert (reload(load).state, reload(load).attempts) == (LoadState.ACTIVE, 1)
    assert celery_queue() == []


def test_sweep__a_queued_load_that_nobody_began__handed_over_again_every_five_minutes(
    scene: Scene, celery_queue: Waiting
) -> None:
    load = scene.queue()
    load_enqueue(load.pk)
    now = load.created_at + FORGOTTEN_AFTER
    assert upkeep.sweep(now, print) == {}
    assert upkeep.sweep(now + timedelta(seconds=1), print) == {"loads handed over again": 1}
    assert upkeep.sweep(now + timedelta(seconds=31), print) == {}
    assert upkeep.sweep(now + FORGOTTEN_AFTER + timedelta(seconds=2), print) == {"loads handed over again": 1}
    assert celery_queue() == [("loading.run", [load.pk])] * 3


def test_sweep__the_broker_lost_its_queue__what_waits_is_handed_over_again_soon_and_once(
    scene: Scene, celery_queue: Waiting, valkey: redis.Redis
) -> None:
    loads = [scene.queue() for _ in range(2)]
    for load in loads:
        load_enqueue(load.pk)
    now = loads[1].created_at + UNDERWAY_FOR
    assert upkeep.sweep(now + timedelta(seconds=1), print) == {}
    valkey.flushall()
    assert upkeep.sweep(now - timedelta(seconds=1), print) == {}
    assert upkeep.sweep(now + timedelta(seconds=1), print) == {"loads handed over again": 2}
    assert upkeep.sweep(now + UNDERWAY_FOR + timedelta(seconds=2), print) == {}
    assert celery_queue() == [("loading.run", [load.pk]) for load in loads]


def test_sweep__the_broker_is_away__the_load_stays_queued(scene: Scene, broker_away: None) -> None:
    load = claim(scene.queue().pk)
    assert load is not None
    upkeep.sweep(timezone.now() + timedelta(minutes=2), print)
    assert reload(load).state == LoadState.QUEUED


def test_sweep__a_table_half_written_by_a_load_that_ended__dropped(scene: Scene, valkey: redis.Redis) -> None:
    load = factories.LoadFactory.create(version=scene.version, state=LoadState.FAILED)
    table = factories.TableFactory.create(load=load, state=TableState.WRITING, block_bits=3)
    list(TableInRedis.of(table).write([Cut(0, [b"x"] * 8)], []))
    dropped: list[int] = []
    assert upkeep.sweep(timezone.now(), dropped.append) == {"tables orphaned": 1, "tables to drop": 1}
    assert dropped == [table.pk]
    drop_table(table.pk)
    table.refresh_from_db()
    assert (table.state, all_blocks(valkey)) == (TableState.DROPPED, 0)


def test_sweep__a_studio_that_ended__its_tables_go_once_lanes_have_its_tombstone(
    scene: Scene, valkey: redis.Redis
) -> None:
    scene.load()
    tables_kept = [scene.load().table, reload(scene.load()).table]
    tenant_end(tenant=scene.tenant, actor=None, reason="The contract is over.")
    publish_tenant(scene.tenant.pk)
    ended = timezone.now()
    assert upkeep.sweep(ended, print) == {}
    later = ended + DROP_AFTER + timedelta(seconds=1)
    dropped: list[int] = []
    assert upkeep.sweep(later, dropped.append) == {"tables of ended studios": 3, "tables to drop": 3}
    assert {table.pk for table in tables_kept} < set(dropped)
    assert all(upkeep.drop(pk, later) for pk in dropped)
    assert all_blocks(valkey) == 0
    assert upkeep.sweep(later, print) == {}


def test_sweep__folders_of_runs_that_are_no_more__removed_and_no_others(scene: Scene, settings: Settings) -> None:
    live = claim(scene.queue().pk)
    assert live is not None
    for name in (f"{live.pk}-1", f"{live.pk}-0", "999999-1", "somebody-elses"):
        (settings.LOAD_WORKSPACE_DIR / name / "spill").mkdir(parents=True)
    assert upkeep.sweep(timezone.now(), print) == {"folders removed": 2}
    assert {folder.name for folder in settings.LOAD_WORKSPACE_DIR.iterdir()} == {f"{live.pk}-1", "somebody-elses"}


def test_sweep_task__old_tables__handed_to_a_worker(scene: Scene, celery_queue: Waiting) -> None:
    load = factories.LoadFactory.create(version=scene.version, state=LoadState.FAILED)
    table = factories.TableFactory.create(load=load, state=TableState.DROPPING)
    sweep()
    assert celery_queue() == [("loading.drop_table", [table.pk])]


# --- When an old table may go -----------------------------------------------------------------------------------------


@pytest.fixture
def retired(scene: Scene) -> Table:
    """Four loads: give the table of the first, which is no longer kept."""
    loads = [scene.load() for _ in range(4)]
    publish_tenant(scene.tenant.pk)
    table = reload(loads[0]).table
    assert table.state == TableState.DROPPING
    return table


def later(table: Table) -> datetime:
    newest = Table.objects.unscoped().filter(version=table.version).order_by("-activated_at").first()
    assert newest is not None
    assert newest.activated_at is not None
    return newest.activated_at + DROP_AFTER


def test_drop__lanes_may_not_know_yet__kept_for_a_minute(retired: Table, valkey: redis.Redis) -> None:
    assert not upkeep.drop(retired.pk, later(retired) - timedelta(seconds=1))
    assert blocks_of(valkey, retired.table_id) == 2**retired.block_bits
    assert upkeep.drop(retired.pk, later(retired))
    assert blocks_of(valkey, retired.table_id) == 0
    retired.refresh_from_db()
    assert retired.state == TableState.DROPPED
    assert not upkeep.drop(retired.pk, later(retired))


def test_drop__a_published_snapshot_still_names_it__kept(scene: Scene, retired: Table, valkey: redis.Redis) -> None:
    # The database went on, the snapshot in Redis did not: it names the first table as the active one.
    now = later(retired)
    version = Version.objects.unscoped().get(pk=scene.version.pk)
    Version.objects.unscoped().filter(pk=version.pk).update(active_table=retired, previous_table=None, older_table=None)
    Table.objects.unscoped().filter(pk=retired.pk).update(state=TableState.READY)
    publish_tenant(scene.tenant.pk)
    Version.objects.unscoped().filter(pk=version.pk).update(
        active_table=version.active_table, previous_table=version.previous_table
    )
    Table.objects.unscoped().filter(pk=retired.pk).update(state=TableState.DROPPING)

    assert not upkeep.drop(retired.pk, now)
    publish_tenant(scene.tenant.pk)
    assert upkeep.drop(retired.pk, now)


def test_drop__what_is_published_cannot_be_read__kept(scene: Scene, retired: Table, valkey: redis.Redis) -> None:
    valkey.set(f"{project_settings.REDIS_PREFIX}:s:{scene.tenant.public_id}", b"nonsense")
    assert not upkeep.drop(retired.pk, later(retired))


@pytest.mark.parametrize("field", ["previous_table", "older_table"])
def test_drop__a_version_points_at_it__kept_whatever_its_state_says(
    field: str, scene: Scene, retired: Table, valkey: redis.Redis
) -> None:
    Version.objects.unscoped().filter(pk=scene.version.pk).update(**{field: retired})
    assert not upkeep.drop(retired.pk, later(retired))
    assert blocks_of(valkey, retired.table_id) > 0


def test_drop__a_table_that_is_whole_or_unknown__nothing(scene: Scene, valkey: redis.Redis) -> None:
    table = scene.load().table
    assert not upkeep.drop(table.pk, timezone.now() + timedelta(hours=1))
    assert not upkeep.drop(0, timezone.now())


# --- Making way -------------------------------------------------------------------------------------------------------


def pulse_that_must_rest(load: Load, monkeypatch: pytest.MonkeyPatch, seconds: float) -> Pulse:
    pulse = Pulse(load, time_limit=timedelta(minutes=1), listener=None)
    monkeypatch.setattr(pulse.share, "rest_due", lambda: seconds)
    return pulse


def test_beat__others_want_the_processors__rests_and_says_that_the_load_is_alive(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = claim(scene.queue().pk)
    assert load is not None
    pulse = pulse_that_must_rest(load, monkeypatch, 0.6)
    began = timezone.now()
    pulse.beat()
    assert timezone.now() - began >= timedelta(seconds=0.6)
    assert pulse.seconds_rested >= 0.599
    heartbeat = reload(load).heartbeat_at
    assert heartbeat is not None
    assert heartbeat - began >= timedelta(seconds=0.4)


def test_beat__a_newer_load_comes_during_a_long_rest__ends_it(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    load = claim(scene.queue().pk)
    assert load is not None
    pulse = pulse_that_must_rest(load, monkeypatch, 600)
    pulse.tell = lambda _: scene.queue()  # type: ignore[assignment, method-assign]
    with pytest.raises(Superseded):
        pulse.beat()


def test_run_load__it_had_to_rest__its_report_says_so(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    rests = iter([1.1])
    monkeypatch.setattr(pacing.ProcessorShare, "rest_due", lambda _: next(rests, 0.0))
    load = scene.load()
    assert load.state == LoadState.ACTIVE
    assert load.report["notes"] == ["It rested for 1 s, so as not to hold up others."]


# --- Threads ----------------------------------------------------------------------------------------------------------


def test_read_ahead__the_beat_fails__the_reader_is_cancelled_and_closed() -> None:
    events: list[str] = []
    waiting = threading.Event()

    def items() -> Any:
        try:
            yield 1
            waiting.wait(20)
            yield 2
        finally:
            events.append("closed")

    def beat() -> None:
        raise Overtaken

    def cancel() -> None:
        events.append("cancelled")
        waiting.set()

    with pytest.raises(Overtaken):
        list(read_ahead(items(), beat, cancel=cancel))
    assert events == ["cancelled", "closed"]


def test_read_ahead__it_may_not_be_ahead__begins_an_item_only_when_it_is_waited_for() -> None:
    begun: list[int] = []

    def items() -> Any:
        for number in range(3):
            begun.append(number)
            yield number

    for number in read_ahead(items(), lambda: None, may_be_ahead=lambda: False):
        # Time enough for one that does not wait.
        time.sleep(0.05)
        assert begun == list(range(number + 1))
    assert begun == [0, 1, 2]


def test_read_ahead__it_may_be_ahead__begins_the_next_item_meanwhile() -> None:
    second = threading.Event()

    def items() -> Any:
        yield 1
        second.set()
        yield 2

    reading = read_ahead(items(), lambda: None, may_be_ahead=lambda: True)
    assert next(reading) == 1
    assert second.wait(20)
    assert list(reading) == [2]


def test_read_ahead__it_may_not_be_ahead_and_nobody_waits_any_more__ends() -> None:
    reading = read_ahead(iter([1, 2]), lambda: None, may_be_ahead=lambda: False)
    assert next(reading) == 1
    reading.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "load-reader"]


def test_call__an_error_in_the_other_thread__raised_here() -> None:
    with pytest.raises(ZeroDivisionError):
        call(lambda: 1 / 0, lambda: None)


# --- The command ------------------------------------------------------------------------------------------------------


def command(*arguments: str) -> tuple[str, str]:
    """Run `manage.py load`; give what it printed, and its last word if that is an error."""
    out = io.StringIO()
    try:
        call_command("load", *arguments, stdout=out, no_color=True)
    except CommandError as error:
        return out.getvalue(), str(error)
    return out.getvalue(), ""


def test_load_command__a_good_source__says_what_is_served_now(scene: Scene, valkey: redis.Redis) -> None:
    scene.write(columns(range(200), score=[0.5] * 200))
    printed, error = command("red-fox/offers/a")
    assert error == ""
    lines = printed.splitlines()
    assert lines[0] == "Note: Left out, because neither key nor layout has them: score."
    assert lines[1].startswith("red-fox/offers/a: 200 rows are active after ")
    assert lines[2] == "Lanes answer from them within 2 seconds."
    load = Load.objects.unscoped().get(version=scene.version)
    assert (load.state, load.requested_by_name) == (LoadState.ACTIVE, "system")


def test_load_command__a_rejected_load__every_failed_check_and_what_to_do(scene: Scene, valkey: redis.Redis) -> None:
    command("red-fox/offers/a")
    scene.write(columns(range(200), offer_id=[9999] * 200, segment=["gone"] * 200))
    printed, error = command("red-fox/offers/a")
    assert printed == ("Also: column segment, row 1 (key p0): 'gone' is not one of the 2 values; 200 like it.\n")
    assert error == (
        "red-fox/offers/a: rejected by a check. Column offer_id, row 1 (key p0): 9999 is not within 0 … 4095; "
        "200 like it. One more check failed.\n"
        "The previous table, of 200 rows, is still served. Fix the source, then load again."
    )


def test_load_command__a_dry_run__prints_the_report_and_writes_nothing(scene: Scene, valkey: redis.Redis) -> None:
    command("red-fox/offers/a")
    before = all_blocks(valkey)
    scene.write(columns(range(10, 220), score=[0.5] * 210))
    printed, error = command("red-fox/offers/a", "--dry-run")

    assert error == ""
    lines = printed.splitlines()
    assert "  ok     row count: 210 rows, 5.0 % more than the 200 now active" in lines
    assert "  ok     coverage: 95.0 % of the keys that are served are in the source" in lines
    assert "Distributions, in 210 rows; before → now" in lines
    assert "  segment (enum, population stability index 0.000)" in lines
    assert "    loyal   50.0 % →  50.0 % ██████████" in lines
    assert "Difference from the served table" in lines
    added = next(line for line in lines if line.startswith("  added                 20   for example p2"))
    assert len(added.partition("example ")[2].split(", ")) == 5
    assert "  removed               10" in lines
    assert "  unchanged            190" in lines
    assert "  Left out, because neither key nor layout has them: score." in lines
    assert any(line.startswith("  compare ") and line.endswith(" rows/s") for line in lines)
    assert lines[-2:] == [
        "red-fox/offers/a: all checks of 210 rows passed.",
        "Nothing was written. To load it, run the same command without --dry-run.",
    ]
    assert all_blocks(valkey) == before


def test_load_command__a_dry_run_that_is_rejected__shows_the_rows_and_fails(scene: Scene, valkey: redis.Redis) -> None:
    printed, error = command("red-fox/offers/a", "--dry-run")
    assert "Difference" not in printed
    scene.write(columns(range(200), offer_id=[9999] * 200))
    printed, error = command("red-fox/offers/a", "--dry-run")
    lines = printed.splitlines()
    reason = "column offer_id, row 1 (key p0): 9999 is not within 0 … 4095; 200 like it"
    at = lines.index(f"  FAILED offer_id: values: {reason}")
    assert lines[at + 1] == "           row 1, key p0: 9999"
    assert "rejected by a check. Column offer_id, row 1 (key p0)" in error
    assert "Also:" not in printed


def test_load_command__a_failed_first_load__the_default_goes_on(scene: Scene, valkey: redis.Redis) -> None:
    (scene.folder / "rows.parquet").unlink()
    _, error = command("red-fox/offers/a")
    assert error.startswith("red-fox/offers/a: failed. ")
    assert error.endswith("the model's default is served. When that is fixed, load again.")


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("red-fox", "“red-fox” is not of the form TENANT/MODEL/VERSION."),
        ("red-fox//a", "“red-fox//a” is not of the form TENANT/MODEL/VERSION."),
        ("blue-owl/offers/a", "There is no studio “blue-owl”. There are: red-fox."),
        ("red-fox/levels/a", "The studio “red-fox” has no model “levels”. There are: offers."),
        ("red-fox/offers/b", "The model “offers” has no version “b”. There are: a."),
    ],
)
def test_load_command__an_unknown_name__says_what_there_is(name: str, words: str, scene: Scene) -> None:
    assert command(name) == ("", words)


def test_load_command__a_version_without_a_source__says_so(scene: Scene) -> None:
    scene.source.delete()
    assert command("red-fox/offers/a") == ("", "The version “a” has no source yet.")


def test_load_command__interrupted__the_load_says_so(
    scene: Scene, valkey: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = claim(scene.queue().pk)
    assert load is not None

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(steps, "check_rows", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run_claimed(load)
    assert (reload(load).state, reload(load).problem) == (
        LoadState.FAILED,
        "The load was interrupted from the keyboard.",
    )


@pytest.mark.django_db(transaction=True)
def test_load_command__a_worker_hears_of_it_too__leaves_it_alone(scene: Scene, celery_queue: Waiting) -> None:
    _, error = command("red-fox/offers/a")
    assert error == ""
    ((task, (load_id,)),) = celery_queue()
    assert task == "loading.run"
    run(load_id)
    assert Load.objects.unscoped().get(pk=load_id).attempts == 1
