"""When a version is loaded by itself, and how old its data may become."""

from __future__ import annotations

from typing import Any, assert_never
from zoneinfo import available_timezones

from django import forms

from models_registry.models import Schedule, ScheduleKind, Version
from recsite.dashboard.forms.dashboard_form import DashboardForm

_UNITS = [(1, "minutes"), (60, "hours"), (1440, "days")]
# Nobody's wall clock: offsets, and names that the database keeps for old programs.
_NO_PLACES = ("Etc/", "SystemV/", "US/", "posix", "right")


def _amount(label: str, **more: Any) -> forms.IntegerField:
    return forms.IntegerField(label=label, min_value=1, max_value=100_000, required=False, **more)


def _unit(label: str) -> forms.TypedChoiceField:
    return forms.TypedChoiceField(label=label, choices=_UNITS, coerce=int, required=False, initial=60)


def _split(minutes: int | None) -> tuple[int | None, int]:
    """Return a number of minutes as an amount of the largest unit that holds it whole."""
    if minutes is None:
        return None, 60
    size = next(size for size, _ in reversed(_UNITS) if minutes % size == 0)
    return minutes // size, size


class ScheduleForm(DashboardForm):
    """By an interval, by a crontab, or not at all."""

    kind = forms.ChoiceField(
        label="When it is loaded",
        required=False,
        widget=forms.RadioSelect,
        choices=[
            ("", "Only on request"),
            (ScheduleKind.INTERVAL, "Every so often"),
            (ScheduleKind.CRONTAB, "At times of the day, by a crontab"),
        ],
    )
    every = _amount("Every", initial=4)
    unit = _unit("Unit")
    crontab = forms.CharField(
        label="Crontab",
        max_length=100,
        required=False,
        widget=forms.TextInput({"placeholder": "30 5 * * *", "autocomplete": "off", "spellcheck": "false"}),
        help_text="Minute, hour, day of the month, month, day of the week: 30 5 * * * is every day at 5:30, "
        "0 */4 * * * every four hours.",
    )
    timezone = forms.ChoiceField(label="Time zone", required=False, initial="UTC")
    is_enabled = forms.BooleanField(
        label="Switched on", required=False, initial=True, help_text="Switched off, it is kept for later."
    )

    def __init__(self, schedule: Schedule | None, *args: Any, **kwargs: Any) -> None:
        if schedule is not None:
            every, unit = _split(schedule.every_minutes)
            own = {"kind": schedule.kind, "crontab": schedule.crontab, "timezone": schedule.timezone}
            kwargs["initial"] = {**own, "is_enabled": schedule.is_enabled, **({"every": every} if every else {})}
            kwargs["initial"]["unit"] = unit
        super().__init__(*args, **kwargs)
        places = (zone for zone in available_timezones() if "/" in zone and not zone.startswith(_NO_PLACES))
        known = {"UTC", *places, *([schedule.timezone] if schedule else [])}
        self.offer("timezone", [(zone, zone) for zone in sorted(known)])

    @property
    def values(self) -> dict[str, Any]:
        """The values as the service takes them. Only when the form is valid, and a kind was chosen."""
        values = self.cleaned_data
        every_minutes: int | None
        match ScheduleKind(values["kind"]):
            case ScheduleKind.INTERVAL:
                every_minutes = values["every"] and values["every"] * (values["unit"] or 60)
            case ScheduleKind.CRONTAB:
                every_minutes = None
            case unknown:
                assert_never(unknown)
        return {
            "kind": values["kind"],
            "every_minutes": every_minutes,
            "crontab": values["crontab"],
            "timezone": values["timezone"] or "UTC",
            "is_enabled": values["is_enabled"],
        }


class FreshnessForm(DashboardForm):
    """How old a version's data may become before it counts as late."""

    amount = _amount("At most", help_text="Leave it empty for the usual target: data is late after a day.")
    unit = _unit("Unit")

    def __init__(self, version: Version, *args: Any, **kwargs: Any) -> None:
        amount, unit = _split(version.freshness_minutes)
        super().__init__(*args, initial={"amount": amount, "unit": unit}, **kwargs)

    @property
    def minutes(self) -> int | None:
        """The target; None for none. Only when the form is valid."""
        amount = self.cleaned_data["amount"]
        return None if amount is None else amount * (self.cleaned_data["unit"] or 60)
