"""`manage.py demo`: everything on this machine, on embedded parts, until Ctrl-C."""

from __future__ import annotations

import logging
import sys
from argparse import ArgumentParser
from typing import Any

from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from typing_extensions import override

from recsite.demo.answers import WrongAnswer, wait_for_right_answers
from recsite.demo.data import (
    PEOPLE,
    OtherPlayers,
    demo_versions,
    make_credentials,
    make_people,
    make_studios,
    players_of,
    write_data,
)
from recsite.demo.demo_file import DemoFile, read_demo_file, write_demo_file
from recsite.demo.loads import LoadFailed, is_whole, load_all
from recsite.demo.processes import Part, PartFailed, Parts, StopRequested, http_status
from recsite.demo.prometheus import PrometheusMissing, find_prometheus, prometheus_part
from recsite.demo.screen import Screen, final_screen
from recsite.demo.site import DemoSite, prepared
from recsite.embedded import EmbeddedValkey
from recsite.logs import TextLines
from tenants.models import User

PATIENCE_SECONDS = 60.0


class Command(BaseCommand):
    """Starts the parts, makes and loads the data where they are missing, and stays until it is stopped."""

    help = "Run the whole system on this machine, with example data. Stop it with Ctrl-C; it goes on with its data."
    requires_system_checks = ()

    @override
    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument(
            "--players", type=int, help="players of the larger studio, at the first start (default: 300,000)"
        )
        parser.add_argument("--reset", action="store_true", help="delete the demo's data first")
        parser.add_argument("--metrics", action="store_true", help="run Prometheus beside it")
        parser.add_argument(
            "--patience",
            type=float,
            default=PATIENCE_SECONDS,
            metavar="SECONDS",
            help="give up on a part that does nothing for this long (default: %(default).0f)",
        )

    @override
    def handle(
        self,
        *args: Any,
        players: int | None = None,
        patience: float = PATIENCE_SECONDS,
        metrics: bool = False,
        **options: Any,
    ) -> None:
        try:
            site = prepared()
            prometheus = find_prometheus() if metrics else None
        except (LookupError, PrometheusMissing) as error:
            raise CommandError(str(error)) from None
        screen = Screen()
        _log_to_file(site)
        parts = Parts(site.var_dir / "demo.pids", screen.say)
        parts.listen_for_signals()
        try:
            parts.stop_leftovers()
            _start(site, parts, screen, players, patience, prometheus)
            parts.watch()
        except StopRequested:
            pass
        except (PartFailed, LoadFailed, OtherPlayers, WrongAnswer) as error:
            raise CommandError(f"The demo could not start. {error}\n(All logs: {site.log_dir})") from None
        finally:
            if parts.parts:
                screen.say("Stopping …")
                parts.stop()
                screen.say("Stopped. The data stays in place for the next start.")


def _log_to_file(site: DemoSite) -> None:
    """Keep this process's own log out of what the person in front of it reads."""
    site.log_dir.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(site.log_dir / "demo.log", mode="w")
    handler.setFormatter(TextLines())
    logging.getLogger().handlers[:] = [handler]


def _start(
    site: DemoSite,
    parts: Parts,
    screen: Screen,
    players: int | None,
    patience_seconds: float,
    prometheus: str | None,
) -> None:
    known = read_demo_file(site.demo_file)
    with screen.step("Generating example data"):
        for _ in write_data(site.data_dir, players):
            parts.rest(0)
    if site.valkey_port is not None:
        with screen.step("Starting Valkey"):
            parts.start(valkey_part(site, site.valkey_port))
            parts.wait_for_answers(patience_seconds)
    with screen.step("Preparing the database"):
        call_command("migrate", verbosity=0, interactive=False)
        people = make_people(known)
        make_studios(site.data_dir)
        credentials = make_credentials(known, players_of(site.data_dir) or 0)
        parts.rest(0)
    with screen.step("Starting workers, scheduler, dashboard and lane"):
        for part in own_parts(site):
            parts.start(part)
        if prometheus is not None:
            parts.start(prometheus_part(prometheus, site))
        parts.wait_for_answers(patience_seconds)

    missing = [version for version in demo_versions() if not is_whole(version.active_table)]
    if missing:
        screen.say("Loading, each by a Celery task:" if not screen.console.is_terminal else "Loading")
        with screen.loads() as display:
            load_all(missing, User.objects.get(username=PEOPLE["admin"]), display, parts.rest)
        with screen.step("Comparing the first answers with the generator"):
            for credential in credentials:
                wait_for_right_answers(site.dashboard_url, site.lane_url, credential, parts.rest, patience_seconds)
    content: DemoFile = {
        "dashboard_url": site.dashboard_url,
        "lane_url": site.lane_url,
        "redis_url": site.redis_url,
        "admin": people["admin"],
        "product_manager": people["product_manager"],
        "studio": people["studio"],
        "credentials": credentials,
    }
    if prometheus is not None:
        content["prometheus_url"] = site.prometheus_url
    write_demo_file(site.demo_file, content)
    screen.say(final_screen(content, site.demo_file))


def valkey_part(site: DemoSite, port: int) -> Part:
    """Return the Valkey of a demo."""
    server = EmbeddedValkey(
        site.var_dir / "valkey",
        port=port,
        # Every write goes to a file, so that a restart goes on with the tables; memory that is full refuses writes
        # rather than dropping rows; the log goes where the others' logs go; the title stays what was started.
        options=(
            *("--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction"),
            *("--logfile", "", "--set-proc-title", "no"),
        ),
    )
    server.directory.mkdir(parents=True, exist_ok=True)
    return Part("valkey", server.arguments, site.log_dir / "valkey.log", answers=server.answers)


def own_parts(site: DemoSite) -> list[Part]:
    """Return the project's own processes: the commands that a deployment runs, on loopback."""
    python, on_loopback = sys.executable, ["--host", "127.0.0.1", "--port"]
    celery, level = [python, "-m", "celery", "-A", "recsite"], ["--loglevel", "INFO"]
    worker = [*celery, "worker", *level]
    granian = [python, "-m", "granian", "recsite.wsgi:application", "--interface", "wsgi", "--http", "1", "--no-ws"]
    granian += ["--respawn-failed-workers", "--workers-kill-timeout", "5", "--blocking-threads", "8"]
    lane = [python, "-m", "recsite", "lane", "--metrics-port", str(site.metrics_port)]

    def part(name: str, command: list[str], **more: Any) -> Part:
        return Part(name, command, site.log_dir / f"{name}.log", **more)

    return [
        part("worker", [*worker, "-Q", "celery", "-n", "worker@%h", "--concurrency", "1"]),
        part("loader", [*worker, "-Q", "loads", "-n", "loader@%h", "--concurrency", "2"]),
        # Without a file that holds its process id: the demo knows it.
        part("scheduler", [*celery, "beat", *level, "--pidfile", ""]),
        part(
            "dashboard",
            [*granian, *on_loopback, str(site.dashboard_port)],
            answers=lambda: http_status(f"{site.dashboard_url}/healthz") is not None,
        ),
        part(
            "lane",
            [*lane, *on_loopback, str(site.lane_port)],
            answers=lambda: http_status(f"{site.lane_url}/readyz") == 200,
            # A lane trusts public keys; it must do without the one that signs.
            environment={"RECSITE_SNAPSHOT_PRIVATE_KEY": ""},
        ),
    ]
