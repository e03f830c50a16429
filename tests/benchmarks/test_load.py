"""The load generator against a server that answers as it is told to."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import repeat

import pytest

from benchmarks.load import HEAD_END, Exchange, ask_closed, ask_open, read_answer

REQUEST = b"GET /something HTTP/1.1\r\nHost: localhost" + HEAD_END
BODY = b'{"offer":1,"price":0.5}'
GOOD: Exchange = (REQUEST, HEAD_END + BODY)


def plain(body: bytes, status: int = 200) -> bytes:
    return b"HTTP/1.1 %d Some Words\r\ncontent-length: %d\r\n\r\n%b" % (status, len(body), body)


@contextmanager
def server(answer: Callable[[int], list[bytes]]) -> Iterator[int]:
    """Run one that sends, for its nth request, these pieces one after the other; nothing: it hangs up."""
    asked = iter(range(10**9))
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def serve() -> None:
            while True:
                try:
                    connection, _ = listening.accept()
                except OSError:
                    return
                threading.Thread(target=talk, args=(connection,), daemon=True).start()

        def talk(connection: socket.socket) -> None:
            with connection:
                try:
                    while connection.recv(65_536):
                        pieces = answer(next(asked))
                        if not pieces:
                            return
                        for number, piece in enumerate(pieces):
                            if number:
                                time.sleep(0.01)
                            connection.sendall(piece)
                except OSError:
                    return

        threading.Thread(target=serve, daemon=True).start()
        yield listening.getsockname()[1]
        # Closing alone would not wake `accept`.
        listening.shutdown(socket.SHUT_RDWR)


def test_closed__right_answers__are_counted_with_their_latencies() -> None:
    with server(lambda _: [plain(BODY)]) as port:
        outcome = ask_closed(port, repeat(GOOD), connections=3, seconds=0.2)
    assert outcome.errors == 0
    assert outcome.checked == len(outcome.latencies_ns) > 0
    assert outcome.latencies_ns == sorted(outcome.latencies_ns)
    assert outcome.rate > 0


def test_closed__exchanges_end__every_answer_is_waited_for() -> None:
    with server(lambda _: [plain(BODY)]) as port:
        outcome = ask_closed(port, [GOOD] * 25, connections=4, seconds=30)
    assert (outcome.checked, outcome.errors) == (25, 0)
    assert outcome.seconds < 30


@pytest.mark.parametrize(
    "pieces",
    [
        [plain(BODY)[:5], plain(BODY)[5:]],
        [plain(BODY)[:-3], plain(BODY)[-3:]],
        [
            b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n6\r\n" + BODY[:6] + b"\r\n",
            b"11\r\n" + BODY[6:],
            b"\r\n0\r\n\r\n",
        ],
        [plain(b'{"price": 0.50, "offer": 1}')],
    ],
    ids=["head in two", "body in two", "chunked", "the same JSON in other words"],
)
def test_closed__a_right_answer_of_another_look__is_right(pieces: list[bytes]) -> None:
    with server(lambda _: pieces) as port:
        outcome = ask_closed(port, [GOOD] * 5, connections=2, seconds=30)
    assert (outcome.checked, outcome.errors) == (5, 0)


@pytest.mark.parametrize("body", [b'{"offer":2,"price":0.5}', b"", b"no JSON"])
def test_closed__a_wrong_answer__is_an_error_with_an_example(body: bytes) -> None:
    with server(lambda number: [plain(body if number == 2 else BODY)]) as port:
        outcome = ask_closed(port, [GOOD] * 5, connections=1, seconds=30)
    assert (outcome.checked, outcome.wrong, outcome.errors) == (4, 1, 1)
    assert repr(BODY) in outcome.examples[0]


def test_closed__refusals__are_counted_by_status() -> None:
    with server(lambda number: [plain(b"", 503) if number % 2 else plain(BODY)]) as port:
        outcome = ask_closed(port, [GOOD] * 6, connections=1, seconds=30)
    assert outcome.statuses == {503: 3}
    assert (outcome.checked, outcome.wrong) == (3, 0)


def test_closed__a_connection_that_ends__is_an_error_and_replaced() -> None:
    with server(lambda number: [] if number == 1 else [plain(BODY)]) as port:
        outcome = ask_closed(port, [GOOD] * 5, connections=1, seconds=30)
    assert (outcome.checked, outcome.broken, outcome.errors) == (4, 1, 1)


def test_closed__a_warm_up__is_checked_but_not_counted() -> None:
    begun: list[bool] = []
    with server(lambda _: [plain(BODY)]) as port:
        outcome = ask_closed(
            port, repeat(GOOD), connections=1, seconds=0.1, warm_up_seconds=0.2, on_start=lambda: begun.append(True)
        )
    assert begun == [True]
    assert outcome.checked > len(outcome.latencies_ns) > 0


def test_open__a_server_that_stops_for_a_moment__makes_all_that_was_due_late() -> None:
    def answer(number: int) -> list[bytes]:
        if number == 10:
            time.sleep(0.4)
        return [plain(BODY)]

    with server(answer) as port:
        outcome = ask_open(port, [GOOD] * 100, rate=100, connections=1, seconds=30)
    assert (outcome.checked, outcome.errors) == (100, 0)
    # Closed, one answer would have been late. Here 40 were due while the server stood still.
    late = [latency for latency in outcome.latencies_ns if latency > 0.1e9]
    assert len(late) >= 20


def test_open__nobody_may_wait__what_finds_no_connection_is_unsent() -> None:
    def answer(_: int) -> list[bytes]:
        time.sleep(0.05)
        return [plain(BODY)]

    with server(answer) as port:
        outcome = ask_open(port, repeat(GOOD), rate=200, connections=1, seconds=0.5, may_wait=False)
    assert outcome.unsent > outcome.checked > 0
    assert outcome.errors == 0


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab", (200, b"ab")),
        (b"HTTP/1.1 204 No Content\r\n\r\n", (204, b"")),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nab", None),
        (b"HTTP/1.1 200 OK\r\n", None),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n", (200, b"ab")),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n", None),
    ],
)
def test_read_answer__bytes__give_status_and_body_once_whole(data: bytes, answer: tuple[int, bytes] | None) -> None:
    assert read_answer(data) == answer
