"""Settings that cannot work: each is refused when a process starts, in a sentence that repeats no secret."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
from django.core.checks import run_checks
from pydantic import ValidationError

from recsite.environment import BASE_DIR, Environment, environment_file, errors_of, warnings_of
from serving.formats.encoding import base64url_encode

if TYPE_CHECKING:
    from pytest_django.fixtures import Settings

SHORT = base64url_encode(b"a secret too short")
# Of another pair than the one of the tests' settings, whose id is test1.
OTHER = base64url_encode(bytes(range(32)))
LISTS = 'write a JSON list of texts, such as ["one", "two"]'
MASTER_KEYS = "write id:key, or several separated by commas; a key is base64url of 32 bytes or more"
PRIVATE_KEY = "write id:key; the key is base64url of the 32 bytes of an Ed25519 private key"
PUBLIC_KEYS = (
    "write id:key, or several separated by commas; a key is base64url of the 32 bytes of an Ed25519 public key"
)
UNTRUSTED = "RECSITE_SNAPSHOT_PUBLIC_KEYS does not list the public half of RECSITE_SNAPSHOT_PRIVATE_KEY."
DATABASE = (
    "write postgres://user:password@host:5432/database, percent-encoded where a part holds : / ? # or @"  # no secret
)


def environment() -> Environment:
    """Return the tests' settings, and what variables say instead."""
    return Environment(_env_file=environment_file())  # type: ignore[call-arg]  # pydantic-settings' own argument


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ALLOWED_HOSTS", "recs.example.com", LISTS),
        ("ALLOWED_HOSTS", "", LISTS),
        ("ALLOWED_HOSTS", "'recs.example.com'", LISTS),
        ("CSRF_TRUSTED_ORIGINS", "https://recs.example.com", LISTS),
        ("TOKEN_MASTER_KEYS", "bad", MASTER_KEYS),
        ("TOKEN_MASTER_KEYS", f"k1:{SHORT}", MASTER_KEYS),
        ("TOKEN_MASTER_KEYS", f"k1:{OTHER},k2:pässword", MASTER_KEYS),
        ("SNAPSHOT_PRIVATE_KEY", "bad", PRIVATE_KEY),
        ("SNAPSHOT_PRIVATE_KEY", f"test1:{SHORT}", PRIVATE_KEY),
        ("SNAPSHOT_PUBLIC_KEYS", "bad", PUBLIC_KEYS),
        ("SNAPSHOT_PUBLIC_KEYS", f"s1:{SHORT}", PUBLIC_KEYS),
        ("DATABASE_URL", "recsite", DATABASE),
        ("DATABASE_URL", "postgres://recsite:hunter2/3@db.example.com/recsite", DATABASE),
        ("DATABASE_URL", "postgres://recsite:hunter2@[db/recsite", DATABASE),
    ],
)
def test_environment__a_value_that_cannot_work__is_one_sentence_without_it(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, words: str
) -> None:
    monkeypatch.setenv(f"RECSITE_{name}", value)
    with pytest.raises(ValidationError) as refused:
        environment()
    (problem,) = refused.value.errors()
    assert problem["msg"] == f"Value error, {words}"
    assert problem["loc"] == (name.lower(),)


def test_environment__a_list_that_is_json_but_no_list__is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSITE_ALLOWED_HOSTS", '"recs.example.com"')
    with pytest.raises(ValidationError, match="valid list"):
        environment()


def test_environment__hosts_as_a_json_list__are_these(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSITE_ALLOWED_HOSTS", '["recs.example.com", "localhost"]')
    assert environment().allowed_hosts == ["recs.example.com", "localhost"]


def test_environment__the_next_public_key_is_listed_already__is_fine(monkeypatch: pytest.MonkeyPatch) -> None:
    listed = environment().snapshot_public_keys
    monkeypatch.setenv("RECSITE_SNAPSHOT_PUBLIC_KEYS", f"next:{OTHER},{listed}")
    environment()


def test_environment__an_empty_private_key__is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSITE_SNAPSHOT_PRIVATE_KEY", "")
    monkeypatch.setenv("RECSITE_SNAPSHOT_PUBLIC_KEYS", f"s1:{OTHER}")
    assert not environment().snapshot_private_key


@pytest.mark.parametrize(
    ("name", "value"), [("SNAPSHOT_PRIVATE_KEY", f"test1:{OTHER}"), ("SNAPSHOT_PUBLIC_KEYS", f"s1:{OTHER}")]
)
def test_errors__a_key_that_no_lane_would_trust__found(monkeypatch: pytest.MonkeyPatch, name: str, value: str) -> None:
    monkeypatch.setenv(f"RECSITE_{name}", value)
    assert [error.id for error in errors_of(environment())] == ["recsite.E001"]


INSTALLED = {
    "https_only": True,
    "proxies": 1,
    "database_url": "postgres://recsite:secret@db.example.com/recsite",
    "allowed_hosts": ["recs.example.com"],
    "serving_url": "https://recs.example.com",
    "metrics_token": "sixteen-or-more-characters",
}


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, []),
        ({"database_url": "sqlite:////var/lib/recsite.sqlite3"}, ["recsite.W001"]),
        ({"proxies": 0}, ["recsite.W002"]),
        ({"allowed_hosts": ["localhost"]}, ["recsite.W003"]),
        ({"serving_url": "http://recs.example.com"}, ["recsite.W004"]),
        ({"metrics_token": None}, ["recsite.W005"]),
        ({"https_only": False, "proxies": 0, "serving_url": "http://127.0.0.1:8001"}, []),
    ],
)
def test_warnings__what_strangers_should_not_meet__found(changes: dict[str, Any], found: list[str]) -> None:
    env = Environment(_env_file=environment_file(), **{**INSTALLED, **changes})  # type: ignore[call-arg]  # as above
    assert [warning.id for warning in warnings_of(env)] == found


def test_check__errors_and_warnings__are_djangos_with_ids_and_hints(settings: Settings) -> None:
    settings.ENV = environment().model_copy(update={"redis_url": "redis+cluster://one:7000", "metrics_token": None})
    found = {message.id: message for message in run_checks(include_deployment_checks=True)}
    assert {"recsite.E002", "recsite.E003", "recsite.W001", "recsite.W003", "recsite.W005"} <= found.keys()
    assert all(found[name].hint for name in found if name and name.startswith("recsite."))
    assert "recsite.W001" not in {message.id for message in run_checks()}


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("ALLOWED_HOSTS", "recs.example.com", f"RECSITE_ALLOWED_HOSTS: Value error, {LISTS}. Run"),
        ("SNAPSHOT_PRIVATE_KEY", f"test1:{OTHER}", f"recsite.E001: {UNTRUSTED} "),
        ("DATABASE_URL", "postgres://recsite:hunter2/3@db/x", f"RECSITE_DATABASE_URL: Value error, {DATABASE}. Run"),
    ],
)
def test_check__a_value_that_cannot_work__ends_with_the_sentence(name: str, value: str, words: str) -> None:
    command = [sys.executable, "manage.py", "check", "--deploy"]
    variables = {**os.environ, f"RECSITE_{name}": value}
    ended = subprocess.run(
        command, cwd=BASE_DIR, env=variables, capture_output=True, text=True, check=False, timeout=60
    )
    assert ended.returncode != 0
    assert words in ended.stderr.splitlines()[-1]
    assert "hunter2" not in ended.stderr
    assert OTHER not in ended.stderr
