"""Each panel of Grafana's dashboards asks the demo's own Prometheus, and shows what was done before it was asked."""

from __future__ import annotations

import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import partial
from typing import NamedTuple

import httpx
import pytest

from recsite.demo.data import MODELS
from recsite.environment import BASE_DIR
from tests.demo.test_demo import Demo, csrf_token
from tests.lane_process import eventually

FOLDER = BASE_DIR / "deploy" / "grafana" / "dashboards"
# What has nothing to show here, and why.
EMPTY = {
    ("business", "Within an hour, and a week before", "B"): "this Prometheus is younger than a week",
    ("business", "Over a limit", "A"): "the demo's limits are higher than this machine can ask",
    ("business", "Replaced secrets end", "A"): "no secret was replaced",
    ("loads", "Rejected, by check", "A"): "no load was rejected",
    ("redis", "Memory, and its limit", "B"): "the demo's Valkey has no limit",
    ("redis", "Share of the limit", "A"): "the demo's Valkey has no limit",
    ("service", "Refused", "A"): "no snapshot was refused",
    ("service", "Connections of the database", "A"): "the demo's database is a file",
    ("service", "Connections of the database", "B"): "the demo's database is a file",
}
# A gauge of each.
JOBS = {"recsite-lane": 'recsite_workers{job="recsite-lane"}', "recsite-dashboard": "recsite_loads_waiting"}
NOT_MINTED = 'recsite_token_mint_failures_total{job="recsite-dashboard", reason="invalid_client"}'
Series = dict[tuple[str, ...], float]


class Window(NamedTuple):
    """The time from one scrape of a job to another, both of them within."""

    end: float
    seconds: float


class Prometheus:
    """The one beside a demo."""

    def __init__(self, client: httpx.Client) -> None:
        self._client = client

    def ask(self, query: str, at: float | None = None) -> Series:
        """Return values by the values of their labels."""
        answer = self._client.get("/query", params={"query": query} | ({} if at is None else {"time": at})).json()
        assert answer["status"] == "success", (query, answer)
        result = answer["data"]["result"]
        return {tuple(value for _, value in sorted(each["metric"].items())): float(each["value"][1]) for each in result}

    def number(self, query: str) -> float:
        """Return the only value, 0 where there is none yet."""
        return sum(self.ask(query).values())

    def scraped_after(self, gauge: str, moment: float) -> float | None:
        """Return when a gauge was last scraped, if that was after a moment."""
        at = self.number(f"timestamp({gauge})")
        return at if at > moment else None

    def health(self) -> tuple[list[str], set[str]]:
        """Return the state of each target, and the states of the rules."""
        targets = self._client.get("/targets").json()["data"]["activeTargets"]
        groups = self._client.get("/rules").json()["data"]["groups"]
        return [each["health"] for each in targets], {rule["health"] for group in groups for rule in group["rules"]}


class Shown:
    """What panels show of a window."""

    def __init__(self, prometheus: Prometheus, windows: Mapping[str, Window]) -> None:
        self._prometheus = prometheus
        self._windows = windows
        self.panels = {
            (path.stem, panel["title"], target["refId"]): (target["expr"], panel["fieldConfig"]["defaults"]["unit"])
            for path in FOLDER.glob("*.json")
            for panel in json.loads(path.read_text())["panels"]
            for target in panel.get("targets", [])
        }

    def of(self, dashboard: str, title: str, query: str = "A") -> Series:
        """Return what a query of a panel gives, per second or not."""
        asked, _ = self.panels[dashboard, title, query]
        end, seconds = self._windows["recsite-lane" if "recsite-lane" in asked else "recsite-dashboard"]
        window = f"{seconds * 1000:.0f}ms"
        for old, new in {"$__rate_interval": window, "[1h]": f"[{window}]", "$tenant": ".+", "$model": ".+"}.items():
            asked = asked.replace(old, new)
        return self._prometheus.ask(asked, end)

    def counted(self, dashboard: str, title: str, query: str = "A") -> Series:
        """Return how many of what is shown there were in the window: exactly, as it begins and ends with a scrape."""
        asked, unit = self.panels[dashboard, title, query]
        _, seconds = self._windows["recsite-lane" if "recsite-lane" in asked else "recsite-dashboard"]
        times = seconds if unit in {"reqps", "ops"} else 1
        return {labels: round(value * times) for labels, value in self.of(dashboard, title, query).items() if value}


class Asked(NamedTuple):
    """What a client did.

    Attributes:
        versions: answers by (model, studio, version), in the order of the labels' names.
    """

    versions: Counter[tuple[str, str, str]]
    shown: Shown


@pytest.fixture(scope="module")
def prometheus(large_demo: Demo) -> Iterator[Prometheus]:
    """Yield the demo's."""
    if shutil.which("prometheus") is None:
        if os.environ.get("CI"):
            pytest.fail("prometheus is missing (apt-get install prometheus)")
        pytest.skip("no prometheus here (apt-get install prometheus)")
    with httpx.Client(base_url=f"{large_demo.file['prometheus_url']}/api/v1", timeout=20) as client:
        yield Prometheus(client)


class Client:
    """A studio's client of the lane, and what it got."""

    def __init__(self, demo: Demo, lane: httpx.Client) -> None:
        self._demo = demo
        self._lane = lane
        self._credentials = {(each["tenant"], each["model"]): each for each in demo.file["credentials"]}
        self.versions: Counter[tuple[str, str, str]] = Counter()
        self.tokens = {key: demo.token(each) for key, each in self._credentials.items()}

    def act(self) -> None:
        """Do all of the following at the lane, and ask for tokens."""
        self.ask_all()
        self.be_refused()
        self.want_tokens()

    def ask_all(self) -> None:
        """Ask for each sample key of each model, and for thirty and twenty players in no table."""
        for (studio, model), credential in self._credentials.items():
            unknown = [{"player_id": f"nobody-{number}"} for number in range(30)] if studio == "aurora" else []
            for key in [*credential["sample_keys"], *(unknown if model == "offers" else [])]:
                self.versions[model, studio, self._get(studio, model, key).json()["version"]] += 1
        batch = {"keys": [{"player_id": f"stranger-{number}"} for number in range(20)]}
        answer = self._lane.post("/v1/recommendations", json=batch, headers=self._bearer("aurora", "offers"))
        for each in answer.json()["answers"]:
            self.versions["offers", "aurora", each["version"]] += 1

    def be_refused(self) -> None:
        """Ask for what is refused: without a token, for another model, without a key, and last with a bad token."""
        for _ in range(4):
            assert self._lane.get("/v1/recommendations").status_code == 401
        for _ in range(5):
            assert self._get("aurora", "offers", {"model": "nothing"}).status_code == 404
        for _ in range(2):
            assert self._get("aurora", "offers", {}).status_code == 400
        for _ in range(3):
            assert self._lane.get("/v1/recommendations", headers={"Authorization": "Bearer x"}).status_code == 401

    def want_tokens(self) -> None:
        """Ask for tokens: three and two that are given, one that is not."""
        for (studio, model), times in {("aurora", "offers"): 3, ("borealis", "offers"): 2}.items():
            for _ in range(times):
                self._demo.token(self._credentials[studio, model])
        address = f"{self._demo.file['dashboard_url']}/api/v1/token"
        wrong = {"grant_type": "client_credentials", "client_id": "cr_nobody", "client_secret": "wrong"}
        assert httpx.post(address, data=wrong).status_code == 401

    def ask_the_other_door(self) -> None:
        """Ask the dashboard's process, which counts too."""
        key = self._credentials["aurora", "offers"]["sample_keys"][0]
        address = f"{self._demo.file['dashboard_url']}/v1/recommendations"
        assert httpx.get(address, params=key, headers=self._bearer("aurora", "offers")).status_code == 200

    def _get(self, studio: str, model: str, query: dict[str, str]) -> httpx.Response:
        return self._lane.get("/v1/recommendations", params=query, headers=self._bearer(studio, model))

    def _bearer(self, studio: str, model: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.tokens[studio, model]}"}


@pytest.fixture(scope="module")
def asked(large_demo: Demo, prometheus: Prometheus) -> Asked:
    """Ask, load a version again, and return what was asked, once Prometheus has seen it."""
    loads = 'sum(recsite_loads_total{job="recsite-dashboard"})'
    with httpx.Client(base_url=large_demo.file["lane_url"]) as lane:
        client = Client(large_demo, lane)
        # Once of each, since an increase begins at what is there.
        client.ask_the_other_door()
        client.act()
        begins = scrapes_with(prometheus, acts=1)
        client.versions.clear()
        loads_before = prometheus.number(loads)
        load_again(large_demo)
        client.act()
    eventually(lambda: prometheus.number(loads) > loads_before, seconds=60)
    ends = scrapes_with(prometheus, acts=2)
    # A millisecond more, so that the first scrape is within.
    windows = {job: Window(ends[job], ends[job] - begins[job] + 0.001) for job in JOBS}
    return Asked(client.versions, Shown(prometheus, windows))


def load_again(demo: Demo) -> None:
    """Have a product manager load a version once more."""
    with httpx.Client(base_url=demo.file["dashboard_url"], follow_redirects=True, timeout=20) as browser:
        demo.sign_in(browser, "product_manager")
        page = browser.get("/studios/aurora/models/difficulty/versions/2026-11/load")
        form = {"csrfmiddlewaretoken": csrf_token(page)}
        assert browser.post(page.url, data=form, headers={"Referer": str(page.url)}).url.path.startswith(
            "/studios/aurora/loads/"
        )


def scrapes_with(prometheus: Prometheus, *, acts: int) -> dict[str, float]:
    """Return when each job was scraped, once both had told of so many acts by what is last in one."""

    def is_seen() -> bool:
        malformed = prometheus.number('recsite_token_refusals_total{job="recsite-lane", reason="malformed"}')
        return (malformed, prometheus.number(NOT_MINTED)) == (3 * acts, acts)

    eventually(is_seen, seconds=60)
    seen = time.time()
    return {job: eventually(partial(prometheus.scraped_after, of, seen), seconds=60) for job, of in JOBS.items()}


def total(versions: Counter[tuple[str, str, str]], *labels: int) -> Series:
    """Return sums by some of the labels."""
    sums: Series = {}
    for key, count in versions.items():
        of = tuple(key[label] for label in labels)
        sums[of] = sums.get(of, 0) + count
    return sums


def test_prometheus__beside_the_demo__scrapes_both_and_takes_the_alerts(prometheus: Prometheus) -> None:
    eventually(lambda: prometheus.health() == (["up", "up"], {"ok"}), seconds=30)


def test_panels_about_requests__after_known_ones__show_just_them(asked: Asked) -> None:
    versions, shown = asked
    assert versions.total() == 350
    assert shown.counted("business", "Requests by studio") == {("aurora",): 257, ("borealis",): 100}
    assert shown.counted("business", "Requests by class") == {("ok",): 300, ("default",): 50, ("4xx",): 7}
    assert shown.counted("business", "Errors and refusals") == {("4xx", "aurora"): 7}
    assert shown.counted("business", "Tokens minted") == {("aurora",): 3, ("borealis",): 2}
    assert shown.counted("business", "Answers by model") == total(versions, 0, 1)
    assert shown.counted("business", "Answers by where they came from") == {("table",): 300, ("default",): 50}
    assert shown.counted("business", "Answers by version") == versions
    assert shown.of("business", "Share of defaults") == pytest.approx(
        {("offers", "aurora"): 50 / 150, ("difficulty", "aurora"): 0, ("offers", "borealis"): 0}
    )

    # Of the batch each key counts in the first, and the request in the others.
    assert shown.counted("service", "Requests by class") == {("ok",): 300, ("default",): 50, ("4xx",): 14}
    assert shown.counted("service", "Requests by status") == {("200",): 331, ("401",): 7, ("404",): 5, ("400",): 2}
    assert shown.counted("service", "Requests") == {(): 345}
    assert shown.counted("service", "Tokens refused") == {("missing",): 4, ("malformed",): 3}
    assert shown.counted("service", "Tokens minted and not", "A") == {(): 5}
    assert shown.counted("service", "Tokens minted and not", "B") == {("invalid_client",): 1}
    for query in ("A", "B"):
        assert shown.of("service", "Errors and fallbacks", query) == {(): 0}


def test_panels_about_the_split__after_known_requests__show_it_against_the_weights(asked: Asked) -> None:
    versions, shown = asked
    of_models = total(versions, 0, 1)
    seen = {key: count / of_models[key[:2]] for key, count in versions.items()}
    weights = {
        (model, studio, version): weight_bp / 10_000
        for (studio, model), of in MODELS.items()
        for version, weight_bp in of.weights_bp.items()
    }
    for panel, query in (("Seen against set", "A"), ("Versions", "B")):
        assert shown.of("business", panel, query) == pytest.approx(seen)
    for panel, query in (("Seen against set", "B"), ("Versions", "A")):
        assert shown.of("business", panel, query) == pytest.approx(weights)
    less = {key: seen[key] - weights[key] for key in seen}
    assert shown.of("business", "Seen less set") == pytest.approx(less, abs=1e-9)


def test_panels_about_loads_and_processes__after_one_load__show_it(asked: Asked) -> None:
    shown = asked.shown
    assert shown.counted("loads", "Ended, by how") == {("active",): 1}
    assert shown.counted("loads", "Rows written") == {("aurora",): 900}
    assert 0 < shown.of("loads", "Time of a load")["aurora",] < 60
    assert shown.counted("loads", "Failures within the hour before") == {}
    for panel in ("Waiting", "Running", "Oldest waits for", "Versions late", "Latest is late by", "Tables lost"):
        assert shown.of("loads", panel) == {(): 0}
    assert shown.of("loads", "Messages in the broker").keys() == {("celery",), ("loads",)}
    assert shown.of("loads", "Last sign of life").keys() == {("beat",), ("loader",), ("worker",)}
    assert max(shown.of("loads", "Last sign of life").values()) < 60
    for panel in ("Lanes", "Dashboards"):
        assert shown.of("service", panel) == {(): 1}
    studios = [shown.of("service", "Studios known and missing", query)[()] for query in "ABC"]
    assert studios == [2, 2, 0]
    assert set(shown.of("service", "Workers").values()) == {1}
    assert {job for job, *_ in shown.of("service", "Releases")} == JOBS.keys()


def test_panels_about_redis__after_known_requests__show_what_was_read(asked: Asked) -> None:
    shown = asked.shown
    read, _, cached = (sum(shown.counted("redis", "Blocks", query).values()) for query in "ABC")
    assert read + cached == 350
    assert shown.of("redis", "Found in caches")[()] == pytest.approx(cached / 350)
    assert shown.counted("redis", "Blocks not read", "A") == shown.counted("redis", "Blocks not read", "B") == {}
    assert shown.counted("redis", "Blocks lost") == shown.counted("redis", "Keys dropped within the hour before") == {}
    assert shown.of("redis", "Tables by studio").keys() == {("aurora",), ("borealis",)}
    assert [shown.of("redis", "Connections for blocks", query) for query in "AB"] == [{(): 1}] * 2


def test_panels__each_query__has_a_value_or_a_reason_for_none(asked: Asked) -> None:
    shown = asked.shown
    without = {key for key in shown.panels if all(math.isnan(value) for value in shown.of(*key).values())}
    assert without == EMPTY.keys()
