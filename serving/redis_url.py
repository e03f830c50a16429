"""Where the tables' Redis is.

- `redis://`, `rediss://` (TLS), `unix://`: one server, with the options that redis-py knows.
- `redis+sentinel://user:password@host:port,host:port/service/database`: the Sentinels' addresses; user and password are
  those of the servers behind them. Without a database: 0.
- `redis+cluster://user:password@host:port,host:port`: some of the nodes, from which the others are learnt.
"""

from __future__ import annotations

from typing import Literal, NamedTuple
from urllib.parse import unquote, urlsplit

from redis.connection import parse_url

SENTINEL_PORT = 26_379
REDIS_PORT = 6_379
_KINDS: dict[str, Literal["sentinel", "cluster"]] = {"redis+sentinel": "sentinel", "redis+cluster": "cluster"}


class Place(NamedTuple):
    """What a URL says.

    Attributes:
        kind: `one`, `sentinel` or `cluster`.
        url: the URL itself.
        hosts: of the Sentinels or of some nodes; empty for one server.
        username: for the servers, not for the Sentinels.
        password: as above.
        service: what the Sentinels call the server.
        database: its number; 0 in a cluster.
    """

    kind: Literal["one", "sentinel", "cluster"]
    url: str
    hosts: tuple[tuple[str, int], ...] = ()
    username: str | None = None
    password: str | None = None
    service: str = ""
    database: int = 0

    @classmethod
    def parse(cls, url: str) -> Place:
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
        if parts.query or parts.fragment:
            raise ValueError(f"{scheme}:// takes no options")
        credentials, _, addresses = parts.netloc.rpartition("@")
        username, _, password = credentials.partition(":")
        hosts = tuple(_host(text, SENTINEL_PORT if kind == "sentinel" else REDIS_PORT) for text in addresses.split(","))
        path = [unquote(part) for part in parts.path.split("/")[1:] if part]
        login = (unquote(username) or None, unquote(password) or None)
        if kind == "cluster":
            if path not in ([], ["0"]):
                raise ValueError("redis+cluster:// has no database but 0")
            return cls("cluster", url, hosts, *login)
        if not path or len(path) > 2 or (len(path) == 2 and not path[1].isdecimal()):  # service, database
            raise ValueError("redis+sentinel:// is host:port,host:port/service/database")
        return cls("sentinel", url, hosts, *login, path[0], int(path[1]) if path[1:] else 0)


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
