"""The demo's care for its children, with small children of the test's own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from recsite.demo.processes import Part, PartFailed, Parts, StopRequested, _seconds

PS = shutil.which("ps") or "ps"
STAYS = "import time; time.sleep(600)"
# Ends when asked, but leaves a child of its own that does not.
LEAVES_A_CHILD = """
import pathlib, signal, subprocess, sys, time
program = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); time.sleep(600)"
child = subprocess.Popen([sys.executable, "-c", program])
pathlib.Path(sys.argv[1]).write_text(str(child.pid))
time.sleep(600)
"""


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def parts(tmp_path: Path, said: list[str]) -> Iterator[Parts]:
    them = Parts(tmp_path / "demo.pids", said.append)
    yield them
    them.stop()


@pytest.fixture
def part(tmp_path: Path) -> Callable[..., Part]:
    def make(program: str, *arguments: str, name: str = "part", answers: Callable[[], bool] | None = None) -> Part:
        return Part(name, [sys.executable, "-c", program, *arguments], tmp_path / f"{name}.log", answers)

    return make


def _is_running(number: int) -> bool:
    """Whether there is such a process; one that has ended and that nobody waited for yet has ended."""
    shown = subprocess.run([PS, "-o", "stat=", "-p", str(number)], capture_output=True, text=True, check=False).stdout
    return bool(shown.strip()) and not shown.startswith("Z")


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited 20 s in vain"
        time.sleep(0.02)


def _watch(parts: Parts) -> threading.Thread:
    thread = threading.Thread(target=parts.watch)
    thread.start()
    return thread


def _stop_watching(parts: Parts, thread: threading.Thread) -> None:
    parts.signals_received += 1
    thread.join(timeout=10)
    assert not thread.is_alive()


def test_start__a_part__has_a_group_of_its_own_in_the_session_of_all(parts: Parts, part: Callable[..., Part]) -> None:
    it = part(STAYS)
    parts.start(it)
    assert it.process is not None
    assert os.getpgid(it.process.pid) == it.process.pid
    assert os.getsid(it.process.pid) == os.getsid(0)


def test_stop__part_with_a_child_that_refuses__ends_both(
    parts: Parts, part: Callable[..., Part], tmp_path: Path
) -> None:
    told = tmp_path / "child"
    one = part(LEAVES_A_CHILD, str(told))
    parts.start(one)
    _wait_until(lambda: told.exists() and told.read_text() != "")
    assert one.process is not None
    parts.stop()
    _wait_until(lambda: not _is_running(int(told.read_text())))
    assert not _is_running(one.process.pid)
    assert not parts.record.exists()


def test_wait_for_answers__part_ends__tells_which_and_the_end_of_its_log(
    parts: Parts, part: Callable[..., Part]
) -> None:
    parts.start(part("print('no such table'); raise SystemExit(3)", name="dashboard", answers=lambda: False))
    with pytest.raises(PartFailed, match=r"(?s)dashboard ended \(exit code 3\).*no such table"):
        parts.wait_for_answers(patience_seconds=60)


def test_wait_for_answers__part_stands_still__gives_up_and_says_how_to_wait_longer(
    parts: Parts, part: Callable[..., Part]
) -> None:
    parts.start(part(STAYS, name="lane", answers=lambda: False))
    with pytest.raises(PartFailed, match=r"(?s)lane has not answered and has done nothing.*--patience"):
        parts.wait_for_answers(patience_seconds=0.3)


@pytest.mark.parametrize(
    "work",
    [
        pytest.param("while time.monotonic() < until: pass", id="uses the processor"),
        pytest.param("while time.monotonic() < until: print('at work', flush=True); time.sleep(0.2)", id="logs"),
    ],
)
def test_wait_for_answers__part_is_slow_but_works__is_waited_for(
    work: str, parts: Parts, part: Callable[..., Part], said: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("recsite.demo.processes.SAY_EVERY_SECONDS", 1.0)
    up = tmp_path / "up"
    program = (
        f"import pathlib, sys, time; until = time.monotonic() + 8\n{work}\npathlib.Path(sys.argv[1]).touch()\n{STAYS}"
    )
    parts.start(part(program, str(up), name="dashboard", answers=up.exists))
    parts.wait_for_answers(patience_seconds=6)
    assert any("still waiting for dashboard" in line for line in said)


@pytest.mark.parametrize(
    ("shown", "seconds"),
    [("00:00:07", 7), ("01:02:03", 3723), ("2-00:00:01", 172_801), ("0:07.93", 7), ("12:00.00", 720)],
)
def test_seconds__as_ps_of_linux_and_macos_shows_them__whole_seconds(shown: str, seconds: int) -> None:
    assert _seconds(shown) == seconds


def test_watch__part_fails__is_started_again(
    parts: Parts, part: Callable[..., Part], said: list[str], tmp_path: Path
) -> None:
    program = (
        "import pathlib, sys, time; p = pathlib.Path(sys.argv[1]); again = p.exists(); p.touch();"
        "time.sleep(600) if again else sys.exit(4)"
    )
    one = part(program, str(tmp_path / "was-here"), name="worker")
    parts.start(one)
    thread = _watch(parts)
    _wait_until(lambda: any("worker was started again" in line for line in said))
    _stop_watching(parts, thread)
    assert "worker failed (exit code 4)" in said[0]
    assert not one.has_ended()


def test_watch__part_is_stopped_by_somebody__stays_stopped(
    parts: Parts, part: Callable[..., Part], said: list[str]
) -> None:
    one, other = part(STAYS, name="worker"), part(STAYS, name="lane")
    parts.start(one)
    parts.start(other)
    assert one.process is not None
    thread = _watch(parts)
    os.kill(one.process.pid, signal.SIGKILL)
    _wait_until(lambda: bool(said))
    _stop_watching(parts, thread)
    assert said == ["worker was stopped (signal SIGKILL) and stays so; the rest goes on without it."]
    assert not other.has_ended()


def test_rest__stop_was_asked_for__raises(parts: Parts) -> None:
    parts.signals_received = 1
    with pytest.raises(StopRequested):
        parts.rest(5)


def test_stop_leftovers__part_of_a_killed_demo__is_stopped_and_no_other_process_is(
    parts: Parts, part: Callable[..., Part], said: list[str], tmp_path: Path
) -> None:
    killed = Parts(parts.record, said.append)
    left, foreign = part(STAYS, name="valkey"), part("import time; time.sleep(601)", name="foreign")
    foreign.start()
    killed.start(left)
    assert left.process is not None
    assert foreign.process is not None
    # As if that number had been the lane's and is another process's by now.
    parts.record.write_text(f"{parts.record.read_text()}{foreign.process.pid} python manage.py lane\n")
    try:
        parts.stop_leftovers()
        _wait_until(left.has_ended)
        assert not foreign.has_ended()
    finally:
        foreign.kill()
    assert said == [f"Stopping process {left.process.pid}, which an earlier demo left behind"]
