"""The demo as a newcomer meets it: started, pasted from, stopped, started again. One demo serves all tests here."""

from __future__ import annotations

import json
import os
import shutil
import signal
import stat
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from examples.generate import answer, example_of, keys_of
from recsite.environment import BASE_DIR
from serving.formats.layouts import Layout

PLAYERS = 2_000
START_SECONDS = 150
PS = shutil.which("ps") or "ps"
BASH = shutil.which("bash") or "bash"

pytestmark = pytest.mark.timeout(400)


class Demo:
    """A demo in a folder of its own."""

    def __init__(self, folder: Path, players: int = PLAYERS, *options: str) -> None:
        self.players = players
        self.options = options
        self.var_dir = folder / "var"
        self.printed = folder / "printed.txt"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def environment(self) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith("RECSITE_")}
        # Other tests run beside it, and a load that yields would wait until they do not.
        own["RECSITE_LOAD_YIELDS"] = "false"
        return own | {"RECSITE_VAR_DIR": str(self.var_dir), "RECSITE_ENV_FILE": str(self.var_dir / "demo.env")}

    @property
    def command(self) -> list[str]:
        return [sys.executable, "manage.py", "demo", "--players", str(self.players), *self.options]

    def start(self) -> str:
        """Start it, wait for its last line, give what it printed."""
        with self.printed.open("wb") as printed:
            self.process = subprocess.Popen(
                self.command, cwd=BASE_DIR, env=self.environment, stdout=printed, stderr=subprocess.STDOUT
            )
        deadline = time.monotonic() + START_SECONDS
        while "Stop: Ctrl-C" not in (text := self.printed.read_text()):
            assert self.process.poll() is None, f"the demo ended:\n{text}"
            assert time.monotonic() < deadline, f"the demo is not up after {START_SECONDS} s:\n{text}"
            time.sleep(0.1)
        return text

    def end(self, number: signal.Signals) -> int:
        """Send a signal and give the exit code."""
        assert self.process is not None
        self.process.send_signal(number)
        return self.process.wait(timeout=60)

    def children(self) -> set[int]:
        """Return the processes of all parts: the ones the demo started, and theirs."""
        groups = {int(line.split()[0]) for line in (self.var_dir / "demo.pids").read_text().splitlines()}
        return {number for number, group, state in _processes() if group in groups and state != "Z"}

    @property
    def file(self) -> dict[str, Any]:
        content: dict[str, Any] = json.loads((self.var_dir / "demo.json").read_text())
        return content

    def curl_commands(self) -> list[str]:
        return [line for line in self.printed.read_text().splitlines() if line.startswith("curl ")]

    def token(self, credential: dict[str, Any]) -> str:
        form = {name: credential[name] for name in ("client_id", "client_secret")}
        address = f"{self.file['dashboard_url']}/api/v1/token"
        response = httpx.post(address, data={"grant_type": "client_credentials", **form})
        token: str = response.raise_for_status().json()["access_token"]
        return token

    def sign_in(self, browser: httpx.Client, person: str) -> httpx.Response:
        """Sign somebody in, and give the page on which they land."""
        page = browser.get("/")
        form = {**self.file[person], "csrfmiddlewaretoken": csrf_token(page), "next": "/admin/"}
        return browser.post(page.url, data=form, headers={"Referer": str(page.url)})

    def ask(self, lane: httpx.Client, token: str, key: dict[str, str]) -> dict[str, Any]:
        response = lane.get("/v1/recommendations", params=key, headers={"Authorization": f"Bearer {token}"})
        assert response.status_code == 200
        assert "Recommendation-Source" not in response.headers, "a default, not a row"
        served: dict[str, Any] = response.json()
        return served

    def assert_right_answers(self) -> set[tuple[str, str, str]]:
        """Ask for every sample key of every credential; give the (studio, model, version)s that answered."""
        answered = set()
        with httpx.Client(base_url=self.file["lane_url"]) as lane:
            for credential in self.file["credentials"]:
                token = self.token(credential)
                for key in credential["sample_keys"]:
                    served = self.ask(lane, token, key)
                    named = (credential["tenant"], credential["model"], served["version"])
                    assert served["recommendation"] == answer(*named, key)
                    answered.add(named)
        return answered


def csrf_token(page: httpx.Response) -> str:
    """Return the token of a page's first form."""
    return page.text.partition('name="csrfmiddlewaretoken" value="')[2].partition('"')[0]


def _processes() -> list[tuple[int, int, str]]:
    shown = subprocess.run([PS, "-e", "-o", "pid=,pgid=,stat="], capture_output=True, text=True, check=True).stdout
    return [(int(pid), int(group), state[0]) for pid, group, state in map(str.split, shown.splitlines())]


def _assert_gone(children: set[int]) -> None:
    assert children
    deadline = time.monotonic() + 10
    while left := children & {number for number, _, state in _processes() if state != "Z"}:
        assert time.monotonic() < deadline, f"still running: {left}"
        time.sleep(0.05)


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    demo = Demo(tmp_path_factory.mktemp("demo"))
    try:
        assert "Loading" in demo.start()
        yield demo
    finally:
        if demo.process is not None and demo.process.poll() is None:
            demo.end(signal.SIGTERM)


def test_demo_file__first_start__is_private_and_has_what_is_promised(demo: Demo) -> None:
    assert stat.S_IMODE((demo.var_dir / "demo.json").stat().st_mode) == 0o600
    content = demo.file
    people = ("admin", "product_manager", "studio")
    assert set(content) == {"dashboard_url", "lane_url", "redis_url", *people, "credentials"}
    assert all(set(content[name]) == {"username", "password"} for name in people)
    of_models = {(c["tenant"], c["model"]): c for c in content["credentials"]}
    assert set(of_models) == {("aurora", "offers"), ("aurora", "difficulty"), ("borealis", "offers")}
    for (studio, model), credential in of_models.items():
        example = example_of(studio, model)
        assert credential["key_fields"] == list(example.key_fields)
        assert len(credential["sample_keys"]) == 100
        known = set(keys_of(example, PLAYERS))
        assert {tuple(key[name] for name in example.key_fields) for key in credential["sample_keys"]} <= known


def test_readme__its_sample_response__has_the_headers_that_the_lane_sends(demo: Demo) -> None:
    readme = (BASE_DIR / "README.md").read_text()
    shown = readme.partition("HTTP/1.1 200 OK\n")[2].partition("\n\n")[0].splitlines()
    credential = demo.file["credentials"][0]
    with httpx.Client(base_url=demo.file["lane_url"]) as lane:
        authorization = {"Authorization": f"Bearer {demo.token(credential)}"}
        response = lane.get("/v1/recommendations", params=credential["sample_keys"][0], headers=authorization)
    assert [line.partition(":")[0] for line in shown] == [name.decode() for name, _ in response.headers.raw]


def test_curl_commands__pasted__answer_what_the_generator_computes(demo: Demo) -> None:
    as_json, as_bits = (
        subprocess.run([BASH, "-c", command], capture_output=True, text=True, check=True)
        for command in demo.curl_commands()
    )
    assert as_json.stderr.strip() == "HTTP 200"
    assert as_bits.stderr.strip() == "HTTP 200"
    served = json.loads(as_json.stdout)
    key = demo.file["credentials"][0]["sample_keys"][0]
    expected = answer("aurora", "offers", served["version"], key)
    assert served == {"model": "offers", "version": served["version"], "recommendation": expected}

    bits = bytes.fromhex(as_bits.stdout)
    example = example_of("aurora", "offers")
    layout_revision, version_code, payload = bits[0], bits[1], bits[2:]
    assert layout_revision == 0
    assert example.versions[version_code] == served["version"]
    assert Layout.parse(list(example.layout)).unpack(payload) == expected


def test_sample_keys__asked_at_the_lane__all_get_their_rows(demo: Demo) -> None:
    # A hundred players, 70 to 30: both versions of Aurora's offers are among them.
    assert len(demo.assert_right_answers()) == 4


def test_people__sign_in_page__lets_the_admin_in(demo: Demo) -> None:
    with httpx.Client(base_url=demo.file["dashboard_url"], follow_redirects=True) as browser:
        landed = demo.sign_in(browser, "admin")
    assert landed.status_code == 200
    assert landed.url.path == "/admin/"
    assert demo.file["admin"]["username"] in landed.text


def test_second_demo__while_one_runs__says_so_and_shows_the_screen_again(demo: Demo) -> None:
    second = subprocess.run(
        demo.command, cwd=BASE_DIR, env=demo.environment, capture_output=True, text=True, check=False, timeout=120
    )
    assert second.returncode == 1
    assert demo.process is not None
    assert f"running already (process {demo.process.pid})" in second.stdout
    assert [line for line in second.stdout.splitlines() if line.startswith("curl ")] == demo.curl_commands()


def test_demo__ctrl_c_and_started_again__leaves_no_child_and_goes_on_with_its_data(demo: Demo) -> None:
    before, children = demo.file, demo.children()
    assert len(children) >= 5
    assert demo.end(signal.SIGINT) == 0
    _assert_gone(children)

    assert "Loading" not in demo.start()
    after = demo.file
    same = ("admin", "product_manager", "studio", "credentials")
    assert {name: after[name] for name in same} == {name: before[name] for name in same}
    demo.assert_right_answers()


def test_demo__sigterm_and_valkey_lost_its_data__leaves_no_child_and_loads_again(demo: Demo) -> None:
    children = demo.children()
    assert demo.end(signal.SIGTERM) == 0
    _assert_gone(children)
    shutil.rmtree(demo.var_dir / "valkey")

    assert "Loading" in demo.start()
    demo.assert_right_answers()


def test_demo__killed_outright__next_start_stops_what_was_left_and_goes_on(demo: Demo) -> None:
    children = demo.children()
    assert demo.end(signal.SIGKILL) == -signal.SIGKILL
    assert "which an earlier demo left behind" in demo.start()
    _assert_gone(children)
    demo.assert_right_answers()
