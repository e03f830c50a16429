"""The forms of a Redis URL: what each says, and which are refused, without repeating a password."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from recsite.environment import Environment, errors_of
from serving.formats.encoding import base64url_encode
from serving.redis.url import Login, RedisUrl

CLUSTER = "redis+cluster://one:7000,two:7001"
SENTINEL = "redis+sentinel://one,two:7001/tables"


def environment(**values: Any) -> Environment:
    """Return settings that are whole but for the values under test, from no file."""
    needed: dict[str, Any] = {
        "secret_key": "x" * 32,
        "token_master_keys": f"k1:{base64url_encode(bytes(32))}",
        "snapshot_public_keys": f"s1:{base64url_encode(bytes(32))}",
    }
    return Environment(_env_file=None, **needed, **values)  # type: ignore[call-arg]  # pydantic-settings' own argument


@pytest.mark.parametrize("url", ["redis://localhost:6379/2", "rediss://u:p@localhost/0", "unix:///run/redis.sock"])
def test_url__one_server__is_left_to_redis_py(url: str) -> None:
    assert RedisUrl.parse(url) == RedisUrl("one", url)


def test_url__sentinel__hosts_service_database_and_login() -> None:
    url = "redis+sentinel://lane:p%40ss@one:5000,two,[::1]:5001/tables/3"
    hosts = (("one", 5000), ("two", 26_379), ("::1", 5001))
    assert RedisUrl.parse(url) == RedisUrl("sentinel", url, hosts, Login("lane", "p@ss"), Login(), "tables", 3)


def test_url__cluster__hosts_and_login() -> None:
    url = "redis+cluster://:secret@one:7000,two"
    assert RedisUrl.parse(url) == RedisUrl("cluster", url, (("one", 7000), ("two", 6379)), Login(None, "secret"))


def test_url__with_tls_and_a_login_at_the_sentinels__as_redis_py_takes_them() -> None:
    options = "ssl_ca_certs=/etc/ca.pem&ssl_check_hostname=false&sentinel_username=w&sentinel_password=p%26q"
    parsed = RedisUrl.parse(f"rediss+sentinel://:s@one/tables?{options}")
    assert (parsed.login, parsed.sentinel_login) == (Login(None, "s"), Login("w", "p&q"))
    assert parsed.tls_keywords() == {"ssl": True, "ssl_ca_certs": "/etc/ca.pem", "ssl_check_hostname": False}
    assert RedisUrl.parse("rediss+cluster://one").tls_keywords() == {"ssl": True}
    assert RedisUrl.parse(CLUSTER).tls_keywords() == {}


@pytest.mark.parametrize(
    "url",
    [
        "http://one:1",
        "redis://one:1,two:2",
        "rediss+cluster://one:1?ssl_ca_data=x",
        "rediss+cluster://one:1?ssl_ca_certs=a&ssl_ca_certs=b",
        "rediss+cluster://one:1?ssl_cert_reqs=optional",
        "rediss+cluster://one:1?ssl_check_hostname=maybe",
        "rediss+cluster://one:1?sentinel_password=hunter2",
        "redis+sentinel://one:1/tables?ssl_ca_certs=a",
        "redis+sentinel://one:1/tables?sentinel_password=a&hunter2",
        "redis+sentinel://one:1/tables?sentinel_password=a#hunter2",
        "redis+cluster://",
        "redis+cluster://one:7000,",
        "redis+cluster://one:x",
        "redis+cluster://one:7000/1",
        "redis+cluster://one:7000?ssl=true",
        "redis+sentinel://one:1",
        "redis+sentinel://one:1/tables/x",
        "redis+sentinel://one:1/tables/0/1",
        "redis+cluster://user:hunter2/x@one:7000",
    ],
)
def test_url__no_such_form__refused_without_the_password(url: str) -> None:
    with pytest.raises(ValueError) as refused:  # noqa: PT011  # its message is looked at
        RedisUrl.parse(url)
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"broker_url": "unix:///run/redis.sock"}, "redis\\+socket:///path"),
        ({"redis_url": CLUSTER, "broker_url": CLUSTER}, "broker is one Redis"),
        ({"redis_url": CLUSTER, "broker_url": "rediss+cluster://one"}, "broker is one Redis"),
        ({"redis_url": CLUSTER, "broker_url": "redis://b", "cache_url": CLUSTER}, "the cache is one Redis"),
    ],
)
def test_environment__what_a_part_cannot_use__refused(
    values: dict[str, str], problem: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BROKER_URL", "CACHE_URL", "REDIS_URL"):
        monkeypatch.delenv(f"RECSITE_{name}", raising=False)
    with pytest.raises(ValidationError, match=problem):
        environment(**values)


def test_environment__cluster_with_a_broker_and_a_cache__taken() -> None:
    taken = environment(redis_url=CLUSTER, broker_url="redis://b", cache_url=SENTINEL)
    assert taken.redis_url == CLUSTER
    assert list(errors_of(taken)) == []


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"redis_url": SENTINEL}, {"recsite.E002"}),
        ({"redis_url": "unix:///run/redis.sock"}, {"recsite.E002"}),
        ({"redis_url": CLUSTER, "broker_url": "redis://b"}, {"recsite.E003"}),
        ({"redis_url": CLUSTER}, {"recsite.E002", "recsite.E003"}),
    ],
)
def test_errors__what_a_part_cannot_use__found(
    values: dict[str, str], found: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("BROKER_URL", "CACHE_URL", "REDIS_URL"):
        monkeypatch.delenv(f"RECSITE_{name}", raising=False)
    assert {error.id for error in errors_of(environment(**values))} == found
