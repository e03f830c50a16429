"""Django's registration of the API."""

from django.apps import AppConfig


class ApiConfig(AppConfig):
    """The API for programs."""

    name = "recsite.api"
