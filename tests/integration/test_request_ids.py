"""Each request to the dashboard's process has an id: in its answer, in its lines of the log, in what it asks for."""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
from celery import current_app
from django.test import Client

from recsite.logs import Bounded, JsonLines

MADE_HERE = re.compile(r"[0-9a-f]{32}")


class Lines:
    """What Django logs of requests, as JSON."""

    def __init__(self) -> None:
        self.stream = io.StringIO()
        self.handler = Bounded()
        self.handler.setStream(self.stream)
        self.handler.setFormatter(JsonLines())

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]


@pytest.fixture
def lines() -> Iterator[Lines]:
    made, logger = Lines(), logging.getLogger("django.request")
    logger.addHandler(made.handler)
    yield made
    logger.removeHandler(made.handler)
    made.handler.close()


def test_request__with_an_id__has_it_in_its_answer_and_its_lines(lines: Lines) -> None:
    response = Client().get("/nowhere", headers={"X-Request-ID": "A-1._z"})
    assert response.headers["X-Request-ID"] == "A-1._z"
    (line,) = lines.all()
    assert (line["message"], line["request_id"]) == ("Not Found: no address of ours", "A-1._z")
    logging.getLogger("django.request").warning("something else")
    assert "request_id" not in lines.all()[-1]


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 65, "a\nb", "ä", "<script>"])
def test_request__with_no_id_that_could_be_one__gets_another_each_time(given: str | None, lines: Lines) -> None:
    headers = {} if given is None else {"X-Request-ID": given}
    own = [Client().get("/nowhere", headers=headers).headers["X-Request-ID"] for _ in range(2)]
    assert own[0] != own[1]
    assert all(map(MADE_HERE.fullmatch, own))
    assert [line["request_id"] for line in lines.all()] == own


@pytest.mark.django_db
def test_refusal__of_a_path_with_a_players_id__is_logged_by_its_route(lines: Lines) -> None:
    Client().delete("/api/v1/models/ana/overrides")
    Client().get("/v1/ana")
    (of_api, of_serving) = [line["message"] for line in lines.all()]
    assert of_api.startswith("Unauthorized: /api/v1/models/(?P<model>")
    assert "v1/" in of_serving
    assert "ana" not in of_api + of_serving


def test_answers_of_serving__have_an_id_as_the_lanes_have(client: Client) -> None:
    headers = {"X-Request-ID": "A-1._z"}
    assert client.get("/v1/recommendations", headers=headers).headers["X-Request-ID"] == "A-1._z"
    assert "X-Request-ID" not in client.get("/v1/recommendations").headers
    assert "X-Request-ID" not in client.get("/healthz", headers=headers).headers


def test_task__sent_while_nobody_asks__is_named_by_itself() -> None:
    with patch("kombu.messaging.Producer.publish") as publish:
        sent = current_app.send_task("publishing.republish", connection=current_app.connection("memory://"))
    assert publish.call_args.kwargs["headers"]["x-request-id"] == sent.id
