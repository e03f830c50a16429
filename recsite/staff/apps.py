"""Django's registration of the admin's pages."""

from django.apps import AppConfig


class StaffConfig(AppConfig):
    """Pages for platform staff."""

    name = "recsite.staff"
