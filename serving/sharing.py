"""Processes share the limits of credentials and tenants: each tells the others twice a second what it was asked.

One hash in Redis, `PREFIX:demand`: process → what it was asked of late, by bucket, in tokens a second. From it each
process works out its own share of every limit (`serving.limits.share`), so no request waits for Redis.

The bound: processes that know the same demands have shares that sum to 1. Tokens flow in at no more than HEADROOM
times the limit then, all buckets together hold no more than the burst, and a share that changes makes no tokens. So in
any T seconds no more is accepted than `1.05 × limit × T + burst`. Knowledge differs for a moment when demand moves or a
process comes. A smaller share therefore counts at once and a greater one an exchange later, and demand is smoothed; a
process that comes has at most the share of an equal among those it found, until the others have given way a second
later. Besides, each may owe the rest of one request or batch that is more than its share of the burst (`Bucket`):
for batches nearly as large as the burst, sent to all processes at once, that is another burst for each.

Redis away: shares stay as they were, and what becomes new meanwhile gets that of an equal. A process that says nothing
for a few seconds counts as gone, and the others take its share over.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping

import msgspec

from serving.limits import share
from serving.redis.clients import Client
from serving.world import World

EXCHANGE_EVERY_SECONDS = 0.5
SILENT_SECONDS = 5.0
# More than any process is asked; what claims more is nonsense.
_MOST_DEMAND = 1e9


class Said(msgspec.Struct, frozen=True, array_like=True):
    """What one process says.

    Attributes:
        number: another one each time, by which the others see that it lives: clocks differ between machines.
        demands: what it was asked by the name of a bucket (see `World.buckets`), in tokens a second; where not 0.
    """

    number: int
    demands: dict[str, float]


def demand_name(prefix: str) -> str:
    """Return the Redis key of the hash of what processes were asked."""
    return f"{prefix}:demand"


class LimitSharing:
    """Shares limits for one process. For one thread. Costs a pass over all credentials twice a second.

    There are never fewer processes than `siblings`, those of the same command with this one.
    """

    def __init__(self, process: str, client: Client, prefix: str, world: World, *, siblings: int) -> None:
        self._process = process
        self._client = client
        self._name = demand_name(prefix)
        self._world = world
        self._siblings = siblings
        self._numbers = itertools.count(time.time_ns())
        self._measured_at = time.monotonic()
        self._is_first = True
        # Process → the number it said last, and when that was new here.
        self._heard: dict[str, tuple[int, float]] = {}
        self._silent: list[str] = []
        world.first_share = 1 / siblings

    def exchange_if_due(self) -> None:
        """Say what this process was asked, hear what the others were, and set the shares; at most twice a second.

        Raises:
            redis.RedisError, OSError: Redis did not answer; the shares stay.
        """
        now = time.monotonic()
        seconds = now - self._measured_at
        if not self._is_first and seconds < EXCHANGE_EVERY_SECONDS:
            return
        self._is_first = False
        self._measured_at = now
        buckets = self._world.buckets()
        # At the first exchange no time has passed in which a demand could have been measured.
        own = {name: d for name, bucket in buckets.items() if (d := bucket.measure(max(seconds, 0.1)))}
        pipeline = self._client.pipeline(transaction=False)
        pipeline.hset(self._name, self._process, msgspec.msgpack.encode(Said(next(self._numbers), own)))
        if self._silent:
            pipeline.hdel(self._name, *self._silent)
        pipeline.hgetall(self._name)
        others = self._living(pipeline.execute()[-1], now)
        processes = max(1 + len(others), self._siblings)
        total = dict(own)
        for demands in others:
            for name, demand in demands.items():
                if 0 <= demand <= _MOST_DEMAND:
                    total[name] = total.get(name, 0.0) + demand
        self._world.first_share = 1 / processes
        for name, bucket in buckets.items():
            bucket.allot(share(own.get(name, 0.0), total.get(name, 0.0), processes, bucket.rate))

    def end(self) -> None:
        """Say that this process is gone, so that the others need not wait for that.

        Raises:
            redis.RedisError, OSError: Redis did not take it.
        """
        self._client.hdel(self._name, self._process)

    def _living(self, entries: Mapping[bytes, bytes], now: float) -> list[dict[str, float]]:
        """Return what the others were asked, without those silent for long, who are remembered as such."""
        living: list[dict[str, float]] = []
        heard: dict[str, tuple[int, float]] = {}
        self._silent = []
        for raw, entry in entries.items():
            process = raw.decode(errors="replace")
            if process == self._process:
                continue
            try:
                said = msgspec.msgpack.decode(entry, type=Said)
            except msgspec.MsgspecError:
                said = Said(0, {})  # of another release: a process all the same
            number, since = self._heard.get(process, (None, now))
            heard[process] = (said.number, since if number == said.number else now)
            if now - heard[process][1] > SILENT_SECONDS:
                self._silent.append(process)
            else:
                living.append(said.demands)
        self._heard = heard
        return living
