"""The table that a load is held against: its version's own, or of a first load what most of the model's players get."""

from __future__ import annotations

from dataclasses import dataclass

from models_registry.catalogue.selectors import weights_by_code
from models_registry.loading.report import Distribution, Report
from models_registry.models import Load, RolloutRevision, Table, Version
from serving.formats.layouts import Layout


@dataclass(frozen=True)
class Served:
    """A table that is served.

    Attributes:
        table: with its load.
        layout: of its rows.
        name: of another version whose table it is; "" where it is the loaded version's own.
    """

    table: Table
    layout: Layout
    name: str = ""

    @property
    def distribution(self) -> Distribution | None:
        """How its values are spread; None where its load measured nothing."""
        return Report.read(self.table.load.report).distribution


def served_before(load: Load) -> Served | None:
    """Return what a load is held against; None where nothing of the model is served. At most two queries.

    Raises:
        BadLayout: the layout of what is served is damaged.
    """
    version = load.version
    if version.active_table is not None:
        return Served(version.active_table, Layout.parse(version.layout.fields))
    most = _most_served(version)
    if most is None or most.active_table is None:
        return None
    return Served(most.active_table, Layout.parse(most.layout.fields), most.name)


def _most_served(version: Version) -> Version | None:
    """Return the other version of the model with the greatest weight of those that have a table."""
    revisions = RolloutRevision.objects.unscoped().filter(model=version.model_id).order_by("-number")
    weights = weights_by_code(revisions.values_list("weights_bp", flat=True).first() or {})
    related = ("layout", "active_table__load")
    others = Version.objects.unscoped().filter(model=version.model_id).exclude(active_table=None)
    with_players = [other for other in others.select_related(*related) if weights.get(other.code) and other != version]
    return max(with_players, key=lambda other: weights[other.code], default=None)
