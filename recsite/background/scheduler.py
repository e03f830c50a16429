"""Beat's scheduler: django-celery-beat's, whose every tick is a sign of life, and every look for the broker too.

It outlives a database that is away or hangs, also where that is so when it starts: a supervisor that starts it again
and again waits longer each time.
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from django.db import InterfaceError, OperationalError, close_old_connections
from django_celery_beat.schedulers import DatabaseScheduler
from typing_extensions import override

from recsite.background.heartbeats import Heartbeat

log = logging.getLogger(__name__)

AGAIN_SECONDS = 5.0


class Scheduler(DatabaseScheduler):  # type: ignore[misc]  # it ships no types
    """Ticks every five seconds at least, or looks for its broker; what hangs in between leaves no sign."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._heartbeat = Heartbeat(["beat"])
        self._is_ticking = self._is_cut_short = False
        super().__init__(*args, **kwargs)

    @override
    def setup_schedule(self) -> None:
        with _ended_by_a_signal():
            while True:
                try:
                    super().setup_schedule()
                except (OperationalError, InterfaceError) as error:
                    _say_away(error)
                    self._heartbeat.beat_if_due()
                    time.sleep(AGAIN_SECONDS)
                    close_old_connections()
                    # It takes the schedule for read before it has read it.
                    self._initial_read = True
                else:
                    return

    @override
    def tick(self, *args: Any, **kwargs: Any) -> float:
        self._is_ticking = True
        try:
            delay: float = super().tick(*args, **kwargs)
        except (OperationalError, InterfaceError) as error:
            _say_away(error)
            return AGAIN_SECONDS
        finally:
            self._is_ticking = False
        self._heartbeat.beat_if_due()
        return delay

    @override
    def apply_entry(self, entry: Any, producer: Any = None) -> None:
        # Celery's own logs the stack and a traceback: 10 KB for each task that is due while no broker is there.
        log.info("beat.sends task=%s", entry.task)
        try:
            self.apply_async(entry, producer=producer, advance=False)
        except Exception as error:  # noqa: BLE001  # whatever it is, the others are due all the same
            log.error("beat.not_sent task=%s problem=%s", entry.task, error)  # noqa: TRY400  # it says all

    @override
    def close(self) -> None:
        # A signal's handler calls this. In the middle of a tick it would wait for the connection that the tick has, for
        # ever; when each task ran last is written by the next beat.
        self._is_cut_short = self._is_cut_short or self._is_ticking
        super().close()

    @override
    def sync(self) -> None:
        if not self._is_cut_short:
            super().sync()

    @override
    def _ensure_connected(self) -> Any:
        def look_again(problem: Exception, interval_seconds: float) -> None:
            log.error("beat.no_broker problem=%s again_in_seconds=%s", problem, interval_seconds)
            self._heartbeat.beat_if_due()

        # Every 30 s at last.
        return self.connection.ensure_connection(look_again, self.app.conf.broker_connection_max_retries)


def _say_away(error: Exception) -> None:
    log.error("beat.no_database problem=%s again_in_seconds=%s", type(error).__name__, AGAIN_SECONDS)


@contextmanager
def _ended_by_a_signal() -> Iterator[None]:
    """Let SIGTERM and Ctrl-C end this process at once: Celery's handlers ask for the schedule, not there yet."""
    numbers = signal.SIGTERM, signal.SIGINT
    before = [signal.signal(number, signal.SIG_DFL) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)
