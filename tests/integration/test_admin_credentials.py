"""Credentials in the admin: the secret is shown once and works; nothing keeps it."""

from __future__ import annotations

import hashlib
import html
import logging
import re
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.contrib.sessions.models import Session
from django.test import Client
from django.urls import reverse
from django.utils import timezone

from models_registry.catalogue.access import narrowed_to
from tenants.automation import automation_token_authenticate, automation_token_issue
from tenants.credentials import NotAuthenticated, credential_authenticate
from tenants.models import AuditEntry, Credential, CredentialKind, Scope, Tenant, User
from tests import factories

pytestmark = pytest.mark.django_db
LIMITS = {"requests_per_second": "100", "burst": "200"}


@pytest.fixture
def staff(db: None) -> User:
    return factories.UserFactory.create(username="staff", is_staff=True)


@pytest.fixture
def signed_in(staff: User, client: Client) -> Client:
    client.force_login(staff)
    return client


def issue_url(studio: Tenant) -> str:
    return f"{reverse('admin:tenants_credential_add')}?tenant={studio.pk}"


def secret_of(response: Any) -> str:
    text = html.unescape(response.content.decode())
    found = set(re.findall(r"rsk_[A-Za-z0-9_-]{43}", text))
    assert len(found) == 1
    (secret,) = found
    return str(secret)


def test_issue_credential__asked_for__first_asks_for_which_studio(signed_in: Client, studio: Tenant) -> None:
    ended = factories.TenantFactory.create(name="Ended and gone", ended_at=factories.SOME_TIME)
    response = signed_in.get(reverse("admin:tenants_credential_issue"), follow=True)
    text = response.content.decode()
    assert f'value="{studio.pk}"' in text
    assert str(ended) not in text


def test_issue_credential__no_studio_yet__leads_to_making_one(signed_in: Client) -> None:
    text = signed_in.get(reverse("admin:tenants_credential_add")).content.decode()
    assert reverse("admin:tenants_tenant_add") in text


def test_issue_credential__posted__shows_the_secret_once_and_nothing_keeps_it(
    signed_in: Client, studio: Tenant, staff: User, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    response = signed_in.post(issue_url(studio), {"name": "Android client, live", **LIMITS})
    secret = secret_of(response)
    assert response.status_code == 200
    assert "no-store" in response["Cache-Control"]
    credential = Credential.objects.for_tenant(studio).get()
    assert credential_authenticate(credential.client_id, secret).credential == credential
    assert (credential.name, credential.created_by, credential.burst) == ("Android client, live", staff, 200)

    assert secret not in caplog.text
    assert all(secret not in str(session.get_decoded()) for session in Session.objects.all())
    assert all(secret not in cookie.value for cookie in signed_in.cookies.values())
    assert all(
        secret not in f"{entry.summary}{entry.before}{entry.after}" for entry in AuditEntry.objects.for_tenant(studio)
    )
    for url in (
        reverse("admin:tenants_credential_change", args=[credential.pk]),
        reverse("admin:tenants_credential_changelist"),
        issue_url(studio),
        reverse("admin:tenants_auditentry_changelist"),
        reverse("admin:index"),
    ):
        assert secret not in signed_in.get(url).content.decode()


def test_issue_credential__its_commands__ask_for_a_token_and_an_answer(
    signed_in: Client, studio: Tenant, settings: Any
) -> None:
    settings.SERVING_URL = "https://recs.example"
    factories.ModelFactory.create(tenant=studio, slug="another")
    table = factories.TableFactory.create(load__version__model__tenant=studio, load__version__model__slug="offers")
    table.version.active_table = table
    table.version.save()
    text = html.unescape(signed_in.post(issue_url(studio), {"name": "Backend", **LIMITS}).content.decode())
    credential = Credential.objects.for_tenant(studio).get()
    assert "curl -sS http://testserver/api/v1/token" in text
    assert f"client_id={credential.client_id}" in text
    assert "curl -i 'https://recs.example/v1/recommendations?model=offers&player_id=1'" in text


def test_issue_credential__narrowed__may_ask_for_that_model_alone(signed_in: Client, studio: Tenant) -> None:
    wanted = factories.ModelFactory.create(tenant=studio)
    factories.ModelFactory.create(tenant=studio)
    signed_in.post(issue_url(studio), {"name": "One", "allowed_models": [wanted.pk], **LIMITS})
    assert list(narrowed_to(Credential.objects.for_tenant(studio).get())) == [wanted]


def test_issue_credential__another_studios_model__is_refused(signed_in: Client, studio: Tenant) -> None:
    foreign = factories.ModelFactory.create()
    response = signed_in.post(issue_url(studio), {"name": "One", "allowed_models": [foreign.pk], **LIMITS})
    assert response.status_code == 422
    assert not Credential.objects.for_tenant(studio).exists()


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [("name", "", "This field is required."), ("burst", "2000000", "The burst is a whole number from 1 to 1,000,000.")],
)
def test_issue_credential__a_value_will_not_do__is_said_next_to_it(
    field: str, value: str, said: str, signed_in: Client, studio: Tenant
) -> None:
    response = signed_in.post(issue_url(studio), {"name": "Typed already", **LIMITS, field: value})
    assert response.context["form"].errors[field] == [said]
    assert "100" in response.content.decode()
    assert not Credential.objects.for_tenant(studio).exists()


@pytest.mark.parametrize(("overlap", "hours"), [("0", 0), ("3600", 1), ("86400", 24), ("604800", 168)])
def test_rotate__with_an_overlap__both_secrets_work_until_then(
    overlap: str, hours: int, signed_in: Client, studio: Tenant
) -> None:
    credential = factories.CredentialFactory.create(tenant=studio)
    url = reverse("admin:tenants_credential_rotate", args=[credential.pk])
    response = signed_in.post(url, {"overlap": overlap})
    secret = secret_of(response)
    assert "no-store" in response["Cache-Control"]
    now = timezone.now()
    assert credential_authenticate(credential.client_id, secret).generation == 2
    if hours:
        soon = now + timedelta(hours=hours, minutes=-1)
        assert credential_authenticate(credential.client_id, factories.SECRET, now=soon).generation == 1
    late = now + timedelta(hours=hours, minutes=1)
    with pytest.raises(NotAuthenticated):
        credential_authenticate(credential.client_id, factories.SECRET, now=late)
    assert secret not in signed_in.get(url).content.decode()


def test_rotate__a_revoked_one_or_a_key__is_refused_in_words(signed_in: Client, studio: Tenant) -> None:
    revoked = factories.CredentialFactory.create(tenant=studio, revoked_at=factories.SOME_TIME)
    url = reverse("admin:tenants_credential_rotate", args=[revoked.pk])
    response = signed_in.post(url, {"overlap": "0"})
    assert "is revoked." in response.content.decode()
    assert "rsk_" not in response.content.decode().replace(revoked.secret_hint, "")


def test_revoke__with_a_reason__ends_it_and_leaves_a_trail(signed_in: Client, studio: Tenant, staff: User) -> None:
    credential = factories.CredentialFactory.create(tenant=studio)
    url = reverse("admin:tenants_credential_revoke", args=[credential.pk])
    assert signed_in.post(url, {"reason": ""}).status_code == 422
    credential_authenticate(credential.client_id, factories.SECRET)
    response = signed_in.post(url, {"reason": "Leaked."}, follow=True)
    assert "Revoked" in response.content.decode()
    with pytest.raises(NotAuthenticated):
        credential_authenticate(credential.client_id, factories.SECRET)
    entry = AuditEntry.objects.for_tenant(studio).get()
    assert (entry.action, entry.actor, entry.reason) == ("credential.revoke", staff, "Leaked.")
    change = signed_in.get(reverse("admin:tenants_credential_change", args=[credential.pk]))
    assert not change.context["has_change_permission"]
    assert "is revoked." in signed_in.post(url, {"reason": "Again."}).content.decode()


def test_register_key__good_and_bad__is_registered_or_refused_next_to_the_field(
    signed_in: Client, studio: Tenant
) -> None:
    url = f"{reverse('admin:tenants_credential_register_key')}?tenant={studio.pk}"
    key = Ed25519PrivateKey.generate().public_key()
    pem = key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
    data = {"name": "Backend", "algorithm": "EdDSA", "public_key": pem, "issuer": "https://studio.example", **LIMITS}
    wrong = signed_in.post(url, {**data, "algorithm": "RS256"})
    assert "does not fit the algorithm" in wrong.context["form"].errors["algorithm"][0]
    broken = signed_in.post(url, {**data, "public_key": "nonsense"})
    assert broken.context["form"].errors["public_key"] == ["This is no public key in PEM form."]
    assert "https://studio.example" in broken.content.decode()
    done = signed_in.post(url, data, follow=True)
    credential = Credential.objects.for_tenant(studio).get()
    assert (credential.kind, credential.issuer) == (CredentialKind.PUBLIC_KEY, "https://studio.example")
    assert credential.client_id in done.content.decode()


def test_change_credential__name_models_and_limits__by_the_service(signed_in: Client, studio: Tenant) -> None:
    credential = factories.CredentialFactory.create(tenant=studio)
    model = factories.ModelFactory.create(tenant=studio)
    url = reverse("admin:tenants_credential_change", args=[credential.pk])
    response = signed_in.post(
        url, {"name": "Renamed", "allowed_models": [model.pk], "requests_per_second": "7", "burst": "8"}
    )
    assert response.status_code == 302
    credential.refresh_from_db()
    assert (credential.name, credential.requests_per_second, credential.burst) == ("Renamed", 7, 8)
    assert list(narrowed_to(credential)) == [model]
    assert credential.secret_hash == hashlib.sha256(factories.SECRET.encode()).hexdigest()
    assert AuditEntry.objects.for_tenant(studio).get().action == "credential.update"


# --- Automation tokens ----------------------------------------------------------------------------------------------


def test_automation_token__revoked_with_a_reason__ends_and_leaves_a_trail(
    signed_in: Client, studio: Tenant, staff: User
) -> None:
    issued = automation_token_issue(tenant=studio, name="Airflow", scopes=[Scope.READ], actor=staff)
    automation_token_authenticate(issued.secret)
    url = reverse("admin:tenants_automationtoken_revoke", args=[issued.token.pk])
    assert signed_in.post(url, {"reason": ""}).status_code == 422
    signed_in.post(url, {"reason": "Leaked."})
    with pytest.raises(NotAuthenticated):
        automation_token_authenticate(issued.secret)
    entry = AuditEntry.objects.for_tenant(studio).first()
    assert entry is not None
    assert (entry.action, entry.actor, entry.reason) == ("automation_token.revoke", staff, "Leaked.")
    assert "is revoked." in signed_in.post(url, {"reason": "Again."}).content.decode()
