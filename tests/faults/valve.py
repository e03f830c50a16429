"""A way to a server that a test may close half way, so that whoever writes or asks there stands still, or make slow."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable


class Valve:
    """Hands bytes on to a server until some number of them, or a command, went through; then holds what comes.

    Args:
        port: of the server, on loopback.

    Attributes:
        delay_seconds: how long whatever is sent to the server takes to get there.
    """

    def __init__(self, port: int) -> None:
        self._server_port = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._is_open = threading.Event()
        self._is_open.set()
        self._left = 0
        self._command = b""
        self._is_cut = False
        self.is_holding = False
        self.delay_seconds = 0.0
        threading.Thread(target=self._accept, daemon=True).start()

    def close_after(self, size_bytes: int) -> None:
        """Hold what comes after some more bytes."""
        self._left, self._command = size_bytes, b""
        self._close()

    def close_at(self, command: str) -> None:
        """Hold the next command of that name, and what comes after it."""
        self._command = b"$%d\r\n%b\r\n" % (len(command), command.encode())
        self._close()

    def open(self) -> None:
        """Let what is held go on to the server, and everything later."""
        self._is_open.set()

    def cut(self) -> None:
        """Let what is held never arrive, as when its sender's machine is gone; let everything later through."""
        self._is_cut = True
        self._is_open.set()

    def end(self) -> None:
        """Listen no more."""
        self.cut()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _close(self) -> None:
        self._is_cut = self.is_holding = False
        self._is_open.clear()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._server_port))
            except OSError:
                client.close()
                continue
            threading.Thread(target=self._pump, args=(client, server, self._hold), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, len), daemon=True).start()

    def _hold(self, data: bytes) -> None:
        time.sleep(self.delay_seconds)
        if self._is_open.is_set():
            return
        if not self.is_holding and not self._is_reached(data):
            return
        self.is_holding = True
        self._is_open.wait(60)
        if self._is_cut:
            raise ConnectionAbortedError

    def _is_reached(self, data: bytes) -> bool:
        if self._command:
            return self._command in data
        self._left -= len(data)
        return self._left < 0

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket, before: Callable[[bytes], object]) -> None:
        try:
            while data := source.recv(16_384):
                before(data)
                target.sendall(data)
        except OSError:
            pass
        finally:
            source.close()
            target.close()
