"""A process that loads or drops one table when it is told to: `python -m benchmarks.loading_worker`.

It says `ready` when everything is imported, reads one line, and prints how long that took and the most memory that it
ever held. The line is `load ID`, which runs the Celery task itself, that gives way to all others; or `drop TABLE_ID
BLOCK_BITS`.
"""

from __future__ import annotations

import json
import sys
import time

import django
from django.conf import settings

from benchmarks.machine import peak_memory_bytes


def main() -> None:
    """Do what the line says."""
    django.setup()
    # Only now: they import models.
    from models_registry.loading.tables import TableInRedis  # noqa: PLC0415
    from models_registry.loading.tasks import run  # noqa: PLC0415
    from models_registry.redis_clients import loading_client  # noqa: PLC0415

    print("ready", flush=True)
    what, *arguments = sys.stdin.readline().split()
    began = time.perf_counter()
    if what == "load":
        run(int(arguments[0]))
    else:
        TableInRedis(loading_client(), settings.REDIS_PREFIX, arguments[0], int(arguments[1])).drop()
    print(json.dumps({"seconds": time.perf_counter() - began, "peak_bytes": peak_memory_bytes()}), flush=True)


if __name__ == "__main__":
    main()
