"""Why a player gets what they get."""

from __future__ import annotations

from typing import Any, ClassVar

from rest_framework import serializers

from models_registry.rollouts.explaining import Explanation, FoundAnswer, explain
from recsite.api.bodies import Answer, Body, Text
from recsite.api.operations.lookups import find_model
from recsite.api.problems import fields_named
from recsite.api.schema import operation
from recsite.api.studio_view import StudioView
from tenants.models import Scope
from tenants.rules import RuleBroken

EXPLANATION = {
    "unit": "p000811",
    "slot": 4711,
    "phase": 1,
    "revision": 4,
    "version": "2026-11-a",
    "is_override": False,
    "serves_default": False,
    "is_published": True,
    "row_count": 2145332,
    "loaded_at": "2026-11-01T10:00:00Z",
    "answer": {
        "source": "table",
        "recommendation": {"offer_id": 17, "discount": 0.25, "placement": "shop", "items": [3, 5]},
        "table_id": "3f7k2m9xq0bd",
        "is_previous_table": False,
    },
}


class GivenAnswer(Answer[FoundAnswer]):
    """What the player is answered."""

    source_ = serializers.ChoiceField(
        choices=["table", "default", "fallback", "none"],
        help_text="default: no row; fallback: the row could not be read; none: no row and no default, a 204.",
    )
    recommendation = serializers.DictField(source="record", allow_null=True)
    table_id = serializers.CharField(allow_null=True, help_text="The table that was asked; null: never loaded.")
    is_previous_table = serializers.BooleanField(help_text="The newest one had lost data; the one before was asked.")


class ExplanationAnswer(Answer[Explanation]):
    """The steps from a player to a version, and to an answer where the whole key is given."""

    example = EXPLANATION
    unit = serializers.CharField(help_text="What was hashed.")
    slot = serializers.IntegerField(help_text="0 … 9,999.")
    phase = serializers.IntegerField()
    revision = serializers.IntegerField(help_text="Of the rollout.")
    version = serializers.CharField()
    is_override = serializers.BooleanField(help_text="A tester: the weights did not matter.")
    serves_default = serializers.BooleanField(help_text="Everybody gets the default just now.")
    is_published = serializers.BooleanField(help_text="This is what serving has; else Redis does not answer.")
    row_count = serializers.IntegerField(allow_null=True, help_text="Of the version's table; null: never loaded.")
    loaded_at = serializers.DateTimeField(allow_null=True)
    answer = GivenAnswer(allow_null=True, help_text="null: a part of the key was left out, or Redis is away.")


class Player(Body):
    """Who is meant."""

    example: ClassVar = {"key": {"player_id": "p000811"}}
    key = serializers.DictField(
        child=Text(max_length=256), required=False, default=dict, help_text="Values of the model's key fields, by name."
    )
    unit = Text(
        max_length=256,
        required=False,
        allow_blank=True,
        default="",
        help_text="Who is bucketed, where that is not the key or one of its fields.",
    )


class ModelExplanation(StudioView, tag="Rollouts"):
    @operation("models_explain", Scope.READ, takes=Player, gives=ExplanationAnswer)
    def post(self, given: dict[str, Any], model: str) -> Explanation:
        """Explain which version a player gets and why, and what they are answered. Changes nothing.

        Serving's own engine works it out from what serving has. It is a POST so that player ids stay out of addresses.
        """
        row = find_model(self.tenant, model)
        unknown = sorted(set(given["key"]) - set(row.key_fields))
        if unknown:
            raise RuleBroken(f"The model has no key field “{unknown[0]}”.", field=f"key.{unknown[0]}")
        with fields_named(**{field: f"key.{field}" for field in row.key_fields}):
            return explain(model=row, **given)
