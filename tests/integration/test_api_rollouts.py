"""Rollouts through the API: weights by version name, their effect, and the way back."""

from __future__ import annotations

import hashlib
from typing import Any

import pytest
from django.utils import timezone

from models_registry.catalogue.services import model_create, version_create
from models_registry.models import RecommendationModel, RolloutRevision, Version
from tenants.models import AuditEntry, Tenant
from tests.factories import DEFAULT_ANSWER, LAYOUT, TableFactory
from tests.integration.api_client import ApiClient

pytestmark = pytest.mark.django_db


@pytest.fixture
def offers(studio: Tenant) -> RecommendationModel:
    model = model_create(
        tenant=studio, slug="offers", name="Offers", key_fields=["player_id"], layout=LAYOUT, actor=None
    )
    for name in ("A", "B", "C"):
        version_create(
            model=model, name=name, source_kind="parquet", source_location="/srv/tables/x.parquet", actor=None
        )
    return model


def reweight(api: ApiClient, **weights_bp: int) -> dict[str, Any]:
    answer = api.post("models/offers/rollout/reweight", {"weights_bp": weights_bp, "reason": "why not"})
    assert answer.status == 201, answer
    body: dict[str, Any] = answer.body
    return body


def test_weights__changed__move_as_few_as_can_be(studio: Tenant, offers: RecommendationModel, api: ApiClient) -> None:
    reweight(api, A=6000, B=3000, C=1000)
    preview = api.post("models/offers/rollout/preview", {"weights_bp": {"A": 5000, "B": 3000, "C": 2000}})

    saved = reweight(api, A=5000, B=3000, C=2000)

    cautions = preview.body.pop("cautions")
    assert [(caution["kind"], caution["version"]) for caution in cautions] == [("not_loaded", "C")]
    assert preview.body == {
        "moved_bp": 1000,
        "flows": [{"from_version": "A", "to_version": "C", "moved_bp": 1000}],
        "is_new_phase": False,
        "sentence": "10 % of keys change version: 10 % from A to C.",
    }
    RecommendationModel.objects.for_tenant(studio).update(unit_field=offers.key_fields[0])
    back = api.post("models/offers/rollout/preview", {"weights_bp": {"A": 6000, "B": 3000, "C": 1000}})
    assert back.body["sentence"] == "10 % of players change version: 10 % from C to A."
    assert {**saved, "created_at": None} == {
        "number": 3,
        "phase": 1,
        "weights_bp": {"A": 5000, "B": 3000, "C": 2000},
        "moved_bp": 1000,
        "serves_default": False,
        "restores": None,
        "actor": saved["actor"],
        "reason": "why not",
        "created_at": None,
    }
    assert saved["actor"].startswith("Airflow (at_")
    assert api.get("models/offers/versions/C").body["weight_bp"] == 2000
    assert AuditEntry.objects.for_tenant(studio).filter(action="rollout.reweight", reason="why not").count() == 2


@pytest.mark.parametrize(
    ("weights", "code", "field"),
    [
        ({"A": 9000}, "refused", "weights_bp"),
        ({"A": 10_000}, "refused", "weights_bp"),
        ({"A": 5000, "D": 5000}, "refused", "weights_bp"),
        ({}, "invalid", "weights_bp"),
        ({"A": "10000"}, "invalid", "weights_bp.A"),
        ({"A": -1, "B": 10_001}, "invalid", "weights_bp.A"),
        ({"A": 0.5}, "invalid", "weights_bp.A"),
        ([10_000], "invalid", "weights_bp"),
    ],
)
def test_weights__that_will_not_do__are_refused(
    studio: Tenant, offers: RecommendationModel, api: ApiClient, weights: Any, code: str, field: str
) -> None:
    answer = api.post("models/offers/rollout/reweight", {"weights_bp": weights})

    assert (answer.code, answer.fields[0]) == (code, field)
    assert RolloutRevision.objects.for_tenant(studio).count() == 1


def test_rollout__read__computes_anybodys_version(offers: RecommendationModel, api: ApiClient) -> None:
    reweight(api, A=5000, B=5000)

    rollout = api.get("models/offers/rollout").body

    assert rollout["number"] == 2
    assert rollout["codes"] == {"A": 0, "B": 1, "C": 2}
    slots = bytes.fromhex(rollout["allocation_hex"])
    assert len(slots) == 10_000
    assert slots.count(0) == slots.count(1) == 5000
    unit = "p000811"
    slot = int(hashlib.md5(f"{rollout['salt']}:{unit}".encode()).hexdigest()[:15], 16) % 10_000  # noqa: S324 - the format
    names = {code: name for name, code in rollout["codes"].items()}
    assert names[slots[slot]] in ("A", "B")
    assert api.get("models/offers/rollout/revisions/2").body == rollout


def test_rollout__of_a_model_without_versions__is_missing(studio: Tenant, api: ApiClient) -> None:
    model_create(tenant=studio, slug="empty", name="Empty", key_fields=["k"], layout=LAYOUT, actor=None)

    assert api.get("models/empty/rollout").code == "not_found"
    assert api.get("models/empty/rollout/new-phase/effect").code == "not_found"
    assert api.post("models/empty/rollout/new-phase").code == "refused"
    assert api.get("models/empty/rollout/revisions").body["results"] == []


def test_go_back__restores_the_map_exactly(offers: RecommendationModel, api: ApiClient) -> None:
    reweight(api, A=6000, B=4000)
    before = api.get("models/offers/rollout").body["allocation_hex"]
    reweight(api, B=10_000)

    effect = api.get("models/offers/rollout/revisions/2/effect")
    back = api.post("models/offers/rollout/go-back", {"number": 2, "reason": "B sells less"})

    assert effect.body["moved_bp"] == 6000
    assert (back.status, back.body["number"], back.body["restores"]) == (201, 4, 2)
    assert api.get("models/offers/rollout").body["allocation_hex"] == before
    assert api.post("models/offers/rollout/go-back", {"number": 2}).fields == ["number"]
    assert api.post("models/offers/rollout/go-back", {"number": 99}).fields == ["number"]
    assert api.get("models/offers/rollout/revisions/99/effect").code == "not_found"
    assert api.get("models/offers/rollout/revisions/99").code == "not_found"


def test_new_phase__assigns_everybody_anew(offers: RecommendationModel, api: ApiClient) -> None:
    reweight(api, A=5000, B=5000)
    before = api.get("models/offers/rollout").body

    phase = api.post("models/offers/rollout/new-phase", {"reason": "November test"})
    after = api.get("models/offers/rollout").body
    other = api.post("models/offers/rollout/new-phase", {"weights_bp": {"C": 10_000}})

    assert (phase.status, phase.body["phase"], phase.body["weights_bp"]) == (201, 2, {"A": 5000, "B": 5000})
    assert after["salt"] != before["salt"]
    assert (other.body["phase"], other.body["weights_bp"]) == (3, {"C": 10_000})


def test_switch_off__others_take_over_and_going_back_undoes_it(
    studio: Tenant, offers: RecommendationModel, api: ApiClient
) -> None:
    reweight(api, A=6000, B=3000, C=1000)
    before = api.get("models/offers/rollout").body["allocation_hex"]

    off = api.post("models/offers/rollout/switch-off", {"version": "C", "reason": "It is broken"})

    assert (off.status, off.body["weights_bp"], off.body["moved_bp"]) == (201, {"A": 6667, "B": 3333}, 1000)
    assert AuditEntry.objects.for_tenant(studio).get(action="rollout.switch_off").reason == "It is broken"
    assert api.post("models/offers/rollout/switch-off", {"version": "C"}).fields == ["version"]
    assert api.post("models/offers/rollout/switch-off", {"version": "D"}).fields == ["version"]
    api.post("models/offers/rollout/go-back", {"number": 2})
    assert api.get("models/offers/rollout").body["allocation_hex"] == before


def test_serve_default__to_everybody_and_no_more__is_said_everywhere(
    studio: Tenant, offers: RecommendationModel, api: ApiClient
) -> None:
    effect = api.get("models/offers/rollout/serve-default/effect").body
    assert effect["sentence"] == "100 % of keys get no recommendation. Layout 0 has no default."

    stopped = api.post("models/offers/rollout/serve-default", {"reason": "It is broken"})

    assert (stopped.status, stopped.body["serves_default"], stopped.body["moved_bp"]) == (201, True, 0)
    assert api.get("models/offers/rollout").body["serves_default"] is True
    assert AuditEntry.objects.for_tenant(studio).get(action="rollout.serve_default").reason == "It is broken"
    assert api.post("models/offers/rollout/serve-default", {}).fields == ["serves_default"]
    again = api.post("models/offers/rollout/serve-default", {"serves_default": False})
    assert (again.status, again.body["serves_default"]) == (201, False)


@pytest.mark.parametrize(
    ("operation", "body"),
    [
        ("reweight", {"weights_bp": {"A": 5000, "B": 5000}}),
        ("switch-off", {"version": "A"}),
        ("serve-default", {}),
        ("go-back", {"number": 1}),
        ("new-phase", {}),
    ],
)
def test_change__based_on_an_older_revision__saves_nothing(
    studio: Tenant, offers: RecommendationModel, api: ApiClient, operation: str, body: dict[str, Any]
) -> None:
    reweight(api, A=6000, B=4000)
    address = f"models/offers/rollout/{operation}"

    late = api.post(address, {**body, "based_on": 1})

    assert (late.status, late.code) == (409, "conflict")
    assert RolloutRevision.objects.for_tenant(studio).count() == 2
    assert api.post(address, {**body, "based_on": 2}).status == 201


@pytest.mark.parametrize(
    ("default", "answer"),
    [(None, "no recommendation"), (DEFAULT_ANSWER, "the default answer")],
    ids=["204", "default"],
)
def test_weights__with_a_caution__are_saved_only_if_the_caller_means_them(
    studio: Tenant, offers: RecommendationModel, api: ApiClient, default: dict[str, Any] | None, answer: str
) -> None:
    offers.layouts.update(default_answer=default)
    words = f"B was never loaded. Its keys would get {answer}."
    body = {"weights_bp": {"A": 5000, "B": 5000}}

    preview = api.post("models/offers/rollout/preview", body)
    careful = api.post("models/offers/rollout/reweight", {**body, "despite_cautions": False})

    assert [caution["sentence"] for caution in preview.body["cautions"]] == [words]
    assert (careful.status, careful.code, careful.fields) == (422, "refused", ["despite_cautions"])
    assert f"{words} Nothing was saved." in repr(careful.body)
    assert RolloutRevision.objects.for_tenant(studio).count() == 1
    assert api.post("models/offers/rollout/reweight", {**body, "despite_cautions": True}).status == 201
    back = api.post("models/offers/rollout/reweight", {"weights_bp": {"A": 5000, "C": 5000}})
    assert back.status == 201


def test_weights__without_a_caution__are_saved_by_the_careful_too(
    studio: Tenant, offers: RecommendationModel, api: ApiClient
) -> None:
    reweight(api, A=4000, B=6000)
    table = TableFactory.create(
        load__version=Version.objects.for_tenant(studio).get(name="A"), load__started_at=timezone.now()
    )
    table.version.active_table = table
    table.version.save()

    saved = api.post(
        "models/offers/rollout/reweight", {"weights_bp": {"A": 7000, "B": 3000}, "despite_cautions": False}
    )

    assert saved.status == 201


def test_new_phase__effect__is_said_before(offers: RecommendationModel, api: ApiClient) -> None:
    reweight(api, A=5000, B=5000)

    effect = api.get("models/offers/rollout/new-phase/effect").body

    assert (effect["is_new_phase"], effect["moved_bp"]) == (True, 5000)
    assert effect["sentence"].startswith("About 50 %")


def test_history__newest_first_and_paged(offers: RecommendationModel, api: ApiClient) -> None:
    for bp in (9000, 8000, 7000, 6000):
        reweight(api, A=bp, B=10_000 - bp)

    rows = api.every("models/offers/rollout/revisions", limit=2)

    assert [row["number"] for row in rows] == [5, 4, 3, 2, 1]
    assert rows[0]["weights_bp"] == {"A": 6000, "B": 4000}
    assert "allocation_hex" not in rows[0]
    assert api.get("models/offers/rollout/revisions?since=2999-01-01T00:00:00Z").body["results"] == []
