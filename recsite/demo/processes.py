"""The demo's child processes: started, watched, started again when they fail, and all of them stopped at the end.

A part that fails is started again. A part that somebody stops (a signal, or a clean end) stays stopped, so that one can
see what the others do without it. Before the demo is up, either ends the demo, with the end of that part's log.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from recsite.environment import BASE_DIR

STOP_SECONDS = 15.0
HEALTHY_SECONDS = 60.0
LONGEST_PAUSE_SECONDS = 30.0
# How often somebody is told what the demo waits for, and how often `ps` is asked whether that makes progress.
SAY_EVERY_SECONDS = 10.0
LOOK_EVERY_SECONDS = 1.0


class PartFailed(RuntimeError):
    """A part ended, or stood still, before the demo was up. The message holds the end of its log."""


class StopRequested(Exception):
    """Ctrl-C, or a signal that asks this process to end."""


@dataclass
class Part:
    """One child process.

    Attributes:
        name: what people call it, and its log.
        answers: tells whether it is up; None where nothing needs to wait for it.
        environment: variables it gets besides this process's.
    """

    name: str
    command: Sequence[str]
    log: Path
    answers: Callable[[], bool] | None = None
    environment: Mapping[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    failures: int = 0
    start_again_at: float | None = None

    def start(self) -> None:
        """Start it in a process group of its own, so that Ctrl-C reaches the demo alone and the demo stops it.

        But in the demo's session: Linux gives each session an equal share of the processor, whatever the class of who
        is in it (autogroup), and a load would then take from the lanes what it means to leave to them.
        """
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=BASE_DIR,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **self.environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                process_group=0,
            )
        self.started_at = time.monotonic()
        self.start_again_at = None

    def has_ended(self) -> bool:
        """Tell whether the process has ended; what it started itself is then ended too."""
        if self.process is None:
            return True
        if self.process.returncode is None and self.process.poll() is not None:
            self._end_group()
        return self.process.returncode is not None

    def ask_to_stop(self) -> None:
        """Ask it to end, also while it is paused."""
        if self.process is not None and not self.has_ended():
            self.process.send_signal(signal.SIGCONT)
            self.process.terminate()

    def kill(self) -> None:
        """End it, and what it started, at once."""
        if self.process is not None and not self.has_ended():
            self._end_group()
            self.process.wait()

    def _end_group(self) -> None:
        if self.process is not None:
            # Nobody left in the group is what one hopes for; macOS says it otherwise than Linux.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)

    def progress(self) -> tuple[int, int]:
        """Return what grows while it works, however slow the machine: CPU seconds of its group, bytes of its log."""
        group = str(self.process.pid) if self.process is not None else ""
        used = (line.split() for line in _ps("-A", "-o", "pgid=,time="))
        cpu_seconds = sum(_seconds(fields[1]) for fields in used if len(fields) == 2 and fields[0] == group)
        return cpu_seconds, self.log.stat().st_size if self.log.exists() else 0

    def how_it_ended(self) -> str:
        """Return the exit code or the signal, in words."""
        code = self.process.returncode if self.process is not None else 0
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"

    def log_tail(self, lines: int = 15) -> str:
        """Return the last lines of its log."""
        text = self.log.read_text(errors="replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:]) or "(its log is empty)"


class Parts:
    """The parts in the order in which they were started; they are stopped in the opposite order.

    The record is a file that names the running ones, so that a demo that was killed leaves none for ever.
    """

    def __init__(self, record: Path, say: Callable[[str], None]) -> None:
        self.record = record
        self.say = say
        self.parts: list[Part] = []
        self.signals_received = 0
        self._last_signal_at = float("-inf")

    def listen_for_signals(self) -> None:
        """Let Ctrl-C, SIGTERM and a closed terminal ask for the end; asked again, nothing is waited for."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, self._note_signal)

    def _note_signal(self, _number: int, _frame: object) -> None:
        # Only a number: raising here could hit between starting a child and knowing of it. One wish to stop may come
        # as two signals, from the terminal and from make.
        now = time.monotonic()
        if now - self._last_signal_at > 1.0:
            self.signals_received += 1
        self._last_signal_at = now

    def stop_leftovers(self) -> None:
        """Stop the parts of an earlier demo that was itself killed, before they meet ours on the same data."""
        lines = self.record.read_text().splitlines() if self.record.exists() else []
        found = [line.partition(" ") for line in lines]
        # A number may be another process's by now: its command line tells.
        left = [int(number) for number, _, command in found if _words(shlex.split(command)) == _words_of(int(number))]
        for number in left:
            self.say(f"Stopping process {number}, which an earlier demo left behind")
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
        deadline = time.monotonic() + STOP_SECONDS
        while any(_words_of(number) for number in left) and time.monotonic() < deadline:
            time.sleep(0.1)
        for number in left:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(number, signal.SIGKILL)

    def start(self, part: Part) -> None:
        """Start a part; the log of the start before is kept beside the new one."""
        if part.log.exists():
            part.log.replace(part.log.with_suffix(".log.1"))
        self.parts.append(part)
        self._start(part)

    def _start(self, part: Part) -> None:
        part.start()
        running = [f"{p.process.pid} {shlex.join(p.command)}\n" for p in self.parts if p.process is not None]
        self.record.write_text("".join(running))

    def wait_for_answers(self, patience_seconds: float) -> None:
        """Wait until every part answers that can: for as long as the one waited for lives and makes progress.

        Raises:
            PartFailed: one ended, or did not answer, use the processor or write to its log for `patience_seconds`.
            StopRequested: see there.
        """
        for part in self.parts:
            if part.answers is not None:
                self._wait_for(part, part.answers, patience_seconds)

    def _wait_for(self, part: Part, answers: Callable[[], bool], patience_seconds: float) -> None:
        begun = moved_at = looked_at = said_at = time.monotonic()
        seen = part.progress()
        while not answers():
            self.rest(0.1)
            now = time.monotonic()
            if now - looked_at >= min(LOOK_EVERY_SECONDS, patience_seconds):
                looked_at, before, seen = now, seen, part.progress()
                moved_at = now if seen != before else moved_at
            if now - moved_at > patience_seconds:
                raise PartFailed(
                    f"{part.name} has not answered and has done nothing for {patience_seconds:.0f} s; "
                    f"--patience sets how long to wait. The end of {part.log}:\n{part.log_tail()}"
                )
            if now - said_at >= SAY_EVERY_SECONDS:
                said_at = now
                self.say(f"  still waiting for {part.name} ({now - begun:.0f} s; it has used {seen[0]} s of CPU time)")

    def rest(self, seconds: float) -> None:
        """Sleep; raise StopRequested or, since the demo is not up yet, PartFailed for a part that has ended."""
        until = time.monotonic() + seconds
        while True:
            if self.signals_received:
                raise StopRequested
            for part in self.parts:
                if part.has_ended():
                    raise PartFailed(
                        f"{part.name} ended ({part.how_it_ended()}). The end of {part.log}:\n{part.log_tail()}"
                    )
            if (left := until - time.monotonic()) <= 0:
                return
            time.sleep(min(left, 0.1))

    def watch(self) -> None:
        """Keep the parts running until a request to stop comes."""
        while not self.signals_received:
            for part in self.parts:
                self._look_after(part)
            time.sleep(0.1)

    def _look_after(self, part: Part) -> None:
        now = time.monotonic()
        if part.start_again_at is not None:
            if now >= part.start_again_at:
                self._start(part)
                self.say(f"{part.name} was started again.")
        elif part.process is not None and part.has_ended():
            if part.process.returncode <= 0:
                self.say(f"{part.name} was stopped ({part.how_it_ended()}) and stays so; the rest goes on without it.")
                part.process = None
                return
            part.failures = 1 if now - part.started_at > HEALTHY_SECONDS else part.failures + 1
            pause_seconds = min(2.0 ** (part.failures - 1), LONGEST_PAUSE_SECONDS)
            part.start_again_at = now + pause_seconds
            self.say(
                f"{part.name} failed ({part.how_it_ended()}) and is started again in {pause_seconds:.0f} s."
                f" The end of {part.log}:\n{part.log_tail()}"
            )

    def stop(self) -> None:
        """Stop every part, the first started last: politely, then after 15 s or another Ctrl-C by force."""
        signals_before = self.signals_received
        first, others = self.parts[:1], self.parts[1:]
        # The first (Valkey, the broker) is what the others need for ending well.
        for group in (others, first):
            for part in group:
                part.ask_to_stop()
            deadline = time.monotonic() + STOP_SECONDS
            while not all(part.has_ended() for part in group):
                if time.monotonic() > deadline or self.signals_received > signals_before:
                    break
                time.sleep(0.05)
            for part in group:
                part.kill()
        self.record.unlink(missing_ok=True)


def _words(command: Sequence[str]) -> list[str]:
    """Return a command line as `ps` lets one compare it: it shows no quotes."""
    return " ".join(command).split()


def _words_of(number: int) -> list[str]:
    """Return the command line of a running process; empty where there is none such."""
    shown = " ".join(_ps("-ww", "-o", "args=", "-p", str(number)))
    return [] if "<defunct>" in shown else shown.split()


def _ps(*options: str) -> list[str]:
    """Return the lines that `ps` prints; none where there is no `ps`."""
    try:
        command = ["ps", *options]
        return subprocess.run(command, capture_output=True, check=False, text=True).stdout.splitlines()
    except FileNotFoundError:
        return []


def _seconds(shown: str) -> int:
    """Return CPU time as `ps` shows it ([[days-]hours:]minutes:seconds, on macOS with hundredths) in whole seconds."""
    days, _, clock = shown.rpartition("-")
    total = 0
    for part in clock.split(":"):
        total = 60 * total + int(float(part))
    return 86_400 * int(days or 0) + total


def http_status(url: str) -> int | None:
    """Return the status of a GET on loopback, or None where nobody answers within 2 s."""
    try:
        with urllib.request.urlopen(url, timeout=2) as response:  # noqa: S310 - an address the demo chose
            status: int = response.status
            return status
    except urllib.error.HTTPError as error:
        return error.code
    except OSError:
        return None
