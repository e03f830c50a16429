"""Where the tables' Redis is.

- `redis://`, `rediss://` (TLS), `unix://`: one server, with the options that redis-py knows.
- `redis+sentinel://user:password@host:port,host:port/service/database`: the Sentinels' addresses; user and password are
  those of the servers behind them, `?sentinel_username=…&sentinel_password=…` their own. Without a database: 0.
- `redis+cluster://user:password@host:port,host:port`: some of the nodes, from which the others are learnt.
- `rediss+sentinel://`, `rediss+cluster://`: the same with TLS to every server, the Sentinels too, and with redis-py's
  options `ssl_ca_certs`, `ssl_certfile`, `ssl_keyfile`, `ssl_cert_reqs` and `ssl_check_hostname`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from redis.connection import parse_url

SENTINEL_PORT = 26_379
REDIS_PORT = 6_379
_KINDS: dict[str, Literal["sentinel", "cluster"]] = {
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
}
_SENTINEL_OPTIONS = ("sentinel_username", "sentinel_password")
_TLS_OPTIONS = ("ssl_ca_certs", "ssl_certfile", "ssl_keyfile", "ssl_cert_reqs", "ssl_check_hostname")


class Login(NamedTuple):
    """A user and a password; None for none."""

    username: str | None = None
    password: str | None = None


class RedisUrl(NamedTuple):
    """Where a Redis of any kind is, and how to get in: what its URL says.

    Attributes:
        kind: `one`, `sentinel` or `cluster`.
        url: the URL itself.
        hosts: of the Sentinels or of some nodes; empty for one server.
        login: at the servers.
        sentinel_login: at the Sentinels.
        service: what the Sentinels call the server.
        database: its number; 0 in a cluster.
        tls: redis-py's `ssl_…` options; None without TLS, and for one server.
    """

    kind: Literal["one", "sentinel", "cluster"]
    url: str
    hosts: tuple[tuple[str, int], ...] = ()
    login: Login = Login()
    sentinel_login: Login = Login()
    service: str = ""
    database: int = 0
    tls: Mapping[str, Any] | None = None

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """Read a URL of one of the forms above.

        Raises:
            ValueError: it is none; the message names no password.
        """
        scheme = url.partition("://")[0]
        kind = _KINDS.get(scheme)
        if kind is None:
            if "," in urlsplit(url).netloc:
                raise ValueError("several addresses need redis+sentinel:// or redis+cluster://")
            parse_url(url)
            return cls("one", url)
        parts = urlsplit(url)
        has_tls = scheme.startswith("rediss+")
        allowed = (*(_SENTINEL_OPTIONS if kind == "sentinel" else ()), *(_TLS_OPTIONS if has_tls else ()))
        options = _options(parts.query, allowed, scheme)
        if parts.fragment:
            raise ValueError(f"{scheme}:// takes nothing after a #; in a password it is %23")
        credentials, _, addresses = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        hosts = tuple(_host(text, SENTINEL_PORT if kind == "sentinel" else REDIS_PORT) for text in addresses.split(","))
        path = [unquote(part) for part in parts.path.split("/")[1:] if part]
        parsed = cls(
            kind,
            url,
            hosts,
            Login(unquote(username) or None, unquote(password) or None),
            Login(*(options.get(name) or None for name in _SENTINEL_OPTIONS)),
            tls=_tls(options) if has_tls else None,
        )
        if kind == "cluster":
            if path not in ([], ["0"]):
                raise ValueError(f"{scheme}:// has no database but 0")
            return parsed
        if not path or len(path) > 2 or (len(path) == 2 and not path[1].isdecimal()):  # service, database
            raise ValueError(f"{scheme}:// is host:port,host:port/service/database")
        return parsed._replace(service=path[0], database=int(path[1]) if path[1:] else 0)

    def server_keywords(self) -> dict[str, Any]:
        """Return what redis-py's clients take to get into the servers: the login, and TLS."""
        return {**self.login._asdict(), **self.tls_keywords()}

    def sentinel_keywords(self) -> dict[str, Any]:
        """Return the same for the Sentinels."""
        return {**self.sentinel_login._asdict(), **self.tls_keywords()}

    def tls_keywords(self) -> dict[str, Any]:
        """Return what redis-py's clients take for TLS to any of them; nothing without."""
        return {} if self.tls is None else {"ssl": True, **self.tls}


def _options(query: str, allowed: tuple[str, ...], scheme: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name not in allowed or name in options:
            # Nothing of it is repeated: it could be a part of a password.
            takes = f"takes each of these options once: {', '.join(allowed)}" if allowed else "takes no options"
            raise ValueError(f"{scheme}:// {takes}")
        options[name] = value
    return options


def _tls(options: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of TLS in redis-py's types."""
    tls: dict[str, Any] = {name: options[name] for name in _TLS_OPTIONS if name in options}
    if tls.get("ssl_cert_reqs", "required") not in ("required", "none"):
        raise ValueError("ssl_cert_reqs is “required” or “none”")
    if "ssl_check_hostname" in tls:
        if tls["ssl_check_hostname"] not in ("true", "false"):
            raise ValueError("ssl_check_hostname is “true” or “false”")
        tls["ssl_check_hostname"] = tls["ssl_check_hostname"] == "true"
    return tls


def _host(text: str, default_port: int) -> tuple[str, int]:
    parts = urlsplit(f"//{text}")
    try:
        port = parts.port or default_port
    except ValueError:
        port = 0
    # Nothing of it is repeated: it could be a part of a password.
    if not parts.hostname or parts.username is not None or not port:
        raise ValueError("an address is host:port, with commas in between")
    return parts.hostname, port
