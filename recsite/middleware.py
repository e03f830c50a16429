"""What comes before the views: answers for machines, and the one looser Content-Security-Policy."""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any
from uuid import uuid4

from csp.constants import SELF, UNSAFE_EVAL, UNSAFE_INLINE
from csp.decorators import csp_update
from django.core.signals import request_finished
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import resolve, reverse
from typing_extensions import override

from recsite.logs import OneLine
from serving.http import REQUEST_ID, echoed_id, good_id
from serving.log_context import NOTHING, context
from serving.tracing import TRACEPARENT, fail, span, trace_id

Handler = Callable[[HttpRequest], HttpResponseBase]

# Unfold's Alpine evaluates the expressions in its attributes, and it styles elements in place. No inline script.
ADMIN_POLICY = {"script-src": [SELF, UNSAFE_EVAL], "style-src": [SELF, UNSAFE_INLINE]}


class DatabaseInOneLine(OneLine):
    """Lets what the database did not do through as one line: while it is away, every request leaves one."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        error = record.exc_info[1] if record.exc_info else None
        if isinstance(error, OperationalError | InterfaceError):
            record.msg, record.args = "%s (%s)", (record.getMessage(), first_line(error))
            super().filter(record)
        return True


class RouteForPath(logging.Filter):
    """Has Django name the route of a request that it refuses: the path itself may hold a player's id."""

    @override
    def filter(self, record: logging.LogRecord) -> bool:
        request = getattr(record, "request", None)
        if isinstance(request, HttpRequest) and isinstance(record.args, tuple):
            route = _route(request)
            record.args = tuple(route if arg == request.path else arg for arg in record.args)
        return True


def first_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return str(error).partition("\n")[0]


# Probes and Prometheus call a process by its address, which is no host of ours, in plain HTTP, and often.
FOR_MACHINES = ("healthz", "readyz", "readyz-tokens", "metrics")


@cache
def _paths_for_machines() -> frozenset[str]:
    """Return where these are; worked out at the first request, since it reads all addresses."""
    return frozenset(reverse(name) for name in FOR_MACHINES)


def names_requests(get_response: Handler) -> Handler:
    """Give each request an id, its own where it came with one: its lines in the log have it, and its answer.

    Serving's answers have it as the lane's do. What the request asks to be done in the background has it too.
    """

    def middleware(request: HttpRequest) -> HttpResponseBase:
        given = request.headers.get(REQUEST_ID)
        own = good_id(given) or uuid4().hex
        context.set({"request_id": own})  # until it is finished, since Django logs a refusal after all middleware
        response = get_response(request)
        is_serving = request.path_info.startswith("/v1/") or request.path_info in _paths_for_machines()
        if (said := echoed_id(response.status_code, given) if is_serving else own) is not None:
            response.headers[REQUEST_ID] = said
        return response

    return middleware


def traces_requests(get_response: Handler) -> Handler:
    """Have each request be a span where traces are wanted: its route and what came of it, not its address."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if request.path_info in _paths_for_machines():
            return get_response(request)
        parent = {TRACEPARENT: request.headers.get(TRACEPARENT, "")}
        with span(request.method or "", kind="server", parent=parent, **context.get()) as own:
            response = get_response(request)
            if own is not None:
                route = _route(request)
                own.update_name(f"{request.method} {route}")
                own.set_attribute("http.request.method", request.method or "")
                own.set_attribute("http.route", route)
                own.set_attribute("http.response.status_code", response.status_code)
                if response.status_code >= 500:
                    fail(own, str(response.status_code))
        if own is not None:
            context.set({**context.get(), "trace_id": trace_id(own)})  # for what Django logs after all middleware
        return response

    return middleware


def _route(request: HttpRequest) -> str:
    return f"/{request.resolver_match.route}" if request.resolver_match is not None else "no address of ours"


def _forget_the_request(**_: Any) -> None:
    context.set(NOTHING)


request_finished.connect(_forget_the_request, dispatch_uid="recsite.forget_the_request")


def answers_for_machines(get_response: Handler) -> Handler:
    """Answer probes and Prometheus before the host is looked at, and without what pages need."""

    def middleware(request: HttpRequest) -> HttpResponseBase:
        if request.path_info in _paths_for_machines():
            with suppress(Http404):  # what is not for them looks as everywhere else
                view: Callable[[HttpRequest], HttpResponse] = resolve(request.path_info).func
                response = view(request)
                response.headers["Content-Length"] = str(len(response.content))
                return response
        return get_response(request)

    return middleware


def admin_content_security_policy(get_response: Handler) -> Handler:
    """Loosen the policy for answers under the admin's path; every other path keeps the strict one."""
    loosened: Handler = csp_update(ADMIN_POLICY)(get_response)

    def middleware(request: HttpRequest) -> HttpResponseBase:
        is_admin = request.path_info.startswith(reverse("admin:index"))
        return loosened(request) if is_admin else get_response(request)

    return middleware
