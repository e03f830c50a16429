"""Clients that never ask twice: each asks one question after the other at one door, and notes what came of it."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple
from urllib.parse import urlencode

from tests.doors.raw_http import RawConnection, request
from tests.faults.long.judge import Judgement, Question, Verdict, judge

# A phone gives up no later.
TIMEOUT_SECONDS = 10.0
PAUSE_SECONDS = 0.005


class Event(NamedTuple):
    """One question and what came of it; times are of `time.monotonic`."""

    question: Question
    asked_at: float
    answered_at: float
    judgement: Judgement

    @property
    def is_answer(self) -> bool:
        """Whether a player got something to go on with."""
        return self.judgement.verdict in (Verdict.RIGHT, Verdict.FALLBACK)


class Client(threading.Thread):
    """Asks at a door until it is told to stop.

    Attributes:
        events: what was asked and answered, in order.
    """

    def __init__(self, door: str, port: int, seed: str, draw: Callable[[random.Random], tuple[Question, str]]) -> None:
        super().__init__(daemon=True)
        self.door = door
        self.events: list[Event] = []
        self.is_done = threading.Event()
        self._port = port
        self._random = random.Random(seed)
        self._draw = draw

    def run(self) -> None:
        """Ask on a kept connection, on the next where that one fails."""
        while not self.is_done.is_set():
            question, token = self._draw(self._random)
            asked_at = time.monotonic()
            try:
                with RawConnection(self._port, timeout_seconds=TIMEOUT_SECONDS) as connection:
                    while not self.is_done.is_set():
                        judgement = ask(connection, question, token)
                        self.events.append(Event(question, asked_at, time.monotonic(), judgement))
                        self.is_done.wait(PAUSE_SECONDS)
                        question, token = self._draw(self._random)
                        asked_at = time.monotonic()
            except OSError as error:
                nothing = Judgement(Verdict.NOTHING, reason=repr(error))
                self.events.append(Event(question, asked_at, time.monotonic(), nothing))
                self.is_done.wait(PAUSE_SECONDS)

    def longest_gap(self, since: float, until: float) -> float:
        """Return the longest time in seconds in which this client got nothing to go on with."""
        answered = [event.answered_at for event in self.events if event.is_answer and event.answered_at >= since]
        times = [since, *(at for at in answered if at < until), until]
        return max(later - earlier for earlier, later in pairwise(times))


def ask(connection: RawConnection, question: Question, token: str) -> Judgement:
    """Ask on a connection; an answer that cannot be read is a wrong one."""
    target = f"/v1/recommendations?{urlencode({'model': question.model, **question.key})}"
    answer = connection.ask(request("GET", target, [("Authorization", f"Bearer {token}")]))
    try:
        return judge(question, answer.status, answer.header("recommendation-source"), answer.body)
    except (ValueError, KeyError, TypeError) as error:
        return Judgement(Verdict.WRONG, reason=f"{answer.status} {answer.body[:200]!r}: {error!r}")
