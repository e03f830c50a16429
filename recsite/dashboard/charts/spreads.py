"""How the values of a field are spread, as a load's report has it: for small charts, and in words."""

from __future__ import annotations

from dataclasses import dataclass

from models_registry.loading.report import FieldSpread

# N. Siddiqi's rule of thumb for the population stability index.
SMALL_PSI, LARGE_PSI = 0.1, 0.25

_OF_WHAT = {"list length": "how many", "list items": "items", "string length": "length in bytes"}


@dataclass(frozen=True)
class SpreadBar:
    """One bin. Shares are 0 … 1; widths are percent of the chart, whose widest bar fills it."""

    label: str
    share: float
    share_before: float | None
    width: float
    width_before: float | None


@dataclass(frozen=True)
class Spread:
    """How one thing about a field is spread, against the table that was served when it was loaded.

    Attributes:
        name: of the field.
        of_what: what of it is counted, where that is not its value.
        bars: the bins, in order.
        psi: the population stability index; None where nothing was compared.
    """

    name: str
    of_what: str
    bars: list[SpreadBar]
    psi: float | None

    @property
    def has_before(self) -> bool:
        """Tell whether there is something to compare with."""
        return any(bar.share_before is not None for bar in self.bars)

    @property
    def words(self) -> str:
        """How far it has moved."""
        if self.psi is None:
            return "too few rows to compare" if self.has_before else "nothing to compare with yet"
        return (
            "as before" if self.psi < SMALL_PSI else "somewhat different" if self.psi < LARGE_PSI else "very different"
        )

    @property
    def looks(self) -> str:
        """The colour of these words."""
        if self.psi is None:
            return "dim"
        return "ok" if self.psi < SMALL_PSI else "warn" if self.psi < LARGE_PSI else "bad"


def spread_of(field: FieldSpread) -> Spread:
    """Return how a report shows the spread of a field."""
    shares = [share for bin_ in field.bins for share in (bin_.share, bin_.share_before or 0.0)]
    widest = max(shares, default=0.0) or 1.0
    bars = [
        SpreadBar(
            label=bin_.label,
            share=bin_.share,
            share_before=bin_.share_before,
            width=round(100 * bin_.share / widest, 1),
            width_before=None if bin_.share_before is None else round(100 * bin_.share_before / widest, 1),
        )
        for bin_ in field.bins
    ]
    return Spread(field.name, _OF_WHAT.get(field.kind, ""), bars, field.psi)
