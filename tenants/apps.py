"""Django's registration of the tenants app."""

from django.apps import AppConfig


class TenantsConfig(AppConfig):
    """Studios, people, credentials, audit."""

    name = "tenants"
    verbose_name = "Studios and people"
