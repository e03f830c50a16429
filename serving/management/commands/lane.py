"""`manage.py lane`: serve recommendations from one or more worker processes."""

from __future__ import annotations

import logging
import os
import resource
import shutil
import socket
from argparse import ArgumentTypeError
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.utils.log import configure_logging
from prometheus_client import CollectorRegistry, start_http_server
from typing_extensions import override

from serving.configuration import assemble
from serving.lane.application import Options, Tls, run_worker, tls_context
from serving.lane.http11 import KEEP_ALIVE_SECONDS
from serving.lane.workers import LaneServer
from serving.metrics import Numbers, NumbersCollector, Workers, is_alive
from serving.redis.topology import reader_for

logger = logging.getLogger(__name__)

# Connections one worker holds, most of them idle phones; what works at once is bounded by SERVING_CAPACITY.
MOST_CONNECTIONS = 65_536
# What a worker needs files for besides connections.
OTHER_FILES = 256
# With fewer it would answer next to nobody, and say nothing about it.
LEAST_FILES = 1024
BLOCK_CACHE_MB = 64


class Command(BaseCommand):
    """Serves until SIGTERM or Ctrl-C; SIGHUP replaces the workers one by one without losing a request."""

    help = "Serve recommendations (the lane). Needs no database."
    requires_system_checks = ()  # some of them would ask the database

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
        parser.add_argument("--port", type=_port, default=8001, help="default: %(default)s")
        parser.add_argument(
            "--workers",
            type=partial(_bounded, least=1, most=256),
            default=1,
            help="processes, one a core (default: %(default)s)",
        )
        parser.add_argument(
            "--block-cache-mb",
            type=partial(_bounded, least=0, most=1_000_000),
            default=BLOCK_CACHE_MB,
            help="memory for blocks of tables in each worker; 0: none (default: %(default)s)",
        )
        parser.add_argument("--tls-cert", type=Path, help="certificate chain, PEM; with --tls-key: serve HTTPS")
        parser.add_argument("--tls-key", type=Path, help="its private key, PEM")
        parser.add_argument("--metrics-port", type=_port, default=9101, help="of /metrics; default: %(default)s")
        parser.add_argument(
            "--drain-seconds",
            type=partial(_bounded, least=0, most=600),
            default=0,
            help="after SIGTERM, say “not ready” and serve on for so long, so that balancers stop sending first; "
            "a second SIGTERM ends it at once (default: %(default)s)",
        )
        parser.add_argument(
            "--keep-alive-seconds",
            type=partial(_bounded, least=1, most=3600),
            default=int(KEEP_ALIVE_SECONDS),
            help="how long a connection may be idle; more than the balancer in front keeps one (default: %(default)s)",
        )
        parser.add_argument("--metrics-host", help="address that /metrics listens on (default: that of --host)")

    def handle(self, **options: Any) -> None:
        """Serve until a signal ends it."""
        host, port = _resolved(options["host"]), options["port"]
        certificate, key = options["tls_cert"], options["tls_key"]
        metrics_host = _resolved(options["metrics_host"] or host)
        _check(((host, port), (metrics_host, options["metrics_port"])), certificate, key)
        directory = _numbers_directory()
        lane = Options(
            options["block_cache_mb"],
            directory,
            os.getpid(),
            options["workers"],
            _connections(),
            options["keep_alive_seconds"],
            Tls(certificate, key) if certificate is not None else None,
        )
        metrics = metrics_host, options["metrics_port"]
        server = LaneServer(
            partial(run_worker, lane),
            partial(_serve_metrics, metrics, directory),
            partial(self._announce, (host, port), metrics, lane),
            options["drain_seconds"],
        )
        try:
            server.serve(host, port, options["workers"])
        finally:
            shutil.rmtree(directory, ignore_errors=True)

    def _announce(self, own: tuple[str, int], metrics: tuple[str, int], lane: Options) -> None:
        """Say where everything is."""
        address, counted = f"{'https' if lane.tls else 'http'}://{_spelled(own)}", f"http://{_spelled(metrics)}/metrics"
        if settings.LOG_FORMAT == "json":
            logger.info("lane.serves at=%s workers=%d metrics=%s", address, lane.workers, counted)
            return
        workers = f"{lane.workers} worker{'s' if lane.workers > 1 else ''}"
        self.stdout.write(f"The lane serves at {address} ({workers}), metrics at {counted}")
        self.stdout.flush()


def run(arguments: list[str]) -> None:
    """Run the command as `manage.py` does, without Django's applications: that starts in a third of the time."""
    configure_logging(settings.LOGGING_CONFIG, settings.LOGGING)
    Command().run_from_argv(arguments)


def _serve_metrics(address: tuple[str, int], numbers_directory: Path) -> None:
    registry = CollectorRegistry()
    registry.register(NumbersCollector(Workers(numbers_directory).reading))
    start_http_server(address[1], addr=address[0], registry=registry)


def _check(addresses: Iterable[tuple[str, int]], certificate: Path | None, key: Path | None) -> None:
    """Look for what would make every worker fail, before any starts.

    Raises:
        CommandError: says what.
    """
    if (certificate is None) != (key is None):
        raise CommandError("Use --tls-cert and --tls-key together.")
    if certificate is not None and key is not None:
        try:
            tls_context(Tls(certificate, key))
        except OSError as error:
            raise CommandError(f"Cannot use {certificate} and {key} as TLS certificate and key: {error}.") from None
    try:
        assemble("lane")
    except ValueError as error:
        raise CommandError(f"Invalid settings: {error}") from None
    try:
        reader_for(settings.TABLES_REDIS_URL, deadline_seconds=1, numbers=Numbers())
    except OSError as error:
        raise CommandError(f"Cannot use the TLS files that RECSITE_REDIS_URL names: {error}.") from None
    for address in addresses:
        # Without this a second lane on the same port would quietly take half of the connections.
        family = socket.AF_INET6 if ":" in address[0] else socket.AF_INET
        with socket.socket(family) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(address)
            except OSError as error:
                raise CommandError(f"Cannot listen on {_spelled(address)}: {error.strerror}.") from None


def _numbers_directory() -> Path:
    """Make a folder for this lane's workers; remove those of lanes that were killed."""
    above: Path = settings.LANE_STATE_DIR / "numbers"
    try:
        above.mkdir(parents=True, exist_ok=True)
        for left in above.iterdir():
            if left.name.isdigit() and not is_alive(int(left.name)):
                shutil.rmtree(left, ignore_errors=True)
        own = above / str(os.getpid())
        shutil.rmtree(own, ignore_errors=True)
        own.mkdir()
    except OSError as error:
        raise CommandError(f"Cannot write to {above}: {error.strerror}.") from None
    return own


def _connections() -> int:
    """Raise the limit of open files as far as is allowed, and return how many connections that leaves room for.

    Raises:
        CommandError: that is next to none.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_CONNECTIONS + OTHER_FILES
    if hard != resource.RLIM_INFINITY:
        if hard < LEAST_FILES:
            raise CommandError(
                f"This process may open {hard:,} files; a lane needs at least {LEAST_FILES:,}. "
                "Raise the limit (ulimit -n)."
            )
        wanted = min(wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
    return wanted - OTHER_FILES


def _resolved(host: str) -> str:
    try:
        return str(socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)[0][4][0])
    except OSError as error:
        raise CommandError(f"{host}: {error.strerror}.") from None


def _spelled(address: tuple[str, int]) -> str:
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _bounded(text: str, least: int, most: int) -> int:
    try:
        number = int(text)
    except ValueError:
        raise ArgumentTypeError(f"{text!r} is not a number") from None
    if not least <= number <= most:
        raise ArgumentTypeError(f"must be {least:,} to {most:,}, not {number}")
    return number


_port = partial(_bounded, least=1, most=65_535)
