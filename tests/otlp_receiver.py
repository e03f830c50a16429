"""A receiver of traces, as OpenTelemetry sends them over HTTP: what it gets is decoded, and kept."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import NamedTuple

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue


class SentSpan(NamedTuple):
    """A span: whose it is, its ids as the logs have them, and what it says."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    attributes: dict[str, str | int]
    has_failed: bool


class Receiver:
    """Where it listens, and what it got."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.spans: list[SentSpan] = []
        # All of it, for whoever looks for what must not be there.
        self.text = ""

    def take(self, body: bytes) -> None:
        sent = ExportTraceServiceRequest.FromString(body)
        self.text += str(sent)
        for of in sent.resource_spans:
            service = _values(of.resource.attributes)["service.name"]
            for scope in of.scope_spans:
                self.spans += [
                    SentSpan(
                        str(service),
                        each.name,
                        each.trace_id.hex(),
                        each.span_id.hex(),
                        each.parent_span_id.hex(),
                        _values(each.attributes),
                        each.status.code == each.status.STATUS_CODE_ERROR,
                    )
                    for each in scope.spans
                ]

    def named(self, name: str) -> list[SentSpan]:
        return [each for each in self.spans if each.name == name]


def _values(attributes: object) -> dict[str, str | int]:
    found: dict[str, str | int] = {}
    each: KeyValue
    for each in attributes:  # type: ignore[attr-defined]  # a repeated field
        found[each.key] = getattr(each.value, each.value.WhichOneof("value") or "string_value")
    return found


@contextmanager
def otlp_receiver() -> Iterator[Receiver]:
    """Receive on a free port of loopback until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            receiver.take(self.rfile.read(int(self.headers["Content-Length"])))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        receiver = Receiver(f"http://127.0.0.1:{server.server_port}")
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield receiver
        finally:
            server.shutdown()
            thread.join()
