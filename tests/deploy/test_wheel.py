"""The package as it is installed: away from a checkout, with its templates and files, writing where it is told to."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import recsite
from recsite.embedded import free_port
from recsite.environment import BASE_DIR
from tests.doors.processes import environment, running, wait_for
from tests.doors.raw_http import RawConnection, RawResponse, request

pytestmark = pytest.mark.slow


class Installed:
    """An installation of the wheel, on the dependencies that the tests have."""

    def __init__(self, folder: Path) -> None:
        self.packages, self.elsewhere = folder / "packages", folder / "elsewhere"
        self.elsewhere.mkdir()
        self.var_dir = folder / "var"
        self.variables = environment(
            "redis://127.0.0.1:1/0",
            self.var_dir,
            RECSITE_DATABASE_URL=f"sqlite:///{self.var_dir}/recsite.sqlite3",
            RECSITE_STATIC_ROOT=str(folder / "collected"),
            PYTHONPATH=str(self.packages),
            PYTHONDONTWRITEBYTECODE="1",
            RECSITE_LOG_FORMAT="json",
        )
        self.command = [sys.executable, str(self.packages / "bin" / "recsite")]

    def run(self, *arguments: str) -> str:
        """Run a command of `recsite` away from everything; give what it printed."""
        ended = subprocess.run(
            [*self.command, *arguments],
            cwd=self.elsewhere,
            env=self.variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            timeout=120,
        )
        assert not ended.returncode, ended.stdout
        return ended.stdout

    @contextmanager
    def running(self, command: list[str], port: int) -> Iterator[Path]:
        """Run a process until the block ends, once it is alive; give its log."""
        log = self.var_dir / "process.log"
        with running(command, self.variables, log, cwd=self.elsewhere, stop_seconds=20) as process:
            wait_for(port, "/healthz", process, log, statuses=(200,))
            yield log
        assert process.returncode != -signal.SIGKILL, "it did not stop when it was told to"

    def written(self) -> dict[str, int]:
        """Return the files of the installation, and of where it is run, with when they were last written."""
        below = [*self.packages.rglob("*"), *self.elsewhere.rglob("*")]
        return {str(path): path.stat().st_mtime_ns for path in below}


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    folder = tmp_path_factory.mktemp("installed")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    wheel = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(BASE_DIR)]
    subprocess.run(wheel, check=True, timeout=120)
    made = folder / f"recsite-{recsite.__version__}-py3-none-any.whl"
    install = [*pip, "install", "--no-deps", "--no-index", "--target", str(folder / "packages"), str(made)]
    subprocess.run(install, check=True, timeout=120)
    here = Installed(folder)
    here.var_dir.mkdir()
    return here


def get(port: int, path: str) -> RawResponse:
    with RawConnection(port) as connection:
        return connection.ask(request("GET", path))


def test_wheel__commands_and_processes__find_everything_and_write_to_the_var_folder_alone(installed: Installed) -> None:
    before = installed.written()

    assert "System check identified no issues" in installed.run("check")
    installed.run("migrate", "--verbosity=0")
    installed.run("makemigrations", "--check", "--dry-run")
    assert "static files copied" in installed.run("collectstatic", "--no-input")

    port = free_port()
    granian = [sys.executable, "-m", "granian", "recsite.wsgi:application", "--interface", "wsgi", "--http", "1"]
    # As the image and the units have it: each line of both processes is an object.
    granian += ["--log-config", str(installed.packages / "share" / "recsite" / "granian-logs.json")]
    with installed.running([*granian, "--host", "127.0.0.1", "--port", str(port)], port) as log:
        page, style = get(port, "/sign-in"), get(port, "/static/recsite.css")
        assert page.status == style.status == 200
        assert b"Sign in" in page.body
        assert style.body == (BASE_DIR / "static" / "recsite.css").read_bytes()
    assert "Warning" not in log.read_text()
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["component"] for line in lines} == {"dashboard"}
    assert len({line["process"] for line in lines}) == 2

    port, metrics = free_port(), free_port()
    lane = ["lane", "--port", str(port), "--metrics-port", str(metrics), "--workers", "2"]
    with installed.running([*installed.command, *lane], port):
        assert get(port, "/healthz").status == 200

    assert installed.written() == before


def test_wheel__collected_static_files__are_those_of_the_checkout(installed: Installed) -> None:
    installed.run("collectstatic", "--no-input", "--clear")
    collected = Path(installed.variables["RECSITE_STATIC_ROOT"])
    ours = [path.relative_to(BASE_DIR / "static") for path in (BASE_DIR / "static").rglob("*") if path.is_file()]
    assert ours
    for path in ours:
        assert (collected / path).read_bytes() == (BASE_DIR / "static" / path).read_bytes()


def test_wheel__templates__are_those_of_the_checkout(installed: Installed) -> None:
    packed, ours = installed.packages / "recsite" / "assets" / "templates", BASE_DIR / "templates"
    assert {p.relative_to(packed) for p in packed.rglob("*.html")} == {
        p.relative_to(ours) for p in ours.rglob("*.html")
    }


def test_wheel__without_settings__says_which_and_where_they_are_told(installed: Installed) -> None:
    ended = subprocess.run(
        [*installed.command, "check"],
        cwd=installed.elsewhere,
        env={"PYTHONPATH": installed.variables["PYTHONPATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "RECSITE_SECRET_KEY: Field required" in ended.stderr
