"""Who calls the dashboard's process: from where, and who may read what it counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from django.conf import settings as project_settings
from django.db.utils import ConnectionHandler
from django.test import Client, RequestFactory
from django.utils.log import configure_logging

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


# --- What machines ask -----------------------------------------------------------------------------------------------


@pytest.mark.django_db
@pytest.mark.parametrize("host", ["10.0.0.7", "10.0.0.7:8000", "[fd00::7]:8000", "no host at all"])
@pytest.mark.parametrize("path", ["/healthz", "/readyz/tokens", "/metrics"])
def test_machines__by_address_and_in_plain_http__are_answered(settings: Settings, host: str, path: str) -> None:
    settings.METRICS_TOKEN = TOKEN
    settings.SECURE_SSL_REDIRECT = True
    response = Client().get(path, headers={"Host": host, "Authorization": f"Bearer {TOKEN}"})
    assert response.status_code == 200


@pytest.mark.django_db
def test_readyz__by_address__says_whether_this_process_can_serve(client: Client) -> None:
    response = client.get("/readyz", headers={"Host": "10.0.0.7"})
    assert response.status_code in {200, 503}
    assert b"host" not in response.content.lower()


def test_metrics__by_address_without_the_token__looks_like_any_other_path(settings: Settings) -> None:
    settings.METRICS_TOKEN = TOKEN
    own, other = (Client().get(path, headers={"Host": "10.0.0.7"}) for path in ("/metrics", "/elsewhere"))
    assert (own.status_code, own.content) == (other.status_code, other.content)
    assert own.status_code == 400


def test_pages__by_address__are_refused_in_one_line_of_the_log(capfd: pytest.CaptureFixture[str]) -> None:
    configure_logging(project_settings.LOGGING_CONFIG, project_settings.LOGGING)
    assert Client().get("/sign-in", headers={"Host": "10.0.0.7"}).status_code == 400
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.strip()]
    assert "Invalid HTTP_HOST header: '10.0.0.7'" in line


@pytest.mark.django_db
def test_ready_for_tokens__database_away__says_so(monkeypatch: pytest.MonkeyPatch, client: Client) -> None:
    nobody_listens = {"ENGINE": "django.db.backends.postgresql", "NAME": "recsite", "HOST": "127.0.0.1", "PORT": 1}
    monkeypatch.setattr("recsite.callers.connection", ConnectionHandler({"default": nobody_listens})["default"])
    response = client.get("/readyz/tokens")
    assert (response.status_code, response.content) == (503, b"the database does not answer\n")
