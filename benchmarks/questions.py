"""What contenders are asked: HTTP requests, each with the end that its answer must have."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from enum import StrEnum

from benchmarks.load import HEAD_END, Exchange
from benchmarks.world import World

_PATH = b"/v1/recommendations"
_SEED = 20_261_123


class Tokens(StrEnum):
    """Whose token a request carries."""

    SHARED = "one shared token"
    OWN = "a token per player, each used once"


class Questions:
    """Requests in an order that looks random and is the same for every contender.

    Args:
        world: whom to ask about.
    """

    def __init__(self, world: World) -> None:
        self._world = world
        self._players = [player.encode() for player in world.players]
        self._order = list(range(len(self._players)))
        random.Random(_SEED).shuffle(self._order)
        self._shared = _head(world.signing.token())
        self._own = list(world.signing.player_tokens(world.players))
        # How far each server has been asked, so that it sees no player's own token twice.
        self._asked: dict[tuple[int, Tokens], int] = defaultdict(int)

    def exchanges(self, port: int, tokens: Tokens) -> Iterator[Exchange]:
        """Yield what to ask the server on this port next. With own tokens they end when every player has asked."""
        return self._with_shared_token(port) if tokens is Tokens.SHARED else self._with_own_tokens(port)

    def for_nothing(self) -> Iterator[Exchange]:
        """Yield the same requests for a server whose answer is empty."""
        for request, _ in self._with_shared_token(0):
            yield request, HEAD_END

    def for_each_block(self) -> Iterator[Exchange]:
        """Yield requests that between them need every block of every table."""
        for row in self._world.cover:
            yield self._ask(row), self._world.endings[row]

    def one(self) -> bytes:
        """Return a single request."""
        return self._ask(0)

    def signed_by_studio(self, rows: Sequence[int]) -> list[Exchange]:
        """Return requests of these players (indices) with Ed25519 their own tokens; signing takes about 50 µs each."""
        sign = self._world.studio_signing.token
        return [
            (_request(_PATH, _head(sign(self._world.players[row]))), self._world.endings[row])
            for row in (self._order[row] for row in rows)
        ]

    def _with_shared_token(self, port: int) -> Iterator[Exchange]:
        order, players, endings, asked = self._order, self._players, self._world.endings, self._asked
        start, end, count = b"GET " + _PATH + b"?player_id=", b" HTTP/1.1" + self._shared, len(self._order)
        asker = (port, Tokens.SHARED)
        while True:
            row = order[asked[asker] % count]
            asked[asker] += 1
            yield start + players[row] + end, endings[row]

    def _with_own_tokens(self, port: int) -> Iterator[Exchange]:
        order, own, endings, asked = self._order, self._own, self._world.endings, self._asked
        start, end = b"GET " + _PATH + b" HTTP/1.1" + _BEFORE_TOKEN, HEAD_END
        asker = (port, Tokens.OWN)
        while asked[asker] < len(order):
            row = order[asked[asker]]
            asked[asker] += 1
            yield start + own[row] + end, endings[row]

    def _ask(self, row: int) -> bytes:
        return _request(_PATH + b"?player_id=" + self._players[row], self._shared)


_BEFORE_TOKEN = b"\r\nHost: 127.0.0.1\r\nAuthorization: Bearer "


def _head(token: bytes) -> bytes:
    return _BEFORE_TOKEN + token + HEAD_END


def _request(target: bytes, head: bytes) -> bytes:
    return b"GET " + target + b" HTTP/1.1" + head
