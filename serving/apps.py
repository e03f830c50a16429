"""Django's registration of the serving app."""

from django.apps import AppConfig


class ServingConfig(AppConfig):
    """The doors to the answer."""

    name = "serving"
