"""The lane's worker processes: started, watched, replaced without a lost request, stopped.

Each worker listens on a socket of its own, between which Linux spreads connections. This process keeps them all, for
workers and their successors: with a socket goes whoever waits in it to be accepted. So a socket whose worker was killed
is closed at once: who waits in it hears so, and whoever comes is given to the others.

The first workers are copies of this process (`fork`): all that they need is loaded here, and most of it stays shared.
That is safe because this process has no other threads yet. Those that replace a worker later begin from nothing
(`spawn`): so a SIGHUP brings new code and new settings in, and no thread of this process is cut in two.

Each worker has a pipe, into which it says that it serves and then, once a second, that its event loop turns. Nothing
that this process waits for keeps it from seeing to the other workers.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import multiprocessing
import os
import selectors
import signal
import socket
import time
from collections import deque
from collections.abc import Callable
from enum import Enum
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

READY_SECONDS = 30.0
KILL_AFTER_SECONDS = 15.0
# A worker that has served and then says nothing for so long is killed. Far longer than any pause of an event loop.
HUNG_SECONDS = 20.0
# A worker that ends sooner than this after its start is not started again at once.
SHORT_LIFE_SECONDS = 5.0
PAUSE_SECONDS = 1.0
# When this process itself was held up for so long (a machine that was suspended), the workers' silence says nothing.
HELD_UP_SECONDS = 3.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_ENDING = (signal.SIGTERM, signal.SIGINT)
# Tells a worker that the end is near. One that does not know of it yet passes it over.
DRAIN_SIGNAL = signal.SIGUSR1


class _Phase(Enum):
    """What the whole lane is about."""

    SERVING = "serving"
    DRAINING = "draining"
    ENDING = "ending"


class _Worker:
    """A worker process, the socket it listens on, and what was heard of it."""

    def __init__(self, process: BaseProcess, listening: socket.socket, pulse: Connection) -> None:
        self.process = process
        self.listening = listening
        self.pulse = pulse
        self.started_at = time.monotonic()
        # None until it serves.
        self.heard_at: float | None = None

    def listen_to_it(self) -> None:
        """Take note of what it said since the last time."""
        with contextlib.suppress(BlockingIOError):
            while os.read(self.pulse.fileno(), 4096):
                self.heard_at = time.monotonic()


class _Successor:
    """A worker that is to take the place of another, and until when it has to serve."""

    def __init__(self, index: int, worker: _Worker) -> None:
        self.index = index
        self.worker = worker
        self.until = time.monotonic() + READY_SECONDS


class LaneServer:
    """Serves from worker processes.

    Args:
        run: what a worker does with its socket, and with the end of a pipe into which it says that it serves and is
            well, until SIGTERM; what a new process can be told, a function of a module.
        on_workers_started: is called when the first workers were started; from then on this process may have threads.
        on_serving: is called when the first of them serves.
        drain_seconds: how long, after SIGTERM, workers accept connections and say that they are not ready.
    """

    def __init__(
        self,
        run: Callable[[socket.socket, Connection], None],
        on_workers_started: Callable[[], None],
        on_serving: Callable[[], None],
        drain_seconds: float = 0.0,
    ) -> None:
        self._run = run
        self._on_workers_started = on_workers_started
        self._on_serving: Callable[[], None] | None = on_serving
        self._drain_seconds = drain_seconds
        self._address: tuple[str, int] = ("", 0)
        self._workers: list[_Worker | None] = []
        # Not before these moments is a worker started in an empty place.
        self._not_before: list[float] = []
        self._to_replace: deque[int] = deque()
        self._successor: _Successor | None = None
        # Those that were told to end, and when they are killed.
        self._leaving: list[tuple[_Worker, float]] = []
        self._phase = _Phase.SERVING
        self._ends_at = 0.0
        self._signals: deque[int] = deque()
        self._selector = selectors.DefaultSelector()

    def serve(self, host: str, port: int, workers: int) -> None:
        """Serve until SIGTERM or SIGINT. SIGHUP replaces the workers, one after the other.

        Raises:
            OSError: the address cannot be bound.
        """
        self._address = host, port
        sockets = [_bound(host, port) for _ in range(workers)]
        waking, woken = socket.socketpair()
        for end in (waking, woken):
            end.settimeout(0)
        self._selector.register(woken, selectors.EVENT_READ)
        signal.set_wakeup_fd(waking.fileno(), warn_on_full_buffer=False)
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        signal.signal(DRAIN_SIGNAL, signal.SIG_IGN)
        # What is here is the first workers' too, and stays.
        gc.freeze()
        self._not_before = [0.0] * workers
        try:
            for own in sockets:
                self._workers.append(self._start(own, "fork", [other for other in sockets if other is not own]))
            self._on_workers_started()
            while self._phase is not _Phase.ENDING:
                self._wait(woken)
                self._see_to_signals()
                self._see_to_workers()
        finally:
            self._end_all()
            signal.set_wakeup_fd(-1)
            for end in (waking, woken):
                end.close()

    # --- One turn -----------------------------------------------------------------------------------------------------

    def _wait(self, woken: socket.socket) -> None:
        """Wait for a signal, or for a worker to say something; a second at most."""
        began = time.monotonic()
        for key, _ in self._selector.select(PAUSE_SECONDS):
            if isinstance(key.data, _Worker):
                key.data.listen_to_it()
            else:
                with contextlib.suppress(BlockingIOError):
                    woken.recv(4096)
        if time.monotonic() - began > HELD_UP_SECONDS:
            for worker in self._workers:
                if worker is not None and worker.heard_at is not None:
                    worker.heard_at = time.monotonic()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._signals.append(number)

    def _see_to_signals(self) -> None:
        while self._signals:
            received = self._signals.popleft()
            if received == signal.SIGTERM and self._phase is _Phase.SERVING and self._drain_seconds:
                self._phase = _Phase.DRAINING
                self._ends_at = time.monotonic() + self._drain_seconds
            elif received in _ENDING:
                # Also the second SIGTERM: whoever sends it means at once.
                self._phase = _Phase.ENDING
            elif received == signal.SIGHUP and self._phase is _Phase.SERVING:
                self._to_replace.extend(index for index in range(len(self._workers)) if index not in self._to_replace)
        if self._phase is _Phase.DRAINING:
            if time.monotonic() >= self._ends_at:
                self._phase = _Phase.ENDING
            for worker in self._workers:
                # Again and again: one that has just been started may have passed over the first.
                if worker is not None and worker.process.pid is not None and worker.process.is_alive():
                    os.kill(worker.process.pid, DRAIN_SIGNAL)

    def _see_to_workers(self) -> None:
        if self._on_serving is not None and any(worker is not None and worker.heard_at for worker in self._workers):
            self._on_serving()
            self._on_serving = None
        self._kill_hung()
        self._see_to_the_leaving()
        self._see_to_the_successor()
        self._start_again()

    # --- Workers that end by themselves -------------------------------------------------------------------------------

    def _kill_hung(self) -> None:
        for index, worker in enumerate(self._workers):
            if worker is None or worker.heard_at is None or not worker.process.is_alive():
                continue
            silent_seconds = time.monotonic() - worker.heard_at
            if silent_seconds > HUNG_SECONDS:
                logger.error("worker.hung worker=%d silent_seconds=%d", index + 1, silent_seconds)
                worker.process.kill()
                worker.process.join()

    def _start_again(self) -> None:
        """Start those anew that have ended by themselves."""
        now = time.monotonic()
        for index, worker in enumerate(self._workers):
            if worker is not None and not worker.process.is_alive():
                logger.error("worker.ended worker=%d exit_code=%s", index + 1, worker.process.exitcode)
                self._forget(worker)
                self._workers[index] = None
                if not self._has_successor(index):
                    worker.listening.close()
                if now - worker.started_at < SHORT_LIFE_SECONDS:
                    self._not_before[index] = now + PAUSE_SECONDS
            if (
                self._workers[index] is None
                and not self._has_successor(index)
                and now >= self._not_before[index]
                and self._phase is _Phase.SERVING
            ):
                try:
                    self._workers[index] = self._start(_bound(*self._address), "spawn")
                except OSError as error:
                    logger.error("worker.not_started worker=%d error=%r", index + 1, str(error))  # noqa: TRY400  # it says all
                    self._not_before[index] = now + PAUSE_SECONDS

    # --- Replacing ----------------------------------------------------------------------------------------------------

    def _see_to_the_successor(self) -> None:
        """Begin, or end, to put a new worker in the place of one; one at a time, and the next when the old has gone."""
        successor = self._successor
        if successor is None:
            if self._to_replace and not self._leaving and self._phase is _Phase.SERVING:
                self._begin_to_replace(self._to_replace.popleft())
            return
        worker, index = successor.worker, successor.index
        old = self._workers[index]
        if worker.heard_at is not None:
            self._successor = None
            self._workers[index] = worker
            if old is not None:
                self._let_go(old)
        elif not worker.process.is_alive() or time.monotonic() > successor.until:
            self._successor = None
            logger.error("worker.not_replaced worker=%d error='does not serve'", index + 1)
            if old is None:
                worker.listening.close()
            self._let_go(worker)

    def _has_successor(self, index: int) -> bool:
        return self._successor is not None and self._successor.index == index

    def _begin_to_replace(self, index: int) -> None:
        old = self._workers[index]
        if old is None:
            return  # it is about to be started anew anyway
        try:
            # On the same socket: who waits in it is accepted by whichever of the two is there.
            self._successor = _Successor(index, self._start(old.listening, "spawn"))
        except OSError as error:
            logger.error("worker.not_replaced worker=%d error=%r", index + 1, str(error))  # noqa: TRY400  # it says all

    # --- The beginning and the end of one worker ----------------------------------------------------------------------

    def _start(self, listening: socket.socket, how: str, others: list[socket.socket] | None = None) -> _Worker:
        """Start a worker; a copy has the others' sockets, too.

        Raises:
            OSError: there is no room for another process.
        """
        context: Any = multiprocessing.get_context(how)  # whose types do not say that each of them has a Process
        pulse, theirs = context.Pipe(duplex=False)
        os.set_blocking(pulse.fileno(), False)
        process = context.Process(target=_work, args=(self._run, listening, theirs, others or []))
        try:
            process.start()
        except OSError:
            pulse.close()
            raise
        finally:
            theirs.close()
        worker = _Worker(process, listening, pulse)
        self._selector.register(pulse, selectors.EVENT_READ, worker)
        return worker

    def _let_go(self, worker: _Worker) -> None:
        """Let a worker finish what it has begun, for as long as that may take."""
        self._leaving.append((worker, time.monotonic() + KILL_AFTER_SECONDS))
        worker.process.terminate()

    def _see_to_the_leaving(self) -> None:
        left: list[tuple[_Worker, float]] = []
        for worker, until in self._leaving:
            if not worker.process.is_alive():
                self._forget(worker)
            elif time.monotonic() > until:
                logger.warning("worker.killed pid=%d", worker.process.pid)
                worker.process.kill()
                worker.process.join()
                self._forget(worker)
            else:
                # Again and again: one that has just been copied may not know yet what to do with it.
                worker.process.terminate()
                left.append((worker, until))
        self._leaving = left

    def _forget(self, worker: _Worker) -> None:
        self._selector.unregister(worker.pulse)
        worker.pulse.close()

    def _end_all(self) -> None:
        workers = [worker for worker in self._workers if worker is not None]
        # Whoever connects from now on is refused at once, instead of waiting for nobody.
        for worker in workers:
            worker.listening.close()
        for worker in (*workers, *([self._successor.worker] if self._successor is not None else [])):
            self._let_go(worker)
        while self._leaving:
            self._leaving[0][0].process.join(PAUSE_SECONDS)
            self._see_to_the_leaving()


def _work(
    run: Callable[[socket.socket, Connection], None],
    listening: socket.socket,
    pulse: Connection,
    others: list[socket.socket],
) -> None:
    # A copy of the process above would do with these what that does.
    signal.set_wakeup_fd(-1)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    # These are for that process, also where they reach all of a terminal's, and for one that is further.
    for number in (signal.SIGHUP, DRAIN_SIGNAL):
        signal.signal(number, signal.SIG_IGN)
    for other in others:
        other.close()
    os.set_blocking(pulse.fileno(), False)
    run(listening, pulse)


def _bound(host: str, port: int) -> socket.socket:
    """Return a socket that nobody can connect to until a worker listens on it.

    Raises:
        OSError: the address cannot be had.
    """
    bound = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        bound.bind((host, port))
    except OSError:
        bound.close()
        raise
    return bound
