"""What the dashboard's templates are put together from, besides the fragments in `templates/components`."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from django import template
from django.utils import timezone
from django.utils.html import format_html
from django.utils.safestring import SafeString

from tenants.figures import age, exact

register = template.Library()

# What a studio's pages are, in the order of the menu: heading, then name of the address, words, icon.
MENU: tuple[tuple[str, tuple[tuple[str, str, str], ...]], ...] = (
    ("Serve", (("models", "Models", "models"), ("loads", "Loads", "loads"), ("traffic", "Traffic", "traffic"))),
    (
        "Studio",
        (("credentials", "Credentials", "key"), ("members", "Members", "people"), ("audit", "Audit trail", "trail")),
    ),
)


@register.simple_tag
def when(moment: datetime | None, nothing: str = "never") -> SafeString | str:
    """Return how long ago something was, with the exact instant for whoever points at it."""
    return nothing if moment is None else _time(moment, age(moment))


@register.simple_tag
def dated(moment: datetime | None, nothing: str = "never") -> SafeString | str:
    """Return what `when` does and from a day on the date as well, which a phone cannot show otherwise."""
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


@register.simple_tag
def studio_menu() -> object:
    """Return the menu of a studio's pages."""
    return MENU
