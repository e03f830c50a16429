"""The broker as those see it who hand loads over: it is asked once, and not for long.

Somebody may be waiting for a page, and the database knows of every load, so that a sweep finds what the broker was not
told or forgot.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from celery import current_app
from kombu.connection import Connection
from kombu.exceptions import OperationalError

log = logging.getLogger(__name__)

LOADS_QUEUE = "loads"
QUEUES = ("celery", LOADS_QUEUE)
TIMEOUT_SECONDS = 1.0


def hand_over(task: str, pk: int, *, in_seconds: int = 0) -> bool:
    """Hand a load, or a part of one, to the workers; say whether the broker took it.

    Cost: a connection of its own (milliseconds); a broker that hangs costs a second.
    """
    try:
        with _connected() as connection:
            current_app.send_task(task, args=[pk], countdown=in_seconds or None, connection=connection, retry=False)
    except OperationalError as error:
        log.warning("load.not_enqueued task=%s id=%s problem=%s", task, pk, error)
        return False
    return True


def count_messages(queue: str = LOADS_QUEUE) -> int | None:
    """Count the messages in a queue that no worker has taken; None where the broker does not say."""
    try:
        with _connected() as connection, connection.channel() as channel:
            return int(channel.queue_declare(queue, durable=True, auto_delete=False).message_count)
    except OperationalError as error:
        log.warning("broker.not_asked problem=%s", error)
        return None


@contextmanager
def _connected() -> Iterator[Connection]:
    """Yield a connection.

    Raises:
        OperationalError: the broker is away, does not answer in time, or refuses what is asked of it.
    """
    patience = {"socket_timeout": TIMEOUT_SECONDS, "socket_connect_timeout": TIMEOUT_SECONDS}
    with current_app.connection_for_write(transport_options=patience) as connection:
        try:
            connection.ensure_connection(max_retries=0)
            yield connection
        except (*connection.connection_errors, *connection.channel_errors) as error:
            raise OperationalError(str(error)) from error
