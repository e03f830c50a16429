"""The Django project: settings, URLs, the Celery application and the `demo` command."""

from recsite.celery import app as celery_app

__all__ = ["celery_app"]
