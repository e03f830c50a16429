"""The whole system as processes of their own (what production runs, on loopback), and a studio in it for each test."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx

from recsite.embedded import EmbeddedValkey, free_port
from tests.doors.processes import ROOT, environment, running, wait_for

MODEL = "offers"
PLAYERS = 1_000


@dataclass
class Studio:
    """A studio of one test's own: nothing another test does is seen in it.

    Attributes:
        people: user names by role; each has the password `tests.factories.PASSWORD`.
        sessions: by role, what the session cookie holds of somebody who has signed in.
        read_token: an automation token that may only read.
        folder: what the studio's sources may be read from.
    """

    site: Site
    slug: str
    folder: Path
    people: dict[str, str]
    sessions: dict[str, str]
    read_token: str
    token_id: str
    client_id: str
    client_secret: str

    @property
    def name(self) -> str:
        """What pages call it."""
        return self.slug.replace("-", " ").title()

    @property
    def path(self) -> str:
        """The address of its pages."""
        return f"/studios/{self.slug}"

    @property
    def model_path(self) -> str:
        """The address of its model's rollout page."""
        return f"{self.path}/models/{MODEL}"

    def make_model(self, **weights: int) -> None:
        """Make its model, with versions of these weights (basis points), all loaded: `make_model(a=9000, b=1000)`."""
        self.site.ask("make_model", slug=self.slug, folder=str(self.folder), weights=weights)

    def write_rows(self, name: str, offer_id: int, players: int = PLAYERS) -> Path:
        """Write a source in which each player gets this offer (5,000 is none); return where it is."""
        path = self.folder / name
        self.site.ask("write_rows", path=str(path), offer_id=offer_id, players=players)
        return path

    def token(self) -> str:
        """Return a server token of its game's backend."""
        body = {"client_id": self.client_id, "client_secret": self.client_secret}
        answer = httpx.post(f"{self.site.url}/api/v1/token", json=body)
        return str(answer.raise_for_status().json()["access_token"])


@dataclass
class Site:
    """Where the parts listen, and the process that makes studios."""

    url: str
    lane_url: str
    folder: Path
    stage: subprocess.Popen[str]
    worker: subprocess.Popen[bytes]
    studios: int = field(default=0)

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Have the stage do something (`tests.browser.stage`)."""
        assert self.stage.stdin is not None
        self.stage.stdin.write(json.dumps([command, arguments]) + "\n")
        self.stage.stdin.flush()
        return self.answer()

    def answer(self) -> dict[str, Any]:
        """Read what the stage answers."""
        assert self.stage.stdout is not None
        line = self.stage.stdout.readline()
        assert line, f"the stage failed:\n{(self.folder / 'stage.log').read_text()[-3000:]}"
        read: dict[str, Any] = json.loads(line)
        return read

    def make_studio(self) -> Studio:
        """Make a studio without a model."""
        self.studios += 1
        slug = f"studio-{self.studios}"
        folder = self.folder / slug
        folder.mkdir()
        return Studio(self, slug, folder, **self.ask("make_studio", slug=slug, folder=str(folder)))

    @contextmanager
    def worker_paused(self) -> Iterator[None]:
        """Have the worker take no load within the block."""
        self.worker.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.worker.send_signal(signal.SIGCONT)

    def recommendations(self, token: str, players: Iterable[int]) -> list[dict[str, Any]]:
        """Ask the lane what players get: an answer each, with its status and its version."""
        body = {"model": MODEL, "keys": [{"player_id": f"p{number:06}"} for number in players]}
        headers = {"Authorization": f"Bearer {token}"}
        response = httpx.post(f"{self.lane_url}/v1/recommendations", json=body, headers=headers)
        answers: list[dict[str, Any]] = response.json()["answers"] if response.status_code == 200 else []
        return answers or [{"status": response.status_code}]


def free_ports(count: int) -> list[int]:
    """Return ports nobody listens on, no two alike."""
    ports: dict[int, None] = {}
    while len(ports) < count:
        ports[free_port()] = None
    return list(ports)


@contextmanager
def start_site(folder: Path) -> Iterator[Site]:
    """Start Valkey, dashboard, worker and lane; all of them answer in the block."""
    valkey = EmbeddedValkey(folder / "valkey", options=("--save", "", "--appendonly", "no")).start()
    dashboard_port, lane_port, metrics_port = free_ports(3)
    url, lane_url = f"http://127.0.0.1:{dashboard_port}", f"http://127.0.0.1:{lane_port}"
    env = environment(
        valkey.url,
        folder,
        RECSITE_DATABASE_URL=f"sqlite:///{folder}/site.sqlite3",
        RECSITE_SERVING_URL=lane_url,
    )
    python = sys.executable
    commands = {
        "dashboard": [
            *(python, "-m", "granian", "recsite.wsgi:application", "--interface", "wsgi", "--http", "1", "--no-ws"),
            *("--host", "127.0.0.1", "--port", str(dashboard_port), "--blocking-threads", "4"),
        ],
        "lane": [
            *(python, "manage.py", "lane", "--port", str(lane_port), "--metrics-port", str(metrics_port)),
        ],
        "worker": [*(python, "-m", "celery", "-A", "recsite", "worker", "--concurrency", "1", "--loglevel", "INFO")],
    }
    with ExitStack() as stack:
        stack.callback(valkey.stop)
        subprocess.run([python, "manage.py", "migrate", "-v0"], cwd=ROOT, env=env, check=True)
        started = {
            name: stack.enter_context(running(command, env, folder / f"{name}.log"))
            for name, command in commands.items()
        }
        errors = stack.enter_context((folder / "stage.log").open("w"))
        stage = stack.enter_context(
            subprocess.Popen(
                [python, "-m", "tests.browser.stage"],
                cwd=ROOT,
                env=env,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
            )
        )
        site = Site(url, lane_url, folder, stage, started["worker"])
        site.answer()
        wait_for(dashboard_port, "/healthz", started["dashboard"], folder / "dashboard.log", statuses=(200,))
        wait_for(lane_port, "/healthz", started["lane"], folder / "lane.log", statuses=(200,))
        yield site
