"""Who calls the dashboard's process: from which address; and what it tells machines that watch over it."""

from __future__ import annotations

import hmac
import logging
from collections.abc import Iterable

from django.conf import settings
from django.db import DatabaseError, connection
from django.http import Http404, HttpRequest, HttpResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from typing_extensions import override

from recsite.metrics import control_plane, several

log = logging.getLogger(__name__)


def client_address(request: HttpRequest) -> str:
    """Return the address a request came from, as far as it can be trusted.

    Each proxy appends to `X-Forwarded-For` whom it had the request from. What stands before those that our own proxies
    wrote, the caller may have written.
    """
    peer: str = request.META.get("REMOTE_ADDR", "")
    count: int = settings.PROXIES
    told = [address.strip() for address in request.headers.get("X-Forwarded-For", "").split(",")]
    return told[-count] if 0 < count <= len(told) and told[-count] else peer


def metrics(request: HttpRequest) -> HttpResponse:
    """Return what is counted to whoever sends the bearer token of the settings; a 404 to everybody else.

    That is what all processes of this dashboard count, and what the control plane says of itself.

    Raises:
        Http404: the token is another one, or none is set.
    """
    token: str | None = settings.METRICS_TOKEN
    given = request.headers.get("Authorization", "")
    if request.method != "GET" or token is None or not hmac.compare_digest(given.encode(), f"Bearer {token}".encode()):
        raise Http404
    try:
        counted = CollectorRegistry()
        counted.register(_Counted(list(several.metrics())))
    except TimeoutError as error:
        log.warning("metrics.locked problem=%s", error)
        return HttpResponse(f"{error}\n", "text/plain", status=503)
    return HttpResponse(generate_latest(counted) + generate_latest(control_plane()), content_type=CONTENT_TYPE_LATEST)


class _Counted(Collector):
    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    @override
    def collect(self) -> Iterable[Metric]:
        return self._metrics


def ready_for_tokens(request: HttpRequest) -> HttpResponse:
    """Say whether this process can mint tokens and show pages: whether its database answers. One query."""
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
    except DatabaseError as error:
        log.warning("readiness.no_database error=%s", type(error).__name__)
        return HttpResponse("the database does not answer\n", "text/plain", status=503)
    return HttpResponse("ready\n", "text/plain")
