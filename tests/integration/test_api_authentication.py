"""Who may call the API: tokens by their scopes, people by their roles, nobody else."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import redis
from django.test import Client
from django.utils import timezone

from tenants.automation import automation_token_issue, automation_token_revoke
from tenants.models import AuditEntry, AutomationToken, Role, Scope, Tenant, User
from tenants.rules import RuleBroken
from tenants.services import tenant_end
from tests.factories import LayoutFactory, MembershipFactory, TenantFactory, UserFactory
from tests.integration.api_client import ALL_SCOPES, ApiClient, token_client

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


# --- Tokens ---------------------------------------------------------------------------------------------------------


def test_token__valid__reads_the_studio_it_belongs_to(studio: Tenant, api: ApiClient) -> None:
    answer = api.get("studio")

    assert answer.status == 200
    assert answer.body["slug"] == studio.slug
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize(
    "header",
    [
        "",
        "Bearer",
        "Bearer ",
        "Bearer rsa_",
        "Bearer rsa_" + "x" * 43,
        "Bearer rsk_" + "x" * 43,
        "Basic dXNlcjpwYXNz",
        "Bearer " + "é" * 47,
        "Bearer rsa_" + "x" * 5000,
        "nonsense",
    ],
)
def test_token__wrong__is_a_401_that_tells_nothing(header: str) -> None:
    answer = ApiClient().get("studio", Authorization=header)

    assert answer.status == 401
    assert answer.code == "unauthenticated"
    assert answer.headers["WWW-Authenticate"] == "Bearer"
    assert answer.body == ApiClient().get("studio").body


def test_token__wrong_beside_a_session__is_refused_too(studio: Tenant, owner: User) -> None:
    for header in ("", "Bearer", "Bearer rsa_" + "x" * 43):
        assert ApiClient(person=owner).get("studio", Authorization=header).code == "unauthenticated"


def test_token__revoked_or_expired_or_of_an_ended_studio__is_refused(studio: Tenant, owner: User) -> None:
    issued = automation_token_issue(
        tenant=studio, name="Airflow", scopes=["read"], actor=owner, expires_at=timezone.now() + timedelta(hours=1)
    )
    client = ApiClient(token=issued.secret)
    assert client.get("studio").status == 200

    AutomationToken.objects.for_tenant(studio).update(expires_at=timezone.now())
    assert client.get("studio").code == "unauthenticated"

    AutomationToken.objects.for_tenant(studio).update(expires_at=None)
    assert client.get("studio").status == 200
    automation_token_revoke(token=issued.token, actor=owner, reason="")
    assert client.get("studio").code == "unauthenticated"

    client = token_client(studio)
    assert client.get("studio").status == 200
    tenant_end(tenant=studio, actor=None, reason="closed")
    assert client.get("studio").code == "unauthenticated"


def test_token__kept__holds_no_secret(studio: Tenant) -> None:
    issued = automation_token_issue(tenant=studio, name="Airflow", scopes=["read"], actor=None)

    row = AutomationToken.objects.for_tenant(studio).values().get()
    assert issued.secret.startswith("rsa_")
    assert len(issued.secret) == 47
    assert issued.secret not in repr(row)
    assert issued.secret not in repr(issued)
    entry = AuditEntry.objects.for_tenant(studio).values().get()
    assert entry["action"] == "automation_token.issue"
    assert issued.secret not in repr(entry)


def test_token__used__notes_when(studio: Tenant) -> None:
    client = token_client(studio)
    before = timezone.now()

    client.get("studio")
    first = AutomationToken.objects.for_tenant(studio).get().last_used_at
    client.get("studio")

    assert first is not None
    assert before <= first <= timezone.now()
    assert AutomationToken.objects.for_tenant(studio).get().last_used_at == first


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"name": " "}, "name"),
        ({"scopes": []}, "scopes"),
        ({"scopes": ["everything"]}, "scopes"),
        ({"scopes": "read"}, "scopes"),
        ({"expires_at": timezone.now() - timedelta(seconds=1)}, "expires_at"),
        ({"expires_at": timezone.make_naive(timezone.now() + timedelta(days=1))}, "expires_at"),
    ],
)
def test_token_issue__bad_value__names_the_field(studio: Tenant, changes: dict[str, Any], field: str) -> None:
    values: dict[str, Any] = {"name": "Airflow", "scopes": ["read"], **changes}

    with pytest.raises(RuleBroken) as refused:
        automation_token_issue(tenant=studio, actor=None, **values)

    assert refused.value.field == field


OPERATION_OF = {
    "read": ("GET", "models", None),
    "loads:run": ("POST", "models/nothing/versions/v1/loads", {}),
    "loads:waive": ("POST", "models/nothing/versions/v1/loads/1/activate-anyway", {"reason": "x"}),
    "versions:write": (
        "POST",
        "models/nothing/versions",
        {"name": "v1", "source": {"kind": "parquet", "location": "/x"}},
    ),
    "models:write": ("PATCH", "models/nothing", {"name": "Other"}),
    "rollouts:write": ("POST", "models/nothing/rollout/reweight", {"weights_bp": {"v1": 10000}}),
    "credentials:write": ("PATCH", "credentials/cr_nothing", {"name": "Other"}),
    "members:write": ("DELETE", "members/nobody", None),
}


@pytest.mark.parametrize("scope", ALL_SCOPES)
def test_scope__alone__opens_its_own_operations_only(studio: Tenant, scope: str) -> None:
    client = token_client(studio, [scope])

    for other, (method, path, body) in OPERATION_OF.items():
        answer = client.ask(method, path, body)
        if other == scope:
            # What it names does not exist: it got past the gate.
            assert answer.status in (200, 404), (other, answer)
        else:
            assert (answer.status, answer.code) == (403, "not_allowed"), (other, answer)
            assert other in answer.body["detail"]


def test_token__makes_no_tokens(api: ApiClient) -> None:
    answer = api.post("automation-tokens", {"name": "More", "scopes": ["read"]})

    assert answer.status == 403
    assert answer.code == "person_required"


def test_token__names_another_studio__is_a_404(api: ApiClient, studio: Tenant) -> None:
    other = TenantFactory.create()

    foreign = api.get("studio", **{"Recsite-Studio": other.slug})
    missing = api.get("studio", **{"Recsite-Studio": "no-such-studio"})

    assert foreign.code == "not_found"
    assert foreign.body == missing.body
    assert api.get("studio", **{"Recsite-Studio": studio.slug}).status == 200


def test_caller__any_token__learns_what_it_may(studio: Tenant) -> None:
    answer = token_client(studio, ["loads:run"]).get("caller")

    assert answer.body == {
        "studio": studio.slug,
        "kind": "token",
        "name": "Airflow",
        "role": None,
        "scopes": ["loads:run"],
        "expires_at": None,
    }


def test_write_by_a_token__audit__names_the_token(studio: Tenant, api: ApiClient) -> None:
    LayoutFactory.create(model__tenant=studio, model__slug="offers")
    token = AutomationToken.objects.for_tenant(studio).get()

    assert api.patch("models/offers", {"name": "Better offers"}).status == 200

    entry = AuditEntry.objects.for_tenant(studio).get(action="model.update")
    assert entry.actor is None
    assert entry.actor_name == f"Airflow ({token.public_id})"


def test_write_by_a_token__refused__leaves_no_name_behind_for_the_system(studio: Tenant, api: ApiClient) -> None:
    assert api.patch("models/nothing", {"name": "x"}).status == 404

    automation_token_issue(tenant=studio, name="By the system", scopes=["read"], actor=None)

    newest = AuditEntry.objects.for_tenant(studio).latest("pk")
    assert newest.actor_name == "system"


# --- People ---------------------------------------------------------------------------------------------------------


def test_person__with_one_studio__needs_to_name_none(studio: Tenant, teammate: User) -> None:
    answer = ApiClient(person=teammate).get("caller")

    assert answer.status == 200
    assert (answer.body["studio"], answer.body["kind"], answer.body["role"]) == (
        studio.slug,
        "person",
        "product_manager",
    )
    assert "credentials:write" not in answer.body["scopes"]
    assert "rollouts:write" in answer.body["scopes"]


def test_person__with_several_studios__must_name_one(studio: Tenant, teammate: User) -> None:
    second = MembershipFactory.create(user=teammate, role=Role.VIEWER).tenant

    unnamed = ApiClient(person=teammate).get("studio")
    named = ApiClient(person=teammate, studio=second.slug).get("studio")

    assert (unnamed.status, unnamed.code) == (400, "studio_required")
    assert studio.slug in unnamed.body["detail"]
    assert named.body["slug"] == second.slug


@pytest.mark.parametrize("slug", ["no-such-studio", "", "\x7f", "x" * 500])
def test_person__names_a_studio_that_is_none__gets_what_a_stranger_gets(
    stranger: User, studio: Tenant, slug: str
) -> None:
    foreign = ApiClient(person=stranger, studio=studio.slug).get("studio")
    missing = ApiClient(person=stranger, studio=slug).get("studio")

    assert (missing.status, missing.code) == (404, "not_found")
    assert foreign.body == missing.body


def test_person__without_a_studio__is_told_what_to_do(db: None) -> None:
    answer = ApiClient(person=UserFactory.create()).get("studio")

    assert (answer.status, answer.code) == (403, "no_studio")


def test_person__ended_studio__is_gone_for_them(studio: Tenant, owner: User) -> None:
    tenant_end(tenant=studio, actor=None, reason="closed")

    assert ApiClient(person=owner).get("studio").code == "no_studio"
    assert ApiClient(person=owner, studio=studio.slug).get("studio").code == "not_found"


def test_staff__must_name_a_studio_and_may_everything(studio: Tenant) -> None:
    staff = UserFactory.create(is_staff=True)

    assert ApiClient(person=staff).get("studio").code == "studio_required"
    named = ApiClient(person=staff, studio=studio.slug)
    assert named.get("studio").status == 200
    assert named.post("automation-tokens", {"name": "x", "scopes": ["read"]}).status == 201


ROLE_CASES = [
    (Role.VIEWER, "read", True),
    (Role.VIEWER, "rollouts:write", False),
    (Role.VIEWER, "loads:run", False),
    (Role.VIEWER, "versions:write", False),
    (Role.VIEWER, "models:write", False),
    (Role.VIEWER, "credentials:write", False),
    (Role.VIEWER, "members:write", False),
    (Role.PRODUCT_MANAGER, "read", True),
    (Role.PRODUCT_MANAGER, "rollouts:write", True),
    (Role.PRODUCT_MANAGER, "loads:run", True),
    (Role.PRODUCT_MANAGER, "versions:write", True),
    (Role.PRODUCT_MANAGER, "models:write", True),
    (Role.PRODUCT_MANAGER, "credentials:write", False),
    (Role.PRODUCT_MANAGER, "members:write", False),
    (Role.STUDIO_ADMIN, "credentials:write", True),
    (Role.STUDIO_ADMIN, "members:write", True),
    (Role.STUDIO_ADMIN, "rollouts:write", True),
]


@pytest.mark.parametrize(("role", "operation", "is_allowed"), ROLE_CASES)
def test_role__reaches_its_operations_only(studio: Tenant, role: Role, operation: str, *, is_allowed: bool) -> None:
    person = MembershipFactory.create(tenant=studio, role=role).user
    method, path, body = OPERATION_OF[operation]

    answer = ApiClient(person=person).ask(method, path, body)

    if is_allowed:
        assert answer.status in (200, 404), answer
    else:
        assert (answer.status, answer.code) == (403, "not_allowed")


@pytest.mark.parametrize(
    ("role", "status"), [(Role.STUDIO_ADMIN, 201), (Role.PRODUCT_MANAGER, 403), (Role.VIEWER, 403)]
)
def test_automation_token__made_in_person__by_studio_admins_only(studio: Tenant, role: Role, status: int) -> None:
    person = MembershipFactory.create(tenant=studio, role=role).user

    answer = ApiClient(person=person).post("automation-tokens", {"name": "Airflow", "scopes": ["read"]})

    assert answer.status == status


def test_person__write_without_csrf_token__is_refused(studio: Tenant, owner: User) -> None:
    browser = Client(enforce_csrf_checks=True)
    browser.force_login(owner)

    bare = browser.post("/api/v1/automation-tokens", {"name": "x", "scopes": ["read"]}, content_type="application/json")
    browser.get("/sign-in")
    browser.cookies["csrftoken"] = "a" * 32
    with_token = browser.post(
        "/api/v1/automation-tokens",
        {"name": "x", "scopes": ["read"]},
        content_type="application/json",
        headers={"X-CSRFToken": "a" * 32},
    )

    assert bare.status_code == 403
    assert bare.json()["code"] == "csrf_failed"
    assert bare["Content-Type"] == "application/problem+json"
    assert with_token.status_code == 201
    assert browser.get("/api/v1/studio").status_code == 200


def test_person_and_bad_token__together__is_a_401(owner: User) -> None:
    client = ApiClient(person=owner, token="rsa_" + "x" * 43)

    assert client.get("studio").status == 401


def test_person__no_longer_active__is_nobody(studio: Tenant, owner: User) -> None:
    client = ApiClient(person=owner)
    User.objects.filter(pk=owner.pk).update(is_active=False)

    assert client.get("studio").status == 401


# --- How often ------------------------------------------------------------------------------------------------------


def test_limit__reached__is_a_429_with_retry_after_for_that_caller_alone(
    studio: Tenant, api: ApiClient, owner: User, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.API_REQUESTS_PER_MINUTE = 2
    monkeypatch.setattr("recsite.api.studio_view.time.time", lambda: 1_800_000_030.0)

    assert [api.get("studio").status for _ in range(3)] == [200, 200, 429]
    refused = api.get("studio")
    assert refused.code == "rate_limited"
    assert refused.headers["Retry-After"] == "30"
    assert ApiClient(person=owner).get("studio").status == 200

    monkeypatch.setattr("recsite.api.studio_view.time.time", lambda: 1_800_000_060.0)
    assert api.get("studio").status == 200


def test_limit__redis_away__refuses_nobody(studio: Tenant, settings: Any, valkey: redis.Redis) -> None:
    settings.API_REQUESTS_PER_MINUTE = 1
    client = token_client(studio)
    client.get("studio")
    assert client.get("studio").status == 429

    settings.CACHES["default"]["LOCATION"] = "redis://127.0.0.1:1/0"
    from tests.conftest import _forget_cache_connections  # noqa: PLC0415 - what the valkey fixture itself uses

    _forget_cache_connections()
    assert client.get("studio").status == 200


def test_scopes__every_one__has_a_role_and_an_operation_here() -> None:
    assert set(OPERATION_OF) == set(Scope.values)
