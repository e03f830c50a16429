"""The example for schedulers, run as it is: against the real server, with a real worker."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.api.conftest import ApiServer
from tests.doors.processes import ROOT, running


@pytest.fixture(scope="module")
def worker(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Run a Celery worker beside the server."""
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "recsite", "worker", "--pool", "solo", "--loglevel", "WARNING"]
    with running(command, api_server.env, log):
        yield


def write_rows(path: Path, offer_ids: list[int]) -> None:
    players = [f"p{number:06}" for number in range(len(offer_ids))]
    pq.write_table(pa.table({"player_id": players, "offer_id": offer_ids, "discount": [0.25] * len(players)}), path)


def run_example(
    server: ApiServer, version: str, path: Path, run: str, *more: str, token: str = ""
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "examples/publish_version.py", "--url", server.url, "--model", "publish-example"]
    command += ["--version", version, "--kind", "parquet", "--location", str(path), "--run", run, *more]
    env = {**os.environ, "RECSITE_TOKEN": token or server.token}
    return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)


@pytest.fixture(scope="module")
def model(api_server: ApiServer) -> None:
    """Make the example's own model, that nothing else changes."""
    body = {
        "slug": "publish-example",
        "name": "Publish example",
        "key_fields": ["player_id"],
        "layout": [
            {"name": "offer_id", "type": "uint", "min": 0, "max": 4095},
            {"name": "discount", "type": "decimal", "min": 0, "max": 1, "step": 0.01},
        ],
    }
    headers = {"Authorization": f"Bearer {api_server.token}"}
    httpx.post(f"{api_server.url}/api/v1/models", json=body, headers=headers).raise_for_status()


@pytest.mark.usefixtures("worker", "model")
def test_example__good_rows__are_served_and_a_retry_does_nothing_twice(api_server: ApiServer) -> None:
    path = api_server.data_dir / "good.parquet"
    write_rows(path, [number % 4096 for number in range(5000)])

    first = run_example(api_server, "2026-11-a", path, "scheduled__2026-11-01T04:00")
    retry = run_example(api_server, "2026-11-a", path, "scheduled__2026-11-01T04:00")
    next_run = run_example(api_server, "2026-11-a", path, "scheduled__2026-11-01T08:00")

    assert first.returncode == 0, first.stderr
    assert "Served: 5,000 rows of publish-example/2026-11-a (load 1)." in first.stdout
    assert retry.returncode == 0, retry.stderr
    assert "(load 1)" in retry.stdout
    assert "(load 2)" in next_run.stdout, next_run


@pytest.mark.usefixtures("worker", "model")
def test_example__bad_rows__are_reported_and_not_served(api_server: ApiServer) -> None:
    path = api_server.data_dir / "bad.parquet"
    write_rows(path, [1, 2, 9999])

    ended = run_example(api_server, "2026-11-bad", path, "one")

    assert ended.returncode == 1
    assert "Not served: rejected" in ended.stderr
    assert "FAIL" in ended.stdout
    assert "9999" in ended.stdout


@pytest.mark.usefixtures("worker", "model")
def test_example__dry_run__checks_and_serves_nothing(api_server: ApiServer) -> None:
    good, bad = api_server.data_dir / "dry.parquet", api_server.data_dir / "dry-bad.parquet"
    write_rows(good, [1, 2, 3])
    write_rows(bad, [1, 2, 9999])

    passed = run_example(api_server, "2026-11-dry", good, "three", "--dry-run")
    failed = run_example(api_server, "2026-11-dry-bad", bad, "four", "--dry-run")

    assert passed.returncode == 0, passed.stderr
    assert "Checked: 3 rows of publish-example/2026-11-dry (load 1)." in passed.stdout
    address = f"{api_server.url}/api/v1/models/publish-example/versions/2026-11-dry"
    answer = httpx.get(address, headers={"Authorization": f"Bearer {api_server.token}"})
    assert answer.json()["active_table"] is None
    assert failed.returncode == 1
    assert "Not passed: rejected" in failed.stderr


@pytest.mark.usefixtures("worker", "model")
def test_example__new_place_for_a_version_that_is_there__loads_nothing(api_server: ApiServer) -> None:
    monday, tuesday = api_server.data_dir / "monday.parquet", api_server.data_dir / "tuesday.parquet"
    write_rows(monday, [1, 2, 3])
    write_rows(tuesday, [4, 5, 6])

    first = run_example(api_server, "2026-11-days", monday, "monday", "--dry-run")
    second = run_example(api_server, "2026-11-days", tuesday, "tuesday", "--dry-run")

    assert first.returncode == 0, first.stderr
    assert second.returncode == 1
    assert f"Not loaded: publish-example/2026-11-days reads parquet {monday}, not parquet {tuesday}." in second.stderr
    address = f"{api_server.url}/api/v1/models/publish-example/versions/2026-11-days/loads"
    loads = httpx.get(address, headers={"Authorization": f"Bearer {api_server.token}"}).json()["results"]
    assert [load["fence"] for load in loads] == [1]


@pytest.mark.usefixtures("model")
def test_example__refused__says_why(api_server: ApiServer) -> None:
    outside = run_example(api_server, "2026-11-x", Path("/etc/rows.parquet"), "two")
    wrong_token = run_example(api_server, "2026-11-x", Path("/x"), "three", token="rsa_" + "x" * 43)

    assert outside.returncode == wrong_token.returncode == 1
    assert "(refused)" in outside.stderr
    assert "may not read" in outside.stderr
    assert "(unauthenticated)" in wrong_token.stderr
