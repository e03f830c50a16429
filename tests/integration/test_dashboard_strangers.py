"""Every address of a studio's pages, from the side of those who may not: strangers, weaker roles, the signed-out.

The addresses are enumerated from the URLconf: one that `CASES` does not know fails the test.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import redis
from django.test import Client
from django.urls import reverse

from models_registry.models import (
    Load,
    LoadState,
    Override,
    RecommendationModel,
    RolloutRevision,
    Schedule,
    Source,
    Version,
)
from tenants.models import AutomationToken, Credential, Membership, Role, Tenant, User
from tests import factories
from tests.integration.dashboard_scene import Offers, get, give_table, make_offers, page, signed_in
from tests.routes import studio_routes

pytestmark = pytest.mark.django_db


class Case(NamedTuple):
    """One method of one address: the least role that may, and what a form of it holds.

    Attributes:
        of_model: the address names the model; `more` is what else it names.
        of_load: the address names a load instead.
    """

    method: str
    role: Role = Role.VIEWER
    form: dict[str, Any] | None = None
    of_model: bool = True
    of_load: bool = False
    more: dict[str, Any] | None = None


PM = Role.PRODUCT_MANAGER
ADMIN = Role.STUDIO_ADMIN
WEIGHTS = {"weight-0": "50", "weight-1": "30", "weight-2": "20", "step": "save"}
VERSION = {"version": "2026-11-b"}
TABLE = {**VERSION, "table": "kept-table-b"}
SCHEDULE = {"kind": "interval", "every": "4", "unit": "60", "timezone": "UTC", "is_enabled": "on"}
SOURCE = {"source_kind": "parquet", "source_location": "/srv/tables/other.parquet"}
CREDENTIAL = {"client_id": "cr_own"}
NEW_CREDENTIAL = {"name": "x", "reach": "all", "requests_per_second": "1", "burst": "1"}
ROTATION = {"overlap": "0", "generation": "1"}
TOKEN = {"token": "at_own"}
MEMBER = {"username": "member"}


def of_studio(*roles_and_forms: tuple[str, Role, dict[str, Any] | None], **more: Any) -> list[Case]:
    return [Case(method, role, form, of_model=False, more=more) for method, role, form in roles_and_forms]


def asked(form: dict[str, Any], **more: Any) -> list[Case]:
    """Return the cases of a page that asks a studio admin something."""
    return of_studio(("get", ADMIN, None), ("post", ADMIN, form), **more)


CASES: dict[str, list[Case]] = {
    "studio": [Case("get", of_model=False)],
    "models": [Case("get", of_model=False)],
    "model-new": [Case("get", PM, of_model=False), Case("post", PM, {"slug": "x"}, of_model=False)],
    "credentials": of_studio(("get", Role.VIEWER, None)),
    "credential-new": asked(NEW_CREDENTIAL),
    "credential-key-new": asked(NEW_CREDENTIAL),
    "credential": of_studio(("get", Role.VIEWER, None), ("post", ADMIN, NEW_CREDENTIAL), **CREDENTIAL),
    "credential-rotate": asked(ROTATION, **CREDENTIAL),
    "credential-revoke": asked({"reason": "x"}, **CREDENTIAL),
    "automation": of_studio(("get", Role.VIEWER, None)),
    "automation-token-new": asked({"name": "x", "scopes": ["read"], "days": "0"}),
    "automation-token-revoke": asked({"reason": "x"}, **TOKEN),
    "audit": of_studio(("get", Role.VIEWER, None)),
    "audit-file": of_studio(("get", Role.VIEWER, None)),
    "members": of_studio(("get", Role.VIEWER, None)),
    "member-new": asked({"who": "x@example.com", "role": "viewer"}),
    "member-role": asked({"role": "product_manager"}, **MEMBER),
    "member-remove": asked({}, **MEMBER),
    "member-link": asked({}, **MEMBER),
    "traffic": of_studio(("get", Role.VIEWER, None)),
    "rollout": [Case("get")],
    "model-traffic": [Case("get")],
    "weights": [Case("get", PM), Case("post", PM, WEIGHTS)],
    "effect": [Case("post", PM, WEIGHTS)],
    "live": [Case("get")],
    "history": [Case("get")],
    "go-back": [Case("get", PM, more={"number": 1}), Case("post", PM, {}, more={"number": 1})],
    "new-phase": [Case("get", PM), Case("post", PM, {})],
    "serve-default": [Case("get", PM), Case("post", PM, {"based_on": "1"})],
    "testers": [Case("get"), Case("post", PM, {"unit": "p1", "version": "2026-11-a"})],
    "tester-remove": [Case("post", PM, {"unit": "tester"})],
    "why": [Case("get")],
    "model-settings": [Case("get"), Case("post", PM, {"part": "basics", "name": "Taken over"})],
    "version-new": [Case("get", PM), Case("post", PM, {"name": "x"})],
    "switch-off": [Case("get", PM, more=VERSION), Case("post", PM, {}, more=VERSION)],
    "version": [Case("get", more=VERSION)],
    "version-archive": [Case("get", PM, more=VERSION), Case("post", PM, {}, more=VERSION)],
    "version-source": [Case("get", PM, more=VERSION), Case("post", PM, SOURCE, more=VERSION)],
    "version-load": [Case("get", PM, more=VERSION), Case("post", PM, {}, more=VERSION)],
    "version-dry-run": [Case("post", PM, {}, more=VERSION)],
    "version-schedule": [Case("get", PM, more=VERSION), Case("post", PM, SCHEDULE, more=VERSION)],
    "version-freshness": [Case("get", PM, more=VERSION), Case("post", PM, {"amount": "6"}, more=VERSION)],
    "roll-back": [Case("get", PM, more=TABLE), Case("post", PM, {}, more=TABLE)],
    "loads": [Case("get", of_model=False)],
    "load": [Case("get", of_model=False, of_load=True)],
    "load-progress": [Case("get", of_model=False, of_load=True)],
    "load-cancel": [Case("post", PM, {}, of_model=False, of_load=True)],
    "activate-anyway": [
        Case("get", ADMIN, of_model=False, of_load=True),
        Case("post", ADMIN, {"reason": "a good one"}, of_model=False, of_load=True),
    ],
}
ALL = [(name, case) for name, cases in CASES.items() for case in cases]
IDS = [f"{name}-{case.method}" for name, case in ALL]


def address(name: str, case: Case, studio: str, model: str = "offers") -> str:
    kwargs: dict[str, Any] = {"studio": studio, **({"model": model} if case.of_model else {}), **(case.more or {})}
    if case.of_load:
        kwargs["load"] = Load.objects.unscoped().get(version__name="2026-11-b", fence=3).pk
    return reverse(name, kwargs=kwargs)


def ask(client: Client, case: Case, url: str) -> Any:
    return page(getattr(client, case.method)(url, case.form or {}))


def state(offers: Offers) -> Any:
    """Return what any of these forms could have changed."""
    offers.model.refresh_from_db()
    return (
        RolloutRevision.objects.unscoped().count(),
        Version.objects.unscoped().count(),
        Load.objects.unscoped().count(),
        list(Source.objects.unscoped().values_list("location", flat=True)),
        list(Version.objects.unscoped().values_list("active_table", "previous_table", "freshness_minutes")),
        Schedule.objects.unscoped().count(),
        list(Override.objects.unscoped().values_list("unit", "version__name")),
        offers.model.name,
        RecommendationModel.objects.for_tenant(offers.model.tenant).count(),
        list(Credential.objects.unscoped().values_list("name", "generation", "revoked_at")),
        list(Membership.objects.unscoped().values_list("user__username", "role")),
        list(User.objects.values_list("username", "password")),
        list(AutomationToken.objects.unscoped().values_list("name", "revoked_at")),
    )


@pytest.fixture
def offers(studio: Tenant) -> Offers:
    made = make_offers(studio)
    factories.OverrideFactory.create(version=made.a, unit="tester")
    factories.CredentialFactory.create(tenant=studio, **CREDENTIAL)
    factories.AutomationTokenFactory.create(tenant=studio, public_id="at_own")
    factories.MembershipFactory.create(tenant=studio, user__username="member", user__made_for=studio)
    kept = made.b.active_table
    assert kept is not None
    kept.table_id = TABLE["table"]
    kept.save()
    give_table(made.b)
    made.b.previous_table = kept
    made.b.save()
    checks = [{"name": "row count", "passed": False, "count": 0, "words": "few", "samples": [], "may_be_waived": True}]
    factories.LoadFactory.create(version=made.b, state=LoadState.REJECTED, report={"checks": checks})
    return made


def test_routes__each_has_its_cases() -> None:
    assert set(studio_routes()) == CASES.keys()


@pytest.mark.parametrize(("name", "case"), ALL, ids=IDS)
def test_stranger__gets_the_404_of_what_does_not_exist(
    name: str, case: Case, offers: Offers, studio: Tenant, stranger: User, valkey: redis.Redis
) -> None:
    client = signed_in(stranger)
    before = state(offers)
    foreign = ask(client, case, address(name, case, studio.slug))
    missing = ask(client, case, address(name, case, "no-such-studio"))
    assert foreign.status == 404
    assert foreign == missing
    if case.of_model or case.of_load:
        own = stranger.memberships.get().tenant
        assert ask(client, case, address(name, case, own.slug)) == missing
    assert state(offers) == before


@pytest.mark.parametrize(("name", "case"), ALL, ids=IDS)
def test_signed_out__is_sent_to_sign_in(name: str, case: Case, offers: Offers, studio: Tenant) -> None:
    before = state(offers)
    url = address(name, case, studio.slug)
    answer = ask(Client(), case, url)
    assert answer.status == 302
    # After signing in a form's address would answer 405, so it is the first page then.
    assert answer.location.startswith(f"/sign-in?next={url if case.method == 'get' else '/'}")
    assert state(offers) == before


@pytest.mark.parametrize(("name", "case"), ALL, ids=IDS)
def test_viewer__reads_and_changes_nothing(
    name: str, case: Case, offers: Offers, studio: Tenant, valkey: redis.Redis
) -> None:
    viewer = factories.MembershipFactory.create(tenant=studio, role=Role.VIEWER).user
    before = state(offers)
    answer = ask(signed_in(viewer), case, address(name, case, studio.slug))
    assert answer.status == (403 if case.role != Role.VIEWER else 302 if name == "studio" else 200)
    assert state(offers) == before


@pytest.mark.parametrize(("name", "case"), ALL, ids=IDS)
def test_product_manager__does_nothing_that_takes_a_studio_admin(
    name: str, case: Case, offers: Offers, studio: Tenant, teammate: User, valkey: redis.Redis
) -> None:
    if case.role != ADMIN:
        return
    before = state(offers)
    assert ask(signed_in(teammate), case, address(name, case, studio.slug)).status == 403
    assert state(offers) == before


@pytest.mark.parametrize(("name", "case"), ALL, ids=IDS)
def test_form__without_a_csrf_token__changes_nothing(name: str, case: Case, offers: Offers, teammate: User) -> None:
    if case.method != "post":
        return
    client = Client(enforce_csrf_checks=True)
    client.force_login(teammate)
    before = state(offers)
    assert ask(client, case, address(name, case, offers.model.tenant.slug)).status == 403
    assert state(offers) == before


def test_viewer__sees_no_control_that_would_be_refused(offers: Offers, studio: Tenant, valkey: redis.Redis) -> None:
    client = signed_in(factories.MembershipFactory.create(tenant=studio, role=Role.VIEWER).user)
    here = f"/studios/{studio.slug}"
    failed = factories.LoadFactory.create(version=offers.b, state=LoadState.FAILED, problem="The disk failed.")
    paths = [
        "models",
        "credentials",
        "credentials/cr_own",
        "automation",
        "members",
        "audit",
        "loads",
        f"loads/{failed.pk}",
    ]
    urls = [f"{here}/{path}" for path in paths]
    urls += [f"{offers.url}{path}" for path in ("", "/testers", "/settings", "/versions/2026-11-b")]
    forbidden = [
        "Switch off",
        "Go back to this",
        "New model",
        "Start a new phase",
        "Serve the default",
        "Remove",
        "Revoke",
        "Rotate",
    ]
    forbidden += ["Archive …", "Load now", "Try again", "Roll back", "Change"]
    ends = [
        "new-version",
        "new-model",
        "new-phase",
        "serve-default",
        "load",
        "switch-off",
        "new-credential",
        "rotate",
        "revoke",
    ]
    ends += ["role", "remove", "source", "dry-run", "schedule", "freshness", "archive", "activate-anyway"]
    harmless = ('action="/sign-out"', 'method="get"')
    for url in urls:
        answer = get(client, url)
        assert answer.status == 200
        forms = answer.html.split("<form")[1:]
        assert all(any(mark in form.partition(">")[0] for mark in harmless) for form in forms), url
        for words in forbidden:
            assert f"{words} " not in f"{answer.text} ", (url, words)
        for end in ends:
            assert f'/{end}"' not in answer.html, (url, end)
