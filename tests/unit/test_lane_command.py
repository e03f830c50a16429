"""`manage.py lane` says what is wrong before it starts anything."""

from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from django.core.management import CommandError, call_command

from recsite.embedded import free_port
from tests.certificates import write_certificate

if TYPE_CHECKING:
    from pytest_django.fixtures import Settings


def lane(*arguments: str) -> None:
    ports = [] if "--port" in arguments else ["--port", str(free_port())]
    metrics = [] if "--metrics-port" in arguments else ["--metrics-port", str(free_port())]
    call_command("lane", *ports, *metrics, *arguments)


def test_tls__certificate_and_key_belong_together(tmp_path: Path) -> None:
    certificate, key = write_certificate(tmp_path)
    _, stranger = write_certificate(tmp_path, "stranger")
    with pytest.raises(CommandError, match="--tls-cert and --tls-key together"):
        lane("--tls-cert", str(certificate))
    with pytest.raises(CommandError, match="--tls-cert and --tls-key together"):
        lane("--tls-key", str(key))
    for pair in ((certificate, stranger), (certificate, tmp_path / "none"), (key, key), (certificate, certificate)):
        with pytest.raises(CommandError, match="as TLS certificate and key"):
            lane("--tls-cert", str(pair[0]), "--tls-key", str(pair[1]))


@pytest.mark.parametrize("scheme", ["rediss", "rediss+cluster"])
def test_redis_url__names_a_file_for_tls_that_is_not_there__said_so(
    scheme: str, tmp_path: Path, settings: Settings
) -> None:
    settings.TABLES_REDIS_URL = f"{scheme}://:hunter2@127.0.0.1:1?ssl_ca_certs={tmp_path / 'none'}"
    with pytest.raises(CommandError, match="Cannot use the TLS files that RECSITE_REDIS_URL names") as refused:
        lane()
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("option", ["--port", "--metrics-port"])
def test_port__somebody_listens_there__said_so(option: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(CommandError, match=f"Cannot listen on 127.0.0.1:{port}"):
            lane(option, str(port))


@pytest.mark.parametrize(
    "arguments",
    [
        ("--port", "0"),
        ("--port", "70000"),
        ("--port", "x"),
        ("--workers", "0"),
        ("--workers", "-1"),
        ("--block-cache-mb", "-1"),
        ("--block-cache-mb", "lots"),
        ("--host", "no such host.invalid"),
    ],
)
def test_argument__that_makes_no_sense__refused(arguments: tuple[str, ...]) -> None:
    with pytest.raises(CommandError):
        lane(*arguments)


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("TABLES_REDIS_URL", "http://somewhere"),
        ("TOKEN_MASTER_KEYS", "short:AA"),
        ("TOKEN_MASTER_KEYS", ""),
        ("SNAPSHOT_PUBLIC_KEYS", "k:AA"),
        ("SNAPSHOT_PUBLIC_KEYS", "nonsense"),
    ],
)
def test_setting__that_is_malformed__refused(settings: pytest.FixtureRequest, setting: str, value: str) -> None:
    setattr(settings, setting, value)
    with pytest.raises(CommandError, match="Invalid settings"):
        lane()
