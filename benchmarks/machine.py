"""The machine that a benchmark runs on: which cores do what, and what processes used of them."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


class TooFewCores(RuntimeError):
    """A benchmark needs one core for the server and another for everything else."""


@dataclass(frozen=True)
class Cores:
    """Who runs where.

    Attributes:
        server: the one core of the server that is measured.
        rest: the cores of Valkey and of whoever asks.
    """

    server: int
    rest: tuple[int, ...]

    @classmethod
    def of_this_machine(cls) -> Cores:
        """Split the cores this process may use: the first to the server, the others to the rest.

        Raises:
            TooFewCores: there is only one.
        """
        allowed = sorted(os.sched_getaffinity(0))
        if len(allowed) < 2:
            raise TooFewCores("A benchmark needs two cores: one for the server, one for Valkey and whoever asks.")
        return cls(allowed[0], tuple(allowed[1:]))

    @property
    def all(self) -> tuple[int, ...]:
        """Every core there is."""
        return (self.server, *self.rest)

    def in_words(self) -> str:
        """Say who runs where."""
        others = ", ".join(map(str, self.rest))
        return (
            f"the server under test has core {self.server} alone; "
            f"Valkey and the load generator have {'core' if len(self.rest) == 1 else 'the cores'} {others}"
        )


@contextmanager
def pinned(cores: tuple[int, ...]) -> Iterator[None]:
    """Run this thread, and whatever it starts in the block, on these cores only."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def describe() -> dict[str, str]:
    """Return what a reader must know about this machine to compare figures with others'."""
    return {
        "processor": next(
            (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
            platform.machine(),
        ),
        "cores": str(len(os.sched_getaffinity(0))),
        "kernel": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
    }


# --- What processes use -----------------------------------------------------------------------------------------------


def family(process_id: int) -> list[int]:
    """Return a process and everything below it."""
    found = [process_id]
    for known in found:
        for task in Path(f"/proc/{known}/task").glob("*"):
            found.extend(int(child) for child in " ".join(_lines(task / "children")).split())
    return found


def pin(process_id: int, cores: tuple[int, ...]) -> None:
    """Keep all threads of a running process on these cores."""
    for task in Path(f"/proc/{process_id}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def cpu_seconds(process_ids: list[int]) -> float:
    """Return how much CPU time, user and system, processes have used so far; to 10 ms."""
    ticks = 0
    for process_id in process_ids:
        for line in _lines(f"/proc/{process_id}/stat"):
            # The name, in parentheses, may hold anything.
            fields = line.rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
    return ticks / _TICKS_PER_SECOND


def _machine_cpu_seconds() -> float:
    """Return how much CPU time the whole machine has used so far, with what its host took from it."""
    user, nice, system, _idle, _waiting, interrupts, soft_interrupts, stolen = map(
        int, _lines("/proc/stat")[0].split()[1:9]
    )
    return (user + nice + system + interrupts + soft_interrupts + stolen) / _TICKS_PER_SECOND


def memory_bytes(process_ids: list[int]) -> int:
    """Return the memory processes hold; what several share is counted once (proportional set size)."""
    kilobytes = 0
    for process_id in process_ids:
        for line in _lines(f"/proc/{process_id}/smaps_rollup"):
            if line.startswith("Pss:"):
                kilobytes += int(line.split()[1])
    return kilobytes * 1024


def peak_memory_bytes() -> int:
    """Return the most memory this process ever held (VmHWM of Linux; getrusage's figure begins with the parent's)."""
    for line in _lines("/proc/self/status"):
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("Linux does not say how much memory was used")


@dataclass(frozen=True)
class Usage:
    """CPU time of a server, of Valkey, of this process and of the whole machine, at one moment or between two.

    All in seconds.
    """

    at: float
    server: float
    valkey: float
    asking: float
    machine: float

    @classmethod
    def now(cls, server: list[int], valkey: list[int]) -> Usage:
        """Read the clocks."""
        return cls(
            time.perf_counter(), cpu_seconds(server), cpu_seconds(valkey), time.process_time(), _machine_cpu_seconds()
        )

    def since(self, earlier: Usage) -> Usage:
        """Return what was used since then."""
        return Usage(
            self.at - earlier.at,
            self.server - earlier.server,
            self.valkey - earlier.valkey,
            self.asking - earlier.asking,
            self.machine - earlier.machine,
        )


def _lines(path: str | Path) -> list[str]:
    """Return a file's lines; none where it is gone, as a process's are once it ended."""
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
