"""The backend itself, in the module and under the name that Django looks for."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import psycopg
from django.db.backends.postgresql import base
from django.db.backends.postgresql.psycopg_any import IsolationLevel
from django.dispatch import Signal
from psycopg.abc import PQGen
from psycopg.pq import TransactionStatus
from typing_extensions import TypeVar, override

from recsite.postgresql.limits import Seats

T = TypeVar("T")
# Sent when no connection could be made, which Django tells nobody of.
connection_failed = Signal()


class BoundedConnection(psycopg.Connection[Any]):
    """A connection that gives a server up which does not answer.

    The server's own limits bound what works slowly. A server that is paused keeps none of them, and its machine goes on
    acknowledging, so that TCP notices nothing either.

    Attributes:
        answer_seconds: how long one answer may take; None: for ever.
        seats: where it waits, of which there are few; None: as many as like wait.
    """

    answer_seconds: float | None = None
    seats: Seats | None = None

    @override
    def wait(self, gen: PQGen[T], interval: float = 0.1, timeout: float | None = None) -> T:
        """Wait for what one statement answers.

        Raises:
            psycopg.OperationalError: it did not come in time; the connection is closed, since it may come later. Or
                too many others wait; nothing was sent.
        """
        try:
            with self.seats.one() if self.seats else nullcontext():
                return super().wait(gen, interval, self.answer_seconds if timeout is None else timeout)
        except psycopg.OperationalError:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                self.pgconn.finish()
            raise


class DatabaseWrapper(base.DatabaseWrapper):
    """Django's, with bounded connections. `OPTIONS` has their `answer_seconds` and `seats` besides libpq's."""

    @override
    def get_new_connection(self, conn_params: dict[str, Any]) -> Any:
        self.isolation_level = IsolationLevel.READ_COMMITTED  # as Django's own does
        given = dict(conn_params)
        answer_seconds: float | None = given.pop("answer_seconds", None)
        seats: Seats | None = given.pop("seats", None)
        try:
            with seats.one() if seats else nullcontext():
                connection = BoundedConnection.connect(**given)
        except psycopg.OperationalError:
            connection_failed.send(DatabaseWrapper)
            raise
        connection.answer_seconds, connection.seats = answer_seconds, seats
        return connection
