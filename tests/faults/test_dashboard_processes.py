"""Two real processes of one dashboard: what both count is one sum, in whichever answers, and outlives either."""

from __future__ import annotations

import http.client
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client.parser import text_string_to_metric_families

from recsite.embedded import EmbeddedValkey, free_port
from tests.doors.processes import environment, running, wait_for
from tests.lane_process import eventually

TOKEN = "what-prometheus-sends"  # a test's


class Dashboard(NamedTuple):
    """Where it listens, and where its processes leave what they count."""

    port: int
    numbers: Path

    def ask(self, path: str) -> tuple[int, str]:
        """Ask by a connection of its own, which either process may take."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", path, headers={"Authorization": f"Bearer {TOKEN}"})
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        return answer.status, text

    def refuse(self, times: int) -> None:
        """Ask for recommendations without a token that anybody knows."""
        for _ in range(times):
            assert self.ask("/v1/recommendations?model=offers")[0] in (401, 503)

    def counted(self) -> tuple[float, float]:
        """Return requests for recommendations by our own count, and by django-prometheus'."""
        status, text = self.ask("/metrics")
        assert status == 200, text
        sums = {"recsite_requests_total": 0.0, "django_http_responses_total_by_status_total": 0.0}
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name in sums:
                    sums[sample.name] += sample.value
        ours, djangos = sums.values()
        return ours, djangos

    def processes(self) -> list[int]:
        """Return those that live, by the files that they leave."""
        found = [int(path.name.partition(".")[0]) for path in self.numbers.glob("*/*.numbers")]
        return sorted(pid for pid in found if Path(f"/proc/{pid}").exists())


@pytest.fixture
def dashboard(valkey_server: EmbeddedValkey, tmp_path: Path) -> Iterator[Dashboard]:
    """Yield one with two processes, no database, and a Redis in which nothing is published."""
    left = tmp_path / "dashboard" / "1234567.890"
    left.mkdir(parents=True)
    env = environment(valkey_server.url, tmp_path, RECSITE_METRICS_TOKEN=TOKEN, RECSITE_REDIS_PREFIX="two-processes")
    port = free_port()
    command = [sys.executable, "-m", "granian", "--interface", "wsgi", "--http", "1", "--port", str(port)]
    command += ["--workers", "2", "--blocking-threads", "4", "--respawn-failed-workers", "recsite.wsgi:application"]
    log = tmp_path / "dashboard.log"
    with running(command, env, log) as process:
        wait_for(port, "/healthz", process, log, statuses=(200,))
        made = Dashboard(port, tmp_path / "dashboard")
        eventually(lambda: len(made.processes()) == 2, seconds=60)
        assert not left.exists()
        yield made


def test_metrics__of_two_processes__are_one_sum_and_outlive_both(dashboard: Dashboard) -> None:
    first, second = dashboard.processes()
    # Whose, and with which disk, is told before anybody asks for a recommendation.
    told = dashboard.ask("/metrics")[1]
    assert "\nrecsite_build_info{" in told
    assert "\nrecsite_var_free_ratio " in told
    dashboard.refuse(40)
    eventually(lambda: dashboard.counted() == (40, 40), seconds=30)
    assert [dashboard.counted() for _ in range(8)] == [(40, 40)] * 8

    for number, ended in enumerate((first, second), start=1):
        os.kill(ended, signal.SIGKILL)
        eventually(lambda was=ended: len(set(dashboard.processes()) - {was}) == 2, seconds=60)  # type: ignore[misc]  # mypy knows no defaults of lambdas
        assert [dashboard.counted() for _ in range(4)] == [(30 + number * 10,) * 2] * 4
        dashboard.refuse(10)
        eventually(lambda so_far=40 + number * 10: dashboard.counted() == (so_far, so_far), seconds=30)  # type: ignore[misc]  # as above
    assert not {first, second} & set(dashboard.processes())
