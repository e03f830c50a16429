"""The Celery application: `celery -A recsite worker` and `celery -A recsite beat`."""

import os

from celery import Celery
from kombu.entity import Queue
from kombu.transport.redis import Transport
from redis.exceptions import ResponseError

from recsite.background.outcomes import count_outcomes
from recsite.background.steps import LoopSigns, WorkerSigns

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recsite.settings")

# A worker would end where the broker is there and refuses: its memory is full, or it is a replica after a fail-over. So
# that counts as a broker that is away, and is looked for again. What was lost on the way the sweep hands over again.
Transport.connection_errors += (ResponseError,)

app = Celery("recsite")
app.config_from_object("django.conf:settings", namespace="CELERY")
# Here and not in the settings, so that a lane, which reads those, starts without Celery's library.
app.conf.task_queues = (Queue("celery"), Queue("loads"))
app.autodiscover_tasks(["models_registry.loading", "models_registry", "recsite.api"])
app.steps["worker"].add(WorkerSigns)
app.steps["consumer"].add(LoopSigns)
count_outcomes()
