"""`manage.py metrics_docs`: write docs/metrics.md from the metrics' definitions."""

from pathlib import Path

from django.core.management.base import BaseCommand

from recsite.environment import BASE_DIR
from recsite.metrics import DEFINITIONS
from serving.metrics import as_markdown


class Command(BaseCommand):
    """Writes the file; a test fails while it is not current."""

    help = "Write docs/metrics.md from the metrics' definitions."
    requires_system_checks = ()

    def handle(self, **_: object) -> None:
        """Write it."""
        path: Path = BASE_DIR / "docs" / "metrics.md"
        path.write_text(as_markdown(DEFINITIONS))
        self.stdout.write(f"Wrote {path}")
