"""A lane's workers: those that hang, are killed or cannot be replaced, and the lane that is told to end."""

from __future__ import annotations

import os
import shutil
import signal
import ssl
from contextlib import suppress
from pathlib import Path

import pytest

from recsite.embedded import EmbeddedValkey
from tests.certificates import write_certificate
from tests.doors.raw_http import request
from tests.doors.scene import Scene, player
from tests.lane_process import LaneProcess, eventually, start_lane, stop

TWO = ("--workers", "2")
OFFER = f"/v1/recommendations?model=offers&player_id={player(1)}"


def serve_both(lane: LaneProcess) -> tuple[int, int]:
    """Return the ids of both workers, the first one's first, once they serve."""
    eventually(lambda: lane.metrics().get("recsite_workers") == 2)
    first, second = sorted(lane.workers())
    return first, second


def both_serve_if_let_go(lane: LaneProcess, waits: Path) -> bool:
    """Let those who wait for something to read have nothing; tell whether two workers serve."""
    with suppress(OSError):  # nobody waits
        os.close(os.open(waits, os.O_WRONLY | os.O_NONBLOCK))
    return lane.metrics().get("recsite_workers") == 2


def test_hung_worker__is_killed_and_another_takes_its_place(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    soon = "import serving.lane.workers as w; w.HUNG_SECONDS = 2.5; from recsite.__main__ import main; main()"
    with start_lane(server.url, tmp_path, *TWO, program=("-c", soon)) as lane:
        hung, well = serve_both(lane)
        stop(hung, signal.SIGSTOP)
        eventually(lambda: hung not in lane.workers(), seconds=30)
        eventually(lambda: lane.metrics().get("recsite_workers") == 2, seconds=30)
        assert well in lane.workers()
        assert "worker.hung worker=1" in lane.said()
        assert lane.said().count("worker.hung") == 1
        assert lane.offer(scene).status == 200


def test_killed_worker__while_no_other_can_start__keeps_nobody_waiting(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    certificate, key = write_certificate(tmp_path)
    tls = ssl.create_default_context(cafile=certificate)
    token = scene.token()
    files = ("--tls-cert", str(certificate), "--tls-key", str(key))
    with start_lane(server.url, tmp_path, *TWO, *files, tls=True) as lane:
        first, second = serve_both(lane)
        # Whoever reads this from now on waits: a SIGHUP that cannot succeed, and a worker that cannot start again.
        aside, waits = tmp_path / "aside.pem", tmp_path / "waits"
        os.mkfifo(waits)
        key.rename(aside)
        os.link(waits, key)
        stop(lane.process.pid, signal.SIGHUP)
        eventually(lambda: len(lane.workers()) == 3, seconds=30)
        stop(second, signal.SIGKILL)
        eventually(lambda: "worker.ended worker=2" in lane.said())
        for _ in range(40):
            assert lane.ask(OFFER, token, tls=tls).status == 200
        assert first in lane.workers()
        # It can be read again: those that waited have read nothing and end, and others serve.
        aside.rename(key)
        eventually(lambda: both_serve_if_let_go(lane, waits), seconds=40)
        assert lane.ask(OFFER, token, tls=tls).status == 200


def test_numbers__that_cannot_be_written__cost_the_metrics_alone(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    with start_lane(server.url, tmp_path) as lane:
        (folder,) = (tmp_path / "lane" / "numbers").iterdir()
        shutil.rmtree(folder)
        lane.replace_worker()
        assert lane.offer(scene).status == 200
        folder.mkdir()
        eventually(lambda: lane.metrics().get("recsite_numbers_write_failures_total", 0) > 0)
        assert 1 <= lane.said().count("numbers.not_written") <= 2
        assert "worker.not_replaced" not in lane.said()


def test_told_to_end__drains_first__and_a_second_time_ends_at_once(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    with start_lane(server.url, tmp_path, *TWO, "--drain-seconds", "300") as lane:
        serve_both(lane)
        with lane.connect() as kept:
            assert kept.ask(request("GET", "/readyz")).status == 200
            stop(lane.process.pid)
            eventually(lambda: all(lane.ask("/readyz").status == 503 for _ in range(8)))
            # It is alive, and answers on old connections and on new ones.
            assert kept.ask(request("GET", "/readyz")).status == 503
            assert lane.ask("/healthz").status == 200
            assert all(lane.offer(scene, number).status == 200 for number in range(20))
        assert lane.process.poll() is None
        stop(lane.process.pid)
        assert lane.process.wait(timeout=20) == 0


def test_told_to_end__drained__ends_by_itself(server: EmbeddedValkey, scene: Scene, tmp_path: Path) -> None:
    with start_lane(server.url, tmp_path, "--drain-seconds", "1") as lane:
        stop(lane.process.pid)
        assert lane.process.wait(timeout=20) == 0
        assert " ERROR " not in lane.said()


def test_connection__idle_for_as_long_as_is_set__is_closed(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    with start_lane(server.url, tmp_path, "--keep-alive-seconds", "1") as lane, lane.connect() as idle:
        assert idle.ask(request("GET", "/healthz")).status == 200
        with pytest.raises(ConnectionError, match="closed the connection"):
            idle.receive()
