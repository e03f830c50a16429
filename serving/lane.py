"""The lane: the endpoint as an RSGI application on granian, for the internet. Touches no database, ever.

One `Lane` per worker process. What it does for a request is here in full: read the headers, let the engine say which
blocks it needs, read them, send what the engine answers. Everything that can go wrong ends in an answer.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from django.conf import settings

from serving.block_reader import Address, BlockCache, BlockReader, CachedReader, NodeReader
from serving.configuration import Serving, assemble
from serving.engine import begin
from serving.http import (
    ALIVE,
    BODY_INCOMPLETE,
    MAX_BODY_BYTES,
    NO_ANSWER,
    NOT_FOUND,
    OVER_CAPACITY,
    PATH,
    TOO_LARGE,
    Refused,
    Request,
    Response,
)
from serving.metrics import WorkerFile

logger = logging.getLogger(__name__)

BODY_SECONDS = 5.0
TICK_SECONDS = 1.0
# granian names itself unless told otherwise, and cannot be told to be silent: the shortest there is.
_SERVER = ("server", "")


class Options(NamedTuple):
    """What the command gives its workers.

    Attributes:
        block_cache_mb: most memory for blocks in each worker; 0 for none.
        numbers_directory: where workers leave their numbers.
        parent_process_id: the command's; a worker does not outlive it.
    """

    block_cache_mb: int
    numbers_directory: Path
    parent_process_id: int


class Headers(Protocol):
    """A request's headers, as granian gives them."""

    def get_all(self, name: str) -> list[str]:
        """Give every value of a header."""
        ...


class Scope(Protocol):
    """A request's head, as granian gives it."""

    method: str
    path: str
    query_string: str
    headers: Headers


class Transport(Protocol):
    """A request's body and the way for its response, as granian gives them."""

    def __aiter__(self) -> AsyncIterator[bytes]:
        """Iterate over the body."""
        ...

    def response_empty(self, status: int, headers: list[tuple[str, str]]) -> None:
        """Send a response without a body."""
        ...

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        """Send a response."""
        ...


class Lane:
    """The application of one worker process. granian calls its three methods.

    Args:
        options: from the command.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._capacity: int = settings.SERVING_CAPACITY
        self._in_flight = 0
        self._serving: Serving = assemble("lane")
        numbers = self._serving.numbers
        self._node = NodeReader(
            Address.parse(settings.TABLES_REDIS_URL),
            deadline_seconds=settings.SERVING_DEADLINE_MS / 1000,
            numbers=numbers,
        )
        self._cache = BlockCache(options.block_cache_mb * 1024 * 1024)
        self._reader: BlockReader = (
            CachedReader(self._node, self._cache, numbers) if options.block_cache_mb else self._node
        )
        self._file = WorkerFile(options.numbers_directory)
        self._ticking: asyncio.Task[None] | None = None
        self._error_logged_at = 0.0

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Get ready before the first connection is accepted."""
        # Ctrl-C reaches every process of the terminal; the one above ends its workers itself.
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        self._serving.start()
        self._node.start(loop)
        self._ticking = loop.create_task(self._tick())

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Leave the last numbers behind, once every request is answered."""
        self._serving.watch.end()
        if self._ticking is not None:
            self._ticking.cancel()
        self._node.close()
        self._leave_numbers()

    async def __rsgi__(self, scope: Scope, transport: Transport) -> None:
        """Answer a request."""
        if scope.path != PATH:
            send(transport, self._elsewhere(scope.path))
            return
        started = time.perf_counter()
        if self._in_flight >= self._capacity:
            response = OVER_CAPACITY
        else:
            self._in_flight += 1
            try:
                response = await self._answer(scope, transport)
            except Exception as error:  # noqa: BLE001  # a defect must not become a 500 or a hang
                self._note(error)
                response = NO_ANSWER
            finally:
                self._in_flight -= 1
        send(transport, response)
        self._serving.observe(response, time.perf_counter() - started)

    async def _answer(self, scope: Scope, transport: Transport) -> Response:
        try:
            request = await _request(scope, transport)
        except Refused as refused:
            return refused.response
        serving = self._serving
        step = begin(request, serving.world, time.time(), serving.settings)
        while not isinstance(step, Response):
            step = step.resume(await self._reader.read(step.names))
        for block in step.lost:
            self._cache.drop(block.name)
        return step

    def _elsewhere(self, path: str) -> Response:
        if path == "/healthz":
            return ALIVE
        if path == "/readyz":
            return self._serving.readiness()
        return NOT_FOUND

    def _note(self, error: Exception) -> None:
        """Log where an unexpected error came from, at most once a second; its text could name a player."""
        self._serving.numbers.unexpected_errors += 1
        now = time.monotonic()
        if now - self._error_logged_at >= 1:
            self._error_logged_at = now
            frames = traceback.extract_tb(error.__traceback__)[-4:]
            where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
            logger.error("request.failed error=%s at=%r", type(error).__name__, where)

    async def _tick(self) -> None:
        while True:
            if os.getppid() != self._options.parent_process_id:
                logger.error("worker.orphaned")
                os.kill(os.getpid(), signal.SIGTERM)
            self._leave_numbers()
            await asyncio.sleep(TICK_SECONDS)

    def _leave_numbers(self) -> None:
        gauges = self._serving.numbers.gauges
        gauges["recsite_requests_in_flight"] = self._in_flight
        gauges["recsite_redis_connected"] = int(self._node.is_connected)
        gauges["recsite_block_cache_bytes"] = self._cache.size_bytes
        self._file.write(self._serving.reading())


def application(options: Options) -> Any:
    """Give a worker process its application: what granian calls in each of them."""
    return Lane(options)


def send(transport: Transport, response: Response) -> None:
    """Send a response."""
    if response.body:
        transport.response_bytes(response.status, [*response.headers, _SERVER], response.body)
    else:
        transport.response_empty(response.status, [*response.headers, _SERVER])


async def _request(scope: Scope, transport: Transport) -> Request:
    """Give the request as the engine takes it: the same from here as from Django behind a WSGI server.

    Raises:
        Refused: the body is too large, or did not come whole or in time.
    """
    headers = scope.headers
    method = scope.method
    query = scope.query_string
    if not query.isascii():
        query = query.encode().decode("latin-1")  # as WSGI has it
    content_types = headers.get_all("content-type")
    return Request(
        method,
        query,
        _joined(headers.get_all("authorization")),
        _joined(headers.get_all("accept")),
        _joined(headers.get_all("if-none-match")),
        content_types[0] if content_types else None,
        await _body(headers, transport) if method == "POST" else b"",
    )


def _joined(values: list[str]) -> str | None:
    """Give a header's value as WSGI has it: what is there several times is joined by commas."""
    if len(values) == 1:
        return values[0]
    return ",".join(values) if values else None


async def _body(headers: Headers, transport: Transport) -> bytes:
    lengths = headers.get_all("content-length")
    expected = int(lengths[0]) if lengths and lengths[0].isdigit() else None
    if expected is not None and expected > MAX_BODY_BYTES:
        raise Refused(TOO_LARGE)
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_SECONDS):
            async for chunk in transport:
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise Refused(TOO_LARGE)
    except TimeoutError:
        raise Refused(BODY_INCOMPLETE) from None
    # A client that went away in the middle ends the body early without an error.
    if expected is not None and len(body) != expected:
        raise Refused(BODY_INCOMPLETE)
    return bytes(body)
