"""PostgreSQL hangs: it neither answers nor refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from http.client import HTTPConnection
from pathlib import Path
from typing import Any, NamedTuple

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


# A probe's: whatever needs no database answers long before one that hangs is given up.
SOON_SECONDS = 2.5
PAGE = ("GET", "/studios/aurora/", {"Cookie": f"sessionid={'s' * 32}"}, None)
OPERATION = ("GET", "/api/v1/models", {"Authorization": f"Bearer rsa_{'t' * 43}"}, None)
CLIENT = {"client_id": "nobody", "client_secret": "nothing"}
MINT = ("POST", "/api/v1/token", {"Content-Type": "application/json"}, CLIENT)


class Answered(NamedTuple):
    """What came back."""

    status: int
    headers: dict[str, str]
    body: str


def _ask(port: int, method: str, path: str, headers: dict[str, str], body: Any, timeout: float = 60) -> Answered:
    connection = HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = connection.getresponse()
        return Answered(answer.status, dict(answer.getheaders()), answer.read().decode())
    finally:
        connection.close()


def _soon(port: int, path: str) -> int:
    return _ask(port, "GET", path, {}, None, SOON_SECONDS).status


def test_database__hangs_while_many_ask__they_get_503_and_what_needs_none_answers(
    postgres: EmbeddedPostgres, server: EmbeddedValkey, tmp_path: Path
) -> None:
    env = environment(server.url, tmp_path, RECSITE_DATABASE_URL=postgres.url, RECSITE_DATABASE_REQUEST_SECONDS="2")
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=ROOT, env=env, check=True, timeout=120)
    port, log = free_port(), tmp_path / "granian.log"
    granian = [sys.executable, "-m", "granian", "--interface", "wsgi", "--http", "1", "--host", "127.0.0.1"]
    granian += ["--port", str(port), "--blocking-threads", "8", "recsite.wsgi:application"]
    with running(granian, env, log) as process, ThreadPoolExecutor(60) as pool:
        wait_for(port, "/healthz", process, log, statuses=(200,))
        usual = [_ask(port, *request).status for request in (PAGE, OPERATION, MINT)]
        assert usual == [302, 401, 401]
        with postgres.hanging():
            asking = [pool.submit(_ask, port, *request) for request in (PAGE, OPERATION, MINT) * 20]
            wait(asking, timeout=1)
            for _ in range(5):
                assert _soon(port, "/healthz") == 200
                assert _soon(port, "/v1/recommendations") in {401, 503}
                assert _soon(port, "/readyz/tokens") == 503
            assert any(not asked.done() for asked in asking), "none waited: nothing was tried"
            answers = [asked.result() for asked in asking]
        assert {answer.status for answer in answers} == {503}, log.read_text()[-3000:]
        assert all(int(answer.headers["retry-after"]) > 0 for answer in answers)
        assert "The database isn’t answering" in answers[0].body
        assert json.loads(answers[1].body)["code"] == json.loads(answers[2].body)["code"] == "unavailable"
        assert "Traceback" not in log.read_text()
        assert _soon(port, "/readyz/tokens") == 200
        assert [_ask(port, *request).status for request in (PAGE, OPERATION, MINT)] == usual


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
