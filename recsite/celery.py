"""The Celery application: `celery -A recsite worker` and `celery -A recsite beat`."""

import os

from celery import Celery
from kombu.transport.redis import Transport
from redis.exceptions import OutOfMemoryError

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recsite.settings")

# A worker that is handed a message while the broker's memory is full would end, as kombu cannot note there who has it.
# So it takes that for a broker that is away, and looks for it again. A message lost on the way the sweep gives again.
Transport.connection_errors += (OutOfMemoryError,)

app = Celery("recsite")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks(["models_registry.loading", "models_registry", "tenants"])
