"""The lane's application, called as granian calls it: what it makes of a request, and that nothing escapes it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from serving import lane
from serving.http import MAX_BODY_BYTES, NO_ANSWER, Request, Response
from serving.lane import Lane, Options


class Headers:
    def __init__(self, *pairs: tuple[str, str]) -> None:
        self.pairs = pairs

    def __contains__(self, name: str) -> bool:
        return any(given == name for given, _ in self.pairs)

    def get_all(self, name: str) -> list[str]:
        return [value for given, value in self.pairs if given == name]


class Scope:
    headers: lane.Headers

    def __init__(
        self, *headers: tuple[str, str], method: str = "GET", path: str = "/v1/recommendations", query: str = ""
    ) -> None:
        self.method = method
        self.path = path
        self.query_string = query
        self.headers = Headers(*headers)


class Transport:
    """Where a response goes, and where the body is from."""

    def __init__(self, *chunks: bytes, is_stuck: bool = False) -> None:
        self.chunks = chunks
        self.is_stuck = is_stuck
        self.is_let_go = asyncio.Event()
        self.sent: tuple[int, dict[str, str], bytes] | None = None

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for chunk in self.chunks:
            yield chunk
        if self.is_stuck:
            await self.is_let_go.wait()

    def response_empty(self, status: int, headers: list[tuple[str, str]]) -> None:
        self.sent = (status, dict(headers), b"")

    def response_bytes(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
        self.sent = (status, dict(headers), body)


@pytest.fixture
def application(tmp_path: Path) -> Lane:
    """Give a lane that was not started: it knows nobody, and has no Redis."""
    return Lane(Options(0, tmp_path, os.getppid(), 1))


@dataclass
class Asked:
    scope: lane.Scope
    proto: lane.Transport


async def handled(application: Lane, scope: Scope, transport: Transport) -> None:
    """Let a lane handle a request, in one thread instead of two."""
    application._loop = asyncio.get_running_loop()
    application.handle(Asked(scope, transport))
    async with asyncio.timeout(20):
        while transport.sent is None:  # noqa: ASYNC110  # granian's transport has no event either
            await asyncio.sleep(0.001)


def answer(application: Lane, scope: Scope, transport: Transport | None = None) -> tuple[int, dict[str, str], bytes]:
    transport = transport or Transport()
    asyncio.run(handled(application, scope, transport))
    assert transport.sent is not None
    return transport.sent


@pytest.fixture
def asked(application: Lane, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Request]:
    """Give what the engine is asked when granian gives the lane something."""
    requests: list[Request] = []

    def begin(request: Request, *_: object) -> Response:
        requests.append(request)
        return NO_ANSWER

    monkeypatch.setattr(lane, "begin", begin)

    def ask(scope: Scope, *chunks: bytes) -> Request:
        answer(application, scope, Transport(*chunks))
        return requests[-1]

    return ask


def test_headers__absent_single_and_several_times__as_wsgi_has_them(asked: Callable[..., Request]) -> None:
    assert asked(Scope()) == Request("GET", "", None, None, None, None, b"")
    request = asked(
        Scope(
            ("authorization", "Bearer a"),
            ("accept", "x"),
            ("authorization", "Bearer b"),
            ("if-none-match", '"1"'),
            ("content-type", "first"),
            ("accept", "y"),
            ("content-type", "second"),
        )
    )
    assert request == Request("GET", "", "Bearer a,Bearer b", "x,y", '"1"', "first", b"")
    assert asked(Scope(("accept", ""))).accept == ""


def test_query__bytes_beyond_ascii__as_wsgi_has_them(asked: Callable[..., Request]) -> None:
    assert asked(Scope(query="a=%C3%A9+%2B&b=é")).query == "a=%C3%A9+%2B&b=Ã©"


def test_body__in_pieces__is_put_together_for_a_post_alone(asked: Callable[..., Request]) -> None:
    assert asked(Scope(method="POST"), b"ab", b"", b"c").body == b"abc"
    assert asked(Scope(("content-length", "3"), method="POST"), b"ab", b"c").body == b"abc"
    assert asked(Scope(method="PUT"), b"abc").body == b""


@pytest.mark.parametrize(
    ("scope", "transport", "expected"),
    [
        (Scope(("content-length", str(MAX_BODY_BYTES + 1)), method="POST"), Transport(is_stuck=True), 413),
        (Scope(method="POST"), Transport(bytes(MAX_BODY_BYTES), b"x"), 413),
        (Scope(("content-length", "5"), method="POST"), Transport(b"abc"), 400),
        (Scope(("content-length", "5"), method="POST"), Transport(b"abc", is_stuck=True), 400),
        (Scope(method="POST"), Transport(is_stuck=True), 400),
    ],
)
def test_body__too_large_cut_short_or_late__refused(
    application: Lane, monkeypatch: pytest.MonkeyPatch, scope: Scope, transport: Transport, expected: int
) -> None:
    monkeypatch.setattr(lane, "BODY_SECONDS", 0.05)
    status, headers, _ = answer(application, scope, transport)
    assert (status, headers["content-type"]) == (expected, "application/problem+json")


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/healthz", 200, None),
        ("/readyz", 503, "not_ready"),
        ("/", 404, "not_found"),
        ("/v1/recommendations/", 404, "not_found"),
        ("/metrics", 404, "not_found"),
        ("/V1/recommendations", 404, "not_found"),
    ],
)
def test_other_paths__alive_ready_or_nothing(application: Lane, path: str, status: int, code: str | None) -> None:
    given, _, body = answer(application, Scope(path=path))
    assert given == status
    assert code is None or json.loads(body)["code"] == code


def test_defect__503_counted_and_logged_without_what_was_asked(
    application: Lane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def begin(request: Request, *_: object) -> Response:
        raise KeyError(request.query, request.authorization)

    monkeypatch.setattr(lane, "begin", begin)
    scope = Scope(("authorization", "Bearer secret-token"), query="player_id=ana")
    with caplog.at_level(logging.DEBUG):
        statuses = [answer(application, scope)[0] for _ in range(5)]
    assert statuses == [503] * 5
    assert application._serving.numbers.unexpected_errors == 5
    assert application._front_numbers.requests == {503: 5}
    (message,) = [record.getMessage() for record in caplog.records if record.name == "serving.lane"]
    assert message.startswith("request.failed error=KeyError at='test_lane.py:")
    assert "ana" not in message
    assert "secret" not in message


def test_shared_responses__are_not_changed_by_sending_them(application: Lane) -> None:
    before = list(NO_ANSWER.headers)
    transport = Transport()
    lane.send(transport, NO_ANSWER)
    assert transport.sent is not None
    assert transport.sent[1]["server"] == ""
    assert NO_ANSWER.headers == before


def test_capacity__one_more_than_that_is_told_so_at_once(application: Lane) -> None:
    application._capacity = 3
    waiting = [Transport(is_stuck=True) for _ in range(3)]
    more = [Transport() for _ in range(2)]

    async def story() -> None:
        application._loop = asyncio.get_running_loop()
        # They count from when they are handed over, before the event loop has looked at any.
        for transport in waiting:
            application.handle(Asked(Scope(("content-length", "5"), method="POST"), transport))
        for transport in more:
            application.handle(Asked(Scope(), transport))
        assert [transport.sent is None for transport in (*waiting, *more)] == [True, True, True, False, False]
        for transport in waiting:
            transport.is_let_go.set()
        async with asyncio.timeout(20):
            while application._answered < 3:  # noqa: ASYNC110  # as above
                await asyncio.sleep(0.001)
        await handled(application, Scope(), after)

    after = Transport()
    asyncio.run(story())
    codes = [json.loads(transport.sent[2])["code"] for transport in (*waiting, *more, after) if transport.sent]
    assert codes == ["bad_request"] * 3 + ["over_capacity"] * 2 + ["not_ready"]
