"""Whatever goes wrong below /api/ is a problem document with a stable code."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as project_settings
from django.db import IntegrityError, OperationalError
from django.test import Client

from recsite.api.problems import Kind
from tenants.models import User
from tests.factories import LAYOUT, UserFactory
from tests.integration.api_client import Answered, ApiClient

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

MODEL: dict[str, Any] = {"slug": "offers", "name": "Offers", "key_fields": ["player_id"], "layout": LAYOUT}


@pytest.mark.parametrize(
    "path",
    [
        "/api/v1",
        "/api/v1/",
        "/api/v1/models/",
        "/api/v1/nothing",
        "/api/v2/models",
        "/api/v1/models/offers/",
        "/api/v1/models/b%00d",
        "/api/v1/models/bäd",
        "/api/v1/models/offers/versions/..",
        "/api/v1/models/offers/versions/v1/loads/x",
        "/api/v1/models/offers/versions/v1/loads/99999999999999999999999",
        "/api/v1/members/b%00d",
        "/api/v1/members/" + "x" * 151,
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_address__that_is_none__is_a_404_problem(api: ApiClient, method: str, path: str) -> None:
    assert (answer := api.ask(method, path)).status == 404
    assert answer.code == "not_found"


@pytest.mark.parametrize("method", ["PUT", "OPTIONS", "TRACE", "PROPFIND", "DELETE"])
def test_method__that_is_none__is_a_405_problem_with_allow(api: ApiClient, method: str) -> None:
    answer = api.ask(method, "models")

    assert (answer.status, answer.code) == (405, "method_not_allowed")
    assert answer.headers["Allow"] == "GET, HEAD, POST"


def test_method__of_nobody__is_a_401_first() -> None:
    assert ApiClient().ask("PUT", "models").code == "unauthenticated"


def test_head__answers_as_get_without_a_body(api: ApiClient) -> None:
    answer = api.ask("HEAD", "models")

    assert (answer.status, answer.body) == (200, None)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"\xff\xfe",
        b'{"slug": "a", "slug": "b"}',
        b'{"name": NaN}',
        b'{"name": 1e999}',
        b'{"name": "a\\u0000b"}',
        b'{"name": "\\ud800"}',
        b'{"na\\u0000me": 1}',
        b'{"name": ' + b"9" * 5000 + b"}",
        b'{"name": 9007199254740993}',
        b"[" * 100_000,
        b'{"name": ' + b"[" * 40 + b"]" * 40 + b"}",
        b'{"a": ' * 2000 + b"1" + b"}" * 2000,
    ],
)
def test_body__no_json_that_all_understand_alike__is_a_400(api: ApiClient, body: bytes) -> None:
    answer = api.ask("POST", "models", body)

    assert answer.status == 400
    assert answer.code == ("malformed" if body else "invalid")


@pytest.mark.parametrize("body", [[], "text", 5, True, None])
def test_body__no_object__is_invalid(api: ApiClient, body: Any) -> None:
    answer = api.ask("POST", "models", json.dumps(body).encode())

    assert (answer.status, answer.code) == (400, "invalid")


@pytest.mark.parametrize(
    "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", "x"]
)
def test_body__not_said_to_be_json__is_a_415(api: ApiClient, content_type: str) -> None:
    answer = api.ask("POST", "models", b'{"slug": "offers"}', content_type=content_type)

    assert (answer.status, answer.code) == (415, "unsupported_media_type")


def test_body__too_large__is_a_413(api: ApiClient) -> None:
    size = project_settings.DATA_UPLOAD_MAX_MEMORY_SIZE
    assert size is not None
    answer = api.ask("POST", "models", b'{"name": "' + b"x" * size + b'"}')

    assert (answer.status, answer.code) == (413, "body_too_large")


def test_body__without_its_length__is_a_411(api: ApiClient) -> None:
    answer = api.ask("POST", "models", b"", headers={"Transfer-Encoding": "chunked"})

    assert (answer.status, answer.code) == (411, "length_required")


def test_fields__several_wrong__are_all_named(api: ApiClient) -> None:
    body = {
        "slug": 5,
        "key_fields": ["player_id", 7],
        "layout": [{"name": "a", "type": "bool"}, {"name": "b", "type": "float"}],
        "nonsense": 1,
    }

    answer = api.post("models", body)

    assert (answer.status, answer.code) == (400, "invalid")
    assert sorted(answer.fields) == ["key_fields.1", "layout.1.type", "name", "nonsense", "slug"]
    assert all(error["detail"] for error in answer.body["errors"])


def test_rule__broken__is_a_422_that_names_the_field(api: ApiClient) -> None:
    answer = api.post("models", {**MODEL, "unit_field": "somebody"})

    assert (answer.status, answer.code, answer.fields) == (422, "refused", ["unit_field"])
    assert answer.body["detail"] == answer.body["errors"][0]["detail"]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=201", "limit"),
        ("limit=ten", "limit"),
        ("limit=5&limit=6", "limit"),
        ("limit=٣", "limit"),
        ("cursor=nonsense", "cursor"),
        ("cursor=", "cursor"),
        ("cursor=WzFd", "cursor"),  # [1], where a text is expected
        ("cursor=WyIA4Il0", "cursor"),
        ("cursor=bnVsbA", "cursor"),
        ("colour=red", "colour"),
        ("limit=5%00", ""),
    ],
)
def test_parameter__wrong__is_invalid_and_named(api: ApiClient, query: str, field: str) -> None:
    answer = api.get(f"models?{query}")

    assert (answer.status, answer.code) == (400, "invalid")
    assert answer.fields == [field]


def test_parameter__of_an_act_that_takes_a_body__is_invalid_and_named(api: ApiClient) -> None:
    answer = api.post("models/offers/rollout/reweight?despite_cautions=false", {"weights_bp": {"A": 10_000}})
    assert (answer.status, answer.code, answer.fields) == (400, "invalid", ["despite_cautions"])


@pytest.mark.parametrize(
    "since",
    ["yesterday", "2026-11-01", "2026-11-01T10:00:00", "9999-12-31T23:59:59-23:59", "0001-01-01T00:00:00%2B23:59"],
)
def test_instant__unclear_or_out_of_this_world__is_invalid(api: ApiClient, since: str) -> None:
    answer = api.get(f"loads?since={since}")

    assert (answer.status, answer.code, answer.fields) == (400, "invalid", ["since"])


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [(OperationalError("gone away"), 503, "unavailable"), (IntegrityError("twice"), 409, "conflict")],
)
def test_database__fails__is_no_500(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, code: str
) -> None:
    def fail(**_: Any) -> None:
        raise error

    # A database that fails within a request cannot be had otherwise without losing the test's own.
    monkeypatch.setattr("recsite.api.operations.catalogue.model_create", fail)
    answer = api.post("models", MODEL)

    assert (answer.status, answer.code) == (status, code)
    assert ("Retry-After" in answer.headers) == (status == 503)


def test_mistake_of_ours__below_api__is_a_problem_and_elsewhere_a_page(
    api: ApiClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise ZeroDivisionError

    # There is no known way to make a view fail so.
    monkeypatch.setattr("recsite.api.operations.catalogue.model_create", fail)
    monkeypatch.setattr("recsite.dashboard.pages.home.studios_of", fail)
    api._client.raise_request_exception = False
    answer = api.post("models", MODEL)
    person = Client(raise_request_exception=False)
    person.force_login(UserFactory.create())
    page = person.get("/")

    assert (answer.status, answer.code) == (500, "internal_error")
    assert "ZeroDivision" not in str(answer.body)
    assert (page.status_code, page["Content-Type"].partition(";")[0]) == (500, "text/html")


def test_host__foreign__is_a_problem_below_api_and_elsewhere_a_page(db: None) -> None:
    below = Client().get("/api/v1/models", headers={"Host": "evil.example"})
    page = Client().get("/", headers={"Host": "evil.example"})

    assert (below.status_code, below.json()["code"]) == (400, "malformed")
    assert (page.status_code, page["Content-Type"].partition(";")[0]) == (400, "text/html")


def test_accept__anything__is_answered_in_json(api: ApiClient) -> None:
    answer = api.get("studio", Accept="text/html")

    assert answer.status == 200
    assert answer.headers["Content-Type"] == "application/json"


def test_codes__all_of_them__are_in_the_documentation() -> None:
    text = (Path(__file__).parents[2] / "docs" / "api.md").read_text()
    documented = dict(re.findall(r"^\| `(\w+)` \| (\d+) \|", text, flags=re.MULTILINE))

    assert documented == {kind.code: str(kind.status) for kind in Kind}


def test_page_of_a_person_without_studio__still_a_problem_document(db: None) -> None:
    answer = Client().get("/api/v1/models")

    assert Answered(answer.status_code, answer.json(), dict(answer.items())).code == "unauthenticated"


def test_sign_in__not_needed_to_learn_that_an_address_is_none(owner: User) -> None:
    assert ApiClient().get("/api/v1/nothing").code == "not_found"
