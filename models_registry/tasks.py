"""The control plane's own beat tasks. What loads a table is in `models_registry.loading.tasks`."""

from celery import shared_task
from django.utils import timezone

from models_registry.loading.schedules import start_due_loads
from models_registry.publishing import republish_all
from models_registry.traffic import collecting


@shared_task(name="publishing.republish", time_limit=300)
def republish() -> int:
    """Publish what serving does not have yet or has only in an old signature. Runs every 15 s; twice is harmless."""
    return republish_all()


@shared_task(name="scheduling.start_due", time_limit=300)
def start_due() -> int:
    """Start the loads that are due. Runs every 15 s; twice is harmless."""
    return len(start_due_loads(timezone.now()))


@shared_task(name="traffic.collect", time_limit=120)
def collect_traffic() -> int:
    """Move what serving counted into the database. Runs every 10 s; twice is harmless."""
    return collecting.collect()


@shared_task(name="traffic.prune", time_limit=300)
def prune_traffic() -> int:
    """Drop counts that are no longer kept. Runs every hour."""
    return collecting.prune()
