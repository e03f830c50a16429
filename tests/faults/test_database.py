"""PostgreSQL hangs: it neither answers nor refuses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.client import HTTPConnection
from pathlib import Path

import psycopg
import pytest

from recsite.embedded import EmbeddedValkey, free_port
from recsite.environment import Environment
from recsite.postgresql.base import BoundedConnection
from recsite.postgresql.limits import options_of
from tests.doors.processes import ROOT, environment, running, wait_for
from tests.postgres import EmbeddedPostgres


@pytest.fixture
def postgres(postgres_url: str) -> Iterator[EmbeddedPostgres]:
    """Yield a PostgreSQL of the test's own, where one can be started at all."""
    server = EmbeddedPostgres().start()
    yield server
    server.stop()


def _processes(server: EmbeddedPostgres) -> list[int]:
    first = int((server.directory / "data" / "postmaster.pid").read_text().split()[0])
    return [first, *map(int, Path(f"/proc/{first}/task/{first}/children").read_text().split())]


@contextmanager
def _hanging(server: EmbeddedPostgres) -> Iterator[None]:
    stopped = _processes(server)
    for process_id in stopped:
        os.kill(process_id, signal.SIGSTOP)
    try:
        yield
    finally:
        for process_id in stopped:
            os.kill(process_id, signal.SIGCONT)


def _ask(port: int, path: str, body: dict[str, str] | None = None) -> int:
    connection = HTTPConnection("127.0.0.1", port, timeout=20)
    try:
        if body is None:
            connection.request("GET", path)
        else:
            connection.request("POST", path, json.dumps(body), {"Content-Type": "application/json"})
        return connection.getresponse().status
    finally:
        connection.close()


def test_database__hangs_while_many_mint__tokens_get_503_and_the_rest_answers(
    postgres: EmbeddedPostgres, server: EmbeddedValkey, tmp_path: Path
) -> None:
    env = environment(server.url, tmp_path, RECSITE_DATABASE_URL=postgres.url, RECSITE_DATABASE_REQUEST_SECONDS="2")
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=env, check=True, timeout=120)
    port, log = free_port(), tmp_path / "granian.log"
    granian = [sys.executable, "-m", "granian", "--interface", "wsgi", "--http", "1", "--host", "127.0.0.1"]
    granian += ["--port", str(port), "--blocking-threads", "4", "recsite.wsgi:application"]
    client = {"client_id": "nobody", "client_secret": "nothing"}
    with running(granian, env, log) as process, ThreadPoolExecutor(18) as pool:
        wait_for(port, "/healthz", process, log, statuses=(200,))
        assert _ask(port, "/api/v1/token", client) == 401
        with _hanging(postgres):
            minting = [pool.submit(_ask, port, "/api/v1/token", client) for _ in range(18)]
            assert _ask(port, "/healthz") == 200
            assert _ask(port, "/v1/recommendations") in {401, 503}
            assert any(not asked.done() for asked in minting), "none waited: nothing was tried"
            assert {asked.result() for asked in minting} == {503}
            assert _ask(port, "/readyz/tokens") == 503
        assert _ask(port, "/readyz/tokens") == 200
        assert _ask(port, "/api/v1/token", client) == 401


def test_limits__a_slow_statement_and_a_held_lock__are_given_up_by_the_server(postgres: EmbeddedPostgres) -> None:
    env = Environment(_env_file=ROOT / "tests" / "test.env", database_lock_seconds=1)  # type: ignore[call-arg]  # pydantic-settings' own argument
    options = options_of(env, statement_seconds=2)
    del options["answer_seconds"]
    with (
        psycopg.connect(postgres.url) as holder,
        BoundedConnection.connect(postgres.url, autocommit=True, **options) as limited,
    ):
        holder.execute("SELECT pg_advisory_lock(1)")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            limited.execute("SELECT pg_advisory_lock(1)")
        with pytest.raises(psycopg.errors.QueryCanceled):
            limited.execute("SELECT pg_sleep(60)")
        assert limited.execute("SELECT 1").fetchone() == (1,)
        # A client whose machine vanished must not keep its locks for two hours.
        noticed = [limited.execute(f"SHOW tcp_keepalives_{what}").fetchone() for what in ("idle", "interval", "count")]
        assert noticed == [("15",), ("5",), ("3",)]
