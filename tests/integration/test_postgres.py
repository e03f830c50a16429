"""The control plane's tests once more, on a real PostgreSQL: its locks, its constraints, its one consistent read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest

HERE = Path(__file__).parent
SUITES = [
    "test_constraints.py",
    "test_publishing.py",
    "test_services_models.py",
    "test_services_rollouts.py",
    "test_api_idempotency.py",
    "test_api_problems.py",
    "test_database_restarted.py",
    "test_odd_input.py",
]


def run(*arguments: str, database_url: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "RECSITE_DATABASE_URL": database_url}
    command = [sys.executable, *arguments]
    root = HERE.parent.parent
    return subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=False, timeout=280)


@pytest.mark.slow
def test_control_plane__on_postgresql__passes_the_same_tests(postgres_url: str) -> None:
    suites = [str(HERE / suite) for suite in SUITES]
    ended = run("-m", "pytest", "-q", "-p", "no:cacheprovider", *suites, database_url=postgres_url)
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]


@pytest.mark.slow
def test_migrations__on_postgresql__apply_to_an_empty_database(postgres_url: str) -> None:
    with psycopg.connect(postgres_url, autocommit=True) as administrator:
        administrator.execute("CREATE DATABASE migrated")
    url = postgres_url.rpartition("/")[0] + "/migrated"
    ended = run("manage.py", "migrate", "--no-input", database_url=url)
    assert ended.returncode == 0, ended.stderr
    ended = run("manage.py", "migrate", "--check", database_url=url)
    assert ended.returncode == 0, ended.stdout
    with psycopg.connect(url) as connection:
        assert connection.execute("SELECT count(*) FROM models_registry_load").fetchone() == (0,)
