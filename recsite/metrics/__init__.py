"""What the control plane tells Prometheus, and what the dashboard's processes count, as one."""

from functools import cache

from prometheus_client import CollectorRegistry

from models_registry.loading.metrics import DEFINITIONS as LOADING
from models_registry.loading.metrics import LoadingCollector
from recsite.background.metrics import DEFINITIONS as BACKGROUND
from recsite.background.metrics import BackgroundCollector

DEFINITIONS = (*LOADING, *BACKGROUND)


@cache
def control_plane() -> CollectorRegistry:
    """Return the registry of what is read from the database and from Redis when somebody asks."""
    registry = CollectorRegistry()
    registry.register(LoadingCollector())
    registry.register(BackgroundCollector())
    return registry
