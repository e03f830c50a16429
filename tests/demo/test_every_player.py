"""A hundred thousand players ask the lane: every answer is what the generator computes, the split what was set."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode

import pytest

from examples.generate import answer, example_of, keys_of
from recsite.demo.data import MODELS
from tests.demo.conftest import PLAYERS
from tests.demo.test_demo import Demo
from tests.doors.raw_http import RawConnection, request

PIPELINED = 64


@pytest.mark.timeout(600)
def test_lane__a_hundred_thousand_players_of_both_studios__every_answer_right_and_split_as_set(
    large_demo: Demo,
) -> None:
    demo = large_demo
    asked = 0
    for credential in demo.file["credentials"]:
        studio, model = credential["tenant"], credential["model"]
        example = example_of(studio, model)
        keys = [dict(zip(example.key_fields, key, strict=True)) for key in keys_of(example, PLAYERS)]
        versions: Counter[str] = Counter()
        for key, served in zip(keys, answers(demo, credential, keys), strict=True):
            assert served["recommendation"] == answer(studio, model, served["version"], key)
            versions[served["version"]] += 1
        asked += versions.total()
        if example.key_fields == ("player_id",):
            assert_split(versions, MODELS[studio, model].weights_bp)
    assert asked > 100_000


def answers(demo: Demo, credential: dict[str, Any], keys: list[dict[str, str]]) -> Iterator[dict[str, Any]]:
    """Ask for each key by a request of its own, many on their way at once."""
    token = demo.token(credential)
    port = int(demo.file["lane_url"].rsplit(":", 1)[1])
    with RawConnection(port) as lane:
        for start in range(0, len(keys), PIPELINED):
            some = keys[start : start + PIPELINED]
            targets = [f"/v1/recommendations?{urlencode(key)}" for key in some]
            lane.send(b"".join(request("GET", target, [("Authorization", f"Bearer {token}")]) for target in targets))
            for _ in some:
                response = lane.receive()
                assert response.status == 200
                assert response.header("recommendation-source") is None, "a default, not a row"
                served: dict[str, Any] = json.loads(response.body)
                yield served


def assert_split(versions: Counter[str], weights_bp: Any) -> None:
    """Hold the observed split against the weights: within four standard deviations of a binomial."""
    total = versions.total()
    for name, weight_bp in weights_bp.items():
        share = weight_bp / 10_000
        assert abs(versions[name] - total * share) <= 4 * math.sqrt(total * share * (1 - share))
