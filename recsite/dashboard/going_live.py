"""How far the newest weights have come: to Redis, to the lanes, to the phones."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from django.utils import timezone

from models_registry.catalogue.selectors import ModelSummary
from models_registry.traffic import propagation

# Clients keep an answer for a tenth longer or shorter than the model says, so that they do not come back all at once.
CLIENT_AGE_SPREAD = 1.1
# A page stops asking how far a change has come when it is this old.
LOOK_FOR_SECONDS = 120


@dataclass(frozen=True)
class Live:
    """How far the newest revision has come.

    Attributes:
        is_published: Redis has taken it.
        lanes: what serving processes say; None where Redis does not answer.
        seconds: from Save to the last lane; None if that is not known.
        client_seconds: after so many seconds no phone holds an older answer.
        asks_again: it is on its way, so that it is worth looking again in a second.
    """

    is_published: bool
    lanes: propagation.Propagation | None
    seconds: float | None
    client_seconds: int
    asks_again: bool


def live_of(summary: ModelSummary) -> Live | None:
    """Ask serving how far the newest revision has come; None without one. No query, three reads from Redis."""
    revision, tenant = summary.rollout, summary.model.tenant
    if revision is None:
        return None
    published_at = tenant.snapshot_published_at
    is_published = published_at is not None and published_at >= revision.created_at
    lanes = propagation.propagation(tenant)
    seconds = None
    # Later publications (another change, Redis filled again) say nothing about this one's speed.
    if published_at is not None and lanes is not None and lanes.seconds is not None:
        publishing_seconds = (published_at - revision.created_at).total_seconds()
        if 0 <= publishing_seconds < 10:
            seconds = publishing_seconds + lanes.seconds
    is_on_all = lanes is not None and lanes.is_served and not lanes.behind
    age_seconds = (timezone.now() - revision.created_at).total_seconds()
    client_seconds = ceil(summary.model.max_client_age_seconds * CLIENT_AGE_SPREAD)
    asks_again = age_seconds < LOOK_FOR_SECONDS and not (is_published and is_on_all)
    return Live(is_published, lanes, seconds, client_seconds, asks_again)
