"""The control plane's own beat tasks. What loads a table is in `models_registry.loading.tasks`."""

from celery import shared_task

from models_registry.publishing import republish_all


@shared_task(name="publishing.republish", time_limit=300)  # type: ignore[untyped-decorator]  # Celery ships no types
def republish() -> int:
    """Publish what serving does not have yet or has only in an old signature. Runs every 15 s; twice is harmless."""
    return republish_all()
