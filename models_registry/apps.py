"""Django's registration of the models_registry app."""

from django.apps import AppConfig


class ModelsRegistryConfig(AppConfig):
    """Models, versions, loads and rollouts."""

    name = "models_registry"
    verbose_name = "Models and rollouts"

    def ready(self) -> None:
        """Publish a tenant's snapshot whenever a commit changed what serving must know."""
        from models_registry.publishing import publish_on_change  # noqa: PLC0415 - models exist only by now
        from tenants.signals import tenant_changed  # noqa: PLC0415 - as above

        tenant_changed.connect(publish_on_change, dispatch_uid="models_registry.publish")
