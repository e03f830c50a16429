"""What all lines of the log say while something is done: for which request, in which task."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
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
