"""How a load makes way for those who are being served: on its machine, and at Redis.

On its machine it works only when no other wants the processor (`yield_to_others`). That alone does not keep it from
being felt: to stop one thread for another takes time, up to a tick of the kernel's clock now and then. So where others
want the processors, it works for a small share of the time only (`ProcessorShare`).

While blocks are written, Redis is asked for a PING through another connection every few milliseconds. Where that takes
clearly longer than before the writing began, the writer rests between its sends, twice as long each time; where it does
not, the rest shrinks again (`Pacer`). The control is that of TCP's congestion window turned round: gently up in speed,
fast down.
"""

from __future__ import annotations

import ctypes
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from statistics import median

from serving.redis.clients import Client

# Between two looks at Redis; a look costs it some microseconds.
LOOK_SECONDS = 0.01
LOOKS_BEFORE = 15
# Redis is slow when it answers later than this many times the time before, and by at least this much.
SLOW_FACTOR = 3.0
SLOW_SECONDS = 0.000_5
# Rest after a send, as a share of the time since the one before.
FIRST_REST = 0.25
MOST_REST = 8.0
REST_KEPT = 0.9
REST_FORGOTTEN = 0.02
# Of one processor's time, all threads together, while others want the processors.
SHARE = 0.2
# Others want the processors when the kernel interrupts a load more often than that in a second of its work. Its own
# threads take turns when the clock ticks, 250 times or, with another clock, up to 700; each request that is served
# nearby is felt three times.
INTERRUPTIONS_PER_SECOND = 800
# Judged after so much work.
SECONDS_JUDGED = 0.05
# Shorter rests are put off until they have become one.
LEAST_REST = 0.001
NICENESS = 19
_PR_SET_THP_DISABLE = 41


def yield_to_others() -> None:
    """Let this process, with all of its threads, work only when no other wants the processor; for good.

    Linux has a class for that, in which the others need not wait for the end of a turn. It belongs to a thread, whose
    threads get it from it; those that imports started before (of NumPy, of Arrow's memory) must be given it too, or one
    of them that frees memory holds up others for many milliseconds. What the kernel itself does for such a thread it
    does to the end, though, whoever waits: so it is not to clear two megabytes of memory at a time. Elsewhere the
    process is made as nice as can be.
    """
    if sys.platform == "linux":
        for thread in Path("/proc/self/task").iterdir():
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.sched_setscheduler(int(thread.name), os.SCHED_IDLE, os.sched_param(0))
        # Old kernels and some sandboxes refuse; that does no harm.
        ctypes.CDLL(None).prctl(_PR_SET_THP_DISABLE, 1, 0, 0, 0)
    else:
        os.setpriority(os.PRIO_PROCESS, 0, NICENESS)


class ProcessorShare:
    """Tells how long a load must rest so that others are served as quickly as without it.

    Whether somebody wants the processors, the kernel knows: it counts how often it took one away from a thread that
    would have gone on (`ru_nivcsw`). In the class of those that come last that happens each time another wakes up.
    Sending to a local Redis itself causes context switches, so only phases that send nothing are judged (`judged`);
    the last verdict applies until the next such phase.
    Where this process is not in that class, as on the command line, nobody asks it to rest.
    """

    def __init__(self) -> None:
        self.is_wanted = False
        self._comes_last = sys.platform == "linux" and os.sched_getscheduler(0) == os.SCHED_IDLE
        self._paid_until, self._paid, _ = _work()
        self._is_judging = False
        self._judged_from: list[float] = []

    @contextmanager
    def judged(self) -> Iterator[None]:
        """Judge by what is worked meanwhile, in whatever thread: nothing of it may have another process do anything."""
        _, *self._judged_from = _work()
        self._is_judging = True
        try:
            yield
        finally:
            _, worked, interruptions = _work()
            self._judge(worked, interruptions)
            self._is_judging = False

    def rest_due(self) -> float:
        """Return how many seconds to rest for what was done so far. To be called between two pieces of work."""
        if not self._comes_last:
            return 0.0
        now, worked, interruptions = _work()
        if self._is_judging:
            self._judge(worked, interruptions)
        paid_until = self._paid_until + (worked - self._paid) / SHARE
        self._paid_until, self._paid = max(now, paid_until) if self.is_wanted else now, worked
        due = self._paid_until - now
        return due if due >= LEAST_REST else 0.0

    def _judge(self, worked: float, interruptions: int) -> None:
        worked_before, interruptions_before = self._judged_from
        seconds = worked - worked_before
        if seconds >= SECONDS_JUDGED:
            self.is_wanted = interruptions - interruptions_before > seconds * INTERRUPTIONS_PER_SECOND
            self._judged_from = [worked, interruptions]


def _work() -> tuple[float, float, int]:
    """Return the time, the processors' time that this process has used, both in seconds, and its interruptions."""
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return time.monotonic(), usage.ru_utime + usage.ru_stime, usage.ru_nivcsw


class Pacer:
    """Rests a writer so that Redis stays quick for others, and so that no more rows a second are written than allowed.

    A PING goes through a connection of its own. `rest` is called after each send with how many seconds it must rest,
    often 0. `rest_ratio` is how long that is now, as a share of the time that a send takes.
    """

    def __init__(
        self,
        client: Client,
        *,
        rows_per_second: int | None = None,
        rows_per_block: float = 1.0,
        rest: Callable[[float], None],
    ) -> None:
        self._client = client
        self._blocks_per_second = rows_per_second / max(rows_per_block, 1e-9) if rows_per_second else None
        self._rest = rest
        usual = median(self._look() for _ in range(LOOKS_BEFORE))
        self._slow = max(usual * SLOW_FACTOR, usual + SLOW_SECONDS)
        self.rest_ratio = 0.0
        self._began = self._looked_at = self._sent_at = time.monotonic()

    @property
    def is_about_to_look(self) -> bool:
        """Whether it looks after the next send. A PING waits behind blocks: none should be on their way by then."""
        return time.monotonic() - self._looked_at >= LOOK_SECONDS

    def after_send(self, blocks: int) -> None:
        """Rest as long as Redis' answers suggest, and until so many blocks since the beginning are allowed.

        Raises:
            redis.RedisError: Redis does not answer at all.
        """
        now = time.monotonic()
        if self.is_about_to_look:
            self._adapt(self._look())
            self._looked_at = time.monotonic()
        rest = (now - self._sent_at) * self.rest_ratio
        if self._blocks_per_second is not None:
            rest = max(rest, self._began + blocks / self._blocks_per_second - now)
        self._rest(max(0.0, rest))
        self._sent_at = time.monotonic()

    def _adapt(self, seconds: float) -> None:
        if seconds > self._slow:
            self.rest_ratio = min(MOST_REST, max(FIRST_REST, self.rest_ratio * 2))
        else:
            self.rest_ratio = max(0.0, self.rest_ratio * REST_KEPT - REST_FORGOTTEN)

    def _look(self) -> float:
        began = time.monotonic()
        self._client.ping()
        return time.monotonic() - began
