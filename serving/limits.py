"""Token buckets: how many requests a credential and a tenant may make. Pure: the clock is passed in."""

from __future__ import annotations


class Bucket:
    """A token bucket: `rate` tokens a second flow in, `burst` is the most it holds, and it begins full."""

    __slots__ = ("_at", "_tokens", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self._tokens = float(burst)
        self._at = 0.0

    def is_like(self, other: Bucket) -> bool:
        """Tell whether the other has the same rate and burst."""
        return (self.rate, self.burst) == (other.rate, other.burst)

    def take(self, cost: int, now: float) -> float:
        """Take `cost` tokens and give 0.0; or, if they are not there, take none and give the seconds until they are."""
        tokens = self._tokens
        elapsed = now - self._at
        # A clock set back must neither fill nor freeze the bucket.
        if elapsed > 0:
            tokens += elapsed * self.rate
            if tokens > self.burst:
                tokens = float(self.burst)
        self._at = now
        if tokens >= cost:
            self._tokens = tokens - cost
            return 0.0
        self._tokens = tokens
        return (cost - tokens) / self.rate

    def give_back(self, cost: int) -> None:
        """Put back what was taken for a request that another bucket refused."""
        self._tokens += cost
