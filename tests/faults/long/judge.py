"""What is a right answer: every one is held against the generator of the data and the history of weights."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from enum import Enum
from typing import NamedTuple

from examples.generate import UnknownExample, answer
from recsite.demo.data import MODELS
from serving.formats.keys import slot


class Verdict(Enum):
    """What a client got."""

    RIGHT = "right"
    FALLBACK = "fallback"
    REFUSED = "refused"
    NOTHING = "nothing"
    WRONG = "wrong"


class Expected(Enum):
    """What a question's answer is while all is well."""

    ROW = "row"
    DEFAULT = "default"
    UNAUTHORIZED = "unauthorized"


class Question(NamedTuple):
    """What is asked, and what for: a key in the table, one that is not, or with a token that was revoked."""

    studio: str
    model: str
    key: Mapping[str, str]
    expected: Expected


class Judgement(NamedTuple):
    """What an answer is, of which version a row is, and what is wrong with it."""

    verdict: Verdict
    version: str = ""
    reason: str = ""


def judge(question: Question, status: int, source: str | None, body: bytes) -> Judgement:
    """Judge an answer by itself. Whether its version is the player's is for `Weights` to say."""
    if status == 503:
        return Judgement(Verdict.REFUSED)
    if question.expected is Expected.UNAUTHORIZED:
        return Judgement(Verdict.RIGHT) if status == 401 else _wrong(f"{status} for a token that was revoked")
    if status != 200:
        return _wrong(f"{status} {body[:200]!r}")
    served = json.loads(body)
    if served["model"] != question.model:
        return _wrong(f"the model {served['model']!r}")
    if source is not None:
        return _judge_default(question, source, served["recommendation"])
    if question.expected is not Expected.ROW:
        return _wrong("a row for a key that has none")
    try:
        expected = answer(question.studio, question.model, served["version"], question.key)
    except UnknownExample:
        return _wrong(f"the version {served['version']!r}")
    if served["recommendation"] != expected:
        return _wrong(f"{served['recommendation']} of {served['version']}, which has {expected}")
    return Judgement(Verdict.RIGHT, served["version"])


def _judge_default(question: Question, source: str, recommendation: object) -> Judgement:
    if recommendation != MODELS[question.studio, question.model].default_answer:
        return _wrong(f"{recommendation} as {source}")
    if source == "fallback":
        return Judgement(Verdict.FALLBACK)
    if source == "default" and question.expected is Expected.DEFAULT:
        return Judgement(Verdict.RIGHT)
    return _wrong(f"the {source} for a key that has a row")


def _wrong(reason: str) -> Judgement:
    return Judgement(Verdict.WRONG, reason=reason)


class _Reign:
    """An allocation, and from when to when an answer may follow it."""

    def __init__(self, salt: str, names: list[str], begun_at: float) -> None:
        self.salt = salt
        self.names = names
        self.begun_at = begun_at
        self.ended_at = math.inf


class Weights:
    """Which versions a player may have got at a time, by what was saved and when it was seen to have arrived."""

    def __init__(self) -> None:
        self._reigns: list[_Reign] = []

    def save(self, salt: str, names: list[str], begun_at: float) -> None:
        """Note an allocation, by version names in the order of slots, whose saving began then."""
        self._reigns.append(_Reign(salt, names, begun_at))

    def arrive(self, at: float) -> None:
        """Note that every process follows the newest allocation: whatever is asked later gets nothing older."""
        for reign in self._reigns[:-1]:
            reign.ended_at = min(reign.ended_at, at)

    def newest(self, unit: str) -> str:
        """Return the version that a player has by now."""
        newest = self._reigns[-1]
        return newest.names[slot(newest.salt, unit)]

    def allow(self, unit: str, version: str, asked_at: float, answered_at: float) -> bool:
        """Tell whether a player may have got this version for a question of that time."""
        return any(
            reign.names[slot(reign.salt, unit)] == version
            for reign in self._reigns
            if reign.begun_at <= answered_at and reign.ended_at >= asked_at
        )

    def moved(self, units: Sequence[str]) -> list[str]:
        """Return those of some players who changed version with the newest allocation."""
        newest, before = self._reigns[-1], self._reigns[-2]
        return [
            unit for unit in units if newest.names[slot(newest.salt, unit)] != before.names[slot(before.salt, unit)]
        ]
