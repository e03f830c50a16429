"""What comes before the views: answers for machines, and the one looser Content-Security-Policy."""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import cache

from csp.constants import SELF, UNSAFE_EVAL, UNSAFE_INLINE
from csp.decorators import csp_update
from django.db import InterfaceError, OperationalError
from django.http import Http404, HttpRequest, HttpResponse
from django.http.response import HttpResponseBase
from django.urls import resolve, reverse
from typing_extensions import override

from recsite.logs import OneLine

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


def first_line(error: Exception) -> str:
    """Return what an error says, in one line."""
    return str(error).partition("\n")[0]


# Probes and Prometheus call a process by its address, which is no host of ours, in plain HTTP, and often.
FOR_MACHINES = ("healthz", "readyz", "readyz-tokens", "metrics")


@cache
def _paths_for_machines() -> frozenset[str]:
    """Return where these are; worked out at the first request, since it reads all addresses."""
    return frozenset(reverse(name) for name in FOR_MACHINES)


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
