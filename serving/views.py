"""The DRF door: the readable one, in the process of the dashboard. It answers what the lane answers, byte for byte."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django_redis import get_redis_connection
from prometheus_client import REGISTRY
from redis.exceptions import RedisError
from redis.exceptions import TimeoutError as RedisTimeout
from rest_framework.negotiation import BaseContentNegotiation
from rest_framework.parsers import BaseParser
from rest_framework.renderers import BaseRenderer
from rest_framework.request import Request as DrfRequest
from rest_framework.views import APIView
from typing_extensions import override

from serving.configuration import Serving, assemble, installation
from serving.engine import UNAVAILABLE, BatchLookup, Block, Lookup, begin
from serving.http import (
    ALIVE,
    BODY_INCOMPLETE,
    MAX_BODY_BYTES,
    NO_ANSWER,
    NOT_ENCODED,
    NOT_FOUND,
    OVER_CAPACITY,
    TOO_LARGE,
    Request,
    Response,
)
from serving.metrics import NumbersCollector, Reading
from serving.redis.clients import by_holder

logger = logging.getLogger(__name__)

# A Redis that just failed is left alone for this long, so that its time-outs do not take up every thread.
REST_SECONDS = 0.25

_starting = threading.Lock()
_counting = threading.Lock()
_capacity = threading.BoundedSemaphore(settings.SERVING_CAPACITY)
# By server; a race for it costs one more time-out, no more.
_rest_until: dict[str, float] = {}


class _AsTheEngineDecides(BaseContentNegotiation):
    """Leaves the choice between JSON and bits to the engine, so that both doors make the same one."""

    @override
    def select_parser(self, request: DrfRequest, parsers: Iterable[BaseParser]) -> BaseParser:
        return next(iter(parsers))

    @override
    def select_renderer(
        self, request: DrfRequest, renderers: Iterable[BaseRenderer], format_suffix: str | None = None
    ) -> tuple[BaseRenderer, str]:
        renderer = next(iter(renderers))
        return renderer, renderer.media_type


class RecommendationsView(APIView):
    """Answers with the recommendation of the version that the rollout weights assign to this player."""

    content_negotiation_class = _AsTheEngineDecides
    http_method_names = ["get", "post"]  # noqa: RUF012  # as Django has it

    @property
    def default_response_headers(self) -> dict[str, str]:
        """Add nothing: the engine says every header."""
        return {}

    def get(self, request: DrfRequest) -> HttpResponse:
        """Return one key's recommendation."""
        return answer(request._request)  # noqa: SLF001  # the engine reads the plain request

    def post(self, request: DrfRequest) -> HttpResponse:
        """Return those of up to 500 keys."""
        return answer(request._request)  # noqa: SLF001  # as above

    def http_method_not_allowed(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponse:  # type: ignore[override]  # DRF's own gives a Response
        """Return the engine's 405."""
        return answer(request)


def not_found(request: HttpRequest) -> HttpResponse:
    """Return the engine's 404 for whatever else is asked below /v1/."""
    return _sent(NOT_FOUND)


def healthz(request: HttpRequest) -> HttpResponse:
    """Say that the process is alive."""
    return _sent(ALIVE)


def readyz(request: HttpRequest) -> HttpResponse:
    """Say whether this process knows whom to serve."""
    return _sent(serving().readiness())


def serving() -> Serving:
    """Return this process's world, watched from the first call on."""
    with _starting:
        return _started()


@cache
def _started() -> Serving:
    parts = assemble("door")
    parts.start()
    show_numbers()
    return parts


@cache
def show_numbers() -> None:
    """Have this process's metrics tell its release and disk from now on, and what the door counts once it is used."""
    REGISTRY.register(NumbersCollector(_reading))


def _reading() -> Reading:
    if not _started.cache_info().currsize:
        return Reading(values=installation())
    with _counting:  # of an answer all is counted, or nothing
        return _started().reading()


def answer(request: HttpRequest) -> HttpResponse:
    """Answer a request for recommendations."""
    started = time.perf_counter()
    parts = serving()
    buckets = parts.numbers.cached
    if not _capacity.acquire(blocking=False):
        response = OVER_CAPACITY
    else:
        try:
            step = _asked(request, parts)
            while not isinstance(step, Response):
                buckets = parts.numbers.redis
                read = _read(step.names, parts)
                step = step.resume([step.opened(index, block) for index, block in enumerate(read)])
            response = step
        except Exception as error:  # noqa: BLE001  # a defect must not become a 500
            # Its text could name a player.
            logger.error("request.failed error=%s", type(error).__name__)  # noqa: TRY400  # nor may its frames
            parts.numbers.unexpected_errors += 1
            response = NO_ANSWER
        finally:
            _capacity.release()
    with _counting:
        parts.numbers.observe(response, time.perf_counter() - started, buckets)
        if response.lost:
            parts.watch.report_lost(block.table_id for block in response.lost)
    return _sent(response)


def _asked(request: HttpRequest, parts: Serving) -> Response | Lookup | BatchLookup:
    body = _body(request) if request.method == "POST" else b""
    if isinstance(body, Response):
        return body
    given = request.META
    query = given.get("QUERY_STRING", "")
    if not query.isascii():
        return NOT_ENCODED
    asked = Request(
        method=request.method or "",
        query=query,
        authorization=given.get("HTTP_AUTHORIZATION"),
        accept=given.get("HTTP_ACCEPT"),
        if_none_match=given.get("HTTP_IF_NONE_MATCH"),
        content_type=given.get("CONTENT_TYPE"),
        body=body,
    )
    return begin(asked, parts.world, time.time(), parts.settings)


def _body(request: HttpRequest) -> bytes | Response:
    """Return the body, also a chunked one, which Django would take for empty; or the refusal of a bad one."""
    stream = request.META["wsgi.input"]
    length = request.META.get("CONTENT_LENGTH") or ""
    if length.isdigit():
        if int(length) > MAX_BODY_BYTES:
            return TOO_LARGE
        body = bytes(stream.read(int(length)))
        return body if len(body) == int(length) else BODY_INCOMPLETE
    body = bytes(stream.read(MAX_BODY_BYTES + 1))
    return body if len(body) <= MAX_BODY_BYTES else TOO_LARGE


def _read(names: Sequence[str], parts: Serving) -> Sequence[Block]:
    """Return the blocks of these names; UNAVAILABLE for those whose Redis does not answer in time."""
    parts.numbers.redis_reads += len(names)
    try:
        client = get_redis_connection("tables")
        asked = by_holder(client, names)
    except (RedisError, OSError):
        parts.numbers.redis_errors += len(names)
        return [UNAVAILABLE] * len(names)
    found: dict[str, Block] = {}
    for node, some in asked.items():
        found.update(zip(some, _read_from(node, some, client, parts), strict=True))
    return [found[name] for name in names]


def _read_from(node: str, names: Sequence[str], client: Any, parts: Serving) -> Sequence[Block]:
    """Return what one server holds; one that just failed is left alone for a while, and the others are not."""
    numbers = parts.numbers
    if time.monotonic() < _rest_until.get(node, 0.0):
        numbers.redis_errors += len(names)
        return [UNAVAILABLE] * len(names)
    try:
        pipeline = client.pipeline(transaction=False)
        for name in names:
            pipeline.get(name)
        numbers.redis_batches += 1
        return [*pipeline.execute()]
    except (RedisError, OSError) as error:
        if isinstance(error, RedisTimeout):
            numbers.redis_timeouts += len(names)
        else:
            numbers.redis_errors += len(names)
        _rest_until[node] = time.monotonic() + REST_SECONDS
        return [UNAVAILABLE] * len(names)


def _sent(response: Response) -> HttpResponse:
    sent = HttpResponse(response.body, status=response.status)
    del sent["Content-Type"]
    for name, value in response.headers:
        sent[name] = value
    return sent
