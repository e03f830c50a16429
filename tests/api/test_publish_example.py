"""The example for schedulers, run as it is: against the real server, with a real worker."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.api.conftest import ApiServer
from tests.doors.processes import ROOT, running
from tests.lane_process import eventually
from tests.otlp_receiver import Receiver, otlp_receiver


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    """Receive the traces of all that is done here."""
    with otlp_receiver() as running:
        yield running


@pytest.fixture(scope="module")
def more_settings(receiver: Receiver) -> dict[str, str]:
    """Have them sent there."""
    return {"RECSITE_OTLP_ENDPOINT": receiver.url}


@pytest.fixture(scope="module")
def worker(api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Run a Celery worker beside the server; give its log."""
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    command = [sys.executable, "-m", "celery", "-A", "recsite", "worker", "--pool", "solo"]
    with running(command, api_server.env, log):
        yield log


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
    address = f"{api_server.url}/api/v1/models"
    httpx.post(address, json=body, headers=headers).raise_for_status()
    # Its versions have not the same players, so none is to be held against the one that is served.
    httpx.patch(f"{address}/publish-example", json={"min_coverage": 0}, headers=headers).raise_for_status()


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


@pytest.mark.usefixtures("model")
def test_request__that_starts_a_load__is_named_by_every_line_of_it_and_no_line_says_what_it_must_not(
    api_server: ApiServer, worker: Path, receiver: Receiver
) -> None:
    trace, caller = uuid4().hex, uuid4().hex[:16]
    job = {"Authorization": f"Bearer {api_server.token}"}
    path = api_server.data_dir / "named.parquet"
    write_rows(path, [1, 2, 9999])
    address = f"{api_server.url}/api/v1/models/publish-example/versions"
    source = {"kind": "parquet", "location": str(path)}
    version = httpx.post(address, json={"name": "named", "source": source}, headers=job)
    version.raise_for_status()
    for number, rows in enumerate(([1, 2, 9999], [1, 2, 3])):
        write_rows(path, rows)
        asked = httpx.post(
            f"{address}/named/loads",
            json={},
            headers={
                **job,
                "X-Request-ID": f"load-{number}",
                **({"traceparent": f"00-{trace}-{caller}-01"} if number else {}),
            },
        )
        assert (asked.status_code, asked.headers["X-Request-ID"]) == (201, f"load-{number}")
        eventually(lambda number=number: said(worker, f"load-{number}", " succeeded in "), seconds=60)  # type: ignore[misc]  # mypy knows no defaults of lambdas

    # Whatever goes wrong or right with secrets and players.
    client = {"client_id": api_server.client_id, "client_secret": api_server.client_secret}
    tokens = [httpx.post(f"{api_server.url}/api/v1/token", json=client).json()["access_token"]]
    wrong = [api_server.client_secret[:-1] + "?", "a-password-of-nobody"]
    for secret in wrong:
        refused = httpx.post(f"{api_server.url}/api/v1/token", json={**client, "client_secret": secret})
        assert refused.status_code == 401
    for bearer in (tokens[0], tokens[0][:-4] + "AAAA", api_server.token[:-1] + "?"):
        headers = {"Authorization": f"Bearer {bearer}", "Cookie": f"sessionid={api_server.session}"}
        for target in ("/v1/recommendations?player_id=p000001", "/v1/p000001?x=p000002", "/api/v1/models?q=p000002"):
            httpx.get(api_server.url + target, headers=headers)

    lines = [*lines_of(worker), *lines_of(api_server.log)]
    of_load = [line for line in lines if line.get("request_id") == "load-1"]
    assert {line["event"] for line in of_load if "event" in line} >= {"load.done", "publishing.done"}
    assert {line["task"] for line in of_load} >= {"loading.run"}
    assert {(line["component"]) for line in lines} == {"worker", "dashboard"}
    assert {line["trace_id"] for line in of_load} == {trace}

    # From the request to the task to the load's steps, and what the activation asks for.
    def all_arrived() -> bool:
        spans = [span for span in receiver.spans if span.trace_id == trace]
        # The request's comes from another process than the others.
        return {"loading.run", *STEPS} <= {span.name for span in spans} and caller in {s.parent_id for s in spans}

    eventually(all_arrived, seconds=30)
    (request_span,) = [span for span in receiver.spans if span.parent_id == caller]
    assert (request_span.service, request_span.trace_id) == ("recsite-dashboard", trace)
    assert request_span.name.startswith("POST /api/v1/")
    assert request_span.attributes["http.response.status_code"] == 201
    assert request_span.attributes["request_id"] == "load-1"
    (task_span,) = [span for span in receiver.named("loading.run") if span.trace_id == trace]
    assert (task_span.service, task_span.parent_id) == ("recsite-worker", request_span.span_id)
    parents = {(span.name, span.parent_id) for span in receiver.spans if span.trace_id == trace}
    assert parents >= {(step, task_span.span_id) for step in STEPS}

    everything = worker.read_text() + api_server.log.read_text() + receiver.text
    secrets = [api_server.token, api_server.session, api_server.client_secret, *tokens, tokens[0].split(".")[2], *wrong]
    settings = (Path(api_server.env["RECSITE_ENV_FILE"])).read_text().splitlines()
    secrets += [
        line.partition("=")[2].partition(":")[2] or line.partition("=")[2] for line in settings if "KEY" in line
    ]
    players = [f"p{number:06}" for number in range(3)]
    assert [each for each in (*secrets, *players) if each in everything] == []


STEPS = {f"load.{step}" for step in ("extract", "check", "write", "verify", "activate")}


def said(log: Path, request_id: str, words: str) -> bool:
    return any(line.get("request_id") == request_id and words in line.get("message", "") for line in lines_of(log))


def lines_of(log: Path) -> list[dict[str, Any]]:
    """Return the lines of a log; what Celery and Python print themselves is left out."""
    return [json.loads(line) for line in log.read_text().splitlines() if line.startswith("{")]
