"""Who calls the dashboard's process: from where, and who may read what it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.test import Client, RequestFactory

from recsite.callers import client_address
from tests.factories import PASSWORD, UserFactory

if TYPE_CHECKING:
    from pytest_django.fixtures import Settings

TOKEN = "what-prometheus-sends"  # a test's


@pytest.mark.parametrize(
    ("proxies", "forwarded", "expected"),
    [
        (0, "203.0.113.7", "10.0.0.1"),
        (1, "203.0.113.7", "203.0.113.7"),
        (1, "198.51.100.1, 203.0.113.7", "203.0.113.7"),
        (2, "198.51.100.1,203.0.113.7", "198.51.100.1"),
        (2, "203.0.113.7", "10.0.0.1"),
        (1, None, "10.0.0.1"),
        (1, "", "10.0.0.1"),
    ],
)
def test_client_address__what_our_own_proxies_wrote_counts(
    settings: Settings, proxies: int, forwarded: str | None, expected: str
) -> None:
    settings.PROXIES = proxies
    headers = {} if forwarded is None else {"X-Forwarded-For": forwarded}
    assert client_address(RequestFactory().get("/", headers=headers, REMOTE_ADDR="10.0.0.1")) == expected


@pytest.mark.django_db
def test_sign_in__failures_of_a_stranger_behind_the_same_proxy__lock_nobody_else_out(
    settings: Settings, client: Client
) -> None:
    settings.PROXIES = 1
    user = UserFactory.create(username="mara")

    def sign_in(address: str, password: str) -> int:
        told = {"X-Forwarded-For": f"192.0.2.1, {address}"}
        return client.post("/sign-in", {"username": user.username, "password": password}, headers=told).status_code

    assert [sign_in("203.0.113.7", "wrong") for _ in range(9)][-1] == 429
    assert sign_in("198.51.100.1", PASSWORD) == 302


@pytest.mark.django_db
@pytest.mark.parametrize("sent", [None, "Bearer", f"Bearer {TOKEN}x", f"bearer {TOKEN}", "Bearer \xe9"])
def test_metrics__without_the_token__there_is_nothing(settings: Settings, client: Client, sent: str | None) -> None:
    settings.METRICS_TOKEN = TOKEN
    assert client.get("/metrics", headers={} if sent is None else {"Authorization": sent}).status_code == 404
    assert client.post("/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 404


@pytest.mark.django_db
def test_metrics__no_token_is_set__there_is_nothing(settings: Settings, client: Client) -> None:
    settings.METRICS_TOKEN = None
    assert client.get("/metrics", headers={"Authorization": "Bearer None"}).status_code == 404


@pytest.mark.django_db
def test_metrics__with_the_token__what_is_counted(settings: Settings, client: Client) -> None:
    settings.METRICS_TOKEN = TOKEN
    answer = client.get("/metrics", headers={"Authorization": f"Bearer {TOKEN}"})
    assert answer.status_code == 200
    assert b"recsite_loads_waiting" in answer.content
