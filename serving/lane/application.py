"""The lane: the endpoint by itself, for the internet. Touches no database, ever.

One `Lane` per worker process. What it does for a request is here in full: let the engine say which blocks it needs,
read them, send what the engine answers. Everything that can go wrong ends in an answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import os
import signal
import ssl
import time
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from socket import socket
from typing import NamedTuple

import uvloop
from django.conf import settings
from django.utils.log import configure_logging

from serving.configuration import Serving, assemble
from serving.engine import BatchLookup, Block, Lookup, begin
from serving.http import ALIVE, NO_ANSWER, NOT_FOUND, NOT_READY, OVER_CAPACITY, PATH, Request, Response, good_id
from serving.lane.http11 import KEEP_ALIVE_SECONDS, Connection
from serving.lane.server import HttpServer
from serving.lane.workers import DRAIN_SIGNAL
from serving.log_context import NOTHING, saying
from serving.metrics import Buckets, WorkerFile
from serving.redis.cache import BlockCache
from serving.redis.reader import MOST_AT_ONCE, read_all
from serving.redis.topology import reader_for

logger = logging.getLogger(__name__)

BACKLOG = 4096
TICK_SECONDS = 1.0
UNWRITTEN_LOGGED_SECONDS = 60.0
# How long a process that starts waits for Redis before it takes requests all the same.
WARM_UP_SECONDS = 1.0


class Tls(NamedTuple):
    """Where a certificate chain and its private key are, both PEM."""

    certificate: Path
    key: Path


class Options(NamedTuple):
    """What the command tells its workers.

    Attributes:
        block_cache_mb: most memory for blocks in each worker; 0 for none.
        numbers_directory: where workers leave their numbers.
        parent_process_id: the command's; a worker does not outlive it.
        workers: how many there are.
        most_connections: that one worker holds.
        keep_alive_seconds: for which a connection may be idle.
        tls: None for plain HTTP.
    """

    block_cache_mb: int
    numbers_directory: Path
    parent_process_id: int
    workers: int
    most_connections: int
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    tls: Tls | None = None


# A request that waits for a block: its look-up, and where its answer goes.
_Asked = tuple[Lookup | BatchLookup, Connection]


class Lane:
    """The application of one worker process, all of it in the thread of its event loop."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._capacity: int = settings.SERVING_CAPACITY
        self._serving: Serving = assemble("lane", siblings=options.workers)
        self._world, self._settings = self._serving.world, self._serving.settings
        self._numbers = numbers = self._serving.numbers
        self._blocks = reader_for(
            settings.TABLES_REDIS_URL, deadline_seconds=settings.SERVING_DEADLINE_MS / 1000, numbers=numbers
        )
        self._cache = BlockCache(self._blocks, options.block_cache_mb * 1024 * 1024, numbers)
        self._file = WorkerFile(options.numbers_directory)
        self._error_logged_at = 0.0
        self._unwritten_logged_at = -UNWRITTEN_LOGGED_SECONDS
        # The lane is about to end: it says that it is not ready, and answers all that is asked.
        self._is_draining = False
        # Requests that wait for Redis.
        self._waiting = 0
        # What is asked of it at the end of this turn of the event loop, as one write.
        self._lookups: list[_Asked] = []

    async def serve(self, listening: socket, pulse: Pipe) -> None:
        """Answer what is asked on a socket that is bound, until SIGTERM; then finish what was begun.

        `pulse` is told, as soon as connections are accepted and each second from then on, that this process is well.
        """
        loop = asyncio.get_running_loop()
        ended = asyncio.Event()
        loop.add_signal_handler(signal.SIGTERM, ended.set)
        loop.add_signal_handler(DRAIN_SIGNAL, self._drain)
        # Ctrl-C reaches every process of the terminal; the one above ends its workers itself.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        let_askers_finish()
        self._serving.start()
        self._blocks.start(loop)
        await self._warm_up()
        handle: Callable[[Connection, str, Request], None] = self.handle
        if settings.OTLP_ENDPOINT is not None:
            from serving.lane.tracing import sampled  # noqa: PLC0415  # of who wants traces alone

            handle = sampled(self.handle)
        server = HttpServer(
            handle, self._numbers.refuse, self._options.most_connections, self._options.keep_alive_seconds
        )
        await server.start(listening, tls_context(self._options.tls) if self._options.tls else None, BACKLOG)
        ticking = loop.create_task(self._tick(pulse))
        # What is here by now stays: to look through it for garbage again and again would hold requests up.
        gc.freeze()
        await ended.wait()
        await server.finish()
        self._serving.watch.end()
        ticking.cancel()
        self._blocks.close()
        self._leave_numbers()

    async def _warm_up(self) -> None:
        """Wait until Redis can be asked for blocks: who is asked before has only fallbacks to give. Not for ever."""
        until = time.monotonic() + WARM_UP_SECONDS
        while not self._blocks.is_connected and time.monotonic() < until:  # noqa: ASYNC110  # at the start alone
            await asyncio.sleep(0.01)

    # --- Requests -----------------------------------------------------------------------------------------------------

    def handle(self, connection: Connection, path: str, request: Request) -> None:
        """Answer a request, or begin to. Raises nothing."""
        try:
            if path != PATH:
                connection.send(self._elsewhere(path))
                return
            if self._waiting >= self._capacity:
                response: Response | None = OVER_CAPACITY
            else:
                response = self._answer_now(request, connection)
        except Exception as error:  # noqa: BLE001  # a defect must not become a 500 or a hang
            self._note(error, connection)
            response = NO_ANSWER
        if response is not None:
            self._end(response, connection, self._numbers.cached)

    def _answer_now(self, request: Request, connection: Connection) -> Response | None:
        """Return the answer, or None if it takes a block that is not here."""
        step = begin(request, self._world, time.time(), self._settings)
        while not isinstance(step, Response):
            block = self._cache.get(step.names[0]) if len(step.names) == 1 else None
            if block is None:
                self._waiting += 1
                if not self._lookups:
                    asyncio.get_running_loop().call_soon(self._read_lookups)
                self._lookups.append((step, connection))
                if len(self._lookups) >= MOST_AT_ONCE:
                    self._read_lookups()
                return None
            step = step.resume([block])
        return step

    def _read_lookups(self) -> None:
        asked, self._lookups = self._lookups, []
        singles: list[_Asked] = []
        for step, connection in asked:
            if len(step.names) == 1:
                singles.append((step, connection))
            else:
                self._read_on(step, connection)

        def put(index: int, block: Block) -> None:
            step, connection = singles[index]
            self._resume(step, connection, [block])

        def opened(index: int, block: Block) -> Block:
            return singles[index][0].opened(0, block)

        if singles:
            self._cache.fetch([step.names[0] for step, _ in singles], put, opened)

    def _resume(self, step: Lookup | BatchLookup, connection: Connection, blocks: Sequence[Block]) -> None:
        """Go on with a request whose blocks were read."""
        following: Response | Lookup | BatchLookup
        try:
            following = step.resume(blocks)
        except Exception as error:  # noqa: BLE001  # as in `handle`
            self._note(error, connection)
            following = NO_ANSWER
        if isinstance(following, Response):
            self._waiting -= 1
            self._end(following, connection, self._numbers.redis)
        else:
            self._read_on(following, connection)

    def _read_on(self, step: Lookup | BatchLookup, connection: Connection) -> None:
        read = partial(self._cache.read, opened=step.opened)
        read_all(read, step.names, partial(self._resume, step, connection))

    def _end(self, response: Response, connection: Connection, buckets: Buckets) -> None:
        try:
            connection.send(response)
            self._numbers.observe(response, time.perf_counter() - connection.asked_at, buckets)
            if response.lost:
                for lost in response.lost:
                    self._cache.drop(lost.name)
                self._serving.watch.report_lost(lost.table_id for lost in response.lost)
        except Exception as error:  # noqa: BLE001  # as in `handle`
            self._note(error, connection)

    def _elsewhere(self, path: str) -> Response:
        if path == "/healthz":
            return ALIVE
        if path == "/readyz":
            return NOT_READY if self._is_draining else self._serving.readiness()
        return NOT_FOUND

    def _note(self, error: Exception, connection: Connection) -> None:
        """Log where an unexpected error came from, at most once a second; its text could name a player."""
        self._numbers.unexpected_errors += 1
        now = time.monotonic()
        if now - self._error_logged_at >= 1:
            self._error_logged_at = now
            frames = traceback.extract_tb(error.__traceback__)[-4:]
            where = " < ".join(f"{Path(frame.filename).name}:{frame.lineno}" for frame in reversed(frames))
            request_id = good_id(connection.request_id)
            with saying({"request_id": request_id} if request_id else NOTHING):
                logger.error("request.failed error=%s at=%r", type(error).__name__, where)

    def _drain(self) -> None:
        self._is_draining = True

    async def _tick(self, pulse: Pipe) -> None:
        while True:
            with contextlib.suppress(OSError):  # full, as who reads it sleeps; or closed, which is seen next
                os.write(pulse.fileno(), b".")
            if os.getppid() != self._options.parent_process_id:
                logger.error("worker.orphaned")
                os.kill(os.getpid(), signal.SIGTERM)
            self._leave_numbers()
            await asyncio.sleep(TICK_SECONDS)

    def _leave_numbers(self) -> None:
        gauges = self._numbers.gauges
        gauges["recsite_requests_in_flight"] = self._waiting
        gauges["recsite_redis_connected"] = int(self._blocks.is_connected)
        gauges["recsite_block_cache_bytes"] = self._cache.size_bytes
        try:
            self._file.write(self._serving.reading())
        except OSError as error:
            # That costs the metrics, never an answer.
            self._numbers.numbers_write_failures += 1
            now = time.monotonic()
            if now - self._unwritten_logged_at >= UNWRITTEN_LOGGED_SECONDS:
                self._unwritten_logged_at = now
                logger.error("numbers.not_written error=%r", error.strerror)  # noqa: TRY400  # it says all


def run_worker(options: Options, listening: socket, pulse: Pipe) -> None:
    """Be a worker process: serve on a socket that is bound, until SIGTERM; say into a pipe that it is well."""
    configure_logging(settings.LOGGING_CONFIG, settings.LOGGING)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(Lane(options).serve(listening, pulse))


def let_askers_finish() -> None:
    """Keep this process, when it wakes up, from interrupting whoever has woken it on the same core.

    Who asks often asks several things, and Redis has several replies: one turn of the event loop then has them all.
    Measured with two workers on cores that they shared with Valkey and whoever asked: 0.8 times the CPU time a request.
    """
    if hasattr(os, "SCHED_BATCH"):  # Linux
        with contextlib.suppress(OSError):  # a container may forbid it
            os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def tls_context(tls: Tls) -> ssl.SSLContext:
    """Return what HTTPS is served with.

    Raises:
        OSError: the files cannot be read, or do not belong together, or the key is encrypted.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    # An encrypted key would make it ask for a password.
    context.load_cert_chain(tls.certificate, tls.key, password="")
    context.set_alpn_protocols(["http/1.1"])
    return context
