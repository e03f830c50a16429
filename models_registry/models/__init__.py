"""Every table of models_registry, one module a subject. Nothing outside the package names the modules."""

from models_registry.models.catalogue import MAX_CODE, Layout, RecommendationModel, Source, SourceKind, Version
from models_registry.models.loading import (
    ENDED_STATES,
    FRUITLESS_STATES,
    RUNNING_STATES,
    Load,
    LoadRange,
    LoadState,
    ProblemCode,
    RangeState,
    Schedule,
    ScheduleKind,
    Table,
    TableState,
    new_table_id,
)
from models_registry.models.rollouts import BASIS_POINTS, Override, RolloutRevision, new_salt
from models_registry.models.traffic import (
    CredentialUse,
    Traffic,
    TrafficGap,
    TrafficPosition,
    TrafficSource,
    TrafficSpan,
)

__all__ = [
    "BASIS_POINTS",
    "ENDED_STATES",
    "FRUITLESS_STATES",
    "MAX_CODE",
    "RUNNING_STATES",
    "CredentialUse",
    "Layout",
    "Load",
    "LoadRange",
    "LoadState",
    "Override",
    "ProblemCode",
    "RangeState",
    "RecommendationModel",
    "RolloutRevision",
    "Schedule",
    "ScheduleKind",
    "Source",
    "SourceKind",
    "Table",
    "TableState",
    "Traffic",
    "TrafficGap",
    "TrafficPosition",
    "TrafficSource",
    "TrafficSpan",
    "Version",
    "new_salt",
    "new_table_id",
]
