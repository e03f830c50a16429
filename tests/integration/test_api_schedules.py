"""Schedules, freshness targets and kept tables through the API."""

from __future__ import annotations

from typing import Any

import pytest

from models_registry.models import LoadState, Schedule, Version
from tenants.models import AuditEntry, Tenant
from tests.factories import LoadFactory, ModelFactory, ScheduleFactory, SourceFactory, TableFactory, VersionFactory
from tests.integration.api_client import ApiClient

pytestmark = pytest.mark.django_db

VERSION = "models/offers/versions/v1"


@pytest.fixture
def version(studio: Tenant) -> Version:
    model = ModelFactory.create(tenant=studio, slug="offers")
    return SourceFactory.create(version=VersionFactory.create(model=model, name="v1")).version


def test_schedule__set_changed_and_removed__is_on_the_version_too(
    studio: Tenant, version: Version, api: ApiClient
) -> None:
    assert api.get(f"{VERSION}/schedule").code == "not_found"
    assert api.get(VERSION).body["schedule"] is None

    every_night = {"kind": "crontab", "crontab": "30 4 * * *", "timezone": "Europe/Berlin"}
    made = api.put(f"{VERSION}/schedule", every_night)
    assert made.status == 200
    assert made.body.items() >= {**every_night, "every_minutes": None, "is_enabled": True, "note": ""}.items()
    assert "04:30" in made.body["words"]
    assert made.body["next_run_at"].endswith("Z")
    assert api.get(f"{VERSION}/schedule").body == made.body == api.get(VERSION).body["schedule"]

    paused = api.put(f"{VERSION}/schedule", {"kind": "interval", "every_minutes": 240, "is_enabled": False}).body
    assert (paused["every_minutes"], paused["crontab"], paused["next_run_at"]) == (240, "", None)
    assert paused["words"] == "every 4 hours, switched off"

    assert api.delete(f"{VERSION}/schedule").status == 204
    assert api.delete(f"{VERSION}/schedule").code == "not_found"
    assert not Schedule.objects.for_tenant(studio).exists()
    actions = AuditEntry.objects.for_tenant(studio).order_by("pk").values_list("action", flat=True)
    assert [action for action in actions if action.startswith("schedule")] == [
        "schedule.set",
        "schedule.set",
        "schedule.remove",
    ]


@pytest.mark.parametrize(
    ("body", "code", "field"),
    [
        ({}, "invalid", "kind"),
        ({"kind": "sometimes"}, "invalid", "kind"),
        ({"kind": "interval"}, "refused", "every_minutes"),
        ({"kind": "interval", "every_minutes": 0}, "invalid", "every_minutes"),
        ({"kind": "interval", "every_minutes": "60"}, "invalid", "every_minutes"),
        ({"kind": "crontab"}, "refused", "crontab"),
        ({"kind": "crontab", "crontab": "every night"}, "refused", "crontab"),
        ({"kind": "crontab", "crontab": "0 4 31 2 *"}, "refused", "crontab"),
        ({"kind": "interval", "every_minutes": 60, "timezone": "../etc/passwd"}, "refused", "timezone"),
    ],
)
def test_schedule__that_will_not_do__names_the_field(
    version: Version, api: ApiClient, body: dict[str, Any], code: str, field: str
) -> None:
    answer = api.put(f"{VERSION}/schedule", body)

    assert (answer.code, answer.fields) == (code, [field])
    assert api.get(f"{VERSION}/schedule").code == "not_found"


def test_freshness__set_and_taken_away__decides_what_is_late(version: Version, api: ApiClient) -> None:
    TableFactory.create(load=LoadFactory.create(version=version, state=LoadState.ACTIVE))
    Version.objects.unscoped().filter(pk=version.pk).update(active_table=version.tables.get(), last_fence=1)

    assert api.get(VERSION).body["is_late"] is False
    answer = api.put(f"{VERSION}/freshness", {"freshness_minutes": 60})
    assert (answer.status, answer.body["freshness_minutes"]) == (200, 60)
    assert api.put(f"{VERSION}/freshness", {"freshness_minutes": None}).body["freshness_minutes"] is None

    assert api.put(f"{VERSION}/freshness", {}).fields == ["freshness_minutes"]
    assert api.put(f"{VERSION}/freshness", {"freshness_minutes": 10**6}).fields == ["freshness_minutes"]


def test_roll_back__to_the_older_kept_table__serves_it(studio: Tenant, version: Version, api: ApiClient) -> None:
    newest, before, oldest = (
        TableFactory.create(load=LoadFactory.create(version=version, fence=fence, state=LoadState.ACTIVE))
        for fence in (3, 2, 1)
    )
    Version.objects.for_tenant(studio).filter(pk=version.pk).update(
        active_table=newest, previous_table=before, older_table=oldest, last_fence=3, active_fence=3
    )
    assert api.get(VERSION).body["older_table"]["table_id"] == oldest.table_id

    foreign = TableFactory.create()
    for table_id in (foreign.table_id, newest.table_id, "nothing"):
        answer = api.post(f"{VERSION}/roll-back", {"table": table_id})
        assert (answer.code, answer.fields) == ("refused", ["table"])
    answer = api.post(f"{VERSION}/roll-back", {"table": oldest.table_id, "reason": "Prices were wrong for two days"})

    assert answer.status == 200
    kept = [answer.body[name]["table_id"] for name in ("active_table", "previous_table", "older_table")]
    assert kept == [oldest.table_id, newest.table_id, before.table_id]


def test_versions__with_and_without_schedules__take_no_query_each(
    studio: Tenant, version: Version, api: ApiClient, django_assert_max_num_queries: Any
) -> None:
    for number in range(20):
        other = VersionFactory.create(model=version.model, name=f"w{number}")
        SourceFactory.create(version=other)
        if number % 2:
            ScheduleFactory.create(version=other)

    with django_assert_max_num_queries(8):
        rows = api.get("models/offers/versions").body["results"]

    assert [row["schedule"] is None for row in rows].count(False) == 10
