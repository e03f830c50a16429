"""Token buckets: the clock is passed in, so every figure is exact."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.limits import EVEN_PART, HEADROOM, Bucket, share


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


# --- Shares ---------------------------------------------------------------------------------------------------------


def test_share__nothing_known__an_equal_part() -> None:
    assert share(0, 0, 4, 100) == 0.25
    assert share(0, 0, 1, 100) == 1.0


def test_share__alone__the_whole() -> None:
    assert share(12.5, 12.5, 1, 100) == pytest.approx(1.0)
    assert share(125, 125, 1, 100) == pytest.approx(1.0)


def test_share__far_below_the_limit__who_is_asked_nothing_has_an_equal_part_of_the_rest() -> None:
    assert share(0, 20, 4, 100) == pytest.approx(0.2)
    assert share(20, 20, 4, 100) == pytest.approx(0.4)


@given(
    demands=st.lists(st.just(0.0) | st.floats(0.01, 1e6), min_size=1, max_size=40),
    limit=st.floats(0.1, 1e7),
)
def test_shares__any_demands__sum_to_one_with_a_floor_each(demands: list[float], limit: float) -> None:
    shares = [share(demand, sum(demands), len(demands), limit) for demand in demands]
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) >= EVEN_PART / len(demands) - 1e-12


@given(
    demands=st.lists(st.just(0.0) | st.floats(0.01, 200), min_size=2, max_size=8),
    limit=st.floats(1, 1000),
)
def test_rate__demand_within_the_limit_however_it_is_spread__is_not_refused(demands: list[float], limit: float) -> None:
    total = sum(demands)
    if not 0 < total <= limit:
        return
    for demand in demands:
        granted = limit * min(1.0, HEADROOM * share(demand, total, len(demands), limit))
        # 0.95 × 1.05 is a quarter of a per cent short of one; the burst has room for that.
        assert granted >= demand * 0.997


def test_allotted__half_of_both__begins_and_refills_to_half() -> None:
    bucket = Bucket(rate=100, burst=20)
    bucket.allot(0.5)
    assert sum(take(bucket, 1, 100.0) for _ in range(30)) == 10
    assert sum(take(bucket, 1, 100.1) for _ in range(30)) == 5
    assert sum(take(bucket, 1, 1000.0) for _ in range(30)) == 10


def test_allotted__less_counts_at_once_and_more_when_said_twice() -> None:
    bucket = Bucket(rate=100, burst=20)
    bucket.allot(0.25)
    assert sum(take(bucket, 1, 100.0) for _ in range(30)) == 5
    bucket.allot(1.0)
    assert sum(take(bucket, 1, 200.0) for _ in range(30)) == 5
    bucket.allot(1.0)
    assert sum(take(bucket, 1, 200.0) for _ in range(30)) == 0
    assert sum(take(bucket, 1, 300.0) for _ in range(30)) == 20


def test_cost_above_the_share_of_the_burst__is_taken_when_full_and_owed() -> None:
    bucket = Bucket(rate=10, burst=40)
    bucket.allot(0.25)
    assert take(bucket, 40, 100.0)
    assert not take(bucket, 1, 100.0)
    # 30 are owed, and the 31st flows in at a quarter of the rate and the headroom.
    assert bucket.take(1, 100.0) == pytest.approx(31 / (10 * 0.25 * HEADROOM))
    assert not take(bucket, 41, 1000.0)


def test_share_below_one_token__single_requests_still_pass() -> None:
    bucket = Bucket(rate=1, burst=1)
    bucket.allot(0.125)
    assert take(bucket, 1, 100.0)
    assert not take(bucket, 1, 101.0)
    assert take(bucket, 1, 110.0)


def test_demand__counts_the_refused_too_and_is_soon_forgotten() -> None:
    bucket = Bucket(rate=1, burst=1)
    for _ in range(100):
        bucket.take(1, 100.0)
    assert bucket.measure(0.5) == pytest.approx(100)
    for _ in range(20):
        demand = bucket.measure(0.5)
    assert demand == 0.0


@settings(max_examples=60, deadline=None)
@given(
    phases=st.lists(st.integers(0, 49), min_size=2, max_size=6),
    spreads=st.lists(st.lists(st.integers(0, 20), min_size=6, max_size=6), min_size=1, max_size=4),
    burst=st.integers(20, 2000),
)
def test_processes__exchanging_at_times_of_their_own__keep_the_limit_together(
    phases: list[int], spreads: list[list[int]], burst: int
) -> None:
    """Twenty seconds in steps of 10 ms; each spread of demand, in requests a step, holds for a part of them."""
    limit, steps = 200, 2000
    buckets = [Bucket(limit, burst) for _ in phases]
    board = [0.0] * len(buckets)
    for bucket in buckets:
        bucket.allot(1 / len(buckets))
    accepted = [0]
    for step in range(steps):
        now = 1000 + step / 100
        spread = spreads[step * len(spreads) // steps]
        granted = 0
        for number, bucket in enumerate(buckets):
            granted += sum(take(bucket, 1, now) for _ in range(spread[number]))
            if step % 50 == phases[number]:
                board[number] = bucket.measure(0.5)
                bucket.allot(share(board[number], sum(board), len(buckets), limit))
        accepted.append(accepted[-1] + granted)
    worst = max(accepted[end] - accepted[end - 1000] for end in range(1000, steps + 1))
    assert worst <= 1.1 * limit * 10 + burst
