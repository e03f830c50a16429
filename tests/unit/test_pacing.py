"""How a load makes way: for whoever wants the processors, and for Redis; and never more rows than allowed."""

from __future__ import annotations

import math
import os
import subprocess
import sys
from typing import Any

import pytest

from models_registry.loading import pacing
from models_registry.loading.pacing import INTERRUPTIONS_PER_SECOND, MOST_REST, SHARE, Pacer, ProcessorShare


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
    return Pacer(client, rest=clock.sleep, **values)


def test_pacer__redis_as_quick_as_before__never_rests(clock: Clock) -> None:
    send(clock, of(clock), 1000)
    assert not any(clock.slept)


def test_pacer__redis_slow__rests_more_and_more_up_to_a_bound_and_less_again(clock: Clock) -> None:
    pacer = of(clock)
    clock.answer_seconds = 0.005
    rests = []
    for _ in range(12):
        send(clock, pacer, 1)
        rests.append(pacer.rest_ratio)
    assert rests == sorted(rests)
    assert rests[0] < 1 < rests[-1] == MOST_REST
    assert max(clock.slept) <= 0.02 * MOST_REST
    clock.answer_seconds = 0.0001
    send(clock, pacer, 100)
    assert pacer.rest_ratio == 0


def test_pacer__a_redis_that_is_far_away__its_distance_is_not_slowness(clock: Clock) -> None:
    clock.answer_seconds = 0.02
    pacer = of(clock)
    send(clock, pacer, 100)
    assert not any(clock.slept)


def test_pacer__a_limit__is_kept_from_the_first_send_on(clock: Clock) -> None:
    pacer = of(clock, rows_per_second=1000, rows_per_block=50)
    began = clock.now
    for blocks in range(8, 401, 8):
        pacer.after_send(blocks)
        assert blocks * 50 <= 1000 * (clock.now - began) + 1
    assert clock.now - began == pytest.approx(20, rel=0.01)


class Work:
    """Stands in for the kernel's accounts: time, this process's work in seconds, and its interruptions."""

    def __init__(self) -> None:
        self.now = 100.0
        self.worked = 5.0
        self.interruptions = 40.0

    def __call__(self) -> tuple[float, float, int]:
        return self.now, self.worked, int(self.interruptions)

    def go_on(self, share: ProcessorShare, *, pieces: int, per_second: float = 0, seconds: float = 0.01) -> float:
        """Do pieces of work and rest as told; give for how many seconds in all."""
        rested = 0.0
        for _ in range(pieces):
            self.now += seconds
            self.worked += seconds
            self.interruptions += per_second * seconds
            rest = share.rest_due()
            rested += rest
            self.now += rest
        return rested


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Work:
    made = Work()
    monkeypatch.setattr(pacing, "_work", made)
    return made


@pytest.fixture
def share(work: Work, monkeypatch: pytest.MonkeyPatch) -> ProcessorShare:
    """Return the share of a process that comes last."""
    with monkeypatch.context() as patch:
        patch.setattr(sys, "platform", "linux")
        patch.setattr(os, "SCHED_IDLE", 5, raising=False)
        patch.setattr(os, "sched_getscheduler", lambda _: 5, raising=False)
        return ProcessorShare()


def test_share__nobody_else_wants_the_processors__never_rests(work: Work, share: ProcessorShare) -> None:
    with share.judged():
        assert work.go_on(share, pieces=1000, per_second=INTERRUPTIONS_PER_SECOND * 0.9) == 0


def test_share__a_process_that_comes_as_soon_as_others__never_rests(work: Work) -> None:
    share = ProcessorShare()
    with share.judged():
        assert work.go_on(share, pieces=1000, per_second=9000) == 0


@pytest.mark.parametrize("seconds", [0.0003, 0.01, 0.3])
def test_share__others_want_the_processors__works_for_its_share_of_the_time(
    seconds: float, work: Work, share: ProcessorShare
) -> None:
    with share.judged():
        work.go_on(share, pieces=math.ceil(0.1 / seconds), per_second=9000, seconds=seconds)
        assert share.is_wanted
        began, worked = work.now, work.worked
        work.go_on(share, pieces=math.ceil(3 / seconds), per_second=9000, seconds=seconds)
    assert (work.worked - worked) / (work.now - began) == pytest.approx(SHARE, rel=0.02)


def test_share__threads_work_ahead_during_the_rest__is_paid_for_later(work: Work, share: ProcessorShare) -> None:
    with share.judged():
        work.go_on(share, pieces=20, per_second=9000)
        work.worked += 1.0
        work.interruptions += 9000
        assert work.go_on(share, pieces=1, per_second=9000) == pytest.approx(1.01 / SHARE, rel=0.02)


def test_share__nobody_wants_the_processors_any_more__rests_no_more(work: Work, share: ProcessorShare) -> None:
    with share.judged():
        work.go_on(share, pieces=20, per_second=9000)
        work.go_on(share, pieces=20)
        assert not share.is_wanted
        assert work.go_on(share, pieces=1000) == 0


def test_share__it_rested_little_for_long__saves_nothing_up(work: Work, share: ProcessorShare) -> None:
    with share.judged():
        work.go_on(share, pieces=20, per_second=9000)
        work.now += 1000
        assert work.go_on(share, pieces=100, per_second=9000) >= 1 / SHARE - 2


@pytest.mark.parametrize("was_wanted", [False, True])
@pytest.mark.parametrize("per_second", [0, 15_000])
def test_share__work_that_wakes_redis_up__is_rested_for_as_before_however_often_it_is_interrupted(
    was_wanted: bool, per_second: float, work: Work, share: ProcessorShare
) -> None:
    with share.judged():
        work.go_on(share, pieces=20, per_second=9000 if was_wanted else 0)
    rested = work.go_on(share, pieces=1000, per_second=per_second)
    assert share.is_wanted == was_wanted
    assert (rested > 0) == was_wanted


def test_share__judged_again_between_such_work__counts_what_was_worked_within_alone(
    work: Work, share: ProcessorShare
) -> None:
    work.go_on(share, pieces=100, per_second=15_000)
    with share.judged():
        work.worked += 0.2
    assert not share.is_wanted
    with share.judged():
        work.worked += 0.2
        work.interruptions += 0.2 * 9000
    assert share.is_wanted


def test_share__what_is_judged_fails__is_judged_no_further(work: Work, share: ProcessorShare) -> None:
    def fail() -> None:
        with share.judged():
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    work.go_on(share, pieces=100, per_second=15_000)
    assert not share.is_wanted


@pytest.mark.skipif(sys.platform != "linux", reason="Only Linux has the class of what comes last")
def test_share__another_process_wakes_up_all_the_time__rests() -> None:
    code = (
        "import os, subprocess, sys, time\n"
        "from models_registry.loading.pacing import ProcessorShare, yield_to_others\n"
        "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})\n"
        "other = subprocess.Popen([sys.executable, '-c', 'import time\\nwhile True: time.sleep(0.0003)'])\n"
        "try:\n"
        "    yield_to_others()\n"
        "    share, until, rested = ProcessorShare(), time.monotonic() + 60, 0.0\n"
        "    with share.judged():\n"
        "        while time.monotonic() < until and not rested:\n"
        "            sum(range(100_000))\n"
        "            rested = share.rest_due()\n"
        "    print(share.is_wanted, rested > 0)\n"
        "finally:\n"
        "    other.kill()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["True", "True"]


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
