"""Testers, and why somebody gets what they get: the latter held against what serving itself would answer."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings as project_settings
from django.test import Client
from django.utils import timezone

from models_registry.models import Override
from models_registry.publishing import publish_tenant
from models_registry.rollouts.services import rollout_reweight
from recsite.embedded import free_port
from serving.formats.keys import block_name, slot
from serving.formats.snapshot import snapshot_name
from tenants.models import Tenant, User
from tests import factories
from tests.integration.dashboard_scene import Offers, get, give_table, make_offers, newest, post, put_rows, signed_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def offers(studio: Tenant, valkey: redis.Redis) -> Offers:
    return make_offers(studio)


@pytest.fixture
def client(teammate: User) -> Client:
    return signed_in(teammate)


# --- Testers ----------------------------------------------------------------------------------------------------------


def test_tester__is_added_and_removed(client: Client, offers: Offers, teammate: User) -> None:
    url = f"{offers.url}/testers"
    assert "the weights decide for everybody" in get(client, url).text
    form = {"unit": "qa-phone-7", "version": "2026-11-c", "note": "until the release"}
    assert post(client, url, form).location == url
    override = Override.objects.for_tenant(offers.model.tenant).get()
    assert (override.unit, override.version, override.note) == ("qa-phone-7", offers.c, "until the release")
    shown = get(client, url)
    assert "qa-phone-7 gets 2026-11-c from now on." in shown.text
    assert "qa-phone-7 2026-11-c until the release" in shown.text
    assert post(client, f"{url}/remove", {"unit": "qa-phone-7"}).location == url
    assert "The weights decide for qa-phone-7 again." in get(client, url).text
    assert not Override.objects.for_tenant(offers.model.tenant).exists()
    actions = list(offers.model.tenant.audit_entries.values_list("action", "actor"))
    assert actions == [("override.remove", teammate.pk), ("override.set", teammate.pk)]


def test_tester__added_again__gets_the_other_version(client: Client, offers: Offers) -> None:
    for version in ("2026-11-a", "2026-11-b"):
        post(client, f"{offers.url}/testers", {"unit": "qa", "version": version})
    assert Override.objects.for_tenant(offers.model.tenant).get().version == offers.b


@pytest.mark.parametrize(
    ("change", "words", "field"),
    [
        ({"unit": ""}, "This field is required.", "unit"),
        ({"unit": "p\x01"}, "A unit must be 1 to 256 bytes of text without control characters.", "unit"),
        ({"unit": "ü" * 200}, "A unit must be 1 to 256 bytes of text without control characters.", "unit"),
        ({"version": "no-such"}, "Choose one of the listed options.", "version"),
    ],
)
def test_tester__that_will_not_do__is_refused_next_to_its_field(
    client: Client, offers: Offers, change: dict[str, str], words: str, field: str
) -> None:
    form = {"unit": "qa", "version": "2026-11-a", "note": "my note"} | change
    answer = post(client, f"{offers.url}/testers", form)
    assert answer.status == 422
    assert words in answer.html.partition(f'id="id_{field}_error"')[2][:200]
    assert 'value="my note"' in answer.html
    assert not Override.objects.for_tenant(offers.model.tenant).exists()


def test_tester__removed_twice__is_no_error(client: Client, offers: Offers) -> None:
    answer = post(client, f"{offers.url}/testers/remove", {"unit": "nobody"})
    assert answer.location == f"{offers.url}/testers"
    assert "“nobody” is not a tester of this model." in get(client, answer.location).text


# --- Why --------------------------------------------------------------------------------------------------------------


def player_of(offers: Offers, code: int) -> str:
    """Return a player whom the weights give this version."""
    revision = newest(offers.model)
    return next(
        f"p{number}" for number in range(10_000) if revision.allocation[slot(revision.salt, f"p{number}")] == code
    )


def test_why__player_with_a_row__shows_every_step_and_the_answer(
    client: Client, offers: Offers, valkey: redis.Redis
) -> None:
    player = player_of(offers, 1)
    give_table(offers.b, rows=1, at=timezone.now() - timedelta(hours=3))
    put_rows(valkey, offers.b, [([player], {"offer_id": 321, "discount": 0.25})])
    answer = get(client, f"{offers.url}/why?player_id={player}")
    assert answer.status == 200
    assert f"{player} gets 2026-11-b" in answer.text
    assert f"falls into slot {slot(newest(offers.model).salt, player):,}" in answer.text
    assert "belongs to 2026-11-b In revision 1 of the weights." in answer.text
    assert offers.b.active_table is not None
    assert f"Looked up in table {offers.b.active_table.table_id} 1 rows; data from 3 hours ago" in answer.text
    assert 'This is the answer { "offer_id": 321, "discount": 0.25 }' in answer.text


def test_why__player_without_a_row__gets_the_default(client: Client, offers: Offers, valkey: redis.Redis) -> None:
    player = player_of(offers, 0)
    put_rows(valkey, offers.a, [(["somebody-else"], {"offer_id": 1, "discount": 0})])
    answer = get(client, f"{offers.url}/why?player_id={player}")
    assert "No row for this key: the default answer" in answer.text
    assert '"discount": 0.05' in answer.text


def test_why__no_row_and_no_default__is_nothing(client: Client, studio: Tenant, valkey: redis.Redis) -> None:
    offers = make_offers(studio, default_answer=None, weights={0: 10_000})
    put_rows(valkey, offers.a, [(["somebody-else"], {"offer_id": 1, "discount": 0})])
    assert "2026-11-a has no default: nothing (204)" in get(client, f"{offers.url}/why?player_id=p1").text


def test_why__tester__is_said(client: Client, offers: Offers) -> None:
    player = player_of(offers, 0)
    factories.OverrideFactory.create(version=offers.c, unit=player)
    publish_tenant(offers.model.tenant_id)
    answer = get(client, f"{offers.url}/why?player_id={player}")
    assert f"{player} gets 2026-11-c" in answer.text
    assert "A tester: always 2026-11-c" in answer.text


def test_why__lost_block__falls_back_to_the_table_before(client: Client, offers: Offers, valkey: redis.Redis) -> None:
    player = player_of(offers, 0)
    put_rows(valkey, offers.a, [([player], {"offer_id": 11, "discount": 0})])
    before = offers.a.active_table
    lost = give_table(offers.a)
    offers.a.previous_table = before
    offers.a.save()
    publish_tenant(offers.model.tenant_id)
    assert not valkey.exists(block_name(project_settings.REDIS_PREFIX, lost.table_id, 0))
    answer = get(client, f"{offers.url}/why?player_id={player}")
    assert "The newest table has lost data, so this is the one before it." in answer.text
    assert '"offer_id": 11' in answer.text
    offers.a.previous_table = None
    offers.a.save()
    publish_tenant(offers.model.tenant_id)
    assert "the default answer, as a fallback" in get(client, f"{offers.url}/why?player_id={player}").text


def test_why__version_never_loaded__is_said(client: Client, offers: Offers) -> None:
    player = player_of(offers, 0)
    offers.a.active_table = None
    offers.a.save()
    publish_tenant(offers.model.tenant_id)
    answer = get(client, f"{offers.url}/why?player_id={player}")
    assert "2026-11-a was never loaded" in answer.text
    assert "The default answer" in answer.text


def test_why__is_what_serving_has_and_not_what_the_database_means_it_to_have(client: Client, offers: Offers) -> None:
    player = player_of(offers, 0)
    publish_tenant(offers.model.tenant_id)
    rollout_reweight(model=offers.model, weights_bp={2: 10_000}, actor=None, reason="")
    assert f"{player} gets 2026-11-a" in get(client, f"{offers.url}/why?player_id={player}").text
    publish_tenant(offers.model.tenant_id)
    assert f"{player} gets 2026-11-c" in get(client, f"{offers.url}/why?player_id={player}").text


@pytest.mark.parametrize("trouble", ["away", "forged", "never-published"])
def test_why__serving_cannot_be_asked__the_database_says_which_version(
    client: Client, offers: Offers, valkey: redis.Redis, settings: Any, trouble: str
) -> None:
    player = player_of(offers, 1)
    if trouble == "away":
        settings.TABLES_REDIS_URL = f"redis://127.0.0.1:{free_port()}/0"
    elif trouble == "forged":
        valkey.set(snapshot_name(settings.REDIS_PREFIX, offers.model.tenant.public_id), b"\x93\xa1x\xc4\x01y\xc4\x01z")
    answer = get(client, f"{offers.url}/why?player_id={player}")
    assert answer.status == 200
    assert f"{player} gets 2026-11-b" in answer.text
    assert "Serving can't be reached just now; this is what the database says." in answer.text
    assert "Not looked up" in answer.text


def test_why__several_key_fields__need_all_of_them(client: Client, studio: Tenant, valkey: redis.Redis) -> None:
    offers = make_offers(studio, key_fields=["country", "level_band"], unit_field="", weights={0: 10_000})
    put_rows(valkey, offers.a, [(["DE", "10-20"], {"offer_id": 5, "discount": 0})])
    url = f"{offers.url}/why?country=DE&level_band"
    refused = get(client, f"{url}=")
    assert refused.status == 422
    assert 'value="DE"' in refused.html
    answer = get(client, f"{url}=10-20")
    assert "DE · 10-20 gets 2026-11-a" in answer.text
    assert '"offer_id": 5' in answer.text


def test_why__player_and_placement__version_is_known_without_the_placement(
    client: Client, studio: Tenant, valkey: redis.Redis
) -> None:
    offers = make_offers(studio, key_fields=["player_id", "placement"], weights={0: 10_000})
    put_rows(valkey, offers.a, [(["p1", "shop"], {"offer_id": 5, "discount": 0})])
    partly = get(client, f"{offers.url}/why?player_id=p1&placement=")
    assert "p1 gets 2026-11-a" in partly.text
    assert "Fill in every field of the key to see the answer too." in partly.text
    assert '"offer_id": 5' in get(client, f"{offers.url}/why?player_id=p1&placement=shop").text
    other = get(client, f"{offers.url}/why?player_id=p1&placement=shop&unit=household-9")
    assert "household-9 gets 2026-11-a" in other.text


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("player_id=", "This field is required."),
        ("player_id=p%01", "contains a character"),
        ("player_id=" + "x" * 300, "The maximum is 256."),
        ("player_id=" + "%C3%BC" * 200, "too long"),
    ],
)
def test_why__key_that_no_player_has__is_refused_in_words(
    client: Client, offers: Offers, query: str, words: str
) -> None:
    publish_tenant(offers.model.tenant_id)
    answer = get(client, f"{offers.url}/why?{query}")
    assert answer.status == 422
    assert words in answer.text


def test_why__model_without_versions__says_so(client: Client, studio: Tenant, valkey: redis.Redis) -> None:
    factories.ModelFactory.create(tenant=studio, slug="empty")
    answer = get(client, f"/studios/{studio.slug}/models/empty/why?player_id=p1")
    assert answer.status == 422
    assert "has no version yet, so nobody gets a recommendation." in answer.text
