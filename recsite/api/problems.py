"""Errors of the API: RFC 9457 problem documents with stable codes, whatever went wrong."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from enum import Enum
from typing import Any

from django.core.exceptions import PermissionDenied, RequestDataTooBig, SuspiciousOperation
from django.db import IntegrityError, InterfaceError, OperationalError
from django.http import Http404, HttpResponse, UnreadablePostError
from rest_framework import exceptions

from recsite.middleware import first_line
from serving.http import PROBLEM, problem_document
from tenants.access import NotAllowed, NotAMember, PersonNeeded
from tenants.rules import ChangedMeanwhile, LimitReached, RuleBroken
from tenants.services import StudioBusy, is_held_lock

log = logging.getLogger(__name__)


class Kind(Enum):
    """A kind of error: its stable code, which programs look at; the answer's status; and for people, what it means."""

    MALFORMED = ("malformed", 400, "The request can't be read: its body isn't JSON, for example.")
    INVALID = ("invalid", 400, "A value is missing, unknown or of the wrong type; see `errors`.")
    STUDIO_REQUIRED = ("studio_required", 400, "A person with several studios must name one in `Recsite-Studio`.")
    UNAUTHENTICATED = ("unauthenticated", 401, "No token, or one that is wrong, expired or revoked; nobody signed in.")
    NOT_ALLOWED = ("not_allowed", 403, "The token lacks the scope, or the person the role.")
    PERSON_REQUIRED = ("person_required", 403, "Only a person may do this, not a token.")
    NO_STUDIO = ("no_studio", 403, "The person belongs to no studio yet.")
    CSRF_FAILED = ("csrf_failed", 403, "A signed-in browser must send its CSRF token with every change.")
    NOT_FOUND = ("not_found", 404, "There is no such thing, or it is another studio's.")
    METHOD_NOT_ALLOWED = ("method_not_allowed", 405, "`Allow` lists the methods there are.")
    IN_PROGRESS = (
        "request_in_progress",
        409,
        "A request with this Idempotency-Key is still being answered; try again.",
    )
    SECRET_SHOWN = ("secret_shown", 409, "This request was answered before, with a secret that is shown only once.")
    CONFLICT = ("conflict", 409, "It was changed in the meantime. Nothing was saved. Read it again.")
    LIMIT_REACHED = ("limit_reached", 409, "The studio has reached a limit; `detail` says which.")
    LENGTH_REQUIRED = ("length_required", 411, "A body needs a Content-Length.")
    TOO_LARGE = ("body_too_large", 413, "The body is too large.")
    UNSUPPORTED = ("unsupported_media_type", 415, "Send application/json.")
    REFUSED = ("refused", 422, "A rule forbids it; `detail` says which, `errors` which field it is about.")
    KEY_REUSED = ("idempotency_key_reused", 422, "This Idempotency-Key was sent before with another request.")
    RATE_LIMITED = ("rate_limited", 429, "`Retry-After` says how many seconds to wait.")
    UNAVAILABLE = ("unavailable", 503, "The database isn't answering, or another change holds the studio; try again.")
    INTERNAL = ("internal_error", 500, "A mistake of ours. It is in our log, and nothing was changed.")

    def __init__(self, code: str, status: int, meaning: str) -> None:
        self.code = code
        self.status = status
        self.meaning = meaning


class Problem(exceptions.APIException):
    """An error on its way to the client.

    Attributes:
        kind: which.
        detail: one sentence about this very request.
        errors: by field, where there is something to say of fields.
        headers: further headers of the answer.
    """

    def __init__(
        self,
        kind: Kind,
        detail: str,
        *,
        errors: list[dict[str, str]] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(detail, kind.code)
        self.kind = kind
        self.status_code = kind.status
        self.sentence = detail
        self.errors = errors or []
        self.headers = dict(headers or {})

    def as_response(self) -> HttpResponse:
        """Return the answer."""
        extra = {"errors": self.errors} if self.errors else None
        return problem_answer(self.kind.status, self.kind.code, self.sentence, extra=extra, headers=self.headers)


def problem_answer(
    status: int,
    code: str,
    detail: str,
    *,
    extra: Mapping[str, object] | None = None,
    headers: Mapping[str, str] | None = None,
) -> HttpResponse:
    """Return a problem document as an answer that nothing caches."""
    document = problem_document(status, code, detail, extra=extra)
    headers = {"Cache-Control": "no-store", **(headers or {})}
    return HttpResponse(document, status=status, content_type=PROBLEM, headers=headers)


@contextmanager
def fields_named(**names: str) -> Iterator[None]:
    """Have a service's refusal name the API's field where that is not the service's argument: `layout="fields"`."""
    try:
        yield
    except RuleBroken as error:
        error.field = names.get(error.field, error.field)
        raise


def not_found(what: str = "There is nothing here.") -> Problem:
    """Return what to raise for what does not exist, or not in this studio."""
    return Problem(Kind.NOT_FOUND, what)


def problem_response(error: Exception, context: Mapping[str, Any]) -> HttpResponse | None:
    """Return the problem document for an exception; None for a mistake of our own, which stays one (DRF's handler)."""
    problem = error if isinstance(error, Problem) else _translate(error)
    if problem is None:
        return None
    response = problem.as_response()
    wait_seconds = getattr(error, "wait", None)
    if problem.kind is Kind.RATE_LIMITED and wait_seconds is not None:
        response["Retry-After"] = str(max(1, int(wait_seconds)))
    if problem.kind.status == 401:
        response["WWW-Authenticate"] = getattr(error, "auth_header", "Bearer")
    return response


def _translate(error: Exception) -> Problem | None:  # noqa: C901, PLR0912 - one line for each kind of exception
    match error:
        case ChangedMeanwhile():
            return Problem(Kind.CONFLICT, str(error))
        case StudioBusy():
            return _busy(str(error))
        case RuleBroken():
            errors = [{"field": error.field, "detail": str(error)}] if error.field else None
            kind = Kind.LIMIT_REACHED if isinstance(error, LimitReached) else Kind.REFUSED
            return Problem(kind, str(error), errors=errors)
        case exceptions.ValidationError():
            return Problem(Kind.INVALID, "Some values are invalid; see “errors”.", errors=list(_flat(error.detail)))
        case NotAMember():
            return not_found(str(error))
        case PersonNeeded():
            return Problem(Kind.PERSON_REQUIRED, str(error))
        case NotAllowed():
            return Problem(Kind.NOT_ALLOWED, str(error))
        case Http404() | exceptions.NotFound():
            return not_found()
        case exceptions.NotAuthenticated() | exceptions.AuthenticationFailed():
            return Problem(
                Kind.UNAUTHENTICATED, "Send a valid automation token as “Authorization: Bearer …”, or sign in."
            )
        case exceptions.PermissionDenied() | PermissionDenied():
            return Problem(Kind.NOT_ALLOWED, "This is not allowed.")
        case exceptions.MethodNotAllowed():
            return Problem(Kind.METHOD_NOT_ALLOWED, "This address doesn’t take this method; see the header “Allow”.")
        case exceptions.UnsupportedMediaType():
            return Problem(Kind.UNSUPPORTED, "Send the body as application/json.")
        case exceptions.Throttled():
            return Problem(Kind.RATE_LIMITED, "Too many requests. Wait, then try again.")
        case RequestDataTooBig():
            return Problem(Kind.TOO_LARGE, "The body is too large.")
        case exceptions.ParseError() | UnreadablePostError() | SuspiciousOperation():
            return Problem(Kind.MALFORMED, "The body isn’t valid JSON.")
        case IntegrityError():
            log.warning("api.conflict", exc_info=error)
            return Problem(Kind.CONFLICT, "Something else changed at the same moment. Look again.")
        case OperationalError() | InterfaceError():
            log.error("api.database_failed problem=%s", first_line(error))
            return database_problem(error)
    return None


def database_problem(error: OperationalError | InterfaceError) -> Problem:
    """Return what to tell whoever the database failed: another change holds it, or it does not answer."""
    if isinstance(error, OperationalError) and is_held_lock(error):
        return _busy("Another change is being saved just now, so nothing was saved. Try again in a moment.")
    return _busy("The database isn’t answering just now. Try again.")


def _busy(words: str) -> Problem:
    return Problem(Kind.UNAVAILABLE, words, headers={"Retry-After": "5"})


def _flat(detail: Any, path: str = "") -> Iterator[dict[str, str]]:
    """Yield DRF's nested errors as a list, each with the path of its field: `source.kind`, `fields.0.name`."""
    if isinstance(detail, Mapping):
        for name, below in detail.items():
            yield from _flat(below, path if name == "non_field_errors" else f"{path}.{name}".lstrip("."))
    elif isinstance(detail, list):
        for number, below in enumerate(detail):
            if below:
                yield from _flat(below, path if isinstance(below, str) else f"{path}.{number}".lstrip("."))
    else:
        yield {"field": path, "detail": str(detail)} if path else {"detail": str(detail)}
