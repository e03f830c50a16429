"""Versions on pages: their colours, and bars of their weights drawn as SVG, which needs no inline style."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from django import template

from models_registry.catalogue.selectors import ModelState, name_of
from models_registry.models import BASIS_POINTS
from models_registry.rollouts.allocation import Flow
from tenants.figures import percent

register = template.Library()

# How many colours static/recsite.css has for versions, `.v0` on; the codes take them in turn.
COLOURS = 12

# How wide a bar is at least where there is room, and on a phone, and what a letter takes: decides which label fits.
WIDE_PX, NARROW_PX, LETTER_PX, PADDING_PX = 640, 300, 8.5, 22

_STATE_LOOKS = {
    ModelState.NO_VERSION: "plain",
    ModelState.LOADING: "plain busy",
    ModelState.NOT_LOADED: "bad",
    ModelState.DEFAULT: "warn",
    ModelState.PARTLY: "bad",
    ModelState.LATE: "warn",
    ModelState.LOADED: "ok",
}


@dataclass(frozen=True)
class Segment:
    """One version's part of a bar; places and widths in percent of it."""

    code: int
    name: str
    weight_bp: int
    start: float
    width: float

    @property
    def wide_label(self) -> str:
        """What is written on it where there is room."""
        return self._label(WIDE_PX)

    @property
    def narrow_label(self) -> str:
        """What is written on it on a phone."""
        return self._label(NARROW_PX)

    def _label(self, bar_px: int) -> str:
        share = percent(self.weight_bp)
        for label in (f"{self.name} · {share}", share):
            if len(label) * LETTER_PX + PADDING_PX <= bar_px * self.width / 100:
                return label
        return ""


@register.filter
def colour(code: int) -> str:
    """Return the class that carries a version's colour."""
    return f"v{code % COLOURS}"


@register.filter
def layer_colour(key: str) -> str:
    """Return the class that carries the colour of a chart's layer: a version's code, or a source of answers."""
    return colour(int(key)) if key.isdecimal() else f"source-{key}"


@register.filter
def version_name(code: int, names: Mapping[int, str]) -> str:
    """Return a version's name, also of one that is gone."""
    return name_of(code, names)


@register.filter
def together(flows: Iterable[Flow]) -> int:
    """Return the basis points of all units that these flows move."""
    return sum(flow.bp for flow in flows)


@register.filter
def state_looks(state: ModelState) -> str:
    """Return the classes of the pill of a model's state."""
    return _STATE_LOOKS[state]


@register.inclusion_tag("components/bar.html")
def version_bar(weights_bp: Mapping[int, int], names: Mapping[int, str], looks: str = "") -> dict[str, object]:
    """Draw weights (basis points by code) as a bar; `thin` has no labels. What it shows is also there in words."""
    segments: list[Segment] = []
    start = 0.0
    for code, weight_bp in sorted(weights_bp.items()):
        if weight_bp:
            width = 100 * weight_bp / BASIS_POINTS
            segments.append(Segment(code, name_of(code, names), weight_bp, round(start, 2), round(width, 2)))
            start += width
    words = ", ".join(f"{segment.name} {percent(segment.weight_bp)}" for segment in segments)
    return {"segments": segments, "words": words, "looks": looks}
