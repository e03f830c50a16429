"""Credentials and automation tokens on the dashboard: shown once, limited, rotated with an overlap, revoked."""

from __future__ import annotations

import html
import logging
import re
from datetime import timedelta
from typing import Any

import pytest
import redis
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from django.contrib.sessions.models import Session
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from models_registry.catalogue.access import narrowed_to
from tenants.automation import automation_token_authenticate
from tenants.callers import NotAuthenticated, credential_authenticate
from tenants.models import Algorithm, AuditEntry, AutomationToken, Credential, CredentialKind, Tenant, User
from tests import factories
from tests.integration.dashboard_scene import Page, field_value, get, make_offers, post, signed_in

pytestmark = pytest.mark.django_db
NEW = {"name": "Android client, live", "reach": "all", "requests_per_second": "100", "burst": "200"}


@pytest.fixture
def admin(owner: User) -> Client:
    return signed_in(owner)


@pytest.fixture
def url(studio: Tenant) -> str:
    return f"/studios/{studio.slug}"


def secret_of(answer: Page, prefix: str = "rsk_") -> str:
    (secret,) = set(re.findall(rf"{prefix}[A-Za-z0-9_-]{{43}}", html.unescape(answer.html)))
    return str(secret)


def once(client: Client, url: str) -> str:
    return field_value(get(client, url).html, "once")


def own(studio: Tenant) -> Credential:
    return Credential.objects.for_tenant(studio).get()


def assert_kept_nowhere(client: Client, secret: str, urls: list[str]) -> None:
    assert all(secret not in str(session.get_decoded()) for session in Session.objects.all())
    assert all(secret not in cookie.value for cookie in client.cookies.values())
    assert all(
        secret not in f"{e.subject}{e.summary}{e.before}{e.after}" for e in AuditEntry.objects.unscoped().order_by("pk")
    )
    for address in urls:
        assert secret not in get(client, address).html, address


# --- Issuing ----------------------------------------------------------------------------------------------------------


def test_issue__shows_the_secret_once_and_nothing_keeps_it(
    admin: Client, studio: Tenant, owner: User, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    response = admin.post(f"{url}/new-credential", NEW)
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    page = Page(200, response.content.decode(), "", "")
    secret = secret_of(page)
    credential = own(studio)
    assert credential_authenticate(credential.client_id, secret).credential == credential
    assert (credential.name, credential.created_by, credential.burst) == ("Android client, live", owner, 200)
    assert secret not in caplog.text
    paths = ["credentials", f"credentials/{credential.client_id}", "new-credential", "models"]
    assert_kept_nowhere(admin, secret, [f"{url}/{path}" for path in paths])


def test_issue__narrowed__may_ask_for_those_models_alone(admin: Client, studio: Tenant, url: str) -> None:
    wanted = factories.ModelFactory.create(tenant=studio)
    factories.ModelFactory.create(tenant=studio)
    post(admin, f"{url}/new-credential", {**NEW, "reach": "chosen", "allowed_models": [wanted.slug]})
    assert list(narrowed_to(own(studio))) == [wanted]
    assert wanted.slug in get(admin, f"{url}/credentials").text


def test_issue__all_models_chosen__leaves_ticks_below_out(admin: Client, studio: Tenant, url: str) -> None:
    model = factories.ModelFactory.create(tenant=studio)
    post(admin, f"{url}/new-credential", {**NEW, "allowed_models": [model.slug]})
    assert not narrowed_to(own(studio)).exists()


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"name": ""}, "This field is required."),
        ({"burst": "0"}, "Enter a number from 1 to 1,000,000."),
        ({"requests_per_second": "x"}, "Enter a whole number."),
        ({"reach": "chosen"}, "Tick at least one model, or choose all models."),
        ({"reach": "chosen", "allowed_models": ["foreign"]}, "Choose one of the listed options."),
    ],
)
def test_issue__a_value_will_not_do__is_said_and_nothing_is_made(
    change: dict[str, Any], said: str, admin: Client, studio: Tenant, url: str
) -> None:
    factories.ModelFactory.create(tenant=studio)
    factories.ModelFactory.create(slug="foreign")
    answer = post(admin, f"{url}/new-credential", {**NEW, **change})
    assert answer.status == 422
    assert said in answer.text
    assert not Credential.objects.for_tenant(studio).exists()


def test_issue__the_same_form_twice__makes_one_and_leads_to_it(admin: Client, studio: Tenant, url: str) -> None:
    form = {**NEW, "once": once(admin, f"{url}/new-credential")}
    secret = secret_of(post(admin, f"{url}/new-credential", form))
    again = post(admin, f"{url}/new-credential", form)
    credential = own(studio)
    assert again.location == f"{url}/credentials/{credential.client_id}"
    assert "This form was sent before, and made this credential." in get(admin, again.location).text
    assert credential_authenticate(credential.client_id, secret).credential == credential
    # The next visit makes another one, and so does a key that nobody signed.
    post(admin, f"{url}/new-credential", {**NEW, "once": once(admin, f"{url}/new-credential")})
    post(admin, f"{url}/new-credential", {**NEW, "once": credential.client_id.removeprefix("cr_")})
    assert Credential.objects.for_tenant(studio).count() == 3


def test_issue__refused_first__makes_one_with_the_same_form(admin: Client, studio: Tenant, url: str) -> None:
    refused = post(admin, f"{url}/new-credential", {**NEW, "name": ""} | {"once": once(admin, f"{url}/new-credential")})
    assert refused.status == 422
    assert secret_of(post(admin, f"{url}/new-credential", {**NEW, "once": field_value(refused.html, "once")}))
    own(studio)


def test_register_key__the_same_form_twice__makes_one(admin: Client, studio: Tenant, url: str) -> None:
    form = {**NEW, "algorithm": "EdDSA", "public_key": pem(KEYS["EdDSA"]), "issuer": "https://auth.example"}
    form["once"] = once(admin, f"{url}/new-key")
    answers = {post(admin, f"{url}/new-key", form).location for _ in range(2)}
    assert answers == {f"{url}/credentials/{own(studio).client_id}"}


# --- Keys -------------------------------------------------------------------------------------------------------------

KEYS: dict[str, Any] = {
    Algorithm.EDDSA: ed25519.Ed25519PrivateKey.generate(),
    Algorithm.ES256: ec.generate_private_key(ec.SECP256R1()),
    Algorithm.RS256: rsa.generate_private_key(public_exponent=65_537, key_size=2048),
}


def pem(key: Any) -> str:
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode())


@pytest.mark.parametrize("algorithm", KEYS)
def test_register_key__of_each_algorithm__says_what_its_tokens_look_like(
    algorithm: str, admin: Client, studio: Tenant, url: str
) -> None:
    form = {**NEW, "algorithm": algorithm, "public_key": pem(KEYS[algorithm]), "issuer": "https://auth.example"}
    answer = post(admin, f"{url}/new-key", form)
    credential = own(studio)
    assert answer.location == f"{url}/credentials/{credential.client_id}"
    assert (credential.kind, credential.algorithm) == (CredentialKind.PUBLIC_KEY, algorithm)
    shown = get(admin, answer.location)
    assert f'{{"alg": "{algorithm}", "kid": "{credential.client_id}"}}' in shown.text
    assert "Rotate" not in shown.text
    listed = get(admin, f"{url}/credentials").text
    assert f"Public key {algorithm} · https://auth.example" in listed


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"public_key": "nonsense"}, "This is not a public key in PEM format."),
        ({"public_key": pem(KEYS["RS256"])}, "The key does not fit the algorithm"),
        ({"issuer": ""}, "This field is required."),
        (
            {"public_key": KEYS["EdDSA"].private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()},
            "This is a private key.",
        ),
    ],
)
def test_register_key__bad__is_refused_next_to_its_field(
    change: dict[str, str], said: str, admin: Client, studio: Tenant, url: str
) -> None:
    form = {**NEW, "algorithm": "EdDSA", "public_key": pem(KEYS["EdDSA"]), "issuer": "https://auth.example", **change}
    answer = post(admin, f"{url}/new-key", form)
    assert answer.status == 422
    assert said in answer.text
    assert not Credential.objects.for_tenant(studio).exists()


# --- Its life ---------------------------------------------------------------------------------------------------------


def test_change__name_models_and_limits(admin: Client, studio: Tenant, url: str) -> None:
    model = factories.ModelFactory.create(tenant=studio)
    credential = factories.CredentialFactory.create(tenant=studio)
    page = f"{url}/credentials/{credential.client_id}"
    form = {"name": "Renamed", "reach": "chosen", "allowed_models": [model.slug]}
    answer = post(admin, page, {**form, "requests_per_second": "7", "burst": "8"})
    assert answer.location == page
    credential.refresh_from_db()
    assert (credential.name, credential.requests_per_second, credential.burst) == ("Renamed", 7, 8)
    assert list(narrowed_to(credential)) == [model]
    assert post(admin, page, {**form, "requests_per_second": "", "burst": "8"}).status == 422


@pytest.mark.parametrize(("overlap", "hours"), [("0", 0), ("3600", 1), ("86400", 24), ("604800", 168), ("chosen", 36)])
def test_rotate__both_secrets_work_until_the_chosen_hour(
    overlap: str, hours: int, admin: Client, studio: Tenant, url: str
) -> None:
    credential = factories.CredentialFactory.create(tenant=studio)
    now = timezone.now()
    until = (now + timedelta(hours=hours)).strftime("%Y-%m-%dT%H:%M:%S")
    page = f"{url}/credentials/{credential.client_id}"
    answer = post(admin, f"{page}/rotate", {"overlap": overlap, "until": until, "generation": "1"})
    secret = secret_of(answer)
    assert credential_authenticate(credential.client_id, secret).generation == 2
    if hours:
        soon = now + timedelta(hours=hours, minutes=-1)
        assert credential_authenticate(credential.client_id, factories.SECRET, now=soon).generation == 1
        assert "The old secret works too and ends in" in answer.text
        assert "Two secrets" in get(admin, page).text
    with pytest.raises(NotAuthenticated):
        credential_authenticate(credential.client_id, factories.SECRET, now=now + timedelta(hours=hours, minutes=1))
    assert_kept_nowhere(admin, secret, [page, f"{page}/rotate", f"{url}/credentials"])


def test_rotate__a_chosen_hour__is_by_the_clock_of_who_chooses(admin: Client, studio: Tenant, url: str) -> None:
    credential = factories.CredentialFactory.create(tenant=studio)
    rotate = f"{url}/credentials/{credential.client_id}/rotate"
    admin.cookies["recsite_zone"] = "Asia/Kolkata"
    assert "Time, by your clock (Asia/Kolkata)" in get(admin, rotate).text
    tomorrow = (timezone.now() + timedelta(days=1)).replace(hour=12, minute=0, second=0, microsecond=0)
    until = f"{tomorrow:%Y-%m-%d}T17:30"
    assert secret_of(post(admin, rotate, {"overlap": "chosen", "until": until, "generation": "1"}))
    credential.refresh_from_db()
    assert credential.previous_until == tomorrow


def test_rotate__the_answer_reloaded__does_not_make_another_secret(admin: Client, studio: Tenant, url: str) -> None:
    credential = factories.CredentialFactory.create(tenant=studio)
    rotate = f"{url}/credentials/{credential.client_id}/rotate"
    form = {"overlap": "86400", "generation": "1"}
    secret = secret_of(post(admin, rotate, form))
    again = post(admin, rotate, form)
    assert again.status == 422
    assert "Somebody replaced this secret in the meantime." in again.text
    assert credential_authenticate(credential.client_id, secret).generation == 2
    assert credential_authenticate(credential.client_id, factories.SECRET).generation == 1


@pytest.mark.parametrize(
    ("days", "said"),
    [(None, "Choose a date and time."), (-1, "This time has already passed."), (31, "at most 30 days.")],
)
def test_rotate__an_hour_that_will_not_do__is_refused(
    days: int | None, said: str, admin: Client, studio: Tenant, url: str
) -> None:
    credential = factories.CredentialFactory.create(tenant=studio)
    until = "" if days is None else (timezone.now() + timedelta(days=days)).strftime("%Y-%m-%dT%H:%M")
    form = {"overlap": "chosen", "until": until, "generation": "1"}
    answer = post(admin, f"{url}/credentials/{credential.client_id}/rotate", form)
    assert answer.status == 422
    assert said in answer.text
    credential.refresh_from_db()
    assert credential.generation == 1


def test_revoke__takes_a_reason_and_leaves_a_trail(admin: Client, studio: Tenant, owner: User, url: str) -> None:
    credential = factories.CredentialFactory.create(tenant=studio)
    page = f"{url}/credentials/{credential.client_id}"
    assert post(admin, f"{page}/revoke", {"reason": " "}).status == 422
    assert post(admin, f"{page}/revoke", {"reason": "It leaked."}).location == page
    with pytest.raises(NotAuthenticated):
        credential_authenticate(credential.client_id, factories.SECRET)
    entry = AuditEntry.objects.for_tenant(studio).get()
    assert (entry.action, entry.actor, entry.reason) == ("credential.revoke", owner, "It leaked.")
    shown = get(admin, page)
    assert "Revoked" in shown.text
    for words in ("Rotate", "Revoke<", '<button class="button primary">Save'):
        assert words not in shown.html
    assert "1 revoked" in get(admin, f"{url}/credentials").text
    assert "It is revoked, and nothing about it changes any more." in get(admin, f"{page}/rotate").text
    assert post(admin, f"{page}/revoke", {"reason": "Again."}).status == 422


@pytest.mark.parametrize(
    ("used_days_ago", "requests", "said"),
    [
        (None, 0, "It was never used, so nothing will miss it."),
        (0, 1234, "It is in use: 1,234 requests in 24 hours"),
        (3, 0, "No request in 24 hours; it was last used 3 days ago."),
        (60, 0, "most likely nothing will miss it"),
    ],
)
def test_revoke__says_whether_it_is_safe_by_its_use(
    used_days_ago: int | None, requests: int, said: str, admin: Client, studio: Tenant, url: str
) -> None:
    now = timezone.now()
    credential = factories.CredentialFactory.create(
        tenant=studio, last_used_at=None if used_days_ago is None else now - timedelta(days=used_days_ago)
    )
    if requests:
        factories.CredentialUseFactory.create(credential=credential, starts_at=now, requests=requests)
    old = now - timedelta(hours=30)
    factories.CredentialUseFactory.create(credential=credential, starts_at=old, requests=99)
    page = f"{url}/credentials/{credential.client_id}"
    assert said in get(admin, page).text
    assert said in get(admin, f"{page}/revoke").text


# --- Pages ------------------------------------------------------------------------------------------------------------


def test_credentials__none__leads_to_the_first(admin: Client, teammate: User, url: str) -> None:
    assert "No credential yet" in get(admin, f"{url}/credentials").text
    assert f'href="{url}/new-credential"' in get(admin, f"{url}/credentials").html
    assert "Studio admins issue them." in get(signed_in(teammate), f"{url}/credentials").text


def test_credentials__many__take_few_queries(admin: Client, studio: Tenant, url: str) -> None:
    models = factories.ModelFactory.create_batch(3, tenant=studio)
    for credential in factories.CredentialFactory.create_batch(30, tenant=studio):
        for model in models:
            model.credentials.add(credential)
        factories.CredentialUseFactory.create(credential=credential, starts_at=timezone.now())
    one = f"{url}/credentials/{Credential.objects.for_tenant(studio)[0].client_id}"
    factories.AutomationTokenFactory.create_batch(30, tenant=studio)
    for page in (f"{url}/credentials", one, f"{one}/revoke", f"{url}/new-credential", f"{url}/automation"):
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert get(admin, page).status == 200
        assert len(queries) <= 15, page


def test_ended_studio__shows_and_changes_nothing(admin: Client, studio: Tenant, url: str) -> None:
    credential = factories.CredentialFactory.create(tenant=studio)
    Tenant.objects.filter(pk=studio.pk).update(ended_at=timezone.now())
    assert get(admin, f"{url}/credentials").status == 200
    assert "has ended" in post(admin, f"{url}/new-credential", NEW).text
    assert post(admin, f"{url}/credentials/{credential.client_id}/revoke", {"reason": "x"}).status == 422
    assert Credential.objects.for_tenant(studio).count() == 1


# --- Automation tokens ------------------------------------------------------------------------------------------------


def test_automation_token__made__is_shown_once_and_works(
    admin: Client, studio: Tenant, owner: User, url: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    form = {"name": "Airflow, nightly", "scopes": ["read", "loads:run"], "days": "90"}
    response = admin.post(f"{url}/new-automation-token", form)
    assert "no-store" in response["Cache-Control"]
    secret = secret_of(Page(200, response.content.decode(), "", ""), "rsa_")
    token = automation_token_authenticate(secret)
    assert (token.tenant, token.scopes, token.created_by) == (studio, ["read", "loads:run"], owner)
    assert token.expires_at is not None
    assert timedelta(days=89) < token.expires_at - timezone.now() < timedelta(days=91)
    assert secret not in caplog.text
    assert_kept_nowhere(admin, secret, [f"{url}/automation", f"{url}/new-automation-token"])
    listed = get(admin, f"{url}/automation").text
    assert "Airflow, nightly" in listed
    assert "Start loads" in listed


def test_automation_token__revoked__ends_and_is_listed_as_ended(admin: Client, studio: Tenant, url: str) -> None:
    secret = secret_of(
        post(admin, f"{url}/new-automation-token", {"name": "Job", "scopes": ["read"], "days": "0"}), "rsa_"
    )
    token = AutomationToken.objects.for_tenant(studio).get()
    revoke = f"{url}/automation/{token.public_id}/revoke"
    assert post(admin, revoke, {"reason": ""}).status == 422
    assert post(admin, revoke, {"reason": "The job has moved."}).location == f"{url}/automation"
    with pytest.raises(NotAuthenticated):
        automation_token_authenticate(secret)
    assert "1 that ended" in get(admin, f"{url}/automation").text
    assert "It is revoked already." in get(admin, revoke).text


def test_automation_token__the_same_form_twice__makes_one(admin: Client, studio: Tenant, url: str) -> None:
    form = {"name": "Job", "scopes": ["read"], "days": "0", "once": once(admin, f"{url}/new-automation-token")}
    secret = secret_of(post(admin, f"{url}/new-automation-token", form), "rsa_")
    again = post(admin, f"{url}/new-automation-token", form)
    assert again.location == f"{url}/automation"
    assert "This form was sent before, and made its token." in get(admin, again.location).text
    assert AutomationToken.objects.for_tenant(studio).get() == automation_token_authenticate(secret)


def test_automation_token__without_a_scope__is_refused(admin: Client, studio: Tenant, url: str) -> None:
    answer = post(admin, f"{url}/new-automation-token", {"name": "Job", "days": "0"})
    assert answer.status == 422
    assert not AutomationToken.objects.for_tenant(studio).exists()


def test_pages__another_studios_client_id__is_the_404_of_none(admin: Client, studio: Tenant, url: str) -> None:
    make_offers(studio)
    foreign = factories.CredentialFactory.create()
    token = factories.AutomationTokenFactory.create()
    for path in (f"credentials/{foreign.client_id}", f"automation/{token.public_id}/revoke", "credentials/cr_none"):
        assert get(admin, f"{url}/{path}").status == 404


def test_first_credential__issued__is_published(
    admin: Client, studio: Tenant, url: str, valkey: redis.Redis, django_capture_on_commit_callbacks: Any
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        post(admin, f"{url}/new-credential", NEW)
    studio.refresh_from_db()
    assert studio.snapshot_revision > 0
