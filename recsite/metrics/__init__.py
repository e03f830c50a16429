"""What the control plane tells Prometheus, and what the dashboard's processes count, as one."""

from functools import cache

from prometheus_client import CollectorRegistry

from recsite.metrics.background import DEFINITIONS as BACKGROUND
from recsite.metrics.background import BackgroundCollector
from recsite.metrics.counted import DEFINITIONS as COUNTED
from recsite.metrics.database import DEFINITIONS as DATABASE
from recsite.metrics.database import DatabaseCollector
from recsite.metrics.servers import DEFINITIONS as SERVERS
from recsite.metrics.servers import ServersCollector

DEFINITIONS = (*DATABASE, *BACKGROUND, *SERVERS, *COUNTED)


@cache
def control_plane() -> CollectorRegistry:
    """Return the registry of what is read from the database and from Redis when somebody asks."""
    registry = CollectorRegistry()
    registry.register(DatabaseCollector())
    registry.register(BackgroundCollector())
    registry.register(ServersCollector())
    return registry
