"""The release before this one, out of the repository's history, and processes of either release on the same data."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pytest

from recsite.embedded import free_port
from recsite.environment import BASE_DIR
from tests.doors.processes import running
from tests.lane_process import eventually

PREVIOUS = (BASE_DIR / "deploy" / "previous-release").read_text().strip()
PLAYERS = 1_000
# A worker that stops finishes what it does.
STOP_SECONDS = 60


def unpack_previous(into: Path) -> Path:
    """Return a folder with the code of the release before; a skip where the history is not here."""
    git = shutil.which("git")
    if git is None:
        pytest.skip("no git here")
    packed = subprocess.run([git, "archive", PREVIOUS], cwd=BASE_DIR, capture_output=True, check=False)
    if packed.returncode:
        pytest.skip(f"the release before this one is not in this clone: {packed.stderr.decode().strip()}")
    with tarfile.open(fileobj=BytesIO(packed.stdout)) as archive:
        archive.extractall(into, filter="data")
    return into


@dataclass
class Installation:
    """One database and one Redis, and processes of either release that share them.

    Attributes:
        folder: where the demo's settings, database and data are, and below it a folder for each process.
    """

    folder: Path
    redis_url: str

    @property
    def environment(self) -> dict[str, str]:
        """Variables that all processes get."""
        own = {name: value for name, value in os.environ.items() if not name.startswith("RECSITE_")}
        return own | {
            "RECSITE_VAR_DIR": str(self.folder),
            "RECSITE_ENV_FILE": str(self.folder / "demo.env"),
            "RECSITE_REDIS_URL": self.redis_url,
            "RECSITE_LOAD_YIELDS": "false",
        }

    @property
    def file(self) -> dict[str, Any]:
        """What the demo's file says."""
        content: dict[str, Any] = json.loads((self.folder / "demo.json").read_text())
        return content

    def seed(self, code: Path) -> None:
        """Have a release's demo make studios, people and tables; it is stopped again."""
        printed = self.folder / "demo.txt"
        command = [sys.executable, "manage.py", "demo", "--players", str(PLAYERS)]
        with running(command, self.environment, printed, cwd=code, stop_seconds=STOP_SECONDS) as process:
            eventually(lambda: "Stop: Ctrl-C" in printed.read_text() or process.poll() is not None, seconds=240)
        assert "Stop: Ctrl-C" in printed.read_text(), printed.read_text()

    def migrate(self, code: Path) -> None:
        """Apply a release's migrations."""
        subprocess.run([sys.executable, "manage.py", "migrate"], cwd=code, env=self.environment, check=True)

    @contextmanager
    def lane(self, code: Path) -> Iterator[str]:
        """Run a release's lane; gives its address when it is ready."""
        port, metrics_port = free_port(), free_port()
        command = [sys.executable, "manage.py", "lane", "--port", str(port), "--metrics-port", str(metrics_port)]
        with self._part(command, code, f"lane-{port}", RECSITE_SNAPSHOT_PRIVATE_KEY=""):
            eventually(lambda: _status(f"http://127.0.0.1:{port}/readyz") == 200, seconds=60)
            yield f"http://127.0.0.1:{port}"

    @contextmanager
    def dashboard(self, code: Path) -> Iterator[str]:
        """Run a release's dashboard; gives its address when it answers."""
        port = free_port()
        command = [sys.executable, "-m", "granian", "recsite.wsgi:application", "--interface", "wsgi", "--http", "1"]
        command += ["--host", "127.0.0.1", "--port", str(port), "--blocking-threads", "4"]
        with self._part(command, code, f"dashboard-{port}"):
            eventually(lambda: _status(f"http://127.0.0.1:{port}/readyz") == 200, seconds=60)
            yield f"http://127.0.0.1:{port}"

    @contextmanager
    def worker(self, code: Path) -> Iterator[Path]:
        """Run a release's worker on all queues; gives its log when it takes tasks."""
        command = [sys.executable, "-m", "celery", "-A", "recsite", "worker", "--concurrency", "1"]
        with self._part([*command, "--loglevel", "INFO"], code, f"worker-{free_port()}") as log:
            eventually(lambda: " ready." in log.read_text(), seconds=60)
            yield log

    @contextmanager
    def beat(self, code: Path) -> Iterator[Path]:
        """Run a release's beat; gives its log."""
        command = [sys.executable, "-m", "celery", "-A", "recsite", "beat", "--pidfile", "", "--loglevel", "INFO"]
        with self._part(command, code, f"beat-{free_port()}") as log:
            yield log

    @contextmanager
    def _part(self, command: list[str], code: Path, name: str, **variables: str) -> Iterator[Path]:
        folder = self.folder / name
        folder.mkdir()
        database = f"sqlite:///{self.folder / 'recsite.sqlite3'}"
        own = {"RECSITE_VAR_DIR": str(folder), "RECSITE_DATABASE_URL": database, **variables}
        log = folder / "log.txt"
        with running(command, self.environment | own, log, cwd=code, stop_seconds=STOP_SECONDS):
            yield log


def _status(address: str) -> int:
    try:
        return httpx.get(address, timeout=5).status_code
    except httpx.HTTPError:
        return 0
