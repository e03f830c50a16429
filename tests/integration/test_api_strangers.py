"""Every operation of the API, from four sides: who may, who may not, nobody, and a stranger.

The operations are enumerated from the URLconf: one that `CASES` does not know fails the test. To a stranger another
studio's thing and a missing one are the same: the answers differ in nothing but the name that was asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from datetime import timedelta
from typing import Any, NamedTuple

import pytest
from django.urls import URLPattern
from django.utils import timezone
from rest_framework.views import APIView

from models_registry.catalogue.services import layout_add, model_create, version_create
from models_registry.loading.requests import load_request
from models_registry.models import LoadState, Version
from models_registry.rollouts.testers import set_tester
from recsite.api.authentication import Need
from recsite.api.studio_view import StudioView
from tenants.automation import automation_token_issue
from tenants.credentials import credential_issue
from tenants.models import AuditEntry, Role, Scope, Tenant, User
from tests.factories import (
    DEFAULT_ANSWER,
    LAYOUT,
    LoadFactory,
    MembershipFactory,
    ScheduleFactory,
    TableFactory,
    TenantFactory,
)
from tests.integration.api_client import ALL_SCOPES, Answered, ApiClient, token_client
from tests.routes import routes

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey", "celery_queue")]

PUBLIC_KEY = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=
-----END PUBLIC KEY-----
"""
SOURCE = {"kind": "parquet", "location": "/srv/tables/offers.parquet"}

TOO_FEW_ROWS = {"checks": [{"name": "row count", "passed": False, "may_be_waived": True}]}


class Case(NamedTuple):
    """A call that succeeds for the studio's own callers. `{…}` in the path are names from the scene."""

    path: str
    body: Any = None
    status: int = 200


def in_an_hour() -> str:
    return (timezone.now() + timedelta(hours=1)).isoformat()


# By the route's name and the method. A path without names is the studio's own list or the studio itself: a stranger
# may call it, for their own studio, and must find nothing of this one there.
CASES: dict[tuple[str, str], Case] = {
    ("api-caller", "GET"): Case("caller"),
    ("api-studio", "GET"): Case("studio"),
    ("api-members", "GET"): Case("members"),
    ("api-members", "POST"): Case("members", {"who": "nora@example.com", "role": "viewer"}, 201),
    ("api-member-link", "POST"): Case("members/{member}/password-link", {}),
    ("api-member", "GET"): Case("members/{member}"),
    ("api-member", "PUT"): Case("members/{member}", {"role": "viewer"}),
    ("api-member", "DELETE"): Case("members/{member}", status=204),
    ("api-audit", "GET"): Case("audit"),
    ("api-automation-tokens", "GET"): Case("automation-tokens"),
    ("api-automation-tokens", "POST"): Case("automation-tokens", {"name": "More", "scopes": ["read"]}, 201),
    ("api-automation-token", "GET"): Case("automation-tokens/{token}"),
    ("api-automation-token-revoke", "POST"): Case("automation-tokens/{token}/revoke", {"reason": "gone"}),
    ("api-credentials", "GET"): Case("credentials"),
    ("api-credentials", "POST"): Case("credentials", {"name": "Android"}, 201),
    ("api-credentials-register-key", "POST"): Case(
        "credentials/register-key",
        {"name": "Backend", "public_key": PUBLIC_KEY, "algorithm": "EdDSA", "issuer": "https://studio.example"},
        201,
    ),
    ("api-credential", "GET"): Case("credentials/{credential}"),
    ("api-credential", "PATCH"): Case("credentials/{credential}", {"name": "Renamed"}),
    ("api-credential-rotate", "POST"): Case("credentials/{credential}/rotate", {"previous_until": in_an_hour()}),
    ("api-credential-revoke", "POST"): Case("credentials/{credential}/revoke", {"reason": "leaked"}),
    ("api-models", "GET"): Case("models"),
    ("api-models", "POST"): Case(
        "models", {"slug": "levels", "name": "Levels", "key_fields": ["country"], "layout": LAYOUT}, 201
    ),
    ("api-model", "GET"): Case("models/{model}"),
    ("api-model", "PATCH"): Case("models/{model}", {"name": "Renamed"}),
    ("api-model-default", "PUT"): Case("models/{model}/default", {"default_answer": None}),
    ("api-layouts", "GET"): Case("models/{model}/layouts"),
    ("api-layouts", "POST"): Case("models/{model}/layouts", {"fields": LAYOUT}, 201),
    ("api-layout", "GET"): Case("models/{model}/layouts/1"),
    ("api-versions", "GET"): Case("models/{model}/versions"),
    ("api-versions", "POST"): Case("models/{model}/versions", {"name": "v9", "source": SOURCE}, 201),
    ("api-version", "GET"): Case("models/{model}/versions/{version}"),
    ("api-version-source", "PUT"): Case("models/{model}/versions/{version}/source", SOURCE),
    ("api-version-roll-back", "POST"): Case("models/{model}/versions/{version}/roll-back", {"reason": "wrong"}),
    ("api-version-schedule", "GET"): Case("models/{model}/versions/{version}/schedule"),
    ("api-version-schedule", "PUT"): Case(
        "models/{model}/versions/{version}/schedule", {"kind": "crontab", "crontab": "0 4 * * *"}
    ),
    ("api-version-schedule", "DELETE"): Case("models/{model}/versions/{version}/schedule", status=204),
    ("api-version-freshness", "PUT"): Case("models/{model}/versions/{version}/freshness", {"freshness_minutes": 60}),
    ("api-version-loads", "GET"): Case("models/{model}/versions/{version}/loads"),
    ("api-version-archive", "POST"): Case("models/{model}/versions/v3/archive", {"reason": "old"}, 200),
    ("api-version-loads", "POST"): Case("models/{model}/versions/{version}/loads", {}, 201),
    ("api-version-load", "GET"): Case("models/{model}/versions/{version}/loads/1"),
    ("api-version-load-activate", "POST"): Case(
        "models/{model}/versions/{version}/loads/103/activate-anyway", {"reason": "half of the countries closed"}, 201
    ),
    ("api-version-load-cancel", "POST"): Case("models/{model}/versions/{version}/loads/104/cancel", {}, 200),
    ("api-loads", "GET"): Case("loads"),
    ("api-overrides", "GET"): Case("models/{model}/overrides"),
    ("api-overrides", "PUT"): Case("models/{model}/overrides", {"unit": "tester-2", "version": "v1"}),
    ("api-overrides", "DELETE"): Case("models/{model}/overrides?unit=tester-1", status=204),
    ("api-rollout", "GET"): Case("models/{model}/rollout"),
    ("api-rollout-preview", "POST"): Case("models/{model}/rollout/preview", {"weights_bp": {"v1": 9000, "v2": 1000}}),
    ("api-rollout-reweight", "POST"): Case(
        "models/{model}/rollout/reweight", {"weights_bp": {"v1": 9000, "v2": 1000}}, 201
    ),
    ("api-rollout-go-back", "POST"): Case("models/{model}/rollout/go-back", {"number": 1}, 201),
    ("api-rollout-new-phase", "POST"): Case("models/{model}/rollout/new-phase", {}, 201),
    ("api-rollout-switch-off", "POST"): Case("models/{model}/rollout/switch-off", {"version": "v2"}, 201),
    ("api-rollout-serve-default", "POST"): Case("models/{model}/rollout/serve-default", {}, 201),
    ("api-rollout-serve-default-effect", "GET"): Case("models/{model}/rollout/serve-default/effect"),
    ("api-rollout-new-phase-effect", "GET"): Case("models/{model}/rollout/new-phase/effect"),
    ("api-model-explain", "POST"): Case("models/{model}/explain", {"key": {"player_id": "p1"}}),
    ("api-model-traffic", "GET"): Case("models/{model}/traffic"),
    ("api-propagation", "GET"): Case("propagation"),
    ("api-rollout-revisions", "GET"): Case("models/{model}/rollout/revisions"),
    ("api-rollout-revision", "GET"): Case("models/{model}/rollout/revisions/1"),
    ("api-rollout-revision-effect", "GET"): Case("models/{model}/rollout/revisions/1/effect"),
}
# What has no studio, with the reason why that is right.
NO_STUDIO = {
    "token": "it proves a credential, whatever the studio; tests of its own",
    "api-schema": "the document is the same for everybody",
    "api-reference": "the page shows the document",
    "api-nothing-here": "a 404 for every address that is none",
}
# Names of things that are nowhere, of the same form as the scene's.
MISSING = {
    "member": "nobody",
    "token": "at_000000000000",
    "credential": "cr_000000000000",
    "model": "missing",
    "version": "v77",
}


def api_routes() -> Iterator[tuple[str, URLPattern]]:
    """Yield every route below /api/ with its path as Django has it."""
    return ((path, route) for path, route in routes() if path.lstrip("^").startswith("api/"))


def operations() -> Iterator[tuple[str, str, type[StudioView]]]:
    """Yield the name, method and view of every operation of a studio."""
    for path, route in api_routes():
        view: type[APIView] = getattr(route.callback, "view_class", APIView)
        if issubclass(view, StudioView):
            assert route.name, path
            for method in ("get", "post", "put", "patch", "delete"):
                if hasattr(view, method):
                    yield route.name, method.upper(), view


def test_operations__every_one__is_known_here() -> None:
    assert {(name, method) for name, method, _ in operations()} == set(CASES)


def test_routes__every_one_that_is_no_studios__has_a_reason() -> None:
    of_studios = {name for name, _, _ in operations()}

    assert {route.name for _, route in api_routes()} - of_studios == set(NO_STUDIO)


def test_operations__every_one__says_what_it_needs() -> None:
    for name, method, view in operations():
        assert isinstance(getattr(getattr(view, method.lower()), "need", None), Need), (name, method)


# --- A studio with one of everything -------------------------------------------------------------------------------


class Scene(NamedTuple):
    """A studio, its admin, and the names of its things."""

    studio: Tenant
    admin: User
    names: dict[str, str]


@pytest.fixture(scope="module")
def made_scene(made_once: Callable[[Callable[[], Scene]], Scene]) -> Scene:
    return made_once(make_scene)


@pytest.fixture(name="scene")
def copied_scene(made_scene: Scene, db: None) -> Scene:
    return deepcopy(made_scene)


def make_scene() -> Scene:
    studio = TenantFactory.create()
    owner = MembershipFactory.create(tenant=studio, role=Role.STUDIO_ADMIN).user
    model = model_create(
        tenant=studio,
        slug="offers",
        name="Offers",
        key_fields=["player_id"],
        unit_field="player_id",
        layout=LAYOUT,
        default_answer=DEFAULT_ANSWER,
        actor=owner,
    )
    layout_add(model=model, fields=[*LAYOUT, {"name": "extra", "type": "bool", "optional": True}], actor=owner)
    versions = [
        version_create(
            model=model, name=name, source_kind=SOURCE["kind"], source_location=SOURCE["location"], actor=owner
        )
        for name in ("v1", "v2", "v3")
    ]
    load_request(version=versions[0], actor=owner)
    tables = [
        TableFactory.create(load=LoadFactory.create(version=versions[0], fence=fence, state=LoadState.ACTIVE))
        for fence in (102, 101)
    ]
    LoadFactory.create(version=versions[0], fence=103, state=LoadState.REJECTED, report=TOO_FEW_ROWS)
    LoadFactory.create(version=versions[0], fence=104, state=LoadState.WRITING)
    Version.objects.for_tenant(studio).filter(pk=versions[0].pk).update(
        active_table=tables[0], previous_table=tables[1], last_fence=104, active_fence=102
    )
    ScheduleFactory.create(version=versions[0])
    set_tester(model=model, unit="tester-1", version=versions[1], actor=owner)
    names = {
        "model": "offers",
        "version": "v1",
        "member": MembershipFactory.create(
            tenant=studio, role=Role.PRODUCT_MANAGER, user__made_for=studio
        ).user.username,
        "credential": credential_issue(tenant=studio, name="iOS", actor=owner).credential.client_id,
        "token": automation_token_issue(tenant=studio, name="Nightly", scopes=["read"], actor=owner).token.public_id,
    }
    return Scene(studio, owner, names)


def need_of(name: str, method: str) -> Need:
    need = next(getattr(view, method.lower()).need for n, m, view in operations() if (n, m) == (name, method))
    assert isinstance(need, Need)
    return need


def needs_person(name: str, method: str) -> bool:
    need = need_of(name, method)
    return need.scope is None and not need.is_for_any_token


def call(client: ApiClient, name: str, method: str, names: dict[str, str]) -> Answered:
    case = CASES[name, method]
    return client.ask(method, case.path.format(**names), case.body)


def prepare(scene: Scene, name: str) -> None:
    """Make a difference for what would be refused because it changes nothing."""
    if name in ("api-rollout-go-back", "api-rollout-switch-off"):
        api = token_client(scene.studio)
        assert call(api, "api-rollout-reweight", "POST", scene.names).status == 201


@pytest.mark.parametrize(("name", "method"), CASES)
def test_operation__by_who_may__succeeds(scene: Scene, name: str, method: str) -> None:
    prepare(scene, name)
    caller = ApiClient(person=scene.admin) if needs_person(name, method) else token_client(scene.studio)

    answer = call(caller, name, method, scene.names)

    assert answer.status == CASES[name, method].status, answer
    assert (answer.body is None) == (answer.status == 204)
    if answer.status == 201 and "Location" in answer.headers:
        assert ApiClient(person=scene.admin).get(answer.headers["Location"]).status == 200


@pytest.mark.parametrize(("name", "method"), CASES)
def test_operation__by_an_admin_in_a_browser__succeeds_as_well(scene: Scene, name: str, method: str) -> None:
    prepare(scene, name)

    assert call(ApiClient(person=scene.admin), name, method, scene.names).status == CASES[name, method].status


@pytest.mark.parametrize(("name", "method"), [case for case in CASES if case != ("api-caller", "GET")])
def test_operation__by_a_token_without_the_scope__is_forbidden(scene: Scene, name: str, method: str) -> None:
    need = need_of(name, method)
    others = [scope for scope in ALL_SCOPES if scope != need.scope]

    answer = call(token_client(scene.studio, others), name, method, scene.names)

    assert (answer.status, answer.code) == (403, "person_required" if need.scope is None else "not_allowed")


@pytest.mark.parametrize(("name", "method"), CASES)
def test_operation__by_a_viewer__is_forbidden_unless_it_reads(scene: Scene, name: str, method: str) -> None:
    viewer = MembershipFactory.create(tenant=scene.studio, role=Role.VIEWER).user
    need = need_of(name, method)

    answer = call(ApiClient(person=viewer), name, method, scene.names)

    if need.role == Role.VIEWER:
        assert answer.status == CASES[name, method].status
    else:
        assert (answer.status, answer.code) == (403, "not_allowed")


@pytest.mark.parametrize(("name", "method"), CASES)
def test_operation__by_nobody__is_a_401(scene: Scene, name: str, method: str) -> None:
    answer = call(ApiClient(), name, method, scene.names)

    assert (answer.status, answer.code) == (401, "unauthenticated")


def as_if_missing(answer: Answered, scene: Scene) -> tuple[int, str, str | None]:
    """Return an answer with the names asked for taken out of it."""
    text = json.dumps(answer.body)
    for kind, name in scene.names.items():
        text = text.replace(name, f"<{kind}>").replace(MISSING[kind], f"<{kind}>")
    return answer.status, text, answer.headers.get("Location")


@pytest.mark.parametrize(("name", "method"), [case for case in CASES if "{" in CASES[case].path])
@pytest.mark.parametrize("by", ["token", "person"])
def test_operation__by_a_stranger__foreign_is_missing(scene: Scene, name: str, method: str, by: str) -> None:
    theirs = TenantFactory.create()
    admin = MembershipFactory.create(tenant=theirs, role=Role.STUDIO_ADMIN).user
    stranger = ApiClient(person=admin) if by == "person" or needs_person(name, method) else token_client(theirs)
    entries = AuditEntry.objects.for_tenant(scene.studio).count()

    foreign = call(stranger, name, method, scene.names)
    missing = call(stranger, name, method, MISSING)

    assert (missing.status, missing.code) == (404, "not_found")
    assert as_if_missing(foreign, scene) == as_if_missing(missing, scene)
    assert AuditEntry.objects.for_tenant(scene.studio).count() == entries


@pytest.mark.parametrize(("name", "method"), [case for case in CASES if "{" not in CASES[case].path])
def test_operation__without_names__by_a_stranger__is_about_their_own_studio(
    scene: Scene, name: str, method: str
) -> None:
    theirs = TenantFactory.create()
    admin = MembershipFactory.create(tenant=theirs, role=Role.STUDIO_ADMIN).user
    entries = AuditEntry.objects.for_tenant(scene.studio).count()

    answer = call(ApiClient(person=admin), name, method, scene.names)

    assert answer.status == CASES[name, method].status
    text = json.dumps(answer.body)
    for secret in (scene.studio.slug, scene.admin.username, *scene.names.values(), "tester-1"):
        assert f'"{secret}"' not in text, (secret, text)
    assert AuditEntry.objects.for_tenant(scene.studio).count() == entries


@pytest.mark.parametrize(
    "query", ["loads?model=offers", "loads?version=v1", "credentials?model=offers", "audit?actor={}"]
)
def test_filter__on_another_studios_thing__finds_what_a_missing_one_finds(scene: Scene, query: str) -> None:
    stranger = token_client(TenantFactory.create())

    answer = stranger.get(query.format(scene.admin.username))

    assert answer.body == {"results": [], "next_cursor": None}


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("credentials", {"name": "x", "allowed_models": ["offers"]}, "allowed_models"),
        ("models/levels/overrides", {"unit": "u", "version": "v2"}, "version"),
        ("models/levels/rollout/reweight", {"weights_bp": {"v2": 10_000}}, "weights_bp"),
        ("models/levels/rollout/preview", {"weights_bp": {"v2": 10_000}}, "weights_bp"),
        ("models/levels/rollout/go-back", {"number": 2}, "number"),
        ("models/levels/versions", {"name": "n", "source": SOURCE, "layout_revision": 1}, "layout_revision"),
    ],
)
def test_body__naming_another_studios_thing__is_refused_as_a_missing_one(
    scene: Scene, path: str, body: dict[str, Any], field: str
) -> None:
    theirs = TenantFactory.create()
    model = model_create(tenant=theirs, slug="levels", name="Levels", key_fields=["country"], layout=LAYOUT, actor=None)
    version_create(model=model, name="own", source_kind=SOURCE["kind"], source_location=SOURCE["location"], actor=None)
    method = "PUT" if path.endswith("overrides") else "POST"

    answer = token_client(theirs).ask(method, path, body)

    assert (answer.status, answer.code, answer.fields) == (422, "refused", [field])


def test_scopes__all__are_needed_by_some_operation() -> None:
    used = {getattr(view, method.lower()).need.scope for _, method, view in operations()}

    assert used - {None} == set(Scope)
