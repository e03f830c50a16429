"""The drills of docs/operations.md as they stand there: the control plane is this process, lanes are real ones."""

from __future__ import annotations

import json
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from functools import partial
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import redis
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from django.core.management import call_command
from django.db import connection
from django.utils import timezone
from pytest_django import Settings

from models_registry.loading.repair import repair_all
from models_registry.loading.requests import load_request
from models_registry.loading.running import run_load
from models_registry.models import LoadState
from models_registry.publishing import republish_all
from models_registry.rollouts.services import rollout_reweight
from recsite.embedded import EmbeddedValkey
from serving.formats.encoding import base64url_encode
from tenants.callers import mint_token
from tenants.credentials import IssuedCredential, credential_issue, credential_revoke, credential_rotate
from tenants.models import Credential, Tenant
from tests import factories
from tests.doors.raw_http import RawConnection, RawResponse, request
from tests.lane_process import LaneProcess, eventually, start_lane, stop
from tests.loading_scene import Scene, columns, row

pytestmark = pytest.mark.django_db(transaction=True)
PLAYERS = 200


@contextmanager
def set_aside() -> Iterator[Callable[[], None]]:
    """Copy the database; the block gets what puts the copy back in its place."""
    if connection.vendor == "postgresql":
        pytest.skip("a dump of PostgreSQL is PostgreSQL's own affair")
    connection.ensure_connection()
    with sqlite3.connect(":memory:") as copy:
        connection.connection.backup(copy)
        yield lambda: copy.backup(connection.connection)
    copy.close()


def token_of(credential: Credential, generation: int | None = None) -> str:
    token, _ = mint_token(credential=credential, generation=generation or credential.generation)
    return token


def ask(port: int, token: str, number: int = 1) -> RawResponse:
    target = f"/v1/recommendations?model=offers&player_id=p{number}"
    with RawConnection(port) as asking:
        return asking.ask(request("GET", target, [("Authorization", f"Bearer {token}")]))


class Players:
    """Ask lanes, one after another and without end, and hold each answer against what it may be.

    Attributes:
        ports: of the lanes that are in the balancer.
        good: tokens that must be answered, with a row or, where that is lost, a 503.
        bad: tokens that must be refused.
        wrong: what was answered otherwise.
        answered: how many had a row.
    """

    def __init__(self, *, is_503_fine: bool) -> None:
        self.ports: tuple[int, ...] = ()
        self.good: tuple[str, ...] = ()
        self.bad: tuple[str, ...] = ()
        self.wrong: list[str] = []
        self.answered = 0
        self._is_503_fine = is_503_fine
        self._turn = threading.Lock()
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._play)

    def __enter__(self) -> Players:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join(60)

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Have nobody ask while a block changes what is asked."""
        with self._turn:
            yield

    def _play(self) -> None:
        number = 0
        while not self._is_over.wait(0.002):
            number += 1
            with self._turn:
                for port in self.ports:
                    for token in self.good:
                        self._judge(ask(port, token, number % PLAYERS), number % PLAYERS)
                    for token in self.bad:
                        if (status := ask(port, token).status) != 401:
                            self.wrong.append(f"a bad token: {status}")

    def _judge(self, answer: RawResponse, number: int) -> None:
        if answer.status == 503 and self._is_503_fine:
            return
        body = json.loads(answer.body) if answer.status == 200 else {}
        if body and body["recommendation"] == MADE_BY[body["version"]](number):
            self.answered += 1
        else:
            self.wrong.append(f"{answer.status} {answer.body!r}")


OTHER_LAYOUT: list[dict[str, Any]] = [{"name": "score", "type": "uint", "min": 0, "max": 4095}]
MADE_BY: dict[str, Callable[[int], Any]] = {
    "a": lambda number: {name: value for name, value in row(number).items() if name != "player_id"},
    "b": lambda number: {"score": number},
}


@pytest.fixture
def studio(client: redis.Redis, settings: Settings, tmp_path: Path) -> Scene:
    settings.LOAD_WORKSPACE_DIR = tmp_path / "workspace"
    made = Scene(tmp_path)
    made.load(columns(range(PLAYERS)))
    return made


def issue(studio: Scene, name: str) -> IssuedCredential:
    return credential_issue(tenant=studio.tenant, name=name, actor=None)


def folder(tmp_path: Path, name: str) -> Path:
    made = tmp_path / name
    made.mkdir()
    return made


def is_answered_by(lane: LaneProcess, token: str, version: str) -> bool:
    answer = ask(lane.port, token)
    return answer.status == 200 and json.loads(answer.body)["version"] == version


def each(lanes: tuple[LaneProcess, ...], check: Callable[[LaneProcess], bool]) -> None:
    """Wait until something is so of all of them."""
    for lane in lanes:
        eventually(partial(check, lane))


def restored(*arguments: str) -> list[str]:
    """Return what the command says."""
    said = StringIO()
    call_command("restored", *arguments, stdout=said)
    return said.getvalue().splitlines()


def make_version_b(studio: Scene) -> None:
    """Give everybody a version with another layout."""
    layout = factories.LayoutFactory.create(model=studio.model, fields=OTHER_LAYOUT)
    version = factories.VersionFactory.create(model=studio.model, layout=layout, name="b")
    studio.write({"player_id": [f"p{n}" for n in range(PLAYERS)], "score": list(range(PLAYERS))}, "b.parquet")
    factories.SourceFactory.create(version=version, location=str(studio.folder / "b.parquet"))
    load = load_request(version=version, actor=None)
    run_load(load.pk)
    load.refresh_from_db()
    assert load.state == LoadState.ACTIVE, load.problem
    rollout_reweight(model=studio.model, weights_bp={0: 0, version.code: 10_000}, actor=None, reason="")


def test_restore__an_older_database_an_empty_redis_and_a_lost_lane__players_get_nothing_wrong(
    studio: Scene, server: EmbeddedValkey, client: redis.Redis, tmp_path: Path
) -> None:
    kept, lost, turned = (issue(studio, name) for name in ("kept", "lost", "turned"))
    tokens = {one.credential.name: token_of(one.credential) for one in (kept, lost, turned)}
    assert republish_all() == 0
    with set_aside() as put_back, ExitStack() as stack, Players(is_503_fine=True) as players:
        folders = {name: folder(tmp_path, name) for name in "abc"}
        a, b = (stack.enter_context(start_lane(server.url, folders[name])) for name in "ab")
        with players.paused():
            players.ports = (a.port, b.port)
            players.good = (tokens["kept"],)
        # After the backup.
        credential_revoke(credential=lost.credential, actor=None, reason="leaked")
        credential_rotate(credential=turned.credential, actor=None, previous_until=timezone.now())
        credential_issue(tenant=factories.TenantFactory.create(slug="late"), name="late", actor=None)
        make_version_b(studio)
        each((a, b), lambda lane: is_answered_by(lane, tokens["kept"], "b"))
        each((a, b), lambda lane: ask(lane.port, tokens["lost"]).status == 401)
        each((a, b), lambda lane: lane.metrics()["recsite_tenants"] == 2)
        with players.paused():
            players.bad = (tokens["lost"],)

        # The database is an older one, Redis is empty, a lane's host is gone; the other goes on with what it knows.
        put_back()
        client.flushall()
        with players.paused():
            players.ports = (b.port,)
        for process_id in (*a.descendants(), a.process.pid):
            stop(process_id, signal.SIGKILL)
        c = stack.enter_context(start_lane(server.url, folders["c"], is_ready=False))
        assert c.ask("/readyz").status == 503
        assert b.ask("/readyz").status == 200
        assert ask(b.port, tokens["kept"]).status in {200, 503}

        lines = restored(str(folders["b"]))
        named = (
            "late: the studio",
            f"“lost” ({lost.credential.client_id})",
            "“turned”",
            "layout",
            "version “b”",
            "weights",
        )
        assert len(lines) == len(named) + 2
        for name in named:
            assert any(name in line for line in lines), name
        assert lines[-1].startswith("1 would be good again")
        assert restored(str(folders["b"]), "--take-back")[-1] == "1 taken back again."

        # What workers do from then on.
        republish_all()
        [load] = repair_all(timezone.now())
        run_load(load.pk)
        eventually(lambda: c.ask("/readyz").status == 200)
        with players.paused():
            players.ports = (b.port, c.port)
        each((b, c), lambda lane: is_answered_by(lane, tokens["kept"], "a"))
        for lane in (b, c):
            refused = [name for name, count in lane.metrics().items() if "snapshot_refusals" in name and count]
            assert not refused
        eventually(lambda: (b.metrics()["recsite_tenants"], c.metrics()["recsite_tenants"]) == (2, 1))
        before = players.answered
        eventually(lambda: players.answered > before + 100)
    assert not players.wrong, players.wrong[:5]
    assert restored() == ["0 found in 1 snapshots."]


def test_rotation__of_both_keys_under_traffic__nobody_is_refused(
    studio: Scene, server: EmbeddedValkey, client: redis.Redis, settings: Settings, tmp_path: Path
) -> None:
    old_master, old_public = settings.TOKEN_MASTER_KEYS, settings.SNAPSHOT_PUBLIC_KEYS
    new_master = f"new:{base64url_encode(b'n' * 32)}"
    signing = Ed25519PrivateKey.generate()
    new_private = f"new:{base64url_encode(signing.private_bytes_raw())}"
    new_public = f"new:{base64url_encode(signing.public_key().public_bytes_raw())}"

    def lane(name: str, master: str, public: str) -> LaneProcess:
        started = stack.enter_context(
            start_lane(
                server.url,
                folder(tmp_path, name),
                RECSITE_SNAPSHOT_PRIVATE_KEY="",
                RECSITE_TOKEN_MASTER_KEYS=master,
                RECSITE_SNAPSHOT_PUBLIC_KEYS=public,
            )
        )
        with players.paused():
            players.ports = (started.port,)
        return started

    def wait_ten_minutes() -> None:
        Tenant.objects.update(snapshot_checked_at=timezone.now() - timedelta(minutes=10))
        republish_all()

    credential = issue(studio, "Android").credential
    credential_rotate(credential=credential, actor=None, previous_until=timezone.now() + timedelta(hours=1))
    of_old = (token_of(credential, 1), token_of(credential, 2))
    republish_all()
    with ExitStack() as stack, Players(is_503_fine=False) as players:
        players.good = of_old
        lane("first", old_master, old_public)
        # 1. Both are listed, at lanes and at the control plane; the old ones are in use.
        settings.TOKEN_MASTER_KEYS = f"{old_master},{new_master}"
        settings.SNAPSHOT_PUBLIC_KEYS = both_public = f"{old_public},{new_public}"
        wait_ten_minutes()
        lane("second", settings.TOKEN_MASTER_KEYS, both_public)
        # 2. The new ones are in use.
        settings.TOKEN_MASTER_KEYS = f"{new_master},{old_master}"
        of_new = (token_of(credential, 1), token_of(credential, 2))
        with players.paused():
            players.good = (*of_old, *of_new)
        before = players.answered
        eventually(lambda: players.answered > before + 50)
        wait_ten_minutes()
        settings.SNAPSHOT_PRIVATE_KEY = new_private
        assert republish_all() == 1
        # 3. The old ones are taken away; tokens of theirs have ended.
        with players.paused():
            players.good = of_new
        last = lane("last", new_master, new_public)
        settings.TOKEN_MASTER_KEYS, settings.SNAPSHOT_PUBLIC_KEYS = new_master, new_public
        wait_ten_minutes()
        before = players.answered
        eventually(lambda: players.answered > before + 50)
        assert ask(last.port, of_old[1]).status == 401
    assert not players.wrong, players.wrong[:5]
