"""How a running load tells the database that it is alive, and learns whether it may go on, and when it should rest."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.db import InterfaceError, OperationalError, connection
from django.utils import timezone

from models_registry.loading.pacing import ProcessorShare
from models_registry.models import FRUITLESS_STATES, RUNNING_STATES, Load, LoadState

WRITE_SECONDS = 0.5

ALIVE_STATES = [state for state in RUNNING_STATES if state != LoadState.QUEUED]


class Overtaken(Exception):
    """Another run has taken this load over (this one was thought dead), or somebody ended it. It must touch nothing."""


class Superseded(Exception):
    """A newer load of the same version is on its way or active. The message says which."""


class TookTooLong(Exception):
    """The load has run for longer than the operator allows."""


@dataclass(frozen=True)
class Progress:
    """How far a load is."""

    state: LoadState
    rows_read: int
    rows_written: int
    rows_expected: int | None


class Pulse:
    """One run's hold on its load: every write is conditional on the load still being in the hands of this very run.

    `attempts` is the fencing number of runs: whoever takes a load over raises it, and the run before it loses its hold
    with its next write, whatever it was doing meanwhile.

    Attributes:
        rows_read: set by whoever reads; written with the next beat.
        rows_written: the same for rows on their way into Redis.
        seconds_rested: so far.
        share: of the processors, as far as others want them.
    """

    def __init__(self, load: Load, *, time_limit: timedelta, listener: Callable[[Progress], None] | None) -> None:
        self.load = load
        self.rows_read = 0
        self.rows_written = 0
        self.seconds_rested = 0.0
        self.share = ProcessorShare()
        self._rows_expected: int | None = None
        self._state = LoadState(load.state)
        self._listener = listener
        self._ends_at = time.monotonic() + time_limit.total_seconds()
        self._written_at = 0.0

    def beat(self) -> None:
        """Say that the load is alive, at most twice a second, and rest if others want the processors.

        To be called between one piece of work and the next. While the caller rests, threads that work ahead of it soon
        wait for it; a query that it waits for goes on, and is rested for when it has ended.

        Raises:
            Overtaken, Superseded, TookTooLong: see there.

        Cost: two queries.
        """
        self.rest(0.0)

    def rest(self, seconds: float) -> None:
        """Rest for so long, or for longer if others want the processors; otherwise as `beat`."""
        began = time.monotonic()
        self._say_alive(began)
        until = began + max(seconds, self.share.rest_due())
        try:
            while (left := until - time.monotonic()) > 0:
                time.sleep(min(left, WRITE_SECONDS))
                self._say_alive(time.monotonic())
        finally:
            if until > began:
                self.seconds_rested += time.monotonic() - began

    def _say_alive(self, now: float) -> None:
        if now - self._written_at < WRITE_SECONDS:
            return
        self._written_at = now
        self.write()
        if now > self._ends_at:
            raise TookTooLong
        check_not_superseded(self.load)
        self.tell(self._state)

    def enter(self, state: LoadState, **fields: Any) -> None:
        """Go on to the next state."""
        self.write(state=state, **fields)
        self._rows_expected = fields.get("rows_expected", self._rows_expected)
        self.tell(state)

    def write(self, **fields: Any) -> None:
        """Write fields of the load, its progress with them.

        A connection that the database has dropped meanwhile, as it does when it is restarted, is replaced, once, and
        only outside a transaction: what that had written before would be lost.

        Raises:
            Overtaken: see there; nothing was written then.
        """
        try:
            self._write(**fields)
        except (OperationalError, InterfaceError):
            if connection.in_atomic_block or connection.is_usable():
                raise
            connection.close()
            self._write(**fields)

    def _write(self, **fields: Any) -> None:
        held = Load.objects.unscoped().filter(pk=self.load.pk, attempts=self.load.attempts, state__in=ALIVE_STATES)
        if not held.update(
            heartbeat_at=timezone.now(), rows_read=self.rows_read, rows_written=self.rows_written, **fields
        ):
            raise Overtaken

    def tell(self, state: LoadState) -> None:
        """Tell the listener alone."""
        self._state = state
        if self._listener is not None:
            self._listener(Progress(self._state, self.rows_read, self.rows_written, self._rows_expected))


def check_not_superseded(load: Load) -> None:
    """Raise Superseded if a newer load of the version is waiting, running or active. One query.

    A newer one that ended without a table does not count: the older may still bring its own. Dry runs bring none, so
    they neither replace a load nor are replaced.
    """
    if load.is_dry_run:
        return
    newer = Load.objects.unscoped().filter(version=load.version_id, fence__gt=load.fence, is_dry_run=False)
    fence = newer.exclude(state__in=FRUITLESS_STATES).order_by("-fence").values_list("fence", flat=True).first()
    if fence is not None:
        raise Superseded(f"Load {fence}, which is newer, replaced it.")
