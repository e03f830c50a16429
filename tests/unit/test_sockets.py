"""No test reaches beyond this machine; a connection is refused before anything is sent."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest
from pytest_socket import SocketConnectBlockedError

# For documentation: nobody has it.
ELSEWHERE = "192.0.2.1"


def test_connection__to_another_machine__is_refused() -> None:
    with (
        pytest.warns(UserWarning, match="A test tried to use socket"),
        pytest.raises(SocketConnectBlockedError, match=ELSEWHERE),
    ):
        # From loopback, so that nothing would leave this machine were it let through.
        socket.create_connection((ELSEWHERE, 9), timeout=1, source_address=("127.0.0.1", 0))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_connection__on_loopback__is_made(host: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        socket.create_connection((host, listener.getsockname()[1])).close()


def test_connection__to_a_unix_socket__is_made(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as asking:
        listener.bind(str(tmp_path / "s"))
        listener.listen()
        asking.connect(str(tmp_path / "s"))
