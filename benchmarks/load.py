"""The load generator: one thread, one epoll, keep-alive connections, every answer compared with what it must be.

In two ways. *Closed*: each connection asks again as soon as it is answered; that finds the peak. *Open*: requests are
due at fixed times whatever the server does, and latency counts from when a request was due, not from when a connection
was free for it, so that a server that stops for a moment cannot hide it ("coordinated omission").

It is Python, and at tens of thousands of requests/s most of its time is spent in the kernel, as that of any such
program is. What it uses is measured with each run, so that a reader sees when it, not the server, was the limit.
"""

from __future__ import annotations

import gc
import json
import select
import socket
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

# A request, and how its answer must end: the blank line after the headers and the body.
Exchange = tuple[bytes, bytes]
HEAD_END = b"\r\n\r\n"

_GOOD = b"HTTP/1.1 200 "
_EVENTS_AT_ONCE = 256
_READ_BYTES = 65_536
_CONNECT_SECONDS = 10.0
_WAIT_SECONDS = 0.1
_EXAMPLES_KEPT = 3


@dataclass
class Outcome:
    """What became of a run's requests.

    Attributes:
        seconds: that counted, without the warm-up.
        latencies_ns: of the right answers of that time, sorted.
        unsent: requests of that time that no connection was free for, where they do not wait for one.
        checked: right answers, the warm-up's too; so with what follows.
        statuses: of answers that were not 200, and how many.
        wrong: answers with status 200 that were not right.
        broken: connections that ended before their answer.
        examples: a few of the wrong ones, of each status.
    """

    seconds: float = 0.0
    latencies_ns: list[int] = field(default_factory=list)
    unsent: int = 0
    checked: int = 0
    statuses: Counter[int] = field(default_factory=Counter)
    wrong: int = 0
    broken: int = 0
    examples: list[str] = field(default_factory=list)

    @property
    def errors(self) -> int:
        """Everything that should not have happened."""
        return self.wrong + self.broken + sum(self.statuses.values())

    @property
    def rate(self) -> float:
        """Right answers a second."""
        return len(self.latencies_ns) / self.seconds if self.seconds else 0.0

    def percentile_ms(self, share: float) -> float | None:
        """Return the latency that this share of the right answers did not exceed; None where there was none."""
        count = len(self.latencies_ns)
        return self.latencies_ns[min(count - 1, int(count * share))] / 1e6 if count else None


def ask_closed(
    port: int,
    exchanges: Iterable[Exchange],
    *,
    connections: int,
    seconds: float,
    warm_up_seconds: float = 0.0,
    on_start: Callable[[], None] | None = None,
) -> Outcome:
    """Ask on each connection again as soon as it is answered.

    Args:
        port: of the server, on loopback.
        exchanges: what to ask and what must come, in order; the run ends early where they end.
        connections: how many.
        seconds: how long it counts.
        warm_up_seconds: how long before that it does not.
        on_start: called when it begins to count.
    """
    run = _Run(port, exchanges, connections, seconds, warm_up_seconds, on_start)
    clock, receive, send = time.perf_counter_ns, run.receive, run.send
    with run:
        for connection in list(run.connections.values()):
            send(connection, clock())
        while run.goes_on(clock()):
            for descriptor, _ in run.epoll.poll(_WAIT_SECONDS, _EVENTS_AT_ONCE):
                connection = run.connections[descriptor]
                free = receive(connection)
                if free is not None:
                    send(free, clock())
    return run.outcome


def ask_open(
    port: int,
    exchanges: Iterable[Exchange],
    *,
    rate: float,
    connections: int,
    seconds: float,
    warm_up_seconds: float = 0.0,
    may_wait: bool = True,
    on_start: Callable[[], None] | None = None,
) -> Outcome:
    """Ask at fixed times.

    Args:
        port: of the server, on loopback.
        exchanges: what to ask and what must come, in order; the run ends early where they end.
        rate: requests a second.
        connections: how many.
        seconds: how long it counts.
        warm_up_seconds: how long before that it does not.
        may_wait: a request that finds no connection free waits for one; otherwise it is left out as unsent.
        on_start: called when it begins to count.
    """
    run = _Run(port, exchanges, connections, seconds, warm_up_seconds, on_start)
    clock, receive, send = time.perf_counter_ns, run.receive, run.send
    interval_ns, number = 1e9 / rate, 0
    with run:
        due = began = clock()
        idle = deque(run.connections.values())
        while run.goes_on(now := clock()):
            while due <= now and idle:
                send(idle.popleft(), due)
                number += 1
                due = began + int(number * interval_ns)
            if due <= now and not may_wait:
                missed = int((now - due) / interval_ns) + 1
                run.outcome.unsent += missed if run.is_counting else 0
                number += missed
                due = began + int(number * interval_ns)
            if idle and (wait_ns := due - clock()) > 0:
                # Waiting in epoll itself would be exact to a millisecond only.
                select.select([run.epoll], [], [], min(wait_ns / 1e9, _WAIT_SECONDS))
            for descriptor, _ in run.epoll.poll(0 if idle else _WAIT_SECONDS, _EVENTS_AT_ONCE):
                free = receive(run.connections[descriptor])
                if free is not None:
                    idle.append(free)
    return run.outcome


class _Connection:
    __slots__ = ("arrived", "asked_at", "descriptor", "ending", "recv", "send", "socket")

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=_CONNECT_SECONDS)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(0)
        self.descriptor = self.socket.fileno()
        self.recv = self.socket.recv
        self.send = self.socket.send
        self.arrived = b""
        self.ending = b""
        self.asked_at = 0


class _Run:
    def __init__(
        self,
        port: int,
        exchanges: Iterable[Exchange],
        connections: int,
        seconds: float,
        warm_up_seconds: float,
        on_start: Callable[[], None] | None,
    ) -> None:
        self.outcome = Outcome()
        self.epoll = select.epoll()
        self.connections: dict[int, _Connection] = {}
        self.is_counting = False
        self._port = port
        self._exchanges = iter(exchanges)
        self._are_all_sent = False
        self._unanswered = 0
        self._on_start = on_start
        self._warm_up_ns, self._counted_ns = int(warm_up_seconds * 1e9), int(seconds * 1e9)
        self._counts_from = self._counts_until = 0
        for _ in range(connections):
            self._connect()

    def __enter__(self) -> None:
        # What is here stays; looking through millions of tokens and answers again would be felt as latency.
        gc.collect()
        gc.freeze()
        gc.disable()
        self._counts_from = time.perf_counter_ns() + self._warm_up_ns
        self._counts_until = self._counts_from + self._counted_ns

    def __exit__(self, *_: object) -> None:
        if self.is_counting:
            self.outcome.seconds = (time.perf_counter_ns() - self._counts_from) / 1e9
        gc.enable()
        gc.unfreeze()
        for connection in self.connections.values():
            connection.socket.close()
        self.epoll.close()
        self.outcome.latencies_ns.sort()

    def goes_on(self, now: int) -> bool:
        """Tell whether there is more to ask; begins to count when the warm-up is over."""
        if not self.is_counting and now >= self._counts_from:
            self.is_counting = True
            self._counts_from, self._counts_until = now, now + self._counted_ns
            if self._on_start is not None:
                self._on_start()
        return now < self._counts_until and (self._unanswered > 0 or not self._are_all_sent)

    def send(self, connection: _Connection, asked_at: int) -> None:
        """Send the next request on a connection that waits for nothing."""
        exchange = next(self._exchanges, None)
        if exchange is None:
            self._are_all_sent = True
            return
        request, connection.ending = exchange
        connection.asked_at = asked_at
        self._unanswered += 1
        try:
            connection.send(request)
        except OSError:
            return  # it was closed while it was idle; `receive` sees that

    def receive(self, connection: _Connection) -> _Connection | None:
        """Take what arrived; give a connection that waits for nothing now, if the answer is whole."""
        try:
            data = connection.recv(_READ_BYTES)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        if not data:
            self.outcome.broken += 1
            self._unanswered -= 1
            return self._replace(connection)
        if connection.arrived:
            data = connection.arrived + data
        if not (data.endswith(connection.ending) and data.startswith(_GOOD)):
            answer = read_answer(data)
            if answer is None:
                connection.arrived = data
                return None
            status, body = answer
            if not self._is_right(status, body, connection.ending):
                connection.arrived = b""
                self._unanswered -= 1
                return connection
        connection.arrived = b""
        self._unanswered -= 1
        outcome = self.outcome
        outcome.checked += 1
        if self.is_counting:
            outcome.latencies_ns.append(time.perf_counter_ns() - connection.asked_at)
        return connection

    def _is_right(self, status: int, body: bytes, ending: bytes) -> bool:
        """Look closer at an answer that is not, byte for byte, what was expected; note it if it is wrong."""
        outcome = self.outcome
        if status != 200:
            outcome.statuses[status] += 1
            alike = outcome.statuses[status]
        else:
            expected = ending.removeprefix(HEAD_END)
            if body == expected or _same_json(body, expected):
                return True
            outcome.wrong += 1
            alike = outcome.wrong
        if alike <= _EXAMPLES_KEPT:
            outcome.examples.append(f"{status} {body[:300]!r} instead of {ending.removeprefix(HEAD_END)!r}")
        return False

    def _replace(self, connection: _Connection) -> _Connection:
        self.epoll.unregister(connection.descriptor)
        del self.connections[connection.descriptor]
        connection.socket.close()
        return self._connect()

    def _connect(self) -> _Connection:
        connection = _Connection(self._port)
        self.connections[connection.descriptor] = connection
        self.epoll.register(connection.descriptor, select.EPOLLIN)
        return connection


def _same_json(body: bytes, expected: bytes) -> bool:
    try:
        return bool(json.loads(body) == json.loads(expected))
    except ValueError:
        return False


def read_answer(data: bytes) -> tuple[int, bytes] | None:
    """Return status and body of an HTTP/1.1 answer; None while it is not whole."""
    head, end, rest = data.partition(HEAD_END)
    if not end:
        return None
    status = int(head[9:12])
    fields = {}
    for line in head.lower().split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        fields[name] = value.strip()
    if fields.get(b"transfer-encoding") == b"chunked":
        body = _unchunked(rest)
        return None if body is None else (status, body)
    length = int(fields.get(b"content-length", 0))
    return (status, rest[:length]) if len(rest) >= length else None


def _unchunked(rest: bytes) -> bytes | None:
    body = b""
    while True:
        size, end, rest = rest.partition(b"\r\n")
        if not end:
            return None
        length = int(size, 16)
        if len(rest) < length + 2:
            return None
        if length == 0:
            return body
        body += rest[:length]
        rest = rest[length + 2 :]
