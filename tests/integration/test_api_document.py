"""The OpenAPI document and the page that shows it: whole, with examples that work."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.test import Client
from django.urls import get_resolver

from recsite.api.described.document import document
from recsite.api.described.reference import METHODS, groups, with_code
from tenants.models import User
from tests.api.scene import (
    CLIENT_ID,
    MEMBER,
    MODEL,
    REJECTED_FENCE,
    RUNNING_FENCE,
    TOKEN_ID,
    UNIT,
    UNUSED_VERSION,
    VERSIONS,
    Scene,
    make_scene,
)
from tests.factories import TenantFactory
from tests.integration.api_client import ApiClient, token_client
from tests.integration.test_api_strangers import operations

NAMES = {
    "model": MODEL,
    "version": VERSIONS[1],
    "fence": "7",
    "revision": "0",
    "number": "3",
    "client_id": CLIENT_ID[0],
    "token": TOKEN_ID[0],
    "username": MEMBER,
}
TOLD = {
    told["operationId"]: (method.upper(), path, told)
    for path, methods in document()["paths"].items()
    for method, told in methods.items()
    if method in METHODS
}
OF_STUDIOS = [name for name, (_, _, told) in TOLD.items() if told["tags"] != ["Recommendations"]]


def content_of(told: dict[str, Any]) -> Any:
    """Return the example in a body or an answer, None without one."""
    examples = told.get("content", {}).get("application/json", {}).get("examples", {})
    return next((example["value"] for example in examples.values()), None)


def shape_of(value: Any) -> Any:
    """Return the names in an answer, those of a list's rows with it. What is null in an example may be anything."""
    if isinstance(value, dict) and "results" in value:
        return {"results": shape_of(value["results"][0]), "next_cursor": None}
    return set(value) if isinstance(value, dict) else None


# --- The document ---------------------------------------------------------------------------------------------------


def test_document__is_valid_and_made_without_a_warning(tmp_path: Any) -> None:
    path = tmp_path / "schema.yaml"

    call_command("spectacular", "--validate", "--fail-on-warn", "--file", str(path))

    assert set(yaml.safe_load(path.read_text())["paths"]) == set(document()["paths"])


def test_document__served__as_json_and_as_yaml() -> None:
    plain = Client().get("/api/schema/")
    as_yaml = Client().get("/api/schema/?format=yaml")

    assert plain["Content-Type"] == "application/json"
    assert plain.json()["openapi"].startswith("3.")
    assert yaml.safe_load(as_yaml.content) == plain.json()
    assert Client().post("/api/schema/").json()["code"] == "method_not_allowed"


def test_document__every_operation__is_there_once(db: None) -> None:
    assert len(OF_STUDIOS) == len(list(operations()))
    assert {"tokens_mint", "recommendations_read", "recommendations_read_many"} < set(TOLD)
    assert "/v1/recommendations" in document()["paths"]


@pytest.mark.parametrize("name", TOLD)
def test_document__every_operation__has_words_and_examples(name: str) -> None:
    _, _, told = TOLD[name]

    assert told["summary"]
    assert told["tags"]
    success = min(status for status in told["responses"] if status.startswith("2"))
    if success != "204":
        assert content_of(told["responses"][success]) is not None
    body = told.get("requestBody")
    if body:
        assert content_of(body) is not None
    for parameter in told.get("parameters", []):
        assert parameter["description"] or parameter["name"] in ("role", "state", "kind", "ETag"), parameter


@pytest.fixture(scope="module")
def made_scene(made_once: Callable[[Callable[[], Scene]], Scene], tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("sources")
    return made_once(lambda: make_scene(str(folder)))


@pytest.fixture
def scene(made_scene: Scene, db: None, valkey: object, celery_queue: object) -> Scene:
    return deepcopy(made_scene)


@pytest.mark.parametrize("name", OF_STUDIOS)
def test_example__sent_as_it_is__works_and_is_answered_like_its_example(scene: Scene, name: str) -> None:
    method, path, told = TOLD[name]
    client = ApiClient(token=scene.token)
    if name.startswith("automation_tokens") or name == "members_make_password_link":
        client = ApiClient(person=scene.admin)
    elif name == "models_create":
        client = token_client(TenantFactory.create())
    query = f"?unit={UNIT}" if name == "overrides_remove" else ""
    fences = {"version_loads_activate_anyway": REJECTED_FENCE, "version_loads_cancel": RUNNING_FENCE}
    version = UNUSED_VERSION if name == "versions_archive" else NAMES["version"]
    names = {**NAMES, "version": version, "fence": str(fences.get(name, NAMES["fence"]))}

    answer = client.ask(method, path.format(**names) + query, content_of(told.get("requestBody", {})))

    success = min(status for status in told["responses"] if status.startswith("2"))
    assert str(answer.status) == success, answer
    assert shape_of(answer.body) == shape_of(content_of(told["responses"][success]))


# --- The page -------------------------------------------------------------------------------------------------------


def test_page__read_by_anybody__shows_every_operation_and_no_form(db: None) -> None:
    response = Client().get("/api/")

    assert response.status_code == 200
    text = response.content.decode()
    for name, (_, path, told) in TOLD.items():
        assert f'id="{name}"' in text
        assert path in text
        assert told["summary"].split("'")[0] in text
    assert "<form" not in text


def test_page__strict_policy__has_nothing_inline(owner: User) -> None:
    browser = Client()
    browser.force_login(owner)
    response = browser.get("/api/")

    policy = response["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    text = response.content.decode()
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", text)
    assert not re.search(r"(?:src|href)=\"(?:https?:)?//", text)


def test_page__signed_in__offers_forms_for_the_studios_operations(owner: User, studio: Any) -> None:
    browser = Client()
    browser.force_login(owner)

    response = browser.get("/api/")

    text = response.content.decode()
    assert text.count("<form") == len(OF_STUDIOS)
    assert f'value="{studio.slug}"' in text
    assert "csrftoken" in response.cookies


def test_page__commands__are_whole() -> None:
    for group in groups("https://recsite.example"):
        for operation in group.operations:
            assert "{" not in operation.command.partition("-d ")[0]
            body = operation.command.partition("-d '")[2]
            if body:
                json.loads(body.removesuffix("'").replace("'\\''", "'"))


def test_description__with_markup__is_escaped() -> None:
    assert with_code("a `<b>` <c>") == "a <code>&lt;b&gt;</code> &lt;c&gt;"


def test_resolver__knows_the_page_and_the_document() -> None:
    names = {route.name for route in get_resolver("recsite.api.urls").url_patterns if hasattr(route, "name")}

    assert {"api-reference", "api-schema"} <= names
