"""What a model's units are called: what is bucketed, and so what gets a version."""

from __future__ import annotations

from models_registry.models import RecommendationModel


def units_word(model: RecommendationModel) -> str:
    """Return “players”, or “keys” of a model that buckets by the whole key, for sentences in the plural."""
    return "players" if model.unit_field else "keys"
