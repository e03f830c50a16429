"""Token buckets: the clock is passed in, so every figure is exact."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.limits import Bucket


def take(bucket: Bucket, cost: int, now: float) -> bool:
    return bucket.take(cost, now) == 0.0


def test_bucket__begins_full_and_refills_at_its_rate() -> None:
    bucket = Bucket(rate=10, burst=20)
    assert sum(take(bucket, 1, 100.0) for _ in range(30)) == 20
    assert sum(take(bucket, 1, 100.5) for _ in range(30)) == 5
    assert sum(take(bucket, 1, 1000.0) for _ in range(30)) == 20


def test_wait__is_how_long_until_the_cost_is_there() -> None:
    bucket = Bucket(rate=4, burst=8)
    assert bucket.take(8, 50.0) == 0.0
    assert bucket.take(2, 50.0) == pytest.approx(0.5)
    assert bucket.take(2, 50.25) == pytest.approx(0.25)
    assert bucket.take(2, 50.5) == 0.0


def test_given_back__is_there_again() -> None:
    bucket = Bucket(rate=1, burst=3)
    assert take(bucket, 3, 50.0)
    bucket.give_back(2)
    assert take(bucket, 2, 50.0)
    assert not take(bucket, 1, 50.0)


def test_clock_set_back__neither_fills_nor_freezes() -> None:
    bucket = Bucket(rate=1, burst=5)
    for _ in range(5):
        assert take(bucket, 1, 1000.0)
    assert not take(bucket, 1, 500.0)
    assert take(bucket, 1, 501.0)


@given(
    rate=st.integers(1, 50),
    burst=st.integers(1, 100),
    arrivals=st.lists(st.tuples(st.floats(0, 2), st.integers(1, 20)), max_size=200),
)
def test_any_arrivals__no_more_than_rate_and_burst_allow(
    rate: int, burst: int, arrivals: list[tuple[float, int]]
) -> None:
    bucket, now, accepted = Bucket(rate, burst), 1000.0, 0
    for pause, cost in arrivals:
        now += pause
        accepted += cost if take(bucket, cost, now) else 0
        assert accepted <= burst + rate * (now - 1000.0) + 1e-6
