"""The rollout page: weights with their effect, cautions, history, going back, phases, the kill switch, propagation."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from models_registry.catalogue.selectors import weights_by_code
from models_registry.models import (
    LoadState,
    RecommendationModel,
    RolloutRevision,
    Traffic,
    TrafficSource,
    TrafficSpan,
    Version,
)
from models_registry.publishing import publish_tenant
from models_registry.rollouts.services import rollout_reweight, weights_without
from serving.reporting import FORGET_MS, process_name, processes_name
from tenants.models import Role, Tenant, User
from tenants.paging import write_cursor
from tests import factories
from tests.integration.dashboard_scene import (
    Offers,
    Page,
    field_value,
    get,
    give_table,
    make_offers,
    newest,
    page,
    post,
    signed_in,
)

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest.fixture
def offers(studio: Tenant) -> Offers:
    return make_offers(studio)


@pytest.fixture
def client(teammate: User) -> Client:
    return signed_in(teammate)


def weights(a: object, b: object, c: object, **more: Any) -> dict[str, Any]:
    return {"weight-0": str(a), "weight-1": str(b), "weight-2": str(c), **more}


def preview(client: Client, offers: Offers, form: dict[str, Any]) -> Page:
    """Do as somebody without scripts: ask what would happen."""
    return post(client, f"{offers.url}/weights", {**form, "step": "preview"})


def save(client: Client, offers: Offers, form: dict[str, Any], **more: Any) -> Page:
    """Look at the effect, then save."""
    seen = field_value(preview(client, offers, form).html, "seen")
    return post(client, f"{offers.url}/weights", {**form, "seen": seen, "step": "save", **more})


# --- What is there ----------------------------------------------------------------------------------------------------


def test_rollout__says_what_players_get(client: Client, offers: Offers) -> None:
    give_table(offers.c, rows=962, at=timezone.now() - timedelta(hours=30))
    factories.LoadFactory.create(version=offers.c, state=LoadState.REJECTED)
    answer = get(client, offers.url)
    assert answer.status == 200
    assert "What players get" in answer.text
    assert [field_value(answer.html, f"weight-{code}") for code in range(3)] == ["60.00", "30.00", "10.00"]
    assert "962 3.8 % fewer" in answer.text
    assert "1 day ago · late" in answer.text
    assert "newest load rejected" in answer.text
    assert "2026-11-a 1,000 1 hour ago" in " ".join(answer.text.replace("% Fit", "").split())


def test_rollout__times__have_the_exact_instant_in_their_title(client: Client, offers: Offers) -> None:
    at = timezone.now().replace(microsecond=0) - timedelta(hours=2)
    give_table(offers.a, at=at)
    assert f'title="{at:%-d %b %Y, %H:%M:%S} UTC">2 hours ago</time>' in get(client, offers.url).html


def test_rollout__answers_counted__are_shown_next_to_the_weights(client: Client, offers: Offers) -> None:
    assert "Seen in 24 h" not in get(client, offers.url).text
    now = timezone.now()
    for version, source, answers in (
        (offers.a, TrafficSource.TABLE, 600),
        (offers.b, TrafficSource.TABLE, 290),
        (offers.b, TrafficSource.DEFAULT, 10),
        (offers.c, TrafficSource.TABLE, 100),
    ):
        Traffic.objects.create(
            version=version, span=TrafficSpan.FIVE_MINUTES, starts_at=now, source=source, answers=answers
        )
    text = get(client, offers.url).text
    assert "Seen in 24 h" in text
    assert "60.0 % 600 answers" in text
    assert "30.0 % 300 answers" in text
    assert "3.3 %" in text


def test_rollout__without_versions__leads_to_the_first(client: Client, studio: Tenant) -> None:
    factories.ModelFactory.create(tenant=studio, slug="empty")
    answer = get(client, f"/studios/{studio.slug}/models/empty")
    assert "No version yet" in answer.text
    assert "Save weights" not in answer.text


def test_rollout__one_version__has_no_weights_to_type(client: Client, studio: Tenant) -> None:
    version = factories.VersionFactory.create(model__tenant=studio, model__slug="single")
    factories.RolloutRevisionFactory.create(model=version.model)
    answer = get(client, f"/studios/{studio.slug}/models/single")
    assert "100 %" in answer.text
    assert "Save weights" not in answer.text
    assert "Switch off" not in answer.text
    assert "Load now" in answer.text


def test_rollout__model_keyed_by_more_than_a_player__speaks_of_keys(client: Client, studio: Tenant) -> None:
    offers = make_offers(studio, key_fields=["country", "level_band"], unit_field="")
    assert "What keys get" in get(client, offers.url).text
    assert "10 % of keys change version" in preview(client, offers, weights(50, 40, 10)).text


def test_rollout__unit_that_looks_like_markup__is_shown_as_text(client: Client, studio: Tenant) -> None:
    offers = make_offers(studio)
    rollout_reweight(model=offers.model, weights_bp={0: 10_000}, actor=None, reason="<script>alert(1)</script>")
    html = get(client, offers.url).html
    assert "<script>alert" not in html
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html


# --- The effect before Save -------------------------------------------------------------------------------------------


def test_effect__says_who_would_change_version(client: Client, offers: Offers) -> None:
    answer = preview(client, offers, weights(50, 30, 20))
    assert answer.status == 200
    assert "10 % of players change version. Nobody else moves." in answer.text
    assert "2026-11-a → 10 % go to → 2026-11-c" in answer.text
    assert 'aria-label="2026-11-a 50 %, 2026-11-b 30 %, 2026-11-c 20 %"' in answer.html
    assert newest(offers.model).number == 1


def test_effect__while_typing__is_a_fragment_with_the_same_words(client: Client, offers: Offers) -> None:
    answer = post(client, f"{offers.url}/effect", weights(50, 30, 20), **{"HX-Request": "true"})
    assert answer.status == 200
    assert "<html" not in answer.html
    assert "10 % of players change version." in answer.text
    assert 'id="peek"' in answer.html
    assert newest(offers.model).number == 1


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        (weights(50, 30, 10), "The weights sum to 90 % and must sum to 100 %: 10 % is missing."),
        (weights(70, 30, "10.5"), "The weights sum to 110.5 % and must sum to 100 %: 10.5 % too much."),
        (weights(60, 30, 10), "These are the current weights. Nobody changes version."),
        (weights("sixty", 30, 10), "2026-11-a: Enter a number, such as 33.33."),
    ],
)
def test_effect__nothing_to_save__says_why(client: Client, offers: Offers, typed: dict[str, Any], words: str) -> None:
    assert words in post(client, f"{offers.url}/effect", typed, **{"HX-Request": "true"}).text


@pytest.mark.parametrize(
    ("typed", "words"),
    [
        ("sixty", "Enter a number, such as 33.33."),
        ("", "Enter a number; 0 for none."),
        ("-1", "A weight must be from 0 to 100 %."),
        ("100.01", "A weight must be from 0 to 100 %."),
        ("59.999", "A weight must be a multiple of 0.01 %."),
        ("NaN", "Enter a number, such as 33.33."),
        ("1e400", "A weight"),
    ],
)
def test_weights__that_are_none__are_refused_next_to_their_field_and_stay_typed(
    client: Client, offers: Offers, typed: str, words: str
) -> None:
    answer = post(client, f"{offers.url}/weights", weights(typed, 30, 10, reason="because", step="save"))
    assert answer.status == 422
    assert words in answer.html.partition('id="id_weight-0_error"')[2][:200]
    assert field_value(answer.html, "weight-0") == typed
    assert field_value(answer.html, "weight-1") == "30"
    assert ">\nbecause</textarea>" in answer.html
    assert newest(offers.model).number == 1


def test_weights__with_a_decimal_comma__are_understood(client: Client, offers: Offers) -> None:
    assert save(client, offers, weights("33,33", "33,33", "33,34")).status == 302
    assert weights_by_code(newest(offers.model).weights_bp) == {0: 3333, 1: 3333, 2: 3334}


# --- Saving -----------------------------------------------------------------------------------------------------------


def test_save__after_looking_at_the_effect__is_one_line_of_history(
    client: Client, offers: Offers, teammate: User
) -> None:
    answer = save(client, offers, weights(50, 30, 20), reason="c won on day-7 spend")
    assert answer.location == offers.url
    revision = newest(offers.model)
    assert (revision.number, weights_by_code(revision.weights_bp)) == (2, {0: 5000, 1: 3000, 2: 2000})
    assert (revision.actor, revision.reason, revision.moved_bp) == (teammate, "c won on day-7 spend", 1000)
    text = get(client, offers.url).text
    assert "Saved as revision 2. 10 % of players change version." in text
    assert f"{teammate.username} changed the weights · revision 2, 10 % of players moved" in text
    assert "2026-11-a 60 → 50 % 2026-11-c 10 → 20 % “c won on day-7 spend”" in text


def test_save__without_having_seen_the_effect__shows_it_first(client: Client, offers: Offers) -> None:
    form = weights(50, 30, 20, step="save")
    answer = post(client, f"{offers.url}/weights", form)
    assert answer.status == 422
    assert "Look at what this does, then save it." in answer.text
    assert "10 % of players change version." in answer.text
    assert newest(offers.model).number == 1
    again = post(client, f"{offers.url}/weights", {**form, "seen": field_value(answer.html, "seen")})
    assert again.status == 302
    assert newest(offers.model).number == 2


def test_save__weights_changed_after_the_effect_was_shown__shows_the_new_effect(client: Client, offers: Offers) -> None:
    seen = field_value(preview(client, offers, weights(50, 30, 20)).html, "seen")
    answer = post(client, f"{offers.url}/weights", weights(40, 30, 30, seen=seen, step="save"))
    assert answer.status == 422
    assert "20 % of players change version." in answer.text
    assert newest(offers.model).number == 1


def test_save__somebody_else_saved_meanwhile__shows_the_effect_on_theirs(
    client: Client, offers: Offers, owner: User
) -> None:
    form = weights(50, 30, 20)
    seen = field_value(preview(client, offers, form).html, "seen")
    rollout_reweight(model=offers.model, weights_bp={0: 10_000}, actor=owner, reason="")
    answer = post(client, f"{offers.url}/weights", {**form, "seen": seen, "step": "save"})
    assert answer.status == 422
    assert f"{owner.username} changed the weights in the meantime." in answer.text
    assert "50 % of players change version." in answer.text
    assert newest(offers.model).number == 2


def test_save__the_weights_there_are__changes_nothing(client: Client, offers: Offers) -> None:
    answer = post(client, f"{offers.url}/weights", weights(60, 30, 10, step="save"))
    assert answer.status == 200
    assert "Nobody changes version" in answer.text
    assert newest(offers.model).number == 1


def test_save__version_that_was_left_out__is_refused(client: Client, offers: Offers) -> None:
    answer = post(client, f"{offers.url}/weights", {"weight-0": "70", "weight-1": "30", "step": "save"})
    assert answer.status == 422
    assert "Enter a number; 0 for none." in answer.text


def test_weights__get__leads_to_the_page(client: Client, offers: Offers) -> None:
    assert get(client, f"{offers.url}/weights").location == offers.url


# --- Cautions ---------------------------------------------------------------------------------------------------------


def unload(version: Version) -> None:
    version.active_table = None
    version.save()


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (unload, "2026-11-c was never loaded. Its players would get the default answer."),
        (
            lambda version: give_table(version, at=timezone.now() - timedelta(days=3)),
            "2026-11-c is late. Its data is from 3 days ago.",
        ),
        (
            lambda version: give_table(version, rows=900),
            "2026-11-c covers fewer players: 10.0 % fewer rows than 2026-11-a.",
        ),
    ],
    ids=["never-loaded", "late", "fewer-rows"],
)
def test_save__against_a_caution__needs_go_on_anyway(client: Client, offers: Offers, spoil: Any, words: str) -> None:
    spoil(offers.c)
    form = weights(50, 30, 20)
    shown = preview(client, offers, form)
    assert words in shown.text
    refused = save(client, offers, form)
    assert refused.status == 422
    assert "Nothing was saved: tick this if you mean it." in refused.text
    assert newest(offers.model).number == 1
    assert save(client, offers, form, go_on="on").status == 302
    assert newest(offers.model).number == 2


def test_caution__version_that_gets_no_more__is_not_worth_one(client: Client, offers: Offers) -> None:
    unload(offers.c)
    assert "Go on anyway" not in preview(client, offers, weights(65, 30, 5)).text


def test_caution__model_without_a_default__says_that_there_is_nothing(client: Client, studio: Tenant) -> None:
    offers = make_offers(studio, default_answer=None)
    unload(offers.c)
    assert "Its players would get no recommendation." in preview(client, offers, weights(50, 30, 20)).text


# --- History, going back ----------------------------------------------------------------------------------------------


def test_go_back__says_its_effect_and_restores_the_very_map(client: Client, offers: Offers) -> None:
    first = newest(offers.model)
    save(client, offers, weights(20, 30, 50))
    url = f"{offers.url}/history/1"
    assert f'href="{url}"' in get(client, offers.url).html
    asked = get(client, url)
    assert "Go back to revision 1?" in asked.text
    assert "40 % of players change version." in asked.text
    assert "2026-11-c → 40 % go to → 2026-11-a" in asked.text
    assert newest(offers.model).number == 2
    based_on = field_value(asked.html, "based_on")
    assert post(client, url, {"reason": "oops", "based_on": based_on}).location == offers.url
    restored = newest(offers.model)
    assert (restored.number, restored.restores, restored.reason) == (3, first, "oops")
    assert bytes(restored.allocation) == bytes(first.allocation)
    assert "went back to revision 1 · revision 3, 40 % of players moved" in get(client, offers.url).text


def test_go_back__to_a_version_that_is_not_loaded__says_so(client: Client, offers: Offers) -> None:
    save(client, offers, weights(60, 35, 5))
    unload(offers.c)
    assert (
        "2026-11-c was never loaded. Its players would get the default answer."
        in get(client, f"{offers.url}/history/1").text
    )


@pytest.mark.parametrize("page", ["history/1", "new-phase", "versions/2026-11-b/switch-off"])
def test_change__sent_without_what_it_was_decided_on__is_asked_about_again(
    client: Client, offers: Offers, page: str
) -> None:
    save(client, offers, weights(50, 30, 20))
    answer = post(client, f"{offers.url}/{page}", {"reason": "a script"})
    assert answer.status == 422
    assert "This was sent without the weights it was decided on." in answer.text
    assert newest(offers.model).number == 2
    assert field_value(answer.html, "based_on") == "2"


def test_go_back__somebody_saved_meanwhile__is_refused(client: Client, offers: Offers) -> None:
    save(client, offers, weights(20, 30, 50))
    based_on = field_value(get(client, f"{offers.url}/history/1").html, "based_on")
    save(client, offers, weights(50, 30, 20))
    answer = post(client, f"{offers.url}/history/1", {"based_on": based_on})
    assert answer.status == 422
    assert "changed the weights in the meantime (revision 3). Nothing was saved." in answer.text
    assert newest(offers.model).number == 3


def test_go_back__to_what_is_served__is_refused_and_reason_stays(client: Client, offers: Offers) -> None:
    answer = post(client, f"{offers.url}/history/1", {"reason": "why not", "based_on": "1"})
    assert answer.status == 422
    assert "The current weights are already those of revision 1." in answer.text
    assert "why not</textarea>" in answer.html


def test_go_back__revision_that_does_not_exist__is_a_404(client: Client, offers: Offers) -> None:
    assert get(client, f"{offers.url}/history/99").status == 404
    assert post(client, f"{offers.url}/history/99").status == 404


def test_history__long__is_paged(client: Client, offers: Offers) -> None:
    for number in range(2, 14):
        rollout_reweight(
            model=offers.model, weights_bp={0: 10_000 - number, 1: number}, actor=None, reason=f"step-{number}-"
        )
    first = get(client, offers.url)
    assert "step-13-" in first.text
    assert "step-4-" in first.text
    assert "step-3-" not in first.text
    assert f'href="{offers.url}/history"' in first.html
    older = get(client, f"{offers.url}/history?before={write_cursor(4)}")
    assert "step-3-" in older.text
    assert "step-4-" not in older.text
    assert "made the first version" in older.text
    everything = get(client, f"{offers.url}/history")
    assert everything.text.count("“step-") == 12
    assert "revision 13, 0.01 % of players moved" in everything.text
    assert get(client, f"{offers.url}/history?before={write_cursor(1)}").status == 200
    nonsense = get(client, f"{offers.url}/history?before=x")
    # But for how long ago it was.
    texts = {re.sub(r"\b\d+ s ago", "… ago", found.text) for found in (nonsense, everything)}
    assert len(texts) == 1


def test_history__name_of_a_version_that_is_gone__is_its_code(client: Client, offers: Offers) -> None:
    gone = factories.VersionFactory.create(model=offers.model, name="short-lived")
    rollout_reweight(model=offers.model, weights_bp={0: 9_000, gone.code: 1_000}, actor=None, reason="")
    rollout_reweight(model=offers.model, weights_bp={0: 10_000}, actor=None, reason="")
    gone.delete()
    assert "version 3 10 → 0 %" in get(client, offers.url).text


# --- Phases and the kill switch ---------------------------------------------------------------------------------------


def test_new_phase__explains_and_assigns_anew(client: Client, offers: Offers) -> None:
    asked = get(client, f"{offers.url}/new-phase")
    assert "reassigns everybody at random" in asked.text
    assert "About 54 % of players change version." in asked.text
    assert newest(offers.model).phase == 1
    form = {"reason": "new season", "based_on": field_value(asked.html, "based_on")}
    assert post(client, f"{offers.url}/new-phase", form).location == offers.url
    revision = newest(offers.model)
    assert (revision.phase, weights_by_code(revision.weights_bp)) == (2, {0: 6000, 1: 3000, 2: 1000})
    assert "started phase 2: everybody was reassigned" in get(client, offers.url).text


def test_serve_default__only_version_of_a_model__stops_it_and_starts_it_again(client: Client, offers: Offers) -> None:
    rollout_reweight(model=offers.model, weights_bp={0: 10_000}, actor=None, reason="")
    url = f"{offers.url}/serve-default"
    assert f'href="{url}"' in get(client, offers.url).html
    asked = get(client, url)
    assert "Serve the default to everybody?" in asked.text
    assert "100 % of players get the default answer." in asked.text
    form = {"to": "default", "based_on": field_value(asked.html, "based_on"), "reason": "crashes"}
    assert post(client, url, form).location == offers.url
    page = get(client, offers.url)
    assert "Saved as revision 3. Everybody gets the default answer." in page.text
    assert "Everybody gets the default answer instead of a recommendation" in page.text
    assert "served the default to everybody · revision 3 “crashes” Now" in page.text
    assert "Default for everybody" in get(client, f"/studios/{offers.model.tenant.slug}/models").text
    late = post(client, url, {"to": "default", "based_on": "3"})
    assert late.status == 422
    assert "already get the default answer" in late.text
    assert "Serve recommendations again?" in get(client, url).text
    assert post(client, url, {"to": "own", "based_on": "3"}).location == offers.url
    page = get(client, offers.url)
    assert "Players get their own recommendations again." in page.text
    assert "instead of a recommendation" not in page.text
    asked = get(client, f"{offers.url}/history/3")
    assert "Then everybody got the default answer, and will again." in asked.text


def test_switch_off__says_who_takes_over_and_does_it(client: Client, offers: Offers) -> None:
    url = f"{offers.url}/versions/2026-11-b/switch-off"
    asked = get(client, url)
    assert "Switch off 2026-11-b?" in asked.text
    assert "30 % of players change version." in asked.text
    assert "2026-11-b → 25.71 % go to → 2026-11-a" in asked.text
    assert "2026-11-b → 4.29 % go to → 2026-11-c" in asked.text
    first = newest(offers.model)
    assert post(client, url, {"based_on": "1", "reason": "crashes"}).location == offers.url
    assert weights_by_code(newest(offers.model).weights_bp) == {0: 8571, 2: 1429}
    assert offers.model.tenant.audit_entries.get(action="rollout.switch_off").reason == "crashes"
    assert post(client, f"{offers.url}/history/1", {"based_on": "2"}).location == offers.url
    assert bytes(newest(offers.model).allocation) == bytes(first.allocation)


def test_switch_off__last_version_with_players__is_refused(client: Client, offers: Offers) -> None:
    rollout_reweight(model=offers.model, weights_bp={0: 10_000}, actor=None, reason="")
    url = f"{offers.url}/versions/2026-11-a/switch-off"
    assert "Give another version some first" in get(client, url).text
    assert post(client, url).status == 422
    without = f"{offers.url}/versions/2026-11-b/switch-off"
    assert "has no weight to take away" in get(client, without).text
    assert post(client, without).status == 422
    assert newest(offers.model).number == 2


def test_switch_off__warns_of_what_would_take_over(client: Client, offers: Offers) -> None:
    unload(offers.c)
    assert "2026-11-c was never loaded." in get(client, f"{offers.url}/versions/2026-11-b/switch-off").text


def test_switch_off__version_that_does_not_exist__is_a_404(client: Client, offers: Offers) -> None:
    assert get(client, f"{offers.url}/versions/no-such/switch-off").status == 404


@pytest.mark.parametrize(
    ("before", "code", "after"),
    [
        ({0: 6000, 1: 3000, 2: 1000}, 0, {1: 7500, 2: 2500}),
        ({0: 5000, 1: 5000}, 1, {0: 10_000}),
        ({0: 1, 1: 3333, 2: 3333, 3: 3333}, 0, {1: 3334, 2: 3333, 3: 3333}),
        ({0: 9998, 1: 1, 2: 1, 3: 0}, 0, {1: 5000, 2: 5000}),
    ],
)
def test_weights_without__the_others_take_over_in_proportion(
    before: dict[int, int], code: int, after: dict[int, int]
) -> None:
    assert weights_without(before, code) == after


# --- Propagation ------------------------------------------------------------------------------------------------------


def lanes_say(valkey: redis.Redis, tenant: Tenant, revisions: Iterable[int], *, after_seconds: float = 0.3) -> None:
    """Write what lanes write: that they live, and by which revision they serve since when."""
    tenant.refresh_from_db()
    assert tenant.snapshot_published_at is not None
    since = int((tenant.snapshot_published_at.timestamp() + after_seconds) * 1000)
    for number, revision in enumerate(revisions):
        now_ms = int(time.time() * 1000)
        own = process_name(settings.REDIS_PREFIX, f"lane:rack-7:{number}")
        valkey.hset(processes_name(settings.REDIS_PREFIX), f"lane:rack-7:{number}", str(now_ms))
        valkey.hset(own, mapping={"": str(now_ms), tenant.public_id: f"{revision} {since}"})
        valkey.pexpire(own, FORGET_MS)


def test_live__every_lane_serves_it__says_after_how_long_and_when_on_phones(
    client: Client, offers: Offers, valkey: redis.Redis
) -> None:
    tenant = offers.model.tenant
    publish_tenant(tenant.pk)
    tenant.refresh_from_db()
    lanes_say(valkey, tenant, [tenant.snapshot_revision] * 3)
    answer = get(client, f"{offers.url}/live")
    assert "live on 3 of 3 lanes after 0." in answer.text
    assert "on every phone within 66 s" in answer.text
    assert "hx-trigger" not in answer.html


def test_live__some_lanes_have_an_older_one__asks_again(client: Client, offers: Offers, valkey: redis.Redis) -> None:
    tenant = offers.model.tenant
    publish_tenant(tenant.pk)
    tenant.refresh_from_db()
    lanes_say(valkey, tenant, [tenant.snapshot_revision, tenant.snapshot_revision - 1])
    answer = get(client, f"{offers.url}/live")
    assert "live on 1 of 2 lanes" in answer.text
    assert 'hx-trigger="every 1s"' in answer.html


def test_live__a_lane_is_silent__is_one_of_them_and_said_to_be(
    client: Client, offers: Offers, valkey: redis.Redis
) -> None:
    tenant = offers.model.tenant
    publish_tenant(tenant.pk)
    tenant.refresh_from_db()
    lanes_say(valkey, tenant, [tenant.snapshot_revision, tenant.snapshot_revision - 1])
    valkey.pexpire(process_name(settings.REDIS_PREFIX, "lane:rack-7:1"), FORGET_MS - 60_000)
    text = get(client, f"{offers.url}/live").text
    assert "live on 1 of 2 lanes; the lane on rack-7, process 1 was last heard of 1 min 0 s ago" in text
    valkey.pexpire(process_name(settings.REDIS_PREFIX, "lane:rack-7:0"), FORGET_MS - 60_000)
    assert (
        "no lane is running that can be heard of: what players get isn’t known"
        in get(client, f"{offers.url}/live").text
    )


def test_live__published_before_the_change__says_that_it_is_not_given_on(client: Client, offers: Offers) -> None:
    assert "not sent to the lanes yet" in get(client, f"{offers.url}/live").text


def test_live__change_of_long_ago__is_not_asked_for_again(client: Client, offers: Offers) -> None:
    publish_tenant(offers.model.tenant_id)
    RolloutRevision.objects.unscoped().update(created_at=timezone.now() - timedelta(hours=1))
    answer = get(client, f"{offers.url}/live")
    assert "no lane is running" in answer.text
    assert "hx-trigger" not in answer.html


def test_live__redis_away__says_so_and_the_page_works(
    client: Client, offers: Offers, settings: Any, unused_port: int
) -> None:
    publish_tenant(offers.model.tenant_id)
    settings.TABLES_REDIS_URL = f"redis://127.0.0.1:{unused_port}/0"
    assert "the lanes can't be reached just now" in get(client, offers.url).text


@pytest.fixture
def unused_port() -> int:
    from recsite.embedded import free_port  # noqa: PLC0415 - beside its one use

    return free_port()


# --- What it costs ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("is_staff", [True, False], ids=["staff", "member"])
def test_pages__with_50_studios_of_5_models_and_3_versions__take_at_most_15_queries(*, is_staff: bool) -> None:
    person = factories.UserFactory.create(is_staff=is_staff)
    tenants = factories.TenantFactory.create_batch(50)
    for tenant in tenants:
        factories.MembershipFactory.create(tenant=tenant, user=person, role=Role.STUDIO_ADMIN)
        for model in factories.ModelFactory.create_batch(5, tenant=tenant):
            versions = factories.VersionFactory.create_batch(3, model=model)
            factories.RolloutRevisionFactory.create(model=model, weights={0: 5000, 1: 5000})
            factories.RolloutRevisionFactory.create(model=model, weights={0: 5000, 1: 3000, 2: 2000})
            if tenant == tenants[7]:
                for version in versions:
                    give_table(version)
                    factories.LoadFactory.create(version=version, state=LoadState.FAILED)
                    factories.OverrideFactory.create(version=version)
    model = RecommendationModel.objects.for_tenant(tenants[7]).latest("pk")
    client = signed_in(person)
    rollout = f"/studios/{tenants[7].slug}/models/{model.slug}"
    version = model.versions.latest("pk")
    reads = ["", "/why?player_id=p1", "/testers", "/settings", "/history", "/history/1", "/new-phase", "/live"]
    asks = ("/switch-off", "/source", "/schedule", "/freshness")
    reads += ["/new-version", *(f"/versions/{version.name}{path}" for path in ("", *asks))]
    urls = ["/", f"/studios/{tenants[7].slug}/models", *(f"{rollout}{path}" for path in reads)]
    loads = f"/studios/{tenants[7].slug}/loads"
    load = version.loads.latest("pk")
    urls += [
        loads,
        f"{loads}?model={model.slug}",
        *(f"{loads}/{load.pk}{path}" for path in ("", "/progress", "/activate-anyway")),
    ]
    for url in urls:
        with CaptureQueriesContext(
            connection,
        ) as queries:
            assert client.get(url).status_code == 200
        assert len(queries) <= 15, (url, [query["sql"][:90] for query in queries])
    form = weights(40, 30, 30)
    for path in ("/effect", "/weights"):
        with CaptureQueriesContext(connection) as queries:
            assert page(client.post(f"{rollout}{path}", form)).status == 200
        assert len(queries) <= 15, (path, [query["sql"][:90] for query in queries])


# --- Many versions ----------------------------------------------------------------------------------------------------


def test_rollout__many_versions__folds_those_without_players_the_newest_first(client: Client, offers: Offers) -> None:
    layout = offers.a.layout
    Version.objects.bulk_create(
        Version(model=offers.model, name=f"v{code:03}", code=code, layout=layout) for code in range(3, 12)
    )
    old = timezone.now() - timedelta(days=30)
    Version.objects.unscoped().filter(code__gte=3).update(created_at=old)
    tried = Version.objects.unscoped().get(code=4)
    factories.OverrideFactory.create(version=tried)
    html = get(client, offers.url).html
    shown, _, folded = html.partition('<tbody class="folded">')
    assert "Show 3 older versions without players" in get(client, offers.url).text
    assert [name in shown for name in ("v011", "v007", "v004", "2026-11-a")] == [True] * 4
    assert [name in folded for name in ("v006", "v005", "v003")] == [True] * 3
    rows = shown.partition('id="weights"')[2]
    assert rows.index("v011") < rows.index("v010") < rows.index(">2026-11-c<") < rows.index(">2026-11-a<")
    assert "version codes" not in html


def test_rollout__few_codes_left__says_so_from_200_on(client: Client, offers: Offers) -> None:
    layout = offers.a.layout
    Version.objects.bulk_create(
        Version(model=offers.model, name=f"v{code:03}", code=code, layout=layout) for code in range(3, 199)
    )
    assert "version codes" not in get(client, offers.url).text
    factories.VersionFactory.create(model=offers.model, layout=layout, code=199)
    assert "56 of 256 version codes are left." in get(client, offers.url).text
