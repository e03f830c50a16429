"""The project as a Django application."""

from importlib import import_module

from django.apps import AppConfig


class RecsiteConfig(AppConfig):
    """Has the Celery application there once Django is set up: tasks belong to it from then on.

    Importing it with the package instead would load Celery wherever settings are read, in every lane too.
    """

    name = "recsite"

    def ready(self) -> None:
        """See Django."""
        import_module("recsite.celery")
