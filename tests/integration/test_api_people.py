"""Credentials, members, automation tokens, the audit trail and the studio through the API."""

from __future__ import annotations

from datetime import timedelta
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
from django.test import Client
from django.utils import timezone

from models_registry.models import RecommendationModel
from tenants.access import role_of
from tenants.automation import automation_token_issue
from tenants.credentials import credential_issue
from tenants.models import AuditEntry, AutomationToken, Credential, Membership, Role, Tenant, User
from tenants.services import NobodyToAdd
from tests.factories import (
    AuditEntryFactory,
    CredentialFactory,
    MembershipFactory,
    ModelFactory,
    TenantFactory,
    UserFactory,
)
from tests.integration.api_client import ApiClient, token_client
from tests.integration.test_api_strangers import PUBLIC_KEY

pytestmark = pytest.mark.django_db


@pytest.fixture
def offers(studio: Tenant) -> RecommendationModel:
    return ModelFactory.create(tenant=studio, slug="offers")


# --- Credentials ----------------------------------------------------------------------------------------------------


def mint(client_id: str, secret: str) -> int:
    body = {"client_id": client_id, "client_secret": secret}
    return Client().post("/api/v1/token", body, content_type="application/json").status_code


def test_credential__issued__gets_tokens_with_the_secret_shown(
    offers: RecommendationModel, studio: Tenant, api: ApiClient
) -> None:
    body = {"name": "Android", "allowed_models": ["offers"], "requests_per_second": 5, "burst": 7}
    issued = api.post("credentials", body)

    assert issued.status == 201
    client_id, secret = issued.body["client_id"], issued.body["client_secret"]
    assert issued.headers["Location"] == f"/api/v1/credentials/{client_id}"
    assert mint(client_id, secret) == 200
    read = api.get(f"credentials/{client_id}")
    assert "client_secret" not in read.body
    assert secret not in repr(read)
    assert {name: read.body[name] for name in body} == body
    assert read.body["last_used_at"] is not None
    row = Credential.objects.for_tenant(studio).get()
    assert (row.requests_per_second, row.burst) == (5, 7)
    assert secret not in repr(AuditEntry.objects.for_tenant(studio).values())


def test_credential__key_registered__shows_the_key_and_no_secret(api: ApiClient) -> None:
    body = {"name": "Backend", "public_key": PUBLIC_KEY, "algorithm": "EdDSA", "issuer": "https://studio.example"}
    registered = api.post("credentials/register-key", body)

    assert registered.status == 201
    assert (registered.body["kind"], registered.body["public_key"]) == ("public_key", PUBLIC_KEY)
    assert registered.body["hint"] == ""


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"public_key": "nonsense"}, "refused", "public_key"),
        ({"public_key": "-----BEGIN PRIVATE KEY-----"}, "refused", "public_key"),
        ({"algorithm": "ES256"}, "refused", "algorithm"),
        ({"algorithm": "HS256"}, "invalid", "algorithm"),
        ({"issuer": " "}, "refused", "issuer"),
        ({"allowed_models": ["nothing"]}, "refused", "allowed_models"),
        ({"allowed_models": "offers"}, "invalid", "allowed_models"),
        ({"burst": 0}, "invalid", "burst"),
        ({"requests_per_second": 1_000_001}, "invalid", "requests_per_second"),
    ],
)
def test_credential__value_that_will_not_do__is_named(
    studio: Tenant, api: ApiClient, changes: dict[str, Any], code: str, field: str
) -> None:
    body = {"name": "Backend", "public_key": PUBLIC_KEY, "algorithm": "EdDSA", "issuer": "https://studio.example"}

    answer = api.post("credentials/register-key", {**body, **changes})

    assert (answer.code, answer.fields) == (code, [field])
    assert not Credential.objects.for_tenant(studio).exists()


def test_credential__changed__narrowed_and_widened_again(
    offers: RecommendationModel, studio: Tenant, api: ApiClient
) -> None:
    client_id = CredentialFactory.create(tenant=studio).client_id

    narrowed = api.patch(f"credentials/{client_id}", {"allowed_models": ["offers"], "burst": 9})
    widened = api.patch(f"credentials/{client_id}", {"allowed_models": []})

    assert (narrowed.body["allowed_models"], narrowed.body["burst"]) == (["offers"], 9)
    assert (widened.body["allowed_models"], widened.body["burst"]) == ([], 9)
    assert api.patch(f"credentials/{client_id}", {}).code == "invalid"


def test_credential__rotated__both_secrets_work_until_the_hour(studio: Tenant, api: ApiClient) -> None:
    issued = credential_issue(tenant=studio, name="Android", actor=None)
    client_id = issued.credential.client_id
    until = timezone.now() + timedelta(hours=1)

    rotated = api.post(f"credentials/{client_id}/rotate", {"previous_until": until.isoformat()})

    assert (rotated.status, rotated.body["generation"]) == (200, 2)
    assert mint(client_id, issued.secret) == mint(client_id, rotated.body["client_secret"]) == 200
    at_once = api.post(f"credentials/{client_id}/rotate", {"previous_until": "2026-01-01T00:00:00Z"})
    assert at_once.body["previous_until"] is None
    assert mint(client_id, rotated.body["client_secret"]) == 401
    too_far = api.post(f"credentials/{client_id}/rotate", {"previous_until": "2099-01-01T00:00:00Z"})
    assert (too_far.code, too_far.fields) == ("refused", ["previous_until"])
    no_zone = api.post(f"credentials/{client_id}/rotate", {"previous_until": "2026-11-08T00:00:00"})
    assert (no_zone.code, no_zone.fields) == ("invalid", ["previous_until"])


def test_credential__revoked__is_refused_and_stays_listed(studio: Tenant, api: ApiClient) -> None:
    issued = credential_issue(tenant=studio, name="Android", actor=None)
    other = credential_issue(tenant=studio, name="iOS", actor=None).credential.client_id
    client_id = issued.credential.client_id

    revoked = api.post(f"credentials/{client_id}/revoke", {"reason": "leaked"})

    assert revoked.status == 200
    assert revoked.body["revoked_at"] is not None
    assert mint(client_id, issued.secret) == 401
    assert api.post(f"credentials/{client_id}/revoke").code == "refused"
    assert api.patch(f"credentials/{client_id}", {"name": "x"}).code == "refused"

    def listed(query: str) -> list[str]:
        return [row["client_id"] for row in api.every(f"credentials?{query}", limit=1)]

    assert listed("") == [other, client_id]
    assert listed("state=active") == [other]
    assert listed("state=revoked") == [client_id]
    assert listed("kind=public_key") == []


def test_credentials__filtered_by_model__name_it(offers: RecommendationModel, studio: Tenant, api: ApiClient) -> None:
    CredentialFactory.create(tenant=studio)
    narrow = CredentialFactory.create(tenant=studio)
    offers.credentials.add(narrow)

    [row] = api.get("credentials?model=offers").body["results"]

    assert row["client_id"] == narrow.client_id


# --- Members --------------------------------------------------------------------------------------------------------


def test_member__added_changed_and_removed(studio: Tenant, owner: User, api: ApiClient) -> None:
    UserFactory.create(username="mara@night.owl", first_name="Mara", last_name="Lindt", made_for=studio)

    added = api.put("members/mara@night.owl", {"role": "viewer"})
    changed = api.put("members/mara@night.owl", {"role": "product_manager"})

    assert (added.status, added.body["role"], added.body["name"]) == (200, "viewer", "Mara Lindt")
    assert changed.body == {**added.body, "role": "product_manager"}
    assert {**api.get("members/mara@night.owl").body, "note": ""} == changed.body
    assert [row["username"] for row in api.every("members", limit=1)] == sorted([owner.username, "mara@night.owl"])
    assert [row["username"] for row in api.get("members?role=studio_admin").body["results"]] == [owner.username]
    assert api.delete("members/mara@night.owl").status == 204
    assert api.delete("members/mara@night.owl").code == "not_found"


def test_member__who_is_not_the_studios__is_as_missing_as_somebody_without_an_account(
    studio: Tenant, owner: User, stranger: User, api: ApiClient
) -> None:
    UserFactory.create(username="boss", is_staff=True, email="boss@platform.example")
    UserFactory.create(username="left", is_active=False)
    User.objects.filter(pk=stranger.pk).update(email="stranger@other.example")
    for client in (api, ApiClient(person=owner)):
        for who in ("nobody", "boss", "left", stranger.username):
            set_ = client.put(f"members/{who}", {"role": "viewer"})
            assert (set_.status, set_.code) == (404, "not_found")
            assert set_.body["detail"] == str(NobodyToAdd(who))
        for who in ("nobody", "boss", "left", stranger.username, "boss@platform.example", "stranger@other.example"):
            added = client.post("members", {"who": who, "role": "viewer"})
            assert (added.code, added.fields, added.body["detail"]) == ("refused", ["who"], str(NobodyToAdd(who)))
    assert api.get(f"members/{stranger.username}").code == "not_found"
    assert stranger.memberships.count() == 1


def test_member__whoever_it_is__is_added_by_platform_staff(studio: Tenant, stranger: User) -> None:
    staff = ApiClient(person=UserFactory.create(is_staff=True), studio=studio.slug)
    assert staff.put(f"members/{stranger.username}", {"role": "viewer"}).body["role"] == "viewer"
    assert len(staff.get("members").body["results"]) == 1
    assert stranger.memberships.count() == 2
    assert staff.put("members/nobody", {"role": "viewer"}).code == "not_found"
    UserFactory.create(username="left", is_active=False)
    assert staff.put("members/left", {"role": "viewer"}).code == "not_found"


def test_member__last_admin__stays(studio: Tenant, owner: User) -> None:
    api = ApiClient(person=owner)
    demoted = api.put(f"members/{owner.username}", {"role": "viewer"})
    removed = api.delete(f"members/{owner.username}")

    assert (demoted.code, demoted.fields) == ("refused", ["role"])
    assert removed.code == "refused"
    assert Membership.objects.for_tenant(studio).get().role == Role.STUDIO_ADMIN


def test_member__whom_another_studio_made__is_added_by_staff_and_needs_a_new_link(studio: Tenant) -> None:
    person = UserFactory.create(username="mara", made_for=TenantFactory.create())
    staff = ApiClient(person=UserFactory.create(is_staff=True), studio=studio.slug)

    added = staff.put("members/mara", {"role": "viewer"})

    assert "Give them a new link" in added.body["note"]
    person.refresh_from_db()
    assert (person.made_for, person.has_usable_password()) == (None, False)
    assert staff.put("members/mara", {"role": "product_manager"}).body["note"] == ""
    assert staff.post("members/mara/password-link").status == 200


def test_role__that_is_none__is_invalid(studio: Tenant, owner: User, api: ApiClient) -> None:
    assert api.put(f"members/{owner.username}", {"role": "king"}).fields == ["role"]


# --- Automation tokens ----------------------------------------------------------------------------------------------


def test_automation_token__made_used_and_revoked(studio: Tenant, owner: User) -> None:
    person = ApiClient(person=owner)
    body = {"name": "Airflow", "scopes": ["loads:run", "read"], "expires_at": "2999-01-01T00:00:00Z"}

    made = person.post("automation-tokens", body)

    assert made.status == 201
    token, ident = made.body["token"], made.body["id"]
    assert made.body["scopes"] == ["read", "loads:run"]
    assert made.body["created_by"] == owner.username
    assert ApiClient(token=token).get("studio").status == 200
    read = person.get(f"automation-tokens/{ident}")
    assert token not in repr(read)
    assert read.body["hint"].startswith("rsa_…")
    assert read.body["last_used_at"] is not None
    revoked = person.post(f"automation-tokens/{ident}/revoke", {"reason": "moved"})
    assert revoked.body["revoked_at"] is not None
    assert ApiClient(token=token).get("studio").status == 401
    assert person.post(f"automation-tokens/{ident}/revoke").code == "refused"
    actions = AuditEntry.objects.for_tenant(studio).order_by("pk").values_list("action", "actor_name")
    assert list(actions) == [
        ("automation_token.issue", owner.username),
        ("automation_token.revoke", owner.username),
    ]


@pytest.mark.parametrize(
    ("changes", "code", "field"),
    [
        ({"scopes": []}, "invalid", "scopes"),
        ({"scopes": ["everything"]}, "invalid", "scopes.0"),
        ({"name": " "}, "refused", "name"),
        ({"expires_at": "2020-01-01T00:00:00Z"}, "refused", "expires_at"),
        ({"tenant": 1}, "invalid", "tenant"),
    ],
)
def test_automation_token__value_that_will_not_do__is_named(
    studio: Tenant, owner: User, changes: dict[str, Any], code: str, field: str
) -> None:
    body = {"name": "Airflow", "scopes": ["read"], **changes}

    answer = ApiClient(person=owner).post("automation-tokens", body)

    assert (answer.code, answer.fields) == (code, [field])
    assert not AutomationToken.objects.for_tenant(studio).exists()


def test_automation_tokens__listed__by_state(studio: Tenant, owner: User) -> None:
    names = {}
    for name in ("works", "expired", "revoked"):
        names[automation_token_issue(tenant=studio, name=name, scopes=["read"], actor=None).token.public_id] = name
    rows = AutomationToken.objects.for_tenant(studio)
    rows.filter(name="expired").update(expires_at=timezone.now())
    rows.filter(name="revoked").update(revoked_at=timezone.now())
    person = ApiClient(person=owner)

    def listed(query: str) -> list[str]:
        return [names[row["id"]] for row in person.every(f"automation-tokens?{query}", limit=2)]

    assert listed("") == ["revoked", "expired", "works"]
    assert listed("state=active") == ["works"]
    assert listed("state=ended") == ["revoked", "expired"]


# --- Audit trail and studio -----------------------------------------------------------------------------------------


def test_audit__filtered__by_action_actor_subject_and_time(studio: Tenant, owner: User) -> None:
    at = timezone.now()
    for day, (action, actor) in enumerate(
        [("model.create", "mara"), ("load.request", "mara"), ("load.request", "system")]
    ):
        AuditEntryFactory.create(
            tenant=studio,
            action=action,
            actor_name=actor,
            subject=f"model m{day}",
            at=at - timedelta(days=10 - day),
            after={"n": day},
        )
    person = ApiClient(person=owner)

    def found(query: str) -> list[int]:
        return [row["after"]["n"] for row in person.every(f"audit?{query}", limit=2)]

    def moment(days: float) -> str:
        return (at - timedelta(days=days)).strftime("%Y-%m-%dT%H:%M:%SZ")

    assert found("") == [2, 1, 0]
    assert found("action=load.request") == [2, 1]
    assert found("actor=mara") == [1, 0]
    assert found("subject=model%20m1") == [1]
    assert found(f"since={moment(9.5)}") == [2, 1]
    assert found(f"since={moment(9.5)}&until={moment(8.5)}") == [1]


def test_studio__read__says_what_its_sources_may_read(studio: Tenant, api: ApiClient) -> None:
    body = api.get("studio").body

    assert body["allowed_datasets"] == studio.allowed_datasets
    assert body["allowed_gs_prefixes"] == studio.allowed_gs_prefixes
    assert body["snapshot_published_at"] is None
    assert "id" not in body


def test_studio__written__is_no_method(api: ApiClient) -> None:
    assert api.patch("studio", {"allowed_datasets": ["other.dataset"]}).code == "method_not_allowed"


# --- Adding people ----------------------------------------------------------------------------------------------------


def test_member__added_by_address__gets_an_account_and_a_link_once(studio: Tenant, owner: User) -> None:
    api = ApiClient(person=owner)
    body = {"who": "Nora@Example.com", "role": "viewer"}

    answer = api.post("members", body, key="nora")

    assert answer.status == 201
    assert answer.headers["Location"] == "/api/v1/members/nora@example.com"
    assert (answer.body["username"], answer.body["role"]) == ("nora@example.com", "viewer")
    link = urlsplit(answer.body["password_link"])
    assert Client().get(link.path, follow=True).status_code == 200
    assert api.post("members", body, key="nora").code == "secret_shown"
    assert api.post("members", body).fields == ["who"]

    again = api.post("members/nora@example.com/password-link", {}, key="again")
    assert again.status == 200
    assert again.body["password_link"] != answer.body["password_link"]
    assert api.post("members/nora@example.com/password-link", {}, key="again").code == "secret_shown"
    kept = AuditEntry.objects.for_tenant(studio).values_list("summary", "before", "after")
    assert link.path.split("/")[3] not in repr(list(kept))


@pytest.mark.parametrize("role", Role.values)
def test_member__added_by_a_token__is_no_studio_admin_and_gets_no_link(
    role: Role, studio: Tenant, owner: User, valkey: redis.Redis
) -> None:
    api = token_client(studio, ["members:write"])
    body = {"who": "nora@example.com", "role": role}

    answer = api.post("members", body, key="nora")

    if role == Role.STUDIO_ADMIN:
        assert answer.code == "person_required"
        assert not User.objects.filter(username="nora@example.com").exists()
        return
    assert (answer.status, answer.body["password_link"]) == (201, None)
    assert "a studio admin makes it in the dashboard" in answer.body["note"]
    assert api.post("members", body, key="nora").body == answer.body
    assert api.post("members/nora@example.com/password-link").code == "person_required"
    assert "set-password" not in repr(answer)
    link = ApiClient(person=owner).post("members/nora@example.com/password-link").body["password_link"]
    assert Client().get(urlsplit(link).path).status_code == 302


def test_member__who_is_a_studio_admin__is_out_of_a_tokens_reach(
    studio: Tenant, owner: User, teammate: User, valkey: redis.Redis
) -> None:
    api = token_client(studio, ["members:write"])
    other = MembershipFactory.create(tenant=studio, role=Role.STUDIO_ADMIN).user

    raised = api.put(f"members/{teammate.username}", {"role": "studio_admin"})
    demoted = api.put(f"members/{other.username}", {"role": "viewer"})
    removed = api.delete(f"members/{other.username}")

    assert raised.code == demoted.code == removed.code == "person_required"
    assert role_of(teammate, studio) == Role.PRODUCT_MANAGER
    assert role_of(other, studio) == Role.STUDIO_ADMIN
    assert api.put("members/nobody", {"role": "studio_admin"}).code == "not_found"
    assert api.put(f"members/{teammate.username}", {"role": "viewer"}).status == 200
    assert api.delete(f"members/{teammate.username}").status == 204


def test_member__added_by_name__gets_no_link(studio: Tenant, owner: User) -> None:
    api = ApiClient(person=owner)
    person = UserFactory.create(username="mara")
    MembershipFactory.create(tenant=studio, user=person)
    assert api.delete("members/mara").status == 204

    answer = api.post("members", {"who": "mara", "role": "product_manager"})

    assert (answer.status, answer.body["password_link"]) == (201, None)
    assert api.post(f"members/{person.username}/password-link").code == "refused"
    assert api.post("members", {"who": "nobody-there", "role": "viewer"}).fields == ["who"]
    assert api.post("members/nobody-there/password-link").code == "not_found"
