"""Token buckets: how many requests a credential and a tenant may make, and the share of that one process has.

Pure: the clock is passed in. `serving.sharing` tells the processes of each other.
"""

from __future__ import annotations

# At least this part of a limit is spread evenly, so that a process whose traffic begins is not shut before the others
# know.
EVEN_PART = 0.05
# By how much all processes' rates together may exceed the limit where several share one, so that traffic just within
# it is not refused for the sake of the even part, which stays unused where nobody asks.
HEADROOM = 1.05
# How much of a new measurement goes into the demand known so far.
_NEWS = 0.5
# Less demand than this, in tokens a second, is none.
_LEAST_DEMAND = 0.01


def share(own: float, total: float, processes: int, limit: float) -> float:
    """Return the share of a limit for one process: what it is asked, and an even part of what nobody is.

    So far below the limit traffic may move to any process at once. Near it and above, all but `EVEN_PART` of it is
    shared in proportion to what each is asked. The shares of all processes sum to 1 where their demands sum to `total`.

    Args:
        own: what this process is asked, in tokens a second.
        total: what all of them are, with this one.
        processes: how many there are, with this one.
        limit: tokens a second, of all of them together.
    """
    even = max(EVEN_PART, 1 - total / limit)
    return even / processes + ((1 - even) * own / total if total > 0 else 0.0)


class Bucket:
    """A token bucket: `rate` tokens a second flow in, `burst` is the most it holds, and it begins full.

    One process among several has a share of both (`allot`). It is then full at its share of the burst. A cost above
    that, but not above the whole burst, is taken when the bucket is full, and what is missing is owed: so one request
    passes even where a process's share is less than one token, and a batch even where it is more than the share.

    Attributes:
        rate: tokens a second, of all processes together.
        burst: the same.
        asked: tokens that were asked for so far, granted or not.
    """

    __slots__ = ("_allotted", "_asked_before", "_at", "_burst", "_demand", "_rate", "_tokens", "asked", "burst", "rate")

    def __init__(self, rate: float, burst: float) -> None:
        self.rate = rate
        self.burst = burst
        self.asked = 0
        self._rate = rate
        self._burst = float(burst)
        self._tokens = float(burst)
        self._at = 0.0
        self._allotted = 1.0
        self._asked_before = 0
        self._demand = 0.0

    def is_like(self, other: Bucket) -> bool:
        """Tell whether the other has the same rate and burst."""
        return (self.rate, self.burst) == (other.rate, other.burst)

    def take(self, cost: int, now: float) -> float:
        """Take `cost` tokens and return 0.0; if there are too few, take none and return the seconds to wait."""
        self.asked += cost
        tokens = self._tokens
        elapsed = now - self._at
        # A clock set back must neither fill nor freeze the bucket.
        if elapsed > 0:
            tokens += elapsed * self._rate
            if tokens > self._burst:  # noqa: PLR1730  # every request passes here, and min() takes longer
                tokens = self._burst
        self._at = now
        if tokens >= cost:
            self._tokens = tokens - cost
            return 0.0
        enough = self._burst if self._burst < cost <= self.burst else cost
        if tokens >= enough:
            self._tokens = tokens - cost
            return 0.0
        self._tokens = tokens
        return (enough - tokens) / self._rate

    def wait(self, now: float) -> float:
        """Return the seconds until it has a token, 0.0 if it has one; none is taken, and nothing was asked of it."""
        tokens = min(self._burst, self._tokens + max(0.0, now - self._at) * self._rate)
        enough = min(1.0, self._burst)
        return 0.0 if tokens >= enough else (enough - tokens) / self._rate

    def give_back(self, cost: int) -> None:
        """Put back what was taken for a request that another bucket refused."""
        self._tokens += cost

    def measure(self, seconds: float) -> float:
        """Return what is asked of it, in tokens a second, smoothed; `seconds` have passed since the last call."""
        asked = self.asked
        self._demand += _NEWS * ((asked - self._asked_before) / seconds - self._demand)
        self._asked_before = asked
        if self._demand < _LEAST_DEMAND:
            self._demand = 0.0
        return self._demand

    def allot(self, share: float) -> None:
        """Set the share (above 0, to 1): a smaller one counts at once, a greater one when it is given a second time.

        Thus those who have to give way have done so before the others take more. No tokens come with a greater share
        but what flows in from now on, and those above a smaller one are lost.
        """
        counts = min(share, self._allotted)
        self._allotted = share
        self._rate = self.rate * min(1.0, counts * HEADROOM)
        self._burst = self.burst * counts
