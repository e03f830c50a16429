"""Whose clock a page shows: the browser says it in a cookie (`static/dashboard/frame.js`), else it is UTC."""

from __future__ import annotations

from zoneinfo import ZoneInfo, available_timezones

from django.http import HttpRequest

ZONE_COOKIE = "recsite_zone"
UTC_ZONE = ZoneInfo("UTC")


def zone_of(request: HttpRequest) -> ZoneInfo:
    """Return the time zone of whoever asks; UTC where the cookie is missing or names none."""
    name = request.COOKIES.get(ZONE_COOKIE, "")
    return ZoneInfo(name) if name in available_timezones() else UTC_ZONE
