"""The weights page of the admin: the effect is said before it is saved, errors stand next to their field."""

from __future__ import annotations

import re
from typing import Any

import pytest
import redis
from django.test import Client
from django.urls import reverse
from pytest_django.fixtures import DjangoAssertNumQueries, DjangoCaptureOnCommitCallbacks

from models_registry.models import RecommendationModel, RolloutRevision, Version
from models_registry.rollouts.services import current_rollout, rollout_reweight, weights_bp_of
from serving.formats import snapshot
from tenants.models import AuditEntry, Tenant, User
from tests import factories

pytestmark = pytest.mark.django_db


@pytest.fixture
def staff(db: None) -> User:
    return factories.UserFactory.create(username="staff", is_staff=True)


@pytest.fixture
def model(studio: Tenant) -> RecommendationModel:
    """Return a model with versions A, B, C at 60/30/10, A and B loaded."""
    model = factories.ModelFactory.create(tenant=studio, slug="offers")
    for name, rows in {"A": 1000, "B": 900, "C": None}.items():
        version = factories.VersionFactory.create(model=model, name=name)
        if rows is not None:
            table = factories.TableFactory.create(load__version=version, row_count=rows)
            Version.objects.unscoped().filter(pk=version.pk).update(active_table=table)
    factories.RolloutRevisionFactory.create(model=model, weights={0: 6000, 1: 3000, 2: 1000})
    return model


@pytest.fixture
def page(model: RecommendationModel, staff: User, client: Client) -> Page:
    client.force_login(staff)
    return Page(client, reverse("admin:models_registry_recommendationmodel_weights", args=[model.pk]))


class Page:
    """What a person does on the page, without scripts."""

    def __init__(self, client: Client, url: str) -> None:
        self.client = client
        self.url = url

    def send(self, *weights: str, button: str = "_preview", reason: str = "", stamp: str = "", **headers: Any) -> Any:
        data = {f"weight-{code}": weight for code, weight in enumerate(weights)}
        return self.client.post(self.url, {**data, "reason": reason, button: "1", "stamp": stamp}, headers=headers)

    def save(self, *weights: str, reason: str = "") -> Any:
        """Preview, then press Save on what the preview gave."""
        previewed = self.send(*weights, reason=reason)
        found = re.search(r'name="stamp" value="([^"]+)"', previewed.content.decode())
        assert found
        return self.send(*weights, button="_save", reason=reason, stamp=found[1])


def weights(model: RecommendationModel) -> dict[int, int]:
    current = current_rollout(model)
    assert current is not None
    return weights_bp_of(current)


def test_weights__the_page__shows_percentages_and_the_sum(page: Page) -> None:
    text = page.client.get(page.url).content.decode()
    for value in ("60", "30", "10"):
        assert f'value="{value}"' in text
    assert "Sum 100 %" in text
    assert "not loaded" in text
    assert 'name="stamp"' not in text
    assert "Save weights" not in text


def test_weights__previewed__says_the_effect_and_saves_nothing(page: Page, model: RecommendationModel) -> None:
    response = page.send("50", "30", "20", reason="C does well")
    text = response.content.decode()
    assert response.status_code == 200
    assert "10.0 % of players change version: 10.0 % from A to C. That is about 100 of 1,000 keys." in text
    assert "C is not loaded: whoever gets it is answered the default." in text
    assert "C does well" in text
    assert 'value="50"' in text
    assert "Save weights" in text
    assert weights(model) == {0: 6000, 1: 3000, 2: 1000}


def test_weights__more_players_for_a_version_with_fewer_keys__is_warned_of(page: Page) -> None:
    text = page.send("50", "50", "0").content.decode()
    assert "B covers 10 % fewer keys than A: the others get the default." in text
    assert "C is not loaded" not in text
    assert "B covers" not in page.send("70", "30", "0").content.decode()


def test_weights__saved_after_the_preview__is_a_revision_with_who_and_why(
    page: Page, model: RecommendationModel, staff: User
) -> None:
    response = page.save("50.01", "29.99", "20", reason="C does well")
    assert (response.status_code, response["Location"]) == (302, page.url)
    assert weights(model) == {0: 5001, 1: 2999, 2: 2000}
    revision = RolloutRevision.objects.for_tenant(model.tenant).latest("number")
    assert (revision.number, revision.actor, revision.reason) == (2, staff, "C does well")
    entry = AuditEntry.objects.for_tenant(model.tenant).get()
    assert (entry.action, entry.actor, entry.reason) == ("rollout.reweight", staff, "C does well")
    after = page.client.get(page.url).content.decode()
    assert "Saved as revision 2. 10 % of players change version." in after
    assert "A 60 % · B 30 % · C 10 % → <b>C" not in after
    assert "“C does well”" in after


def test_weights__saved_without_the_preview__shows_the_effect_first(page: Page, model: RecommendationModel) -> None:
    response = page.send("50", "30", "20", button="_save")
    text = response.content.decode()
    assert "Nothing is saved yet" in text
    assert "10.0 % of players change version" in text
    assert weights(model) == {0: 6000, 1: 3000, 2: 1000}


def test_weights__somebody_else_saved_meanwhile__the_new_effect_is_said_first(
    page: Page, model: RecommendationModel, staff: User
) -> None:
    previewed = page.send("50", "30", "20").content.decode()
    stamp = re.search(r'name="stamp" value="([^"]+)"', previewed)
    assert stamp
    rollout_reweight(model=model, weights_bp={0: 2000, 1: 3000, 2: 5000}, actor=staff, reason="")
    response = page.send("50", "30", "20", button="_save", stamp=stamp[1])
    assert "30.0 % of players change version: 30.0 % from C to A." in response.content.decode()
    assert weights(model) == {0: 2000, 1: 3000, 2: 5000}


@pytest.mark.parametrize(
    ("typed", "said"),
    [
        (("50", "30", "10"), "The weights sum to 90 %, and must sum to 100 %: 10 % is left to give."),
        (("60", "30", "10.01"), "The weights sum to 100.01 %, and must sum to 100 %: that is 0.01 % too much."),
        (("60.005", "29.995", "10"), "A weight goes in steps of 0.01 %."),
        (("-10", "100", "10"), "A weight is from 0 to 100 %."),
        (("101", "0", "0"), "A weight is from 0 to 100 %."),
        (("sixty", "30", "10"), "Type a number, such as 33.33."),
        (("NaN", "30", "10"), "Type a number, such as 33.33."),
        (("", "90", "10"), "Type a number; 0 for no players."),
        (("1e400", "90", "10"), "A weight is from 0 to 100 %."),
    ],
)
@pytest.mark.parametrize("button", ["_preview", "_save"])
def test_weights__mistyped__is_said_and_nothing_typed_is_lost(
    typed: tuple[str, str, str], said: str, button: str, page: Page, model: RecommendationModel
) -> None:
    response = page.send(*typed, button=button, reason="because of this")
    text = response.content.decode()
    assert response.status_code == 422
    assert said in text
    for value in filter(None, typed):
        assert f'value="{value}"' in text
    assert "because of this" in text
    assert weights(model) == {0: 6000, 1: 3000, 2: 1000}


def test_weights__one_is_mistyped__the_error_stands_at_that_version(page: Page) -> None:
    text = page.send("60", "x", "10").content.decode()
    errors = dict(re.findall(r'id="error-(\d)">([^<]*)<', text))
    said = {code: words.strip() for code, words in errors.items()}
    assert said == {"0": "", "1": "Type a number, such as 33.33.", "2": ""}


def test_weights__present_ones__are_said_to_change_nothing(page: Page, model: RecommendationModel) -> None:
    for button in ("_preview", "_save"):
        assert "nothing would change" in page.send("60", "30", "10", button=button).content.decode()
    assert RolloutRevision.objects.for_tenant(model.tenant).count() == 1


def test_weights__typed_with_scripts__gives_the_effect_alone(
    page: Page, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_max_num_queries(12):
        text = page.send("50", "x", "20", hx_request="true").content.decode()
    assert "<html" not in text
    assert 'id="error-1" hx-swap-oob="true">Type a number, such as 33.33.' in text
    text = page.send("50", "30", "20", hx_request="true").content.decode()
    assert "10.0 % of players change version" in text
    assert 'id="error-1" hx-swap-oob="true"><' in text


def test_weights__a_model_without_versions__leads_to_the_first(studio: Tenant, staff: User, client: Client) -> None:
    model = factories.ModelFactory.create(tenant=studio)
    client.force_login(staff)
    url = reverse("admin:models_registry_recommendationmodel_weights", args=[model.pk])
    for response in (client.get(url), client.post(url, {"_save": "1"})):
        assert reverse("admin:models_registry_version_add") in response.content.decode()


def test_weights__fifty_versions_and_two_hundred_revisions__take_few_queries(
    page: Page, model: RecommendationModel, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    factories.VersionFactory.create_batch(50, model=model)
    first = RolloutRevision.objects.for_tenant(model.tenant).get()
    RolloutRevision.objects.bulk_create(
        RolloutRevision(
            model=model, number=n, salt=first.salt, weights_bp=first.weights_bp, allocation=first.allocation
        )
        for n in range(2, 201)
    )
    with django_assert_max_num_queries(12):
        page.client.get(page.url)


def test_weights__an_ended_studio__cannot_be_changed(page: Page, model: RecommendationModel, studio: Tenant) -> None:
    studio.ended_at = factories.SOME_TIME
    studio.save()
    response = page.save("50", "30", "20")
    assert "has ended; nothing in it can be changed" in response.content.decode()
    assert weights(model) == {0: 6000, 1: 3000, 2: 1000}


# --- Going back -----------------------------------------------------------------------------------------------------


def test_go_back__asked__says_the_effect_then_does_it(page: Page, model: RecommendationModel, staff: User) -> None:
    page.save("50", "30", "20")
    url = reverse("admin:models_registry_recommendationmodel_go_back", args=[model.pk, 1])
    asked = page.client.get(url).content.decode()
    assert "10.0 % of players change version: 10.0 % from C to A." in asked
    assert weights(model) == {0: 5000, 1: 3000, 2: 2000}
    response = page.client.post(url, {"reason": "it was better"})
    assert response["Location"] == page.url
    revisions = list(RolloutRevision.objects.for_tenant(model.tenant).order_by("number"))
    assert bytes(revisions[2].allocation) == bytes(revisions[0].allocation)
    assert (revisions[2].restores, revisions[2].actor, revisions[2].reason) == (revisions[0], staff, "it was better")
    text = page.client.get(page.url).content.decode()
    assert "Went back to revision 1." in text


def test_go_back__to_what_is_served_or_to_nothing__is_refused_in_words(page: Page, model: RecommendationModel) -> None:
    present = reverse("admin:models_registry_recommendationmodel_go_back", args=[model.pk, 1])
    missing = reverse("admin:models_registry_recommendationmodel_go_back", args=[model.pk, 9])
    assert "This is what revision 1 was." in page.client.post(present, {"reason": "x"}).content.decode()
    for response in (page.client.get(missing), page.client.post(missing, {"reason": "x"})):
        assert "has no revision 9" in response.content.decode()
    assert RolloutRevision.objects.for_tenant(model.tenant).count() == 1


# --- What serving learns --------------------------------------------------------------------------------------------


def test_weights__saved__serving_has_them_in_its_snapshot(
    page: Page,
    model: RecommendationModel,
    valkey: redis.Redis,
    settings: Any,
    django_capture_on_commit_callbacks: DjangoCaptureOnCommitCallbacks,
) -> None:
    with django_capture_on_commit_callbacks(execute=True):
        page.save("50", "30", "20")
    envelope: Any = valkey.get(snapshot.snapshot_name(settings.REDIS_PREFIX, model.tenant.public_id))
    opened = snapshot.open_snapshot(envelope, snapshot.parse_public_keys(settings.SNAPSHOT_PUBLIC_KEYS))
    (served,) = opened.tenant.models
    assert (served.allocation_revision, served.allocation.count(2)) == (2, 2000)
