"""Idempotency-Key: sent again, a request is done once and answered alike."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from datetime import timedelta
from typing import Any

import pytest
from django.db import connections
from django.db.models.signals import post_save
from django.utils import timezone

from models_registry.models import RecommendationModel
from recsite.api.idempotency import ABANDONED_AFTER, KEPT_FOR, clean_idempotency_records
from tenants.models import AuditEntry, Credential, IdempotencyRecord, Tenant, User
from tests.factories import LAYOUT, TenantFactory
from tests.integration.api_client import Answered, ApiClient, token_client
from tests.integration.test_api_strangers import operations

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

MODEL: dict[str, Any] = {"slug": "offers", "name": "Offers", "key_fields": ["player_id"], "layout": LAYOUT}


def records(studio: Tenant) -> list[IdempotencyRecord]:
    return list(IdempotencyRecord.objects.for_tenant(studio))


def test_key__sent_again__answers_alike_and_does_it_once(studio: Tenant, api: ApiClient) -> None:
    first = api.post("models", MODEL, key="publish-2026-11-01")
    second = api.post("models", MODEL, key="publish-2026-11-01")

    assert first.status == 201
    assert (second.status, second.body) == (first.status, first.body)
    assert second.headers["Location"] == first.headers["Location"] == "/api/v1/models/offers"
    assert second.headers["Content-Type"] == "application/json"
    assert second.headers["Idempotency-Replayed"] == "true"
    assert "Idempotency-Replayed" not in first.headers
    assert second.headers["Cache-Control"] == "no-store"
    assert RecommendationModel.objects.for_tenant(studio).count() == 1
    assert AuditEntry.objects.for_tenant(studio).filter(action="model.create").count() == 1


def test_key__without_one__is_done_each_time(api: ApiClient) -> None:
    assert api.post("models", MODEL).status == 201
    assert api.post("models", MODEL).code == "refused"


def test_key__with_another_body__is_refused(studio: Tenant, api: ApiClient) -> None:
    api.post("models", MODEL, key="k")

    answer = api.post("models", {**MODEL, "name": "Other"}, key="k")

    assert (answer.status, answer.code) == (422, "idempotency_key_reused")
    assert RecommendationModel.objects.for_tenant(studio).get().name == "Offers"


def test_key__after_a_refusal__may_be_sent_with_a_better_body(studio: Tenant, api: ApiClient) -> None:
    refused = api.post("models", {**MODEL, "key_fields": ["model"]}, key="k")
    mended = api.post("models", MODEL, key="k")

    assert (refused.status, refused.code) == (422, "refused")
    assert mended.status == 201
    assert len(records(studio)) == 1


@pytest.mark.parametrize("key", ["", " ", "x" * 201, "two words", "schön"])
def test_key__malformed__is_invalid(api: ApiClient, key: str) -> None:
    answer = api.post("models", MODEL, key=key)

    assert (answer.status, answer.code, answer.fields) == (400, "invalid", ["Idempotency-Key"])


def test_key__is_one_callers_and_one_addresss_own(studio: Tenant, api: ApiClient, teammate: User) -> None:
    other_token = token_client(studio)
    person = ApiClient(person=teammate)
    stranger = token_client(TenantFactory.create())

    answers = [
        client.post("models", {**MODEL, "slug": slug}, key="k")
        for client, slug in ((api, "a"), (other_token, "b"), (person, "c"), (stranger, "a"))
    ]
    layout = [{"name": "x", "type": "bool"}]
    answers += [api.post(f"models/{slug}/layouts", {"fields": layout}, key="k") for slug in ("a", "b")]

    assert [answer.status for answer in answers] == [201] * 6


@pytest.fixture
def during_the_first(api: ApiClient) -> Iterator[list[Answered]]:
    """Send the same request again while the first one is being done: when its audit entry is written."""
    answers: list[Answered] = []

    def again(sender: type[AuditEntry], instance: AuditEntry, **_: Any) -> None:
        if instance.action == "model.create" and not answers:
            answers.append(api.post("models", MODEL, key="k"))

    post_save.connect(again, sender=AuditEntry)
    yield answers
    post_save.disconnect(again, sender=AuditEntry)


def test_key__sent_again_at_the_same_time__is_a_conflict_to_wait_for(
    api: ApiClient, during_the_first: list[Answered]
) -> None:
    first = api.post("models", MODEL, key="k")

    [second] = during_the_first
    assert (second.status, second.code) == (409, "request_in_progress")
    assert second.headers["Retry-After"] == "1"
    assert first.status == 201
    assert api.post("models", MODEL, key="k").body == first.body


@pytest.mark.django_db(transaction=True)
def test_key__sent_by_several_at_once__is_done_once(studio: Tenant, api: ApiClient) -> None:
    def send(_: int) -> Answered:
        try:
            return copy(api).post("models", MODEL, key="k")
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as threads:
        answers = list(threads.map(send, range(4)))

    assert {answer.status for answer in answers} <= {201, 409}
    assert sum(answer.status == 201 and "Idempotency-Replayed" not in answer.headers for answer in answers) == 1
    assert RecommendationModel.objects.for_tenant(studio).count() == 1


def test_key__process_died__may_be_sent_again_after_a_while(studio: Tenant, api: ApiClient) -> None:
    api.post("models", MODEL, key="k")
    RecommendationModel.objects.for_tenant(studio).delete()
    rows = IdempotencyRecord.objects.for_tenant(studio)
    rows.update(status=None, answer="")

    assert api.post("models", MODEL, key="k").code == "request_in_progress"

    rows.update(started_at=timezone.now() - ABANDONED_AFTER - timedelta(seconds=1))
    assert api.post("models", MODEL, key="k").status == 201
    assert RecommendationModel.objects.for_tenant(studio).count() == 1
    assert rows.get().status == 201


def test_key__taken_over_meanwhile__undoes_the_first(studio: Tenant, api: ApiClient) -> None:
    def take_over(**_: Any) -> None:
        IdempotencyRecord.objects.for_tenant(studio).update(run="another")

    post_save.connect(take_over, sender=IdempotencyRecord)
    try:
        answer = api.post("models", MODEL, key="k")
    finally:
        post_save.disconnect(take_over, sender=IdempotencyRecord)

    assert answer.code == "request_in_progress"
    assert not RecommendationModel.objects.for_tenant(studio).exists()
    assert records(studio)[0].run == "another"


def test_key__a_day_old__is_new_again(studio: Tenant, api: ApiClient) -> None:
    api.post("models", MODEL, key="k")
    rows = IdempotencyRecord.objects.for_tenant(studio)
    rows.update(started_at=timezone.now() - KEPT_FOR - timedelta(seconds=1))

    answer = api.post("models", {**MODEL, "slug": "others"}, key="k")

    assert answer.status == 201
    assert "others" in rows.get().answer


def test_records__older_than_a_day__are_cleaned(studio: Tenant, api: ApiClient) -> None:
    api.post("models", MODEL, key="old")
    IdempotencyRecord.objects.for_tenant(studio).update(started_at=timezone.now() - KEPT_FOR - timedelta(seconds=1))
    api.post("models", {**MODEL, "slug": "others"}, key="new")

    assert clean_idempotency_records() == 1
    assert [record.key for record in records(studio)] == ["new"]


# --- Secrets --------------------------------------------------------------------------------------------------------


def test_key__on_an_answer_with_a_secret__shows_it_once_and_keeps_it_nowhere(studio: Tenant, api: ApiClient) -> None:
    first = api.post("credentials", {"name": "Android"}, key="k")
    second = api.post("credentials", {"name": "Android"}, key="k")

    assert first.status == 201
    secret = first.body["client_secret"]
    assert (second.status, second.code) == (409, "secret_shown")
    assert f"/api/v1/credentials/{first.body['client_id']}" in second.body["detail"]
    assert secret not in repr(second)
    assert Credential.objects.for_tenant(studio).count() == 1
    [record] = IdempotencyRecord.objects.for_tenant(studio).values()
    assert secret not in repr(record)
    assert record["answer"] == ""


def test_key__on_rotation__rotates_once(studio: Tenant, api: ApiClient) -> None:
    client_id = api.post("credentials", {"name": "Android"}).body["client_id"]
    body = {"previous_until": (timezone.now() + timedelta(days=1)).isoformat()}

    first = api.post(f"credentials/{client_id}/rotate", body, key="k")
    second = api.post(f"credentials/{client_id}/rotate", body, key="k")

    assert (first.status, second.code) == (200, "secret_shown")
    assert Credential.objects.for_tenant(studio).get().generation == 2


def test_key__on_an_automation_token__shows_it_once(studio: Tenant, owner: User) -> None:
    person = ApiClient(person=owner)
    body = {"name": "Airflow", "scopes": ["read"]}

    first = person.post("automation-tokens", body, key="k")
    second = person.post("automation-tokens", body, key="k")

    assert (first.status, second.code) == (201, "secret_shown")
    assert first.body["token"] not in repr(records(studio)[0].__dict__)


# --- Every POST -----------------------------------------------------------------------------------------------------

# They change nothing, so that there is nothing to be done twice.
WITHOUT = {"api-rollout-preview", "api-model-explain"}


def test_post__every_one_of_the_api__heeds_the_key() -> None:
    heedless = {
        name
        for name, method, view in operations()
        if method == "POST" and not getattr(getattr(view, method.lower()), "is_idempotent", False)
    }

    assert heedless == WITHOUT
