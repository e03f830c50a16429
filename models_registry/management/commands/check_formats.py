"""`manage.py check_formats FILE`: hold this release against a file of test vectors."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from models_registry.loading.vectors import NoVectors, check_vectors


class Command(BaseCommand):
    """Run test vectors through the bulk packer, the block writer and the lane's reader; exit 1 on any difference."""

    help = "Run a file of test vectors through the code that loads and serves; exit 1 if anything differs."
    requires_system_checks: list[str] = []  # noqa: RUF012 - Django's own declaration

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the file."""
        parser.add_argument("file", type=Path, help="JSON with the sections slot, locate, pack, block and refuse")

    def handle(self, *args: Any, file: Path, **options: Any) -> None:
        """Print each difference, then a line for each section.

        Raises:
            CommandError: the file cannot be read, or something differs.
        """
        try:
            # The lenient reader: a vector to be refused may hold NaN or half a character.
            sections = check_vectors(json.loads(file.read_bytes()))
        except OSError as error:
            raise CommandError(f"{file} cannot be read: {error.strerror}.") from None
        except NoVectors as error:
            raise CommandError(f"{file} is not a file of test vectors: {error}.") from None
        except (ValueError, RecursionError) as error:
            raise CommandError(f"{file} is not JSON, or it is damaged: {error}.") from None
        for section in sections:
            for difference in section.differences:
                self.stdout.write(self.style.ERROR(difference))
        for section in sections:
            failed = len({words.partition(":")[0] for words in section.differences})
            self.stdout.write(f"{section.name}: {section.vectors - failed} of {section.vectors} vectors agree")
        if any(section.differences for section in sections):
            raise CommandError("This release differs from the file.")
        self.stdout.write(self.style.SUCCESS("Everything agrees."))


def run_without_settings(arguments: list[str]) -> None:
    """Run the command as `manage.py` does, on Django's own defaults: no secret and no application is needed."""
    settings.configure()
    Command().run_from_argv(arguments)
