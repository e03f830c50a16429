"""The page at /api/: the OpenAPI document for people, with an example of everything and a form to try it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.middleware.csrf import get_token
from django.shortcuts import render
from django.utils.html import format_html
from django.utils.safestring import SafeString, mark_safe
from django.utils.text import slugify
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from recsite.api.authentication import STUDIO_HEADER
from recsite.api.described.document import document
from recsite.api.idempotency import KEPT_FOR
from recsite.api.paging import MAX_LIMIT
from recsite.api.problems import Kind
from tenants.access import ROLE_FOR, studios_of
from tenants.models import Scope

DEPTH = 3
STUDIOS_OFFERED = 50
SERVED_BY_LANE = "/v1/"
PATH_EXAMPLES = {
    "model": "offers",
    "version": "2026-11-a",
    "fence": "7",
    "revision": "0",
    "number": "4",
    "client_id": "cr_8v3n5k0c2fdt",
    "token": "at_5f2m8q0xk1bc",
    "username": "mara",
}
METHODS = ("get", "post", "put", "patch", "delete")


@dataclass(frozen=True)
class Field:
    """One name in an address, a body or an answer."""

    name: str
    type_words: str
    description: str
    is_required: bool = False
    where: str = ""
    example: str = ""


@dataclass(frozen=True)
class Operation:
    """One thing that the API does, ready to be shown."""

    anchor: str
    method: str
    path: str
    summary: str
    description: str
    parameters: tuple[Field, ...]
    body: tuple[Field, ...]
    body_example: str
    answer: tuple[Field, ...]
    answer_example: str
    success: str
    errors: tuple[tuple[str, SafeString], ...]
    command: str
    is_tried_here: bool


@dataclass(frozen=True)
class Group:
    """The operations on one subject."""

    name: str
    anchor: str
    operations: tuple[Operation, ...]


@never_cache
@require_safe
def reference(request: HttpRequest) -> HttpResponse:
    """Show the page. It is the same for everybody; somebody who is signed in can send requests from it."""
    person = request.user if request.user.is_authenticated else None
    if person is not None:
        get_token(request)  # has the cookie sent that the page's requests need
    context = {
        "groups": groups(request.build_absolute_uri("/").rstrip("/")),
        "kinds": [(kind, with_code(kind.meaning)) for kind in Kind],
        "scopes": [(Scope(scope), role.label) for scope, role in ROLE_FOR.items()],
        "studio_header": STUDIO_HEADER,
        "studios": [tenant.slug for tenant in studios_of(person)[:STUDIOS_OFFERED]] if person else [],
        "key_hours": int(KEPT_FOR.total_seconds() // 3600),
        "max_limit": MAX_LIMIT,
        "requests_per_minute": settings.API_REQUESTS_PER_MINUTE,
    }
    return render(request, "api/reference.html", context)


@lru_cache(maxsize=8)
def groups(url: str) -> tuple[Group, ...]:
    """Return every operation of the document by subject, in the document's order; commands ask this address."""
    by_tag: dict[str, list[Operation]] = {}
    for path, methods in document()["paths"].items():
        for method in METHODS:
            if method in methods:
                by_tag.setdefault(methods[method]["tags"][0], []).append(_operation(url, path, method, methods[method]))
    return tuple(Group(tag, slugify(tag), tuple(operations)) for tag, operations in by_tag.items())


def _operation(url: str, path: str, method: str, told: Mapping[str, Any]) -> Operation:
    body_schema, body_example = _content(told.get("requestBody", {}))
    success = min(status for status in told["responses"] if status.startswith("2"))
    answer_schema, answer_example = _content(told["responses"][success])
    is_of_lane = path.startswith(SERVED_BY_LANE)
    return Operation(
        anchor=told["operationId"],
        method=method.upper(),
        path=path,
        summary=told["summary"],
        description=with_code(told["description"]),
        parameters=tuple(_parameter(parameter) for parameter in told.get("parameters", ())),
        body=tuple(_fields(body_schema)),
        body_example=body_example,
        answer=tuple(_fields(answer_schema)),
        answer_example=answer_example,
        success=success,
        errors=tuple(
            (status, with_code(answer.get("description") or _error_words(answer)))
            for status, answer in told["responses"].items()
            if status[0] in "45"
        ),
        command=_command(settings.SERVING_URL if is_of_lane else url, path, method, told, body_example),
        is_tried_here=not is_of_lane and not path.endswith("/token"),
    )


def _parameter(told: Mapping[str, Any]) -> Field:
    return Field(
        name=told["name"],
        type_words=type_words(told["schema"]),
        description=with_code(told.get("description", "")),
        is_required=told.get("required", False),
        where={"path": "in the path", "query": "in the query", "header": "header"}[told["in"]],
        example=PATH_EXAMPLES.get(told["name"], "") if told["in"] == "path" else "",
    )


def _content(told: Mapping[str, Any]) -> tuple[Mapping[str, Any], str]:
    """Return the schema of a body or an answer, and its example as JSON."""
    content = told.get("content", {}).get("application/json")
    if content is None:
        return {}, ""
    example = next((example["value"] for example in content.get("examples", {}).values()), None)
    return content["schema"], "" if example is None else json.dumps(example, indent=2, ensure_ascii=False)


def _error_words(told: Mapping[str, Any]) -> str:
    schemas = [content["schema"] for content in told.get("content", {}).values()]
    return next((schema["description"] for schema in schemas if "description" in schema), "")


def _command(url: str, path: str, method: str, told: Mapping[str, Any], body: str) -> str:
    """Return a curl command that does it."""
    filled = path.format(**PATH_EXAMPLES)
    if method == "delete" and path.endswith("/overrides"):
        filled += "?unit=tester-7"
    if path == "/v1/recommendations" and method == "get":
        filled += "?model=offers"
    parts = [f"curl {'' if method == 'get' else f'-X {method.upper()} '}'{url}{filled}'"]
    if told.get("security") != [{}] and not path.endswith("/token"):
        parts.append('-H "Authorization: Bearer $TOKEN"')
    if any(parameter["name"] == "Idempotency-Key" for parameter in told.get("parameters", ())):
        parts.append("-H 'Idempotency-Key: nightly-2026-11-01'")
    if body:
        compact = json.dumps(json.loads(body), ensure_ascii=False).replace("'", "'\\''")
        parts += ["-H 'Content-Type: application/json'", f"-d '{compact}'"]
    return " \\\n  ".join(parts)


# --- Schemas in words -----------------------------------------------------------------------------------------------


def _resolved(schema: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a schema with what it refers to put in."""
    if "$ref" in schema:
        return _resolved(document()["components"]["schemas"][schema["$ref"].rpartition("/")[2]])
    if "allOf" in schema:
        [only] = schema["allOf"]
        return {**_resolved(only), **{name: value for name, value in schema.items() if name != "allOf"}}
    return schema


def _fields(schema: Mapping[str, Any], prefix: str = "", depth: int = DEPTH) -> Iterator[Field]:
    """Yield the names in an object, those of objects within it with their whole path: `source.kind`."""
    schema = _resolved(schema)
    required = schema.get("required", ())
    for name, told in schema.get("properties", {}).items():
        resolved = _resolved(told)
        description = told.get("description") or resolved.get("description", "")
        # drf-spectacular says of each choice what it is called: the words here say it already.
        description = "" if description.startswith("* `") else description.partition("\n\n* `")[0]
        yield Field(f"{prefix}{name}", type_words(resolved), with_code(description), name in required)
        inner, mark = (_resolved(resolved["items"]), "[]") if resolved.get("type") == "array" else (resolved, "")
        if depth > 1:
            yield from _fields(inner, f"{prefix}{name}{mark}.", depth - 1)


def with_code(text: str) -> SafeString:
    """Return a description as HTML: what stands in backticks becomes code, and everything is escaped."""
    # Every second part stood between two backticks.
    parts = [
        format_html("<code>{}</code>" if number % 2 else "{}", part) for number, part in enumerate(text.split("`"))
    ]
    return mark_safe("".join(parts))  # noqa: S308 - each part has been escaped


def type_words(schema: Mapping[str, Any]) -> str:
    """Return what a value may be: “text, at most 50 characters”, “whole number, 1 to 200”, “one of: token, person”."""
    schema = _resolved(schema)
    words = _bare_type_words(schema)
    return f"{words}, or null" if schema.get("nullable") or None in schema.get("enum", ()) else words


def _bare_type_words(schema: Mapping[str, Any]) -> str:
    for choice in ("oneOf", "anyOf"):
        if choice in schema:
            each = dict.fromkeys(_bare_type_words(_resolved(one)) for one in schema[choice])
            return " or ".join(filter(None, each))
    if "enum" in schema:
        return "one of: " + ", ".join(str(value) for value in schema["enum"] if value is not None)
    kind = schema.get("type", "")
    if kind == "array":
        return f"list of: {type_words(schema['items'])}"
    if kind == "string":
        formats = {"date-time": "instant (ISO 8601 with a time zone)", "binary": "bytes"}
        longest = schema.get("maxLength")
        return formats.get(schema.get("format", ""), "text" + (f", at most {longest:,} characters" if longest else ""))
    if kind in ("integer", "number"):
        words = "whole number" if kind == "integer" else "number"
        low, high = schema.get("minimum"), schema.get("maximum")
        if low is not None and high is not None:
            return f"{words}, {low:,} to {high:,}"
        return f"{words}, at least {low:,}" if low is not None else words
    return {"boolean": "true or false", "object": "object", "": "anything"}[kind]
