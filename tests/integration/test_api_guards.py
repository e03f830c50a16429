"""Every act of the API with the guards that the dashboard's form of it has.

The acts are enumerated from the URLconf: one that `ACTS` does not know fails the test.
"""

from __future__ import annotations

from enum import Flag, auto
from typing import Any

import pytest

from models_registry.catalogue.selectors import model_summary
from models_registry.models import RecommendationModel
from models_registry.rollouts.cautions import cautions
from models_registry.rollouts.services import current_rollout
from recsite.api.described.document import document
from tenants.models import AuditEntry
from tests.integration.api_client import Answered, ApiClient, token_client
from tests.integration.test_api_strangers import (
    CASES,
    Scene,
    call,
    copied_scene,  # noqa: F401 - the fixture
    made_scene,  # noqa: F401 - what that copies
    operations,
    prepare,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey", "celery_queue")]


class Guard(Flag):
    """What keeps an act from being done unseen or twice."""

    KEYED = (
        auto()
    )  # sent again with its Idempotency-Key it is answered alike, or says that a secret was shown, and done once
    AGAIN = auto()  # sent again as it is, it leaves everything as it is
    STALE = auto()  # with a `based_on` that is not the newest any more it is a conflict, and nothing is changed
    CAUTIONS = auto()  # what speaks against it can be asked for before, and refuses it on demand
    HARMLESS = auto()  # it changes nothing


KEYED, AGAIN, STALE = Guard.KEYED, Guard.AGAIN, Guard.STALE

ACTS: dict[tuple[str, str], Guard] = {
    ("api-members", "POST"): KEYED | AGAIN,
    ("api-member-link", "POST"): KEYED,
    ("api-member", "PUT"): AGAIN,
    ("api-member", "DELETE"): AGAIN,
    ("api-automation-tokens", "POST"): KEYED,
    ("api-automation-token-revoke", "POST"): KEYED | AGAIN,
    ("api-credentials", "POST"): KEYED,
    ("api-credentials-register-key", "POST"): KEYED,
    ("api-credential", "PATCH"): AGAIN,
    ("api-credential-rotate", "POST"): KEYED | STALE,
    ("api-credential-revoke", "POST"): KEYED | AGAIN,
    ("api-models", "POST"): KEYED | AGAIN,
    ("api-model", "PATCH"): AGAIN,
    ("api-model-default", "PUT"): AGAIN,
    ("api-layouts", "POST"): KEYED | AGAIN,
    ("api-versions", "POST"): KEYED | AGAIN,
    ("api-version-archive", "POST"): KEYED | AGAIN,
    ("api-version-source", "PUT"): AGAIN,
    ("api-version-roll-back", "POST"): KEYED,
    ("api-version-schedule", "PUT"): AGAIN,
    ("api-version-schedule", "DELETE"): AGAIN,
    ("api-version-freshness", "PUT"): AGAIN,
    ("api-version-loads", "POST"): KEYED,
    ("api-version-load-activate", "POST"): KEYED | AGAIN,
    ("api-version-load-cancel", "POST"): KEYED | AGAIN,
    ("api-overrides", "PUT"): AGAIN,
    ("api-overrides", "DELETE"): AGAIN,
    ("api-rollout-preview", "POST"): Guard.HARMLESS,
    ("api-model-explain", "POST"): Guard.HARMLESS,
    ("api-rollout-reweight", "POST"): KEYED | AGAIN | STALE | Guard.CAUTIONS,
    ("api-rollout-go-back", "POST"): KEYED | AGAIN | STALE,
    ("api-rollout-switch-off", "POST"): KEYED | AGAIN | STALE,
    ("api-rollout-serve-default", "POST"): KEYED | AGAIN | STALE,
    ("api-rollout-new-phase", "POST"): KEYED | STALE | Guard.CAUTIONS,
}


def acts_with(guard: Guard) -> list[tuple[str, str]]:
    return [act for act, guards in ACTS.items() if guard in guards]


def entries() -> list[int]:
    return list(AuditEntry.objects.unscoped().values_list("pk", flat=True))


def send(client: ApiClient, scene: Scene, name: str, method: str, *, key: str | None = None, **more: Any) -> Answered:
    case = CASES[name, method]
    return client.ask(method, case.path.format(**scene.names), {**case.body, **more}, key=key)


def test_acts__every_one__is_known_here() -> None:
    assert {(name, method) for name, method, _ in operations() if method != "GET"} == set(ACTS)


def test_acts__those_that_heed_a_key__are_the_keyed_ones() -> None:
    keyed = {
        (name, method)
        for name, method, view in operations()
        if getattr(getattr(view, method.lower()), "is_idempotent", False)
    }

    assert keyed == set(acts_with(KEYED))


def test_acts__those_that_take_based_on__are_the_stale_ones() -> None:
    schema = document()
    bodies = {
        name for name, body in schema["components"]["schemas"].items() if "based_on" in body.get("properties", {})
    }
    takers = [
        operation["operationId"]
        for path in schema["paths"].values()
        for operation in path.values()
        if any(f"/{body}'" in str(operation.get("requestBody")) for body in bodies)
    ]

    assert len(takers) == len(acts_with(STALE))


@pytest.mark.parametrize(("name", "method"), acts_with(KEYED))
def test_act__sent_again_with_its_key__is_done_once(scene: Scene, name: str, method: str) -> None:
    prepare(scene, name)
    admin = ApiClient(person=scene.admin)

    first = send(admin, scene, name, method, key="k")
    done = entries()
    second = send(admin, scene, name, method, key="k")

    assert first.status == CASES[name, method].status
    assert entries() == done
    if second.status == 409:
        assert second.code == "secret_shown"
    else:
        assert (second.status, second.body) == (first.status, first.body)
        assert second.headers["Idempotency-Replayed"] == "true"


@pytest.mark.parametrize(("name", "method"), acts_with(AGAIN))
def test_act__sent_again__changes_nothing_more(scene: Scene, name: str, method: str) -> None:
    prepare(scene, name)
    admin = ApiClient(person=scene.admin)

    first = call(admin, name, method, scene.names)
    done = entries()
    second = call(admin, name, method, scene.names)

    assert first.status == CASES[name, method].status
    if method == "POST":
        assert (second.status, second.code) == (422, "refused")
    elif method == "DELETE":
        assert (second.status, second.code) == (404, "not_found")
    else:
        assert (second.status, second.body) == (first.status, first.body)
    assert entries() == done


@pytest.mark.parametrize(("name", "method"), acts_with(STALE))
def test_act__decided_on_what_has_changed_since__is_a_conflict(scene: Scene, name: str, method: str) -> None:
    admin = ApiClient(person=scene.admin)
    if name == "api-credential-rotate":
        seen, newest = 1, 2
        assert call(admin, name, method, scene.names).status == 200
    else:
        prepare(scene, name)
        model = RecommendationModel.objects.for_tenant(scene.studio).get()
        revision = current_rollout(model)
        assert revision is not None
        seen, newest = revision.number, revision.number + 1
        weights = {"weights_bp": {"v1": 8000, "v2": 2000}}
        assert admin.post("models/offers/rollout/reweight", weights).status == 201
    done = entries()

    late = send(admin, scene, name, method, based_on=seen)

    assert (late.status, late.code) == (409, "conflict")
    assert entries() == done
    assert send(admin, scene, name, method, based_on=newest).status == CASES[name, method].status


@pytest.mark.parametrize(("name", "method"), acts_with(Guard.CAUTIONS))
def test_weights__what_speaks_against_them__is_what_the_dashboard_warns_of(
    scene: Scene, name: str, method: str
) -> None:
    weights = CASES["api-rollout-reweight", "POST"].body
    summary = model_summary(RecommendationModel.objects.for_tenant(scene.studio).get())
    warned = cautions(summary, {0: 9000, 1: 1000})

    previewed = token_client(scene.studio).post("models/offers/rollout/preview", weights)

    done = entries()
    careful = send(ApiClient(person=scene.admin), scene, name, method, **weights, despite_cautions=False)

    assert entries() == done

    assert (careful.status, careful.code, careful.fields) == (422, "refused", ["despite_cautions"])
    assert warned
    assert [(said["kind"], said["version"]) for said in previewed.body["cautions"]] == [
        (caution.kind, caution.name) for caution in warned
    ]


@pytest.mark.parametrize(("name", "method"), acts_with(Guard.HARMLESS))
def test_act__that_only_tells__changes_nothing(scene: Scene, name: str, method: str) -> None:
    done = entries()

    assert call(token_client(scene.studio, ["read"]), name, method, scene.names).status == 200

    assert len(entries()) == len(done) + 1  # the token's own


def test_roll_back__to_a_table_by_name__sent_again_is_refused(scene: Scene) -> None:
    admin = ApiClient(person=scene.admin)
    version = admin.get("models/offers/versions/v1").body
    body = {"reason": "wrong", "table": version["previous_table"]["table_id"]}

    first = admin.post("models/offers/versions/v1/roll-back", body)
    second = admin.post("models/offers/versions/v1/roll-back", body)

    assert first.body["active_table"] == version["previous_table"]
    assert (second.status, second.code, second.fields) == (422, "refused", ["table"])
    assert admin.get("models/offers/versions/v1").body["active_table"]["table_id"] == body["table"]
