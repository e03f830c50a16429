"""Django's registration of the models_registry app."""

from django.apps import AppConfig


class ModelsRegistryConfig(AppConfig):
    """Models, versions, loads and rollouts."""

    name = "models_registry"
    verbose_name = "Models and rollouts"
