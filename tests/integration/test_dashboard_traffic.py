"""The traffic pages: what a known series of counts looks like, what is not known, and what there is without any."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET
from datetime import UTC, datetime, timedelta

import pytest
import redis
from django.conf import settings as project_settings
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import DjangoAssertNumQueries

from models_registry.catalogue.selectors import model_summary
from models_registry.models import RolloutRevision, TrafficPosition, Version
from models_registry.traffic.over_time import DAY, HOUR, MONTH, WEEK, ModelTraffic, Period, read
from recsite.dashboard.charts.pictures import model_charts, table_rows
from recsite.dashboard.local_time import UTC_ZONE
from serving.reporting import processes_name
from tenants.models import Tenant, User
from tests.factories import RolloutRevisionFactory, TrafficFactory, TrafficGapFactory
from tests.integration.dashboard_scene import Offers, get, make_offers, signed_in

pytestmark = pytest.mark.django_db

NOW = datetime(2026, 11, 20, 12, 0, 30, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


@pytest.fixture
def offers(studio: Tenant) -> Offers:
    made = make_offers(studio)
    RolloutRevision.objects.unscoped().update(created_at=NOW - timedelta(days=60))
    return made


@pytest.fixture
def client(owner: User) -> Client:
    return signed_in(owner)


def counted(until: datetime) -> None:
    TrafficPosition.objects.update_or_create(pk=1, defaults={"entry_id": "1-0"})
    TrafficPosition.objects.update(moved_at=until)


def answers(version: Version, ago: timedelta, count: int, *, source: str = "table", span: int = 60) -> None:
    at = int((NOW - ago).timestamp())
    starts_at = datetime.fromtimestamp(at - at % span, UTC)
    TrafficFactory.create(version=version, span=span, starts_at=starts_at, source=source, answers=count)


def traffic_of(offers: Offers, period: Period = HOUR) -> ModelTraffic:
    return read([model_summary(offers.model)], period, with_weights=True, now=NOW).models[offers.model.pk]


# --- What a series looks like ---------------------------------------------------------------------------------------


def test_read__an_hour__has_every_minute_and_the_one_that_runs(offers: Offers) -> None:
    counted(NOW)
    answers(offers.a, 2 * MINUTE, 60)
    answers(offers.b, 2 * MINUTE, 30)
    answers(offers.a, 2 * MINUTE, 6, source="default")
    answers(offers.a, timedelta(0), 15)
    columns = traffic_of(offers).columns
    assert len(columns) == 60
    assert (columns[0].starts_at, columns[-1].starts_at) == (NOW - 59.5 * MINUTE, NOW - 0.5 * MINUTE)
    assert all(column.is_known for column in columns)
    assert [column.answers for column in columns[-3:]] == [96, 0, 15]
    assert columns[-3].by_version == {0: 66, 1: 30}
    assert columns[-3].by_source == {"table": 90, "default": 6}
    assert columns[-1].seconds == 30


def test_read__totals__are_shares_against_the_weights(offers: Offers) -> None:
    counted(NOW)
    for version, count in ((offers.a, 550), (offers.b, 340), (offers.c, 100)):
        answers(version, 5 * MINUTE, count)
    answers(offers.c, 5 * MINUTE, 10, source="fallback")
    a, b, c = traffic_of(offers).totals
    assert (a.share, b.share, c.share) == (0.55, 0.34, 0.11)
    assert [total.configured for total in (a, b, c)] == pytest.approx([0.6, 0.3, 0.1])
    assert c.fallback_share == pytest.approx(10 / 110)
    assert (a.default_share, a.fallback_share) == (0, 0)


def test_read__weights_changed_meanwhile__configured_goes_by_the_answers_of_each_time(offers: Offers) -> None:
    counted(NOW)
    later = RolloutRevisionFactory.create(model=offers.model, weights={0: 2000, 1: 8000})
    RolloutRevision.objects.unscoped().filter(pk=later.pk).update(created_at=NOW - 30.5 * MINUTE)
    answers(offers.a, 40 * MINUTE, 300)  # 60 % of these were a's by the weights
    answers(offers.a, 10 * MINUTE, 100)  # and 20 % of these
    a, b, _ = traffic_of(offers).totals
    assert a.configured == pytest.approx((0.6 * 300 + 0.2 * 100) / 400)
    assert b.configured == pytest.approx((0.3 * 300 + 0.8 * 100) / 400)
    reading = read([model_summary(offers.model)], HOUR, with_weights=True, now=NOW)
    charts = model_charts(reading, reading.models[offers.model.pk], UTC_ZONE)
    [mark] = charts.answers.marks
    assert mark.x == pytest.approx(100 * 29 / 59.5, abs=0.01)
    assert "revision 2" in mark.words


@pytest.mark.parametrize(
    ("period", "columns", "span"), [(HOUR, 60, 60), (DAY, 96, 300), (WEEK, 168, 3600), (MONTH, 120, 21_600)]
)
def test_read__every_period__sums_what_was_counted_in_it(
    offers: Offers, period: Period, columns: int, span: int
) -> None:
    counted(NOW)
    answers(offers.a, period.length / 2, 70, span=span)
    answers(offers.b, period.length / 4, 30, span=span)
    answers(offers.a, period.length * 2, 1000, span=span)
    found = traffic_of(offers, period)
    assert columns - 1 <= len(found.columns) <= columns + 1
    assert [total.answers for total in found.totals] == [70, 30, 0]
    assert sum(column.answers for column in found.columns) == 100


def test_charts__known_minutes__are_drawn_at_their_rate(offers: Offers) -> None:
    counted(NOW - 0.5 * MINUTE)
    answers(offers.a, timedelta(hours=1) - 1.5 * MINUTE, 1200)
    answers(offers.b, timedelta(hours=1) - 1.5 * MINUTE, 300)
    reading = read([model_summary(offers.model)], HOUR, now=NOW)
    charts = model_charts(reading, reading.models[offers.model.pk], UTC_ZONE)
    picture = charts.answers
    assert picture.unit == "answers per second"
    assert [value.words for value in picture.values] == ["25", "12.5"]
    upper, lower = picture.areas
    assert (upper.key, lower.key) == ("1", "0")
    # The second of sixty minutes; 20 and 25 of at most 25 a second.
    assert lower.path.startswith("M0 100V100H16.81V20H33.61V100")
    assert upper.path.startswith("M0 100V100H16.81V0H33.61V100")
    assert picture.spots[1].words == "20 Nov, 11:02 to 11:03: 1,500 answers (2026-11-a 1,200, 2026-11-b 300)"


@pytest.mark.parametrize(
    ("count", "unit", "rate"),
    [
        (1200, "second", "20 answers per second"),
        (30, "minute", "30 answers per minute"),
        (0, "hour", "0 answers per hour"),
    ],
)
def test_charts__rates__are_said_in_a_unit_that_fits(offers: Offers, count: int, unit: str, rate: str) -> None:
    counted(NOW - 0.5 * MINUTE)
    answers(offers.a, 1.5 * MINUTE, count)
    answers(offers.a, 2.5 * MINUTE, count)
    reading = read([model_summary(offers.model)], HOUR, now=NOW)
    charts = model_charts(reading, reading.models[offers.model.pk], UTC_ZONE)
    assert charts.answers.unit == f"answers per {unit}"
    assert charts.rate == rate


# --- What is not known ----------------------------------------------------------------------------------------------


def test_read__counts_were_lost__is_a_gap_and_not_zero(offers: Offers) -> None:
    counted(NOW)
    answers(offers.a, 5 * MINUTE, 10)
    TrafficGapFactory.create(starts_at=NOW - 20.5 * MINUTE, ends_at=NOW - 18.5 * MINUTE)
    found = traffic_of(offers)
    assert [column.starts_at for column in found.columns if not column.is_known] == [
        NOW - 20.5 * MINUTE,
        NOW - 19.5 * MINUTE,
    ]
    assert found.has_gaps
    rows = table_rows(found, UTC_ZONE)
    assert [row.time for row in rows if not row.is_known] == ["20 Nov, 11:41 to 11:42", "20 Nov, 11:40 to 11:41"]


def test_read__moments_were_lost_of_a_long_column__it_is_known(offers: Offers) -> None:
    counted(NOW)
    answers(offers.a, timedelta(hours=10), 10, span=3600)
    TrafficGapFactory.create(starts_at=NOW - timedelta(hours=10), ends_at=NOW - timedelta(hours=10) + 2 * MINUTE)
    assert not traffic_of(offers, WEEK).has_gaps


def test_read__collector_is_away__what_came_after_it_is_not_known(offers: Offers) -> None:
    counted(NOW - 10.25 * MINUTE)
    answers(offers.a, 30 * MINUTE, 10)
    answers(offers.a, 10.25 * MINUTE, 4)
    reading = read([model_summary(offers.model)], HOUR, now=NOW)
    found = reading.models[offers.model.pk]
    known = [column.is_known for column in found.columns]
    assert known == [True] * 50 + [False] * 10
    assert found.columns[49].seconds == 15
    assert reading.is_behind
    assert not found.has_gaps
    [band] = model_charts(reading, found, UTC_ZONE).answers.unknown
    assert band.x + band.width == pytest.approx(100, abs=0.01)


def test_read__never_collected__knows_nothing(offers: Offers) -> None:
    reading = read([model_summary(offers.model)], HOUR, now=NOW)
    assert reading.is_behind
    assert not any(column.is_known for column in reading.models[offers.model.pk].columns)


def lane_runs(valkey: redis.Redis) -> None:
    now_ms = int(timezone.now().timestamp() * 1000)
    valkey.hset(processes_name(project_settings.REDIS_PREFIX), "lane:here:1", str(now_ms))


# --- The pages ------------------------------------------------------------------------------------------------------


def lately(version: Version, count: int, *, source: str = "table") -> None:
    """Count answers in the minute, five minutes, … before the ones that run."""
    for span in (60, 300, 3600, 21_600):
        at = int(timezone.now().timestamp()) // span * span - span
        TrafficFactory.create(
            version=version, span=span, starts_at=datetime.fromtimestamp(at, UTC), source=source, answers=count
        )


@pytest.mark.parametrize("period", ["hour", "day", "week", "month"])
def test_page__with_traffic__has_charts_that_can_be_read_and_a_table(
    offers: Offers, client: Client, period: str
) -> None:
    counted(timezone.now())
    lately(offers.a, 700)
    lately(offers.b, 290)
    lately(offers.b, 10, source="default")
    answer = get(client, f"{offers.url}/traffic?period={period}")
    assert answer.status == 200
    assert "1,000 answers" in answer.text
    assert "2026-11-a 700 70.0 % 60.0 % 0.0 % 0.0 %" in answer.text
    assert "2026-11-b 300 30.0 % 30.0 % 3.3 % 0.0 %" in answer.text
    assert re.search(r"\d\d:\d\d to \d\d:\d\d 700 300 0 1,000 10 0", answer.text)
    charts = re.findall(r'<svg class="chart.*?</svg>\s*</div>', answer.html, re.DOTALL)
    assert len(charts) == 3
    for chart in charts:
        root = ET.fromstring(chart.rpartition("</div>")[0])  # noqa: S314  # our own page
        labels = root.attrib["aria-labelledby"].split()
        texts = {element.attrib.get("id"): element.text for element in root.iter() if element.attrib.get("id")}
        assert all(texts[label] for label in labels)
        assert root.attrib["role"] == "img"
    assert "style=" not in answer.html


def test_page__clock_of_the_browser__is_the_charts_clock(offers: Offers, client: Client) -> None:
    counted(NOW)
    assert "Counted until 20 Nov, 12:00:30 · times in UTC" in get(client, f"{offers.url}/traffic").text
    client.cookies["recsite_zone"] = "Asia/Kolkata"
    assert "Counted until 20 Nov, 17:30:30 · times in Asia/Kolkata" in get(client, f"{offers.url}/traffic").text
    client.cookies["recsite_zone"] = "../../etc/passwd"
    assert "times in UTC" in get(client, f"{offers.url}/traffic").text


def test_page__asked_by_htmx__is_the_charts_alone(offers: Offers, client: Client) -> None:
    for url in (f"{offers.url}/traffic?period=hour", f"/studios/{offers.model.tenant.slug}/traffic?period=hour"):
        part = get(client, url, **{"HX-Request": "true"})
        assert part.html.count('id="traffic"') == 1
        assert "<html" not in part.html
        assert 'hx-trigger="every 10s' in part.html
        assert 'hx-get="?period=hour"' in part.html


def test_page__period_that_there_is_not__is_a_day(offers: Offers, client: Client) -> None:
    assert 'period=day" aria-current="true"' in get(client, f"{offers.url}/traffic?period=century").html


def test_page__no_lane__says_so(offers: Offers, client: Client, valkey: redis.Redis) -> None:
    counted(timezone.now())
    assert "No lane is running" in get(client, f"{offers.url}/traffic").text


def test_page__lane_runs_and_nobody_asked__says_what_to_do(offers: Offers, client: Client, valkey: redis.Redis) -> None:
    counted(timezone.now())
    valkey.hset(
        processes_name(project_settings.REDIS_PREFIX), "lane:here:1", str(int(timezone.now().timestamp() * 1000))
    )
    answer = get(client, f"{offers.url}/traffic")
    assert "Nobody has asked for offers." in answer.text
    assert f'href="/studios/{offers.model.tenant.slug}/credentials"' in answer.html
    assert "No traffic yet" in get(client, f"{offers.url}/traffic?period=month").text


def test_page__collector_away__says_so(offers: Offers, client: Client, valkey: redis.Redis) -> None:
    counted(timezone.now() - timedelta(hours=3))
    valkey.hset(
        processes_name(project_settings.REDIS_PREFIX), "lane:here:1", str(int(timezone.now().timestamp() * 1000))
    )
    assert "is not being collected just now" in get(client, f"{offers.url}/traffic").text


def test_studio_page__shows_each_model_of_the_studio_alone(offers: Offers, client: Client, stranger: User) -> None:
    foreign = make_offers(stranger.memberships.get().tenant)
    counted(timezone.now())
    lately(offers.a, 123)
    lately(foreign.a, 456_789)
    answer = get(client, f"/studios/{offers.model.tenant.slug}/traffic")
    assert "123 answers" in answer.text
    assert "456,789" not in answer.text
    assert f'href="{offers.url}/traffic?period=day"' in answer.html


def test_rollout_page__has_the_last_day_beside_the_weights(offers: Offers, client: Client, valkey: redis.Redis) -> None:
    assert "None yet. They show here within half a minute" in get(client, offers.url).text
    counted(timezone.now())
    lately(offers.a, 900)
    answer = get(client, offers.url)
    assert "answers per minute by version, 24 hours" in answer.html
    assert "900 answers" in answer.text
    assert "Lately " in answer.text


def test_rollout_page__nothing_collected__says_no_rate(offers: Offers, client: Client, valkey: redis.Redis) -> None:
    lately(offers.a, 900)
    text = get(client, offers.url).text
    assert "Lately" not in text
    assert "Times in UTC" in text


@pytest.mark.parametrize("path", ["", "/traffic", "/traffic?period=month"])
def test_model_pages__cost_at_most_fifteen_queries(
    offers: Offers,
    client: Client,
    valkey: redis.Redis,
    path: str,
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    counted(timezone.now())
    for version in (offers.a, offers.b, offers.c):
        lately(version, 10)
    with django_assert_max_num_queries(15):
        get(client, f"{offers.url}{path}")
    with django_assert_max_num_queries(15):
        get(client, f"/studios/{offers.model.tenant.slug}/traffic")
