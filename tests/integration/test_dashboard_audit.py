"""The audit trail on the dashboard: what changed in words, narrowed, page by page, and as a file."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.utils import timezone

from models_registry.catalogue.access import NarrowedTo
from models_registry.rollouts.services import rollout_reweight
from recsite.dashboard.audit_trail import PAGE_SIZE, TrailFilter, trail_page
from tenants.credentials import credential_issue, credential_update
from tenants.models import AuditEntry, Role, Tenant, User
from tenants.paging import read_cursor, write_cursor
from tenants.services import member_set
from tests import factories
from tests.integration.dashboard_scene import get, make_offers, signed_in

pytestmark = pytest.mark.django_db


@pytest.fixture
def viewer(studio: Tenant) -> Client:
    return signed_in(factories.MembershipFactory.create(tenant=studio, role=Role.VIEWER).user)


@pytest.fixture
def url(studio: Tenant) -> str:
    return f"/studios/{studio.slug}/audit"


def summaries(tenant: Tenant, wanted: TrailFilter) -> list[str]:
    return [line.entry.summary for line in trail_page(tenant, wanted).rows]


# --- In words ---------------------------------------------------------------------------------------------------------


def test_entry__of_weights__names_the_versions(viewer: Client, studio: Tenant, owner: User, url: str) -> None:
    model = make_offers(studio).model
    rollout_reweight(model=model, weights_bp={0: 5000, 1: 3000, 2: 2000}, actor=owner, reason="c does well")
    answer = get(viewer, url)
    assert f"{owner.username} · Changed the weights of “offers”" in answer.text
    assert "2026-11-a: 60 % → 50 %" in answer.text
    assert "2026-11-c: 10 % → 20 %" in answer.text
    assert "2026-11-b:" not in answer.text
    assert "“c does well”" in answer.text
    assert f'href="/studios/{studio.slug}/models/offers"' in answer.html


def test_entry__of_values__says_them_before_and_after(viewer: Client, studio: Tenant, owner: User, url: str) -> None:
    model = factories.ModelFactory.create(tenant=studio, slug="offers")
    credential = credential_issue(tenant=studio, name="Game", actor=owner).credential
    credential_update(credential=credential, actor=owner, burst=123_456, allowed_models=NarrowedTo([model]))
    person = factories.UserFactory.create(made_for=studio)
    member_set(tenant=studio, user=person, role=Role.VIEWER, actor=owner)
    member_set(tenant=studio, user=person, role=Role.STUDIO_ADMIN, actor=owner)
    text = get(viewer, url).text
    assert "Requests at once: 20,000 → 123,456" in text
    assert "May ask for: all models → offers" in text
    assert "Role: Viewer → Studio admin" in text


def test_entry__of_any_shape__is_shown(viewer: Client, studio: Tenant, url: str) -> None:
    before = {"gone": 1, "same": [], "deep": {"a": [1, {"b": None}]}, "until": "2026-11-08T00:00:00+00:00"}
    after: dict[str, Any] = {
        "same": [],
        "deep": None,
        "until": None,
        "is_dry_run": True,
        "long": "x" * 1000,
        "<b>": "<script>",
    }
    factories.AuditEntryFactory.create(tenant=studio, action="thing.new", before=before, after=after)
    answer = get(viewer, url)
    assert answer.status == 200
    assert "Until: 8 Nov 2026, 00:00:00 UTC → –" in answer.text
    assert "Is dry run: yes" in answer.text
    assert "x" * 300 + "…" in answer.text
    assert "<script>" not in answer.html.partition("<main")[2].partition("</main")[0]


def test_trail__nothing_yet__says_so(viewer: Client, url: str) -> None:
    assert "Nothing yet" in get(viewer, url).text


# --- Narrowed ---------------------------------------------------------------------------------------------------------


def test_trail__narrowed__gives_what_fits_alone(studio: Tenant) -> None:
    for number, (actor, action, subject) in enumerate(
        [
            ("mara", "rollout.reweight", "model offers"),
            ("mara", "credential.issue", "credential cr_1"),
            ("jo", "automation_token.issue", "automation token at_1"),
            ("system", "load.activate", "version offers/v1"),
        ]
    ):
        at = datetime(2026, 11, 1 + number, 23, 59, 59, tzinfo=UTC)
        factories.AuditEntryFactory.create(
            tenant=studio, actor_name=actor, action=action, subject=subject, summary=str(number), at=at
        )
    factories.AuditEntryFactory.create(summary="another studio's")
    assert summaries(studio, TrailFilter()) == ["3", "2", "1", "0"]
    assert summaries(studio, TrailFilter(who="MAR")) == ["1", "0"]
    assert summaries(studio, TrailFilter(kind="credentials")) == ["2", "1"]
    assert summaries(studio, TrailFilter(about="offers")) == ["3", "0"]
    day = datetime(2026, 11, 2, tzinfo=UTC).date()
    assert summaries(studio, TrailFilter(since=day)) == ["3", "2", "1"]
    assert summaries(studio, TrailFilter(until=day)) == ["1", "0"]
    assert summaries(studio, TrailFilter(who="mara", kind="weights", about="offers", since=day)) == []


def test_trail__from_a_day_on__has_dates_and_days_by_the_clock_of_who_looks(
    viewer: Client, studio: Tenant, url: str
) -> None:
    at = datetime(timezone.now().year - 1, 3, 4, 20, tzinfo=UTC)
    factories.AuditEntryFactory.create(tenant=studio, summary="old-one", at=at)
    now = timezone.now()
    recent = now - timedelta(days=9)
    factories.AuditEntryFactory.create(tenant=studio, summary="recent-one", at=recent)
    year = "" if recent.year == now.year else f" {recent.year}"
    text = get(viewer, url).text
    assert f"9 days ago, {recent:%-d %b}{year}" in text
    assert f"ago, 4 Mar {at.year}" in text
    viewer.cookies["recsite_zone"] = "Asia/Kolkata"
    answer = get(viewer, f"{url}?since={at:%Y}-03-05&until={at:%Y}-03-05")
    assert "old-one" in answer.text
    assert f"ago, 5 Mar {at.year}" in answer.text
    assert "Days are by your clock (Asia/Kolkata)." in answer.text
    assert f'title="5 Mar {at.year}, 01:30:00 Asia/Kolkata"' in answer.html
    assert "Enter a date before the year 3000." in get(viewer, f"{url}?until=9999-12-31").text


def test_trail__narrowed_to_nothing__says_so_and_keeps_what_was_asked(viewer: Client, studio: Tenant, url: str) -> None:
    factories.AuditEntryFactory.create(tenant=studio)
    answer = get(viewer, f"{url}?who=nobody-at-all&kind=loads")
    assert "Nothing fits" in answer.text
    assert 'value="nobody-at-all"' in answer.html
    assert '<option value="loads" selected>' in answer.html


def test_trail__a_value_that_will_not_do__is_said_next_to_it(viewer: Client, studio: Tenant, url: str) -> None:
    factories.AuditEntryFactory.create(tenant=studio)
    answer = get(viewer, f"{url}?since=yesterday&kind=magic")
    assert answer.status == 422
    assert "Enter a date, such as 2026-11-23." in answer.text
    assert "Made the model “offers”." in answer.text


# --- Page by page -----------------------------------------------------------------------------------------------------


def test_trail__page_by_page__gives_each_entry_once_though_new_ones_come(studio: Tenant) -> None:
    # Many at one instant: it alone does not say where a page ends.
    start = datetime(2026, 11, 1, tzinfo=UTC)
    entries = [
        factories.AuditEntryFactory.build(tenant=studio, summary=str(n), at=start + timedelta(seconds=n // 40))
        for n in range(3 * PAGE_SIZE + 7)
    ]
    AuditEntry.objects.bulk_create(entries)
    seen: list[str] = []
    cursor: str | None = ""
    for _ in range(4):
        page = trail_page(studio, TrailFilter(), after=read_cursor(cursor or ""))
        seen += [line.entry.summary for line in page.rows]
        cursor = page.next_cursor
        factories.AuditEntryFactory.create(tenant=studio, summary="new", at=timezone.now())
    assert cursor is None
    assert seen == [str(n) for n in reversed(range(3 * PAGE_SIZE + 7))]


def test_trail__links_between_pages__keep_what_was_asked(viewer: Client, studio: Tenant, url: str) -> None:
    entries = [factories.AuditEntryFactory.build(tenant=studio, actor_name="mara") for _ in range(PAGE_SIZE + 1)]
    AuditEntry.objects.bulk_create(entries)
    first = get(viewer, f"{url}?who=mara")
    (older,) = [part.partition('"')[0] for part in first.html.split('href="') if "before=" in part.partition('"')[0]]
    assert older.startswith("?who=mara&amp;before=")
    second = get(viewer, url + older.replace("&amp;", "&"))
    assert second.text.count("Made the model") == 1
    assert 'href="?who=mara"' in second.html
    assert get(viewer, f"{url}?before=nonsense").text.count("Made the model") == PAGE_SIZE
    assert get(viewer, f"{url}?before={'9' * 18}").status == 200


def test_trail__takes_few_queries_and_reads_one_page_of_the_index(viewer: Client, studio: Tenant, url: str) -> None:
    model = make_offers(studio).model
    weights = {"weights_bp": {"0": 6000, "1": 4000}}
    AuditEntry.objects.bulk_create(
        factories.AuditEntryFactory.build(tenant=studio, subject=f"model {model.slug}", before={}, after=weights)
        for _ in range(500)
    )
    with CaptureQueriesContext(connection) as queries:
        assert get(viewer, f"{url}?before={write_cursor(1_000_000_000)}").status == 200
    assert len(queries) <= 15
    trail = next(q["sql"] for q in queries if "tenants_auditentry" in q["sql"])
    with connection.cursor() as cursor:
        cursor.execute(f"EXPLAIN QUERY PLAN {trail}")
        plan = " ".join(str(row[-1]) for row in cursor.fetchall())
    assert "USING INDEX" in plan, plan
    assert "TEMP B-TREE" not in plan, plan


# --- As a file --------------------------------------------------------------------------------------------------------


def test_file__holds_all_that_was_asked_and_no_formula(viewer: Client, studio: Tenant, url: str) -> None:
    AuditEntry.objects.bulk_create(factories.AuditEntryFactory.build(tenant=studio) for _ in range(PAGE_SIZE + 5))
    factories.AuditEntryFactory.create(
        tenant=studio, actor_name="mara", reason="=1+1", before={"a": 1}, summary="Größe, “ja”"
    )
    factories.AuditEntryFactory.create(summary="another studio's")
    response = viewer.get(f"{url}.csv")
    assert response["Content-Type"].startswith("text/csv")
    assert "attachment" in response["Content-Disposition"]
    rows = list(csv.DictReader(io.StringIO(response.getvalue().decode())))
    assert len(rows) == PAGE_SIZE + 6
    (hers,) = [row for row in rows if row["who"] == "mara"]
    assert (hers["summary"], hers["reason"], hers["before"]) == ("Größe, “ja”", "'=1+1", '{"a": 1}')
    narrowed = viewer.get(f"{url}.csv?who=mara").getvalue().decode()
    assert len(narrowed.splitlines()) == 2
