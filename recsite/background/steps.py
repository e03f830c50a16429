"""What a Celery worker is given to show that it lives: a thread that leaves signs while the event loop turns."""

from __future__ import annotations

import threading
import time
from typing import Any

from celery import bootsteps
from typing_extensions import override

from recsite.background.heartbeats import EVERY_SECONDS, Component, Heartbeat

# By the queues that a worker takes from; one of both queues is both.
OF_QUEUES: dict[str, Component] = {"celery": "worker", "loads": "loader"}
# An event loop that has not turned for so long stands still; before that it may be writing to a slow broker.
STANDS_STILL_SECONDS = 30.0


class Signs(threading.Thread):
    """Leaves signs of life while the worker's event loop turns, and while the worker has none.

    It has none while it looks for its broker, and while it waits for its last tasks before it ends: restarting it would
    help nobody then. How long its tasks take is no matter: they run in other processes.
    """

    def __init__(self, heartbeat: Heartbeat) -> None:
        super().__init__(name="heartbeat", daemon=True)
        self._heartbeat = heartbeat
        self._has_ended = threading.Event()
        self._turned_at: float | None = None

    def turn(self) -> None:
        """Say that the event loop turns."""
        self._turned_at = time.monotonic()

    def pause(self) -> None:
        """Say that there is no event loop for now."""
        self._turned_at = None

    def end(self) -> None:
        """Have the thread end."""
        self._has_ended.set()

    @override
    def run(self) -> None:
        while True:
            turned_at = self._turned_at
            if turned_at is None or time.monotonic() - turned_at < STANDS_STILL_SECONDS:
                self._heartbeat.beat()
            if self._has_ended.wait(EVERY_SECONDS):
                return


class WorkerSigns(bootsteps.StartStopStep):  # type: ignore[misc]  # it ships no types
    """Starts the thread once the processes for tasks are there, which a fork would give it to otherwise."""

    requires = ("celery.worker.components:Pool",)

    @override
    def start(self, parent: Any) -> None:
        queues = parent.app.amqp.queues.consume_from
        parent.signs = Signs(Heartbeat([component for queue, component in OF_QUEUES.items() if queue in queues]))
        parent.signs.start()

    @override
    def terminate(self, parent: Any) -> None:
        parent.signs.end()


class LoopSigns(bootsteps.StartStopStep):  # type: ignore[misc]  # it ships no types
    """Has the event loop say that it turns, from when the broker is found until it is lost."""

    requires = ("celery.worker.consumer.tasks:Tasks",)

    def __init__(self, parent: Any, **options: Any) -> None:
        self._entry: Any = None
        super().__init__(parent, **options)

    @override
    def start(self, parent: Any) -> None:
        signs = parent.controller.signs
        signs.turn()
        self._entry = parent.timer.call_repeatedly(EVERY_SECONDS, signs.turn)

    @override
    def stop(self, parent: Any) -> None:
        if self._entry is not None:
            self._entry.cancel()
            self._entry = None
        parent.controller.signs.pause()
