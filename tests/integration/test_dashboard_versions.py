"""The page of one version: what it serves, its tables, source, schedule, the target, loads, the analysts' query."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
import redis
from django.test import Client
from django.utils import timezone

from models_registry.models import Load, LoadState, Schedule, Source, SourceKind, Table, TableState, Version
from tenants.models import Tenant, User
from tests import factories
from tests.integration.dashboard_scene import Offers, Page, get, give_table, make_offers, post, signed_in

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("valkey")]


@pytest.fixture
def offers(studio: Tenant) -> Offers:
    return make_offers(studio)


@pytest.fixture
def client(teammate: User) -> Client:
    return signed_in(teammate)


@pytest.fixture
def url(offers: Offers) -> str:
    return f"{offers.url}/versions/2026-11-b"


def keep_tables(version: Version) -> list[Table]:
    """Give a version three tables: the served one, and the two before it."""
    tables = [version.active_table, *(give_table(version, rows=rows) for rows in (1_100, 1_200))]
    older, previous, active = (table for table in tables if table is not None)
    version.active_table, version.previous_table, version.older_table = active, previous, older
    version.save()
    return [active, previous, older]


# --- What is there ----------------------------------------------------------------------------------------------------


def test_version__loaded__says_what_it_serves(client: Client, url: str) -> None:
    text = get(client, url).text
    assert "2026-11-b Loaded" in text
    assert "Data from 1 hour ago" in text
    assert "Rows 1,000" in text
    assert "Weight 30 % of players" in text
    assert "Parquet files /srv/tables/offers.parquet" in text
    assert "None: it is loaded on request." in text
    assert "a day (no target of its own) · in time" in text


def test_version__without_weight__says_so(client: Client, studio: Tenant) -> None:
    offers = make_offers(studio, weights={0: 10_000})
    answer = get(client, f"{offers.url}/versions/2026-11-b")
    assert "Loaded · no players yet" in answer.text
    assert "Switch off" not in answer.text


def test_version__old_data__is_late(client: Client, offers: Offers, url: str) -> None:
    give_table(offers.b, at=timezone.now() - timedelta(hours=30))
    text = get(client, url).text
    assert "Loaded · data is late" in text
    assert "1 day ago · late" in text


def test_version__that_does_not_exist__is_a_404(client: Client, offers: Offers) -> None:
    other = factories.ModelFactory.create(tenant=offers.model.tenant, slug="other")
    factories.VersionFactory.create(model=other, name="elsewhere")
    missing = get(client, f"{offers.url}/versions/no-such")
    assert missing.status == 404
    assert get(client, f"{offers.url}/versions/elsewhere") == missing


def test_version__never_loaded__leads_to_a_first_answer(client: Client, studio: Tenant) -> None:
    model = factories.ModelFactory.create(tenant=studio, slug="songs")
    version = factories.VersionFactory.create(model=model, name="first")
    factories.RolloutRevisionFactory.create(model=model)
    answer = get(client, f"/studios/{studio.slug}/models/songs/versions/first")
    assert "Nothing loaded yet" in answer.text
    assert "the way to a first answer" in answer.text
    assert ">Load it</button>" in answer.html
    assert "There is none yet." in answer.text
    assert not Source.objects.for_tenant(studio).filter(version=version).exists()


def test_version__never_loaded__another_is_and_there_is_no_credential__leads_to_one(
    owner: User, offers: Offers, studio: Tenant
) -> None:
    never = factories.VersionFactory.create(model=offers.model, name="2026-12-a")
    answer = get(signed_in(owner), f"{offers.url}/versions/{never.name}")
    assert f'<a class="button primary" href="/studios/{studio.slug}/new-credential">' in answer.html


def test_version__running_load__is_followed(client: Client, offers: Offers, url: str) -> None:
    now = timezone.now()
    load = factories.LoadFactory.create(
        version=offers.b,
        state=LoadState.EXTRACTING,
        started_at=now - timedelta(seconds=10),
        heartbeat_at=now,
        rows_read=5_000,
        rows_expected=20_000,
    )
    answer = get(client, url)
    assert "Reading the source" in answer.text
    assert "Rows read 5,000 of 20,000" in answer.text
    assert f'hx-get="/studios/{offers.model.tenant.slug}/loads/{load.pk}/progress" hx-trigger="every 1s"' in answer.html


@pytest.mark.parametrize(
    ("state", "words"), [(LoadState.REJECTED, "was rejected"), (LoadState.FAILED, "failed")], ids=["rejected", "failed"]
)
def test_version__newest_load_went_wrong__says_why(
    client: Client, offers: Offers, url: str, state: LoadState, words: str
) -> None:
    factories.LoadFactory.create(version=offers.b, state=state, problem="The disk is full.")
    text = get(client, url).text
    assert f"The newest load {words}" in text
    assert "The disk is full. Players notice nothing" in text


def test_version__many_loads__shows_the_newest_five(client: Client, offers: Offers, url: str) -> None:
    factories.LoadFactory.create_batch(6, version=offers.b, state=LoadState.SUPERSEDED)
    answer = get(client, url)
    assert re.findall(r">Load (\d+)</a></th>", answer.html) == ["7", "6", "5", "4", "3"]
    assert f'href="/studios/{offers.model.tenant.slug}/loads?model=offers&amp;version=2026-11-b"' in answer.html


def test_version__query__is_ready_to_copy(client: Client, offers: Offers, url: str) -> None:
    factories.OverrideFactory.create(version=offers.a, unit="qa's phone")
    text = get(client, url).text
    assert "revision 1 of the weights, phase 1" in text
    assert "CAST(player_id AS STRING) AS unit" in text
    assert f"MD5(CONCAT('{offers.model.rollout_revisions.get().salt}', ':', unit))" in text
    assert r"WHERE slots.unit NOT IN ('qa\'s phone')" in text
    (letters,) = re.findall(r"SPLIT\('([a-c]+)', ''\)", text)
    assert [letters.count(letter) for letter in "abc"] == [6000, 3000, 1000]


# --- Load now and dry runs --------------------------------------------------------------------------------------------


def test_dry_run__is_queued_and_followed(client: Client, offers: Offers, url: str) -> None:
    answer = post(client, f"{url}/dry-run")
    load = Load.objects.for_tenant(offers.model.tenant).get(is_dry_run=True)
    assert answer.location == f"/studios/{offers.model.tenant.slug}/loads/{load.pk}"
    text = get(client, answer.location).text
    assert "The dry run of 2026-11-b is queued." in text
    assert "Waiting for a worker Queued Reading Checking Checked" in text


# --- Loading ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("given", "limit"), [("50000", 50_000), ("", None)])
def test_load__at_a_limited_speed__is_asked_for_and_queued(
    given: str, limit: int | None, client: Client, offers: Offers, url: str
) -> None:
    assert f'href="{url}/load"' in get(client, url).html
    assert 'name="rows_per_second_limit"' in get(client, f"{url}/load").html
    location = post(client, f"{url}/load", {"rows_per_second_limit": given}).location
    load = Load.objects.unscoped().filter(version=offers.b).latest("pk")
    assert location.endswith(f"/loads/{load.pk}")
    assert (load.state, load.rows_per_second_limit) == (LoadState.QUEUED, limit)


@pytest.mark.parametrize("given", ["0", "-5", "fast", "100000001"])
def test_load__a_limit_that_is_none__is_refused_next_to_its_field(
    given: str, client: Client, offers: Offers, url: str
) -> None:
    before = Load.objects.unscoped().filter(version=offers.b).count()
    answer = post(client, f"{url}/load", {"rows_per_second_limit": given})
    assert answer.status == 422
    assert 'id="id_rows_per_second_limit_error"' in answer.html
    assert Load.objects.unscoped().filter(version=offers.b).count() == before


@pytest.mark.parametrize("state", [LoadState.QUEUED, LoadState.WRITING])
def test_load__one_runs_or_waits__is_led_to_instead_of_asked_for_again(
    state: LoadState, client: Client, offers: Offers, url: str
) -> None:
    loads = f"/studios/{offers.model.tenant.slug}/loads"
    failed = factories.LoadFactory.create(version=offers.b, state=LoadState.FAILED, problem="The disk is full.")
    assert f'action="{url}/load"' in get(client, f"{loads}/{failed.pk}").html
    load = factories.LoadFactory.create(version=offers.b, state=state, heartbeat_at=timezone.now())
    for page in (url, f"{loads}/{failed.pk}"):
        html = get(client, page).html
        assert f'action="{url}/load"' not in html
        assert f'action="{url}/dry-run"' not in html
        assert f'href="{url}/load"' not in html
        assert f'href="{loads}/{load.pk}"' in html


def test_load__a_dry_run_runs__a_load_can_be_asked_for_and_no_second_dry_run(
    client: Client, offers: Offers, url: str
) -> None:
    factories.LoadFactory.create(version=offers.b, state=LoadState.QUEUED, is_dry_run=True)
    html = get(client, url).html
    assert f'action="{url}/load"' in html
    assert f'action="{url}/dry-run"' not in html


# --- Source -----------------------------------------------------------------------------------------------------------


def test_source__is_changed_for_the_next_load(client: Client, offers: Offers, url: str) -> None:
    page = get(client, f"{url}/source")
    assert "/srv/tables/offers.parquet" in page.html
    assert "gs://studio-tables/out/" in page.text
    form = {"source_kind": SourceKind.BIGQUERY_TABLE, "source_location": "analytics.recommendations.offers"}
    assert post(client, f"{url}/source", form).location == url
    assert "BigQuery table analytics.recommendations.offers" in get(client, url).text
    entry = offers.model.tenant.audit_entries.get(action="source.set")
    assert entry.after == {"kind": "bigquery_table", "location": "analytics.recommendations.offers"}


def test_source__not_allowed__is_refused_next_to_its_field(client: Client, offers: Offers, url: str) -> None:
    form = {"source_kind": SourceKind.PARQUET, "source_location": "/etc/*.parquet"}
    answer = post(client, f"{url}/source", form)
    assert answer.status == 422
    assert "may not read /etc/*.parquet" in answer.html.partition('id="id_source_location_error"')[2][:200]
    assert "/etc/*.parquet</textarea>" in answer.html
    assert offers.b.source.location == "/srv/tables/offers.parquet"


# --- Going back -------------------------------------------------------------------------------------------------------


def test_roll_back__to_either_kept_table__asks_then_serves_it(client: Client, offers: Offers, url: str) -> None:
    active, previous, older = keep_tables(offers.b)
    page = get(client, url)
    for table, words in ((previous, "Roll back to the previous table"), (older, "Roll back to the table before that")):
        assert f'href="{url}/tables/{table.table_id}"' in page.html
        assert words in page.text
    asked = get(client, f"{url}/tables/{older.table_id}")
    assert "Roll back to the table before that?" in asked.text
    assert "Served now 1,200 rows" in asked.text
    assert "Served afterwards 1,000 rows" in asked.text
    answer = post(client, f"{url}/tables/{older.table_id}", {"reason": "the new rows are odd"})
    assert answer.location == url
    offers.b.refresh_from_db()
    assert (offers.b.active_table, offers.b.previous_table, offers.b.older_table) == (older, active, previous)
    text = get(client, url).text
    assert "2026-11-b serves this table from now on; it is live within 2 seconds." in text
    assert text.count("Serve the newer table again") == 2
    assert offers.model.tenant.audit_entries.get(action="table.roll_back").reason == "the new rows are odd"


def test_roll_back__table_that_is_not_whole__has_no_button(client: Client, offers: Offers, url: str) -> None:
    _, previous, older = keep_tables(offers.b)
    previous.lost_at = timezone.now()
    previous.save()
    older.state = TableState.DROPPED
    older.save()
    page = get(client, url)
    assert f"{url}/tables/" not in page.html
    for table in (previous, older):
        answer = post(client, f"{url}/tables/{table.table_id}", {"reason": "x"})
        assert "This table is not kept any more" in answer.text
    offers.b.refresh_from_db()
    assert offers.b.previous_table == previous


def test_roll_back__to_what_is_served__says_so(client: Client, offers: Offers, url: str) -> None:
    active = offers.b.active_table
    assert active is not None
    assert "is the one that is served now" in get(client, f"{url}/tables/{active.table_id}").text


def test_roll_back__table_of_another_version__is_a_404(client: Client, offers: Offers, url: str) -> None:
    other = offers.a.active_table
    assert other is not None
    missing = get(client, f"{url}/tables/no-such")
    assert missing.status == 404
    assert get(client, f"{url}/tables/{other.table_id}") == missing


# --- Schedule and target ----------------------------------------------------------------------------------------------

CRONTAB = {"kind": "crontab", "crontab": "30 5 * * *", "timezone": "Europe/Vilnius", "is_enabled": "on"}
INTERVAL = {"kind": "interval", "every": "4", "unit": "60", "timezone": "UTC", "is_enabled": "on"}


def test_schedule__interval__is_set_and_shown(client: Client, offers: Offers, url: str) -> None:
    assert post(client, f"{url}/schedule", INTERVAL).location == url
    schedule = Schedule.objects.for_tenant(offers.model.tenant).get()
    assert (schedule.kind, schedule.every_minutes, schedule.is_enabled) == ("interval", 240, True)
    text = get(client, url).text
    assert "2026-11-b is loaded every 4 hours." in text
    assert "Every 4 hours Next run in 3 hours Last run never" in text
    form = get(client, f"{url}/schedule").html
    assert 'value="interval" id="id_kind_1" checked' in form
    assert 'name="every" value="4"' in form
    assert '<option value="60" selected>hours</option>' in form


def test_schedule__crontab__goes_by_its_time_zone(client: Client, offers: Offers, url: str) -> None:
    assert post(client, f"{url}/schedule", CRONTAB).location == url
    schedule = Schedule.objects.for_tenant(offers.model.tenant).get()
    assert (schedule.crontab, schedule.timezone, schedule.every_minutes) == ("30 5 * * *", "Europe/Vilnius", None)
    assert "(Europe/Vilnius) Next run in" in get(client, url).text
    assert '<option value="Europe/Vilnius" selected>' in get(client, f"{url}/schedule").html


def test_schedule__switched_off__stays_for_later(client: Client, offers: Offers, url: str) -> None:
    post(client, f"{url}/schedule", {key: value for key, value in INTERVAL.items() if key != "is_enabled"})
    assert Schedule.objects.for_tenant(offers.model.tenant).get().next_run_at is None
    text = get(client, url).text
    assert "Every 4 hours, switched off" in text
    assert "Next run" not in text


def test_schedule__only_when_somebody_asks__is_taken_away(client: Client, offers: Offers, url: str) -> None:
    post(client, f"{url}/schedule", INTERVAL)
    assert post(client, f"{url}/schedule", {"kind": ""}).location == url
    assert not Schedule.objects.for_tenant(offers.model.tenant).exists()
    assert "2026-11-b is loaded only on request." in get(client, url).text
    assert post(client, f"{url}/schedule", {"kind": ""}).location == url


@pytest.mark.parametrize(
    ("change", "words", "field"),
    [
        ({"crontab": "every day"}, "A crontab has five fields", "crontab"),
        ({"crontab": "99 5 * * *"}, "The crontab cannot be read", "crontab"),
        ({"crontab": "0 0 31 2 *"}, "The crontab cannot be read", "crontab"),
        ({"timezone": "Mars/Olympus"}, "Choose one of the listed options.", "timezone"),
        ({"kind": "interval"}, "The interval must be a whole number of minutes", "every"),
        ({"kind": "interval", "every": "0"}, "Enter a number from 1 to 100,000.", "every"),
        ({"kind": "interval", "every": "100000", "unit": "1440"}, "The interval must be a whole number", "every"),
        ({"kind": "now and then"}, "Choose one of the listed options.", "kind"),
    ],
)
def test_schedule__that_will_not_do__is_refused_next_to_its_field(
    client: Client, offers: Offers, url: str, change: dict[str, str], words: str, field: str
) -> None:
    answer = post(client, f"{url}/schedule", CRONTAB | change)
    assert answer.status == 422
    assert words in answer.html.partition(f'id="id_{field}_error"')[2][:200]
    assert not Schedule.objects.for_tenant(offers.model.tenant).exists()


def test_schedule__due_run_that_was_left_out__says_why(client: Client, offers: Offers, url: str) -> None:
    post(client, f"{url}/schedule", INTERVAL)
    Schedule.objects.unscoped().update(note="The run due at 05:30 was skipped: load 7 had not finished.")
    assert "load 7 had not finished" in get(client, url).text


def test_target__decides_what_is_late(client: Client, offers: Offers, url: str) -> None:
    assert post(client, f"{url}/freshness", {"amount": "30", "unit": "1"}).location == url
    offers.b.refresh_from_db()
    assert offers.b.freshness_minutes == 30
    text = get(client, url).text
    assert "The data of 2026-11-b counts as late after 30 minutes." in text
    assert "30 minutes · late" in text
    assert 'name="amount" value="30"' in get(client, f"{url}/freshness").html
    assert post(client, f"{url}/freshness", {"amount": "", "unit": "60"}).location == url
    offers.b.refresh_from_db()
    assert offers.b.freshness_minutes is None


def test_target__that_will_not_do__is_refused_next_to_its_field(client: Client, offers: Offers, url: str) -> None:
    answer: Page = post(client, f"{url}/freshness", {"amount": "2000", "unit": "1440"})
    assert answer.status == 422
    assert "The target must be a whole number of minutes" in answer.html.partition('id="id_amount_error"')[2][:200]


# --- Reading without the right to change ------------------------------------------------------------------------------


def test_version__viewer__reads_all_of_it(offers: Offers, url: str, studio: Tenant, valkey: redis.Redis) -> None:
    keep_tables(offers.b)
    viewer = signed_in(factories.MembershipFactory.create(tenant=studio).user)
    text = get(viewer, url).text
    assert "Load 3" in text
    assert text.count(" Kept") == 2
    assert "/srv/tables/offers.parquet" in text


# --- Archiving --------------------------------------------------------------------------------------------------------


def test_archive__version_without_weight__leaves_the_page_and_can_still_be_read_about(
    teammate: User, studio: Tenant
) -> None:
    offers, client = make_offers(studio, weights={0: 9_000, 1: 1_000}), signed_in(teammate)
    url = f"{offers.url}/versions/2026-11-c"
    assert f'href="{url}/archive"' in get(client, url).html
    asked = get(client, f"{url}/archive")
    assert "Archive 2026-11-c?" in asked.text
    assert "Its code (2) comes back after 50 h 24 min" in asked.text
    assert post(client, f"{url}/archive", {"reason": "bad"}).location == offers.url
    page = get(client, offers.url)
    assert "Archived 2026-11-c." in page.text
    assert f'href="{url}"' not in page.html
    archived = get(client, url)
    assert archived.status == 200
    assert "it had code 2" in archived.text
    assert "<form" not in archived.html.partition("<main")[2].partition("</main>")[0]
    for path in ("/archive", "/source", "/load"):
        assert get(client, f"{url}{path}").status == 404


def test_archive__version_with_a_weight__is_refused_and_says_what_to_do(teammate: User, studio: Tenant) -> None:
    offers, client = make_offers(studio), signed_in(teammate)
    url = f"{offers.url}/versions/2026-11-a"
    assert f"{url}/archive" not in get(client, url).html
    assert "“2026-11-a” has a weight. Give it to other versions first." in get(client, f"{url}/archive").text
    assert post(client, f"{url}/archive").status == 422
