"""Several processes of one dashboard that count as one: what each counts, added up by whichever is asked.

Each process leaves what is in prometheus_client's registry, django-prometheus' numbers and the DRF door's, in a file
every two seconds and whenever it answers; who answers adds up all files of its group. So no counter is ever lower in an
answer than in one before, whoever gave either. What a process counted that ended is kept; its gauges go.
prometheus_client has such files too, mapped into memory: there a full disk would end the process, here it costs
numbers.

A group are the processes with one parent: a server's workers. Its folder is named by the parent, and is removed by the
next group to start once that is gone.
"""

from __future__ import annotations

import atexit
import contextlib
import fcntl
import logging
import os
import shutil
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import msgspec
from prometheus_client import REGISTRY
from prometheus_client.metrics_core import Metric
from typing_extensions import override

from serving.metrics import DEFINITIONS, STALE_SECONDS, is_alive
from serving.whole_files import replace_whole

log = logging.getLogger(__name__)

EVERY_SECONDS = 2.0
# Somebody who holds the lock for longer hangs.
LOCK_SECONDS = 1.0
ADDED_UP = ("counter", "histogram", "summary")
_ACROSS = {definition.name: definition.across for definition in DEFINITIONS}

Labels = tuple[tuple[str, str], ...]


class Family(msgspec.Struct):
    """One metric of one process, or of several.

    Attributes:
        samples: value by the sample's name and labels.
    """

    kind: str
    help: str
    samples: dict[tuple[str, Labels], float] = {}


Families = dict[str, Family]


def read_registry() -> Families:
    """Return what this process counts, without the times at which counters were made: they add up to nothing."""
    found: Families = {}
    for metric in REGISTRY.collect():
        samples = {
            (sample.name, tuple(sorted(sample.labels.items()))): sample.value
            for sample in metric.samples
            if not sample.name.endswith("_created")
        }
        found[metric.name] = Family(metric.type, metric.documentation, samples)
    return found


def combined(several: Sequence[tuple[Families, bool]]) -> Families:
    """Return the numbers of several processes as one's; gauges only of those of which it is said."""
    total: Families = {}
    for families, with_gauges in several:
        for name, family in families.items():
            if family.kind not in ADDED_UP and not with_gauges:
                continue
            sums = total.setdefault(name, Family(family.kind, family.help)).samples
            # Of gauges that are not ours, such as a process's memory, the greatest says the most.
            across = "sum" if family.kind in ADDED_UP else _ACROSS.get(name, "max")
            for sample, value in family.samples.items():
                if sample not in sums:
                    sums[sample] = value
                elif across == "sum":
                    sums[sample] += value
                else:
                    sums[sample] = (max if across == "max" else min)(sums[sample], value)
    return total


def as_metrics(families: Families) -> Iterator[Metric]:
    """Yield families in prometheus_client's terms."""
    for name, family in families.items():
        metric = Metric(name, family.help, family.kind)
        for (sample, labels), value in family.samples.items():
            metric.add_sample(sample, dict(labels), value)
        yield metric


class Group:
    """This process's place among those with the same parent.

    Raises:
        OSError: the folder cannot be written to.
    """

    def __init__(self, above: Path) -> None:
        name = _identity(os.getppid())
        self._directory = above / name
        self._directory.mkdir(parents=True, exist_ok=True)
        for other in above.iterdir():
            pid = other.name.partition(".")[0]
            if pid.isdigit() and _identity(int(pid)) != other.name:
                shutil.rmtree(other, ignore_errors=True)
        self._own = self._directory / f"{os.getpid()}.{time.time_ns()}.numbers"
        self._ended = self._directory / "ended"
        self._writing = threading.Lock()
        self._decoder = msgspec.msgpack.Decoder(Families)

    def write(self) -> Families:
        """Leave this process's numbers, and return them. A disk that is full costs the others' answers these."""
        with self._writing:
            families = read_registry()
            with contextlib.suppress(OSError):
                replace_whole(self._own, msgspec.msgpack.encode(families))
            return families

    def families(self) -> Families:
        """Return the numbers of all processes of the group; of the others as of up to two seconds ago.

        Raises:
            TimeoutError: another process that reads them hangs.
        """
        with self._locked():
            own = self.write()
            ended = self._read(self._ended) or {}
            living: list[tuple[Families, bool]] = [(own, True)]
            for path in self._directory.glob("*.numbers"):
                if path == self._own:
                    continue
                # Asked first: a process that ends after this has written its last before the next time.
                is_running = is_alive(int(path.name.partition(".")[0]))
                families = self._read(path)
                if families is None:
                    continue
                if is_running:
                    living.append((families, _age_seconds(path) < STALE_SECONDS))
                    continue
                ended = combined([(ended, False), (families, False)])
                try:
                    replace_whole(self._ended, msgspec.msgpack.encode(ended))
                    path.unlink()
                except OSError as error:  # added again the next time, to what was read again
                    log.warning("metrics.not_kept problem=%s", error)
            return combined([(ended, False), *living])

    def _read(self, path: Path) -> Families | None:
        try:
            return self._decoder.decode(path.read_bytes())
        except (OSError, msgspec.DecodeError):
            return None

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        until = time.monotonic() + LOCK_SECONDS
        with (self._directory / "lock").open("w") as file:
            while True:
                try:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() > until:
                        raise TimeoutError("Another process of this dashboard holds the numbers and hangs.") from None
                    time.sleep(0.01)
            yield


class _Writer(threading.Thread):
    def __init__(self, group: Group) -> None:
        super().__init__(name="numbers", daemon=True)
        self._group = group

    @override
    def run(self) -> None:
        while True:
            self._group.write()
            time.sleep(EVERY_SECONDS)


_groups: list[Group] = []


def join(above: Path) -> None:
    """Have this process count as one with the others of its server, which do the same, from now on."""
    try:
        group = Group(above)
    except OSError as error:
        log.warning("metrics.alone problem=%s", error)
        return
    _groups[:] = [group]
    _Writer(group).start()
    atexit.register(group.write)


def metrics() -> Iterable[Metric]:
    """Return what the processes of this dashboard count, or this one where it has joined no others.

    Raises:
        TimeoutError: see `Group.families`.
    """
    return as_metrics(_groups[0].families() if _groups else read_registry())


def _identity(process_id: int) -> str:
    """Return a name that no later process with the same number has; on Linux, that is, which says when it began."""
    try:
        stat = Path(f"/proc/{process_id}/stat").read_text()
        began = stat.rpartition(")")[2].split()[19]
    except OSError:
        began = "alive" if is_alive(process_id) else "gone"
    return f"{process_id}.{began}"


def _age_seconds(path: Path) -> float:
    try:
        return time.time() - path.stat().st_mtime
    except OSError:
        return STALE_SECONDS
