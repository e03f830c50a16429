"""What the allocation promises, on drawn weights and drawn histories."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from hashlib import md5

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models_registry.rollouts.allocation import (
    HISTORY,
    BadAllocation,
    Flow,
    expected_flows,
    first_allocation,
    flows,
    reallocate,
    weights_of,
)
from serving.formats.keys import slot

SALT = "5f1c0a9e5f1c0a9e5f1c0a9e5f1c0a9e"
Weights = dict[int, int]


def weights_over(codes: Sequence[int]) -> st.SearchStrategy[Weights]:
    cuts = st.lists(st.integers(0, 10_000), min_size=len(codes) - 1, max_size=len(codes) - 1).map(sorted)
    return cuts.map(
        lambda at: {code: end - start for code, start, end in zip(codes, [0, *at], [*at, 10_000], strict=True)}
    )


def walks(codes: Sequence[int] = (0, 3, 7, 255), *, longest: int = 6) -> st.SearchStrategy[list[Weights]]:
    return st.lists(weights_over(codes), min_size=2, max_size=longest)


def walk(path: Sequence[Weights], salt: str = SALT) -> list[bytes]:
    maps = [first_allocation(path[0], salt, 1)]
    for weights in path[1:]:
        maps.append(reallocate(maps[-1], weights, salt, len(maps) + 1, maps[:-1]))
    return maps


def moved(before: bytes, after: bytes) -> int:
    return int(np.count_nonzero(np.frombuffer(before, np.uint8) != np.frombuffer(after, np.uint8)))


def nonzero(weights: Weights) -> Weights:
    return {code: bp for code, bp in weights.items() if bp}


def sum_of_increases(before: Weights, after: Weights) -> int:
    return sum(max(0, after.get(code, 0) - before.get(code, 0)) for code in after)


@given(walks())
def test_reallocate__any_walk__has_exact_counts(path: list[Weights]) -> None:
    assert [weights_of(allocation) for allocation in walk(path)] == [nonzero(weights) for weights in path]


@given(walks())
def test_reallocate__any_step__moves_exactly_the_sum_of_the_increases(path: list[Weights]) -> None:
    maps = walk(path)
    for number in range(1, len(maps)):
        assert moved(maps[number - 1], maps[number]) == sum_of_increases(path[number - 1], path[number])


@given(walks(), weights_over((0, 3, 7, 255)))
def test_reallocate__one_change_undone_after_any_history__restores_the_map(
    path: list[Weights], detour: Weights
) -> None:
    maps = walk([*path, detour, path[-1]])
    assert maps[-1] == maps[-3]


@st.composite
def excursions(draw: st.DrawFn) -> tuple[list[Weights], list[Weights]]:
    """Draw a history, then steps that move version 0 up, with others giving, and down again, with others taking.

    Every step up and every step down has its own sizes and its own split over the others, who never get more than
    they had; in between it may turn around. It ends where it began.
    """
    codes = (0, 1, 2, 3)
    history = draw(st.lists(weights_over(codes), min_size=1, max_size=4))
    home = history[-1]
    steps = []
    away = dict.fromkeys(codes[1:], 0)
    for _ in range(draw(st.integers(1, 5))):
        for code in codes[1:]:
            away[code] = draw(st.integers(0, home[code]), label=f"away from {code}")
        steps.append(dict(away))
    # Only steps in one direction: version 0 goes up, or it goes down, and nobody moves against it.
    kept: list[dict[int, int]] = [dict.fromkeys(codes[1:], 0)]
    for step in steps:
        goes_up = sum(step.values()) >= sum(kept[-1].values())
        choose: Callable[[int, int], int] = max if goes_up else min
        kept.append({code: choose(step[code], kept[-1][code]) for code in codes[1:]})
    path = [{0: home[0] + sum(step.values()), **{c: home[c] - step[c] for c in step}} for step in kept[1:]]
    return history, [*path, home]


@given(excursions())
def test_reallocate__one_weight_up_and_back_in_many_steps__restores_the_map(
    case: tuple[list[Weights], list[Weights]],
) -> None:
    history, excursion = case
    maps = walk([*history, *excursion])
    assert maps[-1] == maps[len(history) - 1]


def test_reallocate__ramp_of_a_newcomer_and_back_in_other_steps__restores_the_map() -> None:
    start = {0: 6000, 1: 3000, 2: 1000}
    up = [{0: 5500, 1: 3000, 2: 1500}, {0: 5500, 1: 2000, 2: 2500}, {0: 5000, 1: 1000, 2: 4000}]
    back = [{0: 5000, 1: 2000, 2: 3000}, {0: 5750, 1: 2250, 2: 2000}, start]
    maps = walk([start, *up, *back])
    assert maps[-1] == maps[0]


@given(walks(), st.data())
def test_reallocate__weights_of_an_earlier_map_that_least_movement_reaches__restores_it(
    path: list[Weights], data: st.DataObject
) -> None:
    maps = walk(path)
    number = data.draw(st.integers(0, len(maps) - 1))
    after = reallocate(maps[-1], path[number], SALT, len(maps) + 1, maps[:-1])
    if moved(maps[-1], maps[number]) == sum_of_increases(path[-1], path[number]):
        assert after in maps


def test_reallocate__back_past_steps_that_went_elsewhere__restores_the_map() -> None:
    start = {0: 2000, 1: 0, 2: 8000}
    others = [{0: 0, 1: 4000, 2: 6000}, {0: 4000, 1: 0, 2: 6000}, {0: 8000, 1: 0, 2: 2000}, {0: 0, 1: 8000, 2: 2000}]
    maps = walk([start, *others, start])
    assert maps[-1] == maps[0]


def test_reallocate__the_example_of_the_design__moves_ten_percent_from_the_first_to_the_third() -> None:
    before, after = walk([{0: 6000, 1: 3000, 2: 1000}, {0: 5000, 1: 3000, 2: 2000}])
    assert flows(before, after) == [Flow(0, 2, 1000)]


def test_reallocate__two_steps_up_then_a_part_down__the_last_in_leave_first() -> None:
    maps = walk([{0: 9000, 1: 1000}, {0: 8000, 1: 2000}, {0: 7000, 1: 3000}, {0: 7500, 1: 2500}])
    owners = [np.frombuffer(allocation, np.uint8) for allocation in maps]
    left = owners[3] != owners[2]
    assert left.sum() == 500
    assert (owners[1][left] == 0).all()


def owners(allocation: bytes) -> npt.NDArray[np.uint8]:
    return np.frombuffer(allocation, np.uint8)


def is_by_chance(hits: int, drawn: int, marked: int, of: int, *, sigmas: float = 4) -> bool:
    """Return whether so many marked ones among those drawn from `of` are what an even draw gives."""
    share = marked / of
    deviation = math.sqrt(drawn * share * (1 - share) * (of - drawn) / max(1, of - 1))
    return abs(hits - drawn * share) <= sigmas * deviation + 1


def test_reallocate__newcomers_one_after_another__overlap_by_chance() -> None:
    path = [{0: 10_000}]
    for code in range(1, 9):
        path += [{0: 9500, code: 500}, {0: 10_000}]
    maps = walk(path)
    tried = [owners(maps[2 * code - 1]) == code for code in range(1, 9)]
    overlaps = [int((one & other).sum()) for one, other in itertools.combinations(tried, 2)]
    assert all(is_by_chance(overlap, 500, 500, 10_000) for overlap in overlaps)
    assert np.any(tried, axis=0).sum() > 3000


def test_reallocate__newcomer_in_a_promoted_chain__gets_slots_of_all_ages() -> None:
    ramp = [{0: 10_000 - bp, 1: bp} for bp in (0, 500, 2500, 5000, 10_000)]
    maps = walk([*ramp, {1: 9500, 2: 500}])
    drawn = owners(maps[-1]) == 2
    for before, after in itertools.pairwise(maps[:5]):
        joined = owners(before) != owners(after)
        assert is_by_chance(int((joined & drawn).sum()), 500, int(joined.sum()), 10_000)


@given(walks((0, 3, 7), longest=5), st.integers(1, 10_000))
def test_reallocate__newcomer_after_any_history__gets_a_fair_sample_of_each_giver(
    path: list[Weights], share_bp: int
) -> None:
    kept = {code: bp - bp * share_bp // 10_000 for code, bp in path[-1].items()}
    maps = walk([*path, {**kept, 255: 10_000 - sum(kept.values())}])
    drawn = owners(maps[-1]) == 255
    for code, bp in path[-1].items():
        of_giver = owners(maps[-2]) == code
        always = of_giver & np.all([owners(allocation) == code for allocation in maps[:-1]], axis=0)
        if bp:
            # 4 would be passed now and then in so many examples.
            assert is_by_chance(int((drawn & always).sum()), bp - kept[code], int(always.sum()), bp, sigmas=6)


def test_reallocate__two_newcomers_of_unlike_givers__each_gets_its_part_of_both() -> None:
    maps = walk([{0: 9000, 1: 1000}, {0: 8500, 1: 500, 2: 600, 3: 400}])
    from_second = owners(maps[0]) == 1
    assert is_by_chance(int((from_second & (owners(maps[1]) == 2)).sum()), 600, 500, 1000)


def test_reallocate__newcomer_while_history_is_owed__gets_a_fair_sample_of_the_rest() -> None:
    maps = walk([{0: 6000, 1: 4000}, {0: 4000, 1: 6000}, {0: 5000, 1: 4000, 2: 1000}])
    joined = (owners(maps[0]) == 0) & (owners(maps[1]) == 1)
    assert int((joined & (owners(maps[2]) == 0)).sum()) == 1000
    assert is_by_chance(int((joined & (owners(maps[2]) == 2)).sum()), 1000, 1000, 5000)


def test_reallocate__up_and_back_in_single_steps_within_its_history__restores_the_map() -> None:
    up = [{0: 10_000 - bp, 1: bp} for bp in range(HISTORY // 2 + 1)]
    maps = walk([*up, *reversed(up[:-1])])
    assert maps[-1] == maps[0]


@pytest.mark.slow
def test_reallocate__a_million_units__meet_a_newcomer_and_its_givers_ages_by_chance() -> None:
    maps = walk([{0: 10_000}, {0: 5000, 1: 5000}, {1: 10_000}, {1: 9500, 2: 500}])
    digests = b"".join(md5(f"{SALT}:player{n}".encode(), usedforsecurity=False).digest() for n in range(1_000_000))
    slots = (np.frombuffer(digests, ">u8")[::2] >> 4) % 10_000
    assert slots[:100].tolist() == [slot(SALT, f"player{n}") for n in range(100)]
    units = np.bincount(slots.astype(np.int64), minlength=10_000)
    drawn, early = owners(maps[-1]) == 2, owners(maps[1]) == 1
    assert abs(units[drawn].sum() - 50_000) <= 4 * math.sqrt(1_000_000 * 0.05 * 0.95)
    # What is drawn are slots of about 100 units, so that is what chance goes by.
    assert is_by_chance(round(units[drawn & early].sum() / 100), 500, 5000, 10_000)


def test_reallocate__slots_that_came_together__leave_in_an_order_of_salt_and_revision() -> None:
    start = first_allocation({0: 10_000}, SALT, 1)
    halves = [
        reallocate(start, {0: 5000, 1: 5000}, salt, revision)
        for salt, revision in [(SALT, 2), (SALT, 2), (SALT, 3), ("b" * 32, 2)]
    ]
    assert halves[0] == halves[1]
    assert len(set(halves)) == 3


@given(walks(longest=4), st.permutations(range(8)))
@settings(max_examples=60)
def test_reallocate__versions_with_other_codes__get_the_same_slots(path: list[Weights], order: list[int]) -> None:
    codes = (0, 3, 7, 255)
    # Equal first weights, and newcomers that grow alike, are told apart by nothing but their codes: the stated limit.
    path = [weights for weights in path if len(set(weights.values())) == len(codes)]
    if not path:
        return
    other = dict(zip(codes, order[: len(codes)], strict=True))
    table = bytes(other.get(code, 0) for code in range(256))
    renamed = walk([{other[code]: bp for code, bp in weights.items()} for weights in path])
    assert renamed == [allocation.translate(table) for allocation in walk(path)]


@given(walks(longest=4))
@settings(max_examples=30)
def test_reallocate__weights_named_in_another_order__get_the_same_slots(path: list[Weights]) -> None:
    assert walk([dict(reversed(weights.items())) for weights in path]) == walk(path)


def test_reallocate__history_longer_than_it_keeps__still_exact() -> None:
    path = [{0: 10_000 - bp, 1: bp} for bp in range(HISTORY + 40)]
    maps = walk(path)
    back = reallocate(maps[-1], path[10], SALT, len(maps) + 1, maps[:-1])
    assert weights_of(back) == path[10]
    assert moved(maps[-1], back) == sum_of_increases(path[-1], path[10])


def test_first_allocation__two_versions__are_shuffled_over_all_slots() -> None:
    allocation = first_allocation({0: 5000, 1: 5000}, SALT, 1)
    in_the_first_half = allocation[:5000].count(0)
    # Hypergeometric with standard deviation 25.
    assert 2375 < in_the_first_half < 2625


def test_expected_flows__a_new_phase__is_the_product_of_the_shares() -> None:
    before = first_allocation({0: 6000, 1: 4000}, SALT, 1)
    after = first_allocation({0: 6000, 1: 4000}, "b" * 32, 2)
    assert expected_flows(before, after) == [Flow(0, 1, 2400), Flow(1, 0, 2400)]


@pytest.mark.parametrize("weights", [{0: 9999}, {0: 10_001}, {}, {0: 10_001, 1: -1}, {256: 10_000}, {-1: 10_000}])
def test_reallocate__weights_that_no_rollout_has__are_refused(weights: Weights) -> None:
    with pytest.raises(BadAllocation):
        reallocate(first_allocation({0: 10_000}, SALT, 1), weights, SALT, 2)


def test_reallocate__a_map_of_another_length__is_refused() -> None:
    with pytest.raises(BadAllocation):
        reallocate(b"\0" * 9999, {0: 10_000}, SALT, 2)
