"""Allocations: which of a model's versions each of the 10,000 slots belongs to, and how few of them a new weight moves.

An allocation is 10,000 bytes, one version code a slot. A change moves exactly the sum of the increases, which is the
least that any map with the new weights can move. Which slots move is chosen so that a weight moved up and back, in
one step or in many, leaves the map it started from:

1. If a map of this phase had these very weights and can be reached with that least movement, it is the answer.
2. Otherwise the phase's maps are walked from the newest to the oldest, and a slot of a version that shrinks goes back
   to the version it belonged to then, where that version grows.
3. What is still missing leaves last in, first out; slots that came together leave in an order shuffled by salt and
   revision, and are dealt to the versions that still grow.

Nothing depends on names, on the order of the versions or on their codes, with one exception that no rule can avoid:
of two versions that grow by the same and hold no slot, the lower code is dealt slots first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.formats.keys import SLOTS

CODES = 256
# How far back the walk goes. A phase with more revisions forgets its oldest for this purpose only.
HISTORY = 200

Slots = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]


class BadAllocation(ValueError):
    """Weights or a map that no rollout can have."""


@dataclass(frozen=True)
class Flow:
    """Slots that go from one version to another. One slot is one basis point of all units."""

    from_code: int
    to_code: int
    bp: int


def first_allocation(target_bp: Mapping[int, int], salt: str, revision: int) -> bytes:
    """Return a phase's first map: shuffled slots, dealt to the versions by descending weight.

    Raises:
        BadAllocation: the weights do not sum to 10,000, or a code is not 0 … 255.
    """
    wanted = _counts_of(target_bp)
    codes = sorted(np.flatnonzero(wanted).tolist(), key=lambda code: (-int(wanted[code]), code))
    slots: Slots = np.empty(SLOTS, np.uint8)
    slots[_shuffled(salt, revision)] = np.repeat(np.array(codes, np.uint8), wanted[codes])
    return slots.tobytes()


def reallocate(
    current: bytes, target_bp: Mapping[int, int], salt: str, revision: int, history: Sequence[bytes] = ()
) -> bytes:
    """Return the map with new weights that moves exactly the sum of the increases. Takes a few milliseconds.

    Args:
        current: the newest map.
        target_bp: basis points by version code, summing to 10,000; a code left out has none.
        salt: of the phase; with `revision` it seeds the order in which slots that came together leave.
        revision: the number that the new map will have.
        history: the maps of this phase before `current`, oldest first; the newest 200 are used.

    Raises:
        BadAllocation: the weights do not sum to 10,000, a code is not 0 … 255, or a map is not 10,000 bytes.
    """
    wanted = _counts_of(target_bp)
    now = _slots_of(current)
    past = [_slots_of(allocation) for allocation in history[-HISTORY:]]
    change = wanted - np.bincount(now, minlength=CODES)
    least = int(change.clip(min=0).sum())
    if not least:
        return current

    for before in reversed(past):
        if np.array_equal(np.bincount(before, minlength=CODES), wanted) and np.count_nonzero(before != now) == least:
            return before.tobytes()

    result = now.copy()
    surplus = (-change).clip(min=0)
    missing = change.clip(min=0)
    order = _shuffled(salt, revision)
    leaving_order = order[np.argsort(-_arrivals([*past, now])[order], kind="stable")]
    for before in reversed(past):
        _go_back(result, now, before, surplus, missing, leaving_order)
        if not missing.any():
            break
    _deal(result, now, surplus, missing, leaving_order, order)
    return result.tobytes()


def flows(before: bytes, after: bytes) -> list[Flow]:
    """Return what moves between two maps of one phase, the largest flow first."""
    old, new = _slots_of(before), _slots_of(after)
    moved = old != new
    pairs, counts = np.unique(old[moved].astype(np.int64) * CODES + new[moved], return_counts=True)
    found = [Flow(pair // CODES, pair % CODES, bp) for pair, bp in zip(pairs.tolist(), counts.tolist(), strict=True)]
    return sorted(found, key=lambda flow: (-flow.bp, flow.from_code, flow.to_code))


def expected_flows(before: bytes, after: bytes) -> list[Flow]:
    """Return what is to be expected to move between maps of two phases, where every unit gets a new slot."""
    old, new = weights_of(before), weights_of(after)
    found = [
        Flow(a, b, round(weight_a * weight_b / SLOTS))
        for a, weight_a in old.items()
        for b, weight_b in new.items()
        if a != b
    ]
    return sorted((flow for flow in found if flow.bp), key=lambda flow: (-flow.bp, flow.from_code, flow.to_code))


def weights_of(allocation: bytes) -> dict[int, int]:
    """Return the basis points of each version code that has any, by code."""
    counts = np.bincount(_slots_of(allocation), minlength=CODES)
    return {int(code): int(counts[code]) for code in np.flatnonzero(counts)}


def _go_back(
    result: Slots, now: Slots, before: Slots, surplus: Counts, missing: Counts, leaving_order: npt.NDArray[np.int64]
) -> None:
    """Give slots of shrinking versions back to growing ones that held them in an earlier map; counts go down."""
    may_move = (result == now) & (surplus[now] > 0) & (missing[before] > 0)
    candidates = leaving_order[may_move[leaving_order]]
    # A slot may go only while both its versions still have something to give and to get. One version on one side is
    # the usual case, but several on both sides compete, so this goes one by one: at most 10,000 steps in a reweight.
    for slot in candidates.tolist():
        giver, taker = int(now[slot]), int(before[slot])
        if surplus[giver] and missing[taker]:
            result[slot] = taker
            surplus[giver] -= 1
            missing[taker] -= 1


def _deal(
    result: Slots,
    now: Slots,
    surplus: Counts,
    missing: Counts,
    leaving_order: npt.NDArray[np.int64],
    order: npt.NDArray[np.int64],
) -> None:
    """Let the rest leave last in, first out, and deal it, shuffled over all givers, to the versions that still grow."""
    leaves = np.zeros(SLOTS, np.bool_)
    for giver in np.flatnonzero(surplus):
        own = leaving_order[(now[leaving_order] == giver) & (result[leaving_order] == giver)]
        leaves[own[: surplus[giver]]] = True
    takers = sorted(
        np.flatnonzero(missing).tolist(), key=lambda code: (-int(missing[code]), _first_slot(now, code), code)
    )
    result[order[leaves[order]]] = np.repeat(np.array(takers, np.uint8), missing[takers])


def _first_slot(slots: Slots, code: int) -> int:
    held = np.flatnonzero(slots == code)
    return int(held[0]) if held.size else SLOTS


def _arrivals(maps: Sequence[Slots]) -> npt.NDArray[np.int64]:
    """Return for each slot the index of the map in which it came to its present version."""
    arrived = np.zeros(SLOTS, np.int64)
    for index in range(1, len(maps)):
        arrived[maps[index] != maps[index - 1]] = index
    return arrived


def _shuffled(salt: str, revision: int) -> npt.NDArray[np.int64]:
    """Return the 10,000 slots in an order that depends on salt and revision alone, today and after any upgrade."""
    stream = hashlib.shake_256(f"{salt}:{revision}".encode()).digest(8 * SLOTS)
    return np.argsort(np.frombuffer(stream, ">u8"), kind="stable")


def _counts_of(weights_bp: Mapping[int, int]) -> Counts:
    counts = np.zeros(CODES, np.int64)
    for code, bp in weights_bp.items():
        if not 0 <= code < CODES:
            raise BadAllocation(f"{code} is no version code")
        if bp < 0:
            raise BadAllocation("a weight is below zero")
        counts[code] = bp
    if counts.sum() != SLOTS:
        raise BadAllocation(f"the weights sum to {counts.sum()}, not to {SLOTS}")
    return counts


def _slots_of(allocation: bytes) -> Slots:
    slots = np.frombuffer(allocation, np.uint8)
    if slots.size != SLOTS:
        raise BadAllocation(f"a map has {slots.size} slots, not {SLOTS}")
    return slots
