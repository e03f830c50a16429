"""A request's id, and its span, go with what it asks to be done in the background: into the task's headers, its log.

What no request asked for, beat's tasks, is named by the first task: those that it hands on have the same id.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from celery import states
from celery.signals import before_task_publish, task_postrun, task_prerun

from serving.http import REQUEST_ID, good_id
from serving.log_context import context, saying
from serving.tracing import fail, send_along, span

if TYPE_CHECKING:
    from opentelemetry.trace import Span

# By task id, in the process that runs it: what ends its words in the log, and its span.
_running: dict[str, tuple[ExitStack, Span | None]] = {}


def _send_along(headers: dict[str, Any], **_: Any) -> None:
    headers[REQUEST_ID] = context.get().get("request_id", headers["id"])
    send_along(headers)


def _begin(task_id: str, task: Any, **_: Any) -> None:
    headers = task.request.headers or {}
    words = {"task": task.name, "task_id": task_id}
    if (request_id := good_id(headers.get(REQUEST_ID))) is not None:
        words["request_id"] = request_id
    until_end = ExitStack()
    until_end.enter_context(saying(words))
    own = until_end.enter_context(span(task.name, kind="consumer", parent=headers, **words))
    _running[task_id] = until_end, own


def _end(task_id: str, state: str, **_: Any) -> None:
    until_end, own = _running.pop(task_id, (ExitStack(), None))
    if own is not None and state != states.SUCCESS:
        fail(own, state)
    until_end.close()


def carry_request_ids() -> None:
    """Have every task that this process sends or runs carry the id."""
    before_task_publish.connect(_send_along, dispatch_uid="recsite.send_request_id")
    task_prerun.connect(_begin, dispatch_uid="recsite.begin_request_id")
    task_postrun.connect(_end, dispatch_uid="recsite.end_request_id")
