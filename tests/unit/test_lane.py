"""The lane's application: what it answers to a request, and that nothing escapes it."""

from __future__ import annotations

import asyncio
import json
import logging
import os
from pathlib import Path

import msgspec
import pytest

from recsite.logs import TextLines
from serving.engine import Block
from serving.http import NO_ANSWER, PATH, Request, Response
from serving.lane import application as lane
from serving.lane.application import Lane, Options
from serving.lane.http11 import Connection
from serving.lane.server import HttpServer


class Client(Connection):
    """A connection that keeps its answers."""

    def __init__(self) -> None:
        super().__init__(HttpServer(lambda *_: None, lambda _: None, 1))
        self.answers: list[Response] = []

    def send(self, response: Response) -> None:
        self.answers.append(response)


@pytest.fixture
def application(tmp_path: Path) -> Lane:
    """Return a lane that was not started: it knows nobody, and has no Redis."""
    return Lane(Options(0, tmp_path, os.getppid(), 1, 100))


def get(*, authorization: str | None = None, query: str = "") -> Request:
    return Request("GET", query, authorization, None, None, None, b"")


def answer(application: Lane, request: Request, path: str = PATH) -> Response:
    async def asked() -> Response:
        client = Client()
        client.request_id = request.request_id
        application.handle(client, path, request)
        (response,) = client.answers
        return response

    return asyncio.run(asked())


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/healthz", 200, None),
        ("/readyz", 503, "not_ready"),
        ("/", 404, "not_found"),
        ("", 404, "not_found"),
        ("/v1/recommendations/", 404, "not_found"),
        ("/metrics", 404, "not_found"),
        ("/V1/recommendations", 404, "not_found"),
        (PATH, 503, "not_ready"),
    ],
)
def test_paths__the_endpoint_alive_ready_or_nothing(
    application: Lane, path: str, status: int, code: str | None
) -> None:
    given = answer(application, get(), path)
    assert given.status == status
    assert code is None or json.loads(given.body)["code"] == code


def test_defect__503_counted_and_logged_without_what_was_asked(
    application: Lane, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def begin(request: Request, *_: object) -> Response:
        raise KeyError(request.query, request.authorization)

    monkeypatch.setattr(lane, "begin", begin)
    request = msgspec.structs.replace(get(authorization="Bearer secret-token", query="player_id=ana"), request_id="r-1")
    caplog.handler.setFormatter(TextLines())
    with caplog.at_level(logging.DEBUG):
        answers = [answer(application, request) for _ in range(5)]
    assert answers == [NO_ANSWER] * 5
    assert application._serving.numbers.unexpected_errors == 5
    assert application._serving.numbers.requests == {503: 5}
    (message,) = [record.getMessage() for record in caplog.records if record.name == "serving.lane.application"]
    assert message.startswith("request.failed error=KeyError at='test_lane.py:")
    assert "ana" not in message
    assert "secret" not in message
    assert " request_id=r-1" in caplog.text


class _Waits:
    """A look-up that takes a block, and then that answer."""

    names = ("recsite:t:x:0",)

    def opened(self, _index: int, block: Block) -> Block:
        return block

    def resume(self, _blocks: object) -> Response:
        return Response(200, "", b"found")


def test_capacity__one_more_than_that_is_told_so_at_once(application: Lane, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lane, "begin", lambda *_: _Waits())
    application._capacity = 3

    async def story() -> list[list[Response]]:
        clients = [Client() for _ in range(5)]
        for client in clients:
            application.handle(client, PATH, get())
        assert [len(client.answers) for client in clients] == [0, 0, 0, 1, 1]
        after = Client()
        async with asyncio.timeout(20):
            # There is no Redis, which is found out at the end of this turn of the loop.
            while not clients[0].answers:  # noqa: ASYNC110  # nobody sets an event
                await asyncio.sleep(0.001)
        application.handle(after, PATH, get())
        assert application._waiting == 1
        return [client.answers for client in clients]

    answers = asyncio.run(story())
    assert [given.status for (given,) in answers] == [200] * 3 + [503] * 2
    assert json.loads(answers[3][0].body)["code"] == "over_capacity"
