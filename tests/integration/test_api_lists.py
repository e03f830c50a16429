"""Lists of the API: whole and without repetition while rows are added, and no dearer with more rows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from models_registry.catalogue.access import NarrowedTo
from models_registry.catalogue.services import model_create, version_create
from models_registry.models import LoadState, RecommendationModel, Version
from models_registry.rollouts.services import rollout_new_phase
from models_registry.rollouts.testers import set_tester
from tenants.automation import automation_token_issue
from tenants.credentials import credential_issue
from tenants.models import Tenant
from tests.factories import LAYOUT, LoadFactory, MembershipFactory, TableFactory
from tests.integration.api_client import ApiClient

pytestmark = pytest.mark.django_db


@pytest.fixture
def offers(studio: Tenant) -> RecommendationModel:
    return make_model(studio, "offers")


def make_model(studio: Tenant, slug: str) -> RecommendationModel:
    return model_create(tenant=studio, slug=slug, name=slug, key_fields=["k"], layout=LAYOUT, actor=None)


def make_version(model: RecommendationModel, name: str) -> Version:
    version = version_create(
        model=model, name=name, source_kind="parquet", source_location="/srv/tables/x.parquet", actor=None
    )
    newer, older = (
        TableFactory.create(load=LoadFactory.create(version=version, fence=fence, state=LoadState.ACTIVE))
        for fence in (2, 1)
    )
    Version.objects.for_tenant(model.tenant).filter(pk=version.pk).update(
        active_table=newer, previous_table=older, last_fence=2, active_fence=2
    )
    return version


def add_overrides(model: RecommendationModel, names: list[str]) -> None:
    version = model.versions.first() or make_version(model, "v0")
    for name in names:
        set_tester(model=model, unit=name, version=version, actor=None)


def add_phases(model: RecommendationModel, names: list[str]) -> None:
    if not model.versions.exists():
        make_version(model, "v0")
    for _ in names:
        rollout_new_phase(model=model, actor=None, reason="")


def add_credentials(model: RecommendationModel, names: list[str]) -> None:
    for name in names:
        credential_issue(tenant=model.tenant, name=name, allowed_models=NarrowedTo([model]), actor=None)


def add_tokens(model: RecommendationModel, names: list[str]) -> None:
    for name in names:
        automation_token_issue(tenant=model.tenant, name=name, scopes=["read"], actor=None)


Add = Callable[[RecommendationModel, list[str]], object]
# What adds rows to each list, the queries that it may take besides the caller's own, and a row's name.
LISTS: dict[str, tuple[Add, int, str]] = {
    "models": (lambda model, names: [make_model(model.tenant, name) for name in names], 2, "slug"),
    "models/offers/layouts": (
        lambda model, names: [model.layouts.create(revision=int(name[1:]), fields=LAYOUT) for name in names],
        2,
        "revision",
    ),
    "models/offers/versions": (lambda model, names: [make_version(model, name) for name in names], 3, "name"),
    "models/offers/versions/v0/loads": (
        lambda model, names: [
            LoadFactory.create(version=model.versions.first() or make_version(model, "v0"), fence=int(name[1:]) + 10)
            for name in names
        ],
        2,
        "fence",
    ),
    "models/offers/overrides": (add_overrides, 2, "unit"),
    "models/offers/rollout/revisions": (add_phases, 3, "number"),
    "loads": (lambda model, names: [make_version(model, name) for name in names], 1, "created_at"),
    "credentials": (add_credentials, 2, "client_id"),
    "automation-tokens": (add_tokens, 1, "id"),
    "members": (
        lambda model, names: [MembershipFactory.create(tenant=model.tenant, user__username=name) for name in names],
        1,
        "username",
    ),
    "audit": (lambda model, names: [make_model(model.tenant, name) for name in names], 1, "id"),
}
# The token with its studio; that it was used is written once a minute.
CALLER_QUERIES = 1


def names(first: int, last: int) -> list[str]:
    return [f"n{number:03}" for number in range(first, last + 1)]


@pytest.mark.parametrize("path", LISTS)
def test_list__any_number_of_rows__takes_the_same_few_queries(
    offers: RecommendationModel, api: ApiClient, path: str
) -> None:
    add, allowed, _ = LISTS[path]

    def cost() -> int:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert api.get(f"{path}?limit=200").status == 200
        return len(queries)

    add(offers, names(1, 2))
    api.get("caller")
    few = cost()
    add(offers, names(3, 40))

    assert cost() == few <= CALLER_QUERIES + allowed


@pytest.mark.parametrize("path", LISTS)
def test_list__rows_added_between_pages__shows_each_old_row_once_in_order(
    offers: RecommendationModel, api: ApiClient, path: str
) -> None:
    add, _, key = LISTS[path]
    add(offers, names(101, 107))
    whole = [row[key] for row in api.get(path).body["results"]]

    first = api.get(f"{path}?limit=3").body
    add(offers, names(1, 2))
    add(offers, names(120, 121))
    rest: list[Any] = []
    cursor = first["next_cursor"]
    while cursor is not None:
        page = api.get(f"{path}?limit=3&cursor={cursor}").body
        rest += page["results"]
        cursor = page["next_cursor"]

    seen = [row[key] for row in first["results"] + rest]
    assert [name for name in seen if name in whole] == whole
    assert path == "loads" or len(set(seen)) == len(seen)


def test_list__whole_on_one_page__has_no_next(offers: RecommendationModel, api: ApiClient) -> None:
    add_tokens(offers, names(1, 4))

    assert api.get("automation-tokens?limit=5").body["next_cursor"] is None
    assert api.get("automation-tokens?limit=4").body["next_cursor"] is not None


def test_list__cursor_of_another_list__is_none_or_invalid_but_never_an_error(
    offers: RecommendationModel, api: ApiClient
) -> None:
    add_tokens(offers, names(1, 3))
    make_model(offers.tenant, "another")
    numbers = api.get("automation-tokens?limit=1").body["next_cursor"]
    texts = api.get("models?limit=1").body["next_cursor"]

    assert api.get(f"models?cursor={numbers}").fields == ["cursor"]
    assert api.get(f"audit?cursor={texts}").fields == ["cursor"]
    assert api.get(f"credentials?cursor={numbers}").status == 200
