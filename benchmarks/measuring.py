"""Measuring one server: its peak, then latency at half of it, with what every process used meanwhile."""

from __future__ import annotations

import csv
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from statistics import median

from benchmarks.load import Exchange, Outcome, ask_closed, ask_open
from benchmarks.machine import Cores, Usage, pinned
from benchmarks.servers import Server
from benchmarks.site import BenchSite

CONNECTIONS = 64
# A core that is used this much has nothing left to give.
BUSY = 0.9


class TooFewPlayers(RuntimeError):
    """The tokens that may be used once each do not last for a run."""


@dataclass(frozen=True)
class Measurement:
    """What one server did in one round, or the medians of several.

    Attributes:
        rate: right answers a second at its peak.
        cpu_us: CPU time of all of the server's processes for each of these.
        server_share: of one core that the server used at its peak.
        asking_share: of one core that the load generator used; None where that was another program.
        valkey_share: of one core that Valkey used.
        others_share: of one core that anything else on this machine used, the host's theft included.
        half_rate: right answers a second when asked at half the peak.
        p50_ms: latency then, from when a request was due.
        p99_ms: as above.
    """

    rate: float
    cpu_us: float
    server_share: float
    asking_share: float | None
    valkey_share: float
    others_share: float | None = None
    half_rate: float | None = None
    p50_ms: float | None = None
    p99_ms: float | None = None

    @property
    def is_limited_by_asking(self) -> bool:
        """Whether the load generator with Valkey, and not the server, had no CPU time left at the peak."""
        return self.server_share < BUSY <= (self.asking_share or 0.0) + self.valkey_share


@dataclass
class Checked:
    """How many answers were right, over everything a contender was asked."""

    right: int = 0
    wrong: int = 0
    broken: int = 0
    refused: int = 0
    examples: tuple[str, ...] = ()

    @property
    def errors(self) -> int:
        """Everything but right answers."""
        return self.wrong + self.broken + self.refused

    def add(self, outcome: Outcome) -> None:
        """Take in a run."""
        self.right += outcome.checked
        self.wrong += outcome.wrong
        self.broken += outcome.broken
        self.refused += sum(outcome.statuses.values())
        self.examples = (*self.examples, *outcome.examples)[:3]


@dataclass(frozen=True)
class Bench:
    """Where and how long to measure.

    Attributes:
        seconds: of each run.
    """

    site: BenchSite
    cores: Cores
    seconds: float

    @property
    def warm_up_seconds(self) -> float:
        """Before each run."""
        return min(1.0, self.seconds / 4)

    def peak(
        self,
        server: Server,
        exchanges: Iterable[Exchange],
        *,
        connections: int = CONNECTIONS,
        asking_from: tuple[int, ...] | None = None,
    ) -> tuple[Outcome, Measurement]:
        """Ask as fast as it answers, from these cores or else from those that are not the server's."""
        begun: list[Usage] = []
        processes, valkey = server.processes, self.site.valkey_processes
        with pinned(asking_from or self.cores.rest):
            outcome = ask_closed(
                server.port,
                exchanges,
                connections=connections,
                seconds=self.seconds,
                warm_up_seconds=self.warm_up_seconds,
                on_start=lambda: begun.append(Usage.now(processes, valkey)),
            )
            ended = Usage.now(processes, valkey)
        if not begun:
            raise TooFewPlayers("Every player's own token was used within the warm-up: take more --players.")
        used = ended.since(begun[0])
        return outcome, Measurement(
            rate=outcome.rate,
            cpu_us=used.server / max(1, len(outcome.latencies_ns)) * 1e6,
            server_share=used.server / used.at,
            asking_share=used.asking / used.at,
            valkey_share=used.valkey / used.at,
            others_share=max(0.0, used.machine - used.server - used.asking - used.valkey) / used.at,
        )

    def steady(self, server: Server, exchanges: Iterable[Exchange], rate: float) -> Outcome:
        """Ask at a fixed rate."""
        with pinned(self.cores.rest):
            return ask_open(
                server.port,
                exchanges,
                rate=max(1.0, rate),
                connections=CONNECTIONS,
                seconds=self.seconds,
                warm_up_seconds=self.warm_up_seconds,
            )

    def both(self, server: Server, exchanges: Callable[[], Iterable[Exchange]], checked: Checked) -> Measurement:
        """Find the peak, then the latency at half of it."""
        outcome, peak = self.peak(server, exchanges())
        checked.add(outcome)
        half = self.steady(server, exchanges(), peak.rate / 2)
        checked.add(half)
        return replace(peak, half_rate=half.rate, p50_ms=half.percentile_ms(0.5), p99_ms=half.percentile_ms(0.99))


def medians(rounds: list[Measurement]) -> Measurement:
    """Return the median of each figure."""

    def of(name: str) -> float | None:
        values = [value for each in rounds if (value := getattr(each, name)) is not None]
        return median(values) if values else None

    return Measurement(**{name: of(name) for name in Measurement.__dataclass_fields__})  # type: ignore[arg-type]  # only those that may be None are ever None


def redis_benchmark(bench: Bench, key: str) -> Measurement:
    """Ask Valkey for one key as fast as `redis-benchmark` can, from the server's core; no pipelining.

    Raises:
        subprocess.CalledProcessError: it failed.
    """
    valkey = bench.site.valkey_processes
    requests = max(10_000, int(60_000 * bench.seconds))
    command = ["redis-benchmark", "-p", str(bench.site.valkey.port), "-c", str(CONNECTIONS), "-n", str(requests)]
    with pinned((bench.cores.server,)):
        before = Usage.now(valkey, valkey)
        done = subprocess.run([*command, "--csv", "GET", key], capture_output=True, text=True, check=True)
        used = Usage.now(valkey, valkey).since(before)
    (row,) = csv.DictReader(done.stdout.splitlines())
    return Measurement(
        rate=float(row["rps"]),
        cpu_us=used.server / requests * 1e6,
        server_share=used.server / used.at,
        asking_share=None,
        valkey_share=used.server / used.at,
    )
