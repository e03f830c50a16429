"""`Idempotency-Key`: a request that is sent again, because its answer was lost, is done once and answered alike.

That a request has begun is committed by itself; its answer is written in the transaction of the change. So of two at
once the second finds the first begun (409), a request that failed leaves nothing, and one whose process died has
changed nothing and may be sent again after a while. An answer that shows a secret is kept without it. What only began
then (a load) and has failed since is begun anew.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from datetime import timedelta
from functools import wraps
from typing import Any

from django.db import IntegrityError, transaction
from django.http import HttpResponse
from django.http.response import HttpResponseBase
from django.utils import timezone
from rest_framework import serializers
from rest_framework.renderers import JSONRenderer
from rest_framework.request import Request
from rest_framework.response import Response

from recsite.api.authentication import caller_of
from recsite.api.problems import Kind, Problem
from tenants.models import IdempotencyRecord, Tenant, new_public_id

HEADER = "Idempotency-Key"
REPLAYED_HEADER = "Idempotency-Replayed"
KEPT_FOR = timedelta(hours=24)
# Longer than any request takes. One that began earlier and has no answer died, and its change with it.
ABANDONED_AFTER = timedelta(minutes=10)
_KEY = re.compile(r"[!-~]{1,200}")


def idempotent(
    handler: Callable[..., Response], shows_once: str, came_to_nothing: Callable[[Tenant, str], bool] | None
) -> Callable[..., HttpResponseBase]:
    """Return a view's method that heeds `Idempotency-Key`; without the header nothing changes.

    Costs a write before and one within the change.

    Args:
        handler: the method.
        shows_once: the answer's field for a secret. One with it is not kept; sent again, it is a 409 that says so.
        came_to_nothing: tells from the studio and the `Location` of an answer whether what was begun then has ended
            without success, so that it is begun anew instead of answered alike; None: it never does.
    """

    @wraps(handler)
    def once(view: Any, request: Request, **names: str) -> HttpResponseBase:
        key = request.headers.get(HEADER)
        if key is None:
            return handler(view, request, **names)
        if not _KEY.fullmatch(key):
            raise serializers.ValidationError({HEADER: ["Use 1 to 200 visible ASCII characters."]})
        record = _begin(request, key, came_to_nothing)
        if isinstance(record, HttpResponse):
            return record
        try:
            with transaction.atomic():
                response = handler(view, request, **names)
                _finish(record, response, shows_secret=bool(shows_once and response.data[shows_once]))
        except BaseException:
            _mine(record).delete()
            raise
        return response

    return once


def clean_idempotency_records() -> int:
    """Delete the records that are older than a day; return how many. Twice at once does no harm."""
    old = IdempotencyRecord.objects.unscoped().filter(started_at__lt=timezone.now() - KEPT_FOR)
    deleted, _ = old.delete()
    return deleted


def _begin(
    request: Request, key: str, came_to_nothing: Callable[[Tenant, str], bool] | None
) -> IdempotencyRecord | HttpResponse:
    """Return the record of a request that is to be done now, or the answer that it had."""
    caller = caller_of(request)
    now = timezone.now()
    record = IdempotencyRecord(
        tenant=caller.tenant,
        caller=caller.key,
        route=request.path,
        key=key,
        body_hash=_hash(request),
        run=new_public_id(),
        started_at=now,
    )
    try:
        with transaction.atomic():
            record.save(force_insert=True)
    except IntegrityError:
        rows = IdempotencyRecord.objects.for_tenant(caller.tenant)
        before = rows.filter(caller=record.caller, route=record.route, key=key).first()
    else:
        return record
    if before is None:  # It failed and was removed at this moment.
        raise _in_progress()
    is_over = before.started_at < now - KEPT_FOR
    is_abandoned = before.status is None and before.started_at < now - ABANDONED_AFTER
    if not is_over and not is_abandoned:
        replay = _again(before, record)
        if came_to_nothing is None or not came_to_nothing(caller.tenant, before.location):
            return replay
    fresh = {"body_hash": record.body_hash, "run": record.run, "started_at": now}
    empty = {"status": None, "answer": "", "location": "", "showed_secret": False}
    if not rows.filter(pk=before.pk, run=before.run).update(**fresh, **empty):
        raise _in_progress()
    record.pk = before.pk
    return record


def _again(before: IdempotencyRecord, record: IdempotencyRecord) -> HttpResponse:
    """Return what a request that was sent before was answered."""
    if before.body_hash != record.body_hash:
        raise Problem(Kind.KEY_REUSED, f"This {HEADER} was sent before with another request. Use a new one.")
    if before.status is None:
        raise _in_progress()
    if before.showed_secret:
        what = f" It is about {before.location}." if before.location else ""
        raise Problem(
            Kind.SECRET_SHOWN,
            f"The first such request did this, and its answer showed a secret that is shown only once.{what} "
            "If you lost that answer, create another one and revoke this one.",
        )
    replay = HttpResponse(before.answer.encode(), status=before.status, content_type="application/json")
    if before.location:
        replay["Location"] = before.location
    replay[REPLAYED_HEADER] = "true"
    return replay


def _finish(record: IdempotencyRecord, response: Response, *, shows_secret: bool) -> None:
    """Keep an answer, in the transaction of what it answers; undo all of it if another request took over."""
    kept = _mine(record).update(
        status=response.status_code,
        answer="" if shows_secret else JSONRenderer().render(response.data).decode(),
        location=response.get("Location", ""),
        showed_secret=shows_secret,
    )
    if not kept:
        raise _in_progress()


def _mine(record: IdempotencyRecord) -> Any:
    return IdempotencyRecord.objects.for_tenant(record.tenant).filter(pk=record.pk, run=record.run, status=None)


def _in_progress() -> Problem:
    return Problem(
        Kind.IN_PROGRESS,
        f"A request with this {HEADER} is still being answered. Try again.",
        headers={"Retry-After": "1"},
    )


def _hash(request: Request) -> str:
    digest = hashlib.sha256()
    for part in (request.method or "", request.META.get("QUERY_STRING", ""), request.content_type or ""):
        digest.update(part.encode(errors="replace") + b"\0")
    digest.update(request.body)
    return digest.hexdigest()
