"""A lane as a process of its own, and what a test asks of it."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TypeVar

from prometheus_client.parser import text_string_to_metric_families

from recsite.embedded import free_port
from tests.doors.processes import environment, running, wait_for
from tests.doors.raw_http import RawConnection, RawResponse, request
from tests.doors.scene import Scene, player

T = TypeVar("T")


class LaneProcess:
    """A running lane."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, metrics_port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.metrics_port = metrics_port
        self.log = log

    def connect(self) -> RawConnection:
        """Return a connection to it."""
        return RawConnection(self.port)

    def ask(
        self,
        target: str,
        token: str | None = None,
        *headers: tuple[str, str],
        method: str = "GET",
        body: bytes | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> RawResponse:
        """Return the answer to one request on a connection of its own."""
        authorization = [] if token is None else [("Authorization", f"Bearer {token}")]
        with RawConnection(self.port, tls=tls) as connection:
            return connection.ask(request(method, target, [*authorization, *headers], body))

    def offer(self, scene: Scene, number: int = 1, *, credential: str = "cr_all") -> RawResponse:
        """Ask for a player's offer."""
        return offer_at(self.port, scene, number, credential=credential)

    def metrics(self) -> dict[str, float]:
        """Return what Prometheus would read, by series."""
        with eventually(self._to_metrics) as connection:
            text = connection.ask(request("GET", "/metrics", [("Connection", "close")])).body.decode()
        return {
            sample.name + "".join(f"{{{name}={value}}}" for name, value in sorted(sample.labels.items())): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }

    def _to_metrics(self) -> RawConnection | None:
        # The process above the workers listens a moment after these serve.
        with suppress(ConnectionRefusedError):
            return RawConnection(self.metrics_port)
        return None

    def said(self) -> str:
        """Return what it wrote so far."""
        return self.log.read_text(errors="replace")

    def descendants(self) -> list[int]:
        """Return the ids of the processes below it."""
        return descendants(self.process.pid)

    def workers(self) -> list[int]:
        """Return the ids of its worker processes."""
        below = self.descendants()
        return [pid for pid, _, command in _processes() if pid in below and "resource_tracker" not in command]

    def replace_worker(self) -> None:
        """Have a lane of one worker replace it (SIGHUP), and wait until that has ended."""
        (before,) = self.workers()
        stop(self.process.pid, signal.SIGHUP)
        eventually(lambda: before not in self.workers() and len(self.workers()) == 1, seconds=30)


def offer_at(port: int, scene: Scene, number: int, *, credential: str = "cr_all") -> RawResponse:
    """Ask a door for a player's offer, on a connection of its own."""
    target = f"/v1/recommendations?model=offers&player_id={player(number)}"
    with RawConnection(port) as connection:
        return connection.ask(request("GET", target, [("Authorization", f"Bearer {scene.token(credential)}")]))


@contextmanager
def start_lane(
    redis_url: str,
    var_dir: Path,
    *arguments: str,
    is_ready: bool = True,
    tls: bool = False,
    program: tuple[str, ...] = ("manage.py",),
    port: int | None = None,
    **variables: str,
) -> Iterator[LaneProcess]:
    """Start a lane on free ports; in the block it is ready, or alive if it is not to be ready.

    Args:
        redis_url: where tables and snapshots are.
        var_dir: of the process; a second lane with the same one finds the first one's files.
        arguments: more of the command's.
        is_ready: wait until it is.
        tls: do not wait at all, as that would take a certificate.
        program: what Python runs.
        port: the one to listen on, in place of a free one.
        variables: changes to its environment.
    """
    port, metrics_port = port or free_port(), free_port()
    log = var_dir / f"lane-{port}.log"
    command = [sys.executable, *program, "lane", "--port", str(port), "--metrics-port", str(metrics_port)]
    with running([*command, *arguments], environment(redis_url, var_dir, **variables), log) as process:
        if not tls:
            path = "/readyz" if is_ready else "/healthz"
            wait_for(port, path, process, log, statuses=(200,))
        lane = LaneProcess(process, port, metrics_port, log)
        if tls:
            eventually(lambda: "The lane serves at" in lane.said(), seconds=40)
        yield lane


def eventually(check: Callable[[], T | None], *, seconds: float = 15) -> T:
    """Return what a check gives as soon as that is true; fail with what it gave last."""
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if result:
            return result
        assert time.monotonic() < deadline, f"still {result!r} after {seconds} s"
        time.sleep(0.02)


def _ps(*arguments: str) -> str:
    command = shutil.which("ps")
    assert command is not None
    return subprocess.run([command, *arguments], capture_output=True, text=True, check=False).stdout


def _processes() -> list[tuple[int, int, str]]:
    rows = (line.split(None, 2) for line in _ps("-axwwo", "pid=,ppid=,args=").splitlines())
    return [(int(pid), int(parent), command) for pid, parent, command in rows]


def descendants(process_id: int) -> list[int]:
    """Return the ids of the processes below one."""
    processes = _processes()
    found: list[int] = []
    above = {process_id}
    while above:
        above = {pid for pid, parent, _ in processes if parent in above}
        found.extend(above)
    return found


def is_running(process_id: int) -> bool:
    """Tell whether a process runs (one that has ended and waits to be noticed does not)."""
    state = _ps("-o", "stat=", "-p", str(process_id)).strip()
    return bool(state) and not state.startswith("Z")


def is_paused(process_id: int) -> bool:
    """Tell whether a process is stopped by a signal and may go on."""
    return _ps("-o", "stat=", "-p", str(process_id)).strip().startswith("T")


def stop(process_id: int, how: signal.Signals = signal.SIGTERM) -> None:
    """Send a signal to one process that a test started."""
    os.kill(process_id, how)
