"""granian's server, with three things done otherwise.

The first workers are copies of the process that starts them (`fork`): all that they need is loaded there, and most of
it stays shared. That is safe because that process has no other threads yet. Those that replace a worker later begin
from nothing (`spawn`): so a SIGHUP brings new code and new settings in, and no thread of that process is cut in two.

A worker is stopped only once its successor serves. granian starts the successor, waits a fixed time, and stops the old
one, ready or not. On a machine that is busy, as one is during a deployment, nobody would listen in between.

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
import time
from collections.abc import Callable, Iterable
from typing import Any

from granian._granian import CallbackScheduler
from granian.server import mp

logger = logging.getLogger(__name__)

READY_SECONDS = 30.0


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

    def startup(self, spawn_target: Any, target_loader: Any) -> None:
        """Start the first workers."""
        # What is here is theirs too, and stays.
        gc.freeze()
        multiprocessing.set_start_method("fork", force=True)
        super().startup(spawn_target, target_loader)  # type: ignore[no-untyped-call]  # granian's own
        multiprocessing.set_start_method("spawn", force=True)
        self._on_workers_started()

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
                self._end(old)

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
