"""Beat's scheduler: django-celery-beat's, whose every tick is a sign of life, and every look for the broker too."""

from __future__ import annotations

import logging
from typing import Any

from django_celery_beat.schedulers import DatabaseScheduler
from typing_extensions import override

from recsite.background.heartbeats import Heartbeat

log = logging.getLogger(__name__)


class Scheduler(DatabaseScheduler):  # type: ignore[misc]  # it ships no types
    """Ticks every five seconds at least, or looks for its broker; what hangs in between leaves no sign."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._heartbeat = Heartbeat(["beat"])
        super().__init__(*args, **kwargs)

    @override
    def tick(self, *args: Any, **kwargs: Any) -> float:
        delay: float = super().tick(*args, **kwargs)
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
    def _ensure_connected(self) -> Any:
        def look_again(problem: Exception, interval_seconds: float) -> None:
            log.error("beat.no_broker problem=%s again_in_seconds=%s", problem, interval_seconds)
            self._heartbeat.beat_if_due()

        # Every 30 s at last.
        return self.connection.ensure_connection(look_again, self.app.conf.broker_connection_max_retries)
