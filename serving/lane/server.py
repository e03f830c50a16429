"""The lane's server of one process: its connections, its answers of one turn of the event loop, and its end.

The answers of one turn are written together. Whoever is written to wakes up, and to wake one client after another
between requests costs more than to answer them.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from socket import socket

from serving.http import Request, Response
from serving.lane.http11 import KEEP_ALIVE_SECONDS, Connection

# Of a long turn of the loop so many answers are written together, before those who asked grow cold in the caches.
MOST_AT_ONCE = 128
TLS_HANDSHAKE_SECONDS = 10.0
TLS_SHUTDOWN_SECONDS = 5.0
# At the end of a worker. From accepting a connection until it is known here, and far more; then how long clients have
# that keep a connection and ask now and then, to hear of the end with an answer; then the longest for what was begun.
ACCEPTED_SECONDS, ACCEPTED_TLS_SECONDS = 0.25, 1.0
KEPT_SECONDS = 2.0
FINISH_SECONDS = 6.0


class HttpServer:
    """Accepts connections in the event loop's thread, and hands over each request with the connection it came on.

    Args:
        handle: is given a connection, the path of a request, and the request. It must raise nothing, and see to it that
            the connection's `send` is called once, then or later, in the same thread.
        on_refused: is given the answers to what was no request, or too much.
        most_connections: more are told that they are too many.
        keep_alive_seconds: for which a connection may be idle.

    Attributes:
        connections: those that are open.
        bodies_bytes: what has arrived of bodies that are not whole.
        has_tls: whether it speaks HTTPS.
        is_ending: each connection ends with its next answer.
        date: a header line.
    """

    def __init__(
        self,
        handle: Callable[[Connection, str, Request], None],
        on_refused: Callable[[Response], None],
        most_connections: int,
        keep_alive_seconds: float = KEEP_ALIVE_SECONDS,
    ) -> None:
        self.handle = handle
        self.on_refused = on_refused
        self.most_connections = most_connections
        self.keep_alive_seconds = keep_alive_seconds
        self.connections: set[Connection] = set()
        self.bodies_bytes = 0
        self.is_ending = False
        self.date = ""
        self.has_tls = False
        self._unwritten: list[tuple[asyncio.Transport, bytes]] = []
        self._finished: list[Connection] = []
        self._server: asyncio.AbstractServer | None = None
        self._loop = asyncio.get_running_loop()
        # Of use from the moment when no connection is accepted any more.
        self._is_empty = asyncio.Event()

    async def start(self, listening: socket, tls: ssl.SSLContext | None, backlog: int) -> None:
        """Accept connections on a socket that is bound."""
        self._tell_time()
        self.has_tls = tls is not None
        self._server = await self._loop.create_server(
            lambda: Connection(self),
            sock=listening,
            backlog=backlog,
            ssl=tls,
            ssl_handshake_timeout=TLS_HANDSHAKE_SECONDS if tls else None,
            ssl_shutdown_timeout=TLS_SHUTDOWN_SECONDS if tls else None,
        )

    async def finish(self) -> None:
        """Accept no more, answer what was asked, and close every connection."""
        assert self._server is not None  # noqa: S101  # there is nothing to finish before `start`
        self._server.close()
        self.is_ending = True
        await asyncio.sleep(ACCEPTED_TLS_SECONDS if self.has_tls else ACCEPTED_SECONDS)
        await self._until_all_are_closed(KEPT_SECONDS)
        for connection in tuple(self.connections):
            connection.close_if_idle()
        await self._until_all_are_closed(FINISH_SECONDS)
        for connection in tuple(self.connections):
            connection.abort()

    async def _until_all_are_closed(self, seconds: float) -> None:
        if self.connections:
            self._is_empty.clear()
            with suppress(TimeoutError):
                await asyncio.wait_for(self._is_empty.wait(), seconds)

    def forget(self, connection: Connection) -> None:
        """Take note that a connection is closed."""
        self.connections.discard(connection)
        if not self.connections:
            self._is_empty.set()

    def write(self, transport: asyncio.Transport, answer: bytes) -> None:
        """Write an answer with others of this turn of the loop."""
        self._end_this_turn()
        self._unwritten.append((transport, answer))
        if len(self._unwritten) >= MOST_AT_ONCE:
            self._write_and_close()

    def close(self, connection: Connection) -> None:
        """Close a connection once the answers of this turn are written."""
        self._end_this_turn()
        self._finished.append(connection)

    def _end_this_turn(self) -> None:
        if not self._unwritten and not self._finished:
            self._loop.call_soon(self._write_and_close)

    def _write_and_close(self) -> None:
        unwritten, self._unwritten = self._unwritten, []
        finished, self._finished = self._finished, []
        for transport, answer in unwritten:
            # To write to one that was lost meanwhile would raise an error.
            if not transport.is_closing():
                transport.write(answer)
        for connection in finished:
            connection.close()

    def _tell_time(self) -> None:
        self.date = f"date: {formatdate(usegmt=True)}\r\n"
        self._loop.call_later(1, self._tell_time)
