"""Allocations: which of a model's versions each of the 10,000 slots belongs to, and how few of them a new weight moves.

An allocation is 10,000 bytes, one version code a slot. A change moves exactly the sum of the increases, which is the
least that any map with the new weights can move. Which slots move is decided by the phase's history where it can be:

1. If a map of this phase had these very weights and can be reached with that least movement, it is the answer.
2. Otherwise slots of the versions that shrink go back to versions that grow and held them before, those first that
   were held last. So a weight moved up and back, in one step or in many, leaves the map it started from.
3. What is still missing is a fair sample: each version that shrinks gives slots drawn from all it has left, and they
   are dealt at random to the versions that still grow. Two versions tried one after another on 5 % of the units meet
   the same units no more often than chance has it, and no version gets only those that joined another one last.

History is the newest 200 maps of the phase before the present one; what is older decides nothing.

Nothing depends on names, on the order of the versions or on their codes, with one exception that no rule can avoid:
of two versions that history leaves short of as many slots and that hold none, the lower code is dealt slots first.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from serving.formats.keys import SLOTS

CODES = 256
# How many maps history is. Each costs a read of 10 KB and some microseconds at every preview.
HISTORY = 200

Slots = npt.NDArray[np.uint8]
Counts = npt.NDArray[np.int64]
Indices = npt.NDArray[np.int64]
Keys = npt.NDArray[np.uint64]


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
    slots[np.argsort(_keys(salt, revision), kind="stable")] = np.repeat(np.array(codes, np.uint8), wanted[codes])
    return slots.tobytes()


def reallocate(
    current: bytes, target_bp: Mapping[int, int], salt: str, revision: int, history: Sequence[bytes] = ()
) -> bytes:
    """Return the map with new weights that moves exactly the sum of the increases.

    Args:
        current: the newest map.
        target_bp: basis points by version code, summing to 10,000; a code left out has none.
        salt: of the phase; with `revision` it seeds what is drawn.
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
        if np.count_nonzero(before != now) == least and np.array_equal(np.bincount(before, minlength=CODES), wanted):
            return before.tobytes()

    result = now.copy()
    surplus = (-change).clip(min=0)
    missing = change.clip(min=0)
    if past:
        _go_back(result, [*past, now], surplus, missing, _keys(f"{salt}:back", revision))
    if missing.any():
        _deal(result, now, surplus, missing, salt, revision)
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


def _go_back(result: Slots, maps: Sequence[Slots], surplus: Counts, missing: Counts, keys: Keys) -> None:
    """Give slots of shrinking versions back to growing ones that held them, newest first; counts go down."""
    now = maps[-1]
    # From the newest change of hands to the oldest: what was passed over once, for want of a giver or a taker, is
    # passed over ever after, so each slot need only be looked at where it changed hands.
    for before, after in zip(reversed(maps[:-1]), reversed(maps), strict=False):
        slots = np.flatnonzero(before != after)
        slots = slots[(missing[before[slots]] > 0) & (surplus[now[slots]] > 0) & (result[slots] == now[slots])]
        if not slots.size:
            continue
        givers, takers = np.bincount(now[slots], minlength=CODES), np.bincount(before[slots], minlength=CODES)
        if (givers > surplus).any() or (takers > missing).any():
            slots = _within(slots[np.argsort(keys[slots], kind="stable")], now, before, surplus, missing)
            givers, takers = np.bincount(now[slots], minlength=CODES), np.bincount(before[slots], minlength=CODES)
        result[slots] = before[slots]
        surplus -= givers
        missing -= takers
        if not missing.any():
            return


def _within(slots: Indices, now: Slots, before: Slots, surplus: Counts, missing: Counts) -> Indices:
    """Return those of the slots, in their order, that their givers can spare and their takers lack."""
    # Several givers and several takers compete, so this goes one by one.
    gives, gets = surplus.tolist(), missing.tolist()
    kept = []
    for slot, giver, taker in zip(slots.tolist(), now[slots].tolist(), before[slots].tolist(), strict=True):
        if gives[giver] and gets[taker]:
            kept.append(slot)
            gives[giver] -= 1
            gets[taker] -= 1
    return np.array(kept, np.int64)


def _deal(result: Slots, now: Slots, surplus: Counts, missing: Counts, salt: str, revision: int) -> None:
    """Draw what is still to leave from all that each giver has left, and deal it to the versions that still grow."""
    # Three draws of their own: were slots drawn and dealt in one order, a version dealt first would get more from the
    # giver that keeps most; and what went back would not be missing at random from what is left.
    keys = _keys(f"{salt}:leave", revision)
    leaving = []
    for giver in np.flatnonzero(surplus):
        own = np.flatnonzero((now == giver) & (result == giver))
        leaving.append(own[np.argsort(keys[own], kind="stable")[: surplus[giver]]])
    leaves = np.concatenate(leaving)
    takers = sorted(
        np.flatnonzero(missing).tolist(), key=lambda code: (-int(missing[code]), _first_slot(now, code), code)
    )
    dealt = leaves[np.argsort(_keys(f"{salt}:deal", revision)[leaves], kind="stable")]
    result[dealt] = np.repeat(np.array(takers, np.uint8), missing[takers])


def _first_slot(slots: Slots, code: int) -> int:
    held = np.flatnonzero(slots == code)
    return int(held[0]) if held.size else SLOTS


def _keys(seed: str, revision: int) -> Keys:
    """Return a random number a slot that depends on the arguments alone, today and after any upgrade."""
    stream = hashlib.shake_256(f"{seed}:{revision}".encode()).digest(8 * SLOTS)
    return np.frombuffer(stream, ">u8").astype(np.uint64)


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
