"""The list of models, the way to a first answer, making and changing a model, adding a version."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import redis
from django.conf import settings
from django.utils import timezone

from models_registry.models import (
    Layout,
    Load,
    LoadState,
    RecommendationModel,
    RolloutRevision,
    SourceKind,
    Version,
)
from serving.reporting import processes_name
from tenants.models import Role, Tenant, User
from tests import factories
from tests.integration.dashboard_scene import field_value, get, give_table, make_offers, post, signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]

Queue = Callable[[], list[tuple[str, list[Any]]]]


def row(index: int, name: str, type: str, **parameters: Any) -> dict[str, Any]:  # noqa: A002 - the field's own name
    return {f"field-{index}-{key}": value for key, value in {"name": name, "type": type, **parameters}.items()}


def layout(*rows: dict[str, Any]) -> dict[str, Any]:
    form: dict[str, Any] = {"field-TOTAL_FORMS": str(len(rows)), "field-INITIAL_FORMS": "0"}
    for one in rows:
        form |= one
    return form


BADGE = {"name": "badge", "type": "enum", "values": ["gold", "silver"]}
NEW_MODEL = {
    "slug": "offers",
    "name": "Offers in the shop",
    "key_fields": "player_id",
    "unit_field": "player_id",
    "max_client_age_seconds": "120",
    "has_default": "on",
    **layout(
        row(0, "offer_id", "uint", min="0", max="4095", default="1"),
        row(1, "discount", "decimal", min="0", max="1", step="0.01", default="0,5"),
        row(2, "segment", "enum", values="new\r\nloyal\r\n\r\n", default="new"),
        row(3, "vip", "bool", default="No"),
        row(4, "items", "list", max_items="5", item="uint", min="0", max="999", default="7\r\n8"),
        row(5, "title", "string", max_bytes="20", optional="on"),
    ),
}


# --- The list ---------------------------------------------------------------------------------------------------------


def test_models__each_says_key_weights_data_and_state(teammate: User, studio: Tenant) -> None:
    offers = make_offers(studio)
    give_table(offers.c, at=timezone.now() - timedelta(days=2))
    answer = get(signed_in(teammate), f"/studios/{studio.slug}/models")
    assert answer.status == 200
    assert "Offers in the shop · keyed by player_id" in answer.text
    assert "2026-11-a 60 % 2026-11-b 30 % 2026-11-c 10 %" in answer.text
    assert 'aria-label="2026-11-a 60 %, 2026-11-b 30 %, 2026-11-c 10 %"' in answer.html
    assert "Loaded · data is late" in answer.text
    assert "data from 2 days ago" in answer.text


@pytest.mark.parametrize(
    ("newest_load", "words"), [(None, "Nothing loaded yet"), (LoadState.CHECKING, "First load runs")]
)
def test_models__version_without_a_table__is_said(
    teammate: User, studio: Tenant, newest_load: LoadState | None, words: str
) -> None:
    version = factories.VersionFactory.create(model__tenant=studio)
    factories.RolloutRevisionFactory.create(model=version.model)
    if newest_load:
        factories.LoadFactory.create(version=version, state=newest_load)
    assert words in get(signed_in(teammate), f"/studios/{studio.slug}/models").text


def test_models__one_of_two_served_versions_without_a_table__is_partly_loaded(teammate: User, studio: Tenant) -> None:
    offers = make_offers(studio)
    Version.objects.unscoped().filter(pk=offers.c.pk).update(active_table=None)
    assert "Partly loaded" in get(signed_in(teammate), f"/studios/{studio.slug}/models").text


def test_models__no_lane_runs__says_so_and_nothing_is_called_serving(
    teammate: User, studio: Tenant, valkey: redis.Redis
) -> None:
    make_offers(studio)
    client, url = signed_in(teammate), f"/studios/{studio.slug}/models"
    said = "No lane is running, so games get no answer."
    text = get(client, url).text
    assert said in text
    assert "2026-11-c 10 % Loaded" in text
    assert "Serving" not in get(client, f"{url}/offers").text
    now_ms = int(timezone.now().timestamp() * 1000)
    valkey.hset(processes_name(settings.REDIS_PREFIX), "lane:rack-7:1", str(now_ms))
    assert said not in get(client, url).text


def test_models__of_another_studio__are_not_listed(teammate: User, studio: Tenant) -> None:
    factories.ModelFactory.create(slug="somebody-elses")
    assert "somebody-elses" not in get(signed_in(teammate), f"/studios/{studio.slug}/models").html


# --- The way to a first answer ----------------------------------------------------------------------------------------


def test_first_steps__nothing_there__begins_with_a_model(teammate: User, studio: Tenant) -> None:
    answer = get(signed_in(teammate), f"/studios/{studio.slug}/models")
    assert "From here to a first answer" in answer.text
    assert f'href="/studios/{studio.slug}/new-model"' in answer.html
    assert "(done)" not in answer.text


def test_first_steps__viewer__is_told_that_somebody_else_must(studio: Tenant) -> None:
    viewer = factories.MembershipFactory.create(tenant=studio, role=Role.VIEWER).user
    answer = get(signed_in(viewer), f"/studios/{studio.slug}/models")
    assert "Your role (viewer) can't do this step" in answer.text
    assert "/new-model" not in answer.html


def test_first_steps__no_source_allowed_yet__says_who_can_allow_one(teammate: User, studio: Tenant) -> None:
    factories.LayoutFactory.create(model__tenant=studio)
    url = f"/studios/{studio.slug}/models"
    assert "may not read any table yet" not in get(signed_in(teammate), url).text
    Tenant.objects.update(allowed_datasets=[], allowed_gs_prefixes=[], allowed_local_roots=[])
    assert "may not read any table yet. Ask platform staff" in get(signed_in(teammate), url).text
    staff = factories.UserFactory.create(is_staff=True)
    assert f'href="/admin/tenants/tenant/{studio.pk}/change/"' in get(signed_in(staff), url).html


def test_first_steps__tick_what_is_done_and_lead_to_the_next(teammate: User, studio: Tenant) -> None:
    client, url = signed_in(teammate), f"/studios/{studio.slug}/models"
    model = factories.ModelFactory.create(tenant=studio, slug="offers")
    factories.LayoutFactory.create(model=model)
    answer = get(client, url)
    assert answer.text.count("(done)") == 1
    assert f'href="{url}/offers/new-version"' in answer.html
    version = factories.VersionFactory.create(model=model)
    factories.RolloutRevisionFactory.create(model=model)
    assert get(client, url).text.count("(done)") == 2
    give_table(version)
    assert get(client, url).text.count("(done)") == 3
    credential = factories.CredentialFactory.create(tenant=studio)
    answer = get(client, url)
    assert answer.text.count("(done)") == 4
    assert f"client_id={credential.client_id}" in answer.text
    assert "/v1/recommendations?model=offers&player_id=1" in answer.text
    credential.last_used_at = timezone.now()
    credential.save()
    assert get(client, url).text.count("(done)") == 4, "a token was given out, which is no answer yet"
    factories.CredentialUseFactory.create(credential=credential)
    assert "first answer" not in get(client, url).text


def test_first_steps__only_a_version_without_weight_is_loaded__asks_for_its_weight(
    teammate: User, studio: Tenant
) -> None:
    first = factories.VersionFactory.create(model__tenant=studio, model__slug="pets", name="v1")
    factories.RolloutRevisionFactory.create(model=first.model)
    second = factories.VersionFactory.create(model=first.model, name="v2", code=first.code + 1)
    give_table(second)
    client, url = signed_in(teammate), f"/studios/{studio.slug}/models"
    answer = get(client, url)
    assert "v2 of pets is loaded but has no weight" in answer.text
    assert f'<a href="{url}/pets">Give it a weight</a>' in answer.html
    give_table(first)
    assert "has no weight" not in get(client, url).text


# --- A new model ------------------------------------------------------------------------------------------------------


def test_new_model__is_made_as_typed_and_leads_to_its_page(teammate: User, studio: Tenant) -> None:
    client = signed_in(teammate)
    answer = post(client, f"/studios/{studio.slug}/new-model", NEW_MODEL)
    assert answer.location == f"/studios/{studio.slug}/models/offers"
    model = RecommendationModel.objects.for_tenant(studio).get()
    assert (model.name, model.key_fields, model.unit_field) == ("Offers in the shop", ["player_id"], "player_id")
    assert model.max_client_age_seconds == 120
    assert model.layouts.get().default == {
        "offer_id": 1,
        "discount": 0.5,
        "segment": "new",
        "vip": False,
        "items": [7, 8],
        "title": None,
    }
    assert model.layouts.get().fields == [
        {"name": "offer_id", "type": "uint", "min": 0, "max": 4095},
        {"name": "discount", "type": "decimal", "min": 0, "max": 1, "step": 0.01},
        {"name": "segment", "type": "enum", "values": ["new", "loyal"]},
        {"name": "vip", "type": "bool"},
        {"name": "items", "type": "list", "max_items": 5, "item": {"type": "uint", "min": 0, "max": 999}},
        {"name": "title", "type": "string", "max_bytes": 20, "optional": True},
    ]
    entry = studio.audit_entries.get(action="model.create")
    assert entry.actor == teammate
    page = get(client, answer.location)
    assert "Made the model offers. Next: a first version." in page.text
    assert "No version yet" in page.text


def test_new_model__what_stands_in_the_input_of_another_type__does_not_matter(teammate: User, studio: Tenant) -> None:
    form = NEW_MODEL | {"field-3-min": "much", "field-0-max_items": "many"}
    assert post(signed_in(teammate), f"/studios/{studio.slug}/new-model", form).location
    assert RecommendationModel.objects.for_tenant(studio).get().layouts.get().fields[3] == {
        "name": "vip",
        "type": "bool",
    }


def test_new_model__several_key_fields__by_commas_or_spaces(teammate: User, studio: Tenant) -> None:
    form = NEW_MODEL | {"key_fields": "country, level_band", "unit_field": ""}
    post(signed_in(teammate), f"/studios/{studio.slug}/new-model", form)
    assert RecommendationModel.objects.for_tenant(studio).get().key_fields == ["country", "level_band"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"slug": ""}, "This field is required."),
        ({"slug": "of fers"}, "is not a valid short name"),
        ({"key_fields": "player-id", "unit_field": ""}, "“player-id” is not a valid key field"),
        ({"unit_field": "country"}, "The unit field must be one of the key fields"),
        ({"field-0-default": ""}, "Enter a whole number from 0 to 4,095."),
        ({"field-0-default": "5000"}, "Enter a whole number from 0 to 4,095."),
        ({"field-0-default": "1e999999999"}, "Enter a whole number from 0 to 4,095."),
        ({"field-1-default": "0.505"}, "Enter a number from 0 to 1 in steps of 0.01."),
        ({"field-2-default": "neu"}, "Enter one of: new, loyal."),
        ({"field-3-default": ""}, "Enter one of: yes, no."),
        ({"field-4-default": "1\n1\n1\n1\n1\n1"}, "Enter a list of at most 5 items, each a whole number"),
        ({"field-5-default": "a text that is far too long"}, "Enter a text of at most 20 bytes."),
        ({"slug": "a" * 51}, "This has 51 characters. The maximum is 50."),
        ({"slug": "a\0b"}, "This contains a character that cannot be stored"),
        ({"max_client_age_seconds": "86401"}, "Enter a number from 1 to 86,400."),
        ({"max_client_age_seconds": "0"}, "Enter a number from 1 to 86,400."),
        ({"field-0-max": ""}, "Enter the largest value."),
        ({"field-1-step": ""}, "Enter the step."),
        ({"field-1-step": "0.3"}, "Invalid layout: field “discount”"),
        ({"field-2-values": ""}, "Enter at least one text."),
        ({"field-4-max_items": ""}, "Enter the largest number of items."),
        ({"field-4-item": ""}, "Choose what the list holds."),
        ({"field-5-max_bytes": ""}, "Enter the largest number of bytes."),
        ({"field-5-name": "offer_id"}, "Invalid layout: two fields are named “offer_id”."),
        ({"field-TOTAL_FORMS": "x"}, "below needs another look"),
    ],
)
def test_new_model__that_will_not_do__says_why_and_keeps_what_was_typed(
    teammate: User, studio: Tenant, change: dict[str, str], words: str
) -> None:
    answer = post(signed_in(teammate), f"/studios/{studio.slug}/new-model", NEW_MODEL | change)
    assert answer.status == 422
    assert words in answer.text
    assert field_value(answer.html, "name") == "Offers in the shop"
    if "field-TOTAL_FORMS" not in change:
        assert field_value(answer.html, "field-0-name") == "offer_id"
        assert "new\nloyal" in answer.html.replace("\r", "") or "field-2-values" in change
    assert not RecommendationModel.objects.for_tenant(studio).exists()


def test_new_model__several_mistakes__are_said_at_once(teammate: User, studio: Tenant) -> None:
    wrong = {"slug": "of fers", "key_fields": "model", "unit_field": "", "field-1-step": "0.3"}
    answer = post(signed_in(teammate), f"/studios/{studio.slug}/new-model", NEW_MODEL | wrong)
    assert answer.status == 422
    assert "“of fers” is not a valid short name" in answer.text
    assert "“model” has another meaning in requests" in answer.text
    assert "Invalid layout: field “discount”" in answer.text


def test_new_version__several_mistakes__are_said_at_once(teammate: User, studio: Tenant) -> None:
    offers = make_offers(studio)
    wrong = {"name": "2026 a", "source_location": "/etc/passwd"}
    answer = post(signed_in(teammate), f"{offers.url}/new-version", NEW_VERSION | wrong)
    assert answer.status == 422
    assert "A version's name can have 1 to 60 letters" in answer.text
    assert "This studio may not read /etc/passwd." in answer.text


def test_new_model__slug_taken__is_said_next_to_it(teammate: User, studio: Tenant) -> None:
    make_offers(studio)
    answer = post(signed_in(teammate), f"/studios/{studio.slug}/new-model", NEW_MODEL)
    assert "This studio already has a model “offers”." in answer.html.partition('id="id_slug_error"')[2][:200]


def test_layout_editor__without_scripts__adds_removes_and_moves_rows(teammate: User, studio: Tenant) -> None:
    client, url = signed_in(teammate), f"/studios/{studio.slug}/new-model"

    def names(html: str) -> list[str]:
        count = int(field_value(html, "field-TOTAL_FORMS"))
        return [field_value(html, f"field-{index}-name") for index in range(count)]

    before = ["offer_id", "discount", "segment", "vip", "items", "title"]
    added = post(client, url, NEW_MODEL | {"layout": "add"})
    assert added.status == 200
    assert names(added.html) == [*before, ""]
    assert field_value(added.html, "slug") == "offers"
    assert field_value(added.html, "field-4-max_items") == "5"
    assert names(post(client, url, NEW_MODEL | {"layout": "remove-0"}).html) == before[1:]
    moved = post(client, url, NEW_MODEL | {"layout": "up-1"}).html
    assert names(moved) == ["discount", "offer_id", *before[2:]]
    assert field_value(moved, "field-0-step") == "0.01"
    for nothing in ("up-0", "remove-99", "sideways", "remove-x"):
        assert names(post(client, url, NEW_MODEL | {"layout": nothing}).html) == before
    assert not RecommendationModel.objects.for_tenant(studio).exists()


def test_layout_editor__last_row__stays(teammate: User, studio: Tenant) -> None:
    form = {**layout(row(0, "only", "bool")), "layout": "remove-0"}
    answer = post(signed_in(teammate), f"/studios/{studio.slug}/new-model", form)
    assert field_value(answer.html, "field-0-name") == "only"


# --- Settings ---------------------------------------------------------------------------------------------------------


def test_settings__name_and_limits__are_saved(teammate: User, studio: Tenant) -> None:
    offers, client = make_offers(studio), signed_in(teammate)
    limits = {"max_row_count_change": "12.5", "min_coverage": "80", "max_psi": "0.1"}
    form = {"part": "basics", "name": "Shop", "max_client_age_seconds": "30", **limits}
    assert post(client, f"{offers.url}/settings", form).location == f"{offers.url}/settings"
    offers.model.refresh_from_db()
    assert (offers.model.name, offers.model.max_client_age_seconds) == ("Shop", 30)
    model = offers.model
    assert (model.max_row_count_change, model.min_coverage, model.max_psi) == (0.125, 0.8, 0.1)
    assert field_value(get(client, f"{offers.url}/settings").html, "max_row_count_change") == "12.5"


def test_settings__value_that_will_not_do__stays_typed_and_changes_nothing(teammate: User, studio: Tenant) -> None:
    offers = make_offers(studio)
    form = {
        "part": "basics",
        "name": "",
        "max_client_age_seconds": "99999",
        "max_row_count_change": "30",
        "min_coverage": "50",
        "max_psi": "0.25",
    }
    answer = post(signed_in(teammate), f"{offers.url}/settings", form)
    assert answer.status == 422
    assert field_value(answer.html, "max_client_age_seconds") == "99999"
    offers.model.refresh_from_db()
    assert offers.model.max_client_age_seconds == 60


def default_form(revision: int, *values: str, **more: str) -> dict[str, str]:
    typed = {f"default-{revision}-value-{place}": value for place, value in enumerate(values)}
    return {"part": "default", "revision": str(revision), f"default-{revision}-has_default": "on", **typed, **more}


def test_settings__default_answer__is_set_and_taken_away(teammate: User, studio: Tenant) -> None:
    offers, client = make_offers(studio), signed_in(teammate)
    url, layout = f"{offers.url}/settings", offers.a.layout
    assert field_value(get(client, url).html, "default-0-value-1") == "0.05"
    post(client, url, default_form(0, "7", "0"))
    layout.refresh_from_db()
    assert layout.default == {"offer_id": 7, "discount": 0}
    refused = post(client, url, default_form(0, "70000", "0"))
    assert refused.status == 422
    assert "Enter a whole number from 0 to 4,095." in refused.text
    assert field_value(refused.html, "default-0-value-0") == "70000"
    post(client, url, {"part": "default", "revision": "0"})
    layout.refresh_from_db()
    assert layout.default is None


def test_settings__defaults_of_two_layouts__are_changed_apart(teammate: User, studio: Tenant) -> None:
    offers, client = make_offers(studio), signed_in(teammate)
    url, old = f"{offers.url}/settings", offers.a.layout
    new = factories.LayoutFactory.create(model=offers.model, fields=[old.fields[0], BADGE])
    html = get(client, url).html
    assert html.index("default-1-value-0") < html.index("default-0-value-0")
    assert post(client, url, default_form(1, "3", "gold")).location == url
    for layout in (old, new):
        layout.refresh_from_db()
    assert new.default == {"offer_id": 3, "badge": "gold"}
    assert old.default == factories.DEFAULT_ANSWER
    assert post(client, url, default_form(2, "3", "gold")).status == 404


def test_settings__default_left_alone__stays_what_its_text_cannot_say(teammate: User, studio: Tenant) -> None:
    odd = {"lines": ["a\nb", ""], "note": ""}
    fields = [
        {"name": "lines", "type": "list", "max_items": 3, "item": {"type": "enum", "values": ["a\nb", ""]}},
        {"name": "note", "type": "string", "max_bytes": 9, "optional": True},
    ]
    model = factories.ModelFactory.create(tenant=studio, slug="odd", default_answer=odd)
    made = factories.LayoutFactory.create(model=model, fields=fields)
    client, url = signed_in(teammate), f"/studios/{studio.slug}/models/odd/settings"
    assert post(client, url, default_form(0, "a\r\nb\r\n", "")).location == url
    made.refresh_from_db()
    assert made.default == odd


def test_settings__new_layout__asks_for_its_default_and_shows_the_one_before(teammate: User, studio: Tenant) -> None:
    offers, client = make_offers(studio), signed_in(teammate)
    url = f"{offers.url}/settings"
    html = get(client, url).html
    assert re.findall(r'<textarea name="field-.-default".*?>\n(.*?)</textarea>', html) == ["1", "0.05"]
    typed = {
        "part": "layout",
        "has_default": "on",
        **layout(
            row(0, "offer", "uint", min="0", max="4095", default="1"),
            row(1, "badge", "enum", values="gold\nsilver"),
        ),
    }
    refused = post(client, url, typed)
    assert refused.status == 422
    assert "Enter one of: gold, silver." in refused.text
    saved = post(client, url, typed | {"field-1-default": "gold"})
    assert saved.location == url
    newest = Layout.objects.for_tenant(studio).latest("revision")
    assert (newest.revision, newest.default) == (1, {"offer": 1, "badge": "gold"})
    offers.a.layout.refresh_from_db()
    assert offers.a.layout.default == factories.DEFAULT_ANSWER


def test_settings__layout_left_alone_with_another_default__changes_the_default(teammate: User, studio: Tenant) -> None:
    offers, client = make_offers(studio), signed_in(teammate)
    same = layout(
        row(0, "offer_id", "uint", min="0", max="4095", default="9"),
        row(1, "discount", "decimal", min="0", max="1", step="0.01", default="0.05"),
    )
    assert post(client, f"{offers.url}/settings", {"part": "layout", "has_default": "on", **same}).location
    [only] = Layout.objects.for_tenant(studio)
    assert only.default == {"offer_id": 9, "discount": 0.05}


def test_settings__layout__becomes_the_next_revision(teammate: User, studio: Tenant) -> None:
    offers, client = make_offers(studio, default_answer=None), signed_in(teammate)
    url = f"{offers.url}/settings"
    shown = get(client, url).html
    assert field_value(shown, "field-0-name") == "offer_id"
    assert field_value(shown, "field-1-step") == "0.01"
    same = layout(
        row(0, "offer_id", "uint", min="0", max="4095"), row(1, "discount", "decimal", min="0", max="1", step="0.01")
    )
    unchanged = post(client, url, {"part": "layout", **same})
    assert "This is already the newest layout." in unchanged.text
    saved = post(client, url, {"part": "layout", **same, "field-0-max": "9999"})
    assert saved.location == url
    assert "Saved as layout 1." in get(client, url).text
    newest = Layout.objects.for_tenant(studio).latest("revision")
    assert (newest.revision, newest.fields[0]["max"]) == (1, 9999)
    offers.a.refresh_from_db()
    assert offers.a.layout.revision == 0


def test_settings__list_of_enums__comes_back_as_it_was(teammate: User, studio: Tenant) -> None:
    fields = [{"name": "x", "type": "list", "max_items": 3, "item": {"type": "enum", "values": ["a", "b"]}}]
    model = factories.ModelFactory.create(tenant=studio, slug="lists", default_answer=None)
    factories.LayoutFactory.create(model=model, fields=fields)
    client, url = signed_in(teammate), f"/studios/{studio.slug}/models/lists/settings"
    html = get(client, url).html
    assert '<option value="list" selected ' in html
    assert '<option value="enum" selected ' in html
    form = layout(row(0, "x", "list", max_items="3", item="enum", values="a\nb"))
    assert "This is already the newest layout." in post(client, url, {"part": "layout", **form}).text


def test_settings__part_that_does_not_exist__is_a_404(teammate: User, studio: Tenant) -> None:
    offers = make_offers(studio)
    assert post(signed_in(teammate), f"{offers.url}/settings", {"part": "everything"}).status == 404


def test_settings__viewer__reads_them(studio: Tenant) -> None:
    offers = make_offers(studio)
    viewer = factories.MembershipFactory.create(tenant=studio, role=Role.VIEWER).user
    answer = get(signed_in(viewer), f"{offers.url}/settings")
    assert "offer_id a whole number from 0 to 4,095" in answer.text
    assert "uint" not in answer.text
    assert "60 s" in answer.text


# --- Versions ---------------------------------------------------------------------------------------------------------

NEW_VERSION = {
    "name": "2026-12-a",
    "source_kind": SourceKind.PARQUET,
    "source_location": "/srv/tables/offers/*.parquet",
}


def test_new_version__first_one__gets_everybody_and_is_loaded(
    teammate: User, studio: Tenant, celery_queue: Queue, django_capture_on_commit_callbacks: Any
) -> None:
    model = factories.ModelFactory.create(tenant=studio, slug="offers")
    factories.LayoutFactory.create(model=model)
    client, url = signed_in(teammate), f"/studios/{studio.slug}/models/offers"
    with django_capture_on_commit_callbacks(execute=True):
        answer = post(client, f"{url}/new-version", NEW_VERSION | {"load_now": "on"})
    assert answer.location == f"{url}/versions/2026-12-a"
    version = Version.objects.for_tenant(studio).get()
    assert (version.name, version.source.location) == ("2026-12-a", "/srv/tables/offers/*.parquet")
    assert RolloutRevision.objects.for_tenant(studio).get().weights_bp == {"0": 10_000}
    load = Load.objects.for_tenant(studio).get()
    assert load.requested_by == teammate
    assert celery_queue() == [("loading.run", [load.pk])]
    assert "Its load is queued." in get(client, answer.location).text


def test_new_version__second_one__has_no_players(teammate: User, studio: Tenant) -> None:
    offers, client = make_offers(studio), signed_in(teammate)
    post(client, f"{offers.url}/new-version", NEW_VERSION)
    answer = get(client, offers.url)
    assert "It has no weight yet. Give it one." in answer.text
    assert field_value(answer.html, "weight-3") == "0.00"
    assert not Load.objects.for_tenant(studio).filter(state=LoadState.QUEUED).exists()


def test_new_version__the_same_form_twice__made_one_and_leads_to_it(teammate: User, studio: Tenant) -> None:
    offers, client = make_offers(studio), signed_in(teammate)
    form = NEW_VERSION | {"load_now": "on"}
    answers = [post(client, f"{offers.url}/new-version", form) for _ in range(2)]
    assert {answer.location for answer in answers} == {f"{offers.url}/versions/2026-12-a"}
    assert Load.objects.for_tenant(studio).filter(state=LoadState.QUEUED).count() == 1
    # Another source under that name is another version.
    other = post(client, f"{offers.url}/new-version", form | {"source_location": "/srv/tables/others.parquet"})
    assert "This model already has a version “2026-12-a”." in other.text
    Version.objects.for_tenant(studio).update(created_at=timezone.now() - timedelta(hours=1))
    assert post(client, f"{offers.url}/new-version", form).status == 422


@pytest.mark.parametrize(
    ("change", "words", "field"),
    [
        ({"name": "2026 a"}, "A version's name can have 1 to 60 letters", "name"),
        ({"name": "2026-11-a"}, "This model already has a version “2026-11-a”.", "name"),
        ({"source_location": "/etc/*.parquet"}, "This studio may not read /etc/*.parquet.", "source_location"),
        ({"source_kind": "floppy"}, "Choose one of the listed options.", "source_kind"),
        ({"source_location": ""}, "This field is required.", "source_location"),
    ],
)
def test_new_version__that_will_not_do__is_refused_next_to_its_field(
    teammate: User, studio: Tenant, change: dict[str, str], words: str, field: str
) -> None:
    offers = make_offers(studio)
    answer = post(signed_in(teammate), f"{offers.url}/new-version", NEW_VERSION | change)
    assert answer.status == 422
    assert words in answer.html.partition(f'id="id_{field}_error"')[2][:300].replace("&#x27;", "'")
    assert Version.objects.for_tenant(studio).count() == 3


def test_new_version__says_what_the_studio_may_read(teammate: User, studio: Tenant) -> None:
    offers = make_offers(studio)
    client = signed_in(teammate)
    assert "gs://studio-tables/out/" in get(client, f"{offers.url}/new-version").text
    Tenant.objects.update(allowed_datasets=[], allowed_gs_prefixes=[], allowed_local_roots=[])
    answer = get(client, f"{offers.url}/new-version")
    assert "may not read anything yet. Ask platform staff to allow" in answer.text
    assert "/admin/" not in answer.html
    staff = signed_in(factories.UserFactory.create(is_staff=True))
    for page in ("new-version", "versions/2026-11-b/source"):
        assert f'href="/admin/tenants/tenant/{studio.pk}/change/"' in get(staff, f"{offers.url}/{page}").html


def test_load_now__queues_a_load(teammate: User, studio: Tenant) -> None:
    offers, client = make_offers(studio), signed_in(teammate)
    answer = post(client, f"{offers.url}/versions/2026-11-b/load")
    load = Load.objects.for_tenant(studio).get(state=LoadState.QUEUED)
    assert load.version == offers.b
    assert answer.location == f"/studios/{studio.slug}/loads/{load.pk}"
    assert "The load of 2026-11-b is queued." in get(client, answer.location).text
    assert post(client, f"{offers.url}/versions/no-such/load").status == 404


def test_load_now__version_without_a_source__says_so(teammate: User, studio: Tenant) -> None:
    offers, client = make_offers(studio), signed_in(teammate)
    offers.b.source.delete()
    url = f"{offers.url}/versions/2026-11-b"
    assert post(client, f"{url}/load").location == url
    assert "has no source yet" in get(client, url).text
