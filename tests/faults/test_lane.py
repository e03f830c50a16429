"""A real lane process, and everything that may happen to it and around it."""

from __future__ import annotations

import json
import math
import signal
import ssl
import subprocess
import sys
import threading
import time
from pathlib import Path

import msgspec
import pytest
import redis
from django.conf import settings

from recsite import __version__
from recsite.embedded import EmbeddedValkey, free_port
from recsite.environment import BASE_DIR
from serving.formats import snapshot as published
from serving.formats.keys import lost_tables_name
from serving.http import BITS
from serving.redis.clients import Client
from tests.certificates import write_certificate
from tests.doors.processes import environment
from tests.doors.raw_http import RawConnection, RawResponse, request
from tests.doors.scene import OFFER_DEFAULT, Scene, offer, player
from tests.lane_process import LaneProcess, descendants, eventually, is_running, start_lane, stop

NO_CACHE = ("--block-cache-mb", "0")


def source(answer: RawResponse) -> tuple[int, str | None]:
    return answer.status, answer.header("recommendation-source")


def record(answer: RawResponse) -> object:
    return json.loads(answer.body)["recommendation"]


# --- Redis ----------------------------------------------------------------------------------------------------------


def test_valkey_stops__defaults_as_a_fallback_then_healed(server: EmbeddedValkey, scene: Scene, tmp_path: Path) -> None:
    with start_lane(server.url, tmp_path, *NO_CACHE) as lane:
        eventually(lambda: source(lane.offer(scene)) == (200, None))
        server.stop()
        answer = eventually(lambda: a if source(a := lane.offer(scene)) == (200, "fallback") else None)
        assert record(answer) == OFFER_DEFAULT
        assert answer.header("cache-control") == "no-store"
        bare = lane.ask(f"/v1/recommendations?model=bare&player_id={player(1)}", scene.token())
        assert (bare.status, bare.header("retry-after")) == (503, "1")
        assert lane.ask("/readyz").status == 200
        server.start()
        scene.write_all()
        eventually(lambda: source(lane.offer(scene)) == (200, None))


def test_valkey_hangs__answers_go_on_and_the_next_ones_are_right(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    with start_lane(server.url, tmp_path, *NO_CACHE) as lane:
        eventually(lambda: source(lane.offer(scene)) == (200, None))
        for _ in range(3):
            server.pause()
            for number in range(5):
                assert source(lane.offer(scene, number)) == (200, "fallback")
            server.resume()
            eventually(lambda: source(lane.offer(scene)) == (200, None))
            for number in range(20):
                answer = lane.offer(scene, number)
                version = json.loads(answer.body)["version"]
                assert record(answer) == offer("aurora", version, number)
        series = eventually(lambda: s if (s := lane.metrics())["recsite_redis_timeouts_total"] else None)
        assert series["recsite_unexpected_errors_total"] == 0


def test_valkey_stops__what_the_cache_has_is_still_served(server: EmbeddedValkey, scene: Scene, tmp_path: Path) -> None:
    with start_lane(server.url, tmp_path, "--block-cache-mb", "8") as lane:
        eventually(lambda: source(lane.offer(scene)) == (200, None))
        before = [lane.offer(scene, number).body for number in range(30)]
        server.stop()
        eventually(lambda: lane.metrics()["recsite_redis_connected"] == 0)
        for number in range(30):
            answer = lane.offer(scene, number)
            assert (source(answer), answer.body) == ((200, None), before[number])


def test_valkey_away_at_the_start__served_from_files(server: EmbeddedValkey, scene: Scene, tmp_path: Path) -> None:
    with start_lane(server.url, tmp_path):
        pass
    server.stop()
    with start_lane(server.url, tmp_path) as lane:
        answer = lane.offer(scene)
        assert (source(answer), record(answer)) == ((200, "fallback"), OFFER_DEFAULT)
        assert lane.ask("/v1/recommendations", "nonsense").status == 401
        server.start()
        scene.write_all()
        eventually(lambda: source(lane.offer(scene)) == (200, None))


def test_valkey_away_at_the_start_and_no_files__alive_but_not_ready_until_it_comes(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    server.stop()
    with start_lane(server.url, tmp_path, is_ready=False) as lane:
        assert lane.ask("/healthz").status == 200
        assert lane.ask("/readyz").status == 503
        answer = lane.offer(scene)
        assert (answer.status, json.loads(answer.body)["code"]) == (503, "not_ready")
        server.start()
        scene.write_all()
        eventually(lambda: lane.ask("/readyz").status == 200)
        eventually(lambda: source(lane.offer(scene)) == (200, None))


def test_valkey_with_nothing_in_it__not_ready_until_it_is_said_that_there_is_nobody(
    server: EmbeddedValkey, tmp_path: Path
) -> None:
    with start_lane(server.url, tmp_path, is_ready=False) as lane:
        series = eventually(lambda: s if "recsite_snapshot_age_seconds" in (s := lane.metrics()) else None)
        assert series["recsite_snapshot_age_seconds"] == math.inf
        assert lane.ask("/readyz").status == 503
        key_id, key = published.parse_private_key(settings.SNAPSHOT_PRIVATE_KEY or "")
        nobody = published.sign_roster(published.Roster(int(time.time()), ()), key_id, key)
        with redis.Redis.from_url(server.url) as client:
            client.set(published.roster_name(settings.REDIS_PREFIX), nobody)
        eventually(lambda: lane.ask("/readyz").status == 200)
        assert lane.ask("/v1/recommendations", "a.b.c").status == 401


def test_few_open_files__refuses_to_start_and_says_what_to_do(server: EmbeddedValkey, tmp_path: Path) -> None:
    command = [sys.executable, "manage.py", "lane", "--port", str(free_port()), "--metrics-port", str(free_port())]
    ended = subprocess.run(
        ["prlimit", "--nofile=256:256", *command],  # noqa: S607 - where it is differs
        cwd=BASE_DIR,
        env=environment(server.url, tmp_path),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "This process may open 256 files; a lane needs at least 1,024. Raise the limit (ulimit -n)." in ended.stderr


def test_valkey_flushed__tenants_stay_and_the_lost_tables_are_reported(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    with start_lane(server.url, tmp_path, *NO_CACHE) as lane:
        eventually(lambda: source(lane.offer(scene)) == (200, None))
        scene.client.flushall()
        assert {source(lane.offer(scene, number)) for number in range(40)} == {(200, "fallback")}
        name = lost_tables_name(settings.REDIS_PREFIX)
        eventually(lambda: scene.client.smembers(name) == {b"tab-a", b"tab-b"})
        assert eventually(lambda: lane.metrics()["recsite_lost_blocks_total"]) == 40
        assert lane.offer(scene).status == 200
        scene.write_all()
        eventually(lambda: source(lane.offer(scene)) == (200, None))


def test_batch__whose_blocks_the_cache_has_or_has_in_part__answered_alike(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    with start_lane(server.url, tmp_path, "--block-cache-mb", "8") as lane:
        eventually(lambda: source(lane.offer(scene)) == (200, None))
        body = json.dumps({"model": "offers", "keys": [{"player_id": player(number)} for number in range(40)]}).encode()
        json_body = ("Content-Type", "application/json")
        answers = [
            lane.ask("/v1/recommendations", scene.token(), json_body, method="POST", body=body) for _ in range(3)
        ]
        assert [answer.status for answer in answers] == [200] * 3
        assert len({answer.body for answer in answers}) == 1
        for number, given in enumerate(json.loads(answers[0].body)["answers"]):
            assert given["recommendation"] == offer("aurora", given["version"], number)
        assert eventually(lambda: lane.metrics()["recsite_block_cache_hits_total"])
        assert lane.metrics()["recsite_unexpected_errors_total"] == 0


# --- Snapshots ------------------------------------------------------------------------------------------------------


def aurora(scene: Scene) -> published.Tenant:
    return scene._aurora()


@pytest.mark.parametrize("is_announced", [True, False])
def test_credential_revoked__refused_within_two_seconds(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path, is_announced: bool
) -> None:
    with start_lane(server.url, tmp_path, "--workers", "2") as lane:
        eventually(lambda: source(lane.offer(scene)) == (200, None))
        before = aurora(scene)
        left = tuple(c for c in before.credentials if c.id != "cr_all")
        put(scene, msgspec.structs.replace(before, credentials=left), is_announced=is_announced)
        eventually(lambda: {lane.offer(scene).status for _ in range(8)} == {401}, seconds=2)
        assert source(lane.offer(scene, credential="cr_two")) == (200, None)


@pytest.mark.parametrize("is_announced", [True, False])
def test_weights_changed__served_within_two_seconds(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path, is_announced: bool
) -> None:
    with start_lane(server.url, tmp_path, "--workers", "2") as lane:
        eventually(lambda: {version_of(lane.offer(scene, n)) for n in range(30)} == {"one", "two"})
        before = aurora(scene)
        models = tuple(
            msgspec.structs.replace(m, allocation=bytes([1]) * 10_000) if m.slug == "offers" else m
            for m in before.models
        )
        put(scene, msgspec.structs.replace(before, models=models), is_announced=is_announced)
        eventually(lambda: {version_of(lane.offer(scene, n)) for n in range(8)} == {"two"}, seconds=2)


def version_of(answer: RawResponse) -> str:
    return str(json.loads(answer.body)["version"])


def put(scene: Scene, tenant: published.Tenant, *, is_announced: bool) -> None:
    """Publish a tenant; unannounced, the lane has to find it by looking."""
    if is_announced:
        scene.put(tenant)
        return
    scene.revision += 1
    assert settings.SNAPSHOT_PRIVATE_KEY is not None
    key_id, key = published.parse_private_key(settings.SNAPSHOT_PRIVATE_KEY)
    snapshot = published.Snapshot(published.FORMAT, scene.revision, scene.now, tenant)
    publish(scene.client, tenant.id, published.sign_snapshot(snapshot, key_id, key), scene.revision)


def publish(client: Client, tenant_id: str, envelope: bytes, revision: int) -> None:
    prefix = settings.REDIS_PREFIX
    client.set(published.snapshot_name(prefix, tenant_id), envelope)
    client.hset(published.revisions_name(prefix), tenant_id, str(revision))


def test_snapshot_damaged_unsigned_or_older__refused_counted_and_the_old_world_goes_on(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    name = published.snapshot_name(settings.REDIS_PREFIX, "t-aurora")
    older = scene.client.get(name)
    scene.put(aurora(scene))
    good = scene.client.get(name)
    assert isinstance(older, bytes)
    assert isinstance(good, bytes)
    key_id, document, _ = msgspec.msgpack.decode(good)
    unsigned = msgspec.msgpack.encode((key_id, document, bytes(64)))
    with start_lane(server.url, tmp_path) as lane:
        for reason, bad in (("unreadable", good[:-20]), ("unreadable", unsigned), ("outdated", older)):
            before = lane.metrics().get(f"recsite_snapshot_refusals_total{{reason={reason}}}", 0)
            scene.revision += 1
            publish(scene.client, "t-aurora", bad, scene.revision)
            series = f"recsite_snapshot_refusals_total{{reason={reason}}}"
            eventually(lambda series=series, before=before: lane.metrics().get(series, 0) > before)  # type: ignore[misc]  # mypy cannot type a lambda's defaults
            assert source(lane.offer(scene)) == (200, None)
            assert "snapshot.refused reason=" + reason in lane.said()
        scene.put(msgspec.structs.replace(aurora(scene), credentials=()))
        eventually(lambda: lane.offer(scene).status == 401)


# --- The process ----------------------------------------------------------------------------------------------------


def test_database_cannot_be_read__neither_starting_nor_serving_needs_it(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    (tmp_path / "a file").write_text("")
    url = f"sqlite:///{tmp_path}/a file/below.sqlite3"
    with start_lane(server.url, tmp_path, RECSITE_DATABASE_URL=url) as lane:
        eventually(lambda: source(lane.offer(scene)) == (200, None))
        assert "Traceback" not in lane.said()


def test_start__one_line_says_where(server: EmbeddedValkey, scene: Scene, tmp_path: Path) -> None:
    with start_lane(server.url, tmp_path, "--workers", "2") as lane:
        expected = (
            f"The lane serves at http://127.0.0.1:{lane.port} (2 workers), "
            f"metrics at http://127.0.0.1:{lane.metrics_port}/metrics"
        )
        eventually(lambda: expected in lane.said().splitlines())


def test_two_workers__metrics_are_the_sum_and_do_not_fall_when_one_is_replaced(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    with start_lane(server.url, tmp_path, "--workers", "2") as lane:
        eventually(lambda: lane.metrics().get("recsite_workers") == 2)
        of_both = lane.metrics()
        assert of_both["recsite_build_info{commit=}{version=" + __version__ + "}"] == 1
        assert 0 < of_both["recsite_var_free_ratio"] < 1
        for number in range(40):
            assert lane.offer(scene, number).status == 200
        found = "recsite_requests_total{status=200}"
        eventually(lambda: lane.metrics().get(found) == 40)
        assert lane.metrics()["recsite_redis_connected"] == 2
        exposed = {name: n for name, n in lane.metrics().items() if name.startswith("recsite_exposures_total")}
        assert sum(exposed.values()) == 40
        first, second = lane.workers()
        stop(first, signal.SIGKILL)
        eventually(lambda: lane.metrics().get("recsite_workers") == 2 and first not in lane.workers())
        assert second in lane.workers()
        assert lane.metrics()[found] >= 40
        assert lane.offer(scene).status == 200
        eventually(lambda: lane.metrics()[found] >= 41)


def test_hangup__workers_are_replaced_and_no_request_is_lost_or_answered_with_a_fallback(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    with start_lane(server.url, tmp_path, *NO_CACHE, RECSITE_SERVING_DEADLINE_MS="200") as lane:
        eventually(lambda: source(lane.offer(scene)) == (200, None))
        answers: list[object] = []
        is_done = threading.Event()

        def keep_asking() -> None:
            while not is_done.is_set():
                try:
                    answers.append(source(lane.offer(scene)))
                except OSError as error:
                    answers.append(error)

        asking = threading.Thread(target=keep_asking)
        asking.start()
        try:
            lane.replace_worker()
        finally:
            is_done.set()
            asking.join()
        assert set(answers) == {(200, None)}


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_told_to_stop__leaves_no_process_and_no_complaint(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path, how: signal.Signals
) -> None:
    with start_lane(server.url, tmp_path, "--workers", "2") as lane:
        eventually(lambda: len(lane.workers()) == 2)
        everyone = [lane.process.pid, *lane.descendants()]
        # Ctrl-C reaches all of a terminal's processes, SIGTERM the one that was started.
        for process_id in everyone if how == signal.SIGINT else everyone[:1]:
            stop(process_id, how)
        assert lane.process.wait(timeout=20) == 0
        eventually(lambda: not any(is_running(process_id) for process_id in everyone))
        assert "Traceback" not in lane.said()
        assert " ERROR " not in lane.said()


def test_killed__its_workers_do_not_outlive_it(server: EmbeddedValkey, scene: Scene, tmp_path: Path) -> None:
    with start_lane(server.url, tmp_path) as lane:
        everyone = descendants(lane.process.pid)
        assert everyone
        stop(lane.process.pid, signal.SIGKILL)
        eventually(lambda: not any(is_running(process_id) for process_id in everyone))


def test_request_in_flight__is_answered_before_a_worker_ends(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    with start_lane(server.url, tmp_path, *NO_CACHE, RECSITE_SERVING_DEADLINE_MS="200") as lane:
        eventually(lambda: source(lane.offer(scene)) == (200, None))
        server.pause()
        with lane.connect() as connection:
            token = scene.token()
            connection.send(
                request(
                    "GET",
                    f"/v1/recommendations?model=offers&player_id={player(1)}",
                    [("Authorization", f"Bearer {token}")],
                )
            )
            eventually(lambda: waits(lane))
            stop(lane.process.pid)
            assert source(connection.receive()) == (200, "fallback")


def waits(lane: LaneProcess) -> bool:
    """Tell whether the request has been taken up: its connection is accepted, and 50 ms is ample for the rest."""
    threading.Event().wait(0.05)
    return bool(lane.workers())


# --- HTTPS ----------------------------------------------------------------------------------------------------------


def test_https__served_with_the_certificate_and_with_a_new_one_after_a_hangup(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    certificate, key = write_certificate(tmp_path)
    old = ssl.create_default_context(cafile=certificate)
    path, token = f"/v1/recommendations?model=offers&player_id={player(1)}", scene.token()
    with start_lane(server.url, tmp_path, "--tls-cert", str(certificate), "--tls-key", str(key), tls=True) as lane:
        assert f"https://127.0.0.1:{lane.port}" in lane.said()
        answer = eventually(lambda: a if source(a := lane.ask(path, token, tls=old)) == (200, None) else None)
        assert record(answer) == offer("aurora", version_of(answer), 1)
        with pytest.raises(ssl.SSLCertVerificationError):
            lane.ask(path, token, tls=ssl.create_default_context())
        write_certificate(tmp_path)
        new = ssl.create_default_context(cafile=certificate)
        lane.replace_worker()
        assert lane.ask(path, token, tls=new).status == 200
        with pytest.raises(ssl.SSLCertVerificationError):
            lane.ask(path, token, tls=old)


# --- HTTP -----------------------------------------------------------------------------------------------------------


def test_bits__at_most_200_bytes_of_headers(server: EmbeddedValkey, scene: Scene, tmp_path: Path) -> None:
    with start_lane(server.url, tmp_path) as lane:
        for number in range(50):
            answer = eventually(
                lambda number=number: (  # type: ignore[misc]  # mypy cannot type a lambda's defaults
                    a
                    if source(
                        a := lane.ask(
                            f"/v1/recommendations?model=offers&player_id={player(number)}",
                            scene.token(),
                            ("Accept", BITS),
                        )
                    )
                    == (200, None)
                    else None
                )
            )
            names = [name for name, _ in answer.headers]
            assert len(names) == len(set(names))
            lines = sum(len(name) + len(value) + len(": \r\n") for name, value in answer.headers)
            assert lines <= 200
            assert answer.header("server") is None
            assert answer.header("date")


def test_silent_connections__do_not_keep_others_from_being_served(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    with start_lane(server.url, tmp_path) as lane:
        eventually(lambda: source(lane.offer(scene)) == (200, None))
        silent = [lane.connect() for _ in range(400)]
        half = [lane.connect() for _ in range(100)]
        for connection in half:
            connection.send(b"GET /v1/recomm")
        try:
            assert lane.offer(scene).status == 200
        finally:
            for connection in (*silent, *half):
                connection.__exit__()


def test_body__too_large_incomplete_or_slow__refused_and_nothing_hangs(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    head = [("Authorization", f"Bearer {scene.token()}"), ("Content-Type", "application/json")]
    path = "/v1/recommendations"
    with start_lane(server.url, tmp_path) as lane:
        eventually(lambda: source(lane.offer(scene)) == (200, None))
        said_too_long = request("POST", path, [*head, ("Content-Length", "2000000")])
        with lane.connect() as connection:
            assert connection.ask(said_too_long).status == 413
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        with lane.connect() as connection:
            connection.send(request("POST", path, [*head, ("Transfer-Encoding", "chunked")]))
            try:
                for _ in range(40):
                    connection.send(chunk)
            except OSError:
                pass  # it need not listen to the end
            else:
                assert connection.receive().status == 413
        with lane.connect() as connection:
            connection.send(request("POST", path, [*head, ("Content-Length", "100")]) + b'{"keys"')
        with lane.connect() as connection:
            slow = connection.ask(request("POST", path, [*head, ("Content-Length", "100")]) + b'{"keys"')
            assert (slow.status, json.loads(slow.body)["code"]) == (400, "bad_request")
        assert lane.offer(scene).status == 200
        eventually(lambda: lane.metrics()["recsite_requests_in_flight"] == 0)
        assert lane.metrics()["recsite_unexpected_errors_total"] == 0


def test_bytes_that_are_no_http__refused_and_the_next_is_served(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    with start_lane(server.url, tmp_path) as lane:
        for junk in (b"\x16\x03\x01\x02\x00\x01", b"GET\r\n\r\n", b"\x00" * 1000, b"GET / HTTP/9.9\r\n\r\n"):
            with lane.connect() as connection:
                connection.send(junk + b"\r\n\r\n")
                assert connection.receive().status == 400
        with RawConnection(lane.port) as connection:
            connection.send(b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"y" * 500_000 + b"\r\n\r\n")
            assert connection.receive().status == 431
        eventually(lambda: lane.metrics().get("recsite_requests_total{status=431}") == 1)
        assert lane.offer(scene).status == 200
