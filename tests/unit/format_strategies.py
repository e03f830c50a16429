"""Hypothesis strategies for layouts and their records, shared by the tests of formats and of the bulk packer."""

from __future__ import annotations

from decimal import Decimal
from typing import Any, assert_never

from hypothesis import strategies as st

from serving.formats.layouts import MAX_INTEGER, Bool, DecimalNumber, Enum, Field, Kind, Layout, List, String, Uint

names = st.text(st.characters(min_codepoint=32, exclude_categories=["Cs"]), min_size=1, max_size=8)


@st.composite
def uints(draw: st.DrawFn) -> Uint:
    low = draw(st.one_of(st.integers(-1000, 1000), st.integers(-MAX_INTEGER, MAX_INTEGER)))
    span = draw(st.one_of(st.integers(0, 300), st.integers(0, MAX_INTEGER)))
    return Uint(low, min(low + span, MAX_INTEGER))


@st.composite
def decimals(draw: st.DrawFn) -> DecimalNumber:
    places = draw(st.integers(0, 12))
    limit = draw(st.sampled_from([100, 10**6, 10**15 if places else MAX_INTEGER]))
    step = draw(st.one_of(st.just(1), st.integers(1, 1000)))
    low = draw(st.integers(-limit, limit))
    steps = draw(st.integers(0, max(0, (limit - low) // step)))
    scale = Decimal(10) ** -places
    return DecimalNumber(low * scale, (low + steps * step) * scale, step * scale)


enums = st.lists(names, min_size=1, max_size=20, unique=True).map(lambda values: Enum(tuple(values)))
scalars = st.one_of(st.just(Bool()), uints(), enums, decimals())
kinds = st.one_of(
    scalars,
    st.integers(0, 40).map(String),
    st.builds(List, st.integers(0, 9), scalars),
)


@st.composite
def layouts(draw: st.DrawFn, *, max_fields: int = 7) -> Layout:
    chosen = draw(st.lists(kinds, min_size=1, max_size=max_fields))
    return Layout([Field(f"f{number}", kind, draw(st.booleans())) for number, kind in enumerate(chosen)])


def values_of(kind: Kind) -> st.SearchStrategy[Any]:
    """Values that a kind holds."""
    match kind:
        case Bool():
            return st.booleans()
        case Uint():
            return st.integers(kind.min, kind.max)
        case Enum():
            return st.sampled_from(kind.values)
        case DecimalNumber():
            low, step = kind.min, kind.step
            return st.integers(0, kind.steps).map(lambda code: low + code * step)
        case String():
            longest = kind.max_bytes
            texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=longest)
            return texts.filter(lambda text: len(text.encode()) <= longest)
        case List():
            return st.lists(values_of(kind.item), max_size=kind.max_items)
        case other:
            assert_never(other)


def records_of(layout: Layout) -> st.SearchStrategy[dict[str, Any]]:
    """Records that a layout packs; decimals are `Decimal`."""
    return st.fixed_dictionaries(
        {
            field.name: st.one_of(st.none(), values_of(field.kind)) if field.is_optional else values_of(field.kind)
            for field in layout.fields
        }
    )
