"""A caller of the API for tests: a token or a signed-in person, over Django's own handler."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from django.test import Client

from tenants.automation import automation_token_issue
from tenants.models import Scope, Tenant, User

ALL_SCOPES = tuple(Scope.values)


class Answered(NamedTuple):
    """What came back. `body` is None where there is none."""

    status: int
    body: Any
    headers: dict[str, str]

    @property
    def code(self) -> str:
        """The stable code of a problem; that it is a whole problem document is asserted."""
        assert self.headers["Content-Type"] == "application/problem+json", (self.status, self.body)
        assert self.body["status"] == self.status
        assert self.body["title"]
        assert self.body["detail"]
        return str(self.body["code"])

    @property
    def fields(self) -> list[str]:
        """The fields that a problem is about."""
        return [error.get("field", "") for error in self.body.get("errors", [])]


class ApiClient:
    """Sends requests below /api/v1/ as one caller."""

    def __init__(self, *, token: str | None = None, person: User | None = None, studio: str | None = None) -> None:
        self._client = Client(raise_request_exception=True)
        self._headers: dict[str, str] = {}
        if person is not None:
            self._client.force_login(person)
        if token is not None:
            self._headers["Authorization"] = f"Bearer {token}"
        if studio is not None:
            self._headers["Recsite-Studio"] = studio

    def ask(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        key: str | None = None,
        headers: dict[str, str] | None = None,
        content_type: str = "application/json",
    ) -> Answered:
        """Send a request; a body of bytes goes as it is."""
        more = {"Idempotency-Key": key} if key is not None else {}
        raw = body if isinstance(body, bytes) else b"" if body is None else json.dumps(body).encode()
        response = self._client.generic(
            method,
            path if path.startswith("/") else f"/api/v1/{path}",
            raw,
            content_type=content_type,
            headers={**self._headers, **more, **(headers or {})},
        )
        parsed = json.loads(response.content) if response.content else None
        return Answered(response.status_code, parsed, dict(response.items()))

    def get(self, path: str, **headers: str) -> Answered:
        """Send a GET."""
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, body: Any = None, *, key: str | None = None) -> Answered:
        """Send a POST."""
        return self.ask("POST", path, {} if body is None else body, key=key)

    def put(self, path: str, body: Any) -> Answered:
        """Send a PUT."""
        return self.ask("PUT", path, body)

    def patch(self, path: str, body: Any) -> Answered:
        """Send a PATCH."""
        return self.ask("PATCH", path, body)

    def delete(self, path: str) -> Answered:
        """Send a DELETE."""
        return self.ask("DELETE", path)

    def every(self, path: str, *, limit: int) -> list[Any]:
        """Return all rows of a list, page by page."""
        sign = "&" if "?" in path else "?"
        found: list[Any] = []
        cursor = ""
        while True:
            answer = self.get(f"{path}{sign}limit={limit}{cursor}")
            assert answer.status == 200, answer
            assert len(answer.body["results"]) <= limit
            found += answer.body["results"]
            if answer.body["next_cursor"] is None:
                return found
            cursor = f"&cursor={answer.body['next_cursor']}"


def token_client(studio: Tenant, scopes: Sequence[str] = ALL_SCOPES) -> ApiClient:
    """Return a caller with a new automation token of a studio."""
    issued = automation_token_issue(tenant=studio, name="Airflow", scopes=scopes, actor=None)
    return ApiClient(token=issued.secret)
