"""How a load makes way: less while Redis is slow, all of it while it is not, and never more rows than allowed."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from models_registry.loading import pacing
from models_registry.loading.pacing import MOST_REST, Pacer


class Clock:
    """A time that goes on only when somebody asks Redis or sleeps."""

    def __init__(self) -> None:
        self.now = 100.0
        self.answer_seconds = 0.0001
        self.slept: list[float] = []

    def monotonic(self) -> float:
        return self.now

    def ping(self) -> None:
        self.now += self.answer_seconds

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(pacing, "time", made)
    return made


def send(clock: Clock, pacer: Pacer, times: int, *, seconds: float = 0.01) -> None:
    for _ in range(times):
        clock.now += seconds
        pacer.after_send(0)


def of(clock: Clock, **values: Any) -> Pacer:
    client: Any = clock
    return Pacer(client, sleep=clock.sleep, **values)


def test_pacer__redis_as_quick_as_before__never_rests(clock: Clock) -> None:
    send(clock, of(clock), 1000)
    assert clock.slept == []


def test_pacer__redis_slow__rests_more_and_more_up_to_a_bound_and_less_again(clock: Clock) -> None:
    pacer = of(clock)
    clock.answer_seconds = 0.005
    rests = []
    for _ in range(12):
        send(clock, pacer, 1)
        rests.append(pacer.rest)
    assert rests == sorted(rests)
    assert rests[0] < 1 < rests[-1] == MOST_REST
    assert max(clock.slept) <= 0.02 * MOST_REST
    clock.answer_seconds = 0.0001
    send(clock, pacer, 100)
    assert pacer.rest == 0


def test_pacer__a_redis_that_is_far_away__its_distance_is_not_slowness(clock: Clock) -> None:
    clock.answer_seconds = 0.02
    pacer = of(clock)
    send(clock, pacer, 100)
    assert clock.slept == []


def test_pacer__a_limit__is_kept_from_the_first_send_on(clock: Clock) -> None:
    pacer = of(clock, rows_per_second=1000, rows_per_block=50)
    began = clock.now
    for blocks in range(8, 401, 8):
        pacer.after_send(blocks)
        assert blocks * 50 <= 1000 * (clock.now - began) + 1
    assert clock.now - began == pytest.approx(20, rel=0.01)


def test_yield_to_others__in_a_process__it_and_its_threads_come_last() -> None:
    """Threads from before count: Arrow's memory and NumPy have some as soon as they are imported."""
    code = (
        "import contextlib, os, sys, threading\n"
        "import numpy, pyarrow\n"
        "from models_registry.loading.pacing import NICENESS, yield_to_others\n"
        "def last():\n"
        "    if sys.platform == 'linux':\n"
        "        found = set()\n"
        "        for name in os.listdir('/proc/self/task'):\n"
        "            with contextlib.suppress(ProcessLookupError):\n"  # one that has just ended
        "                found.add(os.sched_getscheduler(int(name)))\n"
        "        return found == {os.SCHED_IDLE}\n"
        "    return os.getpriority(os.PRIO_PROCESS, 0) == NICENESS\n"
        "end = threading.Event()\n"
        "earlier = threading.Thread(target=end.wait, daemon=True)\n"
        "earlier.start()\n"
        "yield_to_others()\n"
        "yield_to_others()\n"
        "later = threading.Thread(target=lambda: print(last()))\n"
        "later.start(); later.join(); print(last())\n"
        "status = open('/proc/self/status').read() if sys.platform == 'linux' else ''\n"
        "print('THP_enabled:\\t1' not in status)\n"
        "end.set()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True", "True"]
