"""One in many of the lane's requests as a span: the others cost a number that is counted down."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from typing_extensions import override

from serving.http import PATH, Request, Response
from serving.lane.headers import COUNTED, TRACEPARENT
from serving.lane.http11 import Connection
from serving.tracing import begin, fail

if TYPE_CHECKING:
    from opentelemetry.trace import Span

EVERY = 1000

Handle = Callable[[Connection, str, Request], None]


def sampled(handle: Handle, every: int = EVERY) -> Handle:
    """Return what hands each request on; the first and then one in `every` so that its answer ends a span."""
    # Counted from now on: it costs every request that has one.
    COUNTED[b"traceparent"] = TRACEPARENT
    left = 1

    def handle_some(connection: Connection, path: str, request: Request) -> None:
        nonlocal left
        left -= 1
        if left > 0 or path != PATH:
            handle(connection, path, request)
            return
        left = every
        parent = {"traceparent": request.traceparent} if request.traceparent is not None else {}
        handle(_Traced(connection, begin(request.method, "server", parent, {"recsite.one_of": every})), path, request)

    return handle_some


class _Traced(Connection):
    """A connection as those see it who answer: it passes the answer on, and ends the span."""

    __slots__ = ("_connection", "_span")

    def __init__(self, connection: Connection, span: Span) -> None:
        # Nothing but the answer goes through it, so it is no connection of its own.
        self._connection = connection
        self._span = span
        self.asked_at = connection.asked_at
        self.request_id = connection.request_id

    @override
    def send(self, response: Response) -> None:
        self._span.set_attribute("http.response.status_code", response.status)
        if response.exposures:
            first = response.exposures[0]
            for name, value in (("tenant", first.tenant), ("model", first.model), ("source", first.source)):
                self._span.set_attribute(f"recsite.{name}", value)
        if response.status >= 500:
            fail(self._span, response.code)
        self._span.end()
        self._connection.send(response)
