"""var/demo.json: addresses, people and credentials of this demo, readable by its owner alone.

Secrets are shown once, when they are made; this file is where the demo keeps the ones it was shown.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import NotRequired, TypedDict


class Person(TypedDict):
    """Who can sign in."""

    username: str
    password: str


class DemoCredential(TypedDict):
    """A credential for one model of one studio, and keys that it can be asked about."""

    tenant: str
    model: str
    client_id: str
    client_secret: str
    key_fields: list[str]
    sample_keys: list[dict[str, str]]


class DemoFile(TypedDict):
    """The whole file."""

    dashboard_url: str
    lane_url: str
    redis_url: str
    prometheus_url: NotRequired[str]
    admin: NotRequired[Person]
    product_manager: NotRequired[Person]
    studio: NotRequired[Person]
    credentials: list[DemoCredential]


def read_demo_file(path: Path) -> DemoFile:
    """Return what an earlier start wrote; an empty one where there is none or it cannot be read."""
    try:
        content: DemoFile = json.loads(path.read_text())
    except (OSError, ValueError):
        content = {"dashboard_url": "", "lane_url": "", "redis_url": "", "credentials": []}
    return content


def write_demo_file(path: Path, content: DemoFile) -> None:
    """Write it whole."""
    write_private(path, json.dumps(content, indent=2) + "\n")


def write_private(path: Path, text: str) -> None:
    """Write a file that only its owner may read: whole or not at all, and never readable by others in between."""
    unfinished = path.with_name(f"{path.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    unfinished.replace(path)
