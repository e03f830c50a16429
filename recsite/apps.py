"""The project as a Django application."""

from importlib import import_module

from django.apps import AppConfig
from typing_extensions import override


class RecsiteConfig(AppConfig):
    """Has the Celery application and the system checks there once Django is set up.

    Importing it with the package instead would load Celery wherever settings are read, in every lane too.
    """

    name = "recsite"

    @override
    def ready(self) -> None:
        import_module("recsite.celery")
        import_module("recsite.checks")
