"""HTTP/1.1 as the lane's server speaks it, over real connections in the event loop that the lane runs in."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
import struct
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import uvloop
from hypothesis import given
from hypothesis import strategies as st

from serving import tracing
from serving.http import BODY_INCOMPLETE, MAX_BODY_BYTES, NO_ANSWER, OVER_CAPACITY, PATH, Request, Response, head_of
from serving.lane import http11, server
from serving.lane.headers import Spellings
from serving.lane.http11 import KEEP_ALIVE_SECONDS, Connection
from serving.lane.server import HttpServer
from serving.lane.tracing import sampled
from tests.certificates import write_certificate
from tests.lane_process import eventually
from tests.otlp_receiver import otlp_receiver

if TYPE_CHECKING:
    from pytest_django.fixtures import Settings

PLAIN = Request("GET", "", None, None, None, None, b"")
BODY = b"the answer\n"
# As Java's client sends it with every first request over plain HTTP.
UPGRADE = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk")


@pytest.fixture(scope="module", autouse=True)
def _in_a_hurry() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(server, "ACCEPTED_SECONDS", 0.0)
        patched.setattr(server, "ACCEPTED_TLS_SECONDS", 0.0)
        patched.setattr(server, "KEPT_SECONDS", 0.02)
        yield


@dataclass
class Site:
    """A server that notes what it is asked, and answers what `answer` says: None to leave it open."""

    answer: Callable[[str, Request], Response | None] = lambda _path, _request: Response(200, "x: y\r\n", BODY)
    most_connections: int = 100
    keep_alive_seconds: float = KEEP_ALIVE_SECONDS
    tls: ssl.SSLContext | None = None
    trusted: ssl.SSLContext | None = None
    clients: list[Client] = field(default_factory=list)
    asked: list[tuple[str, Request]] = field(default_factory=list)
    open: list[Connection] = field(default_factory=list)
    refused: list[Response] = field(default_factory=list)
    port: int = 0

    def handle(self, connection: Connection, path: str, request: Request) -> None:
        self.asked.append((path, request))
        response = self.answer(path, request)
        if response is None:
            self.open.append(connection)
        else:
            connection.send(response)

    def run(self, story: Callable[[Site], Awaitable[None]]) -> None:
        """Let a story happen while this serves."""

        async def all_of_it() -> None:
            listening = socket.create_server(("127.0.0.1", 0))
            self.port = listening.getsockname()[1]
            self.server = HttpServer(self.handle, self.refused.append, self.most_connections, self.keep_alive_seconds)
            await self.server.start(listening, self.tls, 100)
            try:
                async with asyncio.timeout(20):
                    await story(self)
                    await self.server.finish()
            finally:
                self.server._server.close()  # type: ignore[union-attr]  # it was started
                for connection in tuple(self.server.connections):
                    connection.abort()
                for client in self.clients:
                    client.writer.close()
                await asyncio.sleep(0.001)

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(all_of_it())

    async def client(self) -> Client:
        client = Client(
            *await asyncio.open_connection(
                "127.0.0.1", self.port, ssl=self.trusted, server_hostname=self.trusted and "localhost"
            )
        )
        self.clients.append(client)
        return client

    def client_that_reads_nothing(self) -> socket.socket:
        """Return a bare connection, which does not wait either."""
        client = socket.create_connection(("127.0.0.1", self.port))
        client.setblocking(False)
        return client


@dataclass
class Client:
    """One connection to it."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def answer(self, *, has_body: bool = True) -> tuple[int, dict[str, str], bytes]:
        head = await self.reader.readuntil(b"\r\n\r\n")
        first, *lines = head.decode().removesuffix("\r\n\r\n").split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines)
        assert len(headers) == len(lines)
        length = int(headers.get("content-length", 0)) if has_body else 0
        return int(first.split(" ")[1]), headers, await self.reader.readexactly(length)

    async def ask(self, data: bytes) -> tuple[int, dict[str, str], bytes]:
        self.send(data)
        return await self.answer()

    async def is_closed(self) -> bool:
        """Wait for the end; tell whether nothing came before it."""
        with suppress(ConnectionError):
            return await self.reader.read() == b""
        return True


async def until(check: Callable[[], bool]) -> None:
    while not check():  # noqa: ASYNC110  # nobody sets an event
        await asyncio.sleep(0.001)


def get(*lines: str, target: str = PATH, method: str = "GET", version: str = "1.1") -> bytes:
    return "\r\n".join([f"{method} {target} HTTP/{version}", "Host: x", *lines, "", ""]).encode("latin-1")


# --- What of a request counts ---------------------------------------------------------------------------------------


def requests_of(*raw: bytes) -> list[tuple[str, Request]]:
    """Return what is asked by these, each on a connection of its own."""
    site = Site()

    async def story(site: Site) -> None:
        for data in raw:
            await (await site.client()).ask(data)

    site.run(story)
    return site.asked


def test_headers__absent_single_and_several_times__as_wsgi_has_them() -> None:
    several = [
        "authorization: Bearer a",
        "ACCEPT: x",
        "Authorization:Bearer b",
        'If-None-Match:   "1"  ',
        "content-type: first",
        "Accept: y",
        "Content-Type: second",
        "x-unknown: z",
        "x-other: \xe9",
    ]
    ((path, bare), (_, request), (_, empty)) = requests_of(get(), get(*several), get("Accept:"))
    assert (path, bare) == (PATH, PLAIN)
    assert request == Request("GET", "", "Bearer a,Bearer b", "x,y", '"1"', "first", b"")
    assert empty.accept == ""


@pytest.mark.parametrize(
    ("target", "path", "query"),
    [
        (f"{PATH}?a=%C3%A9+%2B&b=1", PATH, "a=%C3%A9+%2B&b=1"),
        (f"{PATH}?", PATH, ""),
        (f"{PATH}?a=b?c", PATH, "a=b?c"),
        (f"{PATH}?a=b#c", PATH, "a=b"),
        (f"http://example.com{PATH}?a=b", PATH, "a=b"),
        ("/v1/%72ecommendations?a", PATH, "a"),
        ("/%FF", "/\xff", ""),
        ("/", "/", ""),
        ("*", "*", ""),
        ("//x", "//x", ""),
        ("http://example.com", "", ""),
    ],
)
def test_target__whatever_its_form__path_and_query(target: str, path: str, query: str) -> None:
    method = "OPTIONS" if target == "*" else "GET"
    ((given, request),) = requests_of(get(target=target, method=method))
    assert (given, request.query) == (path, query)


def test_body__for_a_post_alone() -> None:
    chunked = get("Transfer-Encoding: chunked", method="POST") + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n"
    whole = get("Content-Length: 3", method="POST") + b"abc"
    other = get("Content-Length: 3", method="PUT") + b"abc"
    asked = requests_of(chunked, whole, other, get(method="POST"))
    assert [request.body for _, request in asked] == [b"abc", b"abc", b"", b""]


def test_upgrade__asked_for_and_not_given__the_request_is_the_same_without() -> None:
    lines = ("Authorization: Bearer a", "Content-Type: application/json", "Accept: x")
    chunked = ("Transfer-Encoding: chunked",)
    for length, body in ((("Content-Length: 3",), b"abc"), (chunked, b"3\r\nabc\r\n0\r\n\r\n")):
        plain = get(*lines, *length, method="POST") + body
        ((_, request), (_, same)) = requests_of(plain, get(*lines, *UPGRADE, *length, method="POST") + body)
        assert request.body == b"abc"
        assert same == request


def test_upgrade__asked_for_by_many_at_once__each_is_answered() -> None:
    async def story(site: Site) -> None:
        client = await site.client()
        client.send(get(*UPGRADE) * 1500 + get(*UPGRADE, "Content-Length: 9999999", method="POST") + get())
        assert [(await client.answer())[0] for _ in range(1500)] == [200] * 1500
        assert await client.is_closed()
        assert len(site.asked) == 1500

    Site().run(story)


def test_upgrade__with_a_body_that_is_too_large__refused_once() -> None:
    async def story(site: Site) -> None:
        client = await site.client()
        assert (await client.ask(get(*UPGRADE, "Content-Length: 9999999", method="POST")))[0] == 413
        assert await client.is_closed()

    Site().run(story)


def test_trailers__count_for_nothing() -> None:
    raw = get("Transfer-Encoding: chunked", method="POST") + b"3\r\nabc\r\n0\r\nAuthorization: Bearer a\r\n\r\n"
    ((_, request),) = requests_of(raw)
    assert (request.authorization, request.body) == (None, b"abc")


# --- Order ----------------------------------------------------------------------------------------------------------


def numbered(number: int, kind: str) -> bytes:
    target = f"{PATH}?n={number}&k={kind}"
    if kind == "post":
        return get("Content-Length: 5", target=target, method="POST") + b"abcde"
    if kind == "chunked":
        body = b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n"
        return get("Transfer-Encoding: chunked", target=target, method="POST") + body
    if kind == "upgrade":
        return get("Content-Length: 5", *UPGRADE, target=target, method="POST") + b"abcde"
    return get(target=target)


def number_and_kind(request: Request) -> tuple[int, str]:
    number, kind = request.query.removeprefix("n=").split("&k=")
    return int(number), kind


@given(
    kinds=st.lists(st.sampled_from(["get", "post", "chunked", "later", "upgrade"]), min_size=1, max_size=12),
    cuts=st.lists(st.integers(0, 2000), max_size=12),
    seed=st.integers(0, 1000),
)
def test_pipeline__in_whatever_pieces_and_answered_whenever__in_order(
    kinds: list[str], cuts: list[int], seed: int
) -> None:
    raw = b"".join(numbered(number, kind) for number, kind in enumerate(kinds))
    pieces = [raw[start:end] for start, end in pairwise(sorted({0, *(cut % len(raw) for cut in cuts), len(raw)}))]
    answers = [f"{number}".encode() * 3 for number in range(len(kinds))]
    order = random.Random(seed)

    def answer(_: str, request: Request) -> Response | None:
        number, kind = number_and_kind(request)
        assert request.body == (b"abcde" if request.method == "POST" else b"")
        return None if kind == "later" else Response(200, "", answers[number])

    async def story(site: Site) -> None:
        client = await site.client()

        async def send() -> None:
            for piece in pieces:
                client.send(piece)
                await asyncio.sleep(order.choice((0, 0, 0.001)))

        async def let_go() -> None:
            while len(site.asked) < len(kinds) or site.open:
                await asyncio.sleep(order.choice((0, 0, 0.001)))
                if site.open:
                    number, _ = number_and_kind(site.asked[-1][1])
                    site.open.pop().send(Response(200, "", answers[number]))

        both = asyncio.gather(send(), let_go())
        assert [(await client.answer())[2] for _ in kinds] == answers
        await both

    Site(answer).run(story)


# --- Connections ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "is_kept"),
    [
        (get(), True),
        (get("Connection: keep-alive"), True),
        (get("Connection: close"), False),
        (get(version="1.0"), False),
        (get("Connection: keep-alive", version="1.0"), False),
        (get(*UPGRADE), True),
        (get("Connection: close, Upgrade", "Upgrade: h2c"), False),
        (get(*UPGRADE, version="1.0"), False),
        (get(target="x:443", method="CONNECT"), False),
    ],
)
def test_connection__kept_or_closed_as_the_client_says(raw: bytes, is_kept: bool) -> None:
    async def story(site: Site) -> None:
        client = await site.client()
        status, headers, body = await client.ask(raw)
        assert (status, headers["x"], body) == (200, "y", BODY)
        assert headers["date"].endswith(" GMT")
        if is_kept:
            assert "connection" not in headers
            assert (await client.ask(raw))[0] == 200
        else:
            assert await client.is_closed()
            assert len(site.asked) == 1

    Site().run(story)


def test_head_and_answers_without_a_body__no_body_is_sent() -> None:
    statuses = {"HEAD": 200, "GET": 204, "PUT": 304, "POST": 200}

    def answer(_: str, request: Request) -> Response:
        return Response(statuses[request.method], "", BODY if request.method == "HEAD" else b"")

    async def story(site: Site) -> None:
        client = await site.client()
        for method, length in (("HEAD", str(len(BODY))), ("GET", None), ("PUT", None), ("POST", "0")):
            client.send(get(method=method))
            status, headers, _ = await client.answer(has_body=False)
            assert (status, headers.get("content-length")) == (statuses[method], length)

    Site(answer).run(story)


def test_expect__told_to_go_on_unless_the_body_is_too_large() -> None:
    async def story(site: Site) -> None:
        client = await site.client()
        client.send(get("Content-Length: 3", "Expect: 100-continue", method="POST"))
        assert await client.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert (await client.ask(b"abc"))[0] == 200
        length = MAX_BODY_BYTES + 1
        assert (await client.ask(get(f"Content-Length: {length}", "Expect: 100-continue", method="POST")))[0] == 413
        assert await client.is_closed()

    Site().run(story)


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x16\x03\x01\x02\x00\x01\r\n\r\n", 400),
        (b"FOO / HTTP/1.1\r\nHost: x\r\n\r\n", 405),
        (b"GET\r\n\r\n", 400),
        (b"GET / HTTP/9.9\r\n\r\n", 400),
        (get(target=f"{PATH}?a=\xe9"), 400),
        (get("no colon"), 400),
        (get("x: y", " folded: z"), 400),
        (get("x: a\0b"), 400),
        (get("Content-Length: 3", "Content-Length: 4", method="POST") + b"abcd", 400),
        (get("Content-Length: 3", "Transfer-Encoding: chunked", method="POST") + b"0\r\n\r\n", 400),
        (get("Content-Length: -1", method="POST"), 400),
        (get("Transfer-Encoding: chunked", method="POST") + b"zz\r\n", 400),
        (get("x: " + "y" * 500_000), 431),
        (get(f"Content-Length: {MAX_BODY_BYTES + 1}", method="POST"), 413),
        (get("Transfer-Encoding: chunked", method="POST") + b"200000\r\n" + bytes(MAX_BODY_BYTES + 1), 413),
    ],
)
def test_request__that_is_none_or_too_large__refused_and_nothing_after_it_is_read(raw: bytes, status: int) -> None:
    async def story(site: Site) -> None:
        client = await site.client()
        given, headers, body = await client.ask(raw + get())
        assert (given, headers["connection"]) == (status, "close")
        assert headers["content-type"] == "application/problem+json"
        assert body
        assert await client.is_closed()
        assert site.asked == []

    Site().run(story)


def test_request__that_is_none_after_others__these_are_answered_first() -> None:
    async def story(site: Site) -> None:
        client = await site.client()
        client.send(get() + get(target="/2") + b"GET\r\n\r\n")
        await until(lambda: bool(site.open))
        for body in (b"1", b"2"):
            await until(lambda: bool(site.open))
            site.open.pop().send(Response(200, "", body))
        assert [(await client.answer())[2] for _ in range(2)] == [b"1", b"2"]
        assert await client.is_closed()

    Site(lambda *_: None).run(story)


def test_last_request__with_more_behind_it__answered_once() -> None:
    async def story(site: Site) -> None:
        for raw in (get("Connection: close"), get(version="1.0"), get("Content-Length: 9999999", method="POST")):
            client = await site.client()
            client.send(raw + get("Content-Length: 9999999", method="POST") + b"abc")
            await client.answer()
            assert await client.is_closed()

    Site().run(story)


def test_pipeline__longer_than_a_head_may_be__answered() -> None:
    async def story(site: Site) -> None:
        client = await site.client()
        raw = get("x: " + "y" * 300) * 250
        client.send(raw[:-30])
        await asyncio.sleep(0.05)
        client.send(raw[-30:])
        assert {(await client.answer())[0] for _ in range(250)} == {200}

    Site().run(story)


def test_client__that_has_said_all__still_gets_its_answers() -> None:
    async def story(site: Site) -> None:
        client = await site.client()
        client.send(get() + get(target="/2"))
        client.writer.write_eof()
        for body in (b"1", b"2"):
            await until(lambda: bool(site.open))
            await asyncio.sleep(0.01)
            site.open.pop().send(Response(200, "", body))
            assert (await client.answer())[2] == body
        assert await client.is_closed()

    Site(lambda *_: None).run(story)


@pytest.mark.parametrize("begun", [b"", b"GE", b"GET /v1/recomm", get("x: y")[:-2]])
def test_client__that_ends_before_its_request_is_whole__forgotten(begun: bytes) -> None:
    async def story(site: Site) -> None:
        client = await site.client()
        client.send(begun)
        client.writer.write_eof()
        assert await client.is_closed()
        assert (site.asked, site.server.connections) == ([], set())

    Site().run(story)


def test_body__cut_short__said_so() -> None:
    async def story(site: Site) -> None:
        client = await site.client()
        client.send(get("Content-Length: 5", method="POST") + b"abc")
        client.writer.write_eof()
        assert (await client.answer())[2] == BODY_INCOMPLETE.body
        assert site.asked == []

    Site().run(story)


def test_client__gone_before_its_answer__the_answer_is_dropped() -> None:
    async def story(site: Site) -> None:
        client = await site.client()
        client.send(get())
        await until(lambda: bool(site.open))
        reset = client.writer.get_extra_info("socket")
        reset.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.writer.transport.abort()
        await until(lambda: not site.server.connections)
        site.open.pop().send(NO_ANSWER)
        await asyncio.sleep(0.01)
        assert len(site.asked) == 1

    Site(lambda *_: None).run(story)


def test_client__lost_while_answers_are_written__the_others_get_theirs() -> None:
    async def story(site: Site) -> None:
        clients = [await site.client() for _ in range(5)]
        for client in clients:
            client.send(get())
        await until(lambda: len(site.open) == 5)
        site.open[1].abort()
        for connection in site.open:
            connection.send(Response(200, "", BODY))
        answers = await asyncio.gather(*(client.answer() for client in clients), return_exceptions=True)
        assert [isinstance(answer, BaseException) for answer in answers].count(True) == 1

    Site(lambda *_: None).run(story)


def test_client__that_ends_in_the_same_turn__takes_no_answer_from_others() -> None:
    async def story(site: Site) -> None:
        ending, asking = await site.client(), await site.client()
        await until(lambda: len(site.server.connections) == 2)

        def served(client: Client) -> Connection:
            port = client.writer.get_extra_info("sockname")[1]
            every = {c._transport.get_extra_info("peername")[1]: c for c in site.server.connections if c._transport}
            return every[port]

        served(ending).eof_received()
        served(asking).data_received(get("Connection: close"))
        assert (await asking.answer())[2] == BODY

    Site().run(story)


# --- Bounds ---------------------------------------------------------------------------------------------------------


def test_body__late__said_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http11, "BODY_SECONDS", 0.05)

    async def story(site: Site) -> None:
        client = await site.client()
        client.send(get("Content-Length: 5", method="POST") + b"abc")
        assert (await client.answer())[2] == BODY_INCOMPLETE.body
        assert await client.is_closed()

    Site().run(story)


def test_head__late__closed_however_it_dribbles(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http11, "HEAD_SECONDS", 0.1)

    async def story(site: Site) -> None:
        client = await site.client()
        client.send(b"GET / HTTP/1.1\r\n")

        async def dribble() -> None:
            while True:
                client.send(b"x: y\r\n")
                await asyncio.sleep(0.01)

        dribbling = asyncio.create_task(dribble())
        assert await client.is_closed()
        dribbling.cancel()

    Site().run(story)


def test_idle__closed_after_a_while_but_not_while_it_waits_for_an_answer() -> None:
    async def story(site: Site) -> None:
        silent, waits, busy = [await site.client() for _ in range(3)]
        waits.send(get(target="/wait"))
        for _ in range(10):
            assert (await busy.ask(get()))[0] == 200
            await asyncio.sleep(0.08)
        assert silent.reader.at_eof() or await silent.is_closed()
        site.open.pop().send(NO_ANSWER)
        assert (await waits.answer())[0] == 503
        assert await waits.is_closed()

    site = Site(lambda path, _: None if path == "/wait" else Response(200, "", BODY))
    site.keep_alive_seconds = 0.5
    site.run(story)


def test_connections__more_than_there_may_be__told_so() -> None:
    async def story(site: Site) -> None:
        first, second = await site.client(), await site.client()
        assert (await first.ask(get()))[0] == (await second.ask(get()))[0] == 200
        third = await site.client()
        assert (await third.answer())[2] == OVER_CAPACITY.body
        assert await third.is_closed()
        first.writer.close()
        await until(lambda: len(site.server.connections) == 1)
        assert (await (await site.client()).ask(get()))[0] == 200

    Site(most_connections=2).run(story)


def test_client__that_reads_no_answers__asks_no_more_and_is_closed_in_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http11, "UNREAD_SECONDS", 0.3)
    large = Response(200, "", bytes(200_000))

    async def story(site: Site) -> None:
        client = site.client_that_reads_nothing()
        sent = 0
        while site.server.connections or not sent:
            with suppress(OSError):
                sent += client.send(get() * 50)
            await asyncio.sleep(0.001)
        # What fits into the socket's buffers, and what arrived with it in one piece.
        assert len(site.asked) < 5_000
        client.close()

    Site(lambda *_: large).run(story)


def test_client__that_reads_no_answers_and_asks_for_the_end__closed_all_the_same(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http11, "UNREAD_SECONDS", 0.3)
    # More than the kernel takes, and less than what makes it stop reading.
    answer = Response(200, "", bytes(30_000))

    async def story(site: Site) -> None:
        client = site.client_that_reads_nothing()
        await until(lambda: bool(site.server.connections))
        (connection,) = site.server.connections
        while not (transport := connection._transport) or not transport.get_write_buffer_size():
            client.send(get())
            await asyncio.sleep(0.001)
        client.send(get("Connection: close"))
        await until(lambda: not site.server.connections)
        assert not connection._is_held
        client.close()

    Site(lambda *_: answer).run(story)


def test_bodies__more_than_there_is_room_for__told_so_until_there_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http11, "MAX_BODIES_BYTES", 250_000)
    head = get("Content-Length: 100001", method="POST")

    async def story(site: Site) -> None:
        first, second, third = [await site.client() for _ in range(3)]
        for client in (first, second):
            client.send(head + bytes(100_000))
        await until(lambda: site.server.bodies_bytes == 200_000)
        assert (await third.ask(head + bytes(100_000)))[2] == OVER_CAPACITY.body
        assert (await first.ask(b"x"))[0] == 200
        second.writer.close()
        await until(lambda: site.server.bodies_bytes == 0)
        assert (await (await site.client()).ask(head + bytes(100_001)))[0] == 200

    Site().run(story)


def test_spellings_of_headers__are_kept_up_to_a_number_and_a_length() -> None:
    known = Spellings()
    for number in range(2000):
        assert known[b"x-%d" % number] is None
        assert known[b"y" * 1000] is None
    assert known[b"AuThOrIzAtIoN"] == known[b"authorization"] is not None
    assert len(known) <= 1024
    assert max(map(len, known)) <= 64


# --- The end --------------------------------------------------------------------------------------------------------


def test_finish__a_kept_connection_that_asks_once_more__answered_and_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "KEPT_SECONDS", 5.0)

    async def story(site: Site) -> None:
        client = await site.client()
        assert "connection" not in (await client.ask(get()))[1]
        finishing = asyncio.create_task(site.server.finish())
        await asyncio.sleep(0.1)
        assert not finishing.done()
        assert (await client.ask(get()))[1]["connection"] == "close"
        await finishing
        site.server.finish = _done  # type: ignore[method-assign]  # it has

    Site().run(story)


def test_finish__answers_what_was_asked_and_closes_the_rest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FINISH_SECONDS", 1.5)

    async def story(site: Site) -> None:
        idle, waits, begun, never = [await site.client() for _ in range(4)]
        waits.send(get())
        await until(lambda: len(site.open) == 1)
        never.send(get())
        begun.send(b"GET / HT")
        await until(lambda: len(site.open) == 2)
        finishing = asyncio.create_task(site.server.finish())
        await asyncio.sleep(0.01)
        begun.send(b"TP/1.1\r\nHost: x\r\n\r\n")
        await until(lambda: len(site.open) == 3)
        first, _, third = site.open
        first.send(Response(200, head_of(("x", "1")), BODY))
        third.send(Response(200, "", BODY))
        for client in (waits, begun):
            status, headers, body = await client.answer()
            assert (status, headers["connection"], body) == (200, "close", BODY)
            assert await client.is_closed()
        assert await idle.is_closed()
        await finishing
        assert await never.is_closed()
        with pytest.raises(OSError, match=r"refused|reset|Connect call failed"):
            await site.client()
        site.server.finish = _done  # type: ignore[method-assign]  # it has

    Site(lambda *_: None).run(story)


async def _done() -> None:
    """Do nothing."""


def test_https__a_refusal_and_an_answer_arrive(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(certificate, key)
    trusted = ssl.create_default_context(cafile=certificate)

    async def story(site: Site) -> None:
        for raw, expected in ((get(), 200), (b"GET\r\n\r\n", 400)):
            client = await site.client()
            assert (await client.ask(raw))[0] == expected
            if expected == 400:
                assert await client.is_closed()

    Site(tls=tls, trusted=trusted).run(story)


def test_request_id__of_each_request__comes_back_with_its_own_error_alone() -> None:
    async def story(site: Site) -> None:
        client = await site.client()
        client.send(get("X-Request-ID: a-1") + get("x-request-id: B_2 ") + get() + get("X-Request-ID: b c"))
        given = [(await client.answer())[1].get("x-request-id") for _ in range(4)]
        assert given == ["a-1", "B_2", None, None]
        site.answer = lambda _path, _request: Response(200, "", BODY)
        assert "x-request-id" not in (await client.ask(get("X-Request-ID: a-1")))[1]
        too_large = get(f"Content-Length: {MAX_BODY_BYTES + 1}", "X-Request-ID: a-3", method="POST")
        status, headers, _ = await client.ask(too_large)
        assert (status, headers["x-request-id"]) == (413, "a-3")

    Site(answer=lambda _path, _request: NO_ANSWER).run(story)


def test_traces__of_one_in_three__answers_are_the_same_and_each_span_has_its_own(settings: Settings) -> None:
    with otlp_receiver() as receiver:
        settings.OTLP_ENDPOINT = receiver.url
        tracing._started.cache_clear()
        site = Site(answer=lambda _path, request: NO_ANSWER if request.query else Response(200, "x: y\r\n", BODY))
        handle = site.handle

        async def story(site: Site) -> None:
            site.server.handle = sampled(handle, 3)
            client = await site.client()
            requests = [get(target=f"{PATH}?{'q' if number == 3 else ''}") for number in range(7)]
            client.send(b"".join(requests[:5]))
            answers = [await client.answer() for _ in range(5)]
            answers += [await client.ask(request) for request in requests[5:]]
            await client.ask(get(target="/readyz"))
            assert [status for status, _, _ in answers] == [200] * 3 + [503] + [200] * 3

        site.run(story)
        eventually(lambda: len(receiver.spans) == 3)
        assert [span.attributes["http.response.status_code"] for span in receiver.spans] == [200, 503, 200]
        assert [span.attributes.get("error.type") for span in receiver.spans] == [None, "unavailable", None]
        assert "player" not in receiver.text
        tracing._started.cache_clear()
