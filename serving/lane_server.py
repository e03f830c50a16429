"""granian's server, with five things done otherwise.

The first workers are copies of the process that starts them (`fork`): all that they need is loaded there, and most of
it stays shared. That is safe because that process has no other threads yet. Those that replace a worker later begin
from nothing (`spawn`): so a SIGHUP brings new code and new settings in, and no thread of that process is cut in two.

A worker is stopped only once its successor serves. granian starts the successor, waits a fixed time, and stops the old
one, ready or not. On a machine that is busy, as one is during a deployment, nobody would listen in between.

A worker listens on a socket that this process keeps for it and its successors. granian's open one each, between which
the kernel spreads connections; with such a socket goes whoever waits in it to be accepted.

Before a worker is stopped it stops accepting, and has a moment for the connections that it has accepted. granian stops
at once, and closes those of which it has read nothing yet.

A request is answered in the thread in which granian hands it over. granian would make a coroutine of each and wake the
event loop's thread for it, and the two would take turns at the interpreter's lock: that alone costs more than what the
lane does for a request. Measured on one core: 1.4 to 1.5 times the requests of granian's own way, for an empty answer.

All reach into what is granian's own. The tests that replace workers under load, and all that ask a lane anything, fail
should a newer granian be built otherwise.
"""

from __future__ import annotations

import gc
import logging
import multiprocessing
import os
import select
import signal
import socket
import time
from collections.abc import Callable, Iterable
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from granian._granian import CallbackScheduler, ListenerSpec, SocketHolder
from granian.server import mp

logger = logging.getLogger(__name__)

READY_SECONDS = 30.0
# Sent to a worker that has a successor.
STOP_ACCEPTING = signal.SIGUSR1
# From accepting a connection until its request is read, and far more.
LAST_REQUESTS_SECONDS = 0.25


def answer_in_place(handle: Callable[[Any], None]) -> None:
    """Have this worker process' requests handed over to a function, in granian's own thread, one at a time.

    Args:
        handle: is given what has a request's `scope` and `proto`. It must raise nothing, and see to it that `proto`
            gets an answer, then or later, from whatever thread.
    """

    def scheduler(loop: Any, _callback: Any, **_options: Any) -> Any:
        make: Any = CallbackScheduler  # whose stub knows no arguments
        direct = make(loop, None, None, None, None)
        direct._schedule_fn = handle  # noqa: SLF001  # what granian calls for each request
        return direct

    granians: Any = mp  # whose own types end here
    granians._new_cbscheduler = scheduler  # noqa: SLF001  # as the module's own comment says


def stop_accepting() -> None:
    """Leave new connections to this worker's successor, which listens on the same socket; for good. Linux alone.

    granian has nothing for it, so its listening socket is taken from what its event loop waits for.
    """
    for waiting in Path("/proc/self/fdinfo").glob("*"):
        with suppress(OSError):  # closed meanwhile
            watched = [int(line.split()[1]) for line in waiting.read_text().splitlines() if line.startswith("tfd:")]
            for descriptor in filter(_is_listening, watched):
                with closing(select.epoll.fromfd(os.dup(int(waiting.name)))) as epoll:
                    epoll.unregister(descriptor)


def _is_listening(descriptor: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(descriptor)) as found:
            return bool(found.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN))
    except OSError:
        return False  # no socket


class LaneServer(mp.MPServer):
    """Serves from worker processes.

    Args:
        is_serving: tells whether the worker process of this id serves by now.
        on_workers_started: is called when the first workers were started; from then on this process may have threads.
        options: granian's.
    """

    def __init__(
        self, is_serving: Callable[[int], bool], on_workers_started: Callable[[], None], **options: Any
    ) -> None:
        super().__init__(**options)
        self._is_serving = is_serving
        self._on_workers_started = on_workers_started
        self._listening: list[tuple[SocketHolder, socket.socket]] = []

    def startup(self, spawn_target: Any, target_loader: Any) -> None:
        """Start the first workers."""
        # What is here is theirs too, and stays.
        gc.freeze()
        multiprocessing.set_start_method("fork", force=True)
        super().startup(spawn_target, target_loader)  # type: ignore[no-untyped-call]  # granian's own
        multiprocessing.set_start_method("spawn", force=True)
        self._on_workers_started()

    def _init_shared_socket(self) -> None:
        """Listen, once for each worker."""
        super()._init_shared_socket()  # type: ignore[no-untyped-call]  # granian's own
        spec = ListenerSpec(self.bind_addr, self.bind_port, self.backlog)
        for _ in range(self.workers):
            holder = spec.build()
            listening = socket.socket(fileno=holder.get_fd())
            listening.set_inheritable(True)
            self._listening.append((holder, listening))

    def _drop_shared_socket(self) -> None:
        for _, listening in self._listening:
            listening.close()

    def _spawn_worker(self, idx: int, target: Any, callback_loader: Any) -> Any:  # type: ignore[override]  # as granian does
        """Give a worker that is not started yet."""
        self._ssp = None
        self._shd, self._sso = self._listening[idx]  # type: ignore[assignment]  # granian's are None to begin with
        return super()._spawn_worker(idx, target, callback_loader)

    def _respawn_workers(self, workers: Iterable[int], spawn_target: Any, target_loader: Any, delay: float = 0) -> None:
        """Replace these workers, one after the other."""
        for index in workers:
            if self.interrupt_signal:
                return
            self.respawned_wrks[index] = time.monotonic()
            old: Any = self.wrks[index]  # granian's own types end here
            new: Any = self._spawn_worker(idx=index, target=spawn_target, callback_loader=target_loader)
            new.start()
            self.wrks[index] = new
            if old.is_alive() and not self._serves_in_time(new):
                logger.error("worker.not_replaced worker=%d", index + 1)
                self.wrks[index] = old
                self._end(new)
            else:
                self._let_finish(old)
                self._end(old)

    def _let_finish(self, worker: Any) -> None:
        with suppress(ProcessLookupError):  # what is replaced may have ended by itself
            os.kill(worker._id(), STOP_ACCEPTING)  # noqa: SLF001  # its process id
            time.sleep(LAST_REQUESTS_SECONDS)

    def _serves_in_time(self, worker: Any) -> bool:
        until = time.monotonic() + READY_SECONDS
        while time.monotonic() < until and worker.is_alive() and not self.interrupt_signal:
            if self._is_serving(worker._id()):  # noqa: SLF001  # its process id
                return True
            time.sleep(0.05)
        return False

    def _end(self, worker: Any) -> None:
        worker.terminate()
        worker.join(self.workers_kill_timeout)
        if worker.is_alive():
            logger.warning("worker.killed worker=%d", worker.idx + 1)
            worker.kill()
            worker.join()
