from __future__ import annotations

import base64
import time
from datetime import timedelta
from typing import Any
from urllib.parse import quote_plus, urlencode

import pytest
from django.conf import settings
from django.db import OperationalError
from django.test import Client
from django.utils import timezone

from recsite.api import token
from serving.formats import tokens
from tenants.credentials import credential_issue, credential_revoke, credential_rotate
from tenants.models import Credential, Tenant
from tests.factories import SECRET, CredentialFactory, ModelFactory

pytestmark = pytest.mark.django_db

URL = "/api/v1/token"
FORM = "application/x-www-form-urlencoded"


@pytest.fixture
def credential(studio: Tenant) -> Credential:
    ModelFactory.create(tenant=studio, slug="offers")
    ModelFactory.create(tenant=studio, slug="difficulty")
    return CredentialFactory.create(tenant=studio)


@pytest.fixture
def web() -> Client:
    return Client(raise_request_exception=True)


def post_json(web: Client, body: Any, **headers: str) -> Any:
    return web.post(URL, body, content_type="application/json", headers=headers)


def post_form(web: Client, fields: list[tuple[str, str]], **headers: str) -> Any:
    return web.post(URL, urlencode(fields), content_type=FORM, headers=headers)


def of(credential: Credential, **more: Any) -> dict[str, Any]:
    return {"client_id": credential.client_id, "client_secret": SECRET, **more}


def form_of(credential: Credential, *more: tuple[str, str]) -> list[tuple[str, str]]:
    return [("grant_type", "client_credentials"), *of(credential).items(), *more]


def basic(client_id: str, secret: str) -> str:
    return "Basic " + base64.b64encode(f"{quote_plus(client_id)}:{quote_plus(secret)}".encode()).decode()


def claims_of(answer: Any, credential: Credential, generation: int = 1) -> tokens.Claims:
    body = answer.json()
    token = body["access_token"].encode()
    master_key_id, master_key = next(iter(tokens.parse_master_keys(settings.TOKEN_MASTER_KEYS).items()))
    header = tokens.header_segment(credential.client_id, generation, master_key_id)
    assert token.startswith(header + b".")
    key = tokens.derive_key(master_key, master_key_id, credential.client_id, generation)
    return tokens.check_claims(
        tokens.check_hs256(token, len(header), tokens.hmac_of(key)),
        now=time.time(),
        audience=settings.TOKEN_AUDIENCE,
        issuer=settings.TOKEN_ISSUER,
        tenant_slug=credential.tenant.slug,
    )


def assert_refused(answer: Any, status: int, code: str, error: str | None = None) -> None:
    body = answer.json()
    assert (answer.status_code, body["status"], body["code"], body["error"]) == (status, status, code, error or code)
    assert answer["Content-Type"] == "application/problem+json"
    assert answer["Cache-Control"] == "no-store"
    assert body["title"]
    assert body["detail"] == body["error_description"]


# --- What is answered -----------------------------------------------------------------------------------------------


def test_token__json_with_everything__is_a_token_for_that_player(web: Client, credential: Credential) -> None:
    answer = post_json(web, of(credential, sub="p1", models=["offers"], expires_in=60))
    body = answer.json()
    assert answer.status_code == 200
    assert answer["Content-Type"] == "application/json"
    assert (answer["Cache-Control"], answer["Pragma"]) == ("no-store", "no-cache")
    assert sorted(body) == ["access_token", "expires_in", "token_type"]
    assert (body["token_type"], body["expires_in"]) == ("Bearer", 60)
    claims = claims_of(answer, credential)
    assert (claims.subject, claims.models) == ("p1", ("offers",))


def test_token__json_with_the_least__is_a_server_token_for_15_minutes(web: Client, credential: Credential) -> None:
    answer = post_json(web, of(credential, sub=None, models=None, expires_in=None, unknown_parameter=1))
    assert answer.json()["expires_in"] == 900
    claims = claims_of(answer, credential)
    assert (claims.subject, claims.models) == (None, None)


def test_token__form_of_rfc_6749__is_a_token(web: Client, credential: Credential) -> None:
    more = [("sub", "p1"), ("models", "offers difficulty"), ("expires_in", "60"), ("unknown", "x")]
    answer = post_form(web, form_of(credential, *more))
    claims = claims_of(answer, credential)
    assert (claims.subject, claims.models) == ("p1", ("offers", "difficulty"))
    assert answer.json()["expires_in"] == 60


def test_token__form_with_scope_and_empty_values__reads_scope_as_models(web: Client, credential: Credential) -> None:
    answer = post_form(web, form_of(credential, ("scope", "offers"), ("sub", ""), ("models", "")))
    assert claims_of(answer, credential).models == ("offers",)


@pytest.mark.parametrize("content_type", ["application/json", FORM])
def test_token__client_by_http_basic__is_a_token(web: Client, credential: Credential, content_type: str) -> None:
    body = "{}" if content_type == "application/json" else "grant_type=client_credentials"
    headers = {"Authorization": basic(credential.client_id, SECRET)}
    answer = web.post(URL, body, content_type=content_type, headers=headers)
    claims_of(answer, credential)


def test_token__whatever_is_accepted__json_is_answered(web: Client, credential: Credential) -> None:
    answer = post_json(web, of(credential), Accept="text/html")
    assert (answer.status_code, answer["Content-Type"]) == (200, "application/json")


def test_token__secret_that_was_rotated_out__mints_with_its_own_generation(web: Client, studio: Tenant) -> None:
    first = credential_issue(tenant=studio, name="Android", actor=None)
    until = timezone.now() + timedelta(hours=1)
    second = credential_rotate(credential=first.credential, actor=None, previous_until=until)
    client_id = first.credential.client_id
    for issued, generation in ((first, 1), (second, 2)):
        answer = post_json(web, {"client_id": client_id, "client_secret": issued.secret})
        claims_of(answer, first.credential, generation)


# --- What is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "proof",
    [
        {"client_secret": "rsk_wrong"},
        {"client_secret": ""},
        {"client_id": "cr_nobody"},
        {"client_id": "a\0b"},
        {"client_id": "\ud800"},
        {"client_secret": "\ud800"},
        {"client_id": None},
        {"client_secret": None},
    ],
)
def test_token__client_that_is_not_proved__is_401_and_nothing_more(
    web: Client, credential: Credential, proof: dict[str, Any]
) -> None:
    answer = post_json(web, of(credential, **proof))
    assert_refused(answer, 401, "invalid_client")
    assert answer["WWW-Authenticate"].startswith("Basic ")


def test_token__unknown_wrong_and_revoked__are_answered_alike(web: Client, credential: Credential) -> None:
    revoked = CredentialFactory.create(tenant=credential.tenant)
    credential_revoke(credential=revoked, actor=None, reason="")
    named = {"X-Request-ID": "one-for-all"}  # which each would get another of
    answers = [
        post_json(web, of(credential, client_secret="rsk_wrong"), **named),
        post_json(web, of(credential, client_id="cr_nobody"), **named),
        post_json(web, of(revoked), **named),
    ]
    assert len({(a.status_code, a.content, tuple(sorted(a.items()))) for a in answers}) == 1


@pytest.mark.parametrize("header", ["Basic", "Basic !!!", "Basic /w==", "Basic " + base64.b64encode(b"x").decode()])
def test_token__basic_that_cannot_be_read__is_401(web: Client, header: str) -> None:
    assert_refused(post_json(web, {}, Authorization=header), 401, "invalid_client")


def test_token__client_proved_twice__is_400(web: Client, credential: Credential) -> None:
    header = basic(credential.client_id, SECRET)
    assert_refused(post_json(web, of(credential), Authorization=header), 400, "invalid_request")
    assert_refused(post_json(web, {"client_id": "other"}, Authorization=header), 400, "invalid_request")


@pytest.mark.parametrize(
    "more",
    [
        {"sub": 7},
        {"sub": ""},
        {"sub": "a\nb"},
        {"sub": "x" * 257},
        {"sub": "\ud800"},
        {"models": "offers"},
        {"models": [1]},
        {"models": {"offers": 1}},
        {"expires_in": 0},
        {"expires_in": 901},
        {"expires_in": "60"},
        {"expires_in": 60.5},
        {"expires_in": True},
        {"expires_in": 10**30},
        {"grant_type": 1},
        {"client_id": 7},
        {"client_secret": ["x"]},
    ],
)
def test_token__field_that_will_not_do__is_400(web: Client, credential: Credential, more: dict[str, Any]) -> None:
    assert_refused(post_json(web, of(credential, **more)), 400, "invalid_request")


@pytest.mark.parametrize("models", [["nothing"], ["offers", "foreign"], []])
def test_token__model_it_may_not_ask_for__is_invalid_scope(
    web: Client, credential: Credential, models: list[str]
) -> None:
    ModelFactory.create(slug="foreign")
    assert_refused(post_json(web, of(credential, models=models)), 400, "invalid_scope")


@pytest.mark.parametrize(
    "body", ["", "[]", "7", '"x"', "null", "{", "[" * 8000, '{"expires_in": 1e999}', "\xff", "NaN"]
)
def test_token__body_that_is_no_json_object__is_refused_and_no_500(web: Client, body: str) -> None:
    answer = web.post(URL, body.encode("latin-1"), content_type="application/json")
    assert answer.status_code in {400, 401}
    assert answer["Content-Type"] == "application/problem+json"


@pytest.mark.parametrize("charset", ["nonsense", "bz2_codec", "utf-16"])
@pytest.mark.parametrize("content_type", ["application/json", FORM])
def test_token__charset_that_does_not_fit__is_refused_and_no_500(web: Client, charset: str, content_type: str) -> None:
    answer = web.generic("POST", URL, b'{"client_id": "x"}', content_type=f"{content_type}; charset={charset}")
    assert answer.status_code in {400, 401}
    assert answer["Content-Type"] == "application/problem+json"


def test_token__grant_type_missing_or_another__is_refused(web: Client, credential: Credential) -> None:
    assert_refused(post_form(web, list(of(credential).items())), 400, "invalid_request")
    other = [("grant_type", "password"), *of(credential).items()]
    assert_refused(post_form(web, other), 400, "unsupported_grant_type")
    assert_refused(post_json(web, of(credential, grant_type="password")), 400, "unsupported_grant_type")


@pytest.mark.parametrize("more", [("client_id", "x"), ("expires_in", "sixty"), ("expires_in", "٣"), ("sub", "a\nb")])
def test_token__form_parameter_twice_or_malformed__is_400(
    web: Client, credential: Credential, more: tuple[str, str]
) -> None:
    assert_refused(post_form(web, form_of(credential, more)), 400, "invalid_request")


def test_token__secret_in_the_address__is_not_read(web: Client, credential: Credential) -> None:
    answer = web.post(f"{URL}?{urlencode(of(credential))}", {}, content_type="application/json")
    assert_refused(answer, 401, "invalid_client")


def test_token__body_too_large__is_413(web: Client, credential: Credential) -> None:
    assert_refused(post_json(web, of(credential, x="x" * 20_000)), 413, "body_too_large", "invalid_request")


def test_token__another_content_type__is_415(web: Client) -> None:
    answer = web.post(URL, b"<a/>", content_type="application/xml")
    assert_refused(answer, 415, "unsupported_media_type", "invalid_request")


@pytest.mark.parametrize("method", ["get", "put", "delete", "options", "patch"])
def test_token__another_method__is_405(web: Client, method: str) -> None:
    answer = getattr(web, method)(URL)
    assert_refused(answer, 405, "method_not_allowed", "invalid_request")
    assert answer["Allow"] == "POST"


def test_token__database_away__is_503_with_retry_after(
    web: Client, credential: Credential, monkeypatch: pytest.MonkeyPatch
) -> None:
    def away(*_: Any, **__: Any) -> None:
        raise OperationalError("server closed the connection")

    monkeypatch.setattr(token, "credential_authenticate", away)
    answer = post_json(web, of(credential))
    assert_refused(answer, 503, "unavailable", "temporarily_unavailable")
    assert answer["Retry-After"]


def test_token__refused_or_granted__no_secret_is_logged(
    web: Client, credential: Credential, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    token = post_json(web, of(credential)).json()["access_token"]
    post_json(web, of(credential, client_secret="rsk_wrong-one"))
    post_json(web, of(credential, client_id="line\nbreak"))
    assert "token.refused credential=malformed" in caplog.text
    for secret in (SECRET, "rsk_wrong-one", token):
        assert secret not in caplog.text
