"""Makes the scene in the database of a server process, and prints what callers need, as JSON."""

from __future__ import annotations

import json
import os
import sys

import django

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "recsite.settings")
django.setup()

from django.test import Client  # noqa: E402 - after the setup

from tests.api.scene import make_scene  # noqa: E402 - as above


def main(local_root: str) -> None:
    """Make it."""
    scene = make_scene(local_root)
    browser = Client()
    browser.force_login(scene.admin)
    callers = {
        "token": scene.token,
        "session": browser.cookies["sessionid"].value,
        "client_id": scene.client_id,
        "client_secret": scene.client_secret,
    }
    print(json.dumps(callers))  # noqa: T201 - read by who started it


main(sys.argv[1])
