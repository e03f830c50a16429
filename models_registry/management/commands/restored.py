"""`manage.py restored`: what a restored database does not know, told by the snapshots that outlived it."""

from __future__ import annotations

from argparse import ArgumentParser
from itertools import chain
from pathlib import Path
from typing import Any

import redis
from django.core.management.base import BaseCommand, CommandError

from models_registry import restoring


class Command(BaseCommand):
    """Compare the database with the newest signed snapshots."""

    help = (
        "After a backup of the database was restored, and before any process starts: say what happened after the "
        "backup, by the snapshots in Redis and in the folders of lanes."
    )

    def add_arguments(self, parser: ArgumentParser) -> None:
        """Take the folders, and whether to act."""
        parser.add_argument(
            "folders",
            nargs="*",
            type=Path,
            metavar="FOLDER",
            help="a lane's RECSITE_VAR_DIR, or a copy of it; without any, Redis is asked",
        )
        parser.add_argument(
            "--take-back",
            action="store_true",
            help="revoke and end again what was revoked and ended after the backup",
        )

    def handle(self, *args: Any, folders: list[Path], take_back: bool, **options: Any) -> None:
        """Print a line for each thing; raises CommandError where there is nothing to compare with."""
        try:
            of_lanes = chain.from_iterable(map(restoring.envelopes_in, folders))
            envelopes = list(of_lanes if folders else restoring.envelopes_in_redis())
        except redis.RedisError as error:
            raise CommandError(f"Redis does not answer ({error}). Name the folders of lanes.") from None
        if not envelopes:
            raise CommandError("There is no snapshot to compare with. Name the folders of lanes.")
        things = restoring.forgotten(envelopes)
        for thing in things:
            self.stdout.write(thing.words)
        self.stdout.write(f"{len(things)} found in {len(envelopes)} snapshots.")
        to_take_back = sum(thing.takes_back is not None for thing in things)
        if take_back:
            self.stdout.write(f"{restoring.take_back(things)} taken back again.")
        elif to_take_back:
            self.stdout.write(f"{to_take_back} would be good again: run this once more with --take-back.")
