"""How many threads may wait for the database, and how long the others wait for their places."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from recsite.postgresql import limits
from recsite.postgresql.limits import Seats


def test_seats__all_taken_for_long__the_next_is_refused_and_one_that_is_left_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(limits, "SEAT_SECONDS", 0)
    seats = Seats(2)
    with seats.one():
        with seats.one(), pytest.raises(psycopg.OperationalError, match="wait for the database"), seats.one():
            pass
        with seats.one():
            pass


def test_seats__all_taken_just_now__the_next_waits_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "SEAT_SECONDS", 30)
    seats, begun = Seats(1), threading.Event()

    def take() -> str:
        begun.set()
        with seats.one():
            return "taken"

    with ThreadPoolExecutor(1) as pool:
        with seats.one():
            waiting = pool.submit(take)
            begun.wait(10)
            assert not waiting.done()
        assert waiting.result(10) == "taken"
