"""The sample of the page for whoever writes the game, run as it stands there."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from recsite.embedded import EmbeddedValkey
from recsite.environment import BASE_DIR
from tests.doors.scene import Scene, player
from tests.lane_process import start_lane

(SAMPLE,) = re.findall(r"```python\n(.*?)```", (BASE_DIR / "docs" / "serving.md").read_text(), re.DOTALL)


def said(lane: str, token: str) -> list[str]:
    variables = {**os.environ, "LANE": lane, "TOKEN": token, "PLAYER": player(1)}
    done = subprocess.run([sys.executable, "-c", SAMPLE], env=variables, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def test_sample__with_a_token_without_one_and_without_a_lane__always_has_something_to_show(
    server: EmbeddedValkey, scene: Scene, tmp_path: Path
) -> None:
    with start_lane(server.url, tmp_path) as lane:
        url = f"http://127.0.0.1:{lane.port}"
        (shown,) = said(url, scene.token())
        assert json.loads(shown) == json.loads(lane.offer(scene).body)["recommendation"]
        assert said(url, "nothing") == [
            "401 unauthorized: A valid bearer token is required.",
            '{"offer_id": 0}',
        ]
    assert said(url, scene.token())[-1] == '{"offer_id": 0}'
