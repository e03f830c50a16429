"""How long a process waits for PostgreSQL: of a statement, a lock, a connection, a server that hangs."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from django.db import connections

from recsite.environment import Environment

# The server says itself that a statement took too long; this much later it is taken for one that hangs.
GRACE_SECONDS = 2
# A peer that vanished is noticed after about half a minute without a byte, at either end.
KEEPALIVE_IDLE_SECONDS, KEEPALIVE_INTERVAL_SECONDS, KEEPALIVE_COUNT = 15, 5, 3
# Half of the threads that a process of the dashboard is run with; the others are left for what needs no database.
SEATS = 4
# A statement that takes longer holds up others. In a database that is well few do, and never so many at once.
SEAT_SECONDS = 0.25


class Seats:
    """The places in which a process's threads may wait for the database: when it hangs, the others go on without it.

    While places are given out, one waits a moment for the next. Once all have been taken for longer than a moment there
    is nothing to wait for: whoever comes then is refused at once, and holds no thread up.
    """

    def __init__(self, count: int) -> None:
        self._free = threading.BoundedSemaphore(count)
        self._taken_at = -SEAT_SECONDS

    @contextmanager
    def one(self) -> Iterator[None]:
        """Hold a place.

        Raises:
            psycopg.OperationalError: there is none; nothing was sent.
        """
        if not self._free.acquire(timeout=max(0.0, self._taken_at + SEAT_SECONDS - time.monotonic())):
            raise psycopg.OperationalError("as many threads as may wait for the database do so already")
        self._taken_at = time.monotonic()
        try:
            yield
        finally:
            self._free.release()


def options_of(env: Environment, *, statement_seconds: int, given: str = "") -> dict[str, Any]:
    """Return a connection's options for a process whose statements may take so long; `given` are the server's, kept."""
    limits = {
        "statement_timeout": statement_seconds,
        # Of the two the lock's limit comes first, which says what the matter is.
        "lock_timeout": min(env.database_lock_seconds, max(1, statement_seconds - 1)),
        "idle_in_transaction_session_timeout": env.database_idle_transaction_seconds,
        # The server's own: by default a session keeps its locks for two hours after its client's machine is gone.
        "tcp_keepalives_idle": KEEPALIVE_IDLE_SECONDS,
        "tcp_keepalives_interval": KEEPALIVE_INTERVAL_SECONDS,
    }
    return {
        "options": " ".join(
            [
                given,
                *(f"-c {name}={seconds}s" for name, seconds in limits.items()),
                f"-c tcp_keepalives_count={KEEPALIVE_COUNT}",
            ]
        ),
        "connect_timeout": env.database_connect_seconds,
        "tcp_user_timeout": env.database_unacknowledged_seconds * 1000,
        "keepalives_idle": KEEPALIVE_IDLE_SECONDS,
        "keepalives_interval": KEEPALIVE_INTERVAL_SECONDS,
        "keepalives_count": KEEPALIVE_COUNT,
        "answer_seconds": statement_seconds + GRACE_SECONDS,
    }


def lift_for_migrations(*, using: str, **_: object) -> None:
    """Let statements of `migrate` take as long as they do; they still give up a lock that they cannot have."""
    connection = connections[using]
    if connection.vendor == "postgresql":
        with connection.cursor() as cursor:
            cursor.execute("SET statement_timeout = 0")
        connection.connection.answer_seconds = None
