"""The judge of `make faults` finds what is wrong, and takes nothing for wrong that is not."""

from __future__ import annotations

import json
from typing import Any

import pytest

from examples.generate import EXAMPLES, answer
from recsite.demo.data import MODELS
from serving.formats.keys import slot
from tests.faults.long.clients import Event
from tests.faults.long.judge import Expected, Judgement, Question, Verdict, Weights, judge
from tests.faults.long.run import DRF_DOOR, LANE, Row, right_since, table

KEY = {"player_id": "p000007"}
VERSION = EXAMPLES[0].versions[0]
ROW = answer("aurora", "offers", VERSION, KEY)
DEFAULT = MODELS["aurora", "offers"].default_answer
IN_TABLE = Question("aurora", "offers", KEY, Expected.ROW)
NOT_IN_TABLE = IN_TABLE._replace(expected=Expected.DEFAULT)
REVOKED = IN_TABLE._replace(expected=Expected.UNAUTHORIZED)


def body(recommendation: Any, version: str = VERSION, model: str = "offers") -> bytes:
    return json.dumps({"model": model, "version": version, "recommendation": recommendation}).encode()


@pytest.mark.parametrize(
    ("question", "status", "source", "sent", "verdict"),
    [
        (IN_TABLE, 200, None, body(ROW), Verdict.RIGHT),
        (IN_TABLE, 200, "fallback", body(DEFAULT), Verdict.FALLBACK),
        (IN_TABLE, 503, None, b"", Verdict.REFUSED),
        (NOT_IN_TABLE, 200, "default", body(DEFAULT), Verdict.RIGHT),
        (NOT_IN_TABLE, 200, "fallback", body(DEFAULT), Verdict.FALLBACK),
        (REVOKED, 401, None, b"", Verdict.RIGHT),
        (REVOKED, 503, None, b"", Verdict.REFUSED),
        (IN_TABLE, 200, None, body({**ROW, "offer_id": ROW["offer_id"] + 1}), Verdict.WRONG),
        (IN_TABLE, 200, None, body(ROW, version="2026-11-b"), Verdict.WRONG),
        (IN_TABLE, 200, None, body(ROW, version="2027"), Verdict.WRONG),
        (IN_TABLE, 200, None, body(ROW, model="difficulty"), Verdict.WRONG),
        (IN_TABLE, 200, "default", body(DEFAULT), Verdict.WRONG),
        (IN_TABLE, 200, "fallback", body(ROW), Verdict.WRONG),
        (IN_TABLE, 401, None, b"", Verdict.WRONG),
        (IN_TABLE, 204, None, b"", Verdict.WRONG),
        (IN_TABLE, 500, None, b"", Verdict.WRONG),
        (NOT_IN_TABLE, 200, None, body(ROW), Verdict.WRONG),
        (REVOKED, 200, None, body(ROW), Verdict.WRONG),
    ],
)
def test_judge__an_answer__is_what_it_is(
    question: Question, status: int, source: str | None, sent: bytes, verdict: Verdict
) -> None:
    assert judge(question, status, source, sent).verdict is verdict


def test_weights__change__both_may_be_served_until_the_new_ones_have_arrived() -> None:
    weights, unit = Weights(), "p000007"
    weights.save("salt", ["a"] * 10_000, 0)
    now_b = ["a"] * 10_000
    now_b[slot("salt", unit)] = "b"
    weights.save("salt", now_b, 100)
    assert weights.moved([unit, "p000008"]) == [unit]
    assert not weights.allow(unit, "b", 98, 99)
    assert weights.allow(unit, "a", 500, 501)
    assert weights.allow(unit, "b", 99, 101)
    assert not weights.allow("p000008", "b", 99, 101)
    weights.arrive(200)
    assert weights.allow(unit, "a", 199, 202)
    assert not weights.allow(unit, "a", 201, 202)
    assert weights.allow(unit, "b", 201, 202)


def event(at: float, verdict: Verdict) -> Event:
    return Event(IN_TABLE, at, at + 0.5, Judgement(verdict))


def test_right_since__something_else_came_last__is_not_calm() -> None:
    events = [event(1, Verdict.RIGHT), event(2, Verdict.FALLBACK), event(3, Verdict.RIGHT), event(4, Verdict.RIGHT)]
    assert right_since(events, 0) == 3.5
    assert right_since(events, 4) == 4.5
    assert right_since(events, 5) is None
    assert right_since([*events, event(5, Verdict.NOTHING)], 0) is None


def test_table__a_row__has_its_figures() -> None:
    row = Row("lane: SIGHUP", times=2, recovery_seconds=1.5)
    row.got.update([Verdict.RIGHT] * 1234 + [Verdict.WRONG])
    row.longest_gap_seconds |= {LANE: 0.25, DRF_DOOR: 3}
    cells = [cell.strip() for cell in table([row]).splitlines()[-1].strip("|").split("|")]
    assert cells == ["lane: SIGHUP", "2", "1,234", "0", "0", "0", "1", "250 ms", "3,000 ms", "1,500 ms"]
