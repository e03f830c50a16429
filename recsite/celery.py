"""The Celery application: `celery -A recsite worker` and `celery -A recsite beat`."""

import os
from typing import Any

from celery import Celery
from celery.signals import celeryd_init, setup_logging
from kombu.entity import Queue
from kombu.transport.redis import Transport
from redis.exceptions import ResponseError

from recsite.background.outcomes import count_outcomes
from recsite.background.request_ids import carry_request_ids
from recsite.background.steps import LoopSigns, WorkerSigns
from serving.log_context import be

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
carry_request_ids()
count_outcomes()


def _keep_logging(**_: Any) -> None:
    """Leave logging as the settings have it: Celery does where somebody else has seen to it."""


def _say_what_it_is(options: dict[str, Any], **_: Any) -> None:
    be("loader" if options.get("queues") in ("loads", ["loads"]) else "worker")


setup_logging.connect(_keep_logging, dispatch_uid="recsite.keep_logging")
celeryd_init.connect(_say_what_it_is, dispatch_uid="recsite.say_what_it_is")
