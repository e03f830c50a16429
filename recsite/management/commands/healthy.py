"""`recsite healthy worker|loader|beat`: does this machine's (this container's) process live and work?"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from typing_extensions import override

from recsite.background.heartbeats import COMPONENTS, verdict


class Command(BaseCommand):
    """Asks the folder that the process writes to, and nothing else; exits 1 where it is silent."""

    help = (
        "Say whether the worker, the loader or beat with this RECSITE_VAR_DIR lives and works: exit code 0 or 1, and a "
        "sentence. For probes."
    )
    requires_system_checks = ()

    @override
    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("component", choices=COMPONENTS)

    @override
    def handle(self, *, component: Any, **_: Any) -> None:
        var_dir: Path = settings.VAR_DIR
        is_healthy, sentence = verdict(component, var_dir)
        (self.stdout if is_healthy else self.stderr).write(sentence)
        sys.exit(0 if is_healthy else 1)


def run(arguments: list[str]) -> None:
    """Run the command without setting up Django's applications, which takes seconds that a probe does not have."""
    Command().run_from_argv(arguments)
