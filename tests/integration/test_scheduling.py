"""Schedules and freshness: what is set, which loads become due and start, and which data is late."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.utils import timezone

from models_registry.catalogue import limits
from models_registry.catalogue.selectors import is_late
from models_registry.loading.schedules import freshness_set, schedule_remove, schedule_set, start_due_loads
from models_registry.models import Load, LoadState, Schedule, TableState, Version
from tenants.models import AuditEntry, Tenant, User
from tenants.rules import RuleBroken
from tests import factories

pytestmark = pytest.mark.django_db

DUE = datetime(2026, 11, 1, 12, tzinfo=UTC)


@pytest.fixture
def version(studio: Tenant) -> Version:
    made: Version = factories.SourceFactory.create(version__model__tenant=studio).version
    return made


@pytest.fixture
def schedule(version: Version) -> Schedule:
    made: Schedule = factories.ScheduleFactory.create(version=version, next_run_at=DUE)
    return made


def again(schedule: Schedule) -> Schedule:
    return Schedule.objects.unscoped().get(pk=schedule.pk)


def entries(studio: Tenant) -> list[str]:
    return list(AuditEntry.objects.for_tenant(studio).order_by("pk").values_list("action", flat=True))


# --- What is set ------------------------------------------------------------------------------------------------------


def test_schedule_set__an_interval__its_first_run_is_one_interval_away(
    version: Version, owner: User, studio: Tenant
) -> None:
    before = timezone.now()
    schedule = schedule_set(version=version, actor=owner, kind="interval", every_minutes=90)
    assert schedule.next_run_at is not None
    assert before + timedelta(minutes=90) <= schedule.next_run_at <= timezone.now() + timedelta(minutes=90)
    entry = AuditEntry.objects.for_tenant(studio).get()
    assert (entry.action, entry.before) == ("schedule.set", None)
    assert entry.summary.endswith("every 90 minutes.")


def test_schedule_set__a_crontab_in_a_time_zone__runs_by_that_clock(version: Version, owner: User) -> None:
    schedule = schedule_set(
        version=version, actor=owner, kind="crontab", crontab=" 30  4 * * * ", timezone="Asia/Kolkata"
    )
    assert schedule.crontab == "30 4 * * *"
    assert schedule.next_run_at is not None
    assert f"{schedule.next_run_at:%H:%M}" == "23:00"


def test_schedule_set__the_same_again__nothing_is_written(version: Version, owner: User, studio: Tenant) -> None:
    first = schedule_set(version=version, actor=owner, kind="interval", every_minutes=90)
    same = schedule_set(version=version, actor=owner, kind="interval", every_minutes=90)
    assert same.next_run_at == first.next_run_at
    assert entries(studio) == ["schedule.set"]


def test_schedule_set__switched_off_and_on__runs_again(version: Version, owner: User, studio: Tenant) -> None:
    for is_enabled in (True, False, True):
        schedule = schedule_set(version=version, actor=owner, kind="interval", every_minutes=5, is_enabled=is_enabled)
        assert (again(schedule).next_run_at is not None) == is_enabled
    assert Schedule.objects.for_tenant(studio).count() == 1
    assert entries(studio) == ["schedule.set"] * 3


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"kind": "moon"}, "kind"),
        ({"kind": "interval"}, "every_minutes"),
        ({"kind": "interval", "every_minutes": 0}, "every_minutes"),
        ({"kind": "interval", "every_minutes": True}, "every_minutes"),
        ({"kind": "interval", "every_minutes": 10**6}, "every_minutes"),
        ({"kind": "crontab"}, "crontab"),
        ({"kind": "crontab", "crontab": "0 0 30 2 *"}, "crontab"),
        ({"kind": "crontab", "crontab": f"{','.join(['1'] * 60)} * * * *"}, "crontab"),
        ({"kind": "crontab", "crontab": "0 4 * * *", "timezone": "Mars/Olympus"}, "timezone"),
        ({"kind": "crontab", "crontab": "0 4 * * *", "timezone": "../../etc/passwd"}, "timezone"),
    ],
)
def test_schedule_set__what_will_not_do__refused_by_its_field(
    values: dict[str, Any], field: str, version: Version
) -> None:
    with pytest.raises(RuleBroken) as refused:
        schedule_set(version=version, actor=None, **values)
    assert refused.value.field == field
    assert not Schedule.objects.unscoped().exists()


def test_schedule_remove__there_is_one_and_then_none__gone_and_refused(
    schedule: Schedule, version: Version, studio: Tenant
) -> None:
    schedule_remove(version=version, actor=None)
    assert not Schedule.objects.unscoped().exists()
    with pytest.raises(RuleBroken, match="no schedule"):
        schedule_remove(version=version, actor=None)
    assert entries(studio) == ["schedule.remove"]


# --- Due runs ---------------------------------------------------------------------------------------------------------


def test_start_due_loads__one_is_due__starts_it_and_shows_the_next(schedule: Schedule, version: Version) -> None:
    assert start_due_loads(DUE - timedelta(seconds=1)) == []
    (load,) = start_due_loads(DUE + timedelta(seconds=14))
    assert (load.version, load.scheduled_for, load.state) == (version, DUE, LoadState.QUEUED)
    now = again(schedule)
    assert (now.next_run_at, now.note) == (DUE + timedelta(hours=4), "")
    assert now.last_run_at == DUE + timedelta(seconds=14)
    assert start_due_loads(DUE + timedelta(seconds=29)) == []


def test_start_due_loads__many_runs_missed__starts_one(schedule: Schedule, version: Version) -> None:
    later = DUE + timedelta(days=3, minutes=1)
    assert len(start_due_loads(later)) == 1
    assert again(schedule).next_run_at == DUE + timedelta(days=3, hours=4)
    assert start_due_loads(later) == []


@pytest.mark.parametrize("state", [LoadState.QUEUED, LoadState.WRITING])
def test_start_due_loads__the_load_before_is_not_over__says_so_and_goes_on_with_the_next(
    state: LoadState, schedule: Schedule, version: Version
) -> None:
    running = factories.LoadFactory.create(version=version, state=state)
    assert start_due_loads(DUE) == []
    now = again(schedule)
    assert now.note == f"The run due at 2026-11-01 12:00 UTC was skipped: load {running.fence} had not finished."
    assert (now.next_run_at, now.last_run_at) == (DUE + timedelta(hours=4), None)
    Load.objects.unscoped().filter(pk=running.pk).update(state=LoadState.FAILED, finished_at=DUE)
    version.last_fence = running.fence
    version.save()
    assert len(start_due_loads(DUE + timedelta(hours=4))) == 1
    assert again(schedule).note == ""


def test_start_due_loads__no_source__says_so_and_others_start(schedule: Schedule, version: Version) -> None:
    without = factories.ScheduleFactory.create(next_run_at=DUE - timedelta(minutes=1))
    assert [load.version for load in start_due_loads(DUE)] == [version]
    assert again(without).note.endswith("has no source yet.")


def test_start_due_loads__too_many_of_the_studio_wait__says_so_and_is_tried_at_its_next_time(
    schedule: Schedule, version: Version, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MAX_WAITING_LOADS", 1)
    waiting = factories.LoadFactory.create(version__model=version.model)
    assert start_due_loads(DUE) == []
    now = again(schedule)
    assert now.note.startswith("The run due at 2026-11-01 12:00 UTC was skipped: 1 loads are already queued")
    assert now.next_run_at == DUE + timedelta(hours=4)
    Load.objects.unscoped().filter(pk=waiting.pk).update(state=LoadState.EXTRACTING)
    assert [load.version for load in start_due_loads(DUE + timedelta(hours=4))] == [version]
    assert again(schedule).note == ""


def test_start_due_loads__one_that_cannot_be_moved_on__others_start(schedule: Schedule, version: Version) -> None:
    broken = factories.ScheduleFactory.create(
        kind="crontab", every_minutes=None, crontab="gone wrong", next_run_at=DUE - timedelta(minutes=1)
    )
    assert [load.version for load in start_due_loads(DUE)] == [version]
    assert again(broken).next_run_at == DUE - timedelta(minutes=1)


def test_start_due_loads__switched_off_or_of_an_ended_studio__nothing(schedule: Schedule, studio: Tenant) -> None:
    factories.ScheduleFactory.create(is_enabled=False, next_run_at=None)
    studio.ended_at = DUE
    studio.save()
    assert start_due_loads(DUE) == []


@pytest.mark.django_db(transaction=True)
def test_start_due_loads__many_beats_at_once__start_one_load(schedule: Schedule, version: Version) -> None:
    started: list[Load] = []
    together = threading.Barrier(4)

    def beat() -> None:
        together.wait(10)
        started.extend(start_due_loads(DUE))
        connection.close()

    threads = [threading.Thread(target=beat) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(started) == 1
    assert Load.objects.unscoped().filter(version=version).count() == 1


# --- Freshness --------------------------------------------------------------------------------------------------------


def test_freshness_set__a_target_and_none__kept_and_audited_once(version: Version, owner: User, studio: Tenant) -> None:
    for minutes in (360, 360, None):
        freshness_set(version=version, actor=owner, minutes=minutes)
        version.refresh_from_db()
        assert version.freshness_minutes == minutes
    assert entries(studio) == ["freshness.set"] * 2


@pytest.mark.parametrize("minutes", [0, -1, 10**6, True])
def test_freshness_set__what_will_not_do__refused(minutes: int, version: Version) -> None:
    with pytest.raises(RuleBroken) as refused:
        freshness_set(version=version, actor=None, minutes=minutes)
    assert refused.value.field == "minutes"


@pytest.mark.parametrize(
    ("target", "hours", "expected"),
    [(None, 24, False), (None, 25, True), (360, 6, False), (360, 7, True), (2880, 47, False)],
)
def test_is_late__data_of_some_age__against_its_target_or_a_day(
    target: int | None, hours: int, expected: bool, version: Version
) -> None:
    table = factories.TableFactory.create(load__version=version, load__started_at=DUE, state=TableState.READY)
    version.active_table, version.freshness_minutes = table, target
    assert is_late(version, DUE + timedelta(hours=hours)) == expected


def test_is_late__never_loaded__only_if_there_is_a_target(version: Version) -> None:
    later = version.created_at + timedelta(days=3)
    assert not is_late(version, later)
    version.freshness_minutes = 60
    assert is_late(version, later)
    assert not is_late(version, version.created_at + timedelta(minutes=59))
