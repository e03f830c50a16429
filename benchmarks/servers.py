"""Servers under test as processes: started on their core, asked until they are there, stopped by their own id."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.contenders import Launch, NotReady, lane_launch
from benchmarks.load import read_answer
from benchmarks.machine import family, pinned
from benchmarks.site import ROOT, BenchSite
from recsite.embedded import free_port

START_SECONDS = 120.0
STOP_SECONDS = 15.0
_PAUSE_SECONDS = 0.005


@dataclass(frozen=True)
class Server:
    """A running one.

    Attributes:
        seconds_to_ready: from its start to its first good answer.
    """

    port: int
    process: subprocess.Popen[bytes]
    seconds_to_ready: float

    @property
    def processes(self) -> list[int]:
        """Its process and every one below it."""
        return family(self.process.pid)


@contextmanager
def running(launch: Launch, port: int, log: Path, cores: tuple[int, ...], first_request: bytes) -> Iterator[Server]:
    """Run a server on these cores for as long as the block lasts.

    Args:
        launch: what to start.
        port: where it will listen.
        log: gets its output.
        cores: it may use.
        first_request: is sent until it is answered with 200; then the server is ready.

    Raises:
        NotReady: it ended, or did not give that answer in two minutes.
    """
    with log.open("wb") as output, pinned(cores):
        began = time.perf_counter()
        process = subprocess.Popen(
            launch.command,
            cwd=ROOT,
            env={**os.environ, **launch.environment},
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        while (answer := ask_once(port, first_request)) is None or answer[0] != 200:
            if process.poll() is not None or time.perf_counter() - began > START_SECONDS:
                said = log.read_text(errors="replace")[-2000:]
                raise NotReady(f"{' '.join(launch.command)} did not serve (last answer: {answer}):\n{said}")
            time.sleep(_PAUSE_SECONDS)
        yield Server(port, process, time.perf_counter() - began)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@contextmanager
def running_lane(
    site: BenchSite,
    cores: tuple[int, ...],
    first_request: bytes,
    *,
    block_cache_mb: int = 0,
    workers: int = 1,
    url: str | None = None,
) -> Iterator[Server]:
    """Run a lane on a free port, as `running` does; `url` is of another Redis than the benchmark's."""
    port = free_port()
    launch = lane_launch(site, port, block_cache_mb, workers=workers, url=url)
    with running(launch, port, site.logs / f"lane-{port}.log", cores, first_request) as server:
        yield server


def ask_once(port: int, request: bytes) -> tuple[int, bytes] | None:
    """Return status and body of the answer to one request on a connection of its own; None where there is none."""
    data = b""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(request)
            while (answer := read_answer(data)) is None:
                arrived = connection.recv(65_536)
                if not arrived:
                    return None
                data += arrived
    except OSError:
        return None
    return answer
