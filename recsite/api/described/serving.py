"""What the OpenAPI document says of `/v1/recommendations`. The serving app knows nothing of it."""

from __future__ import annotations

from typing import Any

from drf_spectacular.extensions import OpenApiViewExtension
from drf_spectacular.utils import OpenApiExample, OpenApiParameter, extend_schema, extend_schema_view

from recsite.api.schema import problem_schema
from serving.http import BITS, JSON, PROBLEM

RECOMMENDATION = {
    "type": "object",
    "required": ["model", "version", "recommendation"],
    "properties": {
        "model": {"type": "string"},
        "version": {"type": "string", "description": "The version that the weights give this player."},
        "recommendation": {"type": "object", "description": "The layout's fields, in its order."},
    },
}
BATCH = {
    "type": "object",
    "required": ["keys"],
    "additionalProperties": False,
    "properties": {
        "model": {
            "type": "string",
            "nullable": True,
            "description": "May be left out where the token is for one model.",
        },
        "keys": {
            "type": "array",
            "minItems": 1,
            "maxItems": 500,
            "items": {
                "type": "object",
                "additionalProperties": {"oneOf": [{"type": "string"}, {"type": "integer"}]},
                "description": "The model's key fields; `unit` names who is bucketed, where that is not a key field.",
            },
        },
    },
}
BATCH_ANSWER = {
    "type": "object",
    "required": ["model", "answers"],
    "properties": {
        "model": {"type": "string"},
        "answers": {
            "type": "array",
            "description": "In the order of the keys.",
            "items": {
                "type": "object",
                "required": ["status"],
                "properties": {
                    "status": {"type": "integer", "description": "As if this key had been asked for alone."},
                    "source": {"type": "string", "enum": ["default", "fallback"]},
                    "version": {"type": "string"},
                    "recommendation": {"type": "object"},
                    "code": {"type": "string"},
                    "detail": {"type": "string"},
                },
            },
        },
    },
}
ERRORS = {
    400: "A key or parameter is missing, unknown or malformed.",
    401: "No, a bad, an expired or a revoked token.",
    403: "Many keys at once need a server token, one without `sub`.",
    404: "No such model for this token.",
    406: "It answers JSON and bits.",
    413: "The body is too large.",
    415: "Send the keys as JSON.",
    429: "Over the credential's limit; `Retry-After` says for how long.",
    503: "Nothing can be said just now; `Retry-After` says when to ask again.",
}
OFFER = {
    "model": "offers",
    "version": "2026-11-a",
    "recommendation": {"offer_id": 17, "discount": 0.25, "placement": "shop", "items": [3, 5]},
}
SECURITY = "recommendationToken"
# Of the form that OpenAPI has it in; drf-spectacular hands it on as it is.
AUTHENTICATION: Any = [{SECURITY: []}]


class RecommendationsDescribed(OpenApiViewExtension):
    """Replaces the view in the document's eyes."""

    target_class = "serving.views.RecommendationsView"

    def view_replacement(self) -> Any:
        """Return the view with its two operations described."""
        one = extend_schema(
            operation_id="recommendations_read",
            tags=["Recommendations"],
            summary="Ask for one recommendation",
            description="The token says for whose player and which models one may ask; the rollout's weights say from "
            "which version the answer comes. Ask the lane, on its own address; this server answers the same, for "
            "consoles and modest traffic.",
            auth=AUTHENTICATION,
            parameters=[
                OpenApiParameter("model", str, description="May be left out where the token is for one model."),
                OpenApiParameter(
                    "key",
                    {"type": "object", "additionalProperties": {"type": "string"}, "example": {"player_id": "p000811"}},
                    description="The model's key fields, each a parameter of its own name. The one that says who is "
                    "bucketed comes from the token's `sub` where it has one. A server token may add `unit`.",
                    style="form",
                    explode=True,
                ),
                OpenApiParameter("If-None-Match", str, OpenApiParameter.HEADER, description="An `ETag` given before."),
                OpenApiParameter(
                    "Recommendation-Source",
                    str,
                    OpenApiParameter.HEADER,
                    response=[200],
                    enum=["default", "fallback"],
                    description="Only where the answer is not from the table.",
                ),
                OpenApiParameter("ETag", str, OpenApiParameter.HEADER, response=[200, 304]),
            ],
            responses={
                (200, JSON): RECOMMENDATION,
                (200, BITS): {"type": "string", "format": "binary"},
                204: None,
                304: None,
                **_errors(400, 401, 404, 406, 429, 503),
            },
            examples=[OpenApiExample("Answer", value=OFFER, response_only=True, status_codes=["200"], media_type=JSON)],
        )
        many = extend_schema(
            operation_id="recommendations_read_many",
            tags=["Recommendations"],
            summary="Ask for up to 500 recommendations at once",
            description="With a server token. Costs as many requests of the limit as there are keys.",
            auth=AUTHENTICATION,
            request={JSON: BATCH},
            responses={(200, JSON): BATCH_ANSWER, **_errors(*ERRORS)},
            examples=[
                OpenApiExample(
                    "Two players",
                    value={"model": "offers", "keys": [{"player_id": "p000811"}, {"player_id": "p000812"}]},
                    request_only=True,
                ),
                OpenApiExample(
                    "Answers",
                    value={
                        "model": "offers",
                        "answers": [
                            {"status": 200, "version": "2026-11-a", "recommendation": OFFER["recommendation"]},
                            {"status": 204},
                        ],
                    },
                    response_only=True,
                    status_codes=["200"],
                ),
            ],
        )
        return extend_schema_view(get=one, post=many)(type("RecommendationsView", (self.target,), {}))


def _errors(*statuses: int) -> dict[tuple[int, str], dict[str, Any]]:
    return {(status, PROBLEM): {**problem_schema(), "description": ERRORS[status]} for status in statuses}


def add_security(result: dict[str, Any], generator: Any, request: Any, public: bool) -> dict[str, Any]:  # noqa: FBT001 - drf-spectacular's own signature
    """Add to the document how recommendations are authenticated: by a token that the API has no part in."""
    schemes = result["components"].setdefault("securitySchemes", {})
    schemes[SECURITY] = {
        "type": "http",
        "scheme": "bearer",
        "bearerFormat": "JWT",
        "description": "From `POST /api/v1/token`, or signed by the studio's backend with a registered key.",
    }
    return result
