"""How the API describes itself: what `@operation` says of a method becomes its behaviour and its OpenAPI at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, wraps
from inspect import getdoc
from itertools import groupby
from operator import attrgetter
from typing import Any

from django.conf import settings
from drf_spectacular.extensions import OpenApiAuthenticationExtension, OpenApiSerializerExtension
from drf_spectacular.openapi import AutoSchema
from drf_spectacular.plumbing import ResolvedComponent
from drf_spectacular.utils import Direction, OpenApiExample, OpenApiParameter, OpenApiResponse, extend_schema
from rest_framework import serializers
from rest_framework.request import Request
from rest_framework.response import Response
from typing_extensions import override

from recsite.api.authentication import Need, needs
from recsite.api.bodies import Body, Query, read_body, read_query
from recsite.api.idempotency import HEADER, idempotent
from recsite.api.paging import PageQuery
from recsite.api.problems import Kind
from serving.http import PROBLEM as PROBLEM_MEDIA_TYPE
from tenants.models import Scope, Tenant
from tenants.paging import Page

# What stands in paths: its schema and what it is.
PATH_PARAMETERS: dict[str, tuple[dict[str, Any], str]] = {
    "model": ({"type": "string", "pattern": "^[-a-zA-Z0-9_]{1,50}$"}, "The model's short name."),
    "version": ({"type": "string", "pattern": "^[A-Za-z0-9][A-Za-z0-9._-]{0,59}$"}, "The version's name."),
    "fence": ({"type": "integer", "minimum": 1, "maximum": 10**12}, "The load's number within its version."),
    "revision": ({"type": "integer", "minimum": 0, "maximum": 255}, "The layout's revision."),
    "number": ({"type": "integer", "minimum": 1, "maximum": 10**9}, "The rollout revision's number."),
    "client_id": ({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,64}$"}, "The credential's client id."),
    "token": ({"type": "string", "pattern": "^[A-Za-z0-9_-]{1,20}$"}, "The automation token's id."),
    "username": ({"type": "string", "pattern": "^[A-Za-z0-9_@+-][A-Za-z0-9_.@+-]{0,149}$"}, "The person's user name."),
}


def problem_schema(codes: Sequence[str] = (), **more: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of an error: its codes where they are known, and what it always has besides."""
    code = {"type": "string", "description": "Stable: what a program looks at."}
    return {
        "type": "object",
        "description": "An error (RFC 9457).",
        "required": ["type", "title", "status", "code", "detail", *more],
        "properties": {
            "type": {"type": "string", "description": "Always about:blank; `code` tells errors apart."},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "code": {**code, "enum": list(codes)} if codes else code,
            "detail": {"type": "string", "description": "One sentence about this very request."},
            **more,
        },
    }


PROBLEM = problem_schema([kind.code for kind in Kind])
PROBLEM["properties"]["errors"] = {
    "type": "array",
    "items": {
        "type": "object",
        "required": ["detail"],
        "properties": {
            "field": {"type": "string", "description": "Where it is about one: `source.kind`, `fields.0.min`."},
            "detail": {"type": "string"},
        },
    },
}
PROBLEM["example"] = {
    "type": "about:blank",
    "title": "Refused",
    "status": 422,
    "code": "refused",
    "detail": "The weights sum to 99.00 %; they must sum to 100 %.",
    "errors": [{"field": "weights_bp", "detail": "The weights sum to 99.00 %; they must sum to 100 %."}],
}


class Result:
    """What an operation found or made, where that is more than a row.

    Attributes:
        row: the row, or a page of rows.
        at: its address, for the header `Location`.
        context: what its serializer must know besides.
    """

    def __init__(self, row: Any, *, at: str = "", **context: Any) -> None:
        self.row = row
        self.at = at
        self.context = context

    def answered(self, answer: type[serializers.Serializer[Any]], status: int) -> Response:
        """Return the answer."""
        data: Any
        if isinstance(self.row, Page):
            rows = answer(self.row.rows, many=True, context=self.context).data
            data = {"results": rows, "next_cursor": self.row.next_cursor}
        else:
            data = answer(self.row, context=self.context).data
        return Response(data, status=status, headers={"Location": self.at} if self.at else None)


def operation(
    operation_id: str,
    need: Need | Scope,
    *,
    takes: type[Body] | None = None,
    gives: type[serializers.Serializer[Any]] | None = None,
    status: int = 200,
    example: Any = None,
    answer_example: Any = None,
    came_to_nothing: Callable[[Tenant, str], bool] | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Say what one of a view's methods needs, takes and gives; its docstring is its description.

    The method returns a row, a page of rows, or a `Result`. A POST that needs more than to read heeds
    `Idempotency-Key`.

    Args:
        operation_id: its stable name in the schema.
        need: what a caller must have; checked before the method runs.
        takes: what is read from the body, or if it is a `Query` from the address, and handed to the method first. With
            a `PageQuery` the answer is a page of what it gives.
        gives: what it answers; None for an answer without a body, a 204.
        status: of a success with a body.
        example: of what it takes; without it, the one that `takes` has.
        answer_example: of what it gives; without it, the one that `gives` has.
        came_to_nothing: tells from the studio and the `Location` of its answer that what it began has failed since, so
            that the same key begins it anew.
    """
    need = needs(need) if isinstance(need, Scope) else need
    example = getattr(takes, "example", None) if example is None else example
    answer, answer_example = gives, answer_example or getattr(gives, "example", None)
    if gives is None:
        status = 204
    elif takes is not None and issubclass(takes, PageQuery):
        answer, answer_example = page_answer(gives), {"results": [answer_example], "next_cursor": None}
    examples = []
    if example is not None:
        examples.append(OpenApiExample("Request", value=example, request_only=True))
    if answer_example is not None:
        examples.append(OpenApiExample("Answer", value=answer_example, response_only=True, status_codes=[str(status)]))
    body, query = (None, takes) if takes is None or issubclass(takes, Query) else (takes, None)
    shows_once = getattr(gives, "shows_once", "")

    def decorate(method: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(method)
        def handle(view: Any, request: Request, **names: str) -> Response:
            # Where a body is taken, the address has no parameters.
            asked = read_query(request, query or Query)
            given = read_body(request, body) if body else asked
            found = method(view, given, **names) if takes else method(view, **names)
            if gives is None:
                return Response(status=status)
            return (found if isinstance(found, Result) else Result(found)).answered(gives, status)

        is_idempotent = method.__name__ == "post" and need.scope is not Scope.READ
        summary, _, description = (getdoc(method) or "").partition("\n")
        described = extend_schema(
            operation_id=operation_id,
            summary=summary.rstrip("."),
            description=f"{description.strip()}\n\n{need.words}".strip(),
            parameters=[query] if query else None,
            request=body,
            responses={status: OpenApiResponse(answer, description="Done.")},
            examples=examples,
        )(idempotent(handle, shows_once, came_to_nothing) if is_idempotent else handle)
        # Read by permissions, by the schema and by tests.
        vars(described).update(need=need, is_idempotent=is_idempotent, shows_secret=bool(shows_once))
        return described

    return decorate


@cache
def page_answer(answer: type[serializers.Serializer[Any]]) -> type[serializers.Serializer[Any]]:
    """Return the serializer of one page of a list."""
    name = f"{answer.__name__.removesuffix('Answer')}Page"
    fields: dict[str, serializers.Field[Any, Any, Any, Any]] = {
        "results": answer(many=True),
        "next_cursor": serializers.CharField(
            allow_null=True, help_text="Send it as `cursor` for the next page; null on the last."
        ),
    }
    return type(name, (serializers.Serializer,), {"__doc__": "One page of a list.", **fields})


class Schema(AutoSchema):
    """Adds to what DRF's classes say: path parameters, the idempotency header, and every error there can be."""

    def _get_serializer_name(self, serializer: Any, direction: Direction, bypass_extensions: bool = False) -> str:  # noqa: FBT001, FBT002 - drf-spectacular's own signature
        name: str = super()._get_serializer_name(serializer, direction, bypass_extensions)
        return name.removesuffix("Answer")

    def get_tags(self) -> list[str]:
        """Return the view's own tag."""
        tag = getattr(self.view, "tag", None)
        return [tag] if tag else super().get_tags()

    def get_override_parameters(self) -> list[Any]:
        """Return the path's parameters, and the header of operations that heed it."""
        parameters: list[Any] = [
            OpenApiParameter(name, schema, OpenApiParameter.PATH, required=True, description=description)
            for name, (schema, description) in PATH_PARAMETERS.items()
            if f"{{{name}}}" in self.path
        ]
        if getattr(self._method(), "is_idempotent", False):
            parameters.append(
                OpenApiParameter(
                    HEADER,
                    {"type": "string", "pattern": "^[!-~]{1,200}$"},
                    OpenApiParameter.HEADER,
                    description="Of your choice, new for each thing to do: sent again within 24 hours it is done "
                    "once and answered alike.",
                )
            )
        return parameters

    def _get_response_bodies(self, direction: Direction = "response") -> dict[str, Any]:
        bodies: dict[str, Any] = super()._get_response_bodies(direction)
        need = getattr(self._method(), "need", None)
        if need is None:
            return bodies
        component = ResolvedComponent("Problem", ResolvedComponent.SCHEMA, PROBLEM, "Problem")
        self.registry.register_on_missing(component)
        for status, kinds in groupby(self._problems(), attrgetter("status")):
            bodies[str(status)] = {
                "description": "  \n".join(f"`{kind.code}`: {kind.meaning}" for kind in kinds),
                "content": {PROBLEM_MEDIA_TYPE: {"schema": component.ref}},
            }
        return bodies

    def _problems(self) -> list[Kind]:
        """Return what can go wrong with this operation, by status as `Kind` has them."""
        method = self._method()
        is_write = self.method != "GET"
        possible = [Kind.INVALID, Kind.STUDIO_REQUIRED, Kind.UNAUTHENTICATED, Kind.NOT_ALLOWED]
        possible += [Kind.NO_STUDIO, Kind.NOT_FOUND, Kind.RATE_LIMITED, Kind.UNAVAILABLE]
        if is_write:
            possible += [Kind.MALFORMED, Kind.PERSON_REQUIRED, Kind.CSRF_FAILED, Kind.CONFLICT]
            possible.append(Kind.LIMIT_REACHED)
            possible += [Kind.REFUSED, Kind.TOO_LARGE, Kind.UNSUPPORTED, Kind.LENGTH_REQUIRED]
        if getattr(method, "is_idempotent", False):
            possible += [Kind.IN_PROGRESS, Kind.KEY_REUSED]
        if getattr(method, "shows_secret", False):
            possible.append(Kind.SECRET_SHOWN)
        return [kind for kind in Kind if kind in possible]

    def _method(self) -> Any:
        return getattr(self.view, self.method.lower(), None)


class StrictBody(OpenApiSerializerExtension):
    """Says of every body that nothing else may be in it."""

    target_class = Body
    match_subclasses = True

    @override
    def map_serializer(self, auto_schema: AutoSchema, direction: Direction) -> dict[str, Any]:
        schema: dict[str, Any] = auto_schema._map_serializer(  # noqa: SLF001 - the way extensions reach it
            self.target, direction, bypass_extensions=True
        )
        if not isinstance(self.target, Query):
            schema["additionalProperties"] = False
            if getattr(self.target, "needs_one", False):
                schema["minProperties"] = 1
        return schema


class TokenScheme(OpenApiAuthenticationExtension):
    """The automation token."""

    target_class = "recsite.api.authentication.TokenAuthentication"
    name = "automationToken"

    @override
    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        return {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "rsa_…",
            "description": "An automation token of one studio, made by one of its admins.",
        }


class PersonScheme(OpenApiAuthenticationExtension):
    """The dashboard's session."""

    target_class = "recsite.api.authentication.PersonAuthentication"
    name = "dashboardSession"

    @override
    def get_security_definition(self, auto_schema: AutoSchema) -> dict[str, Any]:
        return {
            "type": "apiKey",
            "in": "cookie",
            "name": settings.SESSION_COOKIE_NAME,
            "description": "A person signed in to the dashboard. Writes need the header `X-CSRFToken`; a person with "
            "several studios names one in `Recsite-Studio`.",
        }
