"""Which checks rejected loads, counted for whoever watches: `PREFIX:rejections` (hash), "TENANT CHECK" → loads.

A report has each in full; these are the kinds of check alone, without the column, of which a studio may have any
number. It never expires: its fields are at most the studios times a dozen.
"""

from __future__ import annotations

import logging
from typing import Any

import redis
from django.conf import settings

from models_registry.loading.report import Report
from models_registry.models import Load
from models_registry.redis_clients import publishing_client

log = logging.getLogger(__name__)


def count_rejection(load: Load, report: Report) -> None:
    """Count a load for each kind of check that stopped it; what Redis does not take is left out."""
    tenant = load.version.model.tenant.slug
    try:
        for kind in sorted({check.name.rpartition(": ")[2] for check in report.stopping}):
            publishing_client().hincrby(_name(), f"{tenant} {kind}", 1)
    except (redis.RedisError, OSError) as error:
        log.warning("load.rejection_not_counted load=%s problem=%s", load.pk, error)


def rejections() -> dict[tuple[str, str], int]:
    """Return the number of rejected loads by tenant and kind of check.

    Raises:
        redis.RedisError, OSError: Redis does not say.
    """
    fields: Any = publishing_client().hgetall(_name())
    found: dict[tuple[str, str], int] = {}
    for raw, count in fields.items():
        tenant, _, kind = raw.decode().partition(" ")
        found[tenant, kind] = int(count)
    return found


def _name() -> str:
    return f"{settings.REDIS_PREFIX}:rejections"
