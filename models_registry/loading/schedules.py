"""When versions are loaded by themselves, how fresh their data should be, and the loads that are due.

A crontab goes by a clock on a wall. Where its hours are named, a time that daylight saving skips runs once at the next
time there is, and one that it repeats runs once; where it is every hour, it goes on through each that passes.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, assert_never
from zoneinfo import ZoneInfo, available_timezones

from cronsim import CronSim, CronSimError
from django.db import transaction
from django.utils import timezone as clock

from models_registry.catalogue.acts import record
from models_registry.catalogue.archiving import check_in_use
from models_registry.loading.requests import load_request
from models_registry.models import RUNNING_STATES, Load, Schedule, ScheduleKind, Version
from tenants import audit
from tenants.models import User
from tenants.rules import RuleBroken
from tenants.services import StudioBusy, lock_tenant

log = logging.getLogger(__name__)

# A year: whoever wants less has no use for a schedule.
MAX_MINUTES = 366 * 24 * 60
MAX_CRONTAB = 100


# --- Writes -----------------------------------------------------------------------------------------------------------


def schedule_set(
    *,
    version: Version,
    actor: User | None,
    kind: str,
    every_minutes: int | None = None,
    crontab: str = "",
    timezone: str = "UTC",
    is_enabled: bool = True,
) -> Schedule:
    """Say when a version is loaded by itself. Its next run is counted from now.

    Args:
        version: what is loaded.
        actor: who decides it.
        kind: one of `ScheduleKind`.
        every_minutes: of an interval: 1 … 527,040.
        crontab: of a crontab: minute, hour, day of the month, month, day of the week.
        timezone: a name of the IANA database, such as Europe/Berlin; an interval takes no notice of it.
        is_enabled: whether it starts loads; one that does not is kept for later.

    Raises:
        RuleBroken: any of these will not do, or the crontab's time never comes.
    """
    if kind not in ScheduleKind:
        raise RuleBroken("A schedule needs either an interval or a crontab.", field="kind")
    match ScheduleKind(kind):
        case ScheduleKind.INTERVAL:
            every_minutes, crontab = _check_minutes(every_minutes, field="every_minutes", what="The interval"), ""
        case ScheduleKind.CRONTAB:
            every_minutes, crontab = None, " ".join(crontab.split())
        case unknown:
            assert_never(unknown)
    # Only a name that the database lists is looked up: nothing else gets as far as the file system.
    if timezone not in available_timezones():
        raise RuleBroken(f"“{timezone}” is not a time zone. Use one such as Europe/Berlin.", field="timezone")
    values: dict[str, Any] = {"kind": kind, "every_minutes": every_minutes, "crontab": crontab, "timezone": timezone}
    with transaction.atomic():
        model = version.model
        lock_tenant(model.tenant)
        check_in_use(version)
        held = Schedule.objects.for_tenant(model.tenant).filter(version=version).first()
        wanted = Schedule(pk=held.pk if held else None, version=version, is_enabled=is_enabled, **values)
        next_run_at = next_run(wanted, clock.now())
        before = _as_json(held) if held else None
        if held and before == _as_json(wanted):
            return held
        wanted.next_run_at = next_run_at if is_enabled else None
        wanted.last_run_at = held.last_run_at if held else None
        wanted.save()
        summary = f"Set the schedule of “{model.slug}/{version.name}”: {words(wanted)}."
        record(version, actor, audit.Action.SCHEDULE_SET, summary, before=before, after=_as_json(wanted))
    return wanted


def schedule_remove(*, version: Version, actor: User | None) -> None:
    """Load a version only when somebody asks for it.

    Raises:
        RuleBroken: it has no schedule.
    """
    with transaction.atomic():
        model = version.model
        lock_tenant(model.tenant)
        schedule = Schedule.objects.for_tenant(model.tenant).filter(version=version).first()
        if schedule is None:
            raise RuleBroken(f"The version “{version.name}” has no schedule.")
        before = _as_json(schedule)
        schedule.delete()
        summary = f"Removed the schedule of “{model.slug}/{version.name}”."
        record(version, actor, audit.Action.SCHEDULE_REMOVE, summary, before=before)


def freshness_set(*, version: Version, actor: User | None, minutes: int | None) -> Version:
    """Say how old a version's data may become before it counts as late; None for no target.

    Raises:
        RuleBroken: it is not from 1 to 527,040 minutes.
    """
    if minutes is not None:
        _check_minutes(minutes, field="minutes", what="The target")
    with transaction.atomic():
        model = version.model
        lock_tenant(model.tenant)
        check_in_use(version)
        version.refresh_from_db(fields=["freshness_minutes"])
        before = version.freshness_minutes
        if before != minutes:
            version.freshness_minutes = minutes
            version.save(update_fields=["freshness_minutes"])
            what = "no target" if minutes is None else f"at most {in_words(minutes)} old"
            summary = f"Set how fresh “{model.slug}/{version.name}” should be: {what}."
            values = {"before": {"freshness_minutes": before}, "after": {"freshness_minutes": minutes}}
            record(version, actor, audit.Action.FRESHNESS_SET, summary, **values)
    return version


# --- Due runs ---------------------------------------------------------------------------------------------------------


def start_due_loads(now: datetime) -> list[Load]:
    """Start the load of every schedule that is due; return the loads.

    A schedule whose runs were missed (nobody ran this) runs once. While a load of the version runs or waits, no other
    is queued, and the schedule's note says so. Two of these at once start one load: whoever moves the schedule on. A
    studio that is being changed just now is left for the next time.

    Cost: a query, and a handful for each schedule that is due.
    """
    due = Schedule.objects.unscoped().filter(next_run_at__lte=now, version__model__tenant__ended_at=None)
    found = due.select_related("version__model__tenant").order_by("next_run_at")
    return [load for schedule in found for load in _start(schedule, now)]


def _start(schedule: Schedule, now: datetime) -> Iterator[Load]:
    version, due_at = schedule.version, schedule.next_run_at
    try:
        with transaction.atomic():
            lock_tenant(version.model.tenant, waits=False)
            schedule.next_run_at = next_run(schedule, now)
            unchanged = Schedule.objects.unscoped().filter(pk=schedule.pk, next_run_at=due_at)
            if not unchanged.update(next_run_at=schedule.next_run_at):
                return
            load, note = None, ""
            loads = Load.objects.unscoped().filter(version=version, is_dry_run=False)
            running = loads.filter(state__in=RUNNING_STATES).first()
            if running is not None:
                note = f"The run due at {due_at:%Y-%m-%d %H:%M} UTC was skipped: load {running.fence} had not finished."
            else:
                try:
                    load = load_request(version=version, actor=None, scheduled_for=due_at)
                except RuleBroken as problem:
                    note = f"The run due at {due_at:%Y-%m-%d %H:%M} UTC was skipped: {problem}"
            changes = {"note": note[:300]} | ({"last_run_at": now} if load else {})
            Schedule.objects.unscoped().filter(pk=schedule.pk).update(**changes)
    except StudioBusy:
        log.info("schedule.waits version=%s", version.pk)  # the next run finds it due
        return
    except Exception:  # one schedule that cannot be moved on must not keep the others waiting
        log.exception("schedule.failed version=%s", version.pk)
        return
    if load is None:
        log.warning("schedule.left_out version=%s note=%s", version.pk, note)
    else:
        log.info("schedule.started version=%s load=%s due=%s", version.pk, load.pk, due_at)
        yield load


# --- When -------------------------------------------------------------------------------------------------------------


def next_run(schedule: Schedule, after: datetime) -> datetime:
    """Return the first moment after another at which a schedule is due, in UTC.

    An interval counts on from the run that it was last due for, so that it does not drift.

    Raises:
        RuleBroken: the crontab cannot be read, or its time never comes.
    """
    match ScheduleKind(schedule.kind):
        case ScheduleKind.CRONTAB:
            return next_cron_run(schedule.crontab, schedule.timezone, after)
        case ScheduleKind.INTERVAL:
            return _next_interval_run(schedule, after)
        case unknown:
            assert_never(unknown)


def _next_interval_run(schedule: Schedule, after: datetime) -> datetime:
    every = timedelta(minutes=schedule.every_minutes or 0)
    due_at = schedule.next_run_at
    if due_at is None or due_at > after:
        return after + every
    return due_at + every * ((after - due_at) // every + 1)


def next_cron_run(crontab: str, timezone: str, after: datetime) -> datetime:
    """Return the first moment after another that a crontab names, in UTC; how it goes about daylight saving is above.

    Raises:
        RuleBroken: the crontab cannot be read, or its time never comes.
    """
    zone = ZoneInfo(timezone)
    local = after.astimezone(zone)
    if len(crontab.split()) != 5 or len(crontab) > MAX_CRONTAB:
        raise RuleBroken(
            "A crontab has five fields (minute, hour, day of the month, month, day of the week) in at most "
            f"{MAX_CRONTAB} characters.",
            field="crontab",
        )
    try:
        wall_times = CronSim(crontab, local.replace(tzinfo=None))
        if len(wall_times.hours) == 24:
            return next(CronSim(crontab, local)).astimezone(UTC)
        for wall_time in wall_times:
            moment = _moment(wall_time, zone)
            if moment > after:
                return moment
    except CronSimError as error:
        raise RuleBroken(f"The crontab cannot be read: {error}.", field="crontab") from None
    except StopIteration:
        pass
    raise RuleBroken("The crontab names a time that never occurs.", field="crontab")


def _moment(wall_time: datetime, zone: ZoneInfo) -> datetime:
    """Return when a clock shows a time: the first of two times, and for one that is skipped the next that there is."""
    while True:
        moment = wall_time.replace(tzinfo=zone).astimezone(UTC)
        if moment.astimezone(zone).replace(tzinfo=None) == wall_time:
            return moment
        wall_time += timedelta(minutes=1)


def words(schedule: Schedule) -> str:
    """Say when a schedule runs, in words, such as “every 4 hours”."""
    match ScheduleKind(schedule.kind):
        case ScheduleKind.INTERVAL:
            text = f"every {in_words(schedule.every_minutes or 0)}"
        case ScheduleKind.CRONTAB:
            explained = CronSim(schedule.crontab, datetime(2026, 1, 1, tzinfo=UTC)).explain()
            text = f"{explained[0].lower()}{explained[1:]} ({schedule.timezone})"
        case unknown:
            assert_never(unknown)
    return text if schedule.is_enabled else f"{text}, switched off"


def in_words(minutes: int) -> str:
    """Return a number of minutes in the largest unit that holds it whole, such as “4 hours”."""
    for name, size in (("day", 1440), ("hour", 60)):
        if minutes % size == 0:
            count = minutes // size
            return name if count == 1 else f"{count:,} {name}s"
    return "minute" if minutes == 1 else f"{minutes:,} minutes"


# --- What the functions above share -----------------------------------------------------------------------------------


def _check_minutes(minutes: int | None, *, field: str, what: str) -> int:
    if isinstance(minutes, bool) or not isinstance(minutes, int) or not 1 <= minutes <= MAX_MINUTES:
        raise RuleBroken(f"{what} must be a whole number of minutes from 1 to {MAX_MINUTES:,}.", field=field)
    return minutes


def _as_json(schedule: Schedule) -> dict[str, str | int | bool | None]:
    fields = ("kind", "every_minutes", "crontab", "timezone", "is_enabled")
    return {field: getattr(schedule, field) for field in fields}
