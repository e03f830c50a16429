"""When a schedule runs next: intervals, crontabs, time zones, and the nights on which clocks are changed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from models_registry.loading.schedules import next_cron_run, next_run, words
from models_registry.models import Schedule, ScheduleKind
from tenants.rules import RuleBroken

BERLIN = "Europe/Berlin"


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def runs(crontab: str, zone: str, after: str, count: int) -> list[str]:
    moment, found = utc(after), []
    for _ in range(count):
        moment = next_cron_run(crontab, zone, moment)
        found.append(f"{moment:%m-%d %H:%M}")
    return found


@pytest.mark.parametrize(
    ("crontab", "zone", "after", "expected"),
    [
        ("0 */4 * * *", "UTC", "2026-11-01T00:00", ["11-01 04:00", "11-01 08:00"]),
        ("0 */4 * * *", "UTC", "2026-11-01T03:59:59", ["11-01 04:00", "11-01 08:00"]),
        ("30 4 * * 1-5", BERLIN, "2026-11-06T12:00", ["11-09 03:30", "11-10 03:30"]),
        ("0 0 29 2 *", "UTC", "2026-11-01T00:00", ["02-29 00:00"]),
        # 2026-03-29: at 01:00 UTC clocks in Berlin go from 2 to 3.
        ("30 2 * * *", BERLIN, "2026-03-28T12:00", ["03-29 01:00", "03-30 00:30"]),
        ("30 2 * * *", BERLIN, "2026-03-29T01:00", ["03-30 00:30"]),
        ("0 */2 * * *", BERLIN, "2026-03-28T23:30", ["03-29 01:00", "03-29 02:00"]),
        ("*/20 2 * * *", BERLIN, "2026-03-28T23:30", ["03-29 01:00", "03-30 00:00"]),
        ("0 * * * *", BERLIN, "2026-03-28T23:30", ["03-29 00:00", "03-29 01:00", "03-29 02:00"]),
        # 2026-10-25: at 01:00 UTC they go from 3 back to 2.
        ("30 2 * * *", BERLIN, "2026-10-24T12:00", ["10-25 00:30", "10-26 01:30"]),
        ("30 2 * * *", BERLIN, "2026-10-25T01:00", ["10-26 01:30"]),
        ("0 */2 * * *", BERLIN, "2026-10-24T23:30", ["10-25 00:00", "10-25 03:00"]),
        ("*/20 2 * * *", BERLIN, "2026-10-24T23:30", ["10-25 00:00", "10-25 00:20", "10-25 00:40", "10-26 01:00"]),
        ("0 * * * *", BERLIN, "2026-10-24T23:30", ["10-25 00:00", "10-25 01:00", "10-25 02:00"]),
        # A whole day that Samoa's calendar left out.
        ("0 12 * * *", "Pacific/Apia", "2011-12-30T00:00", ["12-30 10:00", "12-30 22:00"]),
        # Half an hour of daylight saving.
        ("15 2 * * *", "Australia/Lord_Howe", "2026-10-03T12:00", ["10-03 15:30", "10-04 15:15"]),
    ],
)
def test_next_cron_run__clocks_of_every_kind__are_gone_by(
    crontab: str, zone: str, after: str, expected: list[str]
) -> None:
    assert runs(crontab, zone, after, len(expected)) == expected


@given(
    st.sampled_from(["30 2 * * *", "0 */3 * * *", "*/15 * * * *", "7 1-5 * * *", "0 0 1 * *"]),
    st.sampled_from([BERLIN, "America/New_York", "Australia/Lord_Howe", "Pacific/Apia", "Africa/Casablanca", "UTC"]),
    st.datetimes(datetime(2009, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC)),  # noqa: DTZ001 - zone given apart
)
def test_next_cron_run__any_moment__the_next_is_later_and_none_lies_between(
    crontab: str, zone: str, after: datetime
) -> None:
    following = next_cron_run(crontab, zone, after)
    assert following > after
    assert next_cron_run(crontab, zone, following - timedelta(seconds=1)) == following
    assert following.astimezone(ZoneInfo(zone)).second == 0


@pytest.mark.parametrize("crontab", ["", "x", "0 4 * *", "* * * * * *", "61 * * * *", "0 0 30 2 *", "@daily"])
def test_next_cron_run__no_crontab__refused_in_words(crontab: str) -> None:
    with pytest.raises(RuleBroken, match="crontab") as refused:
        next_cron_run(crontab, "UTC", utc("2026-11-01T00:00"))
    assert refused.value.field == "crontab"


@pytest.mark.parametrize(
    ("due", "after", "expected"),
    [
        (None, "2026-11-01T10:00", "2026-11-01T14:00"),
        ("2026-11-01T10:00", "2026-11-01T10:00", "2026-11-01T14:00"),
        ("2026-11-01T10:00", "2026-11-01T10:00:14", "2026-11-01T14:00"),
        ("2026-11-01T10:00", "2026-11-02T11:00", "2026-11-02T14:00"),
    ],
)
def test_next_run__of_an_interval__counts_on_from_the_last_due_without_drift(
    due: str | None, after: str, expected: str
) -> None:
    schedule = Schedule(kind=ScheduleKind.INTERVAL, every_minutes=240, next_run_at=utc(due) if due else None)
    assert next_run(schedule, utc(after)) == utc(expected)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (Schedule(kind="interval", every_minutes=1), "every minute"),
        (Schedule(kind="interval", every_minutes=90), "every 90 minutes"),
        (Schedule(kind="interval", every_minutes=60), "every hour"),
        (Schedule(kind="interval", every_minutes=2880), "every 2 days"),
        (Schedule(kind="interval", every_minutes=240, is_enabled=False), "every 4 hours, switched off"),
        (Schedule(kind="crontab", crontab="30 4 * * *", timezone=BERLIN), "at 04:30 every day (Europe/Berlin)"),
    ],
)
def test_words__of_a_schedule__say_when(schedule: Schedule, expected: str) -> None:
    assert words(schedule) == expected
