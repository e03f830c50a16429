"""Ports for parts that are about to start."""

from __future__ import annotations

import socket

from recsite.embedded import free_port


def test_free_port__asked_for_many__gives_none_twice() -> None:
    ports = [free_port() for _ in range(500)]
    assert len(set(ports)) == len(ports)


def test_free_port__the_preferred_one__as_long_as_it_is_free() -> None:
    preferred = free_port()
    assert free_port(preferred) == free_port(preferred) == preferred
    with socket.create_server(("127.0.0.1", preferred)):
        assert free_port(preferred) != preferred
