"""Which headers of a request count, each with its index in the list of a request's values."""

from __future__ import annotations

(
    AUTHORIZATION,
    ACCEPT,
    IF_NONE_MATCH,
    CONTENT_TYPE,
    CONTENT_LENGTH,
    TRANSFER_ENCODING,
    CONNECTION,
    EXPECT,
    UPGRADE,
    REQUEST_ID,
    TRACEPARENT,
) = range(11)
COUNTED = {
    b"authorization": AUTHORIZATION,
    b"accept": ACCEPT,
    b"if-none-match": IF_NONE_MATCH,
    b"content-type": CONTENT_TYPE,
    b"content-length": CONTENT_LENGTH,
    b"transfer-encoding": TRANSFER_ENCODING,
    b"connection": CONNECTION,
    b"expect": EXPECT,
    b"upgrade": UPGRADE,
    b"x-request-id": REQUEST_ID,
}
# The values of a request that has none of them. TRACEPARENT counts where requests are traced.
NONE: tuple[str | None, ...] = (None,) * (TRACEPARENT + 1)
_MOST_SPELLINGS, _LONGEST_SPELLING = 1024, 64


class Spellings(dict[bytes, int | None]):
    """Which of the headers that count one is, None for the others: by its name as clients spell it."""

    def __missing__(self, name: bytes) -> int | None:
        counted = COUNTED.get(name.lower())
        if len(self) < _MOST_SPELLINGS and len(name) <= _LONGEST_SPELLING:
            self[name] = counted
        return counted


SPELLINGS = Spellings()


def head_without_upgrade(method: str, target: bytes, version: str, found: list[str | None]) -> bytes:
    """Return the head of a request with those of its headers that count, without `Upgrade` and what was acted on."""
    lines = [method.encode() + b" " + target + b" HTTP/" + version.encode()]
    for name, counted in COUNTED.items():
        value = found[counted]
        if value is not None and counted not in (UPGRADE, EXPECT):
            lines.append(name + b": " + value.encode("latin-1"))
    return b"\r\n".join([*lines, b"", b""])
