"""How the values of each field are spread, and how far that has moved from the table that is served.

What is counted are the rows of one range of digests: digests being hashes, that is a random sample, and in every load
the same players. So a table of any size costs the same, and no old table is read again: the counts of each load stay
with its report, in bins of that load's own choosing, and the next load is counted in those bins too.

The measure is the population stability index, the sum over the bins of (p - q) · ln(p / q), p and q being the shares
now and before: N. Siddiqi, “Credit Risk Scorecards”, Wiley 2006, with its rule of thumb (below 0.1 no shift worth the
name, above 0.25 a large one). Between two samples of one population it is about (1/N + 1/M) times a chi-square variable
with bins - 1 degrees of freedom: B. Yurdakul and J. Naranjo, “Statistical properties of the population stability
index”, Journal of Risk Model Validation, 2020. Small samples therefore have a large index by chance alone, which is why
a limit is never below what chance exceeds once in ten thousand times.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, assert_never

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from models_registry.loading.arrow import Numbers, storable
from models_registry.loading.columns import MAX_SHOWN, shown
from models_registry.loading.field_types import field_type, longest_payload, scalar_type
from models_registry.loading.report import Bin, FieldSpread
from serving.formats.layouts import Field, Kind, Layout, List, Scalar, ScalarKind, String
from tenants.figures import share

# About 0.1 percentage points of a share, and an index of 0.0001, are chance in a sample of this size.
SAMPLE_ROWS = 2**18
SAMPLE_BYTES = 32 * 2**20
# Below this an index says more about luck than about the values.
MIN_ROWS = 200
VALUE_BINS = 20
NEW_BINS = 5
NUMBER_BINS = 10
# Chance exceeds this many standard deviations of a normal variable once in ten thousand times.
CHANCE_Z = 3.719
# Added to every count, so that a bin that was empty once has a logarithm.
PSEUDO_COUNT = 0.5


@dataclass(frozen=True)
class Bins:
    """How values are told apart: by value, or numbers by bounds.

    Attributes:
        values: each has a bin of its own; one more is for all others.
        uppers: ascending bounds of numbers, each the last value of its bin; one more bin is for what is above. None
            where bins are by value.
    """

    values: tuple[Any, ...] = ()
    uppers: tuple[float, ...] | None = None

    def labels(self, *, is_whole: bool) -> list[str]:
        """Return each bin's name."""
        if self.uppers is None:
            return [*(_label(value, is_whole=is_whole) for value in self.values), "anything else"]
        bounds = [_label(bound, is_whole=is_whole) for bound in self.uppers]
        first = [f"up to {bounds[0]}"]
        between = []
        for below, upper, words in zip(self.uppers, self.uppers[1:], bounds[1:], strict=False):
            if not is_whole:
                between.append(f"above {_label(below, is_whole=False)} to {words}")
            elif upper == below + 1:
                between.append(words)
            else:
                between.append(f"{_label(below + 1, is_whole=True)} … {words}")
        return [*first, *between, f"above {bounds[-1]}"]


@dataclass(frozen=True)
class Aspect:
    """One thing that can be counted about a field: its values, or the lengths of its lists or texts.

    Attributes:
        name: the field's.
        kind: what is counted, such as `uint` or `list length`.
        rows: how many rows were sampled.
        values: texts as an Arrow array or numbers as a numpy one, without nulls and without what no layout holds.
        absent: how many are null.
        unfit: how many values the field cannot hold. Their load is rejected.
        is_whole: whether its numbers are whole ones.
    """

    name: str
    kind: str
    rows: int
    values: pa.Array | Numbers
    absent: int = 0
    unfit: int = 0
    is_whole: bool = True

    def choose_bins(self) -> Bins:
        """Return bins of the commonest values if there are few, else by tenths of the values."""
        if isinstance(self.values, pa.Array):
            found = pc.value_counts(self.values)
            commonest = np.argsort(-found.field("counts").to_numpy(), kind="stable")[:VALUE_BINS]
            return Bins(values=tuple(found.field("values").take(pa.array(commonest)).to_pylist()))
        ordered = np.sort(self.values)
        distinct = np.unique(ordered)
        if len(distinct) <= VALUE_BINS:
            return Bins(values=tuple(distinct.tolist()))
        # The last value of each tenth but the tenth; whole numbers, because a share of 0.3 is no exact float.
        last = [-(-len(ordered) * tenth // NUMBER_BINS) - 1 for tenth in range(1, NUMBER_BINS)]
        return Bins(uppers=tuple(np.unique(ordered[last]).tolist()))

    def count(self, bins: Bins) -> list[int]:
        """Return how many values are in each bin; then how many are absent, then how many do not fit."""
        bin_numbers: npt.NDArray[Any]
        bin_count = len(bins.values if bins.uppers is None else bins.uppers) + 1
        if not len(self.values):
            return [0] * bin_count + [self.absent, self.unfit]
        if isinstance(self.values, pa.Array):
            wanted = pa.array(bins.values, self.values.type)
            bin_numbers = pc.index_in(self.values, value_set=wanted).fill_null(len(bins.values)).to_numpy()
        elif bins.uppers is not None:
            bin_numbers = np.searchsorted(np.array(bins.uppers), self.values, side="left")
        else:
            known = np.append(np.array(bins.values, np.float64), np.nan)
            near = np.searchsorted(known[:-1], self.values)
            bin_numbers = np.where(known[near] == self.values, near, len(bins.values))
        return [*np.bincount(bin_numbers, minlength=bin_count).tolist(), self.absent, self.unfit]


@dataclass(frozen=True)
class Shift:
    """One aspect of a field as it is now and as it was, in the same bins.

    Attributes:
        aspect: what was counted.
        bins: those of before, or of now where there was no before.
        counts: now, as `Aspect.count` gives them.
        counts_before: then; None where there is nothing to compare with.
        rows_before: how many rows they were counted in.
    """

    aspect: Aspect
    bins: Bins
    counts: list[int]
    counts_before: list[int] | None
    rows_before: int

    @property
    def psi(self) -> float | None:
        """The population stability index; None without a before, and for too few rows."""
        if self.counts_before is None or min(self.aspect.rows, self.rows_before) < MIN_ROWS:
            return None
        return population_stability_index(self.counts, self.counts_before)

    @property
    def chance(self) -> float:
        """What chance alone exceeds once in ten thousand times. The items of one list are no independent draws."""
        bins = sum(1 for now, before in zip(self.counts, self.counts_before or [], strict=True) if now or before)
        return psi_by_chance(bins, self.aspect.rows, self.rows_before)

    def moved_most(self) -> str:
        """Say which bin's share moved most."""
        label, now, before = max(self._shares(), key=lambda found: abs(found[1] - (found[2] or 0)))
        return f"“{label}” {share(before or 0)} → {share(now)}"

    def as_field(self) -> FieldSpread:
        """Return what a report shows."""
        bins = [
            Bin(label, round(now, 6), None if before is None else round(before, 6))
            for label, now, before in self._shares()
        ]
        psi = self.psi
        return FieldSpread(self.aspect.name, self.aspect.kind, tuple(bins), None if psi is None else round(psi, 4))

    def _shares(self) -> Iterator[tuple[str, float, float | None]]:
        """Yield label, share and share before of each bin that something is or was in."""
        labels = [*self.bins.labels(is_whole=self.aspect.is_whole), "absent", "does not fit"]
        total, total_before = sum(self.counts), sum(self.counts_before or [])
        befores: Sequence[int | None] = self.counts_before or [None] * len(self.counts)
        for label, now, before in zip(labels, self.counts, befores, strict=True):
            if now or before:
                was = None if before is None else before / total_before if total_before else 0.0
                yield label, now / total if total else 0.0, was


# --- The measure ------------------------------------------------------------------------------------------------------


def population_stability_index(now: Sequence[int], before: Sequence[int]) -> float:
    """Return the index of two lists of counts of the same bins; bins that are empty in both do not count."""
    both = [(n, b) for n, b in zip(now, before, strict=True) if n or b]
    total, total_before = sum(now), sum(before)
    if not total or not total_before:
        return 0.0
    more = PSEUDO_COUNT * len(both)
    shares = [((n + PSEUDO_COUNT) / (total + more), (b + PSEUDO_COUNT) / (total_before + more)) for n, b in both]
    return sum((p - q) * math.log(p / q) for p, q in shares)


def psi_by_chance(bins: int, rows: int, rows_before: int) -> float:
    """Return the index that two samples of one population exceed once in ten thousand times.

    The quantile of chi-square is E. Wilson's and M. Hilferty's (“The distribution of chi-square”, PNAS 17, 1931).
    """
    freedom = bins - 1
    if freedom < 1 or not rows or not rows_before:
        return 0.0
    ninth = 2 / (9 * freedom)
    chi_square = freedom * (1 - ninth + CHANCE_Z * math.sqrt(ninth)) ** 3
    return chi_square * (1 / rows + 1 / rows_before)


# --- Counting ---------------------------------------------------------------------------------------------------------


def sample_rows(layout: Layout) -> int:
    """Return how many rows are sampled: fewer where they are long."""
    return max(1024, min(SAMPLE_ROWS, SAMPLE_BYTES // longest_payload(layout)))


def measure(
    layout: Layout, sample: pa.Table, kept: Sequence[Mapping[str, Any]]
) -> tuple[list[Shift], list[dict[str, Any]]]:
    """Count every field that has a column; return the shifts from the served table, and what is kept for the next load.

    `kept` is what was kept of the served table; empty without one.
    """
    before = {(found["name"], found["kind"]): found for found in kept}
    shifts, to_keep = [], []
    for field in layout.fields:
        if field.name not in sample.column_names:
            continue
        for choices in _aspects(field, sample[field.name].combine_chunks()):
            own = choices[0]
            bins = own.choose_bins()
            counts = own.count(bins)
            own_bins = {"values": list(bins.values)} if bins.uppers is None else {"uppers": list(bins.uppers)}
            to_keep.append({"name": own.name, "kind": own.kind, "rows": own.rows, **own_bins, "counts": counts})
            shift = Shift(own, bins, counts, None, 0)
            for aspect in choices:
                was = before.get((aspect.name, aspect.kind))
                if was is not None:
                    bins, counts_before = _bins_of_before(was, aspect)
                    shift = Shift(aspect, bins, aspect.count(bins), counts_before, was["rows"])
            shifts.append(shift)
    return shifts, to_keep


def _bins_of_before(was: Mapping[str, Any], aspect: Aspect) -> tuple[Bins, list[int]]:
    """Return the bins of before and what was in them; new values get bins too where surely there were none."""
    counts = list(was["counts"])
    if "uppers" in was:
        return Bins(uppers=tuple(was["uppers"])), counts
    known, others = dict(zip(was["values"], counts, strict=False)), counts[len(was["values"]) :]
    if not others[0]:
        # So that a report says what took a value's place, and not only that something did.
        new = [value for value in aspect.choose_bins().values if value not in known]
        known |= dict.fromkeys(new[:NEW_BINS], 0)
    values = list(known) if isinstance(aspect.values, pa.Array) else sorted(known)
    return Bins(values=tuple(values)), [*(known[value] for value in values), *others]


def _aspects(field: Field, column: pa.Array) -> Iterator[list[Aspect]]:
    """Yield what is counted of a field. Where that is one of several things the first is what suits its values."""
    rows, absent = len(column), column.null_count
    present = column.drop_null()
    # A column without a single value may be of any type.
    if absent == rows:
        yield [Aspect(field.name, what, rows, np.zeros(0), absent) for what in _counted(field.kind)]
        return
    match field.kind:
        case String():
            lengths = Aspect(field.name, "string length", rows, _float(pc.binary_length(present)), absent)
            texts = Aspect(field.name, "string", rows, storable(present), absent)
            yield [texts, lengths] if _are_few(texts) else [lengths, texts]
        case List() as kind:
            yield [Aspect(field.name, "list length", rows, _float(pc.list_value_length(present)), absent)]
            yield [_scalars(field.name, "list items", kind.item, present.flatten(), rows)]
        case Scalar() as kind:
            yield [_scalars(field.name, field_type(kind).name, kind, column, rows)]
        case other:
            assert_never(other)


def _counted(kind: Kind) -> list[str]:
    """Return what is counted of a field without a value."""
    match kind:
        case String():
            return ["string length", "string"]
        case List():
            return ["list length"]
        case Scalar():
            return [field_type(kind).name]
        case other:
            assert_never(other)


def _are_few(texts: Aspect) -> bool:
    """Tell whether a few short texts are most of them."""
    if not len(texts.values):
        return False
    bins = texts.choose_bins()
    is_short = all(len(value) <= MAX_SHOWN for value in bins.values)
    return is_short and 2 * sum(texts.count(bins)[: len(bins.values)]) >= len(texts.values)


def _scalars(name: str, what: str, kind: ScalarKind, column: pa.Array, rows: int) -> Aspect:
    absent, present = column.null_count, column.drop_null()
    if not len(present):
        return Aspect(name, what, rows, np.zeros(0), absent)
    found = scalar_type(kind).spread(present)
    return Aspect(name, what, rows, found.values, absent, found.unfit, found.is_whole)


def _float(lengths: pa.Array) -> Numbers:
    found: Numbers = lengths.to_numpy(zero_copy_only=False).astype(np.float64)
    return found


def _label(value: Any, *, is_whole: bool) -> str:
    if isinstance(value, str):
        return shown(value) if value else "(empty)"
    return f"{value:.0f}" if is_whole else f"{value:g}"
