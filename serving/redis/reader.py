"""How the lane reads blocks: one connection, many requests, one write for all that arrive in one turn of the loop.

What makes it safe: replies are matched to reads by their order alone, so a connection on which anything went wrong (a
time-out, a cancelled read, a malformed reply) is closed and never used again; a late reply finds nobody to confuse.
While there is no connection that has answered a PING, a read fails at once; a new connection is tried for in the
background, without end.

A Redis of several nodes has a `NodeReader` per node, and a map from block to node before them:
`serving.redis.topology`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import ssl
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import hiredis
from redis.connection import SSLConnection, parse_url
from typing_extensions import override

from serving.engine import UNAVAILABLE, Block
from serving.metrics import Numbers

logger = logging.getLogger(__name__)

CONNECT_SECONDS = 1.0
FIRST_BACKOFF_SECONDS = 0.05
LONGEST_BACKOFF_SECONDS = 0.5
# An idle connection is asked this often whether it still answers, so that no request has to find out.
HEARTBEAT_SECONDS = 1.0
# After a pause of this process itself replies wait in the socket, past their deadline: this long to read them.
LAST_CHANCE_SECONDS = 0.002
# More are sent before the turn of the loop ends, so that Redis works meanwhile.
MOST_AT_ONCE = 128

_PING = "*1\r\n$4\r\nPING\r\n"


class NotConnected(Exception):
    """A connection that could not be made or set up."""


Put = Callable[[int, Block], None]


class BlockReader(Protocol):
    """Where the lane gets blocks from. For the event loop's thread."""

    def read(self, names: Sequence[str], put: Put) -> None:
        """Call `put` once for each of these Redis keys, now or later in this thread, with its index and its block.

        None stands for a missing block, UNAVAILABLE for one that could not be read. `put` must raise nothing.
        """
        ...


def read_all(
    read: Callable[[Sequence[str], Put], None], names: Sequence[str], then: Callable[[list[Block]], None]
) -> None:
    """Call `then` once with the blocks of one or more Redis keys, in order, when the last of them is there.

    `read` reads as `BlockReader` does.
    """
    blocks: list[Block] = [None] * len(names)
    missing = len(names)

    def put(index: int, block: Block) -> None:
        nonlocal missing
        blocks[index] = block
        missing -= 1
        if not missing:
            then(blocks)

    read(names, put)


class Address(NamedTuple):
    """Where a Redis is and how to get in. `path` is a Unix socket's, in place of host and port."""

    host: str
    port: int
    path: str | None
    username: str | None
    password: str | None
    database: int
    tls: ssl.SSLContext | None
    server_hostname: str | None

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read `redis://`, `rediss://` or `unix://`, with the options that redis-py knows.

        Raises:
            ValueError: it is no such URL.
        """
        options: dict[str, Any] = parse_url(url)
        host = str(options.get("host", "localhost"))
        tls = tls_context(options) if options.get("connection_class") is SSLConnection else None
        return cls(
            host,
            int(options.get("port", 6379)),
            options.get("path"),
            options.get("username"),
            options.get("password"),
            int(options.get("db", 0)),
            tls,
            host if tls is not None else None,
        )

    def greeting(self) -> list[str]:
        """Return the commands a new connection begins with; the last of them is a PING."""
        commands: list[str] = []
        if self.username or self.password is not None:
            # A user may have no password; that is an empty one.
            commands.append(_command("AUTH", *([self.username] if self.username else []), self.password or ""))
        if self.database:
            commands.append(_command("SELECT", str(self.database)))
        return [*commands, _PING]


def tls_context(options: Mapping[str, Any]) -> ssl.SSLContext:
    """Return what a connection is secured with, by redis-py's `ssl_…` options.

    Raises:
        OSError: a file of theirs cannot be read, or is none.
    """
    context = ssl.create_default_context(cafile=options.get("ssl_ca_certs"), capath=options.get("ssl_ca_path"))
    if str(options.get("ssl_check_hostname", True)).lower() in ("false", "0", "no"):
        context.check_hostname = False
    if options.get("ssl_cert_reqs") == "none":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if options.get("ssl_certfile"):
        context.load_cert_chain(options["ssl_certfile"], options.get("ssl_keyfile"))
    return context


def _command(*parts: str) -> str:
    return f"*{len(parts)}\r\n" + "".join(f"${len(part.encode())}\r\n{part}\r\n" for part in parts)


def _forget(replies: list[Any]) -> None:
    """Do nothing with the reply to a heartbeat: that it came is all."""


# --- One connection -------------------------------------------------------------------------------------------------


class _Read:
    """Replies somebody waits for, in the order they were asked for."""

    __slots__ = ("deadline", "missing", "replies", "seconds", "then")

    def __init__(self, then: Callable[[list[Any]], None], count: int, seconds: float) -> None:
        self.then = then
        self.missing = count
        self.replies: list[Any] = []
        self.seconds = seconds
        self.deadline = time.monotonic() + seconds


class _Connection(asyncio.Protocol):
    """One connection, from its making to its end.

    Attributes:
        is_lost: it is closed; this never goes back to False.
        has_timed_out: it is closed because a reply did not come in time.
    """

    def __init__(
        self, loop: asyncio.AbstractEventLoop, deadline_seconds: float, numbers: Numbers, on_lost: Callable[[], None]
    ) -> None:
        self.is_lost = False
        self.has_timed_out = False
        self._loop = loop
        self._deadline_seconds = deadline_seconds
        self._numbers = numbers
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._reader = hiredis.Reader()
        self._waiting: deque[_Read] = deque()
        self._commands: list[str] = []
        self._unsent: list[_Read] = []
        self._timer: asyncio.TimerHandle | None = None
        self._on_last_chance: _Read | None = None

    def ask(
        self, commands: Sequence[str], then: Callable[[list[Any]], None], deadline_seconds: float | None = None
    ) -> None:
        """Send commands with whatever else this turn of the loop sends; call `then` once with their replies.

        A reply that does not come is UNAVAILABLE.
        """
        if self.is_lost:
            then([UNAVAILABLE] * len(commands))
            return
        if not self._commands:
            self._loop.call_soon(self._flush)
        self._commands.extend(commands)
        seconds = self._deadline_seconds if deadline_seconds is None else deadline_seconds
        read = _Read(then, len(commands), seconds)
        self._waiting.append(read)
        self._unsent.append(read)
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._check_deadline)
        if len(self._commands) >= MOST_AT_ONCE:
            self._flush()

    def lose(self, *, is_timeout: bool = False) -> None:
        """Close this connection for good; everything that waits for a reply is told that there will be none."""
        if self.is_lost:
            return
        self.is_lost = True
        self.has_timed_out = is_timeout
        if self._timer is not None:
            self._timer.cancel()
        if self._transport is not None:
            self._transport.abort()
        self._on_lost()
        while self._waiting:
            read = self._waiting.popleft()
            read.then(read.replies + [UNAVAILABLE] * read.missing)

    @override
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport  # type: ignore[assignment]  # a stream's transport is a Transport

    @override
    def connection_lost(self, exc: Exception | None) -> None:
        self.lose()

    @override
    def eof_received(self) -> bool:
        self.lose()
        return False

    @override
    def data_received(self, data: bytes) -> None:
        if self.is_lost:
            return
        waiting = self._waiting
        next_reply = self._reader.gets
        try:
            self._reader.feed(data)
            while (reply := next_reply()) is not False:
                if not waiting:
                    self.lose()  # more than was asked for
                    return
                read = waiting[0]
                read.replies.append(reply)
                read.missing -= 1
                if not read.missing:
                    waiting.popleft()
                    read.then(read.replies)
        except hiredis.ProtocolError:
            self.lose()  # nothing on this connection can be believed

    def _flush(self) -> None:
        commands, self._commands = self._commands, []
        reads, self._unsent = self._unsent, []
        if commands and not self.is_lost and self._transport is not None:
            self._numbers.redis_batches += 1
            self._transport.write("".join(commands).encode())
            # Redis has its time from now on: before, this process may have had many other answers to write.
            now = time.monotonic()
            for read in reads:
                read.deadline = now + read.seconds

    def _check_deadline(self) -> None:
        """Look at the oldest read alone: replies come in order, so the others cannot come before its."""
        self._timer = None
        if not self._waiting:
            return
        oldest = self._waiting[0]
        left = oldest.deadline - time.monotonic()
        if left <= 0 and self._on_last_chance is oldest:
            self.lose(is_timeout=True)
            return
        if left <= 0:
            self._on_last_chance = oldest
            left = LAST_CHANCE_SECONDS
        self._timer = self._loop.call_later(left, self._check_deadline)


# --- One node, for ever ---------------------------------------------------------------------------------------------


class NodeReader:
    """Reads blocks from one Redis, reconnecting in the background.

    The deadline is how long Redis may take for a read, from when it is asked.
    """

    def __init__(self, address: Address, *, deadline_seconds: float, numbers: Numbers) -> None:
        self._address = address
        self._deadline_seconds = deadline_seconds
        self._numbers = numbers
        self._connection: _Connection | None = None
        self._lost = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection that has answered a PING."""
        return self._connection is not None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to connect, as soon as the loop runs."""
        self._task = loop.create_task(self._keep_connected(loop))

    def close(self) -> None:
        """Stop for good."""
        if self._task is not None:
            self._task.cancel()
        if self._connection is not None:
            self._connection.lose()

    def read(self, names: Sequence[str], put: Put) -> None:
        """Read blocks as `BlockReader` says. Ends by the deadline whatever Redis does, and raises nothing."""
        connection = self._connection
        self._numbers.redis_reads += len(names)
        if connection is None:
            self._numbers.redis_errors += len(names)
            for index in range(len(names)):
                put(index, UNAVAILABLE)
            return

        def arrived(replies: list[Any]) -> None:
            for index, reply in enumerate(replies):
                if reply.__class__ is bytes or reply is None:
                    put(index, reply)
                    continue
                # LOADING or another error, or none came. What is no block is not read as one.
                if reply is UNAVAILABLE and connection.has_timed_out:
                    self._numbers.redis_timeouts += 1
                else:
                    self._numbers.redis_errors += 1
                put(index, UNAVAILABLE)

        # The names of blocks are ASCII, so that their length in characters is that in bytes.
        connection.ask([f"*2\r\n$3\r\nGET\r\n${len(name)}\r\n{name}\r\n" for name in names], arrived)

    def ask(self, commands: Sequence[str], then: Callable[[list[Any], bool], None]) -> None:
        """Call `then` once with the replies, errors among them, and whether the connection was lost by a time-out.

        A reply that does not come is UNAVAILABLE.
        """
        connection = self._connection
        if connection is None:
            then([UNAVAILABLE] * len(commands), False)  # noqa: FBT003  # what `then` takes
        else:
            connection.ask(commands, lambda replies: then(replies, connection.has_timed_out))

    async def _keep_connected(self, loop: asyncio.AbstractEventLoop) -> None:
        backoff_seconds = FIRST_BACKOFF_SECONDS
        is_away = False
        while True:
            try:
                connection = await self._connect(loop)
            except (OSError, NotConnected) as error:
                problem = str(error) or type(error).__name__
            else:
                if is_away:
                    logger.info("redis.back for=blocks")
                is_away = False
                if await self._watch(connection):
                    backoff_seconds = FIRST_BACKOFF_SECONDS
                    logger.warning("redis.away for=blocks error=%r", "connection lost")
                    is_away = True
                    continue
                problem = "connection lost at once"
            if not is_away:
                logger.warning("redis.away for=blocks error=%r", problem)
            is_away = True
            # Not all lanes at once.
            await asyncio.sleep(backoff_seconds * random.uniform(0.5, 1))  # noqa: S311  # no secret
            backoff_seconds = min(2 * backoff_seconds, LONGEST_BACKOFF_SECONDS)

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> _Connection:
        """Return a connection that has answered a PING, already in use."""
        address = self._address
        self._lost.clear()

        def make() -> _Connection:
            return _Connection(loop, self._deadline_seconds, self._numbers, self._on_lost)

        async with asyncio.timeout(CONNECT_SECONDS):
            if address.path is not None:
                _, connection = await loop.create_unix_connection(make, address.path)
            else:
                _, connection = await loop.create_connection(
                    make, address.host, address.port, ssl=address.tls, server_hostname=address.server_hostname
                )
            greeted: asyncio.Future[list[Any]] = loop.create_future()
            connection.ask(address.greeting(), greeted.set_result, CONNECT_SECONDS)
            try:
                replies = await asyncio.shield(greeted)
            except asyncio.CancelledError:
                connection.lose()
                raise
        refusals = [reply for reply in replies if isinstance(reply, Exception) or reply is UNAVAILABLE]
        if refusals or connection.is_lost or replies[-1] != b"PONG":
            connection.lose()
            raise NotConnected(str(refusals[0]) if refusals else "no PONG")
        self._connection = connection
        return connection

    async def _watch(self, connection: _Connection) -> bool:
        """Wait until the connection is lost, pinging it now and then; return whether it lasted."""
        has_lasted = False
        while not self._lost.is_set():
            try:
                async with asyncio.timeout(HEARTBEAT_SECONDS):
                    await self._lost.wait()
            except TimeoutError:
                has_lasted = True
                connection.ask([_PING], _forget)
        return has_lasted

    def _on_lost(self) -> None:
        self._connection = None
        self._lost.set()
