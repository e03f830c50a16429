"""The project as a Django application."""

from importlib import import_module

from django.apps import AppConfig
from django.db.models.signals import pre_migrate
from typing_extensions import override

from recsite.postgresql.limits import lift_for_migrations


class RecsiteConfig(AppConfig):
    """Has the Celery application and the system checks there once Django is set up.

    Importing it with the package instead would load Celery wherever settings are read, in every lane too.
    """

    name = "recsite"

    @override
    def ready(self) -> None:
        from recsite.metrics.counted import count_database_errors  # noqa: PLC0415 - models exist only by now

        import_module("recsite.celery")
        import_module("recsite.checks")
        count_database_errors()
        pre_migrate.connect(lift_for_migrations, sender=self, dispatch_uid="recsite.lift_for_migrations")
