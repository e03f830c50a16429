"""A demo that the tests share which only ask it."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Iterator

import pytest

from tests.demo.test_demo import Demo

PLAYERS = 70_000


@pytest.fixture(scope="package")
def large_demo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Demo]:
    """Yield one with a hundred thousand players, and Prometheus beside it where that is installed."""
    options = ("--metrics",) if shutil.which("prometheus") else ()
    demo = Demo(tmp_path_factory.mktemp("large"), PLAYERS, *options)
    try:
        demo.start()
        yield demo
    finally:
        if demo.process is not None and demo.process.poll() is None:
            demo.end(signal.SIGTERM)
