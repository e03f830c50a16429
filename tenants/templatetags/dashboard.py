"""What the dashboard's templates are put together from, besides the fragments in `templates/components`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django import template
from django.urls import NoReverseMatch, reverse
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from tenants.pages.studio import Studio
from tenants.templatetags.words import age

register = template.Library()

# What a studio's pages are, in the order of the menu: heading, then name of the address, words, icon. One whose
# address does not exist is left out.
MENU: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    ("Serve", (("models", "Models", "models"), ("loads", "Loads", "loads"), ("traffic", "Traffic", "traffic"))),
    (
        "Studio",
        (
            ("credentials", "Credentials", "key"),
            ("members", "Members", "people"),
            ("audit", "Audit trail", "trail"),
        ),
    ),
)


@register.simple_tag
def when(moment: datetime | None, nothing: str = "never") -> SafeString | str:
    """Give how long ago something was, with the exact instant for whoever points at it."""
    return nothing if moment is None else _time(moment, age(moment))


@register.simple_tag
def dated(moment: datetime | None, nothing: str = "never") -> SafeString | str:
    """Give what `when` does and from a day on the date as well, which a phone cannot show otherwise."""
    if moment is None:
        return nothing
    now = timezone.now()
    words = age(moment, now)
    if abs(now - moment) >= timedelta(days=1):
        local = timezone.localtime(moment)
        year = "" if local.year == timezone.localtime(now).year else f"\xa0{local.year}"
        words += f", {local:%-d\xa0%b}{year}"
    return _time(moment, words)


def _time(moment: datetime, words: str) -> SafeString:
    utc = moment.astimezone(UTC).isoformat(timespec="seconds")
    return format_html('<time datetime="{}" title="{}">{}</time>', utc, exact(moment), words)


@register.filter
def exact(moment: datetime) -> str:
    """Give an instant to the second, by the clock of whoever looks: “12 Nov 2026, 14:02:07 Europe/Berlin”."""
    return f"{timezone.localtime(moment):%-d %b %Y, %H:%M:%S} {timezone.get_current_timezone_name()}"


@register.filter
def day(moment: datetime) -> str:
    """Give an instant's day, by the clock of whoever looks: “12 Nov 2026”."""
    return f"{timezone.localtime(moment):%-d %b %Y}"


@register.filter
def share(fraction: float) -> str:
    """Give a share (0 … 1) in percent with one place, two below one percent: “3.8 %”."""
    in_percent = 100 * fraction
    return f"{in_percent:.1f} %" if in_percent >= 1 or not in_percent else f"{in_percent:.2f} %"


@register.simple_tag
def studio_menu(studio: Studio, section: str) -> list[dict[str, object]]:
    """Give the menu of a studio's pages; `section` is the name of the address of the entry that is open."""
    groups: list[dict[str, object]] = []
    for heading, entries in MENU:
        items = [
            {"words": words, "icon": icon, "url": url, "is_open": name == section}
            for name, words, icon in entries
            if (url := _address(name, studio.tenant.slug)) is not None
        ]
        if items:
            groups.append({"heading": heading, "items": items})
    return groups


def _address(name: str, slug: str) -> str | None:
    try:
        return reverse(name, args=[slug])
    except NoReverseMatch:
        return None
