"""Verified tokens, kept so that each is verified once: bounded in bytes, and no credential can crowd out another's.

Any thread may look one up; the lock is for those who keep and forget.
"""

from __future__ import annotations

from collections import OrderedDict
from threading import Lock
from typing import Generic, TypeVar

C = TypeVar("C")
H = TypeVar("H")

# Of a process, all credentials together: some 60,000 tokens as the token endpoint makes them.
MAX_BYTES = 64 * 2**20
# What a token takes besides its own text: its caller, its claims, and its places in two dictionaries.
ENTRY_BYTES = 750
# Where there are too many, this part of all goes at once, so that few tokens have to find out whose are the most.
_GOES = 0.02


class _Held:
    """The tokens of one credential, oldest first, and about what they take."""

    __slots__ = ("size_bytes", "tokens")

    def __init__(self) -> None:
        self.tokens: OrderedDict[str, None] = OrderedDict()
        self.size_bytes = 0


class VerifiedTokens(Generic[C, H]):
    """Callers by the Authorization header that named them, each held for a credential.

    Attributes:
        callers: what is kept, to look up in.
        size_bytes: about what that takes.
    """

    __slots__ = ("_held", "_lock", "callers", "size_bytes")

    def __init__(self) -> None:
        self.callers: dict[str, C] = {}
        self.size_bytes = 0
        self._held: dict[H, _Held] = {}
        self._lock = Lock()

    def keep(self, authorization: str, caller: C, holder: H) -> None:
        """Keep one. Where that is too much, the oldest of the credential that has most go: likely they have expired."""
        with self._lock:
            held = self._held.setdefault(holder, _Held())
            if authorization not in held.tokens:
                held.tokens[authorization] = None
                self._count(held, _size(authorization))
            self.callers[authorization] = caller
            if self.size_bytes > MAX_BYTES:
                goal = self.size_bytes - int(MAX_BYTES * _GOES)
                while self.size_bytes > goal:
                    most = max(self._held, key=lambda one: self._held[one].size_bytes)
                    self._forget_oldest(most, goal)

    def forget(self, authorization: str, holder: H) -> None:
        """Forget one."""
        with self._lock:
            held = self._held.get(holder)
            if held is not None and authorization in held.tokens:
                del held.tokens[authorization]
                self._count(held, -_size(authorization))
                self.callers.pop(authorization, None)

    def forget_all(self, holder: H) -> None:
        """Forget all of a credential."""
        with self._lock:
            if holder in self._held:
                self._forget_oldest(holder, 0)

    def _forget_oldest(self, holder: H, goal: int) -> None:
        """Forget what one credential has, until no more than `goal` bytes are kept of all, or it has none."""
        held = self._held[holder]
        while held.tokens and self.size_bytes > goal:
            authorization, _ = held.tokens.popitem(last=False)
            self.callers.pop(authorization, None)
            self._count(held, -_size(authorization))
        if not held.tokens:
            del self._held[holder]

    def _count(self, held: _Held, size_bytes: int) -> None:
        held.size_bytes += size_bytes
        self.size_bytes += size_bytes


def _size(authorization: str) -> int:
    return ENTRY_BYTES + len(authorization)
