"""The Celery application: `celery -A recsite worker` and `celery -A recsite beat`."""

import os

from celery import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recsite.settings")
app = Celery("recsite")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["models_registry.loading", "models_registry", "tenants"])
