"""Loads through the API: starting one, watching it, reading its report."""

from __future__ import annotations

import socket
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from models_registry.models import Load, LoadState, Version
from tenants.models import AuditEntry, Scope, Tenant, User
from tests.factories import SOME_TIME, LoadFactory, ModelFactory, SourceFactory, TableFactory, VersionFactory
from tests.integration.api_client import ApiClient, token_client

REPORT = {
    "checks": [{"name": "offer_id: range", "passed": False, "count": 3, "words": "3 rows", "samples": []}],
    "notes": [],
    "stages": [],
}


@pytest.fixture
def version(studio: Tenant) -> Version:
    model = ModelFactory.create(tenant=studio, slug="offers")
    return SourceFactory.create(version=VersionFactory.create(model=model, name="v1")).version


@pytest.mark.django_db(transaction=True)
def test_load__started__waits_in_the_queue_for_a_worker(
    studio: Tenant, version: Version, api: ApiClient, celery_queue: Callable[[], list[tuple[str, list[Any]]]]
) -> None:
    started = api.post("models/offers/versions/v1/loads")

    assert started.status == 201
    assert started.headers["Location"] == "/api/v1/models/offers/versions/v1/loads/1"
    row = Load.objects.for_tenant(studio).get()
    assert celery_queue() == [("loading.run", [row.pk])]
    assert (started.body["state"], started.body["is_finished"], started.body["fence"]) == ("queued", False, 1)
    assert started.body["requested_by"].startswith("Airflow (at_")
    assert started.body["source"] == {"kind": "parquet", "location": "/srv/tables/offers.parquet"}
    assert api.get(started.headers["Location"]).body == started.body


@pytest.mark.django_db(transaction=True)
def test_load__started_with_a_key_twice__is_one_load(
    studio: Tenant, version: Version, api: ApiClient, celery_queue: Callable[[], list[tuple[str, list[Any]]]]
) -> None:
    first = api.post("models/offers/versions/v1/loads", key="2026-11-01T04:00")
    second = api.post("models/offers/versions/v1/loads", key="2026-11-01T04:00")

    assert second.body == first.body
    assert len(celery_queue()) == 1
    assert Load.objects.for_tenant(studio).count() == 1


@pytest.mark.django_db
@pytest.mark.usefixtures("broker_away")
@pytest.mark.parametrize("state", [LoadState.REJECTED, LoadState.FAILED, LoadState.CANCELLED])
def test_load__ended_without_a_table_since__is_started_anew_by_the_same_key(
    studio: Tenant, version: Version, api: ApiClient, state: LoadState
) -> None:
    path, body = "models/offers/versions/v1/loads", {"rows_per_second_limit": 1000}
    assert api.post(path, body, key="2026-11-01").body["fence"] == 1
    Load.objects.for_tenant(studio).update(state=state, finished_at=timezone.now())

    again, retry = (api.post(path, body, key="2026-11-01") for _ in range(2))

    assert (again.status, again.body["fence"], again.body["state"]) == (201, 2, "queued")
    assert "Idempotency-Replayed" not in again.headers
    assert retry.body == again.body
    assert retry.headers["Idempotency-Replayed"] == "true"
    assert api.post(path, key="2026-11-01").code == "idempotency_key_reused"
    assert Load.objects.for_tenant(studio).count() == 2


@pytest.mark.django_db
@pytest.mark.usefixtures("broker_away")
@pytest.mark.parametrize("state", [LoadState.EXTRACTING, LoadState.ACTIVE, LoadState.SUPERSEDED])
def test_load__that_runs_or_was_served__is_not_started_anew_by_the_same_key(
    studio: Tenant, version: Version, api: ApiClient, state: LoadState
) -> None:
    path = "models/offers/versions/v1/loads"
    first = api.post(path, key="k")
    ended = timezone.now() if state == LoadState.ACTIVE else None
    Load.objects.for_tenant(studio).update(state=state, finished_at=ended)

    assert first.status == 201
    assert api.post(path, key="k").body == first.body
    assert Load.objects.for_tenant(studio).count() == 1


@pytest.mark.django_db
@pytest.mark.usefixtures("broker_away")
def test_load__that_waived_and_failed_since__is_started_anew_by_the_same_key(
    studio: Tenant, version: Version, owner: User
) -> None:
    waivable = {**REPORT["checks"][0], "may_be_waived": True}
    LoadFactory.create(version=version, fence=1, state=LoadState.REJECTED, report={**REPORT, "checks": [waivable]})
    Version.objects.for_tenant(studio).update(last_fence=1)
    person, path = ApiClient(person=owner), "models/offers/versions/v1/loads/1/activate-anyway"
    first = person.post(path, {"reason": "Fewer countries"}, key="k")
    Load.objects.for_tenant(studio).filter(fence=2).update(state=LoadState.FAILED, finished_at=timezone.now())

    again = person.post(path, {"reason": "Fewer countries"}, key="k")

    assert (first.status, first.body["fence"]) == (201, 2)
    assert (again.status, again.body["fence"], again.body["accepts"]) == (201, 3, 1)


@pytest.mark.django_db
@pytest.mark.usefixtures("broker_away")
def test_load__cancelled__says_who_and_that_nobody_should_ask_again(
    studio: Tenant, version: Version, api: ApiClient
) -> None:
    path = "models/offers/versions/v1/loads"
    api.post(path)

    answer = api.post(f"{path}/1/cancel", {"reason": "The table is written again at noon"})

    assert (answer.status, answer.body["state"], answer.body["is_finished"]) == (200, "cancelled", True)
    assert (answer.body["problem_code"], answer.body["may_be_retried"]) == ("cancelled", False)
    assert answer.body["problem"].startswith("Airflow (at_")
    assert (
        AuditEntry.objects.for_tenant(studio).get(action="load.cancel").reason == "The table is written again at noon"
    )
    again = api.post(f"{path}/1/cancel")
    assert (again.status, again.body["detail"]) == (422, "Load 1 has already ended: cancelled.")


@pytest.mark.django_db
@pytest.mark.usefixtures("broker_away")
def test_load__failed_for_want_of_a_file__may_be_retried(studio: Tenant, version: Version, api: ApiClient) -> None:
    LoadFactory.create(version=version, state=LoadState.FAILED, problem="No file.", problem_code="source_missing")
    LoadFactory.create(version=version, state=LoadState.FAILED, problem="Of an older release.")

    old, new = api.get("models/offers/versions/v1/loads").body["results"]

    assert (new["problem_code"], new["may_be_retried"]) == ("source_missing", True)
    assert (old["problem_code"], old["may_be_retried"]) == ("", False)


@pytest.mark.django_db
@pytest.mark.usefixtures("broker_away")
def test_load__with_a_source__reads_it_and_leaves_the_versions(
    studio: Tenant, version: Version, api: ApiClient
) -> None:
    tuesday = {"kind": "parquet", "location": "/srv/tables/tuesday.parquet"}

    started = api.post("models/offers/versions/v1/loads", {"source": tuesday, "dry_run": True})
    usual = api.post("models/offers/versions/v1/loads")

    assert (started.status, started.body["source"], started.body["is_dry_run"]) == (201, tuesday, True)
    assert usual.body["source"] == {"kind": "parquet", "location": "/srv/tables/offers.parquet"}
    assert api.get("models/offers/versions/v1").body["source"] == usual.body["source"]
    entry = AuditEntry.objects.for_tenant(studio).get(summary__contains="of its own")
    assert (entry.action, (entry.after or {})["source"]) == ("load.request", tuesday)
    assert entry.summary == "Asked for a dry run, load 1, of “offers/v1” from a source of its own."


@pytest.mark.django_db
def test_load__with_a_source_that_the_studio_may_not_read__is_refused(version: Version, api: ApiClient) -> None:
    path = "models/offers/versions/v1/loads"

    outside = api.post(path, {"source": {"kind": "parquet", "location": "/etc/rows.parquet"}})
    dataset = api.post(path, {"source": {"kind": "bigquery_table", "location": "other.private.rows"}})

    assert (outside.status, outside.code, outside.fields) == (422, "refused", ["source.location"])
    assert (dataset.status, dataset.code) == (422, "refused")
    assert not version.loads.exists()


@pytest.mark.django_db
@pytest.mark.usefixtures("broker_away")
def test_load__with_a_source__needs_the_scope_that_sets_one(studio: Tenant, version: Version) -> None:
    loader, path = token_client(studio, [Scope.LOADS_RUN]), "models/offers/versions/v1/loads"

    refused = loader.post(path, {"source": {"kind": "parquet", "location": "/srv/tables/offers.parquet"}})

    assert (refused.status, refused.code) == (403, "not_allowed")
    assert not version.loads.exists()
    assert loader.post(path).status == 201


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("broker_away")
def test_load__broker_away__waits_all_the_same(version: Version, api: ApiClient) -> None:
    assert api.post("models/offers/versions/v1/loads").body["state"] == "queued"


@pytest.mark.django_db(transaction=True)
def test_load__broker_hangs__is_asked_once_and_the_load_waits(
    version: Version, api: ApiClient, broker_hangs: list[socket.socket]
) -> None:
    assert api.post("models/offers/versions/v1/loads").body["state"] == "queued"
    assert len(broker_hangs) == 1


@pytest.mark.django_db
def test_load__of_a_version_without_a_source__is_refused(studio: Tenant, api: ApiClient) -> None:
    VersionFactory.create(model=ModelFactory.create(tenant=studio, slug="offers"), name="v1")

    assert api.post("models/offers/versions/v1/loads").code == "refused"


@pytest.mark.django_db
def test_load__with_something_in_its_body__is_invalid(version: Version, api: ApiClient) -> None:
    unknown = api.post("models/offers/versions/v1/loads", {"dry": True})
    no_limit = api.post("models/offers/versions/v1/loads", {"rows_per_second_limit": 0})

    assert (unknown.code, unknown.fields) == ("invalid", ["dry"])
    assert (no_limit.code, no_limit.fields) == ("invalid", ["rows_per_second_limit"])


@pytest.mark.django_db
@pytest.mark.usefixtures("celery_queue")
def test_load__dry_run_with_a_limit__says_both(studio: Tenant, version: Version, api: ApiClient) -> None:
    answer = api.post("models/offers/versions/v1/loads", {"dry_run": True, "rows_per_second_limit": 5000})

    assert (answer.body["is_dry_run"], answer.body["rows_per_second_limit"]) == (True, 5000)
    load = Load.objects.for_tenant(studio).get()
    assert (load.is_dry_run, load.rows_per_second_limit) == (True, 5000)


@pytest.mark.django_db
@pytest.mark.usefixtures("celery_queue")
def test_dry_run__asked_for_again_while_it_waits__is_a_limit_and_its_key_may_be_sent_again(
    studio: Tenant, version: Version, api: ApiClient
) -> None:
    path, body = "models/offers/versions/v1/loads", {"dry_run": True}
    assert api.post(path, body).status == 201

    again = api.post(path, body, key="later")

    assert (again.status, again.code) == (409, "limit_reached")
    assert again.body["detail"] == "Load 1, a dry run of “v1”, is already queued. Try again when it has started."
    Load.objects.for_tenant(studio).update(state=LoadState.EXTRACTING)
    assert api.post(path, body, key="later").status == 201


def rejected(version: Version, *, may_be_waived: bool = True) -> Load:
    report = {"checks": [{"name": "row count", "passed": False, "may_be_waived": may_be_waived}]}
    return LoadFactory.create(version=version, state=LoadState.REJECTED, report=report)


@pytest.mark.django_db
@pytest.mark.usefixtures("celery_queue")
def test_activate_anyway__of_a_comparison_that_failed__is_a_new_load_that_says_why(
    studio: Tenant, version: Version, api: ApiClient
) -> None:
    first = rejected(version)
    Version.objects.for_tenant(studio).update(last_fence=first.fence)

    answer = api.post("models/offers/versions/v1/loads/1/activate-anyway", {"reason": "Half of the countries closed"})

    assert answer.status == 201
    assert answer.headers["Location"] == "/api/v1/models/offers/versions/v1/loads/2"
    assert (answer.body["accepts"], answer.body["accept_reason"]) == (1, "Half of the countries closed")
    assert (answer.body["state"], answer.body["report"]) == ("queued", {})
    assert api.get(answer.headers["Location"]).body == answer.body


@pytest.mark.django_db
def test_activate_anyway__without_a_reason_or_of_a_hard_check_or_twice__is_refused(
    studio: Tenant, version: Version, api: ApiClient, celery_queue: object
) -> None:
    path = "models/offers/versions/v1/loads/{}/activate-anyway"
    rejected(version)
    rejected(version, may_be_waived=False)
    LoadFactory.create(version=version, state=LoadState.FAILED)
    Version.objects.for_tenant(studio).update(last_fence=3)

    assert api.post(path.format(1)).fields == ["reason"]
    assert api.post(path.format(1), {"reason": " "}).code == "refused"
    assert api.post(path.format(2), {"reason": "x"}).code == "refused"
    assert api.post(path.format(3), {"reason": "x"}).code == "refused"
    assert api.post(path.format(4), {"reason": "x"}).code == "not_found"
    assert api.post(path.format(1), {"reason": "x"}).status == 201
    assert api.post(path.format(1), {"reason": "x"}).code == "refused"


@pytest.mark.django_db
def test_activate_anyway__by_a_product_manager__is_forbidden(
    version: Version, teammate: User, owner: User, celery_queue: object
) -> None:
    rejected(version)
    Version.objects.unscoped().update(last_fence=1)
    path = "models/offers/versions/v1/loads/1/activate-anyway"

    assert ApiClient(person=teammate).post(path, {"reason": "x"}).code == "not_allowed"
    assert ApiClient(person=owner).post(path, {"reason": "x"}).status == 201


@pytest.mark.django_db
def test_load__of_a_schedule_or_a_repair__says_so(version: Version, api: ApiClient) -> None:
    table = TableFactory.create(load=LoadFactory.create(version=version, state=LoadState.ACTIVE))
    LoadFactory.create(version=version, scheduled_for=SOME_TIME, repairs=table)

    load = api.get("models/offers/versions/v1/loads/2").body

    assert (load["scheduled_for"], load["is_repair"]) == ("2026-11-01T12:00:00Z", True)


@pytest.mark.django_db
def test_load__rejected__shows_its_report_alone_and_not_in_lists(version: Version, api: ApiClient) -> None:
    LoadFactory.create(version=version, state=LoadState.REJECTED, report=REPORT, problem="3 rows are out of range.")

    [listed] = api.get("models/offers/versions/v1/loads").body["results"]
    read = api.get("models/offers/versions/v1/loads/1").body

    assert (read["state"], read["is_finished"], read["problem"]) == ("rejected", True, "3 rows are out of range.")
    assert read["report"] == REPORT
    assert {**listed, "report": REPORT} == read


@pytest.mark.django_db
def test_load__that_is_none__is_missing(version: Version, api: ApiClient) -> None:
    assert api.get("models/offers/versions/v1/loads/9").code == "not_found"
    assert api.get("models/offers/versions/v2/loads").code == "not_found"
    assert api.get("models/others/versions/v1/loads").code == "not_found"


@pytest.mark.django_db
def test_loads__filtered__by_state_model_version_and_time(studio: Tenant, version: Version, api: ApiClient) -> None:
    other = VersionFactory.create(model=ModelFactory.create(tenant=studio, slug="levels"), name="v2")
    old = LoadFactory.create(version=version, state=LoadState.FAILED)
    LoadFactory.create(version=version)
    LoadFactory.create(version=other, state=LoadState.ACTIVE)
    Load.objects.for_tenant(studio).filter(pk=old.pk).update(created_at=timezone.now() - timedelta(days=2))
    yesterday = (timezone.now() - timedelta(days=1)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def found(query: str) -> list[tuple[str, str, int]]:
        rows = api.every(f"loads?{query}", limit=2)
        return [(row["model"], row["version"], row["fence"]) for row in rows]

    assert found("") == [("levels", "v2", 1), ("offers", "v1", 2), ("offers", "v1", 1)]
    assert found("state=failed") == [("offers", "v1", 1)]
    assert found("model=offers") == [("offers", "v1", 2), ("offers", "v1", 1)]
    assert found("version=v2") == [("levels", "v2", 1)]
    assert found("model=offers&version=v2") == []
    assert found(f"since={yesterday}") == [("levels", "v2", 1), ("offers", "v1", 2)]
    assert api.get("loads?state=lost").fields == ["state"]


@pytest.mark.django_db
def test_load__asked_for_by_a_person__names_them(version: Version, teammate: User, valkey: object) -> None:
    answer = ApiClient(person=teammate).post("models/offers/versions/v1/loads")

    assert answer.body["requested_by"] == teammate.username
