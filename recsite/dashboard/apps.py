"""Django's registration of the dashboard."""

from django.apps import AppConfig


class DashboardConfig(AppConfig):
    """Pages for product managers and studios."""

    name = "recsite.dashboard"
