"""Without Chromium the browser's tests say how to get it: skipped on a developer's machine, failed in CI."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.conftest import NO_CHROMIUM
from tests.doors.processes import ROOT


@pytest.mark.parametrize(("variables", "outcome"), [({}, "1 skipped"), ({"CI": "true"}, "1 error")])
def test_browser__no_chromium__says_how_to_get_it(variables: dict[str, str], outcome: str, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if name != "CI"} | {"PATH": str(tmp_path), **variables}
    one = "tests/browser/test_sign_in.py::test_sign_in__keyboard_only__signs_in"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", one]

    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=120, check=False)

    assert outcome in done.stdout
    assert NO_CHROMIUM in done.stdout
    assert (done.returncode == 0) == ("CI" not in variables)
