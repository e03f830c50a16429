"""A real server of the API: granian with the WSGI application, a database of its own, a real Valkey."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from recsite.embedded import EmbeddedValkey, free_port
from tests.doors.processes import ROOT, environment, running, wait_for


class ApiServer(NamedTuple):
    """Where the API listens, and callers of the studio that is in it: a job, its admin's browser, a game's backend."""

    url: str
    token: str
    session: str
    client_id: str
    client_secret: str
    data_dir: Path
    env: dict[str, str]
    log: Path


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Ask the schema's operations in its own order: each request may change what the next one finds."""
    places = [place for place, item in enumerate(items) if item.path.name == "test_schema_conformance.py"]
    for place, item in zip(places, sorted((items[place] for place in places), key=lambda item: item.name), strict=True):
        items[place] = item


@pytest.fixture(scope="module")
def more_settings() -> dict[str, str]:
    """Return what a module's processes are told besides."""
    return {}


@pytest.fixture(scope="module")
def api_server(tmp_path_factory: pytest.TempPathFactory, more_settings: dict[str, str]) -> Iterator[ApiServer]:
    """Yield a running server, of this module alone, with a studio that has one of everything (`tests.api.seed`)."""
    var_dir = tmp_path_factory.mktemp("api")
    data_dir = var_dir / "data"
    data_dir.mkdir()
    valkey = EmbeddedValkey(var_dir / "valkey", options=("--save", "", "--appendonly", "no")).start()
    env = environment(
        valkey.url,
        var_dir,
        RECSITE_DATABASE_URL=f"sqlite:///{var_dir}/api.sqlite3",
        RECSITE_API_REQUESTS_PER_MINUTE="1000000",
        RECSITE_LOG_FORMAT="json",
        **more_settings,
    )
    try:
        subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=env, check=True)
        seed = [sys.executable, "-m", "tests.api.seed", str(data_dir)]
        seeded = subprocess.run(seed, cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE)
        callers = json.loads(seeded.stdout)
        port, log = free_port(), var_dir / "api.log"
        server = [sys.executable, "-m", "granian", "--interface", "wsgi", "--http", "1", "--host", "127.0.0.1"]
        server += ["--port", str(port), "--blocking-threads", "4", "recsite.wsgi:application"]
        with running(server, env, log) as process:
            wait_for(port, "/healthz", process, log, statuses=(200,))
            url = f"http://127.0.0.1:{port}"
            yield ApiServer(url=url, **callers, data_dir=data_dir, env=env, log=log)
    finally:
        valkey.stop()
