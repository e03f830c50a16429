"""The README's pictures are there, in the size that the command makes; without Chromium it says how to get it."""

from __future__ import annotations

import os
import re
import struct
import subprocess
import sys
from pathlib import Path

from recsite.environment import BASE_DIR


def test_pictures__are_there_and_of_one_size() -> None:
    readme = (BASE_DIR / "README.md").read_text()
    paths = re.findall(r"!\[[^\]]+\]\((docs/images/[^)]+)\)", readme)
    assert len(paths) == 3
    for path in paths:
        head = (BASE_DIR / path).read_bytes()[:24]
        assert head[:8] == b"\x89PNG\r\n\x1a\n"
        assert struct.unpack(">II", head[16:24]) == (1280, 880)


def test_screenshots__without_chromium__says_how_to_get_it(tmp_path: Path) -> None:
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(BASE_DIR)}
    ended = subprocess.run(
        [sys.executable, "docs/screenshots.py"],
        cwd=BASE_DIR,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert ended.returncode == 1
    assert "apt-get install chromium" in ended.stderr
