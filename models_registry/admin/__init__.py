"""The admin of models, versions, loads and rollouts, for platform staff."""

from models_registry.admin import loads, models, rollouts, versions

__all__ = ["loads", "models", "rollouts", "versions"]
