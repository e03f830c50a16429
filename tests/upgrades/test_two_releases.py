"""An upgrade is a time in which two releases share a database, a broker and a Redis; each step is tried both ways."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.generate import answer
from recsite.embedded import EmbeddedValkey
from recsite.environment import BASE_DIR
from tests.lane_process import eventually
from tests.upgrades.releases import Installation, unpack_previous

pytestmark = pytest.mark.timeout(600)


class Both:
    """Doors of both releases side by side, and a program that may do everything in the studio."""

    def __init__(self, installation: Installation, old: Path, stack: ExitStack) -> None:
        self.installation = installation
        self.old = old
        self.http = stack.enter_context(httpx.Client(timeout=30))
        self.dashboards = {"old": stack.enter_context(installation.dashboard(old))}
        self.lanes = {"old": stack.enter_context(installation.lane(old))}
        self.token = self._automation_token()
        # Before the first process of the new release, as docs/production.md has it.
        installation.migrate(BASE_DIR)
        self.lanes["new"] = stack.enter_context(installation.lane(BASE_DIR))
        self.dashboards["new"] = stack.enter_context(installation.dashboard(BASE_DIR))
        credentials = installation.file["credentials"]
        self.credential = next(c for c in credentials if (c["tenant"], c["model"]) == ("aurora", "offers"))

    def _automation_token(self) -> str:
        with httpx.Client(base_url=self.dashboards["old"], follow_redirects=True) as browser:
            page = browser.get("/")
            form = {
                **self.installation.file["studio"],
                "csrfmiddlewaretoken": page.text.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0],
            }
            browser.post(page.url, data=form, headers={"Referer": str(page.url)})
            scopes = ["read", "loads:run", "rollouts:write", "credentials:write"]
            made = browser.post(
                "/api/v1/automation-tokens",
                json={"name": "upgrade", "scopes": scopes},
                headers={"X-CSRFToken": browser.cookies["csrftoken"], "Referer": str(page.url)},
            )
            token: str = made.raise_for_status().json()["token"]
            return token

    def call(self, release: str, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Call the API of a release's dashboard."""
        headers = {"Authorization": f"Bearer {self.token}"}
        response = self.http.request(method, f"{self.dashboards[release]}/api/v1/{path}", json=body, headers=headers)
        assert response.status_code < 300, response.text
        answered: dict[str, Any] = response.json()
        return answered

    def access_token(self, release: str, credential: dict[str, Any] | None = None) -> str:
        """Mint a token at a release's dashboard."""
        names = ("client_id", "client_secret")
        body = {name: (credential or self.credential)[name] for name in names}
        minted = self.http.post(f"{self.dashboards[release]}/api/v1/token", json=body)
        token: str = minted.raise_for_status().json()["access_token"]
        return token

    def ask(self, door: str, token: str, key: dict[str, str]) -> httpx.Response:
        """Ask a door for a player's offer."""
        headers = {"Authorization": f"Bearer {token}"}
        return self.http.get(f"{door}/v1/recommendations", params={"model": "offers", **key}, headers=headers)

    def doors(self) -> list[str]:
        """Return the addresses of all doors."""
        return [*self.lanes.values(), *self.dashboards.values()]

    def versions_served(self, door: str, token: str) -> dict[str, int]:
        """Ask for every sample player, compare each answer, and count by version."""
        counts: dict[str, int] = {}
        for key in self.credential["sample_keys"][:40]:
            served = self.ask(door, token, key).raise_for_status()
            assert "Recommendation-Source" not in served.headers, "a default, not a row"
            body = served.json()
            assert body["recommendation"] == answer("aurora", "offers", body["version"], key)
            counts[body["version"]] = counts.get(body["version"], 0) + 1
        return counts

    def has_mostly(self, door: str, token: str, version: str) -> bool:
        """Tell whether nearly all sample players get this version at a door."""
        counts = self.versions_served(door, token)
        return counts.get(version, 0) > sum(counts.values()) * 3 / 4

    def refuses(self, door: str, token: str) -> bool:
        """Tell whether a token is worth nothing at a door."""
        return self.ask(door, token, self.credential["sample_keys"][0]).status_code == 401

    def load(self, release: str, version: str) -> dict[str, Any]:
        """Ask for a load at a release's dashboard and wait for its end."""
        path = f"models/offers/versions/{version}/loads"
        fence = self.call(release, "POST", path, {})["fence"]
        ended = ("active", "failed", "rejected", "superseded")

        def finished() -> dict[str, Any] | None:
            load = self.call(release, "GET", f"{path}/{fence}")
            return load if load["state"] in ended else None

        return eventually(finished, seconds=120)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Both]:
    folder = tmp_path_factory.mktemp("upgrade")
    old = unpack_previous(folder / "old")
    var = folder / "var"
    var.mkdir()
    valkey = EmbeddedValkey(folder / "valkey", options=("--save", "", "--appendonly", "no")).start()
    try:
        installation = Installation(var, valkey.url)
        installation.seed(old)
        with ExitStack() as stack:
            yield Both(installation, old, stack)
    finally:
        valkey.stop()


def test_tokens_and_blocks__of_the_release_before__are_good_at_every_door(both: Both) -> None:
    token = both.access_token("old")
    answers = [both.versions_served(door, token) for door in both.doors()]
    assert all(counts == answers[0] for counts in answers)
    assert answers[0]


def test_tokens__of_this_release__are_good_at_the_doors_of_the_one_before(both: Both) -> None:
    token = both.access_token("new")
    for door in both.doors():
        assert both.versions_served(door, token)


def test_etag__of_one_release__is_not_modified_at_the_other(both: Both) -> None:
    token, key = both.access_token("new"), both.credential["sample_keys"][0]
    etags = {both.ask(door, token, key).headers["etag"] for door in both.doors()}
    assert len(etags) == 1, "a phone that meets both lanes in turn would never get a 304"


@pytest.mark.parametrize(("release", "few_bp"), [("new", 100), ("old", 200)])
def test_weights__saved_at_either_dashboard__reach_every_door(both: Both, release: str, few_bp: int) -> None:
    token = both.access_token(release)
    names = sorted(version["name"] for version in both.call(release, "GET", "models/offers/versions")["results"])
    for most, other in (names, names[::-1]):
        weights = {most: 10_000 - few_bp, other: few_bp}
        both.call(release, "POST", "models/offers/rollout/reweight", {"weights_bp": weights, "reason": "upgrade"})
        for door in both.doors():
            # A player of fifty or a hundred has the other version.
            eventually(partial(both.has_mostly, door, token, most), seconds=30)


@pytest.mark.parametrize(("asked", "done"), [("old", "new"), ("new", "old")])
def test_tasks__of_one_release__are_done_by_the_worker_of_the_other(both: Both, asked: str, done: str) -> None:
    version = both.call(asked, "GET", "models/offers/versions")["results"][0]["name"]
    installation, code = both.installation, {"old": both.old, "new": BASE_DIR}
    with installation.worker(code[done]) as log, installation.beat(code[asked]) as beats:
        load = both.load(asked, version)
        assert load["state"] == "active", load
        sends = {"old": "Sending due task", "new": "beat.sends task="}[asked]
        eventually(lambda: sends in beats.read_text(), seconds=60)
        eventually(lambda: " succeeded in " in log.read_text(), seconds=60)
    # A task that the other release does not know is dropped, with a line that says so; nothing else goes wrong.
    assert "raised unexpected" not in log.read_text()
    token = both.access_token(asked)
    for door in both.doors():
        assert both.versions_served(door, token)


@pytest.mark.parametrize("release", ["new", "old"])
def test_revoked__at_either_dashboard__is_refused_by_both_lanes(both: Both, release: str) -> None:
    made = both.call(release, "POST", "credentials", {"name": f"gone {release}", "allowed_models": ["offers"]})
    token = both.access_token(release, made)
    for door in both.doors():
        eventually(lambda door=door: not both.refuses(door, token), seconds=30)  # type: ignore[misc]  # no type for its default
    both.call(release, "POST", f"credentials/{made['client_id']}/revoke", {})
    for door in both.doors():
        eventually(partial(both.refuses, door, token), seconds=30)
