"""Models, layouts, versions and overrides through the API."""

from __future__ import annotations

from typing import Any

import pytest

from models_registry.catalogue.services import model_create, version_create
from models_registry.models import LoadState, RecommendationModel, Source, Version
from tenants.models import AuditEntry, Tenant
from tests.factories import DEFAULT_ANSWER, LAYOUT, LoadFactory, TableFactory
from tests.integration.api_client import ApiClient

pytestmark = pytest.mark.django_db

SOURCE = {"kind": "parquet", "location": "/srv/tables/offers.parquet"}
LIMITS = {"max_row_count_change": 0.3, "max_psi": 0.25, "min_coverage": 0.5}
NEW: dict[str, Any] = {
    "slug": "offers",
    "name": "Offers",
    "key_fields": ["player_id"],
    "unit_field": "player_id",
    "layout": LAYOUT,
    "default_answer": DEFAULT_ANSWER,
    "max_client_age_seconds": 90,
}


@pytest.fixture
def offers(studio: Tenant) -> RecommendationModel:
    values = {name: value for name, value in NEW.items() if name != "max_client_age_seconds"}
    return model_create(tenant=studio, actor=None, **values)


@pytest.fixture
def v1(offers: RecommendationModel) -> Version:
    return version_create(
        model=offers, name="v1", source_kind=SOURCE["kind"], source_location=SOURCE["location"], actor=None
    )


# --- Models and layouts ---------------------------------------------------------------------------------------------


def test_model__made__is_as_it_was_asked_for(studio: Tenant, api: ApiClient) -> None:
    made = api.post("models", NEW)

    assert made.status == 201
    assert made.headers["Location"] == "/api/v1/models/offers"
    created_at = made.body.pop("created_at")
    assert made.body == {**NEW, "default_revision": 1, "layout_revision": 0, **LIMITS}
    assert created_at.endswith("Z")
    assert api.get("/api/v1/models/offers").body == {**made.body, "created_at": created_at}
    row = RecommendationModel.objects.for_tenant(studio).get()
    assert row.layouts.get().fields == LAYOUT


def test_model__layout_of_every_kind__is_taken_and_given_back(api: ApiClient) -> None:
    layout = [
        {"name": "a", "type": "bool", "optional": True},
        {"name": "b", "type": "uint", "min": -5, "max": 9007199254740000},
        {"name": "c", "type": "enum", "values": ["", "x"]},
        {"name": "d", "type": "decimal", "min": 0.5, "max": 2, "step": 0.25},
        {"name": "e", "type": "string", "max_bytes": 12},
        {"name": "f", "type": "list", "max_items": 3, "item": {"type": "enum", "values": ["x", "y"]}},
    ]

    made = api.post("models", {**NEW, "layout": layout, "default_answer": None})

    assert made.status == 201, made
    assert made.body["layout"] == layout


@pytest.mark.parametrize(
    ("changes", "status", "field"),
    [
        ({"slug": "not a slug"}, 422, "slug"),
        ({"slug": ""}, 400, "slug"),
        ({"key_fields": []}, 400, "key_fields"),
        ({"key_fields": ["model"]}, 422, "key_fields"),
        ({"layout": []}, 400, "layout"),
        ({"layout": [{"name": "a", "type": "uint"}]}, 422, "layout"),
        ({"layout": [{"name": "a", "type": "uint", "min": "0", "max": 5}]}, 400, "layout.0.min"),
        ({"layout": [{"name": "a", "type": "bool", "optional": "yes"}]}, 400, "layout.0.optional"),
        ({"default_answer": {"offer_id": 5000, "discount": 0.1}}, 422, "default_answer"),
        ({"default_answer": ["offer_id"]}, 400, "default_answer"),
        ({"max_client_age_seconds": 0}, 400, "max_client_age_seconds"),
        ({"max_client_age_seconds": "60"}, 400, "max_client_age_seconds"),
        ({"max_client_age_seconds": True}, 400, "max_client_age_seconds"),
    ],
)
def test_model__value_that_will_not_do__is_named(
    studio: Tenant, api: ApiClient, changes: dict[str, Any], status: int, field: str
) -> None:
    answer = api.post("models", {**NEW, **changes})

    assert (answer.status, answer.code) == (status, "invalid" if status == 400 else "refused")
    assert answer.fields == [field]
    assert not RecommendationModel.objects.for_tenant(studio).exists()


def test_model__taken_slug__is_refused(offers: RecommendationModel, api: ApiClient) -> None:
    assert api.post("models", NEW).fields == ["slug"]


def test_model__changed__keeps_the_rest(offers: RecommendationModel, api: ApiClient) -> None:
    answer = api.patch("models/offers", {"max_row_count_change": 0.5, "max_client_age_seconds": 30})

    assert answer.status == 200
    assert (answer.body["name"], answer.body["max_row_count_change"]) == ("Offers", 0.5)
    assert answer.body["max_client_age_seconds"] == 30


@pytest.mark.parametrize("body", [{}, {"slug": "other"}, {"key_fields": ["x"]}, {"name": None}])
def test_model__change_that_is_none__is_invalid(
    offers: RecommendationModel, api: ApiClient, body: dict[str, Any]
) -> None:
    assert api.patch("models/offers", body).code == "invalid"


def test_default__set_and_taken_away__counts_its_revisions(offers: RecommendationModel, api: ApiClient) -> None:
    better = {"offer_id": 2, "discount": 0.1}

    changed = api.put("models/offers/default", {"default_answer": better})
    none = api.put("models/offers/default", {"default_answer": None})

    assert (changed.body["default_answer"], changed.body["default_revision"]) == (better, 2)
    assert (none.body["default_answer"], none.body["default_revision"]) == (None, 3)
    assert api.put("models/offers/default", {"default_answer": {"offer_id": 2}}).fields == ["default_answer"]


def test_default__of_an_older_layout__is_changed_by_its_revision(offers: RecommendationModel, api: ApiClient) -> None:
    fields = [{"name": "badge", "type": "bool"}]
    refused = api.post("models/offers/layouts", {"fields": fields})
    assert (refused.status, refused.fields) == (422, ["default_answer"])
    added = api.post("models/offers/layouts", {"fields": fields, "default_answer": {"badge": True}})
    assert (added.status, added.body["default_answer"]) == (201, {"badge": True})
    old = {"offer_id": 3, "discount": 0}

    changed = api.put("models/offers/default", {"default_answer": old, "layout_revision": 0})

    assert (changed.status, changed.body["default_answer"]) == (200, {"badge": True}), "that of the newest layout"
    assert [api.get(f"models/offers/layouts/{n}").body["default_answer"] for n in (0, 1)] == [old, {"badge": True}]
    unknown = api.put("models/offers/default", {"default_answer": None, "layout_revision": 2})
    assert (unknown.status, unknown.fields) == (422, ["layout_revision"])


def test_layout__added__is_the_newest(offers: RecommendationModel, api: ApiClient) -> None:
    wider = [*LAYOUT, {"name": "extra", "type": "bool", "optional": True}]

    added = api.post("models/offers/layouts", {"fields": wider})

    assert (added.status, added.body["revision"], added.body["fields"]) == (201, 1, wider)
    assert added.headers["Location"] == "/api/v1/models/offers/layouts/1"
    assert api.get("models/offers").body["layout_revision"] == 1
    assert [row["revision"] for row in api.get("models/offers/layouts").body["results"]] == [1, 0]
    assert api.get("models/offers/layouts/0").body["fields"] == LAYOUT
    assert api.get("models/offers/layouts/2").code == "not_found"
    same = api.post("models/offers/layouts", {"fields": wider})
    assert (same.code, same.fields) == ("refused", ["fields"])
    assert api.post("models/offers/layouts", {"fields": [{"name": "a", "type": "enum"}]}).fields == ["fields"]


def test_models__listed__with_their_newest_layouts(studio: Tenant, api: ApiClient) -> None:
    for slug in ("c", "a", "b"):
        model = model_create(tenant=studio, slug=slug, name=slug, key_fields=["k"], layout=LAYOUT, actor=None)
        model.layouts.create(revision=1, fields=LAYOUT[:1])

    rows = api.every("models", limit=2)

    assert [row["slug"] for row in rows] == ["a", "b", "c"]
    assert all((row["layout_revision"], row["layout"]) == (1, LAYOUT[:1]) for row in rows)


# --- Versions -------------------------------------------------------------------------------------------------------


def test_version__made__gets_all_units_if_it_is_the_first(offers: RecommendationModel, api: ApiClient) -> None:
    first = api.post("models/offers/versions", {"name": "2026-11-a", "source": SOURCE})
    second = api.post("models/offers/versions", {"name": "2026-11-b", "source": SOURCE, "layout_revision": 0})

    assert first.status == 201
    assert first.headers["Location"] == "/api/v1/models/offers/versions/2026-11-a"
    assert {**first.body, "created_at": None} == {
        "name": "2026-11-a",
        "model": "offers",
        "code": 0,
        "layout_revision": 0,
        "weight_bp": 10_000,
        "source": SOURCE,
        "active_table": None,
        "previous_table": None,
        "older_table": None,
        "schedule": None,
        "freshness_minutes": None,
        "is_late": False,
        "last_fence": 0,
        "archived_at": None,
        "created_at": None,
    }
    assert (second.body["code"], second.body["weight_bp"]) == (1, 0)
    assert api.get("models/offers/versions").body["results"] == [first.body, second.body]


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"name": "no spaces", "source": SOURCE}, "refused", "name"),
        ({"name": "v1", "source": SOURCE}, "refused", "name"),
        ({"name": "v2"}, "invalid", "source"),
        ({"name": "v2", "source": "x"}, "invalid", "source"),
        ({"name": "v2", "source": {"kind": "csv", "location": "/srv/tables/x"}}, "invalid", "source.kind"),
        ({"name": "v2", "source": {"kind": "parquet", "location": "/etc/passwd"}}, "refused", "source.location"),
        ({"name": "v2", "source": {**SOURCE, "extra": 1}}, "invalid", "source.extra"),
        ({"name": "v2", "source": SOURCE, "layout_revision": 7}, "refused", "layout_revision"),
    ],
)
def test_version__value_that_will_not_do__is_named(
    v1: Version, api: ApiClient, body: dict[str, Any], code: str, field: str
) -> None:
    answer = api.post("models/offers/versions", body)

    assert (answer.code, answer.fields) == (code, [field])


def test_source__changed__counts_from_the_next_load_on(v1: Version, studio: Tenant, api: ApiClient) -> None:
    table = {"kind": "bigquery_table", "location": "analytics.recommendations.offers"}

    answer = api.put("models/offers/versions/v1/source", table)

    assert answer.body["source"] == table
    foreign = api.put("models/offers/versions/v1/source", {"kind": "bigquery_table", "location": "a.b.c"})
    assert (foreign.code, foreign.fields) == ("refused", ["location"])
    assert Source.objects.for_tenant(studio).get().kind == "bigquery_table"


def test_version__without_a_source__has_null(v1: Version, studio: Tenant, api: ApiClient) -> None:
    Source.objects.for_tenant(studio).delete()

    assert api.get("models/offers/versions/v1").body["source"] is None
    assert api.get("models/offers/versions").body["results"][0]["source"] is None


def test_table__rolled_back__is_served_again_and_audited(v1: Version, studio: Tenant, api: ApiClient) -> None:
    newer, older = (
        TableFactory.create(load=LoadFactory.create(version=v1, fence=fence, state=LoadState.ACTIVE))
        for fence in (2, 1)
    )
    Version.objects.for_tenant(studio).update(active_table=newer, previous_table=older, last_fence=2, active_fence=2)

    answer = api.post("models/offers/versions/v1/roll-back", {"reason": "Prices were wrong"})

    assert answer.status == 200
    assert answer.body["active_table"]["table_id"] == older.table_id
    assert answer.body["active_table"]["load_fence"] == 1
    assert answer.body["previous_table"]["table_id"] == newer.table_id
    entry = AuditEntry.objects.for_tenant(studio).get(action="table.roll_back")
    assert entry.reason == "Prices were wrong"


def test_table__nothing_to_go_back_to__is_refused(v1: Version, api: ApiClient) -> None:
    answer = api.post("models/offers/versions/v1/roll-back")

    assert (answer.status, answer.code, answer.fields) == (422, "refused", [])


# --- Testers ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ["tester-1", "with space", "a/b?c=d&e", "ünï", "..", "x" * 256])
def test_override__set_found_and_removed__whatever_the_unit(v1: Version, api: ApiClient, unit: str) -> None:
    from urllib.parse import quote  # noqa: PLC0415 - for this test alone

    made = api.put("models/offers/overrides", {"unit": unit, "version": "v1", "note": "Mara"})

    assert made.status == 200
    assert {**made.body, "created_at": None} == {"unit": unit, "version": "v1", "note": "Mara", "created_at": None}
    assert api.get("models/offers/overrides?version=v1").body["results"] == [made.body]
    assert api.get("models/offers/overrides?version=v2").body["results"] == []
    address = f"models/offers/overrides?unit={quote(unit, safe='')}"
    assert api.delete(address).status == 204
    assert api.delete(address).code == "not_found"


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({"unit": "", "version": "v1"}, "invalid", "unit"),
        ({"unit": "a\nb", "version": "v1"}, "refused", "unit"),
        ({"unit": "é" * 129, "version": "v1"}, "refused", "unit"),
        ({"unit": "u", "version": "v9"}, "refused", "version"),
        ({"unit": "u"}, "invalid", "version"),
    ],
)
def test_override__value_that_will_not_do__is_named(
    v1: Version, api: ApiClient, body: dict[str, Any], code: str, field: str
) -> None:
    answer = api.put("models/offers/overrides", body)

    assert (answer.code, answer.fields) == (code, [field])


def test_override__removal_without_a_unit__is_invalid(v1: Version, api: ApiClient) -> None:
    assert api.delete("models/offers/overrides").fields == ["unit"]
