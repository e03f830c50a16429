"""HTTP/1.1 for the lane: what arrives on its connections becomes requests, and what is answered goes back on them.

httptools (the parser of Node.js) reads the bytes. What is here is the rest of a server: answers in the order of their
requests, bounds in bytes and seconds for whatever a client may do, and an end that loses no request.

The answers of one turn of the event loop are written together. Whoever is written to wakes up, and to wake one client
after another between requests costs more than to answer them.
"""

from __future__ import annotations

import asyncio
import re
import ssl
import time
from collections.abc import Callable
from contextlib import suppress
from email.utils import formatdate
from http import HTTPStatus
from socket import socket
from urllib.parse import unquote_to_bytes

import httptools
from typing_extensions import override

from serving.http import (
    BODY_INCOMPLETE,
    HEADERS_TOO_LARGE,
    MAX_BODY_BYTES,
    METHOD_NOT_ALLOWED,
    NOT_ENCODED,
    NOT_HTTP,
    OVER_CAPACITY,
    PATH,
    TOO_LARGE,
    Request,
    Response,
)

# A request line with its headers. What arrives in one piece with it is read too, so that this is not exact.
MAX_HEAD_BYTES = 65_536
# A whole request, with what chunks and trailers take; and the bodies that are arriving on all connections.
MAX_REQUEST_BYTES = 2 * MAX_BODY_BYTES + MAX_HEAD_BYTES
MAX_BODIES_BYTES = 64 * MAX_BODY_BYTES
HEAD_SECONDS = 30.0
BODY_SECONDS = 5.0
# Longer than proxies keep a connection to a server, so that it is they who end it and no request meets a closed one.
IDLE_SECONDS = 75.0
# Of a long turn of the loop so many answers are written together, before those who asked grow cold in the caches.
MOST_AT_ONCE = 128
# How long a client may leave unread what does not fit into its connection; also when that is to be closed.
UNREAD_SECONDS = 30.0
MOST_UNREAD_BYTES = 65_536
# After a refusal what a client still sends is read for so long: to close at once could take the answer from it.
LINGER_SECONDS = 2.0
TLS_HANDSHAKE_SECONDS = 10.0
TLS_SHUTDOWN_SECONDS = 5.0
# At the end of a worker. From accepting a connection until it is known here, and far more; then how long clients have
# that keep a connection and ask now and then, to hear of the end with an answer; then the longest for what was begun.
ACCEPTED_SECONDS, ACCEPTED_TLS_SECONDS = 0.25, 1.0
KEPT_SECONDS = 2.0
FINISH_SECONDS = 6.0

_PATH = PATH.encode()
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_OTHER_METHOD = re.compile(rb"[A-Z]{1,20} [!-~]").match

# --- Which headers count --------------------------------------------------------------------------------------------

(
    _AUTHORIZATION,
    _ACCEPT,
    _IF_NONE_MATCH,
    _CONTENT_TYPE,
    _CONTENT_LENGTH,
    _TRANSFER_ENCODING,
    _CONNECTION,
    _EXPECT,
    _UPGRADE,
) = range(9)
_COUNTED = {
    b"authorization": _AUTHORIZATION,
    b"accept": _ACCEPT,
    b"if-none-match": _IF_NONE_MATCH,
    b"content-type": _CONTENT_TYPE,
    b"content-length": _CONTENT_LENGTH,
    b"transfer-encoding": _TRANSFER_ENCODING,
    b"connection": _CONNECTION,
    b"expect": _EXPECT,
    b"upgrade": _UPGRADE,
}
_NONE: tuple[str | None, ...] = (None,) * len(_COUNTED)
# In place of a number of bytes: a request has just ended.
_NOTHING = -1
_MOST_SPELLINGS, _LONGEST_SPELLING = 1024, 64


class _Headers(dict[bytes, int | None]):
    """Which of the headers that count one is, None for the others: by its name as clients spell it."""

    def __missing__(self, name: bytes) -> int | None:
        counted = _COUNTED.get(name.lower())
        if len(self) < _MOST_SPELLINGS and len(name) <= _LONGEST_SPELLING:
            self[name] = counted
        return counted


_headers = _Headers()


# --- The server of one process --------------------------------------------------------------------------------------


class HttpServer:
    """Accepts connections in the event loop's thread, and hands over each request with the connection it came on.

    Args:
        handle: is given a connection, the path of a request, and the request. It must raise nothing, and see to it that
            the connection's `send` is called once, then or later, in the same thread.
        on_refused: is given the answers to what was no request, or too much.
        most_connections: more are told that they are too many.

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
    ) -> None:
        self.handle = handle
        self.on_refused = on_refused
        self.most_connections = most_connections
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


# --- One connection -------------------------------------------------------------------------------------------------


class Connection(asyncio.Protocol):
    """One client's connection. Its requests are answered one after the other, in their order.

    Attributes:
        asked_at: when the request that is being answered, or was last, was here as a whole (`time.perf_counter`).
    """

    __slots__ = (
        "_body",
        "_following",
        "_found",
        "_has_begun",
        "_idle",
        "_is_busy",
        "_is_deaf",
        "_is_head",
        "_is_held",
        "_is_in_body",
        "_is_last",
        "_is_unread",
        "_late",
        "_lingers",
        "_loop",
        "_parser",
        "_server",
        "_skipped",
        "_taken",
        "_target",
        "_transport",
        "_unread",
        "asked_at",
    )

    def __init__(self, server: HttpServer) -> None:
        self.asked_at = 0.0
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        # Of the request that is arriving; the target is empty when none is.
        self._target = b""
        self._found = [*_NONE]
        self._body = bytearray()
        self._taken = 0
        self._is_in_body = False
        # The head of one that asks for another protocol as well.
        self._skipped: bytes | None = None
        # Of the request that is being answered, and those that came before its answer.
        self._is_busy = False
        self._is_head = False
        self._is_last = False
        # One of the requests that arrived in this turn of the loop was handed over; the next turn has the next.
        self._has_begun = False
        self._following: list[tuple[str, Request, bool]] = []
        # No more is taken from the client: it was refused, or what it sends now is not HTTP.
        self._is_deaf = False
        self._lingers = False
        self._is_unread = False
        self._is_held = False
        self._idle: asyncio.TimerHandle | None = None
        self._late: asyncio.TimerHandle | None = None
        self._unread: asyncio.TimerHandle | None = None

    # --- What the event loop calls ------------------------------------------------------------------------------------

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's transport is a Transport
        self._server.connections.add(self)
        self.asked_at = time.perf_counter()
        self._idle = self._loop.call_later(IDLE_SECONDS, self._check_idle)
        self._transport.set_write_buffer_limits(MOST_UNREAD_BYTES)  # type: ignore[union-attr]  # set above
        if len(self._server.connections) > self._server.most_connections:
            self._refuse(OVER_CAPACITY, lingers=False)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._is_deaf = True
        self._following.clear()
        self._drop_body()
        self._server.forget(self)
        for timer in (self._idle, self._late, self._unread):
            if timer is not None:
                timer.cancel()
        del self._parser  # which refers to this

    @override
    def data_received(self, data: bytes) -> None:
        if self._is_deaf:
            return
        self._has_begun = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse_what_is_no_request(error, data)
        if self._target:
            self._wait_for_the_rest(len(data))

    def eof_received(self) -> bool:
        """See asyncio. A client that has said all may still wait for its answers; not with TLS, where it has gone."""
        if self._is_in_body:
            self._refuse(BODY_INCOMPLETE)
        else:
            self._end()
        return not self._server.has_tls

    @override
    def pause_writing(self) -> None:
        self._is_unread = True
        self._hold()
        self._abort_if_unread()

    @override
    def resume_writing(self) -> None:
        self._is_unread = False
        if self._unread is not None and self._transport is not None and not self._transport.is_closing():
            self._unread.cancel()
            self._unread = None
        self._hold()

    # --- What the parser calls ----------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target; httptools calls it."""
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; httptools calls it."""
        counted = _headers[name]
        # One after the body counts for nothing: proxies do not look at it.
        if counted is not None and not self._is_in_body:
            before = self._found[counted]
            text = value.decode("latin-1").rstrip(" \t")
            # What is there several times is joined by commas, as WSGI has it.
            self._found[counted] = text if before is None else f"{before},{text}"

    def on_headers_complete(self) -> None:
        """Decide on the request once its head is there; httptools calls it."""
        self._is_in_body = True
        self._stop_the_clock()
        found = self._found
        length = found[_CONTENT_LENGTH]
        if length is not None and int(length) > MAX_BODY_BYTES:
            self._refuse(TOO_LARGE)
        elif found[_EXPECT] is not None:
            self._let_go_on()

    def on_body(self, chunk: bytes) -> None:
        """Take a piece of the body; httptools calls it."""
        if self._is_deaf:
            return
        self._body += chunk
        self._server.bodies_bytes += len(chunk)
        if len(self._body) > MAX_BODY_BYTES:
            self._refuse(TOO_LARGE)
        elif self._server.bodies_bytes > MAX_BODIES_BYTES:
            self._refuse(OVER_CAPACITY)

    def on_message_complete(self) -> None:
        """Hand the whole request over; httptools calls it."""
        target, found, parser = self._target, self._found, self._parser
        self._target = b""
        self._found = [*_NONE]
        self._taken = _NOTHING
        self._is_in_body = False
        self._stop_the_clock()
        if self._is_deaf:
            return
        method = parser.get_method().decode()
        if found[_UPGRADE] is not None and parser.should_upgrade() and method != "CONNECT":
            self._skipped = _head(method, target, parser.get_http_version(), found)
            return
        body = b""
        if self._body:
            body = bytes(self._body) if method == "POST" else b""
            self._drop_body()
        if b"#" in target:
            target = target.partition(b"#")[0]
        path, _, query = target.partition(b"?")
        content_type = found[_CONTENT_TYPE]
        if content_type is not None:
            content_type = content_type.partition(",")[0]
        request = Request(
            method,
            query.decode("latin-1"),
            found[_AUTHORIZATION],
            found[_ACCEPT],
            found[_IF_NONE_MATCH],
            content_type,
            body,
        )
        is_last = not parser.should_keep_alive() or method == "CONNECT"
        if found[_CONNECTION] is not None and parser.get_http_version() == "1.0":
            is_last = True  # it would have to be told that the connection is kept
        asked = (PATH if path == _PATH else _path_of(target), request, is_last)
        if not self._is_busy and not self._has_begun:
            self._has_begun = True
            self._begin(*asked)
            return
        self._following.append(asked)
        self._hold()
        if not self._is_busy:
            self._is_busy = True
            self._loop.call_soon(self._begin_next)

    # --- Answering ----------------------------------------------------------------------------------------------------

    def send(self, response: Response) -> None:
        """Answer the request that was handed over last."""
        transport = self._transport
        if transport is None:
            return  # nobody is there any more
        server, status, body = self._server, response.status, response.body
        is_last = self._is_last or (server.is_ending and not self._following)
        ending = "connection: close\r\n" if is_last else ""
        if body:
            head = f"{_STATUS_LINES[status]}{response.head}{server.date}{ending}content-length: {len(body)}\r\n\r\n"
            answer = head.encode() if self._is_head else head.encode() + body
        else:
            # Of these two no length may be said.
            length = "" if status in (204, 304) else "content-length: 0\r\n"
            answer = f"{_STATUS_LINES[status]}{response.head}{server.date}{ending}{length}\r\n".encode()
        server.write(transport, answer)
        if is_last:
            self._is_busy = False
            self._is_deaf = True
            self._following.clear()
            server.close(self)
        elif self._following:
            self._loop.call_soon(self._begin_next)
        else:
            self._is_busy = False

    def _begin(self, path: str, request: Request, is_last: bool) -> None:  # noqa: FBT001  # as it is kept
        self._is_busy = True
        self._is_head = request.method == "HEAD"
        self._is_last = is_last
        self.asked_at = time.perf_counter()
        self._server.handle(self, path, request)

    def _begin_next(self) -> None:
        if self._following:
            asked = self._following.pop(0)
            self._hold()
            self._begin(*asked)

    def _refuse(self, response: Response, *, lingers: bool = True) -> None:
        """Take no more from this client; tell it why, unless it waits for another answer."""
        if self._is_deaf:
            return
        if self._is_busy:
            self._end()
            return
        self._stop_listening()
        self._is_busy = self._is_last = True
        self._lingers = lingers
        self._is_head = False
        self._server.on_refused(response)
        self.send(response)

    def _stop_listening(self) -> None:
        self._is_deaf = True
        self._target = b""
        self._drop_body()
        self._stop_the_clock()

    def _end(self) -> None:
        """Take no more from this client, and close once everything it asked is answered."""
        self._stop_listening()
        if self._following:
            path, request, _ = self._following.pop()
            self._following.append((path, request, True))
        elif self._is_busy:
            self._is_last = True
        else:
            self._server.close(self)

    def close(self) -> None:
        """Close, once what was written is on its way; after a refusal a little later."""
        transport = self._transport
        if transport is None:
            return
        if self._lingers and transport.can_write_eof():
            self._lingers = False
            transport.write_eof()
            self._loop.call_later(LINGER_SECONDS, self.close)
        else:
            transport.close()
        self._abort_if_unread()

    def close_if_idle(self) -> None:
        """Close, if there is nothing to answer and no request has begun to arrive."""
        if not self._is_busy and not self._target:
            self._server.close(self)

    def abort(self) -> None:
        """Close, whatever there is to answer."""
        if self._transport is not None:
            self._transport.abort()

    # --- Bounds -------------------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        """Read on, or do not, as the state has it."""
        holds = bool(self._following) or self._is_unread
        if holds != self._is_held and self._transport is not None and not self._transport.is_closing():
            self._is_held = holds
            if holds:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    def _abort_if_unread(self) -> None:
        if self._unread is None:
            self._unread = self._loop.call_later(UNREAD_SECONDS, self.abort)

    def _drop_body(self) -> None:
        if self._body:
            self._server.bodies_bytes -= len(self._body)
            self._body = bytearray()

    def _wait_for_the_rest(self, count: int) -> None:
        # What arrived together with the end of another request is not told apart from that.
        self._taken = 0 if self._taken == _NOTHING else self._taken + count
        if self._is_deaf:
            return
        if self._taken > MAX_HEAD_BYTES and not self._is_in_body:
            self._refuse(HEADERS_TOO_LARGE)
        elif self._taken > MAX_REQUEST_BYTES:
            self._refuse(TOO_LARGE)
        elif self._late is None:
            self._late = self._loop.call_later(BODY_SECONDS if self._is_in_body else HEAD_SECONDS, self._too_late)

    def _stop_the_clock(self) -> None:
        """Take note that what was waited for has come, or need not come any more."""
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        if self._is_in_body:
            self._refuse(BODY_INCOMPLETE)
        else:
            self.abort()

    def _check_idle(self) -> None:
        seconds = time.perf_counter() - self.asked_at
        if self._is_busy or self._target:
            seconds = 0.0
        if seconds < IDLE_SECONDS:
            self._idle = self._loop.call_later(IDLE_SECONDS - seconds, self._check_idle)
        else:
            self._server.close(self)

    # --- What few clients ask for -------------------------------------------------------------------------------------

    def _let_go_on(self) -> None:
        """Tell a client that waits for it to send its body."""
        expected, transport = self._found[_EXPECT], self._transport
        if expected is None or expected.lower() != "100-continue" or self._is_busy or self._is_deaf:
            return
        if transport is not None and self._parser.get_http_version() == "1.1":
            self._server.write(transport, _CONTINUE)

    def _go_on_without_upgrade(self, rest: memoryview) -> None:
        """Read a request again as if it had not asked for another protocol, for the sake of its body; then the rest."""
        while not self._is_deaf:
            if self._skipped is None:
                self._end()  # CONNECT: what follows is no HTTP
                return
            head, self._skipped = self._skipped, None
            self._parser = httptools.HttpRequestParser(self)
            try:
                self._parser.feed_data(head)
                self._parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as upgrade:
                rest = rest[upgrade.args[0] :]
            except httptools.HttpParserError as error:
                self._refuse_what_is_no_request(error, rest)

    def _refuse_what_is_no_request(self, error: httptools.HttpParserError, data: bytes | memoryview) -> None:
        if isinstance(error, httptools.HttpParserInvalidMethodError) and _OTHER_METHOD(data):
            self._refuse(METHOD_NOT_ALLOWED)
        else:
            self._refuse(NOT_ENCODED if isinstance(error, httptools.HttpParserInvalidURLError) else NOT_HTTP)


def _head(method: str, target: bytes, version: str, found: list[str | None]) -> bytes:
    """Return the head of a request with those of its headers that count, without `Upgrade` and what was acted on."""
    lines = [method.encode() + b" " + target + b" HTTP/" + version.encode()]
    for name, counted in _COUNTED.items():
        value = found[counted]
        if value is not None and counted not in (_UPGRADE, _EXPECT):
            lines.append(name + b": " + value.encode("latin-1"))
    return b"\r\n".join([*lines, b"", b""])


def _path_of(target: bytes) -> str:
    """Return the path that a request's target means; "" where it means none."""
    try:
        path: bytes | None = httptools.parse_url(target).path
    except httptools.HttpParserInvalidURLError:
        return ""
    return unquote_to_bytes(path or b"").decode("latin-1")
