"""nginx and haproxy with TLS before two lanes that are replaced in turn, under clients that never ask twice."""

from __future__ import annotations

import os
import re
import shutil
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from recsite.embedded import EmbeddedValkey, free_port
from recsite.environment import BASE_DIR
from tests.certificates import write_certificate
from tests.doors.processes import running
from tests.doors.raw_http import RawConnection, request
from tests.doors.scene import Scene, player
from tests.lane_process import LaneProcess, eventually, start_lane, stop

PROXIES = BASE_DIR / "deploy" / "proxies"
# The long form, as hard as it can be asked: `PROXY_ROUNDS=5` replaces each lane five times in each way.
ROUNDS = int(os.environ.get("PROXY_ROUNDS", "0"))
CLIENTS_EACH = 2 if ROUNDS else 1
PAUSE_SECONDS = 0 if ROUNDS else 0.002
HOST = "recs.example.com"


def nginx(folder: Path, replaced: dict[str, str], certificate: Path, key: Path) -> list[str]:
    text = changed(
        (PROXIES / "nginx.conf").read_text(),
        {
            **replaced,
            "/etc/ssl/recsite/fullchain.pem": str(certificate),
            "/etc/ssl/private/recsite.pem": str(key),
            "listen 443 ssl": f"listen 127.0.0.1:{replaced['PORT']} ssl",
        },
    )
    whole = f"pid {folder}/pid; daemon off; error_log stderr; events {{}} http {{ access_log off;\n{text}}}\n"
    (folder / "nginx.conf").write_text(whole)
    return ["nginx", "-p", str(folder), "-c", str(folder / "nginx.conf")]


def haproxy(folder: Path, replaced: dict[str, str], certificate: Path, key: Path) -> list[str]:
    both = folder / "both.pem"
    both.write_text(certificate.read_text() + key.read_text())
    text = changed(
        (PROXIES / "haproxy.cfg").read_text(),
        {
            **replaced,
            "/etc/haproxy/recsite.pem": str(both),
            "bind :443 ssl": f"bind 127.0.0.1:{replaced['PORT']} ssl",
        },
    )
    (folder / "haproxy.cfg").write_text(text)
    return ["haproxy", "-f", str(folder / "haproxy.cfg")]


def changed(text: str, replaced: dict[str, str]) -> str:
    for old, new in replaced.items():
        assert old == "PORT" or old in text
        text = text.replace(old, new)
    return text


@contextmanager
def proxy(
    command: Callable[[Path, dict[str, str], Path, Path], list[str]], folder: Path, lanes: list[int]
) -> Iterator[tuple[int, ssl.SSLContext]]:
    """Run a proxy with its configuration of `deploy/` on a free port; give that, and what trusts its certificate."""
    folder.mkdir()
    certificate, key = write_certificate(folder)
    port = free_port()
    replaced = {"PORT": str(port), **{f"127.0.0.1:{8001 + n}": f"127.0.0.1:{lane}" for n, lane in enumerate(lanes)}}
    log = folder / "log"
    with running(command(folder, replaced, certificate, key), dict(os.environ), log) as process:
        tls = ssl.create_default_context(cafile=certificate)

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                with RawConnection(port, tls=tls) as connection:
                    return connection.ask(asking("/readyz")).status == 200
            except OSError:
                return False

        eventually(answers)
        yield port, tls


def asking(target: str, token: str = "") -> bytes:
    asked = request("GET", target, [("Authorization", f"Bearer {token}")])
    return asked.replace(b"Host: localhost", f"Host: {HOST}".encode())


class Client(threading.Thread):
    """Asks one thing after the other on a kept connection, until it is told to stop; counts what it gets."""

    def __init__(self, port: int, tls: ssl.SSLContext, token: str) -> None:
        super().__init__()
        self.got: Counter[object] = Counter()
        self.is_done = threading.Event()
        self._port, self._tls, self._token = port, tls, token

    def id_of_a_refusal(self, given: str) -> str | None:
        """Ask without a token; return which id the answer gives the request."""
        with RawConnection(self._port, tls=self._tls) as connection:
            asked = asking("/v1/recommendations").replace(b"\r\n\r\n", f"\r\nX-Request-ID: {given}\r\n\r\n".encode())
            return connection.ask(asked).header("x-request-id")

    def run(self) -> None:
        number = 0
        while not self.is_done.is_set():
            try:
                with RawConnection(self._port, tls=self._tls) as connection:
                    while not self.is_done.is_set():
                        number += 1
                        target = f"/v1/recommendations?model=offers&player_id={player(number % 500)}"
                        self.got[connection.ask(asking(target, self._token)).status] += 1
                        time.sleep(PAUSE_SECONDS)
            except OSError as error:
                self.got[repr(error)] += 1


@pytest.mark.skipif(
    not (shutil.which("nginx") and shutil.which("haproxy")), reason="nginx or haproxy is not here (Debian has both)"
)
def test_lanes__replaced_in_turn_behind_proxies__no_request_fails(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    ports = [free_port(), free_port()]
    with ExitStack() as stack:
        lanes = [Replaced(server.url, tmp_path, port) for port in ports]
        for lane in lanes:
            stack.callback(lane.end)
            # A second time: at once.
            stack.callback(lane.tell_to_end)
        clients: list[Client] = []
        for command in (nginx, haproxy):
            port, tls = stack.enter_context(proxy(command, tmp_path / command.__name__, ports))
            clients += [Client(port, tls, scene.token()) for _ in range(CLIENTS_EACH)]
        for client in clients:
            own = [client.id_of_a_refusal("mine-1"), client.id_of_a_refusal(""), client.id_of_a_refusal("x" * 65)]
            assert own[0] == "mine-1"
            assert all(re.fullmatch(r"[0-9a-f-]{32,36}", each or "") for each in own[1:]), own
            assert own[1] != own[2]
        for client in clients:
            client.start()
        try:
            for _ in range(ROUNDS or 1):
                for lane in lanes:
                    lane.start_again()
                for lane in lanes:
                    lane.hang_up()
        finally:
            for client in clients:
                client.is_done.set()
            for client in clients:
                client.join()
    got = [dict(client.got) for client in clients]
    print(f"{4 * (ROUNDS or 1)} replacements, answers by client: {got}")  # noqa: T201  # the long form's figures
    assert [set(each) for each in got] == [{200}] * len(got), got


class Replaced:
    """A lane on a fixed port, and the ways to replace it."""

    def __init__(self, redis_url: str, var_dir: Path, port: int) -> None:
        self._redis_url, self._port = redis_url, port
        self._var_dir = var_dir / str(port)
        self._var_dir.mkdir()
        self._stack = ExitStack()
        self._lane = self._start()

    def _start(self) -> LaneProcess:
        lane = start_lane(self._redis_url, self._var_dir, "--drain-seconds", "2", port=self._port)
        return self._stack.enter_context(lane)

    def tell_to_end(self) -> None:
        stop(self._lane.process.pid)

    def end(self) -> None:
        self._stack.close()

    def start_again(self) -> None:
        """End it as a release does, and start it anew; it is ready then."""
        self.end()
        self._lane = self._start()

    def hang_up(self) -> None:
        """Have it replace its worker."""
        self._lane.replace_worker()
