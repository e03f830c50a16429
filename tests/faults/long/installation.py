"""A whole installation on this machine: the demo's, with PostgreSQL, a lane of two workers, and a Redis made slow."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

from django.core.management import call_command
from django.db import connection

from models_registry.models import RolloutRevision, Version
from recsite.demo.answers import wait_for_right_answers
from recsite.demo.data import PEOPLE, demo_versions, make_credentials, make_people, make_studios, write_data
from recsite.demo.demo_file import read_demo_file
from recsite.demo.loads import is_whole, load_all
from recsite.demo.processes import Part, Parts, http_status
from recsite.demo.screen import Screen
from recsite.demo.site import DemoSite
from recsite.management.commands.demo import own_parts, valkey_part
from tenants.callers import mint_token
from tenants.models import Credential, User
from tests.faults.long.judge import Weights
from tests.faults.valve import Valve
from tests.lane_process import descendants
from tests.postgres import EmbeddedPostgres

PLAYERS = 20_000
PATIENCE_SECONDS = 90.0
# So many connections, each to whichever of two workers has it: that both are asked is as good as certain.
ASKED_OF_A_DOOR = 12


class Installation:
    """What a fault can be done to.

    Attributes:
        postgres: None where none could be started; the database is SQLite then.
        valve: the lane's and the dashboard's way to Redis.
        tokens: by studio and model, good for ten minutes or more.
        revoked: tokens that nobody takes any more.
        weights: of Aurora's offers.
    """

    def __init__(self, site: DemoSite, postgres: EmbeddedPostgres | None, screen: Screen, stack: ExitStack) -> None:
        self.site = site
        self.postgres = postgres
        self.screen = screen
        self.parts = Parts(site.var_dir / "demo.pids", screen.say)
        self.tokens: dict[tuple[str, str], str] = {}
        self.revoked: list[str] = []
        self.weights = Weights()
        self._minted_at = 0.0
        self._credentials: list[Credential] = []
        assert site.valkey_port is not None
        for _ in write_data(site.data_dir, PLAYERS):
            pass
        self.parts.listen_for_signals()
        stack.callback(self.parts.stop)
        self.parts.start(valkey_part(site, site.valkey_port))
        self.parts.wait_for_answers(PATIENCE_SECONDS)
        self.valve = Valve(site.valkey_port)
        stack.callback(self.valve.end)

    def start(self) -> None:
        """Make everything that the demo has, and load it."""
        call_command("migrate", verbosity=0, interactive=False)
        make_people({})
        make_studios(self.site.data_dir)
        issued = make_credentials(read_demo_file(self.site.demo_file), PLAYERS)
        found = {c.client_id: c for c in Credential.objects.unscoped().select_related("tenant")}
        self._credentials = [found[entry["client_id"]] for entry in issued]
        self._names = [(entry["tenant"], entry["model"]) for entry in issued]
        slow = {"RECSITE_REDIS_URL": f"redis://127.0.0.1:{self.valve.port}/0"}
        for part in own_parts(self.site):
            match part.name:
                case "lane":
                    command = [*part.command, "--workers", "2", "--block-cache-mb", "0"]
                    self.parts.start(replace(part, command=command, environment={**part.environment, **slow}))
                case "dashboard":
                    self.parts.start(replace(part, environment={**part.environment, **slow}))
                case _:
                    self.parts.start(part)
        self.parts.wait_for_answers(PATIENCE_SECONDS)
        with self.screen.loads() as display:
            load_all(demo_versions(), self.admin(), display, self.parts.rest)
        for credential in issued * ASKED_OF_A_DOOR:
            for door in (self.site.lane_url, self.site.dashboard_url):
                wait_for_right_answers(self.site.dashboard_url, door, credential, self.parts.rest, PATIENCE_SECONDS)
        self.note_weights(time.monotonic())
        self.mint()

    # --- What is there ------------------------------------------------------------------------------------------------

    def part(self, name: str) -> Part:
        """Return a part by its name."""
        return next(part for part in self.parts.parts if part.name == name)

    def lane_workers(self) -> list[int]:
        """Return the lane's worker processes."""
        return _children(self.part("lane"))

    def dashboard_workers(self) -> list[int]:
        """Return those of the dashboard."""
        return _children(self.part("dashboard"))

    def is_ready(self) -> bool:
        """Tell whether both doors say so, and the lane has its two workers."""
        doors = (self.site.lane_url, self.site.dashboard_url)
        return all(http_status(f"{door}/readyz") == 200 for door in doors) and len(self.lane_workers()) == 2

    def is_whole(self) -> bool:
        """Tell whether Redis has every block of every table that is served."""
        return all(is_whole(version.active_table) for version in demo_versions())

    def admin(self) -> User:
        """Return who does everything here, by a connection that is looked at first."""
        connection.close()
        return User.objects.get(username=PEOPLE["admin"])

    # --- What is done to it -------------------------------------------------------------------------------------------

    def start_again(self, name: str) -> None:
        """Start a part anew that has ended, as a supervisor does, and wait until it answers."""
        part = self.part(name)
        part.kill()
        part.start()
        self.wait(lambda: part.answers is None or part.answers(), f"{name} to answer")

    def wait(self, until: Callable[[], bool], what: str, seconds: float = PATIENCE_SECONDS) -> None:
        """Wait.

        Raises:
            TimeoutError: in vain.
        """
        deadline = time.monotonic() + seconds
        while not until():
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {seconds:.0f} s for {what}")
            time.sleep(0.05)

    def note_weights(self, begun_at: float) -> None:
        """Note the newest allocation of Aurora's offers, whose saving began then."""
        connection.close()
        revisions = RolloutRevision.objects.unscoped().filter(model__tenant__slug="aurora", model__slug="offers")
        newest = revisions.latest("number")
        names = dict(Version.objects.unscoped().filter(model=newest.model).values_list("code", "name"))
        self.weights.save(newest.salt, [names[code] for code in bytes(newest.allocation)], begun_at)

    def mint(self) -> None:
        """Mint what clients ask with, where that is old."""
        if self.tokens and time.monotonic() - self._minted_at < 240:
            return
        self._minted_at = time.monotonic()
        for name, credential in zip(self._names, self._credentials, strict=True):
            self.tokens[name] = mint_token(credential=credential)[0]


def _children(part: Part) -> list[int]:
    assert part.process is not None
    below = descendants(part.process.pid)
    return [pid for pid in below if b"resource_tracker" not in _command_line(pid)]


def _command_line(process_id: int) -> bytes:
    try:
        return Path(f"/proc/{process_id}/cmdline").read_bytes()
    except OSError:
        return b"resource_tracker"
