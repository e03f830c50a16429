"""What the OpenAPI document says of `POST /api/v1/token`."""

from __future__ import annotations

from typing import Any

from drf_spectacular.utils import OpenApiExample, extend_schema

from recsite.api.schema import problem_schema
from serving.http import PROBLEM

REQUEST: dict[str, Any] = {
    "type": "object",
    "required": ["client_id", "client_secret"],
    "properties": {
        "client_id": {"type": "string"},
        "client_secret": {"type": "string"},
        "grant_type": {"type": "string", "enum": ["client_credentials"], "description": "Required in a form."},
        "sub": {
            "type": "string",
            "description": "The player the token is for; it can then ask for nobody else. Without it: a server token.",
        },
        "models": {
            "type": "array",
            "items": {"type": "string"},
            "description": "The models it may ask for; without it, all of the credential's.",
        },
        "expires_in": {
            "type": "integer",
            "minimum": 1,
            "maximum": 900,
            "description": "How many seconds it lives; 900 without it.",
        },
    },
}
FORM = {
    **REQUEST,
    "required": ["grant_type"],
    "properties": {
        **REQUEST["properties"],
        "scope": {"type": "string", "description": "The models, separated by spaces (as `models`)."},
        "models": {"type": "string", "description": "The models, separated by spaces."},
    },
}
ANSWER = {
    "type": "object",
    "required": ["access_token", "token_type", "expires_in"],
    "properties": {
        "access_token": {"type": "string"},
        "token_type": {"type": "string", "enum": ["Bearer"]},
        "expires_in": {"type": "integer", "description": "Seconds."},
    },
}
CODES = [
    "invalid_request",
    "invalid_client",
    "invalid_scope",
    "unsupported_grant_type",
    "body_too_large",
    "method_not_allowed",
    "unsupported_media_type",
    "unavailable",
]
ERROR = problem_schema(
    CODES, error={"type": "string", "description": "RFC 6749's word for it."}, error_description={"type": "string"}
)
EXAMPLE = {"client_id": "cr_8v3n5k0c2fdt", "client_secret": "rsk_" + "x" * 43, "sub": "p000811", "models": ["offers"]}
TOKEN = {"access_token": "eyJhbGciOiJIUzI1NiJ9.e30.…", "token_type": "Bearer", "expires_in": 900}


minting_described = extend_schema(
    operation_id="tokens_mint",
    tags=["Recommendations"],
    summary="Get a token for recommendations",
    description="A credential's client id and secret become a token that lives at most 15 minutes: RFC 6749 "
    "client credentials as a form, or the same as JSON. The client may prove itself by HTTP Basic instead.",
    auth=[],
    request={"application/json": REQUEST, "application/x-www-form-urlencoded": FORM},
    responses={(200, "application/json"): ANSWER, **{(status, PROBLEM): ERROR for status in (400, 401, 413, 415, 503)}},
    examples=[
        OpenApiExample("For a player", value=EXAMPLE, request_only=True, media_type="application/json"),
        OpenApiExample("Token", value=TOKEN, response_only=True, status_codes=["200"]),
    ],
)
