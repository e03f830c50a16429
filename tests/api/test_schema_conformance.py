"""schemathesis asks a real server what the schema allows, and what it does not: no error of the server's, and no
answer that the schema does not describe.

The same requests each time, unless others are asked for: `FUZZ_SEED=7 FUZZ_EXAMPLES=100 make test
ARGS="tests/api/test_schema_conformance.py"`.
"""

from __future__ import annotations

import os
from typing import Any

import httpx
import hypothesis
import pytest
import schemathesis
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.config import SchemathesisConfig

from recsite.api.described.document import document
from tests.api.conftest import ApiServer
from tests.api.scene import CLIENT_ID, MEMBER, MODEL, REJECTED_FENCE, SERVED_MODEL, TOKEN_ID, UNIT, VERSIONS

# How many requests of each operation, besides those that its examples and its edge cases make.
EXAMPLES = int(os.environ.get("FUZZ_EXAMPLES", "15"))
SEED = os.environ.get("FUZZ_SEED")
# Most requests are about things that are there.
OFTEN = 0.7
KNOWN: dict[str, list[Any]] = {
    "model": [MODEL, SERVED_MODEL],
    "version": VERSIONS,
    "fence": [6, 7, REJECTED_FENCE],
    "revision": [0],
    "number": [1, 3],
    "client_id": CLIENT_ID,
    "token": TOKEN_ID,
    "username": [MEMBER],
    "unit": [UNIT],
}
CONFIG: dict[str, Any] = {
    "dictionaries": {name: {"values": values} for name, values in KNOWN.items()},
    "parameters": {name: {"dictionary": name, "probability": OFTEN} for name in KNOWN},
    **({"seed": int(SEED)} if SEED else {}),
}
load_all_checks()
schema = schemathesis.openapi.from_dict(document(), config=SchemathesisConfig.from_dict(CONFIG))
# A rule may refuse what fits the schema: weights that do not sum to 100 %, a name that is taken.
EXCLUDED: list[Any] = [CHECKS.get_one("positive_data_acceptance")]
BY_PEOPLE = (
    "/api/v1/automation-tokens",
    "/api/v1/automation-tokens/{token}/revoke",
    "/api/v1/members/{username}/password-link",
)
CSRF = "c" * 32


@pytest.fixture(scope="module")
def recommendation_token(api_server: ApiServer) -> str:
    """Return a token that the game's backend got for its secret."""
    body = {"client_id": api_server.client_id, "client_secret": api_server.client_secret}
    token: str = httpx.post(f"{api_server.url}/api/v1/token", json=body).raise_for_status().json()["access_token"]
    return token


@schema.parametrize()
@hypothesis.settings(max_examples=EXAMPLES, derandomize=not SEED, deadline=None)
def test_operation__whatever_is_asked__answers_as_the_schema_says(
    case: schemathesis.Case[Any], api_server: ApiServer, recommendation_token: str
) -> None:
    headers, cookies = {"Authorization": f"Bearer {api_server.token}"}, {}
    if case.path.startswith("/v1/"):
        headers = {"Authorization": f"Bearer {recommendation_token}"}
    elif case.path in BY_PEOPLE:
        headers, cookies = {"X-CSRFToken": CSRF}, {"sessionid": api_server.session, "csrftoken": CSRF}

    case.call_and_validate(base_url=api_server.url, headers=headers, cookies=cookies, excluded_checks=EXCLUDED)
