"""How every process writes its log: a line an event, as text for people or as JSON for machines (docs/logs.md).

An event of ours is `noun.verb key=value …` with its values as arguments, so that JSON has each value by its name.
"""

from __future__ import annotations

import json
import logging
import os
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

from typing_extensions import override

from recsite import __version__
from serving.log_context import component, context

# Docker cuts lines at 16 KB, and half a JSON object is none. Texts of a line that is longer are cut to these in turn.
LONGEST_LINE = 15_000
TEXT_LENGTHS = (4000, 1000, 200)
_EVENT = re.compile(r"[a-z][a-z_]*(?:\.[a-z][a-z_]*)+")
_NEXT_KEY = re.compile(r" ([a-z_]+)=")
# A place for an argument, in a text for `%`; and one that is a whole value.
_PLACE = re.compile(r"%[-#0 +]*[\d.]*[a-zA-Z]")


class TextLines(logging.Formatter):
    """Lines for people: time, level, who says it, the event; below it where an exception came from."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s")

    @override
    def formatMessage(self, record: logging.LogRecord) -> str:
        return super().formatMessage(record) + "".join(f" {key}={value}" for key, value in context.get().items())


class JsonLines(logging.Formatter):
    """Lines for machines: one JSON object each, however many lines an exception has."""

    def __init__(self, release: str = __version__) -> None:
        super().__init__()
        self._release = release

    @override
    def format(self, record: logging.LogRecord) -> str:
        said: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z",
            "level": record.levelname,
            "severity": record.levelname,  # by this name Google reads it
            "logger": record.name,
            **_told(record),
            **context.get(),
        }
        if record.exc_info:
            said["exception"] = self.formatException(record.exc_info)
        if record.stack_info:
            said["stack"] = record.stack_info
        said |= {"component": component(), "release": self._release, "process": record.process}
        line = json.dumps(said, default=str)
        for length in TEXT_LENGTHS:
            if len(line) <= LONGEST_LINE:
                break
            line = json.dumps(_cut(said, length), default=str)
        return line


def _told(record: logging.LogRecord) -> dict[str, Any]:
    """Return an event with its fields; of what is none of ours the message."""
    event, *pieces = _NEXT_KEY.split(str(record.msg))
    fields: dict[str, Any] = dict(zip(pieces[::2], pieces[1::2], strict=True))
    if record.args:
        texts = [event, *fields.values()]
        # Only others' arguments have names.
        if not isinstance(record.args, tuple) or len(record.args) != sum(len(_places(text)) for text in texts):
            return {"message": record.getMessage()}
        left = iter(record.args)
        told = str(_value(event, left))
        fields = {key: _value(text, left) for key, text in fields.items()}
        if not fields and told != event:
            # The whole event was an argument.
            told, *pieces = _NEXT_KEY.split(told)
            fields = dict(zip(pieces[::2], pieces[1::2], strict=True))
        event = told
    return {"event": event, "fields": fields} if _EVENT.fullmatch(event) else {"message": record.getMessage()}


def _places(text: str) -> list[str]:
    return _PLACE.findall(text.replace("%%", ""))


def _value(text: str, left: Iterator[Any]) -> Any:
    """Return a value with its arguments put in; one that is a single argument as it is, if JSON has such."""
    places = _places(text)
    given = tuple(next(left) for _ in places)
    if places == [text] and (given[0] is None or isinstance(given[0], (str, int, float))):
        return given[0]
    return text % given


def _cut(said: Any, length: int) -> Any:
    """Return it with texts of at most this length: their beginning and, of what is cut, also the end."""
    if isinstance(said, dict):
        return {key: _cut(value, length) for key, value in said.items()}
    if not isinstance(said, str) or len(said) <= length:
        return said
    return f"{said[: length // 2]} … {said[-length // 2 :]}"


# --- Floods -----------------------------------------------------------------------------------------------------------

# Of one kind so many lines are written in a span of so many seconds, and then one that says how many more there were.
MOST_OF_A_KIND, SPAN_SECONDS = 20, 10.0
# What has more kinds than this makes its kinds up.
MOST_KINDS = 1000
_LEFT_OUT = "log.left_out count=%d of=%r exception=%r"
# Who logs, how gravely, in which words before anything is put into them, and about which kind of exception.
_Kind = tuple[str, int, str, str]


class OneLine(logging.Filter):
    """Lets a record through without its traceback."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        record.exc_info = None
        record.exc_text = None
        return True


class Bounded(logging.StreamHandler):  # type: ignore[type-arg]  # of whatever stream
    """Writes lines to standard error, and of too many of one kind their number in place of the rest."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        self._forget()

    def _forget(self) -> None:
        self._process = os.getpid()
        self._began_at = self._clock()
        self._count: Counter[_Kind] = Counter()
        self._timer: threading.Timer | None = None

    @override
    def emit(self, record: logging.LogRecord) -> None:
        if self._process != os.getpid():
            self._forget()  # a copy of another process, whose lines and timer are not its own
        if self._clock() - self._began_at >= SPAN_SECONDS:
            self.end_span()
        kind = _kind_of(record)
        if kind not in self._count and len(self._count) >= MOST_KINDS:
            kind = (record.name, record.levelno, "", "")
        self._count[kind] += 1
        if self._count[kind] <= MOST_OF_A_KIND:
            super().emit(record)
        elif self._timer is None:
            # Nothing may follow that would end the span.
            self._timer = threading.Timer(SPAN_SECONDS, self.end_span)
            self._timer.daemon = True
            self._timer.start()

    def end_span(self) -> None:
        """Say how many lines were left out, and begin to count anew."""
        self.acquire()
        try:
            counted, timer = self._count, self._timer
            self._forget()
            if timer is not None:
                timer.cancel()
            for (name, level, words, problem), count in counted.items():
                if count > MOST_OF_A_KIND:
                    args = count - MOST_OF_A_KIND, _NEXT_KEY.split(words)[0], problem
                    super().emit(logging.LogRecord(name, level, "", 0, _LEFT_OUT, args, None))
        finally:
            self.release()

    @override
    def close(self) -> None:
        self.end_span()
        super().close()


def _kind_of(record: logging.LogRecord) -> _Kind:
    words = record.msg[:200] if isinstance(record.msg, str) else type(record.msg).__name__
    problem = record.exc_info[0].__name__ if record.exc_info and record.exc_info[0] else ""
    return record.name, record.levelno, words, problem
