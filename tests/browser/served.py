"""What the lane serves, and waiting for it."""

from __future__ import annotations

import pytest

from tests.browser.site import Studio
from tests.lane_process import eventually

# What is promised after Save. A machine under load is given more; a failure says what was promised.
PROMISED_SECONDS = 2
PATIENCE_SECONDS = 20
PLAYERS_ASKED = 100


def share_served(studio: Studio, token: str, version: str) -> float:
    """Return which share of players the lane gives a version."""
    answers = studio.site.recommendations(token, range(PLAYERS_ASKED))
    return [answer.get("version") for answer in answers].count(version) / len(answers)


def await_share(studio: Studio, token: str, version: str, low: float, high: float = 1.0) -> None:
    """Wait until a version's share of the lane's answers lies between two shares."""

    def is_served() -> bool:
        return low <= share_served(studio, token, version) <= high

    try:
        eventually(is_served, seconds=PATIENCE_SECONDS)
    except AssertionError:
        share = share_served(studio, token, version)
        pytest.fail(
            f"What is saved is served within {PROMISED_SECONDS} s, says the product. {PATIENCE_SECONDS} s after it was "
            f"saved, {share:.0%} of players get “{version}”, not {low:.0%} to {high:.0%}."
        )


def await_offer(studio: Studio, token: str, offer_id: int) -> None:
    """Wait until the lane gives a player this offer."""

    def is_served() -> bool:
        [answer] = studio.site.recommendations(token, [1])
        return bool(answer["recommendation"] == {"offer_id": offer_id, "discount": 0.25})

    eventually(is_served, seconds=PATIENCE_SECONDS)
