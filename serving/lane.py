"""The lane: the endpoint as an RSGI application on granian, for the internet. Touches no database, ever.

One `Lane` per worker process. What it does for a request is here in full: read the headers, let the engine say which
blocks it needs, read them, send what the engine answers. Everything that can go wrong ends in an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import time
import traceback
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

from django.conf import settings

from serving.block_reader import BlockCache, BlockReader, CachedReader, read_all
from serving.configuration import Serving, assemble
from serving.engine import BatchLookup, Block, Lookup, begin
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
from serving.lane_server import STOP_ACCEPTING, answer_in_place, stop_accepting
from serving.metrics import Numbers, WorkerFile
from serving.topology import reader_for

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
        workers: how many there are.
    """

    block_cache_mb: int
    numbers_directory: Path
    parent_process_id: int
    workers: int


class Headers(Protocol):
    """A request's headers, as granian gives them."""

    def __contains__(self, name: str) -> bool:
        """Tell whether a header is there."""
        ...

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


class Asked(Protocol):
    """A request, as granian hands it over."""

    scope: Scope
    proto: Transport


# A request that waits for a block: its look-up, where its answer goes, when it began.
_Asked = tuple[Lookup | BatchLookup, Transport, float]


class Lane:
    """The application of one worker process.

    Two threads work here. granian's hands over one request after another, and what can be answered without waiting is
    answered there and then; what needs a block from Redis, or has a body to wait for, goes to the event loop. Each
    thread counts in numbers of its own.

    Args:
        options: from the command.
    """

    def __init__(self, options: Options) -> None:
        self._options = options
        self._capacity: int = settings.SERVING_CAPACITY
        self._serving: Serving = assemble("lane", siblings=options.workers)
        self._world, self._settings = self._serving.world, self._serving.settings
        self._numbers = numbers = self._serving.numbers
        self._front_numbers = numbers.for_another_thread()
        self._blocks = reader_for(
            settings.TABLES_REDIS_URL,
            deadline_seconds=settings.SERVING_DEADLINE_MS / 1000,
            numbers=numbers,
        )
        self._cache = BlockCache(options.block_cache_mb * 1024 * 1024)
        self._has_cache = options.block_cache_mb > 0
        self._reader: BlockReader = (
            CachedReader(self._blocks, self._cache, numbers) if self._has_cache else self._blocks
        )
        self._file = WorkerFile(options.numbers_directory)
        self._ticking: asyncio.Task[None] | None = None
        self._error_logged_at = 0.0
        self._loop: asyncio.AbstractEventLoop | None = None
        # Requests given to the event loop, and those it has answered: each counted by one thread alone.
        self._passed_on = 0
        self._answered = 0
        self._posts: set[asyncio.Task[None]] = set()
        # What waits for the event loop's next turn: all of it goes to Redis as one write.
        self._lookups: deque[_Asked] = deque()
        self._is_reading_due = False

    def __rsgi_init__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Get ready before the first connection is accepted."""
        # Ctrl-C reaches every process of the terminal; the one above ends its workers itself.
        loop.remove_signal_handler(signal.SIGINT)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        loop.add_signal_handler(STOP_ACCEPTING, stop_accepting)
        self._loop = loop
        let_threads_finish()
        self._serving.start()
        self._blocks.start(loop)
        self._ticking = loop.create_task(self._tick())
        # What is here by now stays: to look through it for garbage again and again would hold requests up.
        gc.freeze()
        answer_in_place(self.handle)

    def __rsgi_del__(self, loop: asyncio.AbstractEventLoop) -> None:
        """Leave the last numbers behind, once every request is answered."""
        self._serving.watch.end()
        if self._ticking is not None:
            self._ticking.cancel()
        self._blocks.close()
        self._leave_numbers()

    # --- In granian's thread ----------------------------------------------------------------------------------------

    def handle(self, asked: Asked) -> None:
        """Answer a request, or see to it that the event loop does. Raises nothing."""
        scope, transport = asked.scope, asked.proto
        started = time.perf_counter()
        try:
            if scope.path != PATH:
                send(transport, self._elsewhere(scope.path))
                return
            method = scope.method
            if self._passed_on - self._answered >= self._capacity:
                response: Response | None = OVER_CAPACITY
            elif method == "POST":
                response = None
                self._pass_on(self._begin_post, scope, transport, started)
            else:
                response = self._answer_now(_request(scope, method), transport, started)
        except Exception as error:  # noqa: BLE001  # a defect must not become a 500 or a hang
            self._note(error)
            response = NO_ANSWER
        if response is not None:
            self._end(response, transport, started, self._front_numbers)

    def _answer_now(self, request: Request, transport: Transport, started: float) -> Response | None:
        """Give the answer, or None if it takes a block that is not here."""
        step = begin(request, self._world, time.time(), self._settings)
        while not isinstance(step, Response):
            block = self._cache.get(step.names[0]) if self._has_cache else None
            if block is None:
                self._pass_on_lookup(step, transport, started)
                return None
            self._front_numbers.block_cache_hits += 1
            step = step.resume([block])
        return step

    def _pass_on(self, call: Callable[..., None], *arguments: object) -> None:
        assert self._loop is not None  # noqa: S101  # requests come after __rsgi_init__
        self._passed_on += 1
        self._loop.call_soon_threadsafe(call, *arguments)

    def _pass_on_lookup(self, step: Lookup | BatchLookup, transport: Transport, started: float) -> None:
        self._passed_on += 1
        self._lookups.append((step, transport, started))
        if not self._is_reading_due:
            self._is_reading_due = True
            assert self._loop is not None  # noqa: S101  # as above
            self._loop.call_soon_threadsafe(self._read_lookups)

    # --- In the event loop's ----------------------------------------------------------------------------------------

    def _read_lookups(self) -> None:
        # First, so that what the other thread appends from here on asks for another turn: none is left behind.
        self._is_reading_due = False
        asked = [self._lookups.popleft() for _ in range(len(self._lookups))]

        def put(index: int, block: Block) -> None:
            self.resume(*asked[index], [block])

        self._reader.read([step.names[0] for step, _, _ in asked], put)

    def _begin_post(self, scope: Scope, transport: Transport, started: float) -> None:
        assert self._loop is not None  # noqa: S101  # this runs in it
        task = self._loop.create_task(self._post(scope, transport, started))
        self._posts.add(task)
        task.add_done_callback(self._posts.discard)

    async def _post(self, scope: Scope, transport: Transport, started: float) -> None:
        try:
            request = _request(scope, "POST")
            request.body = await _body(scope.headers, transport)
            step = begin(request, self._world, time.time(), self._settings)
        except Refused as refused:
            step = refused.response
        except Exception as error:  # noqa: BLE001  # as in `handle`
            self._note(error)
            step = NO_ANSWER
        self._go_on(step, transport, started)

    def resume(self, step: Lookup | BatchLookup, transport: Transport, started: float, blocks: Sequence[Block]) -> None:
        """Go on with a request whose blocks were read."""
        try:
            following = step.resume(blocks)
        except Exception as error:  # noqa: BLE001  # as in `handle`
            self._note(error)
            following = NO_ANSWER
        self._go_on(following, transport, started)

    def _go_on(self, step: Response | Lookup | BatchLookup, transport: Transport, started: float) -> None:
        if isinstance(step, Response):
            self.finish(step, transport, started)
        else:
            read_all(self._reader, step.names, partial(self.resume, step, transport, started))

    def finish(self, response: Response, transport: Transport, started: float) -> None:
        """Send what the event loop has found out."""
        self._answered += 1
        self._end(response, transport, started, self._numbers)

    # --- In either --------------------------------------------------------------------------------------------------

    def _end(self, response: Response, transport: Transport, started: float, numbers: Numbers) -> None:
        try:
            send(transport, response)
            numbers.observe(response, time.perf_counter() - started)
            if response.lost:
                for lost in response.lost:
                    self._cache.drop(lost.name)
                self._serving.watch.report_lost(lost.table_id for lost in response.lost)
        except Exception as error:  # noqa: BLE001  # neither thread could do anything with it
            self._note(error)

    def _elsewhere(self, path: str) -> Response:
        if path == "/healthz":
            return ALIVE
        if path == "/readyz":
            return self._serving.readiness()
        return NOT_FOUND

    def _note(self, error: Exception) -> None:
        """Log where an unexpected error came from, at most once a second; its text could name a player."""
        self._numbers.unexpected_errors += 1
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
        gauges = self._numbers.gauges
        gauges["recsite_requests_in_flight"] = self._passed_on - self._answered
        gauges["recsite_redis_connected"] = int(self._blocks.is_connected)
        gauges["recsite_block_cache_bytes"] = self._cache.size_bytes
        self._file.write(self._serving.reading())


def application(options: Options) -> Any:
    """Give a worker process its application: what granian calls in each of them."""
    # A copy of the process above would do with this signal what that does.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    # A worker that is replaced before it serves has nothing to stop.
    signal.signal(STOP_ACCEPTING, signal.SIG_IGN)
    return Lane(options)


def let_threads_finish() -> None:
    """Keep a thread of this process that wakes up from interrupting the one that works.

    What one thread hands to another, it hands over request by request; on one core each of them would cost two
    changes of threads. So they hand over all they have. Measured: 0.8 times the CPU time per request.
    """
    if hasattr(os, "SCHED_BATCH"):  # Linux
        with contextlib.suppress(OSError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def send(transport: Transport, response: Response) -> None:
    """Send a response."""
    if response.body:
        transport.response_bytes(response.status, [*response.headers, _SERVER], response.body)
    else:
        transport.response_empty(response.status, [*response.headers, _SERVER])


def _request(scope: Scope, method: str) -> Request:
    """Give the request as the engine takes it, but for its body: the same from here as from Django behind WSGI."""
    headers = scope.headers
    query = scope.query_string
    if not query.isascii():
        query = query.encode().decode("latin-1")  # as WSGI has it
    # What is there several times is joined by commas, as WSGI has it.
    return Request(
        method,
        query,
        ",".join(headers.get_all("authorization")) if "authorization" in headers else None,
        ",".join(headers.get_all("accept")) if "accept" in headers else None,
        ",".join(headers.get_all("if-none-match")) if "if-none-match" in headers else None,
        headers.get_all("content-type")[0] if "content-type" in headers else None,
        b"",
    )


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
