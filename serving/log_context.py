"""What all lines of the log say: of which process; and while something is done, for which request, in which task."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import MappingProxyType

NOTHING: Mapping[str, str] = MappingProxyType({})
context: ContextVar[Mapping[str, str]] = ContextVar("context", default=NOTHING)


@contextmanager
def saying(more: Mapping[str, str]) -> Iterator[None]:
    """Have every line say this as well, until the block ends."""
    token = context.set({**context.get(), **more})
    try:
        yield
    finally:
        context.reset(token)


_component: list[str] = []
# Of the command lines of others' programs.
_BY_WORD = {"recsite.wsgi:application": "dashboard", "beat": "beat", "worker": "worker"}


def be(component: str) -> None:
    """Say what this process is, where its command line does not."""
    _component[:] = [component]


def component() -> str:
    """Return what this process is: dashboard, lane, worker, loader, beat, or the command that it runs."""
    if _component:
        return _component[0]
    program, words = Path(sys.argv[0]).name, sys.argv[1:]
    for word, meant in _BY_WORD.items():
        if word in words:
            return meant
    return words[0] if program in ("recsite", "manage.py", "__main__.py") and words else program
