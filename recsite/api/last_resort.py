"""What Django itself answers where no view of the API does: below /api/ these are problem documents too."""

from __future__ import annotations

import sys

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse
from django.template.loader import render_to_string
from django.views import defaults

from recsite.api.problems import Kind, Problem, database_problem

PREFIX = "/api/"


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer a request that Django refuses before any view sees it: a foreign Host header, for example."""
    if request.path.startswith(PREFIX):
        return Problem(Kind.MALFORMED, "The request can’t be read.").as_response()
    return defaults.bad_request(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer where a view failed, or where the database failed it; Django logs it."""
    error = sys.exception()
    if isinstance(error, OperationalError | InterfaceError):
        answer = database_problem(error).as_response()
        if not request.path.startswith(PREFIX):
            answer.content = render_to_string("503.html").encode()
            answer["Content-Type"] = "text/html; charset=utf-8"
        return answer
    if request.path.startswith(PREFIX):
        return Problem(
            Kind.INTERNAL, "Something went wrong on our side. It is in our log; try again later."
        ).as_response()
    return defaults.server_error(request)
