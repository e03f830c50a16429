"""Long work in a thread of its own, while the caller's thread says every half second that the load is alive.

Database connections of Django belong to one thread; so what reports to the database stays in the caller's thread, and
what takes long and needs no database (reading a source, DuckDB) goes to another.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable, Generator, Iterable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")

BEAT_SECONDS = 0.5
# A reader that hangs in a call is left behind (its process ends soon); it must not hold up the end of a load.
JOIN_SECONDS = 30.0


def always() -> bool:
    """Say yes."""
    return True


def nothing() -> None:
    """Stand in for a beat where there is nobody to tell."""


def read_ahead(
    items: Iterable[T],
    beat: Callable[[], None],
    *,
    depth: int = 2,
    may_be_ahead: Callable[[], bool] = always,
    cancel: Callable[[], None] | None = None,
) -> Generator[T]:
    """Yield the items of an iterable that runs in another thread, up to `depth` items ahead.

    Args:
        items: is gone through in the other thread alone, and closed there if it can be.
        beat: called twice a second while the next item is waited for; what it raises ends the reading.
        depth: items held at most besides the one being made.
        may_be_ahead: asked after each item; while it says no, the next is begun only when it is waited for, so that one
            of the two threads is at work at a time.
        cancel: called when the reading ends before the items do, to break off a call that the thread is in.

    Raises:
        Exception: what `items` or `beat` raised.
    """
    reader = _Reader(iter(items), depth, may_be_ahead)
    reader.start()
    try:
        while True:
            reader.ask()
            while True:
                try:
                    message = reader.channel.get(timeout=BEAT_SECONDS)
                    break
                except queue.Empty:
                    beat()
            if message is None:
                break
            yield message[0]
    finally:
        if not reader.is_done and cancel is not None:
            cancel()
        reader.stop()
    if reader.error is not None:
        raise reader.error


def call(function: Callable[[], T], beat: Callable[[], None], *, cancel: Callable[[], None] | None = None) -> T:
    """Return what a function returns that runs in another thread. `beat` and `cancel` as above."""

    def once() -> Iterator[T]:
        yield function()

    (result,) = read_ahead(once(), beat, cancel=cancel)
    return result


class _Reader(threading.Thread, Generic[T]):
    """Goes through an iterator and hands over what it gives, each in a tuple, and None after the last."""

    def __init__(self, items: Iterator[T], depth: int, may_be_ahead: Callable[[], bool]) -> None:
        super().__init__(name="load-reader", daemon=True)
        self.channel: queue.Queue[tuple[T] | None] = queue.Queue(depth)
        self.error: BaseException | None = None
        self.is_done = False
        self._items = items
        self._may_be_ahead = may_be_ahead
        self._is_wanted = True
        self._given = self._asked = 0
        self._was_asked = threading.Condition()

    def run(self) -> None:
        try:
            for item in self._items:
                if not self._hand_over((item,)):
                    break
                self._given += 1
                with self._was_asked:
                    while self._is_wanted and self._asked <= self._given and not self._may_be_ahead():
                        # Nobody says so when it may be ahead again.
                        self._was_asked.wait(0.1)
        except BaseException as error:  # noqa: BLE001 - raised again in the caller's thread
            self.error = error
        finally:
            self.is_done = True
            self._hand_over(None)
            if isinstance(self._items, Generator):
                self._items.close()

    def ask(self) -> None:
        """Say that the next item is waited for now."""
        with self._was_asked:
            self._asked += 1
            self._was_asked.notify()

    def stop(self) -> None:
        """Have the thread end after the item it is at, and wait for it."""
        self._is_wanted = False
        with self._was_asked:
            self._was_asked.notify()
        self.join(JOIN_SECONDS)

    def _hand_over(self, message: tuple[T] | None) -> bool:
        while self._is_wanted:
            try:
                self.channel.put(message, timeout=0.1)
            except queue.Full:
                continue
            return True
        return False
