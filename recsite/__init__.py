"""The Django project: settings, URLs, the Celery application, the command line and the `demo` command."""

__version__ = "0.1.0"
