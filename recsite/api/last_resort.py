"""What Django itself answers where no view of the API does: below /api/ these are problem documents too."""

from __future__ import annotations

from django.http import HttpRequest, HttpResponse
from django.views import defaults

from recsite.api.problems import Kind, Problem

PREFIX = "/api/"


def bad_request(request: HttpRequest, exception: Exception) -> HttpResponse:
    """Answer a request that Django refuses before any view sees it: a foreign Host header, for example."""
    if request.path.startswith(PREFIX):
        return Problem(Kind.MALFORMED, "The request can’t be read.").as_response()
    return defaults.bad_request(request, exception)


def server_error(request: HttpRequest) -> HttpResponse:
    """Answer where a view failed; Django has logged it."""
    if request.path.startswith(PREFIX):
        return Problem(
            Kind.INTERNAL, "Something went wrong on our side. It is in our log; try again later."
        ).as_response()
    return defaults.server_error(request)
