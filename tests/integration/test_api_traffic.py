"""What was answered, how far a change has come, and why a player gets what they get, through the API."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any

import pytest
from django.utils import timezone

from models_registry.catalogue.services import model_create, version_create
from models_registry.models import RecommendationModel, TrafficSource, TrafficSpan, Version
from models_registry.publishing import publish_tenant
from models_registry.rollouts.testers import set_tester
from tenants.models import Tenant
from tests.factories import (
    DEFAULT_ANSWER,
    LAYOUT,
    CredentialFactory,
    CredentialUseFactory,
    TrafficFactory,
    TrafficGapFactory,
)
from tests.integration.api_client import ApiClient

pytestmark = pytest.mark.django_db


@pytest.fixture
def offers(studio: Tenant) -> RecommendationModel:
    return model_create(
        tenant=studio,
        slug="offers",
        name="Offers",
        key_fields=["player_id", "country"],
        unit_field="player_id",
        layout=LAYOUT,
        default_answer=DEFAULT_ANSWER,
        actor=None,
    )


@pytest.fixture
def versions(offers: RecommendationModel) -> list[Version]:
    return [
        version_create(
            model=offers, name=name, source_kind="parquet", source_location="/srv/tables/x.parquet", actor=None
        )
        for name in ("A", "B")
    ]


def hour(ago: int) -> datetime:
    return timezone.now().replace(minute=0, second=0, microsecond=0) - timedelta(hours=ago)


# --- Traffic --------------------------------------------------------------------------------------------------------


def test_traffic__read__has_every_version_its_share_and_points(versions: list[Version], api: ApiClient) -> None:
    first, _ = versions
    five = TrafficSpan.FIVE_MINUTES
    TrafficFactory.create(version=first, span=five, starts_at=hour(1), source=TrafficSource.TABLE, answers=30)
    TrafficFactory.create(version=first, span=five, starts_at=hour(1), source=TrafficSource.DEFAULT, answers=10)
    TrafficFactory.create(version=first, span=TrafficSpan.HOUR, starts_at=hour(2), answers=7)

    body = api.get("models/offers/traffic").body

    a, b = body["versions"]
    assert (a["version"], a["answers_24h"], a["share_24h"], a["default_share_24h"]) == ("A", 40, 1.0, 0.25)
    assert (b["version"], b["answers_24h"], b["share_24h"], b["default_share_24h"]) == ("B", 0, None, None)
    assert body["span_seconds"] == 3600
    assert len(a["points"]) in (24, 25)
    assert [point["answers"] for point in a["points"] if point["answers"]] == [7]
    short = api.get("models/offers/traffic?span_seconds=300").body["versions"][0]["points"]
    assert sum(point["answers"] for point in short) == 40


def test_traffic__counts_were_lost__names_the_time(versions: list[Version], api: ApiClient) -> None:
    TrafficGapFactory.create(starts_at=hour(3), ends_at=hour(2))
    TrafficGapFactory.create(starts_at=hour(50), ends_at=hour(49))

    [gap] = api.get("models/offers/traffic").body["gaps"]

    assert datetime.fromisoformat(gap["starts_at"]) == hour(3)
    assert datetime.fromisoformat(gap["ends_at"]) == hour(2)


def test_traffic__a_minute__is_a_span_too(versions: list[Version], api: ApiClient) -> None:
    at = timezone.now().replace(second=0, microsecond=0) - timedelta(minutes=3)
    TrafficFactory.create(version=versions[0], span=TrafficSpan.MINUTE, starts_at=at, answers=9)
    since = (timezone.now() - timedelta(minutes=10)).strftime("%Y-%m-%dT%H:%M:%SZ")

    points = api.get(f"models/offers/traffic?span_seconds=60&since={since}").body["versions"][0]["points"]

    assert [point["answers"] for point in points if point["answers"]] == [9]
    assert len(points) in (10, 11, 12)


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("span_seconds=61", "span_seconds"),
        ("span_seconds=300&since=2020-01-01T00:00:00Z", "since"),
        ("since=2999-01-01T00:00:00Z", "since"),
        ("since=2026-11-02T00:00:00Z&until=2026-11-01T00:00:00Z", "since"),
        ("until=0001-01-01T00:00:00Z", "until"),
    ],
)
def test_traffic__time_that_will_not_do__is_named(
    versions: list[Version], api: ApiClient, query: str, field: str
) -> None:
    answer = api.get(f"models/offers/traffic?{query}")

    assert (answer.code, answer.fields) == ("invalid", [field])


@pytest.mark.parametrize(
    "query", ["since=0001-01-01T00:00:00Z&until=0001-01-01T05:00:00Z", "until=9999-12-31T23:59:59Z"]
)
def test_traffic__time_without_any__is_empty(versions: list[Version], api: ApiClient, query: str) -> None:
    answer = api.get(f"models/offers/traffic?{query}")

    assert (answer.status, answer.body["versions"][0]["points"]) == (200, [])


def test_credential__shows_its_requests_in_24_hours(
    studio: Tenant, offers: RecommendationModel, api: ApiClient
) -> None:
    credential = CredentialFactory.create(tenant=studio)
    for ago, requests in ((1, 5), (2, 7), (30, 1000)):
        CredentialUseFactory.create(credential=credential, starts_at=hour(ago), requests=requests)
    unused = CredentialFactory.create(tenant=studio)
    offers.credentials.add(credential)

    [newer, older] = api.get("credentials").body["results"]

    assert (newer["client_id"], newer["requests_24h"]) == (unused.client_id, 0)
    assert (older["client_id"], older["requests_24h"]) == (credential.client_id, 12)
    assert api.get(f"credentials/{credential.client_id}").body["requests_24h"] == 12
    assert api.get("credentials?model=offers").body["results"] == [older]


# --- Propagation ----------------------------------------------------------------------------------------------------


def test_propagation__nobody_serves__is_on_none_of_none(studio: Tenant, api: ApiClient) -> None:
    assert api.get("propagation").body == {
        "snapshot_revision": 0,
        "published_at": None,
        "processes": 0,
        "silent": 0,
        "live_on": 0,
        "seconds": None,
        "behind": [],
    }


def test_propagation__redis_away__says_that_it_is_not_known(studio: Tenant, api: ApiClient, settings: Any) -> None:
    settings.TABLES_REDIS_URL = "redis://127.0.0.1:1/0"

    body = api.get("propagation").body

    assert (body["processes"], body["live_on"]) == (None, None)


# --- Why ------------------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_explain__whole_key__gives_version_and_answer(studio: Tenant, versions: list[Version], api: ApiClient) -> None:
    publish_tenant(studio.pk)

    body = api.post("models/offers/explain", {"key": {"player_id": "p1", "country": "DE"}}).body

    assert 0 <= body["slot"] < 10_000
    assert (body["unit"], body["version"], body["is_override"], body["is_published"]) == ("p1", "A", False, True)
    assert body["serves_default"] is False
    assert body["answer"] == {
        "source": "default",
        "recommendation": DEFAULT_ANSWER,
        "table_id": None,
        "is_previous_table": False,
    }


def test_explain__part_of_the_key__gives_the_version_alone(
    offers: RecommendationModel, versions: list[Version], api: ApiClient
) -> None:
    set_tester(model=offers, unit="tester", version=versions[1], actor=None)

    body = api.post("models/offers/explain", {"key": {"player_id": "tester"}}).body

    assert (body["version"], body["is_override"], body["answer"]) == ("B", True, None)


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "refused", "key.player_id"),
        ({"key": {"country": "DE"}}, "refused", "key.player_id"),
        ({"key": {"player_id": "a\nb"}}, "refused", "key.player_id"),
        ({"key": {"colour": "red"}}, "refused", "key.colour"),
        ({"key": {"player_id": 7}}, "invalid", "key.player_id"),
        ({"key": ["p1"]}, "invalid", "key"),
        ({"key": {"player_id": "p1"}, "unit": "é" * 200}, "refused", "unit"),
    ],
)
def test_explain__value_that_will_not_do__is_named(
    versions: list[Version], api: ApiClient, body: dict[str, Any], code: str, field: str
) -> None:
    answer = api.post("models/offers/explain", body)

    assert (answer.code, answer.fields) == (code, [field])


def test_explain__model_without_versions__is_refused(offers: RecommendationModel, api: ApiClient) -> None:
    assert api.post("models/offers/explain", {"key": {"player_id": "p1"}}).code == "refused"
