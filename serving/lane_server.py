"""granian's server, with one thing done otherwise: a worker is stopped only once its successor serves.

granian starts the successor, waits a fixed time, and stops the old one, ready or not. On a machine that is busy, as
one is during a deployment, nobody would listen in between. This overrides a private method; the tests that replace
workers under load fail should a newer granian no longer call it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable
from typing import Any

from granian.server.mp import MPServer

logger = logging.getLogger(__name__)

READY_SECONDS = 30.0


class LaneServer(MPServer):
    """Serves from worker processes.

    Args:
        is_serving: tells whether the worker process of this id serves by now.
        options: granian's.
    """

    def __init__(self, is_serving: Callable[[int], bool], **options: Any) -> None:
        super().__init__(**options)
        self._is_serving = is_serving

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
