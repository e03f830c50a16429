"""What is declared above is not reachable from below."""

from __future__ import annotations

from typing import Any

import pytest
from django.apps import apps
from django.db.models.fields.related import RelatedField

RELATIONS = [
    field
    for model in apps.get_app_config("models_registry").get_models(include_auto_created=True)
    for field in (*model._meta.fields, *model._meta.many_to_many)
    if isinstance(field, RelatedField)
]
UPWARD = [field for field in RELATIONS if field.related_model._meta.app_label != "models_registry"]


def test_relations__are_found() -> None:
    assert {str(field) for field in UPWARD} >= {
        "models_registry.RecommendationModel.tenant",
        "models_registry.RecommendationModel.credentials",
        "models_registry.CredentialUse.credential",
    }


@pytest.mark.parametrize("field", UPWARD, ids=str)
def test_relation__to_an_app_below__cannot_be_followed_back(field: Any) -> None:
    assert field.remote_field.hidden
    back = [
        relation.name for relation in field.related_model._meta.get_fields() if relation.related_model == field.model
    ]
    assert back == []
