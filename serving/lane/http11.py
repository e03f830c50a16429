"""HTTP/1.1 for the lane: what arrives on a connection becomes requests, and what is answered goes back on it.

httptools (the parser of Node.js) reads the bytes. What is here is the rest: answers in the order of their requests,
and bounds in bytes and seconds for whatever a client may do. What a connection is at is said by two states, whose
changes are written down in `serving.lane.states`; what many connections have in common is in `serving.lane.server`.
"""

from __future__ import annotations

import asyncio
import re
import time
from http import HTTPStatus
from typing import TYPE_CHECKING
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
    echoed_id,
    head_of,
)
from serving.http import REQUEST_ID as REQUEST_ID_HEADER
from serving.lane.headers import (
    ACCEPT,
    AUTHORIZATION,
    CONNECTION,
    CONTENT_LENGTH,
    CONTENT_TYPE,
    EXPECT,
    IF_NONE_MATCH,
    NONE,
    REQUEST_ID,
    SPELLINGS,
    TRACEPARENT,
    UPGRADE,
    head_without_upgrade,
)
from serving.lane.states import BODY, BUSY, CLOSED, ENDED, FREE, HEAD, IDLE, REFUSED, SKIPPED

if TYPE_CHECKING:
    from serving.lane.server import HttpServer

# A request line with its headers. What arrives in one piece with it is read too, so that this is not exact.
MAX_HEAD_BYTES = 65_536
# A whole request, with what chunks and trailers take; and the bodies that are arriving on all connections.
MAX_REQUEST_BYTES = 2 * MAX_BODY_BYTES + MAX_HEAD_BYTES
MAX_BODIES_BYTES = 64 * MAX_BODY_BYTES
HEAD_SECONDS = 30.0
BODY_SECONDS = 5.0
# Longer than most proxies keep a connection, so that it is they who end it and no request meets a closed one.
KEEP_ALIVE_SECONDS = 75.0
# How long a client may leave unread what does not fit into its connection; also when that is to be closed.
UNREAD_SECONDS = 30.0
MOST_UNREAD_BYTES = 65_536
# After a refusal what a client still sends is read for so long: to close at once could take the answer from it.
LINGER_SECONDS = 2.0

_PATH = PATH.encode()
_STATUS_LINES = {status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n" for status in HTTPStatus}
_CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
_OTHER_METHOD = re.compile(rb"[A-Z]{1,20} [!-~]").match


class Connection(asyncio.Protocol):
    """One client's connection. Its requests are answered one after the other, in their order.

    Attributes:
        asked_at: when the request that is being answered, or was last, was here as a whole (`time.perf_counter`).
        request_id: what that came with as its id.
    """

    __slots__ = (
        "_answering",
        "_asking",
        "_body",
        "_following",
        "_found",
        "_has_ended_one",
        "_idle",
        "_is_held",
        "_late",
        "_loop",
        "_parser",
        "_server",
        "_skipped",
        "_taken",
        "_target",
        "_transport",
        "_unread",
        "_wants_head",
        "asked_at",
        "request_id",
    )

    def __init__(self, server: HttpServer) -> None:
        self.asked_at = 0.0
        self.request_id: str | None = None
        self._server = server
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._asking = IDLE
        self._answering = FREE
        # Of the request that is arriving: its parts, and the bytes it has taken so far.
        self._target = b""
        self._found = [*NONE]
        self._body = bytearray()
        self._taken = 0
        # The head of one that asks for another protocol as well.
        self._skipped = b""
        # A request has ended in the piece that is being read: those that end in it too wait for another turn.
        self._has_ended_one = False
        # Whether the request that is being answered is a HEAD; and those that came before its answer.
        self._wants_head = False
        self._following: list[tuple[str, Request]] = []
        # Nothing is read from the client for now.
        self._is_held = False
        self._idle: asyncio.TimerHandle | None = None
        self._late: asyncio.TimerHandle | None = None
        # Runs while the client leaves unread what does not fit into the connection.
        self._unread: asyncio.TimerHandle | None = None

    # --- What the event loop calls ------------------------------------------------------------------------------------

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's transport is a Transport
        self._server.connections.add(self)
        self.asked_at = time.perf_counter()
        self._idle = self._loop.call_later(self._server.keep_alive_seconds, self._check_idle)
        self._transport.set_write_buffer_limits(MOST_UNREAD_BYTES)  # type: ignore[union-attr]  # set above
        if len(self._server.connections) > self._server.most_connections:
            self._refuse(OVER_CAPACITY, lingers=False)

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._stop_listening()
        self._answering = CLOSED
        self._following.clear()
        self._server.forget(self)
        for timer in (self._idle, self._unread):
            if timer is not None:
                timer.cancel()
        del self._parser  # which refers to this

    @override
    def data_received(self, data: bytes) -> None:
        if self._asking is ENDED:
            return
        self._has_ended_one = False
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._go_on_without_upgrade(memoryview(data)[upgrade.args[0] :])
        except httptools.HttpParserError as error:
            self._refuse_what_is_no_request(error, data)
        if self._asking is not IDLE:
            self._wait_for_the_rest(len(data))

    @override
    def eof_received(self) -> bool:
        # A client that has said all may still wait for its answers; not with TLS, where it has gone.
        if self._asking is BODY:
            self._refuse(BODY_INCOMPLETE)
        else:
            self._end()
        return not self._server.has_tls

    @override
    def pause_writing(self) -> None:
        self._abort_if_unread()
        self._hold()

    @override
    def resume_writing(self) -> None:
        if self._unread is not None and self._transport is not None and not self._transport.is_closing():
            self._unread.cancel()
            self._unread = None
            self._hold()

    # --- What the parser calls ----------------------------------------------------------------------------------------

    def on_url(self, url: bytes) -> None:
        """Take a piece of the target; httptools calls it."""
        if self._asking is HEAD:
            self._target += url
        elif self._asking is not ENDED:
            self._asking = HEAD
            self._target = url

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take a header; httptools calls it."""
        counted = SPELLINGS[name]
        # One after the body counts for nothing: proxies do not look at it.
        if counted is not None and self._asking is HEAD:
            before = self._found[counted]
            text = value.decode("latin-1").rstrip(" \t")
            # What is there several times is joined by commas, as WSGI has it.
            self._found[counted] = text if before is None else f"{before},{text}"

    def on_headers_complete(self) -> None:
        """Decide on the request once its head is there; httptools calls it."""
        if self._asking is not HEAD:
            return
        self._asking = BODY
        if self._late is not None:  # hardly ever, and a call costs every request
            self._stop_the_clock()
        found = self._found
        length = found[CONTENT_LENGTH]
        if length is not None and int(length) > MAX_BODY_BYTES:
            self._refuse(TOO_LARGE)
        elif found[EXPECT] is not None:
            self._let_go_on()

    def on_body(self, chunk: bytes) -> None:
        """Take a piece of the body; httptools calls it."""
        if self._asking is not BODY:
            return
        self._body += chunk
        self._server.bodies_bytes += len(chunk)
        if len(self._body) > MAX_BODY_BYTES:
            self._refuse(TOO_LARGE)
        elif self._server.bodies_bytes > MAX_BODIES_BYTES:
            self._refuse(OVER_CAPACITY)

    def on_message_complete(self) -> None:
        """Hand the whole request over; httptools calls it."""
        if self._asking is not BODY:
            return
        target, found, parser = self._target, self._found, self._parser
        self._found = [*NONE]
        self._taken = 0
        if self._late is not None:
            self._stop_the_clock()
        method = parser.get_method().decode()
        if found[UPGRADE] is not None and parser.should_upgrade() and method != "CONNECT":
            self._asking = SKIPPED
            self._skipped = head_without_upgrade(method, target, parser.get_http_version(), found)
            return
        self._asking = IDLE
        body = b""
        if self._body:
            body = bytes(self._body) if method == "POST" else b""
            self._drop_body()
        if b"#" in target:
            target = target.partition(b"#")[0]
        path, _, query = target.partition(b"?")
        content_type = found[CONTENT_TYPE]
        if content_type is not None:
            content_type = content_type.partition(",")[0]
        request = Request(
            method,
            query.decode("latin-1"),
            found[AUTHORIZATION],
            found[ACCEPT],
            found[IF_NONE_MATCH],
            content_type,
            body,
            found[REQUEST_ID],
            found[TRACEPARENT],
        )
        if (
            not parser.should_keep_alive()
            or method == "CONNECT"
            # An older client would have to be told that the connection is kept.
            or (found[CONNECTION] is not None and parser.get_http_version() == "1.0")
        ):
            self._stop_listening()
        asked = (PATH if path == _PATH else _path_of(target), request)
        is_first = not self._has_ended_one
        self._has_ended_one = True
        if is_first and self._answering is FREE:
            self._begin(*asked)
            return
        self._following.append(asked)
        self._hold()
        if self._answering is FREE:
            self._answering = BUSY
            self._loop.call_soon(self._begin_next)

    # --- Answering ----------------------------------------------------------------------------------------------------

    def send(self, response: Response) -> None:
        """Answer the request that was handed over last."""
        transport = self._transport
        if transport is None:
            return  # nobody is there any more
        server, status, body = self._server, response.status, response.body
        is_last = (self._asking is ENDED or server.is_ending) and not self._following
        ending = "connection: close\r\n" if is_last else ""
        if status >= 400 and (echoed := echoed_id(status, self.request_id)) is not None:
            ending += head_of((REQUEST_ID_HEADER, echoed))
        if body:
            head = f"{_STATUS_LINES[status]}{response.head}{server.date}{ending}content-length: {len(body)}\r\n\r\n"
            answer = head.encode() if self._wants_head else head.encode() + body
        else:
            # Of these two no length may be said.
            length = "" if status in (204, 304) else "content-length: 0\r\n"
            answer = f"{_STATUS_LINES[status]}{response.head}{server.date}{ending}{length}\r\n".encode()
        server.write(transport, answer)
        if is_last:
            self._stop_listening()
            if self._answering is BUSY:
                self._answering = CLOSED
            server.close(self)
        elif self._following:
            self._loop.call_soon(self._begin_next)
        else:
            self._answering = FREE

    def _begin(self, path: str, request: Request) -> None:
        self._answering = BUSY
        self._wants_head = request.method == "HEAD"
        self.request_id = request.request_id
        self.asked_at = time.perf_counter()
        self._server.handle(self, path, request)

    def _begin_next(self) -> None:
        if self._following:
            asked = self._following.pop(0)
            self._hold()
            self._begin(*asked)

    def _refuse(self, response: Response, *, lingers: bool = True) -> None:
        """Take no more from this client; tell it why, unless it waits for another answer."""
        if self._asking is ENDED:
            return
        self._stop_listening()
        if self._answering is BUSY:
            return
        self._answering = REFUSED if lingers else BUSY
        self._wants_head = False
        self.request_id = self._found[REQUEST_ID]
        self._server.on_refused(response)
        self.send(response)

    def _stop_listening(self) -> None:
        """Take no more from this client: what it has asked is all it is answered."""
        self._asking = ENDED
        self._drop_body()
        self._stop_the_clock()

    def _end(self) -> None:
        """Take no more from this client, and close once everything it asked is answered."""
        self._stop_listening()
        if self._answering is not BUSY:
            self._answering = CLOSED
            self._server.close(self)

    def close(self) -> None:
        """Close, once what was written is on its way; after a refusal a little later."""
        transport = self._transport
        if transport is None:
            return
        self._stop_listening()
        if self._answering is BUSY:
            return  # a request came in the turn in which this was asked for: its answer is the last
        if self._answering is REFUSED and transport.can_write_eof():
            transport.write_eof()
            self._loop.call_later(LINGER_SECONDS, self.close)
        else:
            transport.close()
        self._answering = CLOSED
        self._abort_if_unread()

    def close_if_idle(self) -> None:
        """Close, if there is nothing to answer and no request has begun to arrive."""
        if self._is_idle:
            self._server.close(self)

    def abort(self) -> None:
        """Close, whatever there is to answer."""
        if self._transport is not None:
            self._transport.abort()

    # --- Bounds -------------------------------------------------------------------------------------------------------

    def _hold(self) -> None:
        """Read on, or do not, as the state has it."""
        holds = bool(self._following) or self._unread is not None
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
        if self._asking is ENDED:
            return
        # What arrived together with the end of another request is not told apart from that.
        if not self._has_ended_one:
            self._taken += count
        if self._taken > MAX_HEAD_BYTES and self._asking is HEAD:
            self._refuse(HEADERS_TOO_LARGE)
        elif self._taken > MAX_REQUEST_BYTES:
            self._refuse(TOO_LARGE)
        elif self._late is None:
            self._late = self._loop.call_later(BODY_SECONDS if self._asking is BODY else HEAD_SECONDS, self._too_late)

    def _stop_the_clock(self) -> None:
        """Take note that what was waited for has come, or need not come any more."""
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        if self._asking is BODY:
            self._refuse(BODY_INCOMPLETE)
        else:
            self.abort()

    @property
    def _is_idle(self) -> bool:
        return self._answering is not BUSY and (self._asking is IDLE or self._asking is ENDED)

    def _check_idle(self) -> None:
        seconds = time.perf_counter() - self.asked_at if self._is_idle else 0.0
        left_seconds = self._server.keep_alive_seconds - seconds
        if left_seconds > 0:
            self._idle = self._loop.call_later(left_seconds, self._check_idle)
        else:
            self._server.close(self)

    # --- What few clients ask for -------------------------------------------------------------------------------------

    def _let_go_on(self) -> None:
        """Tell a client that waits for it to send its body."""
        expected, transport = self._found[EXPECT], self._transport
        if expected is None or expected.lower() != "100-continue" or self._answering is BUSY:
            return
        if transport is not None and self._parser.get_http_version() == "1.1":
            self._server.write(transport, _CONTINUE)

    def _go_on_without_upgrade(self, rest: memoryview) -> None:
        """Read a request again as if it had not asked for another protocol, for the sake of its body; then the rest."""
        while self._asking is SKIPPED:
            head, self._skipped = self._skipped, b""
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


def _path_of(target: bytes) -> str:
    """Return the path that a request's target means; "" where it means none."""
    try:
        path: bytes | None = httptools.parse_url(target).path
    except httptools.HttpParserInvalidURLError:
        return ""
    return unquote_to_bytes(path or b"").decode("latin-1")
