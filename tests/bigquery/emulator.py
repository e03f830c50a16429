"""A BigQuery to test against: `bqemulator` in its own environment, with a recording front before each of its doors.

The emulator leaves out two things that Google's answers have, and the fronts make them visible: it lists no referenced
tables (the HTTP front adds the ones that stand in backquotes in the query) and it ignores `snapshot_time` (the gRPC
front keeps every request).
"""

from __future__ import annotations

import http.client
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import grpc
import pytest
from google.auth.credentials import AnonymousCredentials
from google.cloud import bigquery
from google.cloud.bigquery_storage_v1.types import CreateReadSessionRequest, ReadRowsRequest, ReadSession

from tests.doors.processes import ROOT, running

ENVIRONMENT = ROOT / ".venv-bqemulator"
PROJECT = "studio-data"
_READ = "/google.cloud.bigquery.storage.v1.BigQueryRead"


@dataclass
class Fronts:
    """What the fronts saw, and how they answer. `reset` between tests."""

    calls: list[tuple[str, str, Any]] = field(default_factory=list)
    sessions: list[ReadSession] = field(default_factory=list)
    lists_references: bool = True
    # Added to what a job that really runs references, as if a view had changed after the dry run.
    late_references: list[str] = field(default_factory=list)
    # What a job that really runs ends with, instead of well.
    job_error: dict[str, str] | None = None
    # Streams that were read, and how such a read ends after its first rows, if not well.
    streams: list[str] = field(default_factory=list)
    read_failure: grpc.StatusCode | None = None
    holds_reads: bool = False
    # Datasets whose tables Google would not let the worker see.
    denied_datasets: set[str] = field(default_factory=set)

    def reset(self) -> None:
        self.__init__()  # type: ignore[misc]  # a dataclass's own constructor, to its defaults

    def queries(self) -> list[dict[str, Any]]:
        """Return the configuration of each query job, in order."""
        return [
            body["configuration"]
            for method, path, body in self.calls
            if method == "POST" and path.split("?")[0].endswith("/jobs") and "query" in body["configuration"]
        ]


@dataclass(frozen=True)
class BigQuery:
    """Where the fronts listen, what they saw, and a client that writes tables."""

    api_endpoint: str
    storage_endpoint: str
    fronts: Fronts
    client: bigquery.Client


def require_environment(environment: Path, *, is_ci: bool) -> None:
    """Skip on somebody's machine, fail in CI, if the emulator is not installed."""
    if (environment / "bin" / "bqemulator").exists():
        return
    sentence = "The BigQuery emulator is not installed here; `make test` installs it."
    if is_ci:
        pytest.fail(sentence)
    pytest.skip(sentence)


@contextmanager
def start_bigquery(folder: Path) -> Iterator[BigQuery]:
    """Run the emulator and its fronts until the block ends, keeping everything they write in a folder."""
    require_environment(ENVIRONMENT, is_ci=os.environ.get("CI") == "true")
    with _emulator(folder) as (rest_port, grpc_port):
        fronts = Fronts()
        with _http_front(rest_port, fronts) as api_endpoint, _grpc_front(grpc_port, fronts) as storage_endpoint:
            client = bigquery.Client(
                project=PROJECT,
                credentials=AnonymousCredentials(),
                client_options={"api_endpoint": f"http://127.0.0.1:{rest_port}"},
            )
            yield BigQuery(api_endpoint, storage_endpoint, fronts, client)
            client.close()


@contextmanager
def _emulator(folder: Path) -> Iterator[tuple[int, int]]:
    env = {
        **{name: value for name, value in os.environ.items() if name in {"PATH", "LANG"}},
        "HOME": str(folder),
        # It would be fetched from the internet at each start; nothing here reads Avro.
        "BQEMU_ENABLE_FORMAT_EXTENSIONS": "false",
    }
    subprocess.run(
        [str(ENVIRONMENT / "bin" / "python"), "-c", "import duckdb_extensions as d; d.import_extension('spatial')"],
        env=env,
        check=True,
        capture_output=True,
    )
    log = folder / "bqemulator.log"
    arguments = [str(ENVIRONMENT / "bin" / "bqemulator"), "start", "--rest-port", "0", "--grpc-port", "0"]
    with running([*arguments, "--log-format", "json"], env, log, cwd=folder, stop_seconds=10) as process:
        yield _ports(process, log)


def _ports(process: subprocess.Popen[bytes], log: Path) -> tuple[int, int]:
    """Wait until both doors are open; it says where in its log."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline and process.poll() is None:
        text = log.read_text(errors="replace")
        ports = [re.search(rf'"port": (\d+), "event": "{door}.listen"', text) for door in ("rest", "grpc")]
        if ports[0] and ports[1] and _is_ready(int(ports[0][1])):
            return int(ports[0][1]), int(ports[1][1])
        time.sleep(0.1)
    raise AssertionError(f"The BigQuery emulator did not start:\n{log.read_text(errors='replace')[-3000:]}")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


# --- HTTP -----------------------------------------------------------------------------------------------------------


@contextmanager
def _http_front(port: int, fronts: Fronts) -> Iterator[str]:
    class Front(_HttpFront):
        emulator_port = port
        kept = fronts

    with ThreadingHTTPServer(("127.0.0.1", 0), Front) as server:
        server.daemon_threads = True
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


class _HttpFront(BaseHTTPRequestHandler):
    emulator_port: int
    kept: Fronts

    def _pass_on(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        document = json.loads(body) if body.startswith(b"{") else None
        self.kept.calls.append((self.command, self.path, document))
        denied = next((name for name in self.kept.denied_datasets if f"/datasets/{name}/" in self.path), None)
        if denied is not None:
            self._answer(403, _denial(denied))
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.emulator_port, timeout=60)
        headers = {"Content-Type": self.headers.get("Content-Type", "application/json")}
        connection.request(self.command, self.path, body, headers)
        response = connection.getresponse()
        answer = response.read()
        connection.close()
        if self.kept.lists_references and b"bigquery#job" in answer:
            answer = json.dumps(self._with_references(json.loads(answer))).encode()
        self._answer(response.status, answer)

    def do_GET(self) -> None:
        self._pass_on()

    def do_POST(self) -> None:
        self._pass_on()

    def do_DELETE(self) -> None:
        self._pass_on()

    def _with_references(self, job: dict[str, Any]) -> dict[str, Any]:
        text = job.get("configuration", {}).get("query", {}).get("query", "")
        read = re.sub(r"CREATE TABLE `[^`]+`", "", text)
        names = dict.fromkeys(re.findall(r"`([\w-]+\.\w+\.\w+)`", read))
        if not job["configuration"].get("dryRun"):
            names.update(dict.fromkeys(self.kept.late_references))
            if self.kept.job_error is not None:
                job["status"].update(errorResult=self.kept.job_error, errors=[self.kept.job_error])
        job["statistics"].setdefault("query", {})["referencedTables"] = [
            dict(zip(("projectId", "datasetId", "tableId"), name.split("."), strict=True)) for name in names
        ]
        return job

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing: tests read `Fronts.calls`."""


def _denial(dataset: str) -> bytes:
    """Return Google's answer to somebody without permission, as its REST reference shows it."""
    message = f"Access Denied: Table {PROJECT}:{dataset}: User does not have permission to query it."
    error = {"message": message, "domain": "global", "reason": "accessDenied"}
    return json.dumps(
        {"error": {"code": 403, "message": message, "errors": [error], "status": "PERMISSION_DENIED"}}
    ).encode()


# --- gRPC -----------------------------------------------------------------------------------------------------------


@contextmanager
def _grpc_front(port: int, fronts: Fronts) -> Iterator[str]:
    unlimited = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
    with grpc.insecure_channel(f"127.0.0.1:{port}", options=unlimited) as channel:
        server = grpc.server(ThreadPoolExecutor(16), options=unlimited)
        server.add_generic_rpc_handlers([_GrpcFront(channel, fronts)])
        own_port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        yield f"127.0.0.1:{own_port}"
        server.stop(None).wait()


class _GrpcFront(grpc.GenericRpcHandler):  # type: ignore[misc]  # grpc ships no types
    """Passes bytes on, and keeps what CreateReadSession asked for."""

    def __init__(self, channel: grpc.Channel, fronts: Fronts) -> None:
        self._open = channel.unary_unary(f"{_READ}/CreateReadSession")
        self._read = channel.unary_stream(f"{_READ}/ReadRows")
        self._fronts = fronts

    def service(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler | None:
        if details.method == f"{_READ}/CreateReadSession":
            return grpc.unary_unary_rpc_method_handler(self._create_read_session)
        if details.method == f"{_READ}/ReadRows":
            return grpc.unary_stream_rpc_method_handler(self._read_rows)
        return None

    def _create_read_session(self, request: bytes, context: grpc.ServicerContext) -> bytes:
        self._fronts.sessions.append(CreateReadSessionRequest.deserialize(request).read_session)
        try:
            return bytes(self._open(request, timeout=60))
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
            raise

    def _read_rows(self, request: bytes, context: grpc.ServicerContext) -> Iterator[bytes]:
        self._fronts.streams.append(ReadRowsRequest.deserialize(request).read_stream)
        while self._fronts.holds_reads and context.is_active():
            time.sleep(0.01)
        try:
            for response in self._read(request, timeout=60):
                yield response
                if self._fronts.read_failure is not None:
                    context.abort(self._fronts.read_failure, "the front was told to fail")
        except grpc.RpcError as error:
            context.abort(error.code(), error.details())
