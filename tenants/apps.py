"""Django's registration of the tenants app."""

from django.apps import AppConfig
from django.contrib.auth.signals import user_logged_in
from typing_extensions import override


class TenantsConfig(AppConfig):
    """Studios, people, credentials, audit."""

    name = "tenants"
    verbose_name = "Studios and people"

    @override
    def ready(self) -> None:
        from tenants.sessions import shorten_for_staff  # noqa: PLC0415 - models exist only by now

        user_logged_in.connect(shorten_for_staff, dispatch_uid="tenants.shorten_for_staff")
