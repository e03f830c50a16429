"""Rules across settings as Django system checks: `manage.py check`, with `--deploy` what an installation wants too."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Tags, Warning, register  # noqa: A004 - Django's name for it

from recsite.environment import errors_of, warnings_of


@register(Tags.compatibility)
def check_settings_fit_together(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """Report settings that cannot work together; no process starts with such."""
    return [Error(message, hint=hint, id=id_) for id_, message, hint in errors_of(settings.ENV)]


@register(Tags.security, deploy=True)
def check_settings_for_strangers(app_configs: Sequence[Any] | None, **_: Any) -> list[CheckMessage]:
    """Report what an installation that strangers reach should not be left with."""
    return [Warning(message, hint=hint, id=id_) for id_, message, hint in warnings_of(settings.ENV)]
