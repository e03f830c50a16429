"""`POST /api/v1/token`: a client id and secret become a short-lived token (RFC 6749, client credentials)."""

from __future__ import annotations

import base64
import binascii
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NoReturn
from urllib.parse import unquote_plus

from django.db import DatabaseError
from django.http import HttpResponse, QueryDict
from rest_framework.exceptions import APIException, ParseError
from rest_framework.parsers import FormParser, JSONParser
from rest_framework.request import Request
from rest_framework.response import Response

from models_registry.catalogue.access import askable
from recsite.api.described.token import minting_described
from recsite.api.problems import problem_answer
from recsite.api.studio_view import ApiView
from recsite.metrics.counted import count_minted, count_not_minted
from serving.formats.tokens import KID
from tenants.callers import NotAuthenticated, UnknownModel, credential_authenticate, mint_token
from tenants.rules import RuleBroken

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 16_384
GRANT_TYPE = "client_credentials"


class TokenRefused(Exception):
    """A request that gets no token.

    Attributes:
        status: the answer's.
        code: stable; what a program looks at.
        error: RFC 6749's word for it.
    """

    def __init__(self, status: int, code: str, detail: str, *, error: str = "") -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.error = error or code


@dataclass(frozen=True)
class TokenRequest:
    """What was asked for, of the right types, not yet proved or allowed."""

    client_id: str
    client_secret: str
    subject: str | None
    models: list[str] | None
    expires_in_seconds: int | None


class TokenView(ApiView):
    """Answers `{access_token, token_type, expires_in}`, or a problem document that also has RFC 6749's `error`."""

    http_method_names = ["post"]  # noqa: RUF012 - as Django declares it
    parser_classes = (JSONParser, FormParser)

    @property
    def default_response_headers(self) -> dict[str, str]:
        """Nothing keeps a token: RFC 6749 asks for both headers."""
        return {**super().default_response_headers, "Pragma": "no-cache"}

    @minting_described
    def post(self, request: Request) -> Response:
        """Authenticate the client and mint its token: two queries, and at most one write a minute and credential."""
        wanted = read_token_request(request)
        token, seconds, tenant = _minted(wanted)
        count_minted(tenant)
        return Response({"access_token": token, "token_type": "Bearer", "expires_in": seconds})

    def handle_exception(self, exc: Exception) -> Any:
        """Return a problem document for whatever went wrong; a mistake of our own stays one."""
        if isinstance(exc, TokenRefused):
            return _problem(exc.status, exc.code, str(exc), exc.error)
        if isinstance(exc, ParseError | RecursionError):
            return _problem(400, "invalid_request", "The body isn’t valid.", "invalid_request")
        if isinstance(exc, DatabaseError):
            log.error("token.database_failed error=%s", type(exc).__name__)
            return _problem(
                503, "unavailable", "Tokens can’t be issued just now. Try again.", "temporarily_unavailable"
            )
        if isinstance(exc, APIException) and exc.status_code in (405, 415):
            words = {405: "Use POST.", 415: "Send JSON or a form."}[exc.status_code]
            return _problem(exc.status_code, exc.default_code, words, "invalid_request")
        return super().handle_exception(exc)


def _minted(wanted: TokenRequest) -> tuple[str, int, str]:
    """Return a token for whoever asks, for how many seconds it is good, and of which tenant it is.

    Raises:
        TokenRefused: the client is not known, or may not have what it asks for.
    """
    try:
        caller = credential_authenticate(wanted.client_id, wanted.client_secret)
    except NotAuthenticated:
        named = wanted.client_id if KID.fullmatch(wanted.client_id) else "malformed"
        log.info("token.refused credential=%s", named)
        raise TokenRefused(
            401, "invalid_client", "The client id and secret don’t match, or aren’t valid now."
        ) from None
    try:
        token, seconds = mint_token(
            credential=caller.credential,
            generation=caller.generation,
            subject=wanted.subject,
            models=None if wanted.models is None else askable(caller.credential, wanted.models),
            expires_in_seconds=wanted.expires_in_seconds,
        )
    except UnknownModel as error:
        raise TokenRefused(400, "invalid_scope", str(error)) from None
    except RuleBroken as error:
        raise TokenRefused(400, "invalid_request", str(error)) from None
    return token, seconds, caller.credential.tenant.slug


def _problem(status: int, code: str, detail: str, error: str) -> HttpResponse:
    headers = {401: {"WWW-Authenticate": 'Basic realm="recsite", charset="UTF-8"'}, 503: {"Retry-After": "5"}}.get(
        status
    )
    count_not_minted(code)
    return problem_answer(status, code, detail, extra={"error": error, "error_description": detail}, headers=headers)


# --- Reading the request --------------------------------------------------------------------------------------------


def read_token_request(request: Request) -> TokenRequest:
    """Return what a request asks for: JSON, or a form as RFC 6749 has it; the client in the body or by HTTP Basic.

    Raises:
        TokenRefused: something is missing, twice there, or of the wrong type.
    """
    length = request.META.get("CONTENT_LENGTH") or "0"
    if not length.isdecimal() or int(length) > MAX_BODY_BYTES:
        raise TokenRefused(
            413, "body_too_large", f"The body is larger than {MAX_BODY_BYTES:,} bytes.", error="invalid_request"
        )
    data = request.data
    is_form = isinstance(data, QueryDict)
    fields = _read_form(data) if isinstance(data, QueryDict) else data
    if not isinstance(fields, Mapping):
        _refuse("The body must be a JSON object.")
    grant_type = _text(fields, "grant_type")
    if grant_type is None and is_form:
        _refuse(f"grant_type is missing; it must be {GRANT_TYPE}.")
    if grant_type not in (None, GRANT_TYPE):
        raise TokenRefused(400, "unsupported_grant_type", f"grant_type must be {GRANT_TYPE}.")
    client_id, client_secret = _client(request, fields)
    return TokenRequest(
        client_id=client_id,
        client_secret=client_secret,
        subject=_text(fields, "sub"),
        models=_models(fields, is_form=is_form),
        expires_in_seconds=_seconds(fields.get("expires_in"), is_form=is_form),
    )


def _read_form(form: QueryDict) -> dict[str, Any]:
    """Return a form's fields; one without a value counts as left out, one that is there twice is refused."""
    fields: dict[str, Any] = {}
    for name, values in form.lists():
        if len(values) > 1:
            _refuse("A parameter is given twice.")
        if values[0]:
            fields[name] = values[0]
    return fields


def _client(request: Request, fields: Mapping[str, Any]) -> tuple[str, str]:
    client_id, client_secret = _text(fields, "client_id"), _text(fields, "client_secret")
    scheme, _, given = request.META.get("HTTP_AUTHORIZATION", "").partition(" ")
    if scheme.lower() == "basic":
        basic = _basic(given)
        if client_secret is not None or client_id not in (None, basic[0]):
            _refuse("Send the client’s secret once: by HTTP Basic or in the body.")
        return basic
    if client_id is None or client_secret is None:
        raise TokenRefused(401, "invalid_client", "client_id and client_secret are required.")
    return client_id, client_secret


def _basic(given: str) -> tuple[str, str]:
    try:
        text = base64.b64decode(given.strip(), validate=True).decode()
    except (binascii.Error, ValueError):
        raise TokenRefused(401, "invalid_client", "The Authorization header can’t be read.") from None
    client_id, _, client_secret = text.partition(":")
    return unquote_plus(client_id), unquote_plus(client_secret)


def _text(fields: Mapping[str, Any], name: str) -> str | None:
    value = fields.get(name)
    if value is not None and not isinstance(value, str):
        _refuse(f"{name} must be a string.")
    return value


def _models(fields: Mapping[str, Any], *, is_form: bool) -> list[str] | None:
    """Return the slugs asked for. `scope`, RFC 6749's name for them, is read where `models` is not given."""
    models = fields.get("models")
    if models is None:
        scope = _text(fields, "scope")
        return scope.split() if scope else None
    if is_form:
        return str(models).split()
    if not isinstance(models, list) or not all(isinstance(model, str) for model in models):
        _refuse("models must be a list of strings.")
    return list(models)


def _seconds(value: Any, *, is_form: bool) -> int | None:
    if is_form and isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 9:
        return int(value)
    if value is not None and (isinstance(value, bool) or not isinstance(value, int)):
        _refuse("expires_in must be a whole number of seconds.")
    return value


def _refuse(detail: str) -> NoReturn:
    raise TokenRefused(400, "invalid_request", detail)
