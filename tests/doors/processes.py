"""Starts the two doors as processes of their own, the way the demo does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from recsite.embedded import free_port
from tests.doors.raw_http import RawConnection, request

ROOT = Path(__file__).resolve().parents[2]


class Doors(NamedTuple):
    """Where the doors listen."""

    lane_port: int
    drf_port: int
    lane_metrics_port: int


def environment(redis_url: str, var_dir: Path, **changes: str) -> dict[str, str]:
    """Return the environment of a serving process: the tests' settings, this Redis, a folder of its own."""
    return {
        **os.environ,
        "RECSITE_ENV_FILE": str(ROOT / "tests" / "test.env"),
        "RECSITE_REDIS_URL": redis_url,
        "RECSITE_VAR_DIR": str(var_dir),
        "RECSITE_DATABASE_URL": f"sqlite:///{var_dir}/absent/never.sqlite3",
        "PYTHONWARNINGS": "default",
        **changes,
    }


@contextmanager
def running(
    arguments: list[str], env: dict[str, str], log: Path, *, cwd: Path = ROOT, stop_seconds: float = 15
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process until the block ends; its output goes to a file. It is killed if it does not stop in time."""
    with log.open("wb") as output:
        process = subprocess.Popen(arguments, cwd=cwd, env=env, stdout=output, stderr=subprocess.STDOUT)
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(timeout=stop_seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def wait_for(port: int, path: str, process: subprocess.Popen[bytes], log: Path, *, statuses: tuple[int, ...]) -> None:
    """Wait until a process answers a path with one of these statuses."""
    deadline = time.monotonic() + 40
    while time.monotonic() < deadline and process.poll() is None:
        try:
            with RawConnection(port, timeout_seconds=2) as connection:
                if connection.ask(request("GET", path)).status in statuses:
                    return
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError(f"{path} on port {port} never answered:\n{log.read_text(errors='replace')[-3000:]}")


@contextmanager
def start_doors(
    redis_url: str,
    var_dir: Path,
    *,
    capacity: int = 256,
    deadline_ms: int = 50,
    wait_ready: bool = True,
    variables: Mapping[str, str] | None = None,
) -> Iterator[Doors]:
    """Start the lane (block cache off) and the DRF door on free ports; both are ready in the block.

    `variables` are changes to their environment.
    """
    env = environment(
        redis_url,
        var_dir,
        RECSITE_SERVING_CAPACITY=str(capacity),
        RECSITE_SERVING_DEADLINE_MS=str(deadline_ms),
        **(variables or {}),
    )
    doors = Doors(free_port(), free_port(), free_port())
    lane_log, drf_log = var_dir / "lane.log", var_dir / "drf.log"
    lane = [sys.executable, "manage.py", "lane", "--port", str(doors.lane_port), "--block-cache-mb", "0"]
    lane += ["--metrics-port", str(doors.lane_metrics_port)]
    drf = [sys.executable, "-m", "granian", "--interface", "wsgi", "--http", "1", "--host", "127.0.0.1"]
    drf += ["--port", str(doors.drf_port), "--blocking-threads", "8", "recsite.wsgi:application"]
    statuses = (200,) if wait_ready else (200, 503)
    with running(lane, env, lane_log) as lane_process, running(drf, env, drf_log) as drf_process:
        wait_for(doors.lane_port, "/readyz", lane_process, lane_log, statuses=statuses)
        wait_for(doors.drf_port, "/readyz", drf_process, drf_log, statuses=statuses)
        yield doors
