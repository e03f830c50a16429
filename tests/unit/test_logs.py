"""Lines of the log: an object each in JSON, readable as text, and few of them however many there would be."""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

import pytest

from recsite import __version__, logs
from recsite.logs import LONGEST_LINE, MOST_KINDS, MOST_OF_A_KIND, SPAN_SECONDS, Bounded, JsonLines, TextLines
from serving import log_context
from serving.log_context import saying

Log = Callable[..., None]


class Written:
    """A logger of its own, what it has written, and a clock that is set by hand."""

    def __init__(self, formatter: logging.Formatter) -> None:
        self.stream, self.now = io.StringIO(), 0.0
        self.handler = Bounded(lambda: self.now)
        self.handler.setStream(self.stream)
        self.handler.setFormatter(formatter)
        self.log = logging.Logger("recsite.tests")  # noqa: LOG001  # nobody else's
        self.log.addHandler(self.handler)

    @property
    def lines(self) -> list[str]:
        return self.stream.getvalue().splitlines()

    @property
    def last(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads(self.lines[-1])
        return said


@pytest.fixture
def written() -> Iterator[Written]:
    made = Written(JsonLines())
    yield made
    made.handler.close()


def test_json__event_with_values__has_each_by_its_name_and_kind(written: Written) -> None:
    written.log.warning("load.ended load=%s rows=%d seconds=%.1f problem=%r", "l1", 5, 1.26, 'no "rows" a=b\nnext')
    said = written.last
    assert datetime.fromisoformat(said.pop("time")).utcoffset() is not None
    assert said.pop("process") > 0
    assert said.pop("component")
    assert said == {
        "level": "WARNING",
        "severity": "WARNING",
        "logger": "recsite.tests",
        "event": "load.ended",
        "fields": {"load": "l1", "rows": 5, "seconds": 1.26, "problem": 'no "rows" a=b\nnext'},
        "release": __version__,
    }


@pytest.mark.parametrize(
    ("words", "values", "event", "fields"),
    [
        ("lane.drains", (), "lane.drains", {}),
        ("publishing.failed tenant=all problem=%s: %s", ("OSError", 7), "publishing.failed", "OSError: 7"),
        ("table.%s table=%s", ("lost", "t1"), "table.lost", {"table": "t1"}),
        ("%s", ("snapshot.missing tenants=1 among_them=t2",), "snapshot.missing", {"tenants": "1", "among_them": "t2"}),
        ("worker.ended worker=%d error='is not there'", (1,), "worker.ended", {"worker": 1, "error": "'is not there'"}),
        ("disk.full free=%d%% at=%s", (3, None), "disk.full", {"free": "3%", "at": None}),
    ],
)
def test_json__event_in_any_of_our_forms__is_taken_apart(
    written: Written, words: str, values: tuple[Any, ...], event: str, fields: Any
) -> None:
    written.log.error(words, *values)
    said = written.last
    assert said["event"] == event
    assert said["fields"] == (fields if isinstance(fields, dict) else {"tenant": "all", "problem": fields})


@pytest.mark.parametrize(
    ("words", "values", "message"),
    [
        ("%s: %s", ("Not Found", "/x?a=1"), "Not Found: /x?a=1"),
        ("Task %(name)s[%(id)s] received", ({"name": "loading.run", "id": 1},), "Task loading.run[1] received"),
        ("100% sure", (), "100% sure"),
        (ValueError("odd"), (), "odd"),
    ],
)
def test_json__line_of_somebody_elses__is_its_message(
    written: Written, words: Any, values: tuple[Any, ...], message: str
) -> None:
    written.log.error(words, *values)
    assert written.last["message"] == message
    assert "event" not in written.last


def test_json__exception_however_long__is_one_field_of_one_bounded_line(written: Written) -> None:
    def dig(depth: int) -> None:
        if depth:
            exec(f"dig({depth - 1})", {"dig": dig})  # noqa: S102  # frames that are not folded into one
        raise ValueError("€" * 50_000 + " the end")

    try:
        dig(200)
    except ValueError:
        written.log.exception("load.broke load=%s", "€" * 50_000)
    (line,) = written.lines
    assert len(line) <= LONGEST_LINE
    said = json.loads(line)
    assert said["event"] == "load.broke"
    assert said["exception"].startswith("Traceback (most recent call last)")
    assert said["exception"].endswith(" the end")


def test_text__of_an_event__is_read_as_it_is_written() -> None:
    written = Written(TextLines())
    with saying({"request_id": "r1"}):
        written.log.info("load.ended load=%s", "l1")
    assert written.lines[0].endswith(" INFO recsite.tests load.ended load=l1 request_id=r1")


def test_json__of_a_request__says_which_one(written: Written) -> None:
    with saying({"request_id": "r1"}):
        written.log.info("load.ended load=%s", "l1")
    assert written.last["request_id"] == "r1"


@pytest.mark.parametrize(
    ("arguments", "component"),
    [
        ("/opt/recsite/bin/granian recsite.wsgi:application --workers 1", "dashboard"),
        ("/x/granian/__main__.py --http 1 recsite.wsgi:application", "dashboard"),
        ("/opt/recsite/bin/celery --app recsite --quiet worker --queues celery", "worker"),
        ("/x/celery/__main__.py -A recsite beat", "beat"),
        ("/opt/recsite/bin/recsite lane --port 8001", "lane"),
        ("/x/recsite/__main__.py migrate", "migrate"),
        ("manage.py load --dry-run", "load"),
        ("/usr/bin/pytest", "pytest"),
    ],
)
def test_component__by_the_command_line__is_what_the_process_is(
    arguments: str, component: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", arguments.split())
    monkeypatch.setattr(log_context, "_component", [])
    assert log_context.component() == component


# --- Floods -----------------------------------------------------------------------------------------------------------


def test_flood__of_one_kind__is_few_lines_and_its_count_and_hides_no_other(written: Written) -> None:
    for number in range(10_000):
        written.log.info("token.refused credential=%s", number)
        if number == 5000:
            written.log.info("load.ended load=%s", "l1")
            written.log.error("token.refused credential=%s", number)
    assert len(written.lines) == MOST_OF_A_KIND + 2
    written.now = SPAN_SECONDS
    written.log.info("load.ended load=%s", "l2")
    *_, counted, last = map(json.loads, written.lines)
    assert (counted["event"], counted["level"], counted["logger"]) == ("log.left_out", "INFO", "recsite.tests")
    assert counted["fields"] == {"count": 10_000 - MOST_OF_A_KIND, "of": "token.refused", "exception": ""}
    assert last["fields"] == {"load": "l2"}
    # It begins anew.
    written.log.info("token.refused credential=%s", "x")
    assert written.last["event"] == "token.refused"


def test_flood__with_nothing_after_it__is_counted_in_time_and_at_the_end(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "SPAN_SECONDS", 0.05)
    for _ in range(MOST_OF_A_KIND + 3):
        written.log.info("token.refused")
    timer = written.handler._timer
    assert timer is not None
    timer.join(10)
    assert written.last["fields"]["count"] == 3
    monkeypatch.undo()
    for _ in range(MOST_OF_A_KIND + 4):
        written.log.info("token.refused")
    written.handler.close()
    assert written.last["fields"]["count"] == 4


def test_flood__of_exceptions__counts_each_kind_of_them(written: Written) -> None:
    for problem in (KeyError("a"), ValueError("b")):
        for _ in range(MOST_OF_A_KIND + 1):
            written.log.error("api.database_failed", exc_info=problem)
    assert len(written.lines) == 2 * MOST_OF_A_KIND
    written.handler.end_span()
    assert [json.loads(line)["fields"]["exception"] for line in written.lines[-2:]] == ["KeyError", "ValueError"]


def test_flood__of_words_that_are_made_up__takes_no_more_memory_and_few_lines(written: Written) -> None:
    for number in range(3 * MOST_KINDS):
        written.log.info(f"made up {number}")  # noqa: G004  # as some libraries do
    assert len(written.lines) == MOST_KINDS + MOST_OF_A_KIND
    assert len(written.handler._count) == MOST_KINDS + 1


def test_flood__in_a_process_that_is_copied__is_counted_by_each_for_itself(
    written: Written, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(MOST_OF_A_KIND + 1):
        written.log.info("token.refused")
    monkeypatch.setattr("os.getpid", lambda: -1)
    written.log.info("token.refused")
    assert len(written.lines) == MOST_OF_A_KIND + 1
