"""This app's beat tasks."""

from celery import shared_task

from recsite.api.idempotency import clean_idempotency_records


@shared_task(name="tenants.clean_idempotency_records", time_limit=300)
def clean() -> int:
    """Delete what was kept for idempotency keys for longer than a day. Beat runs it every hour; twice is harmless."""
    return clean_idempotency_records()
