"""The lane's worker processes: started, watched, replaced without a lost request, stopped.

Each worker listens on a socket of its own, between which Linux spreads connections. This process keeps them all,
for workers and their successors: with a socket would go whoever waits in it to be accepted.

The first workers are copies of this process (`fork`): all that they need is loaded here, and most of it stays shared.
That is safe because this process has no other threads yet. Those that replace a worker later begin from nothing
(`spawn`): so a SIGHUP brings new code and new settings in, and no thread of this process is cut in two.

A worker is stopped only once its successor serves.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import queue
import signal
import socket
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

logger = logging.getLogger(__name__)

READY_SECONDS = 30.0
KILL_AFTER_SECONDS = 15.0
# A worker that ends sooner than this after its start is not started again at once.
SHORT_LIFE_SECONDS = 5.0
PAUSE_SECONDS = 1.0

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)
_ENDING = (signal.SIGTERM, signal.SIGINT)


class _Worker:
    """A worker process, and when it was started."""

    def __init__(self, process: BaseProcess) -> None:
        self.process = process
        self.started_at = time.monotonic()
        process.start()


class LaneServer:
    """Serves from worker processes.

    Args:
        run: what a worker does with its socket until SIGTERM; what a new process can be told, a function of a module.
        is_serving: tells whether the worker process of this id serves by now.
        on_workers_started: is called when the first workers were started; from then on this process may have threads.
    """

    def __init__(
        self,
        run: Callable[[socket.socket], None],
        is_serving: Callable[[int], bool],
        on_workers_started: Callable[[], None],
    ) -> None:
        self._run = run
        self._is_serving = is_serving
        self._on_workers_started = on_workers_started
        self._sockets: list[socket.socket] = []
        self._workers: list[_Worker] = []
        self._signals: queue.SimpleQueue[int] = queue.SimpleQueue()
        self._is_ending = False

    def serve(self, host: str, port: int, workers: int, backlog: int) -> None:
        """Serve until SIGTERM or SIGINT. SIGHUP replaces the workers, one after the other.

        Raises:
            OSError: the address cannot be listened on.
        """
        self._sockets = [_listening(host, port, backlog) for _ in range(workers)]
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)
        # What is here is the first workers' too, and stays.
        gc.freeze()
        try:
            for index in range(workers):
                self._workers.append(self._start(index, "fork"))
            self._on_workers_started()
            while not self._is_ending:
                self._act(self._next_signal())
        finally:
            # Whoever connects from now on is refused at once, instead of waiting for nobody.
            for listening in self._sockets:
                listening.close()
            self._end([worker.process for worker in self._workers])

    def _next_signal(self) -> int:
        try:
            return self._signals.get(timeout=PAUSE_SECONDS)
        except queue.Empty:
            return signal.SIGCHLD  # one may have come while another was seen to

    def _act(self, received: int) -> None:
        if received == signal.SIGHUP:
            for index in range(len(self._workers)):
                self._replace(index)
        else:
            self._start_again()

    def _on_signal(self, number: int, _frame: FrameType | None) -> None:
        self._is_ending = self._is_ending or number in _ENDING
        self._signals.put(number)

    def _start(self, index: int, how: str) -> _Worker:
        """Start a worker.

        Raises:
            OSError: there is no room for another process.
        """
        context: Any = multiprocessing.get_context(how)  # whose types do not say that each of them has a Process
        # A copy has what belongs to the others, too.
        others = [other for other in self._sockets if other is not self._sockets[index]] if how == "fork" else []
        return _Worker(context.Process(target=_work, args=(self._run, self._sockets[index], others)))

    def _start_again(self) -> None:
        """Start those anew that have ended by themselves."""
        ended = [(index, worker) for index, worker in enumerate(self._workers) if not worker.process.is_alive()]
        if any(time.monotonic() - worker.started_at < SHORT_LIFE_SECONDS for _, worker in ended):
            time.sleep(PAUSE_SECONDS)
        for index, worker in ended:
            if self._is_ending:
                return
            logger.error("worker.ended worker=%d exit_code=%s", index + 1, worker.process.exitcode)
            try:
                self._workers[index] = self._start(index, "spawn")
            except OSError as error:
                logger.error("worker.not_started worker=%d error=%r", index + 1, str(error))  # noqa: TRY400  # it says all

    def _replace(self, index: int) -> None:
        """Put a new worker in the place of one, once it serves."""
        if self._is_ending:
            return
        old = self._workers[index]
        try:
            new = self._start(index, "spawn")
        except OSError as error:
            logger.error("worker.not_replaced worker=%d error=%r", index + 1, str(error))  # noqa: TRY400  # it says all
            return
        if not old.process.is_alive() or self._serves_in_time(new.process):
            self._workers[index] = new
            self._end([old.process])
            return
        if not self._is_ending:
            logger.error("worker.not_replaced worker=%d error='does not serve'", index + 1)
        self._end([new.process])

    def _serves_in_time(self, process: BaseProcess) -> bool:
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until and process.is_alive() and not self._is_ending:
            assert process.pid is not None  # noqa: S101  # it was started
            if self._is_serving(process.pid):
                return True
            time.sleep(0.05)
        return False

    def _end(self, processes: list[BaseProcess]) -> None:
        """Let processes finish what they have begun, for as long as that may take."""
        until = time.monotonic() + KILL_AFTER_SECONDS
        while (left := [process for process in processes if process.is_alive()]) and time.monotonic() < until:
            for process in left:
                # Again and again: one that has just been copied may not know yet what to do with it.
                process.terminate()
            left[0].join(PAUSE_SECONDS)
        for process in left:
            logger.warning("worker.killed pid=%d", process.pid)
            process.kill()
            process.join()


def _work(run: Callable[[socket.socket], None], listening: socket.socket, others: list[socket.socket]) -> None:
    # A copy of the process above would do with these what that does.
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    # It is for that process, also where it reaches all of a terminal's.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    for other in others:
        other.close()
    run(listening)


def _listening(host: str, port: int, backlog: int) -> socket.socket:
    listening = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    listening.bind((host, port))
    listening.listen(backlog)
    return listening
