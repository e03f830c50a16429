"""Where the demo's things are: its folder, its settings file with secrets made here, and ports that are free.

The command line calls `prepare` before Django reads its settings, because the file it makes is those settings.
Everything above the file's last heading is made once and may be edited; what is below is chosen at each start. A
setting given in the environment, or above that heading, is left alone: with RECSITE_REDIS_URL given no Valkey is
started.
"""

from __future__ import annotations

import fcntl
import io
import os
import secrets
import shutil
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from dotenv import dotenv_values

from recsite.demo.demo_file import write_private
from recsite.demo.screen import print_already_running
from recsite.embedded import free_port
from recsite.environment import DEFAULT_VAR_DIR
from serving.formats.encoding import base64url_encode

FIRST_LINE = "# The settings of the demo, made by `manage.py demo`. Not for production, which wants its own."
LAST_HEADING = "# --- Chosen at each start; what you write below this line is lost ---"
DASHBOARD_PORT, LANE_PORT, METRICS_PORT, VALKEY_PORT, PROMETHEUS_PORT = 8000, 8001, 9101, 6390, 9090

# All that the demo makes below its folder, and so all that a reset removes.
OWN_FILES = ("demo.json", "recsite.sqlite3", "recsite.sqlite3-wal", "recsite.sqlite3-shm")
OWN_FOLDERS = ("demo-data", "valkey", "lane", "loads", "log", "prometheus")


@dataclass(frozen=True)
class DemoSite:
    """What one start of the demo uses.

    Attributes:
        var_dir: the folder below which everything lies.
        valkey_port: where the embedded Valkey listens; None where a Redis of the user's own is used.
        prometheus_port: where Prometheus listens, if it is started.
        metrics_token: what it sends to the dashboard.
    """

    var_dir: Path
    dashboard_port: int
    lane_port: int
    metrics_port: int
    valkey_port: int | None
    prometheus_port: int
    redis_url: str
    metrics_token: str = field(repr=False)

    @property
    def dashboard_url(self) -> str:
        """Address of the dashboard's process."""
        return f"http://127.0.0.1:{self.dashboard_port}"

    @property
    def lane_url(self) -> str:
        """Address of the lane."""
        return f"http://127.0.0.1:{self.lane_port}"

    @property
    def prometheus_url(self) -> str:
        """Address of Prometheus, if it is started."""
        return f"http://127.0.0.1:{self.prometheus_port}"

    @property
    def demo_file(self) -> Path:
        """Addresses, people and credentials of this demo, for its owner alone."""
        return self.var_dir / "demo.json"

    @property
    def data_dir(self) -> Path:
        """The generated Parquet files."""
        return self.var_dir / "demo-data"

    @property
    def log_dir(self) -> Path:
        """One log for each process."""
        return self.var_dir / "log"


# The locks live as long as this process does, and no child inherits them.
_held: list[IO[str]] = []
_prepared: list[DemoSite] = []


def prepared() -> DemoSite:
    """Return what `prepare` found.

    Raises:
        LookupError: it was not called, so the settings in force are not the demo's.
    """
    if not _prepared:
        raise LookupError("start the demo with `make demo` or `python manage.py demo`")
    return _prepared[0]


def prepare(arguments: Sequence[str]) -> None:
    """Make the demo's folder and settings file ready, and point this process and its children at them.

    Ends the process where a demo runs in that folder already, or where the settings file is not the demo's.
    """
    var_dir = Path(os.environ.get("RECSITE_VAR_DIR", DEFAULT_VAR_DIR)).resolve()
    env_file = Path(os.environ.get("RECSITE_ENV_FILE", var_dir / "demo.env")).resolve()
    os.environ["RECSITE_ENV_FILE"] = str(env_file)
    if env_file.exists() and FIRST_LINE not in env_file.read_text():
        sys.exit(f"{env_file} holds settings that the demo did not make. Unset RECSITE_ENV_FILE to run the demo.")
    if env_file.exists() and {"-h", "--help"} & set(arguments):
        return
    var_dir.mkdir(parents=True, exist_ok=True)
    _lock(var_dir)
    if "--reset" in arguments:
        _remove(var_dir, env_file)

    kept = env_file.read_text().partition(LAST_HEADING)[0] if env_file.exists() else ""
    settings = kept or _first_settings(var_dir)
    given = {**dotenv_values(stream=io.StringIO(settings)), **os.environ}
    own_redis_url = given.get("RECSITE_REDIS_URL")
    dashboard_port, lane_port, metrics_port, valkey_port, prometheus_port = _free_ports()
    redis_url = own_redis_url or f"redis://127.0.0.1:{valkey_port}/0"
    own_valkey_port = None if own_redis_url else valkey_port
    site = DemoSite(
        var_dir,
        dashboard_port,
        lane_port,
        metrics_port,
        own_valkey_port,
        prometheus_port,
        redis_url,
        given.get("RECSITE_METRICS_TOKEN") or secrets.token_urlsafe(24),
    )
    chosen = {
        "RECSITE_REDIS_URL": site.redis_url,
        "RECSITE_SERVING_URL": site.lane_url,
        "RECSITE_METRICS_TOKEN": site.metrics_token,
    }
    lines = [f"{name}={value}\n" for name, value in chosen.items() if name not in given]
    write_private(env_file, f"{settings}{LAST_HEADING}\n{''.join(lines)}")
    _prepared[:] = [site]


def _lock(var_dir: Path) -> None:
    lock = (var_dir / "demo.lock").open("a+")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        with lock:
            lock.seek(0)
            print_already_running(lock.read().strip(), var_dir / "demo.json")
        sys.exit(1)
    lock.seek(0)
    lock.truncate()
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    _held[:] = [lock]


def _remove(var_dir: Path, env_file: Path) -> None:
    for path in (env_file, *(var_dir / name for name in OWN_FILES)):
        path.unlink(missing_ok=True)
    for name in OWN_FOLDERS:
        shutil.rmtree(var_dir / name, ignore_errors=True)


def _first_settings(var_dir: Path) -> str:
    """Return the settings that are made once: secrets of this demo's own."""
    snapshot_key = Ed25519PrivateKey.generate()
    values = {
        "HTTPS_ONLY": "false",
        "SECRET_KEY": secrets.token_urlsafe(48),
        "TOKEN_MASTER_KEYS": f"demo1:{base64url_encode(secrets.token_bytes(32))}",
        "SEAL_KEYS": f"demo1:{base64url_encode(secrets.token_bytes(32))}",
        "SNAPSHOT_PRIVATE_KEY": f"demo1:{base64url_encode(snapshot_key.private_bytes_raw())}",
        "SNAPSHOT_PUBLIC_KEYS": f"demo1:{base64url_encode(snapshot_key.public_key().public_bytes_raw())}",
    }
    if "RECSITE_VAR_DIR" in os.environ:
        values |= {"VAR_DIR": str(var_dir), "DATABASE_URL": f"sqlite:///{var_dir / 'recsite.sqlite3'}"}
    return FIRST_LINE + "\n" + "".join(f"RECSITE_{name}={value}\n" for name, value in values.items())


def _free_ports() -> list[int]:
    """Return five different free ports: the usual ones where nobody listens there and no other demo is about to."""
    ports: list[int] = []
    for preferred in (DASHBOARD_PORT, LANE_PORT, METRICS_PORT, VALKEY_PORT, PROMETHEUS_PORT):
        port = free_port(preferred)
        while not _claim(port):
            port = free_port()
        ports.append(port)
    return ports


def _claim(port: int) -> bool:
    """Take a port before other demos of this user do, until this process ends; tell whether that was possible.

    Some time goes by until a part listens, and two demos that start at once found the same ports free.
    """
    folder = Path(tempfile.gettempdir()) / f"recsite-demo-ports-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    claim = (folder / str(port)).open("a")
    try:
        fcntl.flock(claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        claim.close()
        return False
    _held.append(claim)
    return True
