"""Traces, where `RECSITE_OTLP_ENDPOINT` names a receiver; without it nothing of OpenTelemetry is even imported.

Spans say what was done and how it ended: routes, tasks, loads, steps. Never an address, a query, SQL, or the text of an
error: any of these may name a player. So no instrumentation of libraries is used, and no provider is set for them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Literal

from django.conf import settings

from serving.log_context import component, saying

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.trace import Span, Tracer

Kind = Literal["internal", "server", "consumer"]
Attribute = str | int | bool
# Sent at most a second after their end; a process that ends may take that many with it.
SENT_AFTER_MS = 1000
SEND_SECONDS = 5.0
# The header that names the span which asked, as W3C has it.
TRACEPARENT = "traceparent"

_starting = threading.Lock()


@contextmanager
def span(
    name: str, *, kind: Kind = "internal", parent: Mapping[str, str] | None = None, **attributes: Attribute
) -> Iterator[Span | None]:
    """Have what the block does be a span, part of the one around it, or of the one that a header of `parent` names.

    Yields None where nothing is traced. Of an exception that leaves the block its kind is told.
    """
    if settings.OTLP_ENDPOINT is None:
        yield None
        return
    from opentelemetry.trace import use_span  # noqa: PLC0415  # of who wants traces alone

    own = begin(name, kind, parent, attributes)
    with (
        use_span(own, end_on_exit=True, record_exception=False, set_status_on_exception=False),
        saying({"trace_id": trace_id(own)}),
    ):
        try:
            yield own
        except BaseException as error:
            fail(own, type(error).__name__)
            raise


def begin(name: str, kind: Kind, parent: Mapping[str, str] | None, attributes: Mapping[str, Attribute]) -> Span:
    """Begin a span that somebody ends; only where traces are wanted."""
    from opentelemetry.trace import SpanKind  # noqa: PLC0415  # as above

    above = _named_by(parent) if parent is not None else None
    return _tracer().start_span(name, above, SpanKind[kind.upper()], attributes)


def trace_id(of: Span) -> str:
    """Return the id of the trace that a span belongs to, as the logs have it."""
    return f"{of.get_span_context().trace_id:032x}"


def fail(failed: Span, why: str) -> None:
    """Say that what a span tells of failed: a kind of exception, or a stable code."""
    from opentelemetry.trace import StatusCode  # noqa: PLC0415  # as above

    failed.set_attribute("error.type", why)
    failed.set_status(StatusCode.ERROR)


def send_along(headers: MutableMapping[str, str]) -> None:
    """Put the span that is under way into headers of what it asks for."""
    if settings.OTLP_ENDPOINT is not None:
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415  # as above

        TraceContextTextMapPropagator().inject(headers)


def _named_by(headers: Mapping[str, str]) -> Context:
    from opentelemetry.context import Context  # noqa: PLC0415  # as above
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator  # noqa: PLC0415  # as above

    named = {TRACEPARENT: headers[TRACEPARENT]} if headers.get(TRACEPARENT) else {}
    return TraceContextTextMapPropagator().extract(named, Context())


def _tracer() -> Tracer:
    with _starting:
        return _started()


@cache
def _started() -> Tracer:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter  # noqa: PLC0415  # as above
    from opentelemetry.sdk.resources import Resource  # noqa: PLC0415  # as above
    from opentelemetry.sdk.trace import TracerProvider  # noqa: PLC0415  # as above
    from opentelemetry.sdk.trace.export import BatchSpanProcessor  # noqa: PLC0415  # as above

    version, commit = settings.RELEASE
    resource = Resource.create(
        {"service.name": f"recsite-{component()}", "service.version": version, "recsite.commit": commit}
    )
    provider = TracerProvider(resource=resource)
    endpoint = f"{str(settings.OTLP_ENDPOINT).rstrip('/')}/v1/traces"
    exporter = OTLPSpanExporter(endpoint, timeout=SEND_SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter, schedule_delay_millis=SENT_AFTER_MS))
    return provider.get_tracer("recsite")
