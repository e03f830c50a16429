"""The list of loads, and the page of one: while it runs, and how it ended."""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import redis
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from models_registry.loading.requests import load_request
from models_registry.loading.running import run_load
from models_registry.models import RUNNING_STATES, Load, LoadState
from tenants.models import Role, Tenant, User
from tests import factories
from tests.integration.dashboard_scene import Offers, get, make_offers, post, signed_in
from tests.loading_scene import Scene, columns

pytestmark = pytest.mark.django_db


@pytest.fixture
def offers(studio: Tenant) -> Offers:
    return make_offers(studio)


@pytest.fixture
def client(teammate: User) -> Client:
    return signed_in(teammate)


@pytest.fixture
def loads(studio: Tenant) -> str:
    return f"/studios/{studio.slug}/loads"


@pytest.fixture
def scene(tmp_path: Path, settings: Settings, valkey: redis.Redis) -> Scene:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    return Scene(tmp_path)


def person(scene: Scene, role: Role) -> Client:
    return signed_in(factories.MembershipFactory.create(tenant=scene.tenant, role=role).user)


def page_of(load: Load) -> str:
    return f"/studios/{load.version.model.tenant.slug}/loads/{load.pk}"


# --- The list ---------------------------------------------------------------------------------------------------------


def test_loads__none__says_what_one_is(client: Client, loads: str) -> None:
    assert "Nothing has been loaded yet" in get(client, loads).text


def test_loads__each__says_what_came_of_it(client: Client, offers: Offers, loads: str) -> None:
    began = timezone.now() - timedelta(minutes=5)
    times = {"started_at": began, "finished_at": began + timedelta(seconds=80)}
    factories.LoadFactory.create(
        version=offers.c,
        state=LoadState.REJECTED,
        problem="The source has no rows.",
        rows_read=12_345,
        requested_by_name="Airflow",
        **times,
    )
    factories.LoadFactory.create(version=offers.c, is_dry_run=True, state=LoadState.CHECKED, scheduled_for=began)
    text = get(client, loads).text
    assert "Dry run 3 of 2026-11-c 2026-11-c offers Checked – – 0 s ago by its schedule" in text
    assert "Rejected by a check The source has no rows. 12,345 1 min 20 s 0 s ago by Airflow" in text
    assert text.index("Dry run 3") < text.index("The source has no rows.") < text.index("Load 1 of 2026-11-a")


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ("", 4),
        ("model=offers", 3),
        ("model=offers&version=2026-11-b", 1),
        ("version=2026-11-b", 1),
        ("model=other", 1),
        ("version=other/2026-11-b", 1),
        ("version=offers/2026-11-b", 1),
        ("model=other&version=2026-11-b", 1),
        ("model=other&version=offers/2026-11-a", 1),
        ("model=other&state=active", 0),
        ("state=queued", 1),
        ("model=offers&state=active", 3),
        ("state=no-such&model=no-such", 4),
        ("before=no-number", 4),
        ("before=99999999999999999999999", 4),
    ],
)
def test_loads__filtered__are_those(client: Client, offers: Offers, loads: str, query: str, found: int) -> None:
    other = factories.ModelFactory.create(tenant=offers.model.tenant, slug="other")
    factories.LoadFactory.create(version=factories.VersionFactory.create(model=other, name="2026-11-b"))
    factories.LoadFactory.create()
    answer = get(client, f"{loads}?{query}")
    assert answer.status == 200
    assert len(re.findall(r'<th scope="row"', answer.html)) == found
    assert ("No load fits" in answer.text) is (found == 0)


def test_loads__versions_to_choose__are_listed_by_model(client: Client, offers: Offers, loads: str) -> None:
    other = factories.ModelFactory.create(tenant=offers.model.tenant, slug="songs")
    factories.VersionFactory.create(model=other, name="2026-11-b")
    html = get(client, loads).html
    assert '<optgroup label="songs">' in html
    assert '<option value="offers/2026-11-b">2026-11-b</option>' in html
    html = get(client, f"{loads}?version=songs/2026-11-b").html
    assert '<option value="songs/2026-11-b" selected>2026-11-b</option>' in html
    assert "<optgroup" not in get(client, f"{loads}?model=songs").html


def test_loads__more_than_a_page__are_reached_page_by_page(client: Client, offers: Offers, loads: str) -> None:
    factories.LoadFactory.create_batch(62, version=offers.b, state=LoadState.SUPERSEDED)
    url, seen = f"{loads}?version=2026-11-b", []
    for count in (30, 30, 3):
        answer = get(client, url)
        found = [int(number) for number in re.findall(r">Load (\d+)<", answer.html)]
        assert len(found) == count
        seen += found
        older = re.search(r'href="(\?[^"]*)">Older loads', answer.html)
        url = f"{loads}{older[1]}".replace("&amp;", "&") if older else ""
    assert seen == list(range(63, 0, -1))
    assert url == ""
    assert "Newest loads" in answer.text


# --- While it runs ----------------------------------------------------------------------------------------------------


def test_load__running__is_followed_until_it_ends(client: Client, offers: Offers, loads: str) -> None:
    now = timezone.now()
    load = factories.LoadFactory.create(
        version=offers.b,
        state=LoadState.WRITING,
        started_at=now - timedelta(seconds=30),
        heartbeat_at=now,
        rows_read=9_000,
        rows_written=3_000,
        report={"stages": [{"name": "extract", "seconds": 20.0, "rows": 9_000, "rows_per_second": 450}]},
    )
    url = f"{loads}/{load.pk}"
    answer = get(client, url)
    assert "Writing the new table" in answer.text
    assert "Rows written 3,000 of 9,000" in answer.text
    assert re.search(r"Speed (29\d|300) rows/s", answer.text)
    assert re.search(r"written in about (20|21) s", answer.text)
    assert "Look again" in answer.text
    headers = {"HX-Request": "true", "HX-Current-URL": f"http://testserver{url}"}
    asked = get(client, f"{url}/progress", **headers)
    assert f'hx-get="{url}/progress" hx-trigger="every 1s"' in asked.html
    assert "Look again" not in asked.text

    load.state, load.finished_at = LoadState.ACTIVE, timezone.now()
    load.save()
    ended = get(client, f"{url}/progress", **headers)
    assert "every 1s" not in ended.html
    assert f'hx-get="{url}" hx-trigger="load" hx-select="#main"' in ended.html
    assert "hx-get" not in get(client, url).html.partition('id="progress"')[2].partition("</section>")[0]


@pytest.mark.parametrize(
    ("state", "rows_written", "stages", "stopped"),
    [
        (LoadState.FAILED, 0, [], "Reading"),
        (LoadState.FAILED, 0, ["extract"], "Reading"),
        (LoadState.REJECTED, 0, ["extract"], "Checking"),
        (LoadState.REJECTED, 0, ["extract", "check"], "Checking"),
        (LoadState.REJECTED, 5, ["extract", "check", "write"], "Writing"),
        (LoadState.FAILED, 5, ["extract", "check", "write", "verify"], "Verifying"),
    ],
)
def test_load__ended_early__says_at_which_step(
    state: LoadState,
    rows_written: int,
    stages: list[str],
    stopped: str,
    client: Client,
    offers: Offers,
    loads: str,
) -> None:
    load = factories.LoadFactory.create(
        version=offers.b,
        state=state,
        started_at=factories.SOME_TIME,
        rows_written=rows_written,
        report={
            "checks": [],
            "notes": [],
            "stages": [{"name": n, "seconds": 1, "rows": 1, "rows_per_second": 1} for n in stages],
        },
    )
    assert re.findall(r"(\w+) \(stopped here\)", get(client, f"{loads}/{load.pk}").text) == [stopped]


@pytest.mark.parametrize("state", LoadState)
def test_load__in_each_state__says_how_it_is(client: Client, offers: Offers, state: LoadState) -> None:
    load = factories.LoadFactory.create(version=offers.c, state=state, is_dry_run=state == LoadState.CHECKED)
    what = "say" if state in RUNNING_STATES else "note"
    said = re.search(rf'<(p|div) class="{what}\b.*?</\1>', get(client, page_of(load)).html, re.DOTALL)
    assert said is not None
    assert re.sub(r"<[^>]*>|\s", "", said[0])


def test_progress__current_address_of_another_site__is_not_followed(client: Client, offers: Offers, loads: str) -> None:
    headers = {"HX-Request": "true", "HX-Current-URL": "https://elsewhere.example/x"}
    answer = get(client, f"{loads}/{offers.a.loads.get().pk}/progress", **headers)
    assert answer.status == 200
    assert "hx-get" not in answer.html
    assert "elsewhere" not in answer.html


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"state": LoadState.QUEUED}, "Either every worker is busy or none is running."),
        ({"state": LoadState.CHECKING, "heartbeat": True}, "No worker has reported on this load"),
    ],
    ids=["waiting", "silent"],
)
def test_load__nobody_at_work__says_so(
    client: Client, offers: Offers, loads: str, values: dict[str, Any], words: str
) -> None:
    before = timezone.now() - timedelta(minutes=5)
    load = factories.LoadFactory.create(version=offers.b, state=values["state"])
    if "heartbeat" in values:
        load.started_at = load.heartbeat_at = before
        load.save()
    Load.objects.unscoped().filter(pk=load.pk).update(created_at=before)
    assert words in get(client, f"{loads}/{load.pk}").text


# --- How it ended -----------------------------------------------------------------------------------------------------


def test_load__active__tells_what_it_made(scene: Scene) -> None:
    scene.load(columns(range(300)))
    load = scene.load(columns(range(310), exported_at=["x"] * 310))
    text = get(person(scene, Role.VIEWER), page_of(load)).text
    assert "Its table is served: 310 rows" in text
    assert "310 rows, 3.3 % more than the 300 now active" in text
    assert "Left out, because neither key nor layout has them: exported_at." in text
    for stage in ("Reading the source", "Checking the rows", "Writing the table", "Reading the table back"):
        assert re.search(rf"{stage} [\d.]+ s [\d,]+ rows/s", text), stage
    assert "items · how many As before (PSI 0.0" in text
    assert f"Parquet files {scene.source.location}" in text
    assert re.search(rf"1 file, [\d,]+ bytes .*{scene.source.location} .* 310 ", text)


def test_load__whose_table_was_replaced__says_so(scene: Scene) -> None:
    first = scene.load(columns(range(300)))
    scene.load(columns(range(300)))
    assert "has since been replaced" in get(person(scene, Role.VIEWER), page_of(first)).text


def test_load__rejected_for_its_rows__is_explained(scene: Scene) -> None:
    scene.load(columns(range(300)))
    load = scene.load(columns(range(300), offer_id=[5_000] * 7 + [1] * 293))
    answer = get(person(scene, Role.STUDIO_ADMIN), page_of(load))
    assert "Players notice nothing: the previous table is still served." in answer.text
    assert "✕ offer_id: values" in answer.text
    assert "Row Key Value 1 p0 5000 2 p1 5000" in answer.text
    assert "5 of 7 are shown." in answer.text
    assert "If the rows are right and the model expects something else" in answer.text
    assert "Try again" in answer.text
    assert "Activate anyway" not in answer.text
    url = f"{page_of(load)}/activate-anyway"
    assert "This load can’t be activated" in get(person(scene, Role.STUDIO_ADMIN), url).text
    refused = post(person(scene, Role.STUDIO_ADMIN), url, {"reason": "please"})
    assert "never waived" in refused.text
    assert Load.objects.unscoped().count() == 2


def test_load__rejected_without_a_table_before__says_what_players_get(scene: Scene) -> None:
    load = scene.load(columns([]))
    assert load.state in (LoadState.REJECTED, LoadState.FAILED)
    text = get(person(scene, Role.PRODUCT_MANAGER), page_of(load)).text
    assert "a has no table yet: whoever gets it gets no recommendation." in text


def test_load__too_few_rows__is_activated_anyway_by_an_admin(scene: Scene) -> None:
    scene.load(columns(range(300)))
    load = scene.load(columns(range(100)))
    manager = get(person(scene, Role.PRODUCT_MANAGER), page_of(load))
    assert "a studio admin can activate them anyway" in manager.text
    assert "the model expects something else" not in manager.text
    assert "What it would have changed" in manager.text
    assert "/activate-anyway" not in manager.html
    admin = person(scene, Role.STUDIO_ADMIN)
    assert f'href="{page_of(load)}/activate-anyway"' in get(admin, page_of(load)).html
    asked = get(admin, f"{page_of(load)}/activate-anyway")
    assert "row count : 100 rows, 66.7 % fewer than the 300 now active" in asked.text
    missing = post(admin, f"{page_of(load)}/activate-anyway", {"reason": ""})
    assert missing.status == 422
    assert "This field is required." in missing.html.partition('id="id_reason_error"')[2][:200]

    answer = post(admin, f"{page_of(load)}/activate-anyway", {"reason": "we closed two countries"})
    new = Load.objects.unscoped().get(waives=load)
    assert answer.location == page_of(new)
    run_load(new.pk)
    text = get(admin, page_of(new)).text
    assert "to activate what load 2 was rejected with: “we closed two countries”" in text
    assert "✕ Row count · waived" in text
    assert "Its table is served: 100 rows" in text
    assert "Load 3 was asked to waive this: “we closed two countries”" in get(admin, page_of(load)).text


def test_load__dry_run__says_that_nothing_changed(scene: Scene) -> None:
    scene.load(columns(range(300)))
    scene.write(columns(range(310)))
    load = load_request(version=scene.version, actor=None, dry_run=True)
    run_load(load.pk)
    load.refresh_from_db()
    answer = get(person(scene, Role.PRODUCT_MANAGER), page_of(load))
    assert "Dry run 2 of a Checked" in answer.text
    assert "Every check passed. This was a dry run: nothing was written" in answer.text
    assert ">Load now</button>" in answer.html
    assert "What a load would change Added 10 Removed 0 Changed 0 Unchanged 300" in answer.text
    assert "Estimated" not in answer.text


def test_load__dry_run_that_failed__is_run_dry_again(scene: Scene) -> None:
    scene.load(columns(range(300)))
    scene.write(columns(range(100)))
    load = load_request(version=scene.version, actor=None, dry_run=True)
    run_load(load.pk)
    answer = get(person(scene, Role.STUDIO_ADMIN), page_of(load))
    assert ">Dry run again</button>" in answer.html
    assert "Fix the source before you load it." in answer.text


def test_load__difference__is_shown_with_keys(client: Client, offers: Offers, loads: str) -> None:
    difference = {
        "added": 1_200,
        "removed": 3,
        "changed": 40,
        "unchanged": 900_000,
        "samples": {"added": ["p1", "p2"], "changed": ["p3"]},
        "is_estimate": True,
        "share_compared": 0.125,
    }
    load = factories.LoadFactory.create(
        version=offers.b, state=LoadState.CHECKED, is_dry_run=True, report={"difference": difference}
    )
    text = get(client, f"{loads}/{load.pk}").text
    assert "Estimated from 12.5 % of the keys; a dry run counts all of them." in text
    assert text.count("stimated") == 1
    assert "Added 1,200 Removed 3 Changed 40 Unchanged 900,000" in text
    assert "Added, for example: p1 , p2 Changed, for example: p3" in text


def test_load__failed__says_what_to_do(client: Client, offers: Offers, loads: str) -> None:
    problem = "The table could not be written to Redis: out of memory."
    load = factories.LoadFactory.create(version=offers.b, state=LoadState.FAILED, problem=problem)
    answer = get(client, f"{loads}/{load.pk}")
    assert problem in answer.text
    assert ">Try again</button>" in answer.html
    assert f'action="{offers.url}/versions/2026-11-b/load"' in answer.html


def test_load__superseded__says_by_what(client: Client, offers: Offers, loads: str) -> None:
    load = factories.LoadFactory.create(
        version=offers.b, state=LoadState.SUPERSEDED, problem="Load 9, which is newer, replaced it."
    )
    assert "Load 9, which is newer, replaced it." in get(client, f"{loads}/{load.pk}").text


def test_load__that_runs__is_cancelled_by_a_product_manager(client: Client, offers: Offers, loads: str) -> None:
    load = factories.LoadFactory.create(version=offers.b, state=LoadState.WRITING)
    url = f"{loads}/{load.pk}"
    assert f'action="{url}/cancel"' in get(client, url).html

    answer = post(client, f"{url}/cancel", {})
    page = get(client, url)

    assert answer.location == url
    assert "cancelled it. What is served did not change." in page.text
    assert "/cancel" not in page.html
    assert "has already ended: cancelled." in get(client, post(client, f"{url}/cancel", {}).location).text


def test_load__of_texts_that_look_like_markup__shows_them_as_text(client: Client, offers: Offers, loads: str) -> None:
    markup = "<img src=x onerror=alert(1)>"
    sample = {"row": 1, "key": markup, "value": markup}
    check = {"name": markup, "passed": False, "count": 1, "words": markup, "samples": [sample]}
    spread = {
        "name": markup,
        "kind": "string",
        "psi": None,
        "bins": [{"label": markup, "share": 1, "share_before": None}],
    }
    report = {"checks": [check], "notes": [markup], "stages": [], "fields": [spread]}
    load = factories.LoadFactory.create(
        version=offers.b, state=LoadState.REJECTED, problem=markup, source_location=markup, report=report
    )
    answer = get(client, f"{loads}/{load.pk}")
    assert answer.status == 200
    assert "<img src=x" not in answer.html
    assert answer.html.count("&lt;img src=x") >= 6
