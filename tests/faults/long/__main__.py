"""`python -m tests.faults.long`: see the package."""

from __future__ import annotations

import argparse
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import django

from recsite.demo.site import prepare
from tests.postgres import EmbeddedPostgres


def main() -> int:
    """Make a folder and settings of its own, and run."""
    parser = argparse.ArgumentParser(prog="make faults", description=__doc__)
    parser.add_argument("--seed", type=int, default=secrets.randbelow(1_000_000), help="of what is done when")
    parser.add_argument("--minutes", type=float, default=3.0, help="how long faults are done (default: %(default).0f)")
    arguments = parser.parse_args()
    for name in [name for name in os.environ if name.startswith("RECSITE_")]:
        del os.environ[name]
    with ExitStack() as stack:
        folder = Path(tempfile.mkdtemp(prefix="faults-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        postgres = _postgres(stack)
        os.environ |= {
            "DJANGO_SETTINGS_MODULE": "recsite.settings",
            "RECSITE_VAR_DIR": str(folder),
            "RECSITE_ENV_FILE": str(folder / "demo.env"),
            # Clients keep this machine busy, and a load that yields to them would take all day.
            "RECSITE_LOAD_YIELDS": "false",
            **({"RECSITE_DATABASE_URL": postgres.url} if postgres else {}),
        }
        prepare([])
        django.setup()
        from tests.faults.long.run import run  # noqa: PLC0415 - settings exist only by now

        code = run(postgres, arguments.seed, arguments.minutes)
        if code:
            kept = shutil.copytree(folder / "log", tempfile.mkdtemp(prefix="faults-log-"), dirs_exist_ok=True)
            print(f"Logs: {kept}")  # noqa: T201 - for whoever looks why
        return code


def _postgres(stack: ExitStack) -> EmbeddedPostgres | None:
    try:
        server = EmbeddedPostgres().start()
    except (OSError, KeyError, subprocess.SubprocessError):
        return None
    stack.callback(server.stop)
    return server


if __name__ == "__main__":
    sys.exit(main())
