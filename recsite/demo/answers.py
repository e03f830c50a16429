"""Asks the demo what a client would ask, and holds the answers against the generator."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Mapping
from typing import Any

from examples.generate import UnknownExample, answer
from recsite.demo.demo_file import DemoCredential


class WrongAnswer(RuntimeError):
    """The lane answers, but not what it should; or it does not answer."""


def wait_for_right_answers(
    dashboard_url: str, lane_url: str, credential: DemoCredential, rest: Callable[[float], None], seconds: float
) -> None:
    """Ask for one key until the answer is the one that the generator computes.

    Raises:
        WrongAnswer: it is not, after so many seconds; the message holds the last answer.
    """
    deadline = time.monotonic() + seconds
    while (problem := _problem_with_answer(dashboard_url, lane_url, credential)) is not None:
        if time.monotonic() > deadline:
            raise WrongAnswer(f"{credential['tenant']}/{credential['model']}: {problem}")
        rest(0.2)


def _problem_with_answer(dashboard_url: str, lane_url: str, credential: DemoCredential) -> str | None:
    key = credential["sample_keys"][0]
    client = {"client_id": credential["client_id"], "client_secret": credential["client_secret"]}
    try:
        given, _ = _answer(f"{dashboard_url}/api/v1/token", {"Content-Type": "application/json"}, client)
        address = f"{lane_url}/v1/recommendations?{urllib.parse.urlencode(key)}"
        served, headers = _answer(address, {"Authorization": f"Bearer {given['access_token']}"})
        source = headers.get("Recommendation-Source")
    except urllib.error.HTTPError as error:
        return f"status {error.code}: {error.read()[:300].decode(errors='replace')}"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"no answer: {error}"
    if source is not None or served is None:
        return f"{key} got the {source or 'empty answer'}, not a row of its table"
    return _difference(credential, key, served)


def _difference(credential: DemoCredential, key: Mapping[str, str], served: Mapping[str, Any]) -> str | None:
    try:
        expected = answer(credential["tenant"], credential["model"], served["version"], key)
    except UnknownExample:
        return None  # a version that somebody added: the generator knows nothing of it
    if served["recommendation"] == expected:
        return None
    return f"{key} got {served['recommendation']}, but version {served['version']} has {expected}"


def _answer(address: str, headers: Mapping[str, str], body: Any = None) -> tuple[Any, Mapping[str, str]]:
    """Return an answer's JSON, None where it is empty, and its headers."""
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(address, data, dict(headers))  # noqa: S310 - an address the demo chose
    with urllib.request.urlopen(request, timeout=5) as response:  # noqa: S310 - as above
        return json.loads(response.read() or b"null"), response.headers
