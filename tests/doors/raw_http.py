"""HTTP/1.1 in its plainest form over a socket, so that nothing between a test and a door tidies up what is sent."""

from __future__ import annotations

import socket
import ssl
from typing import Self


class RawResponse:
    """What came back: status, headers in order (names in lower case), body."""

    def __init__(self, status: int, headers: list[tuple[str, str]], body: bytes, head_bytes: int) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        self.head_bytes = head_bytes

    def header(self, name: str) -> str | None:
        """Return a header's value; several of one name are joined by commas."""
        values = [value for given, value in self.headers if given == name]
        return ", ".join(values) if values else None

    def __repr__(self) -> str:
        return f"<{self.status} {self.headers} {self.body[:200]!r}>"


class RawConnection:
    """One keep-alive connection; requests may be pipelined: send several, then receive as many."""

    def __init__(self, port: int, *, tls: ssl.SSLContext | None = None, timeout_seconds: float = 15) -> None:
        self._port = port
        self._tls = tls
        self._timeout_seconds = timeout_seconds
        self._connect()

    def _connect(self) -> None:
        plain = socket.create_connection(("127.0.0.1", self._port), timeout=self._timeout_seconds)
        self._socket = plain if self._tls is None else self._tls.wrap_socket(plain, server_hostname="localhost")
        self._buffer = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def send(self, request: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(request)

    def receive(self, *, has_body: bool = True) -> RawResponse:
        """Take one response off the connection; `has_body` False for the answer to HEAD."""
        while b"\r\n\r\n" not in self._buffer:
            self._more()
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = [(name.lower(), value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        response = RawResponse(int(first.split(" ")[1]), headers, b"", len(head) + 4)
        if not has_body or response.status in (204, 304):
            return response
        if response.header("transfer-encoding") == "chunked":
            response.body = self._chunks()
        else:
            response.body = self._take(int(response.header("content-length") or 0))
        return response

    def ask(self, request: bytes) -> RawResponse:
        """Send one request and give its response; a new connection is made where the last answer ended the old one."""
        self.send(request)
        response = self.receive(has_body=not request.startswith(b"HEAD "))
        if response.header("connection") == "close":
            self._socket.close()
            self._connect()
        return response

    def _take(self, size: int) -> bytes:
        while len(self._buffer) < size:
            self._more()
        taken, self._buffer = self._buffer[:size], self._buffer[size:]
        return taken

    def _chunks(self) -> bytes:
        body = b""
        while True:
            while b"\r\n" not in self._buffer:
                self._more()
            size, _, self._buffer = self._buffer.partition(b"\r\n")
            chunk = self._take(int(size, 16) + 2)[:-2]
            if not chunk:
                return body
            body += chunk

    def _more(self) -> None:
        received = self._socket.recv(65_536)
        if not received:
            raise ConnectionError(f"the server closed the connection; so far: {self._buffer[:200]!r}")
        self._buffer += received


def request(
    method: str,
    target: str,
    headers: list[tuple[str, str]] | None = None,
    body: bytes | None = None,
) -> bytes:
    """Return the bytes of a request; `target` and header values are sent as Latin-1, unchecked."""
    lines = [f"{method} {target} HTTP/1.1", "Host: localhost", *(f"{name}: {value}" for name, value in headers or [])]
    if body is not None:
        lines.append(f"Content-Length: {len(body)}")
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + (body or b"")
