"""The control plane's tests once more, on a real PostgreSQL: its locks, its constraints, its one consistent read."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from django.core.management import call_command
from django.db import connection

HERE = Path(__file__).parent
SUITES = [
    Path(__file__).name,
    "test_constraints.py",
    "test_control_plane_metrics.py",
    "test_publishing.py",
    "test_services_models.py",
    "test_services_rollouts.py",
    "test_api_idempotency.py",
    "test_api_problems.py",
    "test_database_limits.py",
    "test_database_restarted.py",
    "test_odd_input.py",
    "test_traffic.py",
    "test_held_locks.py",
    "test_migrations.py",
]


on_postgresql = connection.vendor == "postgresql"


@pytest.mark.slow
@pytest.mark.skipif(on_postgresql, reason="it runs already")
def test_control_plane__on_postgresql__passes_the_same_tests(postgres_url: str) -> None:
    suites = [str(HERE / suite) for suite in SUITES]
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *suites]
    # Apart from the other processes that may share the tests with this one.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST_")}
    ended = subprocess.run(
        command,
        cwd=HERE.parent.parent,
        env={**variables, "RECSITE_DATABASE_URL": postgres_url},
        capture_output=True,
        text=True,
        check=False,
        timeout=280,
    )
    assert ended.returncode == 0, ended.stdout[-5000:] + ended.stderr[-2000:]


@pytest.mark.django_db
@pytest.mark.skipif(not on_postgresql, reason="the test above runs it on PostgreSQL, whose database `migrate` made")
def test_migrations__on_postgresql__apply_to_an_empty_database() -> None:
    call_command("migrate", check_unapplied=True, verbosity=0)
    with connection.cursor() as cursor:
        cursor.execute("SELECT count(*) FROM models_registry_load")
        assert cursor.fetchone() == (0,)
