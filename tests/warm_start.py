"""Python programs started as copies of one process that has imported what takes long: a Celery worker in a third of the
time.

What is started is a process like any other, with its own environment, output and life, and imports all of the project
itself. Only libraries that read no settings are there already.
"""

from __future__ import annotations

import multiprocessing
import os
import runpy
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path

LIBRARIES = [
    "celery.bin.celery",
    "celery.apps.worker",
    "celery.apps.beat",
    "celery.concurrency.prefork",
    "kombu.transport.redis",
    "django.contrib.admin",
    "django.db.models",
    "django.views.generic",
    "psycopg",
    "pyarrow.parquet",
    "duckdb",
    "redis.asyncio",
    "redis.cluster",
    "msgspec",
    "pydantic_settings",
    "prometheus_client",
    "jwt",
    "requests",
    "unittest.mock",
]

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(LIBRARIES)


@contextmanager
def running_warm(
    module: str, arguments: Sequence[str], env: Mapping[str, str], log: Path, *, cwd: Path, stop_seconds: float = 15
) -> Iterator[ForkServerProcess]:
    """Run `python -m module …` until the block ends; its output goes to a file. It is killed if it does not stop."""
    log.write_bytes(b"")
    process = _context.Process(target=_run, args=(module, list(arguments), dict(env), str(log), str(cwd)))
    process.start()
    try:
        yield process
    finally:
        process.terminate()
        process.join(stop_seconds)
        if process.is_alive():
            process.kill()
            process.join()


def _run(module: str, arguments: list[str], env: dict[str, str], log: str, cwd: str) -> None:
    output = os.open(log, os.O_WRONLY | os.O_APPEND)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    os.environ.clear()
    os.environ.update(env)
    os.chdir(cwd)
    # What Python would have read from PYTHONWARNINGS when it began.
    warnings.simplefilter("default")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
