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

    def wait_seconds(self, cost: int, now: float) -> float:
        """Give how long until `cost` tokens are there: 0.0 if they are. Takes nothing."""
        elapsed = now - self._at
        # A clock set back must neither fill nor freeze the bucket.
        if elapsed > 0:
            self._tokens = min(self.burst, self._tokens + elapsed * self.rate)
        self._at = now
        return 0.0 if self._tokens >= cost else (cost - self._tokens) / self.rate

    def take(self, cost: int) -> None:
        """Take tokens that `wait_seconds` has just found to be there."""
        self._tokens -= cost
